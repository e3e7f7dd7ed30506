"""Batches of images of any kind, as tensors."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from torch import Tensor

from skcce._images import (
    as_pixels,
    channel_axis,
    check_image,
    image_sequence,
    is_block,
    path_of,
    read_pixels,
    why_unread,
    with_channels,
)
from skcce._reading import bad_images, read_each
from skcce._threads import count_threads, in_threads

_BLOCK = 1024  # images at a time, where all are looked at


class Images:
    """A set of images: it has a length, and gives a batch for indices or a slice.

    `read` makes the batch, (n, channels, height, width): a copy, of uint8 or float32.
    """

    def __init__(
        self,
        n_images: int,
        read: Callable[[NDArray | slice], Tensor],
        nbytes: float = np.inf,
    ):
        self._read = read
        self.nbytes = nbytes
        first = read(slice(1))
        self.shape, self.dtype = (n_images, *first.shape[1:]), first.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray | slice) -> Tensor:
        return self._read(rows)


def open_images(X: Any, channels: int | None) -> Images:
    """Return the images that :func:`image_sequence` takes, without a copy of all.

    `channels` are those that the network takes, None if that is not known.

    Raises ValueError if there are no images, or they have the wrong shape, channels or
    dtype, or are not finite; or if files cannot be read, or differ in size. What else a
    list or a data set holds is seen when it is read. Raises TypeError if `X` is
    something else.
    """
    X = image_sequence(X)
    return _open_block(X, channels) if is_block(X) else _open_items(X, channels)


def _open_block(array: NDArray | Tensor, channels: int | None) -> Images:
    is_tensor, sides = isinstance(array, Tensor), tuple(array.shape[1:])
    axis = channel_axis(sides, channels, prefer_last=not is_tensor)
    nbytes = getattr(array, "nbytes", np.inf)
    if is_tensor and not (array.is_floating_point() or array.dtype == torch.uint8):
        array = array.cpu().numpy()
    read = partial(_read_block, array, axis, channels)
    images = Images(len(array), read, nbytes)
    if images.dtype == torch.float32:
        for block in gen_batches(len(images), _BLOCK):
            is_finite = torch.isfinite(images[block]).flatten(1).all(dim=1)
            if not is_finite.all():
                row = block.start + int(is_finite.int().argmin())
                raise _bad(images, row, "contains NaN or infinity")
    return images


def _read_block(
    array: NDArray | Tensor,
    axis: int | None,
    channels: int | None,
    rows: NDArray | slice,
) -> Tensor:
    batch = array[rows]
    if not isinstance(batch, Tensor):
        # A copy, because torch cannot share what is read-only or byte-swapped.
        batch = torch.from_numpy(as_pixels(np.asarray(batch)))
    elif isinstance(rows, slice):
        batch = batch.clone()  # or else the network could change the user's images
    batch = batch.detach()
    batch = batch.float() if batch.is_floating_point() else batch
    batch = batch.unsqueeze(-1) if axis is None else batch.movedim(axis, -1)
    return with_channels(batch, channels).movedim(-1, 1)


def _open_items(items: Sequence, channels: int | None) -> Images:
    n_threads = 0
    if path_of(items[0]) is not None:
        n_threads = count_threads(-1)
        _check_files(items, n_threads)
    first = _read_item(items, channels, 0)
    kind = f"{first.dtype} of {first.shape}"
    return Images(len(items), partial(_read_items, items, channels, kind, n_threads))


def _check_files(items: Sequence, n_threads: int) -> None:
    """Find the files that cannot be read, or not in one batch, before they are due."""
    bad = {}
    sizes = dict(read_each(check_image, items, range(len(items)), bad, n_threads))
    texts = {row: "{} x {} pixels".format(*size) for row, size in sizes.items()}
    first = next(iter(texts.values()), "")
    others = {row: text for row, text in texts.items() if text != first}
    bad |= {row: _unlike(items, row, text, first) for row, text in others.items()}
    if bad:
        raise ValueError(bad_images(dict(sorted(bad.items())), len(items)))


def _read_items(
    items: Sequence,
    channels: int | None,
    kind: str,
    n_threads: int,
    rows: NDArray | slice,
) -> Tensor:
    """Read a batch of images of one dtype and shape; files in threads."""
    rows = range(len(items))[rows] if isinstance(rows, slice) else rows.tolist()
    read = partial(_read_item, items, channels)
    images = in_threads(read, rows, n_threads, len(rows)) if n_threads else None
    images = list(images or map(read, rows))
    for row, image in zip(rows, images, strict=True):
        if (own := f"{image.dtype} of {image.shape}") != kind:
            raise _bad(items, row, _unlike(items, row, own, kind))
    return torch.from_numpy(np.stack(images)).movedim(-1, 1)


def _read_item(items: Sequence, channels: int | None, row: int) -> NDArray:
    item = items[row]
    try:
        return read_pixels(item, channels)
    except Exception as error:  # decoders may raise anything
        raise _bad(items, row, why_unread(item, error)) from error


def _unlike(items: Sequence, row: int, kind: str, first: str) -> str:
    name = path_of(items[row]) or "the image"
    return f"{name} has {kind}, the first one {first}; resize or convert them"


def _bad(images: Sequence, row: int, reason: str) -> ValueError:
    return ValueError(bad_images({row: reason}, len(images)))
