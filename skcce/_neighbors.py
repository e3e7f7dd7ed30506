"""The nearest neighbors of every sample, and averages over them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array, diags_array, eye_array, issparse
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_svd, row_norms

from skcce._autologging import inner_fits
from skcce._constraints import Links, agree
from skcce._data import TrainingData
from skcce._scaling import BLOCK, row_scale, standardize
from skcce._threads import count_openmp_threads, openmp_threads

# Distances are taken between at most this many principal components: less than half
# the time of 384 features, and the clusters found are no worse.
_N_COMPONENTS = 128
_PCA_ROWS = 4096  # a sample of the rows is enough to find the components
# Rows of one length, such as those of tf-idf, get it back where the components hold
# less than this part of their variance. What is left of the length tells how common
# the words of a text are, not what it is about; and short rows would be one cluster.
_MOST = 0.5
_SAME_LENGTH = 1e-3

# Averages are taken along this many steps of a random walk; each step stays where it is
# with this probability.
N_STEPS = 4
_LAZINESS = 0.1

# Rows have mean square norm 1; shorter distances are rounding, or copies of a row.
SHORTEST = 1e-3

# With fewer rows per thread scikit-learn splits the search over the candidates instead
# of the queries, and the choice among equal distances depends on the threads.
_ROWS_PER_THREAD = 1024


class Projection(NamedTuple):
    """How rows become rows of at most 128 features that have nearly their distances.

    mean : (n_features,), scale : a number, components : (128, n_columns), or None if
    there are no more features than that. columns : (n_columns,), the features that
    count, or None for all: of many features of sparse rows, those that occur in a
    sample. of_one_length : whether each row is brought to length 1.
    """

    mean: NDArray
    scale: np.floating
    components: NDArray | None
    columns: NDArray | None = None
    of_one_length: bool = False

    def __call__(self, X: NDArray | csr_array) -> NDArray:
        """Center, scale and project rows: (n, n_features) to dense (n, <= 128)."""
        mean = self.mean if self.columns is None else self.mean[self.columns]
        width = len(mean) if self.components is None else len(self.components)
        rows = np.empty((X.shape[0], width), dtype=X.dtype)
        for block in gen_batches(X.shape[0], BLOCK):
            part = X[block] if self.columns is None else X[block][:, self.columns]
            if self.components is None:
                part = part.toarray() if issparse(part) else part
                rows[block] = standardize(part, mean, self.scale)
            else:
                rows[block] = standardize(part, mean, self.scale) @ self.components.T
            if self.of_one_length:
                rows[block] = normalize(rows[block])
        return rows


class Neighbors(NamedTuple):
    """The samples as neighbors of one another.

    Attributes
    ----------
    projection : Projection
        How rows came about.
    rows : ndarray of shape (n_samples, <= 128)
        What distances were taken between: see :func:`principal_projection`.
    distances, nearest : ndarray of shape (n_samples, n_neighbors)
        Distances to the nearest neighbors of each sample, itself excluded, and their
        numbers.
    around : ndarray of shape (n_samples, n_neighbors)
        Numbers of the nearest samples to the row, itself included: what a new row that
        is equal to it would find.
    walk : csr_array of shape (n_samples, n_samples)
        One step of a lazy random walk from neighbor to neighbor.
    attraction, strength : ndarray of shape (n_samples,)
        How strongly a step is drawn to each sample, and the distribution in which the
        walk stays, up to a factor.
    """

    projection: Projection
    rows: NDArray
    distances: NDArray
    nearest: NDArray
    around: NDArray
    walk: csr_array
    attraction: NDArray
    strength: NDArray


def find_neighbors(
    data: TrainingData,
    n_neighbors: int,
    random_state: np.random.RandomState | None,
    projection: Projection | None = None,
) -> Neighbors:
    """Return the nearest neighbors of every sample, and the walk along them.

    A `projection` that is known needs no random numbers.
    """
    with inner_fits():
        if projection is None:
            projection = principal_projection(data.X, random_state, data.weight)
        rows = projection(data.X)
    return neighbors_among(rows, n_neighbors, projection, data.weight)


def neighbors_among(
    rows: NDArray,
    n_neighbors: int,
    projection: Projection,
    weight: NDArray | None = None,
) -> Neighbors:
    """Return the nearest neighbors of rows that were projected."""
    with inner_fits():
        distances, around = search(neighbor_index(rows, n_neighbors), rows)
    distances, nearest = without_itself(distances, around)
    return Neighbors(
        projection,
        rows,
        distances,
        nearest,
        around[:, :n_neighbors],
        *random_walk(nearest, weight, rows.dtype),
    )


def principal_projection(
    X: NDArray | csr_array,
    random_state: np.random.RandomState,
    weight: NDArray | None = None,
) -> Projection:
    """Return a projection to rows of mean 0 and mean square norm 1, or nearly so.

    On the leading principal components, if there are more than 128 features. Sparse
    rows are centered in the products only, and stay sparse until they are projected.
    """
    mean, scale = row_scale(X, weight)
    n_samples, n_features = X.shape
    if min(n_samples, n_features) <= _N_COMPONENTS:
        is_wide = issparse(X) and n_features > _N_COMPONENTS
        return Projection(mean, scale, None, _occurring(X) if is_wide else None)
    sample = X[random_state.permutation(n_samples)[:_PCA_ROWS]]
    columns = None
    if issparse(X):
        columns = _occurring(sample)
        if len(columns) <= _N_COMPONENTS:
            return Projection(mean, scale, None, columns)
        part = sample[:, columns]
        part.data /= scale
        # No PCA: the mean may be one of the components, as it is taken off all rows.
        components = randomized_svd(part, _N_COMPONENTS, random_state=random_state)[2]
    else:
        pca = PCA(_N_COMPONENTS, svd_solver="randomized", random_state=random_state)
        components = pca.fit((sample - mean) / scale).components_
    projection = Projection(mean, scale, components, columns)
    n_kept = (projection(sample) ** 2).sum()
    lengths = row_norms(sample / scale)
    lengths = lengths[lengths > 0]  # a text without a word that is known has none
    have_one = lengths.size > 0 and np.ptp(lengths) <= _SAME_LENGTH * lengths.max()
    is_lost = n_kept < _MOST * sample.shape[0]
    return projection._replace(of_one_length=bool(have_one and is_lost))


def _occurring(X: csr_array) -> NDArray:
    """Return the numbers of the features that rows have, or that of one."""
    return np.unique(np.append(0, X.indices))


def neighbor_index(rows: NDArray, n_neighbors: int) -> NearestNeighbors:
    """Return scikit-learn's index of the rows."""
    with inner_fits():
        return NearestNeighbors(n_neighbors=n_neighbors).fit(rows)


def search(index: NearestNeighbors, rows: NDArray) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the neighbors of each row, and of one more.

    The first of them is the row itself, or its equal, if it is one of the index.
    Always the same question, so that ties are broken in the same way for a row of the
    training data and for its equal.
    """
    n_rows = len(rows)
    n_threads = min(count_openmp_threads(), max(1, (n_rows - 1) // _ROWS_PER_THREAD))
    with openmp_threads(n_threads):
        return index.kneighbors(rows, index.n_neighbors + 1)


def without_itself(distances: NDArray, around: NDArray) -> tuple[NDArray, NDArray]:
    """Return what a search among the same rows has found, each without itself."""
    others = around != np.arange(len(around))[:, np.newaxis]
    # Of more equal rows than are found, a row may not find itself.
    others[others.all(axis=1), -1] = False
    shape = len(around), -1
    return distances[others].reshape(shape), around[others].reshape(shape)


def random_walk(
    nearest: NDArray, weight: NDArray | None, dtype: DTypeLike
) -> tuple[csr_array, NDArray, NDArray]:
    """Return one step of a lazy random walk to nearest neighbors, and its weights.

    Two samples are connected if either is among the `nearest` (n_samples, n_neighbors)
    of the other, twice if both are. A step prefers neighbors of few connections:
    without that, the hubs of high-dimensional data, which are near to everything, blend
    all clusters. It goes twice as often to a sample of `weight` 2. The matrix has shape
    (n_samples, n_samples), rows that sum to 1, and `dtype`; behind it come the
    attraction of each sample and the distribution in which the walk stays.
    """
    n_samples, n_neighbors = nearest.shape
    ones = np.ones(nearest.size, dtype=dtype)
    indptr = np.arange(0, nearest.size + 1, n_neighbors)
    directed = csr_array((ones, nearest.ravel(), indptr), shape=(n_samples, n_samples))
    connections = directed + directed.T
    attraction = 1 / connections.sum(axis=0)
    if weight is not None:
        attraction = attraction * weight
    steps = connections @ diags_array(attraction)
    total = steps.sum(axis=1)
    moving = diags_array((1 - _LAZINESS) / total) @ steps
    walk = csr_array(moving + _LAZINESS * eye_array(n_samples)).astype(dtype)
    return walk, attraction, attraction * total


def smooth(
    graph: csr_array,
    values: NDArray,
    links: Links | None = None,
    n_steps: int = N_STEPS,
) -> NDArray:
    """Average `values` (n_samples, any) along the steps of the walk.

    Where there are links, the values are predictions. Linked ones agree before each
    step, so that their neighbors hear of it.
    """
    for _ in range(n_steps):
        values = graph @ (values if links is None else agree(links, values))
    return values if links is None else agree(links, values)


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
