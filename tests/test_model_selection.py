import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import coo_matrix
from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    pairwise_distances,
)
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skcce import CollisionClusterer
from skcce.model_selection import label_stability, probe_accuracy, rows_to_label


class Recorder(ClusterMixin, BaseEstimator):
    """Put samples into clusters by their sign, and keep what it was fitted to."""

    fitted_to = []  # noqa: RUF012

    def fit(self, X, y=None):
        self.fitted_to.append(X)
        self.n_ = len(X)
        return self

    def predict(self, X):
        return (np.asarray(X)[:, 0] > 0).astype(int)


class Moody(Recorder):
    """Cluster otherwise each time that it is fitted."""

    def predict(self, X):
        return np.random.default_rng(len(self.fitted_to)).integers(0, 2, len(X))


class Wavering(Recorder):
    """Find two large clusters, and eight small ones anew each time."""

    def predict(self, X):
        labels = super().predict(X)
        small = np.random.default_rng(len(self.fitted_to)).integers(2, 10, len(X))
        return np.where(np.asarray(X)[:, 1] > 1.5, small, labels)


class Single(Recorder):
    def predict(self, X):
        return np.zeros(len(X), dtype=int)


class Sure(ClassifierMixin, BaseEstimator):
    """Predict given probabilities."""

    def __init__(self, proba=None):
        self.proba = proba

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict_proba(self, X):
        return self.proba


@pytest.fixture
def separated():
    return make_blobs(240, centers=4, cluster_std=0.3, random_state=1)[0]


def test_stability_is_the_mean_information_of_subsamples(blobs):
    X = blobs[0]
    kmeans = KMeans(6, n_init=1, random_state=0).fit(X)
    rng = np.random.RandomState(3)
    expected = []
    for _ in range(3):
        rows = rng.permutation(len(X))[:150]
        again = KMeans(6, n_init=1, random_state=0).fit(X[rows]).predict(X)
        expected.append(adjusted_mutual_info_score(kmeans.predict(X), again))
    found = label_stability(kmeans, X, n_subsamples=3, subsample=0.5, random_state=3)
    assert found == np.mean(expected)
    assert len(set(expected)) == 3


def test_subsamples_are_drawn_anew_without_repetition(rng):
    X = rng.normal(size=(20, 2))
    estimator = Recorder().fit(X)
    Recorder.fitted_to.clear()
    assert label_stability(estimator, X, n_subsamples=4, subsample=0.35) == 1
    parts = [{tuple(row) for row in part} for part in Recorder.fitted_to]
    assert [len(part) for part in parts] == [7] * 4
    assert parts[0] != parts[1]
    assert estimator.n_ == 20  # a clone is fitted, not the estimator


def test_what_is_not_found_again_is_not_stable(rng):
    X = rng.normal(size=(400, 2))
    assert abs(label_stability(Moody().fit(X), X)) < 0.05


def test_small_clusters_count(rng):
    """Most pairs of rows are in the large clusters, and stay together."""
    X = rng.normal(size=(2000, 2))
    fitted = Wavering().fit(X)
    first = fitted.predict(X)
    Wavering().fit(X)  # the small ones are drawn anew
    pairs = adjusted_rand_score(first, fitted.predict(X))
    assert label_stability(fitted, X) < pairs - 0.02


def test_one_cluster_counts_as_nothing(rng):
    X = rng.normal(size=(20, 2))
    assert label_stability(Single().fit(X), X) == 0
    assert probe_accuracy(Single().fit(X), X) == 0


def test_probe_accuracy_is_that_of_cross_validated_predictions(digits):
    X = digits[0][:300]
    kmeans = KMeans(5, n_init=1, random_state=0).fit(X)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = KFold(5, shuffle=True, random_state=np.random.RandomState(0))
    guess = cross_val_predict(probe, X, kmeans.labels_, cv=folds)
    # Folds of equal size: the mean over folds is the mean over samples.
    expected = np.mean(guess == kmeans.labels_)
    assert probe_accuracy(kmeans, X) == pytest.approx(expected)
    assert 0.8 < expected < 1


def test_probe_is_the_one_that_is_given(rng):
    X = rng.normal(size=(200, 2))
    estimator = Recorder().fit(X)
    stump = DecisionTreeClassifier(max_depth=1)
    assert probe_accuracy(estimator, X, probe=stump, cv=3) > 0.95
    assert probe_accuracy(Moody().fit(X), X, probe=stump, cv=3) < 0.65


def test_probe_sees_what_the_clusterer_sees(rng):
    X = rng.normal(size=(200, 2))
    # Only behind the first step is the cluster's feature there at all.
    hidden = [str(value) for value in X[:, 0]]
    read = FunctionTransformer(lambda X: np.array(X, dtype=float)[:, None])
    pipe = make_pipeline(read, Recorder()).fit(hidden)
    assert probe_accuracy(pipe, hidden) > 0.95
    assert label_stability(pipe, hidden) == 1


@pytest.mark.parametrize("criterion", [label_stability, probe_accuracy])
def test_numbers_of_clusters_do_not_matter(criterion, digits):
    class Renamed(KMeans):
        def predict(self, X):
            return 7 - super().predict(X)

    X = digits[0][:200]
    scores = [
        criterion(kind(6, n_init=1, random_state=0).fit(X), X)
        for kind in (KMeans, Renamed)
    ]
    assert scores[0] == pytest.approx(scores[1])
    assert 0 < scores[0] < 1


@pytest.mark.parametrize("sizes", [(99, 1), (1, 99), (90, 9, 1)])
def test_probe_of_clusters_of_a_single_sample(sizes):
    """Without it, the others may be a single class, which no classifier learns."""
    centers = [[5.0 * k] for k in range(len(sizes))]
    X = np.repeat(centers, sizes, axis=0)
    kmeans = KMeans(len(sizes), init=np.array(centers), n_init=1).fit(X)
    n_single = sum(size == 1 for size in sizes)
    assert probe_accuracy(kmeans, X) == 1 - n_single / 100


class Listing(KMeans):
    def predict(self, X):
        return super().predict(X).tolist()


class Given(KMeans):
    """Knows the clusters of the rows that it was fitted on, whatever X is now."""

    def predict(self, X):
        return self.labels_


def test_probe_of_other_data(separated):
    kmeans = Given(4, n_init=1, random_state=0).fit(separated)
    distances = pairwise_distances(separated)
    probe = KNeighborsClassifier(metric="precomputed")
    assert probe_accuracy(kmeans, distances, probe=probe) > 0.95
    rows = coo_matrix(separated)
    assert probe_accuracy(kmeans, rows, probe=KNeighborsClassifier()) > 0.95
    listing = Listing(4, n_init=1, random_state=0).fit(separated)
    assert probe_accuracy(listing, separated) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("criterion", [label_stability, probe_accuracy])
def test_they_are_scorers_that_need_no_labels(criterion, separated):
    search = GridSearchCV(
        CollisionClusterer(4, max_iter=5, tol=1, random_state=0),
        {"lam": [1, 10]},
        scoring=criterion,
        cv=ShuffleSplit(2, test_size=0.5, random_state=0),
        error_score="raise",
    ).fit(separated)
    scores = search.cv_results_["mean_test_score"]
    assert ((scores > 0.9) & (scores <= 1)).all()


def test_stability_prefers_whole_blobs_to_split_ones(separated):
    search = GridSearchCV(
        KMeans(n_init=5, random_state=0),
        {"n_clusters": [6, 5, 4]},
        scoring=label_stability,
        cv=ShuffleSplit(2, test_size=0.5, random_state=0),
    ).fit(separated)
    assert search.best_params_ == {"n_clusters": 4}


def test_same_seed_same_value(blobs):
    X = blobs[0]
    kmeans = KMeans(6, n_init=1, random_state=0).fit(X)
    for criterion in (label_stability, probe_accuracy):
        values = [criterion(kmeans, X, random_state=s) for s in (0, 0, 1, 2, 3)]
        assert values[0] == values[1]
        assert len(set(values[1:])) > 1


def test_estimator_and_data_stay_as_they_are(blobs):
    X = blobs[0].copy()
    X.flags.writeable = False
    kmeans = KMeans(3, n_init=1, random_state=0).fit(X)
    before = kmeans.cluster_centers_.copy()
    label_stability(kmeans, X)
    probe_accuracy(kmeans, X)
    assert_array_equal(kmeans.cluster_centers_, before)


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        (label_stability, {"n_subsamples": 0}, "n_subsamples"),
        (label_stability, {"subsample": 1.0}, "subsample"),
        (label_stability, {"subsample": 0.0}, "subsample"),
        (probe_accuracy, {"cv": 1}, "cv"),
        (probe_accuracy, {"probe": "tree"}, "probe"),
    ],
)
def test_wrong_parameters_are_named(criterion, options, message, blobs):
    kmeans = KMeans(3, n_init=1).fit(blobs[0])
    with pytest.raises(ValueError, match=f"'{message}' parameter"):
        criterion(kmeans, blobs[0], **options)


def test_an_unfitted_estimator_is_an_error(blobs):
    with pytest.raises(NotFittedError):
        label_stability(KMeans(3), blobs[0])
    with pytest.raises(ValueError, match="estimator"):
        probe_accuracy("KMeans", blobs[0])


def two_classes(first):
    """Return a fitted estimator of two classes; `first` are probabilities of one."""
    return Sure(np.column_stack([first, 1 - first])).fit(None)


def test_chosen_rows_take_most_from_the_weighted_variance():
    rng = np.random.default_rng(0)
    X, first = rng.normal(size=(50, 4)), rng.random(50)
    known = np.full(50, -1)
    known[:2] = 0, 1
    first[:2] = 0, 1  # both classes have a label, and all rows count by their margin
    weight = (1 - np.abs(2 * first - 1)) ** 4
    rows = X - X.mean(axis=0)
    rows /= np.sqrt((rows**2).sum(axis=1).mean())

    def variance(numbers):
        chosen = rows[numbers]
        covariance = np.linalg.inv(np.eye(4) + chosen.T @ chosen)
        return weight @ (rows @ covariance * rows).sum(axis=1)

    expected = [0, 1]
    for _ in range(8):
        others = [i for i in range(50) if i not in expected]
        expected.append(min(others, key=lambda i: variance([*expected, i])))
    chosen = rows_to_label(two_classes(first), X, 8, known)
    assert_array_equal(chosen, expected[2:])


def test_every_cluster_gets_a_label_first(separated):
    clusterer = CollisionClusterer(4, random_state=0).fit(separated)
    chosen = rows_to_label(clusterer, separated, 4)
    assert set(clusterer.labels_[chosen]) == {0, 1, 2, 3}
    known = np.full(len(separated), np.nan)
    known[clusterer.labels_ < 3] = 1
    (last,) = rows_to_label(clusterer, separated, 1, known)
    assert clusterer.labels_[last] == 3


def test_rows_that_are_sure_are_not_asked_for():
    X = np.random.default_rng(0).normal(size=(60, 5))
    X[:40, 3:] = 0
    X[40:, :3] = 0
    first = np.repeat([1.0, 0.0, 0.6], 20)
    known = np.full(60, None)
    known[[0, 20]] = "yes", "no"
    assert rows_to_label(two_classes(first), X, 5, known).min() >= 40


def test_among_ambiguous_rows_the_dense_place_goes_first():
    X = np.repeat(np.eye(4), [30, 12, 3, 1], axis=0)
    place = np.tile(X.argmax(axis=1), 2)
    known = np.full(92, -1)
    known[[45, 91]] = 0, 1
    proba = two_classes(np.where(known == 0, 0.51, 0.49))
    chosen = rows_to_label(proba, np.vstack([X, -X]), 2, known)
    # Rows that equal a chosen one have little more to tell.
    assert_array_equal(place[chosen], [0, 1])


def test_rows_with_a_label_are_not_chosen(blobs):
    X, y = blobs
    clusterer = CollisionClusterer(3, random_state=0).fit(X)
    known = np.where(np.arange(len(X)) % 4 > 0, y, -1)
    n_open = int((known == -1).sum())
    chosen = rows_to_label(clusterer, X, n_open, known)
    assert_array_equal(np.sort(chosen), np.flatnonzero(known == -1))
    soft = np.where(known[:, np.newaxis] < 0, np.nan, np.eye(y.max() + 1)[known])
    assert_array_equal(rows_to_label(clusterer, X, n_open, soft), chosen)


def test_chosen_rows_are_the_same_again(blobs):
    X = blobs[0].astype(np.float32)
    clusterer = CollisionClusterer(3, random_state=0).fit(X)
    assert_array_equal(rows_to_label(clusterer, X, 20), rows_to_label(clusterer, X, 20))


def test_rows_are_chosen_among_what_a_pipeline_hands_on(blobs):
    X = blobs[0]
    pipeline = make_pipeline(StandardScaler(), CollisionClusterer(3, random_state=0))
    pipeline.fit(X)
    expected = rows_to_label(pipeline[-1], pipeline[:-1].transform(X), 10)
    assert_array_equal(rows_to_label(pipeline, X, 10), expected)


@pytest.mark.slow
def test_one_label_per_cluster_names_the_digits(digits):
    X, y = digits
    clusterer = CollisionClusterer(10, n_init=2, random_state=0).fit(X)
    chosen = rows_to_label(clusterer, X, 10)
    assert set(y[chosen]) == set(range(10))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_rows": 0}, ValueError, "'n_rows' parameter"),
        ({"n_rows": 11}, ValueError, "n_rows=11 must not be larger than the 10 rows"),
        ({"y": [1] * 8 + [-1] * 2}, ValueError, "n_rows=3 .* the 2 rows of X without"),
        ({"y": [-1] * 9}, ValueError, "10 rows, got 9 labels"),
        ({"y": np.full((2, 5, 2), -1.0)}, ValueError, "1-D or 2-D, got 3 dimensions"),
        ({"estimator": KMeans(2)}, TypeError, "must have predict_proba"),
        ({"estimator": CollisionClusterer(2)}, NotFittedError, "not fitted"),
        ({"estimator": Sure(np.ones((10, 1))).fit(None)}, ValueError, "single"),
    ],
)
def test_what_rows_to_label_cannot_do_is_said(changes, error, message):
    arguments = {
        "estimator": two_classes(np.linspace(0, 1, 10)),
        "X": np.arange(20.0).reshape(10, 2),
        "n_rows": 3,
    }
    with pytest.raises(error, match=message):
        rows_to_label(**(arguments | changes))
