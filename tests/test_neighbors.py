import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import pairwise_distances

from skcce._neighbors import (
    _LAZINESS,
    N_STEPS,
    draw_neighbors,
    index_of,
    principal_projection,
    random_walk,
    search,
    smooth,
    without_itself,
)


def neighbor_graph(rows, n_neighbors, weight=None):
    found = search(index_of(rows, n_neighbors, "exact"), rows)
    nearest = without_itself(*found)[1]
    return random_walk(nearest, weight, rows.dtype)[0]


def principal_rows(X, random_state):
    return principal_projection(X, random_state)(X)


def test_average_against_its_definition(rng):
    rows = rng.normal(size=(60, 3))
    distance = pairwise_distances(rows)
    np.fill_diagonal(distance, np.inf)
    directed = np.zeros((60, 60))
    for i in range(60):
        directed[i, np.argsort(distance[i])[:4]] = 1
    connections = directed + directed.T
    weight = connections / connections.sum(axis=0)
    walk = weight / weight.sum(axis=1, keepdims=True)
    expected = _LAZINESS * np.eye(60) + (1 - _LAZINESS) * walk
    assert_allclose(neighbor_graph(rows, 4).toarray(), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_of_distributions_is_a_distribution(rng, dtype):
    # Duplicated rows, too: a sample is not its own neighbor.
    rows = np.repeat(rng.normal(size=(40, 3)), 3, axis=0).astype(dtype)
    average = neighbor_graph(rows, 2)
    proba = rng.dirichlet(np.ones(5), size=120).astype(dtype)
    smoothed = smooth(average, proba)
    assert average.dtype == smoothed.dtype == dtype
    assert_allclose(smoothed.sum(axis=1), 1, rtol=1e-5)
    assert smoothed.min() >= 0
    assert smoothed.std(axis=0).max() < proba.std(axis=0).min()


def test_smooth_takes_its_steps(rng):
    average = neighbor_graph(rng.normal(size=(30, 2)), 3)
    values = rng.normal(size=(30, 2))
    expected = np.linalg.matrix_power(average.toarray(), N_STEPS) @ values
    assert_allclose(smooth(average, values), expected)


def test_separate_groups_do_not_mix(rng):
    rows = rng.normal(size=(50, 2))
    rows[25:] += 1000
    group = np.repeat([0.0, 1.0], 25)[:, None]
    assert_allclose(smooth(neighbor_graph(rows, 5), group), group, atol=1e-12)


def test_a_hub_is_averaged_less(rng):
    """A sample that all others are near to counts less than their other neighbors."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    rows = np.concatenate([np.zeros((1, 2)), np.c_[np.cos(angle), np.sin(angle)]])
    rows += 1e-6 * rng.normal(size=rows.shape)
    average = neighbor_graph(rows, 30).toarray()
    among_others = average[1:, 1:][~np.eye(40, dtype=bool)]
    assert average[1:, 0].max() < among_others[among_others > 0].mean()


def test_principal_rows_keep_the_geometry(rng):
    few = rng.normal(2, 3, size=(300, 10))
    many = few @ np.linalg.qr(rng.normal(size=(200, 10)))[0].T + 5.0
    expected = pairwise_distances(few)
    for X in (few, many):
        rows = principal_rows(X, np.random.RandomState(0))
        assert rows.shape[1] <= 128
        assert_allclose((rows**2).sum(axis=1).mean(), 1)
        distance = pairwise_distances(rows)
        ratio = distance[0, 1:] / expected[0, 1:]
        assert_allclose(ratio, ratio[0], rtol=1e-6)


def test_principal_rows_of_float32_stay_float32(rng):
    X = rng.normal(size=(200, 150)).astype(np.float32)
    rows = principal_rows(X, np.random.RandomState(0))
    assert rows.dtype == np.float32
    assert_array_equal(rows, principal_rows(X, np.random.RandomState(0)))


def test_neighbors_are_drawn_as_the_walk_goes(rng):
    graph = neighbor_graph(rng.normal(size=(20, 2)), 3)
    rows = np.repeat(np.arange(20), 2000)
    drawn = draw_neighbors(graph, rows, np.random.RandomState(0))
    share = np.zeros((20, 20))
    np.add.at(share, (rows, drawn), 1 / 2000)
    assert_allclose(share, graph.toarray(), atol=0.05)
    assert not share[graph.toarray() == 0].any()


def test_nobody_goes_to_a_neighbor_of_no_weight(rng):
    rows, weight = rng.normal(size=(20, 2)), np.ones(20)
    weight[[3, 7]] = 0
    graph = neighbor_graph(rows, 4, weight).toarray()
    others = np.delete(graph, [3, 7], axis=0)
    assert not others[:, [3, 7]].any()
    assert_allclose(graph.sum(axis=1), 1)
    # Twice the weight, twice as likely.
    heavy = np.ones(20)
    heavy[5] = 2
    plain, heavy = (neighbor_graph(rows, 4, w).toarray() for w in (None, heavy))
    i, j = next(
        (i, j) for i, j in np.argwhere(plain) if plain[i, 5] and j not in (i, 5)
    )
    assert_allclose(heavy[i, 5] / heavy[i, j], 2 * plain[i, 5] / plain[i, j])
