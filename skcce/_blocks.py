"""Results of many rows, filled in block by block."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


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
