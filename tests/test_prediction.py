"""Predictions block by block, and the most probable clusters."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError

import skcce._estimator
from skcce import CollisionClassifier, CollisionClusterer
from skcce._blocks import fill
from skcce._scaling import BLOCK

METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
)
KINDS = {
    "rows as they are": {"features": None},
    "spectral": {},
    "outliers": {"contamination": 0.05},
    "joined": {"prior": "learn"},
}


def rows(n_samples, dtype=np.float64):
    centers = np.random.default_rng(0).uniform(-8, 8, size=(4, 6))
    X, y = make_blobs(n_samples, centers=centers, cluster_std=3, random_state=0)
    return X.astype(dtype), y


@pytest.fixture(scope="module", params=KINDS)
def clusterer(request):
    parameters = KINDS[request.param]
    clusterer = CollisionClusterer(4, n_init=1, tol=1, random_state=0, **parameters)
    return clusterer.fit(rows(400)[0])


def named(seed=0):
    """Return rows, and the names of a few of them."""
    X, y = rows(300)
    is_known = np.random.default_rng(seed).random(300) < 0.1
    return X, np.where(is_known, np.array(list("abcd"))[y], "-1")


@pytest.fixture(scope="module")
def classifier():
    return CollisionClassifier(features=None, tol=1, random_state=0).fit(*named())


def results(estimator, X):
    names = [name for name in METHODS if hasattr(estimator, name)]
    whole = {name: getattr(estimator, name)(X) for name in names}
    whole["labels"], whole["largest"] = estimator.predict_topk(X, 2)
    return whole


def small_blocks(monkeypatch):
    for name in ("BLOCK", "_ROWS_TO_LOOK_UP"):
        monkeypatch.setattr(skcce._estimator, name, 64)


def test_fill_puts_blocks_together():
    parts = [
        (slice(0, 2), [np.array([1, 2]), np.ones((2, 3), np.float32)]),
        (slice(2, 3), [np.array([3]), np.zeros((1, 3), np.float32)]),
    ]
    numbers, table = fill(3, iter(parts))
    assert_array_equal(numbers, [1, 2, 3])
    assert_array_equal(table, [[1] * 3, [1] * 3, [0] * 3])
    assert table.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_do_not_matter(clusterer, dtype, monkeypatch):
    X = rows(700, dtype)[0]
    expected = results(clusterer, X)
    score = clusterer.score(X)
    small_blocks(monkeypatch)
    for name, values in results(clusterer, X).items():
        assert values.dtype == expected[name].dtype
        assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert_allclose(clusterer.score(X), score, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_number_of_rows_does_not_matter(clusterer, dtype):
    X = rows(BLOCK + 10, dtype)[0]
    proba = clusterer.predict_proba(X)
    for i in (0, 100, BLOCK - 1, BLOCK, BLOCK + 9):
        alone = clusterer.predict_proba(X[i : i + 1])
        assert_allclose(alone, proba[i : i + 1], atol=1e-6)


def test_blocks_of_a_classifier(classifier, monkeypatch):
    X = named()[0]
    expected = results(classifier, X)
    small_blocks(monkeypatch)
    for name, values in results(classifier, X).items():
        if values.dtype.kind == "f":
            assert_allclose(values, expected[name], atol=1e-9)
        else:
            assert_array_equal(values, expected[name])


def test_score_of_weighted_blocks(clusterer, monkeypatch):
    X = rows(300)[0]
    weight = np.random.default_rng(0).uniform(size=300)
    proba = clusterer.predict_proba(X)
    entropy = np.average(entr(proba).sum(axis=1), weights=weight)
    usage = np.average(proba, axis=0, weights=weight)
    small_blocks(monkeypatch)
    score = clusterer.score(X, sample_weight=weight)
    assert_allclose(score, entr(usage).sum() - entropy)
    with pytest.raises(ValueError, match=r"must have shape \(300,\)"):
        clusterer.score(X, sample_weight=weight[:-1])


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint8])
def test_a_memory_map_is_read_block_by_block(tmp_path, dtype):
    n_samples, n_features = 50 * BLOCK, 16
    path = tmp_path / "rows.npy"
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(
        path, mode="w+", dtype=dtype, shape=(n_samples, n_features)
    )
    X[:] = rng.integers(10, size=X.shape)
    X.flush()
    X = np.load(path, mmap_mode="r")
    clusterer = CollisionClusterer(
        8, features=None, n_neighbors=0, init="random", n_init=1, tol=1, random_state=0
    ).fit(X[:200])
    beside = {
        "predict": lambda: clusterer.predict(X).nbytes,
        "predict_proba": lambda: clusterer.predict_proba(X).nbytes,
        "predict_topk": lambda: sum(a.nbytes for a in clusterer.predict_topk(X, 2)),
        "score": lambda: 0 * clusterer.score(X),
    }
    for name, size_of_result in beside.items():
        tracemalloc.start()
        n_bytes = size_of_result()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # A few arrays of a block, not of all 50: neither the rows nor their logits.
        assert peak - n_bytes < 8 * BLOCK * n_features * 8, name
    assert_array_equal(clusterer.predict(X)[-5:], clusterer.predict(X[-5:]))


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int64, bool, ">f4", object])
def test_other_numbers_are_as_float64(clusterer, dtype):
    X = np.abs(rows(50)[0]).astype(dtype)
    expected = results(clusterer, X.astype(np.float64))
    for name, values in results(clusterer, X).items():
        assert values.dtype == expected[name].dtype
        assert_array_equal(values, expected[name])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_found_in_any_block(clusterer, dtype, value):
    X = rows(BLOCK + 3, dtype)[0]
    X[-1, 2] = value
    name = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=f"Input X contains {name}"):
        clusterer.predict(X)


def test_bad_rows(clusterer):
    X = rows(20)[0]
    with pytest.raises(ValueError, match="X has 5 features, but"):
        clusterer.predict(X[:, :5])
    with pytest.raises(ValueError, match="0 sample"):
        clusterer.predict_proba(X[:0])
    with pytest.raises(ValueError, match="dim 3"):
        clusterer.score(X.reshape(5, 4, 6))


def test_table_with_names():
    X = pd.DataFrame(rows(100)[0], columns=list("abcdef"))
    clusterer = CollisionClusterer(4, tol=1, n_init=1, random_state=0).fit(X)
    assert_array_equal(clusterer.predict(X), clusterer.labels_)
    with pytest.raises(ValueError, match="feature names"):
        clusterer.predict(X[list("bacdef")])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_most_probable_clusters(clusterer, k):
    X = rows(100)[0]
    labels, proba = clusterer.predict_topk(X, k)
    assert labels.shape == proba.shape == (100, k)
    everything = clusterer.predict_proba(X)
    expected = np.argsort(-clusterer.decision_function(X), axis=1, kind="stable")
    assert_array_equal(labels, expected[:, :k])
    assert_array_equal(proba, np.take_along_axis(everything, labels, axis=1))


def test_most_probable_classes(classifier):
    X = named()[0]
    labels, proba = classifier.predict_topk(X, np.int64(3))
    assert_array_equal(labels[:, 0], classifier.predict(X))
    numbers = np.searchsorted(classifier.classes_, labels)
    everything = classifier.predict_proba(X)
    assert_array_equal(proba, np.take_along_axis(everything, numbers, axis=1))


def test_of_equal_clusters_the_first_is_first(clusterer):
    X = rows(3)[0]
    equal = clusterer.decision_function(X)
    equal[:, [1, 3]] = 1e3
    equal[:, [0, 2]] = -1e3
    assert_array_equal(skcce._estimator._largest(equal, 4), [[1, 3, 0, 2]] * 3)


@pytest.mark.parametrize("k", [0, -1, 5, 1.0, True, "2", None])
def test_bad_k(clusterer, k):
    with pytest.raises(ValueError, match=rf"k={k!r} must be an integer from 1 to n_cl"):
        clusterer.predict_topk(rows(5)[0], k)


def test_not_fitted():
    with pytest.raises(NotFittedError):
        CollisionClusterer(3).predict_topk(rows(5)[0], 1)
    with pytest.raises(NotFittedError):
        CollisionClusterer(3).predict(rows(5)[0])
