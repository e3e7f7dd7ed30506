r"""The dual problem: prices of the clusters, and the certificate that they give.

With one price :math:`w_k` per cluster, the dual function is

.. math::

    D(w) = -\lambda F^*(-w / \lambda)
           - \frac1M \sum_i \max_{y \in \Delta} [\ln \sigma_i \cdot y + w \cdot y],

with :math:`F^*` the convex conjugate of the divergence as a function of the usage.
It is a lower bound of the loss for all prices, so that loss - D(w) bounds how far any
labels are from the optimum. The gap is computed as the sum of terms that are positive
each, so that it loses no digits where it is small: for every sample what its label
earns less than the best response to the prices, and for the clusters the Fenchel-Young
loss of usage and prices.

Only price differences matter to the samples. In the reverse divergence all prices are
near lam, and `price` holds the difference, ``w - lam``; in the forward one it is w.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from skcce._pseudo_labels.kernel import kernel
from skcce._pseudo_labels.objective import kl_divergence


def balancing_price(
    usage: NDArray, lam: float, prior: NDArray, forward: bool
) -> NDArray:
    """Return the prices at which `usage` is what the divergence asks for.

    They are the negative gradient of the fairness term, inf for a wanted cluster that
    is not used.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if forward:
            price = -lam * np.log(usage / prior)
            return np.where(prior > 0, price, -np.inf)
        return np.where(prior > 0, lam * (prior / usage - 1), -lam)


def duality_gap(
    collision: float,
    response: float,
    usage: NDArray,
    price: NDArray,
    lam: float,
    prior: NDArray,
    forward: bool,
) -> float:
    """Return loss - D(price) for labels of this mean collision loss and usage.

    response : the samples' mean best response to `price`, see `best_responses`.
    """
    used = usage > 0
    samples = float(collision + response - price[used] @ usage[used])
    return samples + _price_mismatch(usage, price, lam, prior, forward)


def _price_mismatch(
    usage: NDArray, price: NDArray, lam: float, prior: NDArray, forward: bool
) -> float:
    """Return the clusters' part of the duality gap; 0 at the balancing price."""
    wanted = prior > 0
    prior, usage, price = prior[wanted], usage[wanted], price[wanted]
    if forward:
        # lam * KL(usage || shares that these prices ask for)
        log_asked = log_softmax(np.log(prior) - price / lam)
        return lam * kl_divergence(usage, np.exp(log_asked), log_asked)
    # No usage above 1 is asked for; a price near -lam has lost its digits.
    full_price = np.maximum(lam + price, lam * prior)
    with np.errstate(divide="ignore"):
        excess = (usage * full_price - lam * prior) / (lam * prior)
        return float(lam * (prior @ (excess - np.log1p(excess))))


@kernel
def best_responses(proba, price, margin, candidates):
    r"""Average over samples of max over the simplex of ln(proba . y) + price . y.

    proba : (n_samples, n_clusters) IN
    price : (n_clusters,) IN
    candidates : (n_samples, n_clusters) bool IN/OUT, or (0, n_clusters). A cluster that
        would take part in the maximum if its price rose by `margin` is marked.
    returns : the average; the number of marks

    The maximum is :math:`\min_{z>0} \max_k (w_k + \sigma_k z) - 1 - \ln z`. The lines
    :math:`w_k + \sigma_k z` form a convex envelope. Most samples hold a single
    cluster, their line is on top at :math:`z = 1/\sigma_k`. For the others we walk
    along the envelope to the right, from line to steeper line, until the slope of
    :math:`\ln z` is reached on a line or between two. (Any z gives an upper bound, so
    rounding cannot void the certificate.)
    """
    n_samples, n_clusters = proba.shape
    mark = len(candidates) > 0
    highest = price.max()
    earning = np.exp(price - highest)
    total = 0.0
    n_candidates = 0
    for i in range(n_samples):
        best = 0
        best_value = 0.0
        for k in range(n_clusters):
            value = proba[i, k] * earning[k]
            if value > best_value:
                best_value = value
                best = k
        z = 1 / np.float64(proba[i, best])
        top = price[best] + 1
        limit = top + 1e-15 * abs(top)
        above = 0
        for k in range(n_clusters):
            above += price[k] + proba[i, k] * z > limit
        if above > 0 or best_value == 0:  # the product may underflow
            # A little to the left of where two lines meet: the value of the steep one
            # has a rounding error of 1e-16 times its price, and shall not be the top.
            z = _walk_envelope(proba[i], price) * (1 - 1e-15)
            top = -np.inf
            for k in range(n_clusters):
                top = max(top, price[k] + proba[i, k] * z)
        # The highest price is taken out, as it may be 1e15 times what matters here.
        total += (top - highest) - 1 - np.log(z)
        if mark:
            limit = top - max(margin, 1e-14 * (1 + abs(top)))  # at least one is marked
            for k in range(n_clusters):
                value = price[k] + proba[i, k] * z * (1 + 1e-14)  # back, and rounding
                marked = candidates[i, k] | (value >= limit)
                candidates[i, k] = marked
                n_candidates += marked
    return total / n_samples + highest, n_candidates


@kernel
def _walk_envelope(slopes, price):
    """Return the z > 0 that minimizes max(price + slopes * z) - ln z.

    slopes : (n_clusters,) IN, non-negative, not all zero
    price : (n_clusters,) IN
    """
    n_clusters = len(price)
    line = 0
    for k in range(n_clusters):
        if price[k] > price[line] or (
            price[k] == price[line] and slopes[k] > slopes[line]
        ):
            line = k
    z = 0.0
    while True:
        slope = np.float64(slopes[line])
        crossing = np.inf
        steeper = line
        for k in range(n_clusters):
            if slopes[k] > slope:
                at = (price[line] - price[k]) / (slopes[k] - slope)
                if at < crossing or (at == crossing and slopes[k] > slopes[steeper]):
                    crossing = at
                    steeper = k
        if steeper == line or 1 / slope <= crossing:
            return max(z, 1 / slope)
        z = max(z, crossing)
        line = steeper
