"""One origin and one unit for all rows, found without a copy of the data."""

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

BLOCK = 4096  # rows at a time, wherever all rows are read


def row_scale(X: NDArray) -> tuple[NDArray, np.floating]:
    """Return the mean row and the root mean square distance of the rows from it.

    `X` has shape (n_samples, n_features); both results have its dtype. The scale of
    constant data is 1.
    """
    mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
    blocks = list(gen_batches(len(X), BLOCK))
    # Relative to the largest deviation, because squares over- and underflow.
    largest = max(float(np.abs(X[block] - mean).max()) for block in blocks)
    if largest == 0:
        return mean, X.dtype.type(1)
    unit = X.dtype.type(largest)
    squares = sum(float((((X[block] - mean) / unit) ** 2).sum()) for block in blocks)
    return mean, X.dtype.type(largest * np.sqrt(squares / len(X)))
