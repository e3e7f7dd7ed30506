"""The public function: one signature for all solvers, and a certificate for each."""

from functools import partial
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import check_array

from skcce._pseudo_labels.accelerated_em import prepare_accelerated_em
from skcce._pseudo_labels.dual import balancing_price, duality_gap, mean_response
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import (
    Problem,
    check_prior,
    collision_and_usage,
    complete,
    fairness,
    pose,
    positive_rows,
)
from skcce._pseudo_labels.projected_gradient import projected_gradient
from skcce._pseudo_labels.working_set import interior_point
from skcce._weights import check_weights
from skcce.losses import check_simplex_rows

_MIN_LAM = 1e-100  # less makes no difference, but its reciprocal overflows
MAX_LAM = 1e15  # the usage is the prior up to rounding
_TINY = 1e-30
_HIGHEST = 1e30  # price in a guess; a certified one is far below
# For training: pseudo-labels of a gap of 1e-4 train no better than those of 1e-2.
_BATCH_TOL = 1e-2
_BATCH_STEPS = 100


class PseudoLabels(NamedTuple):
    """Result of :func:`solve_pseudo_labels`.

    Attributes
    ----------
    pseudo_labels : ndarray of shape (n_samples, n_clusters)
        Soft labels; every row lies on the probability simplex.
    loss : float
        Value of the minimized objective at `pseudo_labels`, in nats.
    gap : float
        Duality gap, in nats: `loss` exceeds the optimum by no more than this, up to
        rounding. Never negative: what rounding takes below 0 is reported as 0.
    n_iter : int
        Number of iterations of the solver.
    converged : bool
        Whether `gap` is at most ``tol * max(1, loss)``, or ``tol`` if `loss` is inf.
    prices : ndarray of shape (n_clusters,)
        The dual point that `gap` was computed with, one price per cluster, in float64:
        at the optimum minus the derivative of the fairness term by the usage, up to a
        common constant. That is ``lam * (prior / usage - 1)`` in the reverse
        divergence, ``-lam * log(usage / prior)`` in the forward one. A cluster of zero
        prior has -lam in the first, -inf in the second. With ``"em"`` and ``"pgd"``, a
        cluster of positive prior may be unused, its price inf, and so the gap.
    """

    pseudo_labels: NDArray
    loss: float
    gap: float
    n_iter: int
    converged: bool
    prices: NDArray


@validate_params(
    {
        "proba": ["array-like"],
        "lam": [Interval(Real, 0, MAX_LAM, closed="right")],
        "prior": ["array-like", None],
        "divergence": [StrOptions({"reverse", "forward"})],
        "solver": [StrOptions({"interior-point", "em", "pgd"})],
        "accelerate": ["boolean"],
        "init": ["array-like", None],
        "init_prices": ["array-like", None],
        "step_size": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_jobs": [Integral, None],
        "sample_weight": ["array-like", None],
        "fixed": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def solve_pseudo_labels(
    proba: ArrayLike,
    *,
    lam: float,
    prior: ArrayLike | None = None,
    divergence: str = "reverse",
    solver: str = "interior-point",
    accelerate: bool = True,
    init: ArrayLike | None = None,
    init_prices: ArrayLike | None = None,
    step_size: float = 1.0,
    max_iter: int = 1000,
    tol: float = 1e-6,
    n_jobs: int | None = None,
    sample_weight: ArrayLike | None = None,
    fixed: ArrayLike | None = None,
) -> PseudoLabels:
    r"""Solve for the soft pseudo-labels of given predictions.

    Minimizes, over rows :math:`y_i` on the probability simplex, the convex function
    (eq. 11 of [1]_)

    .. math::

        \frac{1}{M} \sum_{i=1}^{M} - \ln \sum_k \sigma_{ik} y_{ik}
        + \lambda \, \mathrm{KL}(u \,\|\, \bar y),
        \qquad \bar y = \frac{1}{M} \sum_i y_i ,

    or, with ``divergence="forward"``, the one with :math:`\mathrm{KL}(\bar y \,\|\, u)`
    (eq. 10). Every solver reports a certificate: the duality gap, which bounds how
    far the loss is above the optimum. A solver that ends before the gap is small gives
    no warning: look at ``converged``.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_clusters)
        Predictions (:math:`\sigma`), non-negative, rows summing to 1 (a difference of
        up to 1e-3 passes, and is not mended). float32 and float64 are kept, other types
        are converted to float64.
    lam : float
        Weight (:math:`0 < \lambda \le 10^{15}`) of the fairness term in the
        *mean-level* loss above, so that its meaning does not depend on the number of
        samples. The paper's eq. (15), read literally, has :math:`\lambda M` in this
        place: its 100 with batches of 250 is ``lam=0.4`` here.
    prior : array-like of shape (n_clusters,), default=None
        Target shares of the clusters (:math:`u`), non-negative; they are scaled to
        sum to 1. None means equal shares. A cluster with a share of zero is free in
        the reverse divergence, and forbidden in the forward one.
    divergence : {"reverse", "forward"}, default="reverse"
        ``"reverse"`` is :math:`\mathrm{KL}(u \| \bar y)`, eq. (11), under which every
        wanted cluster is used; ``"forward"`` is :math:`\mathrm{KL}(\bar y \| u)`,
        eq. (10).
    solver : {"interior-point", "em", "pgd"}, default="interior-point"
        ``"interior-point"`` is a primal-dual interior-point method, with one price per
        cluster, on the labels that can be in play: the fastest where an accurate
        optimum is wanted. It takes 5 to 50 steps as a rule, for any `lam` and however
        far the predictions are from the prior. Large matrix products are on one thread
        of BLAS, so that the bits of the result do not depend on the number of threads.
        The optimum is nearly one-hot for small `lam`.

        ``"em"`` is expectation-maximization: every iteration solves each sample's
        sub-problem, and none increases the loss. By default it is accelerated.

        ``"pgd"`` is projected gradient descent with the constant `step_size`, the
        paper's reference. It may increase the loss; if it does not converge, the
        labels of the least loss are returned, among the start and those that the gap
        was computed of (see `tol`).
    accelerate : bool, default=True
        Whether ``"em"``, which alone uses it, takes steps that grow, with prices from
        Newton's method. A relative gap of 1e-4 then takes 5 to 50 iterations, where
        plain EM needs thousands if `lam` is large; an iteration takes 10 to 50 times as
        long. It is the default because a small gap is what `tol` asks for.

        False gives the paper's Algorithm 1, with its exact M-step (Theorem 1): a few
        iterations give labels that are softer than the optimum, in the time of a few
        passes over `proba`, as in training. In the forward divergence, for which the
        paper has no EM, it gives steps of the same kind: the fairness term is
        linearized, and a distance from the labels is added.
    init : array-like of shape (n_samples, n_clusters), default=None
        Start of ``"em"`` and ``"pgd"``, rows summing to 1 within 1e-3. None starts from
        `proba`, with zeros lifted to 1e-30. In the paper's EM (``accelerate=False``), a
        zero of an explicit start stays zero unless the cluster is the sample's best one
        (Property 1). In the forward divergence, what a start gives to clusters of zero
        prior goes to the others. The interior-point method takes `init_prices` instead.
    init_prices : array-like of shape (n_clusters,), default=None
        Guess of the prices, for ``"interior-point"`` alone: the `prices` of a result
        for the same samples with another `lam` or slightly other predictions, or for
        other samples of the same kind. They save time if they are closer than what the
        method finds in a few passes over `proba`. Those of a few samples per cluster
        seldom are; those of many are, as are those of the samples themselves. A bad
        guess costs time, and nothing else. What it has for clusters of zero prior has
        no effect. None guesses from `proba`.
    step_size : float, default=1.0
        Step of ``"pgd"``, which alone uses it, along the gradient of n_samples times
        the loss. Too large a step does not converge; what is too large falls with `lam`
        and the number of clusters.
    max_iter : int, default=1000
        Maximum number of iterations.
    tol : float, default=1e-6
        Stop when the duality gap is at most ``tol * max(1, loss)``. It means the same
        for every solver. About 1e-12 can be reached in float64, 1e-6 in float32,
        less where `lam` is huge. ``"em"`` and ``"pgd"`` compute the gap after each of
        the first ten iterations, then whenever their number has grown by a tenth: up to
        a tenth of ``n_iter`` may be more than was needed.
    n_jobs : int, default=None
        Number of threads of ``"em"``, which alone uses it; None means 1, -1 all
        processors. They are used where they pay, from about 200,000 labels. The result
        does not depend on it.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights, non-negative, of any scale: both means above become weighted means, so
        that a weight of 2 is the same as two equal rows. A sample of weight 0 gets a
        label and changes no other. None means equal weights.
    fixed : array-like of shape (n_samples, n_clusters), default=None
        Known pseudo-labels. Rows of NaN are solved for; the others, distributions
        within 1e-3, are scaled to sum to 1 and held, while they count in the loss like
        all others (paper, supplement E.2). What `init` has for these samples has no
        effect. If a fixed label is impossible for its prediction, the loss is inf, but
        the gap remains the distance from the best labels of the others.

    Returns
    -------
    PseudoLabels
        Named tuple ``(pseudo_labels, loss, gap, n_iter, converged, prices)``. The
        labels have the dtype of `proba`.

    Raises
    ------
    ValueError
        If an argument is out of its range, not finite, or of the wrong shape; if
        ``solver="interior-point"`` is given `init`, or another one `init_prices`; if
        the forward divergence forbids
        all clusters that a sample can have, or one that a fixed label has.

    References
    ----------
    .. [1] Zhang, Boykov. "Collision Cross-entropy for Soft Class Labels and Deep
       Clustering". arXiv:2303.07321, eqs. (10)-(17), Algorithm 1 and supplement.

    Examples
    --------
    >>> from skcce import solve_pseudo_labels
    >>> result = solve_pseudo_labels([[0.9, 0.1], [0.7, 0.3]], lam=10.0)
    >>> result.pseudo_labels.round(2)
    array([[0.84, 0.16],
           [0.21, 0.79]])
    >>> result.converged
    True
    """
    forward = divergence == "forward"
    if solver == "interior-point" and init is not None:
        raise ValueError(
            'solver="interior-point" takes no start, got init; leave it out, or take '
            'solver="em".'
        )
    if solver != "interior-point" and init_prices is not None:
        raise ValueError(
            f'solver="{solver}" takes no prices, got init_prices; leave it out, or '
            'take solver="interior-point".'
        )
    proba = check_simplex_rows(proba, "proba")
    prior = check_prior(prior, proba.shape[1])
    weight = check_weights(sample_weight, len(proba))
    fixed = _check_fixed(fixed, proba, prior, forward)
    lam = max(float(lam), _MIN_LAM)
    guess = _check_prices(init_prices, lam, prior, forward)
    problem = lift_rows(pose(proba, lam, prior, forward, weight, fixed), fixed)

    def certified(labels, n_iter, price=None, response=None):
        loss, gap = certify(problem, labels, price, response)
        whole = loss + problem.constant
        converged = gap <= tol * max(1.0, whole if np.isfinite(whole) else 0.0)
        return PseudoLabels(labels, loss, gap, n_iter, bool(converged), price)

    if solver == "interior-point":
        labels, price, response, n_iter = interior_point(problem, max_iter, tol, guess)
        result = certified(labels, n_iter, price, response)
    else:
        labels = _start(proba, init, prior, forward, fixed)
        best = None  # the last: EM never increases the loss
        if solver == "em":
            problem = without_tiny_forces(problem)
            if accelerate or forward:
                run = prepare_accelerated_em(problem, labels, n_jobs, accelerate)
            else:
                run = prepare_em(problem, labels, n_jobs)
        else:
            run = partial(projected_gradient, problem, labels, step_size)
            best = certified(labels.copy(), 0)
        # A look at the gap costs less than an iteration; looks become rarer, so that
        # they stay a small part of the time, and at most a tenth of the iterations is
        # too many.
        n_iter, converged = 0, False
        while n_iter < max_iter and not converged:
            more = min(1 + n_iter // 10, max_iter - n_iter)
            price = run(n_iter=more)
            n_iter += more
            result = certified(labels, n_iter, price)
            converged = result.converged
            if best is not None and not converged:
                if result.loss <= best.loss:
                    best = result._replace(pseudo_labels=labels.copy())
                result = best._replace(n_iter=n_iter)
    if result.prices is None:
        _, usage = collision_and_usage(problem, result.pseudo_labels)
        price = balancing_price(usage, lam, problem.prior, forward)
        result = result._replace(prices=price)
    return result._replace(
        pseudo_labels=complete(result.pseudo_labels, fixed),
        loss=result.loss + problem.constant,
    )


def solve_batch(
    proba: NDArray,
    lam: float,
    prior: NDArray,
    *,
    forward: bool,
    n_iter: int,
    weight: NDArray | None = None,
    fixed: NDArray | None = None,
) -> NDArray:
    """Return pseudo-labels to train with, without any checks.

    Reverse divergence: `n_iter` EM iterations from the predictions. Forward: the exact
    solver, to a gap that training needs. `weight` is (n_samples,), of any scale; rows
    of `fixed`, (n_samples, n_clusters), that are not NaN are returned as they are.
    """
    problem = pose(proba, lam, prior, forward, weight, fixed)
    labels = positive_rows(problem.proba)
    if forward:
        problem = problem._replace(proba=labels)
        labels, *_ = interior_point(problem, _BATCH_STEPS, _BATCH_TOL)
    else:
        prepare_em(problem, labels)(n_iter=n_iter)
    return complete(labels, fixed)


def lift_rows(problem: Problem, fixed: NDArray | None = None) -> Problem:
    """Scale the rows that have tiny probabilities for all clusters they may have.

    Such a row leaves a cluster that the forward divergence forbids, and the reciprocal
    of what is left may overflow. To scale a row adds a constant to the loss. The
    lifted rows have a largest possible entry of 1.

    Raises ValueError if all clusters that a free sample can have are forbidden.
    """
    proba, possible = problem.proba, problem.prior > 0
    if not problem.forward or possible.all():
        return problem
    most = proba[:, possible].max(axis=1)
    tiny = most < _TINY
    if not tiny.any():
        return problem
    if not most.all():
        number = most.argmin()
        if fixed is not None:
            number = np.flatnonzero(np.isnan(fixed[:, 0]))[number]
        raise ValueError(
            f"Sample {number} has zero probability for every cluster of positive "
            'prior, and divergence="forward" forbids the others.'
        )
    lifted = proba.copy()
    lifted[tiny] = proba[tiny] * possible / most[tiny, np.newaxis]
    lift = -problem.weight[tiny] @ np.log(most[tiny], dtype=np.float64)
    constant = problem.constant + lift / problem.total_weight
    return problem._replace(proba=lifted, constant=float(constant))


def without_tiny_forces(problem: Problem) -> Problem:
    """Take shares out of the loss that are too small for EM in float32.

    Their clusters would lose all labels, and the loss be infinite. What they add to it
    is less than its rounding.
    """
    if problem.forward or problem.proba.dtype == np.float64:
        return problem
    counts = problem.lam * problem.prior >= _TINY
    return problem._replace(prior=np.where(counts, problem.prior, 0))


def certify(
    problem: Problem,
    labels: NDArray,
    price: NDArray | None = None,
    response: float | None = None,
) -> tuple[float, float]:
    """Return loss, but for its constant, and duality gap of the free samples' labels.

    price : the dual point; None takes the prices that balance the labels' usage.
    response : the samples' mean best response to `price`, if it is known.
    """
    _, lam, prior, forward, weight, *_ = problem
    collision, usage = collision_and_usage(problem, labels)
    loss = collision + lam * fairness(usage, prior, forward)
    if not weight.any():
        return loss, 0.0  # no label makes a difference
    if price is None:
        price = balancing_price(usage, lam, prior, forward)
    if not np.isfinite(loss) or np.isposinf(price).any():
        return loss, np.inf
    if response is None:
        response, _, _ = mean_response(problem, price)
    gap = duality_gap(problem, collision, response, usage, price)
    return loss, 0.0 if gap < 0 else gap  # the samples' part may be, by rounding


def _check_labels(labels: ArrayLike, name: str, proba: NDArray) -> NDArray:
    labels = check_simplex_rows(labels, name)
    if labels.shape != proba.shape:
        raise ValueError(
            f"{name} has shape {labels.shape}, but proba has {proba.shape}; "
            "they must be equal."
        )
    return labels


def _check_fixed(
    fixed: ArrayLike | None, proba: NDArray, prior: NDArray, forward: bool
) -> NDArray | None:
    """Return the fixed labels, scaled to sum to 1, in the dtype of `proba`."""
    if fixed is None:
        return None
    fixed = check_array(
        fixed,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite="allow-nan",
        input_name="fixed",
    )
    missing = np.isnan(fixed)
    free = missing.any(axis=-1, keepdims=True)
    labels = _check_labels(np.where(free, 1 / missing.shape[-1], fixed), "fixed", proba)
    partly = (missing != free).any(axis=1)
    if partly.any():
        raise ValueError(
            f"Row {partly.argmax()} of fixed is NaN in part; it must be a distribution "
            "that is held, or all NaN, to be solved for."
        )
    forbidden = forward & (prior == 0) & (fixed > 0)
    if forbidden.any():
        row, cluster = np.argwhere(forbidden)[0]
        raise ValueError(
            f"Row {row} of fixed has {fixed[row, cluster]} of cluster {cluster}, whose "
            'prior is zero; divergence="forward" forbids that.'
        )
    labels /= labels.sum(axis=1, keepdims=True)
    return np.where(free, np.nan, labels).astype(proba.dtype)


def _check_prices(
    prices: ArrayLike | None, lam: float, prior: NDArray, forward: bool
) -> NDArray | None:
    """Return a guess of the prices that the exact solver can start with."""
    if prices is None:
        return None
    prices = check_array(
        prices,
        dtype=np.float64,
        ensure_2d=False,
        ensure_min_samples=0,
        ensure_all_finite=False,
        input_name="init_prices",
    )
    if prices.shape != prior.shape:
        raise ValueError(
            f"init_prices must hold one price per cluster, shape {prior.shape}, "
            f"got shape {prices.shape}."
        )
    wanted = prior > 0
    bad = wanted & ~np.isfinite(prices)
    if bad.any():
        raise ValueError(
            f"init_prices must be finite for clusters of positive prior, got "
            f"{prices[bad][0]} for cluster {bad.argmax()}."
        )
    # More than the whole usage is never asked for in the reverse divergence.
    least = -_HIGHEST if forward else lam * (prior - 1)
    prices = np.clip(prices, least, _HIGHEST)
    return np.where(wanted, prices, -np.inf if forward else -lam)


def _start(
    proba: NDArray,
    init: ArrayLike | None,
    prior: NDArray,
    forward: bool,
    fixed: NDArray | None,
) -> NDArray:
    """Return the start of an iterative solver, which will work in place."""
    if init is None:
        labels = positive_rows(proba)
    else:
        labels = _check_labels(init, "init", proba).astype(proba.dtype, copy=True)
    if fixed is not None:
        labels = labels[np.isnan(fixed[:, 0])]
    return _without_forbidden(labels, prior) if forward else labels


def _without_forbidden(labels: NDArray, prior: NDArray) -> NDArray:
    """Move what clusters of zero prior hold to the sample's others, in proportion.

    A sample that holds no other cluster gets all of them, in equal parts.
    """
    wanted = prior > 0
    if wanted.all():
        return labels
    labels = labels * wanted
    labels[labels.max(axis=1) == 0] = wanted
    return labels / labels.sum(axis=1, keepdims=True)
