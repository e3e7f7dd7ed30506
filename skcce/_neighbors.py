"""The nearest neighbors of every sample, and averages over them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array, diags_array, eye_array, issparse
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.neighbors import sort_graph_by_row_values
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches
from sklearn.utils.extmath import randomized_svd, row_norms

from skcce._autologging import inner_fits
from skcce._constraints import Links, agree
from skcce._data import TrainingData
from skcce._nearest import (
    Cells,
    approximate_neighbors,
    exact_neighbors,
    find_cells,
    nearest_of,
)
from skcce._progress import progress_bar
from skcce._scaling import BLOCK, row_scale, standardize

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


class Index(NamedTuple):
    """What neighbors are searched in.

    rows : (n_samples, <= 128), what a projection gave.
    n_neighbors : how many are found, and one more.
    cells : where an approximate search looks; None for an exact one.
    """

    rows: NDArray
    n_neighbors: int
    cells: Cells | None


class Neighbors(NamedTuple):
    """The samples as neighbors of one another.

    Attributes
    ----------
    projection : Projection
        How rows came about.
    index : Index
        What was searched.
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
    index: Index
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
    how: Any = "exact",
    verbose: int = 0,
) -> Neighbors:
    """Return the nearest neighbors of every sample, and the walk along them.

    A `projection` that is known needs no random numbers. `how` is "exact",
    "approximate", a graph of neighbors, or a transformer that makes one.
    """
    with inner_fits():
        if projection is None:
            projection = principal_projection(data.X, random_state, data.weight)
        rows = projection(data.X)
        if not isinstance(how, str):
            numbers = read_graph(how, data, n_neighbors)
            # Whatever unit or metric the graph has, new rows are looked up among these.
            found = nearest_of(rows, rows, numbers, n_neighbors + 1)
            index = Index(rows, n_neighbors, None)
            return _neighbors_of(projection, index, *found, data.weight)
    return neighbors_among(rows, n_neighbors, projection, data.weight, how, verbose)


def neighbors_among(
    rows: NDArray,
    n_neighbors: int,
    projection: Projection,
    weight: NDArray | None = None,
    how: Literal["exact", "approximate"] = "exact",
    verbose: int = 0,
) -> Neighbors:
    """Return the nearest neighbors of rows that were projected."""
    index = index_of(rows, n_neighbors, how)
    with progress_bar(
        verbose, total=len(rows), desc="neighbors", unit=" rows", unit_scale=True
    ) as bar:
        found = search(index, rows, bar.update)
    return _neighbors_of(projection, index, *found, weight)


def _neighbors_of(
    projection: Projection,
    index: Index,
    distances: NDArray,
    around: NDArray,
    weight: NDArray | None,
) -> Neighbors:
    """Return neighbors, of what was found around each sample, itself included."""
    distances, nearest = without_itself(distances, around)
    return Neighbors(
        projection,
        index,
        distances,
        nearest,
        around[:, : index.n_neighbors],
        *random_walk(nearest, weight, index.rows.dtype),
    )


def read_graph(how: Any, data: TrainingData, n_neighbors: int) -> NDArray:
    """Return the numbers of neighbors on a graph, each sample's own first.

    how : sparse (n_samples, n_samples), distances of each row to its neighbors; or a
        transformer of scikit-learn that makes it from the samples.

    Shape (n_samples, n_neighbors + 1). Raises ValueError if it is not a graph of
    distances of these samples, or a sample has too few neighbors.
    """
    n_samples = data.n_samples
    graph = how if issparse(how) else clone(how).fit_transform(data.X)
    is_real = issparse(graph) and graph.dtype.kind in "buif"
    if not is_real or graph.shape != 2 * graph.shape[:1]:
        raise ValueError(
            f"neighbors={how!r} must make a square sparse matrix of distances, got "
            f"{type(graph).__name__} of shape {np.shape(graph)} and dtype "
            f"{getattr(graph, 'dtype', None)}."
        )
    is_of_given = data.given.shape[0] == np.shape(graph)[0]
    if issparse(how) and data.kept is not None and is_of_given:
        graph = csr_array(graph)[data.kept][:, data.kept]
    if graph.shape[0] != n_samples:
        raise ValueError(
            f"neighbors is a graph of {graph.shape[0]} samples, and X has {n_samples}."
        )
    graph = csr_array(graph, dtype=np.float64, copy=True)
    graph.sum_duplicates()
    is_wrong = ~(np.isfinite(graph.data) & (graph.data >= 0))
    if is_wrong.any():
        raise ValueError(
            "neighbors must hold distances: finite, and not negative. Got "
            f"{graph.data[is_wrong][0]}."
        )
    counts = np.diff(graph.indptr)
    samples = np.repeat(np.arange(n_samples), counts)
    is_own = samples == graph.indices
    n_own = np.bincount(samples[is_own], minlength=n_samples)
    few = int((counts - n_own).min())
    if few < n_neighbors:
        raise ValueError(
            f"neighbors has a sample with {few} neighbors beside itself, fewer than "
            f"n_neighbors={n_neighbors}. Ask for fewer, or make the graph with more."
        )
    graph.data[is_own] = -1  # comes first, as nothing is nearer
    graph = sort_graph_by_row_values(graph, warn_when_not_sorted=False)
    first = graph.indptr[:-1] + n_own
    entries = first[:, np.newaxis] + np.arange(n_neighbors)
    numbers = np.column_stack([np.arange(n_samples), graph.indices[entries]])
    return numbers.astype(np.int32, copy=False)


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


def index_of(
    rows: NDArray, n_neighbors: int, how: Literal["exact", "approximate"]
) -> Index:
    """Return what the rows are searched with."""
    with inner_fits():
        cells = find_cells(rows) if how == "approximate" else None
    return Index(rows, n_neighbors, cells)


def search(
    index: Index, queries: NDArray, on_rows: Callable[[int], Any] = lambda n: None
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the neighbors of each query, and of one more.

    The first of them is the row itself, or its equal, if it is one of the index.
    """
    n_found = index.n_neighbors + 1
    if index.cells is None:
        return exact_neighbors(queries, index.rows, n_found, on_rows)
    return approximate_neighbors(queries, index.rows, index.cells, n_found, on_rows)


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
