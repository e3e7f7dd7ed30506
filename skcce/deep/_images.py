"""Images of any kind, read batch by batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

_BLOCK = 1024  # images at a time, where all are looked at
# Where the network does not tell how many channels it takes: grey, color, with alpha.
_USUAL_CHANNELS = (1, 3, 4)


class Images:
    """A set of images: it has a length, and gives a batch for indices or a slice.

    Attributes
    ----------
    shape : tuple of int
        (n_samples, channels, height, width).
    """

    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray | slice) -> Tensor:
        """Return a batch (n, channels, height, width) of uint8, or of float32."""
        raise NotImplementedError


def open_images(X: Any, channels: int | None) -> Images:
    """Return the images of an array, a tensor or a data set, without a copy.

    Parameters
    ----------
    X : array, tensor or map-style data set
        Arrays have shape (n, H, W), (n, H, W, C) or (n, C, H, W), and are of uint8, or
        of floats. A data set gives images, or tuples that begin with an image: tensors
        (C, H, W), arrays (H, W, C), either (H, W) if grey, or PIL images.
    channels : int or None
        Channels that the network takes; None if that is not known.

    Raises
    ------
    ValueError
        If there are no images, or they have the wrong shape, channels or dtype, or an
        array of floats is not finite.
    TypeError
        If `X` has no length, or cannot be indexed.
    """
    if isinstance(X, (list, tuple)):
        X = np.asarray(X)
    if not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        raise TypeError(
            "X must be an array of images, or a data set with __len__ and __getitem__, "
            f"got {type(X).__name__}."
        )
    if len(X) == 0:
        raise ValueError("Found 0 samples in X, while a minimum of 1 is required.")
    images = _ArrayImages(X) if hasattr(X, "dtype") else _DatasetImages(X)
    return images.checked(channels)


class _ArrayImages(Images):
    def __init__(self, array: NDArray | Tensor):
        self._array = array

    def checked(self, channels: int | None) -> "_ArrayImages":
        n, *sides = self._array.shape
        if len(sides) not in (2, 3):
            raise ValueError(
                "Images must have shape (n, H, W), (n, H, W, C) or (n, C, H, W), got "
                f"shape {tuple(self._array.shape)}."
            )
        _check_dtype(self._array.dtype)
        last = not isinstance(self._array, Tensor)  # where channels are by convention
        axis = _channel_axis(tuple(sides), channels, prefer_last=last)
        self._channel_axis = axis
        if axis is not None:
            sides.insert(0, sides.pop(axis))
        else:
            sides.insert(0, 1)
        self.shape = (n, *sides)
        if "float" in str(self._array.dtype):
            self._check_finite()
        return self

    def __getitem__(self, rows: NDArray | slice) -> Tensor:
        batch = self._array[rows]
        if not isinstance(batch, Tensor):
            # A copy, because torch cannot share what is read-only or byte-swapped.
            dtype = np.uint8 if batch.dtype == np.uint8 else np.float32
            batch = torch.from_numpy(np.array(batch, dtype=dtype, order="C"))
        batch = batch.detach()
        if batch.dtype != torch.uint8:
            batch = batch.float()
        if self._channel_axis is None:
            return batch.unsqueeze(1)
        return batch.movedim(1 + self._channel_axis, 1)

    def _check_finite(self) -> None:
        for block in gen_batches(len(self), _BLOCK):
            finite = torch.isfinite(self[block]).flatten(1).all(dim=1)
            if not finite.all():
                row = block.start + int(finite.logical_not().nonzero()[0])
                raise ValueError(f"Input X contains NaN or infinity, in image {row}.")


class _DatasetImages(Images):
    def __init__(self, dataset: Any):
        self._dataset = dataset

    def checked(self, channels: int | None) -> "_DatasetImages":
        image = self._image(0)
        if channels is not None and image.shape[0] != channels:
            raise _wrong_channels(tuple(image.shape), image.shape[0], channels)
        self.shape = (len(self._dataset), *image.shape)
        return self

    def __getitem__(self, rows: NDArray | slice) -> Tensor:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        images = [self._image(int(row)) for row in rows]
        for row, image in zip(rows, images, strict=True):
            if image.shape != self.shape[1:]:
                raise ValueError(
                    f"Image {row} has shape {tuple(image.shape)} (channels first), the "
                    f"first one {self.shape[1:]}. Resize them to one size."
                )
        return torch.stack(images)

    def _image(self, row: int) -> Tensor:
        item = self._dataset[row]
        image = item[0] if isinstance(item, (tuple, list)) else item
        is_tensor = isinstance(image, Tensor)
        if not is_tensor:
            image = torch.from_numpy(np.array(image))
        if image.ndim not in (2, 3):
            raise ValueError(
                f"Sample {row} of the data set must be an image of 2 or 3 dimensions, "
                f"got shape {tuple(image.shape)}."
            )
        _check_dtype(image.dtype)
        if image.dtype != torch.uint8:
            image = image.float()
        if image.ndim == 2:
            return image.unsqueeze(0)
        return image if is_tensor else image.movedim(2, 0)


def _channel_axis(
    sides: tuple[int, ...], channels: int | None, *, prefer_last: bool
) -> int | None:
    """Return which of the sides of an image are its channels; None if it has none."""
    if len(sides) == 2:
        if channels not in (None, 1):
            raise _wrong_channels(sides, 1, channels)
        return None
    wanted = _USUAL_CHANNELS if channels is None else (channels,)
    for axis in (2, 0) if prefer_last else (0, 2):
        if sides[axis] in wanted:
            return axis
    raise _wrong_channels(sides, None, channels)


def _wrong_channels(
    shape: tuple[int, ...], found: int | None, channels: int | None
) -> ValueError:
    wanted = "1, 3 or 4 channels" if channels is None else f"{channels} channels"
    hint = ""
    if found == 1 and channels == 3:
        hint = " Repeat the grey one: X = np.stack([X, X, X], axis=-1)."
    return ValueError(
        f"Images of shape {shape} do not have the {wanted} that the network takes, "
        f"neither first nor last.{hint}"
    )


def _check_dtype(dtype: Any) -> None:
    if str(dtype).removeprefix("torch.") not in (
        *("uint8", "float16", "float32", "float64", "bfloat16"),
        *(">f2", ">f4", ">f8"),
    ):
        raise ValueError(
            f"Images must be of uint8, from 0 to 255, or of floats, got dtype {dtype}. "
            "Convert them, for instance with X.astype(np.uint8)."
        )
