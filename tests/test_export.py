"""A fit in scikit-learn's classes, in ONNX, and in a file of skops."""

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skops.io
from numpy.testing import assert_allclose, assert_array_equal
from skl2onnx import to_onnx
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax
from skcce._model import SoftmaxModel

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def rows(n_centers=4, dtype=np.float64):
    """Return rows of clusters that overlap, and their numbers."""
    X, y = make_blobs(
        400, centers=n_centers, n_features=5, cluster_std=4, random_state=0
    )
    return X.astype(dtype), y


def cluster(X, n_clusters=4, **parameters):
    parameters = {"prior": None, "n_init": 1, "tol": 1, **parameters}
    return CollisionClusterer(n_clusters, random_state=0, **parameters).fit(X)


def classify(X, y, **parameters):
    """Fit to the names of a tenth of the rows."""
    few = np.where(np.arange(len(y)) % 10, "-1", np.array(list("abcd"))[y])
    return CollisionClassifier(random_state=0, tol=1, **parameters).fit(X, few)


def assert_same_predictions(exported, estimator, X):
    proba = exported.predict_proba(X)
    assert_allclose(proba, estimator.predict_proba(X), atol=1e-6)
    assert_array_equal(exported.classes_[proba.argmax(axis=1)], exported.predict(X))
    # But for the last digits.
    top_two = np.sort(proba, axis=1)[:, -2:]
    clear = np.diff(top_two, axis=1).ravel() > 1e-5
    assert_array_equal(exported.predict(X)[clear], estimator.predict(X)[clear])


@DTYPES
@pytest.mark.parametrize("n_clusters", [2, 3, 4])
@pytest.mark.parametrize("features", [None, "spectral"])
def test_same_probabilities(dtype, n_clusters, features):
    X = rows(n_clusters, dtype)[0]
    clusterer = cluster(X[:300], n_clusters, features=features)
    exported = clusterer.to_sklearn()
    assert isinstance(exported, Pipeline if features else LogisticRegression)
    assert_array_equal(exported.classes_, np.arange(n_clusters))
    assert_same_predictions(exported, clusterer, X)
    regression = exported[-1] if features else exported
    n_features = regression.n_features_in_
    n_units = 1 if n_clusters == 2 else n_clusters
    assert regression.coef_.shape == (n_units, n_features)
    assert regression.intercept_.shape == (n_units,)
    assert exported.n_features_in_ == 5


@DTYPES
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("features", [None, "spectral"])
def test_same_probabilities_of_classes(dtype, n_classes, features):
    X, y = rows(n_classes, dtype)
    classifier = classify(X, y, features=features)
    exported = classifier.to_sklearn()
    assert_array_equal(exported.classes_, classifier.classes_)
    assert_same_predictions(exported, classifier, X)


def test_rows_far_from_the_origin_in_single_precision():
    X = (rows()[0] + 1000).astype(np.float32)
    clusterer = cluster(X, features=None)
    assert_same_predictions(clusterer.to_sklearn(), clusterer, X)


def test_weights_in_float64_are_those_of_the_model():
    X = rows(dtype=np.float32)[0]
    clusterer = cluster(X, features=None)
    weights, intercept = clusterer.model_.affine()
    assert weights.dtype == intercept.dtype == np.float64
    assert_allclose(weights, clusterer.model_.coef_, rtol=1e-6)
    assert_allclose(intercept, clusterer.model_.intercept_, rtol=1e-5)


@pytest.mark.parametrize("features", [None, "spectral"])
def test_names_of_features(features):
    X = pd.DataFrame(rows()[0], columns=list("abcde"))
    clusterer = cluster(X, features=features)
    exported = clusterer.to_sklearn()
    assert_array_equal(exported.feature_names_in_, list("abcde"))
    assert_same_predictions(exported, clusterer, X)
    with pytest.raises(ValueError, match="feature names"):
        exported.predict(X[list("bacde")])
    # The features of the clusterer stay as they were.
    assert not hasattr(clusterer.features_, "feature_names_in_")


def test_of_joined_clusters_there_is_none():
    clusterer = cluster(rows()[0], prior="learn")
    n_units = len(clusterer.model_.groups_)
    with pytest.raises(ValueError, match=f"joined from {n_units}.*prior=None"):
        clusterer.to_sklearn()


def test_of_one_cluster_there_is_none():
    with pytest.raises(ValueError, match="at least 2 clusters"):
        cluster(rows()[0], 1).to_sklearn()


class Softer(SoftmaxModel):
    """A model that is not LinearSoftmax."""

    def initialize(self, X, n_clusters, **how):
        self.linear = LinearSoftmax()
        self.linear.initialize(X, n_clusters, **how)

    def train_step(self, X, objective, *, progress):
        return self.linear.train_step(X, objective, progress=progress)

    def decision_function(self, X):
        return self.linear.decision_function(X) / 2


def test_of_other_models_there_is_none():
    clusterer = cluster(rows()[0], model=Softer(), features=None)
    with pytest.raises(ValueError, match="linear model, and this fit has a Softer"):
        clusterer.to_sklearn()


def test_not_fitted():
    with pytest.raises(NotFittedError):
        CollisionClusterer(3).to_sklearn()


def run_onnx(exported, X):
    """Return labels and probabilities of ONNX Runtime."""
    graph = to_onnx(exported, X[:1], options={"zipmap": False})
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})


@DTYPES
@pytest.mark.parametrize("n_clusters", [2, 4])
def test_onnx(dtype, n_clusters):
    X = rows(n_clusters, dtype)[0]
    clusterer = cluster(X, n_clusters, features=None)
    labels, proba = run_onnx(clusterer.to_sklearn(), X)
    assert_allclose(proba, clusterer.predict_proba(X), atol=1e-5)
    assert_array_equal(labels, proba.argmax(axis=1))


@DTYPES
def test_onnx_of_names(dtype):
    X, y = rows(dtype=dtype)
    classifier = classify(X, y, features=None)
    labels, proba = run_onnx(classifier.to_sklearn(), X)
    assert_allclose(proba, classifier.predict_proba(X), atol=1e-5)
    assert_array_equal(labels, classifier.classes_[proba.argmax(axis=1)])


def through_skops(estimator):
    """Return the estimator from a file, and the types that it needs trust in."""
    file = skops.io.dumps(estimator)
    types = skops.io.get_untrusted_types(data=file)
    return skops.io.loads(file, trusted=types), types


def fits(X, y):
    """Return fits of all kinds."""
    clusterer = cluster(X, prior="auto")
    return {
        "default": clusterer,
        "rows as they are": cluster(X, features=None),
        "tree and outliers": cluster(X, prior="learn", contamination=0.1),
        "cut": clusterer.cut(3),
        "extended": clusterer.extend(X[:50] + 30),
        "stream": CollisionClusterer(4, n_init=1, random_state=0).partial_fit(X),
        "cells": cluster(X, neighbors="approximate"),
        "classifier": classify(X, y),
    }


@pytest.mark.slow
def test_skops():
    X, y = rows()
    for name, fitted in fits(X, y).items():
        loaded, types = through_skops(fitted)
        assert_array_equal(loaded.labels_, fitted.labels_, err_msg=name)
        assert_array_equal(loaded.predict(X), fitted.predict(X), err_msg=name)
        proba = loaded.predict_proba(X)
        assert_array_equal(proba, fitted.predict_proba(X), err_msg=name)
        # Nothing but this package asks for trust.
        assert {name.split(".")[0] for name in types} == {"skcce"}


def test_skops_needs_no_trust_in_the_export():
    X = rows()[0]
    exported = cluster(X, features=None).to_sklearn()
    loaded, types = through_skops(exported)
    assert types == []
    assert_array_equal(loaded.predict_proba(X), exported.predict_proba(X))
