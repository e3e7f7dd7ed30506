"""The training data: samples, and what is known about them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils.random import sample_without_replacement

from skcce._blocks import is_dask, take
from skcce._constraints import Links
from skcce._objective import Batch, Epoch, given_rows


@dataclass(frozen=True)
class TrainingData:
    """What a fit works with.

    Attributes
    ----------
    X : ndarray or csr_array of shape (n_samples, n_features), or what a model's \
validate_input gave
        The samples.
    weight : ndarray of shape (n_samples,) or None
        Their weights, of mean 1.
    target : ndarray of shape (n_samples, n_clusters) or None
        Their labels, where they are given; rows of NaN where they are not.
    links : Links or None
        Which of them must, or cannot, be in one cluster.
    graph : csr_array of shape (n_samples, n_samples) or None
        One step of the random walk to neighbors.
    view_source : {"neighbors", "adversarial"} or None
        Where the second view of a sample comes from; None if there is none, or if the
        model makes it.
    reach : ndarray of shape (n_samples,) or None
        Mean distance of each sample to its neighbors, if views are adversarial.
    spread : ndarray of shape (n_samples, n_clusters) or None
        What the given labels say about the others on the graph, rows sum to 1.
    kept : ndarray of shape (n_samples,) or None
        Numbers of the samples in `given`; None if `X` has them all.
    given : any
        What was given to the fit: samples of weight 0, and those that were not drawn,
        included.
    given_weight : ndarray of shape (n_given,) or None
        The weights of `given`, in the user's unit.
    """

    X: Any
    weight: NDArray | None = None
    target: NDArray | None = None
    links: Links | None = None
    graph: csr_array | None = None
    view_source: Literal["neighbors", "adversarial"] | None = None
    reach: NDArray | None = None
    spread: NDArray | None = None
    kept: NDArray | None = None
    given: Any = None
    given_weight: NDArray | None = None

    @classmethod
    def of(cls, X: Any, weight: NDArray | None) -> "TrainingData":
        """Return the samples of positive weight: the others count in nothing."""
        if weight is None or np.ptp(weight) == 0:
            return cls(X, given=X)
        if weight.all() or is_dask(X):  # a sample leaves them out
            return cls(X, weight, given=X)
        kept = np.flatnonzero(weight)
        is_table = isinstance(X, np.ndarray) or issparse(X)
        part = X[kept] if is_table else _Part(X, kept)
        rest = cls.of(part, weight[kept] / weight[kept].mean())
        return replace(rest, kept=kept, given=X)

    def sample(self, size: int, random_state: np.random.RandomState) -> "TrainingData":
        """Return a random sample of this size, or a larger one.

        What has a label or a link belongs to it, and half as many others at least.
        """
        is_needed = np.zeros(self.n_samples, dtype=bool)
        if self.target is not None:
            is_needed |= given_rows(self.target)
        if self.links is not None:
            is_needed[self.links.rows] = True
        may_be = ~is_needed if self.weight is None else ~is_needed & (self.weight > 0)
        others = np.flatnonzero(may_be)
        # Or nothing would be learned from rows without a label, were there many labels.
        n_others = max(size // 2, size - np.count_nonzero(is_needed))
        n_others = min(len(others), n_others)
        if n_others < len(others):
            some = sample_without_replacement(
                len(others), n_others, random_state=random_state
            )
            others = others[some]
        is_needed[others] = True
        rows = np.flatnonzero(is_needed)
        weight, target, links = self.weight, self.target, self.links
        return replace(
            self,
            X=take(self.X, rows),
            weight=None if weight is None else weight[rows] / weight[rows].mean(),
            target=None if target is None else target[rows],
            links=links and links._replace(rows=np.searchsorted(rows, links.rows)),
            kept=rows if self.kept is None else self.kept[rows],
        )

    @property
    def n_samples(self) -> int:
        return self.X.shape[0]

    @property
    def is_labeled(self) -> bool:
        """Whether the labels of all samples are given."""
        return self.target is not None and bool(given_rows(self.target).all())

    def with_labels(self, target: NDArray) -> "TrainingData":
        """Return the same samples with labels, those of weight 0 included."""
        if self.kept is not None:
            target = target[self.kept]
        if not given_rows(target).any():
            raise ValueError("y has no label for a sample of positive sample_weight.")
        return replace(self, target=target.astype(self.dtype, copy=False))

    @property
    def dtype(self) -> np.dtype:
        """That of the predictions for the samples."""
        is_float = getattr(self.X, "dtype", None) == np.float64
        return np.dtype(np.float64 if is_float else np.float32)

    def batch(self, rows: NDArray) -> Batch:
        """Return what is known about some samples."""
        return Batch(
            rows,
            None if self.weight is None else self.weight[rows],
            None if self.target is None else self.target[rows],
        )

    def epoch(self, proba: NDArray, progress: float) -> Epoch:
        """Return what is known as an epoch begins."""
        return Epoch(proba, self.graph, progress, self.weight, self.target, self.links)

    def mean(self, values: NDArray) -> NDArray:
        """Return the weighted mean of `values` (n_samples, ...) over the samples."""
        return np.average(values, axis=0, weights=self.weight)

    def count(self, labels: NDArray, n_clusters: int) -> NDArray:
        """Return the weight of every cluster, shape (n_clusters,)."""
        return np.bincount(labels, weights=self.weight, minlength=n_clusters)


class _Part:
    """Some samples of something that is read batch by batch."""

    def __init__(self, X: Any, rows: NDArray):
        self._X, self._rows = X, rows
        self.shape, self.ndim = (len(rows), *X.shape[1:]), X.ndim
        self.nbytes = getattr(X, "nbytes", np.inf)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: NDArray | slice) -> Any:
        return self._X[self._rows[rows]]
