"""Torchvision's networks, without their classifiers, and the weights for them."""

import copy
import difflib
import functools
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.models import WeightsEnum
from torchvision.models.feature_extraction import (
    create_feature_extractor,
    get_graph_node_names,
)
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from skcce.deep._torch_state import random_numbers

# As torchvision builds them whenever there are weights.
_WITH_WEIGHTS = {
    "googlenet": {"transform_input": True},
    "inception_v3": {"transform_input": True},
}
# Transforms that only change how an image is held.
_KEEP_THE_SHAPE = (
    *(v1.ToTensor, v1.PILToTensor, v1.ToPILImage, v1.ConvertImageDtype),
    *(v2.ToImage, v2.PILToTensor, v2.ToPILImage, v2.ToDtype, v2.ToTensor),
)
# The files of DenseNet were written with other names.
_OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
# Layers of Swin that are not (n, height, width, channels).
_SWIN_LAYERS = (None, "features.0.0", "permute", "avgpool", "flatten", "head")


class NetworkSpec(NamedTuple):
    """Which of torchvision's networks is meant, and all that its features depend on."""

    name: str
    weights: WeightsEnum | None  # with a file, those that its name is that of
    file: tuple[str, int, int] | None  # path, size, and time of change
    layer: str | None  # None is what the classifier would get
    seed: int  # of random weights, where there are no others


def specify(
    name: str, weights: str | os.PathLike | None, layer: str | None, seed: int
) -> NetworkSpec:
    """Find out what is meant, without a network or a disk full of weights.

    Raises ValueError if there is no such architecture, or no such weights.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=3)
        raise ValueError(
            f"model={name!r} is none of torchvision's classification networks"
            + (f"; did you mean {' or '.join(near)}?" if near else ".")
            + " torchvision.models.list_models(module=torchvision.models) lists them."
        )
    name = name.lower()
    if name.startswith("swin") and layer not in _SWIN_LAYERS:
        # Their mean over positions would be one over other axes than elsewhere.
        raise ValueError(
            f"layer={layer!r} of {name!r} has its channels last; take one of "
            f"{_SWIN_LAYERS}."
        )
    own = list(torchvision.models.get_model_weights(name))
    if weights is None:
        return NetworkSpec(name, None, None, layer, seed)
    weights = os.fspath(weights) if isinstance(weights, os.PathLike) else str(weights)
    for member in own:
        alias = type(member).DEFAULT is member and weights == "DEFAULT"
        if alias or weights in (member.name, str(member)):
            return NetworkSpec(name, member, None, layer, seed)
    path = Path(weights).expanduser()
    if not path.is_file():
        choices = ", ".join(repr(member.name) for member in own)
        raise ValueError(
            f"weights={weights!r} is neither one of {name}'s, {choices}, "
            "'DEFAULT', nor a file of weights. weights=None means random ones."
        )
    stat = path.stat()
    file = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    member = next((m for m in own if Path(m.url).name == path.name), None)
    return NetworkSpec(name, member, file, layer, seed)


def default_preprocess(spec: NetworkSpec) -> Callable:
    """Return what prepares an image for the network: that of its (default) weights."""
    weights = spec.weights or torchvision.models.get_model_weights(spec.name).DEFAULT
    return weights.transforms()


def resized_side(preprocess: Callable) -> int | None:
    """Return what `preprocess` resizes the shorter side of an image to, if it tells.

    Torchvision's presets do, and its Resize, if nothing that may change the shape of an
    image comes before.
    """
    for part in _steps(preprocess):
        if isinstance(part, ImageClassification):
            size = part.resize_size
        elif isinstance(part, (v1.Resize, v2.Resize)) and part.max_size is None:
            size = part.size
        elif isinstance(part, _KEEP_THE_SHAPE):
            continue
        else:
            return None
        sides = [size] if isinstance(size, int) else list(size)
        return sides[0] if len(sides) == 1 else None
    return None


def _steps(transform: Callable) -> Iterator[Callable]:
    """Yield a transform, or those that it consists of, in order."""
    if isinstance(transform, (v1.Compose, v2.Compose)):
        transform = transform.transforms
    if isinstance(transform, (list, nn.Sequential)):
        for step in transform:
            yield from _steps(step)
    else:
        yield transform


# Clones and estimators of equal parameters share the network; two, so that a loop over
# a pair of them does not load them again and again.
@functools.lru_cache(maxsize=2)
def load(spec: NetworkSpec, device: torch.device) -> nn.Module:
    """Build the network that `spec` means, in evaluation mode.

    Raises OSError if weights are neither there nor can be downloaded, and ValueError if
    they do not fit the network, or there is no such layer.
    """
    with random_numbers(spec.seed, torch.device("cpu")), warnings.catch_warnings():
        # Of how the weights of GoogLeNet will one day be drawn.
        warnings.simplefilter("ignore", FutureWarning)
        if spec.file is not None:
            network = _with_file(spec)
        elif spec.weights is not None:
            network = _with_weights(spec)
        else:
            network = torchvision.models.get_model(spec.name, weights=None)
    return _cut(network.eval(), spec.layer).to(device)


def cut_own(module: nn.Module, layer: str | None, device: torch.device) -> nn.Module:
    """Return a copy of the user's `module`, in evaluation mode, up to `layer`."""
    module = copy.deepcopy(module).eval()
    return (module if layer is None else _up_to(module, layer)).to(device)


@torch.inference_mode()
def features(network: nn.Module, batch: Tensor) -> Tensor:
    """Compute one vector for each image of a batch.

    Maps of features (n, d, H, W) are averaged over their positions, as are tokens
    (n, t, d); anything else is flattened.
    """
    output = network(batch)
    if isinstance(output, Mapping) and len(output) == 1:
        (output,) = output.values()
    is_tensor = isinstance(output, Tensor)
    if not is_tensor or output.shape[:1] != batch.shape[:1]:
        found = f"shape {tuple(output.shape)}" if is_tensor else type(output).__name__
        raise ValueError(
            f"model must map {len(batch)} images to a tensor of as many rows, it gives "
            f"{found}."
        )
    if output.ndim == 4:
        output = output.mean(dim=(2, 3))
    elif output.ndim == 3:
        output = output.mean(dim=1)
    return output.reshape(len(output), -1).float()


def _with_weights(spec: NetworkSpec) -> nn.Module:
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(spec.weights.url).name
    was_there = path.exists()
    try:
        return torchvision.models.get_model(spec.name, weights=spec.weights)
    except Exception as error:  # of the network, the disk, or the file's content
        if was_there:
            raise ValueError(
                f"The weights in {str(path)!r} cannot be used: {error!r}. If the file "
                "is damaged, delete it, and it is downloaded again."
            ) from error
        raise OSError(
            f"The weights {spec.weights} are not on this machine, and could not be "
            f"downloaded ({error}). The file looked for is {str(path)!r}: put "
            f"{spec.weights.url} there, or elsewhere and pass its path as weights=. "
            "weights=None gives random weights: enough to try a pipeline out, but the "
            "features mean little."
        ) from error


def _with_file(spec: NetworkSpec) -> nn.Module:
    """Build a network with the state dict of a file, its own classes and all."""
    state = _read_state(spec.file[0])
    options = _WITH_WEIGHTS.get(spec.name, {})
    network = torchvision.models.get_model(spec.name, weights=None, **options)
    head = _classifier(network)
    own = network.get_submodule(head).weight
    n_classes = len(state.get(f"{head}.weight", own))
    if n_classes != len(own):
        network = torchvision.models.get_model(
            spec.name, weights=None, num_classes=n_classes, **options
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        text = textwrap.shorten(str(error), 300)
        raise ValueError(
            f"weights={spec.file[0]!r} do not fit model={spec.name!r}: {text}"
        ) from error
    return network


def _read_state(path: str) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(
            f"weights={path!r} cannot be read as a state dict, as "
            "torch.save(model.state_dict(), path) writes it: "
            f"{textwrap.shorten(repr(error), 300)}"
        ) from error
    for key in ("state_dict", "model"):  # as training scripts nest it
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor)
        for name, value in state.items()
    ):
        raise ValueError(f"weights={path!r} holds no state dict.")
    return {
        _OLD_NAMES.sub(r"\1\2", name.removeprefix("module.")): value
        for name, value in state.items()
    }


def _cut(network: nn.Module, layer: str | None) -> nn.Module:
    """Return one of torchvision's networks without what comes after `layer`."""
    if layer is not None:
        return _up_to(network, layer)
    parent, _, child = _classifier(network).rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network


def _classifier(network: nn.Module) -> str:
    """Name the layer that makes scores of classes, the last one with weights."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not name.startswith("aux")
    ][-1]


def _up_to(module: nn.Module, layer: str) -> nn.Module:
    try:
        return create_feature_extractor(
            module, {layer: "features"}, suppress_diff_warning=True
        )
    except Exception as error:  # tracing runs the user's code
        is_untraced = isinstance(error, torch.fx.proxy.TraceError)
        if is_untraced or not isinstance(error, ValueError):
            raise ValueError(
                f"layer={layer!r} cannot be cut out of the model, whose forward cannot "
                f"be traced ({error}). Give a model that ends there, and layer=None."
            ) from error
        _, names = get_graph_node_names(module, suppress_diff_warning=True)
        near = difflib.get_close_matches(layer, names, n=5, cutoff=0.3)
        raise ValueError(
            f"layer={layer!r} is no layer of this network; did you mean one of {near}? "
            "torchvision.models.feature_extraction.get_graph_node_names lists them; "
            f"the last ones are {names[-5:]}."
        ) from error
