"""Energy-based models without latent variables: quadrature against closed forms, every way of estimating against it."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian

from dlpipe.datasets.draws import Draws
from dlpipe.datasets.plane import CENTRE_DEVIATION, CENTRE_RADIUS, points
from dlpipe.datasets.splits import TEST_PART, TRAINING_PART
from dlpipe.errors import StepError
from dlpipe.layers.autoencoder import Autoencoder
from dlpipe.models.energy import Energy
from dlpipe.runtime.data import Split
from dlpipe.runtime.optimizers import adam
from dlpipe.spec.base import FAMILIES
from dlpipe.spec.datasets import Images, Linear, Plane
from dlpipe.spec.models import DeepAutoencoder, Mlp
from dlpipe.spec.models import Energy as EnergySpec
from dlpipe.spec.tasks import Classification
from dlpipe.spec.tasks import ExactLikelihood as ExactLikelihoodSpec
from dlpipe.spec.tasks import Langevin as LangevinSpec
from dlpipe.tasks.density import Density, mean_energy, score
from dlpipe.tasks.likelihood import ExactLikelihood, Langevin, at
from dlpipe.tasks.noise_contrastive import NoiseContrastive
from dlpipe.tasks.quadrature import Box, NoIntegral, box_around, grid, log_partition
from dlpipe.tasks.score_matching import DenoisingScoreMatching, ScoreMatching

COVARIANCE = torch.tensor([[1.3, -0.6], [-0.6, 0.8]], dtype=torch.float64)
ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(units: tuple[int, ...] = (16, 16), inputs: int = 2, **fields: Any) -> Energy:
    """As it is before training."""
    made = Energy(inputs, 1, units=units, **fields)
    made.initialise(generator())
    return made


def bent(units: tuple[int, ...] = (16, 16), inputs: int = 2, **fields: Any) -> Energy:
    """As if trained, in float64: no parameter is 0."""
    made = model(units, inputs, **fields).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.3, generator=generator(1)))
    return made


def data(shape: str, n: int, part: int = TRAINING_PART) -> Tensor:
    return torch.from_numpy(points(shape, n, Draws(0, part))[0])


def train(made: Energy, task: Any, x: Tensor, *, steps: int, batch: int = 200, rate: float = 0.01) -> Energy:
    """Adam with a cosine schedule, in the type of the model: the same for every way of estimating."""
    if hasattr(task, "see"):
        task.see(x)
    optimizer = adam(dict(made.named_parameters()), learning_rate=rate, weight_decay=0.0, **ADAM)
    random, order = generator(2), generator(3)
    for step in range(steps):
        chosen = torch.randint(0, len(x), (batch,), generator=order)
        for parameter in made.parameters():
            parameter.grad = None
        task.step(made, x[chosen], torch.zeros(batch), random)
        optimizer.step(0.5 * (1 + math.cos(math.pi * step / steps)))
    return made


def likelihood(made: Energy, x: Tensor) -> float:
    return float(ExactLikelihood().validate(made, x, torch.zeros(len(x)))["log_likelihood"])


# Quadrature


def test_a_gaussians_partition_function_has_its_closed_form() -> None:
    precision = torch.linalg.inv(COVARIANCE)

    def energy(x: Tensor) -> Tensor:
        return ((x - MEAN) @ precision * (x - MEAN)).sum(dim=1) / 2

    exact = math.log(2 * math.pi) + float(torch.logdet(COVARIANCE)) / 2
    small = Box(MEAN - 0.5, MEAN + 0.5)  # which holds little of it
    assert log_partition(energy, small) == pytest.approx(exact, abs=1e-8)


def test_a_mixture_on_the_line_integrates_to_what_it_is_made_of() -> None:
    def energy(x: Tensor) -> Tensor:
        modes = torch.tensor([-3.0, 0.0, 5.0], dtype=torch.float64)
        return -torch.logsumexp(-((x - modes) ** 2) / (2 * 0.01), dim=1)

    exact = math.log(3) + math.log(2 * math.pi * 0.01) / 2
    box = Box(torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64))
    assert log_partition(energy, box) == pytest.approx(exact, abs=1e-8)


def test_what_has_no_integral_is_said() -> None:
    box = Box(torch.full((2,), -1.0, dtype=torch.float64), torch.full((2,), 1.0, dtype=torch.float64))
    with pytest.raises(NoIntegral, match="no finite value"):
        log_partition(lambda x: x[:, 0] * 0.0, box)
    with pytest.raises(NoIntegral, match="no stable value"):
        log_partition(lambda x: 1e7 * x.square().sum(dim=1), box)


@pytest.mark.parametrize("precision", [0.0, 1e4, math.nan], ids=["flat", "narrow", "NaN"])
def test_a_model_without_an_integral_has_no_likelihood(precision: float) -> None:
    """A validation says so by NaN, which the loop takes for a divergence; what is to be a result is an error."""
    made, x = model(units=()), data("two_moons", 50)
    torch.nn.init.eye_(made.root_precision).detach().mul_(precision)
    assert math.isnan(Langevin().validate(made, x, torch.zeros(50))["log_likelihood"])
    split = Split(x, torch.zeros(50))
    with pytest.raises(NoIntegral):
        Langevin().measure(made, {"train": split, "test": split})


def test_a_box_is_twice_as_wide_as_what_it_is_put_around() -> None:
    box = box_around(torch.tensor([[0.0, 5.0], [2.0, 4.0]]))
    assert box.low.tolist() == [-1.0, 3.5]
    assert box.high.tolist() == [3.0, 5.5]
    cells = grid(box, 4)
    assert cells.points[:2].tolist() == [[-0.5, 3.75], [-0.5, 4.25]]
    assert float(cells.log_cell) == pytest.approx(math.log(1.0 * 0.5))


# The model


def test_at_the_start_it_is_the_normal_distribution_that_its_samples_are_of() -> None:
    made = model(spread=1.5, samples=20_000)
    x = torch.randn(50, 2, generator=generator())
    torch.testing.assert_close(made.energy(x), x.square().sum(dim=1) / (2 * 1.5**2))
    assert log_partition(made.double().energy, box_around(x.double())) == pytest.approx(math.log(2 * math.pi * 1.5**2))
    assert float(made.samples.std()) == pytest.approx(1.5, rel=0.02)


def test_without_a_hidden_layer_it_is_gaussian() -> None:
    """Completing the square gives its mean and covariance."""
    made = bent(units=())
    A, w = made.root_precision, made.weights[0].squeeze(1)
    precision = A @ A.T
    mean = made.centre - torch.linalg.solve(precision, w)
    x = torch.randn(20, 2, dtype=torch.float64, generator=generator())
    square = ((x - mean) @ precision * (x - mean)).sum(dim=1) / 2
    torch.testing.assert_close(made.energy(x) - made.energy(mean[None]), square)


@pytest.mark.parametrize("activation", ["silu", "softplus", "tanh"])
def test_the_score_is_the_slope_of_the_log_density(activation: str) -> None:
    made = bent(activation=activation)
    x = torch.randn(10, 2, dtype=torch.float64, generator=generator())
    s = score(made, x.clone().requires_grad_()).detach()
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-6
        difference = (made.energy(x - step) - made.energy(x + step)) / 2e-6
        torch.testing.assert_close(s[:, i], difference.detach(), rtol=1e-6, atol=1e-7)


# Objectives and their gradients


def gradient(made: Energy, task: Any, x: Tensor) -> dict[str, Tensor]:
    for parameter in made.parameters():
        parameter.grad = None
    task.step(made, x, torch.zeros(len(x)), generator(5))
    return {name: parameter.grad.clone() for name, parameter in made.named_parameters()}  # type: ignore[union-attr]


def test_the_gradient_of_the_likelihood_is_that_of_the_quadrature() -> None:
    """Central differences of the adaptive quadrature against autograd through the training's own grid."""
    made, x = bent(), 4 * data("two_moons", 300).double()  # so wide that the grid holds the model
    task = ExactLikelihood(points=200)
    task.see(x)
    gradients = gradient(made, task, x)
    for parameter, place in ((made.weights[0], (1, 3)), (made.weights[2], (5, 0)), (made.root_precision, (0, 1))):
        values = []
        for change in (1e-4, -1e-4):
            with torch.no_grad():
                parameter[place] += change
                values.append(mean_energy(made, x) + log_partition(made.energy, box_around(x)))
                parameter[place] -= change
        name = next(n for n, p in made.named_parameters() if p is parameter)
        assert float(gradients[name][place]) == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-5)


def test_langevins_gradient_is_the_difference_of_two_means() -> None:
    made, x = bent(samples=64), data("two_moons", 50).double()
    gradients = gradient(made, Langevin(steps=3), x)
    parameters = dict(made.named_parameters())
    of_energies = made.energy(x).mean() - made.energy(made.samples).mean()  # where the chains are now
    expected = torch.autograd.grad(of_energies, list(parameters.values()), allow_unused=True)
    for (name, parameter), grad in zip(parameters.items(), expected, strict=True):
        torch.testing.assert_close(gradients[name], torch.zeros_like(parameter) if grad is None else grad)


def test_score_matchings_trace_is_that_of_the_hessian() -> None:
    made, x = bent(inputs=3), torch.randn(5, 3, dtype=torch.float64, generator=generator())
    loss = ScoreMatching().objective(made, x, generator())["loss"]
    expected = 0.0
    for row in x:
        h = hessian(lambda y: made.energy(y[None]).squeeze(), row)
        slope = jacobian(lambda y: made.energy(y[None]).squeeze(), row)
        expected += float(slope.square().sum() / 2 - h.trace()) / len(x)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-10)


def test_denoising_is_score_matching_of_the_noisy_data() -> None:
    """Both objectives have the same differences between two models (Vincent 2011), here with 400,000 noisy points."""
    sigma, x = 0.5, data("two_moons", 20).double()
    noisy = (x.repeat(20_000, 1) + sigma * torch.randn(400_000, 2, dtype=torch.float64, generator=generator())).float()
    values = []
    for made in (model(units=(), spread=0.7), bent(units=(8,)).float()):
        denoising = DenoisingScoreMatching(sigma).objective(made, x.float().repeat(20_000, 1), generator(1))["loss"]
        matching = ScoreMatching().objective(made, noisy, generator())["loss"]
        values.append((float(denoising.detach()), sigma**2 * float(matching.detach())))
    (of_one, matched), (of_other, matched_other) = values
    assert abs(matched_other - matched) > 0.05
    assert of_one - of_other == pytest.approx(matched - matched_other, abs=0.005)


def test_noise_contrastive_loss_is_the_log_loss_of_telling_apart() -> None:
    """Against torch's own cross-entropy, with the noise's density from torch's own distribution."""
    made, x = bent(), data("two_moons", 40).double()
    task = NoiseContrastive(noise=3)
    task.see(x)
    loss = task.objective(made, x, generator(4))["loss"]
    y = task._draw(x, generator(4))
    noise = torch.distributions.MultivariateNormal(x.mean(dim=0), torch.cov(x.T, correction=0))
    both = torch.cat((x, y))
    odds = -made.energy(both) - made.log_partition - noise.log_prob(both) - math.log(3)
    truth = torch.cat((torch.ones(40), torch.zeros(120))).double()
    apart = torch.nn.functional.binary_cross_entropy_with_logits(odds, truth, reduction="sum") / 40
    assert float(loss.detach()) == pytest.approx(float(apart.detach()), rel=1e-10)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        (torch.cat((data("rings", 50), torch.zeros(50, 1)), dim=1), "1 of the 3 features are the same in all training"),
        (torch.tensor([[0.0, 0.0], [2.0, 2.0]]), "the 2 training examples are too few for 2 features"),
    ],
)
def test_no_noise_has_the_covariance_of_flat_data(inputs: Tensor, reason: str) -> None:
    with pytest.raises(StepError, match=reason):
        NoiseContrastive().see(inputs)


def test_what_an_objective_does_not_depend_on_has_gradient_0() -> None:
    x = data("two_moons", 20).double()
    for task in (Langevin(), ScoreMatching(), DenoisingScoreMatching()):
        gradients = gradient(bent(), task, x)
        assert float(gradients["log_partition"]) == 0.0
        assert float(gradients["centre"].abs().sum()) > 0.0


# Estimates


def gaussian_sample(n: int) -> Tensor:
    root = torch.linalg.cholesky(COVARIANCE)
    return MEAN + torch.randn(n, 2, dtype=torch.float64, generator=generator()) @ root.T


@pytest.mark.parametrize("task", [ScoreMatching(), ExactLikelihood(points=60)], ids=["score matching", "quadrature"])
def test_on_a_gaussian_score_matching_is_maximum_likelihood(task: Any) -> None:
    """Both have their optimum at the sample's mean and covariance (Hyvarinen 2005, section 3.1)."""
    x = gaussian_sample(500)
    made = train(model(units=()).double(), task, x, steps=1500, batch=500, rate=0.02)
    # In batches drawn with replacement the optimum is not quite met: from here on with all examples.
    everything = [p for name, p in made.named_parameters() if name != "log_partition"]
    newton = torch.optim.LBFGS(everything, max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Tensor:
        newton.zero_grad()
        loss: Tensor = task.objective(made, x, generator())["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    newton.step(closure)  # type: ignore[no-untyped-call]
    precision = (made.root_precision @ made.root_precision.T).detach()
    mean = (made.centre - torch.linalg.solve(precision, made.weights[0].squeeze(1))).detach()
    torch.testing.assert_close(mean, x.mean(dim=0), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.inv(precision), torch.cov(x.T, correction=0), rtol=0, atol=1e-5)


def test_chains_reach_the_models_distribution() -> None:
    """With the correction, moments are those of quadrature; without it, and a large step, they are not."""
    made = bent(samples=20_000)
    cells = grid(Box(torch.full((2,), -8.0), torch.full((2,), 8.0)), 400)
    p = torch.softmax(-made.energy(cells.points.double()), dim=0).detach()
    mean = p @ cells.points.double()
    second = (p[:, None] * cells.points.double()).T @ cells.points.double()
    found = {}
    for adjusted in (True, False):
        y, acceptance = Langevin(steps=60, step_size=0.9, adjusted=adjusted).carry_on(made, generator(7))
        found[adjusted] = max(float((y.mean(0) - mean).abs().max()), float((y.T @ y / len(y) - second).abs().max()))
        assert (float(acceptance) < 1.0) is adjusted
    error = 4 * float(second.diagonal().max()) / math.sqrt(20_000)
    assert found[True] < error
    assert found[False] > 2 * error


def test_a_proposal_without_a_finite_energy_is_never_taken() -> None:
    class Walled(nn.Module):
        def energy(self, x: Tensor) -> Tensor:
            return torch.where(x[:, 0] > 0, x.square().sum(dim=1) / 2, math.inf)

    chain = at(Walled(), torch.full((500, 2), 0.1))  # type: ignore[arg-type]
    moved, taken = Langevin(step_size=1.0).move(Walled(), chain, generator())  # type: ignore[arg-type]
    assert 0 < int(taken.sum()) < 500
    assert float(moved.y[:, 0].min()) > 0


def test_restarted_chains_are_of_the_first_distribution() -> None:
    made = model(samples=10_000, spread=2.0)
    made.samples.fill_(100.0)
    y = Langevin(restart=0.25)._restarted(made, generator())
    anew = (y != 100.0).all(dim=1)
    assert float(anew.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(y[anew].std()) == pytest.approx(2.0, rel=0.03)


def test_samples_are_part_of_the_state() -> None:
    made = model()
    before = made.samples.clone()
    gradient(made, Langevin(), data("two_moons", 20))
    assert not torch.equal(made.samples, before)
    other = model()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.samples, made.samples)


@pytest.mark.slow(reason="maximum likelihood of a network, twice, to its end")
def test_langevin_comes_within_a_fiftieth_nat_of_quadrature() -> None:
    """Same network, same initial weights, same batches, same steps: only log Z's gradient differs."""
    x, test = data("two_moons", 4000), data("two_moons", 4000, TEST_PART)
    x, test = (x - x.mean(dim=0)) / x.std(dim=0), (test - x.mean(dim=0)) / x.std(dim=0)
    exact, sampled = (
        likelihood(train(model((32, 32), samples=1000), task, x, steps=2000), test)
        for task in (ExactLikelihood(points=64), Langevin(step_size=0.2))
    )
    gaussian = torch.distributions.MultivariateNormal(x.mean(dim=0), torch.cov(x.T))
    assert exact > float(gaussian.log_prob(test).mean()) + 0.5  # there is something to be missed
    assert sampled == pytest.approx(exact, abs=0.02)


def test_noise_contrastive_estimation_finds_log_z() -> None:
    """10,000 examples of the eight Gaussians, ten times as much noise: within 0.05 of the quadrature's."""
    x = data("eight_gaussians", 10_000)
    split = Split(x, torch.zeros(len(x)))
    begun = NoiseContrastive().measure(model((32, 32)), {"train": split, "test": split}).metrics
    assert begun["log_partition_error"] == pytest.approx(math.log(2 * math.pi))
    made = train(model((32, 32)), NoiseContrastive(noise=10), x, steps=1500)
    metrics = NoiseContrastive().measure(made, {"train": split, "test": split}).metrics
    learned = float(made.log_partition.detach())
    assert metrics["log_partition_error"] == abs(learned - metrics["log_partition"])
    assert metrics["log_partition_error"] < 0.05


# The score of the data


def true_score(x: Tensor, deviation: float = CENTRE_DEVIATION) -> Tensor:
    """Of eight Gaussians on a circle."""
    angles = torch.arange(8, dtype=x.dtype) * math.pi / 4
    centres = CENTRE_RADIUS * torch.stack((angles.cos(), angles.sin()), dim=1)
    away = centres - x[:, None, :]
    share = torch.softmax(-away.square().sum(dim=2) / (2 * deviation**2), dim=1)
    return (share[..., None] * away).sum(dim=1) / deviation**2


def cosine(found: Tensor, true: Tensor) -> float:
    """Of the two fields of vectors, over all points at once."""
    return float((found * true).sum() / (found.norm() * true.norm()))


def test_denoising_score_matching_finds_the_score() -> None:
    x, test = data("eight_gaussians", 10_000), data("eight_gaussians", 2000, TEST_PART)
    made = train(model((32, 32)), DenoisingScoreMatching(sigma=0.05), x, steps=3000, batch=500)
    found = score(made, test.clone().requires_grad_()).detach()
    assert cosine(found, true_score(test)) > 0.95
    assert float(found.norm() / true_score(test).norm()) == pytest.approx(1.0, abs=0.1)


def test_a_denoising_autoencoders_residual_is_a_score() -> None:
    """(r(x) - x) / sigma^2 (Alain and Bengio 2014): of the data with noise, at the noisy points it was trained on.

    The optimal r(x) is x + sigma^2 times the score of the noisy density, so its deviation is that of both together.
    With an error e of the residual that does not depend on the score, as of a training that stops before its optimum,
    the norms' ratio is sqrt(1 + |e|^2/|score|^2). Over three seeds the relative error is 0.09, which makes 1.004, and
    the ratio 1.006 to 1.009. A factor of sigma^2, or the score of the clean density, would miss by a factor of 2 and
    more.
    """
    sigma, x = 0.25, data("eight_gaussians", 10_000)
    layer = Autoencoder(2, 256, tied=False, corruption=sigma, corruption_kind="gaussian", reconstruction="squared")
    layer.initialise(x.mean(dim=0), generator())
    optimizer = adam(dict(layer.named_parameters()), learning_rate=0.03, weight_decay=0.0, **ADAM)
    random, order, steps = generator(2), generator(3), 8000
    for step in range(steps):
        layer.step(x[torch.randint(0, len(x), (500,), generator=order)], random)
        optimizer.step(0.5 * (1 + math.cos(math.pi * step / steps)))
    test = data("eight_gaussians", 2000, TEST_PART)
    noisy = test + sigma * torch.randn(test.shape, generator=generator(4))
    with torch.no_grad():
        residual = (layer.decode(layer.encode(noisy)) - noisy) / sigma**2
    true = true_score(noisy, math.hypot(CENTRE_DEVIATION, sigma))
    assert cosine(residual, true) > 0.95
    assert float(residual.norm() / true.norm()) == pytest.approx(1.0, abs=0.03)
    assert float((residual - true).norm() / true.norm()) < 0.15


# What a user meets


def test_three_dimensions_have_no_quadrature_but_an_energy() -> None:
    x = torch.randn(30, 3, generator=generator())
    with pytest.raises(StepError, match="at most 2 dimensions; these data have 3: take a task such as langevin"):
        ExactLikelihood().see(x)
    split = Split(x, torch.zeros(30))
    for task in (Langevin(), NoiseContrastive()):
        assert list(task.measure(model(inputs=3), {"test": split, "train": split}).metrics) == [
            "test_energy",
            "train_energy",
        ]


def test_the_figures_density_is_the_models() -> None:
    made, x = bent(), data("two_moons", 300)
    split = Split(x, torch.zeros(300))
    measured = Langevin().measure(made.float(), {"train": split, "test": split})
    density, (low, high) = measured.tensors["density"], measured.tensors["density_box"]
    cell = float(((high - low) / len(density)).prod())
    assert 0.5 < float(density.sum()) * cell <= 1.001  # the box holds the training points, not all of the density
    at_points = torch.exp(-made.energy(x) - measured.metrics["log_partition"]).detach()
    places = ((x - low) / (high - low) * len(density)).long()
    torch.testing.assert_close(density[places[:, 0], places[:, 1]], at_points, rtol=0.25, atol=0.01)
    assert torch.equal(measured.tensors["density_samples"], made.samples[:1000])


def test_the_exact_likelihood_is_refused_at_plan_where_it_would_be_in_training() -> None:
    task = ExactLikelihoodSpec()
    for dataset, refused in ((Plane(shape="rings"), False), (Linear(features=2), False), (Linear(features=3), True)):
        assert (task.unfit(dataset) is not None) == refused
        with pytest.raises(StepError) if refused else contextlib.nullcontext():
            ExactLikelihood().see(torch.rand(9, dataset.extent()[1]))
    assert task.unfit(Images(images="mine.npz")) is None  # only the data tell how many inputs an example has


def test_models_and_tasks_that_do_not_fit_are_refused() -> None:
    assert EnergySpec(units=(8,)).unfit(LangevinSpec()) is None
    assert "not classification" in str(EnergySpec(units=(8,)).unfit(Classification()))
    assert (
        str(Mlp(units=(8,)).unfit(LangevinSpec()))
        == "langevin trains an energy: the model must be of kind energy, not mlp"
    )
    assert DeepAutoencoder(units=(8,), code=2).unfit(LangevinSpec()) is not None


def test_a_task_is_declared_for_an_energy_if_and_only_if_it_estimates_a_density() -> None:
    energy = EnergySpec(units=(8,))
    ours = [spec for spec in FAMILIES["task"].values() if spec.implementation.startswith("dlpipe.")]
    declared = {spec for spec in ours if energy.unfit(spec.model_construct()) is None}  # type: ignore[arg-type]
    assert declared == {spec for spec in ours if issubclass(spec.load(spec.model_construct()), Density)}
    assert len(declared) == 5
