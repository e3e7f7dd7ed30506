import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer, LinearSoftmax, _base
from skcce._stream import Stream, new_numbers, renumbered
from skcce.deep import DeepSoftmax
from skcce.methods import (
    Collision,
    MIADMClusterer,
    MutualInformation,
    OptimalTransport,
    SCANClusterer,
    SoftmaxClusterer,
)


@pytest.fixture(scope="module")
def groups():
    """Five groups of rows that come in random order."""
    return make_blobs(1200, n_features=4, centers=5, random_state=3)


def make(n_clusters=5, **parameters):
    return CollisionClusterer(n_clusters, **{"random_state": 0} | parameters)


def plain(**parameters):
    """Without neighbors: each batch makes a step."""
    how = {"features": None, "n_neighbors": 0, "prior": None, "n_init": 2}
    return make(**how | parameters)


def batches(X, size):
    return [X[first : first + size] for first in range(0, len(X), size)]


def streamed(clusterer, X, size):
    for batch in batches(X, size):
        clusterer.partial_fit(batch)
    return clusterer


def attributes(clusterer):
    """All that a pickle would hold."""
    return pickle.dumps(vars(clusterer))


def assert_same_fit(one, other, X):
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    assert_array_equal(one.prior_, other.prior_)
    assert_array_equal(one.labels_, other.labels_)


@pytest.mark.parametrize("make_one", [make, plain])
def test_one_batch_is_a_fit_to_it(groups, make_one):
    X = groups[0][:400]
    stream = make_one().partial_fit(X)
    seed = Stream.like(
        X, np.random.RandomState(np.random.RandomState(0).randint(_base._MAX_SEED))
    ).random_state.randint(_base._MAX_SEED)
    whole = make_one(random_state=seed).fit(X)
    assert_array_equal(stream.predict_proba(X), whole.predict_proba(X))
    assert_array_equal(stream.labels_, whole.predict(X))
    assert stream.n_samples_seen_ == len(X)


@pytest.mark.slow
@pytest.mark.parametrize("make_one", [make, plain])
def test_a_stream_finds_the_groups(groups, make_one):
    X, y = groups
    stream = streamed(make_one(), X, 100)
    assert adjusted_rand_score(y, stream.predict(X)) > 0.95
    assert stream.n_samples_seen_ == len(X)
    assert_array_equal(stream.labels_, stream.predict(X[-100:]))
    assert_array_equal(
        stream.probabilities_, stream.predict_proba(X[-100:]).max(axis=1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("make_one", [make, plain])
def test_the_same_stream_is_the_same_fit(groups, make_one):
    X = groups[0][:500]
    one, other = (streamed(make_one(), X, 60) for _ in range(2))
    assert_same_fit(one, other, X)


@pytest.mark.slow
def test_clusters_keep_their_numbers(groups):
    X, _ = groups
    stream, before, n_fits = make(), None, 0
    for batch in batches(X, 60):
        stream.partial_fit(batch)
        n_fits += stream._stream.n_fitted == stream.n_samples_seen_
        now = stream.predict(X)
        if before is not None and stream.n_samples_seen_ > 300:
            assert (now == before).mean() > 0.95
        before = now
    assert n_fits > 4


def test_new_numbers_agree_with_old_ones(rng):
    old = rng.integers(4, size=200)
    permutation = np.array([2, 0, 3, 1])
    assert_array_equal(
        new_numbers(old, permutation[old], 4, 4)[permutation], np.arange(4)
    )
    for n_new in (2, 3, 6):
        new = rng.integers(n_new, size=200)
        assert_array_equal(np.sort(new_numbers(old, new, 4, n_new)), np.arange(n_new))
    # A new cluster takes the number that is left.
    new = np.where(np.arange(200) < 50, 4, (old + 1) % 4)
    assert_array_equal(new_numbers(old, new, 4, 5), [3, 0, 1, 2, 4])


def test_a_model_whose_clusters_have_other_numbers(groups):
    X, _ = groups
    numbers = np.array([3, 0, 4, 1, 2])
    for prior in (None, "learn"):
        model = make(prior=prior, features=None).fit(X).model_
        assert (model.groups_ is not None) == (prior == "learn")
        expected = model.decision_function(X)
        found = renumbered(model, numbers).decision_function(X)
        np.testing.assert_allclose(found[:, numbers], expected)


@pytest.mark.slow
def test_shares_go_with_their_clusters():
    X, y = make_blobs([600, 200, 100], n_features=3, random_state=1)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], y[order]
    learned = streamed(make(3, prior="learn"), X, 90)
    counts = np.bincount(learned.predict(X), minlength=3) / len(X)
    np.testing.assert_allclose(learned.prior_, counts, atol=0.1)
    # Those that were given stay where they are.
    prior = [1 / 9, 6 / 9, 2 / 9]
    estimators = [
        make(3, prior=prior),
        SoftmaxClusterer(3, objective=Collision(prior=prior), random_state=0),
    ]
    for given in estimators:
        streamed(given, X, 90)
        np.testing.assert_allclose(given.prior_, prior)
        counts = np.bincount(given.predict(X), minlength=3) / len(X)
        np.testing.assert_allclose(counts, prior, atol=0.05)


@pytest.mark.slow
def test_the_number_of_clusters_may_change(groups):
    X, y = groups
    order = np.argsort(y, kind="stable")
    stream, numbers = make("auto"), []
    for batch in batches(X[order], 150):
        stream.partial_fit(batch)
        assert set(stream.predict(X)) <= set(range(stream.n_clusters_))
        assert stream.prior_.shape == (stream.n_clusters_,)
        numbers.append(stream.n_clusters_)
    assert numbers[-1] == 5
    assert min(numbers) < 5


@pytest.mark.slow
@pytest.mark.parametrize("size", [16, 32, 256])
def test_balance_does_not_depend_on_the_batches(size):
    """One cloud, cut into equal parts: only the balance says where."""
    X = np.random.default_rng(0).normal(size=(3000, 3))
    stream = streamed(plain(n_clusters=4), X, size)
    assert stream._stream.usage is not None
    shares = np.bincount(stream.predict(X), minlength=4) / len(X)
    assert 0.18 < shares.min() <= shares.max() < 0.32


def test_batches_make_steps_between_fits(groups):
    X, _ = groups
    stream = plain().partial_fit(X[:400])
    before = stream.coef_
    stream.partial_fit(X[400:450])
    assert stream._stream.n_fitted == 400
    assert (stream.coef_ != before).any()
    np.testing.assert_allclose(stream.coef_, before, atol=np.abs(before).max() / 10)


def test_steps_keep_count_of_the_clusters(groups):
    X, y = groups
    stream = plain().partial_fit(X[:400])
    (cluster,) = np.unique(stream.predict(X[y == 0]))
    before = stream._stream.usage.mean[:, cluster]
    stream.partial_fit(X[400:][y[400:] == 0][:100])
    assert stream._stream.n_fitted == 400
    assert (stream._stream.usage.mean[:, cluster] > before).all()


@pytest.mark.slow
@pytest.mark.parametrize("objective", [MutualInformation(), OptimalTransport()])
def test_any_objective(groups, objective):
    X, y = groups
    stream = SoftmaxClusterer(5, objective=objective, random_state=0)
    streamed(stream, X[:800], 100)
    assert adjusted_rand_score(y, stream.predict(X)) > 0.9


@pytest.mark.parametrize("method", [MIADMClusterer, SCANClusterer])
def test_any_method(groups, method):
    X, y = groups
    stream = streamed(method(5, random_state=0), X[:600], 150)
    assert adjusted_rand_score(y, stream.predict(X)) > 0.9


@pytest.mark.slow
def test_a_model_that_takes_all_samples_at_once(groups):
    X, y = groups
    model = LinearSoftmax(optimizer="lbfgs", alpha=1e-3)
    stream = streamed(make(model=model, max_iter=2), X[:300], 150)
    assert stream._stream.usage is None
    assert adjusted_rand_score(y, stream.predict(X)) > 0.9


@pytest.mark.slow
def test_rows_come_several_times(groups):
    """Three passes are as one: nobody is a neighbor of a copy of oneself."""
    X, y = groups
    stream = make()
    for _ in range(3):
        streamed(stream, X[:500], 100)
    assert stream.n_samples_seen_ == 1500
    assert stream._stream.n_rows == 500
    assert_array_equal(stream._stream.sample, X[:500])
    assert adjusted_rand_score(y, stream.predict(X)) > 0.95


def test_each_row_is_as_likely_to_stay():
    """A reservoir: the mean number of a row in it is that of the whole stream."""
    X = np.arange(2000.0).reshape(-1, 1)
    counts = np.zeros(2000)
    for seed in range(60):
        stream = Stream.like(X[:7], np.random.RandomState(seed))
        for batch in batches(X, 7 + seed):
            stream.add(batch, 100)
        assert stream.n_rows == len(np.unique(stream.sample)) == 100
        counts[stream.sample[:, 0].astype(int)] += 1
    # Each of 10 parts has 600 of 6000 rows: a standard deviation of 23.
    parts = counts.reshape(10, -1).sum(axis=1)
    assert np.abs(parts - 600).max() < 5 * 23


@pytest.mark.slow
def test_no_more_rows_than_may_be_are_kept(groups):
    X, y = groups
    stream = streamed(make(max_samples=200), X, 90)
    assert stream._stream.n_rows == 200
    assert stream._stream.rows.shape[0] < 400
    assert len({row.tobytes() for row in stream._stream.sample}) == 200
    assert stream.n_samples_seen_ == len(X)
    assert adjusted_rand_score(y, stream.predict(X)) > 0.95


def test_the_dtype_is_that_of_the_first_batch(groups):
    """Also where a row has to go that was converted."""
    X, _ = groups
    stream = make(max_samples=150)
    stream.partial_fit(X[:300].astype(np.float32))
    streamed(stream, X[300:900], 150)
    assert stream._stream.sample.dtype == np.float32
    assert stream.coef_.dtype == np.float32


def test_feature_names_stay(groups):
    table = pd.DataFrame(groups[0][:400], columns=["a", "b", "c", "d"])
    stream = make()
    for batch in batches(table, 100):
        stream.partial_fit(batch)
    assert stream.feature_names_in_.tolist() == ["a", "b", "c", "d"]
    stream.predict(table)
    with pytest.raises(ValueError, match="feature names"):
        stream.partial_fit(table.rename(columns={"a": "z"}))


def wrong_batches(X):
    with_nan, with_inf = X[:100].copy(), X[:100].copy()
    with_nan[3, 1], with_inf[-1, 0] = np.nan, np.inf
    return [
        (with_nan, "contains NaN"),
        (with_inf, "contains infinity"),
        (X[:100, :3], "3 features"),
        (X[0], "2D array"),
        (X[:0], "0 sample"),
    ]


@pytest.mark.parametrize("make_one", [make, plain])
def test_a_wrong_batch_leaves_all_as_it_was(groups, make_one):
    X, _ = groups
    stream, other = (make_one().partial_fit(X[:100]) for _ in range(2))
    before = attributes(stream)
    for batch, message in wrong_batches(X):
        # With most of these, another fit would be due.
        with pytest.raises(ValueError, match=message):
            stream.partial_fit(batch)
        assert attributes(stream) == before
    later = X[100:200]
    assert_same_fit(stream.partial_fit(later), other.partial_fit(later), X)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_fit_that_fails_leaves_the_stream_as_it_was(groups, monkeypatch, error):
    X, _ = groups
    stream = make().partial_fit(X[:200])
    before = attributes(stream)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("skcce._neighbors.search", fail)
        with pytest.raises(error):
            stream.partial_fit(X[200:400])
    assert attributes(stream) == before
    stream.partial_fit(X[200:400])
    assert stream.n_samples_seen_ == 400


def test_a_first_batch_of_too_few_rows(groups):
    X, _ = groups
    for few in (X[:4], np.repeat(X[:4], 30, axis=0)):
        stream = make()
        with pytest.raises(ValueError, match=r"4 distinct rows.*n_clusters=5"):
            stream.partial_fit(few)
        with pytest.raises(NotFittedError):
            stream.predict(X)
        stream.partial_fit(X[:100, :3])  # may have other features
        assert stream.n_samples_seen_ == 100


def test_later_batches_may_have_one_row(groups):
    X, _ = groups
    for make_one in (make, plain):
        stream = streamed(make_one().partial_fit(X[:100]), X[100:120], 1)
        assert stream.labels_.shape == stream.probabilities_.shape == (1,)


@pytest.mark.parametrize("make_one", [make, plain])
def test_after_a_fit_a_stream_begins_anew(groups, make_one):
    X, _ = groups
    stream = make_one().partial_fit(X[:100]).fit(X[:300])
    assert not hasattr(stream, "n_samples_seen_")
    expected = stream.predict_proba(X)
    stream.partial_fit(X[300:400])
    assert_array_equal(stream.predict_proba(X), expected)
    assert stream.n_samples_seen_ == 100
    numbers = stream.predict(X)
    stream.partial_fit(X[400:900])
    assert stream._stream.n_fitted == 600
    assert (stream.predict(X) == numbers).mean() > 0.95
    # Too few distinct rows are no reason for another fit.
    copies = make_one().fit(X[:50])
    expected = copies.predict_proba(X)
    copies.partial_fit(np.repeat(X[:2], 60, axis=0))
    assert_array_equal(copies.predict_proba(X), expected)


def test_a_fit_that_fails_ends_no_stream(groups):
    X, _ = groups
    stream = make().partial_fit(X[:100])
    before = attributes(stream)
    with pytest.raises(ValueError, match="contains NaN"):
        stream.fit(np.full_like(X, np.nan))
    assert attributes(stream) == before


def test_save_and_load(groups, path):
    X, _ = groups
    stream = streamed(make(contamination=0.05), X[:400], 90)
    stream.save(path)
    loaded = make(contamination=0.05).partial_fit(X[:50]).load(path)
    assert_same_fit(loaded, stream, X)
    assert_array_equal(loaded.outlier_scores_, stream.outlier_scores_)
    assert not hasattr(loaded, "n_samples_seen_")
    loaded.partial_fit(X[400:410])
    assert loaded.n_samples_seen_ == 10
    assert_array_equal(loaded.predict_proba(X), stream.predict_proba(X))


def test_labels_and_scores_are_those_of_the_batch(groups):
    X, _ = groups
    stream = make(contamination=0.1)
    for batch in batches(X[:600], 150):
        stream.partial_fit(batch)
        assert_array_equal(stream.labels_, stream.predict(batch))
        assert_array_equal(stream.outlier_scores_, -stream.score_samples(batch))
    assert -1 in stream.labels_
    far = stream.partial_fit(X[600:650] + 1000)
    assert_array_equal(far.labels_, np.full(50, -1))


def test_other_numbers_of_clusters_of_a_stream(groups):
    X, _ = groups
    stream = streamed(make("auto"), X[:500], 120)
    cut = stream.cut(3)
    assert_array_equal(cut.labels_, cut.predict(X[480:500]))
    assert not hasattr(cut, "n_samples_seen_")
    before = attributes(stream)
    cut.partial_fit(X[500:600])
    extended = stream.extend(X[500:900] + 30, max_new=6)
    extended.partial_fit(X[500:600])
    assert attributes(stream) == before


@pytest.mark.parametrize("make_one", [make, plain])
@pytest.mark.parametrize("seed", [0, None])
def test_a_pickle_goes_on_as_without(groups, make_one, seed):
    X, _ = groups
    stream = streamed(make_one(random_state=seed), X[:300], 70)
    copy = pickle.loads(pickle.dumps(stream))
    for one in (stream, copy):
        streamed(one, X[300:500], 70)
    assert_same_fit(stream, copy, X)


def test_a_clone_knows_nothing_of_the_stream(groups):
    assert not hasattr(clone(make().partial_fit(groups[0][:100])), "_stream")


@pytest.mark.parametrize(
    "parameters",
    [
        {"must_link": [[0, 1]]},
        {"cannot_link": [[0, 1]]},
        {"init": np.zeros(100, dtype=int)},
    ],
)
def test_parameters_that_refer_to_rows(groups, parameters):
    with pytest.raises(ValueError, match=f"{next(iter(parameters))} belongs to"):
        make(**parameters).partial_fit(groups[0][:100])


def test_a_network_takes_no_stream(groups):
    with pytest.raises(AttributeError, match="partial_fit"):
        make(model=DeepSoftmax(None)).partial_fit(groups[0])


def test_parameters_are_checked(groups):
    with pytest.raises(ValueError, match="max_samples"):
        make(max_samples=1).partial_fit(groups[0])
    with pytest.raises(ValueError, match="max_samples=4 must not be smaller than n_cl"):
        make(max_samples=4).partial_fit(groups[0])
    with pytest.raises(ValueError, match=r"checkpoint='run.npz' is for fit"):
        make(checkpoint="run.npz").partial_fit(groups[0])


def test_a_first_batch_that_is_too_small_leaves_nothing(groups):
    stream = make()
    with pytest.raises(
        ValueError, match="has 3 distinct rows, fewer than n_clusters=5"
    ):
        stream.partial_fit(groups[0][:3])
    assert attributes(stream) == attributes(make())
    stream.partial_fit(groups[0][:100, :2])
