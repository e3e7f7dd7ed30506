import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse.csgraph import connected_components
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skcce import CollisionClusterer, SpectralFeatures, _spectral
from skcce._data import TrainingData
from skcce._neighbors import find_neighbors
from skcce._spectral import leading_eigenvectors


@parametrize_with_checks([SpectralFeatures(n_components=2, n_neighbors=1)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def neighbors_of(X, n_neighbors=10, weight=None):
    return find_neighbors(TrainingData(X, weight), n_neighbors, np.random)


@pytest.fixture
def moons():
    return make_moons(400, noise=0.05, random_state=0)


@pytest.mark.parametrize("n_samples", [40, 300])
@pytest.mark.parametrize("weighted", [False, True])
def test_eigenvectors_of_the_walk(rng, n_samples, weighted):
    X = rng.normal(size=(n_samples, 2))
    weight = rng.uniform(0.5, 2, n_samples) if weighted else None
    neighbors = neighbors_of(X, 8, weight)
    values, vectors = leading_eigenvectors(neighbors.walk, neighbors.strength, 12)
    assert_allclose(neighbors.walk @ vectors, values * vectors, atol=1e-7)
    stays = neighbors.strength / neighbors.strength.sum()
    assert_allclose(neighbors.walk.T @ stays, stays)
    assert_allclose(vectors.T @ (stays[:, None] * vectors), np.eye(12), atol=1e-7)
    assert_allclose(np.ptp(vectors[:, 0]), 0, atol=1e-7)
    assert_allclose(values[0], 1)
    dense = np.sort(np.linalg.eig(neighbors.walk.toarray())[0].real)[::-1]
    assert_allclose(values, dense[:12], atol=1e-7)


@pytest.mark.parametrize("n_restarts", [15, 100])
def test_as_many_eigenvectors_of_islands(rng, monkeypatch, n_restarts):
    """Whose eigenvalues are all 1, or nearly so: Lanczos might go on forever."""
    monkeypatch.setattr(_spectral, "_N_RESTARTS", n_restarts)
    centers = rng.uniform(-10, 10, (100, 5))
    X = np.repeat(centers, 30, axis=0) + 0.1 * rng.normal(size=(3000, 5))
    neighbors = neighbors_of(X)
    values, vectors = leading_eigenvectors(neighbors.walk, neighbors.strength, 21)
    assert vectors.shape == (3000, 21)
    assert_allclose(neighbors.walk @ vectors, values * vectors, atol=1e-2)


def test_training_rows_have_the_features_of_the_fit(moons, digits):
    for X in (moons[0], digits[0], np.repeat(moons[0][:50], 30, axis=0)):
        features = SpectralFeatures(random_state=0)
        fitted = features.fit_neighbors(neighbors_of(X))
        assert_array_equal(features.transform_rows(X), fitted)
        assert_allclose(features.transform_rows(X[7:20]), fitted[7:20], atol=1e-12)
        width = X.shape[1]
        for part in (fitted[:, :width], fitted[:, width:]):
            assert_allclose(part.mean(axis=0), 0, atol=1e-9)
            assert_allclose((part**2).sum(axis=1).mean(), 1)


@pytest.mark.parametrize("n_distinct", [1, 2, 10])
def test_equal_rows_have_equal_features(n_distinct):
    X = np.repeat(np.random.default_rng(0).normal(size=(n_distinct, 3)), 40, axis=0)
    features = SpectralFeatures().fit_transform(X)
    assert len(np.unique(features, axis=0)) == n_distinct
    assert np.isfinite(features).all()


def test_number_of_features(moons):
    X = moons[0]
    assert SpectralFeatures().fit_transform(X).shape == (400, 2 + 21)
    assert SpectralFeatures(n_components=3).fit_transform(X).shape == (400, 2 + 4)
    few = SpectralFeatures(n_neighbors=5).fit(X[:30])
    assert few.transform(X).shape == (400, 2 + 10)
    assert len(few.eigenvalues_) == 10
    wide = np.random.default_rng(0).normal(size=(200, 300))
    assert SpectralFeatures(random_state=0).fit_transform(wide).shape == (200, 149)


@pytest.mark.parametrize("n_samples", [2, 3, 4, 10, 30])
def test_hardly_any_samples(rng, n_samples):
    X = rng.normal(size=(n_samples, 2))
    n_neighbors = min(10, n_samples - 1)
    features = SpectralFeatures(n_neighbors=n_neighbors).fit(X)
    assert np.isfinite(features.transform(X)).all()
    assert np.isfinite(features.transform(1e6 * X)).all()


def test_parts_that_are_not_connected_are_apart(rng):
    X = np.concatenate([rng.normal(size=(60, 2)) + 1e3 * k for k in range(6)])
    neighbors = neighbors_of(X)
    assert connected_components(neighbors.walk)[0] == 6
    features = SpectralFeatures().fit_neighbors(neighbors)[:, 2:]
    part = np.repeat(np.arange(6), 60)
    nearest = neighbors_of(features, 1).nearest[:, 0]
    assert_array_equal(part[nearest], part)


def test_unit_and_origin_do_not_matter(moons):
    X = moons[0]
    expected = SpectralFeatures().fit_transform(X)
    assert_array_equal(SpectralFeatures().fit_transform(4.0 * X), expected)
    moved = SpectralFeatures().fit(X + 10.0)
    squares = (expected**2).sum(axis=1)
    assert_allclose((moved.transform(X + 10.0) ** 2).sum(axis=1), squares, rtol=1e-6)


def test_layout_and_dtype_of_the_array(moons):
    X = moons[0]
    expected = SpectralFeatures().fit(X)
    read_only = X.copy()
    read_only.flags.writeable = False
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    for array in (read_only, wide, np.asfortranarray(X), X.tolist()):
        assert_allclose(
            SpectralFeatures().fit_transform(array), expected.transform(X), atol=1e-12
        )
    single = X.astype(np.float32)
    assert SpectralFeatures().fit_transform(single).dtype == np.float32
    assert_allclose(expected.transform(single), expected.transform(X), atol=1e-4)


def test_constant_features_and_a_single_one(moons):
    X = moons[0]
    expected = SpectralFeatures().fit_transform(X)
    constant = SpectralFeatures().fit_transform(np.c_[X, np.full((400, 2), 7.0)])
    assert_allclose(constant[:, 4:], expected[:, 2:], atol=1e-9)
    assert np.isfinite(SpectralFeatures().fit_transform(X[:, :1])).all()


def test_same_bits_again_and_from_a_state(moons):
    X = moons[0]
    features = SpectralFeatures(random_state=0).fit(X)
    expected = features.transform(X)
    assert_array_equal(clone(features).fit_transform(X), expected)
    other = SpectralFeatures().set_state(features.get_state())
    assert_array_equal(other.transform_rows(X), expected)


def test_no_global_seed(rng):
    wide = rng.normal(size=(200, 300))
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state(legacy=True)[1].copy()  # noqa: NPY002
    SpectralFeatures(random_state=0).fit(wide).transform(wide)
    assert_array_equal(np.random.get_state(legacy=True)[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_neighbors": 0}, "n_neighbors"),
        ({"n_neighbors": 400}, "n_neighbors=400 must be smaller than n_samples=400"),
        ({"random_state": "x"}, "random_state"),
    ],
)
def test_bad_input_is_named(moons, parameters, message):
    with pytest.raises(ValueError, match=message):
        SpectralFeatures(**parameters).fit(moons[0])


# --- In a clusterer ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_clusters_of_any_shape(seed):
    """Equal sizes alone would be had by a straight line, too."""
    for X, y in (
        make_moons(400, noise=0.05, random_state=seed),
        make_circles(400, noise=0.04, factor=0.5, random_state=seed),
    ):
        clusterer = CollisionClusterer(2, random_state=seed).fit(X)
        assert adjusted_rand_score(y, clusterer.labels_) == 1
        assert_array_equal(clusterer.predict(X), clusterer.labels_)
        straight = CollisionClusterer(2, n_neighbors=0, random_state=seed).fit(X)
        assert adjusted_rand_score(y, straight.labels_) < 0.9


@pytest.mark.parametrize("n_clusters", [3, "auto"])
def test_new_rows_are_where_a_fit_with_them_has_them(n_clusters):
    centers = [[0, 0], [10, 0], [0, 10]]
    X, _ = make_blobs(600, centers=centers, random_state=0)
    assert_same_with_and_without(X, n_clusters)
    if n_clusters != "auto":
        assert_same_with_and_without(make_moons(600, noise=0.05, random_state=0)[0], 2)


def assert_same_with_and_without(X, n_clusters):
    new = np.arange(len(X)) % 3 == 0
    part = CollisionClusterer(n_clusters, random_state=0).fit(X[~new])
    whole = CollisionClusterer(n_clusters, random_state=0).fit(X)
    assert part.n_clusters_ == whole.n_clusters_
    assert adjusted_rand_score(part.predict(X[new]), whole.labels_[new]) > 0.98
