"""The deep autoencoder: what it is before fine-tuning, and that principal components bound its linear form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from sklearn.datasets import load_digits

from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.layers.rbm import RBM
from dlpipe.models.deep_autoencoder import DeepAutoencoder
from dlpipe.spec.models import DeepAutoencoder as Spec
from dlpipe.tasks.reconstruction import Reconstruction, pca_error


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stack() -> list[RBM | Autoencoder]:
    """As if trained, in float64: an RBM, an untied autoencoder, an RBM of linear units, with biases that are not 0."""
    kinds = [RBM(30, 20), Autoencoder(20, 15, tied=False), RBM(15, 4, hidden_units="gaussian")]
    for number, layer in enumerate(kinds):
        layer.double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_(0.0, 0.5, generator=generator(number))
    return kinds


def unrolled(layers: list[RBM | Autoencoder]) -> DeepAutoencoder:
    model = DeepAutoencoder(30, 30, units=[20, 15], code=4).double()
    model.initialise(generator())
    model.unroll([layer.encoder() for layer in layers])
    model.unroll_back([layer.decoder() for layer in layers])
    return model


X = torch.rand(50, 30, generator=generator(9), dtype=torch.float64)
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
"""The parameters are equal; the bias is added inside the product, which rounds in another order."""


def test_it_is_the_stacks_mean_field_up_and_down() -> None:
    """With linear hidden units on top, the code is the stack's own."""
    layers = stack()
    model = unrolled(layers)
    code = layers[2].encode(layers[1].encode(layers[0].encode(X)))
    assert code.min() < -0.5
    assert code.max() > 1.5
    torch.testing.assert_close(model.encode(X), code, **CLOSE)
    down = layers[0].decode(layers[1].decode(layers[2].decode(code)))
    torch.testing.assert_close(torch.sigmoid(model(X)), down, **CLOSE)


def test_layers_that_are_not_pretrained_keep_their_initial_weights() -> None:
    layers = stack()[:2]
    model, untouched = unrolled(layers), DeepAutoencoder(30, 30, units=[20, 15], code=4).double()
    untouched.initialise(generator())
    assert torch.equal(model.encoder[2], untouched.encoder[2])
    assert torch.equal(model.decoder[2], untouched.decoder[2])
    for layer, weights, biases in zip(layers, model.encoder, model.encoder_biases, strict=False):
        assert torch.equal(weights, layer.W)
        assert torch.equal(biases, layer.hbias)


def test_encoder_and_decoder_start_tied_and_are_free_afterwards() -> None:
    layers = [layer for layer in stack() if isinstance(layer, RBM)]
    model = DeepAutoencoder(30, 30, units=[20, 15], code=4).double()
    model.initialise(generator())
    assert all(torch.equal(W, V.T) for W, V in zip(model.encoder, model.decoder, strict=True))
    model.unroll([layers[0].encoder()])
    model.unroll_back([layers[0].decoder()])
    assert all(torch.equal(W, V.T) for W, V in zip(model.encoder, model.decoder, strict=True))
    Reconstruction().step(model, X, torch.zeros(50), generator())
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= parameter.grad
    assert not any(torch.allclose(W, V.T) for W, V in zip(model.encoder, model.decoder, strict=True))
    assert not torch.equal(layers[0].W, model.encoder[0])  # a copy: the layer's own weights stay


def test_initial_weights_are_uniform_and_a_function_of_the_generator() -> None:
    model = DeepAutoencoder(300, 300, units=[250, 200], code=100)
    model.initialise(generator(3))
    for layer, weight in enumerate(model.encoder):
        bound = (1 if layer == 2 else 4) * math.sqrt(6 / sum(weight.shape))
        assert bound * (1 - 20 / weight.numel()) < weight.abs().max().item() <= bound * (1 + 1e-6)
    again = DeepAutoencoder(300, 300, units=[250, 200], code=100)
    again.initialise(generator(3))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("widths", [(19,), (20, 15, 4, 3)], ids=["another width", "one too many"])
def test_layers_that_do_not_fit_are_refused(widths: tuple[int, ...]) -> None:
    sizes = (30, *widths)
    layers = [RBM(visible, hidden) for visible, hidden in pairwise(sizes)]
    model = DeepAutoencoder(30, 30, units=[20, 15], code=4)
    with pytest.raises(ValueError, match="pretrained"):
        model.unroll([layer.encoder() for layer in layers])
    with pytest.raises(ValueError, match="pretrained"):
        model.unroll_back([layer.decoder() for layer in layers])
    with pytest.raises(ValueError, match="gives back its 30 inputs"):
        DeepAutoencoder(30, 10, units=[20], code=4)


def test_the_spec_counts_the_parameters_and_the_layers_to_pretrain() -> None:
    spec = Spec(units=(20, 15), code=4)
    model = spec.load()(30, 30, **spec.arguments())
    assert spec.parameters(30, 30) == sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert spec.layer_units == (20, 15, 4)
    assert [spec.layer_field(position) for position in range(3)] == [("units", 0), ("units", 1), ("code",)]
    assert spec.slug == "autoencoder20-15-4"


def test_a_linear_autoencoder_comes_down_to_principal_components_and_not_below() -> None:
    """On its training data: an exact bound, which full batches of L-BFGS reach within a thousandth."""
    x = torch.tensor(load_digits().data / 16)[:500]
    bound = pca_error(x, x, 5)
    model, task = DeepAutoencoder(64, 64, units=[], code=5).double(), Reconstruction("squared")
    model.initialise(generator())
    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # as torch's L-BFGS asks
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        return float(task.step(model, x, torch.zeros(len(x)), generator())["loss"])

    before = loss()
    optimizer.step(loss)
    after = loss()
    assert before > 1.5 * bound
    assert bound * (1 - 1e-9) <= after < 1.001 * bound
