"""The objective of the pseudo-labels: eq. (11) of the paper, or eq. (10)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array

from skcce._kernel import kernel

# A share of the prior that is smaller has no part in the loss, where a label may be too
# small for its dtype. Entries of EM's start are lifted to it, because the EM update is
# multiplicative: an exact zero would stay zero although the optimum may need it.
_LEAST = 1e-30


class Problem(NamedTuple):
    """What is minimized, as a function of the labels of the free samples."""

    proba: NDArray  # (n_samples, n_clusters), predictions of the free samples
    lam: float
    prior: NDArray  # (n_clusters,)
    forward: bool
    weight: NDArray  # (n_samples,), of the free samples, non-negative
    fixed_sum: NDArray  # (n_clusters,), sum of weight * label over the fixed labels
    total_weight: float  # of all samples, what the means are divided by
    constant: float  # what the loss has besides, that of the fixed labels


def pose(
    proba: NDArray,
    lam: float,
    prior: NDArray,
    forward: bool = False,
    weight: NDArray | None = None,
    fixed: NDArray | None = None,
) -> Problem:
    """State the problem of the samples whose row in `fixed` is NaN."""
    weight = np.ones(len(proba)) if weight is None else weight
    total = float(weight.sum())
    fixed_sum, constant = np.zeros(len(prior)), 0.0
    if fixed is not None:
        free = np.isnan(fixed[:, 0])
        held = proba[~free], fixed[~free], weight[~free]
        fixed_sum = sum_labels(*held[1:])
        constant = sum_losses(*held) / total if total > 0 else 0.0
        proba, weight = proba[free], weight[free]
    lam = float(lam)  # an int would have the kernels compiled once more
    return Problem(proba, lam, prior, forward, weight, fixed_sum, total, constant)


def complete(labels: NDArray, fixed: NDArray | None) -> NDArray:
    """Return the labels of all samples, from those of the free ones."""
    if fixed is None:
        return labels
    complete = fixed.astype(labels.dtype)
    complete[np.isnan(complete)] = labels.ravel()
    return complete


def check_prior(prior: ArrayLike | None, n_clusters: int) -> NDArray:
    """Return the target shares as a float64 array that sums to 1."""
    if prior is None:
        return np.full(n_clusters, 1 / n_clusters)
    prior = check_array(
        prior,
        dtype=np.float64,
        ensure_2d=False,
        ensure_min_samples=0,
        input_name="prior",
    )
    if prior.shape != (n_clusters,):
        raise ValueError(
            f"prior must hold one share per cluster, shape ({n_clusters},), "
            f"got shape {prior.shape}."
        )
    if prior.min() < 0:
        raise ValueError(f"prior must not be negative, got {prior.min()}.")
    if prior.max() == 0:
        raise ValueError("prior must have a positive sum, got only zeros.")
    # Scaled by the maximum first, so that the sum of huge entries does not overflow.
    shares = prior / prior.max()
    shares[shares < _LEAST] = 0
    shares /= shares.sum()
    # What was checked before, and stored, stays as it is, bit for bit.
    rounding = len(prior) * np.finfo(np.float64).eps
    return prior if np.allclose(prior, shares, rtol=rounding, atol=0) else shares


def positive_rows(proba: NDArray) -> NDArray:
    """Copy `proba`, with its zeros lifted to where EM can move them."""
    return np.maximum(proba, proba.dtype.type(_LEAST))


def fairness(usage: NDArray, prior: NDArray, forward: bool = False) -> float:
    """Evaluate KL(prior || usage), or KL(usage || prior) if `forward`."""
    return kl_divergence(usage, prior) if forward else kl_divergence(prior, usage)


def kl_divergence(p: NDArray, q: NDArray, log_q: NDArray | None = None) -> float:
    """Evaluate KL(p || q) as the sum of p ln(p / q) - p + q.

    All terms are non-negative, and near p = q their errors are as small as p - q; nor
    does it matter that sums are 1 up to rounding only, which a large lam would
    multiply. `log_q` is for a q that underflows.
    """
    if log_q is None:
        with np.errstate(divide="ignore"):
            log_q = np.log(q)
    return _sum_divergences(p, q, log_q)


@kernel
def _sum_divergences(p, q, log_q):
    """Return the sum of p ln(p / q) - p + q; p, q, log_q : (n_clusters,) IN."""
    total = 0.0
    for k in range(len(p)):
        excess = (q[k] - p[k]) / p[k]
        if abs(excess) < 0.5:
            total += p[k] * (excess - np.log1p(excess))
        elif p[k] > 0:
            total += p[k] * (np.log(p[k]) - log_q[k]) - p[k] + q[k]
        else:
            total += q[k]
    return total


def sum_labels(labels: NDArray, weight: NDArray) -> NDArray:
    """Return the sum of weight * label, (n_clusters,), in float64."""
    return np.einsum("i,ik->k", weight, labels)


def sum_losses(proba: NDArray, labels: NDArray, weight: NDArray) -> float:
    """Return the sum of weight times -ln sum_k proba_k labels_k, in float64."""
    hits = np.einsum("ik,ik->i", proba, labels, dtype=np.float64)
    hits[weight == 0] = 1  # none of an infinite loss is no loss
    with np.errstate(divide="ignore"):
        return float(-(weight * np.log(hits)).sum())


def collision_and_usage(problem: Problem, labels: NDArray) -> tuple[float, NDArray]:
    """Return the terms of the loss that the labels of the free samples change.

    They are the collision cross-entropy of the free samples, and each cluster's usage
    by all samples, as means over all samples.
    """
    loss_sum = sum_losses(problem.proba, labels, problem.weight)
    label_sum = sum_labels(labels, problem.weight) + problem.fixed_sum
    return loss_sum / problem.total_weight, label_sum / problem.total_weight
