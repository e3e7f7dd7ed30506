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

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

# Prices are found for high temperatures first, which fall by this factor, and begin
# where the best cluster of a sample leads by this many temperatures on average.
_COOLING, _SOFT = 4.0, 20.0
# At all temperatures but the last, this part of an equal share may be wrong; and the
# most steps.
_ROUGH, _ROUGH_ITER = 0.02, 30
# A step has to raise the dual by this part of what its slope promises.
_PROMISED = 1e-4
# The shift of prices, in temperatures, over which the curvature is taken to hold at
# first; it grows by a factor where it does, and shrinks by it where it does not.
_REACH, _TRUST = 4.0, 4.0
_ROUNDING = 1e-15  # of the shares
# Sinkhorn's steps, each a tenth of the work of Newton's or less, go on while they lower
# the error by this factor.
_SLOWEST = 0.8
# Logarithms are cut here, so that nothing overflows.
_HIGHEST = 300.0


class _Problem(NamedTuple):
    """What is minimized, as a function of the labels."""

    scores: NDArray  # (n_samples, n_clusters), the best one of each sample is 0
    prior: NDArray  # (n_clusters,), positive
    epsilon: float
    lam: float
    weight: NDArray  # (n_samples,), of sum 1


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
        Steps, at most, for the last temperature.

    Returns
    -------
    ndarray of shape (n_samples, n_clusters)
        Labels in float64; rows sum to 1.
    """
    wanted = prior > 0
    scores = scores[:, wanted].astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    weight = np.ones(len(scores)) if weight is None else weight
    weight = weight / weight.sum()
    problem = _Problem(scores, prior[wanted], epsilon, lam, weight)
    too_cold = max(-(weight @ scores).mean() / (_SOFT * epsilon), 1)
    n_levels = int(np.ceil(np.log(too_cold) / np.log(_COOLING)))
    prices = np.zeros(len(problem.prior))
    for level in range(n_levels, 0, -1):
        warm = problem._replace(epsilon=epsilon * _COOLING**level)
        prices, _ = _ascend(prices, warm, _ROUGH / len(prices), _ROUGH_ITER)
    labels = np.zeros((len(scores), len(wanted)))
    _, labels[:, wanted] = _ascend(prices, problem, tol, max_iter)
    return labels


def _ascend(
    prices: NDArray, problem: _Problem, tol: float, max_iter: int
) -> tuple[NDArray, NDArray]:
    """Return prices (n_clusters,) where no cluster share is wrong by more than `tol`.

    Behind them come the labels (n_samples, n_clusters). `prices` are a guess.
    """
    _, labels = _evaluate(prices, problem)
    prices = _sinkhorn(prices, labels, problem, tol)
    dual, labels = _evaluate(prices, problem)
    reach = _REACH
    for _ in range(max_iter):
        usage, wish = problem.weight @ labels, _wished_shares(prices, problem)
        slope = wish - usage
        error = np.abs(slope).max()
        if error <= tol:
            break
        curvature = np.diag(usage) - labels.T @ (problem.weight[:, None] * labels)
        curvature += 1  # a constant in all prices changes nothing: neither does this
        curvature /= problem.epsilon
        curvature += (np.diag(wish) - np.outer(wish, wish)) / problem.lam
        # Labels follow the prices linearly for a few temperatures, and not at all where
        # they are certain.
        damping = error / reach + _ROUNDING
        curvature.flat[:: len(usage) + 1] += damping / problem.epsilon
        step = np.linalg.solve(curvature, slope)
        trial = _evaluate(prices + step, problem)
        if trial[0] >= dual + _PROMISED * (slope @ step):
            prices, reach = prices + step, reach * _TRUST
        else:
            reach /= _TRUST
            prices = _sinkhorn(prices, labels, problem, tol)
            trial = _evaluate(prices, problem)
        dual, labels = trial
    return prices, labels


def _evaluate(prices: NDArray, problem: _Problem) -> tuple[float, NDArray]:
    """Return the dual, and the labels (n_samples, n_clusters), at these prices."""
    labels = (problem.scores + prices) / problem.epsilon
    highest = labels.max(axis=1, keepdims=True)
    labels -= highest
    np.exp(labels, out=labels)
    total = labels.sum(axis=1, keepdims=True)
    labels /= total
    gain = problem.weight @ (highest + np.log(total))[:, 0]
    if np.isinf(problem.lam):
        return float(problem.prior @ prices - problem.epsilon * gain), labels
    cost = problem.lam * logsumexp(-prices / problem.lam, b=problem.prior)
    return float(-cost - problem.epsilon * gain), labels


def _wished_shares(prices: NDArray, problem: _Problem) -> NDArray:
    """Return the shares (n_clusters,) that are best at these prices."""
    if np.isinf(problem.lam):
        return problem.prior
    return softmax(np.log(problem.prior) - prices / problem.lam)


def _sinkhorn(
    prices: NDArray, labels: NDArray, problem: _Problem, tol: float
) -> NDArray:
    """Return better prices, by Sinkhorn's steps for as long as they are worth it.

    They need no exponentials and cannot fail; where labels are soft, a few are enough.
    `labels` (n_samples, n_clusters) are those at `prices`.
    """
    start, last = prices, np.inf
    while True:
        shift = np.clip((prices - start) / problem.epsilon, -_HIGHEST, _HIGHEST)
        scale = np.exp(shift)
        usage = scale * ((problem.weight / (labels @ scale)) @ labels)
        error = np.abs(_wished_shares(prices, problem) - usage).max()
        if error <= tol or error > _SLOWEST * last:
            return prices
        last = error
        log_usage = np.log(np.maximum(usage, np.exp(-_HIGHEST)))
        prices = prices + problem.epsilon * (np.log(problem.prior) - log_usage)
        prices /= 1 + problem.epsilon / problem.lam
