"""The paper's EM algorithm: its M-step in many digits, its monotonicity."""

import numpy as np
import pytest
from conftest import pseudo_label_loss
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpmath import fsum, mpf, workdps
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import LinearConstraint, minimize
from scipy.special import softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels import positive_rows
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import pose

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
    "zero entry": lambda k: np.r_[0.0, np.ones(k - 1)],
}
LAMS = [1e-6, 1e-2, 0.4, 10.0, 1e3, 1e6]

all_sigmas = pytest.mark.parametrize("sigma_kind", SIGMAS)
all_forces = pytest.mark.parametrize("force_kind", FORCES)
all_priors = pytest.mark.parametrize("prior_kind", PRIORS)
all_lams = pytest.mark.parametrize("lam", LAMS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
deterministic = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow],
)


def draw_predictions(n_samples, n_clusters, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    return softmax(sharpness * rng.normal(size=(n_samples, n_clusters)), axis=1)


def draw_sub_problem(rng, n_clusters, sigma_kind, force_kind):
    sigma = SIGMAS[sigma_kind](rng, n_clusters)
    return sigma / sigma.sum(), FORCES[force_kind](rng, n_clusters)


def draw_prior(kind, n_clusters):
    prior = PRIORS[kind](n_clusters)
    return prior / prior.sum()


def m_step(sigma, force):
    # A single sample holds all of every cluster: its forces are lam * prior.
    labels = np.ones((1, len(sigma)), sigma.dtype)
    prepare_em(pose(sigma[np.newaxis], 1.0, force), labels)(n_iter=1)
    return labels[0]


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
    assert_allclose(gain[label > 0], multiplier, rtol=rtol)
    assert (gain <= multiplier * (1 + rtol)).all()


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


def run(proba, **kwargs):
    return solve_pseudo_labels(proba, solver="em", accelerate=False, **kwargs)


# ------------------------------------------------------------------ M-step, one sample


@pytest.mark.parametrize("n_clusters", [2, 3, 20, 300])
@all_sigmas
@all_forces
def test_m_step_has_many_correct_digits(n_clusters, sigma_kind, force_kind):
    for seed in range(1 if n_clusters == 300 else 4):
        rng = np.random.default_rng(seed)
        sigma, force = draw_sub_problem(rng, n_clusters, sigma_kind, force_kind)
        exact = m_step_in_many_digits(sigma, force)
        for got, wanted in zip(m_step(sigma, force), exact, strict=True):
            if wanted > 1e-280:
                assert abs(got / wanted - 1) < 2e-14


@pytest.mark.parametrize("n_clusters", [2, 20])
@pytest.mark.parametrize("sigma_kind", ["ordinary", "ties", "zeros"])
@pytest.mark.parametrize("force_kind", ["1e-6", "1e6", "0.01 to 100", "1e-6 to 1e6"])
def test_m_step_in_float32(n_clusters, sigma_kind, force_kind):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        sigma, force = draw_sub_problem(rng, n_clusters, sigma_kind, force_kind)
        sigma, force = sigma.astype(np.float32), force.astype(np.float32)
        exact = m_step_in_many_digits(sigma, force)
        label = m_step(sigma, force.astype(float))
        assert label.dtype == np.float32
        assert_allclose(label, [float(y) for y in exact], rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("tiny", [1e-20, 1e-12, 1e-6])
def test_m_step_where_the_root_is_ill_conditioned(tiny):
    # The second cluster alone fills the simplex, up to a rounding error or so.
    sigma, force = np.array([2 / 3, 1 / 3]), np.array([tiny, 1.0])
    exact = [float(y) for y in m_step_in_many_digits(sigma, force)]
    assert_allclose(m_step(sigma, force), exact, rtol=0, atol=1e-15)


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
    assert_allclose(label, expected, rtol=1e-3, atol=1e-14)
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
    # The clusters with a share solve the problem among themselves.
    sigma, force = np.array(sigma), np.array(force)
    shared = force > 0
    label = m_step(sigma, force)
    assert_array_equal(label[~shared], 0)
    assert_allclose(label[shared], m_step(sigma[shared], force[shared]), rtol=1e-12)
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
    assert_allclose(label, best.x, rtol=0, atol=1e-4)


@all_sigmas
def test_no_shares_at_all_give_the_best_cluster(sigma_kind):
    sigma, _ = draw_sub_problem(np.random.default_rng(3), 20, sigma_kind, "1e6")
    label = m_step(sigma, np.zeros(20))
    assert sigma @ label == sigma.max()
    assert_array_equal(np.sort(label), np.eye(20)[19])


# ----------------------------------------------------------------------- the iterations


@pytest.mark.slow
@deterministic
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.sampled_from([1, 2, 7, 33, 200, 1000]),
    n_clusters=st.sampled_from([2, 3, 20, 90]),
    sigma_kind=st.sampled_from(list(SIGMAS)),
    prior_kind=st.sampled_from(list(PRIORS)),
    log_lam=st.floats(-6, 6),
    zeros=st.booleans(),
)
def test_loss_never_rises(
    seed, n_samples, n_clusters, sigma_kind, prior_kind, log_lam, zeros
):
    rng = np.random.default_rng(seed)
    proba = np.array([SIGMAS[sigma_kind](rng, n_clusters) for _ in range(n_samples)])
    proba /= proba.sum(axis=1, keepdims=True)
    prior, lam = PRIORS[prior_kind](n_clusters), 10.0**log_lam
    init = rng.dirichlet(np.ones(n_clusters), size=n_samples)
    if zeros:
        init[rng.random(init.shape) < 0.3] = 0
        init[0] += 1e-3  # every cluster is used
        init[:, 0] += init.sum(axis=1) == 0
        init /= init.sum(axis=1, keepdims=True)
    labels = init.copy()
    losses = [pseudo_label_loss(proba, labels, lam, prior / prior.sum())]
    for max_iter in (1, 2, 3, 6):
        result = run(proba, lam=lam, prior=prior, init=init, max_iter=max_iter, tol=0)
        losses.append(result.loss)
        assert_allclose(result.pseudo_labels.sum(axis=1), 1, rtol=0, atol=1e-15)
        assert result.pseudo_labels.min() >= 0
    assert np.isfinite(losses[1:]).all()
    rounding = 3e-15 * (10 + lam) + 1e-14 * np.abs(losses[1:])
    assert (np.diff(losses) <= rounding).all()


@all_lams
@all_priors
@both_dtypes
def test_equal_rows_share_one_m_step(lam, prior_kind, dtype):
    # For equal predictions, a mean force of lam * prior solves the whole problem.
    prior = draw_prior(prior_kind, 3)
    sigma = np.array([0.2, 0.5, 0.3], dtype)
    expected = m_step(sigma.astype(float), lam * prior)
    for n_samples in (1, 10):
        rows = np.tile(sigma, (n_samples, 1))
        labels = run(rows, lam=lam, prior=prior, max_iter=1).pseudo_labels
        rtol = 200 * np.finfo(dtype).eps
        assert_allclose(labels, np.tile(expected, (n_samples, 1)), rtol=rtol)


def test_gap_closes_with_the_iterations():
    proba = draw_predictions(250, 2)
    gaps = [
        run(proba, lam=0.4, prior=[0.9, 0.1], max_iter=n_iter, tol=0).gap
        for n_iter in (1, 10, 100, 1000, 10000)
    ]
    assert gaps == sorted(gaps, reverse=True)
    assert -1e-14 <= gaps[-1] < 1e-9


def test_lam_is_the_papers_over_the_number_of_samples():
    """Eq. (15) read literally: its 100 with batches of 250 is 0.4 here."""
    proba = draw_predictions(250, 4, sharpness=1)
    result = run(proba, lam=0.4, max_iter=10, tol=0)
    expected = sum_level_em(proba, lam_sum=100, n_iter=10)
    assert_allclose(result.pseudo_labels, expected, rtol=1e-9, atol=1e-13)


@all_lams
@pytest.mark.parametrize("n_copies", [2, 7])
def test_lam_does_not_depend_on_the_number_of_samples(lam, n_copies):
    proba = draw_predictions(30, 5)
    once = run(proba, lam=lam, max_iter=30, tol=0)
    copies = run(np.tile(proba, (n_copies, 1)), lam=lam, max_iter=30, tol=0)
    expected = np.tile(once.pseudo_labels, (n_copies, 1))
    assert_allclose(copies.pseudo_labels, expected, rtol=1e-9, atol=1e-13)
    assert copies.loss == pytest.approx(once.loss, abs=1e-14 * (1 + lam))


@all_lams
@all_priors
def test_permuted_clusters_and_samples_get_permuted_labels(lam, prior_kind):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(30), rng.permutation(7)
    proba, prior = draw_predictions(30, 7), PRIORS[prior_kind](7)
    kwargs = {"lam": lam, "max_iter": 30, "tol": 0}
    result = run(proba, prior=prior, **kwargs)
    permuted = run(proba[rows][:, columns], prior=prior[columns], **kwargs)
    expected = result.pseudo_labels[rows][:, columns]
    assert_allclose(permuted.pseudo_labels, expected, rtol=1e-9, atol=1e-13)
    assert permuted.loss == pytest.approx(result.loss, abs=1e-14 * (1 + lam))


def test_duplicated_columns_get_equal_labels():
    half = draw_predictions(20, 3) / 2
    labels = run(np.hstack([half, half]), lam=2.0, max_iter=50).pseudo_labels
    assert_allclose(labels[:, :3], labels[:, 3:], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lam", [1e-2, 1.0, 1e2])
def test_float32_is_close_to_float64(lam):
    double = draw_predictions(200, 6)
    kwargs = {"lam": lam, "max_iter": 30, "tol": 0}
    wide, narrow = run(double, **kwargs), run(double.astype(np.float32), **kwargs)
    assert narrow.pseudo_labels.dtype == np.float32
    assert_allclose(narrow.pseudo_labels, wide.pseudo_labels, rtol=0, atol=2e-5)
    assert narrow.loss == pytest.approx(wide.loss, abs=1e-6 * (1 + lam))
    assert narrow.gap == pytest.approx(wide.gap, abs=1e-6 * (1 + lam))


@both_dtypes
def test_default_start_can_use_a_cluster_that_no_sample_predicts(dtype):
    # Without a floor under the start, the zero column would stay zero.
    proba = np.zeros((50, 3), dtype)
    proba[:25, 0] = proba[25:, 1] = 1
    result = run(proba, lam=1e3, max_iter=100)
    usage = result.pseudo_labels.mean(axis=0, dtype=float)
    # KKT where proba is zero: lam * prior / usage equals the multiplier 1 + lam.
    assert_allclose(usage[2], 1e3 / 3 / (1 + 1e3), rtol=1e-4)
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
    labels = run(proba, lam=lam, init=init, max_iter=20, tol=0).pseudo_labels
    assert (labels[(init == 0) & ~best] == 0).all()
    assert (labels[init > 0] > 0).all()
    if lam < 1:
        assert (labels[(init == 0) & best] > 0).any()


def test_a_cluster_without_prior_is_used_where_it_is_best():
    proba = draw_predictions(40, 3)
    labels = run(proba, lam=0.1, prior=[0, 1, 1], max_iter=100).pseudo_labels
    best = proba.argmax(axis=1) == 0
    assert (labels[~best, 0] == 0).all()
    assert (labels[best, 0] > 0).any()


@both_dtypes
def test_continues_from_the_previous_result(dtype):
    proba = draw_predictions(50, 5).astype(dtype)
    whole = run(proba, lam=0.4, max_iter=10, tol=0)
    first = run(proba, lam=0.4, max_iter=6, tol=0)
    second = run(proba, lam=0.4, max_iter=4, tol=0, init=first.pseudo_labels)
    rounding = 100 * np.finfo(dtype).eps
    assert_allclose(second.pseudo_labels, whole.pseudo_labels, rtol=0, atol=rounding)
    assert second.loss < first.loss


@both_dtypes
@pytest.mark.parametrize("shape", [(60_000, 10), (1025, 400)])
def test_number_of_threads_does_not_matter(dtype, shape):
    proba = np.random.default_rng(0).dirichlet(np.full(shape[1], 0.2), size=shape[0])
    proba = proba.astype(dtype)
    results = [
        run(proba, lam=1.0, max_iter=4, tol=0, n_jobs=n_jobs)
        for n_jobs in (1, 2, 3, -1, None)
    ]
    for result in results[1:]:
        assert_array_equal(result.pseudo_labels, results[0].pseudo_labels)
        assert result[1:5] == results[0][1:5]


@pytest.mark.parametrize("n_samples", [1, 31, 32, 33, 1024, 1025, 2049])
def test_rows_do_not_depend_on_their_block(n_samples):
    proba = draw_predictions(n_samples, 9)
    labels = positive_rows(proba)
    prepare_em(pose(proba, 2.0, np.full(9, 1 / 9)), labels)(n_iter=1)
    force = 2.0 * n_samples / 9 * positive_rows(proba) / proba.sum(axis=0)
    for i in {0, n_samples // 2, n_samples - 1}:
        assert_allclose(labels[i], m_step(proba[i], force[i]), rtol=1e-12)
