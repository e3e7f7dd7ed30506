"""Reading given labels: hard, soft or noisy ones, and none."""

import sys
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import _num_samples

_TOLERANCE = 1e-3  # of sums that must be 1


def read_labels(
    y: ArrayLike,
    n_samples: int,
    transition: float | ArrayLike | None = None,
    n_extra: int = 0,
) -> tuple[NDArray, NDArray]:
    """Return the names of the classes, and what is known about every sample.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_classes)
        Labels, some of which may be missing, or soft labels.
    n_samples : int
        Number of samples.
    transition : float or array-like of shape (n_classes, n_classes), default=None
        How labels became noisy.
    n_extra : int, default=0
        Number of classes that no label names.

    Returns
    -------
    classes : ndarray of shape (n_classes + n_extra,)
        Names, those of the extra classes last.
    target : ndarray of shape (n_samples, n_classes + n_extra)
        Soft labels in float64; rows of NaN where they are missing.

    Raises
    ------
    ValueError
        If there is no label, or it cannot be one.
    TypeError
        If `y` is sparse.
    """
    if y is None:
        raise ValueError(
            "CollisionClassifier requires y to be passed, but the target y is None."
        )
    if _num_samples(y) != n_samples:
        raise ValueError(
            f"y must have one label per sample: {n_samples} samples, got "
            f"{_num_samples(y)} labels. Found input variables with inconsistent "
            f"numbers of samples: [{n_samples}, {_num_samples(y)}]"
        )
    array = _as_array(y)
    if array.ndim == 2 and array.shape[1] > 1:
        if transition is not None:
            raise ValueError("transition needs hard labels, y has soft ones.")
        target = _soft_labels(array)
        classes = np.arange(target.shape[1])
    else:
        classes, numbers = _hard_labels(array)
        target = np.full((n_samples, len(classes)), np.nan)
        known = numbers >= 0
        target[known] = _meaning(transition, classes)[numbers[known]]
    if len(classes) + n_extra < 2:
        raise ValueError(
            f"y has one class, {classes.tolist()[0]!r}; a classifier needs at least 2, "
            "and -1 means no label. Use more labels, or n_extra_clusters."
        )
    unnamed = np.where(np.isnan(target[:, :1]), np.nan, np.zeros(n_extra))
    return _with_extra(classes, n_extra), np.hstack([target, unnamed])


def _as_array(y: ArrayLike) -> NDArray:
    """Return labels as an array that still tells which are missing."""
    if issparse(y):
        raise TypeError("y is sparse, but must be dense. Use y.toarray().")
    array = np.asarray(y)
    # NumPy turns the NaN of a list of strings into "nan"; scikit-learn does not know
    # NumPy's StringDType.
    is_list_of_strings = array.dtype.kind == "U" and not hasattr(y, "dtype")
    if is_list_of_strings or array.dtype.kind == "T":
        return np.asarray(y, dtype=object)
    return array


def _hard_labels(y: NDArray) -> tuple[NDArray, NDArray]:
    """Return the classes, and that of each sample; -1 where it is missing."""
    y = column_or_1d(y, warn=True)
    if y.dtype.kind == "f" and np.isinf(y).any():
        raise ValueError("Input y contains infinity, which is no label.")
    missing = is_missing(y)
    if missing.all():
        raise ValueError(
            "y has no label: all are -1, NaN or None. At least one sample of each "
            "class must have one; CollisionClusterer needs none."
            + (" Input y contains NaN." if y.dtype.kind == "f" else "")
        )
    known = _without_objects(y[~missing])
    if known.dtype.kind == "f" and (known % 1).any():
        raise ValueError(
            "Unknown label type: continuous. y has "
            f"{known[known % 1 > 0][0]:.6g}, which is not a class; soft labels are a "
            "matrix, one column per class."
        )
    classes, numbers = np.unique(known, return_inverse=True)
    all_numbers = np.full(len(y), -1)
    all_numbers[~missing] = numbers
    return classes, all_numbers


def _without_objects(labels: NDArray) -> NDArray:
    """Return objects as numbers if they are numbers; strings stay as they are."""
    if labels.dtype.kind in "biufU" or all(isinstance(label, str) for label in labels):
        return labels
    if all(isinstance(label, (Real, np.bool_)) for label in labels):
        return np.array(labels.tolist())
    kinds = sorted({type(label).__name__ for label in labels})
    raise ValueError(
        f"The labels in y must be all numbers or all strings, got {kinds}."
    )


def is_missing(y: NDArray) -> NDArray:
    """Return which labels are missing, as the dtype has it."""
    if y.dtype.kind == "O":
        pandas = sys.modules.get("pandas")
        none = (None, getattr(pandas, "NA", None), getattr(pandas, "NaT", None))
        return np.array([_is_none(label, none) for label in y])
    if y.dtype.kind == "f":
        return np.isnan(y) | (y == -1)
    # An array of strings holds no other sign that a label is missing.
    return y == ("-1" if y.dtype.kind == "U" else -1)


def _is_none(label: Any, none: tuple) -> bool:
    if any(label is value for value in none):
        return True
    if isinstance(label, str):
        return label == "-1"
    return (
        isinstance(label, Real)
        and not isinstance(label, bool)
        and (label != label or label == -1)
    )


def _soft_labels(y: NDArray) -> NDArray:
    """Return a matrix of soft labels in float64, checked."""
    try:
        y = y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Soft labels in y must be numbers, got dtype {y.dtype}: {error}"
        ) from error
    missing = np.isnan(y)
    is_missing = missing.all(axis=1)
    if is_missing.all():
        raise ValueError("y has no label: all rows are NaN.")
    partly = np.flatnonzero(missing.any(axis=1) & ~is_missing)
    if len(partly):
        raise ValueError(
            f"Row {partly[0]} of y has some NaN. A row without a label is all NaN."
        )
    known = y[~is_missing]
    if not np.isfinite(known).all():
        raise ValueError("Input y contains infinity, which is no soft label.")
    if known.min() < 0:
        row, column = np.argwhere(y < 0)[0]
        raise ValueError(
            f"Soft labels in y must not be negative, row {row} has "
            f"{y[row, column]:.6g} for class {column}. A row of NaN is one without a "
            "label."
        )
    sums = y.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _TOLERANCE)
    if len(wrong):
        raise ValueError(
            "A matrix y holds soft labels, one column per class: every row must sum to "
            f"1, row {wrong[0]} sums to {sums[wrong[0]]:.6g}."
        )
    unused = np.flatnonzero(known.sum(axis=0) == 0)
    if len(unused):
        raise ValueError(
            f"Class {unused[0]} has no row: column {unused[0]} of y is zero wherever "
            "there is a label. Leave the column out, or use n_extra_clusters."
        )
    return y / sums[:, np.newaxis]


def _meaning(transition: float | ArrayLike | None, classes: NDArray) -> NDArray:
    """Return what an observed label says about the true one, rows that sum to 1.

    Row l is proportional to the probabilities that a true k is observed as l. With it,
    collision cross-entropy is the negative log of the probability of the observed
    label, but for a constant: the forward correction.
    """
    n_classes = len(classes)
    if transition is None:
        return np.eye(n_classes)
    if isinstance(transition, Real):
        if not 0 <= transition < 1:
            raise ValueError(
                f"transition={transition} must be a share of random labels in [0, 1), "
                "or a matrix."
            )
        return (1 - transition) * np.eye(n_classes) + transition / n_classes
    matrix = check_array(
        transition, dtype=np.float64, ensure_2d=False, input_name="transition"
    )
    if matrix.shape != (n_classes, n_classes):
        raise ValueError(
            f"transition must have shape ({n_classes}, {n_classes}), as y has "
            f"{n_classes} classes, got shape {matrix.shape}."
        )
    if matrix.min() < 0:
        raise ValueError(f"transition must not be negative, got {matrix.min():.6g}.")
    sums = matrix.sum(axis=0)
    wrong = np.flatnonzero(np.abs(sums - 1) > _TOLERANCE)
    if len(wrong):
        raise ValueError(
            f"Every column of transition must sum to 1, column {wrong[0]} sums to "
            f"{sums[wrong[0]]:.6g}: transition[l, k] is the probability that a true "
            "class k is observed as l."
        )
    seen = matrix.sum(axis=1)
    if (seen == 0).any():
        never = np.flatnonzero(seen == 0)[0]
        raise ValueError(
            f"y has the label {classes.tolist()[never]!r}, which transition never lets "
            f"be observed: its row {never} is zero."
        )
    return matrix / seen[:, np.newaxis]


def _with_extra(classes: NDArray, n_extra: int) -> NDArray:
    """Return the names of all classes, with new ones for those that have none."""
    if n_extra == 0:
        return classes
    if classes.dtype.kind in "biuf":
        # Not in the dtype of the classes, which may hold no more; -1 is no name.
        new = max(int(classes.max()), -1) + 1 + np.arange(n_extra)
    else:
        taken, new = {str(name) for name in classes}, []
        for number in range(n_extra + len(taken)):
            if f"extra_{number}" not in taken and len(new) < n_extra:
                new.append(f"extra_{number}")
        new = np.array(new, dtype=object if classes.dtype == object else None)
    return np.concatenate([classes, new])
