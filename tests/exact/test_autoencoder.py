"""The autoencoder's closed-form gradient against autograd of the definition, and what corruption does to the input.

The penalties are defined here by other means: the contractive one by autograd's Jacobian of the encoder, the sparse one
by torch's divergence of two Bernoulli distributions.
"""

from __future__ import annotations

import inspect
import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

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


def reconstruction_loss(layer: Autoencoder, x: Tensor, v: Tensor, emphasis: Tensor | float = 1.0) -> Tensor:
    """In the papers' words: mean over examples of the weighted loss of the reconstruction."""
    a = encode(layer, x) @ (layer.W.T if layer.tied else layer.W_prime) + layer.vbias
    if layer.squared:
        return (emphasis * (a - v) ** 2).sum(1).mean()
    z = 1 / (1 + torch.exp(-a))
    return -(emphasis * (v * z.log() + (1 - v) * (1 - z).log())).sum(1).mean()


def encode(layer: Autoencoder, x: Tensor) -> Tensor:
    total = x @ layer.W + layer.hbias
    return total.clamp_min(0) if layer.rectified else 1 / (1 + torch.exp(-total))


def squared_jacobian(layer: Autoencoder, x: Tensor) -> Tensor:
    """|dh/dx|^2 by autograd, example by example, averaged."""
    jacobians = [
        torch.autograd.functional.jacobian(lambda row: encode(layer, row[None])[0], row, create_graph=True) for row in x
    ]
    return torch.stack(jacobians).square().sum(dim=(1, 2)).mean()


def divergence(layer: Autoencoder, x: Tensor) -> Tensor:
    """sum_j KL(target | q_j)."""
    q = encode(layer, x).mean(0)
    return kl_divergence(Bernoulli(torch.full_like(q, layer.sparsity_target)), Bernoulli(q)).sum()


def definition(layer: Autoencoder, x: Tensor, v: Tensor, emphasis: Tensor | float = 1.0) -> Tensor:
    """The objective."""
    objective = reconstruction_loss(layer, x, v, emphasis)
    if layer.contraction:
        objective = objective + layer.contraction * squared_jacobian(layer, x)
    if layer.sparsity_cost:
        objective = objective + layer.sparsity_cost * divergence(layer, x)
    return objective


def emphasis_of(layer: Autoencoder, chosen: Tensor | None) -> Tensor | float:
    if chosen is None:
        return 1.0
    return layer.corrupted_weight * chosen.double() + layer.untouched_weight * (~chosen).double()


PENALTIES = {
    "no penalty": {},
    "contractive": {"contraction": 0.7},
    "sparse": {"sparsity_target": 0.05, "sparsity_cost": 0.3},
    "both": {"contraction": 0.7, "sparsity_target": 0.05, "sparsity_cost": 0.3},
}
CORRUPTIONS = {
    "clean": {},
    "masking": {"corruption": 0.3},
    "salt and pepper": {"corruption": 0.3, "corruption_kind": "salt_and_pepper"},
    "gaussian": {"corruption": 0.3, "corruption_kind": "gaussian"},
    "masking, emphasised": {"corruption": 0.3, "corrupted_weight": 1.3, "untouched_weight": 0.6},
    "salt and pepper, only the corrupted": {
        "corruption": 0.3,
        "corruption_kind": "salt_and_pepper",
        "untouched_weight": 0.0,
    },
}


HIDDEN = {**PENALTIES, "rectified": {"hidden_units": "relu"}}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_gradient_is_that_of_the_definition(tied: bool, reconstruction: str, corruption: str, hidden: str) -> None:
    layer, v = make(tied=tied, reconstruction=reconstruction, **CORRUPTIONS[corruption], **HIDDEN[hidden])
    x, chosen = layer.corrupt(v, generator(5))
    emphasis = emphasis_of(layer, chosen)
    metrics = layer.step(v, generator(5))
    torch.testing.assert_close(metrics["loss"], reconstruction_loss(layer, x, v, emphasis).detach(), **ROUNDING)
    expected = torch.autograd.grad(definition(layer, x, v, emphasis), list(layer.parameters()))
    torch.testing.assert_close([parameter.grad for parameter in layer.parameters()], list(expected), **ROUNDING)


def test_the_contractive_penalty_is_the_squared_norm_of_autograds_jacobian() -> None:
    layer, v = make(contraction=0.7, corruption=0.3)
    x, _ = layer.corrupt(v, generator(5))
    torch.testing.assert_close(
        layer.step(v, generator(5))["contraction"], squared_jacobian(layer, x).detach(), **ROUNDING
    )
    torch.testing.assert_close(layer.validate(v)["contraction"], squared_jacobian(layer, v).detach(), **ROUNDING)


def test_the_activity_that_is_recorded_is_that_of_the_code() -> None:
    layer, v = make(sparsity_cost=0.3)
    activity = encode(layer, v).mean().detach()
    torch.testing.assert_close(layer.step(v, generator())["hidden_activity"], activity, **ROUNDING)
    torch.testing.assert_close(layer.validate(v)["hidden_activity"], activity, **ROUNDING)


@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
def test_emphasis_of_one_and_one_is_the_plain_loss(reconstruction: str) -> None:
    """Also by the weighted sum, which weights of almost one ask for."""
    plain, v = make(reconstruction=reconstruction, corruption=0.3)
    weighted, _ = make(reconstruction=reconstruction, corruption=0.3, corrupted_weight=1 + 1e-14)
    ones, _ = make(reconstruction=reconstruction, corruption=0.3, corrupted_weight=1.0, untouched_weight=1.0)
    for layer in (plain, weighted, ones):
        loss = layer.step(v, generator(5))["loss"]
        torch.testing.assert_close(loss, plain.step(v, generator(5))["loss"], **ROUNDING)
        torch.testing.assert_close(layer.W.grad, plain.W.grad, **ROUNDING)


def test_penalties_do_not_grow_with_the_batch() -> None:
    """The same examples twice: the same gradient."""
    layer, v = make(**PENALTIES["both"])
    layer.step(v, generator())
    assert layer.W.grad is not None
    once = layer.W.grad.clone()
    layer.step(v.repeat(2, 1), generator())
    torch.testing.assert_close(layer.W.grad, once, **ROUNDING)


def test_penalties_do_what_they_are_for() -> None:
    """Of 60 steps with and without: the penalised layer's code is less steep, or less active."""
    ends = {}
    for name in ("no penalty", "contractive", "sparse"):
        layer, v = make(**PENALTIES[name])
        for _ in range(60):
            layer.step(v, generator())
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter -= 0.1 * parameter.grad  # type: ignore[operator]
        ends[name] = (squared_jacobian(layer, v).item(), encode(layer, v).mean().item())
    assert ends["contractive"][0] < ends["no penalty"][0]
    assert ends["sparse"][1] < ends["no penalty"][1]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_step_follows_autocast(hidden: str) -> None:
    layer, v = make(corruption=0.3, untouched_weight=0.5, **HIDDEN[hidden])
    layer.float()
    layer.step(v.float(), generator(5))
    exact = [parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.step(v.float(), generator(5))
    for parameter, gradient in zip(layer.parameters(), exact, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradient).norm() < 0.02 * gradient.norm()  # bfloat16 has a step of 2^-8 = 0.004


@pytest.mark.parametrize("tied", [True, False])
def test_under_autocast_the_product_that_gives_the_gradient_is_in_bfloat16_too(tied: bool) -> None:
    layer = Autoencoder(30, 20, corruption=0.25, tied=tied)
    v = torch.rand(200, 30, generator=generator())
    layer.initialise(v.mean(0), generator(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.step(v, generator(2))
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        rounded = torch.equal(parameter.grad, parameter.grad.bfloat16().float())
        assert rounded == (parameter.dim() == 2), f"{name}: sums over the batch stay in float32"


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
    x, chosen = layer.corrupt(v, generator(2))
    assert chosen is None or torch.equal(x[~chosen], v[~chosen])
    return v, x


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


def test_inputs_that_corruption_happens_not_to_change_are_chosen_too() -> None:
    v = torch.zeros(EXAMPLES, INPUTS)
    layer = Autoencoder(INPUTS, 2, corruption=SHARE)
    x, chosen = layer.corrupt(v, generator(2))
    assert torch.equal(x, v)
    assert chosen is not None
    assert chosen.float().mean().item() == pytest.approx(SHARE, abs=SHARE_BOUND)


def test_no_corruption_draws_nothing() -> None:
    layer, v = make()
    random = generator(4)
    before = random.get_state()
    x, chosen = layer.corrupt(v, random)
    assert x is v
    assert chosen is None
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


@pytest.mark.parametrize("hidden_units", ["sigmoid", "relu"])
@pytest.mark.parametrize("reconstruction", ["cross_entropy", "squared"])
def test_validate_and_decode_agree_with_the_definition(reconstruction: str, hidden_units: str) -> None:
    layer, v = make(reconstruction=reconstruction, corruption=0.4, hidden_units=hidden_units)
    metrics = layer.validate(v)
    torch.testing.assert_close(metrics["loss"], definition(layer, v, v).detach(), **ROUNDING)
    error = ((layer.decode(layer.encode(v)) - v) ** 2).sum(1).mean().detach()
    torch.testing.assert_close(metrics["reconstruction_error"], error, **ROUNDING)


def test_some_rectified_units_are_silent_and_some_are_not() -> None:
    """So that the tests above see either side of the kink."""
    layer, v = make(hidden_units="relu")
    silent = (layer.encode(v) == 0).double().mean().item()
    assert 0.1 < silent < 0.9


@pytest.mark.parametrize(("hidden_units", "gain"), [("sigmoid", 4), ("relu", math.sqrt(2))])
def test_initialisation(hidden_units: Literal["sigmoid", "relu"], gain: float) -> None:
    layer = Autoencoder(784, 500, tied=False, hidden_units=hidden_units)
    mean = torch.linspace(0, 1, 784)
    layer.initialise(mean, generator())
    bound = gain * math.sqrt(6 / 1284)
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
