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

# Where a network does not tell how many channels it takes: grey, color, with alpha.
USUAL_CHANNELS = (1, 3, 4)
# The same PIL image may be in a list twice, and must not be loaded by two threads.
_LOCKS = [Lock() for _ in range(64)]


def image_sequence(X: Any) -> Sequence:
    """Return something with a length whose items are single images.

    Parameters
    ----------
    X : array-like
        Paths or PIL images, in a list, an array, a Series or a table of one column;
        arrays or tensors of shape (n, H, W), (n, H, W, C) or (n, C, H, W); a list of
        single ones; or a map-style data set of any of these, or of tuples that begin
        with one.

    Returns
    -------
    sequence
        What :func:`read_image` takes, item by item. Nothing is read or copied.

    Raises
    ------
    TypeError, ValueError
        If `X` is something else, or empty.
    """
    if isinstance(X, (str, bytes, os.PathLike)):
        raise TypeError(
            f"X must hold several images, got the single path {os.fspath(X)!r}. For a "
            "folder, pass sorted(pathlib.Path(folder).rglob('*.jpg'))."
        )
    if isinstance(X, dict) or not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise TypeError(
            "X must hold images: a list of paths or of PIL images, an array, or a data "
            f"set with __len__ and __getitem__, got {type(X).__name__}. Of a generator "
            "make a list; of a DataLoader, pass the dataset."
        )
    if hasattr(X, "to_numpy"):  # a Series, or a table of which only one column counts
        X = X.to_numpy()
    shape = getattr(X, "shape", None)
    if shape is not None and not _is_numeric(X):
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


def path_of(item: Any) -> str | None:
    """Return the path that an item of a sequence is, or begins with, if it is one."""
    item = _image_of(item)
    return os.fspath(item) if isinstance(item, (str, os.PathLike)) else None


def check_file(path: str) -> tuple[int, int]:
    """Raise what :func:`read_image` would, at less cost, or return width and height.

    A truncated file is found, because all of it is decoded; but of JPEG, only to an
    eighth of the size.
    """
    from PIL import Image

    with Image.open(path) as image:
        size = image.size
        image.draft(None, (1, 1))
        _as_rgb(image)
    return size


def size_of(image: "Image | NDArray") -> tuple[int, int]:
    """Return width and height of what :func:`read_image` returned."""
    return image.shape[1::-1] if isinstance(image, np.ndarray) else image.size


def read_image(item: Any) -> "Image | NDArray":
    """Read a single image, and bring it into one of two forms.

    Parameters
    ----------
    item : path, PIL image, array or tensor, or a tuple that begins with one
        Arrays have shape (H, W), (H, W, C) or (C, H, W), where C is 1, 3 or 4.

    Returns
    -------
    PIL.Image or ndarray of shape (H, W, 3)
        A PIL image in mode RGB; of floats, float32 as they are, not scaled. Cameras'
        rotations are undone, 16 bits are reduced to 8, and an alpha channel is dropped,
        as torchvision's own loader does.

    Raises
    ------
    OSError
        If a file cannot be read, or holds no image.
    TypeError, ValueError
        If `item` is no image.
    """
    if (path := path_of(item)) is not None:
        from PIL import Image

        with Image.open(path) as image:
            return _as_rgb(image)
    item = _image_of(item)
    if hasattr(item, "convert"):
        return _as_rgb(item)
    if hasattr(item, "detach"):  # a tensor
        item = item.detach().cpu()
        item = item.float() if item.is_floating_point() else item
        return _array_as_image(item.numpy(), prefer_last=False)
    if isinstance(item, np.ndarray):
        return _array_as_image(item, prefer_last=True)
    raise TypeError(
        "an image is a path, a PIL image, or an array or tensor of 2 or 3 dimensions, "
        f"got {type(item).__name__}"
    )


def channel_axis(
    sides: tuple[int, ...], channels: int | None, *, prefer_last: bool
) -> int | None:
    """Return the axis of channels in (n, *sides), None if there is none.

    Where both ends would do, arrays have their channels last, and tensors first.
    """
    if 0 in sides:
        raise ValueError(f"Images of shape {sides} have no pixels.")
    wanted = USUAL_CHANNELS if channels is None else (channels,)
    if len(sides) == 2 and 1 in wanted:
        return None
    axes = (3, 1) if prefer_last else (1, 3)
    for axis in axes:
        if len(sides) == 3 and sides[axis - 1] in wanted:
            return axis
    if channels is None and len(sides) == 3:
        return axes[0]
    text = "one channel" if channels == 1 else f"{channels} channels"
    hint = ""
    if channels == 3 and (len(sides) == 2 or 1 in (sides[0], sides[2])):
        hint = " Repeat the grey one three times."
    raise ValueError(
        f"Images of shape {sides} do not have the {text} that the network takes, "
        f"neither first nor last.{hint}"
    )


def _image_of(item: Any) -> Any:
    """Return the image of a pair of image and class; an image as it is."""
    return item[0] if isinstance(item, (tuple, list)) and len(item) > 0 else item


def _is_numeric(array: Any) -> bool:
    return not isinstance(array, np.ndarray) or array.dtype.kind in "biufc"


def _as_rgb(image: "Image") -> "Image":
    """Return an RGB copy of a PIL image, the right way up."""
    from PIL import Image, ImageOps

    with _LOCKS[id(image) // 64 % len(_LOCKS)]:
        image.load()
    with suppress(Exception):  # a damaged note of the rotation is no damaged image
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if "transparency" in image.info:
        # Pillow warns of a palette with transparency if it is dropped at once.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bits(values: NDArray) -> NDArray:
    """Reduce 16 bits (0 to 65535), or floats from 0 to 1, to 8 bits."""
    most = 1.0 if values.dtype.kind == "f" else 65535
    least, largest = values.min(), values.max()
    if not (0 <= least and largest <= most):
        raise ValueError(
            f"values from {least:g} to {largest:g}; images of {values.dtype} must be "
            f"from 0 to {most:g}"
        )
    return np.round(values * (255 / most)).astype(np.uint8)


def _array_as_image(array: NDArray, *, prefer_last: bool) -> "Image | NDArray":
    from PIL import Image

    if array.ndim not in (2, 3):
        raise ValueError(f"an image has 2 or 3 dimensions, got shape {array.shape}")
    kind, n_bytes = array.dtype.kind, array.dtype.itemsize
    if kind not in "bf" and not (kind == "u" and n_bytes <= 2):
        raise ValueError(
            "images must be of uint8, from 0 to 255, of uint16, or of floats, not of "
            f"{array.dtype}; convert them, for instance with X.astype(np.uint8)"
        )
    axis = channel_axis(array.shape, None, prefer_last=prefer_last)
    array = array[..., None] if axis is None else np.moveaxis(array, axis - 1, -1)
    if array.shape[-1] not in USUAL_CHANNELS:
        raise ValueError(
            f"an image has 1, 3 or 4 channels, first or last, got shape {array.shape}"
        )
    array = np.repeat(array, 3, axis=2) if array.shape[-1] == 1 else array[..., :3]
    if kind == "f":
        array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError("contains NaN or infinity")
        return array
    if kind == "b":
        array = np.uint8(255) * array
    elif n_bytes == 2:
        array = _to_8_bits(array)
    return Image.fromarray(np.ascontiguousarray(array))
