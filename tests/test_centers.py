"""Centers and inertia are those of the labels, whatever the rows come in."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
from conftest import memmap, stopped_after_epochs
from numpy.testing import assert_allclose, assert_array_equal
from persistence import SHORT_FITS, changed, make
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid

from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax, _centers
from skcce._centers import find_centers, merged
from skcce.methods import MIGDClusterer

pytestmark = SHORT_FITS


def fit(X, sample_weight=None, **parameters):
    clusterer = CollisionClusterer(4, random_state=0).set_params(**parameters)
    return clusterer.fit(X, sample_weight=sample_weight)


def by_hand(X, labels, n_clusters, weight=None):
    """Return the mean rows of clusters, and the inertia."""
    weight = np.ones(len(X)) if weight is None else weight
    centers = np.array(
        [
            np.average(X[labels == k], axis=0, weights=weight[labels == k])
            for k in range(n_clusters)
        ]
    )
    counts = labels >= 0
    away = X[counts] - centers[labels[counts]]
    return centers, weight[counts] @ (away**2).sum(axis=1)


def assert_centers(clusterer, X, weight=None, rtol=1e-9):
    expected = by_hand(X, clusterer.labels_, clusterer.n_clusters_, weight)
    assert_allclose(clusterer.cluster_centers_, expected[0], rtol, rtol)
    assert_allclose(clusterer.inertia_, expected[1], max(rtol, 1e-7))
    assert isinstance(clusterer.inertia_, float)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_clusters": "auto"},
        {"contamination": 0.1},
        {"n_neighbors": 0},
        {"max_samples": 150},
        {"n_neighbors": 0, "max_samples": 150},
        {"max_samples": 150, "contamination": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_centers_and_inertia_are_those_of_the_labels(blobs, parameters, is_weighted):
    X, _ = blobs
    weight = None
    if is_weighted:
        weight = np.random.RandomState(0).randint(3, size=300).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer = fit(X, weight, **parameters)
    assert_centers(clusterer, X, weight)
    if "contamination" in parameters:
        assert clusterer.labels_.min() == -1


def test_the_unit_of_weights_is_that_of_inertia(blobs):
    X, _ = blobs
    one, two = fit(X), fit(X, np.full(300, 2))
    assert_allclose(two.inertia_, 2 * one.inertia_)
    assert_allclose(two.cluster_centers_, one.cluster_centers_)
    tiny = fit(X, np.full(300, 1e-300))
    assert_allclose(tiny.inertia_, 1e-300 * one.inertia_)
    assert_allclose(tiny.cluster_centers_, one.cluster_centers_)


def test_kmeans_has_the_same_of_its_labels(blobs):
    X, _ = blobs
    kmeans = KMeans(4, random_state=0).fit(X)
    clusterer = fit(X)
    order = kmeans.predict(clusterer.cluster_centers_)
    assert_allclose(clusterer.cluster_centers_, kmeans.cluster_centers_[order])
    assert_allclose(clusterer.inertia_, kmeans.inertia_)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_any_form_of_rows(blobs, dtype):
    X = blobs[0].astype(dtype)
    clusterer = fit(X)
    assert clusterer.cluster_centers_.dtype == dtype
    for form in (np.asfortranarray, memmap, sparse.csr_array):
        other = fit(form(X))
        assert other.cluster_centers_.dtype == dtype
        assert isinstance(other.cluster_centers_, np.ndarray)
        assert_centers(other, X, rtol=1e-9 if dtype == np.float64 else 1e-5)
    assert fit(X.astype(int)).cluster_centers_.dtype == np.float64


@pytest.mark.slow
def test_of_dask(blobs):
    array = pytest.importorskip("dask.array")
    X, _ = blobs
    clusterer = fit(array.from_array(X, chunks=70), max_samples=150)
    assert_centers(clusterer, X)


def test_other_methods_have_them(blobs):
    X, _ = blobs
    assert_centers(MIGDClusterer(4, random_state=0).fit(X), X)
    classifier = CollisionClassifier().fit(X, blobs[1])
    assert not hasattr(classifier, "cluster_centers_")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("offset", [0, 1e6])
def test_blocks_and_threads_change_nothing(monkeypatch, n_jobs, offset):
    rng = np.random.RandomState(0)
    X = offset + rng.normal(size=(20_000, 3))
    labels, weight = rng.randint(-1, 5, 20_000), rng.uniform(0, 3, 20_000)
    first = np.zeros(5, int)
    with joblib.parallel_config(n_jobs=n_jobs):
        centers = find_centers(X, labels, first, weight)
        again = find_centers(X, labels, first, weight)
    means, inertia = by_hand(X, labels, 5, weight)
    assert_allclose(centers.mean, means, rtol=1e-12)
    assert_allclose(centers.inertia.sum(), inertia, rtol=1e-9)
    assert_allclose(centers.weight, np.bincount(labels + 1, weight)[1:])
    for one, other in zip(centers, again, strict=True):
        assert_array_equal(one, other)
    alone = find_centers(X, labels, first, weight)
    for one, other in zip(centers, alone, strict=True):
        assert_array_equal(one, other)
    if offset == 0:
        monkeypatch.setattr(_centers, "_SPARSE_BLOCK", 3000)
        thin = find_centers(sparse.csr_array(X), labels, first, weight)
        for one, other in zip(thin, centers, strict=True):
            assert_allclose(one, other, rtol=1e-9)


def test_merged_are_those_of_both_parts(rng):
    X, labels = rng.normal(size=(50, 3)), rng.integers(3, size=50)
    first = np.zeros(4, int)
    whole = find_centers(X, labels, first)
    parts = [
        find_centers(X[rows], labels[rows], first)
        for rows in (slice(20), slice(20, 50))
    ]
    for found, expected in zip(merged(*parts), whole, strict=True):
        assert_allclose(found[:3], expected[:3])


def test_the_center_of_an_empty_cluster_is_its_likeliest_row():
    X = np.repeat([[0.0, 1.0], [5.0, 5.0]], 30, axis=0)
    for rows in (X, sparse.csr_array(X)):
        with pytest.warns(ConvergenceWarning):
            clusterer = fit(rows, n_clusters=3)
        used = np.unique(clusterer.labels_)
        (empty,) = np.setdiff1d(np.arange(3), used)
        assert len(used) == 2
        likeliest = clusterer.predict_proba(X)[:, empty].argmax()
        assert_array_equal(clusterer.cluster_centers_[empty], X[likeliest])
        assert clusterer.inertia_ < 1e-12


def test_rows_all_equal():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer = fit(np.full((50, 3), 0.1))
    assert_allclose(clusterer.cluster_centers_, 0.1)
    assert clusterer.inertia_ < 1e-20


def test_there_are_none_before_fit_and_after_cut(blobs):
    X, _ = blobs
    clusterer = CollisionClusterer("auto", random_state=0)
    for name in ("cluster_centers_", "inertia_"):
        with pytest.raises(AttributeError, match=f"{name} is available only after fit"):
            getattr(clusterer, name)
    clusterer.fit(X)
    cut = clusterer.cut(2)
    assert not hasattr(cut, "inertia_")
    with pytest.raises(AttributeError, match=r"cluster_centers_ .* after cut"):
        cut.cluster_centers_  # noqa: B018
    # As the message says.
    centers = NearestCentroid().fit(X, clusterer.labels_).centroids_
    assert_allclose(clusterer.cluster_centers_, centers)


@pytest.mark.slow
def test_there_are_none_of_images(drawings, whole, path):
    with pytest.raises(AttributeError, match="none of images"):
        whole.cluster_centers_  # noqa: B018
    whole.save(path)
    assert not hasattr(clone(whole).load(path), "inertia_")


def test_a_network_on_rows_has_them(drawings):
    X = drawings.reshape(-1, 64) / 255
    assert_centers(make(model__augment=None, max_iter=1).fit(X), X)


@pytest.mark.slow
def test_extend_counts_old_and_new_rows():
    X, y = make_blobs(400, centers=5, cluster_std=0.5, n_features=4, random_state=0)
    is_old = (y < 4) & (np.arange(400) % 2 == 0)
    old = fit(X[is_old])
    extended = old.extend(X[~is_old])
    labels = np.append(old.labels_, extended.labels_)
    centers, inertia = by_hand(
        np.r_[X[is_old], X[~is_old]], labels, extended.n_clusters_
    )
    assert extended.n_clusters_ == 5
    assert_allclose(extended.cluster_centers_, centers)
    assert_allclose(extended.inertia_, inertia)
    assert_array_equal(old.cluster_centers_, fit(X[is_old]).cluster_centers_)


@pytest.mark.slow
def test_a_stream_has_those_of_its_sample(blobs):
    X, y = blobs
    clusterer = CollisionClusterer(4, random_state=0)
    for batch in np.array_split(X, 3):
        clusterer.partial_fit(batch)
        near = KMeans(4, init=clusterer.cluster_centers_, n_init=1).fit(X)
        # Renumbered with the clusters.
        assert_array_equal(clusterer.predict(near.cluster_centers_), np.arange(4))
        assert adjusted_rand_score(y, near.labels_) == 1


@pytest.mark.slow
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_files_and_pickles_hold_them(blobs, path, form):
    X = form(blobs[0].astype(np.float32))
    clusterer = fit(X, contamination=0.1)
    clusterer.save(path)
    for other in (
        CollisionClusterer(4).load(path),
        pickle.loads(pickle.dumps(clusterer)),
        fit(X, contamination=0.1, checkpoint=path.with_name("other.npz")),
        CollisionClusterer(4).load(path.with_name("other.npz")),
    ):
        assert_array_equal(other.cluster_centers_, clusterer.cluster_centers_)
        assert other.cluster_centers_.dtype == np.float32
        assert other.inertia_ == clusterer.inertia_


def test_an_unfinished_run_has_none(blobs, path):
    with stopped_after_epochs(1):
        stopped = fit(blobs[0], checkpoint=path)
    assert_centers(stopped, blobs[0])
    assert not hasattr(CollisionClusterer(4).load(path), "cluster_centers_")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", lambda mean: mean[1:]),
        ("mean", lambda mean: mean[:, 1:]),
        ("mean", lambda mean: mean * np.nan),
        ("mean", lambda mean: mean.astype(int)),
        ("weight", lambda weight: -weight),
        ("weight", lambda weight: weight[1:]),
        ("inertia", lambda inertia: -inertia),
        ("inertia", lambda inertia: inertia[1:]),
        ("inertia", lambda inertia: None),
        ("more", lambda more: np.ones(4)),
    ],
)
def test_damaged_centers_are_an_error(blobs, path, name, change):
    fit(blobs[0]).save(path)

    def damage(record):
        record["centers"][name] = change(record["centers"].get(name))

    path.write_bytes(changed(path.read_bytes(), damage))
    with pytest.raises(ValueError, match=r"run\.npz"):
        CollisionClusterer(4).load(path)


# --- Starts -----------------------------------------------------------------


def test_kmeans_plus_plus_is_the_default(blobs):
    X, _ = blobs
    assert_array_equal(fit(X, init="k-means++").coef_, fit(X).coef_)
    assert clone(CollisionClusterer(init="k-means++")).init == "k-means++"


@pytest.mark.parametrize("n_neighbors", ["auto", 0])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_rows_without_a_start_get_that_of_the_nearest_mean(blobs, n_neighbors, form):
    X, y = blobs
    init = np.where(np.arange(300) % 3 == 0, y, -1)
    nearest = NearestCentroid().fit(X[init >= 0], init[init >= 0]).predict(X)
    nearest = np.where(init >= 0, init, nearest)
    one, two = (
        fit(form(X), init=labels, n_neighbors=n_neighbors) for labels in (init, nearest)
    )
    assert_array_equal(one.coef_, two.coef_)
    assert_array_equal(one.labels_, y)


@pytest.mark.slow
def test_labels_of_hdbscan_go_straight_in(digits):
    X, y = digits
    hdbscan = HDBSCAN(min_cluster_size=20, copy=True).fit(X)
    assert hdbscan.labels_.min() == -1
    n_clusters = hdbscan.labels_.max() + 1
    for more in ({}, {"max_samples": 1000}, {"n_neighbors": 0}):
        clusterer = CollisionClusterer(
            n_clusters, init=hdbscan.labels_, random_state=0, **more
        ).fit(X)
        assert clusterer.labels_.min() == 0
        before, after = (
            adjusted_rand_score(y, fit.labels_) for fit in (hdbscan, clusterer)
        )
        assert after > before


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (np.full(300, -1), "labels of 0 clusters, and n_clusters=4"),
        (np.arange(300) % 3, "labels of 3 clusters, and n_clusters=4"),
        (np.arange(300) % 6, "integers from 0 to 3, as n_clusters=4.* from 0 to 5"),
        (np.arange(300) % 4 - 2, "or -1 for rows without a start, got values from -2"),
    ],
)
def test_labels_must_be_those_of_the_clusters(blobs, init, message):
    with pytest.raises(ValueError, match=message):
        fit(blobs[0], init=init)


def test_the_rows_that_are_drawn_may_have_no_label(blobs):
    init = np.full(300, -1)
    init[:4] = range(4)
    with pytest.raises(ValueError, match="in the sample of max_samples rows"):
        fit(blobs[0], init=init, max_samples=5, random_state=1)


def test_images_have_no_nearest(drawings):
    with pytest.raises(
        ValueError, match=r"-1 in init need rows.* has 4 dim.*every ima"
    ):
        make(init=np.arange(200) % 5 - 1).fit(drawings)


# --- Parameters of the default model and features -----------------------------


@pytest.mark.parametrize("estimator", [CollisionClusterer(4), CollisionClassifier()])
def test_parameters_of_no_model_are_those_of_a_linear_one(estimator):
    new = clone(estimator).set_params(model__alpha=0.1)
    assert new.model.alpha == 0.1
    assert estimator.model is None
    assert clone(new).model.alpha == 0.1
    new.set_params(model__learning_rate=0.2)
    assert (new.model.alpha, new.model.learning_rate) == (0.1, 0.2)
    new.set_params(model=None, model__alpha=0.3, tol=0.1)
    assert (new.model.alpha, new.model.learning_rate, new.tol) == (0.3, 0.1, 0.1)
    assert new.set_params(model=None).model is None
    given = LinearSoftmax(alpha=1.0)
    assert new.set_params(model=given, model__learning_rate=0.5).model is given
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        clone(estimator).set_params(model__beta=1)


@pytest.mark.parametrize("estimator", [CollisionClusterer(4), CollisionClassifier()])
def test_parameters_of_default_features_are_those_of_spectral_ones(estimator, blobs):
    new = clone(estimator).set_params(features__n_components=5, random_state=0)
    assert new.features.n_components == 5
    assert estimator.features == "auto"
    X, y = blobs
    some_labels = np.where(np.arange(len(y)) < 100, y, -1)
    assert new.fit(X, some_labels).features_.n_components == 5
    assert new.set_params(features="auto").features == "auto"
    with pytest.raises(ValueError, match="Invalid parameter 'beta'"):
        new.set_params(features__beta=1)
    for other in (None, "spectrum"):
        with pytest.raises(AttributeError):
            new.set_params(features=other, features__n_components=5)


@pytest.mark.slow
def test_a_grid_search_over_them(blobs):
    X, y = blobs
    grid = {"model__alpha": [0.0, 1e-3], "model__learning_rate": [0.1, 0.05]}
    search = GridSearchCV(
        CollisionClusterer(4, random_state=0), grid, scoring="adjusted_rand_score", cv=2
    ).fit(X, y)
    assert search.best_score_ == 1
    assert search.best_estimator_.model.alpha in grid["model__alpha"]
    assert search.estimator.model is None
