import re
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import pil_images
from feature_helpers import (
    TRANSFORMS,
    assert_close,
    direct,
    network_of,
)
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import get_graph_node_names

from skcce.features import ImageFeatures

pytestmark = pytest.mark.usefixtures("offline")


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


@pytest.mark.slow
def test_googlenet_is_the_same_by_name_and_by_file(empty_torch_home, images):
    """Torchvision's weights for it want the colors of the image changed."""
    weights = models.GoogLeNet_Weights.IMAGENET1K_V1
    state = network_of("googlenet", init_weights=False).state_dict()
    path = save_checkpoint(empty_torch_home, weights, state)
    by_name = ImageFeatures("googlenet").transform(images[:1])
    by_file = ImageFeatures("googlenet", weights=path).transform(images[:1])
    assert_close(by_file, by_name)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
