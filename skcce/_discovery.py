"""New clusters: which of the new rows lie apart from all old ones."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils import check_random_state

from skcce._data import TrainingData
from skcce._estimator import SoftmaxEstimator
from skcce._linear import LinearSoftmax
from skcce._messages import raise_if_failed
from skcce._model import SoftmaxModel
from skcce._neighbors import Neighbors, smooth
from skcce._objective import Objective
from skcce._outliers import find_outliers
from skcce._settings import SAMPLES_PER_FINE, batch_size_for, n_fine_clusters
from skcce._spectral import SpectralFeatures
from skcce._starts import asking_for, kmeans_labels
from skcce._training import begin, epochs, train
from skcce._tree import collisions, join, link, noise

# New rows amid an old cluster have as many old rows among their neighbors as the old
# rows of that cluster have. Less than this part of it, and they lie apart.
_APART = 0.5
# So many standard deviations of the old rows that are expected must be missing: where
# there are few of them, they leave gaps by chance.
_SURE = 3.0


def find_new_clusters(
    neighbors: Neighbors,
    features: NDArray,
    labels: NDArray,
    n_clusters: int,
    max_new: int,
    random_state: np.random.RandomState,
) -> NDArray:
    """Return the new cluster of each new row, from 0 on; -1 if it is in none.

    Small groups of new rows that lie apart from the old ones are joined where there is
    no valley between them, as in the tree of clusters. What is joined must be large
    enough, and still lie apart.

    Parameters
    ----------
    neighbors : Neighbors
        Those of the old rows and, behind them, the new ones.
    features : ndarray of shape (n_samples, n_features)
        Features of all these rows.
    labels : ndarray of shape (n_old,)
        Cluster of each old row.
    n_clusters : int
        Number of old clusters.
    max_new : int
        Number of new clusters, at most.
    random_state : RandomState
        Draws the start of k-means.

    Returns
    -------
    ndarray of shape (n_new,)
        Numbers of new clusters, or -1.
    """
    n_old = len(labels)
    found = np.full(len(features) - n_old, -1)
    n_groups = n_fine_clusters(len(found), n_clusters + max_new)
    if n_groups == 0:
        return found
    rows = smooth(neighbors.walk, features)[n_old:]
    groups = kmeans_labels(rows, TrainingData(rows), n_groups, random_state)
    groups = np.unique(groups, return_inverse=True)[1]
    parts = np.unique(np.append(labels, n_clusters + groups), return_inverse=True)[1]
    together = collisions(neighbors.walk, parts, None)
    distances = neighbors.distances[n_old:]
    observed, usual = old_neighbors(neighbors.nearest, labels)
    is_apart = apart(groups, observed, usual)[0] < _APART
    if not is_apart.any():
        return found
    clusters = _joined(is_apart, groups, together, distances)
    foreign = np.flatnonzero(clusters >= 0)
    clusters = clusters[foreign]
    part, expected = apart(clusters, observed[foreign], usual[foreign])
    is_new = np.bincount(clusters) >= SAMPLES_PER_FINE
    is_new &= part < 1 - np.maximum(1 - _APART, _SURE / np.sqrt(expected))
    found[foreign] = np.where(is_new, np.cumsum(is_new) - 1, -1)[clusters]
    if is_new.sum() > max_new:
        is_kept = np.isin(np.arange(len(is_apart)), groups[found >= 0])
        found = _joined(is_kept, groups, together, distances, max_new)
    return found


def _joined(
    is_member: NDArray,
    groups: NDArray,
    together: NDArray,
    distances: NDArray,
    most: int | None = None,
) -> NDArray:
    """Return the natural clusters of some groups, or `most` if there are more.

    Parameters
    ----------
    is_member : ndarray of shape (n_groups,)
        Which groups are joined.
    groups : ndarray of shape (n_new,)
        Group of each new row.
    together : ndarray of shape (n_parts, n_parts)
        Collisions of the old clusters and, behind them, the groups: all of them tell
        what is noise.
    distances : ndarray of shape (n_new, n_neighbors)
        Those of the new rows to their neighbors.
    most : int, default=None
        Number of clusters, at most.

    Returns
    -------
    ndarray of shape (n_new,)
        Clusters from 0 on; -1 for the rows of other groups.
    """
    members = np.flatnonzero(is_member)
    numbers = len(together) - len(is_member) + members
    inside = together[np.ix_(numbers, numbers)]
    # Steps that leave these groups make none of them smaller than it is.
    staying = np.sqrt(inside.sum(axis=1) / together[numbers].sum(axis=1))
    inside = inside / np.outer(staying, staying)
    share = inside.sum()
    linkage, number = link(
        inside / share, distances[is_member[groups]], level=share * noise(together)
    )
    n_joins = len(members) - (number if most is None else min(number, most))
    cluster = np.full(len(is_member), -1)
    cluster[members] = join(linkage[:n_joins, :2].astype(int), len(members))
    return cluster[groups]


def old_neighbors(nearest: NDArray, labels: NDArray) -> tuple[NDArray, NDArray]:
    """Return the part of old rows among the neighbors of each new one, and the usual.

    Parameters
    ----------
    nearest : ndarray of shape (n_samples, n_neighbors)
        Numbers of the nearest neighbors of the old rows and, behind them, the new ones.
    labels : ndarray of shape (n_old,)
        Cluster of each old row.

    Returns
    -------
    observed : ndarray of shape (n_new,)
        Part of the neighbors that are old.
    usual : ndarray of shape (n_new,)
        What that part is, on average, for the old rows of the clusters that these
        neighbors belong to; where none is old, that of all rows.
    """
    n_old = len(labels)
    part = (nearest < n_old).mean(axis=1)
    of_cluster = np.bincount(labels, weights=part[:n_old]) / np.maximum(
        np.bincount(labels), 1
    )
    of_row = np.append(of_cluster[labels], np.zeros(len(nearest) - n_old))
    observed = part[n_old:]
    total = of_row[nearest[n_old:]].mean(axis=1)
    usual = np.full(len(observed), n_old / len(nearest))
    np.divide(total, observed, out=usual, where=observed > 0)
    return observed, usual


def apart(
    groups: NDArray, observed: NDArray, usual: NDArray
) -> tuple[NDArray, NDArray]:
    """Return how much of the usual company each group has, and how much that would be.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Group of each new row, from 0 on, none of them empty.
    observed, usual : ndarray of shape (n,)
        What `old_neighbors` has found for these rows.

    Returns
    -------
    part : ndarray of shape (n_groups,)
        Observed part of old neighbors over the usual one: near 1 amid old rows, and
        near 0 apart from them.
    expected : ndarray of shape (n_groups,)
        Number of old rows that usually live beside as many new ones.
    """
    size, seen = np.bincount(groups), np.bincount(groups, weights=observed)
    # The old neighbors that a group does have tell what is usual.
    weight = observed + np.finfo(float).tiny
    usual = np.bincount(groups, weights=weight * usual) / np.bincount(
        groups, weights=weight
    )
    odds = usual / np.maximum(1 - usual, np.finfo(float).eps)
    return seen / size / usual, size * odds


def check_extension(
    features: SpectralFeatures | None, model: SoftmaxModel, max_new: int
) -> None:
    """Raise ValueError if a fit cannot be extended, or not by so many clusters."""
    if not isinstance(max_new, Integral) or max_new < 1:
        raise ValueError(
            f"max_new={max_new!r} must be a positive integer: the number of new "
            "clusters, at most."
        )
    if features is None or not isinstance(model, LinearSoftmax):
        has = "no features" if features is None else "features='spectral'"
        raise ValueError(
            "extend needs a fit of a linear model with features='spectral', which "
            f"keeps the neighbors of its rows. This one has a {type(model).__name__} "
            f"and {has}. Use features='spectral', or fit old and new rows together."
        )


def extension(
    clusterer: SoftmaxEstimator, X: NDArray, max_new: int, objective: Objective
) -> tuple[tuple, dict[str, Any], NDArray]:
    """Fit a model to the rows of a fit and to new ones, with clusters beside the old.

    Old rows keep their clusters, and the rows that opened new ones theirs: these are
    given labels, and the others follow their neighbors.

    Parameters
    ----------
    clusterer : SoftmaxEstimator
        A fitted clusterer.
    X : ndarray of shape (n_new, n_features)
        New rows.
    max_new : int
        Number of new clusters, at most.
    objective : Objective
        What is minimized, with given labels.

    Returns
    -------
    trained : (model, data, objective, state)
        What was trained, and how.
    found : dict
        Attributes of the fitted estimator.
    scores : ndarray of shape (n_old + n_new,)
        Outlier scores.
    """
    model, features, n_old_clusters = (
        clusterer.model_,
        clusterer.features_,
        clusterer.n_clusters_,
    )
    random_state = check_random_state(clusterer.random_state)
    labels = model.decision_function(features.training_features()).argmax(axis=1)
    joint, neighbors, rows = features.joined_with(X)
    new = find_new_clusters(
        neighbors, rows, labels, n_old_clusters, max_new, random_state
    )
    n_clusters = n_old_clusters + int(new.max(initial=-1)) + 1
    known = np.append(labels, np.where(new < 0, -1, n_old_clusters + new))
    nearest = model.decision_function(features.transform_rows(X)).argmax(axis=1)
    start = np.where(known < 0, np.append(labels, nearest), known)
    prior = np.bincount(start, minlength=n_clusters) / len(start)
    target = np.where(known[:, np.newaxis] < 0, np.nan, np.eye(n_clusters)[known])
    data = TrainingData(rows, graph=neighbors.walk).with_labels(target)
    objective = asking_for(prior, objective)
    model = clone(model)
    model.initialize(
        rows, n_clusters, labels=start, sample_weight=None, random_state=random_state
    )
    state = begin(model.decision_function(rows), random_state)
    batch_size = batch_size_for(clusterer, model, len(rows), n_clusters)
    plan = epochs(batch_size, clusterer.max_iter, clusterer.tol)
    train(model, data, objective, plan, state, verbose=clusterer.verbose)
    if state.interrupted:
        raise KeyboardInterrupt
    raise_if_failed(state)
    scores, surroundings = find_outliers(neighbors, clusterer.contamination)
    found = {
        "n_clusters_": n_clusters,
        "prior_": prior,
        "features_": joint,
        "_tree": None,
        "_surroundings": surroundings,
        "_n_features_out": n_clusters,
    }
    return (model, data, objective, state), found, scores
