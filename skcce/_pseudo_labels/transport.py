r"""Labels of Shannon's cross-entropy, under a prior on the cluster shares.

For scores :math:`s_i`, such as log-probabilities, the labels minimize

.. math::

    \frac1M \sum_i w_i \bigl[ -s_i^\top y_i - \varepsilon H(y_i) \bigr]
    + \lambda\, \mathrm{KL}(\bar y \,\|\, u),
    \qquad \bar y = \frac1M \sum_i w_i y_i .

An infinite :math:`\lambda` asks for the shares :math:`u` themselves: entropic optimal
transport. Given one price per cluster, every label has a closed form,
:math:`y_i = \mathrm{softmax}((s_i + g) / \varepsilon)`, and the dual is a concave
function of the K prices alone,

.. math::

    D(g) = -\frac{\varepsilon}{M} \sum_i w_i \ln \sum_k e^{(s_{ik} + g_k)/\varepsilon}
    - \lambda \ln \sum_k u_k e^{-g_k / \lambda},

whose last term is :math:`u^\top g` in the limit.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

# Prices are found for high temperatures first, which fall by this factor, and begin
# where the best cluster of a sample leads by this many temperatures on average.
_COOLING, _SOFT = 4.0, 8.0
# A step has to raise the dual by this part of what its slope promises.
_PROMISED = 1e-4
# The shift of prices, in temperatures, over which the curvature is taken to hold.
_REACH = 4.0
# Logarithms are cut here, so that nothing overflows.
_HIGHEST = 300.0


def transport_labels(
    scores: NDArray,
    prior: NDArray,
    epsilon: float,
    lam: float = np.inf,
    *,
    weight: NDArray | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> NDArray:
    """Return the labels, from Newton's and Sinkhorn's steps on the prices.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_clusters)
        What a label gains, finite.
    prior : ndarray of shape (n_clusters,)
        Target shares, of sum 1. No label has a part in a cluster of share 0.
    epsilon : float
        Temperature, positive.
    lam : float, default=inf
        Weight of the divergence from the target shares, positive.
    weight : ndarray of shape (n_samples,) or None
        Weights of the samples; None if all are equal.
    tol : float, default=1e-6
        Largest error of a cluster share.
    max_iter : int, default=100
        Steps, at most, for each temperature.

    Returns
    -------
    ndarray of shape (n_samples, n_clusters)
        Labels in float64; rows sum to 1.
    """
    wanted = prior > 0
    scores = scores[:, wanted].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    weight = np.full(len(scores), 1 / len(scores)) if weight is None else weight
    weight, prior = weight / weight.sum(), prior[wanted]
    prices = np.zeros(len(prior))
    spread = -(weight @ scores).mean()
    too_cold = max(spread / (_SOFT * epsilon), 1)
    n_levels = int(np.ceil(np.log(too_cold) / np.log(_COOLING)))
    for level in range(n_levels, 0, -1):
        # Near the prices of a lower temperature is good enough.
        prices = _ascend(
            prices, scores, prior, epsilon * _COOLING**level, lam, weight, 0.01, 10
        )
    prices = _ascend(prices, scores, prior, epsilon, lam, weight, tol, max_iter)
    labels = np.zeros((len(scores), len(wanted)))
    labels[:, wanted] = softmax((scores + prices) / epsilon, axis=1)
    return labels


def _ascend(
    prices: NDArray,
    scores: NDArray,
    prior: NDArray,
    epsilon: float,
    lam: float,
    weight: NDArray,
    tol: float,
    max_iter: int,
) -> NDArray:
    """Return prices at which no cluster share is wrong by more than `tol`."""
    problem = scores, prior, epsilon, lam, weight
    _, labels = _evaluate(prices, *problem)
    prices = _sinkhorn(prices, labels, prior, epsilon, lam, weight, tol)
    dual, labels = _evaluate(prices, *problem)
    for _ in range(max_iter):
        usage, wish = weight @ labels, _shares_at(prices, prior, lam)
        slope = wish - usage
        error = np.abs(slope).max()
        if error <= tol:
            break
        curvature = np.diag(usage) - labels.T @ (weight[:, np.newaxis] * labels)
        curvature /= epsilon
        curvature += (np.diag(wish) - np.outer(wish, wish)) / lam
        # Labels follow the prices linearly for a few temperatures, not further.
        curvature.flat[:: len(prior) + 1] += error / (_REACH * epsilon)
        step = np.linalg.solve(curvature, slope)
        trial, (next_dual, next_labels) = (
            prices + step,
            _evaluate(prices + step, *problem),
        )
        if not next_dual >= dual + _PROMISED * (slope @ step):
            trial = _sinkhorn(prices, labels, prior, epsilon, lam, weight, tol)
            next_dual, next_labels = _evaluate(trial, *problem)
        prices, dual, labels = trial, next_dual, next_labels
    return prices


def _evaluate(
    prices: NDArray,
    scores: NDArray,
    prior: NDArray,
    epsilon: float,
    lam: float,
    weight: NDArray,
) -> tuple[float, NDArray]:
    """Return the dual, and the labels (n_samples, n_clusters) at these prices."""
    labels = (scores + prices) / epsilon
    highest = labels.max(axis=1, keepdims=True)
    labels -= highest
    np.exp(labels, out=labels)
    total = labels.sum(axis=1, keepdims=True)
    labels /= total
    gain = weight @ (highest + np.log(total))[:, 0]
    if np.isinf(lam):
        return float(prior @ prices - epsilon * gain), labels
    return float(-lam * logsumexp(-prices / lam, b=prior) - epsilon * gain), labels


def _shares_at(prices: NDArray, prior: NDArray, lam: float) -> NDArray:
    """Return the shares that are best at these prices."""
    return prior if np.isinf(lam) else softmax(np.log(prior) - prices / lam)


def _sinkhorn(
    prices: NDArray,
    labels: NDArray,
    prior: NDArray,
    epsilon: float,
    lam: float,
    weight: NDArray,
    tol: float,
) -> NDArray:
    """Return better prices, by Sinkhorn's steps for as long as each halves the error.

    They need no exponentials, and never fail; few of them do where labels are soft.
    `labels` (n_samples, n_clusters) are those at `prices`.
    """
    start, last = prices, np.inf
    while True:
        scale = np.exp(np.clip((prices - start) / epsilon, -_HIGHEST, _HIGHEST))
        usage = scale * ((weight / (labels @ scale)) @ labels)
        error = np.abs(_shares_at(prices, prior, lam) - usage).max()
        if error <= tol or error > last / 2:
            return prices
        last = error
        log_usage = np.log(np.maximum(usage, np.exp(-_HIGHEST)))
        prices = prices + epsilon * (np.log(prior) - log_usage)
        prices /= 1 + epsilon / lam
