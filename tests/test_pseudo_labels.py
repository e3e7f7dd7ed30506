"""Optimality certificates and invariances of the pseudo-label solver."""

import math
from itertools import pairwise

import numpy as np
import pytest
from mpmath import fsum, mpf, workdps
from numba import njit
from numpy.testing import assert_allclose
from scipy.optimize import LinearConstraint, minimize
from scipy.special import softmax

import skcce._pseudo_labels
from skcce import solve_pseudo_labels
from skcce._pseudo_labels import (
    _em_iteration,
    _mean_best_response,
    _solve_m_step,
    duality_gap,
    expectation_maximization,
    positive_rows,
    pseudo_label_loss,
)

SIGMAS = {
    "ordinary": lambda rng, k: rng.random(k) + 0.01,
    "down to 1e-300": lambda rng, k: 10.0 ** -rng.uniform(0, 300, k),
    "ties": lambda rng, k: rng.choice([1.0, 0.5, 1e-5], k),
    "zeros": lambda rng, k: np.where(np.arange(k) % 2, 0.0, rng.random(k) + 0.01),
}
FORCES = {
    "1e-6": lambda rng, k: np.full(k, 1e-6),
    "1e6": lambda rng, k: np.full(k, 1e6),
    "0.01 to 100": lambda rng, k: 10.0 ** rng.uniform(-2, 2, k),
    "1e-6 to 1e6": lambda rng, k: 10.0 ** rng.uniform(-6, 6, k),
    "1e-280 to 1e9": lambda rng, k: 10.0 ** rng.uniform(-279.9, 9, k),
}
PRIORS = {
    "even": lambda k: np.ones(k),
    "steep": lambda k: 0.5 ** np.arange(k),
    "tiny entry": lambda k: np.r_[1e-12, np.ones(k - 1)],
    "1e-100": lambda k: np.r_[np.ones(k - 1), 1e-100],
    "zero entry": lambda k: np.r_[0.0, np.ones(k - 1)],
}
LAMS = [1e-6, 1e-2, 0.4, 10.0, 1e3, 1e6]

all_sigmas = pytest.mark.parametrize("sigma_kind", SIGMAS)
all_forces = pytest.mark.parametrize("force_kind", FORCES)
all_priors = pytest.mark.parametrize("prior_kind", PRIORS)
all_lams = pytest.mark.parametrize("lam", LAMS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw_predictions(n_samples, n_clusters, seed=0, sharpness=2.0):
    """Return the softmax of Gaussian logits."""
    rng = np.random.default_rng(seed)
    return softmax(sharpness * rng.normal(size=(n_samples, n_clusters)), axis=1)


def draw_sub_problem(rng, n_clusters, sigma_kind, force_kind):
    """Return sigma and the forces of one sample."""
    sigma = SIGMAS[sigma_kind](rng, n_clusters)
    return sigma / sigma.sum(), FORCES[force_kind](rng, n_clusters)


def draw_prior(kind, n_clusters):
    prior = PRIORS[kind](n_clusters)
    return prior / prior.sum()


def m_step(sigma, force):
    label = np.array(force, dtype=float)
    best = sigma.max()
    _solve_m_step((best - sigma) / best, force * (sigma / best), label)
    return label


def m_step_in_many_digits(sigma, force):
    """Solve eq. (16) in 500 digits; all forces are positive."""
    with workdps(500):
        sigma, force = [mpf(float(s)) for s in sigma], [mpf(float(a)) for a in force]
        best, c = max(sigma), 1 + fsum(force)
        shortfall = [1 - s / best for s in sigma]
        pull = [a * s / best for a, s in zip(force, sigma, strict=True)]
        terms = list(zip(pull, shortfall, strict=True))
        root = max(b - r for b, r in terms)  # Lemma 1
        step = root
        while abs(step) > root * mpf(10) ** -150:
            value = fsum(b / (r + root) for b, r in terms)
            slope = fsum(b / (r + root) ** 2 for b, r in terms)
            step = (value - 1) * value / slope
            root += step
        x = (1 + root) * best / c
        label = [a / (c - s / x) for a, s in zip(force, sigma, strict=True)]
        # The certificate of the reference: eq. (16) itself, in its interval.
        assert best / c < x <= best
        assert min(label) > 0
        assert abs(fsum(label) - 1) < mpf(10) ** -100
    return label


def assert_m_step_is_optimal(sigma, force, label, rtol=1e-10):
    """Check the KKT conditions of eq. (15): sufficient, because it is convex."""
    assert label.min() >= 0
    assert label.sum() == pytest.approx(1, abs=1e-14)
    gain = sigma / (sigma @ label)
    shared = force > 0
    assert (label[shared] > 0).all()
    gain[shared] += force[shared] / label[shared]
    multiplier = 1 + force.sum()
    np.testing.assert_allclose(gain[label > 0], multiplier, rtol=rtol)
    assert (gain <= multiplier * (1 + rtol)).all()


def assert_distributions(labels, tol=1e-15):
    assert np.isfinite(labels).all()
    assert labels.min() >= 0
    np.testing.assert_allclose(labels.sum(axis=1, dtype=float), 1, rtol=0, atol=tol)


def plain_loss(proba, labels, lam, prior):
    """Eq. (11), term by term."""
    collisions = [
        sum(float(p) * float(y) for p, y in zip(*rows, strict=True))
        for rows in zip(proba, labels, strict=True)
    ]
    loss = -math.fsum(math.log(c) for c in collisions) / len(collisions)
    for u, column in zip(prior, np.transpose(labels), strict=True):
        if u > 0:
            usage = math.fsum(column) / len(column)
            loss += lam * u * math.log(u / usage)
    return loss


def sum_level_em(proba, lam_sum, n_iter):
    """Eqs. (14)-(16) as printed, with bisection for x; equal shares."""
    n_clusters = proba.shape[1]
    labels = proba.copy()
    best = proba.max(axis=1, keepdims=True)
    for _ in range(n_iter):
        force = lam_sum / n_clusters * labels / labels.sum(axis=0)
        c = 1 + force.sum(axis=1, keepdims=True)
        low, high = best / c, best.copy()
        for _ in range(100):
            x = (low + high) / 2
            too_low = (force / (c - proba / x)).sum(axis=1, keepdims=True) > 1
            low, high = np.where(too_low, x, low), np.where(too_low, high, x)
        labels = force / (c - proba / high)
    return labels


# ------------------------------------------------------------------ M-step, one sample


@pytest.mark.parametrize("n_clusters", [2, 3, 20, 1000])
@all_sigmas
@all_forces
def test_m_step_has_many_correct_digits(n_clusters, sigma_kind, force_kind):
    for seed in range(1 if n_clusters == 1000 else 5):
        rng = np.random.default_rng(seed)
        sigma, force = draw_sub_problem(rng, n_clusters, sigma_kind, force_kind)
        exact = m_step_in_many_digits(sigma, force)
        for got, wanted in zip(m_step(sigma, force), exact, strict=True):
            if wanted > 1e-290:
                assert abs(got / wanted - 1) < 1e-14


@pytest.mark.parametrize("tiny", [1e-20, 1e-12, 1e-6])
def test_m_step_where_the_root_is_ill_conditioned(tiny):
    """The second cluster alone fills the simplex, up to a rounding error or so."""
    sigma, force = np.array([2 / 3, 1 / 3]), np.array([tiny, 1.0])
    exact = [float(y) for y in m_step_in_many_digits(sigma, force)]
    np.testing.assert_allclose(m_step(sigma, force), exact, rtol=0, atol=1e-15)


@pytest.mark.parametrize("n_clusters", [2, 3, 20, 200])
@pytest.mark.parametrize("zero_shares", [False, True])
@all_sigmas
@all_forces
def test_m_step_satisfies_kkt(n_clusters, zero_shares, sigma_kind, force_kind):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        sigma, force = draw_sub_problem(rng, n_clusters, sigma_kind, force_kind)
        if zero_shares:
            force[rng.random(n_clusters) < 0.5] = 0
        assert_m_step_is_optimal(sigma, force, m_step(sigma, force))


@pytest.mark.parametrize(
    ("sigma", "force"),
    [
        ([0.6, 0.3, 0.1], [0, 0.5, 0.7]),
        ([0.3, 0.6, 0.1], [1e-6, 0, 1e-8]),
        ([0.1, 0.9 - 1e-9, 1e-9], [5.0, 0, 1e6]),
        ([0.5, 0.3, 0.2, 0.0], [0, 0, 0.3, 40.0]),
        ([0.5, 0.5 - 1e-12, 1e-12], [0, 1e-13, 1.0]),
    ],
)
def test_zero_share_of_the_best_cluster_that_pays(sigma, force):
    """Closed form of the paper's Appendix B."""
    sigma, force = np.array(sigma), np.array(force)
    best, shared = sigma.argmax(), force > 0
    c = 1 + force.sum()
    expected = np.zeros(len(sigma))
    expected[shared] = force[shared] / (c * (1 - sigma[shared] / sigma[best]))
    expected[best] = 1 - expected.sum()
    assert expected[best] > 0
    label = m_step(sigma, force)
    # 1 - sum and 1 - sigma / sigma_max cancel in the formula, not in the solver.
    np.testing.assert_allclose(label, expected, rtol=1e-3, atol=1e-14)
    assert_m_step_is_optimal(sigma, force, label)


@pytest.mark.parametrize(
    ("sigma", "force"),
    [
        ([0.6, 0.3, 0.1], [0, 2.0, 0.7]),
        ([0.6, 0.3, 0.1], [0, 0.5, 3.0]),  # either alone would leave it something
        ([0.6, 0.3, 0.1], [0, 1.0, 0]),  # the border: nothing is left for it
        ([0.3, 0.6, 0.1], [1e6, 0, 1e-8]),
        ([0.4, 0.4, 0.2], [0, 1e-9, 1.0]),  # another best cluster has a share
        ([0.5, 0.3, 0.2, 0.0], [0, 0, 3.0, 40.0]),
        ([0.5, 0.5 - 1e-12, 1e-12], [0, 1e-11, 1.0]),
    ],
)
def test_zero_share_of_the_best_cluster_that_does_not_pay(sigma, force):
    """The clusters with a share solve the problem among themselves."""
    sigma, force = np.array(sigma), np.array(force)
    shared = force > 0
    label = m_step(sigma, force)
    np.testing.assert_array_equal(label[~shared], 0)
    np.testing.assert_allclose(label[shared], m_step(sigma[shared], force[shared]))
    assert_m_step_is_optimal(sigma, force, label)


@pytest.mark.parametrize("force", [[0, 0.2, 0.3], [0, 2.0, 0.3], [0.4, 0, 3.0]])
def test_m_step_agrees_with_scipy(force):
    sigma, force = np.array([0.5, 0.3, 0.2]), np.array(force)
    shared = force > 0

    def objective(label):
        return -np.log(sigma @ label) - force[shared] @ np.log(label[shared])

    best = minimize(
        objective,
        np.full(3, 1 / 3),
        method="SLSQP",
        bounds=np.column_stack([np.where(shared, 1e-9, 0), np.ones(3)]),
        constraints=LinearConstraint(np.ones(3), 1, 1),
        options={"ftol": 1e-14},
    )
    assert best.success
    label = m_step(sigma, force)
    assert objective(label) <= best.fun + 1e-12
    np.testing.assert_allclose(label, best.x, rtol=0, atol=1e-4)


@all_sigmas
def test_no_shares_at_all_give_the_best_cluster(sigma_kind):
    sigma, _ = draw_sub_problem(np.random.default_rng(3), 20, sigma_kind, "1e6")
    label = m_step(sigma, np.zeros(20))
    assert sigma @ label == sigma.max()
    np.testing.assert_array_equal(np.sort(label), np.eye(20)[19])


# ---------------------------------------------------------------------------- objective


@both_dtypes
@all_priors
def test_loss_is_eq_11(dtype, prior_kind):
    prior = draw_prior(prior_kind, 4)
    proba, labels = (draw_predictions(25, 4, seed).astype(dtype) for seed in (0, 1))
    expected = plain_loss(proba, labels, 3.0, prior)
    assert pseudo_label_loss(proba, labels, 3.0, prior) == pytest.approx(expected)
    result = solve_pseudo_labels(proba, lam=3.0, prior=PRIORS[prior_kind](4))
    expected = plain_loss(proba, result.pseudo_labels, 3.0, prior)
    assert result.loss == pytest.approx(expected, rel=1e-12)


def test_loss_and_gap_are_infinite_if_a_wanted_cluster_is_empty():
    proba, labels = draw_predictions(5, 2), np.tile([1.0, 0.0], (5, 1))
    prior = np.array([0.5, 0.5])
    loss = pseudo_label_loss(proba, labels, 1.0, prior)
    assert loss == np.inf
    assert duality_gap(proba, labels, 1.0, prior, loss) == np.inf
    assert np.isfinite(pseudo_label_loss(proba, labels, 1.0, np.array([1.0, 0.0])))


@pytest.mark.parametrize("n_clusters", [2, 20, 200])
@all_lams
@all_priors
def test_loss_never_rises(n_clusters, lam, prior_kind):
    prior = draw_prior(prior_kind, n_clusters)
    proba = draw_predictions(20, n_clusters)
    labels = draw_predictions(20, n_clusters, seed=1)
    losses = [pseudo_label_loss(proba, labels, lam, prior)]
    for _ in range(20):
        expectation_maximization(proba, labels, lam, prior, 1, 0.0)
        losses.append(pseudo_label_loss(proba, labels, lam, prior))
    assert np.isfinite(losses).all()
    assert np.diff(losses).max() <= 1e-14 * (1 + lam)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("n_clusters", [2, 20])
@all_lams
@all_priors
def test_gap_bounds_the_distance_to_a_better_solution(n_clusters, lam, prior_kind):
    """Weak duality; in particular no gap is negative."""
    prior = draw_prior(prior_kind, n_clusters)
    proba = draw_predictions(30, n_clusters)
    better = solve_pseudo_labels(
        proba, lam=lam, prior=prior, max_iter=500, tol=0, return_gap=True
    )
    rounding = 1e-13 * (1 + lam)
    assert better.gap >= -rounding
    for n_iter in (0, 1, 10):
        labels = draw_predictions(30, n_clusters, seed=n_iter)
        if n_iter > 0:
            expectation_maximization(proba, labels, lam, prior, n_iter, 0.0)
        loss = pseudo_label_loss(proba, labels, lam, prior)
        gap = duality_gap(proba, labels, lam, prior, loss)
        assert gap >= loss - better.loss - rounding


@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.9, 0.1]])
def test_gap_closes(prior):
    proba = draw_predictions(250, 2)
    gaps = [
        solve_pseudo_labels(
            proba, lam=0.4, prior=prior, max_iter=n_iter, tol=0, return_gap=True
        ).gap
        for n_iter in (1, 10, 100, 1000, 10000)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert -1e-14 <= gaps[-1] < 1e-9


@pytest.mark.parametrize("sigma_kind", ["ordinary", "ties", "zeros"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_best_response_is_the_maximum_over_all_edges(sigma_kind, scale):
    """max ln(sigma.y) + w.y lies on an edge, where it has a closed form."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sigma, _ = draw_sub_problem(rng, 6, sigma_kind, "1e6")
        price = scale * rng.random(6)
        values = []
        for j in range(6):
            for k in range(6):
                gain, cost = sigma[j] - sigma[k], price[k] - price[j]
                t = (gain / cost - sigma[k]) / gain if gain * cost else 1.0
                y = np.zeros(6)
                y[k] = 1 - np.clip(t, 0, 1)
                y[j] += 1 - y[k]
                if sigma @ y > 0:
                    values.append(np.log(sigma @ y) + price @ y)
        response = _mean_best_response(sigma[None], price)
        assert response == pytest.approx(max(values), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("lam", [0.1, 1.0])
@pytest.mark.parametrize("prior", [[1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])
def test_solution_agrees_with_scipy(lam, prior):
    prior = np.array(prior)
    proba = draw_predictions(12, 3)
    ours = solve_pseudo_labels(
        proba, lam=lam, prior=prior, max_iter=100_000, tol=1e-12, return_gap=True
    )

    def objective(flat):
        labels = flat.reshape(proba.shape)
        collision = np.sum(proba * labels, axis=1, keepdims=True)
        usage = labels.mean(axis=0)
        loss = -np.log(collision).mean() + lam * prior @ np.log(prior / usage)
        gradient = (-proba / collision - lam * prior / usage) / len(proba)
        return loss, gradient.ravel()

    theirs = minimize(
        objective,
        np.full(proba.size, 1 / 3),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * proba.size,
        constraints=LinearConstraint(np.kron(np.eye(12), np.ones(3)), 1, 1),
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert theirs.success
    assert ours.loss == pytest.approx(theirs.fun, abs=1e-6)
    assert theirs.fun >= ours.loss - ours.gap - 1e-10


# ------------------------------------------------------------------------- whole solver


@both_dtypes
@pytest.mark.parametrize("n_clusters", [2, 20, 200])
@all_lams
def test_labels_are_distributions(dtype, n_clusters, lam):
    proba = draw_predictions(40, n_clusters, sharpness=5).astype(dtype)
    labels = solve_pseudo_labels(proba, lam=lam, max_iter=20).pseudo_labels
    assert labels.dtype == dtype
    assert labels.shape == proba.shape
    assert_distributions(labels, 4 * np.finfo(dtype).eps)


@all_lams
@all_priors
def test_permuted_clusters_and_samples(lam, prior_kind):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(30), rng.permutation(7)
    proba, prior = draw_predictions(30, 7), PRIORS[prior_kind](7)
    kwargs = {"lam": lam, "max_iter": 30, "tol": 0}
    result = solve_pseudo_labels(proba, prior=prior, **kwargs)
    permuted = solve_pseudo_labels(
        proba[rows][:, columns], prior=prior[columns], **kwargs
    )
    np.testing.assert_allclose(
        permuted.pseudo_labels,
        result.pseudo_labels[rows][:, columns],
        rtol=1e-9,
        atol=1e-13,
    )
    assert permuted.loss == pytest.approx(result.loss, abs=1e-14 * (1 + lam))


@all_lams
@pytest.mark.parametrize("n_copies", [2, 7])
def test_lam_does_not_depend_on_the_number_of_samples(lam, n_copies):
    proba = draw_predictions(30, 5)
    kwargs = {"lam": lam, "max_iter": 30, "tol": 0}
    once = solve_pseudo_labels(proba, **kwargs)
    copies = solve_pseudo_labels(np.tile(proba, (n_copies, 1)), **kwargs)
    expected = np.tile(once.pseudo_labels, (n_copies, 1))
    np.testing.assert_allclose(copies.pseudo_labels, expected, rtol=1e-9, atol=1e-13)
    assert copies.loss == pytest.approx(once.loss, abs=1e-14 * (1 + lam))


def test_lam_is_the_papers_over_the_number_of_samples():
    """Eq. (15) read literally: its 100 with batches of 250 is 0.4 here."""
    proba = draw_predictions(250, 4, sharpness=1)
    result = solve_pseudo_labels(proba, lam=0.4, max_iter=10, tol=0)
    expected = sum_level_em(proba, lam_sum=100, n_iter=10)
    np.testing.assert_allclose(result.pseudo_labels, expected, rtol=1e-9, atol=1e-13)


@all_lams
@all_priors
def test_equal_rows_share_one_m_step(lam, prior_kind):
    """For equal predictions, a mean force of lam * prior solves the whole problem."""
    prior = draw_prior(prior_kind, 3)
    sigma = np.array([0.2, 0.5, 0.3])
    for n_samples in (1, 10):
        labels = solve_pseudo_labels(
            np.tile(sigma, (n_samples, 1)), lam=lam, prior=prior, max_iter=1
        ).pseudo_labels
        expected = np.tile(m_step(sigma, lam * prior), (n_samples, 1))
        np.testing.assert_allclose(labels, expected, rtol=1e-13)


def test_duplicated_columns_get_equal_labels():
    half = draw_predictions(20, 3) / 2
    labels = solve_pseudo_labels(np.hstack([half, half]), lam=2.0).pseudo_labels
    np.testing.assert_allclose(labels[:, :3], labels[:, 3:], rtol=1e-12, atol=1e-15)


@both_dtypes
def test_single_cluster_costs_nothing(dtype):
    result = solve_pseudo_labels(np.ones((4, 1), dtype), lam=2.0, return_gap=True)
    np.testing.assert_array_equal(result.pseudo_labels, 1)
    assert result.loss == 0
    assert result.gap == pytest.approx(0, abs=1e-15)
    assert result.converged


@both_dtypes
@all_lams
@pytest.mark.parametrize("prior", [None, [1, 1, 0], [0, 0, 1], [1, 1e-100, 1]])
@pytest.mark.parametrize("start", ["proba", "even"])
def test_hard_predictions_give_no_nan(dtype, lam, prior, start):
    rows = [[1, 0, 0], [1 - 1e-16, 1e-300, 0], [0.5, 0.5, 0], [1 - 2**-24, 2**-24, 0]]
    proba = np.array(rows, dtype)
    result = solve_pseudo_labels(
        proba,
        lam=lam,
        prior=prior,
        init=None if start == "proba" else np.full((4, 3), 1 / 3),
        max_iter=50,
    )
    assert_distributions(result.pseudo_labels, 4 * np.finfo(dtype).eps)
    assert not np.isnan(result.loss)


@both_dtypes
def test_default_start_can_use_a_cluster_that_no_sample_predicts(dtype):
    """Without a floor under the start, the zero column would stay zero."""
    proba = np.zeros((50, 3), dtype)
    proba[:25, 0] = proba[25:, 1] = 1
    result = solve_pseudo_labels(proba, lam=1e3, max_iter=100, return_gap=True)
    usage = result.pseudo_labels.mean(axis=0, dtype=float)
    # KKT where proba is zero: lam * prior / usage equals the multiplier 1 + lam.
    np.testing.assert_allclose(usage[2], 1e3 / 3 / (1 + 1e3), rtol=1e-4)
    assert result.gap == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("lam", [1e-2, 1.0, 100.0])
def test_zeros_of_the_start_grow_only_at_the_best_cluster(lam):
    """Property 1 of the paper."""
    proba = draw_predictions(40, 4)
    init = draw_predictions(40, 4, seed=1)
    init[np.random.default_rng(2).random(init.shape) < 0.4] = 0
    init[:, 0] += init.sum(axis=1) == 0
    init /= init.sum(axis=1, keepdims=True)
    best = proba == proba.max(axis=1, keepdims=True)
    labels = solve_pseudo_labels(
        proba, lam=lam, init=init, max_iter=20, tol=0
    ).pseudo_labels
    assert (labels[(init == 0) & ~best] == 0).all()
    assert (labels[init > 0] > 0).all()
    if lam < 1:
        assert (labels[(init == 0) & best] > 0).any()


def test_a_cluster_without_prior_is_used_where_it_is_best():
    labels = solve_pseudo_labels(
        draw_predictions(40, 3), lam=0.1, prior=[0, 1, 1], max_iter=100
    ).pseudo_labels
    best = draw_predictions(40, 3).argmax(axis=1) == 0
    assert (labels[~best, 0] == 0).all()
    assert (labels[best, 0] > 0).any()


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 7.0, 1e308])
def test_prior_is_scaled_to_sum_to_one(scale):
    prior = np.array([0.5, 0.9, 1.2])
    proba = draw_predictions(20, 3)
    expected = solve_pseudo_labels(proba, lam=1.0, prior=prior)
    result = solve_pseudo_labels(proba, lam=1.0, prior=scale * prior)
    np.testing.assert_allclose(result.pseudo_labels, expected.pseudo_labels, rtol=1e-10)


@pytest.mark.parametrize("lam", [1e-3, 1.0, 1e3])
def test_default_prior_is_even_and_default_start_is_proba(lam):
    proba = draw_predictions(20, 3)
    default = solve_pseudo_labels(proba, lam=lam)
    explicit = solve_pseudo_labels(proba, lam=lam, prior=np.ones(3), init=proba)
    np.testing.assert_allclose(
        default.pseudo_labels, explicit.pseudo_labels, rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float64, 1e-300), (np.float32, 1e-50)])
def test_share_too_small_for_the_dtype_leaves_a_finite_loss(dtype, tiny):
    """The wanted share underflows in the labels, where no sample has it as best."""
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], dtype)
    result = solve_pseudo_labels(proba, lam=1.0, prior=[1, tiny])
    expected = -np.log([0.9, 0.8, 0.7]).mean()  # the limit of a zero share
    assert result.loss == pytest.approx(expected, rel=1e-6)


# ----------------------------------------------------------------- stopping and restart


def test_runs_all_iterations_with_zero_tol():
    result = solve_pseudo_labels(draw_predictions(50, 5), lam=0.4, max_iter=3, tol=0)
    assert result.n_iter == 3
    assert not result.converged
    assert result.gap is None


def test_stops_at_the_first_small_change():
    proba = draw_predictions(50, 5)
    result = solve_pseudo_labels(proba, lam=0.4, tol=1e-3)
    assert result.converged
    assert 1 < result.n_iter < 1000
    last = [
        solve_pseudo_labels(proba, lam=0.4, tol=0, max_iter=result.n_iter - n)
        for n in (2, 1, 0)
    ]
    changes = [
        np.abs(after.pseudo_labels - before.pseudo_labels).max()
        for before, after in pairwise(last)
    ]
    assert changes[0] > 1e-3 >= changes[1]
    kwargs = {"lam": 0.4, "tol": 1e-3, "max_iter": result.n_iter}
    assert solve_pseudo_labels(proba, **kwargs).converged  # in the last one allowed
    assert solve_pseudo_labels(proba, lam=0.4, tol=1).n_iter == 1


@both_dtypes
def test_continues_from_the_previous_result(dtype):
    proba = draw_predictions(50, 5).astype(dtype)
    whole = solve_pseudo_labels(proba, lam=0.4, max_iter=10, tol=0)
    first = solve_pseudo_labels(proba, lam=0.4, max_iter=6, tol=0)
    second = solve_pseudo_labels(
        proba, lam=0.4, max_iter=4, tol=0, init=first.pseudo_labels
    )
    rounding = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        second.pseudo_labels, whole.pseudo_labels, rtol=0, atol=rounding
    )
    assert second.loss < first.loss


# ------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("lam", [1e-2, 1.0, 1e2])
def test_float32_is_close_to_float64(lam):
    double = draw_predictions(200, 6)
    single = double.astype(np.float32)
    kwargs = {"lam": lam, "max_iter": 30, "tol": 0, "return_gap": True}
    wide, narrow = (solve_pseudo_labels(p, **kwargs) for p in (double, single))
    assert narrow.pseudo_labels.dtype == np.float32
    np.testing.assert_allclose(
        narrow.pseudo_labels, wide.pseudo_labels, rtol=0, atol=1e-5
    )
    assert narrow.loss == pytest.approx(wide.loss, rel=1e-6)
    assert narrow.gap == pytest.approx(wide.gap, abs=1e-6 * (1 + lam))


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "layout",
    [
        np.ndarray.tolist,
        np.asfortranarray,
        frozen,
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array[::-1][::-1],
    ],
    ids=["list", "Fortran", "read-only", "strided", "reversed twice"],
)
def test_memory_layout_does_not_matter(layout):
    proba, init = draw_predictions(20, 4), draw_predictions(20, 4, seed=1)
    kwargs = {"lam": 1.0, "max_iter": 10, "return_gap": True}
    expected = solve_pseudo_labels(proba, init=init, **kwargs)
    result = solve_pseudo_labels(layout(proba), init=layout(init), **kwargs)
    np.testing.assert_allclose(
        result.pseudo_labels, expected.pseudo_labels, rtol=1e-11, atol=1e-15
    )
    assert result.gap == pytest.approx(expected.gap)


def test_reads_a_memory_map(tmp_path):
    proba = draw_predictions(20, 4)
    np.save(tmp_path / "proba.npy", proba)
    mapped = np.load(tmp_path / "proba.npy", mmap_mode="r")
    result = solve_pseudo_labels(mapped, lam=1.0)
    expected = solve_pseudo_labels(proba, lam=1.0)
    np.testing.assert_allclose(result.pseudo_labels, expected.pseudo_labels, rtol=1e-11)


def test_integers_become_float64():
    result = solve_pseudo_labels([[1, 0], [0, 1]], lam=1.0)
    assert result.pseudo_labels.dtype == np.float64
    np.testing.assert_allclose(result.pseudo_labels, np.eye(2), atol=1e-15)


@both_dtypes
def test_arguments_are_not_modified(dtype):
    proba = draw_predictions(20, 4).astype(dtype)
    init = draw_predictions(20, 4, seed=1).astype(dtype)
    prior = np.array([1.0, 2.0, 3.0, 4.0])
    copies = proba.copy(), init.copy(), prior.copy()
    for start in (None, init):
        result = solve_pseudo_labels(proba, lam=1.0, init=start, prior=prior)
        assert not np.shares_memory(result.pseudo_labels, proba)
        assert not np.shares_memory(result.pseudo_labels, init)
    for array, copy in zip((proba, init, prior), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


GOOD = {"proba": [[0.9, 0.1], [0.6, 0.4]], "lam": 1.0}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proba", [[np.nan, 0.5], [0.5, 0.5]]),
        ("proba", [[np.inf, 0.5], [0.5, 0.5]]),
        ("proba", [[-0.5, 1.5], [0.5, 0.5]]),
        ("proba", [[0.9, 0.2], [0.5, 0.5]]),
        ("proba", [[0.0, 0.0], [0.5, 0.5]]),
        ("proba", np.empty((0, 2))),
        ("proba", np.empty((2, 0))),
        ("proba", [0.5, 0.5]),
        ("proba", np.full((2, 2, 2), 0.5)),
        ("proba", 0.5),
        ("proba", None),
        ("prior", [1.5, -0.5]),
        ("prior", [0.0, 0.0]),
        ("prior", [1.0, 1.0, 1.0]),
        ("prior", [[0.5, 0.5]]),
        ("prior", [np.nan, 0.5]),
        ("prior", [np.inf, 0.5]),
        ("prior", []),
        ("prior", 0.5),
        ("lam", 0),
        ("lam", -1),
        ("lam", np.nan),
        ("lam", np.inf),
        ("lam", "a"),
        ("lam", None),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("tol", -1),
        ("tol", np.nan),
        ("init", [[0.5, 0.5]]),
        ("init", [[0.5, 0.3, 0.2]] * 2),
        ("init", [[1.5, -0.5], [0.5, 0.5]]),
        ("init", [[0.9, 0.2], [0.5, 0.5]]),
        ("init", [[np.nan, 0.5], [0.5, 0.5]]),
        ("init", [0.5, 0.5]),
        ("return_gap", "yes"),
    ],
)
def test_error_names_the_argument(name, value):
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        solve_pseudo_labels(**{**GOOD, name: value})


@pytest.mark.parametrize("lam", [5e-324, 1e-300, np.float32(1e20), 1e30])
def test_any_positive_lam_gives_distributions(lam):
    result = solve_pseudo_labels(**{**GOOD, "lam": lam}, max_iter=5)
    assert_distributions(result.pseudo_labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("prior", [[0.5, 0.3, 0.2], [0, 0.5, 0.5], [1, 0, 0]])
def test_compiled_kernels_equal_python(rng, dtype, prior):
    """Reordered sums and fused operations change no more than the last bits."""
    proba = np.concatenate([rng.dirichlet(np.ones(3), size=30), np.eye(3)])
    proba = proba.astype(dtype)
    weight = 2.0 * len(proba) * np.asarray(prior)
    results = []
    for kernel in (_em_iteration, _em_iteration.py_func):
        labels = positive_rows(proba)
        label_sum = labels.sum(axis=0, dtype=float)
        with np.errstate(divide="ignore"):
            change = kernel(proba, weight, labels, label_sum)
        results.append((labels, label_sum, change))
    for compiled, python in zip(*results, strict=True):
        assert_allclose(compiled, python, rtol=1e2 * np.finfo(dtype).eps)

    price = weight / len(proba) / proba.mean(axis=0, dtype=float)
    with np.errstate(divide="ignore"):
        python = _mean_best_response.py_func(proba, price)
    assert_allclose(_mean_best_response(proba, price), python, rtol=1e-13)

    shortfall = np.array([[0, 0.2, 0.5], [0, 0, 0.9], [0, 0.1, 1.0]])
    force = rng.uniform(size=(3, 3)) * np.asarray(prior)
    for row, start in zip(shortfall, force, strict=True):
        compiled, python = start.copy(), start.copy()
        _solve_m_step(row, (1 - row) * start, compiled)
        with np.errstate(divide="ignore"):
            _solve_m_step.py_func(row, (1 - row) * start, python)
        assert_allclose(compiled, python, rtol=1e-14)


def test_kernels_work_where_no_cache_can_be_written(monkeypatch):
    def njit_without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(skcce._pseudo_labels, "njit", njit_without_cache)
    kernel = skcce._pseudo_labels._kernel(lambda x: 1 / x)
    assert kernel(0.0) == math.inf
