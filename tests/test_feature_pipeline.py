import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import pil_images, save
from feature_helpers import (
    Colors,
    Tiny,
    assert_close,
    tiny,
)
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from torch import nn
from torchvision import models

from skcce import CollisionClusterer
from skcce.features import ImageFeatures, _networks

pytestmark = pytest.mark.usefixtures("offline")


# --- A transformer of scikit-learn ------------------------------------------


def test_clones_have_the_same_parameters():
    transformer = ImageFeatures("resnet18", layer="layer3", cache="folder", n_jobs=3)
    assert clone(transformer).get_params() == transformer.get_params()
    assert clone(ImageFeatures(Tiny())).model is not None


@pytest.mark.slow
def test_set_params_takes_effect(images):
    transformer = ImageFeatures("squeezenet1_1", weights=None).fit(images)
    widths = []
    for change in (
        {},
        {"layer": "features.3"},
        {"model": "resnet18", "layer": None},
        {"model": Colors()},
        {"preprocess": lambda image: torch.ones(3, 2, 2)},
    ):
        rows = transformer.set_params(**change).transform(images[:2])
        widths.append(rows.shape[1])
        assert len(transformer.get_feature_names_out()) == widths[-1]
    assert widths == [512, 128, 512, 3, 3]
    assert_array_equal(rows, 1)
    before = ImageFeatures("resnet18", weights=None).transform(images[:1])
    after = ImageFeatures("resnet18", weights=None).set_params(weights="DEFAULT")
    assert np.abs(after.transform(images[:1]) - before).max() > 1e-3


def test_pickles_are_small_and_work(two, expected):
    transformer = ImageFeatures("resnet18")
    before = transformer.fit_transform(two)
    data = pickle.dumps(transformer)
    assert len(data) < 10_000
    assert_array_equal(pickle.loads(data).transform(two), before)
    copied = pickle.loads(pickle.dumps(ImageFeatures(Tiny())))
    assert_close(copied.transform(two), tiny(two))


def test_clones_share_the_network(images):
    _networks.load.cache_clear()
    transformer = ImageFeatures("squeezenet1_1", weights=None)
    for other in (
        transformer,
        clone(transformer),
        pickle.loads(pickle.dumps(transformer)),
    ):
        other.fit_transform(images[:1])
    info = _networks.load.cache_info()
    assert (info.misses, info.currsize) == (1, 1)


def test_nothing_is_loaded_before_it_is_needed(images, no_network):
    ImageFeatures("resnet18", weights=None).fit(images)
    ImageFeatures(Tiny()).fit(images)


def test_names_of_features(images):
    transformer = ImageFeatures(Tiny())
    names = [f"imagefeatures{i}" for i in range(5)]
    assert_array_equal(transformer.get_feature_names_out(), names)
    series = pd.Series(pil_images(images), index=list("abcdefg"))
    table = transformer.set_output(transform="pandas").fit_transform(series)
    assert list(table.columns) == names
    # scikit-learn 1.6 keeps the index of tables only.
    assert list(table.index) in (list("abcdefg"), list(range(7)))
    assert_close(table.to_numpy(), tiny(images))


def test_names_of_features_of_a_module_for_one_size(images):
    network = nn.Sequential(nn.Flatten(), nn.Linear(20 * 24 * 3, 2))
    transformer = ImageFeatures(network).set_output(transform="pandas")
    table = transformer.fit_transform(images)
    assert list(table.columns) == ["imagefeatures0", "imagefeatures1"]


def test_nothing_is_learned():
    tags = get_tags(ImageFeatures())
    assert not tags.requires_fit
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("model", None),
        ("model", Tiny),
        ("weights", 3),
        ("layer", 3),
        ("preprocess", "resize"),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("n_jobs", 1.5),
        ("n_jobs", "all"),
        ("device", 3),
        ("device", None),
        ("cache", 3),
        ("cache_size", 0),
        ("on_error", "ignore"),
        ("random_state", None),
        ("random_state", -1),
        ("random_state", 2**32),
        ("verbose", -1),
    ],
)
def test_parameters_of_a_wrong_kind(images, no_network, name, value):
    transformer = ImageFeatures(**{"model": "resnet18", "weights": None, name: value})
    for method in (transformer.fit, transformer.transform):
        with pytest.raises(ValueError, match=f"'{name}' parameter of ImageFeatures"):
            method(images)


def test_weights_of_torchvision_are_a_name_too(two, expected):
    weights = models.ResNet18_Weights.IMAGENET1K_V1
    assert_close(ImageFeatures("resnet18", weights=weights).transform(two), expected)


def test_devices_that_do_not_exist(images):
    with pytest.raises(ValueError, match="device='nowhere' cannot be used"):
        ImageFeatures(Tiny(), device="nowhere").fit(images)
    for device in ("cpu", torch.device("cpu"), "auto"):
        actual = ImageFeatures(Tiny(), device=device).transform(images)
        assert_close(actual, tiny(images))


def test_a_bar_does_not_change_the_features(images, capfd):
    actual = ImageFeatures(Tiny(), verbose=1).transform(images)
    assert_close(actual, tiny(images))


# --- In a pipeline ----------------------------------------------------------


@pytest.fixture
def red_and_blue(tmp_path):
    """Images in files, of two kinds."""
    rng = np.random.default_rng(0)
    X = rng.integers(40, size=(24, 8, 8, 3), dtype=np.uint8)
    y = np.arange(24) % 2
    X[np.arange(24), ..., 2 * y] += 200
    return [str(path) for path in save(pil_images(X), tmp_path / "images")], y


def pipeline_of(model, **parameters):
    return make_pipeline(
        ImageFeatures(model, **parameters),
        CollisionClusterer(n_clusters=2, random_state=0),
    )


def test_a_pipeline_clusters_files(red_and_blue):
    paths, y = red_and_blue
    pipeline = pipeline_of(Colors()).fit(paths)
    labels = pipeline.predict(paths)
    assert set(zip(labels, y, strict=True)) in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})
    probabilities = pipeline.predict_proba(paths)
    assert_array_equal(probabilities.argmax(axis=1), labels)
    assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert_array_equal(pipeline.predict(paths[5:6]), labels[5:6])


def search_of(model, n_jobs=None, **parameters):
    grid = {"collisionclusterer__lam": [1.0, 10.0]}
    scoring = "adjusted_rand_score"
    pipeline = pipeline_of(model, batch_size=5, **parameters)
    return GridSearchCV(pipeline, grid, scoring=scoring, cv=3, n_jobs=n_jobs)


@pytest.mark.slow
def test_a_search_computes_each_image_once(red_and_blue, tmp_path, forwards):
    paths, y = red_and_blue
    search = search_of(Colors(), cache=tmp_path / "cache").fit(paths, y)
    assert sum(forwards) == len(paths)
    assert search.best_score_ == 1
    search.predict(paths)
    assert sum(forwards) == len(paths)
    forwards.clear()
    expected = search_of(Colors()).fit(paths, y)
    assert sum(forwards) > len(paths)  # The test can fail.
    assert_array_equal(
        search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )


class Noting(Colors):
    """Writes to a file how many images come."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, batch):
        with open(self.path, "a") as file:
            file.write("x" * len(batch))
        return super().forward(batch)


@pytest.mark.slow
def test_threads_of_a_search_share_the_cache(red_and_blue, tmp_path):
    # Processes that write at the same time are in test_feature_cache.
    paths, y = red_and_blue
    network = Noting(tmp_path / "calls")
    search = search_of(network, n_jobs=2, cache=tmp_path / "cache")
    with parallel_config(backend="threading"):
        search.fit(paths, y)
    assert search.best_score_ == 1
    # Both may begin with the same images.
    n_calls = len((tmp_path / "calls").read_text())
    assert len(paths) <= n_calls <= 3 * len(paths)
    search_of(network, cache=tmp_path / "cache").fit(paths, y)
    assert len((tmp_path / "calls").read_text()) == n_calls
