"""The ranks of torch.distributed as workers: each does its part of the blocks."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray
from sklearn.utils import gen_batches

_AT_ONCE = 64  # blocks, of which the results are held


def check_group() -> None:
    """Raise ValueError if torch does not know of other processes."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError(
            "distributed=True needs a process group: start the script with torchrun, "
            "and call torch.distributed.init_process_group() in it before fit. To "
            "train in one process, use distributed=False."
        )


def is_first() -> bool:
    """Return whether this process is the one that speaks for all."""
    check_group()
    from torch import distributed

    return distributed.get_rank() == 0


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
    """Raise ValueError if these arrays are not the same on all ranks."""
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
