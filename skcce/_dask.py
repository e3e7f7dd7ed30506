"""Dask arrays and data frames, whose chunks are the runs of rows."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce import _blocks
from skcce._threads import single_blas_thread

_AT_ONCE = 64  # blocks, of which the results are held


def opened(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Return a dask array of floats, with all columns in each chunk.

    The names and the number of features are checked, or with `reset` set. A fit needs
    the sizes of the chunks, those of a data frame are found.
    """
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a dask array of {X.ndim} dimensions.")
    shape = np.empty((1, X.shape[1]))
    if hasattr(X, "to_dask_array"):
        shape = X._meta
        X = X.to_dask_array(lengths=True if reset else None)
    if reset and np.isnan(X.chunks[0]).any():
        raise ValueError(
            "X is a dask array with chunks of unknown size. Call "
            "X.compute_chunk_sizes() first."
        )
    if reset and X.shape[0] == 0:
        raise ValueError("Found array with 0 sample(s); a minimum of 1 is required.")
    if X.dtype.kind not in "buif":
        raise ValueError(f"X must hold numbers, got a dask array of {X.dtype}.")
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    X = X.rechunk({1: -1})
    if reset:
        X = X.rechunk({0: _short(X.chunks[0])})
        for _ in _blocks.map_blocks(len, X):
            pass  # a fit is not begun with rows that are not finite
    validate_data(estimator, shape, reset=reset, skip_check_array=True)
    return X


def _short(chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Cut chunks that are larger than the rows of a step."""
    longest = max(1, sum(chunks) // _blocks.N_GROUPS)
    parts = [np.array_split(np.arange(n), -(-n // longest)) for n in chunks if n]
    return tuple(len(part) for some in parts for part in some)


@contextmanager
def over_dask(X: Any, ends: NDArray) -> Iterator[Callable]:
    """Let the workers of dask do the blocks; one that is lost costs its own only."""
    chunks = X.to_delayed().ravel()
    call = dask.delayed(_call, pure=False)

    def visit(function, blocks, *others):
        # One node of the graph: a task does not carry the weights.
        function = dask.delayed(function, pure=False, traverse=False)
        work = list(zip(blocks, *others, strict=True))
        for some in gen_batches(len(work), _AT_ONCE):
            yield from dask.compute(
                *(
                    call(function, ends[block], list(chunks[block]), *its_others)
                    for block, *its_others in work[some]
                )
            )

    yield visit


def _call(function: Callable, first: NDArray, chunks: list, *others: Any) -> Any:
    for start, chunk in zip(first, chunks, strict=True):
        bad = ~np.isfinite(chunk).all(axis=1)
        if bad.any():
            raise ValueError(
                f"Input X contains NaN or infinity, first in row {start + bad.argmax()}"
                f" (of the chunk that begins with row {start})."
            )
    with single_blas_thread():
        rows = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
        # What came over a network may begin anywhere in memory, and sums depend on it.
        return function(np.array(rows, order="C"), *others)


def predicted(estimator: Any, method: str, X: Any) -> Any:
    """Return what a method of a fitted estimator says of X, as a lazy dask array."""
    check_is_fitted(estimator, "model_")
    X = opened(estimator, X, reset=False)
    nameless = copy.copy(estimator)  # names are checked
    vars(nameless).pop("feature_names_in_", None)
    some = _predicted(np.zeros((1, X.shape[1]), X.dtype), method, nameless)
    shape = {"chunks": (X.chunks[0], some.shape[1:])}
    return X.map_blocks(
        _predicted,
        method=method,
        # One node of the graph: a task does not carry the estimator.
        estimator=dask.delayed(nameless, pure=False, traverse=False),
        meta=some[:0],
        **(shape if some.ndim == 2 else {"drop_axis": 1}),
    )


def _predicted(X: NDArray, method: str, estimator: Any) -> NDArray:
    return getattr(estimator, method)(X)
