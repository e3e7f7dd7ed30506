"""The public function: arguments, layouts, stopping rules, extreme values."""

import signal

import numpy as np
import pytest
from conftest import SOLVERS, pseudo_label_loss
from mpmath import fsum, log, mpf, workdps
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels import (
    MAX_LAM,
    check_prior,
    fairness,
    predictor_corrector,
)
from skcce._pseudo_labels.dual import balancing_price, duality_gap
from skcce._pseudo_labels.objective import kl_divergence, pose
from skcce._pseudo_labels.solve import certify

all_solvers = pytest.mark.parametrize(("solver", "divergence"), SOLVERS)
each_solver = pytest.mark.parametrize("solver", ["interior-point", "em", "pgd"])
both_divergences = pytest.mark.parametrize("divergence", ["reverse", "forward"])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw_predictions(n_samples, n_clusters, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    return softmax(sharpness * rng.normal(size=(n_samples, n_clusters)), axis=1)


def assert_distributions(labels, shape):
    assert labels.shape == shape
    assert labels.min() >= 0
    tol = (8 + shape[1]) * np.finfo(labels.dtype).eps
    assert_allclose(labels.sum(axis=1, dtype=float), 1, rtol=0, atol=tol)


# ---------------------------------------------------------------------------- objective


def exact_kl(p, q):
    with workdps(60):
        p, q = [mpf(float(a)) for a in p], [mpf(float(a)) for a in q]
        terms = [a * log(a / b) - a + b if a else b for a, b in zip(p, q, strict=True)]
        return float(fsum(terms))


@pytest.mark.parametrize("distance", [1e-15, 1e-9, 1e-4, 0.3, 0.9])
def test_kl_divergence_keeps_its_digits(rng, distance):
    q = rng.dirichlet(np.ones(7))
    p = q * (1 + distance * rng.uniform(-1, 1, 7))
    value, exact = kl_divergence(p, q), exact_kl(p, q)
    assert value == pytest.approx(exact, rel=1e-13, abs=1e-16 * distance)
    assert value > 0
    assert kl_divergence(q, q) == 0


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([1, 0], [0.5, 0.5], np.log(2)),
        ([0, 1], [0.5, 0.5], np.log(2)),
        ([0.5, 0.5], [1, 0], np.inf),
        ([1, 0], [1, 0], 0),
        ([1, 1e-300], [1 - 1e-12, 1e-12], 1e-12),
        ([1 - 1e-12, 1e-12], [1, 1e-300], 1e-12 * (np.log(1e288) - 1)),
    ],
)
def test_kl_divergence_of_zeros_and_tiny_shares(p, q, expected):
    value = kl_divergence(np.array(p, float), np.array(q, float))
    assert value == pytest.approx(expected, rel=1e-3)


@both_dtypes
@both_divergences
@pytest.mark.parametrize("prior", [[1, 1, 1, 1], [8, 4, 2, 1], [1, 1, 1e-12, 1]])
def test_loss_is_that_of_the_paper(dtype, divergence, prior):
    prior = np.array(prior) / sum(prior)
    proba, labels = (draw_predictions(25, 4, seed).astype(dtype) for seed in (0, 1))
    proba, labels = proba.astype(float), labels.astype(float)
    usage = labels.mean(axis=0)
    p, q = (usage, prior) if divergence == "forward" else (prior, usage)
    expected = -np.log(np.sum(proba * labels, axis=1)).mean() + 3 * p @ np.log(p / q)
    forward = divergence == "forward"
    loss = pseudo_label_loss(proba.astype(dtype), labels, 3.0, prior, forward)
    tol = 40 * float(np.finfo(dtype).eps)  # by so much, the shares do not sum to 1
    assert loss == pytest.approx(expected, abs=tol)
    wanted = pytest.approx(p @ np.log(p / q), abs=tol)
    assert fairness(usage, prior, forward) == wanted


def test_loss_and_gap_are_infinite_if_a_wanted_cluster_is_empty():
    proba, labels = draw_predictions(5, 2), np.tile([1.0, 0.0], (5, 1))
    even = np.array([0.5, 0.5])
    loss, gap = certify(pose(proba, 1.0, even), labels)
    assert loss == gap == np.inf
    loss, gap = certify(pose(proba, 1.0, even, forward=True), labels)
    assert np.isfinite(loss)
    assert gap == np.inf
    loss, gap = certify(pose(proba, 1.0, np.array([1.0, 0.0])), labels)
    assert np.isfinite([loss, gap]).all()


@both_divergences
def test_gap_is_the_regret_at_the_balancing_prices(divergence):
    # There, the clusters' part of the gap is zero.
    usage, prior = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.5, 0.0])
    forward = divergence == "forward"
    usage = np.array([0.2, 0.8, 0.0]) if forward else usage
    price = balancing_price(usage, 2.0, prior, forward)
    paid = price[usage > 0] @ usage[usage > 0]
    problem = pose(draw_predictions(5, 3), 2.0, prior, forward)
    gap = duality_gap(problem, 0.7, 1.3, usage, price)
    assert gap == pytest.approx(0.7 + 1.3 - paid, abs=1e-14)


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 7.0, 1e308])
def test_prior_is_scaled_to_sum_to_one(scale):
    prior = np.array([0.5, 0.9, 1.2])
    assert_allclose(check_prior(scale * prior, 3), prior / prior.sum(), rtol=1e-14)


def test_prior_is_even_by_default_and_without_shares_below_1e_30():
    assert_array_equal(check_prior(None, 4), 0.25)
    assert_array_equal(check_prior([2, 1e-31, 0, 1e-28], 4) > 0, [1, 0, 0, 1])


# -------------------------------------------------------------------------- small sizes


@all_solvers
@both_dtypes
def test_single_cluster_costs_nothing(solver, divergence, dtype):
    result = solve_pseudo_labels(
        np.ones((4, 1), dtype), lam=2.0, solver=solver, divergence=divergence
    )
    assert_array_equal(result.pseudo_labels, 1)
    assert result.loss == 0
    assert result.gap == pytest.approx(0, abs=1e-15)
    assert result.converged


@all_solvers
def test_single_sample_keeps_to_its_best_cluster_or_to_the_prior(solver, divergence):
    kwargs = {"solver": solver, "divergence": divergence, "step_size": 1e-3}
    proba, prior = np.array([[0.6, 0.3, 0.1]]), np.array([0.2, 0.3, 0.5])
    weak = solve_pseudo_labels(proba, lam=1e-3, prior=prior, **kwargs)
    strong = solve_pseudo_labels(proba, lam=100.0, prior=prior, **kwargs)
    assert weak.pseudo_labels[0].argmax() == 0
    assert_allclose(strong.pseudo_labels[0], prior, atol=0.02)
    assert strong.converged
    assert_distributions(weak.pseudo_labels, (1, 3))


@all_solvers
@both_dtypes
@pytest.mark.parametrize("lam", [1e-6, 0.4, 1e3, 1e6])
@pytest.mark.parametrize("prior", [None, [1, 1, 0], [1, 1e-100, 1]])
def test_hard_predictions_give_no_nan(solver, divergence, dtype, lam, prior):
    rows = [[1, 0, 0], [1 - 1e-16, 1e-300, 0], [0.5, 0.5, 0], [1 - 2**-24, 2**-24, 0]]
    result = solve_pseudo_labels(
        np.array(rows, dtype),
        lam=lam,
        prior=prior,
        solver=solver,
        divergence=divergence,
        max_iter=50,
    )
    assert_distributions(result.pseudo_labels, (4, 3))
    assert result.pseudo_labels.dtype == dtype
    assert not np.isnan(result.loss)
    assert not np.isnan(result.gap)


# ----------------------------------------------------------------------- stopping rules


@all_solvers
def test_converged_means_a_gap_within_tol(solver, divergence):
    proba = draw_predictions(50, 4)
    kwargs = {"lam": 0.4, "solver": solver, "divergence": divergence, "step_size": 0.1}
    n_iters = []
    for tol in (1.0, 1e-2, 1e-4):
        result = solve_pseudo_labels(proba, tol=tol, max_iter=5000, **kwargs)
        n_iters.append(result.n_iter)
        assert result.converged
        assert result.gap <= tol * max(1, result.loss)
        # The interior-point method aims at half of the tolerance.
        if result.n_iter > 1 and solver != "interior-point":
            # The gap is looked at after every tenth of the iterations, at least.
            before = max(1, int(result.n_iter / 1.1) - 1)
            short = solve_pseudo_labels(proba, tol=tol, max_iter=before, **kwargs)
            assert not short.converged
            assert short.n_iter == before
            assert short.gap > tol * max(1, short.loss)
    assert n_iters == sorted(n_iters)
    assert n_iters[0] < n_iters[-1]


@all_solvers
def test_last_iteration_may_be_the_one_that_converges(solver, divergence):
    proba = draw_predictions(50, 4)
    kwargs = {"lam": 0.4, "solver": solver, "divergence": divergence, "step_size": 0.1}
    first = solve_pseudo_labels(proba, tol=1e-3, **kwargs)
    again = solve_pseudo_labels(proba, tol=1e-3, max_iter=first.n_iter, **kwargs)
    assert first.converged
    assert again.converged
    assert_array_equal(again.pseudo_labels, first.pseudo_labels)


@pytest.mark.parametrize("solver", ["em", "pgd"])
def test_tol_is_relative_to_a_loss_above_one(solver):
    rng = np.random.default_rng(0)
    proba = np.eye(20)[[0] * 40] + 10.0 ** -rng.uniform(5, 15, (40, 20))
    proba /= proba.sum(axis=1, keepdims=True)
    init = rng.dirichlet(np.ones(20), size=40)
    kwargs = {"lam": 10.0, "solver": solver, "init": init, "step_size": 1e-3}
    fifth = solve_pseudo_labels(proba, tol=0, max_iter=5, **kwargs)
    assert fifth.n_iter == 5
    assert fifth.loss > 2
    border = fifth.gap / fifth.loss
    assert solve_pseudo_labels(proba, tol=border * (1 + 1e-9), **kwargs).n_iter == 5
    assert solve_pseudo_labels(proba, tol=border * (1 - 1e-9), **kwargs).n_iter > 5


@all_solvers
@pytest.mark.parametrize("max_iter", [1, 2, 25])
def test_stops_after_max_iter(solver, divergence, max_iter):
    result = solve_pseudo_labels(
        draw_predictions(50, 4),
        lam=3.0,
        solver=solver,
        divergence=divergence,
        max_iter=max_iter,
        step_size=1e-3,
        tol=0,
    )
    if solver == "interior-point":
        assert result.n_iter <= max_iter  # it notices that rounding is all that is left
    else:
        assert result.n_iter == max_iter
        assert not result.converged
    assert result.converged == (result.gap <= 0)


@all_solvers
def test_solvers_are_deterministic(solver, divergence):
    proba = draw_predictions(300, 5)
    kwargs = {"lam": 0.7, "solver": solver, "divergence": divergence, "max_iter": 20}
    first, second = (solve_pseudo_labels(proba, **kwargs) for _ in range(2))
    assert_array_equal(first.pseudo_labels, second.pseudo_labels)
    assert first[1:5] == second[1:5]


@pytest.mark.parametrize("solver", ["em", "pgd"])
def test_default_start_is_proba(solver):
    proba = draw_predictions(20, 3)
    kwargs = {"lam": 1.0, "solver": solver, "max_iter": 3, "step_size": 0.01}
    default = solve_pseudo_labels(proba, **kwargs)
    explicit = solve_pseudo_labels(proba, init=proba, **kwargs)
    other = solve_pseudo_labels(proba, init=np.full((20, 3), 1 / 3), **kwargs)
    assert_allclose(default.pseudo_labels, explicit.pseudo_labels, rtol=1e-13)
    assert np.abs(default.pseudo_labels - other.pseudo_labels).max() > 1e-3


# ----------------------------------------------------------------------- extreme values


@both_divergences
@pytest.mark.parametrize("lam", [1e10, 1e12, MAX_LAM])
@pytest.mark.parametrize("tol", [1e-6, 1e-9])
def test_huge_lam_is_solved_or_reported(divergence, lam, tol):
    proba = [[0.9, 0.1], [0.7, 0.3]]
    best = solve_pseudo_labels(proba, lam=1e9, divergence=divergence, tol=1e-9)
    result = solve_pseudo_labels(proba, lam=lam, divergence=divergence, tol=tol)
    assert best.converged
    excess = result.loss - best.loss  # 1e-9: how far lam = 1e9 is from the limit
    assert -2e-9 <= excess <= max(result.gap, 0) + 2e-9
    assert excess <= 1e-6 + 1e-18 * lam
    assert result.gap >= -1e-12
    if result.converged:
        assert excess <= tol + 2e-9


def needle_problem(n_samples=30):
    proba = np.full((n_samples, 30), 1e-3 / 30)
    proba[:, 0] = 1 - 29e-3 / 30
    return proba, np.r_[np.ones(29), 1e-12]


@pytest.mark.parametrize(
    ("divergence", "lam", "tol"), [("forward", 1e4, 1e-12), ("reverse", 1e6, 1e-12)]
)
@pytest.mark.parametrize("n_samples", [1, 30, 100])
def test_singular_newton_matrix_raises_no_error(divergence, lam, tol, n_samples):
    proba, prior = needle_problem(n_samples)
    kwargs = {"lam": lam, "prior": prior, "divergence": divergence}
    result = solve_pseudo_labels(proba, tol=tol, **kwargs)
    plain = solve_pseudo_labels(proba, tol=1e-7, **kwargs)
    assert_distributions(result.pseudo_labels, proba.shape)
    assert plain.converged
    assert result.loss == pytest.approx(plain.loss, abs=1e-7 * plain.loss + 1e-14 * lam)
    assert result.gap <= 1e-7 * result.loss


@both_divergences
@pytest.mark.parametrize("lam", [5e-324, 1e-100, 1e-16])
def test_tiny_lam_gives_the_best_cluster(divergence, lam):
    proba = draw_predictions(100, 5)
    result = solve_pseudo_labels(proba, lam=lam, divergence=divergence)
    assert result.converged
    assert_distributions(result.pseudo_labels, proba.shape)
    assert result.loss == pytest.approx(-np.log(proba.max(axis=1)).mean(), abs=2e-6)


@pytest.mark.parametrize(("solver", "divergence"), SOLVERS[2:])
@pytest.mark.parametrize("lam", [5e-324, 1e-100, 1e-16, MAX_LAM])
def test_iterative_solvers_take_any_lam(solver, divergence, lam):
    proba = draw_predictions(100, 5)
    result = solve_pseudo_labels(
        proba, lam=lam, solver=solver, divergence=divergence, max_iter=20
    )
    assert_distributions(result.pseudo_labels, proba.shape)
    assert not np.isnan(result.loss)
    assert result.gap >= -1e-12


def test_a_tol_out_of_reach_costs_no_accuracy():
    proba = np.tile([0.8, 1 - 0.8], (9, 1))
    kwargs = {"lam": 1e6, "prior": [1e-6, 1 - 1e-6]}
    coarse, fine = (
        solve_pseudo_labels(proba, tol=tol, **kwargs) for tol in (1e-6, 1e-12)
    )
    assert fine.loss <= coarse.loss + 1e-9


@all_solvers
@pytest.mark.parametrize(("dtype", "tiny"), [(np.float64, 1e-300), (np.float32, 1e-50)])
def test_a_share_too_small_for_the_dtype_leaves_a_finite_loss(
    solver, divergence, dtype, tiny
):
    proba = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], dtype)
    result = solve_pseudo_labels(
        proba, lam=1.0, prior=[1, tiny], solver=solver, divergence=divergence
    )
    expected = -np.log([0.9, 0.8, 0.7]).mean()  # the limit of a zero share
    assert result.loss == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("work", [0.0, 1e5])
@both_divergences
def test_pauses_do_not_change_the_result(monkeypatch, divergence, work):
    proba = draw_predictions(200, 6)
    expected = solve_pseudo_labels(proba, lam=3.0, divergence=divergence)
    monkeypatch.setattr(predictor_corrector, "_LONGEST", work)
    result = solve_pseudo_labels(proba, lam=3.0, divergence=divergence)
    assert result[1:5] == expected[1:5]
    assert_array_equal(result.pseudo_labels, expected.pseudo_labels)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX timers only")
@pytest.mark.parametrize("delay", [0.003, 0.05, 0.3])
def test_exact_solver_can_be_interrupted(delay):
    # A solve of seconds, whose kernels release control after a part of one.
    proba = draw_predictions(10_000, 100) * np.logspace(0, 2, 100)
    proba /= proba.sum(axis=1, keepdims=True)
    solve_pseudo_labels(proba[:50], lam=1.0)  # compiles

    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        with pytest.raises(KeyboardInterrupt):
            solve_pseudo_labels(proba, lam=4.0, tol=1e-9)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def frozen(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "list": np.ndarray.tolist,
    "Fortran": np.asfortranarray,
    "read-only": frozen,
    "strided": lambda array: np.repeat(array, 2, axis=1)[:, ::2],
    "reversed": lambda array: array[::-1].copy()[::-1],
    "byte-swapped": lambda array: array.astype(">f8"),
}


@each_solver
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter(solver, layout):
    change = LAYOUTS[layout]
    proba, init = draw_predictions(20, 4), draw_predictions(20, 4, seed=1)
    prior = np.array([4.0, 3.0, 2.0, 1.0])
    kwargs = {"lam": 1.0, "solver": solver, "max_iter": 10, "step_size": 0.01}
    start = {} if solver == "interior-point" else {"init": init}
    changed = {name: change(array) for name, array in start.items()}
    expected = solve_pseudo_labels(proba, prior=prior, **start, **kwargs)
    result = solve_pseudo_labels(
        change(proba), prior=frozen(prior), **changed, **kwargs
    )
    assert_allclose(result.pseudo_labels, expected.pseudo_labels, rtol=1e-9, atol=1e-12)
    assert result.gap == pytest.approx(expected.gap, rel=1e-9, abs=1e-13)


def test_reads_a_memory_map(tmp_path):
    proba = draw_predictions(20, 4)
    np.save(tmp_path / "proba.npy", proba)
    mapped = np.load(tmp_path / "proba.npy", mmap_mode="r")
    result = solve_pseudo_labels(mapped, lam=1.0)
    expected = solve_pseudo_labels(proba, lam=1.0)
    assert_allclose(result.pseudo_labels, expected.pseudo_labels, atol=1e-12)


@each_solver
@pytest.mark.parametrize("dtype", [int, bool, np.int8, np.float16])
def test_other_types_become_float64(solver, dtype):
    proba = np.eye(2, dtype=dtype)
    result = solve_pseudo_labels(proba, lam=1.0, solver=solver)
    assert result.pseudo_labels.dtype == np.float64
    assert_allclose(result.pseudo_labels, np.eye(2), atol=1e-6)


@pytest.mark.parametrize("solver", ["em", "pgd"])
@both_dtypes
def test_labels_have_the_dtype_of_proba(solver, dtype):
    other = np.float32 if dtype == np.float64 else np.float64
    result = solve_pseudo_labels(
        draw_predictions(20, 4).astype(dtype),
        lam=1.0,
        solver=solver,
        init=draw_predictions(20, 4, seed=1).astype(other),
        max_iter=2,
    )
    assert result.pseudo_labels.dtype == dtype


@all_solvers
@both_dtypes
def test_arguments_are_not_modified(solver, divergence, dtype):
    proba = draw_predictions(20, 4).astype(dtype)
    init = draw_predictions(20, 4, seed=1).astype(dtype)
    prior = np.array([1.0, 2.0, 3.0, 4.0])
    copies = proba.copy(), init.copy(), prior.copy()
    for start in (None,) if solver == "interior-point" else (None, init, proba):
        result = solve_pseudo_labels(
            proba,
            lam=1.0,
            prior=prior,
            init=start,
            solver=solver,
            divergence=divergence,
            max_iter=5,
        )
        for array in (proba, init):
            assert not np.shares_memory(result.pseudo_labels, array)
    for array, copy in zip((proba, init, prior), copies, strict=True):
        assert_array_equal(array, copy)


GOOD = {"proba": [[0.9, 0.1], [0.6, 0.4]], "lam": 1.0, "solver": "em"}


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
        ("lam", 2 * MAX_LAM),
        ("lam", "a"),
        ("lam", None),
        ("divergence", "both"),
        ("divergence", None),
        ("solver", "newton"),
        ("step_size", 0),
        ("step_size", -1),
        ("step_size", np.nan),
        ("step_size", np.inf),
        ("max_iter", 0),
        ("max_iter", 1.5),
        ("tol", -1),
        ("tol", np.nan),
        ("n_jobs", 1.5),
        ("init", [[0.5, 0.5]]),
        ("init", [[0.5, 0.3, 0.2]] * 2),
        ("init", [[1.5, -0.5], [0.5, 0.5]]),
        ("init", [[0.9, 0.2], [0.5, 0.5]]),
        ("init", [[np.nan, 0.5], [0.5, 0.5]]),
        ("init", [0.5, 0.5]),
    ],
)
def test_error_names_the_argument(name, value):
    solve_pseudo_labels(**GOOD)
    with pytest.raises(ValueError, match=rf"\b{name}\b"):
        solve_pseudo_labels(**{**GOOD, name: value})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"solver": "interior-point", "init": GOOD["proba"]}, "init.*em"),
        (
            {"proba": [[0.5, 0.5], [1, 0]], "prior": [0, 1], "divergence": "forward"},
            "Sample 1 .*prior.*forward",
        ),
    ],
)
def test_error_names_the_combination(kwargs, message):
    kwargs = {"proba": GOOD["proba"], "lam": 1.0, **kwargs}
    with pytest.raises(ValueError, match=message):
        solve_pseudo_labels(**kwargs)


def test_reverse_divergence_leaves_a_sample_to_a_cluster_without_prior():
    # What the forward divergence forbids, see above.
    result = solve_pseudo_labels([[0.5, 0.5], [1, 0]], lam=1.0, prior=[0, 1])
    assert result.converged
    assert result.pseudo_labels[1, 0] > 0


def test_options_are_keywords():
    with pytest.raises(TypeError, match="positional"):
        solve_pseudo_labels(GOOD["proba"], 1.0)
