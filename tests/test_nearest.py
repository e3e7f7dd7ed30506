import tracemalloc

import numpy as np
import pytest
from conftest import deterministic, in_odd_memory
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.neighbors import NearestNeighbors

from skcce import _nearest
from skcce._nearest import (
    _QUERIES,
    _ROWS,
    _SPARE,
    approximate_neighbors,
    cells_around,
    exact_neighbors,
    find_cells,
)


def by_definition(queries, rows, n_neighbors):
    """All distances in float64, sorted, the first row first of equal ones."""
    queries, rows = queries.astype(np.float64), rows.astype(np.float64)
    difference = queries[:, np.newaxis] - rows
    distances = np.sqrt((difference**2).sum(axis=2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :n_neighbors]
    return np.take_along_axis(distances, order, axis=1), order


def assert_nearest(queries, rows, n_neighbors):
    distances, numbers = exact_neighbors(queries, rows, n_neighbors)
    expected, order = by_definition(queries, rows, n_neighbors)
    assert distances.dtype == rows.dtype
    assert_allclose(distances, expected, rtol=1e-6 if rows.itemsize == 4 else 1e-13)
    assert_array_equal(numbers, order)


def tight(rng, n, n_features, spread):
    """Groups that are small for their distance to one another."""
    centers = rng.normal(size=(4, n_features))
    return centers[rng.integers(4, size=n)] + spread * rng.normal(size=(n, n_features))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [1, 2, 18, 19, 300, _ROWS - 1, _ROWS, _ROWS + 1])
def test_exact_against_its_definition(rng, n_rows, dtype):
    rows = rng.normal(size=(n_rows, 3)).astype(dtype)
    queries = rng.normal(size=(40, 3)).astype(dtype)
    for n_neighbors in (1, 10, n_rows):
        assert_nearest(queries, rows, min(n_neighbors, 60))


@pytest.mark.parametrize("n_queries", [1, _QUERIES - 1, _QUERIES, _QUERIES + 1])
def test_any_number_of_queries(rng, n_queries):
    rows = rng.normal(size=(200, 4))
    assert_nearest(rng.normal(size=(n_queries, 4)), rows, 5)


def test_as_scikit_learn_finds_them(digits):
    X = digits[0]
    distances, numbers = exact_neighbors(X, X, 11)
    found = NearestNeighbors(n_neighbors=11, algorithm="kd_tree").fit(X).kneighbors(X)
    assert_allclose(distances, found[0])
    unequal = np.diff(distances, axis=1) > 1e-6
    is_alone = unequal[:, :-1] & unequal[:, 1:]
    assert_array_equal(numbers[:, 1:-1][is_alone], found[1][:, 1:-1][is_alone])


@pytest.mark.parametrize("n_rows", [1, 5, 5 + _SPARE, 100])
def test_no_more_neighbors_than_rows(rng, n_rows):
    rows = rng.normal(size=(n_rows, 2))
    distances, numbers = exact_neighbors(rows, rows, n_rows + 5)
    assert distances.shape == numbers.shape == (n_rows, n_rows)
    assert_array_equal(np.sort(numbers, axis=1), [np.arange(n_rows)] * n_rows)
    for found in approximate_neighbors(rows, rows, find_cells(rows), n_rows + 5):
        assert found.shape == (n_rows, n_rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equal_rows_the_first_ones(rng, dtype):
    """More copies than there are candidates, also over several blocks of rows."""
    rows = np.tile(rng.normal(size=(3, 5)), (2000, 1)).astype(dtype)
    distances, numbers = exact_neighbors(rows[:7], rows, 30)
    assert_array_equal(numbers, [i % 3 + 3 * np.arange(30) for i in range(7)])
    assert not distances.any()
    assert_array_equal(exact_neighbors(rows[-3:], rows, 30)[1], numbers[:3])
    same = np.ones((100, 3), dtype=dtype)
    assert_array_equal(exact_neighbors(same, same, 4)[1], [np.arange(4)] * 100)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_integers_are_ordered_by_distance_and_number(rng, dtype):
    rows = rng.integers(4, size=(700, 4)).astype(dtype)
    distances, numbers = exact_neighbors(rows, rows, 12)
    expected, order = by_definition(rows, rows, 12)
    assert_array_equal(distances, expected.astype(dtype))
    assert_array_equal(numbers, order)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.floats(-7, 0),
    offset=st.sampled_from([0, 1, 1e2, 1e4]),
    n=st.integers(1, 400),
    n_features=st.integers(1, 40),
    n_neighbors=st.integers(1, 30),
    n_copies=st.integers(1, 25),
    single=st.booleans(),
)
@deterministic(60)
def test_exact_however_near_they_are(
    seed, exponent, offset, n, n_features, n_neighbors, n_copies, single
):
    """Where float32 cannot tell them apart, and float64 only by their differences."""
    rng = np.random.default_rng(seed)
    rows = offset + tight(rng, n, n_features, 10**exponent)
    rows = rng.permutation(np.repeat(rows, n_copies, axis=0)[:n])
    rows = rows.astype(np.float32 if single else np.float64)
    queries = np.concatenate([rows[:40], rows[:3] + rows.dtype.type(1e-3)])
    n_neighbors = min(n_neighbors, n)
    distances, numbers = exact_neighbors(queries, rows, n_neighbors)
    expected, _ = by_definition(queries, rows, n_neighbors)
    assert_allclose(distances, expected, rtol=1e-6 if single else 1e-12)
    taken = queries[:, np.newaxis].astype(np.float64) - rows[numbers]
    taken = np.sqrt((taken**2).sum(axis=2))
    assert_allclose(taken, expected, rtol=1e-12)
    assert all(len(set(some)) == n_neighbors for some in numbers)
    is_tied = distances[:, 1:] == 0
    assert (np.diff(numbers)[is_tied] > 0).all()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
@deterministic(20)
def test_memory_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    rows, queries = tight(rng, 300, 6, 1e-6), rng.normal(size=(50, 6))
    odd_rows, odd_queries = in_odd_memory(rows, rng), in_odd_memory(queries, rng)
    for some, odd in ((queries, odd_queries), (rows, odd_rows)):
        expected = exact_neighbors(some, rows, 7)
        for one, other in zip(expected, exact_neighbors(odd, odd_rows, 7), strict=True):
            assert_array_equal(one, other)
        cells = find_cells(rows)
        approximate_neighbors(odd, odd_rows, cells, 7)


@pytest.mark.parametrize("scale", [1e18, 1e37, 1e200])
def test_queries_very_far_away(rng, scale):
    rows = rng.normal(size=(100, 3))
    queries = scale * rng.normal(size=(20, 3))
    cells = find_cells(rows)
    for dtype in [np.float64] if scale > 1e38 else [np.float32, np.float64]:
        some, there = queries.astype(dtype), rows.astype(dtype)
        for find in (
            exact_neighbors,
            lambda q, r, n: approximate_neighbors(q, r, cells, n),
        ):
            _, numbers = find(some, there, 5)
            assert all(len(set(found)) == 5 for found in numbers)
            assert numbers.min() >= 0
            assert numbers.max() < 100


def finders(rows):
    cells = find_cells(rows)
    return [
        exact_neighbors,
        lambda queries, rows, n: approximate_neighbors(queries, rows, cells, n),
    ]


@pytest.fixture
def mixture(rng):
    """4000 rows of 60 overlapping groups, half of them with a copy."""
    centers = rng.normal(size=(60, 16))
    rows = centers[rng.integers(60, size=2000)] + 0.4 * rng.normal(size=(2000, 16))
    return np.concatenate([rows, rows[:1000], rows[1000:] + 1e-3]).astype(np.float32)


@pytest.mark.slow
def test_threads_do_not_matter(mixture, monkeypatch):
    monkeypatch.setattr(_nearest, "_MANY", 700)
    for find in finders(mixture):
        found = []
        for n_threads in (1, 2, 4):
            monkeypatch.setattr(_nearest, "count_openmp_threads", lambda n=n_threads: n)
            found.append(find(mixture, mixture, 11))
        for distances, numbers in found[1:]:
            assert_array_equal(distances, found[0][0])
            assert_array_equal(numbers, found[0][1])


@pytest.mark.parametrize("spread", [1, 1e-6])
def test_how_queries_are_split_does_not_matter(rng, mixture, spread):
    rows = np.tile(mixture[:300], (4, 1)) * np.float32(spread) + np.float32(1)
    for find in finders(rows):
        together = find(rows, rows, 25)
        alone = [find(rows[i : i + 1], rows, 25) for i in range(40)]
        halves = find(rows[:617], rows, 25), find(rows[617:], rows, 25)
        for part in (0, 1):
            assert_array_equal(
                np.concatenate([found[part] for found in alone]), together[part][:40]
            )
            assert_array_equal(
                np.concatenate([found[part] for found in halves]), together[part]
            )


def recall(found, expected):
    pairs = zip(found, expected, strict=True)
    return np.mean([len(np.intersect1d(*pair)) / len(pair[0]) for pair in pairs])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [4, 64])
def test_approximate_finds_nearly_all(rng, n_features, dtype):
    rows, _ = make_blobs(12_000, n_features, centers=50, random_state=0)
    rows = rows.astype(dtype)
    cells = find_cells(rows)
    assert len(cells.centers) == 30
    queries = rows[rng.integers(len(rows), size=500)]
    distances, numbers = approximate_neighbors(queries, rows, cells, 11)
    expected = exact_neighbors(queries, rows, 11)
    assert distances.dtype == dtype
    assert recall(numbers[:, 1:], expected[1][:, 1:]) > 0.9
    # Its distances are those of the rows that it names, in order.
    there = np.linalg.norm(queries[:, np.newaxis] - rows[numbers], axis=2)
    assert_allclose(distances, there, rtol=1e-4, atol=1e-6)
    assert (np.diff(distances) >= 0).all()
    # A row finds itself first.
    assert_array_equal(numbers[:, 0], expected[1][:, 0])


@pytest.mark.parametrize("spread", [1e-2, 1e-4, 1e-6])
def test_approximate_in_tight_groups(rng, spread):
    rows = tight(rng, 4000, 8, spread)
    numbers = approximate_neighbors(rows, rows, find_cells(rows), 11)[1]
    assert_array_equal(numbers[:, 0], np.arange(4000))
    assert recall(numbers, exact_neighbors(rows, rows, 11)[1]) > 0.9


def test_cells_hold_every_row_once(mixture):
    cells = find_cells(mixture)
    assert_array_equal(np.sort(cells.order), np.arange(len(mixture)))
    assert cells.ends[0] == 0
    assert cells.ends[-1] == len(mixture)
    assert (np.diff(cells.ends) > 0).all()
    again = cells_around(cells.centers, mixture)
    assert_array_equal(again.centers, cells.centers)
    assert_array_equal(again.order, cells.order)
    assert_array_equal(again.ends, cells.ends)


@pytest.mark.parametrize("n_rows", [1, 2, 30, 399, 400, 801])
def test_few_rows_and_few_cells(rng, n_rows):
    rows = rng.normal(size=(n_rows, 3))
    cells = find_cells(rows)
    assert len(cells.centers) == max(1, n_rows // 400)
    for one, other in zip(
        approximate_neighbors(rows, rows, cells, 5),
        exact_neighbors(rows, rows, 5),
        strict=True,
    ):
        assert_array_equal(one, other)


def test_cells_with_fewer_rows_than_are_asked_for(rng):
    """A query that looks into small cells only finds as many neighbors as others."""
    rows = np.concatenate([rng.normal(size=(2000, 2)), [[100, 0]] * 3])
    centers = np.concatenate(
        [rng.normal(size=(5, 2)), [[100, 0]], 100 + rng.normal(size=(40, 2))]
    )
    rows = np.concatenate([rows, centers[6:]])
    cells = cells_around(centers, rows)
    queries = np.array([[100.0, 100.0], [100.0, 1.0], [0.0, 0.0]])
    distances, numbers = approximate_neighbors(queries, rows, cells, 30)
    assert np.isfinite(distances).all()
    assert numbers.min() >= 0
    expected = exact_neighbors(queries, rows, 30)[1]
    assert_array_equal(numbers[[0, 2]], expected[[0, 2]])


def test_few_distinct_rows_have_few_cells(rng):
    """k-means cannot find as many centers; nobody is warned of that."""
    rows = np.repeat(rng.normal(size=(4, 3)), 1000, axis=0)
    cells = find_cells(rows)
    assert len(cells.centers) == 4
    distances, numbers = approximate_neighbors(rows, rows, cells, 11)
    assert not distances.any()
    assert_array_equal(numbers // 1000, [[i // 1000] * 11 for i in range(4000)])


def test_one_large_cell_takes_little_memory(rng):
    """Not the products of all queries with all rows of it."""
    rows = np.concatenate([np.ones((6000, 4)), rng.normal(size=(2000, 4))])
    rows = rows.astype(np.float32)
    cells = find_cells(rows)
    approximate_neighbors(rows[:10], rows, cells, 11)  # compiles
    tracemalloc.start()
    approximate_neighbors(rows, rows, cells, 11)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000**2 * 4 / 4


def test_progress_is_told_of_all_rows(mixture, monkeypatch):
    monkeypatch.setattr(_nearest, "_MANY", 700)
    cells, told = find_cells(mixture), []
    exact_neighbors(mixture, mixture, 3, told.append)
    assert sum(told) == len(mixture)
    assert len(told) > 1
    told.clear()
    approximate_neighbors(mixture, mixture, cells, 3, told.append)
    assert sum(told) == len(mixture)
    assert len(told) > 1


@pytest.mark.parametrize("n_threads", [1, 2])
def test_an_interrupt_ends_the_search(mixture, monkeypatch, n_threads):
    monkeypatch.setattr(_nearest, "count_openmp_threads", lambda: n_threads)

    def interrupt(n):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exact_neighbors(mixture, mixture, 3, interrupt)
    assert exact_neighbors(mixture[:1], mixture, 3)[1].shape == (1, 3)
