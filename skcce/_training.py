"""The training loop (Algorithm 2 of the paper)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import softmax

from skcce._model import SoftmaxModel
from skcce._neighbors import smooth
from skcce._progress import progress_bar, show_epoch
from skcce._pseudo_labels import (
    fairness,
    positive_rows,
    pseudo_label_loss,
    solve_batch,
)
from skcce._pseudo_labels.objective import pose
from skcce._pseudo_labels.working_set import interior_point
from skcce.losses import collision_loss_and_gradient, log_normalize

# Trained to the end when in so many epochs in a row too few samples changed cluster.
_PATIENCE = 3
# Exact enough: pseudo-labels of a gap of 1e-4 train no better.
_LABEL_TOL = 1e-2
_LABEL_STEPS = 100
_N_LOOKED_AT = 32  # samples whose logits tell whether a model is still finite


class Recipe(NamedTuple):
    """How pseudo-labels are made from predictions.

    first_lam, lam : weight of the fairness term, in the first epoch and at the end.
    prior : target shares.
    forward : whether it is that of eq. (10), not (11).
    average : matrix (n_samples, n_samples) that averages over neighbors, or None.
    solver : "em" or "interior-point".
    em_iter : EM iterations.
    """

    first_lam: float
    lam: float
    prior: NDArray
    forward: bool
    average: csr_array | None
    solver: str
    em_iter: int

    def at(self, progress: float) -> "Recipe":
        """Return the recipe for a part of the training, from 0 to 1."""
        decay = (self.lam / self.first_lam) ** progress
        return self._replace(lam=self.first_lam * decay)

    def solve(self, proba: NDArray) -> NDArray:
        """Solve for the pseudo-labels of some rows, starting from their predictions."""
        if self.forward or self.solver == "em":
            return solve_batch(
                proba, self.lam, self.prior, forward=self.forward, n_iter=self.em_iter
            )
        problem = pose(positive_rows(proba), self.lam, self.prior)
        return interior_point(problem, _LABEL_STEPS, _LABEL_TOL)[0]


@dataclass
class Training:
    """Where a training stands; :func:`train` goes on from there.

    proba : latest prediction of each sample, (n_samples, n_clusters).
    loss_curve : loss of eq. (11) or (10) in every epoch, as its batches were visited.
    share_curve : share of the samples in each cluster, (n_clusters,), in every epoch.
    n_calm : epochs in a row, up to now, in which hardly a sample changed cluster.
    model_state : what the model returned after the last epoch, if it has a
        ``get_state``.
    stopped, interrupted : whether it was ended by a callback, or by KeyboardInterrupt.
    failure : why no further step is possible, or "".
    """

    proba: NDArray
    loss_curve: list[float] = field(default_factory=list)
    share_curve: list[NDArray] = field(default_factory=list)
    n_calm: int = 0
    model_state: Any = None
    stopped: bool = False
    interrupted: bool = False
    failure: str = ""

    @property
    def n_iter(self) -> int:
        return len(self.loss_curve)

    @property
    def converged(self) -> bool:
        return self.n_calm > 0 and not (self.interrupted or self.failure)


def begin(logits: NDArray) -> Training:
    """Return the training, before its first epoch, of a model with these logits."""
    return Training(softmax(logits, axis=1))


def train(
    model: SoftmaxModel,
    X: NDArray,
    recipe: Recipe,
    training: Training,
    *,
    batch_size: int,
    max_iter: int,
    tol: float,
    random_state: np.random.RandomState,
    verbose: int = 0,
    title: str = "",
    begin_epoch: Callable[[], None] = lambda: None,
    end_epoch: Callable[[Training], bool] = lambda training: False,
) -> None:
    """Train `model` in place, until `training` has at most `max_iter` epochs.

    The weight of the fairness term goes geometrically from its first value to its last.
    For every batch: predictions, pseudo-labels, a step on mean collision
    cross-entropy. With neighbors, the pseudo-labels come from the averages of the
    predictions as they stood when the epoch began. A true result of `end_epoch` ends
    the training.
    """
    n_samples = len(training.proba)
    with progress_bar(
        verbose,
        total=n_samples * max_iter,
        initial=n_samples * training.n_iter,
        unit=" samples",
        unit_scale=True,
    ) as bar:
        try:
            while training.n_iter < max_iter and training.n_calm < _PATIENCE:
                begin_epoch()
                now = recipe.at(training.n_iter / max(1, max_iter - 1))
                number = training.n_iter + 1
                bar.set_description(f"{title}epoch {number}", refresh=False)
                assigned = training.proba.argmax(axis=1)
                loss = _train_epoch(
                    model, X, now, training, batch_size, max_iter, random_state, bar
                )
                changed = np.mean(assigned != training.proba.argmax(axis=1))
                assigned = training.proba.argmax(axis=1)
                shares = np.bincount(assigned, minlength=len(recipe.prior)) / n_samples
                if hasattr(model, "get_state"):
                    # The last step has not been seen to be good.
                    _check_finite("logits", model.decision_function(X[:_N_LOOKED_AT]))
                    training.model_state = model.get_state()
                training.loss_curve.append(loss)
                training.share_curve.append(shares)
                training.n_calm = training.n_calm + 1 if changed <= tol else 0
                show_epoch(bar, verbose, training.n_iter, loss, changed, shares)
                training.stopped = end_epoch(training)
                if training.stopped:
                    break
        except KeyboardInterrupt:
            training.interrupted = True
        except FloatingPointError as error:
            training.failure = advice(error, training.n_iter + 1)
            if training.model_state is not None:
                model.set_state(training.model_state)


def _train_epoch(
    model: SoftmaxModel,
    X: NDArray,
    recipe: Recipe,
    training: Training,
    batch_size: int,
    max_iter: int,
    random_state: np.random.RandomState,
    bar: Any,
) -> float:
    """Visit every sample once, and return the loss of eq. (11) or (10)."""
    proba = training.proba
    n_samples = len(proba)
    n_batches = -(-n_samples // batch_size)
    source = None if recipe.average is None else smooth(recipe.average, proba)
    label_sum = np.zeros(len(recipe.prior))

    def objective(rows, logits):
        # Of the samples, and maybe of views of them, which get the same labels.
        log_total, predicted = log_normalize(logits)
        _check_finite("logits", log_total)
        own = predicted if predicted.ndim == 2 else predicted[0]
        proba[rows] = own
        labels = recipe.solve(own if source is None else source[rows])
        label_sum[:] += labels.sum(axis=0)
        return collision_loss_and_gradient(logits, labels, (log_total, predicted))

    loss = 0.0
    batches = np.array_split(random_state.permutation(n_samples), n_batches)
    # A step that is too large overflows; the check of the logits tells.
    with np.errstate(over="ignore", invalid="ignore"):
        for i, rows in enumerate(batches):
            progress = (training.n_iter + i / n_batches) / max_iter
            batch_loss = model.train_step(
                X[rows], partial(objective, rows), progress=progress
            )
            loss += batch_loss * len(rows) / n_samples
            bar.update(len(rows))
    loss += recipe.lam * fairness(label_sum / n_samples, recipe.prior, recipe.forward)
    _check_finite("loss", loss)
    return loss


def _check_finite(what: str, values: Any) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(f"The {what} became infinite or NaN")


def advice(error: FloatingPointError, epoch: int) -> str:
    """Return what to tell a user whose model is no longer finite."""
    return (
        f"{error} in epoch {epoch}. If the model is finite at the start, try a smaller "
        "learning rate."
    )


def evaluate(model: SoftmaxModel, X: NDArray, recipe: Recipe) -> tuple[NDArray, float]:
    """Return the logits of all rows, and their loss of eq. (11) or (10).

    Raises FloatingPointError if they are not finite: no step follows that would tell.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        logits = model.decision_function(X)
    _check_finite("logits", logits)
    proba = softmax(logits, axis=1)
    source = proba if recipe.average is None else smooth(recipe.average, proba)
    labels = recipe.solve(source)
    loss = pseudo_label_loss(proba, labels, recipe.lam, recipe.prior, recipe.forward)
    _check_finite("loss", loss)
    return logits, loss
