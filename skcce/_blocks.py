"""The rows of any X, block by block, over whatever workers there are.

X is an array, a memory map, or a dask array. Its rows are cut into runs: the chunks of
a dask array, or a few rows of any other. A block is what a worker does at a time, the
rows of some runs. How X is cut depends on its shape alone, and what the blocks give is
added in their order, so that no result depends, in a bit of it, on the workers.

There are three kinds of workers, and one function for each, which all do the same: call
a function for each of some blocks, and yield the results in the order of the blocks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from skcce._ranks import over_ranks
from skcce._threads import single_blas_thread

BLOCK = 2048  # rows, about, while a step has few of them
N_GROUPS = 40  # of blocks in a pass: its steps
# Rows that are sorted do little harm where those of a step are from so many places. A
# longer run is read faster from a disk.
_RUNS_PER_GROUP, _LONGEST_RUN = 256, 1024
# What a step sends and adds grows with the number of its blocks.
_BLOCKS_PER_GROUP = 64

_BLOCKS_PER_TASK = 16  # of a process: joblib takes some ms for each task

Visit = Callable[..., Iterator[Any]]


def is_dask(X: Any) -> bool:
    """Whether X is a dask array or data frame."""
    return hasattr(type(X), "__dask_graph__")


def cut(X: Any) -> NDArray:
    """Return where the runs of X begin, and where the last one ends."""
    if is_dask(X):
        return np.cumsum([0, *X.chunks[0]])
    n_rows = X.shape[0]
    run = min(max(n_rows // (N_GROUPS * _RUNS_PER_GROUP), 1), _LONGEST_RUN)
    return np.append(np.arange(0, n_rows, run), n_rows)


def in_order(ends: NDArray, n_rows: int = BLOCK) -> list[NDArray]:
    """Return blocks of about `n_rows` rows that follow one another: numbers of runs."""
    n_blocks = min(max(1, ends[-1] // n_rows), len(ends) - 1)
    return np.array_split(np.arange(len(ends) - 1), n_blocks)


def in_groups(ends: NDArray, random_state: np.random.RandomState) -> list:
    """Return groups of blocks that hold all runs, in random order."""
    order = random_state.permutation(len(ends) - 1)
    length, groups = np.diff(ends), []
    for runs in np.array_split(order, min(N_GROUPS, len(order))):
        n_blocks = min(max(1, length[runs].sum() // BLOCK), _BLOCKS_PER_GROUP)
        blocks = np.array_split(runs, min(n_blocks, len(runs)))
        groups.append([np.sort(block) for block in blocks])
    return groups


def rows_of(ends: NDArray, block: NDArray) -> slice | NDArray:
    """Return the rows of a block."""
    return _between(ends[block], ends[block + 1])


def _between(first: NDArray, last: NDArray) -> slice | NDArray:
    if (first[1:] == last[:-1]).all():
        return slice(first[0], last[-1])
    return np.concatenate([np.arange(*pair) for pair in zip(first, last, strict=True)])


@contextmanager
def visiting(X: Any, *, distributed: bool = False) -> Iterator[Visit]:
    """Give ``visit(function, blocks, *others)``, which asks the workers.

    It yields ``function(rows, *their others)`` for every block, in order; `others` hold
    an item for each block, as those of ``map``. The workers are those of dask for a
    dask array, and otherwise those that ``joblib.parallel_config`` says; if
    `distributed`, each rank of torch.distributed has its part of the blocks.
    """
    if is_dask(X):
        from skcce._dask import over_dask as over
    else:
        over = _over_joblib
    with over(X, cut(X)) as visit:
        yield partial(over_ranks, visit) if distributed else visit


@contextmanager
def _over_joblib(X: Any, ends: NDArray) -> Iterator[Visit]:
    backend, n_jobs = get_active_backend(prefer="threads")
    n_jobs = backend.effective_n_jobs(n_jobs)
    is_table = isinstance(X, np.ndarray)  # of a network's images, one worker reads
    with ExitStack() as stack:
        if n_jobs == 1 or not is_table:
            each = map
        elif getattr(backend, "supports_sharedmem", False):  # without joblib's pauses
            each = stack.enter_context(ThreadPoolExecutor(n_jobs)).map
        else:
            # The processes get a memory map of an array, once.
            parallel = stack.enter_context(
                Parallel(return_as="generator", batch_size=1)
            )

            def each(call, *items):
                items = list(zip(*items, strict=True))
                size = min(-(-len(items) // n_jobs), _BLOCKS_PER_TASK)
                tasks = (items[some] for some in gen_batches(len(items), size))
                for results in parallel(
                    delayed(_starmap)(call, task) for task in tasks
                ):
                    yield from results

        def visit(function, blocks, *others):
            call = partial(_call, function, X)
            first = [ends[block] for block in blocks]
            last = [ends[block + 1] for block in blocks]
            return each(call, first, last, *others)

        yield visit


def _starmap(function: Callable, items: list[tuple]) -> list:
    return list(starmap(function, items))


def _call(
    function: Callable, X: Any, first: NDArray, last: NDArray, *others: Any
) -> Any:
    # A worker may be a process, and BLAS's threads would change the last bits.
    with single_blas_thread():
        return function(X[_between(first, last)], *others)


def map_blocks(
    function: Callable, X: Any, n_rows: int = BLOCK, *, distributed: bool = False
) -> Iterator[Any]:
    """Yield `function` of some `n_rows` rows after the other, in their order."""
    with visiting(X, distributed=distributed) as visit:
        yield from visit(function, in_order(cut(X), n_rows))


def total(parts: Iterator[tuple]) -> list:
    """Return the sums of each of the arrays of all parts, added in order."""
    sums = None
    for part in parts:
        if sums is None:
            sums = list(part)
        else:
            sums = [a + b for a, b in zip(sums, part, strict=True)]
    return sums


def take(X: Any, rows: NDArray) -> NDArray:
    """Return some rows, of sorted numbers, in memory.

    Raises ValueError if X is a dask array, and any of its rows is not finite.
    """
    if not is_dask(X):
        return X[rows]
    ends = cut(X)
    blocks = in_order(ends)
    first = np.array([ends[block[0]] for block in blocks])
    wanted = np.split(rows, np.searchsorted(rows, first[1:]))
    numbers = [some - start for some, start in zip(wanted, first, strict=True)]
    with visiting(X) as visit:
        return np.concatenate(list(visit(_pick, blocks, numbers)))


def _pick(X: NDArray, rows: NDArray) -> NDArray:
    return X[rows]


def fill(
    n_rows: int, parts: Iterable[tuple[slice, Sequence[NDArray]]]
) -> tuple[NDArray, ...]:
    """Return whole arrays from those of each block; no part is held longer than needed.

    Parameters
    ----------
    n_rows : int
        Number of rows of all blocks.
    parts : iterable of (block, arrays)
        Where the rows of the block are, and one or several arrays with an entry for
        each of them; those of the first block tell the shapes and dtypes.

    Returns
    -------
    tuple of ndarray
        As many arrays, with an entry for every row.
    """
    wholes: tuple[NDArray, ...] = ()
    for block, arrays in parts:
        if not wholes:
            shapes = [(n_rows, *array.shape[1:]) for array in arrays]
            wholes = tuple(map(np.empty, shapes, [array.dtype for array in arrays]))
        for whole, array in zip(wholes, arrays, strict=True):
            whole[block] = array
    return wholes
