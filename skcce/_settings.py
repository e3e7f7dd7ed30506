"""What the parameters of an estimator mean for given data."""

from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import check_array

from skcce._blocks import is_dask
from skcce._centers import find_centers
from skcce._data import TrainingData
from skcce._model import SoftmaxModel
from skcce._objective import Objective
from skcce._passes import goes_in_passes
from skcce._pseudo_labels import check_prior
from skcce._spectral import SpectralFeatures
from skcce._training import Plan, epochs

# A tree has this many fine clusters, or twice as many as may be found, but at most one
# for this many samples.
_N_FINE, _FINE_PER_CLUSTER, SAMPLES_PER_FINE = 100, 2, 12
# "auto" numbers where that of clusters is unknown are those for this many.
_USUAL_N_CLUSTERS = 8
# Neighbors among, or for, more rows are found approximately.
_EXACT_ROWS = 100_000
# With fewer samples, nothing can be said against neighbors.
_SAMPLES_TO_DOUBT = 500
# Starts are told apart by neighbors; without them, each is trained.
_N_INIT_WITHOUT_NEIGHBORS = 6


class Settings(NamedTuple):
    """Parameters of a fit; "auto" stands only for what the tree of clusters tells.

    n_clusters : "auto" if it is to be found, between `bounds`.
    prior : target shares, or None if they are equal.
    shares : whether the shares are "given", those of the tree ("learn"), those of the
        known labels ("labels"), or those that their spread tells ("spread").
    n_fine : number of fine clusters of the tree; 0 without one.
    neighbors : how they are found: "exact", "approximate", a graph, or a transformer.
    doubts_neighbors : whether they may be left out, if they tell nothing of clusters.
    features : what turns rows into features; None if they are taken as they are.
        They are fitted already in a run that goes on.
    view_source : where second views come from, if the model makes none.
    init : "k-means", "random", or labels (n_samples,).
    """

    n_clusters: int | Literal["auto"]
    bounds: tuple[int, int]
    prior: NDArray | None
    shares: Literal["given", "learn", "auto", "labels", "spread"]
    n_fine: int
    n_neighbors: int
    neighbors: Any
    doubts_neighbors: bool
    features: SpectralFeatures | None
    view_source: Literal["neighbors", "adversarial"] | None
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
    n_clusters, bounds = _sought_number(estimator, objective, data)
    objective.check(_USUAL_N_CLUSTERS if n_clusters == "auto" else n_clusters)
    init = _resolved_init(estimator, model, data, n_clusters)
    from_kmeans = isinstance(init, str) and init == "k-means"
    view_source = None if model.makes_views else objective.view_source
    n_neighbors = _resolved_n_neighbors(estimator, model, data, n_clusters, view_source)
    if view_source is not None:
        _check_views(estimator, model, objective, data, n_neighbors)
    elif not (objective.uses_neighbors or from_kmeans):
        n_neighbors = 0  # nobody asks for them
    neighbors = estimator.neighbors
    if isinstance(neighbors, str) and neighbors == "auto":
        is_small = data.given.shape[0] <= _EXACT_ROWS
        neighbors = "exact" if is_small else "approximate"
    features = _resolved_features(estimator, model, data, n_neighbors, neighbors)
    if data.target is not None:
        shares, n_fine = _label_shares(estimator, data), 0
    else:
        shares, n_fine = _tree_settings(
            estimator, model, bounds, init, n_neighbors, data.n_samples
        )
    doubts_neighbors = (
        from_kmeans
        and estimator.n_neighbors == "auto"
        and data.n_samples >= _SAMPLES_TO_DOUBT
        and bounds[0] == bounds[1] > 1
        and shares != "learn"
        and view_source is None
        and estimator.contamination is None
    )
    least = n_fine if n_clusters == "auto" else n_clusters
    batch_size = batch_size_for(estimator, model, data.n_samples, least)
    prior = objective.prior
    return Settings(
        n_clusters,
        bounds,
        None if prior is None else check_prior(prior, n_clusters),
        shares,
        n_fine,
        n_neighbors,
        neighbors,
        doubts_neighbors,
        features,
        view_source,
        init,
        _resolved_n_init(estimator, model, data, n_neighbors),
        epochs(batch_size, estimator.max_iter, estimator.tol),
    )


def _sought_number(
    estimator: BaseEstimator, objective: Objective, data: TrainingData
) -> tuple[int | Literal["auto"], tuple[int, int]]:
    """Return the number of clusters or "auto", and the bounds, that fit the data."""
    number = data.target.shape[1] if data.target is not None else estimator.n_clusters
    n_clusters, bounds = number_and_bounds(number, data.n_samples)
    if bounds[0] > data.n_samples:  # of those that were drawn
        raise ValueError(
            f"max_samples={estimator.max_samples} must not be smaller than n_clusters="
            f"{bounds[0]}."
        )
    if data.links is not None and data.links.apart.nnz:
        if bounds[1] < 2:
            raise ValueError(
                f"cannot_link needs at least 2 clusters, got n_clusters="
                f"{estimator.n_clusters!r}."
            )
        bounds = (max(2, bounds[0]), bounds[1])
    if n_clusters == "auto" and objective.prior is not None:
        raise ValueError(
            f"prior={objective.prior!r} holds one share per cluster, and "
            f"n_clusters={estimator.n_clusters!r} is not known yet. Leave out prior, "
            "or set n_clusters."
        )
    return n_clusters, bounds


def _resolved_init(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    data: TrainingData,
    n_clusters: int | Literal["auto"],
) -> str | NDArray:
    """Return "k-means", "random", or labels."""
    init = auto_value(estimator, "init", model)
    if isinstance(init, str):
        # "k-means++" is what code for KMeans has.
        return "k-means" if init == "k-means++" else init
    if n_clusters == "auto":  # an error, which `_tree_settings` raises
        return init
    return labels_of_init(init, data, n_clusters)


def _resolved_n_init(
    estimator: BaseEstimator, model: SoftmaxModel, data: TrainingData, n_neighbors: int
) -> int:
    """Return the number of starts."""
    if estimator.n_init == "auto" and data.is_labeled:
        return 1
    if estimator.n_init == "auto" and n_neighbors == 0 and not model.learns_features:
        return _N_INIT_WITHOUT_NEIGHBORS
    return auto_value(estimator, "n_init", model)


def _resolved_n_neighbors(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    data: TrainingData,
    n_clusters: int | Literal["auto"],
    view_source: str | None,
) -> int:
    """Return how many neighbors a sample has, if anybody asks for them."""
    n_samples = data.n_samples
    n_neighbors = auto_value(estimator, "n_neighbors", model)
    if estimator.n_neighbors != "auto":
        if n_neighbors >= n_samples:
            raise ValueError(
                f"n_neighbors={n_neighbors} must be smaller than n_samples={n_samples}."
            )
        return n_neighbors
    if data.is_labeled:
        # There is nothing to find; only features may need them.
        asks = estimator.features not in ("auto", None)
        return min(n_neighbors, n_samples - 1) if asks else 0
    if view_source is not None and data.X.ndim == 2:
        n_neighbors = estimator.auto["n_neighbors"][False]
    few = SAMPLES_PER_FINE if n_clusters == "auto" else 4 * n_clusters
    n_neighbors = min(n_neighbors, n_samples // few)
    if view_source is not None:
        n_neighbors = max(n_neighbors, min(1, n_samples - 1))
    return n_neighbors


def _check_views(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    objective: Objective,
    data: TrainingData,
    n_neighbors: int,
) -> None:
    """Raise an error if rows have no neighbors, or cannot be moved, to make views."""
    if n_neighbors == 0 or data.X.ndim != 2:
        is_generic = "objective" in estimator.get_params(deep=False)
        who = f"objective={objective!r}" if is_generic else type(estimator).__name__
        why, way_out = "neighbors need rows, and X has images.", "Use"
        if data.X.ndim == 2:
            why = f"n_neighbors={n_neighbors} leaves none (n_samples={data.n_samples})."
            way_out = "Use n_neighbors > 0, or"
            if data.n_samples == 1:
                way_out = "Use more samples, or"
        raise ValueError(
            f"{who} compares views of a sample: {why} {way_out} a model that makes "
            "views, such as DeepSoftmax(augment=...)."
        )
    takes_rows = auto_value(estimator, "features", model) is None
    is_moved = objective.view_source == "adversarial"
    if is_moved and takes_rows and issparse(data.X):
        raise ValueError(
            f"objective={objective!r} moves rows a little in every feature, and sparse "
            "ones would become dense: features=None takes them as they are. Leave it "
            "at 'spectral', or reduce X first, by TruncatedSVD(128)."
        )


def _resolved_features(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    data: TrainingData,
    n_neighbors: int,
    neighbors: Any,
) -> SpectralFeatures | None:
    """Return what turns rows into features, if there are neighbors."""
    features = auto_value(estimator, "features", model)
    if estimator.features not in ("auto", None) and n_neighbors == 0:
        raise ValueError(
            f"features={estimator.features!r} needs neighbors: n_neighbors="
            f"{estimator.n_neighbors!r} is 0 for a {type(model).__name__} and "
            f"{data.n_samples} samples."
        )
    if features is None or n_neighbors == 0:
        if estimator.contamination is not None:
            raise ValueError(
                f"contamination={estimator.contamination} needs n_neighbors > 0 and "
                "features='spectral'."
            )
        return None
    features = SpectralFeatures() if isinstance(features, str) else clone(features)
    features.set_params(n_neighbors=n_neighbors, neighbors=neighbors)
    features._validate_params()
    return features


def draw_sample(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    random_state: np.random.RandomState,
) -> TrainingData:
    """Return the samples that a fit looks at: a part of them, if there are too many."""
    most = estimator.max_samples
    needs_all = (
        most is None
        or data.n_samples <= most
        or data.is_labeled
        or issparse(estimator.neighbors)
        or not (
            is_dask(data.X)
            or auto_value(estimator, "n_neighbors", model) > 0
            or goes_in_passes(model, objective, data)
        )
    )
    if needs_all and not is_dask(data.X):
        return data
    return data.sample(data.n_samples if needs_all else most, random_state)


def number_and_bounds(
    n_clusters: int | str | tuple[int, int], n_samples: int
) -> tuple[int | Literal["auto"], tuple[int, int]]:
    """Return `n_clusters`, or "auto", and the bounds between which it is sought."""
    if isinstance(n_clusters, Integral):
        return int(n_clusters), (int(n_clusters), int(n_clusters))
    if isinstance(n_clusters, str):
        return "auto", (1, n_samples)
    low_high = tuple(n_clusters)
    if (
        len(low_high) != 2
        or not all(isinstance(bound, Integral) for bound in low_high)
        or not 1 <= low_high[0] <= low_high[1]
    ):
        raise ValueError(
            f"n_clusters={n_clusters!r} must be a number, 'auto', or a pair of the "
            "least and the largest number."
        )
    return "auto", low_high


def n_fine_clusters(n_samples: int, most: int) -> int:
    """Return how many fine clusters there are, if at most `most` are sought."""
    return min(n_samples // SAMPLES_PER_FINE, max(_N_FINE, _FINE_PER_CLUSTER * most))


def batch_size_for(
    estimator: BaseEstimator, model: SoftmaxModel, n_samples: int, n_clusters: int
) -> int:
    """Return the number of samples per step."""
    batch_size = auto_value(estimator, "batch_size", model)
    if model.needs_all_samples:
        if estimator.batch_size != "auto" and batch_size < n_samples:
            raise ValueError(
                f"batch_size={batch_size} must not be smaller than n_samples="
                f"{n_samples}: {model!r} takes all samples at once. Leave it at 'auto'."
            )
        return n_samples
    if isinstance(batch_size, str):
        return max(min(max(n_samples // 40, 32), 1000), n_clusters)
    return batch_size


def _label_shares(
    estimator: BaseEstimator, data: TrainingData
) -> Literal["given", "labels", "spread"]:
    """Return where the shares of classes come from."""
    if not isinstance(estimator.prior, str):
        return "given"
    asks_others = estimator.prior == "learn" and not data.is_labeled
    return "spread" if asks_others else "labels"


def _tree_settings(
    estimator: BaseEstimator,
    model: SoftmaxModel,
    bounds: tuple[int, int],
    init: str | NDArray,
    n_neighbors: int,
    n_samples: int,
) -> tuple[Literal["given", "learn", "auto"], int]:
    """Return where the shares come from, and the number of fine clusters."""
    number, shares = estimator.n_clusters, getattr(estimator, "prior", "auto")
    is_known = isinstance(number, Integral)
    shares = shares if isinstance(shares, str) else "given"
    if is_known and not hasattr(estimator, "prior"):
        shares = "given"
    n_fine = n_fine_clusters(n_samples, bounds[1] if bounds[1] < n_samples else 0)
    least = _FINE_PER_CLUSTER * bounds[0]
    init = init if isinstance(init, str) else "an array"
    can_grow = hasattr(model, "joined") and init == "k-means" and n_neighbors > 0
    if can_grow and n_fine >= least and (shares != "given" or not is_known):
        return shares, n_fine
    if is_known and shares != "learn":
        return "given", 0
    wish = "prior='learn'" if is_known else f"n_clusters={number!r}"
    raise ValueError(
        f"{wish} needs a tree of clusters: a linear model, init='k-means', "
        f"n_neighbors > 0, and at least {SAMPLES_PER_FINE * least} samples. Got "
        f"a {type(model).__name__}, init={init!r}, n_neighbors={n_neighbors}, and "
        f"{n_samples} samples."
    )


def labels_of_init(init: ArrayLike, data: TrainingData, n_clusters: int) -> NDArray:
    """Return labels of the training data for an `init` of centroids or labels.

    A row of label -1 gets that of the nearest mean row of a label.
    """
    init = check_array(init, ensure_2d=False, input_name="init")
    if init.ndim == 2 and init.shape == (n_clusters, *data.X.shape[1:]):
        return nearest(data.X, init)
    n_samples = data.given.shape[0]
    if init.shape != (n_samples,):
        raise ValueError(
            f"init must hold centroids, shape (n_clusters={n_clusters}, "
            f"n_features), or labels, shape (n_samples={n_samples},), got shape "
            f"{init.shape}."
        )
    labels = init.astype(np.intp)
    if (labels != init).any() or labels.min() < -1 or labels.max() >= n_clusters:
        raise ValueError(
            f"Labels in init must be integers from 0 to {n_clusters - 1}, as "
            f"n_clusters={n_clusters}, or -1 for rows without a start, got values "
            f"from {init.min()} to {init.max()}."
        )
    n_labels = np.count_nonzero(np.bincount(labels + 1, minlength=n_clusters + 1)[1:])
    if n_labels < n_clusters:
        raise ValueError(
            f"init has labels of {n_labels} clusters, and n_clusters={n_clusters}. "
            "Start each cluster with a row at least, or give as many clusters as there "
            "are labels."
        )
    labels = labels if data.kept is None else labels[data.kept]
    return labels if labels.min() >= 0 else _with_nearest(labels, data)


def _with_nearest(labels: NDArray, data: TrainingData) -> NDArray:
    """Return the labels with one for each row of -1, that of the nearest mean row."""
    if data.X.ndim != 2:
        raise ValueError(
            "Labels of -1 in init need rows of features, whose distances tell where "
            f"they start, X has {data.X.ndim} dimensions. Give every image a label."
        )
    named, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    if len(named) == 1:  # of the rows that were drawn
        raise ValueError(
            "All labels in init are -1, in the sample of max_samples rows: there is "
            "nothing to start from."
        )
    means = find_centers(data.X, numbers - 1, first[1:], data.weight).mean
    found = named[1:][nearest(data.X, means)]
    return np.where(labels < 0, found, labels)


def nearest(X: NDArray, centroids: NDArray) -> NDArray:
    """Return the index of the nearest of the centroids for every row."""
    centroids = centroids.astype(X.dtype, copy=False)
    largest = max(np.abs(X).max(), np.abs(centroids).max())
    limits = np.finfo(X.dtype)
    if largest > 0 and not limits.tiny**0.25 < largest < limits.max**0.25:
        X, centroids = X / largest, centroids / largest  # squares would overflow
    return pairwise_distances_argmin(X, centroids)
