"""Linear regression whose squared error is a quadratic bowl of a shape that is asked for.

    y = x'w* + noise,    mean of x = 0,    mean of x x' = Q diag(lambda_1 ... lambda_d) Q'

The eigenvalues fall geometrically from 1 to 1/condition; Q is a random rotation, so that no axis is an eigenvector. Of
the training examples, the two means are exact, not only in expectation: half the mean squared error of w and an
intercept b then is

    f(w, b) = 1/2 (w - w*)' Q diag(lambda) Q' (w - w*) + 1/2 b^2            without noise,

a quadratic with known eigenvalues, those above and 1 for the intercept, and with the optimum (w*, 0).
"""

from __future__ import annotations

import numpy as np

from dlpipe.datasets.draws import Draws


class Problem:
    """The weights w* [d], the eigenvalues [d], largest first, and the rotation Q [d, d]."""

    def __init__(self, features: int, condition: float, noise: float, draws: Draws) -> None:
        self.noise = noise
        self.weights = draws.normal(features)
        self.eigenvalues = condition ** -np.linspace(0.0, 1.0, features)
        self.rotation = orthonormal(draws.normal(features, features))

    def exact(self, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [n, d] with exactly that mean and covariance, and targets [n]; n is larger than d."""
        drawn = draws.normal(n, len(self.weights))
        return self._examples(np.sqrt(n) * orthonormal(drawn - drawn.mean(axis=0)), draws)

    def independent(self, n: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        """Independent draws from a normal distribution with that mean and covariance."""
        return self._examples(draws.normal(n, len(self.weights)), draws)

    def _examples(self, white: np.ndarray, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
        inputs = white * np.sqrt(self.eigenvalues) @ self.rotation.T
        targets = inputs @ self.weights + self.noise * draws.normal(len(white))
        return inputs.astype(np.float32), targets.astype(np.float32)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """[n, d] -> [n, d] with orthonormal columns that span the same space; of a random matrix, they are random too."""
    q, r = np.linalg.qr(columns)
    return q * np.sign(np.diag(r))
