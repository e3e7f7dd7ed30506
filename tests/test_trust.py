"""Whether neighbors know anything of clusters."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import pairwise_distances

from skcce import CollisionClusterer
from skcce._trust import _share_parted, separation_ratio


def ratio(rows, n_clusters=5, seed=0):
    return separation_ratio(rows, n_clusters, 10, np.random.RandomState(seed))


@pytest.mark.parametrize("n_features", [2, 10, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cloud_is_like_the_cloud(rng, n_features, dtype):
    mixing = rng.normal(size=(n_features, n_features))
    rows = (rng.normal(size=(800, n_features)) @ mixing + 3).astype(dtype)
    # In the plane, k-means finds cells of quite different borders.
    assert_allclose(ratio(rows), 1, atol=0.35 if n_features == 2 else 0.1)


def test_clusters_apart_are_not(rng):
    rows = 8 * np.eye(5)[rng.integers(5, size=500)] + rng.normal(size=(500, 5))
    assert ratio(rows) < 0.05


def test_noise_drowns_clusters(rng):
    X = load_digits().data
    noise = X.std() * rng.normal(size=X.shape)
    ratios = [ratio(X + amount * noise, 10) for amount in (0, 1, 3)]
    assert ratios == sorted(ratios)
    assert ratios[0] < 0.4
    assert ratios[2] > 0.8


def test_against_its_definition(rng):
    points = rng.normal(size=(90, 3))
    kmeans = KMeans(4, n_init=1, random_state=np.random.RandomState(3))
    labels = kmeans.fit_predict(points)
    distance = pairwise_distances(points)
    np.fill_diagonal(distance, np.inf)
    differ = labels[:, None] != labels
    parted = np.take_along_axis(differ, distance.argsort(axis=1)[:, :6], axis=1)
    found = _share_parted(points, 4, 6, np.random.RandomState(3))
    assert_allclose(found, parted.mean() / differ.mean())


def test_unit_and_origin_do_not_matter(rng):
    rows = 3 * np.eye(5)[rng.integers(5, size=400)] + rng.normal(size=(400, 5))
    assert_allclose(ratio(4 * rows), ratio(rows))
    assert_allclose(ratio(rows + 10), ratio(rows))


def test_a_sample_says_the_same(rng):
    rows = 3 * np.eye(5)[rng.integers(5, size=5000)] + rng.normal(size=(5000, 5))
    assert_allclose(ratio(rows), ratio(rows[:2500]), atol=0.05)


def test_the_seed_decides(rng):
    rows = rng.normal(size=(300, 4))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert ratio(rows, seed=1) == ratio(rows, seed=1)
    assert ratio(rows, seed=1) != ratio(rows, seed=2)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_equal_rows_tell_nothing():
    assert ratio(np.ones((50, 3)), 2) == 1


@pytest.mark.slow
def test_a_fit_leaves_out_neighbors_that_mislead(rng):
    noise = rng.normal(size=(600, 50))
    clusterer = CollisionClusterer(4, random_state=0, tol=1)
    assert clusterer.fit(noise).features_ is None
    assert clusterer.set_params(n_neighbors=10).fit(noise).features_ is not None
    X = make_blobs(600, 50, centers=4, random_state=0)[0]
    assert clusterer.set_params(n_neighbors="auto").fit(X).features_ is not None
