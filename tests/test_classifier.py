"""CollisionClassifier: a few labels, soft and noisy ones."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from persistence import (
    Network,
    assert_same_fit,
    changed,
    linear_steps,
    load_images,
)
from scipy.sparse import csr_array
from scipy.special import softmax
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from test_callbacks import needs_callbacks
from threadpoolctl import threadpool_limits
from torch import nn

import skcce._settings
import skcce._starts
from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax
from skcce._labels import read_labels
from skcce._objective import Batch, Epoch
from skcce._pseudo_labels import solve_batch
from skcce.deep import DeepSoftmax
from skcce.methods.collision import Collision

pytestmark = pytest.mark.filterwarnings("ignore:More than tol")

EXPECTED = {
    "check_classifiers_classes": "-1 is no label, as in sklearn.semi_supervised",
}
NAMES = np.array(["ant", "bee", "cat", "dog"], dtype=object)


def fit(X, y, sample_weight=None, **parameters):
    classifier = CollisionClassifier(random_state=0).set_params(**parameters)
    return classifier.fit(X, y, sample_weight)


@pytest.fixture(scope="module")
def clouds():
    """Return rows, their classes, and the few labels that are known."""
    X, y = make_blobs(200, n_features=5, centers=4, random_state=0)
    few = np.full(200, -1)
    for k in range(4):
        few[np.flatnonzero(y == k)[: 1 + k]] = k
    return X, y, few


@pytest.fixture(scope="module")
def fitted(clouds):
    X, _, few = clouds
    return fit(X, few)


@parametrize_with_checks(
    [CollisionClassifier()], expected_failed_checks=lambda estimator: EXPECTED
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
def test_classes_check_of_scikit_learns_own_semi_supervised_classifiers():
    # They are excepted from labels of -1, by name.
    estimator_checks.check_classifiers_classes("LabelSpreading", CollisionClassifier())


# --- A few labels -----------------------------------------------------------


def test_a_few_labels_name_the_clusters(clouds, fitted):
    X, y, _ = clouds
    assert is_classifier(fitted)
    assert fitted.score(X, y) == 1
    assert_array_equal(fitted.classes_, range(4))
    assert_array_equal(fitted.transduction_, fitted.predict(X))
    assert_array_equal(fitted.labels_, fitted.predict_proba(X).argmax(axis=1))
    assert_array_equal(fitted.probabilities_, fitted.predict_proba(X).max(axis=1))
    assert_allclose(fitted.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    assert_allclose(np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X))
    assert fitted.decision_function(X).shape == (200, 4)
    weight = np.arange(200)
    right = fitted.predict(X) == np.roll(y, 1)
    assert fitted.score(X, np.roll(y, 1), weight) == np.average(right, weights=weight)


SETTINGS = {
    "no neighbors": {"n_neighbors": 0},
    "rows as they are": {"features": None},
    "forward": {"divergence": "forward"},
    "both": {"lam": (10.0, 1.0)},
    "labels that count much": {"label_weight": 1e30},
    "labels that name only": {"label_weight": 0},
    "Shannon": {"loss": "shannon"},
    "L-BFGS": {"model": LinearSoftmax(optimizer="lbfgs", alpha=1e-3), "max_iter": 5},
    "shares of labels": {"prior": "labels"},
    "equal shares": {"prior": None},
    "shares": {"prior": [1, 1, 1, 2]},
    "one start": {"n_init": 1},
    "one batch": {"batch_size": 200},
    "some labels are wrong": {"transition": 0.2},
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_of_few_labels(clouds, settings):
    X, y, few = clouds
    assert fit(X, few, **SETTINGS[settings]).score(X, y) > 0.97


def test_neighbors_that_tell_nothing_are_left_out(clouds, monkeypatch):
    X, y, few = clouds
    monkeypatch.setattr(skcce._starts, "_MISLEADING", -1)
    monkeypatch.setattr(skcce._settings, "_SAMPLES_TO_DOUBT", 1)
    classifier = fit(X, few)
    assert classifier.features_ is None
    assert classifier.score(X, y) > 0.97
    assert_allclose(classifier.prior_, [0.1, 0.2, 0.3, 0.4])  # nothing else is known


def test_shares_that_are_asked_for(clouds, fitted):
    X, y, few = clouds
    of_labels = np.array([0.1, 0.2, 0.3, 0.4])
    assert_allclose(fit(X, few, prior="labels").prior_, of_labels)
    assert_allclose(fit(X, few, prior=None).prior_, 0.25)
    assert_allclose(fit(X, few, prior=[1, 1, 1, 5]).prior_, [0.125] * 3 + [0.625])
    # Learnt ones are nearer to the true ones, which are equal.
    assert np.abs(fitted.prior_ - 0.25).max() < np.abs(of_labels - 0.25).max() / 2
    for settings in ({}, {"features": "spectral"}, {"prior": "labels"}):
        all_known = fit(X, y.clip(1), **settings)
        assert_allclose(all_known.prior_, [0.5, 0.25, 0.25])


def test_two_classes(clouds):
    X, y, few = clouds
    few = np.where(few < 0, "-1", np.array(["no", "yes"])[few % 2])
    classifier = fit(X, few)
    logits = classifier.decision_function(X)
    assert logits.shape == (200,)
    assert_array_equal(classifier.predict(X), np.where(logits > 0, "yes", "no"))
    assert_allclose(1 / (1 + np.exp(-logits)), classifier.predict_proba(X)[:, 1])
    assert classifier.score(X, np.where(y % 2, "yes", "no")) == 1


def test_a_class_may_be_rare(rng):
    y = np.repeat([0, 1, 2], [260, 25, 15])
    X = rng.normal(size=(300, 6)) + 8 * np.eye(6)[y]
    few = np.full(300, -1)
    few[[0, 1, 2, 3, 4, 5, 260, 285]] = [0, 0, 0, 0, 0, 0, 1, 2]
    classifier = fit(X, few)
    assert_array_equal(classifier.predict(X), y)
    assert classifier.prior_[0] > 0.6


def test_one_label_of_each_of_many_classes():
    X, y = make_blobs(600, n_features=20, centers=60, cluster_std=0.5, random_state=0)
    few = np.full(600, -1)
    few[np.unique(y, return_index=True)[1]] = np.arange(60)
    assert fit(X, few, max_iter=5).score(X, y) > 0.9


def test_equal_rows_with_contradicting_labels(clouds):
    X, y, few = clouds
    X, few = np.concatenate([X, X]), np.concatenate([few, (few >= 0) - 1])
    classifier = fit(X, few)  # the second time, all of class 0
    rows = np.flatnonzero(few[:200] > 0)
    proba = classifier.predict_proba(X[rows])
    assert (proba[:, 0] > 0.01).all()
    unknown = few[:200] < 0
    assert classifier.score(X[:200][unknown], y[unknown]) > 0.8


def test_as_few_samples_as_can_be(clouds):
    X, _, _ = clouds
    assert_array_equal(fit(X[:2], [0, 1]).predict(X[:2]), [0, 1])
    assert_array_equal(fit(X[:3], ["a", "b", None]).predict(X[:2]), ["a", "b"])
    assert_array_equal(fit(X[:2], [7, -1], n_extra_clusters=1).classes_, [7, 8])


@pytest.mark.parametrize("known", [3, 50])
@pytest.mark.filterwarnings("ignore:Clusters in use")
def test_constant_features(known):
    X, y = np.ones((50, 3)), np.where(np.arange(50) < known, np.arange(50) % 3, -1)
    assert np.isfinite(fit(X, y).predict_proba(X)).all()


# --- What makes no difference -----------------------------------------------


@pytest.mark.slow
def test_names_of_classes_make_no_difference(clouds, fitted):
    X, y, few = clouds
    expected = fitted.predict_proba(X)
    kinds = [
        np.where(few < 0, None, NAMES[few]),
        pd.Series(np.where(few < 0, None, NAMES[few]), dtype="category"),
        pd.Series(np.where(few < 0, None, NAMES[few]), dtype="string"),
        np.where(few < 0, "-1", NAMES[few]).astype(str),
        np.where(few < 0, np.nan, 10.0 * few - 20),
        pd.Series(few).where(few >= 0).astype("Int64"),
        np.where((few < 0)[:, np.newaxis], np.nan, np.eye(4)[few]),
    ]
    for labels in kinds:
        classifier = fit(X, labels)
        assert_array_equal(classifier.predict_proba(X), expected)
        assert classifier.loss_ == fitted.loss_
        assert_array_equal(classifier.predict(X), classifier.classes_[y])
        assert_array_equal(classifier.transduction_, classifier.classes_[y])


def test_order_of_classes_makes_no_difference(clouds, fitted):
    X, y, few = clouds
    new = np.array([2, 0, 3, 1])
    classifier = fit(X, np.where(few < 0, -1, new[few]))
    assert_array_equal(classifier.predict(X), new[y])
    assert_allclose(classifier.predict_proba(X)[:, new], fitted.predict_proba(X))
    assert_allclose(classifier.prior_[new], fitted.prior_)


def test_layout_of_rows_makes_no_difference(clouds, fitted):
    X, _, few = clouds
    frozen, known = X.copy(), few.copy()
    frozen.flags.writeable = known.flags.writeable = False
    assert_array_equal(fit(frozen, known).coef_, fitted.coef_)
    assert_array_equal(fit(X.tolist(), few.tolist()).coef_, fitted.coef_)
    for rows in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        assert_allclose(fit(rows, few).coef_, fitted.coef_, rtol=1e-6)
    frame = pd.DataFrame(X, columns=list("abcde"))
    classifier = fit(frame, pd.Series(few, index=range(9, 209)))
    assert_allclose(classifier.coef_, fitted.coef_, rtol=1e-6)
    assert_array_equal(classifier.predict(frame), fitted.predict(X))
    assert_array_equal(classifier.feature_names_in_, list("abcde"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_dtypes(clouds, dtype):
    X, y, few = clouds
    X = (10 * X + 128).clip(0, 255).astype(dtype)
    classifier = fit(X, few)
    assert classifier.score(X, y) > 0.97
    wanted = np.float32 if dtype == np.float32 else np.float64
    assert classifier.predict_proba(X).dtype == classifier.coef_.dtype == wanted


def test_threads_make_no_difference(clouds, fitted):
    X, _, few = clouds
    with threadpool_limits(2):
        assert_array_equal(fit(X, few).predict_proba(X), fitted.predict_proba(X))


# --- Weights ----------------------------------------------------------------


def test_samples_of_no_weight_count_in_nothing(clouds, fitted):
    X, _, few = clouds
    more_X, more_few = np.concatenate([X, X[:20] + 5]), np.append(few, [-1, 0] * 10)
    weight = np.append(np.full(200, 3.0), np.zeros(20))
    classifier = fit(more_X, more_few, weight)
    assert_array_equal(classifier.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(classifier.prior_, fitted.prior_)
    assert_array_equal(classifier.transduction_, classifier.predict(more_X))


def test_weights_count_in_shares_and_labels(clouds):
    X, y, few = clouds
    weight = np.where(y == 3, 4.0, 1.0)
    classifier = fit(X, few, weight)
    assert classifier.score(X, y) == 1
    assert_allclose(classifier.prior_[3], 4 / 7, atol=0.1)
    scaled = fit(X, few, 16 * weight)
    assert_array_equal(scaled.predict_proba(X), classifier.predict_proba(X))


# --- All labels: logistic regression ----------------------------------------

ALPHA = 1e-2


def logistic(X, weight=None, **parameters):
    """Return scikit-learn's classifier with the penalty of `LinearSoftmax(ALPHA)`."""
    weight = np.ones(len(X)) if weight is None else weight
    centered = X - np.average(X, axis=0, weights=weight)
    square = np.average((centered**2).sum(axis=1), weights=weight)
    parameters = {"tol": 1e-10, "max_iter": 10_000, **parameters}
    return LogisticRegression(C=1 / (weight.sum() * ALPHA * square), **parameters)


def regression(X, y, weight=None, **parameters):
    model = LinearSoftmax(alpha=ALPHA, optimizer="lbfgs")
    return fit(X, y, weight, model=model, **parameters)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("loss", ["collision", "shannon"])
@pytest.mark.parametrize("weighted", [False, True])
def test_with_all_labels_it_is_logistic_regression(iris, rng, loss, weighted):
    X, y = iris
    weight = rng.uniform(0, 3, size=len(y)) if weighted else None
    expected = logistic(X, weight).fit(X, y, weight).predict_proba(X)
    classifier = regression(X, y, weight, loss=loss)
    assert_allclose(classifier.predict_proba(X), expected, atol=1e-4)
    soft = regression(X, np.eye(3)[y], weight, loss=loss)
    assert_array_equal(soft.predict_proba(X), classifier.predict_proba(X))
    # All labels leave nothing to weigh them against, or to balance.
    other = regression(X, y, weight, loss=loss, label_weight=9.0, prior=[5, 1, 1])
    assert_array_equal(other.predict_proba(X), classifier.predict_proba(X))


def test_a_weight_of_two_is_two_samples(iris, rng):
    X, y = iris
    weight = rng.integers(1, 4, size=len(y))
    copies = np.repeat(np.arange(len(y)), weight)
    weighted = regression(X, y, weight).predict_proba(X)
    assert_allclose(weighted, regression(X[copies], y[copies]).predict_proba(X), 1e-5)


def test_shannons_soft_labels_are_weighted_copies(iris, rng):
    X, y = iris
    soft = 0.6 * np.eye(3)[y] + 0.4 * rng.dirichlet(np.ones(3), size=len(y))
    copies, labels = np.repeat(X, 3, axis=0), np.tile(np.arange(3), len(y))
    weight = soft.ravel()
    expected = logistic(copies, weight).fit(copies, labels, weight)
    classifier = regression(X, soft, loss="shannon")
    assert_allclose(classifier.predict_proba(X), expected.predict_proba(X), atol=1e-4)
    certain = regression(X, soft).predict_proba(X)
    assert certain.max(axis=1).mean() > classifier.predict_proba(X).max(axis=1).mean()


def test_a_network_of_all_labels(clouds):
    X, y, _ = clouds
    model = DeepSoftmax(lambda: nn.Linear(5, 8), augment=None, lr=1e-2, n_threads=1)
    assert fit(X, y, model=model, batch_size=20, max_iter=10).score(X, y) > 0.97


def test_spectral_features_of_all_labels(clouds):
    X, y, _ = clouds
    classifier = fit(X, y, features="spectral")
    assert classifier.score(X, y) == 1
    assert len(classifier.outlier_scores_) == len(X)
    assert classifier.score_samples(X[:3]).shape == (3,)
    assert not hasattr(fit(X, y), "score_samples")


def test_a_class_that_is_never_predicted_is_no_collapse(rng):
    X, y = rng.normal(size=(200, 2)), np.arange(200) % 20 // 19
    fit(X, np.where(y, np.arange(200) // 20, 0), max_iter=5)  # no warning


@pytest.mark.parametrize("loss", ["collision", "shannon"])
@pytest.mark.parametrize("divergence", ["reverse", "forward"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_of_some_labels_and_its_gradient(rng, loss, divergence, weighted):
    n, k, prior = 9, 3, np.array([0.5, 0.3, 0.2])
    logits, target = rng.normal(size=(2, n, k)), np.full((n, k), np.nan)
    target[::3] = rng.dirichlet(np.ones(k), size=3)
    is_given = ~np.isnan(target[:, 0])
    weight = rng.uniform(0.5, 2, size=n) if weighted else None
    objective = Collision(
        lam=2.0, prior=prior, divergence=divergence, loss=loss, label_weight=3.0
    ).set_params(view_weight=0.5)
    objective.begin_epoch(Epoch(np.full((n, k), 1 / k), weight=weight, target=target))
    value, gradient = objective(logits, Batch(np.arange(n), weight, target))
    labels = solve_batch(
        softmax(logits[0], axis=1),
        2.0,
        prior,
        forward=divergence == "forward",
        n_iter=objective.em_iter,
        weight=weight,
        fixed=target,
    )
    assert_array_equal(labels[is_given], target[is_given])
    tensor = torch.tensor(logits, requires_grad=True)
    proba, y = torch.softmax(tensor, dim=2), torch.tensor(labels)
    own, given = torch.ones(n, dtype=y.dtype) / n, torch.tensor(is_given)
    if weighted:
        own = torch.tensor(weight) / n
    each = -torch.log((proba * y).sum(dim=2))
    if loss == "shannon":
        shannon = -(torch.log(proba) * y).sum(dim=2)
        each = torch.where(given, shannon, each)
    each = each[0] + 0.5 * each[1]  # the sample, and its other view
    usage = (own[:, None] * y).sum(dim=0) / own.sum()
    u = torch.tensor(prior)
    p, q = (usage, u) if divergence == "forward" else (u, usage)
    expected = (
        own[~given] @ each[~given]
        + 3.0 * own[given] @ each[given] / own[given].sum()
        + 2.0 * own.sum() * (p * torch.log(p / q)).sum()
    )
    expected.backward()
    assert_allclose(value, expected.item(), rtol=1e-10)
    assert_allclose(gradient, tensor.grad.numpy(), atol=1e-12)


# --- Soft and noisy labels --------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_transition_is_the_forward_correction(rng, weighted):
    n, k = 12, 4
    transition = rng.dirichlet(np.ones(k), size=k).T
    y = rng.permutation(np.arange(n) % k)
    _, target = read_labels(y, n, transition)
    logits, weight = rng.normal(size=(n, k)), None
    if weighted:
        weight = rng.uniform(0.5, 2, size=n)
        weight /= weight.mean()
    objective = Collision(label_weight=1.0)
    objective.begin_epoch(Epoch(np.full((n, k), 1 / k), target=target, weight=weight))
    batch = Batch(np.arange(n), weight, target)
    value, gradient = objective(logits[np.newaxis], batch)
    tensor = torch.tensor(logits, requires_grad=True)
    observed = torch.softmax(tensor, dim=1) @ torch.tensor(transition.T)
    each = -torch.log(observed[torch.arange(n), torch.tensor(y)])
    corrected = each @ torch.tensor(np.ones(n) if weight is None else weight) / n
    corrected.backward()
    assert_allclose(gradient[0], tensor.grad.numpy(), atol=1e-12)
    constant = np.average(np.log(transition.sum(axis=1)[y]), weights=weight)
    assert_allclose(value - constant, corrected.item(), rtol=1e-12)


def test_a_share_of_random_labels_is_a_soft_label(clouds):
    X, _, few = clouds
    classifier = fit(X, few, transition=0.5)
    soft = np.where((few < 0)[:, np.newaxis], np.nan, 0.5 * np.eye(4)[few] + 0.125)
    for other in (fit(X, soft), fit(X, few, transition=0.5 * np.eye(4) + 0.125)):
        assert_array_equal(other.predict_proba(X), classifier.predict_proba(X))


@pytest.mark.slow
def test_true_classes_are_found_from_noisy_labels(rng):
    X, y = load_digits(return_X_y=True)
    X, y = X[:900], y[:900]
    noisy = np.where(rng.random(900) < 0.7, rng.integers(10, size=900), y)
    for settings in ({}, {"loss": "shannon"}, {"features": "spectral"}):
        classifier = fit(X, noisy, transition=0.7, max_iter=10, **settings)
        assert classifier.score(X, y) > 0.6, settings
    # Each class is labeled as the next one, more often than not.
    transition = 0.4 * np.eye(10) + 0.6 * np.roll(np.eye(10), 1, axis=0)
    noisy = np.where(rng.random(900) < 0.6, (y + 1) % 10, y)
    assert fit(X, noisy, transition=transition, max_iter=10).score(X, y) > 0.8
    assert fit(X, noisy, max_iter=10).score(X, y) < 0.6


def test_soft_labels_beside_samples_without(clouds):
    X, y, few = clouds
    soft = np.where((few < 0)[:, np.newaxis], np.nan, 0.7 * np.eye(4)[few] + 0.3 / 4)
    for loss in ("collision", "shannon"):
        assert fit(X, soft, loss=loss).score(X, y) > 0.97


# --- Classes that no label names --------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"n_neighbors": 0}, {"prior": None}])
def test_a_class_without_labels_is_found(clouds, settings):
    X, y, few = clouds
    few = np.where(few == 1, -1, few)
    classifier = fit(X, few, n_extra_clusters=1, **settings)
    assert_array_equal(classifier.classes_, [0, 2, 3, 4])
    assert classifier.n_clusters_ == 4
    assert classifier.score(X, np.where(y == 1, 4, y)) > 0.97
    assert_allclose(classifier.prior_.sum(), 1)


def test_all_classes_but_one_may_be_without_labels(clouds):
    X, y, _ = clouds
    labels = np.where((y == 2) & (np.arange(200) < 100), NAMES[2], None)
    classifier = fit(X, labels, n_extra_clusters=3)
    assert_array_equal(classifier.classes_, ["cat", "extra_0", "extra_1", "extra_2"])
    found = classifier.predict(X)
    assert_array_equal(found == "cat", y == 2)
    assert len(set(zip(found, y, strict=True))) == 4


# --- Networks ---------------------------------------------------------------


def test_a_network_learns_from_few_labels_of_images():
    images = load_images()
    y = load_digits(return_X_y=True)[1]
    y = y[y < 4][:200]
    labels = np.where(np.arange(200) < 60, NAMES[y], None)
    model = DeepSoftmax(Network(), augment="digits", lr=1e-2, n_threads=1)
    settings = {"model": model, "n_init": 1, "batch_size": 50, "max_iter": 8}
    classifier = fit(images, labels, **settings)
    assert classifier.features_ is None
    assert classifier.score(images, NAMES[y]) > 0.8
    again = fit(images, labels, **settings)
    assert_array_equal(again.predict_proba(images), classifier.predict_proba(images))


@pytest.mark.parametrize("n_neighbors", ["auto", 5])
def test_a_network_learns_from_few_labels_of_rows(clouds, n_neighbors):
    X, y, _ = clouds
    labels = np.where(np.arange(200) < 40, y, -1)
    model = DeepSoftmax(lambda: nn.Linear(5, 8), augment=None, lr=1e-2, n_threads=1)
    settings = {"n_neighbors": n_neighbors, "n_init": 1, "batch_size": 40}
    assert fit(X, labels, model=model, max_iter=10, **settings).score(X, y) > 0.9


# --- In the company of scikit-learn -----------------------------------------


def test_clone_and_pickle(clouds, fitted):
    X, _, few = clouds
    copy = pickle.loads(pickle.dumps(fitted))
    assert_array_equal(copy.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(copy.transduction_, fitted.transduction_)
    again = clone(fitted).fit(X, few)
    assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_a_fit_again_forgets_the_first(clouds, fitted):
    X, _, few = clouds
    classifier = fit(X[:, :3], np.where(few < 0, None, NAMES[few]), n_neighbors=0)
    classifier.set_params(n_neighbors="auto").fit(X, few)
    assert_array_equal(classifier.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(classifier.classes_, fitted.classes_)


def test_a_pipeline(clouds):
    X, y, few = clouds
    steps = StandardScaler(), PCA(3), CollisionClassifier(random_state=0)
    pipe = make_pipeline(*steps).fit(X, few)
    assert pipe.score(X, y) > 0.97
    assert_array_equal(pipe.classes_, range(4))


def test_a_search_is_scored_on_labels_that_are_held_out(clouds):
    X, y, _ = clouds
    labels = np.where(np.arange(200) < 40, y, -1)
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    cv = [
        (np.concatenate([known[train], unknown]), known[test])
        for train, test in StratifiedKFold(2).split(known, labels[known])
    ]
    grid = {"label_weight": [1.0, 4.0], "lam": [1.0, 100.0]}
    classifier = CollisionClassifier(n_init=1, max_iter=5, random_state=0)
    search = GridSearchCV(classifier, grid, cv=cv, error_score="raise")
    search.fit(X, labels)
    assert search.best_score_ > 0.97
    assert search.score(X, y) > 0.97


class Score:
    """What a callback that scores every epoch does."""

    def __init__(self):
        self.scores = []

    def setup(self, estimator, context):
        pass

    teardown = on_fit_task_begin = setup

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        if context.task_name == "epoch":
            known = np.flatnonzero(y >= 0)
            self.scores.append(fitted_estimator.score(X[known], y[known]))


@needs_callbacks
def test_callbacks_see_a_classifier(clouds, fitted):
    X, _, few = clouds
    callback = Score()
    classifier = CollisionClassifier(random_state=0).set_callbacks(callback)
    classifier.fit(X, few)
    assert callback.scores == [1] * classifier.n_iter_
    assert_array_equal(classifier.predict_proba(X), fitted.predict_proba(X))


def test_warnings_come_from_the_line_that_fits(rng):
    X, y = rng.normal(size=(100, 4)), rng.integers(3, size=100)
    with pytest.warns(ConvergenceWarning, match="still changed class") as caught:
        CollisionClassifier(max_iter=1, tol=0, random_state=0).fit(X, y)
    assert caught[0].filename == __file__


# --- Files ------------------------------------------------------------------

NAMED = {
    "integers": np.arange(4),
    "floats": np.arange(4) / 1,
    "strings": NAMES.astype(str),
    "objects": NAMES,
    "NumPy's strings": np.array([np.str_(name) for name in NAMES], dtype=object),
    "booleans": np.array([False, True, False, True]),
}


def interrupt(X):
    raise KeyboardInterrupt


def names_of(few, kind):
    names = NAMED[kind]
    missing = "-1" if names.dtype.kind == "U" else None
    missing = -1 if names.dtype.kind in "if" else missing
    return np.array([missing if k < 0 else names[k] for k in few], dtype=None)


@pytest.mark.parametrize("kind", NAMED)
def test_a_saved_classifier_is_the_same(clouds, kind, path):
    X, _, few = clouds
    classifier = fit(X, names_of(few, kind), max_iter=3)
    classifier.save(path)
    loaded = CollisionClassifier().load(path)
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert_array_equal(loaded.classes_, classifier.classes_)
    assert_array_equal(loaded.predict_proba(X), classifier.predict_proba(X))
    assert_array_equal(loaded.transduction_, classifier.transduction_)


@pytest.mark.parametrize(
    "classes",
    [
        None,
        {"values": [0, 1, 2], "dtype": "<i8"},
        {"values": [0, 1, 2, None], "dtype": "|O"},
        {"values": [0, 1, 2, [3]], "dtype": "|O"},
        {"values": [0, 1, 2, 300], "dtype": "|i1"},
        {"values": [0, 1, 2, 3], "dtype": "<M8[s]"},
        {"values": [0, 1, 2, 3]},
    ],
)
def test_damaged_classes(fitted, classes, path):
    fitted.save(path)

    def change(record):
        record["fitted"]["classes_"] = classes
        if classes is None:
            del record["fitted"]["classes_"]

    path.write_bytes(changed(path.read_bytes(), change))
    with pytest.raises(ValueError, match="damaged"):
        CollisionClassifier().load(path)


SETTINGS_OF_A_RUN = [
    {"prior": "learn"},
    {"prior": "labels", "loss": "shannon"},
    {"prior": None, "transition": 0.1},
    {"prior": [1, 1, 2], "n_neighbors": 0},
    {"n_extra_clusters": 1, "features": None},
]


@pytest.mark.parametrize("settings", SETTINGS_OF_A_RUN)
def test_a_resumed_fit_is_the_uninterrupted_one(path, settings, rng, monkeypatch):
    X = rng.normal(size=(200, 5))
    labels = np.where(rng.random(200) < 0.2, NAMES[X[:, :3].argmax(axis=1)], None)
    weight = np.where(labels == "ant", 4.0, 1.0)
    settings = {**settings, "n_init": 1, "tol": 0, "max_iter": 5, "batch_size": 50}
    steps, train_step = [], LinearSoftmax.train_step

    def count(*args, **kwargs):
        steps.append(args)
        return train_step(*args, **kwargs)

    monkeypatch.setattr(LinearSoftmax, "train_step", count)
    expected = fit(X, labels, weight, **settings)
    assert expected.n_iter_ > 2
    n_trial_steps = len(steps) - 4 * expected.n_iter_
    settings["checkpoint"] = path
    for n_epochs in (1, 2):
        at_step = n_trial_steps * (n_epochs == 1) + 4 + 2
        with (
            linear_steps(at_step, interrupt),
            pytest.warns(UserWarning, match="interr"),
        ):
            assert fit(X, labels, weight, **settings).n_iter_ == n_epochs
    resumed = fit(X, labels, weight, **settings)
    assert_same_fit(resumed, expected)
    assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))
    assert_array_equal(resumed.prior_, expected.prior_)
    assert_array_equal(resumed.classes_, expected.classes_)
    assert_same_fit(fit(X, labels, weight, **settings), expected)
    labels[np.flatnonzero(labels == "ant")[0]] = "bee"
    with pytest.raises(ValueError, match="labels"):
        fit(X, labels, weight, **settings)


def test_a_file_of_another_class(clouds, fitted, path):
    X, _, _ = clouds
    fitted.save(path)
    with pytest.raises(ValueError, match="written by CollisionClassifier, this is a"):
        CollisionClusterer(4).load(path)
    CollisionClusterer(4, random_state=0, max_iter=3).fit(X).save(path)
    with pytest.raises(ValueError, match="written by CollisionClusterer, this is a"):
        CollisionClassifier().load(path)


# --- Bad input --------------------------------------------------------------


BAD = {
    "no label of weight": (
        lambda X, few: (X, few, {"sample_weight": few < 0}),
        "no label for a sample of positive sample_weight",
    ),
    "class of no weight": (
        lambda X, few: (X, few, {"sample_weight": few != 2}),
        "y has no row of positive sample_weight for class 2",
    ),
    "named class of no weight": (
        lambda X, few: (
            X,
            np.where(few < 0, None, NAMES[few]),
            {"sample_weight": few != 2},
        ),
        "for class 'cat'",
    ),
    "more classes than samples": (
        lambda X, few: (X[:2], [[0.2, 0.3, 0.5], [1, 0, 0]], {}),
        "y has 3 classes, extra ones included, and there are n_samples=2",
    ),
    "more extra classes than samples": (
        lambda X, few: (X[:3], [0, 1, -1], {"n_extra_clusters": 2}),
        "y has 4 classes, extra ones included, and there are n_samples=3",
    ),
    "no sample for an extra class": (
        lambda X, few: (X, few.clip(0), {"n_extra_clusters": 2}),
        "n_extra_clusters=2 must be 0: all samples have a label",
    ),
    "one sample": (lambda X, few: (X[:1], [0], {}), "y has one class, 0"),
    "one class": (lambda X, few: (X, few.clip(-1, 0), {}), "n_extra_clusters"),
    "too few labels": (lambda X, few: (X, few[:9], {}), "200 samples, got 9 labels"),
    "no labels": (lambda X, few: (X, None, {}), "requires y to be passed"),
    "NaN in X": (
        lambda X, few: (np.where(X > 9, np.nan, X), few, {}),
        "Input X contains NaN",
    ),
    "infinity in X": (
        lambda X, few: (np.where(X > 9, np.inf, X), few, {}),
        "Input X contains infinity",
    ),
    "wrong transition": (
        lambda X, few: (X, few, {"transition": np.eye(3)}),
        r"transition must have shape \(4, 4\)",
    ),
    "transition of extra classes": (
        lambda X, few: (X, few, {"transition": np.eye(5), "n_extra_clusters": 1}),
        r"transition must have shape \(4, 4\)",
    ),
    "wrong prior": (
        lambda X, few: (X, few, {"prior": [0.5, 0.5]}),
        "prior must hold one share per cluster",
    ),
    "no share": (
        lambda X, few: (X, few, {"prior": [1, 1, 0, 1]}),
        "prior has 0 for class 2, of which y has labels",
    ),
    "unknown prior": (lambda X, few: (X, few, {"prior": "auto"}), "'prior' parameter"),
    "unknown loss": (lambda X, few: (X, few, {"loss": "log"}), "'loss' parameter"),
    "negative weight of labels": (
        lambda X, few: (X, few, {"label_weight": -1}),
        "'label_weight' parameter",
    ),
    "negative number": (
        lambda X, few: (X, few, {"n_extra_clusters": -1}),
        "'n_extra_clusters' parameter",
    ),
    "images": (
        lambda X, few: (X.reshape(200, 5, 1), few, {}),
        "Images need a network",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(clouds, kind):
    X, _, few = clouds
    case, message = BAD[kind]
    rows, labels, settings = case(X, few)
    with pytest.raises(ValueError, match=message):
        fit(rows, labels, **settings)


def test_sparse_labels(clouds):
    X, y, _ = clouds
    with pytest.raises(TypeError, match=r"y is sparse.*toarray"):
        fit(X, csr_array(np.eye(4)[y]))


def test_nothing_is_known_before_a_fit(clouds):
    classifier = CollisionClassifier()
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(classifier, method)(clouds[0])
    for name in ("transduction_", "coef_", "classes_"):
        assert not hasattr(classifier, name)
