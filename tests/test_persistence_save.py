import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from persistence import (
    SHORT_FITS,
    Network,
    assert_same_fit,
    interrupt,
    make,
    stopped_after,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

pytestmark = SHORT_FITS


def test_save_and_load(drawings, whole, path):
    whole.save(path)
    loaded = make()
    assert loaded.load(path) is loaded
    assert_same_fit(loaded, whole)
    assert_array_equal(loaded.predict_proba(drawings), whole.predict_proba(drawings))
    assert_array_equal(loaded.transform(drawings), whole.transform(drawings))
    assert loaded.score(drawings) == whole.score(drawings)
    assert_array_equal(loaded.get_feature_names_out(), whole.get_feature_names_out())
    for name in ("labels_", "loss_curve_", "share_curve_", "n_iter_", "converged_"):
        own, theirs = getattr(loaded, name), getattr(whole, name)
        assert type(own) is type(theirs), name
    assert loaded.labels_.dtype == whole.labels_.dtype
    second = path.with_name("second.npz")
    loaded.save(second)
    assert_same_fit(make().load(second), whole)
    assert_same_fit(pickle.loads(pickle.dumps(loaded)), whole)
    assert_same_fit(clone(loaded).fit(drawings), whole)


def test_load_of_a_table(drawings, path):
    X = drawings.reshape(-1, 64) / 255
    fitted = make(model__augment=None).fit(X)
    fitted.save(path)
    loaded = make(model__augment=None).load(path)
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.n_features_in_ == 64
    with pytest.raises(ValueError, match="63 features"):
        loaded.predict(X[:, 1:])


def test_load_of_a_checkpoint(drawings, whole, path):
    stopped_after(2, drawings, path)
    unfinished = make().load(path)
    expected = make(max_iter=2, model__schedule="cosine").fit(drawings)
    assert unfinished.predict(drawings).shape == expected.labels_.shape
    assert unfinished.n_iter_ == 2
    assert unfinished.loss_curve_ == whole.loss_curve_[:2]
    assert_array_equal(unfinished.share_curve_, whole.share_curve_[:2])
    assert not hasattr(unfinished, "labels_")
    make(checkpoint=path).fit(drawings)
    finished = make().load(path)
    assert_same_fit(finished, whole)
    assert_array_equal(finished.predict(drawings), whole.labels_)


def test_load_forgets_an_earlier_fit(drawings, path):
    stopped_after(2, drawings, path)
    clusterer = make(max_iter=1).fit(drawings[:100]).load(path)
    assert not hasattr(clusterer, "labels_")


def test_save_after_an_interrupt_in_the_first_epoch(drawings, path):
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        clusterer = make(Network(2, interrupt)).fit(drawings)
    assert clusterer.share_curve_.shape == (0, 4)
    clusterer.save(path)
    assert_array_equal(make().load(path).predict(drawings), clusterer.labels_)


@pytest.mark.parametrize("read", ["checkpoint", "load"])
def test_network_that_learns_its_input_size(drawings, path, read):
    def build():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU())

    expected = make(build).fit(drawings)
    if read == "load":
        expected.save(path)
        assert_same_fit(make(build).load(path), expected)
    else:
        make(build, checkpoint=path).fit(drawings)
        assert_same_fit(make(build, checkpoint=path).fit(drawings), expected)


def test_load_with_another_number_of_clusters_or_architecture(drawings, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match="holds 4 clusters, not n_clusters=3"):
        make(n_clusters=3).load(path)
    other = make(Network(width=8))
    with pytest.raises(ValueError, match=r"architecture.*\(16, 64\) there"):
        other.load(path)
    with pytest.raises(NotFittedError):
        other.predict(drawings)
    deeper = nn.Sequential(*Network(), nn.Linear(16, 16))
    with pytest.raises(ValueError, match=r"architecture: 5.weight has shape None"):
        make(deeper).load(path)


def test_save_before_fit_and_load_of_nothing(path):
    with pytest.raises(NotFittedError):
        make().save(path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        make().load(path)


def test_predictions_of_a_loaded_model_are_probabilities(drawings, whole, path):
    whole.save(path)
    proba = make().load(path).predict_proba(drawings)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)


def test_failed_load_changes_nothing(drawings, whole, path):
    whole.save(path)
    clusterer = make(Network(width=8)).fit(drawings)
    labels, probabilities = clusterer.labels_, clusterer.predict_proba(drawings)
    with pytest.raises(ValueError, match="architecture"):
        clusterer.load(path)
    assert clusterer.labels_ is labels
    assert_array_equal(clusterer.predict_proba(drawings), probabilities)


def test_load_checks_how_images_are_normalized(drawings, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match=r"normalize=None, not with"):
        make(model__normalize=([0.5], [0.5])).load(path)


def test_feature_names_are_saved(path):
    X = pd.DataFrame(np.random.RandomState(0).normal(size=(40, 64)))
    X.columns = [f"pixel {i}" for i in range(64)]
    clusterer = make(model__augment=None).fit(X)
    clusterer.save(path)
    loaded = make(model__augment=None).load(path)
    assert_array_equal(loaded.feature_names_in_, clusterer.feature_names_in_)
    assert_array_equal(loaded.predict(X), clusterer.labels_)
