"""Old clusters keep their numbers, and new rows may open new ones."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import NotFittedError

from skcce import CollisionClusterer, LinearSoftmax
from skcce._discovery import apart, old_neighbors
from skcce._neighbors import index_of, search, without_itself
from skcce.methods import MutualInformation, SoftmaxClusterer
from skcce.metrics import clustering_accuracy_score

N_OLD = 4


def groups(n_samples, seed, n_groups=6):
    """Return rows of groups that always lie at the same places, and their numbers."""
    centers = np.random.default_rng(0).uniform(-10, 10, size=(n_groups, 8))
    return make_blobs(n_samples, centers=centers, random_state=seed)


def old_rows(n_samples=400, seed=0):
    return groups(n_samples, seed, n_groups=N_OLD)[0]


def fit(X, n_clusters=N_OLD, **parameters):
    return CollisionClusterer(n_clusters, random_state=0, **parameters).fit(X)


@pytest.fixture(scope="module")
def old():
    return fit(old_rows())


@pytest.fixture(scope="module")
def new():
    return groups(450, seed=1)


@pytest.fixture(scope="module")
def extended(old, new):
    return old.extend(new[0], max_new=5)


def test_new_clusters_are_found_and_old_ones_stay(old, new, extended):
    X, y = new
    assert extended.n_clusters_ == 6
    is_old = y < N_OLD
    assert_array_equal(extended.labels_ < N_OLD, is_old)
    assert_array_equal(extended.labels_[is_old], old.predict(X[is_old]))
    assert clustering_accuracy_score(y, extended.labels_) == 1
    assert_array_equal(extended.predict(old_rows()), old.labels_)


def test_attributes_are_those_of_the_new_rows(new, extended):
    X = new[0]
    assert_array_equal(extended.predict(X), extended.labels_)
    assert_allclose(extended.predict_proba(X).max(axis=1), extended.probabilities_)
    assert_allclose(-extended.score_samples(X), extended.outlier_scores_)
    labels = np.append(extended.predict(old_rows()), extended.labels_)
    assert_allclose(extended.prior_, np.bincount(labels) / len(labels))
    assert extended.transform(X).shape == (len(X), 6)
    assert len(extended.get_feature_names_out()) == 6
    with pytest.raises(AttributeError, match="no tree"):
        _ = extended.tree_


def test_the_old_clusterer_is_left_as_it_was(old, extended):
    assert extended.n_clusters_ != old.n_clusters_ == old.n_clusters == N_OLD
    assert len(old.labels_) == len(old.outlier_scores_) == len(old_rows())
    assert_array_equal(old.predict(old_rows()), old.labels_)
    assert old.predict_proba(old_rows()).shape[1] == N_OLD


def test_the_same_seed_gives_the_same_extension(old, new, extended):
    again = old.extend(new[0], max_new=5)
    assert_array_equal(again.predict_proba(new[0]), extended.predict_proba(new[0]))


@pytest.mark.parametrize("n_new", [100, 400, 1600])
@pytest.mark.parametrize("seed", range(3))
def test_more_of_the_same_opens_nothing(old, n_new, seed):
    X = old_rows(n_new, seed + 1)
    extended = old.extend(X)
    assert extended.n_clusters_ == N_OLD
    assert_array_equal(extended.labels_, old.predict(X))


@pytest.mark.parametrize("seed", range(3))
def test_old_clusters_may_grow_shrink_or_vanish(old, seed):
    X, y = groups(3000, seed=seed + 1)
    rng = np.random.default_rng(seed)
    share = np.array([1, 0.2, 0.05, 0, 0.3, 0.1])
    kept = rng.random(len(y)) < share[y]
    extended = old.extend(X[kept])
    assert extended.n_clusters_ == 6
    assert_array_equal(extended.labels_ < N_OLD, y[kept] < N_OLD)


@pytest.mark.parametrize("n_features", [2, 5, 20])
@pytest.mark.parametrize("size", [30, 600])
def test_one_group_opens_one_cluster(n_features, size):
    X, _ = make_blobs(900, centers=3, n_features=n_features, random_state=0)
    rng = np.random.default_rng(1)
    group = rng.normal(30, 1, size=(size, n_features))
    new = np.vstack([X[:300], group])
    extended = fit(X[300:], 3).extend(new)
    assert extended.n_clusters_ == 4
    assert_array_equal(extended.labels_ == 3, np.arange(len(new)) >= 300)


def test_at_most_max_new(old, new):
    X, y = new
    extended = old.extend(X, max_new=1)
    assert extended.n_clusters_ == N_OLD + 1
    assert_array_equal(extended.labels_ == N_OLD, y >= N_OLD)  # joined


@pytest.mark.parametrize("n_new", [1, 11])
def test_a_few_rows_are_no_cluster(old, n_new):
    X = np.full((n_new, 8), 100.0) + np.arange(n_new)[:, np.newaxis]
    extended = old.extend(X)
    assert extended.n_clusters_ == N_OLD
    assert extended.labels_.shape == (n_new,)


def test_a_few_rows_beside_many_are_no_cluster(old):
    far = np.random.default_rng(0).normal(30, 1, size=(11, 8))
    assert old.extend(np.vstack([old_rows(200, seed=1), far])).n_clusters_ == N_OLD


def test_extended_again(extended):
    X, y = groups(500, seed=3, n_groups=8)
    third = extended.extend(X)
    assert third.n_clusters_ == 8
    assert_array_equal(third.labels_[y < 6], extended.predict(X[y < 6]))
    assert third.labels_[y >= 6].min() >= 6


def test_saved_loaded_pickled_and_cloned(old, new, extended, path):
    X = new[0]
    extended.save(path)
    loaded = CollisionClusterer(6, random_state=0).load(path)
    for copy in (loaded, pickle.loads(pickle.dumps(extended))):
        assert_array_equal(copy.predict_proba(X), extended.predict_proba(X))
        assert_array_equal(copy.labels_, extended.labels_)
        assert copy.extend(X).n_clusters_ == 6
    old.save(path)
    loaded = CollisionClusterer(N_OLD, random_state=0).load(path)
    assert_array_equal(loaded.extend(X, max_new=5).labels_, extended.labels_)
    assert clone(extended).fit(X).n_clusters_ == 6


def test_any_shape():
    X = make_moons(600, noise=0.05, random_state=0)[0]
    old = fit(X, 2, prior="learn")
    group = np.random.default_rng(0).normal([0, -2], 0.2, size=(60, 2))
    more = make_moons(300, noise=0.05, random_state=1)[0]
    extended = old.extend(np.vstack([more, group]))
    assert extended.n_clusters_ == 3
    assert_array_equal(extended.labels_[:300], old.predict(more))
    assert_array_equal(extended.labels_[300:], 2)
    assert_array_equal(extended.predict(X), old.labels_)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_digits(digits, seed):
    X, y = digits
    rng = np.random.default_rng(seed)
    is_known = np.isin(y, rng.permutation(10)[:7])
    is_first = rng.random(len(y)) < 0.5
    old = fit(X[is_known & is_first], 7)
    extended = old.extend(X[~is_first])
    assert 3 <= extended.n_clusters_ - 7 <= 4
    is_new = extended.labels_ >= 7
    assert np.mean(is_new[~is_known[~is_first]]) > 0.8
    assert np.mean(is_new[is_known[~is_first]]) < 0.02
    assert np.mean(extended.predict(X[is_known & is_first]) == old.labels_) > 0.98
    unchanged = old.extend(X[is_known & ~is_first])
    assert unchanged.n_clusters_ == 7


@pytest.mark.slow
def test_other_fits(new):
    X, y = new
    weight = np.random.default_rng(0).integers(3, size=400)
    fits = [
        fit(old_rows(), "auto"),
        fit(old_rows(), "auto").cut(N_OLD),
        fit(old_rows(), prior=np.ones(N_OLD)),
        fit(old_rows(), model=LinearSoftmax(optimizer="lbfgs", alpha=1e-3)),
        SoftmaxClusterer(N_OLD, objective=MutualInformation(), random_state=0).fit(
            old_rows()
        ),
        fit(old_rows().astype(np.float32)),
        CollisionClusterer(N_OLD, random_state=0).fit(old_rows(), sample_weight=weight),
    ]
    for old in fits:
        extended = old.extend(X)
        assert extended.n_clusters_ == 6
        assert_array_equal(extended.predict(old_rows()), old.predict(old_rows()))
        assert clustering_accuracy_score(y, extended.labels_) == 1


def test_outliers(new):
    X = new[0]
    old = fit(old_rows(), contamination=0.05)
    extended = old.extend(X)
    assert extended.n_clusters_ == 6
    assert_array_equal(extended.predict(X), extended.labels_)
    assert 0 < np.mean(extended.labels_ == -1) < 0.2


@pytest.mark.parametrize(
    ("ending", "error", "message"),
    [
        ({"interrupted": True}, KeyboardInterrupt, None),
        ({"error": FloatingPointError("NaN")}, ValueError, "smaller learning rate"),
    ],
)
def test_a_fit_that_does_not_end_well(old, new, monkeypatch, ending, error, message):
    def train(model, data, objective, plan, state, **options):
        vars(state).update(ending)

    monkeypatch.setattr("skcce._discovery.train", train)
    with pytest.raises(error, match=message):
        old.extend(new[0])


# --- Who lives apart ---------------------------------------------------------


def nearest_in(X, n_neighbors=10):
    distances, around = search(index_of(X, n_neighbors, "exact"), X)
    return without_itself(distances, around)[1]


@pytest.mark.parametrize(("n_old", "n_new"), [(200, 1800), (1000, 1000), (1800, 200)])
def test_company_is_usual_amid_old_rows(rng, n_old, n_new):
    X = rng.normal(size=(n_old + n_new, 3))
    X[n_old:][: n_new // 2] += 20
    labels = rng.integers(2, size=n_old)
    observed, usual = old_neighbors(nearest_in(X), labels)
    groups = (np.arange(n_new) >= n_new // 2).astype(int)
    part, expected = apart(groups, observed, usual)
    assert part[0] == 0
    assert_allclose(part[1], 1, atol=0.15)
    assert_allclose(expected[1], n_old * (n_new / 2) / (n_new / 2), rtol=0.3)


def test_a_cluster_without_a_row_is_no_company():
    nearest = np.array([[1, 2], [0, 2], [0, 1], [0, 1]])
    observed, usual = old_neighbors(nearest, np.array([0, 0, 3]))
    assert_array_equal(observed, [1])
    assert_array_equal(usual, [1])
    part, _ = apart(np.array([0]), observed, usual)
    assert_array_equal(part, [1])


# --- Errors ------------------------------------------------------------------


@pytest.mark.parametrize("max_new", [0, -1, 2.5, "auto", None])
def test_max_new_must_be_positive(old, new, max_new):
    with pytest.raises(ValueError, match=f"max_new={max_new!r} must be a positive int"):
        old.extend(new[0], max_new=max_new)


def test_other_features(old, new):
    with pytest.raises(ValueError, match="X has 7 features"):
        old.extend(new[0][:, 1:])


def test_not_fitted(new):
    with pytest.raises(NotFittedError):
        CollisionClusterer(3).extend(new[0])


def test_no_features(new):
    old = fit(old_rows(), features=None)
    with pytest.raises(ValueError, match="has a LinearSoftmax and no features"):
        old.extend(new[0])


def test_a_network(new):
    torch = pytest.importorskip("torch")
    from skcce.deep import DeepSoftmax

    model = DeepSoftmax(torch.nn.Linear(8, 3), device="cpu")
    options = {"model": model, "max_iter": 1, "tol": 1, "lam": 1}
    old = fit(old_rows(100), 2, init="random", **options)
    with pytest.raises(ValueError, match="has a DeepSoftmax and no features"):
        old.extend(new[0])
