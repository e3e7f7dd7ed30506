"""Rows that belong nowhere."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from skcce import CollisionClusterer
from skcce._outliers import (
    local_statistics,
    outlier_scores,
    outlier_signals,
    usual_signals,
)


def clusters(rng, n_samples=600, n_features=20):
    """Return five clusters of three dimensions each."""
    centers = rng.normal(size=(5, n_features))
    planes = 0.3 * rng.normal(size=(5, 3, n_features))
    label = rng.integers(5, size=n_samples)
    inside = np.einsum("ij,ijk->ik", rng.normal(size=(n_samples, 3)), planes[label])
    return centers[label] + inside + 0.01 * rng.normal(size=inside.shape)


def lone(rng, X):
    return X.std() * rng.normal(size=(60, X.shape[1]))


def group(rng, X):
    """Return a group of neighbors, in more dimensions than the clusters have."""
    return 3 + 0.2 * rng.normal(size=(60, X.shape[1]))


def line(rng, X):
    """Return a group of neighbors, in fewer dimensions than the clusters have."""
    ends = rng.normal(size=(2, X.shape[1]))
    return ends[0] + rng.uniform(size=(60, 1)) * (ends[1] - ends[0])


def fit(X, **parameters):
    return CollisionClusterer(5, random_state=0, tol=1, **parameters).fit(X)


@pytest.mark.parametrize("foreign", [lone, group, line])
@pytest.mark.parametrize("seed", range(2))
def test_foreign_rows_have_higher_scores(foreign, seed):
    rng = np.random.default_rng(seed)
    X = clusters(rng)
    rows = np.vstack([X, foreign(rng, X)])
    clusterer = fit(rows, contamination=0.1)
    assert (
        roc_auc_score(np.arange(len(rows)) >= len(X), clusterer.outlier_scores_) > 0.9
    )
    assert_allclose(clusterer.score_samples(rows), -clusterer.outlier_scores_)
    assert_array_equal(clusterer.predict(rows), clusterer.labels_)
    assert_allclose(np.mean(clusterer.labels_ == -1), 0.1, atol=1 / len(rows))
    # Their clusters are still known.
    assert clusterer.predict_proba(rows).shape == (len(rows), 5)


def test_new_foreign_rows_have_higher_scores():
    rng = np.random.default_rng(0)
    X = clusters(rng, 900)
    new = np.vstack([X[600:], lone(rng, X)])
    score = -fit(X[:600]).score_samples(new)
    assert roc_auc_score(np.arange(len(new)) >= 300, score) > 0.9


def test_without_contamination_every_row_has_a_cluster(blobs):
    clusterer = fit(blobs[0])
    assert clusterer.labels_.min() == 0
    assert clusterer.predict(1000 + blobs[0]).min() >= 0


def test_scores_do_not_depend_on_origin_and_unit(blobs):
    X = blobs[0]
    assert_allclose(
        fit(3 * X + 5).outlier_scores_, fit(X).outlier_scores_, rtol=1e-6, atol=1e-6
    )


def test_scores_of_samples_without_weight(blobs):
    X, weight = blobs[0], np.ones(300)
    weight[:30] = 0
    clusterer = CollisionClusterer(5, random_state=0, tol=1).fit(
        X, sample_weight=weight
    )
    assert_allclose(clusterer.score_samples(X), -clusterer.outlier_scores_)


@pytest.mark.parametrize("features", [None, "auto"])
def test_scores_need_features_and_neighbors(blobs, features):
    settings = {"features": features, "n_neighbors": 10 if features is None else 0}
    with pytest.raises(ValueError, match=r"contamination=0\.2 needs"):
        fit(blobs[0], contamination=0.2, **settings)
    clusterer = fit(blobs[0], **settings)
    assert not hasattr(clusterer, "outlier_scores_")
    with pytest.raises(AttributeError, match="score_samples"):
        clusterer.score_samples(blobs[0])


@pytest.mark.parametrize("contamination", [0, -0.1, 0.6, np.nan])
def test_bad_contamination(blobs, contamination):
    with pytest.raises(ValueError, match="contamination"):
        fit(blobs[0], contamination=contamination)


def test_local_dimension_is_that_of_the_data(rng):
    for n_dimensions in (1, 2, 4):
        rows = 10 * rng.uniform(size=(2000, n_dimensions))
        distances = NearestNeighbors(n_neighbors=20).fit(rows).kneighbors()[0]
        inverse = local_statistics(distances)[:, 1].mean()
        assert 0.75 < n_dimensions * inverse < 1.25


def test_scores_do_not_depend_on_units_of_a_signal(rng):
    signals = rng.normal(size=(100, 3))
    other = signals * [2, 3, 0.5] + [1, -1, 5]
    assert_allclose(
        outlier_scores(signals, usual_signals(signals)),
        outlier_scores(other, usual_signals(other)),
    )


def test_copies_of_one_row_are_no_outliers():
    local = local_statistics(np.zeros((50, 10)))
    signals = outlier_signals(local, local)
    assert_array_equal(outlier_scores(signals, usual_signals(signals)), 0)


def test_a_single_neighbor_is_enough():
    X = make_blobs(60, random_state=0)[0]
    scores = fit(X, n_neighbors=1).outlier_scores_
    assert np.isfinite(scores).all()
