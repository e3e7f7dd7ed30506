"""Training by several processes, each of which takes its part of every batch."""

import os
import zlib
from collections.abc import Iterable
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

# What has to be the same in all processes, and how it comes to differ.
_SAME = {
    "The checkpoint": "start from the same one, or from none",
    "random_state": "set it to the same int",
    "X": "call fit with the same X: each process takes its part by itself",
}


def own_device() -> str:
    """Return the GPU of this process on its machine, as torchrun counts; or "auto"."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if number and torch.cuda.is_available() else "auto"


def own_part(n_rows: int) -> slice:
    """Return the rows of a batch that this process takes."""
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if n_rows < size:
        raise ValueError(
            f"A batch of {n_rows} samples cannot be split among {size} processes. Use "
            "a larger batch_size, or fewer processes."
        )
    return slice(n_rows * rank // size, n_rows * (rank + 1) // size)


def check_same(step: int, seed: int, X: Tensor | NDArray, device: torch.device) -> None:
    """Raise ValueError in all processes, if they are not about to do the same.

    X : a batch, or all samples; its length and its first row stand for it.
    """
    row = X[:1].cpu() if isinstance(X[:1], Tensor) else X[:1]
    digest = zlib.crc32(np.asarray(row).tobytes(), len(X))
    own = torch.tensor([step, seed, digest], device=device)
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    columns = torch.stack(found).T.tolist()
    for (name, way_out), column in zip(_SAME.items(), columns, strict=True):
        if len(set(column)) > 1:
            raise ValueError(
                f"{name} differs between the processes of distributed=True; in each of "
                f"them, {way_out}."
            )


def gather_rows(own: Tensor, part: slice, n_rows: int) -> Tensor:
    """Return what all processes have of the rows of a batch.

    own : (n_views, n_own, n_clusters), for the rows `part` of `n_rows`.
    """
    whole = own.new_zeros(len(own), n_rows, own.shape[2])
    whole[:, part] = own
    distributed.all_reduce(whole)  # each adds its rows to zeros: of any number
    return whole


def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over the processes; None counts as zero."""
    weights = [weight for weight in weights if weight.requires_grad]
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in weights]
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(whole)
    _put_back(whole, gradients)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace tensors by those of the first process."""
    by_dtype = sorted(tensors, key=lambda tensor: str(tensor.dtype))
    for _, group in groupby(by_dtype, key=lambda tensor: tensor.dtype):
        group = list(group)
        whole = torch.cat([tensor.detach().flatten() for tensor in group])
        distributed.broadcast(whole, src=0)
        _put_back(whole, group)


def _put_back(whole: Tensor, tensors: list[Tensor]) -> None:
    """Copy the parts of one long tensor into others, whatever their layout."""
    parts = whole.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
