"""One origin and one unit for all rows, found without a copy of the data."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches

BLOCK = 4096  # rows at a time, wherever all rows are read


class StandardizedRows:
    """Sparse rows, centered and scaled, as a factor in products with dense matrices.

    What a product ``rows @ A`` or ``A @ rows`` makes of the center is subtracted from
    that of the rows as they are: a copy of centered rows would be dense.
    """

    __array_ufunc__ = None  # so that NumPy leaves A @ rows to this class

    def __init__(self, X: csr_array, mean: NDArray, scale: np.floating):
        self._X, self._mean, self._scale = X, mean, scale

    def __matmul__(self, other: NDArray) -> NDArray:
        product = self._X @ other
        product -= self._mean @ other
        product /= self._scale
        return product

    def __rmatmul__(self, other: NDArray) -> NDArray:
        product = np.ascontiguousarray((self._X.T @ other.T).T)
        product -= np.outer(other.sum(axis=1), self._mean)
        product /= self._scale
        return product

    def astype(self, dtype: DTypeLike, copy: bool = True) -> "StandardizedRows":
        """Return the rows in another dtype."""
        parts = (part.astype(dtype, copy=copy) for part in (self._X, self._mean))
        return StandardizedRows(*parts, self._scale.astype(dtype))


def canonical(X: Any) -> csr_array:
    """Return CSR rows with sorted indices and no duplicates, a copy only if needed."""
    rows = csr_array(X)
    if not rows.has_canonical_format:
        rows = rows.copy()  # the user's stay as they are
        rows.sum_duplicates()
    return rows


def standardize(
    X: NDArray | csr_array, mean: NDArray, scale: np.floating
) -> NDArray | StandardizedRows:
    """Center and scale rows, or return what multiplies as sparse ones would then."""
    if issparse(X):
        return StandardizedRows(X, mean, scale)
    rows = X - mean
    rows /= scale
    return rows


def row_scale(
    X: NDArray | csr_array, weight: NDArray | None = None
) -> tuple[NDArray, np.floating]:
    """Return the mean row and the root mean square distance of the rows from it.

    `X` has shape (n_samples, n_features); both results have its dtype. `weight`, shape
    (n_samples,), has mean 1. The scale of constant data is 1. Raises ValueError if a
    difference of rows would overflow.
    """
    find = _sparse_scale if issparse(X) else _dense_scale
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = find(X, weight)
    if not np.isfinite(scale):
        raise ValueError(
            f"X has entries up to {np.abs(X).max():.2g} in absolute value, too large "
            f"for distances in {X.dtype}. Divide X by a number."
        )
    return mean, scale


def _dense_scale(X: NDArray, weight: NDArray | None) -> tuple[NDArray, np.floating]:
    blocks = list(gen_batches(len(X), BLOCK))
    counts = np.ones(len(X)) if weight is None else weight
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
    return mean, X.dtype.type(largest * np.sqrt(squares / len(X)))


def _sparse_scale(X: csr_array, weight: NDArray | None) -> tuple[NDArray, np.floating]:
    n_samples, n_features = X.shape
    blocks = list(gen_batches(n_samples, BLOCK))
    counts = np.ones(n_samples) if weight is None else weight
    mean = sum((counts[block] / n_samples) @ X[block] for block in blocks)
    mean = mean.astype(X.dtype)
    largest = max(float(np.abs(values).max(initial=0)) for values in (X.data, mean))
    if largest == 0:
        return mean, X.dtype.type(1)
    unit = X.dtype.type(largest)
    squares, stored = 0.0, np.zeros(n_features)
    for block in blocks:
        part = X[block]
        count = np.repeat(counts[block], np.diff(part.indptr))
        deviations = (part.data - mean[part.indices]) / unit
        squares += float(count @ deviations**2)
        stored += np.bincount(part.indices, weights=count, minlength=n_features)
    # All other entries are zeros.
    squares += float(np.maximum(n_samples - stored, 0) @ (mean / unit) ** 2)
    if squares == 0:
        return mean, X.dtype.type(1)
    return mean, X.dtype.type(largest * np.sqrt(squares / n_samples))
