"""The nearest rows: exactly, or nearly so among very many."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.utils import gen_batches

from skcce._kernel import kernel
from skcce._threads import count_openmp_threads, openmp_threads

# Products of this many queries with this many rows at a time stay in a cache.
_QUERIES, _ROWS = 256, 4096
_MANY = 16384  # queries of which several ask for the same cell
# Float32 leaves this many candidates more than are asked for; float64 tells the
# nearest of them.
_SPARE = 8
# Error of a product of two rows in float32, relative to their norms; ample.
_ERROR = 32 * np.finfo(np.float32).eps
_CHUNK = 32  # products that are compared at once

# An approximate search looks into this many of the cells, of about so many rows each,
# that are nearest to a query.
_N_VISITED, _CELL_SIZE = 16, 400
# Rows from which centers of the cells are found, and iterations of k-means.
_ROWS_PER_CELL, _N_ITERATIONS = 50, 10


class Cells(NamedTuple):
    """Rows grouped by the nearest of some centers.

    centers : (n_cells, n_features).
    order : (n_rows,), the numbers of the rows, one cell after the other.
    ends : (n_cells + 1,), where cells begin in `order`, and where the last one ends.
    rows, half : (n_rows, n_features) and (n_rows,), the rows in this order and half of
        their squared norms, in float32.
    """

    centers: NDArray
    order: NDArray
    ends: NDArray
    rows: NDArray
    half: NDArray


def exact_neighbors(
    queries: NDArray,
    rows: NDArray,
    n_neighbors: int,
    on_rows: Callable[[int], Any] = lambda n: None,
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the rows nearest to each query.

    Both have shape (n, n_neighbors), the nearest row first; of equally near ones the
    one of lower number. Products in float32 choose candidates. Where rounding might
    hide a neighbor from them, products in float64 do. `on_rows` hears of progress.
    """
    single, squares = rows.astype(np.float32, copy=False), _squares(rows)

    def find(block: slice) -> tuple[NDArray, NDArray]:
        some = queries[block]
        least, numbers = _candidates(some, single, squares, n_neighbors + _SPARE)
        distances, numbers = _nearest_of(some, rows, numbers, n_neighbors)
        doubtful = ~_is_certain(some, least, distances[:, -1])
        if doubtful.any() and len(rows) > n_neighbors + _SPARE:
            some = some[doubtful].astype(np.float64)
            double = rows.astype(np.float64, copy=False)
            _, again = _candidates(some, double, squares, n_neighbors + _SPARE)
            distances[doubtful], numbers[doubtful] = _nearest_of(
                some, rows, again, n_neighbors
            )
        return distances, numbers

    return _stack(_in_threads(find, gen_batches(len(queries), _QUERIES), on_rows))


def approximate_neighbors(
    queries: NDArray,
    rows: NDArray,
    cells: Cells,
    n_neighbors: int,
    on_rows: Callable[[int], Any] = lambda n: None,
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the rows near to each query.

    The nearest ones in the nearest cells; as of `exact_neighbors` otherwise.
    """

    def find(block: slice) -> tuple[NDArray, NDArray]:
        some = queries[block].astype(np.float32, copy=False)
        shape = len(some), n_neighbors + _SPARE
        values = np.full(shape, -np.inf, dtype=np.float32)
        numbers = np.full(shape, -1, dtype=np.int32)
        n_visited = min(_N_VISITED, len(cells.centers))
        for nearest in exact_neighbors(some, cells.centers, n_visited)[1].T:
            asking = np.argsort(nearest, kind="stable")
            starts = np.searchsorted(nearest[asking], np.arange(len(cells.ends)))
            for number in np.flatnonzero(np.diff(starts)):
                who = asking[starts[number] : starts[number + 1]]
                cell = slice(cells.ends[number], cells.ends[number + 1])
                products = some[who] @ cells.rows[cell].T
                best, which = values[who], numbers[who]
                _keep(products, cells.half[cell], cells.order[cell], best, which)
                values[who], numbers[who] = best, which
        return _nearest_of(queries[block], rows, numbers, n_neighbors)

    return _stack(_in_threads(find, gen_batches(len(queries), _MANY), on_rows))


def find_cells(rows: NDArray) -> Cells:
    """Return cells around the centers of k-means on a sample of the rows."""
    n_cells = max(1, len(rows) // _CELL_SIZE)
    random_state = np.random.RandomState(0)
    sample = random_state.permutation(len(rows))[: _ROWS_PER_CELL * n_cells]
    kmeans = KMeans(
        n_cells, n_init=1, max_iter=_N_ITERATIONS, tol=0, random_state=random_state
    )
    with openmp_threads(1):  # their number would change the last digits
        centers = kmeans.fit(rows[sample]).cluster_centers_
    return cells_around(centers, rows)


def cells_around(centers: NDArray, rows: NDArray) -> Cells:
    """Return the cells of some centers."""
    cell = exact_neighbors(rows, centers, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable").astype(np.int32)
    ends = np.searchsorted(cell[order], np.arange(len(centers) + 1))
    ordered = rows[order].astype(np.float32, copy=False)
    half = (_squares(ordered) / 2).astype(np.float32)
    return Cells(centers, order, ends, ordered, half)


def _squares(rows: NDArray) -> NDArray:
    """Return the squared norms of the rows in float64, (n_rows,)."""
    squares = np.empty(len(rows))
    for block in gen_batches(len(rows), _ROWS):
        some = rows[block].astype(np.float64, copy=False)
        np.einsum("ij,ij->i", some, some, out=squares[block])
    return squares


def _candidates(
    queries: NDArray, rows: NDArray, squares: NDArray, n_kept: int
) -> tuple[NDArray, NDArray]:
    """Return the rows with the largest q . x - |x|^2 / 2, which are the nearest ones.

    The least value of each query, (n,), and their numbers, (n, n_kept). The arithmetic
    is that of the rows' dtype.
    """
    dtype, n_kept = rows.dtype, min(n_kept, len(rows))
    values = np.full((len(queries), n_kept), -np.inf, dtype=dtype)
    numbers = np.full((len(queries), n_kept), -1, dtype=np.int32)
    queries, half = queries.astype(dtype, copy=False), (squares / 2).astype(dtype)
    products = np.empty((len(queries), _ROWS), dtype=dtype)
    for block in gen_batches(len(rows), _ROWS):
        there = np.arange(block.start, block.stop, dtype=np.int32)
        out = products[:, : len(there)]
        if len(there) == _ROWS:
            np.dot(queries, rows[block].T, out=out)
        else:
            out = queries @ rows[block].T
        _keep(out, half[block], there, values, numbers)
    return values[:, 0], numbers


def _is_certain(queries: NDArray, least: NDArray, farthest: NDArray) -> NDArray:
    """Return whether no row nearer than `farthest` may be missing, (n,).

    least : what float32 gave for the last of the candidates.
    """
    norm = np.sqrt(_squares(queries))
    value = (norm - farthest) * (norm + farthest) / 2
    return value - _ERROR * (norm + farthest) ** 2 > least


def _nearest_of(
    queries: NDArray, rows: NDArray, numbers: NDArray, n_neighbors: int
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the nearest candidates, by distance and number.

    numbers : (n, n_kept), those of the candidates; -1 for none.
    """
    distances = np.empty(numbers.shape)
    _distances(queries, rows, numbers, distances)
    order = np.lexsort((numbers, distances), axis=1)[:, :n_neighbors]
    distances = np.take_along_axis(distances, order, axis=1)
    numbers = np.take_along_axis(numbers, order, axis=1)
    return distances.astype(rows.dtype), numbers


@kernel
def _keep(products, offsets, members, values, numbers):
    """Take what is larger than the least of the values kept, which comes first.

    products : (n, m), of queries and rows; offsets, members : (m,), what is taken off,
    and the numbers of the rows; values, numbers : (n, n_kept), changed in place.
    """
    n, m = products.shape
    for i in range(n):
        for first in range(0, m, _CHUNK):
            last = min(first + _CHUNK, m)
            least, hits = values[i, 0], 0
            for j in range(first, last):
                hits += products[i, j] - offsets[j] > least
            if hits == 0:
                continue
            for j in range(first, last):
                value = products[i, j] - offsets[j]
                if value > values[i, 0]:
                    _insert(value, members[j], values[i], numbers[i])


@kernel
def _insert(value, number, values, numbers):
    """Put a number where its value belongs; the first one drops out."""
    place = 0
    while place + 1 < len(values) and values[place + 1] < value:
        values[place], numbers[place] = values[place + 1], numbers[place + 1]
        place += 1
    values[place], numbers[place] = value, number


@kernel
def _distances(queries, rows, numbers, distances):
    """Fill in the distances (n, n_kept) of queries and numbered rows; inf for none."""
    for i in range(len(queries)):
        for j, number in enumerate(numbers[i]):
            total = 0.0
            for c in range(rows.shape[1]):
                difference = np.float64(queries[i, c]) - np.float64(rows[number, c])
                total += difference * difference
            distances[i, j] = np.sqrt(total) if number >= 0 else np.inf


def _in_threads(
    function: Callable, parts: Iterable, on_rows: Callable[[int], Any] | None = None
) -> Iterable:
    """Yield what a function returns for each part, in their order."""
    results = Parallel(
        count_openmp_threads(), backend="threading", return_as="generator"
    )(delayed(function)(part) for part in parts)
    for result in results:
        if on_rows is not None:
            on_rows(len(result[0]))
        yield result


def _stack(parts: Iterable[tuple[NDArray, NDArray]]) -> tuple[NDArray, NDArray]:
    distances, numbers = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(numbers)
