from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import pil_images, save
from feature_helpers import (
    TRANSFORMS,
    Samples,
    Tiny,
    assert_close,
    smooth_images,
    tiny,
)
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import v2

from skcce.features import ImageFeatures, _image_features

pytestmark = pytest.mark.usefixtures("offline")


# --- Images that cannot be read ---------------------------------------------


def bad_files(folder):
    (good,) = save(pil_images(smooth_images(1)), folder)
    jpeg, *_ = save(pil_images(smooth_images(1)), folder, "jpg")
    (folder / "short.jpg").write_bytes(jpeg.read_bytes()[:-200])
    (folder / "short.png").write_bytes(good.read_bytes()[:-200])
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    bad = "missing.png empty.png text.jpg short.jpg short.png folder.png".split()
    return str(good), [str(folder / name) for name in bad]


def test_bad_files_are_named_in_one_error_before_the_network_is_built(
    tmp_path, no_network
):
    good, bad = bad_files(tmp_path)
    paths = [good, *bad, good]
    for batch_size in (1, 64):
        transformer = ImageFeatures("resnet18", batch_size=batch_size)
        with pytest.raises(ValueError, match="6 of 8 images cannot be read") as caught:
            transformer.fit_transform(paths)
        lines = str(caught.value).splitlines()[1:]
        assert len(lines) == len(bad)
        for row, (line, path) in enumerate(zip(lines, bad, strict=True), start=1):
            assert line.startswith(f"  row {row}: {path}: ")
    assert 'on_error="skip"' in str(caught.value)


BAD_ITEMS = {
    "nan": np.full((20, 24, 3), np.nan, np.float32),
    "large": np.full((20, 24, 3), 255, np.float32),
    "negative": np.full((20, 24, 3), -0.1, np.float32),
    "int64": np.zeros((20, 24, 3), np.int64),
    "channels": np.zeros((20, 24, 5), np.uint8),
    "dimensions": np.zeros((20, 24, 3, 1), np.uint8),
    "number": 3,
    "None": None,
    "item": ValueError("this item is broken"),
    "index": IndexError("this item is absent"),
    "no-text": RuntimeError(),
}


@pytest.mark.parametrize("kind", BAD_ITEMS)
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_bad_items_are_named_before_the_network_is_built(
    images, no_network, kind, batch_size
):
    bad = BAD_ITEMS[kind]
    X = Samples([bad, *images[:3], bad])
    with pytest.raises(ValueError, match=r"2 of 5 images(?s:.*)row 0: (?s:.*)row 4: ."):
        ImageFeatures(Tiny(), batch_size=batch_size).transform(X)


def test_arrays_with_bad_rows_are_refused(images, no_network):
    X = images / np.float32(255)
    X[2, 0, 0, 0] = np.nan
    X[5, 3, 3] = np.inf
    with pytest.raises(ValueError, match="2 of 7 images") as caught:
        ImageFeatures("resnet18").transform(X)
    assert "row 2: " in str(caught.value)
    assert "row 5: " in str(caught.value)
    with pytest.raises(ValueError, match=r"7 of 7 images cannot be read(?s:.*)int64"):
        ImageFeatures("resnet18").transform(images.astype(np.int64))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("kind", BAD_ITEMS)
def test_bad_items_are_skipped(images, kind, batch_size):
    X = Samples([images[0], BAD_ITEMS[kind], *images[1:]])
    transformer = ImageFeatures(Tiny(), on_error="skip", batch_size=batch_size)
    with pytest.warns(UserWarning, match="1 of 8 images cannot be read(?s:.*)row 1: ."):
        actual = transformer.transform(X)
    assert actual.dtype == np.float32
    assert np.isnan(actual[1]).all()
    assert_close(np.delete(actual, 1, axis=0), tiny(images))


def test_bad_files_are_skipped(tmp_path):
    good, bad = bad_files(tmp_path)
    transformer = ImageFeatures(Tiny(), on_error="skip", batch_size=2)
    with pytest.warns(UserWarning, match="6 of 8 images cannot be read") as caught:
        actual = transformer.transform([*bad, good, good])
    (warning,) = caught
    assert all(path in str(warning.message) for path in bad)
    assert np.isnan(actual[:6]).all()
    assert_close(actual[6:], tiny(np.repeat(smooth_images(1), 2, axis=0)))


def test_warnings_point_at_the_caller(tmp_path, images):
    (tmp_path / "file").touch()
    for changes, text in (
        ({"on_error": "skip"}, "1 of 8 images"),
        ({"cache": tmp_path / "file"}, "The cache"),
    ):
        transformer = ImageFeatures(Tiny(), **changes)
        X = [None, *images] if "on_error" in changes else images
        with pytest.warns(UserWarning, match=text) as caught:
            transformer.transform(X)
        assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("kind", BAD_ITEMS)
@pytest.mark.filterwarnings("ignore:.* images cannot be read, their rows are NaN")
def test_nothing_but_bad_images_is_an_error(kind, batch_size):
    X = Samples([BAD_ITEMS[kind]] * 3)
    transformer = ImageFeatures(Tiny(), on_error="skip", batch_size=batch_size)
    with pytest.raises(ValueError, match="images cannot be read"):
        transformer.transform(X)


@pytest.mark.filterwarnings("ignore:.* images cannot be read, their rows are NaN")
def test_images_that_are_bad_in_several_ways_are_an_error(images):
    X = ["missing.png", BAD_ITEMS["large"], BAD_ITEMS["nan"]]
    transformer = ImageFeatures(Tiny(), on_error="skip", batch_size=1)
    with pytest.raises(ValueError, match="3 of 3 images cannot be read"):
        transformer.transform(X)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        ("one.png", TypeError),
        ((path for path in ["one.png"]), TypeError),
        ({"one.png": 1}, TypeError),
        ([], ValueError),
        (np.zeros((3, 4)), ValueError),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), ValueError),
        (None, TypeError),
    ],
)
def test_what_holds_no_images(no_network, X, error):
    for method in ("fit", "transform", "fit_transform"):
        with pytest.raises(error, match=r"X must|0 samples|must have shape"):
            getattr(ImageFeatures("resnet18"), method)(X)


# --- Narrow images ----------------------------------------------------------


def narrow_images(tmp_path, width, height):
    """The same image as a file, a PIL image, an array of bytes, one of floats."""
    array = np.zeros((height, width, 3), np.uint8)
    image = Image.fromarray(array)
    path = tmp_path / "narrow.png"
    image.save(path)
    return [path, image, array, array.astype(np.float32)]


RESIZING = {
    "weights": ("squeezenet1_1", None),
    "those of weights": (Tiny(), TRANSFORMS["squeezenet1_1"]),
    "Resize": (
        Tiny(),
        v2.Compose([v2.PILToTensor(), v2.Resize(256), v2.ToDtype(torch.float32)]),
    ),
    "nested": (Tiny(), nn.Sequential(v2.ToImage(), v2.Compose([v2.Resize(256)]))),
    "Resize of v1": (Tiny(), transforms.Compose([transforms.Resize(256)])),
}


@pytest.mark.parametrize("key", RESIZING)
@pytest.mark.parametrize("shape", [(20_000, 1), (1, 20_000), (65_000, 7)])
@pytest.mark.parametrize("cache", [None, "cache"])
def test_images_that_resizing_would_blow_up_are_bad(tmp_path, key, shape, cache):
    model, preprocess = RESIZING[key]

    def fail(*_):
        raise AssertionError("never resized")

    cache = cache and tmp_path / cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", fail)
        for image in narrow_images(tmp_path, *shape):
            transformer = ImageFeatures(
                model, weights=None, preprocess=preprocess, cache=cache
            )
            with pytest.raises(ValueError, match="pixels is too narrow") as caught:
                transformer.transform([image])
            name = f"{image}: " if isinstance(image, Path) else ""
            assert f"row 0: {name}{shape[0]} x {shape[1]} pixels" in str(caught.value)


def test_narrow_images_are_found_before_the_network_begins(tmp_path, images):
    good = save(pil_images(images), tmp_path / "good")
    narrow = narrow_images(tmp_path, 20_000, 1)[0]
    transformer = ImageFeatures("squeezenet1_1", weights=None, n_jobs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_image_features, "features", None)
        with pytest.raises(ValueError, match=r"narrow\.png: 20000 x 1 pixels"):
            transformer.transform([*good, narrow])
    with pytest.warns(UserWarning, match="too narrow"):
        rows = transformer.set_params(on_error="skip").transform([*good[:2], narrow])
    assert np.isnan(rows[2]).all()
    assert np.isfinite(rows[:2]).all()


@pytest.mark.parametrize(
    "preprocess",
    [
        None,
        transforms.Compose([transforms.CenterCrop(8), transforms.Resize(16)]),
        transforms.Compose([lambda image: image.resize((8, 9)), transforms.Resize(16)]),
        transforms.Compose([transforms.Pad(50), transforms.Resize(8)]),
        transforms.Resize((16, 16)),
        transforms.Resize(7, max_size=20_000),
        v2.RandomResizedCrop(16),
        transforms.Resize(2),
    ],
)
def test_narrow_images_that_stay_small_are_good(tmp_path, preprocess):
    if preprocess is not None:
        preprocess = transforms.Compose([preprocess, to_float_tensor])
    for image in narrow_images(tmp_path, 20_000, 1)[:2]:
        rows = ImageFeatures(Tiny(), preprocess=preprocess).transform([image])
        assert np.isfinite(rows).all()


class Wrapper:
    """Has attributes of torchvision's names, of another kind."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __call__(self, image):
        return to_float_tensor(image)


@pytest.mark.parametrize(
    "attributes",
    [{"transforms": TRANSFORMS["resnet18"]}, {"resize_size": np.int64(3)}, {"size": 3}],
)
def test_attributes_of_a_transform_of_ones_own_mean_nothing(images, attributes):
    transformer = ImageFeatures(Tiny(), preprocess=Wrapper(**attributes))
    assert np.isfinite(transformer.transform(images)).all()


def to_float_tensor(image):
    return v2.functional.pil_to_tensor(image) / 255
