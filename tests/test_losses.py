"""Identities, gradients and limits of the losses."""

import warnings

import numpy as np
import pytest
from scipy.optimize import approx_fprime, check_grad
from scipy.special import log_softmax, softmax

from skcce.losses import (
    collision_cross_entropy,
    collision_cross_entropy_with_logits,
    collision_entropy,
    shannon_cross_entropy,
    shannon_cross_entropy_with_logits,
)

PLAIN = [collision_cross_entropy, shannon_cross_entropy]
WITH_LOGITS = [collision_cross_entropy_with_logits, shannon_cross_entropy_with_logits]

both_plain = pytest.mark.parametrize("loss", PLAIN)
both_with_logits = pytest.mark.parametrize("loss_with_logits", WITH_LOGITS)
several_clusters = pytest.mark.parametrize("n_clusters", [1, 2, 3, 20])
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def draw(n_clusters, seed=0, n_samples=30):
    """Return logits, and soft labels with some zeros."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(n_samples, n_clusters))
    labels = rng.dirichlet(np.ones(n_clusters), size=n_samples)
    labels[::3, 1:] = 0
    return logits, labels / labels.sum(axis=1, keepdims=True)


def one_hot(n_clusters):
    """Return logits and all one-hot labels, as many of each as clusters."""
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(n_clusters, n_clusters)), np.eye(n_clusters)


@several_clusters
def test_values_are_the_definitions(n_clusters):
    logits, labels = draw(n_clusters)
    proba = softmax(logits, axis=1)
    collision = [-np.log(p @ y) for p, y in zip(proba, labels, strict=True)]
    shannon = [-(y @ np.log(p)) for p, y in zip(proba, labels, strict=True)]
    kwargs = {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(
        collision_cross_entropy(proba, labels), collision, **kwargs
    )
    np.testing.assert_allclose(shannon_cross_entropy(proba, labels), shannon, **kwargs)


@several_clusters
def test_collision_is_symmetric(n_clusters):
    logits, labels = draw(n_clusters)
    proba = softmax(logits, axis=1)
    np.testing.assert_allclose(
        collision_cross_entropy(proba, labels),
        collision_cross_entropy(labels, proba),
        rtol=1e-14,
    )


@several_clusters
def test_collision_is_constant_for_uniform_labels(n_clusters):
    """Uncertain labels do not train: the loss is ln K, its gradient zero."""
    logits, _ = draw(n_clusters)
    uniform = np.full(logits.shape, 1 / n_clusters)
    loss, gradient = collision_cross_entropy_with_logits(logits, uniform)
    np.testing.assert_allclose(loss, np.log(n_clusters), atol=1e-14)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)
    _, shannon_gradient = shannon_cross_entropy_with_logits(logits, uniform)
    assert (np.abs(shannon_gradient).max() > 0.1) == (n_clusters > 1)


@pytest.mark.parametrize("n_clusters", [2, 3, 20])
def test_collision_is_bounded_for_labels_without_zeros(n_clusters):
    labels = softmax(draw(n_clusters)[0], axis=1)
    bound = -np.log(labels.min(axis=1))
    for k in range(n_clusters):
        wrong = np.tile(np.eye(n_clusters)[k], (len(labels), 1))
        assert (collision_cross_entropy(wrong, labels) <= bound + 1e-14).all()
    # The bound is reached by a certain prediction of the least likely cluster.
    worst = np.eye(n_clusters)[labels.argmin(axis=1)]
    np.testing.assert_allclose(collision_cross_entropy(worst, labels), bound)


@several_clusters
def test_collision_equals_shannon_for_one_hot_labels(n_clusters):
    logits, labels = one_hot(n_clusters)
    proba = softmax(logits, axis=1)
    collision, shannon = (loss(proba, labels) for loss in PLAIN)
    np.testing.assert_allclose(collision, shannon, rtol=1e-13, atol=1e-15)
    collision, shannon = (loss(logits, labels) for loss in WITH_LOGITS)
    np.testing.assert_allclose(collision[0], shannon[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(collision[1], shannon[1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("n_clusters", [2, 3, 20])
def test_collision_is_cosine_plus_mean_entropy(n_clusters):
    """H2(p, q) = -ln cos(p, q) + (H2(p) + H2(q)) / 2."""
    p, q = (softmax(draw(n_clusters, seed)[0], axis=1) for seed in (0, 1))
    norms = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    cosine = (p * q).sum(axis=1) / norms
    np.testing.assert_allclose(
        collision_cross_entropy(p, q),
        -np.log(cosine) + (collision_entropy(p) + collision_entropy(q)) / 2,
        rtol=1e-12,
    )


@several_clusters
def test_collision_entropy_lies_between_one_hot_and_uniform(n_clusters):
    proba = softmax(draw(n_clusters)[0], axis=1)
    entropy = collision_entropy(proba)
    assert entropy.shape == (len(proba),)
    assert entropy.min() >= -1e-15
    assert entropy.max() <= np.log(n_clusters) + 1e-15
    # Never above Shannon's entropy, with equality only at the two ends.
    assert (entropy <= shannon_cross_entropy(proba, proba) + 1e-14).all()
    np.testing.assert_array_equal(collision_entropy(np.eye(n_clusters)), 0)
    uniform = np.full((1, n_clusters), 1 / n_clusters)
    np.testing.assert_allclose(collision_entropy(uniform), np.log(n_clusters))


@both_with_logits
@several_clusters
def test_gradient_matches_differences(loss_with_logits, n_clusters):
    logits, labels = draw(n_clusters, n_samples=6)

    def value(flat):
        return loss_with_logits(flat.reshape(logits.shape), labels)[0].sum()

    def gradient(flat):
        return loss_with_logits(flat.reshape(logits.shape), labels)[1].ravel()

    error = check_grad(value, gradient, logits.ravel(), epsilon=1e-7)
    assert error < 1e-5
    # The check would notice a missing term.
    if n_clusters > 1:
        assert np.linalg.norm(approx_fprime(logits.ravel(), value)) > 0.1


@both_with_logits
@several_clusters
def test_gradient_matches_central_differences_of_one_entry(
    loss_with_logits, n_clusters
):
    logits, labels = draw(n_clusters)
    _, gradient = loss_with_logits(logits, labels)
    for k in range(n_clusters):
        step = 1e-5 * np.eye(n_clusters)[k]
        above, below = (loss_with_logits(logits + s, labels)[0] for s in (step, -step))
        np.testing.assert_allclose((above - below) / 2e-5, gradient[:, k], atol=1e-9)


@both_with_logits
@several_clusters
def test_gradient_rows_sum_to_zero(loss_with_logits, n_clusters):
    logits, labels = draw(n_clusters)
    loss, gradient = loss_with_logits(logits, labels)
    assert loss.shape == (len(logits),)
    assert gradient.shape == logits.shape
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-14)


@both_with_logits
@pytest.mark.parametrize("shift", [-1e3, 1.0, 1e3])
def test_shifted_logits_are_the_same_prediction(loss_with_logits, shift):
    logits, labels = draw(5)
    for shifted, plain in zip(
        loss_with_logits(logits + shift, labels),
        loss_with_logits(logits, labels),
        strict=True,
    ):
        np.testing.assert_allclose(shifted, plain, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("loss", "loss_with_logits"), list(zip(PLAIN, WITH_LOGITS, strict=True))
)
@several_clusters
def test_with_logits_equals_softmax_first(loss, loss_with_logits, n_clusters):
    logits, labels = draw(n_clusters)
    np.testing.assert_allclose(
        loss_with_logits(logits, labels)[0],
        loss(softmax(logits, axis=1), labels),
        rtol=1e-12,
        atol=1e-14,
    )


@both_dtypes
@both_with_logits
@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 1000.0], [1000.0, 0.0]),
        ([-1e4, 0.0], [1e4, 0.0]),
        ([0.0, -1e4], [0.0, 1e4]),
        ([1e30, -1e30], [0.0, 2e30]),
    ],
)
def test_extreme_logits_with_one_hot_labels(loss_with_logits, logits, expected, dtype):
    logits, labels = np.array([logits, logits], dtype), np.eye(2, dtype=dtype)
    loss, gradient = loss_with_logits(logits, labels)
    np.testing.assert_allclose(loss, np.array(expected, dtype))
    np.testing.assert_allclose(loss, -np.diag(log_softmax(logits, axis=1)))
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient, softmax(logits, axis=1) - labels)


@pytest.mark.parametrize("logit", [50.0, 1e4])
def test_soft_labels_bound_the_loss_of_extreme_logits(logit):
    """A certain and wrong prediction costs -ln y, not the logit."""
    loss, gradient = collision_cross_entropy_with_logits([[logit, 0]], [[0.01, 0.99]])
    np.testing.assert_allclose(loss, -np.log(0.01), rtol=1e-10)
    np.testing.assert_allclose(gradient, 0, atol=1e-15)


@both_plain
def test_impossible_cluster_costs_inf_without_a_warning(loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = loss([[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(value, [np.inf, 0])


@both_plain
@both_with_logits
def test_float32_stays_float32(loss, loss_with_logits):
    logits, labels = draw(4)
    single = logits.astype(np.float32), labels.astype(np.float32)
    for got, expected in zip(
        [*loss_with_logits(*single), loss(softmax(single[0], axis=1), single[1])],
        [*loss_with_logits(logits, labels), loss(softmax(logits, axis=1), labels)],
        strict=True,
    ):
        assert got.dtype == np.float32
        assert expected.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)
    assert collision_entropy(single[1]).dtype == np.float32


@pytest.mark.parametrize("function", PLAIN + WITH_LOGITS)
def test_accepts_lists_and_leaves_arrays_alone(function):
    arrays = softmax(draw(3)[0], axis=1), draw(3)[1]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    expected = np.column_stack(function(*arrays))
    got = np.column_stack(function(*(array.tolist() for array in arrays)))
    np.testing.assert_array_equal(got, expected)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


NOT_DISTRIBUTIONS = [
    [[np.nan, 0.5]],
    [[np.inf, 0.5]],
    [[1.5, -0.5]],
    [[0.9, 0.2]],
    [0.5, 0.5],
    np.empty((0, 2)),
]
GOOD = [[0.5, 0.5]]


@both_plain
@pytest.mark.parametrize("bad", NOT_DISTRIBUTIONS)
def test_error_names_the_array(loss, bad):
    with pytest.raises(ValueError, match=r"\bproba\b"):
        loss(bad, GOOD)
    with pytest.raises(ValueError, match=r"\bpseudo_labels\b"):
        loss(GOOD, bad)
    with pytest.raises(ValueError, match=r"\bproba\b"):
        collision_entropy(bad)


@both_with_logits
@pytest.mark.parametrize("bad", NOT_DISTRIBUTIONS)
def test_error_with_logits_names_the_array(loss_with_logits, bad):
    with pytest.raises(ValueError, match=r"\bpseudo_labels\b"):
        loss_with_logits(GOOD, bad)


@both_with_logits
@pytest.mark.parametrize("bad", [[[np.nan, 0]], [[np.inf, 0]], [1.0, 2.0]])
def test_error_names_the_logits(loss_with_logits, bad):
    with pytest.raises(ValueError, match=r"\blogits\b"):
        loss_with_logits(bad, GOOD)


@pytest.mark.parametrize("function", PLAIN + WITH_LOGITS)
@pytest.mark.parametrize("other", [[[0.5, 0.3, 0.2]], [[0.5, 0.5]] * 2])
def test_error_for_different_shapes(function, other):
    with pytest.raises(ValueError, match="pseudo_labels must have equal shapes"):
        function(GOOD, other)
