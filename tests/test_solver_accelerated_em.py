"""Accelerated EM, and that of the forward divergence: monotone, and soon at an end."""

import numpy as np
import pytest
from conftest import deterministic
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels import check_prior, positive_rows
from skcce._pseudo_labels.accelerated_em import (
    _solve_sub_problem,
    prepare_accelerated_em,
)
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import pose
from skcce._pseudo_labels.solve import certify
from skcce._threads import single_blas_thread

both_divergences = pytest.mark.parametrize("divergence", ["reverse", "forward"])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
plain_or_not = pytest.mark.parametrize("accelerate", [False, True])


def draw_predictions(n_samples, n_clusters, bias=0.0, seed=0):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n_samples, n_clusters))
    return softmax(logits + bias * rng.normal(size=n_clusters), axis=1)


def draw_weights_and_fixed(n_samples, n_clusters, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.exponential(size=n_samples) * (rng.random(n_samples) < 0.8)
    fixed = rng.dirichlet(np.full(n_clusters, 0.5), n_samples)
    fixed[rng.random(n_samples) < 0.7] = np.nan
    weight[0], fixed[0] = 1, np.nan
    return {"sample_weight": weight, "fixed": fixed}


def run(proba, **kwargs):
    return solve_pseudo_labels(proba, solver="em", **kwargs)


# --------------------------------------------------------------------------- monotone


@pytest.mark.slow
@both_divergences
@both_dtypes
@plain_or_not
@deterministic(40)
@given(
    seed=st.integers(0, 10**6),
    n_samples=st.sampled_from([1, 2, 7, 60, 700]),
    n_clusters=st.sampled_from([2, 3, 20]),
    scale=st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    bias=st.sampled_from([0.0, 3.0]),
    prior_kind=st.sampled_from(["even", "steep", "zero", "tiny"]),
    log_lam=st.floats(-6, 6),
    partly_known=st.booleans(),
)
def test_loss_never_rises(
    divergence, dtype, accelerate, seed, n_samples, n_clusters, scale, bias,
    prior_kind, log_lam, partly_known,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(n_samples, n_clusters))
    logits += bias * scale * rng.normal(size=n_clusters)
    proba = softmax(logits, axis=1).astype(dtype)
    prior = {
        "even": np.ones(n_clusters),
        "steep": 0.5 ** np.arange(n_clusters),
        "zero": np.r_[0.0, np.ones(n_clusters - 1)],
        "tiny": np.r_[1e-12, np.ones(n_clusters - 1)],
    }[prior_kind]
    forward, lam = divergence == "forward", 10.0**log_lam
    weight = fixed = None
    if partly_known:
        known = draw_weights_and_fixed(n_samples, n_clusters, seed)
        weight, fixed = known["sample_weight"], known["fixed"].astype(dtype)
        if forward and prior_kind == "zero":
            fixed[:] = np.nan
    problem = pose(proba, lam, check_prior(prior, n_clusters), forward, weight, fixed)
    labels = positive_rows(problem.proba)
    if forward:
        labels *= problem.prior > 0
        labels = np.maximum(labels, dtype(1e-30)) * (problem.prior > 0)
        labels /= labels.sum(axis=1, keepdims=True)
    go = prepare_accelerated_em(problem, labels, accelerate=accelerate)
    loss, _ = certify(problem, labels)
    eps = np.finfo(dtype).eps
    with single_blas_thread():  # or each iteration starts a thread of its own
        for _ in range(25):
            price = go(1)
            last_loss, (loss, gap) = loss, certify(problem, labels, price)
            assert loss <= last_loss + 30 * eps * (1 + lam + abs(last_loss))
            assert gap >= 0
            assert labels.min() >= 0
            assert_allclose(labels.sum(axis=1, dtype=float), 1, atol=40 * eps)


# ------------------------------------------------------------------------ the optimum


@pytest.mark.slow
@both_divergences
@both_dtypes
@pytest.mark.parametrize("lam", [0.4, 4.0, 100.0, 1e4])
@pytest.mark.parametrize("bias", [0.0, 1.5, 3.0])
@pytest.mark.parametrize("partly_known", [False, True])
def test_a_small_gap_takes_few_iterations(divergence, dtype, lam, bias, partly_known):
    proba = draw_predictions(300, 12, bias).astype(dtype)
    kwargs = {"lam": lam, "divergence": divergence}
    if partly_known:
        kwargs |= draw_weights_and_fixed(300, 12)
    result = run(proba, tol=1e-4, max_iter=50, **kwargs)
    best = solve_pseudo_labels(proba.astype(float), tol=1e-9, **kwargs)
    assert result.converged
    rounding = 10 * np.finfo(dtype).eps * (1 + lam)
    assert best.loss - best.gap - rounding <= result.loss
    assert result.loss - result.gap - rounding <= best.loss


@both_divergences
@pytest.mark.parametrize("prior", [None, [8, 4, 2, 1], [3, 2, 1, 0], [1, 1, 1, 1e-4]])
@pytest.mark.parametrize("lam", [1e-3, 0.4, 10.0, 300.0])
def test_optimum_is_that_of_the_exact_solver(divergence, prior, lam):
    proba = draw_predictions(60, 4, bias=1.0)
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    result = run(proba, tol=1e-6, max_iter=300, **kwargs)
    best = solve_pseudo_labels(proba, tol=1e-9, **kwargs)
    assert result.converged
    assert result.loss == pytest.approx(best.loss, abs=1e-6 * max(1, best.loss))


@both_divergences
@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_plain_and_accelerated_agree_at_the_optimum(divergence, lam):
    proba = draw_predictions(40, 3)
    kwargs = {"lam": lam, "divergence": divergence, "prior": [3, 2, 1], "tol": 1e-6}
    slow, fast = (
        run(proba, accelerate=accelerate, max_iter=20_000, **kwargs)
        for accelerate in (False, True)
    )
    assert slow.converged
    assert fast.converged
    assert fast.n_iter <= slow.n_iter
    assert fast.loss == pytest.approx(slow.loss, abs=2e-6)


@pytest.mark.slow
@both_divergences
def test_distance_from_the_optimum_is_within_the_gap_all_the_way(divergence):
    proba = draw_predictions(200, 8, bias=1.5)
    kwargs = {"lam": 10.0, "divergence": divergence}
    best = solve_pseudo_labels(proba, tol=1e-11, **kwargs)
    for max_iter in range(1, 20):
        result = run(proba, tol=0, max_iter=max_iter, **kwargs)
        assert -1e-10 <= result.loss - best.loss <= result.gap + 1e-10


# ------------------------------------------------------------------------------- steps


def test_first_iteration_is_that_of_the_paper():
    problem = pose(draw_predictions(50, 5), 2.0, np.full(5, 0.2))
    labels, expected = positive_rows(problem.proba), positive_rows(problem.proba)
    prepare_accelerated_em(problem, labels)(1)
    prepare_em(problem, expected)(1)
    assert_allclose(labels, expected, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 0.03, 1.0, 1e3])
def test_sub_problem_satisfies_kkt(rng, scale):
    for n_clusters in (2, 5, 40):
        for _ in range(30):
            sigma = rng.dirichlet(np.full(n_clusters, 0.3))
            reward = -3 * rng.random(n_clusters)
            force = scale * rng.dirichlet(np.full(n_clusters, 0.5)) + 1e-7 * scale
            slack = np.empty(n_clusters)
            _solve_sub_problem(sigma, reward, force, 1 / sigma.max(), slack)
            label = force / slack
            assert label.sum() == pytest.approx(1, abs=1e-6)
            gain = sigma / (sigma @ label) + reward + slack
            assert_allclose(gain, gain[0], rtol=1e-6)


def test_sub_problem_agrees_with_scipy(rng):
    sigma, reward = rng.dirichlet(np.ones(4)), -rng.random(4)
    force, slack = 0.3 * rng.dirichlet(np.ones(4)), np.empty(4)
    _solve_sub_problem(sigma, reward, force, 2.0, slack)

    def objective(logits):
        label = softmax(logits)
        return -np.log(sigma @ label) - reward @ label - force @ np.log(label)

    theirs = minimize(objective, np.zeros(4), options={"gtol": 1e-10})
    assert_allclose(force / slack, softmax(theirs.x), atol=1e-5)


# ------------------------------------------------------------------------- invariances


@both_divergences
@both_dtypes
@pytest.mark.parametrize("shape", [(12_000, 10), (1500, 100)])
def test_number_of_threads_does_not_matter(divergence, dtype, shape):
    proba = draw_predictions(*shape, bias=1.0).astype(dtype)
    kwargs = {"lam": 4.0, "divergence": divergence, "max_iter": 6, "tol": 0}
    results = [run(proba, n_jobs=n_jobs, **kwargs) for n_jobs in (1, 2, 3, -1, None)]
    for result in results[1:]:
        assert_array_equal(result.pseudo_labels, results[0].pseudo_labels)
        assert result[1:5] == results[0][1:5]


@both_divergences
@plain_or_not
def test_interruptions_do_not_matter(divergence, accelerate):
    proba = draw_predictions(600, 5)
    problem = pose(proba, 4.0, np.full(5, 0.2), divergence == "forward")
    at_once, in_parts = positive_rows(proba), positive_rows(proba)
    price = prepare_accelerated_em(problem, at_once, accelerate=accelerate)(9)
    go = prepare_accelerated_em(problem, in_parts, accelerate=accelerate)
    parts = [go(n_iter) for n_iter in (1, 3, 5)]
    assert_array_equal(at_once, in_parts)
    assert_array_equal(price, parts[-1])


@both_divergences
@plain_or_not
@pytest.mark.parametrize("lam", [0.4, 30.0])
def test_permuted_clusters_and_samples_get_permuted_labels(divergence, accelerate, lam):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(80), rng.permutation(6)
    proba, prior = draw_predictions(80, 6, bias=1.0), np.arange(1.0, 7)
    kwargs = {"lam": lam, "divergence": divergence, "accelerate": accelerate}
    kwargs |= {"max_iter": 8, "tol": 0}
    result = run(proba, prior=prior, **kwargs)
    permuted = run(proba[rows][:, columns], prior=prior[columns], **kwargs)
    expected = result.pseudo_labels[rows][:, columns]
    assert_allclose(permuted.pseudo_labels, expected, rtol=0, atol=1e-7)
    assert permuted.loss == pytest.approx(result.loss, abs=1e-9)


@both_divergences
@plain_or_not
def test_a_weight_of_two_is_two_equal_rows(divergence, accelerate):
    proba = draw_predictions(70, 5, bias=1.0)
    weight = 1 + np.arange(70) % 2
    kwargs = {"lam": 4.0, "divergence": divergence, "accelerate": accelerate}
    kwargs |= {"max_iter": 10, "tol": 0}
    once = run(proba, sample_weight=weight, **kwargs)
    many = run(np.repeat(proba, weight, axis=0), **kwargs)
    expected = np.repeat(once.pseudo_labels, weight, axis=0)
    assert_allclose(many.pseudo_labels, expected, rtol=0, atol=1e-7)
    assert many.loss == pytest.approx(once.loss, rel=1e-10)


# ------------------------------------------------------------------------- small shares


@plain_or_not
@pytest.mark.parametrize("share", [1e-29, 1e-28, 1e-26])
@pytest.mark.parametrize("lam", [1e-6, 1e-3, 1.0])
def test_tiny_share_in_float32_leaves_a_finite_loss(accelerate, share, lam):
    # The forces of a cluster that counts for nothing underflow.
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], np.float32)
    result = run(proba, lam=lam, prior=[1, share], accelerate=accelerate)
    assert result.converged
    expected = -np.log([0.9, 0.8, 0.7]).mean()
    assert result.loss == pytest.approx(expected, abs=1e-6 + 1e-6 * expected)


@both_divergences
@plain_or_not
def test_zeros_of_a_start_are_no_end(divergence, accelerate):
    proba = draw_predictions(50, 3)
    init = np.tile([1.0, 0.0, 0.0], (50, 1))
    kwargs = {"lam": 1.0, "divergence": divergence, "accelerate": accelerate}
    result = run(proba, init=init, max_iter=60, **kwargs)
    if accelerate:
        best = solve_pseudo_labels(proba, lam=1.0, divergence=divergence)
        assert result.loss == pytest.approx(best.loss, abs=1e-4)
    else:
        assert not np.isnan(result.loss)


@both_divergences
def test_forbidden_clusters_stay_empty(divergence):
    proba, prior = draw_predictions(40, 4), [3, 0, 2, 0]
    for accelerate in (False, True):
        result = run(
            proba, lam=2.0, prior=prior, divergence=divergence, accelerate=accelerate,
            max_iter=10,
        )  # fmt: skip
        forbidden = result.pseudo_labels[:, [1, 3]]
        assert forbidden.any() == (divergence == "reverse")
