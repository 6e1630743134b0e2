"""Deep autoencoder: narrowing sigmoid layers down to a linear code, and the same widths back up.

Paper: hinton2006science (unrolled from restricted Boltzmann machines, then trained as a whole).

    h_0 = x                                         [B, inputs]
    h_l = sigmoid(h_{l-1} W_l + b_l)                [B, units_l], l = 1 ... L
    code = h_L W_{L+1} + b_{L+1}                    [B, code]
    g_L = sigmoid(code V_{L+1} + c_{L+1})           [B, units_L]
    g_{l-1} = sigmoid(g_l V_l + c_l)                [B, units_{l-1}], l = L ... 2
    outputs = g_1 V_1 + c_1                         [B, inputs], before the sigmoid of the task's cross-entropy

Encoder and decoder start from the same weights, V_l = W_l', and then go their own ways. Unrolled from RBMs, the upmost
of which has linear (Gaussian) hidden units, this is what the stack's means come to, up and down.

With no sigmoid layer and squared error, the best that training can reach are the principal components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class DeepAutoencoder(nn.Module):
    """What a model of `kind: deep_autoencoder` is; the arguments are the fields of its spec.

    `encoder` and `decoder` hold W_1 ... W_{L+1} and V_1 ... V_{L+1}, both from the input to the code.
    """

    def __init__(self, inputs: int, outputs: int, *, units: Sequence[int], code: int) -> None:
        super().__init__()
        if outputs != inputs:
            raise ValueError(f"a deep autoencoder gives back its {inputs} inputs; {outputs} outputs are asked of it")
        sizes = [inputs, *units, code]
        # Stored column by column, as the perceptron's weights are, for the speed of the backward pass.
        self.encoder = nn.ParameterList(torch.zeros(n, m).T for m, n in pairwise(sizes))
        self.encoder_biases = nn.ParameterList(torch.zeros(n) for n in sizes[1:])
        self.decoder = nn.ParameterList(torch.zeros(m, n).T for m, n in pairwise(sizes))
        self.decoder_biases = nn.ParameterList(torch.zeros(m) for m in sizes[:-1])

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Uniform weights (glorot2010), four times as large in sigmoid layers; the decoder's the same; biases 0."""
        for layer, (W, V) in enumerate(zip(self.encoder, self.decoder, strict=True)):
            sigmoid = 4 if layer < len(self.encoder) - 1 else 1
            bound = sigmoid * math.sqrt(6 / sum(W.shape))
            drawn = torch.empty(W.shape, device=W.device).uniform_(-bound, bound, generator=generator)
            W.copy_(drawn)
            V.copy_(drawn.T)
        for bias in (*self.encoder_biases, *self.decoder_biases):
            bias.zero_()

    @torch.no_grad()
    def unroll(self, encoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copies pretrained layers, bottom to top, over the encoder; the rest keeps its initial weights.

        Each is a weight [in, out] and a bias [out]. Raises ValueError where there are too many or a shape differs.
        """
        for layer, (weight, bias) in enumerate(self._fitting(encoders, self.encoder)):
            self.encoder[layer].copy_(weight)
            self.encoder_biases[layer].copy_(bias)

    @torch.no_grad()
    def unroll_back(self, decoders: Sequence[tuple[Tensor, Tensor]]) -> None:
        """The same for the decoder: each is a weight [out, in] and a bias [in], again from the bottom to the top."""
        for layer, (weight, bias) in enumerate(self._fitting(decoders, self.decoder)):
            self.decoder[layer].copy_(weight)
            self.decoder_biases[layer].copy_(bias)

    def _fitting(
        self, given: Sequence[tuple[Tensor, Tensor]], own: nn.ParameterList
    ) -> Sequence[tuple[Tensor, Tensor]]:
        """`given`, if there is a layer of that shape for each."""
        if len(given) > len(own):
            raise ValueError(f"{len(given)} pretrained layers for {len(own)} layers of the encoder")
        for layer, ((weight, _), parameter) in enumerate(zip(given, own, strict=False), start=1):
            if weight.shape != parameter.shape:
                pretrained, wanted = (" x ".join(map(str, each.shape)) for each in (weight, parameter))
                raise ValueError(f"layer {layer} is {wanted}, the pretrained one {pretrained}")
        return given

    def encode(self, x: Tensor) -> Tensor:
        """[B, inputs] -> code [B, code]."""
        layers = list(zip(self.encoder, self.encoder_biases, strict=True))
        for W, b in layers[:-1]:
            x = torch.sigmoid(torch.addmm(b, x, W))
        W, b = layers[-1]
        return torch.addmm(b, x, W)

    def decode(self, code: Tensor) -> Tensor:
        """[B, code] -> outputs [B, inputs], before any sigmoid."""
        x, layers = code, list(zip(self.decoder, self.decoder_biases, strict=True))
        for V, c in reversed(layers[1:]):
            x = torch.sigmoid(torch.addmm(c, x, V))
        V, c = layers[0]
        return torch.addmm(c, x, V)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, inputs] -> outputs [B, inputs]. Draws nothing: `generator` is for models that do."""
        return self.decode(self.encode(x))
