"""What a few labels say about all samples: against dense algebra and brute force."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skcce._data import TrainingData
from skcce._label_spreading import (
    _N_STEPS,
    _RESTART,
    class_shares,
    match_clusters,
    spread_labels,
)
from skcce._neighbors import find_neighbors, random_walk

N, K = 60, 3


def some_labels(rng, n=N, n_known=7, soft=False):
    target = np.full((n, K), np.nan)
    known = rng.permutation(n)[:n_known]
    target[known] = np.eye(K)[np.arange(n_known) % K]
    if soft:
        target[known] = rng.dirichlet(np.ones(K), size=n_known)
    return target


@pytest.fixture(params=["equal", "weighted"])
def graph(request, rng):
    """Return a walk, the distribution in which it stays, and the weights."""
    weight = rng.uniform(0.5, 2, size=N) if request.param == "weighted" else None
    data = TrainingData.of(rng.normal(size=(N, 2)), weight)
    neighbors = find_neighbors(data, 5, np.random.RandomState(0))
    return neighbors.walk, neighbors.strength, data.weight


def label_mass(target, weight):
    mass = np.nan_to_num(target)
    return mass if weight is None else mass * weight[:, np.newaxis]


def assert_is_the_series(spread, walk, limit):
    """Show that `spread` is `limit`, normalized, but for the rest of the series."""
    rest = (1 - _RESTART) ** (_N_STEPS + 1) * np.linalg.matrix_power(walk, _N_STEPS + 1)
    total = limit.sum(axis=1, keepdims=True)
    off = np.abs(spread - limit / total).sum(axis=1)
    assert (off <= 2 * (rest @ limit).sum(axis=1) / total[:, 0] + 1e-12).all()


@pytest.mark.parametrize("soft", [False, True])
def test_spread_solves_its_linear_system(graph, rng, soft):
    walk, strength, weight = graph
    target = some_labels(rng, soft=soft)
    mass = label_mass(target, weight)
    begin = mass / mass.sum(axis=0) / strength[:, np.newaxis]
    dense = walk.toarray()
    limit = np.linalg.solve(np.eye(N) - (1 - _RESTART) * dense, _RESTART * begin)
    spread = spread_labels(walk, strength, target, weight)
    assert_is_the_series(spread, dense, limit)
    assert_allclose(spread.sum(axis=1), 1, rtol=1e-12)


def test_spread_is_personalized_page_rank_over_that_of_each_sample(graph, rng):
    walk, strength, weight = graph
    target, dense = some_labels(rng), walk.toarray()
    mass = label_mass(target, weight)
    # The stationary distribution of walkers that go on, and of those that restart.
    values, vectors = np.linalg.eig(dense.T)
    stays = np.real(vectors[:, np.argmax(np.real(values))])
    assert_allclose(strength / strength.sum(), stays / stays.sum(), rtol=1e-8)
    ranks = np.empty((N, K))
    for k in range(K):
        start = mass[:, k] / mass[:, k].sum()
        chain = (1 - _RESTART) * dense + _RESTART * start  # rows sum to 1
        values, vectors = np.linalg.eig(chain.T)
        rank = np.real(vectors[:, np.argmax(np.real(values))])
        ranks[:, k] = rank / rank.sum()
    spread = spread_labels(walk, strength, target, weight)
    assert_is_the_series(spread, dense, ranks / stays[:, np.newaxis] * stays.sum())


def test_scales_and_names_do_not_matter_to_the_spread(graph, rng):
    walk, strength, weight = graph
    target, order = some_labels(rng), [2, 0, 1]
    spread = spread_labels(walk, strength, target, weight)
    scaled = spread_labels(walk, 1000 * strength, target, weight)
    assert_allclose(scaled, spread, rtol=1e-12)
    renamed = spread_labels(walk, strength, target[:, order], weight)
    assert_allclose(renamed, spread[:, order], rtol=1e-12)
    ones = np.ones(N) if weight is None else 3 * weight
    assert_allclose(spread_labels(walk, strength, target, ones), spread, rtol=1e-12)
    # One label that counts twice is half of the walks of two.
    target[:] = np.nan
    target[:3] = np.eye(3)
    twice = np.ones(N) if weight is None else weight.copy()
    twice[0] *= 2
    assert_allclose(
        spread_labels(walk, strength, target, twice),
        spread_labels(walk, strength, target, weight),
        rtol=1e-12,
    )


def test_nobody_walks_to_another_part_of_the_graph(rng):
    nearest = np.array([[1, 2], [0, 2], [0, 1]])
    nearest = np.concatenate([nearest, nearest + 3, nearest + 6])
    walk, _, strength = random_walk(nearest, None, np.dtype(np.float32))
    target = np.full((9, 2), np.nan)
    target[0], target[4] = [1, 0], [0, 1]
    spread = spread_labels(walk, strength, target)
    expected = np.repeat([[1, 0], [0, 1], [0.5, 0.5]], 3, axis=0)
    assert_array_equal(spread, expected)
    assert spread.dtype == walk.dtype
    # A class that no label names gets no walks.
    more = np.hstack([target, np.where(np.isnan(target[:, :1]), np.nan, 0)])
    assert_array_equal(spread_labels(walk, strength, more)[:6, 2], 0)


def test_shares_of_labels():
    target = np.array([[1, 0], [0.5, 0.5], [np.nan, np.nan], [0, 1], [1, 0]])
    assert_allclose(class_shares(target), [2.5 / 4, 1.5 / 4])
    weight = np.array([2, 1, 9, 1, 0])
    assert_allclose(class_shares(target, weight), [2.5 / 4, 1.5 / 4])


def test_shares_of_the_spread_do_not_depend_on_how_many_labels_each_class_has():
    spread = np.tile([0.9, 0.1], (100, 1))
    shares = []
    for n_first in (1, 10, 49):
        target = np.full((100, 2), np.nan)
        target[:50] = np.eye(2)[(np.arange(50) >= n_first).astype(int)]
        shares.append(class_shares(target, spread=spread))
    assert_allclose(shares, [[0.95, 0.05]] * 3)


@pytest.mark.parametrize(("weight", "expected"), [(None, 0.45), ([1.5, 0.5], 0.625)])
def test_the_spread_counts_between_its_probabilities_and_likeliest_classes(
    weight, expected
):
    spread = np.repeat([[0.6, 0.4], [0.2, 0.8]], 10, axis=0)
    target = np.full((20, 2), np.nan)
    target[:2] = np.eye(2)
    weight = None if weight is None else np.repeat(weight, 10)
    shares = class_shares(target, weight, spread)
    assert_allclose(shares, [expected, 1 - expected])


@pytest.mark.parametrize("with_spread", [False, True])
def test_classes_without_labels_have_average_shares(rng, with_spread):
    target = some_labels(rng)
    spread = rng.dirichlet(np.ones(K), size=N) if with_spread else None
    named = class_shares(target, spread=spread)
    more = np.hstack([target, np.where(np.isnan(target[:, :2]), np.nan, 0)])
    if with_spread:
        spread = np.hstack([spread, np.zeros((N, 2))])
    shares = class_shares(more, spread=spread)
    assert_allclose(shares, [*named * 3 / 5, 1 / 5, 1 / 5])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_clusters_get_the_names_that_fit_best(rng, weighted, soft):
    labels = rng.integers(K, size=N)
    membership = 0.5 * rng.dirichlet(np.ones(K), size=N) + 0.5 * np.eye(K)[labels]
    target = some_labels(rng, n_known=12, soft=soft)
    weight = rng.uniform(0, 2, size=N) if weighted else None
    named = match_clusters(labels, membership, target, weight)
    votes, known = label_mass(target, weight), ~np.isnan(target[:, 0])

    def log_likelihood(names):
        return np.sum(votes[:, list(names)] * np.log(membership + 1e-6))

    best = np.array(max(permutations(range(K)), key=log_likelihood))
    assert_array_equal(named[~known], best[labels[~known]])
    assert_array_equal(named[known], np.nan_to_num(target[known]).argmax(axis=1))


def test_a_cluster_without_labels_gets_a_name_that_is_left(rng):
    labels = np.repeat([0, 1, 2], 5)
    target = np.full((15, 3), np.nan)
    target[0], target[10] = [0, 0, 1], [1, 0, 0]
    named = match_clusters(labels, np.eye(3)[labels], target)
    assert_array_equal(named, np.repeat([2, 1, 0], 5))
