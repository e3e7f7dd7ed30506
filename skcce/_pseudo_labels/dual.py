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

from skcce._kernel import kernel
from skcce._pseudo_labels.objective import Problem, kl_divergence


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


def mean_response(
    problem: Problem,
    price: NDArray,
    margin: float = 0.0,
    marks: NDArray | None = None,
    held: NDArray | None = None,
) -> tuple[float, int, float]:
    """Return the mean of the best responses, and more: see `best_responses`."""
    proba, *_, weight, fixed_sum, total_weight, _ = problem
    if marks is None:
        marks = np.empty((0, proba.shape[1]), dtype=np.bool_)
    if held is None:
        held = np.empty(0)
    return best_responses(
        proba, weight, fixed_sum, total_weight, price, margin, marks, held
    )


def respond(proba: NDArray, price: NDArray) -> NDArray:
    """Return each sample's best response, a label of at most two clusters."""
    on_top = np.zeros(proba.shape, dtype=np.bool_)
    weight, fixed_sum = np.ones(len(proba)), np.zeros(len(price))
    best_responses(proba, weight, fixed_sum, 1.0, price, 0.0, on_top, np.empty(0))
    rows = np.arange(len(proba))
    flat = np.where(on_top, proba, np.inf).argmin(axis=1)
    steep = np.where(on_top, proba, -np.inf).argmax(axis=1)
    rise = proba[rows, steep] - proba[rows, flat]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 / (price[flat] - price[steep]) - proba[rows, flat] / rise
    share = np.where(rise > 0, share, 1).clip(0, 1)
    labels = np.zeros_like(proba)
    labels[rows, flat] = 1 - share
    labels[rows, steep] += share
    return labels


def duality_gap(
    problem: Problem,
    collision: float,
    response: float,
    usage: NDArray,
    price: NDArray,
) -> float:
    """Return loss - D(price) for labels of this mean collision loss and usage.

    response : the samples' mean best response to `price`, see `mean_response`.
    """
    used = usage > 0
    samples = float(collision + response - price[used] @ usage[used])
    return samples + _price_mismatch(problem, usage, price)


def _price_mismatch(problem: Problem, usage: NDArray, price: NDArray) -> float:
    """Return the clusters' part of the duality gap; 0 at the balancing price."""
    lam, prior = problem.lam, problem.prior
    wanted = prior > 0
    prior, usage, price = prior[wanted], usage[wanted], price[wanted]
    if problem.forward:
        # lam * KL(usage || shares that these prices ask for)
        log_asked = log_softmax(np.log(prior) - price / lam)
        return lam * kl_divergence(usage, np.exp(log_asked), log_asked)
    # No usage above 1 is asked for; a price near -lam has lost its digits.
    full_price = np.maximum(lam + price, lam * prior)
    with np.errstate(divide="ignore"):
        excess = (usage * full_price - lam * prior) / (lam * prior)
        # Near -1 it has lost the digits of the ratio.
        ratio = usage * full_price / (lam * prior)
        log = np.where(ratio < 0.5, np.log(ratio), np.log1p(excess))
        return float(lam * (prior @ (excess - log)))


@kernel
def best_responses(proba, weight, fixed_sum, total_weight, price, margin, marks, held):
    r"""Average over samples of max over the simplex of ln(proba . y) + price . y.

    proba : (n_samples, n_clusters) IN
    weight : (n_samples,) IN
    fixed_sum : (n_clusters,) IN, sum of weight * label over the samples of fixed label,
        whose response is what they earn
    total_weight : of all samples
    price : (n_clusters,) IN
    marks : (n_samples, n_clusters) bool IN/OUT, or (0, n_clusters). A cluster that
        would take part in the maximum if its price rose by `margin` is marked.
    held : (n_clusters,) IN/OUT, or (0,). The weights of those samples are added for
        which the cluster is the best single one.
    returns : the average; the number of marks; if `held` is asked for, the sum of
        weight times -ln of the prediction for the best single cluster

    The maximum is :math:`\min_{t>0} \max_k (w_k + \sigma_k t) - 1 - \ln t`; t is the
    pull. The lines :math:`w_k + \sigma_k t` form a convex envelope. Most samples hold a
    single cluster, whose line is on top at :math:`t = 1/\sigma_k`. For the others we
    walk along the envelope to the right, from line to steeper line, until the slope of
    :math:`\ln t` is reached on a line or between two. (Any t gives an upper bound, so
    rounding cannot void the certificate.)
    """
    n_samples, n_clusters = proba.shape
    marking = len(marks) > 0
    highest = price.max()
    earning = np.exp(price - highest)
    total = 0.0
    counted = 0.0
    n_marks = 0
    loss_sum = 0.0
    for i in range(n_samples):
        best = 0
        best_value = 0.0
        for k in range(n_clusters):
            value = proba[i, k] * earning[k]
            if value > best_value:
                best_value = value
                best = k
        if len(held) > 0:
            held[best] += weight[i]
            loss_sum -= weight[i] * np.log(np.float64(proba[i, best]))
        pull = 1 / np.float64(proba[i, best])
        top = price[best] + 1
        limit = top + 1e-15 * abs(top)
        above = 0
        for k in range(n_clusters):
            above += price[k] + proba[i, k] * pull > limit
        if above > 0 or best_value == 0:  # the product may underflow
            # A little to the left of where two lines meet: the value of the steep one
            # has a rounding error of 1e-16 times its price, and shall not be the top.
            pull = _walk_envelope(proba[i], price) * (1 - 1e-15)
            top = -np.inf
            for k in range(n_clusters):
                top = max(top, price[k] + proba[i, k] * pull)
        # The highest price is taken out, as it may be 1e15 times what matters here.
        total += weight[i] * ((top - highest) - 1 - np.log(pull))
        counted += weight[i]
        if marking:
            limit = top - max(margin, 1e-14 * (1 + abs(top)))  # at least one is marked
            for k in range(n_clusters):
                value = price[k] + proba[i, k] * pull * (
                    1 + 1e-14
                )  # back, and rounding
                marked = marks[i, k] | (value >= limit)
                marks[i, k] = marked
                n_marks += marked
    earned = 0.0
    for k in range(n_clusters):
        earned += price[k] * fixed_sum[k] if fixed_sum[k] > 0 else 0.0
    response = total / total_weight + highest * (counted / total_weight)
    return response + earned / total_weight, n_marks, loss_sum


@kernel
def _walk_envelope(slopes, price):
    """Return the pull t > 0 that minimizes max(price + slopes * t) - ln t.

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
    pull = 0.0
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
            return max(pull, 1 / slope)
        pull = max(pull, crossing)
        line = steeper
