r"""The solver for the soft pseudo-labels (EM, eqs. 13-17 of the paper).

Names in the kernels, for one sample, with `lam` as the weight of the mean-level loss:

=============== ======================== ==========================================
name            paper                    meaning
=============== ======================== ==========================================
``proba``       :math:`\sigma_i`         prediction, a point of the simplex
``labels``      :math:`y_i`              pseudo-label, a point of the simplex
``price[k]``    :math:`\lambda u_k/\bar y_k`  weight of cluster k, one for all samples
``force[k]``    :math:`\lambda M u_k S_i^k`   ``price[k] * labels[i, k]``, the E-step
``shortfall[k]``  :math:`1 - \sigma_k/\sigma_{max}`  distance of k from the best cluster
``pull[k]``     .                        ``force[k] * proba[i, k] / max(proba[i])``
=============== ======================== ==========================================

All compiled code of the package stands in this file: numba's cache does not notice an
edit of a kernel that is called from another file.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_array

from skcce.losses import check_simplex_rows

__all__ = ["PseudoLabels", "solve_pseudo_labels"]

# Below this a cluster's share counts as zero: its products with lam * n_samples and
# its reciprocal still have to be normal float64 numbers.
_NO_SHARE = 1e-250
_TINY = 1e-300
MAX_LAM = 1e30  # lam * n_samples / _NO_SHARE is finite
# Entries of the start are lifted to this, because the EM update is multiplicative: an
# exact zero would stay zero although the optimum may need it. A share of the prior
# that is smaller has no part in the loss, where a label may be too small for its dtype.
_LEAST = 1e-30


class PseudoLabels(NamedTuple):
    """Result of :func:`solve_pseudo_labels`.

    Attributes
    ----------
    pseudo_labels : ndarray of shape (n_samples, n_clusters)
        Soft labels; every row lies on the probability simplex.
    loss : float
        Value of the minimized objective at `pseudo_labels`, in nats.
    n_iter : int
        Number of EM iterations.
    converged : bool
        Whether no entry changed by more than `tol` in the last iteration.
    gap : float or None
        Duality gap: `loss` exceeds the optimum by no more than this. Only computed
        on request.
    """

    pseudo_labels: NDArray
    loss: float
    n_iter: int
    converged: bool
    gap: float | None


@validate_params(
    {
        "proba": ["array-like"],
        "lam": [Interval(Real, 0, MAX_LAM, closed="right")],
        "prior": ["array-like", None],
        "init": ["array-like", None],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "return_gap": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def solve_pseudo_labels(
    proba: ArrayLike,
    *,
    lam: float,
    prior: ArrayLike | None = None,
    init: ArrayLike | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    return_gap: bool = False,
) -> PseudoLabels:
    r"""Solve for the soft pseudo-labels of given predictions.

    Minimizes, over rows :math:`y_i` on the probability simplex, the convex function
    (eq. 11 of [1]_)

    .. math::

        \frac{1}{M} \sum_{i=1}^{M} - \ln \sum_k \sigma_{ik} y_{ik}
        + \lambda \, \mathrm{KL}(u \,\|\, \bar y),
        \qquad \bar y = \frac{1}{M} \sum_i y_i ,

    by expectation-maximisation: every iteration solves each sample's sub-problem
    exactly (Theorem 1) and never increases the objective.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_clusters)
        Predictions (:math:`\sigma`), non-negative, rows summing to 1. float32 and
        float64 are kept, other types are converted to float64.
    lam : float
        Weight (:math:`\lambda > 0`) of the fairness term in the *mean-level* loss
        above, so that its meaning does not depend on the number of samples. The
        paper's eq. (15), read literally, has :math:`\lambda M` in this place: its
        100 with batches of 250 is ``lam=0.4`` here.
    prior : array-like of shape (n_clusters,), default=None
        Target shares of the clusters (:math:`u`), non-negative; they are scaled to
        sum to 1. None means equal shares.
    init : array-like of shape (n_samples, n_clusters), default=None
        Start, rows on the simplex. None starts from `proba`. A zero of an explicit
        start stays zero unless the cluster is the sample's best one (Property 1).
    max_iter : int, default=1000
        Maximum number of EM iterations.
    tol : float, default=1e-4
        Stop when no label changes by more than this in an iteration. EM slows down
        near the optimum; `return_gap` tells how far it still is.
    return_gap : bool, default=False
        Whether to compute the duality gap, for about the price of one iteration.

    Returns
    -------
    PseudoLabels
        Named tuple ``(pseudo_labels, loss, n_iter, converged, gap)``. The labels have
        the dtype of `proba`.

    Raises
    ------
    ValueError
        If an argument is out of its range, not finite, or of the wrong shape.

    References
    ----------
    .. [1] Zhang, Boykov. "Collision Cross-entropy for Soft Class Labels and Deep
       Clustering". arXiv:2303.07321, eqs. (11)-(17), Algorithm 1 and supplement.

    Examples
    --------
    >>> from skcce import solve_pseudo_labels
    >>> result = solve_pseudo_labels([[0.9, 0.1], [0.7, 0.3]], lam=10.0)
    >>> result.pseudo_labels.round(2)
    array([[0.83, 0.17],
           [0.22, 0.78]])
    """
    proba = check_simplex_rows(proba, "proba")
    if init is None:
        labels = positive_rows(proba)
    else:
        labels = check_simplex_rows(init, "init").astype(proba.dtype, copy=True)
        if labels.shape != proba.shape:
            raise ValueError(
                f"init has shape {labels.shape}, but proba has {proba.shape}; "
                "they must be equal."
            )
    prior = check_prior(prior, proba.shape[1])

    n_iter, change = expectation_maximization(
        proba, labels, float(lam), prior, max_iter, tol
    )
    loss = pseudo_label_loss(proba, labels, lam, prior)
    gap = duality_gap(proba, labels, lam, prior, loss) if return_gap else None
    return PseudoLabels(labels, loss, n_iter, bool(change <= tol), gap)


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
    return prior / prior.sum()


def positive_rows(proba: NDArray) -> NDArray:
    """Copy `proba`, with its zeros lifted to where EM can move them."""
    return np.maximum(proba, proba.dtype.type(_LEAST))


def expectation_maximization(
    proba: NDArray,
    labels: NDArray,
    lam: float,
    prior: NDArray,
    max_iter: int,
    tol: float,
) -> tuple[int, float]:
    """Run EM on `labels` (n_samples, n_clusters) in place, without any checks.

    Returns the number of iterations and the last one's largest change of a label.
    """
    label_sum = labels.sum(axis=0, dtype=np.float64)
    weight = lam * len(labels) * prior
    n_iter, change = 0, np.inf
    while n_iter < max_iter and change > tol:
        change = _em_iteration(proba, weight, labels, label_sum)
        n_iter += 1
    return n_iter, change


def pseudo_label_loss(
    proba: NDArray, labels: NDArray, lam: float, prior: NDArray
) -> float:
    """Evaluate eq. (11): mean collision cross-entropy + lam * KL(prior || usage)."""
    collision = np.einsum("ik,ik->i", proba, labels, dtype=np.float64)
    usage = labels.mean(axis=0, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return float(-np.log(collision).mean() + lam * fairness(prior, usage))


def fairness(prior: NDArray, usage: NDArray) -> float:
    """Evaluate KL(prior || usage); inf if a wanted cluster is not used at all."""
    wanted = prior > _LEAST
    with np.errstate(divide="ignore"):
        return float(prior[wanted] @ np.log(prior[wanted] / usage[wanted]))


def duality_gap(
    proba: NDArray, labels: NDArray, lam: float, prior: NDArray, loss: float
) -> float:
    r"""Bound how far the loss of `labels` is above the optimum.

    With one price per cluster, :math:`w_k = \lambda u_k / \bar y_k`, the dual function

    .. math::

        D(w) = \lambda (1 - \ln \lambda) + \lambda \sum_k u_k \ln w_k
               - \frac1M \sum_i \max_{y \in \Delta}[\ln \sigma_i \cdot y + w \cdot y]

    is a lower bound of the loss for every :math:`w`.
    """
    usage = labels.mean(axis=0, dtype=np.float64)
    wanted = prior > _LEAST
    if usage[wanted].min() < _NO_SHARE:
        return np.inf
    price = np.zeros_like(prior)
    price[wanted] = lam * prior[wanted] / usage[wanted]
    dual = lam * (1 - np.log(lam)) + lam * (prior[wanted] @ np.log(price[wanted]))
    return float(loss - dual + _mean_best_response(proba, price))


# All kernels take float32 or float64 arrays, and compute each row in float64. Division
# by zero gives inf instead of an exception. Sums may be reordered, so that they use the
# vector units: twice as fast; inf and nan keep their IEEE meaning.
def _kernel(function):
    options = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract"},
    }
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package nor the user's home is writable: compile in every process.
        return njit(**options)(function)


@_kernel
def _em_iteration(proba, weight, labels, label_sum):
    """One E-step and one M-step for every sample.

    proba : (n_samples, n_clusters) IN
    weight : (n_clusters,) IN, lam * n_samples * prior
    labels : (n_samples, n_clusters) IN/OUT
    label_sum : (n_clusters,) IN/OUT, column sums of labels
    returns : largest change of a label
    """
    n_samples, n_clusters = proba.shape
    price = np.empty(n_clusters)
    force = np.empty(n_clusters)
    pull = np.empty(n_clusters)
    shortfall = np.empty(n_clusters)
    for k in range(n_clusters):
        price[k] = weight[k] / label_sum[k] if label_sum[k] > _NO_SHARE else 0.0
        label_sum[k] = 0.0
    change = 0.0
    for i in range(n_samples):
        best = 0
        for k in range(n_clusters):
            if proba[i, k] > proba[i, best]:
                best = k
        p_max = np.float64(proba[i, best])
        inverse = 1 / p_max
        for k in range(n_clusters):
            force[k] = price[k] * labels[i, k]
            if force[k] < _NO_SHARE:
                force[k] = 0.0
            shortfall[k] = (p_max - proba[i, k]) * inverse
            pull[k] = force[k] * (proba[i, k] * inverse)
        _solve_m_step(shortfall, pull, force)
        for k in range(n_clusters):
            change = max(change, abs(force[k] - labels[i, k]))
            labels[i, k] = force[k]
            label_sum[k] += force[k]
    return change


@_kernel
def _solve_m_step(shortfall, pull, force):
    r"""Replace `force` by the label that minimizes eq. (15) for one sample.

    shortfall : (n_clusters,) IN, in [0, 1], zero for the best cluster
    pull : (n_clusters,) IN, force * (1 - shortfall)
    force : (n_clusters,) IN, non-negative; OUT: the label, sums to 1

    The stationary point is :math:`y_k = a_k x / (c x - \sigma_k)` with :math:`a` the
    force, :math:`c = 1 + \sum a` and the collision probability :math:`x` (eq. 16).
    With :math:`x = (1 + \epsilon)\sigma_{max}/c` and the shortfall :math:`r`,

    .. math:: y_k = a_k (1 + \epsilon) / (c (r_k + \epsilon)),

    and because :math:`(1+\epsilon)/(r+\epsilon) = 1 + (1-r)/(r+\epsilon)`, the labels
    sum to 1 exactly where :math:`G(\epsilon) = \sum_k b_k/(r_k+\epsilon) = 1` with
    the pull :math:`b_k = a_k (1 - r_k)`: sums of positive terms, no cancellation. As
    1/G is concave and increasing, Newton's method on it climbs to the root from every
    point on its left, in one step if a single term dominates.
    """
    n_clusters = force.shape[0]
    total = 0.0
    root = 0.0
    best = 0
    for k in range(n_clusters):
        total += force[k]
        # No term alone exceeds 1 at the root: a point on its left (Lemma 1).
        root = max(root, pull[k] - shortfall[k])
        if shortfall[k] == 0.0 and force[k] == 0.0:
            best = k
    if root == 0.0:
        at_zero = 0.0
        for k in range(n_clusters):
            if force[k] > 0.0:
                at_zero += pull[k] / shortfall[k]
        if at_zero <= 1.0:
            # Zero shares (supplement, section 9): the best cluster has no share, the
            # others take what they are due, and it gets the rest.
            for k in range(n_clusters):
                if force[k] > 0.0:
                    force[k] /= (1 + total) * shortfall[k]
            force[best] = (1 - at_zero) / (1 + total)
            return
        root = _TINY  # still on the left, and 0 / (0 + root) is 0
    for _ in range(100):
        value = 0.0
        slope = 0.0
        for k in range(n_clusters):
            inverse = 1 / (shortfall[k] + root)
            term = pull[k] * inverse
            value += term
            slope += term * inverse
        step = (value - 1) * value / slope
        root += step
        if not step > 4e-16 * root:
            break
    total = 0.0
    for k in range(n_clusters):
        force[k] /= shortfall[k] + root
        total += force[k]
    for k in range(n_clusters):
        force[k] /= total


@_kernel
def _mean_best_response(proba, price):
    r"""Average over samples of max over the simplex of ln(proba . y) + price . y.

    proba : (n_samples, n_clusters) IN
    price : (n_clusters,) IN, non-negative

    The maximum is :math:`\min_{z>0} \max_k (w_k + \sigma_k z) - 1 - \ln z`. The lines
    :math:`w_k + \sigma_k z` form a convex envelope; we walk along it to the right,
    from line to steeper line, until the slope of :math:`\ln z` is reached on a line or
    between two. (Any z gives an upper bound, so rounding cannot void the certificate.)
    """
    n_samples, n_clusters = proba.shape
    mean = 0.0
    for i in range(n_samples):
        line = 0
        for k in range(n_clusters):
            if price[k] > price[line] or (
                price[k] == price[line] and proba[i, k] > proba[i, line]
            ):
                line = k
        z = 0.0
        while True:
            slope = np.float64(proba[i, line])
            crossing = np.inf
            steeper = line
            for k in range(n_clusters):
                if proba[i, k] > slope:
                    at = (price[line] - price[k]) / (proba[i, k] - slope)
                    if at < crossing or (
                        at == crossing and proba[i, k] > proba[i, steeper]
                    ):
                        crossing = at
                        steeper = k
            if steeper == line or 1 / slope <= crossing:
                z = max(z, 1 / slope)
                break
            z = max(z, crossing)
            line = steeper
        highest = 0.0
        for k in range(n_clusters):
            highest = max(highest, price[k] + proba[i, k] * z)
        mean += (highest - 1 - np.log(z)) / n_samples
    return mean
