import pickle
import re
import subprocess
import sys
import threading
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder
from torchvision.models.feature_extraction import get_graph_node_names
from torchvision.transforms import v2

from skcce import CollisionClusterer
from skcce.features import ImageFeatures, _image_features, _networks, _reading
from skcce.features._reading import read_ahead

# Torchvision's own preparation, and the part that is replaced by hand.
TRANSFORMS = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1.transforms(),
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
    "convnext_tiny": models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1.transforms(),
    "vit_b_16": models.ViT_B_16_Weights.IMAGENET1K_V1.transforms(),
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms(),
    "mobilenet_v3_small": models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms(),
    "squeezenet1_1": models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms(),
}
# These and their (untrained) weights are where torchvision looks for pretrained ones.
PRETRAINED = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "mobilenet_v3_small": models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
}


def network_of(name, seed=0, **options):
    """One of torchvision's networks; its batch norm has seen something, if seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = getattr(models, name)(weights=None, **options)
        if seed:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            network.train()(torch.randn(8, 3, 64, 64))
    return network


def without_head(name, network):
    if name.startswith("resnet"):
        network.fc = nn.Identity()
    elif name.startswith("vit"):
        network.heads.head = nn.Identity()
    else:
        row = {"convnext_tiny": 2, "mobilenet_v3_small": 3}.get(name, 1)
        network.classifier[row] = nn.Identity()
    return network


@torch.inference_mode()
def direct(name, images, network, transform=None):
    """What torchvision itself makes of PIL images, or of tensors of floats."""
    network = without_head(name, network).eval()
    transform = transform or TRANSFORMS[name]
    images = [x.convert("RGB") if hasattr(x, "convert") else x for x in images]
    return network(torch.stack([transform(image) for image in images])).numpy()


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def smooth_images(n, height=90, width=120):
    """Images of which each is another one, and no corner looks like the next."""
    y, x = np.mgrid[:height, :width] / 30
    waves = [
        [np.sin((1 + i) * x + k + (2 + k) * y) for k in range(3)] for i in range(n)
    ]
    values = np.ascontiguousarray(np.moveaxis(waves, 1, -1))
    return np.round(127 * (1 + values)).astype(np.uint8)


def pil_images(X):
    return [Image.fromarray(image.squeeze()) for image in X]


def save(images, folder, suffix="png"):
    folder.mkdir(exist_ok=True, parents=True)
    paths = [folder / f"{i}.{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return paths


class Tiny(nn.Module):
    """Batch norm, dropout: what differs between the modes of a network."""

    def __init__(self, width=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(0.5),
            )
            self.body[1].running_mean.normal_()
            self.head = nn.Linear(width, 5)

    def forward(self, batch):
        return self.head(self.body(batch).mean(dim=(2, 3)))


class Colors(nn.Module):
    def forward(self, batch):
        return batch.mean(dim=(2, 3))


@torch.inference_mode()
def tiny(X):
    """What `Tiny` makes of bytes."""
    batch = torch.from_numpy(np.moveaxis(X, -1, 1) / np.float32(255))
    return Tiny().eval()(batch).numpy()


class Samples(Dataset):
    def __init__(self, samples):
        self.samples = list(samples)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        sample = self.samples[row]
        if isinstance(sample, Exception):
            raise sample
        return sample


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    for name, weights in PRETRAINED.items():
        path = home / "hub" / "checkpoints" / Path(weights.url).name
        torch.save(network_of(name, seed=1).state_dict(), path)
    return home


@pytest.fixture(autouse=True)
def offline(monkeypatch, torch_home):
    def refuse(url, *args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def empty_torch_home(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    _networks.load.cache_clear()
    yield tmp_path / "torch" / "hub" / "checkpoints"
    _networks.load.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    """Nothing may be built."""

    def refuse(*args):
        raise AssertionError("a network was built")

    monkeypatch.setattr(_image_features, "load", refuse)
    monkeypatch.setattr(_image_features, "cut_own", refuse)


@pytest.fixture
def forwards(monkeypatch):
    sizes = []
    features = _image_features.features

    def counted(network, batch):
        sizes.append(len(batch))
        return features(network, batch)

    monkeypatch.setattr(_image_features, "features", counted)
    return sizes


@pytest.fixture(scope="module")
def images():
    return smooth_images(7, 20, 24)


@pytest.fixture(scope="module")
def two():
    return smooth_images(2)


@pytest.fixture(scope="module")
def expected(two):
    """Of `two`, by the pretrained network that most tests take."""
    return direct("resnet18", pil_images(two), network_of("resnet18", seed=1))


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


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


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
    "reversed": lambda X, folder: X[::-1, :, ::-1].copy()[::-1, :, ::-1],
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


# --- A module of one's own --------------------------------------------------


def test_an_own_module_gives_its_output(images):
    assert_close(ImageFeatures(Tiny()).transform(images), tiny(images))


def test_a_row_does_not_depend_on_the_others(images):
    """As it would if batch norm or dropout were training."""
    network = Tiny().train()
    together = ImageFeatures(network).transform(images)
    alone = [ImageFeatures(network).transform(images[[i]]) for i in range(len(images))]
    assert_close(together, np.concatenate(alone))


@pytest.mark.parametrize("layer", [None, "body"])
def test_an_own_module_is_left_as_it_was(images, layer):
    network = Tiny().train()
    network.body[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    transformer = ImageFeatures(network, layer=layer, batch_size=2)
    transformer.fit_transform(images)
    transformer.get_feature_names_out()
    assert transformer.model is network
    assert [module.training for module in network.modules()] == modes
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not network._forward_hooks


def test_new_weights_of_an_own_module_are_taken(images):
    network = Tiny()
    transformer = ImageFeatures(network)
    before = transformer.transform(images)
    with torch.no_grad():
        network.head.bias += 1
    assert_close(transformer.transform(images), before + 1)


def test_a_layer_of_an_own_module(images):
    actual = ImageFeatures(Tiny(), layer="body.1").transform(images)
    network = Tiny().eval()
    network.body = network.body[:2]
    network.head = nn.Identity()
    batch = torch.from_numpy(np.moveaxis(images, -1, 1) / np.float32(255))
    assert_close(actual, network(batch).detach().numpy())
    with pytest.raises(ValueError, match=r"layer='bodi.1' .* did you mean .*'body.1'"):
        ImageFeatures(Tiny(), layer="bodi.1").transform(images)


class Branching(Tiny):
    def forward(self, batch):
        return super().forward(batch if batch.sum() > 0 else -batch)


class Counting(Tiny):
    def forward(self, batch):
        return super().forward(batch[: int(batch.abs().max() + len(batch))])


@pytest.mark.parametrize("network", [Branching(), Counting()])
def test_a_module_that_cannot_be_traced_has_no_layers(images, network):
    ImageFeatures(network).transform(images)
    with pytest.raises(ValueError, match=r"layer='body' cannot be cut out.*layer=None"):
        ImageFeatures(network, layer="body").transform(images)


class Output(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        return self.function(batch)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda batch: batch, 3),
        (lambda batch: batch[:, :, 0], 3 * 24),
        (lambda batch: batch.mean(dim=(1, 2, 3)), 1),
        (lambda batch: {"out": batch.mean(dim=(2, 3))}, 3),
        (lambda batch: batch[:, :, :2, :2, None], 12),
        (lambda batch: batch.mean(dim=(2, 3)).double(), 3),
        (lambda batch: batch.mean(dim=(2, 3)).bfloat16(), 3),
    ],
    ids=["maps", "tokens", "scalars", "dict", "other", "float64", "bfloat16"],
)
def test_outputs_that_become_rows(images, function, shape):
    if shape == 3 * 24:
        shape = 24  # averaged over what are tokens
    actual = ImageFeatures(Output(function)).transform(images)
    assert actual.shape == (len(images), shape)
    assert actual.dtype == np.float32
    batch = torch.from_numpy(np.moveaxis(images, -1, 1) / np.float32(255))
    output = function(batch)
    output = output["out"] if isinstance(output, dict) else output
    if output.ndim in (3, 4):
        output = output.flatten(2).mean(2) if output.ndim == 4 else output.mean(1)
    assert_close(actual, output.float().numpy().reshape(len(images), -1))


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda batch: batch.mean(), r"7 images to a tensor of as many rows.*\(\)"),
        (lambda batch: batch[:3], r"\(3, 3, 20, 24\)"),
        (lambda batch: (batch, batch), "it gives tuple"),
        (lambda batch: {"a": batch, "b": batch}, "it gives dict"),
        (lambda batch: None, "it gives NoneType"),
    ],
)
def test_outputs_that_are_no_rows(images, function, text):
    with pytest.raises(ValueError, match=text) as caught:
        ImageFeatures(Output(function)).transform(images)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", Path("weights.pth"), ""])
def test_an_own_module_takes_no_weights(images, weights):
    with pytest.raises(ValueError, match="load them into your own model"):
        ImageFeatures(Tiny(), weights=weights).fit(images)
    ImageFeatures(Tiny(), weights=None).fit(images)


# --- Preparing --------------------------------------------------------------


def to_tensor(image):
    return torch.from_numpy(np.array(image)).movedim(-1, 0) / 255


def test_preprocess_gets_rgb_images(images):
    seen = []

    def preprocess(image):
        seen.append((image.mode, image.size))
        return 1 - to_tensor(image)

    X = [*pil_images(images[:1]), images[1], Image.fromarray(images[2]).convert("LA")]
    actual = ImageFeatures(Colors(), preprocess=preprocess).transform(X)
    assert set(seen) == {("RGB", (24, 20))}
    assert_close(actual[:2], 1 - images[:2].mean(axis=(1, 2)).astype(np.float32) / 255)


def test_preprocess_replaces_that_of_the_weights(two):
    def preprocess(image):
        return to_tensor(image.resize((64, 64)))

    network = network_of("resnet18", seed=1)
    expected = direct("resnet18", pil_images(two), network, preprocess)
    assert_close(
        ImageFeatures("resnet18", preprocess=preprocess).transform(two), expected
    )


def test_preprocess_gets_floats_of_any_range(images):
    X = images.astype(np.float32) - 100
    seen = []

    def preprocess(image):
        seen.append(image)
        return image

    actual = ImageFeatures(Colors(), preprocess=preprocess).transform(X)
    assert {(x.dtype, tuple(x.shape)) for x in seen} == {(torch.float32, (3, 20, 24))}
    assert_close(actual, X.mean(axis=(1, 2)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocess_that_works_in_place_changes_no_data_of_the_user(images, dtype):
    def preprocess(image):
        if isinstance(image, Image.Image):
            image.paste(0, (0, 0, *image.size))
            return to_tensor(image)
        return image.zero_()

    X = images.astype(dtype)
    before = X.copy()
    for given in (X, list(X), torch.from_numpy(X)):
        ImageFeatures(Colors(), preprocess=preprocess).transform(given)
        assert_array_equal(X, before)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(
    "preprocess",
    [
        lambda image: image,
        lambda image: np.zeros((3, 4, 4)),
        lambda image: None,
        lambda image: torch.zeros(3),
        lambda image: torch.zeros(1, 3, 4, 4),
    ],
    ids=["pil", "array", "None", "vector", "batch"],
)
@pytest.mark.filterwarnings("ignore:.* images cannot be read, their rows are NaN")
def test_preprocess_must_return_an_image_as_tensor(images, preprocess, on_error):
    settings = {"preprocess": preprocess, "on_error": on_error, "batch_size": 3}
    with pytest.raises((TypeError, ValueError), match="preprocess must return"):
        ImageFeatures(Colors(), **settings).transform(images)


def test_preprocess_that_fails_is_named(images):
    def preprocess(image):
        raise KeyError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        ImageFeatures(Colors(), preprocess=preprocess).transform(images)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_all_images_must_get_one_size(images, on_error):
    X = [*images[:2], images[2, :7]]
    transformer = ImageFeatures(Tiny(), on_error=on_error)
    with pytest.raises(
        ValueError, match=r"Images 0 and 2 have shapes \(3, 20, 24\) and \(3, 7, 24\)"
    ):
        transformer.transform(X)


# --- Weights ----------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"],
)
def test_names_of_weights(two, expected, weights):
    assert_close(ImageFeatures("resnet18", weights=weights).transform(two), expected)
    assert_close(ImageFeatures("ResNet18", weights=weights).transform(two), expected)


def nested(state):
    return {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}


def head_of_seven(state):
    return state | {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [dict, nested, head_of_seven, lambda state: {"model": head_of_seven(state)}],
    ids=["plain", "nested", "classes", "model"],
)
def test_a_file_of_weights(tmp_path, two, expected, change):
    path = tmp_path / "weights.pth"
    torch.save(change(network_of("resnet18", seed=1).state_dict()), path)
    actual = ImageFeatures("resnet18", weights=path).transform(two)
    assert_close(actual, expected)


def test_a_file_of_weights_in_the_home_folder(tmp_path, two, expected, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(network_of("resnet18", seed=1).state_dict(), tmp_path / "w.pth")
    assert_close(ImageFeatures("resnet18", weights="~/w.pth").transform(two), expected)


def test_a_file_of_weights_that_changed_is_read_again(tmp_path, images):
    path = tmp_path / "weights.pth"
    for seed in (0, 1):
        torch.save(network_of("squeezenet1_1", seed).state_dict(), path)
        actual = ImageFeatures("squeezenet1_1", weights=path).transform(images[:1])
        network = network_of("squeezenet1_1", seed)
        assert_close(actual, direct("squeezenet1_1", pil_images(images[:1]), network))


def save_checkpoint(folder, weights, state):
    folder.mkdir(parents=True)
    path = folder / Path(weights.url).name
    torch.save(state, path)
    return path


def test_googlenet_is_the_same_by_name_and_by_file(empty_torch_home, images):
    """Torchvision's weights for it want the colors of the image changed."""
    weights = models.GoogLeNet_Weights.IMAGENET1K_V1
    state = network_of("googlenet", init_weights=False).state_dict()
    path = save_checkpoint(empty_torch_home, weights, state)
    by_name = ImageFeatures("googlenet").transform(images[:1])
    by_file = ImageFeatures("googlenet", weights=path).transform(images[:1])
    assert_close(by_file, by_name)


def test_densenet_takes_the_names_that_its_file_has(empty_torch_home, images):
    """Torchvision's file is older than its names of layers."""
    weights = models.DenseNet121_Weights.IMAGENET1K_V1
    state = network_of("densenet121").state_dict()
    old = {
        re.sub(r"(norm|conv)(\d)\.(?=\w+$)", r"\1.\2.", name): value
        for name, value in state.items()
        if ".denselayer" in name and "num_batches" not in name
    }
    assert not set(old) & set(state)
    old |= {name: value for name, value in state.items() if "denselayer" not in name}
    path = save_checkpoint(empty_torch_home, weights, old)
    by_name = ImageFeatures("densenet121").transform(images[:1])
    by_file = ImageFeatures("densenet121", weights=path).transform(images[:1])
    assert_close(by_file, by_name)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "ResNet50_Weights.DEFAULT", "."])
def test_weights_that_do_not_exist(images, no_network, weights):
    with pytest.raises(ValueError, match="neither one of resnet18's, 'IMAGENET1K_V1'"):
        ImageFeatures("resnet18", weights=weights).fit(images)


def test_missing_files_of_weights(tmp_path, images, no_network):
    with pytest.raises(ValueError, match=r"absent\.pth.*nor a file of weights"):
        ImageFeatures("resnet18", weights=tmp_path / "absent.pth").transform(images)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (nn.Linear(3, 3).state_dict(), "do not fit model='squeezenet1_1'"),
        ({}, "do not fit"),
        ([1, 2], "no state dict"),
        (torch.zeros(3), "no state dict"),
        ({"a": 1}, "no state dict"),
        ({"state_dict": {"a": 1}}, "no state dict"),
        ({1: torch.zeros(3)}, r"weights="),
        (nn.Linear(3, 3), "cannot be read as a state dict"),
    ],
    ids=["other", "empty", "list", "tensor", "number", "nested", "keys", "module"],
)
def test_files_that_hold_other_things(tmp_path, images, state, text):
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=text):
        ImageFeatures("squeezenet1_1", weights=tmp_path / "w.pth").transform(images)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("letter", [*"#<{.hGMqabjstu", "\0", "\x80", "PK"])
def test_files_that_are_damaged(tmp_path, images, letter):
    """What a file begins with decides in which way it cannot be read."""
    path = tmp_path / "w.pth"
    path.write_text(f"{letter} is no state dict, but a text\n" * 3, encoding="latin-1")
    with pytest.raises(ValueError, match=r"w\.pth.* cannot be read as a state dict"):
        ImageFeatures("squeezenet1_1", weights=path).transform(images)


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.99])
def test_truncated_files_of_weights(empty_torch_home, images, fraction):
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    state = network_of("squeezenet1_1").state_dict()
    path = save_checkpoint(empty_torch_home, weights, state)
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(ValueError, match=f"{path.name}' cannot be used.*delete it"):
        ImageFeatures("squeezenet1_1").transform(images)
    with pytest.raises(ValueError, match=f"{path.name}' cannot be read"):
        ImageFeatures("squeezenet1_1", weights=path).transform(images)


def test_pretrained_weights_that_are_others(empty_torch_home, images):
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    path = save_checkpoint(empty_torch_home, weights, nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match=f"{path.name}' cannot be used"):
        ImageFeatures("squeezenet1_1").transform(images)


@pytest.mark.parametrize("error", [urllib.error.URLError("away"), TimeoutError("away")])
def test_without_a_network_the_error_says_what_to_do(
    empty_torch_home, images, monkeypatch, error
):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    transformer = ImageFeatures("squeezenet1_1").fit(images)
    with pytest.raises(OSError, match="could not be downloaded") as caught:
        transformer.transform(images)
    text = str(caught.value)
    for part in (
        str(empty_torch_home / Path(weights.url).name),
        weights.url,
        "weights=None",
        "away",
    ):
        assert part in text
    assert transformer.set_params(weights=None).transform(images[:1]).shape == (1, 512)


def test_models_that_do_not_exist(images, no_network):
    with pytest.raises(ValueError, match=r"model='resnet19'.*did you mean .*resnet18"):
        ImageFeatures("resnet19").fit(images)
    with pytest.raises(ValueError, match="list_models"):
        ImageFeatures("fasterrcnn_resnet50_fpn").fit(images)


# --- Layers -----------------------------------------------------------------


@pytest.mark.parametrize("layer", ["layer3", "layer4.0.conv1", "avgpool"])
def test_a_layer_is_averaged_over_its_positions(two, layer):
    network = network_of("resnet18", seed=1)
    outputs = []
    network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: outputs.append(output.clone())
    )
    direct("resnet18", pil_images(two), network)
    (output,) = outputs
    actual = ImageFeatures("resnet18", layer=layer).transform(two)
    assert_close(actual, output.flatten(2).mean(2).numpy())


def test_the_scores_of_the_classes(two):
    network = network_of("resnet18", seed=1).eval()
    batch = torch.stack([TRANSFORMS["resnet18"](image) for image in pil_images(two)])
    actual = ImageFeatures("resnet18", layer="fc").transform(two)
    assert_close(actual, network(batch).detach().numpy())


@pytest.mark.slow
def test_tokens_are_averaged(two):
    network = network_of("vit_b_16")
    layer = "encoder.layers.encoder_layer_0"
    outputs = []
    network.get_submodule(layer).register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    direct("vit_b_16", pil_images(two[:1]), network)
    parameters = {"weights": None, "layer": layer}
    actual = ImageFeatures("vit_b_16", **parameters).transform(two[:1])
    assert actual.shape == (1, 768)
    assert_close(actual, outputs[0].mean(dim=1).numpy())


def test_layers_of_swin_with_channels_last_are_refused(two):
    features = ImageFeatures("swin_t", weights=None, layer="features.1")
    with pytest.raises(ValueError, match=r"layer='features\.1'.*last.*'permute'"):
        features.transform(two[:1])
    network = network_of("swin_t").eval()
    batch = models.Swin_T_Weights.IMAGENET1K_V1.transforms()(pil_images(two)[0])[None]
    with torch.inference_mode():
        maps = network.permute(network.norm(network.features(batch)))
    actual = features.set_params(layer="permute").transform(two[:1])
    assert_close(actual, maps.mean(dim=(2, 3)).numpy())


def test_layers_that_do_not_exist(images):
    settings = {"model": "resnet18", "weights": None}
    with pytest.raises(
        ValueError, match=r"layer='layer9'.*did you mean.*'layer\d"
    ) as e:
        ImageFeatures(layer="layer9", **settings).transform(images)
    assert "get_graph_node_names" in str(e.value)
    _, names = get_graph_node_names(network_of("resnet18").eval())
    suggested = str(e.value).split("[")[1].split("]")[0].replace("'", "").split(", ")
    assert set(suggested) <= set(names)


@pytest.mark.slow
def test_all_classification_networks_can_be_cut():
    """Those with a head of an own kind, one of each."""
    widths = {
        "alexnet": 4096,
        "densenet121": 1024,
        "shufflenet_v2_x0_5": 1024,
        "mnasnet0_5": 1280,
        "mobilenet_v2": 1280,
        "regnet_y_400mf": 440,
        "squeezenet1_0": 512,
    }
    assert set(widths) <= set(torchvision.models.list_models())
    blank = np.zeros((1, 64, 64, 3), np.uint8)
    for name, width in widths.items():
        transformer = ImageFeatures(name, weights=None)
        assert transformer.transform(blank).shape == (1, width), name


# --- A transformer of scikit-learn ------------------------------------------


def test_clones_have_the_same_parameters():
    transformer = ImageFeatures("resnet18", layer="layer3", cache="folder", n_jobs=3)
    assert clone(transformer).get_params() == transformer.get_params()
    assert clone(ImageFeatures(Tiny())).model is not None


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
    assert list(table.index) == list("abcdefg")
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


# --- Reading ahead ----------------------------------------------------------


def is_reading(thread):
    return thread.name.startswith("ThreadPoolExecutor")


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_ahead", [0, 1, 4, 100])
def test_results_are_in_order(n_threads, n_ahead):
    barrier = threading.Barrier(n_threads)  # All of them work, and none is the last.

    def square(i):
        if i < n_threads and n_ahead >= n_threads:
            barrier.wait(timeout=30)
        return i * i

    results = read_ahead(square, iter(range(40)), n_threads, n_ahead)
    assert list(results) == [i * i for i in range(40)]
    assert list(read_ahead(square, [], n_threads, n_ahead)) == []
    assert not any(map(is_reading, threading.enumerate()))


def test_at_most_so_many_results_wait():
    begun = []
    lock = threading.Lock()

    def note(i):
        with lock:
            begun.append(i)
        return i

    n_ahead = 3
    results = read_ahead(note, range(30), n_threads=4, n_ahead=n_ahead)
    assert begun == []
    for i, result in enumerate(results):
        assert result == i
        with lock:
            assert max(begun) <= i + n_ahead
    assert sorted(begun) == list(range(30))


def test_an_error_arrives_in_its_place():
    def invert(i):
        return 1 / (i - 3)

    results = read_ahead(invert, range(9), n_threads=2, n_ahead=5)
    assert [next(results) for _ in range(3)] == [1 / (i - 3) for i in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert not any(map(is_reading, threading.enumerate()))


def test_who_stops_early_has_nothing_more_run(monkeypatch):
    begun, second, cancelled = [], threading.Event(), threading.Event()

    class Executor(_reading.ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(**(options | {"wait": False}))
            cancelled.set()
            super().shutdown(**options)

    def wait(i):
        begun.append(i)
        if i == 1:
            second.set()
            cancelled.wait(timeout=30)
        return i

    monkeypatch.setattr(_reading, "ThreadPoolExecutor", Executor)
    results = read_ahead(wait, range(50), n_threads=1, n_ahead=20)
    assert next(results) == 0
    assert second.wait(timeout=30)
    results.close()
    assert cancelled.is_set()
    assert begun == [0, 1]
    assert not any(map(is_reading, threading.enumerate()))


def test_no_thread_is_left(images):
    ImageFeatures(Tiny(), n_jobs=4, batch_size=1).transform(images)
    assert not any(map(is_reading, threading.enumerate()))
    network = Output(partial(torch.mean, dim=99))
    with pytest.raises(IndexError):
        ImageFeatures(network, n_jobs=4, batch_size=1).transform(images)
    assert not any(map(is_reading, threading.enumerate()))


# --- Packages ---------------------------------------------------------------


@pytest.mark.slow
def test_the_error_says_what_to_install():
    code = "import sys, skcce; sys.modules['torch'] = None; import skcce.features"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "ImportError: skcce.features needs" in result.stderr
    assert "pip install torch torchvision" in result.stderr


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
