"""Probabilities that are as sure as their neighbors are of one mind."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import softmax

# Logits of this spread or more, as a logarithm, leave one cluster; of its inverse, all
# equally likely: no use in searching farther.
_FAR = 7.0


def temperature(
    logits: NDArray, target: NDArray, weight: NDArray | None = None
) -> float:
    r"""Return the temperature at which predictions fit a target best.

    It minimizes over :math:`\tau` the mean cross-entropy

    .. math:: -\frac{1}{n} \sum_i q_i \cdot \log \mathrm{softmax}(z_i / \tau) .

    That is convex in :math:`1 / \tau`, with one minimum: where the expected logit is
    the same under the predictions and under the target. If the target is the average
    of the predictions of neighbors, the predictions become as sure as a neighbor is
    likely to agree: no labels are needed.

    Parameters
    ----------
    logits : ndarray of shape (n_samples, n_clusters)
        Logits (:math:`z`), finite.
    target : ndarray of shape (n_samples, n_clusters)
        Probabilities (:math:`q`), such as those of neighbors.
    weight : ndarray of shape (n_samples,), default=None
        Non-negative weights of the mean. None means equal weights.

    Returns
    -------
    float
        Temperature, positive and finite: 1 if `target` is the prediction itself, or if
        the logits of every sample are equal.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if target.shape != logits.shape:
        raise ValueError(
            f"target must have the shape of logits, {logits.shape}, got {target.shape}."
        )
    gap = logits.astype(np.float64)
    gap -= gap.max(axis=1, keepdims=True)
    spread = -np.average(gap.mean(axis=1), weights=weight)
    if spread == 0:
        return 1.0
    gap /= spread
    expected = (target * gap).sum(axis=1)

    def excess(log_spread: float) -> float:
        proba = softmax(np.exp(log_spread) * gap, axis=1)
        return np.average((proba * gap).sum(axis=1) - expected, weights=weight)

    here = np.log(spread)
    first = excess(here)
    if first == 0:
        return 1.0
    bound = min(here, -_FAR) if first > 0 else max(here, _FAR)
    if excess(bound) * first >= 0:
        return float(np.exp(here - bound))
    return float(np.exp(here - brentq(excess, bound, here)))
