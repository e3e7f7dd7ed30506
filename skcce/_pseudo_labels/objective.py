"""The objective of the pseudo-labels: eq. (11) of the paper, or eq. (10)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_array

# A share of the prior that is smaller has no part in the loss, where a label may be too
# small for its dtype. Entries of EM's start are lifted to it, because the EM update is
# multiplicative: an exact zero would stay zero although the optimum may need it.
_LEAST = 1e-30


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
    prior = prior / prior.max()
    prior[prior < _LEAST] = 0
    return prior / prior.sum()


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
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        log_q = np.log(q) if log_q is None else log_q
        excess = (q - p) / p
        near = p * (excess - np.log1p(excess))
        far = np.where(p > 0, p * (np.log(p) - log_q), 0) - p + q
    return float(np.sum(np.where(np.abs(excess) < 0.5, near, far)))


def collision_and_usage(proba: NDArray, labels: NDArray) -> tuple[float, NDArray]:
    """Return the two terms that the loss is made of.

    They are the mean collision cross-entropy -ln sum_k proba_k labels_k, and the mean
    label of each cluster, both in float64.
    """
    hits = np.einsum("ik,ik->i", proba, labels, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return float(-np.log(hits).mean()), labels.mean(axis=0, dtype=np.float64)


def pseudo_label_loss(
    proba: NDArray, labels: NDArray, lam: float, prior: NDArray, forward: bool = False
) -> float:
    """Evaluate eq. (11), or eq. (10) if `forward`."""
    collision, usage = collision_and_usage(proba, labels)
    return collision + lam * fairness(usage, prior, forward)
