import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime
from scipy.special import softmax
from sklearn.datasets import load_digits, load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, pairwise_distances_argmin

from skcce import CollisionClusterer, LinearSoftmax
from skcce._scaling import row_scale
from skcce.losses import (
    collision_cross_entropy_with_logits,
    shannon_cross_entropy_with_logits,
)
from skcce.methods import Objective, SoftmaxClusterer


def started(X, n_clusters=3, labels=None, **parameters):
    model = LinearSoftmax(**parameters)
    model.initialize(
        X,
        n_clusters,
        labels=labels,
        sample_weight=None,
        random_state=np.random.RandomState(0),
    )
    return model


def collision_with(labels):
    def objective(logits):
        loss, gradient = collision_cross_entropy_with_logits(logits, labels)
        return loss.mean(), gradient / len(loss)

    return objective


def test_sgd_step_is_the_gradient_of_the_penalized_mean_loss(rng):
    X, labels = rng.normal(size=(20, 4)), rng.dirichlet(np.ones(3), size=20)
    model = started(X, optimizer="sgd", learning_rate=0.3, alpha=0.1)
    mean, scale = row_scale(X)
    rows = (X - mean) / scale
    shapes = (3, 4), (3,)

    def penalized_loss(parameters):
        weights, intercept = np.split(parameters, [12])
        logits = rows @ weights.reshape(shapes[0]).T + intercept
        loss, _ = collision_cross_entropy_with_logits(logits, labels)
        return loss.mean() + 0.05 * (weights**2).sum()

    before = np.concatenate([w.ravel() for w in model._weights])
    loss = model.train_step(X, collision_with(labels), progress=0.5)
    after = np.concatenate([w.ravel() for w in model._weights])
    penalty = 0.05 * (before[:12] ** 2).sum()
    assert_allclose(loss, penalized_loss(before) - penalty)
    # Half way along the cosine, the step size is one half.
    gradient = approx_fprime(before, penalized_loss, 1e-7)
    assert_allclose(before - after, 0.15 * gradient, atol=1e-6)


def test_adam_against_its_definition(rng):
    X, labels = rng.normal(size=(30, 4)), rng.dirichlet(np.ones(3), size=30)
    adam = started(X, learning_rate=0.01)
    sgd = started(X, learning_rate=1.0, optimizer="sgd")
    mean = square = 0.0
    for step in range(1, 6):
        sgd._weights = [w.copy() for w in adam._weights]
        before = adam._weights[0].copy()
        adam.train_step(X, collision_with(labels), progress=0)
        sgd.train_step(X, collision_with(labels), progress=0)
        gradient = before - sgd._weights[0]
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        direction = (mean / (1 - 0.9**step)) / (
            np.sqrt(square / (1 - 0.999**step)) + 1e-8
        )
        assert_allclose(adam._weights[0], before - 0.01 * direction, rtol=1e-7)


def logistic_regression(X, y, alpha):
    """Return the probabilities of scikit-learn, at the same L2 penalty."""
    rows = X.astype(float) - X.mean(axis=0, dtype=float)
    mean_square = (rows**2).sum(axis=1).mean()
    C = 1 / (alpha * len(X) * mean_square)
    reference = LogisticRegression(C=C, tol=1e-10, max_iter=10_000)
    return reference.fit(rows, y).predict_proba(rows)


@pytest.mark.slow
def test_hard_labels_give_logistic_regression(blobs):
    """Collision equals Shannon cross-entropy there, so sklearn knows the optimum."""
    X, y = blobs
    alpha = 0.01
    model = started(X, 4, optimizer="sgd", learning_rate=2.0, alpha=alpha)
    one_hot = np.eye(4)[y]
    for _ in range(4000):
        model.train_step(X, collision_with(one_hot), progress=0)
    proba = softmax(model.decision_function(X), axis=1)
    assert_allclose(proba, logistic_regression(X, y, alpha), atol=1e-3)


class GivenLabels(Objective):
    """Mean loss of labels that are given, (n_samples, n_clusters)."""

    def __init__(self, labels, loss=collision_cross_entropy_with_logits):
        self.labels = labels
        self.loss = loss

    def __call__(self, logits, batch):
        loss, gradient = self.loss(logits[0], self.labels[batch.rows])
        return float(loss.mean()), gradient[np.newaxis] / len(loss)


def supervised(X, labels, loss=collision_cross_entropy_with_logits, **parameters):
    """Return a fit to given labels by L-BFGS."""
    model = LinearSoftmax(alpha=1e-3, optimizer="lbfgs")
    settings = {"features": None, "n_neighbors": 0, "init": "random", "n_init": 1}
    return SoftmaxClusterer(
        labels.shape[1],
        objective=GivenLabels(labels, loss),
        random_state=0,
        **{"model": model, **settings, **parameters},
    ).fit(X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "loss", [collision_cross_entropy_with_logits, shannon_cross_entropy_with_logits]
)
@pytest.mark.parametrize("load", [load_iris, load_digits])
def test_lbfgs_is_logistic_regression(load, loss, dtype):
    X, y = load(return_X_y=True)
    fit = supervised(X.astype(dtype), np.eye(y.max() + 1)[y], loss)
    proba = fit.predict_proba(X.astype(dtype))
    assert proba.dtype == dtype
    assert_allclose(proba, logistic_regression(X, y, 1e-3), atol=1e-5)
    assert fit.converged_


def test_one_step_of_lbfgs_is_the_whole_fit(rng):
    """The gradient of the penalized loss is zero after it, soft labels or hard."""
    X, labels = rng.normal(size=(50, 4)), rng.dirichlet(np.ones(3), size=50)
    model = started(X, optimizer="lbfgs", alpha=0.1, learning_rate=1e9)
    objective = collision_with(labels)
    start = objective(model.decision_function(X))[0]
    assert_allclose(model.train_step(X, objective, progress=0.9), start)
    gradient = objective(model.decision_function(X))[1]
    assert_allclose(gradient.sum(axis=0), 0, atol=1e-7)
    rows = X - X.mean(axis=0)
    rows /= np.sqrt((rows**2).sum(axis=1).mean())
    assert_allclose(gradient.T @ rows, -0.1 * model._weights[0], atol=1e-7)


def test_lbfgs_survives_labels_that_can_be_separated(blobs):
    X, y = blobs  # without a penalty, the weights grow without bound
    model = LinearSoftmax(optimizer="lbfgs")
    fit = supervised(X, np.eye(4)[y], model=model)
    assert fit.loss_ < 1e-6
    assert_array_equal(fit.labels_, y)


@pytest.mark.parametrize("n_neighbors", ["auto", 0])
def test_lbfgs_finds_clusters(blobs, n_neighbors):
    X, y = blobs
    clusterer = CollisionClusterer(
        4, model=LinearSoftmax(optimizer="lbfgs"), n_neighbors=n_neighbors
    )
    labels = clusterer.set_params(random_state=0).fit_predict(X)
    assert adjusted_rand_score(y, labels) == 1


def test_lbfgs_needs_all_samples(blobs):
    X, y = blobs
    one_hot = np.eye(4)[y]
    with pytest.raises(ValueError, match="batch_size=299 must not be smaller than n_s"):
        supervised(X, one_hot, batch_size=299)
    expected = supervised(X, one_hot).coef_
    assert_array_equal(supervised(X, one_hot, batch_size=300).coef_, expected)


def test_lbfgs_that_is_no_longer_finite_leaves_the_weights(blobs):
    X, y = blobs
    model = started(X, 4, optimizer="lbfgs")
    before = model.get_state()["weights"]
    good = collision_with(np.eye(4)[y])
    values = iter([1.0, 0.5, np.nan])

    def breaks(logits):
        value = next(values)
        if np.isnan(value):
            raise FloatingPointError
        return value, good(logits)[1]

    with pytest.raises(FloatingPointError):
        model.train_step(X, breaks, progress=0)
    assert_array_equal(model.get_state()["weights"], before)


def test_labels_are_turned_into_nearest_centroids(blobs):
    X, y = blobs
    model = started(X, 4, labels=y)
    centroids = np.array([X[y == k].mean(axis=0) for k in range(4)])
    nearest = pairwise_distances_argmin(X, centroids)
    assert_array_equal(model.decision_function(X).argmax(axis=1), nearest)


def test_empty_cluster_starts_at_some_row(blobs):
    X, y = blobs
    model = started(X, 6, labels=y)
    assert np.isfinite(model.coef_).all()
    assert np.linalg.norm(model.coef_, axis=1).min() > 0
    assert set(model.decision_function(X).argmax(axis=1)) > {0, 1, 2, 3}


def test_random_weights_are_kaimings(rng):
    X = rng.normal(3, 5, size=(200, 400))
    model = started(X, 50)
    # Variance 2 / n_features for features of unit variance.
    assert_allclose(model.coef_.var() * 25, 2 / 400, rtol=0.05)
    logits = model.decision_function(X)
    assert_allclose(logits.mean(axis=0), 0, atol=1e-10)
    assert_allclose(logits.var(), 2, rtol=0.1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coef_and_intercept_are_the_decision_function(blobs, dtype):
    X, y = blobs
    X = X.astype(dtype)
    model = started(X, 4, labels=y)
    logits = model.decision_function(X)
    assert logits.dtype == model.coef_.dtype == model.intercept_.dtype == dtype
    expected = X.astype(float) @ model.coef_.T + model.intercept_
    assert_allclose(logits, expected, atol=1e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("factor", [1e-35, 1.0, 1e35])
def test_row_scale(rng, factor):
    X = (rng.normal(2, 1, size=(5000, 3)) * factor).astype(np.float32)
    mean, scale = row_scale(X)
    rows = X.astype(float) - X.mean(axis=0, dtype=float)
    assert_allclose(mean, X.mean(axis=0, dtype=float), rtol=1e-6)
    assert_allclose(scale, np.sqrt((rows**2).sum(axis=1).mean()), rtol=1e-5)
    assert mean.dtype == scale.dtype == np.float32


def test_constant_rows_have_scale_one():
    mean, scale = row_scale(np.full((7, 2), 5.0))
    assert_array_equal(mean, [5, 5])
    assert scale == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_of_joined_clusters_are_sums(rng, dtype):
    X = rng.normal(size=(5000, 4)).astype(dtype)
    model = started(X, 7)
    groups = np.array([2, 0, 1, 1, 0, 3, 1])
    joined = model.joined(groups)
    logits = joined.decision_function(X)
    assert logits.shape == (5000, 4)
    assert logits.dtype == dtype
    proba = softmax(model.decision_function(X).astype(float), axis=1)
    expected = np.stack([proba[:, groups == k].sum(axis=1) for k in range(4)], axis=1)
    assert_allclose(softmax(logits, axis=1), expected, atol=20 * np.finfo(dtype).eps)
    assert_array_equal(joined.groups_, groups)
    assert joined.coef_.shape == (7, 4)
    assert model.groups_ is None


def test_each_its_own_cluster_or_all_one(rng):
    X = rng.normal(size=(50, 4))
    model = started(X, 5)
    same = model.joined(np.arange(5)).decision_function(X)
    assert_allclose(same, model.decision_function(X), atol=1e-12)
    renamed = model.joined(np.array([3, 1, 4, 0, 2])).decision_function(X)
    expected = model.decision_function(X)[:, [3, 1, 4, 0, 2].index(0)]
    assert_allclose(renamed[:, 0], expected, atol=1e-12)
    assert model.joined(np.zeros(5, dtype=int)).decision_function(X).shape == (50, 1)


def test_some_units_are_a_model_of_their_own(rng):
    X = rng.normal(size=(50, 4))
    model = started(X, 5)
    some = model.units(np.array([4, 1]))
    assert_array_equal(some.coef_, model.coef_[[4, 1]])
    assert_allclose(some.decision_function(X), model.decision_function(X)[:, [4, 1]])
    # Copies: training one leaves the other as it is.
    before = model.coef_.copy()
    some._weights[0] += 1
    model.joined(np.zeros(5, dtype=int))._weights[0] += 1
    assert_array_equal(model.coef_, before)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e4, 1e300])
def test_sums_of_extreme_probabilities(size):
    X = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    model = started(X, 4)
    model._weights[0] = size * np.array([[1.0, 0], [0, 1], [-1, 0], [1, 1]])
    logits = model.joined(np.array([0, 0, 1, 1])).decision_function(X)
    units = model.decision_function(X)
    assert np.isfinite(logits).all()
    assert_allclose(logits[:, 0], np.logaddexp(units[:, 0], units[:, 1]), rtol=1e-12)
    assert_allclose(logits[:, 1], np.logaddexp(units[:, 2], units[:, 3]), rtol=1e-12)


def test_state_of_a_joined_model(rng):
    X = rng.normal(size=(50, 4))
    joined = started(X, 5).joined(np.array([0, 1, 1, 0, 2]))
    state = joined.get_state()
    other = LinearSoftmax().set_state(state)
    assert_array_equal(other.decision_function(X), joined.decision_function(X))
    for groups in ([0, 1, 1, 0], [0, 1, 1, 0, 3], [-1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="do not fit together"):
            LinearSoftmax().set_state({**state, "groups": np.array(groups)})
