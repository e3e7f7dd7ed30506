import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import coo_matrix
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, pairwise_distances
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skcce import CollisionClusterer
from skcce.model_selection import label_stability, probe_accuracy


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


class Single(Recorder):
    def predict(self, X):
        return np.zeros(len(X), dtype=int)


@pytest.fixture
def separated():
    return make_blobs(240, centers=4, cluster_std=0.3, random_state=1)[0]


def test_stability_is_the_mean_rand_index_of_subsamples(blobs):
    X = blobs[0]
    kmeans = KMeans(6, n_init=1, random_state=0).fit(X)
    rng = np.random.RandomState(3)
    expected = []
    for _ in range(3):
        rows = rng.permutation(len(X))[:150]
        again = KMeans(6, n_init=1, random_state=0).fit(X[rows]).predict(X)
        expected.append(adjusted_rand_score(kmeans.predict(X), again))
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
