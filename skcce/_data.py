"""The training data: samples, and what is known about them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from skcce._objective import Batch


@dataclass(frozen=True)
class TrainingData:
    """What a fit works with.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features), or what a model's validate_input gave
        The samples.
    weight : ndarray of shape (n_samples,) or None
        Their weights, of mean 1.
    target : ndarray of shape (n_samples, n_clusters) or None
        Their labels, where they are given; rows of NaN where they are not.
    graph : csr_array of shape (n_samples, n_samples) or None
        One step of the random walk to neighbors.
    in_pairs : bool
        Whether a batch brings a neighbor of each sample.
    """

    X: Any
    weight: NDArray | None = None
    target: NDArray | None = None
    graph: csr_array | None = None
    in_pairs: bool = False

    @property
    def n_samples(self) -> int:
        return self.X.shape[0]

    def batch(self, rows: NDArray) -> Batch:
        """Return what is known about some samples."""
        return Batch(
            rows,
            None if self.weight is None else self.weight[rows],
            None if self.target is None else self.target[rows],
        )

    def mean(self, values: NDArray) -> NDArray:
        """Return the weighted mean of `values` (n_samples, ...) over the samples."""
        return np.average(values, axis=0, weights=self.weight)

    def count(self, labels: NDArray, n_clusters: int) -> NDArray:
        """Return the weight of every cluster, shape (n_clusters,)."""
        return np.bincount(labels, weights=self.weight, minlength=n_clusters)
