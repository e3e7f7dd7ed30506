"""What the parameters of an estimator mean for given data."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import check_array

from skcce._data import TrainingData
from skcce._model import SoftmaxModel
from skcce._objective import Objective
from skcce._pseudo_labels import check_prior
from skcce._training import Plan, epochs


class Settings(NamedTuple):
    """Parameters of a fit, without any "auto".

    prior : target shares, or None if they are equal.
    in_pairs : whether a batch brings a neighbor of each sample.
    init : "k-means", "random", or labels (n_samples,).
    """

    n_clusters: int
    prior: NDArray | None
    n_neighbors: int
    in_pairs: bool
    init: str | NDArray
    n_init: int
    plan: Plan

    @property
    def uses_kmeans(self) -> bool:
        return isinstance(self.init, str) and self.init == "k-means"

    @property
    def n_wanted(self) -> int:
        """Number of clusters of positive prior."""
        return self.n_clusters if self.prior is None else np.count_nonzero(self.prior)


def auto_value(estimator: BaseEstimator, name: str, model: SoftmaxModel) -> Any:
    """Return a parameter, or what "auto" stands for."""
    value = getattr(estimator, name)
    is_auto = isinstance(value, str) and value == "auto"
    return estimator.auto[name][model.learns_features] if is_auto else value


def resolve(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    objective: Objective,
    data: TrainingData,
) -> Settings:
    """Resolve "auto", and check the parameters against the data."""
    n_samples, n_clusters = data.n_samples, estimator.n_clusters
    n_neighbors, init, n_init, batch_size = (
        auto_value(estimator, name, model)
        for name in ("n_neighbors", "init", "n_init", "batch_size")
    )
    in_pairs = objective.needs_views and not model.makes_views
    if not isinstance(init, str):
        init, n_init = labels_of_init(init, data, n_clusters), 1
    if estimator.n_neighbors == "auto":
        most = n_samples // (4 * n_clusters)
        n_neighbors = min(n_neighbors, most)
    elif n_neighbors >= n_samples:
        raise ValueError(
            f"n_neighbors={n_neighbors} must be smaller than n_samples={n_samples}."
        )
    if in_pairs and (n_neighbors == 0 or data.X.ndim != 2):
        neighbors = f"n_neighbors > 0 (it is {n_neighbors}), or "
        raise ValueError(
            f"objective={objective!r} compares views of a sample: it needs "
            f"{neighbors if data.X.ndim == 2 else ''}a model that makes views, such as "
            "DeepSoftmax(augment=...)."
        )
    if isinstance(batch_size, str):
        batch_size = max(min(max(n_samples // 40, 32), 1000), n_clusters)
    prior = objective.prior
    settings = Settings(
        n_clusters,
        None if prior is None else check_prior(prior, n_clusters),
        n_neighbors,
        in_pairs,
        init,
        n_init,
        epochs(batch_size, estimator.max_iter, estimator.tol),
    )
    if objective.uses_neighbors or in_pairs or settings.uses_kmeans:
        return settings
    return settings._replace(n_neighbors=0)  # nobody asks for them


def labels_of_init(init: ArrayLike, data: TrainingData, n_clusters: int) -> NDArray:
    """Return labels of the training data for an `init` of centroids or labels."""
    init = check_array(init, ensure_2d=False, input_name="init")
    if init.ndim == 2 and init.shape == (n_clusters, *data.X.shape[1:]):
        return _nearest(data.X, init)
    n_samples = data.given.shape[0]
    if init.shape != (n_samples,):
        raise ValueError(
            f"init must hold centroids, shape (n_clusters={n_clusters}, "
            f"n_features), or labels, shape (n_samples={n_samples},), got shape "
            f"{init.shape}."
        )
    labels = init.astype(np.intp)
    if (labels != init).any() or labels.min() < 0 or labels.max() >= n_clusters:
        raise ValueError(
            f"Labels in init must be integers from 0 to {n_clusters - 1}, got "
            f"values from {init.min()} to {init.max()}."
        )
    return labels if data.kept is None else labels[data.kept]


def _nearest(X: NDArray, centroids: NDArray) -> NDArray:
    """Return the index of the nearest of the centroids for every row."""
    centroids = centroids.astype(X.dtype, copy=False)
    largest = max(np.abs(X).max(), np.abs(centroids).max())
    limits = np.finfo(X.dtype)
    if largest > 0 and not limits.tiny**0.25 < largest < limits.max**0.25:
        X, centroids = X / largest, centroids / largest  # squares would overflow
    return pairwise_distances_argmin(X, centroids)
