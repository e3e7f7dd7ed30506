"""Is the reported gap true? Everything here is recomputed from the definitions."""

from typing import NamedTuple

import numpy as np
import pytest
from conftest import SOLVERS, deterministic
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import LinearConstraint, brentq, minimize, minimize_scalar
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from skcce import solve_pseudo_labels
from skcce._pseudo_labels import check_prior
from skcce._pseudo_labels import solve as solve_module
from skcce._pseudo_labels import working_set as working_set_module
from skcce._pseudo_labels.dual import (
    balancing_price,
    best_responses,
    duality_gap,
    mean_response,
)
from skcce._pseudo_labels.objective import pose
from skcce._pseudo_labels.working_set import interior_point

LEAST = {np.float64: 300, np.float32: 37}
SIGMAS = {
    "ordinary": lambda rng, m, k, _: rng.random((m, k)) + 0.01,
    "confident": lambda rng, m, k, _: np.exp(10 * rng.normal(size=(m, k))),
    "tiny": lambda rng, m, k, least: 10.0 ** -rng.uniform(0, least, (m, k)),
    "ties": lambda rng, m, k, _: rng.choice([1.0, 0.5, 1e-5], (m, k)),
    "zeros": lambda rng, m, k, _: (
        rng.random((m, k)) * (rng.random((m, k)) < 0.4)
        + np.eye(k)[rng.integers(k, size=m)]
    ),
    "one-hot": lambda rng, m, k, _: np.eye(k)[rng.integers(k, size=m)],
    "duplicates": lambda rng, m, k, _: rng.dirichlet(np.ones(k), m // 5 + 1)[
        rng.integers(m // 5 + 1, size=m)
    ],
    "a rest": lambda rng, m, k, _: (
        np.eye(k)[rng.integers(k, size=m)] + 10.0 ** -rng.uniform(250, 300, (m, k))
    ),
    "one cluster": lambda rng, m, k, _: np.eye(k)[[0] * m] + 1e-3 * rng.random((m, k)),
}
PRIORS = {
    "even": lambda rng, k: np.ones(k),
    "steep": lambda rng, k: 0.5 ** np.arange(k),
    "1e-12": lambda rng, k: np.r_[np.ones(k - 1), 1e-12],
    "1e-28": lambda rng, k: np.r_[np.ones(k - 1), 1e-28],
    "1e-100": lambda rng, k: np.r_[np.ones(k - 1), 1e-100],
    "zero": lambda rng, k: np.r_[np.ones(k - 1), 0.0],
    "random": lambda rng, k: rng.dirichlet(np.full(k, 0.3)),
}
EXACT = [pair for pair in SOLVERS if pair[0] == "interior-point"]

all_solvers = pytest.mark.parametrize(("solver", "divergence"), SOLVERS)
both_divergences = pytest.mark.parametrize("divergence", ["reverse", "forward"])


class Problem(NamedTuple):
    proba: np.ndarray
    lam: float
    prior: np.ndarray

    def solve(self, **kwargs):
        proba, lam, prior = self
        return solve_pseudo_labels(proba, lam=lam, prior=prior, **kwargs)

    def rounding(self, loss):
        """A few units in the last place of the terms of the loss."""
        eps = np.finfo(self.proba.dtype).eps
        scale = abs(loss) if np.isfinite(loss) else 0
        return 30 * eps * (max(1, scale) + self.lam)

    @property
    def shares(self):
        return check_prior(self.prior, self.proba.shape[1])


def draw_problem(seed, n_samples, n_clusters, sigma, prior, lam, dtype=np.float64):
    rng = np.random.default_rng(seed)
    proba = SIGMAS[sigma](rng, n_samples, n_clusters, LEAST[dtype])
    proba = (proba / proba.sum(axis=1, keepdims=True)).astype(dtype)
    prior = PRIORS[prior](rng, n_clusters)
    forbidden = proba[:, check_prior(prior, n_clusters) > 0].max(axis=1) == 0
    proba[forbidden] = 1 / n_clusters
    return Problem(proba, lam, prior)


def problems(max_size=2000, dtypes=(np.float64,), lam=(1e-6, 1e6)):
    sizes = [
        (n_samples, n_clusters)
        for n_samples in (1, 2, 7, 40, 300, 1000)
        for n_clusters in (2, 3, 5, 20, 100)
        if n_samples * n_clusters <= max_size
    ]
    return st.builds(
        lambda size, log_lam, **kwargs: draw_problem(
            n_samples=size[0], n_clusters=size[1], lam=10.0**log_lam, **kwargs
        ),
        size=st.sampled_from(sizes),
        log_lam=st.floats(*np.log10(lam)),
        seed=st.integers(0, 2**32 - 1),
        sigma=st.sampled_from(list(SIGMAS)),
        prior=st.sampled_from(list(PRIORS)),
        dtype=st.sampled_from(dtypes),
    )


def responses(proba, price):
    """max over the simplex of ln(sigma.y) + price.y: it is reached on an edge."""
    sigma, price = proba.astype(np.longdouble), price.astype(np.longdouble)
    with np.errstate(divide="ignore", invalid="ignore"):
        best = (np.log(sigma) + price).max(axis=1)
        for j in range(len(price)):
            gain, cost = sigma[:, [j]] - sigma, price - price[j]
            t = np.nan_to_num(1 / cost - sigma / gain, nan=0.0).clip(0, 1)
            t = np.where(cost < 0, 0, t)  # the other way round loses no digits
            value = np.log(sigma + t * gain) + price - t * cost
            best = np.fmax(best, np.fmax.reduce(value, axis=1))
    return best


def log_of(ratio, excess):
    """Return ln(ratio), from excess = ratio - 1 where that has more digits."""
    near = abs(excess) < 0.5
    with np.errstate(divide="ignore"):
        return np.where(near, np.log1p(np.where(near, excess, 0)), np.log(ratio))


def loss_and_bound(problem, labels, price, divergence):
    """Evaluate eq. (11) or (10), and the dual function, in extended precision.

    The sums of usage and prior are not taken: a huge lam would multiply how far they
    are from 1, by rounding.
    """
    lam, prior = np.longdouble(problem.lam), problem.shares.astype(np.longdouble)
    labels = labels.astype(np.longdouble)
    labels = labels / labels.sum(axis=1, keepdims=True)
    usage, wanted = labels.mean(axis=0), prior > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        collision = -np.log((problem.proba * labels).sum(axis=1)).mean()
        more = usage - prior
        log = log_of(usage / prior, more / prior)
        if divergence == "forward":
            terms = np.where(usage > 0, usage * log, 0) - more
        else:
            terms = more - np.where(wanted, prior * log, 0)
    loss = float(collision + lam * terms.sum())
    if price is None or np.isposinf(price).any():
        return loss, -np.inf
    response = responses(
        problem.proba if divergence == "reverse" else problem.proba[:, wanted],
        price if divergence == "reverse" else price[wanted],
    ).mean()
    price, prior = price[wanted].astype(np.longdouble), prior[wanted]
    if divergence == "forward":
        top = (-price / lam).max()
        log_asked = np.log(prior @ np.exp(-price / lam - top)) + top
        if abs(log_asked) < 0.1:
            log_asked = np.log1p(prior @ np.expm1(-price / lam))
        return loss, float(-lam * log_asked - response)
    # A price of -lam has lost the digits that make it a positive price.
    log = log_of(np.maximum(1 + price / lam, prior), price / lam)
    return loss, float(lam * (prior @ log) - response)


def prices_of(problem, result, solver, divergence, **kwargs):
    forward = divergence == "forward"
    if solver == "interior-point":
        options = {"max_iter": 1000, "tol": 1e-6, **kwargs}
        posed = pose(problem.proba, problem.lam, problem.shares, forward)
        posed = solve_module.lift_rows(posed)
        labels, price, _, _ = interior_point(posed, **options)
        assert np.array_equal(labels, result.pseudo_labels)
        return price
    if solver == "em":
        return result.prices
    usage = result.pseudo_labels.mean(axis=0, dtype=float)
    return balancing_price(usage, problem.lam, problem.shares, forward)


def assert_distributions(labels, n_ulp=8):
    eps = np.finfo(labels.dtype).eps
    assert np.isfinite(labels).all()
    assert labels.min() >= 0
    sums = labels.sum(axis=1, dtype=float)
    assert_allclose(sums, 1, rtol=0, atol=(n_ulp + labels.shape[1]) * eps)


# --------------------------------------------------------------- properties of a result


@pytest.mark.slow
@all_solvers
@deterministic(60)
@given(
    problem=problems(),
    max_iter=st.sampled_from([1, 2, 5, 30]),
    step_size=st.sampled_from([1e-3, 0.1, 1.0, 1e3]),
)
def test_certificate_is_true_however_early_the_solver_stops(
    solver, divergence, problem, max_iter, step_size
):
    result = problem.solve(
        solver=solver, divergence=divergence, max_iter=max_iter, step_size=step_size
    )
    assert_distributions(result.pseudo_labels)
    assert result.n_iter <= max_iter
    assert not np.isnan(result.loss)
    loss, _ = loss_and_bound(problem, result.pseudo_labels, None, divergence)
    rounding = problem.rounding(loss)
    assert result.loss == pytest.approx(loss, rel=1e-13, abs=rounding)
    assert result.gap >= 0
    best = problem.solve(divergence=divergence, tol=1e-9)
    assert best.gap >= 0
    assert best.loss - best.gap <= loss + rounding
    if np.isfinite(loss):
        assert loss - best.loss <= result.gap + rounding


@both_divergences
@deterministic(150)
@given(problem=problems(max_size=10_000))
def test_exact_solver_converges(divergence, problem):
    result = problem.solve(divergence=divergence, tol=1e-8)
    assert result.converged
    assert result.gap <= 1e-8 * max(1, result.loss)
    assert_distributions(result.pseudo_labels)


@both_divergences
@deterministic(60)
@given(problem=problems(dtypes=[np.float32]))
def test_exact_solver_in_float32(divergence, problem):
    result = problem.solve(divergence=divergence)
    double = problem._replace(proba=problem.proba.astype(float))
    best = double.solve(divergence=divergence)
    assert result.pseudo_labels.dtype == np.float32
    assert_distributions(result.pseudo_labels)
    loss, _ = loss_and_bound(double, result.pseudo_labels, None, divergence)
    rounding = problem.rounding(loss)
    assert 0 <= result.gap <= 1e-6 * max(1, loss) + rounding
    assert best.loss - best.gap - rounding <= loss <= best.loss + result.gap + rounding


@pytest.mark.slow
@deterministic(60)
@given(problem=problems(dtypes=[np.float32], lam=(1e-4, 1e3)))
def test_em_in_float32(problem):
    result = problem.solve(solver="em", max_iter=20)
    double = problem._replace(proba=problem.proba.astype(float))
    wide = double.solve(solver="em", max_iter=20)
    assert_distributions(result.pseudo_labels)
    loss, _ = loss_and_bound(double, result.pseudo_labels, None, "reverse")
    best = double.solve()
    rounding = problem.rounding(loss)
    assert result.gap >= 0
    assert loss - best.loss <= result.gap + rounding
    # Shares that only float64 can hold make a difference, up to what is to be gained.
    assert loss <= wide.loss + max(result.gap, wide.gap) + rounding


@both_divergences
@pytest.mark.parametrize("lam", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("prior", ["even", "steep"])
@pytest.mark.parametrize("sigma", ["ordinary", "confident", "ties", "zeros"])
def test_optimality_conditions_of_the_exact_solution(divergence, lam, prior, sigma):
    problem = draw_problem(0, 60, 5, sigma, prior, lam)
    labels = problem.solve(divergence=divergence, tol=1e-12).pseudo_labels
    price = balancing_price(
        labels.mean(axis=0), lam, problem.shares, divergence == "forward"
    )
    gain = problem.proba / (problem.proba * labels).sum(axis=1, keepdims=True) + price
    # Complementary slackness: what is held is what earns most.
    regret = gain.max(axis=1) - (labels * gain).sum(axis=1)
    assert regret.max() < 1e-4


@pytest.mark.slow
@all_solvers
@deterministic(40)
@given(problem=problems(lam=(1e-3, 1e3)), seed=st.integers(0, 99))
def test_order_of_samples_and_clusters_does_not_matter(
    solver, divergence, problem, seed
):
    rng = np.random.default_rng(seed)
    rows, columns = (rng.permutation(size) for size in problem.proba.shape)
    permuted = problem._replace(
        proba=problem.proba[np.ix_(rows, columns)], prior=problem.prior[columns]
    )
    kwargs = {"solver": solver, "divergence": divergence, "step_size": 0.01}
    one, other = (p.solve(**kwargs, max_iter=200) for p in (problem, permuted))
    gap = 1e-8 if solver == "pgd" else max(one.gap, other.gap)
    if np.isfinite(one.loss) or np.isfinite(other.loss):
        assert other.loss == pytest.approx(
            one.loss, abs=1e-12 * (10 + problem.lam) + gap
        )


@pytest.mark.slow
@both_divergences
@deterministic(60)
@given(problem=problems(max_size=700), n_copies=st.sampled_from([2, 3, 8]))
def test_copies_of_the_samples_leave_the_optimum(divergence, problem, n_copies):
    copies = problem._replace(proba=np.repeat(problem.proba, n_copies, axis=0))
    once, many = (p.solve(divergence=divergence) for p in (problem, copies))
    freedom = max(once.gap, many.gap) + problem.rounding(once.loss)
    assert many.loss == pytest.approx(once.loss, abs=freedom)


# ----------------------------------------------------- the worst gap of many problems


def hard_problem(seed):
    rng = np.random.default_rng(seed)
    return draw_problem(
        seed,
        n_samples=int(rng.choice([1, 2, 3, 20, 100, 250])),
        n_clusters=int(rng.choice([2, 3, 4, 8, 13, 30])),
        sigma=rng.choice(list(SIGMAS)),
        prior=rng.choice(list(PRIORS)),
        lam=10.0 ** rng.uniform(-6, 6),
    )


@pytest.mark.slow
@all_solvers
@pytest.mark.parametrize("start", range(0, 300, 50))
def test_reported_gap_is_that_of_an_independent_computation(solver, divergence, start):
    kwargs = {"solver": solver, "divergence": divergence}
    if solver != "interior-point":
        kwargs |= {"max_iter": 60, "step_size": 0.01}
    for seed in range(start, start + 50):
        problem = hard_problem(seed)
        result = problem.solve(**kwargs)
        price = prices_of(problem, result, solver, divergence)
        loss, bound = loss_and_bound(problem, result.pseudo_labels, price, divergence)
        gap = loss - bound
        rounding = problem.rounding(loss)
        assert result.loss == pytest.approx(loss, rel=1e-13, abs=rounding)
        if not np.isfinite(gap):
            assert solver == "pgd"
            assert result.gap == gap
            assert not result.converged
            continue
        assert result.gap == pytest.approx(gap, rel=1e-9, abs=rounding)
        # No silent miss: converged, or reported as not converged.
        limit = 1e-6 * max(1, loss)
        assert result.converged or gap > limit - rounding
        assert gap <= limit + rounding or not result.converged
        if solver == "interior-point":
            assert result.converged


@both_divergences
@pytest.mark.parametrize("max_iter", [1, 3, 6])
def test_gap_of_an_unfinished_exact_solve(divergence, max_iter):
    n_unfinished = 0
    for seed in range(60):
        problem = hard_problem(seed)
        result = problem.solve(divergence=divergence, max_iter=max_iter)
        price = prices_of(
            problem, result, "interior-point", divergence, max_iter=max_iter
        )
        loss, bound = loss_and_bound(problem, result.pseudo_labels, price, divergence)
        assert result.n_iter <= max_iter
        n_unfinished += not result.converged
        if result.converged:
            assert loss - bound <= 1e-6 * max(1, loss) + problem.rounding(loss)
        else:
            assert result.gap > 1e-6 * max(1, result.loss)
    assert n_unfinished > 0


@both_divergences
def test_best_round_of_an_unfinished_exact_solve(monkeypatch, divergence):
    proba = draw_skewed(2000, 30, bias=3.0)
    gaps = []

    def spy(*args):
        # As if every round but the first were a step back.
        gaps.append(duality_gap(*args) + 100 * len(gaps))
        return gaps[-1]

    monkeypatch.setattr(working_set_module, "duality_gap", spy)
    # Prices that are thought to be good need several rounds of working sets.
    monkeypatch.setattr(working_set_module, "_error_of_prices", lambda *args: 0.01)
    result = solve_pseudo_labels(
        proba, lam=4, divergence=divergence, tol=1e-12, max_iter=30
    )
    assert len(gaps) > 1
    assert not result.converged
    assert result.gap == pytest.approx(gaps[0], rel=1e-6)


@both_divergences
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rounding_makes_no_gap_negative(monkeypatch, divergence, dtype):
    # What `certify` clips is below 0 for some of these problems.
    raw = []

    def spy(*args):
        raw.append(duality_gap(*args))
        return raw[-1]

    monkeypatch.setattr(solve_module, "duality_gap", spy)
    for seed in range(40):
        problem = draw_problem(seed, 20, 3, "ordinary", "even", 1.0, dtype)
        result = problem.solve(divergence=divergence, tol=1e-15)
        assert result.gap == max(raw[-1], 0)
    assert min(raw) < 0


@pytest.mark.parametrize("sigma", ["ordinary", "tiny", "ties", "zeros", "one-hot"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e5])
def test_best_response_is_the_maximum(sigma, scale):
    for seed in range(15):
        proba = draw_problem(seed, 20, 6, sigma, "even", 1.0).proba
        price = scale * np.random.default_rng(seed).random(6)
        response, *_ = mean_response(pose(proba, 1.0, np.full(6, 1 / 6)), price)
        exact = float(responses(proba, price).mean())
        assert response == pytest.approx(exact, rel=1e-14, abs=1e-13)


@pytest.mark.parametrize("depth", [1e3, 1e6, 1e9, 1e12, 1e15, 1e17])
def test_best_response_at_a_price_far_below_the_others(depth):
    price = np.array([0.3, 0.2, 0.1 - depth])
    for first in (0.0, 1e-30):  # a sample that has the third cluster only, nearly
        proba = np.array([[first, 0, 1 - first]])
        marks = np.zeros((1, 3), dtype=bool)
        response, *_ = best_responses(
            proba, np.ones(1), np.zeros(3), 1.0, price, 1e-6, marks, np.empty(0)
        )
        exact = 0.3 - 1 - np.log(0.3 - price[2])
        assert response == pytest.approx(exact, abs=1e-12)
        assert_array_equal(marks, [[True, False, True]])


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_edges_and_envelope_are_dual(scale):
    # The reference of these tests has a reference: the minimum over z.
    rng = np.random.default_rng(0)
    for row in rng.dirichlet(np.ones(5), size=20):
        price = scale * rng.random(5)

        def bound(log_z, row=row, price=price):
            return (price + row * np.exp(log_z)).max() - 1 - log_z

        options = {"xatol": 1e-12}
        best = minimize_scalar(
            bound, bounds=(-20, 20), method="bounded", options=options
        )
        assert responses(row[np.newaxis], price)[0] == pytest.approx(best.fun, abs=1e-6)
        assert responses(row[np.newaxis], price)[0] <= best.fun + 1e-12


def test_marks_are_the_clusters_within_the_margin(rng):
    proba, price = rng.dirichlet(np.ones(6), size=50), rng.random(6)
    for margin in (0.01, 0.1, 1.0):
        marks = np.zeros(proba.shape, dtype=bool)
        _, count, _ = best_responses(
            proba, np.ones(50), np.zeros(6), 50.0, price, margin, marks, np.empty(0)
        )
        assert count == marks.sum()
        base = responses(proba, price)
        for k in range(6):
            raised = price + margin * (np.arange(6) == k)
            rises = responses(proba, raised) > base + 1e-12
            assert marks[rises, k].all()
            raised[k] += 1e-3
            rises = responses(proba, raised) > base + 1e-10
            assert rises[marks[:, k]].all()


@pytest.mark.parametrize("margin", [0.0, 1e-100, 1e-17])
def test_every_sample_has_a_mark(rng, margin):
    # `_gather` writes beyond its arrays if one has none.
    proba = rng.dirichlet(np.ones(6), size=1000)
    for scale in (0.0, 0.1, 0.3, 1.0, 1e6):
        marks = np.zeros(proba.shape, dtype=bool)
        best_responses(
            proba,
            np.ones(1000),
            np.zeros(6),
            1000.0,
            scale * rng.random(6),
            margin,
            marks,
            np.empty(0),
        )
        assert marks.any(axis=1).all()


# ----------------------------------------------------------------- known optimal values


@both_divergences
@pytest.mark.parametrize("lam", [0.03, 1.0, 20.0])
@pytest.mark.parametrize("shape", [(1, 2), (3, 2), (6, 3), (5, 4)])
@pytest.mark.parametrize("prior_kind", ["even", "steep", "zero"])
def test_agrees_with_scipy(divergence, lam, shape, prior_kind):
    if shape[1] == 2 and prior_kind == "zero" and divergence == "forward":
        pytest.skip("only one cluster is left")
    problem = draw_problem(1, *shape, "ordinary", prior_kind, lam)
    proba, prior = problem.proba, problem.shares
    allowed = np.ones(shape, dtype=bool) & ((prior > 0) | (divergence == "reverse"))

    def objective(flat):
        labels = flat.reshape(shape)
        hit = (proba * labels).sum(axis=1, keepdims=True)
        usage = np.maximum(labels.mean(axis=0), 1e-12)
        wanted = prior > 0
        u, y = prior[wanted], usage[wanted]
        slope = np.zeros(shape[1])
        if divergence == "reverse":
            fairness = u @ np.log(u / y)
            slope[wanted] = -u / y
        else:
            fairness = y @ np.log(y / u)
            slope[wanted] = np.log(y / u) + 1
        gradient = (-proba / hit + lam * slope) / len(proba)
        return -np.log(hit).mean() + lam * fairness, gradient.ravel()

    start = allowed / allowed.sum(axis=1, keepdims=True)
    theirs = minimize(
        objective,
        start.ravel(),
        jac=True,
        method="SLSQP",
        bounds=[(0, float(free)) for free in allowed.ravel()],
        constraints=LinearConstraint(
            np.kron(np.eye(shape[0]), np.ones(shape[1])), 1, 1
        ),
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    ours = problem.solve(divergence=divergence, tol=1e-10)
    assert ours.converged
    assert ours.loss == pytest.approx(theirs.fun, abs=1e-7)


@both_divergences
@pytest.mark.parametrize("lam", [1e-6, 0.1, 1.0, 50.0, 1e6])
@pytest.mark.parametrize("first", [0.5, 0.8, 1 - 1e-9])
@pytest.mark.parametrize("share", [0.5, 0.9, 1e-6])
@pytest.mark.parametrize("n_samples", [1, 9])
def test_two_clusters_and_equal_rows(divergence, lam, first, share, n_samples):
    def slope(y):
        collision = -(2 * first - 1) / (y * first + (1 - y) * (1 - first))
        if divergence == "reverse":
            return collision + lam * ((1 - share) / (1 - y) - share / y)
        return collision + lam * np.log(y / (1 - y) * (1 - share) / share)

    # Where the forward divergence is weak, the second cluster gets less than 1e-16.
    end = 1 - 1e-16
    y = 1.0 if slope(end) < 0 else brentq(slope, 1e-300, end, xtol=1e-300, rtol=1e-15)
    problem = Problem(
        np.tile([first, 1 - first], (n_samples, 1)), lam, np.array([share, 1 - share])
    )
    optimum, _ = loss_and_bound(problem, np.array([[y, 1 - y]]), None, divergence)
    tol = 1e-12 * max(1, lam / 1000)
    result = problem.solve(divergence=divergence, tol=tol)
    assert result.converged
    freedom = tol * max(1, optimum) + problem.rounding(optimum)
    assert result.loss == pytest.approx(optimum, abs=freedom)


@pytest.mark.parametrize(("solver", "divergence"), SOLVERS)
@pytest.mark.parametrize("least", [1e-29, 1e-99, 1e-307, 1e-310, 5e-324])
def test_rows_that_only_have_what_is_tiny(solver, divergence, least):
    # Multiplied by any factor, a row has the same labels.
    proba, prior = np.array([[1, least, 0], [0.2, 0.5, 0.3]]), [0, 1, 1]
    kwargs = {"lam": 0.7, "prior": prior, "divergence": divergence, "solver": solver}
    result = solve_pseudo_labels(
        proba, max_iter=5000, tol=1e-9, step_size=0.1, **kwargs
    )
    assert_distributions(result.pseudo_labels)
    assert result.converged
    if divergence == "forward":
        proba[0] = [0.5, 0.5, 0]
        other = solve_pseudo_labels(proba, **kwargs | {"solver": "interior-point"})
        assert_allclose(result.pseudo_labels, other.pseudo_labels, atol=1e-3)
        higher = (np.log(0.5) - np.log(least)) / 2
        assert result.loss == pytest.approx(other.loss + higher, rel=1e-6)


@both_divergences
@pytest.mark.parametrize("lam", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("p", [0.6, 0.99, 1.0])
def test_balanced_rows_keep_their_clusters(divergence, lam, p):
    proba = np.tile([[p, 1 - p], [1 - p, p]], (5, 1))
    result = solve_pseudo_labels(proba, lam=lam, divergence=divergence, tol=1e-11)
    assert result.loss == pytest.approx(-np.log(p), abs=1e-10 + 1e-14 * lam)
    assert_allclose(result.pseudo_labels, proba.round(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("forces", [(0.5, 0.7), (0.2, 0.3)])
def test_zero_share_has_the_closed_form_of_the_supplement(forces):
    # Section 9: the best cluster has no share, the others take a / (c (1 - s / s_max)).
    sigma, lam = np.array([0.6, 0.3, 0.1]), sum(forces)
    prior = np.array([0.0, *forces]) / lam
    label = lam * prior / ((1 + lam) * (1 - sigma / sigma[0] + (sigma == sigma[0])))
    label[0] = 1 - label.sum()
    assert label[0] > 0
    expected, _ = loss_and_bound(
        Problem(sigma[np.newaxis], lam, prior), label[np.newaxis], None, "reverse"
    )
    for solver in ("interior-point", "em"):
        result = solve_pseudo_labels(
            [sigma], lam=lam, prior=prior, solver=solver, tol=1e-13
        )
        assert result.loss == pytest.approx(expected, abs=1e-12)
        assert_allclose(result.pseudo_labels[0], label, atol=1e-6)


@both_divergences
def test_tiny_lam_gives_the_best_cluster(divergence):
    proba = draw_problem(0, 200, 6, "confident", "even", 1.0).proba
    result = solve_pseudo_labels(
        proba, lam=1e-9, divergence=divergence, prior=[6, 5, 4, 3, 2, 1], tol=1e-9
    )
    best = proba.max(axis=1)
    assert result.loss == pytest.approx(-np.log(best).mean(), abs=1e-7)
    clear = np.sort(proba, axis=1)[:, -2] < 0.5 * best
    assert_allclose(
        result.pseudo_labels[clear].argmax(axis=1), proba[clear].argmax(axis=1)
    )
    assert result.pseudo_labels[clear].max(axis=1).min() > 1 - 1e-5


@both_divergences
@pytest.mark.parametrize("lam", [1e4, 1e6])
def test_huge_lam_gives_the_prior(divergence, lam):
    problem = draw_problem(0, 200, 6, "ordinary", "random", lam)
    result = problem.solve(divergence=divergence)
    usage = result.pseudo_labels.mean(axis=0)
    # Pinsker: the labels that are the prior have a loss of at most ln(1 / 0.001).
    assert_allclose(usage, problem.shares, rtol=0, atol=np.sqrt(2 * 7 / lam))


@pytest.mark.slow
@both_divergences
@pytest.mark.parametrize("lam", [1e7, 1e11, 1e15])
@pytest.mark.parametrize("sigma", SIGMAS)
def test_huge_lam_is_solved_with_a_true_certificate(divergence, lam, sigma):
    for seed, shape in enumerate([(1, 2), (2, 3), (7, 5), (40, 3), (40, 20)]):
        for prior in PRIORS:
            problem = draw_problem(seed, *shape, sigma, prior, lam)
            result = problem.solve(divergence=divergence)
            assert result.converged
            price = prices_of(problem, result, "interior-point", divergence)
            labels = result.pseudo_labels
            loss, bound = loss_and_bound(problem, labels, price, divergence)
            assert result.loss == pytest.approx(loss, abs=1e-9)
            assert result.gap == pytest.approx(loss - bound, abs=1e-9)


@pytest.mark.parametrize("seed", [78, 79, 81])
def test_newton_matrix_with_a_negative_diagonal_by_rounding(seed):
    problem = draw_problem(seed, 40, 20, "tiny", "1e-28", 1e14)
    assert problem.solve(divergence="forward").converged


@all_solvers
def test_solvers_meet_at_the_optimum(solver, divergence):
    for seed, prior in enumerate(["even", "steep", "random"]):
        problem = draw_problem(seed, 40, 4, "ordinary", prior, 0.3)
        best = problem.solve(divergence=divergence, tol=1e-10)
        result = problem.solve(
            solver=solver, divergence=divergence, tol=1e-7, max_iter=50_000
        )
        assert result.converged
        assert -1e-10 <= result.loss - best.loss <= 1e-7 * max(1, result.loss)


@pytest.mark.slow
@both_divergences
@pytest.mark.parametrize("shape", [(100, 300), (300, 100)])
def test_many_clusters(divergence, shape):
    problem = draw_problem(0, *shape, "confident", "even", 1.0)
    result = problem.solve(divergence=divergence)
    price = prices_of(problem, result, "interior-point", divergence)
    loss, bound = loss_and_bound(problem, result.pseudo_labels, price, divergence)
    assert result.converged
    assert result.gap == pytest.approx(loss - bound, abs=1e-13)
    assert_distributions(result.pseudo_labels)


@both_divergences
def test_subsamples_of_many_samples_give_starting_prices(divergence):
    problem = draw_problem(0, 20_000, 4, "ordinary", "steep", 0.5)
    result = problem.solve(divergence=divergence)
    assert result.converged
    price = prices_of(problem, result, "interior-point", divergence)
    loss, bound = loss_and_bound(problem, result.pseudo_labels, price, divergence)
    assert result.gap == pytest.approx(loss - bound, abs=1e-13)


def draw_skewed(n_samples, n_clusters, bias=1.5):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n_samples, n_clusters))
    return softmax(logits + bias * rng.normal(size=n_clusters), axis=1)


@both_divergences
@pytest.mark.parametrize("lam", [0.4, 4.0, 100.0, 1e6])
@pytest.mark.parametrize("shape", [(400, 20), (20, 150), (150, 80)])
@pytest.mark.parametrize("bias", [1.5, 3.0])
def test_skewed_predictions_take_few_steps(divergence, lam, shape, bias):
    proba = draw_skewed(*shape, bias)
    result = solve_pseudo_labels(proba, lam=lam, divergence=divergence)
    assert result.converged
    assert result.n_iter <= 60
    assert_distributions(result.pseudo_labels)


@both_divergences
@pytest.mark.parametrize("kind", ["plain", "weighted", "fixed", "zero"])
@pytest.mark.parametrize("lam", [0.4, 30.0])
def test_whole_problems_and_working_sets_agree(monkeypatch, rng, divergence, kind, lam):
    proba = draw_skewed(150, 12, bias=0.5)
    kwargs = {"lam": lam, "divergence": divergence, "tol": 1e-9}
    if kind == "weighted":
        kwargs["sample_weight"] = rng.integers(0, 4, size=150)
    if kind == "fixed":
        kwargs["fixed"] = np.where(np.arange(150)[:, None] < 30, np.eye(12)[3], np.nan)
    if kind == "zero":
        kwargs["prior"] = np.arange(12)
    losses = []
    for whole in (True, False):
        monkeypatch.setattr(
            working_set_module, "_is_whole_faster", lambda *args, whole=whole: whole
        )
        result = solve_pseudo_labels(proba, **kwargs)
        assert result.converged
        losses.append(result.loss)
    assert losses[0] == pytest.approx(losses[1], abs=2e-9 * max(1, losses[0]))


@both_divergences
def test_error_of_prices_is_about_true(divergence):
    proba = draw_skewed(3000, 10, bias=0.0)
    problem = pose(proba, 1.0, np.full(10, 0.1), divergence == "forward")
    _, price, *_ = working_set_module.interior_point(problem, 100, 1e-9)
    noise = np.random.default_rng(1).normal(size=10)
    noise -= noise.mean()
    for error in (0.03, 0.1, 0.3):
        guess = price + error * noise
        estimate = working_set_module._error_of_prices(problem, 1.5, guess)
        assert error / 3 < estimate < 3 * error


def test_threads_of_blas_do_not_change_the_bits():
    proba = draw_skewed(400, 200)  # smaller ones have the same bits by chance
    labels = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            labels.append(solve_pseudo_labels(proba, lam=4.0).pseudo_labels)
    assert_array_equal(*labels)


# -------------------------------------------------------------------------- warm starts


def skewed_predictions(n_samples, n_clusters, seed=0, samples_seed=0):
    bias = 1.5 * np.random.default_rng(seed).normal(size=n_clusters)
    noise = np.random.default_rng(samples_seed).normal(size=(n_samples, n_clusters))
    return softmax(3 * noise + bias, axis=1)


@pytest.mark.slow
@both_divergences
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("prior", [None, [4, 3, 2, 1, 1, 0]])
@pytest.mark.parametrize("lam", [0.4, 4.0, 100.0])
@pytest.mark.parametrize("known", [False, True])
def test_prices_of_the_same_problem_save_steps(divergence, dtype, prior, lam, known):
    # So many that, without a guess, prices are those of a part of the samples.
    proba = skewed_predictions(20_000, 6).astype(dtype)
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    if known:
        fixed = np.full(proba.shape, np.nan)
        fixed[::5] = np.eye(6)[0]
        weight = np.random.default_rng(1).uniform(0, 2, len(proba))
        kwargs |= {"fixed": fixed, "sample_weight": weight}
    cold = solve_pseudo_labels(proba, **kwargs)
    warm = solve_pseudo_labels(proba, init_prices=cold.prices, **kwargs)
    assert cold.converged
    assert warm.converged
    assert warm.n_iter < cold.n_iter
    rounding = np.finfo(dtype).eps * (1 + lam)
    assert abs(warm.loss - cold.loss) <= max(warm.gap, cold.gap) + rounding
    # And on to other samples, which gives another problem's certificate.
    other = skewed_predictions(500, 6, samples_seed=1).astype(dtype)
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    assert solve_pseudo_labels(other, init_prices=cold.prices, **kwargs).converged


GUESSES = {
    "zeros": lambda rng, k: np.zeros(k),
    "a constant": lambda rng, k: np.full(k, -7.0),
    "random": lambda rng, k: rng.normal(size=k),
    "wide": lambda rng, k: 1e4 * rng.normal(size=k),
    "huge": lambda rng, k: rng.choice([-1e308, 1e308], k),
    "tiny": lambda rng, k: np.full(k, 5e-324),
    "one high": lambda rng, k: np.r_[1e6, np.zeros(k - 1)],
    "one low": lambda rng, k: np.r_[-1e6, np.zeros(k - 1)],
}


@both_divergences
@pytest.mark.parametrize("guess", GUESSES)
@pytest.mark.parametrize("lam", [0.4, 100.0, 1e6])
@pytest.mark.parametrize(("n_samples", "n_clusters"), [(300, 8), (20, 40), (6000, 3)])
def test_any_guess_of_the_prices_will_do(
    divergence, guess, lam, n_samples, n_clusters, rng
):
    proba = skewed_predictions(n_samples, n_clusters)
    prices = GUESSES[guess](rng, n_clusters)
    before = prices.copy()
    kwargs = {"lam": lam, "divergence": divergence}
    plain = solve_pseudo_labels(proba, **kwargs)
    result = solve_pseudo_labels(proba, init_prices=prices, **kwargs)
    assert_array_equal(prices, before)
    assert result.converged == plain.converged
    assert abs(result.loss - plain.loss) <= max(result.gap, plain.gap) + 1e-12 * lam


@all_solvers
@pytest.mark.parametrize("prior", [None, [3, 2, 1, 0]])
def test_gap_is_that_of_the_prices(solver, divergence, prior):
    proba = skewed_predictions(100, 4)
    kwargs = {"lam": 2.0, "prior": prior, "divergence": divergence}
    result = solve_pseudo_labels(
        proba, solver=solver, max_iter=20, step_size=0.01, **kwargs
    )
    prior = check_prior(prior, 4)
    forward = divergence == "forward"
    problem = pose(proba, 2.0, prior, forward)
    _, gap = solve_module.certify(problem, result.pseudo_labels, result.prices)
    assert gap == pytest.approx(result.gap, rel=1e-6, abs=1e-14)
    assert_array_equal(result.prices[prior == 0], -np.inf if forward else -2.0)
    # Whichever solver it was, they are a start.
    again = solve_pseudo_labels(proba, init_prices=result.prices, **kwargs)
    assert again.converged


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_prices": [0.0] * 3}, r"init_prices .*shape \(2,\)"),
        ({"init_prices": [[0.0, 0.0]]}, r"init_prices .*shape \(2,\)"),
        ({"init_prices": [np.nan, 0.0]}, "init_prices .*finite.*nan for cluster 0"),
        ({"init_prices": [0.0, np.inf]}, "init_prices .*finite.*inf for cluster 1"),
        ({"init_prices": [0.0, 0.0], "solver": "em"}, "em.*init_prices.*interior"),
        ({"init_prices": [0.0, 0.0], "solver": "pgd"}, "pgd.*init_prices.*interior"),
    ],
)
def test_prices_that_are_no_guess(changes, message):
    with pytest.raises(ValueError, match=message):
        solve_pseudo_labels([[0.9, 0.1], [0.6, 0.4]], lam=1.0, **changes)


@both_divergences
@pytest.mark.parametrize("price", [np.nan, np.inf, -np.inf, 3.0])
def test_price_of_an_unwanted_cluster_has_no_effect(divergence, price):
    proba = skewed_predictions(100, 3)
    kwargs = {"lam": 2.0, "prior": [1, 1, 0], "divergence": divergence}
    plain = solve_pseudo_labels(proba, init_prices=[0.1, 0.0, 0.0], **kwargs)
    result = solve_pseudo_labels(proba, init_prices=[0.1, 0.0, price], **kwargs)
    assert_array_equal(result.pseudo_labels, plain.pseudo_labels)
