"""The kernels as plain Python: the same numbers, and lines that coverage can see."""

import math

import numpy as np
import pytest
from conftest import SOLVERS
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from skcce import _kernel as kernel_module
from skcce import solve_pseudo_labels
from skcce._pseudo_labels import (
    accelerated_em,
    dual,
    em,
    objective,
    predictor_corrector,
    projected_gradient,
    solve,
    working_set,
)
from skcce._pseudo_labels.predictor_corrector import _cholesky, _solve_factorized

MODULES = [
    accelerated_em,
    dual,
    em,
    objective,
    predictor_corrector,
    projected_gradient,
    solve,
    working_set,
]
PRIORS = {
    "even": [1, 1, 1],
    "steep": [8, 4, 1],
    "zero": [0, 1, 2],
    "tiny": [1, 1, 1e-9],
}


def in_python(kernel):
    """Return the kernel as a Python function that returns numpy's floats.

    Division by them is that of compiled code: inf or nan instead of an exception.
    """

    def convert(value):
        if isinstance(value, tuple):
            return tuple(map(convert, value))
        return np.float64(value) if isinstance(value, float) else value

    return lambda *args: convert(kernel.py_func(*args))


@pytest.fixture
def run_in_python(monkeypatch):
    """Return a function that calls another one with all kernels as plain Python."""

    if (np.uint64(0) + 0).dtype != np.uint64:
        pytest.skip("NumPy 1 makes a float of two integers, compiled code does not")

    def run(function, *args, **kwargs):
        n_replaced = 0
        with monkeypatch.context() as patch, np.errstate(all="ignore"):
            for module in MODULES:
                for name, value in vars(module).items():
                    if hasattr(value, "py_func"):
                        patch.setattr(module, name, in_python(value))
                        n_replaced += 1
            assert n_replaced > 10
            return function(*args, **kwargs)

    return run


def draw_predictions(n_samples, n_clusters, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    return softmax(sharpness * rng.normal(size=(n_samples, n_clusters)), axis=1)


def assert_equal_results(python, compiled, atol=1e-12):
    assert python.n_iter == compiled.n_iter
    assert python.converged == compiled.converged
    assert python.loss == pytest.approx(compiled.loss, abs=atol)
    assert python.gap == pytest.approx(compiled.gap, abs=atol)
    assert_allclose(python.pseudo_labels, compiled.pseudo_labels, rtol=0, atol=atol)


@pytest.mark.parametrize(("solver", "divergence"), SOLVERS)
@pytest.mark.parametrize("prior_kind", PRIORS)
@pytest.mark.parametrize("lam", [0.05, 2.0])
def test_compiled_solvers_equal_python(
    run_in_python, solver, divergence, prior_kind, lam
):
    proba = np.concatenate([draw_predictions(40, 3), np.eye(3)[[1, 2]]])
    kwargs = {
        "lam": lam,
        "prior": PRIORS[prior_kind],
        "solver": solver,
        "divergence": divergence,
        "step_size": 0.01,
        "max_iter": 12,
    }
    python = run_in_python(solve_pseudo_labels, proba, **kwargs)
    # Accelerated EM solves its sub-problems by iteration, not to the last digits.
    atol = 1e-7 if solver == "em" else 1e-12
    assert_equal_results(python, solve_pseudo_labels(proba, **kwargs), atol)


@pytest.mark.parametrize("prior_kind", PRIORS)
def test_compiled_em_of_the_paper_equals_python(run_in_python, prior_kind):
    proba = np.concatenate([draw_predictions(40, 3), np.eye(3)[[1, 2]]])
    kwargs = {"lam": 2.0, "prior": PRIORS[prior_kind], "max_iter": 12}
    kwargs |= {"solver": "em", "accelerate": False}
    python = run_in_python(solve_pseudo_labels, proba, **kwargs)
    assert_equal_results(python, solve_pseudo_labels(proba, **kwargs))


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_whole_problems_equal_python(run_in_python, divergence, weighted):
    proba = draw_predictions(12, 5, sharpness=4) * np.exp([3, 0, 0, 0, -3])
    proba /= proba.sum(axis=1, keepdims=True)
    kwargs = {"lam": 5.0, "divergence": divergence}
    if weighted:
        kwargs["sample_weight"] = np.arange(12) % 4
    compiled = solve_pseudo_labels(proba, **kwargs)
    assert compiled.converged
    python = run_in_python(solve_pseudo_labels, proba, **kwargs)
    assert_equal_results(python, compiled, atol=1e-9)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("error", [1e-3, 0.01])
def test_compiled_rounds_of_working_sets_equal_python(
    run_in_python, monkeypatch, divergence, error
):
    # So small an error leaves out clusters that pay, and all of the last one.
    monkeypatch.setattr(working_set, "_error_of_prices", lambda *args: error)
    monkeypatch.setattr(working_set, "_is_whole_faster", lambda *args: False)
    proba = draw_predictions(50, 4, sharpness=4)
    proba[:, 3] *= 1e-3
    proba /= proba.sum(axis=1, keepdims=True)
    kwargs = {"lam": 5.0, "prior": [1, 1, 1, 20], "divergence": divergence}
    rounds = []
    gather = working_set._gather

    def spy(problem, marks, n_marks):
        rounds.append(n_marks)
        return gather(problem, marks, n_marks)

    with monkeypatch.context() as patch:
        patch.setattr(working_set, "_gather", spy)
        compiled = solve_pseudo_labels(proba, **kwargs)
    assert len(rounds) > 1
    assert rounds == sorted(rounds)
    assert compiled.converged
    python = run_in_python(solve_pseudo_labels, proba, **kwargs)
    assert_equal_results(python, compiled)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_compiled_subsamples_equal_python(run_in_python, monkeypatch, divergence):
    monkeypatch.setattr(working_set, "_SUBSAMPLE", 5)
    proba = draw_predictions(400, 2)
    kwargs = {"lam": 0.1, "prior": [2, 1], "divergence": divergence}
    sizes = []
    claim_prices = working_set._claim_prices

    def spy(problem):
        sizes.append(len(problem.proba))
        return claim_prices(problem)

    monkeypatch.setattr(working_set, "_claim_prices", spy)
    compiled = solve_pseudo_labels(proba, **kwargs)
    assert compiled.converged
    assert len(sizes) == 1
    assert sizes[0] < 100
    assert_equal_results(run_in_python(solve_pseudo_labels, proba, **kwargs), compiled)


def test_compiled_m_step_of_zero_shares_equals_python(run_in_python):
    proba = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    init = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    kwargs = {"lam": 0.5, "solver": "em", "accelerate": False}
    kwargs |= {"init": init, "max_iter": 5}
    python = run_in_python(solve_pseudo_labels, proba, **kwargs)
    assert_equal_results(python, solve_pseudo_labels(proba, **kwargs))


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e3])
def test_compiled_best_responses_equal_python(run_in_python, scale):
    rng = np.random.default_rng(0)
    proba, price = rng.dirichlet(np.full(5, 0.5), size=60), scale * rng.random(5)
    marks = np.zeros((2, 60, 5), dtype=bool)
    args = proba, rng.random(60), rng.random(5), 40.0, price, 0.1 * scale
    held = np.zeros((2, 5))
    python = run_in_python(lambda: dual.best_responses(*args, marks[0], held[0]))
    compiled = dual.best_responses(*args, marks[1], held[1])
    assert python == pytest.approx(compiled, rel=1e-14)
    assert_array_equal(*marks)
    assert_allclose(*held, rtol=1e-14)
    best = (proba * np.exp(price - price.max())).argmax(axis=1)
    assert_allclose(held[0], np.bincount(best, args[1], minlength=5), rtol=1e-14)
    loss_sum = -args[1] @ np.log(proba[np.arange(60), best])
    assert compiled[2] == pytest.approx(loss_sum, rel=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    "system",
    [
        [[4.0, 1.0], [1.0, 3.0]],
        [[1.0, 1 + 1e-13], [1 + 1e-13, 1.0]],  # indefinite by rounding
        [[1.0, 1 + 1e-11], [1 + 1e-11, 1.0]],
    ],
)
def test_factor_of_a_matrix_that_is_nearly_semidefinite(compiled, system):
    factorize = _cholesky if compiled else _cholesky.py_func
    factor = factorize(np.array(system))
    assert factor[0, 1] == 0
    assert_allclose(factor @ factor.T, system, rtol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_factor_of_a_matrix_that_is_not_semidefinite_is_its_diagonal(compiled):
    factorize = _cholesky if compiled else _cholesky.py_func
    factor = factorize(np.array([[4.0, 9.0], [9.0, 1.0]]))
    assert_allclose(factor, [[2, 0], [0, 1]], rtol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_factorized_system_is_solved(rng, compiled):
    root = rng.normal(size=(6, 6))
    system, wanted = root @ root.T, rng.normal(size=6)
    x = system @ wanted
    function = _solve_factorized if compiled else _solve_factorized.py_func
    function(np.linalg.cholesky(system), x)
    assert_allclose(x, wanted, rtol=1e-8)


def test_kernels_work_where_no_cache_can_be_written(monkeypatch):
    def njit_without_cache(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(kernel_module, "njit", njit_without_cache)
    kernel = kernel_module.kernel(lambda x: 1 / x)
    assert kernel(0.0) == math.inf
