"""Sparse rows: the clusters of dense ones, and nothing dense on the way."""

import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from sklearn.utils import ClassifierTags, estimator_checks
from torch import nn

from skcce import (
    CollisionClassifier,
    CollisionClusterer,
    LinearSoftmax,
    SpectralFeatures,
)
from skcce._neighbors import principal_projection
from skcce._scaling import row_scale, standardize
from skcce.deep import DeepSoftmax, TorchLinearSoftmax
from skcce.methods import IMSATClusterer, SCANClusterer
from skcce.model_selection import probe_accuracy, rows_to_label

pytestmark = pytest.mark.filterwarnings("ignore:More than tol")

RAW = {"features": None, "n_neighbors": 0}


@pytest.fixture(scope="module")
def blobs():
    """Return rows of which two thirds of the entries are zeros, and their classes."""
    X, y = make_blobs(300, n_features=12, centers=4, random_state=0)
    X[np.random.RandomState(0).random_sample(X.shape) < 0.6] = 0
    return X, y


@pytest.fixture(scope="module")
def texts():
    """Return texts of 4 topics, whose words nobody else has, and common words."""
    rng = np.random.RandomState(0)
    common = [f"common{i}" for i in range(30)]
    topics = [[f"topic{k}word{i}" for i in range(150)] for k in range(4)]
    y = rng.randint(4, size=600)
    lengths = rng.randint(3, 12, size=(600, 2))
    rows = [
        " ".join([*rng.choice(topics[k], a), *rng.choice(common, b)])
        for k, (a, b) in zip(y, lengths, strict=True)
    ]
    return rows, y


@pytest.fixture(scope="module")
def tfidf(texts):
    return sparse.csr_array(TfidfVectorizer().fit_transform(texts[0])), texts[1]


def fit(X, **parameters):
    return CollisionClusterer(4, random_state=0).set_params(**parameters).fit(X)


# --- scikit-learn's checks --------------------------------------------------


class Classifying(CollisionClusterer):
    """A clusterer with the tag that scikit-learn expects of any predict_proba."""

    def __init__(self, n_clusters=4, random_state=None):
        super().__init__(n_clusters, random_state=random_state)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags = ClassifierTags()
        return tags


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_scikit_learn_checks_that_expect_a_classifier(kind):
    check = getattr(estimator_checks, f"check_estimator_sparse_{kind}")
    check("Classifying", Classifying())


def test_tags():
    assert CollisionClusterer().__sklearn_tags__().input_tags.sparse
    assert CollisionClassifier().__sklearn_tags__().input_tags.sparse
    assert SpectralFeatures().__sklearn_tags__().input_tags.sparse
    deep = CollisionClusterer(model=DeepSoftmax(nn.Identity))
    assert not deep.__sklearn_tags__().input_tags.sparse


# --- The same as dense rows -------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"n_neighbors": 0},
        {"features": None},
        RAW,
        {"model": LinearSoftmax(alpha=0.01), **RAW},
        {"model": LinearSoftmax(optimizer="lbfgs"), **RAW, "n_init": 2},
        {"init": "random", **RAW},
        {"max_samples": 150, **RAW},
        {"max_samples": 150},
        {"n_clusters": "auto"},
        {"contamination": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_fit(blobs, parameters, dtype):
    X = blobs[0].astype(dtype)
    weight = np.random.RandomState(0).randint(3, size=len(X))
    for sample_weight in (None, weight):
        dense, thin = (
            CollisionClusterer(4, random_state=0)
            .set_params(**parameters)
            .fit(rows, sample_weight=sample_weight)
            for rows in (X, sparse.csr_array(X))
        )
        if dtype == np.float64:  # in float32, rounding grows in the epochs
            assert_allclose(thin.loss_, dense.loss_, rtol=1e-5)
            assert_array_equal(thin.labels_, dense.labels_)
        assert adjusted_rand_score(thin.labels_, dense.labels_) > 0.95
        assert thin.predict_proba(X).dtype == dtype
        for fitted in (dense, thin):
            assert_allclose(
                fitted.predict_proba(X),
                fitted.predict_proba(sparse.csr_array(X)),
                atol=1e-6 if dtype == np.float64 else 1e-3,
            )


@pytest.mark.slow
def test_same_clusters_of_many_features(tfidf):
    X, y = tfidf
    thin, dense = fit(X), fit(X.toarray())
    assert adjusted_rand_score(y, thin.labels_) > 0.9
    assert adjusted_rand_score(y, dense.labels_) > 0.9
    assert_array_equal(thin.predict(X.toarray()), thin.predict(X))


def test_same_clusters_of_more_features_than_rows(blobs):
    X = np.hstack([blobs[0][:100], np.zeros((100, 300))])
    thin, dense = fit(sparse.csr_array(X)), fit(X)
    assert_allclose(thin.loss_, dense.loss_, rtol=1e-5)
    assert_array_equal(thin.labels_, dense.labels_)


@pytest.mark.parametrize("part", [0.1, 1])
def test_same_classifier(blobs, part):
    X, y = blobs
    known = np.where(np.random.RandomState(0).random_sample(len(y)) < part, y, -1)
    thin, dense = (
        CollisionClassifier(random_state=0).fit(rows, known)
        for rows in (sparse.csr_array(X), X)
    )
    assert_allclose(thin.loss_, dense.loss_, rtol=1e-5, atol=1e-7)
    assert_array_equal(thin.predict(sparse.csr_array(X)), dense.predict(X))


def test_all_labels_are_those_of_logistic_regression(tfidf):
    X, y = tfidf
    ours = CollisionClassifier(
        model=LinearSoftmax(alpha=1e-2, optimizer="lbfgs"), random_state=0
    ).fit(X, y)
    # Our penalty refers to rows in units of their scale.
    strength = 1 / (1e-2 * X.shape[0] * ours.model_._scale**2)
    theirs = LogisticRegression(C=strength, tol=1e-9, max_iter=2000).fit(X, y)
    assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("method", [SCANClusterer, IMSATClusterer])
def test_methods_with_views(blobs, method):
    X, _ = blobs
    thin, dense = (
        method(4, n_init=1, max_iter=3, random_state=0).fit(rows)
        for rows in (sparse.csr_array(X), X)
    )
    assert_allclose(thin.loss_, dense.loss_, rtol=1e-5)


def test_neighbors_as_views_of_sparse_rows(blobs):
    X, _ = blobs
    thin, dense = (
        SCANClusterer(4, features=None, n_init=1, max_iter=3, random_state=0).fit(rows)
        for rows in (sparse.csr_array(X), X)
    )
    assert_allclose(thin.loss_, dense.loss_, rtol=1e-5)


def test_features(blobs, tfidf):
    X, _ = blobs
    thin, dense = (
        SpectralFeatures(5, random_state=0).fit(rows)
        for rows in (sparse.csr_array(X), X)
    )
    assert_allclose(thin.transform(X), dense.transform(sparse.csr_array(X)), atol=1e-6)
    wide, _ = tfidf
    features = SpectralFeatures(5, random_state=0).fit(wide)
    assert features.transform(wide).shape == (600, 128 + 6)


def test_extend(tfidf):
    X, y = tfidf
    old = CollisionClusterer(3, random_state=0).fit(X[y < 3])
    thin, dense = (old.extend(rows) for rows in (X[y == 3], X[y == 3].toarray()))
    assert_array_equal(thin.labels_, dense.labels_)
    assert_allclose(thin.predict_proba(X), dense.predict_proba(X), atol=1e-6)


def test_centroids_as_init(blobs):
    X, y = blobs
    centers = np.array([X[y == k].mean(axis=0) for k in range(4)])
    thin, dense = (fit(rows, init=centers) for rows in (sparse.csr_array(X), X))
    assert_array_equal(thin.labels_, dense.labels_)


@pytest.mark.slow
def test_scorers(tfidf):
    X, _ = tfidf
    for parameters in ({}, RAW):
        clusterer = fit(X, **parameters)
        assert probe_accuracy(clusterer, X) > 0.8
        assert len(set(rows_to_label(clusterer, X, 20))) == 20


# --- Any sparse form --------------------------------------------------------


def with_duplicates(X):
    """Return the same rows with every entry in two parts, and unsorted."""
    rows = X.tocoo()
    order = np.random.RandomState(0).permutation(2 * rows.nnz)
    row, column = (np.tile(part, 2)[order] for part in rows.coords)
    indptr = np.append(0, np.bincount(row, minlength=X.shape[0]).cumsum())
    data = np.tile(rows.data / 2, 2)[order]
    by_row = np.argsort(row, kind="stable")
    return sparse.csr_array((data[by_row], column[by_row], indptr), shape=X.shape)


def with_long_indices(X):
    rows = X.copy()
    rows.indices = rows.indices.astype(np.int64)
    rows.indptr = rows.indptr.astype(np.int64)
    return rows


def with_zeros(X):
    """Return the same rows, of which all entries are stored."""
    n, d = X.shape
    return sparse.csr_array(
        (X.toarray().ravel(), np.tile(np.arange(d), n), np.arange(0, n * d + 1, d)),
        shape=X.shape,
    )


def read_only(X):
    rows = X.copy()
    for part in (rows.data, rows.indices, rows.indptr):
        part.flags.writeable = False
    return rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_array,
        sparse.coo_array,
        sparse.lil_array,
        sparse.dok_array,
        sparse.bsr_array,
        with_duplicates,
        with_long_indices,
        with_zeros,
        read_only,
    ],
)
@pytest.mark.parametrize("parameters", [{}, RAW], ids=str)
def test_forms(blobs, form, parameters):
    X = sparse.csr_array(blobs[0])
    given = form(X)
    parts = ("data", "indices", "indptr")
    is_csr = given.format == "csr"
    before = [getattr(given, part).copy() for part in parts] if is_csr else []
    found, expected = fit(given, **parameters), fit(X, **parameters)
    assert_allclose(found.loss_, expected.loss_, rtol=1e-6)
    assert_array_equal(found.predict(given), expected.predict(X))
    for part, old in zip(parts, before, strict=bool(before)):
        assert_array_equal(getattr(given, part), old)


def test_integers(blobs):
    X = sparse.csr_array(blobs[0]).astype(np.int64)
    assert fit(X).predict_proba(X).dtype == np.float64


@pytest.mark.slow
@pytest.mark.parametrize("parameters", [{}, RAW], ids=str)
def test_rows_of_zeros(tfidf, parameters):
    X, y = tfidf
    empty = sparse.csr_array((10, X.shape[1]))
    rows = sparse.vstack([X, empty], format="csr")
    clusterer = fit(rows, **parameters)
    assert np.isfinite(clusterer.loss_)
    assert len(set(clusterer.labels_[600:])) == 1
    assert adjusted_rand_score(y, clusterer.labels_[:600]) > 0.8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_features", [3, 500])
def test_nothing_but_zeros(n_features):
    X = sparse.csr_array((200, n_features))
    assert np.isfinite(fit(X, n_clusters=2).loss_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_copies_of_one_row(tfidf):
    X = tfidf[0][np.zeros(300, dtype=int)]
    assert np.isfinite(fit(X, n_clusters=2).loss_)


def test_columns_that_the_fit_has_not_seen(tfidf):
    X, _ = tfidf
    columns = np.unique(X[:200].indices)
    clusterer = fit(X[:200])
    other = X[200:].tolil()
    other[:, np.setdiff1d(np.arange(X.shape[1]), columns)] = 0
    assert_array_equal(clusterer.predict(X[200:]), clusterer.predict(other))


# --- Lengths ----------------------------------------------------------------


@pytest.mark.slow
def test_rows_of_one_length_keep_it(tfidf):
    X, _ = tfidf
    noise = sparse.random_array(
        (800, 3000), density=0.004, random_state=np.random.default_rng(0), format="csr"
    )
    for rows, is_kept in ((normalize(noise), True), (noise, False), (X, None)):
        for form in (rows, rows.toarray()):
            projection = principal_projection(form, np.random.RandomState(0))
            if is_kept is not None:
                assert projection.of_one_length == is_kept
            projected = projection(form)
            assert projected.shape == (rows.shape[0], 128)
            if projection.of_one_length:
                assert_allclose(np.linalg.norm(projected, axis=1), 1)
    few = np.random.RandomState(0).normal(size=(500, 3)) @ np.eye(3, 200)
    assert not principal_projection(
        normalize(few), np.random.RandomState(0)
    ).of_one_length


@pytest.mark.parametrize("factor", [1e-150, 1, 1e150])
@pytest.mark.parametrize("shift", [0, 3])
def test_row_scale(factor, shift):
    X = sparse.random_array(
        (300, 20), density=0.3, random_state=np.random.default_rng(0)
    )
    X = (X.toarray() + shift) * factor
    weight = np.random.RandomState(0).random_sample(300)
    weight /= weight.mean()
    for one in (None, weight):
        mean, scale = row_scale(X, one)
        thin_mean, thin_scale = row_scale(sparse.csr_array(X), one)
        assert_allclose(thin_mean, mean, rtol=1e-12)
        assert_allclose(thin_scale, scale, rtol=1e-12)


def test_products_of_standardized_rows():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(30, 7)) * (rng.random_sample((30, 7)) < 0.4)
    mean, scale = row_scale(X)
    rows = standardize(X, mean, scale)
    thin = standardize(sparse.csr_array(X), mean, scale)
    right, left = rng.normal(size=(7, 3)), rng.normal(size=(3, 30))
    assert_allclose(thin @ right, rows @ right, atol=1e-12)
    assert_allclose(left @ thin, left @ rows, atol=1e-12)
    assert (thin.astype(np.float32) @ right.astype(np.float32)).dtype == np.float32


# --- Memory -----------------------------------------------------------------


@pytest.mark.parametrize("parameters", [{}, RAW], ids=str)
def test_no_dense_copy(texts, parameters):
    X = HashingVectorizer(n_features=2**17).fit_transform(texts[0])
    dense = 8 * X.shape[0] * X.shape[1]
    tracemalloc.start()
    try:
        clusterer = fit(X, max_iter=2, n_init=1, **parameters)
        clusterer.predict(X)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < dense / 4


# --- Errors -----------------------------------------------------------------


def test_networks_take_no_sparse_rows(blobs):
    X = sparse.csr_array(blobs[0])
    with pytest.raises(TypeError, match=r"and a DeepSoftmax takes.*TruncatedSVD"):
        fit(X, model=DeepSoftmax(nn.Identity))
    with pytest.raises(TypeError, match=r"and a TorchLinearSoftmax.*TruncatedSVD"):
        CollisionClassifier(model=TorchLinearSoftmax(device="cpu")).fit(X, blobs[1])
    network = DeepSoftmax(nn.Identity, augment=None)
    fitted = fit(blobs[0], model=network, max_iter=1)
    with pytest.raises(TypeError, match=r"and a DeepSoftmax takes.*TruncatedSVD"):
        fitted.predict(X)


def test_streams_take_no_sparse_rows(blobs):
    with pytest.raises(TypeError, match=r"partial_fit takes dense rows.*TruncatedSVD"):
        CollisionClusterer(4).partial_fit(sparse.csr_array(blobs[0]))


def test_a_start_without_a_row_is_a_random_one(blobs):
    X, _ = blobs
    init = np.r_[X[:3], [np.full(12, 1e3)]]
    one, two = (fit(rows, init=init, **RAW) for rows in (X, sparse.csr_array(X)))
    assert_array_equal(one.labels_, two.labels_)
    assert_allclose(one.coef_, two.coef_, rtol=1e-6, atol=1e-9)


def test_adversarial_views_of_sparse_rows(blobs):
    X = sparse.csr_array(blobs[0])
    with pytest.raises(ValueError, match=r"would become dense.*TruncatedSVD"):
        IMSATClusterer(4, features=None).fit(X)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_entries_that_are_not_finite(blobs, bad):
    X = sparse.csr_array(blobs[0])
    clusterer = fit(X)
    broken = X.copy()
    broken.data[3] = bad
    labels = clusterer.labels_
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clusterer.fit(broken)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        clusterer.predict(broken)
    assert clusterer.labels_ is labels


def test_entries_that_are_too_large(blobs):
    X = sparse.csr_array(blobs[0].astype(np.float32))
    X.data[:] = np.finfo(np.float32).max
    with pytest.raises(ValueError, match="Divide X by a number"):
        fit(X)


def test_another_number_of_features(blobs):
    X = sparse.csr_array(blobs[0])
    with pytest.raises(ValueError, match="features"):
        fit(X).predict(X[:, :5])


# --- Files ------------------------------------------------------------------


@pytest.mark.slow
def test_saved_and_loaded(tfidf, tmp_path):
    X, _ = tfidf
    noise = normalize(
        sparse.random_array(
            (600, 5000),
            density=0.004,
            random_state=np.random.default_rng(0),
            format="csr",
        )
    )
    for rows in (X, noise, X[:100]):
        clusterer = fit(rows)
        clusterer.save(tmp_path / "model.npz")
        loaded = CollisionClusterer(4).load(tmp_path / "model.npz")
        assert_array_equal(loaded.predict_proba(rows), clusterer.predict_proba(rows))


@pytest.mark.slow
def test_checkpoint_knows_its_rows(tfidf, tmp_path):
    X, _ = tfidf
    path = tmp_path / "run.npz"
    whole = fit(X, checkpoint=path)
    again = fit(sparse.csc_array(X), checkpoint=path)
    assert_array_equal(again.labels_, whole.labels_)
    other = X.copy()
    other.data[0] += 1
    with pytest.raises(ValueError, match="data"):
        fit(other, checkpoint=path)


@pytest.mark.slow
def test_better_than_kmeans(tfidf):
    X, y = tfidf
    theirs = KMeans(4, n_init=10, random_state=0).fit(X).labels_
    assert adjusted_rand_score(y, fit(X).labels_) >= adjusted_rand_score(y, theirs)
