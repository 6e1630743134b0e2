"""Convolutional autoencoder: the same small filters at every place of a picture, down to a code of a few small maps.

Paper: masci2011 (filters shared between encoder and decoder; a classifier that starts from them).

    h_0 = x                                           [B, maps_0, height_0, width_0]: the picture, its colours as maps
    h_l = f(b_l + W_l * h_{l-1})                      [B, maps_l, height_l, width_l], l = 1 ... L - 1
    code = b_L + W_L * h_{L-1}                        [B, maps_L, height_L, width_L]: linear
    g_{l-1} = f(c_{l-1} + V_l' * g_l)                 back up the same sizes, from g_L = code
    outputs = c_0 + V_1' * g_1                        before the sigmoid of the task's cross-entropy

W * h looks at every `stride`-th place: z_o(y, x) = sum_{i, u, v} W_o,i(u, v) h_i(stride y + u, stride x + v), with
(u, v) from the middle of an odd kernel and zeros around the picture, so that of n rows ceil(n / stride) are left.
V' * g is its adjoint, the transposed convolution: <W * h, g> = <h, W' * g>. At stride 1 it is a convolution with the
filters flipped both ways, as the paper writes it. `tied`: V = W; otherwise V starts from W and then goes its own way.

The paper has max-pooling, which keeps the largest of 2x2 hidden units where it is and erases the others. Where the
largest stood is then told to the decoder outside of any code, so here a stride makes the maps small: what the decoder
knows of the picture is the code and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
Activation = Literal["relu", "tanh", "sigmoid"]


class Encoder(nn.Module):
    """The layers from the picture to the code, [out, in, kernel, kernel] each; what both models here have in common."""

    def __init__(
        self,
        inputs: int,
        *,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        kernel: int,
        stride: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        height, width, colours = shape
        if inputs != height * width * colours:
            raise ValueError(f"pictures of {height} x {width} x {colours} have not {inputs} features")
        self.shape, self.stride, self.padding = shape, stride, kernel // 2
        self.activation = ACTIVATIONS[activation]
        maps = [colours, *channels]
        self.encoder = nn.ParameterList(torch.zeros(m, n, kernel, kernel) for n, m in pairwise(maps))
        self.encoder_biases = nn.ParameterList(torch.zeros(m) for m in channels)
        self.sizes = [(height, width)]
        """Rows and columns of the maps, from the picture to the code."""
        for _ in channels:
            rows, columns = self.sizes[-1]
            self.sizes.append((-(-rows // stride), -(-columns // stride)))
        self.code_shape = (maps[-1], *self.sizes[-1])

    @torch.no_grad()
    def initialise_encoder(self, generator: torch.Generator) -> None:
        """Filters uniform within sqrt(6 / (fan_in + fan_out)) (glorot2010), biases 0."""
        for W, b in zip(self.encoder, self.encoder_biases, strict=True):
            bound = math.sqrt(6 / ((W.shape[0] + W.shape[1]) * W[0, 0].numel()))
            W.copy_(torch.empty(W.shape, device=W.device).uniform_(-bound, bound, generator=generator))
            b.zero_()

    def maps(self, x: Tensor) -> Tensor:
        """Flat pictures [B, inputs] -> the code's maps [B, *code_shape]."""
        h = x.unflatten(1, self.shape).movedim(-1, 1)
        last = len(self.encoder) - 1
        for layer, (W, b) in enumerate(zip(self.encoder, self.encoder_biases, strict=True)):
            h = conv2d(h, W, b, stride=self.stride, padding=self.padding)
            h = h if layer == last else self.activation(h)
        return h

    def filters(self) -> Tensor:
        """The lowest layer's, as pictures [channels, kernel, kernel, colours]."""
        return self.encoder[0].detach().movedim(1, -1)


class ConvolutionalAutoencoder(Encoder):
    """What a model of `kind: convolutional_autoencoder` is; the arguments are the fields of its spec.

    Pictures come and go flat: [B, inputs], row by row, the colours of a pixel together. `shape` is (height, width,
    colours).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        kernel: int = 5,
        stride: int = 2,
        activation: Activation = "relu",
        tied: bool = True,
    ) -> None:
        super().__init__(inputs, shape=shape, channels=channels, kernel=kernel, stride=stride, activation=activation)
        if outputs != inputs:
            raise ValueError(f"an autoencoder gives back its {inputs} inputs; {outputs} outputs are asked of it")
        self.decoder_biases = nn.ParameterList(torch.zeros(W.shape[1]) for W in self.encoder)
        self.tied = tied
        if not tied:
            self.decoder = nn.ParameterList(torch.zeros_like(W) for W in self.encoder)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The encoder's weights, the decoder's the same, biases 0."""
        self.initialise_encoder(generator)
        for c in self.decoder_biases:
            c.zero_()
        if not self.tied:
            for V, W in zip(self.decoder, self.encoder, strict=True):
                V.copy_(W)

    def encode(self, x: Tensor) -> Tensor:
        """[B, inputs] -> code [B, code], map by map."""
        return self.maps(x).flatten(1)

    def decode(self, code: Tensor) -> Tensor:
        """[B, code] -> outputs [B, inputs], before any sigmoid."""
        g = code.unflatten(1, self.code_shape)
        decoder = self.encoder if self.tied else self.decoder
        for layer in reversed(range(len(decoder))):
            g = self._back(g, decoder[layer], self.decoder_biases[layer], self.sizes[layer])
            g = self.activation(g) if layer else g
        return g.movedim(1, -1).flatten(1)

    def _back(self, g: Tensor, V: Tensor, c: Tensor, size: tuple[int, int]) -> Tensor:
        """The transposed convolution that gives maps of that size; several sizes become one of ceil(n / stride)."""
        beyond = [(n - 1) % self.stride for n in size]
        return conv_transpose2d(g, V, c, stride=self.stride, padding=self.padding, output_padding=beyond)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, inputs] -> outputs [B, inputs]. Draws nothing: `generator` is for models that do."""
        return self.decode(self.encode(x))


class ConvolutionalClassifier(Encoder):
    """What a model of `kind: convolutional_classifier` is: the encoder, an activation, and a linear output layer.

    logits = f(code) U + d. Its encoder's tensors have the names that the autoencoder's have, to start from them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        kernel: int = 5,
        stride: int = 2,
        activation: Activation = "relu",
    ) -> None:
        super().__init__(inputs, shape=shape, channels=channels, kernel=kernel, stride=stride, activation=activation)
        self.output = nn.Parameter(torch.zeros(math.prod(self.code_shape), outputs))
        self.output_bias = nn.Parameter(torch.zeros(outputs))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The encoder's weights; those of the output layer by the same rule; biases 0."""
        self.initialise_encoder(generator)
        bound = math.sqrt(6 / sum(self.output.shape))
        self.output.uniform_(-bound, bound, generator=generator)
        self.output_bias.zero_()

    def top(self) -> list[nn.Parameter]:
        """Weight and bias of the output layer: what a linear probe of the rest trains."""
        return [self.output, self.output_bias]

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[B, inputs] -> logits [B, outputs]. Draws nothing: `generator` is for models that do."""
        return torch.addmm(self.output_bias, self.activation(self.maps(x)).flatten(1), self.output)
