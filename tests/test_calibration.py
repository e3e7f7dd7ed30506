"""One temperature for all predictions, found without labels."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from test_neighbors import neighbor_graph

from skcce._calibration import temperature
from skcce._neighbors import smooth


@pytest.fixture
def case(rng):
    """Logits that are too sure, and a target."""
    logits = 4 * rng.normal(size=(200, 5))
    return logits, softmax(logits / 3 + rng.normal(size=(200, 5)), axis=1)


def cross_entropy(logits, target, tau, weight=None):
    value = -(target * log_softmax(logits / tau, axis=1)).sum(axis=1)
    return np.average(value, weights=weight)


@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_a_minimum(case, rng, weighted):
    weight = rng.uniform(size=200) if weighted else None
    tau = temperature(*case, weight)
    step = 1e-4 * tau
    least, below, above = (
        cross_entropy(*case, t, weight) for t in (tau, tau - step, tau + step)
    )
    assert least < min(below, above)
    assert abs(above - below) / (2 * step) < 1e-6
    found = minimize_scalar(
        lambda x: cross_entropy(*case, np.exp(x), weight), bounds=(-3, 3)
    )
    assert_allclose(tau, np.exp(found.x), rtol=1e-4)


def test_it_is_the_slope_of_a_logistic_regression(rng):
    x = rng.normal(size=(300, 1))
    y = (x[:, 0] + rng.logistic(size=300) > 0).astype(int)
    slope = LogisticRegression(fit_intercept=False, C=1e10, tol=1e-10).fit(x, y).coef_
    tau = temperature(np.hstack([0 * x, x]), np.eye(2)[y])
    assert_allclose(1 / tau, slope[0, 0], rtol=1e-4)


@pytest.mark.parametrize("tau", [0.5, 1, 7.25])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibrated_predictions_are_recognized(rng, tau, dtype):
    logits = (3 * rng.normal(size=(100, 4))).astype(dtype)
    found = temperature(logits, softmax(logits / dtype(tau), axis=1))
    assert_allclose(found, tau, rtol=1e-5)


def test_names_and_duplicates_do_not_matter(case, rng):
    logits, target = case
    tau = temperature(logits, target)
    names, rows = rng.permutation(5), rng.permutation(200)
    assert_allclose(temperature(logits[:, names], target[:, names]), tau)
    assert_allclose(temperature(logits[rows], target[rows]), tau)
    times = rng.integers(4, size=200)
    repeated = [np.repeat(values, times, axis=0) for values in case]
    assert_allclose(temperature(*repeated), temperature(*case, times))


def test_unit_and_origin_of_the_logits_do_not_matter(case, rng):
    logits, target = case
    tau = temperature(logits, target)
    shifted = logits + rng.normal(size=(200, 1))
    assert_allclose(temperature(shifted, target), tau)
    for unit in [1e-12, 1e12]:
        assert_allclose(temperature(unit * logits, target), unit * tau)


def test_averages_of_neighbors_are_less_sure(rng):
    """Clusters that overlap: the temperature takes back the excess of confidence."""
    labels = rng.integers(3, size=600)
    rows = 1.2 * np.eye(3)[labels] + rng.normal(scale=0.6, size=(600, 3))
    # The true posterior, but 5 times as sure.
    true = rows * 1.2 / 0.6**2
    target = smooth(neighbor_graph(rows, 10), softmax(5 * true, axis=1))
    tau = temperature(5 * true, target)
    hit = true.argmax(axis=1) == labels

    def excess(logits):
        return softmax(logits, axis=1).max(axis=1).mean() - hit.mean()

    assert abs(excess(5 * true / tau)) < excess(5 * true) / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e30])
def test_extreme_logits(rng, dtype, unit):
    logits = (unit * rng.normal(size=(50, 3))).astype(dtype)
    certain = np.eye(3, dtype=dtype)[logits.argmax(axis=1)]
    for target in [certain, np.full_like(certain, 1 / 3), certain[:, ::-1]]:
        tau = temperature(logits, target)
        assert 0 < tau < np.inf
        assert np.isfinite(softmax(logits / tau, axis=1)).all()
    # As sure as asked for, or as little.
    low, high = (temperature(logits, t) for t in (certain, certain[:, ::-1]))
    assert softmax(logits / low, axis=1).max(axis=1).mean() > 0.95
    assert_allclose(softmax(logits / high, axis=1), 1 / 3, rtol=0.05)


@pytest.mark.parametrize("n_clusters", [1, 3])
def test_logits_that_say_nothing(n_clusters):
    target = np.full((20, n_clusters), 1 / n_clusters)
    assert temperature(np.zeros((20, n_clusters)), target) == 1


def test_certain_predictions_that_all_neighbors_share_stay():
    logits = 1000.0 * np.eye(2)[[0, 0, 1, 1]]
    assert temperature(logits, softmax(logits, axis=1)) == 1


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"shape of logits, \(4, 3\), got \(4, 2\)"):
        temperature(np.zeros((4, 3)), np.zeros((4, 2)))
