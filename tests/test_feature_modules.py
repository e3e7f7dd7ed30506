from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import pil_images
from feature_helpers import (
    Colors,
    Output,
    Tiny,
    assert_close,
    direct,
    network_of,
    tiny,
)
from numpy.testing import assert_array_equal
from PIL import Image
from torch import nn

from skcce.features import ImageFeatures

pytestmark = pytest.mark.usefixtures("offline")


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
