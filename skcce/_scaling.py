"""One origin and one unit for all rows, found without a copy of the data."""

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

BLOCK = 4096  # rows at a time, wherever all rows are read


def row_scale(X: NDArray, weight: NDArray | None = None) -> tuple[NDArray, np.floating]:
    """Return the mean row and the root mean square distance of the rows from it.

    `X` has shape (n_samples, n_features); both results have its dtype. `weight`, shape
    (n_samples,), has mean 1. The scale of constant data is 1. Raises ValueError if a
    difference of rows would overflow.
    """
    blocks = list(gen_batches(len(X), BLOCK))
    counts = np.ones(len(X)) if weight is None else weight
    with np.errstate(over="ignore", invalid="ignore"):
        mean = X.mean(axis=0, dtype=np.float64) if weight is None else np.inf
        if not np.isfinite(mean).all():  # the sum may be too large, not the mean
            mean = sum((counts[block] / len(X)) @ X[block] for block in blocks)
        mean = mean.astype(X.dtype)
        # Relative to the largest deviation, because squares over- and underflow.
        largest = max(float(np.abs(X[block] - mean).max()) for block in blocks)
        if largest == 0:
            return mean, X.dtype.type(1)
        unit = X.dtype.type(largest)
        squares = sum(
            float(counts[block] @ (((X[block] - mean) / unit) ** 2).sum(axis=1))
            for block in blocks
        )
        scale = X.dtype.type(largest * np.sqrt(squares / len(X)))
    if not np.isfinite(scale):
        raise ValueError(
            f"X has entries up to {np.abs(X).max():.2g} in absolute value, too large "
            f"for distances in {X.dtype}. Divide X by a number."
        )
    return mean, scale
