"""Images of any kind, read batch by batch."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor
from torch.utils.data import IterableDataset

from skcce._images import channel_axis

_BLOCK = 1024  # images at a time, where all are looked at


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
        """Return a batch (n, channels, height, width), a copy, of uint8 or float32."""
        raise NotImplementedError


def open_images(X: Any, channels: int | None) -> Images:
    """Return the images of an array, a tensor, a list or a data set, without a copy.

    Parameters
    ----------
    X : array, tensor, list or map-style data set
        Arrays have shape (n, H, W), (n, H, W, C) or (n, C, H, W), and are of uint8, or
        of floats. A list or a data set gives images, or tuples that begin with one:
        arrays or tensors as above, or PIL images.
    channels : int or None
        Channels that the network takes; None if that is not known.

    Raises
    ------
    ValueError
        If there are no images, or they have the wrong shape, channels or dtype, or are
        not finite. What a data set holds is seen when it is read.
    TypeError
        If `X` is something else.
    """
    is_container = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not is_container or isinstance(X, (str, bytes, dict, IterableDataset)):
        raise TypeError(
            "X must be an array of images, or a data set with __len__ and __getitem__, "
            f"got {type(X).__name__}. Of a DataLoader, pass the dataset."
        )
    if len(X) == 0:
        raise ValueError("Found 0 samples in X, while a minimum of 1 is required.")
    kind = _ArrayImages if hasattr(X, "dtype") else _DatasetImages
    return kind(X, channels)


def is_table(X: Any) -> bool:
    """Tell whether `X` is meant to have rows and columns of numbers, not images."""
    if hasattr(X, "shape"):
        return len(X.shape) not in (3, 4)
    if hasattr(X, "__array__"):
        return True
    first = X[0] if isinstance(X, (list, tuple)) and len(X) > 0 else None
    return isinstance(X, (list, tuple)) and not (
        isinstance(first, tuple) or hasattr(first, "convert") or np.ndim(first) > 1
    )


class _ArrayImages(Images):
    def __init__(self, array: NDArray | Tensor, channels: int | None):
        if array.ndim not in (3, 4):
            raise ValueError(
                "Images must have shape (n, H, W), (n, H, W, C) or (n, C, H, W), got "
                f"shape {tuple(array.shape)}."
            )
        _check_dtype(array.dtype)
        self._array = array
        self.nbytes = getattr(array, "nbytes", np.inf)
        sides = tuple(array.shape[1:])
        self._axis = channel_axis(sides, channels, prefer_last=_is_numpy(array))
        self.shape = (len(array), *_channels_first(sides, self._axis))
        if not _is_uint8(array):
            for block in gen_batches(len(self), _BLOCK):
                _check_finite(self[block], np.arange(block.start, block.stop))

    def __getitem__(self, rows: NDArray | slice) -> Tensor:
        batch = self._array[rows]
        if isinstance(batch, Tensor) and isinstance(rows, slice):
            batch = batch.clone()  # or else the network could change the user's images
        batch = _as_tensor(batch)
        return (
            batch.unsqueeze(1) if self._axis is None else batch.movedim(self._axis, 1)
        )


class _DatasetImages(Images):
    def __init__(self, dataset: Any, channels: int | None):
        self._dataset = dataset
        self._channels = channels
        first = self._image(0)
        self._dtype = first.dtype
        self.shape = (len(dataset), *first.shape)

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
            if image.dtype != self._dtype:
                raise ValueError(
                    f"Image {row} is of {image.dtype}, the first one of {self._dtype}. "
                    "Convert them to one of them."
                )
        batch = torch.stack(images)
        if batch.dtype != torch.uint8:
            _check_finite(batch, rows)
        return batch

    def _image(self, row: int) -> Tensor:
        item = self._dataset[row]
        image = item[0] if isinstance(item, (tuple, list)) else item
        if hasattr(image, "convert"):  # PIL
            image = np.asarray(_with_plain_mode(image))
        if not hasattr(image, "dtype") or image.ndim not in (2, 3):
            raise TypeError(
                f"Sample {row} of X must be an image, or a tuple that begins with one, "
                f"got {type(item).__name__}: an array or tensor of 2 or 3 dimensions, "
                "or a PIL image."
            )
        try:
            _check_dtype(image.dtype)
            axis = channel_axis(
                tuple(image.shape), self._channels, prefer_last=_is_numpy(image)
            )
        except ValueError as error:
            raise ValueError(f"Sample {row} of X: {error}") from None
        image = _as_tensor(image)
        return image.unsqueeze(0) if axis is None else image.movedim(axis - 1, 0)


def _is_numpy(array: NDArray | Tensor) -> bool:
    return not isinstance(array, Tensor)


def _is_uint8(array: NDArray | Tensor) -> bool:
    return array.dtype in (np.dtype(np.uint8), torch.uint8)


def _as_tensor(array: NDArray | Tensor) -> Tensor:
    """Return a tensor of uint8 or float32; a copy of what is no tensor."""
    if isinstance(array, Tensor):
        return array.detach() if _is_uint8(array) else array.detach().float()
    dtype = np.uint8 if _is_uint8(array) else np.float32
    with np.errstate(over="ignore"):
        # A copy, because torch cannot share what is read-only or byte-swapped.
        return torch.from_numpy(np.array(array, dtype=dtype, order="C"))


def _with_plain_mode(image: Any) -> Any:
    """Return a PIL image as grey, color, or color with alpha."""
    # Those of more than 8 bits stay as they are: F is floats, I is an error later.
    if image.mode in ("L", "RGB", "RGBA", "F") or image.mode.startswith("I"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _channels_first(sides: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    if axis is None:
        return (1, *sides)
    others = [side for i, side in enumerate(sides, start=1) if i != axis]
    return (sides[axis - 1], *others)


def _check_dtype(dtype: Any) -> None:
    is_float = (
        dtype.is_floating_point
        if isinstance(dtype, torch.dtype)
        else (dtype.kind == "f")
    )
    if not is_float and dtype not in (np.dtype(np.uint8), torch.uint8):
        raise ValueError(
            f"Images must be of uint8, from 0 to 255, or of floats, got dtype {dtype}. "
            "Convert them, for instance with X.astype(np.uint8), or np.float32 if they "
            "are from 0 to 1."
        )


def _check_finite(batch: Tensor, rows: NDArray) -> None:
    finite = torch.isfinite(batch).flatten(1).all(dim=1).cpu().numpy()
    if not finite.all():
        raise ValueError(
            f"Input X contains NaN or infinity, in image {rows[finite.argmin()]}."
        )
