r"""The exact solver: a primal-dual interior-point method on a working set.

At the optimum every sample holds one cluster, or few: which ones is decided by one
price per cluster, and by how far the other clusters are from paying. So the method
alternates between two steps, until the duality gap is small enough:

1. The *working set*: go once through all samples and clusters (`best_responses`), and
   keep the candidates that a change of the prices by `margin` could bring into play.
   A sample with one candidate is settled.
2. Solve the problem of the candidates, by Mehrotra's predictor-corrector method.
"""

import numpy as np
from numpy.typing import NDArray

from skcce._pseudo_labels.dual import (
    balancing_price,
    duality_gap,
    mean_response,
    respond,
)
from skcce._pseudo_labels.kernel import kernel
from skcce._pseudo_labels.objective import Problem, fairness
from skcce._pseudo_labels.predictor_corrector import Candidates, solve_candidates

# Rows per cluster of the smallest subsample that is solved for starting prices, and how
# many times larger the next one is.
_SUBSAMPLE = 50
_GROWTH = 8
_BINS = 32  # of the histogram from which the very first prices are guessed
_HIGHEST = 1e30  # price of a wanted cluster that nothing can fill
_LEAST_MARGIN = 1e-6  # slacks start with it, and are differences of numbers near 1

_COLD = 10.0

_WIDTH, _START, _SOFT, _USELESS = 3.0, 3.0, 1e-3, 1.0
# Nanoseconds.
_COUPLING, _VISIT, _PRODUCT, _DOUBT = 1.0, 70.0, 0.1, 3.0

_MAX_STEPS = 100  # of one interior-point solve; 5 to 50 are usual


def interior_point(
    problem: Problem, max_iter: int, tol: float
) -> tuple[NDArray, NDArray, float, int]:
    """Solve for the pseudo-labels to a relative duality gap of `tol`.

    Returns the labels, the prices, the samples' mean best response to these (see
    `mean_response`), and the number of interior-point steps. If it has to stop early,
    labels and prices are those of the round with the least gap.
    """
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    counted = weight > 0
    if not counted.all():
        rest = problem._replace(proba=proba[counted], weight=weight[counted])
        labels = np.empty_like(proba)
        labels[counted], price, response, n_iter = interior_point(rest, max_iter, tol)
        labels[~counted] = respond(proba[~counted], price)
        return labels, price, response, n_iter
    wanted = prior > 0
    if forward and not wanted.all():
        rest = problem._replace(
            proba=np.ascontiguousarray(proba[:, wanted]), prior=prior[wanted],
            fixed_sum=fixed_sum[wanted],
        )  # fmt: skip
        labels, price = np.zeros_like(proba), np.full(len(prior), -np.inf)
        labels[:, wanted], price[wanted], response, n_iter = interior_point(
            rest, max_iter, tol
        )
        return labels, price, response, n_iter
    n_samples, n_clusters = proba.shape
    if n_samples == 0:  # a price is wanted nevertheless, by samples without weight
        usage = fixed_sum / total_weight if total_weight > 0 else prior
        price = np.minimum(balancing_price(usage, lam, prior, forward), _HIGHEST)
        return proba.copy(), price, 0.0, 0
    elasticity = 1 / lam + 0.5  # of the usage: d ln usage / d price, about
    price, n_iter = _first_prices(problem, elasticity, max_iter)
    gap, best, least_gap = _gap_of_prices(problem, price) / (1 + lam * elasticity), None, np.inf
    marks = np.zeros(proba.shape, dtype=np.bool_)
    while True:
        # The loss of a sample is flat by this much around the optimal prices.
        error = np.sqrt(2 * gap / elasticity)
        margin = max(_WIDTH * error, _LEAST_MARGIN)
        _, n_marks = mean_response(problem, price, margin, marks)
        while not marks[:, wanted].any(axis=0).all():
            margin *= 2
            _, n_marks = mean_response(problem, price, margin, marks)
        only, sample, candidates, mean_log = _gather(problem, marks, n_marks)
        whole = _is_whole_cheaper(candidates, n_samples)
        start = _START * margin
        if whole:
            candidates, mean_log = _take_all(problem)
            if error > _USELESS:
                price, start = _cold_start(problem)
        # Each round starts anew, and needs no more than half of the tolerance.
        target = tol / 2 * max(1, -mean_log)
        max_steps = min(_MAX_STEPS, max_iter - n_iter)
        label, hit, usage, price, steps, reached = solve_candidates(
            candidates, price, start, target, max_steps
        )
        n_iter += steps
        price = price if forward else np.maximum(price, lam * (prior - 1))
        response, n_missing = mean_response(problem, price, 0.0, marks)
        n_missing -= n_marks
        collision = -(candidates.weight * np.log(hit)).sum() / total_weight - mean_log
        loss = collision + lam * fairness(usage, prior, forward)
        gap = duality_gap(problem, collision, response, usage, price)
        gap = np.fmax(np.fmin(gap, np.inf), 0.0)  # never nan
        # Each round starts anew: one that is cut short may be far behind the last.
        if gap < least_gap or best is None:
            least_gap = gap
            where = None if whole else (only, sample)
            best = where, candidates, label, price, response
        if (
            gap <= tol * max(1.0, loss)
            or n_iter >= max_iter
            or (reached and (whole or n_missing == 0))
            or (whole and error > _USELESS)
        ):
            break
        gap = gap if reached else np.inf
    where, candidates, label, price, response = best
    if where is None:
        labels = label.reshape(proba.shape).astype(proba.dtype)
    else:
        labels = np.zeros_like(proba)
        _scatter(*where, candidates.first, candidates.cluster, label, labels)
    return labels, price, response, n_iter


def _first_prices(problem, elasticity, max_iter):
    """Return prices to start with, from a subsample if there are many samples."""
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    n_samples, n_clusters = proba.shape
    # The shares in a sample of rows have a relative standard error of sqrt(n_clusters /
    # rows). So many rows are needed for prices that are within a margin.
    stride = n_samples / (n_clusters * max(_SUBSAMPLE, (12 / elasticity) ** 2))
    if stride < 4:
        return _claim_prices(problem), 0
    every = slice(None, None, int(min(stride, _GROWTH)))
    scale = weight[every].sum() / weight.sum()
    part = problem._replace(
        proba=np.ascontiguousarray(proba[every]), weight=weight[every],
        fixed_sum=scale * fixed_sum, total_weight=scale * total_weight,
    )  # fmt: skip
    _, price, _, n_iter = interior_point(part, max_iter, 1e-3)
    return price, n_iter


def _gap_of_prices(problem: Problem, price: NDArray) -> float:
    """Return the duality gap of the prices with labels that are nearly one-hot."""
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    usage = np.zeros(len(price))
    loss_sum = _hold_best(proba, weight, np.exp(price - price.max()), usage)
    usage = (1 - _SOFT) * usage + _SOFT * weight.sum() * prior + fixed_sum
    collision = loss_sum / total_weight - np.log1p(-_SOFT)
    response, _ = mean_response(problem, price)
    gap = duality_gap(problem, collision, response, usage / total_weight, price)
    return np.fmax(np.fmin(gap, np.inf), 0.0)


@kernel
def _hold_best(proba, weight, earning, usage):
    """Give every sample the single cluster that is best at the prices.

    proba : (n_samples, n_clusters) IN
    weight : (n_samples,) IN
    earning : (n_clusters,) IN, exp(price)
    usage : (n_clusters,) IN/OUT, the weights of its samples are added to a cluster
    returns : sum of weight times -ln proba of the cluster
    """
    n_samples, n_clusters = proba.shape
    loss_sum = 0.0
    for i in range(n_samples):
        best = 0
        best_value = 0.0
        for k in range(n_clusters):
            value = proba[i, k] * earning[k]
            if value > best_value:
                best_value = value
                best = k
        usage[best] += weight[i]
        loss_sum -= weight[i] * np.log(proba[i, best])
    return loss_sum


def _is_whole_cheaper(candidates, n_samples):
    """Tell whether steps with all candidates take less time than with these."""
    count = np.diff(candidates.first.astype(float))
    n_clusters = len(candidates.prior)
    sparse = _VISIT * count.sum() + _COUPLING * (count @ (count - 1)) / 2
    whole = n_samples * n_clusters * (_VISIT + _PRODUCT * n_clusters)
    return whole < _DOUBT * sparse


def _cold_start(problem: Problem) -> tuple[NDArray, float]:
    """Return prices, and a start, near the central path: labels are nearly equal there."""
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    wanted = prior > 0
    usage = (fixed_sum + weight.sum() / wanted.sum()) / total_weight
    price = balancing_price(usage, lam, prior, forward)
    return price, _COLD * max(1.0, np.ptp(price[wanted]))


def _take_all(problem: Problem) -> tuple[Candidates, float]:
    """State the problem with every cluster a candidate of every sample."""
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    best = proba.max(axis=1).astype(np.float64)
    ratio = (proba / best[:, np.newaxis]).ravel()
    first = np.arange(len(proba) + 1, dtype=np.uint64) * np.uint64(proba.shape[1])
    candidates = Candidates(
        first, None, ratio, weight, fixed_sum, total_weight, lam, prior, forward
    )
    return candidates, float(weight @ np.log(best)) / total_weight


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
            counts[k, _BINS - 1 - int(proba[i, k] * scale)] += weight[i]


def _gather(
    problem: Problem, marks: NDArray, n_marks: int
) -> tuple[NDArray, NDArray, Candidates, float]:
    """State the problem of all samples that have more than one candidate.

    marks : (n_samples, n_clusters) bool, of which n_marks are set: the candidates
    returns : only (n_samples,), a sample's single candidate, or -1; sample (n_open,),
        the other samples, in order of their number of candidates, so that the loops
        over these are predictable; their candidates; mean over all samples of ln of
        the largest prediction among the candidates
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
    cluster, ratio = cluster[: first[-1]], ratio[: first[-1]]
    candidates = Candidates(
        first.view(np.uint64),
        cluster.view(np.uint64),
        ratio,
        weight[sample],
        settled,
        total_weight,
        lam,
        prior,
        forward,
    )
    return only, sample, candidates, log_sum / total_weight


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
