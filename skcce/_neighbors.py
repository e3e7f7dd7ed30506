"""Averages over the nearest neighbors of every sample."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches

from skcce._autologging import inner_fits
from skcce._data import TrainingData
from skcce._scaling import BLOCK, row_scale
from skcce._threads import count_openmp_threads, openmp_threads

# Distances are taken between at most this many principal components: less than half
# the time of 384 features, and the clusters found are no worse.
_N_COMPONENTS = 128
_PCA_ROWS = 4096  # a sample of the rows is enough to find the components

# Averages are taken along this many steps of a random walk; each step stays where it is
# with this probability.
_N_STEPS = 4
_LAZINESS = 0.1

# With fewer rows per thread scikit-learn splits the search over the candidates instead
# of the queries, and the choice among equal distances depends on the threads.
_ROWS_PER_THREAD = 1024


def find_neighbors(
    data: TrainingData,
    n_neighbors: int,
    with_rows: bool,
    random_state: np.random.RandomState,
) -> tuple[csr_array | None, NDArray | None]:
    """Return the graph of neighbors, and rows for k-means, averaged along it.

    Either is None if it is not asked for, by `n_neighbors` or `with_rows`.
    """
    if n_neighbors == 0 and not with_rows:
        return None, None
    if data.X.ndim != 2:
        wish, instead = "init='k-means'", 'init="random", or labels'
        if n_neighbors > 0:
            wish, instead = f"n_neighbors={n_neighbors}", "n_neighbors=0"
        raise ValueError(
            f"{wish} needs rows of features, X has {data.X.ndim} dimensions. "
            f"Use {instead}."
        )
    with inner_fits():
        rows = principal_rows(data.X, random_state, data.weight)
        if n_neighbors == 0:
            return None, rows
        graph = neighbor_graph(rows, n_neighbors, data.weight)
    return graph, smooth(graph, rows) if with_rows else None


def principal_rows(
    X: NDArray, random_state: np.random.RandomState, weight: NDArray | None = None
) -> NDArray:
    """Return rows of at most 128 features that have nearly the distances of `X`.

    Centered, scaled to mean square norm 1, and projected on the leading principal
    components if there are more features than that. Shape (n_samples, <= 128), dtype
    of `X`.
    """
    mean, scale = row_scale(X, weight)
    n_samples, n_features = X.shape
    components = None
    if min(n_features, n_samples) > _N_COMPONENTS:
        sample = random_state.permutation(n_samples)[:_PCA_ROWS]
        pca = PCA(_N_COMPONENTS, svd_solver="randomized", random_state=random_state)
        components = pca.fit((X[sample] - mean) / scale).components_
        n_features = _N_COMPONENTS
    rows = np.empty((n_samples, n_features), dtype=X.dtype)
    for block in gen_batches(n_samples, BLOCK):
        scaled = (X[block] - mean) / scale
        rows[block] = scaled if components is None else scaled @ components.T
    return rows


def neighbor_graph(
    rows: NDArray, n_neighbors: int, weight: NDArray | None = None
) -> csr_array:
    """Return the matrix of one step of a lazy random walk to nearest neighbors.

    Two samples are connected if either is among the `n_neighbors` nearest of the
    other, twice if both are. A step prefers neighbors of few connections: without that,
    the hubs of high-dimensional data, which are near to everything, blend all clusters.
    It never goes to a sample of `weight` 0, and twice as often to one of 2. Shape
    (n_samples, n_samples), rows sum to 1, dtype of `rows`.
    """
    n_samples = len(rows)
    search = NearestNeighbors(n_neighbors=n_neighbors).fit(rows)
    n_threads = min(count_openmp_threads(), max(1, (n_samples - 1) // _ROWS_PER_THREAD))
    with openmp_threads(n_threads):
        nearest = search.kneighbors(return_distance=False)
    ones = np.ones(nearest.size, dtype=rows.dtype)
    indptr = np.arange(0, nearest.size + 1, n_neighbors)
    directed = csr_array((ones, nearest.ravel(), indptr), shape=(n_samples, n_samples))
    connections = directed + directed.T
    attraction = 1 / connections.sum(axis=0)
    if weight is not None:
        attraction = attraction * weight
    steps = connections @ diags_array(attraction)
    total = steps.sum(axis=1)
    moving = np.where(total > 0, 1 - _LAZINESS, 0)
    walk = diags_array(moving / np.where(total > 0, total, 1)) @ steps
    return csr_array(walk + diags_array(1 - moving)).astype(rows.dtype)


def smooth(graph: csr_array, values: NDArray) -> NDArray:
    """Average `values` (n_samples, any) along the steps of the walk."""
    for _ in range(_N_STEPS):
        values = graph @ values
    return values


def draw_neighbors(
    graph: csr_array, rows: NDArray, random_state: np.random.RandomState
) -> NDArray:
    """Draw where the walk leads from each of `rows` (n,) in one step."""
    first, n_entries = graph.indptr[rows], np.diff(graph.indptr)[rows]
    last = n_entries.cumsum()
    # The entries of all these rows, one row after the other.
    entries = np.repeat(first - (last - n_entries), n_entries) + np.arange(last[-1])
    ahead = graph.data[entries].cumsum(dtype=np.float64)
    low = np.append(0, ahead)[last - n_entries]
    drawn = low + random_state.random_sample(len(rows)) * (ahead[last - 1] - low)
    found = ahead.searchsorted(drawn, side="right")
    # Rounding may lead past the row's last entry.
    return graph.indices[entries[np.minimum(found, last - 1)]]
