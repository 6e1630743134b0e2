"""The convolutional autoencoder: its convolution by hand, its decoder as the adjoint, and what a shift does to it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from dlpipe.models.convolutional_autoencoder import ConvolutionalAutoencoder, ConvolutionalClassifier
from dlpipe.spec.models import ConvolutionalAutoencoder as Spec
from dlpipe.spec.models import ConvolutionalClassifier as ClassifierSpec
from dlpipe.tasks.classification import Classification
from dlpipe.tasks.reconstruction import Reconstruction


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def autoencoder(shape: tuple[int, int, int] = (8, 8, 1), **fields: object) -> ConvolutionalAutoencoder:
    """In float64, with biases that are not 0."""
    features = math.prod(shape)
    declared = {"channels": (3, 2), "kernel": 3, **fields}
    model = ConvolutionalAutoencoder(features, features, shape=shape, **declared).double()  # type: ignore[arg-type]
    model.initialise(generator())
    with torch.no_grad():
        for number, bias in enumerate((*model.encoder_biases, *model.decoder_biases)):
            bias.copy_(0.1 * random(*bias.shape, seed=number))
    return model


def without_biases(model: ConvolutionalAutoencoder) -> ConvolutionalAutoencoder:
    with torch.no_grad():
        for bias in (*model.encoder_biases, *model.decoder_biases):
            bias.zero_()
    return model


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3), (1, 5, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 5])
def test_any_size_goes_down_by_the_stride_and_comes_back(shape: tuple[int, int, int], stride: int, kernel: int) -> None:
    model = autoencoder(shape, stride=stride, kernel=kernel)
    x = random(5, math.prod(shape))
    code = model.encode(x)
    rows, columns = (math.ceil(math.ceil(n / stride) / stride) for n in shape[:2])
    assert code.shape == (5, 2 * rows * columns)
    assert model.decode(code).shape == x.shape
    torch.testing.assert_close(model(x), model.decode(code), rtol=0, atol=0)


def test_a_layer_is_the_sum_of_the_docstring() -> None:
    """Term by term, in a picture of two colours whose last row and column the filters reach over."""
    model = autoencoder((4, 5, 2), channels=(3,), stride=2)
    x = random(1, 4, 5, 2)
    found = model.maps(x.flatten(1))[0].detach()
    W, b = model.encoder[0].detach(), model.encoder_biases[0].detach()
    for o, y, left in itertools.product(range(3), range(2), range(3)):
        expected = float(b[o])
        for i, u, v in itertools.product(range(2), (-1, 0, 1), (-1, 0, 1)):
            row, column = 2 * y + u, 2 * left + v
            if 0 <= row < 4 and 0 <= column < 5:
                expected += float(W[o, i, u + 1, v + 1] * x[0, row, column, i])
        assert float(found[o, y, left]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3)])
def test_the_tied_decoder_is_the_adjoint_of_the_encoder(shape: tuple[int, int, int], stride: int) -> None:
    """<W * x, c> = <x, W' * c> for all x and c, where a single layer has neither bias nor activation."""
    model = without_biases(autoencoder(shape, channels=(4,), stride=stride, kernel=5))
    x = random(6, math.prod(shape))
    up = model.encode(x)
    c = random(*up.shape, seed=2)
    torch.testing.assert_close((up * c).sum(dim=1), (x * model.decode(c)).sum(dim=1), rtol=1e-12, atol=1e-12)


def test_at_stride_1_the_decoder_convolves_with_flipped_filters() -> None:
    model = without_biases(autoencoder(channels=(4,), stride=1))
    code = random(2, 4, 8, 8)
    flipped = model.encoder[0].flip(-1, -2).transpose(0, 1)
    expected = nn.functional.conv2d(code, flipped, padding=1)
    torch.testing.assert_close(model.decode(code.flatten(1)), expected.flatten(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_the_gradient_is_that_of_finite_differences(tied: bool, activation: str, loss: str) -> None:
    model, task = autoencoder((5, 5, 1), tied=tied, activation=activation), Reconstruction(loss)  # type: ignore[arg-type]
    x, none = torch.sigmoid(random(7, 25)), torch.zeros(7)
    task.step(model, x, none, generator())
    for parameter in model.parameters():
        assert parameter.grad is not None
        towards = random(*parameter.shape, seed=3)
        along = float((parameter.grad * towards).sum())
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += step * towards
            values.append(task.validate(model, x, none)["loss"])
            with torch.no_grad():
                parameter -= step * towards
        assert along == pytest.approx((values[0] - values[1]) / 2e-6, rel=2e-6, abs=1e-8)


def test_a_shifted_picture_has_a_shifted_code_and_reconstruction() -> None:
    """At stride 1, and far enough from the border for no filter to reach over it."""
    model = autoencoder((20, 20, 1), stride=1)
    picture = torch.zeros(1, 20, 20, dtype=torch.float64)
    picture[0, 7:12, 7:12] = random(5, 5)
    shifted = picture.roll((2, -1), dims=(1, 2))
    inner = (..., slice(6, 14), slice(6, 14))
    codes = [model.maps(x.flatten(1)).roll(back, dims=(2, 3)) for x, back in ((picture, (0, 0)), (shifted, (-2, 1)))]
    torch.testing.assert_close(codes[0][inner], codes[1][inner], rtol=1e-12, atol=1e-12)
    back, moved = (model(x.flatten(1)).detach().unflatten(1, (20, 20)) for x in (picture, shifted))
    torch.testing.assert_close(back[inner], moved.roll((-2, 1), dims=(1, 2))[inner], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(back[inner], moved[inner])


def test_the_decoder_starts_as_the_encoder_and_is_free_if_untied() -> None:
    tied, free = autoencoder(), autoencoder(tied=False)
    torch.testing.assert_close(tied(random(3, 64)), free(random(3, 64)), rtol=0, atol=0)
    Reconstruction().step(free, torch.sigmoid(random(9, 64)), torch.zeros(9), generator())
    with torch.no_grad():
        for parameter in free.parameters():
            assert parameter.grad is not None
            parameter -= parameter.grad
    assert not any(torch.allclose(W, V) for W, V in zip(free.encoder, free.decoder, strict=True))
    assert len(list(tied.parameters())) == len(list(free.parameters())) - 2


def test_initial_filters_are_uniform_and_a_function_of_the_generator() -> None:
    model = ConvolutionalAutoencoder(784, 784, shape=(28, 28, 1), channels=(64, 32), kernel=5)
    model.initialise(generator(3))
    for W, maps in zip(model.encoder, (1 + 64, 64 + 32), strict=True):
        bound = math.sqrt(6 / (25 * maps))
        assert bound * (1 - 20 / W.numel()) < W.abs().max().item() <= bound * (1 + 1e-6)
    again = ConvolutionalAutoencoder(784, 784, shape=(28, 28, 1), channels=(64, 32), kernel=5)
    again.initialise(generator(3))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))


def test_a_picture_of_colours_is_taken_row_by_row_and_given_back_so() -> None:
    """With the identity for filters of one pixel, the code is the picture, a colour a map."""
    model = without_biases(autoencoder((3, 4, 2), channels=(2,), kernel=1, stride=1))
    with torch.no_grad():
        model.encoder[0].copy_(torch.eye(2, dtype=torch.float64)[:, :, None, None])
    x = random(5, 24)
    assert torch.equal(model.maps(x), x.reshape(5, 3, 4, 2).permute(0, 3, 1, 2))
    assert torch.equal(model(x), x)
    assert model.filters().shape == (2, 1, 1, 2)


def test_a_classifier_reads_the_activated_code_and_takes_the_encoders_names() -> None:
    model = ConvolutionalClassifier(64, 10, shape=(8, 8, 1), channels=(3, 2), kernel=3).double()
    model.initialise(generator())
    trained = autoencoder()
    names = {name for name in model.state_dict() if name in trained.state_dict()}
    assert names == {f"encoder{kind}.{layer}" for kind in ("", "_biases") for layer in (0, 1)}
    missing = model.load_state_dict({name: trained.state_dict()[name] for name in names}, strict=False).missing_keys
    assert missing == ["output", "output_bias"]
    x = random(5, 64)
    expected = torch.relu(trained.encode(x)) @ model.output + model.output_bias
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    assert all(parameter is own for parameter, own in zip(model.top(), (model.output, model.output_bias), strict=True))
    Classification().step(model, x, torch.arange(5), generator())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="gives back its 64 inputs; 10 outputs are asked of it"):
        ConvolutionalAutoencoder(64, 10, shape=(8, 8, 1), channels=(2,))
    with pytest.raises(ValueError, match="pictures of 8 x 8 x 3 have not 64 features"):
        ConvolutionalAutoencoder(64, 64, shape=(8, 8, 3), channels=(2,))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_specs_count_weights_and_multiplications(stride: int) -> None:
    """Multiplications as torch counts them, forward; its count takes the border's zeros for numbers, as ours does."""
    from torch.utils.flop_counter import FlopCounterMode

    for spec in (
        Spec(channels=(6, 3), kernel=3, stride=stride),
        Spec(channels=(6, 3), kernel=3, stride=stride, tied=False),
        ClassifierSpec(channels=(6, 3), kernel=3, stride=stride),
    ):
        outputs = 81 if isinstance(spec, Spec) else 10
        model = spec.load()(81, outputs, shape=(9, 9, 1), **spec.arguments())
        assert spec.parameters(81, outputs) == sum(p.numel() for p in model.parameters() if p.ndim > 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 81))
        assert 2 * spec.multiplications(81, outputs) == counter.get_total_flops()
