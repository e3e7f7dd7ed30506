"""The ranks of torch.distributed as workers: each does its part of the blocks."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray
from sklearn.utils import gen_batches

_AT_ONCE = 64  # blocks, of which the results are held


def has_ranks() -> bool:
    """Whether this process is one of several that torch.distributed has started."""
    distributed = sys.modules.get("torch.distributed")
    return bool(
        distributed and distributed.is_available() and distributed.is_initialized()
    )


def over_ranks(
    visit: Callable, function: Callable, blocks: list, *others: Any
) -> Iterator[Any]:
    """Share the blocks of `visit` among the ranks; all of them get all results."""
    from torch import distributed

    rank, n_ranks = distributed.get_rank(), distributed.get_world_size()
    for some in gen_batches(len(blocks), _AT_ONCE):
        mine = [items[some][rank::n_ranks] for items in (blocks, *others)]
        results = _gathered(lambda mine=mine: list(visit(function, *mine)))
        for i in range(len(blocks[some])):
            yield results[i % n_ranks][i // n_ranks]


def check_ranks(*arrays: NDArray) -> None:
    """Raise ValueError if these arrays are not the same on all ranks, if any."""
    if not has_ranks():
        return
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    if len(set(_gathered(lambda: digest))) > 1:
        raise ValueError(
            "The ranks of torch.distributed start from different models. Give all of "
            "them the same X, and the same int as random_state."
        )


def _gathered(work: Callable[[], Any]) -> list:
    """Return what each rank's work gives; an error on one is raised on all."""
    from torch import distributed

    try:
        result = work()
    except Exception as error:
        result = error
    results = [None] * distributed.get_world_size()
    distributed.all_gather_object(results, result)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return results
