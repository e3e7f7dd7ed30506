"""Projected gradient descent: its projection, its step size."""

import numpy as np
import pytest
from conftest import pseudo_label_loss
from numpy.testing import assert_allclose
from scipy.special import softmax

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.projected_gradient import _gradient_step

both_divergences = pytest.mark.parametrize("divergence", ["reverse", "forward"])


def draw_predictions(n_samples, n_clusters, seed=0):
    rng = np.random.default_rng(seed)
    return softmax(2 * rng.normal(size=(n_samples, n_clusters)), axis=1)


def run(proba, **kwargs):
    return solve_pseudo_labels(proba, solver="pgd", **kwargs)


def project(points):
    """Project onto the simplex: max(x - threshold, 0), the threshold by bisection."""
    points = points - points.max(axis=1, keepdims=True)
    low, high = -np.ones((len(points), 1)), np.zeros((len(points), 1))
    for _ in range(100):
        middle = (low + high) / 2
        too_low = np.maximum(points - middle, 0).sum(axis=1, keepdims=True) > 1
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return np.maximum(points - high, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_clusters", [1, 2, 7, 50])
@pytest.mark.parametrize("step_size", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("ties", [False, True])
def test_step_is_the_projection_of_a_gradient_step(dtype, n_clusters, step_size, ties):
    rng = np.random.default_rng(n_clusters)
    proba, labels = rng.dirichlet(np.ones(n_clusters), size=(2, 40))
    reward = rng.normal(size=n_clusters)
    if ties:
        proba[:] = labels[:] = 1 / n_clusters
        reward = reward.round()
    proba, labels = proba.astype(dtype), labels.astype(dtype)
    hit = (proba.astype(float) * labels).sum(axis=1, keepdims=True)
    expected = project(labels + step_size * (proba / hit + reward))
    _gradient_step(proba, reward, step_size, labels)
    eps = np.finfo(dtype).eps
    rounding = 1e-14 * (1 + step_size * np.abs(proba / hit + reward).max())
    assert labels.min() >= 0
    assert_allclose(labels.sum(axis=1, dtype=float), 1, rtol=0, atol=n_clusters * eps)
    assert_allclose(labels, expected, rtol=0, atol=rounding + eps)


@both_divergences
@pytest.mark.parametrize("lam", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("prior", [[1, 1, 1, 1], [8, 4, 2, 1]])
def test_small_steps_decrease_the_loss(divergence, lam, prior):
    proba = draw_predictions(60, 4)
    shares = np.array(prior) / sum(prior)
    losses = [pseudo_label_loss(proba, proba, lam, shares, divergence == "forward")]
    for max_iter in (1, 2, 5, 20, 100):
        result = run(
            proba,
            lam=lam,
            prior=prior,
            divergence=divergence,
            step_size=1e-3 / (1 + lam),
            max_iter=max_iter,
            tol=0,
        )
        losses.append(result.loss)
    assert np.diff(losses).max() < 0


@both_divergences
def test_a_small_step_goes_along_the_gradient(divergence):
    # The difference quotient of the loss along the step is minus its squared length.
    proba, init = draw_predictions(30, 4), draw_predictions(30, 4, seed=1)
    kwargs = {"lam": 0.7, "divergence": divergence, "max_iter": 1, "tol": 0}
    step_size = 1e-7
    result = run(proba, init=init, step_size=step_size, **kwargs)
    change = result.pseudo_labels - init
    even = np.full(4, 0.25)
    before = pseudo_label_loss(proba, init, 0.7, even, divergence == "forward")
    slope = len(proba) * (result.loss - before) / step_size
    assert slope == pytest.approx(-np.sum((change / step_size) ** 2), rel=1e-3)


@both_divergences
@pytest.mark.parametrize("lam", [1.0, 30.0, 1e15])
@pytest.mark.parametrize("step_size", [1e2, 1e50, 1e200])
def test_too_large_a_step_is_reported(divergence, lam, step_size):
    proba = draw_predictions(21, 5)
    result = run(
        proba, lam=lam, divergence=divergence, step_size=step_size, max_iter=20
    )
    labels = result.pseudo_labels
    assert not result.converged
    assert result.n_iter == 20
    assert not np.isnan(result.loss)
    assert result.gap > 1e-6
    assert labels.min() >= 0
    assert_allclose(labels.sum(axis=1), 1, rtol=0, atol=5 * np.finfo(float).eps)


@both_divergences
@pytest.mark.parametrize("lam", [1.0, 30.0, 1e6])
@pytest.mark.parametrize("step_size", [1.0, 1e2, 1e50])
@pytest.mark.parametrize("prior", [[1, 1, 1, 1, 1], [4, 3, 2, 1, 0]])
def test_too_large_a_step_ends_with_the_best_labels(divergence, lam, step_size, prior):
    proba = draw_predictions(21, 5)
    kwargs = {"lam": lam, "divergence": divergence, "prior": prior}
    losses = [
        run(proba, step_size=step_size, max_iter=max_iter, **kwargs).loss
        for max_iter in (1, 2, 5, 10, 30)
    ]
    assert np.isfinite(losses).all()
    assert losses == sorted(losses, reverse=True)
    start = run(proba, step_size=1e-300, max_iter=1, **kwargs)
    assert losses[0] <= start.loss


@pytest.mark.parametrize("init", [None, "proba", "forbidden"])
@pytest.mark.parametrize("step_size", [1e-3, 1.0, 1e3, 1e300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_forbidden_clusters_stay_empty(init, step_size, dtype):
    proba = draw_predictions(21, 4).astype(dtype)
    if init is not None:
        init = proba if init == "proba" else np.tile([0, 0.4, 0, 0.6], (21, 1))
    prior = [3, 0, 2, 0]
    for max_iter in (1, 2, 20):
        result = run(
            proba,
            lam=1.0,
            prior=prior,
            divergence="forward",
            init=init,
            step_size=step_size,
            max_iter=max_iter,
        )
        assert result.pseudo_labels.dtype == dtype
        assert_allclose(result.pseudo_labels.sum(axis=1), 1, rtol=1e-6)
        assert not result.pseudo_labels[:, [1, 3]].any()
        assert np.isfinite([result.loss, result.gap]).all()


@pytest.mark.parametrize("prior", [[5, 3, 2], [1, 0, 2]])
def test_forward_divergence_with_a_zero_prior_is_solved(prior):
    proba = draw_predictions(50, 3)
    kwargs = {"lam": 0.5, "prior": prior, "divergence": "forward"}
    result = run(proba, step_size=0.1, max_iter=20_000, **kwargs)
    best = solve_pseudo_labels(proba, tol=1e-10, **kwargs)
    assert result.converged
    assert -1e-10 <= result.loss - best.loss <= 1e-6 * max(1, best.loss)


@pytest.mark.parametrize("step_size", [1e280, 1e308])
def test_no_step_size_gives_nan(step_size):
    result = run([[0.9, 0.1], [1, 0]], lam=1.0, step_size=step_size, max_iter=20)
    assert_allclose(result.pseudo_labels.sum(axis=1), 1)
    assert not result.converged


@both_divergences
def test_a_smaller_step_reaches_the_optimum_of_the_exact_solver(divergence):
    proba = draw_predictions(50, 3)
    kwargs = {"lam": 0.5, "prior": [5, 3, 2], "divergence": divergence}
    best = solve_pseudo_labels(proba, tol=1e-10, **kwargs)
    result = run(proba, step_size=0.1, max_iter=20_000, tol=1e-6, **kwargs)
    assert result.converged
    assert -1e-10 <= result.loss - best.loss <= 1e-6 * max(1, best.loss)
