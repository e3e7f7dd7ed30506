"""The nearest rows: exactly, or nearly so among very many."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import gen_batches

from skcce._kernel import kernel
from skcce._threads import count_openmp_threads, in_threads, openmp_threads

# Products of this many queries with this many rows at a time stay in a cache.
_QUERIES, _ROWS = 256, 4096
_MANY = 16384  # queries of which several ask for the same cell
# Float32 leaves this many candidates more than are asked for; float64 tells the
# nearest of them.
_SPARE = 8
# Error of a product of two rows in float32 and float64, relative to their norms; ample.
_ERROR, _ERROR_64 = 32 * np.finfo(np.float32).eps, 32 * np.finfo(np.float64).eps
_CHUNK = 32  # products that are compared at once

# An approximate search looks into this many of the cells, of about so many rows each,
# that are nearest to a query.
_N_VISITED, _CELL_SIZE = 16, 400
# Rows from which centers of the cells are found, and iterations of k-means.
_ROWS_PER_CELL, _N_ITERATIONS = 50, 10

# A query may be very far from all rows.
_may_overflow = np.errstate(over="ignore", invalid="ignore")


class Cells(NamedTuple):
    """Rows grouped by the nearest of some centers.

    centers : (n_cells, n_features).
    order : (n_rows,), the numbers of the rows, one cell after the other.
    ends : (n_cells + 1,), where cells begin in `order`, and where the last one ends.
    rows, half : (n_rows, n_features) and (n_rows,), the rows in this order, relative to
        their centers, so that small distances are not lost in float32, and half of
        their squared norms.
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

    Both have shape (n, n_neighbors), or (n, n_rows) if there are fewer rows; the
    nearest row comes first, of equally near ones the one of lower number. Products in
    float32 choose candidates. Where rounding might hide a neighbor from them, products
    in float64 tell which rows to look at. `on_rows` hears of progress.
    """
    # Kernels are compiled anew for other layouts, and may round otherwise.
    rows, n_neighbors = np.ascontiguousarray(rows), min(n_neighbors, len(rows))
    single, squares = rows.astype(np.float32, copy=False), _squares(rows)

    @_may_overflow
    def find(block: slice) -> tuple[NDArray, NDArray]:
        some = np.array(queries[block], order="C")
        least, numbers = _candidates(some, single, squares, n_neighbors + _SPARE)
        distances, numbers = nearest_of(some, rows, numbers, n_neighbors)
        doubtful = ~_is_certain(some, least, distances[:, -1])
        if doubtful.any():
            distances[doubtful], numbers[doubtful] = _scan(
                some[doubtful], rows, squares, n_neighbors
            )
        return distances.astype(rows.dtype), numbers

    return _find_all(find, gen_batches(len(queries), _QUERIES), on_rows)


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
    rows, n_neighbors = np.ascontiguousarray(rows), min(n_neighbors, len(rows))

    @_may_overflow
    def find(block: slice) -> tuple[NDArray, NDArray]:
        some = np.array(queries[block], order="C")
        shape = len(some), n_neighbors + _SPARE
        values = np.full(shape, -np.inf, dtype=np.float32)
        numbers = np.full(shape, -1, dtype=np.int32)
        n_visited = min(_N_VISITED, len(cells.centers))
        for nearest in exact_neighbors(some, cells.centers, n_visited)[1].T:
            asking = np.argsort(nearest, kind="stable")
            starts = np.searchsorted(nearest[asking], np.arange(len(cells.ends)))
            for number in np.flatnonzero(np.diff(starts)):
                who = asking[starts[number] : starts[number + 1]]
                best, which = values[who], numbers[who]
                _look_into(cells, number, some[who], best, which)
                values[who], numbers[who] = best, which
        distances, numbers = nearest_of(some, rows, numbers, n_neighbors)
        few = numbers[:, -1] < 0  # all cells around may be small
        if few.any():
            distances[few], numbers[few] = exact_neighbors(some[few], rows, n_neighbors)
        return distances.astype(rows.dtype), numbers

    return _find_all(find, gen_batches(len(queries), _MANY), on_rows)


def find_cells(rows: NDArray) -> Cells:
    """Return cells around the centers of k-means on a sample of the rows."""
    n_cells = max(1, len(rows) // _CELL_SIZE)
    random_state = np.random.RandomState(0)
    sample = random_state.permutation(len(rows))[: _ROWS_PER_CELL * n_cells]
    kmeans = KMeans(
        n_cells, n_init=1, max_iter=_N_ITERATIONS, tol=0, random_state=random_state
    )
    # The number of threads would change the last digits. It warns of copies of a row.
    with openmp_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        centers = kmeans.fit(rows[sample]).cluster_centers_
    return cells_around(centers, rows)


def cells_around(centers: NDArray, rows: NDArray) -> Cells:
    """Return the cells of some centers, those that have rows."""
    used, cell = np.unique(exact_neighbors(rows, centers, 1)[1], return_inverse=True)
    cell = cell.ravel()
    order = np.argsort(cell, kind="stable").astype(np.int32)
    centers, ends = (
        centers[used],
        np.searchsorted(cell[order], np.arange(len(used) + 1)),
    )
    ordered = np.empty(rows.shape, dtype=np.float32)
    for center, first, last in zip(centers, ends, ends[1:], strict=False):
        ordered[first:last] = rows[order[first:last]] - center
    return Cells(
        centers, order, ends, ordered, _squares(ordered).astype(np.float32) / 2
    )


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
    n_kept = min(n_kept, len(rows))
    values = np.full((len(queries), n_kept), -np.inf, dtype=rows.dtype)
    numbers = np.full((len(queries), n_kept), -1, dtype=np.int32)
    half, zero = (squares / 2).astype(rows.dtype), np.zeros(len(queries), rows.dtype)
    for block, products in _products(queries, rows):
        there = np.arange(block.start, block.stop, dtype=np.int32)
        _keep(products, half[block], zero, there, values, numbers)
    return values[:, 0], numbers


def _products(queries: NDArray, rows: NDArray) -> Iterator[tuple[slice, NDArray]]:
    """Yield blocks of rows, and the products of all queries with them, (n, n_block)."""
    queries = queries.astype(rows.dtype, copy=False)
    products = np.empty((len(queries), _ROWS), dtype=rows.dtype)
    for block in gen_batches(len(rows), _ROWS):
        if block.stop - block.start == _ROWS:
            yield block, np.dot(queries, rows[block].T, out=products)
        else:
            yield block, queries @ rows[block].T


def _scan(
    queries: NDArray, rows: NDArray, squares: NDArray, n_neighbors: int
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the nearest rows, however near the others are.

    Products in float64 tell which rows may be among them; their distances are taken as
    they are.
    """
    shape = len(queries), n_neighbors
    distances = np.full(shape, np.inf)
    # If all distances overflow, the first rows are as near as any.
    numbers = np.tile(np.arange(n_neighbors, dtype=np.int32), (len(queries), 1))
    norms, double = np.sqrt(_squares(queries)), rows.astype(np.float64, copy=False)
    for block, products in _products(queries, double):
        products -= squares[block] / 2
        _keep_nearest(products, queries, rows, norms, block.start, distances, numbers)
    return distances, numbers


def _look_into(
    cells: Cells, number: int, queries: NDArray, values: NDArray, numbers: NDArray
) -> None:
    """Take the rows of a cell for candidates of the queries that look into it.

    A value is the opposite of half a squared distance.
    """
    queries = (queries - cells.centers[number]).astype(np.float32, copy=False)
    shift = np.einsum("ij,ij->i", queries, queries) / 2
    first, last = cells.ends[number : number + 2]
    size = max(1, _QUERIES * _ROWS // len(queries))
    for start in range(first, last, size):
        part = slice(start, min(start + size, last))
        products = queries @ cells.rows[part].T
        _keep(products, cells.half[part], shift, cells.order[part], values, numbers)


def _is_certain(queries: NDArray, least: NDArray, farthest: NDArray) -> NDArray:
    """Return whether no row nearer than `farthest` may be missing, (n,).

    least : what float32 gave for the last of the candidates.
    """
    norm = np.sqrt(_squares(queries))
    value = (norm - farthest) * (norm + farthest) / 2
    return value - _ERROR * (norm + farthest) ** 2 > least


def nearest_of(
    queries: NDArray, rows: NDArray, numbers: NDArray, n_neighbors: int
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of the nearest candidates, by distance and number.

    numbers : (n, n_kept), those of the candidates; -1 for none.
    """
    distances = np.empty(numbers.shape)
    _distances(queries, rows, numbers, distances)
    order = np.lexsort((numbers, distances), axis=1)[:, :n_neighbors]
    distances = np.take_along_axis(distances, order, axis=1)
    return distances, np.take_along_axis(numbers, order, axis=1)


@kernel
def _keep(products, offsets, shifts, members, values, numbers):
    """Take what is larger than the least of the values kept, which comes first.

    products : (n, m), of queries and rows; offsets : (m,), shifts : (n,), what is taken
    off; members : (m,), the numbers of the rows; values, numbers : (n, n_kept), changed
    in place.
    """
    n, m = products.shape
    for i in range(n):
        for first in range(0, m, _CHUNK):
            last = min(first + _CHUNK, m)
            least, hits = values[i, 0] + shifts[i], 0
            for j in range(first, last):
                hits += products[i, j] - offsets[j] > least
            if hits == 0:
                continue
            for j in range(first, last):
                value = products[i, j] - offsets[j] - shifts[i]
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
def _keep_nearest(products, queries, rows, norms, start, distances, numbers):
    """Take what is nearer than the last of the rows kept; of equal ones, the first.

    products : (n, m), q . x - |x|^2 / 2 of queries and the rows from number `start` on.
    norms : (n,), those of the queries.
    distances, numbers : (n, n_kept), the nearest first, changed in place.
    """
    n, m = products.shape
    n_kept = distances.shape[1]
    for i in range(n):
        least = _least(norms[i], distances[i, -1])
        for j in range(m):
            if products[i, j] < least:
                continue
            distance = _distance(queries[i], rows[start + j])
            place = n_kept
            while place > 0 and distance < distances[i, place - 1]:
                place -= 1
            if place == n_kept:
                continue
            for k in range(n_kept - 1, place, -1):
                distances[i, k], numbers[i, k] = distances[i, k - 1], numbers[i, k - 1]
            distances[i, place], numbers[i, place] = distance, start + j
            least = _least(norms[i], distances[i, -1])


@kernel
def _least(norm, distance):
    """Return what a product is at least, rounded, if its row is no farther."""
    error = _ERROR_64 * (norm + distance) ** 2
    least = (norm - distance) * (norm + distance) / 2 - error
    return -np.inf if np.isnan(least) else least


@kernel
def _distances(queries, rows, numbers, distances):
    """Fill in the distances (n, n_kept) of queries and numbered rows; inf for none."""
    for i in range(len(queries)):
        for j, number in enumerate(numbers[i]):
            distances[i, j] = np.inf
            if number >= 0:
                distances[i, j] = _distance(queries[i], rows[number])


@kernel
def _distance(query, row):
    total = 0.0
    for c in range(len(row)):
        difference = np.float64(query[c]) - np.float64(row[c])
        total += difference * difference
    return np.sqrt(total)


def _find_all(
    find: Callable[[slice], tuple[NDArray, NDArray]],
    blocks: Iterable[slice],
    on_rows: Callable[[int], Any],
) -> tuple[NDArray, NDArray]:
    """Return distances and numbers of all blocks of queries, found in threads."""
    parts, n_threads = [], count_openmp_threads()
    for part in in_threads(find, blocks, n_threads, n_threads):
        parts.append(part)
        on_rows(len(part[0]))
    distances, numbers = zip(*parts, strict=True)
    return np.concatenate(distances), np.concatenate(numbers)
