"""Weights of samples, and labels that are given."""

import numpy as np
import pytest
from conftest import SOLVERS, deterministic, pseudo_label_loss
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels import check_prior, solve_batch
from skcce._pseudo_labels.dual import mean_response, respond
from skcce._pseudo_labels.objective import pose

all_solvers = pytest.mark.parametrize(("solver", "divergence"), SOLVERS)
both_divergences = pytest.mark.parametrize("divergence", ["reverse", "forward"])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
priors = pytest.mark.parametrize("prior", [None, [8, 4, 2, 1], [3, 2, 1, 0]])


COUNTS = np.array([1, 3, 0, 2, 1, 1, 5, 0, 1, 2] * 6)


def draw_predictions(n_samples=60, n_clusters=4, seed=0):
    rng = np.random.default_rng(seed)
    return softmax(2 * rng.normal(size=(n_samples, n_clusters)), axis=1)


def draw_fixed(n_samples=60, n_clusters=4, every=3, prior=None):
    """Return labels of every third sample, one-hot and soft ones; NaN for the rest."""
    rng = np.random.default_rng(1)
    fixed = np.full((n_samples, n_clusters), np.nan)
    fixed[::every] = rng.dirichlet(np.full(n_clusters, 0.5), len(fixed[::every]))
    fixed[:: 2 * every] = np.eye(n_clusters)[0]
    if prior is not None:
        fixed *= np.array(prior) > 0
        fixed /= fixed.sum(axis=1, keepdims=True)
    return fixed


def loss_of(proba, labels, lam, prior, divergence, weight):
    """Evaluate eq. (11) or (10) from its definition."""
    weight = weight / weight.sum()
    usage, prior = weight @ labels, check_prior(prior, proba.shape[1])
    p, q = (usage, prior) if divergence == "forward" else (prior, usage)
    fairness = p[p > 0] @ np.log(p[p > 0] / q[p > 0])
    return weight @ -np.log((proba * labels).sum(axis=1)) + lam * fairness


def assert_distributions(labels):
    assert labels.min() >= 0
    assert_allclose(labels.sum(axis=1, dtype=float), 1, atol=1e-6)


# ------------------------------------------------------------------------------ weights


@all_solvers
@priors
@pytest.mark.parametrize("lam", [0.1, 2.0, 50.0])
@pytest.mark.parametrize("max_iter", [3, 1000])
def test_weights_are_numbers_of_equal_rows(solver, divergence, prior, lam, max_iter):
    proba = draw_predictions()
    kwargs = {"lam": lam, "prior": prior, "solver": solver, "divergence": divergence}
    kwargs |= {"max_iter": max_iter, "step_size": 0.02 / (1 + lam)}
    once = solve_pseudo_labels(proba, sample_weight=COUNTS, **kwargs)
    many = solve_pseudo_labels(np.repeat(proba, COUNTS, axis=0), **kwargs)
    # The iterates are the same up to rounding, not the optimum alone.
    expected = many.pseudo_labels
    labels = np.repeat(once.pseudo_labels, COUNTS, axis=0)
    assert_allclose(labels, expected, rtol=0, atol=1e-6)
    assert once.n_iter == many.n_iter
    assert once.loss == pytest.approx(many.loss, rel=1e-12)
    assert once.gap == pytest.approx(many.gap, rel=1e-4, abs=1e-9)
    assert_distributions(once.pseudo_labels)


@all_solvers
@both_dtypes
def test_scale_of_the_weights_does_not_matter(solver, divergence, dtype):
    proba, weight = draw_predictions().astype(dtype), COUNTS + 0.37
    kwargs = {"lam": 2.0, "solver": solver, "divergence": divergence, "max_iter": 30}
    results = [
        solve_pseudo_labels(proba, sample_weight=scale * weight, **kwargs)
        for scale in (1, np.pi, 1e300, 1e-200)
    ]
    tol = 1e5 * float(np.finfo(dtype).eps)
    for result in results[1:]:
        assert_allclose(result.pseudo_labels, results[0].pseudo_labels, atol=tol)
        assert result.loss == pytest.approx(results[0].loss, rel=tol)


@all_solvers
def test_equal_weights_are_none(solver, divergence):
    proba = draw_predictions()
    kwargs = {"lam": 2.0, "solver": solver, "divergence": divergence, "max_iter": 20}
    plain = solve_pseudo_labels(proba, **kwargs)
    equal = solve_pseudo_labels(proba, sample_weight=np.full(60, 0.3), **kwargs)
    assert_array_equal(equal.pseudo_labels, plain.pseudo_labels)
    assert equal[1:5] == plain[1:5]


@all_solvers
def test_rows_without_weight_have_a_label_and_no_influence(solver, divergence):
    proba, weight = draw_predictions(), (COUNTS > 0).astype(float)
    kwargs = {"lam": 2.0, "solver": solver, "divergence": divergence, "max_iter": 50}
    result = solve_pseudo_labels(proba, sample_weight=weight, **kwargs)
    alone = solve_pseudo_labels(proba[weight > 0], **kwargs)
    labels = result.pseudo_labels
    assert_allclose(labels[weight > 0], alone.pseudo_labels, rtol=0, atol=1e-12)
    assert result.loss == pytest.approx(alone.loss, rel=1e-14)
    assert result.gap == pytest.approx(alone.gap, rel=1e-9, abs=1e-15)
    assert_distributions(labels)
    # As a copy of a row that counts, it has its label, or one that is as good.
    copies = proba.copy()
    copies[2] = copies[1]
    labels = solve_pseudo_labels(copies, sample_weight=weight, **kwargs).pseudo_labels
    hits = (copies * labels).sum(axis=1)
    assert hits[2] == pytest.approx(hits[1], rel=1e-3)


@pytest.mark.parametrize("scale", [0.03, 0.3, 3.0, 300.0])
def test_a_response_earns_the_most(rng, scale):
    proba, price = rng.dirichlet(np.ones(5), size=50), scale * rng.random(5)
    labels = respond(proba, price)
    best, *_ = mean_response(pose(proba, 1.0, np.full(5, 0.2)), price)
    earned = np.log((proba * labels).sum(axis=1)) + labels @ price
    assert earned.mean() == pytest.approx(best, rel=1e-14)
    assert_distributions(labels)


@both_divergences
@pytest.mark.parametrize("lam", [0.1, 1.0, 20.0])
def test_weighted_optimum_agrees_with_scipy(divergence, lam):
    proba, weight = draw_predictions(6, 3), np.array([0.2, 1.5, 3.0, 0.7, 1.0, 2.2])
    prior = [3, 2, 1]

    def objective(flat):
        labels = softmax(flat.reshape(6, 3), axis=1)
        return loss_of(proba, labels, lam, prior, divergence, weight)

    theirs = minimize(objective, np.log(proba).ravel(), options={"gtol": 1e-9})
    ours = solve_pseudo_labels(
        proba, lam=lam, prior=prior, divergence=divergence, sample_weight=weight
    )
    assert ours.converged
    expected = loss_of(proba, ours.pseudo_labels, lam, prior, divergence, weight)
    assert ours.loss == pytest.approx(expected, abs=1e-12)
    assert ours.loss - ours.gap - 1e-12 <= theirs.fun <= ours.loss + 1e-3


# ------------------------------------------------------------------------- fixed labels


@all_solvers
@priors
@both_dtypes
@pytest.mark.parametrize("lam", [0.1, 2.0, 50.0])
def test_fixed_rows_are_held(solver, divergence, prior, dtype, lam):
    forbids = prior if divergence == "forward" else None
    proba, fixed = draw_predictions().astype(dtype), draw_fixed(prior=forbids)
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    result = solve_pseudo_labels(
        proba, fixed=fixed, solver=solver, max_iter=60, step_size=0.01, **kwargs
    )
    best = solve_pseudo_labels(proba, fixed=fixed, **kwargs)
    known = ~np.isnan(fixed[:, 0])
    labels = result.pseudo_labels
    assert labels.dtype == dtype
    assert_allclose(labels[known], fixed[known], rtol=4 * np.finfo(dtype).eps)
    assert_distributions(labels)
    loss = loss_of(proba, labels.astype(float), lam, prior, divergence, np.ones(60))
    rounding = 30 * np.finfo(dtype).eps * (1 + lam + loss)
    assert result.loss == pytest.approx(loss, abs=rounding)
    assert best.converged
    assert best.loss - best.gap - rounding <= result.loss
    assert result.loss - result.gap - rounding <= best.loss


@both_dtypes
@both_divergences
def test_batch_solver_is_the_public_one(dtype, divergence):
    proba, fixed = draw_predictions().astype(dtype), draw_fixed()
    forward = divergence == "forward"
    for weight in (None, COUNTS + 0.5):
        for held in (None, fixed):
            labels = solve_batch(
                proba, 2.0, np.full(4, 0.25), forward=forward, n_iter=7,
                weight=weight, fixed=held,
            )  # fmt: skip
            kwargs = {"max_iter": 7, "tol": 0, "solver": "em", "accelerate": False}
            if forward:
                kwargs = {"max_iter": 100, "tol": 1e-2, "solver": "interior-point"}
            result = solve_pseudo_labels(
                proba, lam=2.0, divergence=divergence, sample_weight=weight,
                fixed=held, **kwargs,
            )  # fmt: skip
            atol = 100 * np.finfo(dtype).eps
            assert_allclose(labels, result.pseudo_labels, rtol=0, atol=atol)


@both_divergences
def test_batch_without_a_free_row_or_weight(divergence):
    proba, labels = draw_predictions(), draw_predictions(seed=1)
    kwargs = {"forward": divergence == "forward", "n_iter": 3}
    result = solve_batch(proba, 2.0, np.full(4, 0.25), fixed=labels, **kwargs)
    assert_array_equal(result, labels)
    result = solve_batch(proba, 2.0, np.full(4, 0.25), weight=np.zeros(60), **kwargs)
    assert_array_equal(result.argmax(axis=1), proba.argmax(axis=1))
    assert_distributions(result)


def test_loss_of_weighted_rows():
    proba, labels, weight = draw_predictions(), draw_predictions(seed=1), COUNTS + 0.1
    for divergence in ("reverse", "forward"):
        value = pseudo_label_loss(
            proba, labels, 2.0, np.full(4, 0.25), divergence == "forward", weight
        )
        expected = loss_of(proba, labels, 2.0, None, divergence, weight)
        assert value == pytest.approx(expected, rel=1e-12)


@both_divergences
@pytest.mark.parametrize("lam", [0.1, 2.0, 50.0])
@pytest.mark.parametrize("n_free", [1, 5, 40])
def test_gap_with_weights_and_fixed_rows_is_the_regret(divergence, lam, n_free):
    # Recomputed: what every free sample could earn on an edge of the simplex.
    rng = np.random.default_rng(0)
    proba, weight = draw_predictions(), rng.exponential(size=60)
    fixed, prior = draw_fixed(every=1), np.array([0.5, 0.2, 0.2, 0.1])
    fixed[:n_free] = np.nan
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    kwargs |= {"sample_weight": weight, "fixed": fixed, "solver": "pgd"}
    result = solve_pseudo_labels(
        proba, max_iter=20, tol=0, step_size=0.02 / (1 + lam), **kwargs
    )
    labels, weight = result.pseudo_labels, weight / weight.sum()
    usage = weight @ labels
    price = lam * prior / usage
    if divergence == "forward":
        price = -lam * np.log(usage / prior)
    regret = 0.0
    for i in range(n_free):
        t = np.linspace(0, 1, 10_001)[:, np.newaxis, np.newaxis]
        hit = t * proba[i] + (1 - t) * proba[i][:, np.newaxis]
        earned = np.log(hit) + t * price + (1 - t) * price[:, np.newaxis]
        own = np.log(proba[i] @ labels[i]) + price @ labels[i]
        regret += weight[i] * (earned.max() - own)
    assert result.gap == pytest.approx(regret, rel=1e-5, abs=1e-8 * (1 + lam))


@both_divergences
@pytest.mark.parametrize("lam", [0.1, 2.0, 50.0])
@priors
def test_optimality_conditions_with_weights_and_fixed_rows(divergence, lam, prior):
    forbids = prior if divergence == "forward" else None
    proba, fixed = draw_predictions(), draw_fixed(prior=forbids)
    result = solve_pseudo_labels(
        proba, lam=lam, prior=prior, divergence=divergence, sample_weight=COUNTS + 0.5,
        fixed=fixed, tol=1e-12,
    )  # fmt: skip
    labels, weight = result.pseudo_labels, (COUNTS + 0.5) / (COUNTS + 0.5).sum()
    usage, shares = weight @ labels, check_prior(prior, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        price = lam * shares / usage
        if divergence == "forward":
            price = np.where(shares > 0, -lam * np.log(usage / shares), -1e9)
    gain = proba / (proba * labels).sum(axis=1, keepdims=True) + price
    regret = gain.max(axis=1) - (labels * gain).sum(axis=1)
    assert regret[np.isnan(fixed[:, 0])].max() < 1e-4 * (1 + lam)


@both_divergences
@deterministic(100)
@given(
    seed=st.integers(0, 2**32 - 1),
    log_lam=st.floats(-4, 4),
    sharpness=st.sampled_from([0.1, 1.0, 3.0, 10.0]),
    free=st.sampled_from([0.02, 0.3, 0.9]),
    empty=st.sampled_from([0.0, 0.5]),
    zero_prior=st.booleans(),
)
def test_exact_solver_converges_with_weights_and_fixed_rows(
    divergence, seed, log_lam, sharpness, free, empty, zero_prior
):
    rng = np.random.default_rng(seed)
    n_samples, n_clusters = int(rng.integers(1, 300)), int(rng.integers(2, 12))
    logits = sharpness * rng.normal(size=(n_samples, n_clusters))
    prior = rng.dirichlet(np.ones(n_clusters))
    fixed = np.eye(n_clusters)[rng.integers(1, n_clusters, size=n_samples)]
    fixed[rng.random(n_samples) < free] = np.nan
    prior[0] *= not zero_prior
    weight = rng.exponential(size=n_samples) * (rng.random(n_samples) >= empty)
    weight[0] += 1e-3
    result = solve_pseudo_labels(
        softmax(logits, axis=1), lam=10**log_lam, prior=prior, divergence=divergence,
        sample_weight=weight, fixed=fixed,
    )  # fmt: skip
    assert result.converged
    assert_distributions(result.pseudo_labels)


@all_solvers
def test_impossible_fixed_label_has_an_infinite_loss_and_a_finite_gap(
    solver, divergence
):
    proba, fixed = draw_predictions(), draw_fixed()
    other = proba.copy()
    proba[0], other[0] = [0, 0.5, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]
    kwargs = {"lam": 2.0, "solver": solver, "divergence": divergence, "fixed": fixed}
    kwargs |= {"max_iter": 5000, "tol": 1e-3}
    for step_size in (10.0, 0.05):  # the first is too large for projected gradient
        result = solve_pseudo_labels(proba, step_size=step_size, **kwargs)
        possible = solve_pseudo_labels(other, step_size=step_size, **kwargs)
        assert result.loss == np.inf
        assert result.gap == pytest.approx(possible.gap, rel=1e-9)
        assert_array_equal(result.pseudo_labels, possible.pseudo_labels)
    assert result.converged
    # Without weight it costs nothing.
    kwargs["sample_weight"] = np.r_[0.0, np.ones(59)]
    assert np.isfinite(solve_pseudo_labels(proba, **kwargs).loss)


@all_solvers
def test_all_rows_may_be_fixed(solver, divergence):
    proba, labels = draw_predictions(), draw_predictions(seed=1)
    result = solve_pseudo_labels(
        proba, lam=2.0, fixed=labels, solver=solver, divergence=divergence
    )
    assert_allclose(result.pseudo_labels, labels, rtol=1e-15)
    expected = loss_of(proba, labels, 2.0, None, divergence, np.ones(60))
    assert result.loss == pytest.approx(expected, rel=1e-12)
    assert result.gap == 0
    assert result.converged


@all_solvers
def test_no_row_need_be_fixed(solver, divergence):
    proba = draw_predictions()
    kwargs = {"lam": 2.0, "solver": solver, "divergence": divergence, "max_iter": 20}
    plain = solve_pseudo_labels(proba, **kwargs)
    same = solve_pseudo_labels(proba, fixed=np.full((60, 4), np.nan), **kwargs)
    assert_array_equal(same.pseudo_labels, plain.pseudo_labels)
    assert same[1:5] == plain[1:5]


@pytest.mark.parametrize("solver", ["em", "pgd"])
def test_start_of_fixed_rows_has_no_effect(solver):
    proba, fixed, init = draw_predictions(), draw_fixed(), draw_predictions(seed=2)
    other = init.copy()
    other[~np.isnan(fixed[:, 0])] = 0.25
    results = [
        solve_pseudo_labels(
            proba, lam=2.0, solver=solver, fixed=fixed, init=start, max_iter=5
        )
        for start in (init, other)
    ]
    assert_array_equal(*[result.pseudo_labels for result in results])


NAN = [np.nan, np.nan]
HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fixed": [[0.5, np.nan], NAN]}, "Row 0 of fixed is NaN in part"),
        ({"fixed": [HALF]}, r"fixed has shape \(1, 2\), but proba has \(2, 2\)"),
        ({"fixed": [0, 1]}, r"fixed must have shape .*got shape \(2,\)"),
        ({"fixed": [NAN, [0.5, 0.6]]}, "of fixed must sum to 1, row 1 sums to 1.1"),
        ({"fixed": [NAN, [-0.5, 1.5]]}, "fixed must not be negative, got -0.5"),
        ({"fixed": [NAN, [np.inf, 0]]}, "fixed contains infinity"),
        (
            {"fixed": [NAN, HALF], "prior": [1, 0], "divergence": "forward"},
            "Row 1 of fixed has 0.5 of cluster 1, whose prior is zero",
        ),
        (
            {"fixed": [[1, 0], NAN], "prior": [1, 0], "divergence": "forward",
             "proba": [HALF, [0, 1]]},
            "Sample 1 has zero probability",
        ),
        ({"sample_weight": [1, -1]}, "sample_weight must not be negative"),
        ({"sample_weight": [0, 0]}, "not all zero"),
        ({"sample_weight": [1, 1, 1]}, r"sample_weight must have shape \(2,\)"),
        ({"sample_weight": [1, np.nan]}, "sample_weight contains NaN"),
    ],
)  # fmt: skip
def test_error_says_what_is_wrong(kwargs, message):
    kwargs = {"proba": [HALF, [0.6, 0.4]], "lam": 1.0, **kwargs}
    with pytest.raises(ValueError, match=message):
        solve_pseudo_labels(**kwargs)


@pytest.mark.parametrize("lam", [1e-3, 0.1, 1.0])
def test_weights_of_many_decades_are_solved(lam, rng):
    """A weight below 1e-16 of the largest counts as 0; those above are no problem."""
    proba = [[0.98, 0.01, 0.01], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    for small in (1e-10, 1e-15, 1e-20):
        result = solve_pseudo_labels(proba, lam=lam, sample_weight=[1, small, small])
        assert result.converged
        alone = solve_pseudo_labels(proba[:1], lam=lam)
        assert_allclose(result.loss, alone.loss, rtol=1e-5)
