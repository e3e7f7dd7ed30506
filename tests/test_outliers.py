"""Rows that belong nowhere."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from skcce._neighbors import neighbor_graph, smooth
from skcce._outliers import (
    isolation,
    local_statistics,
    outlier_scores,
    outlier_signals,
    outlier_threshold,
    usual_signals,
)


def _unit(rows):
    rows = rows - rows.mean(axis=0)
    return rows / np.sqrt((rows**2).sum(axis=1).mean())


def _clusters(rng, n_samples=600, n_features=20):
    """Return five clusters of three dimensions each."""
    centers = rng.normal(size=(5, n_features))
    planes = 0.3 * rng.normal(size=(5, 3, n_features))
    label = rng.integers(5, size=n_samples)
    inside = np.einsum("ij,ijk->ik", rng.normal(size=(n_samples, 3)), planes[label])
    return centers[label] + inside + 0.01 * rng.normal(size=inside.shape)


def _fitted(rows):
    search = NearestNeighbors(n_neighbors=10).fit(rows)
    local = local_statistics(search.kneighbors()[0])
    around = smooth(neighbor_graph(rows, 10), local)
    signals = outlier_signals(local, around)
    return search, around, signals, usual_signals(signals)


def _lone(rng, X):
    return X.std() * rng.normal(size=(60, X.shape[1]))


def _group(rng, X):
    """Return a group of neighbors, in more dimensions than the clusters have."""
    return 3 + 0.2 * rng.normal(size=(60, X.shape[1]))


def _line(rng, X):
    """Return a group of neighbors, in fewer dimensions than the clusters have."""
    ends = rng.normal(size=(2, X.shape[1]))
    return ends[0] + rng.uniform(size=(60, 1)) * (ends[1] - ends[0])


@pytest.mark.parametrize("foreign", [_lone, _group, _line])
@pytest.mark.parametrize("seed", range(3))
def test_foreign_rows_have_higher_scores(foreign, seed):
    rng = np.random.default_rng(seed)
    X = _clusters(rng)
    rows = _unit(np.vstack([X, foreign(rng, X)]))
    _, _, signals, usual = _fitted(rows)
    scores = outlier_scores(signals, usual)
    assert roc_auc_score(np.arange(len(rows)) >= len(X), scores) > 0.9


def test_new_foreign_rows_have_higher_scores():
    rng = np.random.default_rng(0)
    X = _clusters(rng, 900)
    rows = _unit(np.vstack([X, _lone(rng, X)]))
    train, new = rows[:600], rows[600:]
    search, around, _, usual = _fitted(train)
    distances, neighbors = search.kneighbors(new)
    signals = outlier_signals(
        local_statistics(distances), around[neighbors].mean(axis=1)
    )
    scores = outlier_scores(signals, usual)
    assert roc_auc_score(np.arange(len(new)) >= 300, scores) > 0.9


def test_local_dimension_is_that_of_the_data():
    rng = np.random.default_rng(0)
    for n_dimensions in (1, 2, 4):
        rows = _unit(rng.uniform(size=(2000, n_dimensions)))
        distances = NearestNeighbors(n_neighbors=20).fit(rows).kneighbors()[0]
        inverse = local_statistics(distances)[:, 1].mean()
        assert 0.8 < n_dimensions * inverse < 1.25


def test_isolation_finds_the_small_group():
    # The eigenvector of a walk between two groups, of mean square 1.
    group = np.repeat([0, 1], [90, 10])
    vector = np.where(group == 0, -1, 9) / 3.0
    assert_allclose([(vector**2).mean(), vector.mean()], [1, 0], atol=1e-12)
    score = isolation(vector[:, None], np.array([0.99]))
    assert score[group == 1].min() > score[group == 0].max()


def test_scores_do_not_depend_on_units_of_a_signal():
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(100, 4))
    other = signals * [2, 3, 0.5, 10] + [1, -1, 5, 0]
    assert_allclose(
        outlier_scores(signals, usual_signals(signals)),
        outlier_scores(other, usual_signals(other)),
    )


def test_copies_of_one_row_are_no_outliers():
    local = local_statistics(np.zeros((50, 10)))
    signals = outlier_signals(local, local)
    assert_array_equal(outlier_scores(signals, usual_signals(signals)), 0)


def test_threshold_leaves_the_share_above():
    scores = np.random.default_rng(0).permutation(1000).astype(float)
    for contamination in (0.01, 0.1, 0.5):
        above = scores > outlier_threshold(scores, contamination)
        assert above.sum() == 1000 * contamination


@pytest.mark.parametrize("contamination", [0, -0.1, 0.6, np.nan])
def test_bad_contamination(contamination):
    with pytest.raises(ValueError, match=r"contamination=.*\(0, 0.5\]"):
        outlier_threshold(np.arange(5.0), contamination)


def test_one_neighbor_is_too_few():
    with pytest.raises(ValueError, match="n_neighbors >= 2"):
        local_statistics(np.ones((5, 1)))
