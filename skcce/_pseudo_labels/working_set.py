r"""The exact solver: a primal-dual interior-point method on a working set.

At the optimum every sample holds one cluster, or few: which ones is decided by one
price per cluster, and by how far the other clusters are from paying. So the method goes
in rounds, until the duality gap is small enough:

1. How far may the prices be off? The duality gap that they leave tells.
2. The *working set*: go once through all samples and clusters (`best_responses`), and
   keep the candidates that such a change of the prices could bring into play. A sample
   with one candidate is settled. If they are many, take all: a whole problem needs no
   further round, and its steps are matrix products.
3. Solve the problem of the candidates, by a primal-dual interior-point method.
"""

from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skcce._kernel import kernel
from skcce._pseudo_labels.dual import (
    balancing_price,
    duality_gap,
    mean_response,
    respond,
)
from skcce._pseudo_labels.objective import Problem, fairness
from skcce._pseudo_labels.predictor_corrector import Candidates, solve_candidates
from skcce._threads import single_blas_thread

# Rows per cluster of the smallest subsample that is solved for starting prices, and how
# many times larger the next one is.
_SUBSAMPLE = 50
_GROWTH = 8
_BINS = 32  # of the histogram from which the very first prices are guessed
_SOFT = 1e-3  # part of the labels that the gap of mere prices spreads over all clusters
_MARGIN = 3.0  # of a working set, in errors of the prices
# Gap of a sample's label at the start, in margins. Few candidates come with a good
# guess; a whole problem is taken where it is not so good.
_START = (1.0, 3.0)
_LEAST_MARGIN = 1e-6  # slacks start with it, and are differences of numbers near 1
_USELESS = 1.0  # error at which prices are no better than none
_COLD = 10.0  # gap of a sample's label at the start, if there are no prices
_HIGHEST = 1e30  # price of a wanted cluster that nothing can fill
# Steps of one solve: a working set without what is needed may take them all in vain.
_MAX_STEPS = (40, 100)

# Times of a step, in ns: per entry; for two candidates of a sample, whose product is
# added to the matrix; the same within a matrix product.
_VISIT, _PAIR, _PRODUCT = 70.0, 1.0, 0.1
_ROUNDS = 3  # that are to be expected where much is open, against one
# Clusters up to which OpenBLAS takes one thread on its own: to factorize, to multiply.
_ONE_THREAD = (60, 20)


class _WorkingSet(NamedTuple):
    """A problem of candidates, and where its samples are."""

    candidates: Candidates
    only: NDArray | None  # (n_samples,), a sample's single candidate, or -1
    sample: NDArray | None  # (n_open,), the other samples; None: all, with all clusters
    mean_log: float  # mean over all samples of ln of the largest candidate's prediction


def interior_point(
    problem: Problem, max_iter: int, tol: float, price: NDArray | None = None
) -> tuple[NDArray, NDArray, float, int]:
    """Solve for the pseudo-labels to a relative duality gap of `tol`.

    `price`, (n_clusters,), is a guess; a bad one is not made use of. Returns the
    labels, the prices, the samples' mean best response to these (see `mean_response`),
    and the number of interior-point steps. If it has to stop early, labels and prices
    are those of the round with the least gap.
    """
    proba, lam, prior, forward, weight, fixed_sum, total_weight, constant = problem
    counted, wanted = weight > 0, prior > 0
    if not counted.all():
        rest = problem._replace(proba=proba[counted], weight=weight[counted])
        labels = np.empty_like(proba)
        labels[counted], price, *others = interior_point(rest, max_iter, tol, price)
        labels[~counted] = respond(proba[~counted], price)
        return labels, price, *others
    if forward and not wanted.all():  # the others are forbidden
        rest = problem._replace(
            proba=np.ascontiguousarray(proba[:, wanted]),
            prior=prior[wanted],
            fixed_sum=fixed_sum[wanted],
        )
        price = None if price is None else price[wanted]
        labels, prices = np.zeros_like(proba), np.full(len(prior), -np.inf)
        labels[:, wanted], prices[wanted], *others = interior_point(
            rest, max_iter, tol, price
        )
        return labels, prices, *others
    if len(proba) == 0:  # a price is wanted nevertheless, by samples without weight
        usage = fixed_sum / total_weight if total_weight > 0 else prior
        price = np.minimum(balancing_price(usage, lam, prior, forward), _HIGHEST)
        return proba.copy(), price, 0.0, 0

    n_iter = 0
    elasticity = 1 / lam + 0.5  # relative fall of the usage by price, roughly
    error = np.inf
    if price is not None:
        error = _error_of_prices(problem, elasticity, price)
    if error > _USELESS:
        price, n_iter = _first_prices(problem, elasticity, max_iter)
        error = _error_of_prices(problem, elasticity, price)
    least_gap, best = np.inf, None
    relative = bool(np.isfinite(constant))  # an infinite loss is no scale
    marks = np.zeros(proba.shape, dtype=np.bool_)
    while True:
        margin, n_marks = _mark(problem, price, _MARGIN * error, marks)
        working_set = _gather(problem, marks, n_marks)
        whole = not error < np.inf
        whole = whole or _is_whole_faster(working_set.candidates, marks.size)
        working_set = _take_all(problem) if whole else working_set
        cold = bool(whole and error > _USELESS)
        price, start = _cold_start(problem) if cold else (price, _START[whole] * margin)
        candidates, mean_log = working_set.candidates, working_set.mean_log
        # The bits of a sum depend on the number of BLAS's threads.
        large = len(prior) > _ONE_THREAD[whole]
        with single_blas_thread() if large else nullcontext():
            label, hit, usage, price, steps, reached = solve_candidates(
                candidates,
                price,
                start,
                tol / 2 * max(1.0, -mean_log * relative),
                min(_MAX_STEPS[whole], max_iter - n_iter),
            )
        n_iter += steps
        price = price if forward else np.maximum(price, lam * (prior - 1))
        response, n_needed, _ = mean_response(problem, price, 0.0, marks)
        collision = -(candidates.weight @ np.log(hit)) / total_weight - mean_log
        loss = collision + lam * fairness(usage, prior, forward)
        gap = duality_gap(problem, collision, response, usage, price)
        gap = np.fmin(gap, np.inf)  # never nan
        # A round starts anew: one that is cut short may be far behind the last.
        if best is None or gap < least_gap:
            least_gap, best = gap, (working_set, label, price, response)
        if (
            gap <= tol * max(1.0, loss * relative)
            or n_iter >= max_iter
            or cold
            or (reached and (whole or n_needed == n_marks))
        ):
            break
        error = np.sqrt(2 * max(gap, 0) / elasticity) if reached else np.inf
    working_set, label, price, response = best
    return _labels(problem, working_set, label), price, response, n_iter


def _first_prices(
    problem: Problem, elasticity: float, max_iter: int
) -> tuple[NDArray, int]:
    """Return prices to start with, of a subsample if there are many samples.

    The shares in a sample of rows have a relative standard error of sqrt(n_clusters /
    rows). So many rows are needed for prices that are of use.
    """
    n_samples, n_clusters = problem.proba.shape
    stride = n_samples / (n_clusters * max(_SUBSAMPLE, (12 / elasticity) ** 2))
    if stride < 4:
        return _claim_prices(problem), 0
    every = slice(None, None, int(min(stride, _GROWTH)))
    scale = problem.weight[every].sum() / problem.weight.sum()
    part = problem._replace(
        proba=np.ascontiguousarray(problem.proba[every]),
        weight=problem.weight[every],
        fixed_sum=scale * problem.fixed_sum,
        total_weight=scale * problem.total_weight,
    )
    _, price, _, n_iter = interior_point(part, max_iter, 1e-3)
    return price, n_iter


def _error_of_prices(problem: Problem, elasticity: float, price: NDArray) -> float:
    """Estimate how far prices are off, from the duality gap that they leave.

    The labels of the gap are those of the single best cluster, a little softer. Where
    all prices are off by `error`, in all directions, the dual function is lower than at
    the optimum by about ``elasticity * error**2 / 2``, and the loss of such labels
    higher by ``lam * (elasticity * error)**2 / 2``.
    """
    _, lam, prior, _, weight, fixed_sum, total_weight, _ = problem
    held = np.zeros(len(price))
    response, _, loss_sum = mean_response(problem, price, held=held)
    collision = loss_sum / total_weight - np.log1p(-_SOFT)
    usage = (1 - _SOFT) * held + _SOFT * weight.sum() * prior + fixed_sum
    gap = duality_gap(problem, collision, response, usage / total_weight, price)
    gap = max(np.fmin(gap, np.inf), 0.0)  # nan is no gap that is known
    return np.sqrt(2 * gap / (elasticity * (1 + lam * elasticity)))


def _mark(
    problem: Problem, price: NDArray, margin: float, marks: NDArray
) -> tuple[float, int]:
    """Mark the candidates, besides those that are marked.

    Returns the margin, larger than the one given if a wanted cluster had no candidate,
    and the number of marks.
    """
    margin = max(margin, _LEAST_MARGIN)
    _, n_marks, _ = mean_response(problem, price, margin, marks)
    while not marks[:, problem.prior > 0].any(axis=0).all():
        margin *= 2
        _, n_marks, _ = mean_response(problem, price, margin, marks)
    return margin, n_marks


def _is_whole_faster(candidates: Candidates, size: int) -> bool:
    """Tell whether the whole problem, of `size` entries, is likely to be faster."""
    count = np.diff(candidates.first.astype(np.float64))
    open_part = _VISIT * count.sum() + _PAIR * (count @ (count - 1)) / 2
    whole = size * (_VISIT + _PRODUCT * len(candidates.prior))
    return bool(whole < _ROUNDS * open_part)


def _take_all(problem: Problem) -> _WorkingSet:
    """State the problem with every cluster a candidate of every sample."""
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    best = proba.max(axis=1).astype(np.float64)
    ratio = (proba / best[:, np.newaxis]).ravel()
    first = np.arange(len(proba) + 1, dtype=np.uint64) * np.uint64(proba.shape[1])
    candidates = Candidates(
        first, None, ratio, weight, fixed_sum, total_weight, lam, prior, forward
    )
    return _WorkingSet(candidates, None, None, weight @ np.log(best) / total_weight)


def _cold_start(problem: Problem) -> tuple[NDArray, float]:
    """Return the prices of equal labels, and a gap at which labels are nearly equal."""
    _, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    wanted = prior > 0
    usage = (fixed_sum + weight.sum() / wanted.sum()) / total_weight
    price = balancing_price(usage, lam, prior, forward)
    return price, _COLD * max(1.0, np.ptp(price[wanted]))


def _labels(problem: Problem, working_set: _WorkingSet, label: NDArray) -> NDArray:
    """Return the labels of all samples, from those of the candidates."""
    proba, (candidates, only, sample, _) = problem.proba, working_set
    if sample is None:
        return label.reshape(proba.shape).astype(proba.dtype)
    labels = np.zeros_like(proba)
    _scatter(only, sample, candidates.first, candidates.cluster, label, labels)
    return labels


def _claim_prices(problem: Problem) -> NDArray:
    """Guess prices: each cluster's as if it alone could outbid the others.

    A cluster has to bid a sample ``1 - proba / max(proba)`` before it gets any of it.
    The shares of samples that it gets at each price are its supply curve; where that
    meets its demand at the same price, we have the price.
    """
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    supply = np.zeros((len(prior), _BINS))
    supply[:, 0] = fixed_sum
    _count_bids(proba, weight, supply)
    supply = supply.cumsum(axis=1) / total_weight
    bid = np.arange(_BINS) / _BINS
    with np.errstate(over="ignore", under="ignore"):
        falling = np.exp(-bid / lam) if forward else lam / (lam + bid)
    met = supply >= prior[:, np.newaxis] * falling
    met[:, -1] = True  # fixed labels may leave too little supply
    price = bid[met.argmax(axis=1)]
    return np.where(prior > 0, price, -np.inf if forward else -lam)


@kernel
def _count_bids(proba, weight, counts):
    """Add up the histogram of 1 - proba / max(proba) for every cluster.

    proba : (n_samples, n_clusters) IN
    weight : (n_samples,) IN
    counts : (n_clusters, _BINS) IN/OUT
    """
    n_samples, n_clusters = proba.shape
    for i in range(n_samples):
        scale = (_BINS - 1) / np.float64(proba[i].max())
        for k in range(n_clusters):
            # Rounding must not take the best cluster's bid from 0.
            bid = _BINS - 1 - int(proba[i, k] * scale + 1e-6)
            counts[k, bid] += weight[i]


def _gather(problem: Problem, marks: NDArray, n_marks: int) -> _WorkingSet:
    """State the problem of all samples that have more than one candidate.

    marks : (n_samples, n_clusters) bool, of which n_marks are set: the candidates

    The samples are in order of their number of candidates, so that the loops over these
    are predictable.
    """
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    only, sample = np.full((2, len(proba)), -1)
    first = np.zeros(len(proba) + 1, dtype=np.int64)
    cluster = np.empty(n_marks, dtype=np.int64)
    ratio = np.empty(n_marks)
    settled = fixed_sum.copy()
    n_open, log_sum = _list_candidates(
        proba, weight, marks, only, sample, first, cluster, ratio, settled
    )
    sample, first = sample[:n_open], first[: n_open + 1]
    candidates = Candidates(
        first.view(np.uint64),
        cluster[: first[-1]].view(np.uint64),
        ratio[: first[-1]],
        weight[sample],
        settled,
        total_weight,
        lam,
        prior,
        forward,
    )
    return _WorkingSet(candidates, only, sample, log_sum / total_weight)


@kernel
def _list_candidates(
    proba, weight, marks, only, sample, first, cluster, ratio, settled
):
    """Fill the arrays of `_gather`, which are long enough in any case.

    proba, marks : (n_samples, n_clusters) IN; weight : (n_samples,) IN
    only, sample, first, cluster, ratio : OUT; at the start, only is -1, and first is 0
    settled : (n_clusters,) IN/OUT, the weights of settled samples are added
    returns : n_open; sum over all samples of weight * ln of the largest candidate's
        prediction
    """
    n_samples, n_clusters = proba.shape
    count = np.zeros(n_samples, dtype=np.int64)
    with_count = np.zeros(n_clusters + 1, dtype=np.int64)
    log_sum = 0.0
    for i in range(n_samples):
        last = 0
        for k in range(n_clusters):
            count[i] += marks[i, k]
            last = k if marks[i, k] else last
        with_count[count[i]] += 1
        if count[i] == 1:
            only[i] = last
            settled[last] += weight[i]
            log_sum += weight[i] * np.log(proba[i, last])

    row = 0
    for size in range(2, n_clusters + 1):
        start = row
        for _ in range(with_count[size]):
            first[row + 1] = first[row] + size
            row += 1
        with_count[size] = start  # from here on, the next free row
    n_open = row

    for i in range(n_samples):
        if count[i] == 1:
            continue
        row = with_count[count[i]]
        with_count[count[i]] += 1
        sample[row] = i
        entry = first[row]
        largest = 0.0
        for k in range(n_clusters):
            if marks[i, k]:
                cluster[entry] = k
                ratio[entry] = proba[i, k]
                largest = max(largest, ratio[entry])
                entry += 1
        for e in range(first[row], entry):
            ratio[e] /= largest
        log_sum += weight[i] * np.log(largest)
    return n_open, log_sum


@kernel
def _scatter(only, sample, first, cluster, label, labels):
    """Write the labels of the candidates where they belong.

    only, sample, first, cluster : IN, see `_gather`; label : (n_entries,) IN
    labels : (n_samples, n_clusters) OUT, zero at the start
    """
    for i in range(len(only)):
        if only[i] >= 0:
            labels[i, only[i]] = 1
    for row in range(len(sample)):
        for e in range(first[row], first[row + 1]):
            labels[sample[row], cluster[e]] = label[e]
