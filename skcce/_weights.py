"""Weights of samples: a sample of weight 2 counts as two equal ones."""

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array

_LEAST = 1e-16  # relative to the largest; less is lost in a sum


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray | None:
    """Return weights of mean 1, shape (n_samples,), float64; None for equal ones.

    Raises ValueError if one is negative or not finite, or all are zero.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, Real):
        sample_weight = [sample_weight]
    weight = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weight.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have shape ({n_samples},), one weight per sample, "
            f"got shape {weight.shape}."
        )
    if weight.min() < 0 or weight.max() == 0:
        raise ValueError(
            "sample_weight must not be negative and not all zero, got a minimum of "
            f"{weight.min()} and a maximum of {weight.max()}."
        )
    # Divided by the largest first, so that the sum of huge weights does not overflow.
    weight = weight / weight.max()
    weight[weight < _LEAST] = 0
    return weight / weight.mean()
