"""Fits that look at a sample of the rows."""

import pickle

import numpy as np
import pytest
from conftest import memmap, stopped_after_epochs
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClassifier, CollisionClusterer, _estimator
from skcce._data import TrainingData
from skcce.methods import IMSATClusterer, MIADMClusterer, SCANClusterer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def groups():
    return make_blobs(900, n_features=5, centers=4, random_state=2)


def make(n_clusters=4, **parameters):
    how = {"max_samples": 300, "random_state": 0}
    return CollisionClusterer(n_clusters, **how | parameters)


def assert_all_rows_are_predicted(fit, X):
    assert_array_equal(fit.labels_, fit.predict(X))
    assert_array_equal(fit.probabilities_, fit.predict_proba(X).max(axis=1))


def test_labels_of_several_blocks(groups, monkeypatch):
    monkeypatch.setattr(_estimator, "_ROWS_TO_LOOK_UP", 250)
    fit = make(prior="learn").fit(groups[0])
    assert_array_equal(fit.labels_, fit.predict(groups[0]))
    assert_allclose(fit.outlier_scores_, -fit.score_samples(groups[0]))
    assert_array_equal(fit.labels_, fit.tree_.cut(4)[fit.tree_.labels])


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_clusters": "auto"},
        {"n_clusters": (2, 6)},
        {"prior": None},
        {"prior": "learn"},
        {"features": None},
        {"neighbors": "approximate"},
        {"max_samples": 100},
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_are_predictions_for_all_rows(groups, parameters, dtype):
    X, y = groups
    X = X.astype(dtype)
    fit = make(**parameters).fit(X)
    assert_all_rows_are_predicted(fit, X)
    assert adjusted_rand_score(y, fit.labels_) > 0.95
    if fit.features_ is not None:
        assert fit.features_.get_state()["rows"].shape[0] == fit.max_samples
        assert_allclose(fit.outlier_scores_, -fit.score_samples(X))
    again = make(**parameters).fit(X)
    assert_array_equal(again.probabilities_, fit.probabilities_)


@pytest.mark.slow
@pytest.mark.parametrize("max_samples", [900, 901, 100_000, None])
def test_few_rows_are_all_looked_at(groups, max_samples):
    """No random number is drawn to choose from them."""
    X, _ = groups
    fits = [make(max_samples=most).fit(X) for most in (max_samples, 899_999)]
    assert pickle.dumps(vars(fits[0].model_)) == pickle.dumps(vars(fits[1].model_))
    assert_array_equal(fits[0].probabilities_, fits[1].probabilities_)
    assert_array_equal(fits[0].features_.get_state()["rows"].shape[0], 900)


def test_the_sample_is_that_of_the_seed(groups):
    X, _ = groups
    rows = [
        make(random_state=seed).fit(X).features_.get_state()["rows"]
        for seed in (0, 0, 1)
    ]
    assert_array_equal(rows[0], rows[1])
    assert (rows[0] != rows[2]).any()


def test_a_sample_is_one(groups):
    X, _ = groups
    counts = np.zeros(900)
    for seed in range(50):
        sample = TrainingData(X, given=X).sample(300, np.random.RandomState(seed))
        assert_array_equal(sample.X, X[sample.kept])
        assert len(np.unique(sample.kept)) == sample.n_samples == 300
        counts[sample.kept] += 1
    # A third of 50 draws: a standard deviation of 3.3.
    assert np.abs(counts - 50 / 3).max() < 5 * 3.4
    assert abs(counts[:450].sum() - 50 * 150) < 300


def test_weights(groups):
    X, _ = groups
    weight = np.random.default_rng(0).integers(0, 3, size=900).astype(float)
    fit = make().fit(X, sample_weight=weight)
    assert_all_rows_are_predicted(fit, X)
    data = TrainingData.of(X, weight).sample(300, np.random.RandomState(0))
    assert weight[data.kept].all()
    assert_array_equal(data.X, X[data.kept])
    assert_allclose(data.weight, weight[data.kept] / weight[data.kept].mean())
    # Fewer rows have a weight than may be looked at.
    few = np.where(np.arange(900) < 200, 1.0, 0.0)
    rest = make(max_samples=None).fit(X[:200])
    part = make(max_samples=250).fit(X, sample_weight=few)
    assert_array_equal(part.predict_proba(X), rest.predict_proba(X))


def test_links_stay_in_the_sample(groups):
    X, y = groups
    pairs = np.arange(80).reshape(40, 2)
    same = y[pairs[:, 0]] == y[pairs[:, 1]]
    links = {"must_link": pairs[same], "cannot_link": pairs[~same]}
    fit = make(max_samples=120, **links).fit(X)
    assert_all_rows_are_predicted(fit, X)
    rows = fit.features_.get_state()["rows"]
    linked = fit.features_._projection(X[:80])
    assert (linked[:, np.newaxis] == rows).all(axis=2).any(axis=1).all()
    # More rows have links than may be looked at.
    assert_all_rows_are_predicted(make(max_samples=50, **links).fit(X), X)


@pytest.mark.parametrize("max_samples", [300, 40])
def test_labels_stay_in_the_sample(groups, max_samples):
    X, y = groups
    labels = np.full(900, -1)
    labels[850:] = y[850:]
    fit = CollisionClassifier(max_samples=max_samples, random_state=0).fit(X, labels)
    n_looked_at = max(max_samples, 50 + max_samples // 2)
    assert len(fit.features_.get_state()["rows"]) == n_looked_at
    assert_array_equal(fit.transduction_, fit.predict(X))
    assert fit.score(X, y) > 0.95


def test_labels_of_all_rows_are_all_used(groups):
    X, y = groups
    fits = [
        CollisionClassifier(max_samples=most, random_state=0).fit(X, y)
        for most in (100, None)
    ]
    assert_array_equal(fits[0].predict_proba(X), fits[1].predict_proba(X))


def test_start_labels_of_the_sample(groups):
    X, y = groups
    fit = make(init=y).fit(X)
    assert_all_rows_are_predicted(fit, X)
    assert (fit.labels_ == y).mean() > 0.95
    centroids = [X[y == k].mean(axis=0) for k in range(4)]
    assert (make(init=centroids).fit(X).labels_ == y).mean() > 0.95
    with pytest.raises(ValueError, match=r"n_samples=900"):
        make(init=y[:300]).fit(X)


def test_contamination(groups):
    X, _ = groups
    fit = make(contamination=0.1).fit(X)
    assert_array_equal(fit.labels_, fit.predict(X))
    assert_array_equal(fit.outlier_scores_, -fit.score_samples(X))
    assert 0.05 < (fit.labels_ == -1).mean() < 0.2


def test_tree(groups):
    X, _ = groups
    fit = make("auto").fit(X)
    assert len(fit.tree_.labels) == 900
    cut = fit.cut(3)
    assert_array_equal(cut.labels_, fit.tree_.cut(3)[fit.tree_.labels])
    assert (cut.labels_ == cut.predict(X)).mean() > 0.95
    assert cut.labels_.max() == 2


def test_extend(groups):
    X, y = groups
    fit = make(3).fit(X[y < 3])
    extended = fit.extend(X[y == 3], max_new=2)
    assert extended.n_clusters_ == 4
    assert (extended.predict(X[y < 3]) == fit.labels_).mean() > 0.95


@pytest.mark.parametrize("n_clusters", [4, "auto"])
def test_save_and_load(groups, path, n_clusters):
    X, _ = groups
    fit = make(n_clusters, contamination=0.05).fit(X)
    fit.save(path)
    loaded = make(n_clusters, contamination=0.05).load(path)
    assert_array_equal(loaded.labels_, fit.labels_)
    assert_array_equal(loaded.outlier_scores_, fit.outlier_scores_)
    assert_array_equal(loaded.predict_proba(X), fit.predict_proba(X))
    if n_clusters == "auto":
        assert_array_equal(loaded.tree_.labels, fit.tree_.labels)


@pytest.mark.parametrize(
    "parameters",
    [
        {"prior": None},
        {"n_clusters": "auto", "prior": None},
        {"neighbors": "approximate", "prior": None, "contamination": 0.1},
        {"features": None, "n_neighbors": 0, "prior": None, "n_init": 2},
    ],
)
def test_a_run_goes_on(groups, path, parameters):
    X, _ = groups
    parameters = {"max_iter": 6, "tol": 0} | parameters
    whole = make(**parameters).fit(X)
    run = make(**parameters, checkpoint=path)
    with stopped_after_epochs(3):
        run.fit(X)
    assert run.n_iter_ == 3
    assert len(run.labels_) == 900
    unfinished = make(**parameters).load(path)
    assert_array_equal(unfinished.predict(X), make(**parameters).load(path).predict(X))
    for _ in range(2):  # also when it is over
        run.fit(X)
        assert_array_equal(run.labels_, whole.labels_)
        assert_array_equal(run.probabilities_, whole.probabilities_)
        assert_array_equal(run.predict_proba(X), whole.predict_proba(X))
    with pytest.raises(ValueError, match="another run"):
        run.set_params(max_samples=301).fit(X)


def test_a_stream_goes_on_from_an_unfinished_run(groups, path):
    X, _ = groups
    with stopped_after_epochs(2):
        make(prior=None, checkpoint=path).fit(X)
    stream = make(prior=None).load(path)
    for _ in range(3):
        stream.partial_fit(X[:100])
    assert stream.n_samples_seen_ == 300


@pytest.mark.parametrize("method", [SCANClusterer, IMSATClusterer, MIADMClusterer])
def test_methods(groups, method):
    X, y = groups
    fit = method(4, max_samples=300, random_state=0).fit(X)
    assert_array_equal(fit.labels_, fit.predict(X))
    assert adjusted_rand_score(y, fit.labels_) > 0.95


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_memory_map_is_as_an_array(groups, dtype):
    X = groups[0].astype(dtype)
    fit, mapped = make().fit(X), make().fit(memmap(X))
    assert_array_equal(mapped.probabilities_, fit.probabilities_)
    assert_array_equal(mapped.predict_proba(memmap(X)), fit.predict_proba(X))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_samples": 1}, "'max_samples' parameter"),
        ({"max_samples": 0}, "'max_samples' parameter"),
        ({"max_samples": 0.5}, "'max_samples' parameter"),
        ({"max_samples": "auto"}, "'max_samples' parameter"),
        ({"max_samples": 3}, "max_samples=3 must not be smaller than n_clusters=4"),
        ({"max_samples": 50, "n_neighbors": 50}, "smaller than n_samples=50"),
    ],
)
def test_wrong_values(groups, parameters, message):
    with pytest.raises(ValueError, match=message):
        make(**parameters).fit(groups[0])
