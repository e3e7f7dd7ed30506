"""The training loop (Algorithm 2 of the paper)."""

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import softmax

from skcce._model import SoftmaxModel
from skcce._neighbors import smooth
from skcce._pseudo_labels import (
    expectation_maximization,
    fairness,
    positive_rows,
    pseudo_label_loss,
)
from skcce._pseudo_labels.interior_point import interior_point
from skcce.losses import collision_loss_and_gradient, log_normalize

# Trained to the end when in so many epochs in a row too few samples changed cluster.
_PATIENCE = 3
# Exact enough: pseudo-labels of a gap of 1e-4 train no better.
_LABEL_TOL = 1e-2
_LABEL_STEPS = 100


class Recipe(NamedTuple):
    """How pseudo-labels are made from predictions.

    lam, prior : weight and target shares of the fairness term.
    forward : whether it is that of eq. (10), not (11).
    average : matrix (n_samples, n_samples) that averages over neighbors, or None.
    solver : "em" or "interior-point".
    em_iter : EM iterations.
    """

    lam: float
    prior: NDArray
    forward: bool
    average: csr_array | None
    solver: str
    em_iter: int

    def solve(self, proba: NDArray) -> NDArray:
        """Solve for the pseudo-labels of some rows, starting from their predictions."""
        labels = positive_rows(proba)
        if self.solver == "em":
            expectation_maximization(proba, labels, self.lam, self.prior, self.em_iter)
            return labels
        return interior_point(
            labels, self.lam, self.prior, self.forward, _LABEL_STEPS, _LABEL_TOL
        )[0]


class Training(NamedTuple):
    """What :func:`train` reports.

    loss_curve : loss of eq. (11) or (10) in every epoch, as its batches were visited.
    converged : whether the clusters had come to rest.
    interrupted : whether it was ended by KeyboardInterrupt.
    """

    loss_curve: list[float]
    converged: bool
    interrupted: bool


def train(
    model: SoftmaxModel,
    X: NDArray,
    recipe: Recipe,
    *,
    batch_size: int,
    max_iter: int,
    tol: float,
    random_state: np.random.RandomState,
    verbose: int = 0,
) -> Training:
    """Train an initialized `model` in place for at most `max_iter` epochs.

    For every batch: predictions, pseudo-labels, a step on mean collision
    cross-entropy. With neighbors, the pseudo-labels come from the averages of the
    predictions as they stood when the epoch began.
    """
    proba = softmax(model.decision_function(X), axis=1)
    n_samples = len(proba)
    n_batches = -(-n_samples // batch_size)
    label_sum = np.zeros(len(recipe.prior))

    def objective(rows, source, logits):
        normalized = log_normalize(logits)
        proba[rows] = normalized[1]
        labels = recipe.solve(normalized[1] if source is None else source[rows])
        label_sum[:] += labels.sum(axis=0)
        return collision_loss_and_gradient(logits, labels, normalized)

    loss_curve = []
    n_calm = 0
    try:
        for epoch in range(max_iter):
            assigned = proba.argmax(axis=1)
            source = None if recipe.average is None else smooth(recipe.average, proba)
            label_sum[:] = 0
            loss = 0.0
            batches = np.array_split(random_state.permutation(n_samples), n_batches)
            # A step that is too large overflows; the loss below tells.
            with np.errstate(over="ignore", invalid="ignore"):
                for i, rows in enumerate(batches):
                    progress = (epoch + i / n_batches) / max_iter
                    batch_loss = model.train_step(
                        X[rows], partial(objective, rows, source), progress=progress
                    )
                    loss += batch_loss * len(rows) / n_samples
            loss += recipe.lam * fairness(
                label_sum / n_samples, recipe.prior, recipe.forward
            )
            if not np.isfinite(loss):
                raise ValueError(
                    f"The loss is {loss} in epoch {epoch + 1}. If the logits of the "
                    "model are finite at the start, try a smaller learning rate."
                )
            loss_curve.append(loss)
            changed = np.mean(assigned != proba.argmax(axis=1))
            if verbose:
                _report(epoch, loss, changed, proba)
            n_calm = n_calm + 1 if changed <= tol else 0
            if n_calm == _PATIENCE:
                break
    except KeyboardInterrupt:
        return Training(loss_curve, converged=False, interrupted=True)
    return Training(loss_curve, converged=n_calm > 0, interrupted=False)


def evaluate(model: SoftmaxModel, X: NDArray, recipe: Recipe) -> float:
    """Return the loss of eq. (11) or (10) of all rows, by which starts are compared."""
    proba = softmax(model.decision_function(X), axis=1)
    source = proba if recipe.average is None else smooth(recipe.average, proba)
    labels = recipe.solve(source)
    return pseudo_label_loss(proba, labels, recipe.lam, recipe.prior, recipe.forward)


def _report(epoch: int, loss: float, changed: float, proba: NDArray) -> None:
    used = len(np.unique(proba.argmax(axis=1)))
    print(
        f"epoch {epoch + 1:3d}: loss {loss:.4f}, {100 * changed:.2f} % of the samples "
        f"changed cluster, {used} of {proba.shape[1]} clusters used"
    )
