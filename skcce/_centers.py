"""The centers of clusters, and how far rows lie from them, as k-means has them."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils.extmath import row_norms

from skcce._blocks import BLOCK, cut, in_order, rows_of, visiting

# Of sparse rows: each block makes dense means, which may have very many features.
_SPARSE_BLOCK = 65_536


class Centers(NamedTuple):
    """What is known about the rows of each cluster.

    mean : (n_clusters, n_features).
    weight : of the rows of a cluster, (n_clusters,).
    inertia : sum of their squared distances to the mean, by weight, (n_clusters,).
    """

    mean: NDArray
    weight: NDArray
    inertia: NDArray


def find_centers(
    X: Any,
    labels: NDArray,
    likeliest: NDArray,
    weight: NDArray | None = None,
    *,
    distributed: bool = False,
) -> Centers:
    """Return the centers of clusters, in one pass over the rows.

    X : array, memory map, sparse or dask array (n_samples, n_features).
    labels : cluster of each row, or -1 for a row that counts in none, (n_samples,).
    likeliest : for each cluster the number of a row, which is the center of a cluster
        without rows, (n_clusters,).
    weight : weights of the rows, in any unit, or None.
    distributed : whether the ranks of torch.distributed share the pass.
    """
    unit = 1.0 if weight is None else weight.max()  # so that no sum overflows
    n_clusters = len(likeliest)
    n_rows = _SPARSE_BLOCK if issparse(X) else max(BLOCK, 2 * n_clusters)
    ends = cut(X)
    blocks = in_order(ends, n_rows)
    places = [rows_of(ends, block) for block in blocks]
    weights: Sequence = [None] * len(blocks)
    if weight is not None:
        weights = [weight[rows] / unit for rows in places]
    function = partial(_of_block, n_clusters)
    with visiting(X, distributed=distributed) as visit:
        parts = visit(function, blocks, [labels[rows] for rows in places], weights)
        centers = reduce(merged, parts)
    mean = centers.mean.astype(X.dtype)
    for k in np.flatnonzero(centers.weight == 0):
        row = X[likeliest[k] : likeliest[k] + 1]
        mean[k] = row.toarray() if issparse(row) else np.asarray(row)
    return Centers(mean, unit * centers.weight, unit * centers.inertia)


@np.errstate(over="ignore", invalid="ignore")
def _of_block(
    n_clusters: int, X: Any, labels: NDArray, weight: NDArray | None
) -> Centers:
    """Return the centers of some rows, in float64."""
    weight = np.ones(len(labels)) if weight is None else weight
    weight, labels = np.where(labels < 0, 0, weight), np.maximum(labels, 0)
    total = np.bincount(labels, weight, n_clusters)
    share = weight / np.where(total > 0, total, 1)[labels]
    starts = np.arange(len(labels) + 1)
    member = csr_array((share, labels, starts), shape=(len(labels), n_clusters))
    rows = X.astype(np.float64)
    mean = member.T @ rows
    if issparse(X):
        mean = mean.toarray()
    else:
        rows -= mean[labels]
    inertia = np.bincount(labels, weight * row_norms(rows, squared=True), n_clusters)
    if issparse(X):
        # A little below 0 by rounding, where all rows are equal.
        inertia = np.maximum(inertia - total * row_norms(mean, squared=True), 0)
    return Centers(mean, total, inertia)


@np.errstate(over="ignore", invalid="ignore")
def merged(one: Centers, other: Centers) -> Centers:
    """Return the centers of all rows of two parts, which have the same clusters."""
    weight = one.weight + other.weight
    share = other.weight / np.where(weight > 0, weight, 1)
    step = other.mean - one.mean
    between = share * one.weight * row_norms(step, squared=True)
    mean = (one.mean + share[:, np.newaxis] * step).astype(one.mean.dtype)
    return Centers(mean, weight, one.inertia + other.inertia + between)
