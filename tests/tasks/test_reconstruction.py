"""The task of reconstruction: its loss, its errors and principal components, each against another's computation."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from dlpipe.spec.tasks import Reconstruction as Spec
from dlpipe.tasks.reconstruction import Reconstruction, pca_error


class Doubling(nn.Module):
    """Gives back twice its input, and as its code the first `code` features."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.code = code

    def encode(self, x: Tensor) -> Tensor:
        return x[:, : self.code]

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.factor * x


def digits() -> tuple[Tensor, Tensor]:
    inputs, targets = load_digits(return_X_y=True)
    return torch.tensor(inputs / 16, dtype=torch.float32), torch.tensor(targets)


def splits(train: int = 1000) -> dict[str, SimpleNamespace]:
    inputs, targets = digits()
    parts = {"train": slice(0, train), "test": slice(train, None)}
    return {name: SimpleNamespace(inputs=inputs[part], targets=targets[part]) for name, part in parts.items()}


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_loss_and_error_are_sums_over_features_and_means_over_examples(loss: str) -> None:
    given = splits()
    measured = Reconstruction(loss).measure(Doubling(5), given)  # type: ignore[arg-type]
    for name, split in given.items():
        x = split.inputs.double()
        z = torch.sigmoid(2 * x) if loss == "cross_entropy" else 2 * x
        squared = (z - x).square()
        terms = squared if loss == "squared" else binary_cross_entropy(z, x, reduction="none")
        error = squared.sum(dim=1).mean().item()
        assert measured.metrics[f"{name}_reconstruction_error"] == pytest.approx(error, rel=1e-9)
        assert measured.metrics[f"{name}_loss"] == pytest.approx(terms.sum(dim=1).mean().item(), rel=1e-9)
    shown = measured.pictures["reconstructions_finetuned"]
    torch.testing.assert_close(shown, z[:10].float())  # of the test split, which came last
    assert torch.equal(measured.pictures["reconstruction_inputs"], given["test"].inputs[:10])


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_a_step_leaves_the_gradient_of_the_loss_that_validation_reports(loss: str) -> None:
    x, targets = digits()
    model, task = Doubling(5).double(), Reconstruction(loss)  # type: ignore[arg-type]
    scalars = task.step(model, x.double(), targets, torch.Generator())
    assert scalars["loss"].item() == pytest.approx(task.validate(model, x.double(), targets)["loss"], rel=1e-12)
    assert model.factor.grad is not None
    losses = []
    for shift in (1e-6, -1e-6):
        with torch.no_grad():
            model.factor.fill_(2 + shift)
        losses.append(task.validate(model, x.double(), targets)["loss"])
    assert model.factor.grad.item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("components", [1, 2, 30, 64])
def test_principal_components_are_scikit_learns(components: int) -> None:
    given = splits()
    train, test = (given[name].inputs.double().numpy() for name in ("train", "test"))
    pca = PCA(components, svd_solver="full").fit(train)
    expected = ((pca.inverse_transform(pca.transform(test)) - test) ** 2).sum(axis=1).mean()
    found = pca_error(given["train"].inputs, given["test"].inputs, components)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-20)


def test_a_code_is_compared_with_as_many_components_and_shown_where_it_is_plane() -> None:
    given = splits()
    for width in (2, 3):
        measured = Reconstruction("squared").measure(Doubling(width), given)
        pca = pca_error(given["train"].inputs, given["test"].inputs, width)
        assert measured.metrics["test_pca_reconstruction_error"] == pca
        error = measured.metrics["test_reconstruction_error"]
        assert measured.metrics["test_ratio_to_pca"] == pytest.approx(error / pca, rel=1e-12)
        assert ("code" in measured.tensors) == (width == 2)
        if width == 2:
            assert torch.equal(measured.tensors["code"], given["test"].inputs[:, :2])
            assert torch.equal(measured.tensors["code_classes"], given["test"].targets)


def test_a_model_without_a_code_is_compared_with_nothing() -> None:
    given = splits()
    measured = Reconstruction().measure(nn.Linear(64, 64), given)
    assert set(measured.metrics) == {
        f"{name}_{metric}" for name in given for metric in ("loss", "reconstruction_error")
    }


def test_it_asks_for_an_output_a_feature_and_takes_what_its_spec_declares() -> None:
    assert Reconstruction().outputs(64, 10) == 64
    assert Spec(loss="squared").load()(**Spec(loss="squared").arguments()).squared
