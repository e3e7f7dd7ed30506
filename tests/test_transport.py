"""Labels of Shannon's cross-entropy under a prior: certificates, POT, and limits."""

import numpy as np
import ot
import pytest
from conftest import deterministic
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment, linprog, minimize
from scipy.special import entr, logsumexp, rel_entr, softmax

from skcce._pseudo_labels.transport import transport_labels

LAMS = [np.inf, 100.0, 1.0, 0.01]


def normalized(scores, weight):
    weight = np.ones(len(scores)) if weight is None else weight
    return weight / weight.sum()


def primal(labels, scores, prior, epsilon, lam, weight=None):
    weight = normalized(scores, weight)
    each = -(scores * labels).sum(axis=1) - epsilon * entr(labels).sum(axis=1)
    if np.isinf(lam):
        return weight @ each
    return weight @ each + lam * rel_entr(weight @ labels, prior).sum()


def dual(prices, scores, prior, epsilon, lam, weight=None):
    weight = normalized(scores, weight)
    value = -epsilon * weight @ logsumexp((scores + prices) / epsilon, axis=1)
    if np.isinf(lam):
        return value + prior @ prices
    return value - lam * logsumexp(-prices / lam, b=prior)


def prices_of(labels, scores, prior, epsilon, lam, weight=None):
    """Return prices that follow from the labels, up to a constant."""
    if np.isinf(lam):
        # By the closed form, from the row in which no label underflows.
        i = np.ptp(scores, axis=1).argmin()
        return epsilon * np.log(labels[i]) - scores[i]
    return lam * np.log(prior / (normalized(scores, weight) @ labels))


def assert_optimal(labels, scores, prior, epsilon, lam, weight=None, tol=1e-9):
    """Check that no other labels have a value less by more than `tol`."""
    assert labels.dtype == np.float64
    assert labels.min() >= 0
    assert_allclose(labels.sum(axis=1), 1, rtol=1e-12)
    if np.isinf(lam):
        usage = normalized(scores, weight) @ labels
        assert_allclose(usage, prior, rtol=0, atol=1e-10)
    problem = scores, prior, epsilon, lam, weight
    prices = prices_of(labels, *problem)
    scale = epsilon + np.abs(scores).max() + np.abs(prices).max()
    gap = primal(labels, *problem) - dual(prices, *problem)
    assert abs(gap) <= tol * scale
    if np.ptp(scores) < 100 * epsilon:
        expected = softmax((scores + prices) / epsilon, axis=1)
        assert_allclose(labels, expected, atol=1e-6)


SCORES = {
    "normal": lambda rng, n, k: rng.normal(size=(n, k)),
    "log-probabilities": lambda rng, n, k: np.log(
        np.maximum(rng.dirichlet(np.full(k, 0.1), size=n), 1e-30)
    ),
    "duplicates": lambda rng, n, k: np.repeat(rng.normal(size=(1, k)), n, axis=0),
    "ties": lambda rng, n, k: np.round(rng.normal(size=(n, k))),
    "none": lambda rng, n, k: np.zeros((n, k)),
    "one cluster": lambda rng, n, k: np.eye(k)[np.zeros(n, int)],
}


@st.composite
def problems(draw, least, largest):
    """Scores of a range of 10**least to 10**largest temperatures, and the rest."""
    n = draw(st.sampled_from([1, 2, 3, 10, 60]))
    k = draw(st.sampled_from([1, 2, 3, 10, 30]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = SCORES[draw(st.sampled_from(sorted(SCORES)))](rng, n, k)
    epsilon = 10.0 ** draw(st.floats(-4, 3))
    temperatures = 10.0 ** draw(st.floats(least, largest))
    scores *= temperatures * epsilon / max(np.ptp(scores), 1e-3)
    prior = np.full(k, 1 / k)
    if draw(st.booleans()):
        prior = 0.9 * rng.dirichlet(np.ones(k)) + 0.1 * prior
    weight = rng.uniform(0.1, 3, size=n) if draw(st.booleans()) else None
    lam = draw(st.one_of(st.just(np.inf), st.floats(-3, 3).map(lambda x: 10.0**x)))
    return scores, prior, epsilon, lam, weight


@pytest.mark.slow
@deterministic(200)
@given(problems(-2, 2))
def test_labels_are_optimal(problem):
    labels = transport_labels(*problem[:4], weight=problem[4], tol=1e-11)
    assert_optimal(labels, *problem)


@deterministic(150)
@given(problems(2, 4))
def test_shares_are_right_where_labels_are_certain(problem):
    """Where most labels underflow, no prices follow from them: shares tell."""
    scores, prior, epsilon, lam, weight = problem
    labels = transport_labels(*problem[:4], weight=weight)
    usage = normalized(scores, weight) @ labels
    assert_allclose(labels.sum(axis=1), 1)
    if np.isinf(lam):
        assert_allclose(usage, prior, rtol=0, atol=1.01e-6)
        return
    # Whatever is moved toward any one cluster, or to other labels, is no better.
    value, slack = primal(labels, *problem), 1e-5 * (lam + np.ptp(scores))
    n, k = scores.shape
    others = [np.eye(k)[np.full(n, j)] for j in range(min(k, 3))]
    others += [np.broadcast_to(prior, (n, k)), softmax(scores / epsilon, axis=1)]
    for other in others:
        for step in (1e-3, 0.3, 1.0):
            moved = (1 - step) * labels + step * other
            assert primal(moved, *problem) >= value - slack


def random_problem(rng, n=40, n_clusters=4):
    scores = np.log(rng.dirichlet(np.ones(n_clusters), size=n))
    prior, weight = rng.dirichlet(np.full(n_clusters, 5.0)), rng.uniform(0.5, 2, n)
    return scores, prior, weight


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 2.0])
def test_agrees_with_pot(rng, epsilon):
    scores, prior, weight = random_problem(rng)
    share = weight / weight.sum()
    plan = ot.sinkhorn(
        share,
        prior,
        -scores,
        epsilon,
        method="sinkhorn_log",
        stopThr=1e-13,
        numItermax=100_000,
    )
    labels = transport_labels(scores, prior, epsilon, weight=weight, tol=1e-11)
    assert_allclose(share[:, np.newaxis] * labels, plan, atol=1e-8)


@pytest.mark.parametrize("lam", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("epsilon", [0.2, 2.0])
def test_agrees_with_unbalanced_pot(rng, epsilon, lam):
    scores, prior, weight = random_problem(rng)
    share = weight / weight.sum()
    plan = ot.unbalanced.sinkhorn_unbalanced(
        share,
        prior,
        -scores,
        epsilon,
        (1e12, lam),  # the shares of the samples are as given
        reg_type="kl",
        c=np.ones_like(scores),
        stopThr=1e-14,
        numItermax=100_000,
    )
    labels = transport_labels(scores, prior, epsilon, lam, weight=weight, tol=1e-11)
    assert_allclose(share[:, np.newaxis] * labels, plan, atol=1e-8)


@pytest.mark.parametrize("lam", LAMS)
def test_agrees_with_scipy(rng, lam):
    scores, prior, weight = random_problem(rng, n=12, n_clusters=3)
    problem = scores, prior, 0.5, lam, weight
    found = minimize(lambda prices: -dual(prices, *problem), np.zeros(3), tol=1e-12)
    labels = transport_labels(*problem[:4], weight=weight)
    assert_allclose(primal(labels, *problem), -found.fun, rtol=1e-5)


def test_balanced_one_hot_labels_as_the_temperature_falls(rng):
    scores = rng.normal(size=(8, 8))
    _, best = linear_sum_assignment(scores, maximize=True)
    labels = transport_labels(scores, np.full(8, 1 / 8), 1e-3)
    assert_allclose(labels, np.eye(8)[best], atol=1e-3)


def test_the_value_of_a_linear_program_as_the_temperature_falls(rng):
    scores, prior, weight = random_problem(rng, n=15, n_clusters=3)
    share = weight / weight.sum()
    of_samples = np.kron(np.eye(15), np.ones(3))
    of_clusters = np.kron(np.ones(15), np.eye(3))
    best = linprog(
        -scores.ravel(),
        A_eq=np.concatenate([of_samples, of_clusters]),
        b_eq=np.concatenate([share, prior]),
    )
    for epsilon in (1e-2, 1e-3):
        labels = transport_labels(scores, prior, epsilon, weight=weight, tol=1e-9)
        loss = -share @ (scores * labels).sum(axis=1)
        assert -1e-7 <= loss - best.fun <= epsilon * np.log(3)


@pytest.mark.parametrize("lam", LAMS)
def test_weights_are_repeated_samples(rng, lam):
    scores, prior, _ = random_problem(rng, n=20)
    weight = rng.integers(0, 4, size=20).astype(float)
    labels = transport_labels(scores, prior, 0.1, lam, weight=weight, tol=1e-11)
    rows = np.repeat(np.arange(20), weight.astype(int))
    by_copy = transport_labels(scores[rows], prior, 0.1, lam, tol=1e-11)
    assert_allclose(labels[rows], by_copy, atol=1e-7)
    half = transport_labels(scores, prior, 0.1, lam, weight=weight / 2, tol=1e-11)
    assert_allclose(half, labels, atol=1e-7)


@pytest.mark.parametrize("lam", LAMS)
def test_no_label_has_a_part_in_a_cluster_of_zero_prior(rng, lam):
    scores, _, weight = random_problem(rng)
    prior = np.array([0.5, 0, 0.2, 0.3])
    labels = transport_labels(scores, prior, 0.1, lam, weight=weight, tol=1e-11)
    assert_array_equal(labels[:, 1], 0)
    rest = [0, 2, 3]
    alone = transport_labels(
        scores[:, rest], prior[rest], 0.1, lam, weight=weight, tol=1e-11
    )
    assert_allclose(labels[:, rest], alone, atol=1e-12)


@pytest.mark.parametrize("lam", LAMS)
def test_names_of_clusters_and_constants_of_samples_do_not_matter(rng, lam):
    scores, prior, weight = random_problem(rng)
    labels = transport_labels(scores, prior, 0.1, lam, weight=weight, tol=1e-11)
    order = rng.permutation(4)
    permuted = transport_labels(
        scores[:, order] + rng.normal(size=(40, 1)),
        prior[order],
        0.1,
        lam,
        weight=weight,
        tol=1e-11,
    )
    assert_allclose(permuted, labels[:, order], atol=1e-8)


@pytest.mark.parametrize("lam", LAMS)
def test_equal_samples_have_equal_labels(rng, lam):
    scores, prior, _ = random_problem(rng)
    scores[20:] = scores[:20]
    labels = transport_labels(scores, prior, 0.01, lam)
    assert_array_equal(labels[20:], labels[:20])


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("epsilon", [1e-4, 0.05, 1e3])
def test_hardly_any_samples_or_clusters(rng, lam, epsilon):
    one_cluster = transport_labels(rng.normal(size=(5, 1)), np.ones(1), epsilon, lam)
    assert_array_equal(one_cluster, 1)
    prior = np.array([0.2, 0.3, 0.1, 0.4])
    for n in (1, 2, 3):
        scores = rng.normal(size=(n, 4))
        labels = transport_labels(scores, prior, epsilon, lam)
        assert_allclose(labels.sum(axis=1), 1)
        if np.isinf(lam):
            assert_allclose(labels.mean(axis=0), prior, rtol=0, atol=1.01e-6)


@pytest.mark.parametrize("epsilon", [1e-2, 0.05, 1.0])
def test_scores_of_a_large_range(rng, epsilon):
    """Labels are certain over spans of prices in which no share changes."""
    for n in (6, 50):
        scores = 1e3 * rng.normal(size=(n, 6))
        labels = transport_labels(scores, np.full(6, 1 / 6), epsilon)
        assert_allclose(labels.mean(axis=0), 1 / 6, rtol=0, atol=1.01e-6)


@pytest.mark.parametrize("lam", [np.inf, 1.0, 0.1])
def test_a_few_steps_are_enough(rng, lam):
    """With a wrong curvature they would get there, too, but in dozens."""
    scores, prior, weight = random_problem(rng, n=300, n_clusters=10)
    labels = transport_labels(
        scores, prior, 0.02, lam, weight=weight, tol=1e-11, max_iter=10
    )
    assert_optimal(labels, scores, prior, 0.02, lam, weight)


def test_a_high_temperature_leaves_the_prior(rng):
    scores, prior, _ = random_problem(rng)
    labels = transport_labels(scores, prior, 1e5, tol=1e-12)
    assert_allclose(labels, np.broadcast_to(prior, (40, 4)), atol=1e-4)


def test_without_a_wish_the_labels_are_a_softmax(rng):
    scores, prior, _ = random_problem(rng)
    labels = transport_labels(scores, prior, 0.5, 1e-6)
    assert_allclose(labels, softmax(scores / 0.5, axis=1), atol=1e-4)


def test_a_strong_wish_is_a_constraint(rng):
    scores, prior, _ = random_problem(rng)
    strong = transport_labels(scores, prior, 0.5, 1e6, tol=1e-10)
    exact = transport_labels(scores, prior, 0.5, tol=1e-10)
    assert_allclose(strong, exact, atol=1e-4)


def test_float32_is_computed_in_float64(rng):
    scores, prior, weight = random_problem(rng)
    scores, before = scores.astype(np.float32), scores.astype(np.float32)
    labels = transport_labels(scores, prior, 0.1, weight=weight.astype(np.float32))
    assert labels.dtype == np.float64
    assert_array_equal(scores, before)
    expected = transport_labels(scores.astype(np.float64), prior, 0.1, weight=weight)
    assert_allclose(labels, expected, atol=1e-5)


def test_same_input_same_bits(rng):
    scores, prior, weight = random_problem(rng)
    one, other = (transport_labels(scores, prior, 0.02, weight=weight) for _ in "12")
    assert_array_equal(one, other)
