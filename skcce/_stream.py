"""A stream of batches: what is kept of it, and what is learned from it.

The clusters are those of a fit to a random sample of the stream, which is repeated
whenever the stream has become half as long again: all these fits together take three
times as long as the last one. In between, a model that can do so takes a small step for
each batch.
"""

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.base import BaseEstimator

from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._objective import Epoch, Objective
from skcce._passes import learns_from_sums, summed
from skcce._pseudo_labels import RunningUsage, updated

_GROWTH = 1.5
# Steps are as small as the last ones of a fit: half a cosine, nearly at its end.
_PROGRESS = 0.9
_MEMORY = 10_000  # samples whose labels tell how large the clusters are


@dataclass
class Stream:
    """A random sample of the rows that came by, none of them twice.

    rows : (n_rows or more, n_features).
    random_state : decides which rows stay, and seeds the fits.
    n_seen, n_fitted : rows that came by, up to now, and up to the last fit.
    digests : those of the rows in the sample.
    usage : how much of the data each cluster has, where steps are taken.
    """

    rows: NDArray
    random_state: np.random.RandomState
    n_seen: int = 0
    n_fitted: int = 0
    digests: set[bytes] = field(default_factory=set)
    usage: RunningUsage | None = None

    @classmethod
    def like(cls, X: NDArray, random_state: np.random.RandomState) -> "Stream":
        """Return a stream of rows like these, of which nothing came by."""
        return cls(np.empty(X.shape, X.dtype), random_state)

    def is_due_with(self, n_more: int) -> bool:
        """Whether it is time for another fit after some more rows."""
        return self.n_seen + n_more >= _GROWTH * self.n_fitted

    @property
    def n_rows(self) -> int:
        return len(self.digests)

    @property
    def sample(self) -> NDArray:
        return self.rows[: self.n_rows]

    def add(self, X: NDArray, most: int | None) -> None:
        """Take rows into the sample, or not, so that each is in it as likely.

        A row that is in it already would only have itself for a neighbor.
        """
        for row in X:
            self.n_seen += 1
            if _digest(row) in self.digests:
                continue
            place = self.n_rows
            if most is not None and place >= most:
                place = self.random_state.randint(self.n_seen)
                if place >= most:
                    continue
                self.digests.remove(_digest(self.rows[place]))
            elif place == len(self.rows):
                self.rows = np.concatenate([self.rows, np.empty_like(self.rows)])
            self.rows[place] = row
            self.digests.add(_digest(row))


def _digest(row: NDArray) -> bytes:
    return blake2b(row.tobytes(), digest_size=8).digest()


def new_numbers(old: NDArray, new: NDArray, n_old: int, n_new: int) -> NDArray:
    """Return the numbers of new clusters that make them agree most with old ones.

    old, new : clusters of the same rows, (n,); n_old, n_new : how many there are. What
    agrees with no old cluster takes the numbers that are left. Shape (n_new,).
    """
    together = np.zeros((n_new, max(n_old, n_new)))
    np.add.at(together, (new, old), 1)
    return linear_sum_assignment(together[:, :n_new], maximize=True)[1]


def renumbered(model: SoftmaxModel, numbers: NDArray) -> SoftmaxModel:
    """Return a linear model whose cluster k is `numbers[k]`."""
    if model.groups_ is not None:
        return model.joined(numbers[model.groups_])
    return model.units(np.argsort(numbers))


def check_stream(estimator: BaseEstimator) -> None:
    """Raise an error if an estimator with these parameters takes no streams."""
    if getattr(estimator, "checkpoint", None) is not None:
        raise ValueError(
            f"checkpoint={estimator.checkpoint!r} is for fit: partial_fit writes none. "
            "Leave it out, and pickle the estimator between two batches."
        )
    for name in ("must_link", "cannot_link", "init", "neighbors"):
        value = getattr(estimator, name, None)
        if name.endswith("link"):
            is_wrong = value is not None
        else:
            is_wrong = not (isinstance(value, str) or hasattr(value, "fit_transform"))
        if is_wrong:
            raise ValueError(
                f"{name} belongs to the rows of one fit, and is of no use in "
                "partial_fit. Leave it out."
            )


def can_step(model: SoftmaxModel, objective: Objective) -> bool:
    """Whether a model can learn from a batch alone."""
    return learns_from_sums(model, objective) and model.groups_ is None


def begin_steps(objective: Objective, logits: NDArray) -> RunningUsage:
    """Return how much of the data each cluster has, by the logits of a sample."""
    proba = softmax(logits, axis=1)
    objective.begin_epoch(Epoch(proba, progress=1.0))
    return objective.usages(proba, _MEMORY)


def step(
    model: LinearSoftmax, objective: Objective, usage: RunningUsage, X: NDArray
) -> RunningUsage:
    """Train a model with a batch, in place, and return the usages with it."""
    objective.begin_epoch(Epoch(np.empty((0, usage.mean.shape[1])), progress=1.0))
    _, _, *gradient, label_sums, size = summed(model, objective, usage, X)
    model.update([part / size for part in gradient], _PROGRESS)
    return updated(usage, label_sums, size)
