"""The transformer: from images of any kind to rows of features."""

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from numbers import Integral
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.transforms.functional import pil_to_tensor

from skcce._images import (
    check_image,
    image_sequence,
    path_of,
    read_image,
    size_of,
)
from skcce._progress import progress_bar
from skcce._reading import attempt, bad_images, read_each
from skcce._threads import count_threads, in_threads
from skcce.deep._description import describe
from skcce.deep._torch_state import resolve_device, single_threads
from skcce.features._cache import FeatureCache
from skcce.features._networks import (
    cut_own,
    default_preprocess,
    features,
    load,
    resized_side,
    specify,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from tqdm import tqdm

__all__ = ["ImageFeatures"]

# Part of every key: raise it when the same settings begin to give other features.
_CACHE_VERSION = 2
# On the CPU, small batches that each go through the network in one thread, several of
# them at a time, took half of the time of large ones that all threads share.
_CPU_BATCH = 8
# Pixels that an image may be resized to, if it does not have more: 100 MB of bytes.
_MOST_PIXELS = 2**25


class ImageFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn images into rows of features, by a pretrained network of torchvision.

    Each image is prepared as the weights ask for (resized, cropped, normalized), and
    goes through the network, in evaluation mode, up to a layer; its output is the row.
    The transformer is stateless: nothing is learned from the images, so that features
    may be computed before data are split without a leak.

    Parameters
    ----------
    model : str or torch.nn.Module, default="resnet50"
        Any of torchvision's classification networks
        (``torchvision.models.list_models(module=torchvision.models)``), or a module of
        your own, which maps prepared images (n, C, H, W) to n rows.
    weights : str, path-like, WeightsEnum or None, default="DEFAULT"
        Pretrained weights: the name of one of torchvision's, ``"IMAGENET1K_V2"`` or
        ``"ResNet50_Weights.IMAGENET1K_V2"``, or ``"DEFAULT"``, the best ones; or the
        path of a file with a state dict. (A file of torchvision's should keep its name:
        it tells how images are prepared for it.) They are downloaded once, to torch's
        cache. None means random weights, whose features mean little. A module of your
        own has its weights, and takes the default here.
    layer : str or None, default=None
        Where the features are taken from: a layer or node of the network, as
        ``torchvision.models.feature_extraction.get_graph_node_names`` names them, such
        as ``"layer3"``. None is the input of the last layer, which makes the scores of
        the classes; of your own module, its output.
    preprocess : callable or None, default=None
        Maps an image, a PIL image in RGB or a float tensor (3, H, W), to the tensor
        (C, H, W) that the network gets. None is what the weights ask for,
        ``weights.transforms()``; for a module of your own it makes a tensor from 0 to
        1, and no more.
    batch_size : int, default=64
        Images that go through the network at a time; on the CPU, of each thread, and at
        most 8.
    n_jobs : int or None, default=-1
        Threads that read and prepare images while others wait for the network. On the
        CPU, each of them also computes, with one thread of torch. -1 means one for each
        core.
    device : str or torch.device, default="auto"
        Where the network computes. "auto" is the GPU ("cuda") if there is one, or else
        the CPU.
    cache : str, path-like or None, default=None
        Folder to keep features in, such as ``"~/.cache/skcce"``, image by image. An
        image is known again by the path, size and time of change of its file, or by its
        pixels if it is no file; its features by all parameters that they depend on. A
        module of your own is known by its layers, its weights and all other attributes:
        empty the folder when you change its code. If there is an attribute that cannot
        be told from others, such as a generator, nothing is kept. Several processes may
        share the folder.
    cache_size : int, default=4_000_000_000
        Bytes that the cache may have; if it is full, what was not used for the longest
        time goes.
    on_error : {"raise", "skip"}, default="raise"
        What to do about images that cannot be read: name all of them in one error,
        before the network begins; or warn, and leave their rows NaN.
    random_state : int, default=0
        Seed of the random weights, if `weights` is None.
    verbose : int, default=0
        1 shows a progress bar.

    See Also
    --------
    skcce.deep.DeepSoftmax : Trains a network while it clusters.

    Notes
    -----
    Files and arrays of 8 bits take the same way, through PIL in RGB, and give the same
    features; floats, from 0 to 1, are resized as tensors, which differs by rounding.
    :doc:`/images` says what an image may be. Several threads read them, and on the CPU
    call the network; give ``n_jobs=1`` if your data set or your own module cannot stand
    that.

    A layer that gives maps of features (n, C, H, W) is averaged over positions, and one
    that gives tokens (n, tokens, C), over the tokens; other outputs are flattened.

    The network is loaded when it is first needed, shared by all estimators of the same
    parameters, and left out of pickles. Its modes and weights, and a module of your
    own, are never changed.

    Repeated calls give the same bits, whatever the number of threads. Another batch
    size or device changes the last digits; so does a cache that holds some of a batch.

    With ``on_error="skip"`` the rows stay aligned with the images and with `y`. Drop
    those of NaN, or put ``sklearn.impute.SimpleImputer()`` behind.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from skcce.features import ImageFeatures
    >>> photos = load_sample_images().images
    >>> features = ImageFeatures("resnet18", weights=None)
    >>> features.transform(photos).shape
    (2, 512)
    """

    _parameter_constraints: ClassVar[dict] = {
        "model": [str, nn.Module],
        "weights": [str, os.PathLike, WeightsEnum, None],
        "layer": [str, None],
        "preprocess": [callable, None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Integral, None],
        "device": [str, torch.device],
        "cache": [str, os.PathLike, None],
        "cache_size": [Interval(Integral, 1, None, closed="left")],
        "on_error": [StrOptions({"raise", "skip"})],
        "random_state": [Interval(Integral, 0, 2**32 - 1, closed="both")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        model: str | nn.Module = "resnet50",
        *,
        weights: str | os.PathLike | WeightsEnum | None = "DEFAULT",
        layer: str | None = None,
        preprocess: Callable | None = None,
        batch_size: int = 64,
        n_jobs: int | None = -1,
        device: str | torch.device = "auto",
        cache: str | os.PathLike | None = None,
        cache_size: int = 4_000_000_000,
        on_error: Literal["raise", "skip"] = "raise",
        random_state: int = 0,
        verbose: int = 0,
    ):
        self.model = model
        self.weights = weights
        self.layer = layer
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.cache = cache
        self.cache_size = cache_size
        self.on_error = on_error
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: object = None) -> Self:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : images
            As for ``transform``; only looked at from outside.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : ImageFeatures
            The transformer.

        Raises
        ------
        ValueError, TypeError
            If a parameter is wrong, or `X` holds no images.
        """
        self._validate_params()
        self._source()
        image_sequence(X)
        return self

    def transform(self, X: Any) -> NDArray:
        """Compute the features of images, or look them up.

        Parameters
        ----------
        X : images
            Paths or PIL images, in a list, an array or a Series; arrays or tensors of
            shape (n, H, W), (n, H, W, C) or (n, C, H, W), or a list of single ones; or
            a torch data set with a length.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Features, of float32; NaN in the rows of images that were skipped.

        Raises
        ------
        ValueError
            If images cannot be read, or are so narrow that torchvision's transforms
            would resize them to more than 33 million pixels: all of them are named, and
            none was computed. Or if a parameter is wrong.
        TypeError
            If `X` is something else.
        OSError
            If the weights can neither be found nor downloaded.

        Warns
        -----
        UserWarning
            If images were skipped, or the cache cannot be used.
        """
        self._validate_params()
        source = self._source()
        images, bad = image_sequence(X), {}

        def check(item: Any) -> None:
            _check_resized(check_image(item), source.target)

        if source.unknown and self.cache is not None:
            warnings.warn(
                f"The cache {os.fspath(self.cache)!r} is not used: model cannot be "
                f"told from other ones ({source.unknown}).",
                stacklevel=3,
            )
        folder = None if source.unknown else self.cache
        with FeatureCache(folder, self.cache_size) as cache:
            look, rows = partial(_look, source), range(len(images))
            seen = dict(self._read(look, images, rows, "reading", bad))
            keys = {i: key for i, (key, _) in seen.items()}
            known = cache.read(keys.values())
            if len({len(vector) for vector in known.values()}) > 1:
                known = {}  # not all of them can be whole
            todo = [i for i, key in keys.items() if key not in known]
            unread = [i for i in todo if not seen[i][1]]
            deque(self._read(check, images, unread, "checking", bad), maxlen=0)
            if self.on_error == "raise":
                self._report(bad, len(images))
            vectors = {i: known[key] for i, key in keys.items() if key in known}
            todo = [i for i in todo if i not in bad]
            for batch in self._compute(images, todo, source, bad):
                vectors |= batch
                cache.write({keys[i]: vector for i, vector in batch.items()})
        self._report(bad, len(images))
        self._width = source.key, len(next(iter(vectors.values())))
        rows = np.full((len(images), self._width[1]), np.nan, dtype=np.float32)
        for i, vector in vectors.items():
            rows[i] = vector
        return rows

    @property
    def _n_features_out(self) -> int:
        source = self._source()
        key, width = getattr(self, "_width", (None, None))
        if key == source.key:
            return width
        blank = source.prepare(np.zeros((64, 64, 3), np.uint8))[None]
        return features(source.build(), blank.to(source.device)).shape[1]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _source(self) -> "_Source":
        """Resolve the parameters; nothing is loaded yet."""
        if self.n_jobs == 0:
            raise ValueError("n_jobs=0 must be positive, or -1 for all cores.")
        device = resolve_device(self.device)
        unknown = ""
        if isinstance(self.model, nn.Module):
            if self.weights not in ("DEFAULT", None):
                raise ValueError(
                    f"weights={self.weights!r} are for a model that is given by name; "
                    "load them into your own model."
                )
            preprocess = self.preprocess or _as_tensor
            try:
                key = f"{describe(self.model)} {self.layer!r}"
            except TypeError as error:
                key, unknown = f"{id(self.model)} {self.layer!r}", str(error)
            build = partial(cut_own, self.model, self.layer, device)
        else:
            spec = specify(self.model, self.weights, self.layer, self.random_state)
            preprocess = self.preprocess or default_preprocess(spec)
            key = f"{spec} {torchvision.__version__}"
            build = partial(load, spec, device)
        is_custom = self.preprocess is not None
        target = resized_side(preprocess)
        read = partial(_read_checked, target, check_range=not is_custom)
        return _Source(
            key=os.fsencode(f"{_CACHE_VERSION} {torch.__version__} {key}"),
            read=read,
            target=target,
            prepare=partial(_prepare, read, preprocess),
            build=build,
            device=device,
            key_by_output=is_custom and self.cache is not None,
            unknown=unknown,
        )

    def _compute(
        self,
        images: Sequence,
        rows: list[int],
        source: "_Source",
        bad: dict[int, str],
    ) -> Iterator[dict[int, NDArray]]:
        """Yield the features of each batch of images, by their row.

        Note in `bad` those that could not be prepared after all.
        """
        if not rows:
            return
        network = source.build()
        on_cpu = source.device.type == "cpu"
        size = min(self.batch_size, _CPU_BATCH) if on_cpu else self.batch_size
        n_threads = count_threads(self.n_jobs)
        # Or the memory of a GPU would hold as many batches as there are threads.
        turn = nullcontext() if on_cpu else Lock()

        def work(part: slice) -> tuple[dict, dict]:
            outcomes = {i: attempt(source.prepare, images, i) for i in rows[part]}
            failed = {i: reason for i, (_, reason) in outcomes.items() if reason}
            good = {i: x for i, (x, _) in outcomes.items() if i not in failed}
            if not good:
                return {}, failed
            with turn:
                values = features(network, _stack(good).to(source.device)).cpu()
            return dict(zip(good, values.numpy(), strict=True)), failed

        with self._bar("features", len(rows)) as bar, single_threads() as limit:
            parts = gen_batches(len(rows), size)
            batch = {}
            for done, failed in in_threads(work, parts, n_threads, n_threads, limit):
                bad |= failed
                if self.on_error == "raise":
                    self._report(bad, len(images))
                batch |= done
                bar.update(len(done) + len(failed))
                if len(batch) >= self.batch_size:
                    yield batch
                    batch = {}
            yield batch

    def _read(
        self,
        function: Callable,
        images: Sequence,
        rows: Sequence[int],
        title: str,
        bad: dict[int, str],
    ) -> Iterator[tuple[int, Any]]:
        """Yield rows, and what `function` makes of their images, behind a bar."""
        n_threads = count_threads(self.n_jobs)
        with self._bar(title, len(rows), leave=False) as bar:
            yield from read_each(function, images, rows, bad, n_threads, bar.update)

    def _bar(self, title: str, n_images: int, *, leave: bool = True) -> "tqdm":
        return progress_bar(
            self.verbose,
            total=n_images,
            desc=title,
            unit=" images",
            delay=1,  # what takes no time needs no bar
            leave=leave,
        )

    def _report(self, bad: dict[int, str], n_images: int) -> None:
        """Raise, or warn, because of images that cannot be read."""
        if not bad:
            return
        if self.on_error == "raise" or len(bad) == n_images:
            is_choice = len(bad) < n_images
            hint = '. on_error="skip" leaves their rows NaN.' if is_choice else "."
            raise ValueError(bad_images(bad, n_images, hint))
        warnings.warn(bad_images(bad, n_images, ", their rows are NaN:"), stacklevel=4)


class _Source(NamedTuple):
    """Where features come from."""

    key: bytes  # changes with all that features depend on, but for the image
    read: Callable[[Any], "Image | NDArray"]  # the image of an item
    target: int | None  # what an image's shorter side is resized to, if that is known
    prepare: Callable[[Any], Tensor]  # what the network gets of an item, (C, H, W)
    build: Callable[[], nn.Module]  # the network
    device: torch.device
    key_by_output: bool  # are images known by what `prepare`, no part of `key`, gives?
    unknown: str  # what keeps the model from being told from others, or ""


def _look(source: _Source, item: Any) -> tuple[bytes, bool]:
    """Return what an image is known by, and whether all of it was read for that.

    A file is looked at from outside; of another image, the pixels count.
    """
    path = None if source.key_by_output else path_of(item)
    if source.key_by_output:
        content = source.prepare(item).contiguous().numpy()
    elif path is not None:
        stat = os.stat(path)
        text = f"{os.path.abspath(path)} {stat.st_size} {stat.st_mtime_ns}"
        content = np.frombuffer(os.fsencode(text), np.uint8)
    else:
        content = np.asarray(source.read(item))
    digest = hashlib.blake2b(source.key, digest_size=16)
    digest.update(f"{content.dtype} {content.shape}".encode())
    digest.update(content)
    return digest.digest(), path is None


def _check_resized(size: tuple[int, int], target: int | None) -> None:
    """Raise ValueError if an image is so narrow that resizing would blow it up.

    A file of 138 bytes may hold 20,000 x 1 pixels; with a shorter side of 256, these
    become 1.3 billion.
    """
    n_resized = max(size) / min(size) * (target or 0) ** 2
    if n_resized > max(_MOST_PIXELS, size[0] * size[1]):
        raise ValueError(
            f"{size[0]} x {size[1]} pixels is too narrow: with its shorter side "
            f"resized to {target}, it would have {n_resized:.2g} pixels; crop it"
        )


def _read_checked(
    target: int | None, item: Any, *, check_range: bool
) -> "Image | NDArray":
    image = read_image(item)
    if check_range and isinstance(image, np.ndarray):
        least, most = image.min(), image.max()
        if least < 0 or most > 1:
            raise ValueError(
                f"images of floats must be from 0 to 1, these are from {least:g} to "
                f"{most:g}; divide them, or convert them to uint8"
            )
    _check_resized(size_of(image), target)
    return image


def _prepare(read: Callable, preprocess: Callable, item: Any) -> Tensor:
    image = read(item)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image).movedim(2, 0)
    prepared = preprocess(image)
    if not isinstance(prepared, Tensor) or prepared.ndim != 3:
        shape = tuple(getattr(prepared, "shape", ()))
        raise TypeError(
            "preprocess must return a tensor of shape (C, H, W), got "
            f"{type(prepared).__name__}{f' of shape {shape}' if shape else ''}"
        )
    return prepared


def _as_tensor(image: "Image | Tensor") -> Tensor:
    return image if isinstance(image, Tensor) else pil_to_tensor(image) / 255


def _stack(prepared: dict[int, Tensor]) -> Tensor:
    shapes = {i: tuple(tensor.shape) for i, tensor in prepared.items()}
    if len(set(shapes.values())) > 1:
        first, *_ = shapes
        other = next(i for i, shape in shapes.items() if shape != shapes[first])
        raise ValueError(
            f"Images {first} and {other} have shapes {shapes[first]} and "
            f"{shapes[other]} when they are prepared; preprocess must bring all to "
            "one size."
        )
    return torch.stack(list(prepared.values()))
