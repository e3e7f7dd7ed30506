"""Images of any kind, one at a time: files, PIL images, arrays, tensors, data sets."""

import os
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

# What PIL calls grey, color, and color with alpha, by the number of channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# The same PIL image may be in a list twice, and must not be loaded by two threads.
_LOCKS = [Lock() for _ in range(64)]


def image_sequence(X: Any) -> Sequence:
    """Return something with a length whose items are what :func:`read_image` takes.

    `X` holds paths or PIL images, in a list, an array, a Series or a table of one
    column; or it is an array or tensor of shape (n, H, W), (n, H, W, C) or
    (n, C, H, W), or a list of single ones; or a map-style data set of any of these, or
    of tuples that begin with one. Nothing is read or copied. Raises TypeError or
    ValueError if `X` is something else, or empty.
    """
    if isinstance(X, (str, bytes, os.PathLike)):
        raise TypeError(
            f"X must hold several images, got the single path {os.fspath(X)!r}. For a "
            "folder, pass sorted(pathlib.Path(folder).rglob('*.jpg'))."
        )
    is_container = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    is_stream = "IterableDataset" in [cls.__name__ for cls in type(X).__mro__]
    if isinstance(X, dict) or is_stream or not is_container:
        raise TypeError(
            "X must hold images: a list of paths or of PIL images, an array, or a data "
            f"set with __len__ and __getitem__, got {type(X).__name__}. Turn a "
            "generator into a list; for a DataLoader, pass its dataset."
        )
    if hasattr(X, "to_numpy"):  # a Series, or a table of which only one column counts
        X = X.to_numpy()
    shape = getattr(X, "shape", None)
    if isinstance(X, np.ndarray) and not is_block(X):
        if len(shape) == 2 and shape[1] == 1:
            X = X.ravel()
        elif len(shape) != 1:
            raise ValueError(f"X must be one column of images, got shape {shape}.")
    elif shape is not None and len(shape) not in (3, 4):
        raise ValueError(
            "Images must have shape (n, H, W), (n, H, W, C) or (n, C, H, W), got "
            f"{tuple(shape)}."
        )
    elif shape is not None and len(shape) == 3 and shape[2] in (3, 4):
        raise ValueError(
            f"Images of shape {tuple(shape)} look like a single one. Pass X[None]."
        )
    if len(X) == 0:
        raise ValueError(
            "Found 0 samples in X, while a minimum of 1 is required. If X holds paths, "
            "does the pattern fit the names of the files?"
        )
    return X


def is_table(X: Any) -> bool:
    """Tell whether `X` is meant to have rows and columns of numbers, not images."""
    if len(getattr(X, "shape", ())) in (3, 4):
        return False
    if hasattr(X, "to_numpy"):
        X = X[:1].to_numpy()
    if hasattr(X, "shape") or hasattr(X, "__array__"):
        is_objects = isinstance(X, np.ndarray) and not is_block(X)
        if not is_objects or X.shape[1:] not in ((), (1,)):
            return True
        X = X.ravel()[:1].tolist()
    if not isinstance(X, (list, tuple)):
        return False
    first = X[0] if len(X) else None
    is_image = isinstance(first, (str, os.PathLike, tuple)) or hasattr(first, "convert")
    return not is_image and np.ndim(first) < 2


def is_block(X: Any) -> bool:
    """Tell whether `X` is one array or tensor of pixels, not of paths or of objects."""
    if isinstance(X, np.ndarray):
        return X.dtype.kind in "biufc"
    return hasattr(X, "shape") and hasattr(X, "dtype")


def path_of(item: Any) -> str | None:
    """Return the path that an item of a sequence is, or begins with, if it is one."""
    item = _image_of(item)
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else None


def check_image(item: Any) -> tuple[int, int]:
    """Raise what :func:`read_image` would, at less cost, or return width and height.

    A truncated file is found, because all of it is decoded; but of JPEG, only to an
    eighth of the size.
    """
    path = path_of(item)
    if path is None:
        return size_of(read_image(item))
    from PIL import Image

    orientation = None
    with Image.open(path) as image:
        size = image.size
        image.draft(None, (1, 1))
        _convert(image, 3)
        with suppress(Exception):
            orientation = image.getexif().get(0x0112)
    return size[::-1] if orientation in (5, 6, 7, 8) else size


def size_of(image: "Image | NDArray") -> tuple[int, int]:
    """Return width and height of what :func:`read_image` returned."""
    return image.shape[1::-1] if isinstance(image, np.ndarray) else image.size


def read_image(item: Any) -> "Image | NDArray":
    """Read an image as :func:`read_pixels` in color, one of bytes as a PIL image."""
    image = _decode(item, 3)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        from PIL import Image

        image = Image.fromarray(image)
    return image


def read_pixels(item: Any, channels: int | None) -> NDArray:
    """Read an image as an array (H, W, channels), of uint8, or of float32.

    `item` is a path, a PIL image, or an array or tensor of shape (H, W), (H, W, C) or
    (C, H, W); or a tuple that begins with one. If `channels` is None, there are as many
    as the image has. For 3, grey is repeated, and alpha is dropped. Files and PIL
    images are also converted to grey for 1, and to RGBA for 4; of other images, that is
    a mistake. Cameras' rotations are undone, bool becomes 0 and 255, 16 bits are
    reduced to 8; floats stay as they are.

    Raises OSError if a file cannot be read or holds no image, and TypeError or
    ValueError if `item` is no image, or one with other channels.
    """
    pixels = np.asarray(_decode(item, channels))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def channel_axis(
    sides: tuple[int, ...], channels: int | None, *, prefer_last: bool
) -> int | None:
    """Return the axis of channels in (n, *sides), None if there is none.

    Where both ends would do, arrays have their channels last, and tensors first.
    """
    if 0 in sides:
        raise ValueError(f"Images of shape {sides} have no pixels.")
    axes = (3, 1) if prefer_last else (1, 3)
    # What can be turned into color counts where there is none.
    for counts in {None: [(1, 3, 4)], 3: [(3,), (1, 4)]}.get(channels, [(channels,)]):
        if len(sides) == 2 and 1 in counts:
            return None
        for axis in axes:
            if len(sides) == 3 and sides[axis - 1] in counts:
                return axis
    if channels is None and len(sides) == 3:
        return axes[0]
    wanted = "1, 3 or 4" if channels == 3 else channels
    raise ValueError(
        f"Images of shape {sides} must have as many channels as the network takes, "
        f"{wanted}, first or last."
    )


def as_pixels(array: NDArray) -> NDArray:
    """Return a copy of images of any dtype as uint8 or float32.

    Raises ValueError if they are of another one than bool, uint8, uint16 or a float.
    """
    kind, n_bytes = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):
            return np.array(array, np.float32, order="C")
    if kind == "b":
        return np.uint8(255) * array
    if kind != "u" or n_bytes > 2:
        raise ValueError(
            "images must be of uint8, from 0 to 255, of bool, of uint16, or of floats, "
            f"not of {array.dtype}; convert them, for instance with X.astype(np.uint8)"
        )
    return _to_8_bits(array) if n_bytes == 2 else np.array(array, order="C")


def with_channels(pixels: Any, channels: int | None) -> Any:
    """Repeat grey, or drop alpha, if 3 channels are wanted.

    `pixels` is an array or a tensor of shape (..., C) that :func:`channel_axis` has
    accepted.
    """
    found = pixels.shape[-1]
    if channels != 3 or found == 3:
        return pixels
    return pixels[..., [0, 0, 0]] if found == 1 else pixels[..., :3]


def why_unread(item: Any, error: Exception) -> str:
    """Say what is wrong with an image, and of a file, with which."""
    reason = getattr(error, "strerror", None) or str(error) or repr(error)
    path = path_of(item)
    return f"{path}: {reason}" if path else reason


def _image_of(item: Any) -> Any:
    """Return the image of a pair of image and class; an image as it is."""
    return item[0] if isinstance(item, (tuple, list)) and len(item) > 0 else item


def _decode(item: Any, channels: int | None) -> "Image | NDArray":
    """Return a PIL image, or an array (H, W, channels) of uint8 or float32."""
    if (path := path_of(item)) is not None:
        from PIL import Image

        with Image.open(path) as image:
            return _convert(image, channels)
    item = _image_of(item)
    if hasattr(item, "convert"):
        return _convert(item, channels)
    if hasattr(item, "detach"):  # a tensor
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item
        return _arrange(item.numpy(), channels, prefer_last=False)
    if isinstance(item, np.ndarray):
        return _arrange(item, channels, prefer_last=True)
    raise TypeError(
        "an image is a path, a PIL image, or an array or tensor of 2 or 3 dimensions, "
        f"got {type(item).__name__}"
    )


def _convert(image: "Image", channels: int | None) -> "Image | NDArray":
    """Return a copy of a PIL image with these channels, the right way up."""
    from PIL import Image, ImageOps

    if channels not in (None, *_MODES):
        raise ValueError(f"files and PIL images have no {channels} channels")
    with _LOCKS[id(image) // 64 % len(_LOCKS)]:
        image.load()
    with suppress(Exception):  # a damaged note of the rotation is no damaged image
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        return _arrange(np.asarray(image), channels, prefer_last=True)
    if image.mode.startswith("I"):
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    own = {"1": 1, "L": 1, "LA": 1, "RGBA": 4}.get(image.mode, 3)
    if "transparency" in image.info:
        # Pillow warns of a palette with transparency if it is dropped at once.
        image = image.convert("RGBA")
    return image.convert(_MODES[channels or own])


def _to_8_bits(values: NDArray) -> NDArray:
    """Reduce integers of 16 bits, from 0 to 65535, to 8 bits."""
    least, largest = values.min(), values.max()
    if least < 0 or largest > 65535:
        raise ValueError(
            f"values from {least} to {largest}; images of {values.dtype} must be from "
            "0 to 65535"
        )
    return np.round(values * (255 / 65535)).astype(np.uint8)


def _arrange(array: NDArray, channels: int | None, *, prefer_last: bool) -> NDArray:
    """Bring the array of a single image to (H, W, channels)."""
    if array.ndim not in (2, 3):
        raise ValueError(f"an image has 2 or 3 dimensions, got shape {array.shape}")
    pixels = as_pixels(array)
    axis = channel_axis(array.shape, channels, prefer_last=prefer_last)
    pixels = pixels[..., None] if axis is None else np.moveaxis(pixels, axis - 1, -1)
    if pixels.dtype != np.uint8 and not np.isfinite(pixels).all():
        raise ValueError("contains NaN or infinity")
    return np.ascontiguousarray(with_channels(pixels, channels))
