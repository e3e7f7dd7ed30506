import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import backwards, pil_images, read_only, save
from feature_helpers import (
    PRETRAINED,
    TRANSFORMS,
    Output,
    Samples,
    Tiny,
    assert_close,
    direct,
    network_of,
    smooth_images,
    tiny,
)
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder

from skcce.features import ImageFeatures, _networks

pytestmark = pytest.mark.usefixtures("offline")


# --- The features are torchvision's -----------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_features_are_those_of_torchvision(tmp_path, name):
    pretrained = name in PRETRAINED
    photos = [
        *pil_images(smooth_images(1, 300, 230)),
        *pil_images(smooth_images(2, 90, 400)[1:]),
    ]
    paths = save(photos, tmp_path)
    expected = direct(name, photos, network_of(name, seed=int(pretrained)))
    weights = "DEFAULT" if pretrained else None
    transformer = ImageFeatures(name, weights=weights, n_jobs=1)
    actual = transformer.fit_transform(paths)
    assert_close(actual, expected)
    # The images do differ.
    assert np.abs(actual[0] - actual[1]).max() > 1e-3 * np.abs(actual).max()
    assert_array_equal(transformer.transform(photos), actual)


def first(X):
    return torch.from_numpy(np.moveaxis(X, -1, 1).copy())


def alpha(X):
    return np.concatenate([X, 255 - X[..., :1]], axis=-1)


def folder_of(X, folder):
    save(pil_images(X[:1]), folder / "a")
    save(pil_images(X[1:]), folder / "b")
    return ImageFolder(folder)


# All that holds the same images.
KINDS = {
    "list-of-Path": lambda X, folder: save(pil_images(X), folder),
    "list-of-str": lambda X, folder: [*map(str, save(pil_images(X), folder))],
    "array-of-str": lambda X, folder: np.array(
        [*map(str, save(pil_images(X), folder))]
    ),
    "series-of-str": lambda X, folder: pd.Series(
        [*map(str, save(pil_images(X), folder))], index=[7, 3]
    ),
    "series-of-Path": lambda X, folder: pd.Series(save(pil_images(X), folder)),
    "table": lambda X, folder: pd.DataFrame({"file": save(pil_images(X), folder)}),
    "pil": lambda X, folder: pil_images(X),
    "pil-of-files": lambda X, folder: [
        Image.open(path) for path in save(pil_images(X), folder)
    ],
    "list-of-arrays": lambda X, folder: list(X),
    "array": lambda X, folder: X,
    "channels-first": lambda X, folder: np.moveaxis(X, -1, 1),
    "alpha": lambda X, folder: alpha(X),
    "tensor": lambda X, folder: first(X),
    "tensor-channels-last": lambda X, folder: torch.from_numpy(X),
    "list-of-tensors": lambda X, folder: list(first(X)),
    "uint16": lambda X, folder: X.astype(np.uint16) * 257,
    "read-only": lambda X, folder: read_only(X),
    "fortran": lambda X, folder: np.asfortranarray(X),
    "reversed": lambda X, folder: backwards(X),
    "dataset": lambda X, folder: Samples(pil_images(X)),
    "dataset-with-labels": lambda X, folder: Samples(zip(X, "ab", strict=True)),
    "tensor-dataset": lambda X, folder: TensorDataset(first(X), torch.arange(2)),
    "subset": lambda X, folder: Subset(Samples(X[::-1]), [1, 0]),
    "image-folder": folder_of,
    "rgba-files": lambda X, folder: save(pil_images(alpha(X)), folder),
    "tiff-files": lambda X, folder: save(pil_images(X), folder, "tiff"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_inputs_give_the_same_features(tmp_path, two, expected, kind):
    X = KINDS[kind](two, tmp_path)
    assert_close(ImageFeatures("resnet18", n_jobs=2).transform(X), expected)


FLOATS = {
    "float32": lambda X: X,
    "float64": lambda X: X.astype(np.float64),
    "channels-first": lambda X: np.moveaxis(X, -1, 1),
    "read-only": read_only,
    "tensor": first,
    "tensor-channels-last": lambda X: torch.from_numpy(X.copy()),
    "list": list,
    "tensor-dataset": lambda X: TensorDataset(first(X)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_are_prepared_as_tensors(two, expected, kind):
    X = two / np.float32(255)
    prepared = direct("resnet18", list(first(X)), network_of("resnet18", seed=1))
    actual = ImageFeatures("resnet18").transform(FLOATS[kind](X))
    assert_close(actual, prepared)
    assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())


GREYS = {
    "nhw": lambda X: X[..., 0],
    "nhw1": lambda X: X,
    "n1hw": lambda X: np.moveaxis(X, -1, 1),
    "tensor": first,
    "pil": pil_images,
    "uint16": lambda X: X[..., 0].astype(np.uint16) * 257,
    "16-bit-pil": lambda X: pil_images(X.astype(np.uint16) * 257),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GREYS)
def test_grey_is_repeated(two, kind):
    grey = two[..., :1]
    network = network_of("resnet18", seed=1)
    expected = direct("resnet18", pil_images(grey), network)
    assert_close(ImageFeatures("resnet18").transform(GREYS[kind](grey)), expected)


def test_booleans_are_black_and_white(two):
    masks = two[..., 0] > 100
    images = [Image.fromarray(mask) for mask in masks]
    expected = direct("resnet18", images, network_of("resnet18", seed=1))
    assert_close(ImageFeatures("resnet18").transform(masks), expected)


@pytest.mark.slow
def test_odd_files(tmp_path, two):
    """Of many modes, sizes and shapes in one call."""
    image, other = pil_images(two)
    files = {
        "grey.jpg": image.convert("L"),
        "cmyk.jpg": other.convert("CMYK"),
        "la.png": image.convert("LA"),
        "palette.png": other.quantize(32),
        "pixel.png": image.crop((5, 5, 6, 6)),
        "row.png": image.crop((0, 0, 4, 1)),
    }
    for name, saved in files.items():
        options = {"transparency": 5} if name == "palette.png" else {}
        saved.save(tmp_path / name, **options)
    Image.fromarray(two[0, ..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    loaded = [
        saved if name.endswith("png") else Image.open(tmp_path / name)
        for name, saved in files.items()
    ]
    loaded.append(Image.fromarray(two[0, ..., 0]))
    expected = direct("resnet18", loaded, network_of("resnet18", seed=1))
    paths = [tmp_path / name for name in [*files, "deep.png"]]
    assert_close(ImageFeatures("resnet18").transform(paths), expected)


def test_rotations_of_a_camera_are_undone(tmp_path, two, expected):
    image = pil_images(two)[0]
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's transpositions
    paths = []
    for orientation, method in {1: None, **undo}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        inverse = {2: 4, 4: 2}.get(method, method)
        turned = image if method is None else image.transpose(inverse)
        paths.append(tmp_path / f"{orientation}.png")
        turned.save(paths[-1], exif=exif)
    actual = ImageFeatures("resnet18").transform(paths)
    assert_close(actual, np.repeat(expected[:1], 8, axis=0))


def test_names_that_are_no_unicode(tmp_path, images):
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    try:
        with open(tmp_path / name, "wb") as file:
            Image.fromarray(images[0]).save(file, "PNG")
    except (OSError, UnicodeError):
        pytest.skip("the file system allows no such names")
    actual = ImageFeatures(Tiny()).transform([str(tmp_path / name)])
    assert_close(actual, tiny(images[:1]))


@pytest.mark.slow
def test_one_image_that_occurs_many_times(tmp_path, images):
    """Not yet read, it is read by several threads."""
    (path,) = save([Image.fromarray(smooth_images(1, 300, 400)[0])], tmp_path)
    image = Image.open(path)
    actual = ImageFeatures(Tiny(), n_jobs=8).transform([image] * 40)
    assert_close(actual, tiny(np.repeat(np.asarray(image)[None], 40, axis=0)))


# --- The same bits ----------------------------------------------------------


def test_batches_of_any_size_agree(images, two):
    expected = tiny(images)
    for batch_size in (1, 2, 3, 64):
        transformer = ImageFeatures(Tiny(), batch_size=batch_size)
        assert_close(transformer.transform(images), expected)
    rows = [
        ImageFeatures("resnet18", batch_size=size).transform(two) for size in (1, 2)
    ]
    assert_close(*rows)


def test_batches_have_the_size_that_is_asked_for(images, forwards):
    ImageFeatures(Tiny(), batch_size=3).transform(images)
    assert sorted(forwards) == [1, 3, 3]


@pytest.mark.slow
def test_repeated_calls_and_threads_give_the_same_bits(two):
    transformer = ImageFeatures("resnet18", batch_size=1)
    expected = transformer.transform(two)
    assert_array_equal(transformer.transform(two), expected)
    assert_array_equal(transformer.fit(two).transform(two), expected)
    for n_jobs in (None, 1, 2, 5, -1, -2):
        transformer.set_params(n_jobs=n_jobs)
        assert_array_equal(transformer.transform(two), expected)


def test_threads_of_torch_neither_matter_nor_change(two):
    before = torch.get_num_threads()
    rows = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            rows.append(ImageFeatures("resnet18").transform(two))
            assert torch.get_num_threads() == n_threads
            # Those of threads that begin later.
            with ThreadPoolExecutor(1) as executor:
                assert executor.submit(torch.get_num_threads).result() == n_threads
    finally:
        torch.set_num_threads(before)
    assert_array_equal(rows[0], rows[1])
    assert_array_equal(rows[0], rows[2])


def test_each_thread_computes_with_one_thread_of_torch(images):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        network = Output(lambda x: seen.append(torch.get_num_threads()) or x)
        ImageFeatures(network, n_jobs=2, batch_size=2).transform(images)
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_threads_of_torch_are_put_back_after_an_error(images):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(RuntimeError):
            ImageFeatures(nn.Conv2d(4, 1, 1)).transform(images)
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as executor:
            assert executor.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("settings", [("squeezenet1_1", None), ("resnet18", "DEFAULT")])
def test_random_states_are_left_alone(images, settings):
    _networks.load.cache_clear()
    model, weights = settings
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    ImageFeatures(model, weights=weights).fit_transform(images[:1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002


def test_random_weights_depend_on_random_state_alone(images):
    rows = []
    for seed in (0, 1, 0):
        _networks.load.cache_clear()
        torch.rand(3)
        parameters = {"weights": None, "random_state": seed}
        rows.append(ImageFeatures("squeezenet1_1", **parameters).transform(images[:1]))
    assert_array_equal(rows[0], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 0.01 * np.abs(rows[0]).max()


# --- Packages ---------------------------------------------------------------


@pytest.mark.slow
def test_the_error_says_what_to_install():
    code = "import sys, skcce; sys.modules['torch'] = None; import skcce.features"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "ImportError: skcce.features needs" in result.stderr
    assert "pip install torch torchvision" in result.stderr
