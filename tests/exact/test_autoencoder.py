"""The autoencoder's closed-form gradient against autograd of the definition, and what corruption does to the input."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor

from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.spec.layers import Autoencoder as AutoencoderSpec

ROUNDING = {"rtol": 1e-11, "atol": 1e-13}  # float64 sums of about a hundred terms


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options: object) -> tuple[Autoencoder, Tensor]:
    layer = Autoencoder(6, 4, **options).double()  # type: ignore[arg-type]
    v = torch.rand(9, 6, generator=generator(1), dtype=torch.float64)
    layer.initialise(v.mean(0), generator(2))
    with torch.no_grad():
        layer.hbias.normal_(generator=generator(3))
    return layer, v


def definition(layer: Autoencoder, x: Tensor, v: Tensor) -> Tensor:
    """The objective in the paper's words: mean over examples of the reconstruction's loss."""
    h = 1 / (1 + torch.exp(-(x @ layer.W + layer.hbias)))
    a = h @ (layer.W.T if layer.tied else layer.W_prime) + layer.vbias
    if layer.squared:
        return ((a - v) ** 2).sum(1).mean()
    z = 1 / (1 + torch.exp(-a))
    return -(v * z.log() + (1 - v) * (1 - z).log()).sum(1).mean()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
@pytest.mark.parametrize(
    ("corruption", "kind"), [(0.0, "masking"), (0.3, "masking"), (0.3, "salt_and_pepper"), (0.3, "gaussian")]
)
def test_the_gradient_is_that_of_the_definition(tied: bool, reconstruction: str, corruption: float, kind: str) -> None:
    layer, v = make(tied=tied, reconstruction=reconstruction, corruption=corruption, corruption_kind=kind)
    objective = definition(layer, layer.corrupt(v, generator(5)), v)
    metrics = layer.step(v, generator(5))
    torch.testing.assert_close(metrics["loss"], objective.detach(), **ROUNDING)
    expected = torch.autograd.grad(objective, list(layer.parameters()))
    torch.testing.assert_close([parameter.grad for parameter in layer.parameters()], list(expected), **ROUNDING)


def test_the_gradient_by_finite_differences() -> None:
    layer, v = make(tied=True)
    layer.step(v, generator())
    step = 1e-5  # of a central difference: error about step^2 times a third derivative of order 1
    for parameter in layer.parameters():
        assert parameter.grad is not None
        values, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
        for i in range(0, len(values), 5):
            value = values[i].item()
            loss = []
            for x in (value + step, value - step):
                values[i] = x
                loss.append(layer.validate(v)["loss"].item())
            values[i] = value
            assert gradient[i].item() == pytest.approx((loss[0] - loss[1]) / (2 * step), rel=1e-6, abs=1e-8)


def test_the_gradient_is_a_mean_over_the_batch() -> None:
    layer, v = make()
    layer.step(v, generator())
    assert layer.W.grad is not None
    once = layer.W.grad.clone()
    layer.step(v.repeat(3, 1), generator())
    torch.testing.assert_close(layer.W.grad, once, **ROUNDING)


EXAMPLES, INPUTS, SHARE = 500, 400, 0.25
N = EXAMPLES * INPUTS
SHARE_BOUND = 3 * math.sqrt(SHARE * (1 - SHARE) / N)  # three standard deviations of a binomial share


def corrupted(kind: str) -> tuple[Tensor, Tensor]:
    v = torch.rand(EXAMPLES, INPUTS, generator=generator(1)) * 0.8 + 0.1  # away from 0 and 1
    layer = Autoencoder(INPUTS, 2, corruption=SHARE, corruption_kind=kind)  # type: ignore[arg-type]
    return v, layer.corrupt(v, generator(2))


def test_masking_silences_the_declared_share_and_leaves_the_rest() -> None:
    v, x = corrupted("masking")
    masked = x == 0
    assert masked.float().mean().item() == pytest.approx(SHARE, abs=SHARE_BOUND)
    assert torch.equal(x[~masked], v[~masked])
    # Independent over inputs and examples: the shares' variance over either is the binomial one, p (1 - p) / n, whose
    # estimate from m shares has a relative deviation of sqrt(2 / m).
    for dim, (n, m) in {0: (EXAMPLES, INPUTS), 1: (INPUTS, EXAMPLES)}.items():
        variance = masked.float().mean(dim).var().item()
        assert variance == pytest.approx(SHARE * (1 - SHARE) / n, rel=3 * math.sqrt(2 / m))


def test_salt_and_pepper_are_equally_common() -> None:
    v, x = corrupted("salt_and_pepper")
    for value in (0.0, 1.0):
        bound = 3 * math.sqrt(SHARE / 2 * (1 - SHARE / 2) / N)
        assert (x == value).float().mean().item() == pytest.approx(SHARE / 2, abs=bound)
    kept = (x != 0) & (x != 1)
    assert torch.equal(x[kept], v[kept])


def test_gaussian_noise_has_mean_0_and_the_declared_deviation() -> None:
    v, x = corrupted("gaussian")
    noise = x - v
    assert noise.mean().item() == pytest.approx(0.0, abs=3 * SHARE / math.sqrt(N))
    assert noise.std().item() == pytest.approx(SHARE, abs=3 * SHARE / math.sqrt(2 * N))


def test_no_corruption_draws_nothing() -> None:
    layer, v = make()
    random = generator(4)
    before = random.get_state()
    assert layer.corrupt(v, random) is v
    assert torch.equal(random.get_state(), before)


@pytest.mark.parametrize("kind", ["masking", "salt_and_pepper", "gaussian"])
def test_same_generator_same_bits_and_the_global_one_untouched(kind: str) -> None:
    before = torch.get_rng_state()
    results = []
    for _ in range(2):
        layer = Autoencoder(6, 4, corruption=0.3, corruption_kind=kind, tied=False)  # type: ignore[arg-type]
        v = torch.rand(9, 6, generator=generator(1))
        layer.initialise(v.mean(0), generator(2))
        metrics = layer.step(v, generator(3))
        results.append([*layer.state_dict().values(), *(p.grad for p in layer.parameters()), metrics["loss"]])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
def test_validate_and_decode_agree_with_the_definition(reconstruction: str) -> None:
    layer, v = make(reconstruction=reconstruction, corruption=0.4)
    metrics = layer.validate(v)
    torch.testing.assert_close(metrics["loss"], definition(layer, v, v).detach(), **ROUNDING)
    error = ((layer.decode(layer.encode(v)) - v) ** 2).sum(1).mean().detach()
    torch.testing.assert_close(metrics["reconstruction_error"], error, **ROUNDING)


def test_initialisation() -> None:
    layer = Autoencoder(784, 500, tied=False)
    mean = torch.linspace(0, 1, 784)
    layer.initialise(mean, generator())
    bound = 4 * math.sqrt(6 / 1284)
    for weight in (layer.W, layer.W_prime):
        # A uniform sample's mean and mean square: deviations bound / sqrt(3 n) and bound^2 * sqrt(4 / 45 / n); five.
        n = weight.numel()
        assert weight.abs().max().item() <= bound
        assert weight.mean().item() == pytest.approx(0, abs=5 * bound / math.sqrt(3 * n))
        assert weight.square().mean().item() == pytest.approx(bound**2 / 3, abs=5 * bound**2 * math.sqrt(4 / 45 / n))
    assert layer.hbias.abs().max() == 0
    torch.testing.assert_close(torch.sigmoid(layer.vbias).detach(), mean.clamp(0.01, 0.99))


def test_defaults_are_those_of_the_spec() -> None:
    defaults = {n: p.default for n, p in inspect.signature(Autoencoder).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert defaults == AutoencoderSpec().arguments()
