r"""The exact solver: a primal-dual interior-point method on a working set.

At the optimum every sample holds one cluster, or few: which ones is decided by one
price per cluster, and by how far the other clusters are from paying. So the method
alternates between two steps, until the duality gap is small enough:

1. The *working set*: go once through all samples and clusters (`best_responses`), and
   keep the candidates that a change of the prices by `margin` could bring into play.
   A sample with one candidate is settled.
2. Solve the problem of the candidates, by Mehrotra's predictor-corrector method.

Names in the kernels; an entry e is a candidate cluster ``cluster[e]`` of the sample i
with ``first[i] <= e < first[i + 1]``:

================ ==========================================================
name             meaning
================ ==========================================================
``ratio[e]``     prediction, divided by the largest of the sample
``label[e]``     pseudo-label y
``slack[e]``     ``level[i] - price[k] - pull[i] * ratio[e]``, multiplier of y >= 0
``hit[i]``       collision probability, ``sum of ratio * label``
``pull[i]``      1 / hit at the optimum
``level[i]``     multiplier of "the labels sum to 1"
``usage[k]``     mean label of cluster k
``price[k]``     what a unit of cluster k earns, minus what it earns in balance
================ ==========================================================

The optimality conditions are ``label * slack = 0``, ``hit * pull = 1`` and, for the
clusters, ``usage * (lam + price) = lam * prior`` (reverse divergence) or
``price = -lam * ln(usage / prior)`` (forward). Newton's method for them reduces to one
linear system in the prices, as every sample's own unknowns can be eliminated.
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

# Rows per cluster of the smallest subsample that is solved for starting prices, and how
# many times larger the next one is.
_SUBSAMPLE = 50
_GROWTH = 8
_BINS = 32  # of the histogram from which the very first prices are guessed
_MARGIN = 0.5  # of the first working set: few entries, and prices rarely leave it
_HIGHEST = 1e30  # price of a wanted cluster that nothing can fill
_LEAST_MARGIN = 1e-6  # slacks start with it, and are differences of numbers near 1

_FIXED = 1e200  # stiffness of a price that does not move
_MAX_STEPS = 100  # of one interior-point solve; 5 to 50 are usual
# Operations, about, after which a kernel returns: Python sees Ctrl-C only in between.
# Nor may a kernel that Python calls return an array: Numba runs Python code to wrap it,
# does not notice the KeyboardInterrupt that this raises, and ends with a SystemError.
_LONGEST = 1e8


def interior_point(
    problem: Problem, max_iter: int, tol: float
) -> tuple[NDArray, NDArray, float, int]:
    """Solve for the pseudo-labels to a relative duality gap of `tol`.

    Returns the labels, the prices, the samples' mean best response to these (see
    `mean_response`), and the number of interior-point steps. If it has to stop early,
    labels and prices are those of the round with the least gap.
    """
    proba, lam, prior, forward, weight, fixed_sum, _ = problem
    counted = weight > 0
    if not counted.all():
        rest = problem._replace(proba=proba[counted], weight=weight[counted])
        labels = np.empty_like(proba)
        labels[counted], price, response, n_iter = interior_point(rest, max_iter, tol)
        labels[~counted] = respond(proba[~counted], price)
        return labels, price, response, n_iter
    n_samples, n_clusters = proba.shape
    total_weight = problem.total_weight
    if n_samples == 0:
        usage = fixed_sum / total_weight if total_weight > 0 else prior
        price = np.minimum(balancing_price(usage, lam, prior, forward), _HIGHEST)
        return proba.copy(), price, 0.0, 0
    # The shares in a sample of rows have a relative standard error of sqrt(n_clusters /
    # rows), and fall, roughly, by 1 / lam + 1 / 2 of themselves where the price rises
    # by one. So many rows are needed for prices that are within a margin.
    elasticity = 1 / lam + 0.5
    stride = n_samples / (n_clusters * max(_SUBSAMPLE, (12 / elasticity) ** 2))
    n_iter = 0
    margin = max(_MARGIN * min(1, 1 / elasticity), _LEAST_MARGIN)
    if stride >= 4:
        part = problem._replace(
            proba=np.ascontiguousarray(proba[:: int(min(stride, _GROWTH))]),
            weight=weight[:: int(min(stride, _GROWTH))],
        )
        scale = part.weight.sum() / weight.sum()
        part = part._replace(fixed_sum=scale * fixed_sum)
        _, price, _, n_iter = interior_point(part, max_iter, 1e-3)
        error = np.sqrt(n_clusters / len(part.proba)) / elasticity
        margin = max(min(margin, 3.5 * error), _LEAST_MARGIN)
    else:
        price = _claim_prices(problem)

    wanted = prior > 0
    last_gap = least_gap = np.inf
    candidates = np.zeros(proba.shape, dtype=np.bool_)
    _, n_candidates = mean_response(problem, price, margin, candidates)
    while True:
        while not candidates[:, wanted].any(axis=0).all():
            margin *= 2
            _, n_candidates = mean_response(problem, price, margin, candidates)
        working_set = _gather(problem, candidates, n_candidates)
        only, sample, first, cluster, ratio, settled, mean_log = working_set
        # Prices run away, as far as lam, if the last working set could not meet the
        # prior. Slacks that are small beside them would leave labels of zero.
        start = max(margin, 1e-3 * np.ptp(price[wanted]))
        label, hit, usage, new_price, steps = _solve_working_set(
            first, cluster, ratio, weight[sample], settled + fixed_sum, total_weight,
            lam, prior, forward, price, start, tol / 2 * max(1, -mean_log),
            min(_MAX_STEPS, max_iter - n_iter),
        )  # fmt: skip
        n_iter += steps
        price = new_price if forward else np.maximum(new_price, lam * (prior - 1))
        n_known = n_candidates
        response, n_candidates = mean_response(problem, price, margin, candidates)
        collision = -mean_log - (weight[sample] * np.log(hit)).sum() / total_weight
        loss = collision + lam * fairness(usage, prior, forward)
        gap = duality_gap(problem, collision, response, usage, price)
        # Each round starts anew: one that is cut short may be far behind the last.
        if gap < least_gap or least_gap == np.inf:
            least_gap = np.fmin(gap, np.inf)  # never nan
            best_entries = only, sample, first, cluster, label.copy()
            best_price, best_response = price, response
        if (
            gap <= tol * max(1.0, loss)
            or n_iter >= max_iter
            or (n_candidates == n_known and steps < _MAX_STEPS)
        ):
            break
        if gap > 0.1 * last_gap:
            margin *= 2
        last_gap = gap
    labels = np.zeros_like(proba)
    _scatter(*best_entries, labels)
    return labels, best_price, best_response, n_iter


def _claim_prices(problem: Problem) -> NDArray:
    """Guess prices: each cluster's as if it alone could outbid the others.

    A cluster has to bid a sample ``1 - proba / max(proba)`` before it gets any of it.
    The shares of samples that it gets at each price are its supply curve; where that
    meets its demand at the same price, we have the price.
    """
    proba, lam, prior, forward, weight, fixed_sum, _ = problem
    supply = np.zeros((len(prior), _BINS))
    supply[:, 0] = fixed_sum
    _count_bids(proba, weight, supply)
    supply = supply.cumsum(axis=1) / problem.total_weight
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


def _gather(problem, candidates, n_candidates):
    """List the candidates of all samples that have more than one.

    candidates : (n_samples, n_clusters) bool IN, of which n_candidates are set
    returns : only (n_samples,), a sample's single candidate, or -1; sample (n_open,),
        the other samples, in order of their number of candidates, so that the loops
        over these are predictable; first (n_open + 1,), cluster and ratio (n_entries,)
        of their candidates; settled (n_clusters,), the weight of the samples that have
        this candidate only; mean over all samples of ln of the largest prediction
        among the candidates
    """
    n_samples, n_clusters = problem.proba.shape
    only, sample = np.full((2, n_samples), -1)
    first = np.zeros(n_samples + 1, dtype=np.int64)
    cluster = np.empty(n_candidates, dtype=np.int64)
    ratio = np.empty(n_candidates)
    settled = np.zeros(n_clusters)
    n_open, log_sum = _list_candidates(
        problem.proba, problem.weight, candidates, only, sample, first, cluster, ratio,
        settled,
    )  # fmt: skip
    first = first[: n_open + 1]
    n_entries = first[-1]
    cluster, ratio = cluster[:n_entries], ratio[:n_entries]
    mean_log = log_sum / problem.total_weight
    return only, sample[:n_open], first, cluster, ratio, settled, mean_log


@kernel
def _list_candidates(
    proba, weight, candidates, only, sample, first, cluster, ratio, settled
):
    """Fill the arrays of `_gather`, which are long enough in any case.

    proba, candidates : (n_samples, n_clusters) IN; weight : (n_samples,) IN
    only, sample, first, cluster, ratio, settled : OUT; at the start, only is -1, and
        first and settled are 0
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
            count[i] += candidates[i, k]
            last = k if candidates[i, k] else last
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
            if candidates[i, k]:
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


def _solve_working_set(
    first, cluster, ratio, row_weight, settled, total_weight, lam, prior, forward, price, start, tol,
    max_iter,
):  # fmt: skip
    """Mehrotra's predictor-corrector method for the labels of the candidates.

    first, cluster, ratio, settled : IN, see `_gather`
    prior, price : (n_clusters,) IN; price is a guess
    start : slack at the start
    tol : duality gap to be reached, in nats
    returns : label (n_entries,), hit (n_open,), usage and price (n_clusters,), and the
        number of steps
    """
    n_entries, n_open, n_clusters = len(cluster), len(first) - 1, len(price)
    entries = np.empty((7, n_entries))
    rows = np.empty((9, n_open))
    clusters = np.empty((8, n_clusters))
    label, best_label, *_ = entries
    _, best_hit, pull, level, *_ = rows
    clusters[0] = price
    _start(first, cluster, ratio, price, start, label, pull, level)
    per_entry = 50 + n_entries / max(n_open, 1)
    pause = 1 + int(_LONGEST / (per_entry * n_entries + n_clusters**3))
    progress = np.array([0, 1, np.inf, np.inf, 0])
    while not _take_steps(
        first, cluster, ratio, row_weight, settled, total_weight, lam, prior, forward, tol, max_iter,
        pause, entries, rows, clusters, progress,
    ):  # fmt: skip
        pass
    return best_label, best_hit, clusters[2], clusters[3], int(progress[0])


@kernel
def _take_steps(
    first, cluster, ratio, row_weight, settled, total_weight, lam, prior, forward, tol, max_iter,
    pause, entries, rows, clusters, progress,
):  # fmt: skip
    """Take up to `pause` steps of `_solve_working_set`, from where the last call ended.

    first, cluster, ratio, settled, ... max_iter : IN, see there
    entries, rows, clusters, progress : IN/OUT, its state and workspace
    returns : whether there is no more to do
    """
    n_open = len(first) - 1
    n_entries = len(cluster)
    n_clusters = len(prior)
    label, best_label, slack, weight, change, d_label, d_slack = entries
    hit, best_hit, pull, level, turn, d_hit, d_pull, d_level, reach = rows
    pivots = np.empty((n_open, 3))
    size = 0.0
    for i in range(n_open):
        size += row_weight[i] * (first[i + 1] - first[i])
    price, usage, best_usage, best_price, stiffness, demand, d_usage, d_price = clusters
    system = np.empty((n_clusters, n_clusters))

    # The last two: the gap after the last step that was worth its while, and the number
    # of steps since.
    n_iter, step, lowest_gap, milestone, n_in_vain = progress
    while True:
        gap, products = _measure(
            first, cluster, ratio, row_weight, settled, total_weight, price, pull, level, label,
            slack, hit, usage,
        )  # fmt: skip
        mu = products / max(size, 1e-300)
        d_usage[:] = 0.0
        d_price[:] = 0.0
        gap += _demand(
            usage, d_usage, price, d_price, lam, prior, forward, total_weight, stiffness,
            demand,
        )  # fmt: skip
        n_in_vain = 0 if gap < 0.9 * milestone else n_in_vain + 1
        milestone = gap if n_in_vain == 0 else milestone
        if gap < lowest_gap or n_iter == 0:
            lowest_gap = gap
            best_label[:] = label
            best_hit[:] = hit
            best_usage[:] = usage
            best_price[:] = price
        if gap <= tol or n_iter == max_iter or not np.isfinite(gap):
            return True

        # Full steps may run in a circle, among prices that hit their bound.
        longest = 0.99 if n_in_vain < 8 else 0.3

        # Predictor: the Newton step to where all products vanish.
        _factorize(
            first, cluster, ratio, row_weight, label, slack, hit, pull, stiffness, weight, pivots,
            system,
        )  # fmt: skip
        if not np.isfinite(system.sum()):
            return True
        factor = _cholesky(system)
        for e in range(n_entries):
            change[e] = -label[e]
        for i in range(n_open):
            turn[i] = 1 / pull[i] - hit[i]
        _, _, products = _direction(
            first, cluster, ratio, row_weight, label, slack, hit, pull, weight, pivots, factor,
            change, turn, demand, total_weight,
            d_label, d_slack, d_hit, d_pull, d_level, d_usage, d_price, reach,
        )  # fmt: skip

        # Corrector: to the central path, at a target that is lower the farther the
        # predictor could go, but not much lower than the rest of the gap. If the last
        # step was blocked, center instead.
        left = products / max(size, 1e-300)
        target = mu * min(1.0, left / mu) ** 3
        target = max(target, 0.02 * gap * total_weight / max(size, 1e-300))
        trust = 1.0
        if step < 0.05:
            target = max(target, 0.7 * mu)
            trust = 0.0
        _correct(
            first, label, slack, pull, d_label, d_slack, d_hit, d_pull, reach, trust,
            target, change, turn,
        )  # fmt: skip
        for k in range(n_clusters):
            d_usage[k] *= trust
        _demand(
            usage, d_usage, price, d_price, lam, prior, forward, total_weight, stiffness,
            demand,
        )  # fmt: skip
        label_step, price_step, _ = _direction(
            first, cluster, ratio, row_weight, label, slack, hit, pull, weight, pivots, factor,
            change, turn, demand, total_weight,
            d_label, d_slack, d_hit, d_pull, d_level, d_usage, d_price, reach,
        )  # fmt: skip
        if not np.isfinite(label_step * price_step + d_price.sum() + d_usage.sum()):
            return True
        label_step *= longest
        price_step *= longest
        step = min(label_step, price_step)
        for k in range(n_clusters):
            least = -np.inf
            if not forward:  # The price is positive, and the usage at most 1.
                least = max(0.1 * (lam + price[k]), lam * prior[k]) - lam
            price[k] = max(price[k] + price_step * d_price[k], least)
        _advance(
            first, cluster, ratio, price, d_label, d_pull, d_level, label_step,
            price_step, 0.01 * target, label, pull, level,
        )  # fmt: skip
        n_iter += 1
        progress[:] = n_iter, step, lowest_gap, milestone, n_in_vain
        if n_iter % pause == 0:
            return False


@kernel
def _start(first, cluster, ratio, price, start, label, pull, level):
    """Set a start with slacks of at least `start`, and about equal products.

    first, cluster, ratio, price : IN
    label : (n_entries,) OUT; pull, level : (n_open,) OUT
    """
    for i in range(len(first) - 1):
        entries = range(first[i], first[i + 1])
        hit = 0.0
        for e in entries:
            hit += ratio[e] / len(entries)
        pull[i] = 1 / hit
        top = -np.inf
        for e in entries:
            top = max(top, price[cluster[e]] + pull[i] * ratio[e])
        level[i] = top + start
        for e in entries:
            label[e] = 1 / (level[i] - price[cluster[e]] - pull[i] * ratio[e])


@kernel
def _measure(
    first, cluster, ratio, row_weight, settled, total_weight, price, pull, level, label, slack, hit,
    usage,
):  # fmt: skip
    """Compute what follows from labels and prices.

    first, cluster, ratio, settled, price, pull, level : IN
    label : (n_entries,) IN/OUT, scaled to sum to 1
    slack : (n_entries,) OUT; hit : (n_open,) OUT; usage : (n_clusters,) OUT
    returns : the samples' part of the duality gap; sum of weight * label * slack
    """
    usage[:] = settled
    products = 0.0
    gap = 0.0
    for i in range(len(first) - 1):
        total = 0.0
        for e in range(first[i], first[i + 1]):
            total += label[e]
        share = 1 / total
        hit[i] = 0.0
        own = 0.0
        for e in range(first[i], first[i + 1]):
            k = cluster[e]
            label[e] *= share
            slack[e] = level[i] - price[k] - pull[i] * ratio[e]
            slack[e] = max(slack[e], 1e-16 * abs(price[k]))  # if that took its digits
            hit[i] += ratio[e] * label[e]
            usage[k] += row_weight[i] * label[e]
            own += slack[e] * label[e]
        excess = hit[i] * pull[i] - 1
        products += row_weight[i] * own
        gap += row_weight[i] * (excess - np.log1p(excess))
    for k in range(len(usage)):
        usage[k] /= total_weight
    return (gap + products) / total_weight, products


@kernel
def _demand(
    usage, d_usage, price, d_price, lam, prior, forward, total_weight, stiffness, demand
):
    """Linearize the condition that the prices balance the usage.

    usage, d_usage, price, d_price, prior : (n_clusters,) IN; the changes of the
        predictor, for their second-order term
    stiffness, demand : (n_clusters,) OUT; the condition is, for the step,
        total_weight * d_usage + stiffness * d_price = demand
    returns : the clusters' part of the duality gap
    """
    gap = 0.0
    log_asked = _log_asked(price, lam, prior) if forward else 0.0
    for k in range(len(usage)):
        stiffness[k] = _FIXED  # the price of an unwanted cluster
        demand[k] = 0.0
        if prior[k] == 0:
            continue
        if forward:
            stiffness[k] = total_weight * usage[k] / lam
            if usage[k] > 0:
                excess = price[k] / lam + np.log(usage[k]) - np.log(prior[k])
                demand[k] = -total_weight * usage[k] * excess
                # Usage and what is asked sum to 1, so that their difference may be
                # added. That leaves squares: lam would multiply the rounding of excess.
                excess += log_asked
                gap += lam * usage[k] * (excess + np.expm1(-excess))
        else:
            # A price near -lam has lost its digits.
            full = max(lam + price[k], lam * prior[k])
            missing = lam * prior[k] - usage[k] * full
            stiffness[k] = total_weight * usage[k] / full
            demand[k] = total_weight * (missing - d_usage[k] * d_price[k]) / full
            excess = -missing / (lam * prior[k])
            gap += lam * prior[k] * (excess - np.log1p(excess))
    return gap


@kernel
def _correct(
    first, label, slack, pull, d_label, d_slack, d_hit, d_pull, reach, trust, target,
    change, turn,
):  # fmt: skip
    """Set the right-hand side of the corrector.

    first, label, slack, pull, d_label, d_slack, d_hit, d_pull, reach : IN; the step and
        its reach are those of the predictor
    trust : part of its second-order terms that is taken over
    target : of all products label * slack
    change : (n_entries,) OUT; turn : (n_open,) IN/OUT
    """
    for i in range(len(first) - 1):
        second = trust * reach[i]
        for e in range(first[i], first[i + 1]):
            product = second * d_label[e] * d_slack[e]
            change[e] = (target - product) / slack[e] - label[e]
        turn[i] -= second * d_hit[i] * d_pull[i] / pull[i]


@kernel
def _advance(
    first, cluster, ratio, price, d_label, d_pull, d_level, label_step, price_step,
    least_slack, label, pull, level,
):  # fmt: skip
    """Take a step; the slacks stay positive where a price fell less than planned.

    first, cluster, ratio, price, d_label, d_pull, d_level : IN; price is the new one
    label : (n_entries,) IN/OUT; pull, level : (n_open,) IN/OUT
    """
    for i in range(len(first) - 1):
        pull[i] += price_step * d_pull[i]
        top = -np.inf
        for e in range(first[i], first[i + 1]):
            # A fall by 0.99 to 1 of itself shortens no step: rounding may make it 0.
            label[e] = max(label[e] + label_step * d_label[e], 1e-10 * label[e])
            top = max(top, price[cluster[e]] + pull[i] * ratio[e])
        level[i] = max(level[i] + price_step * d_level[i], top + least_slack)


@kernel
def _log_asked(price, lam, prior):
    """Return ln sum_k prior_k exp(-price_k / lam); price, prior : (n_clusters,) IN."""
    lowest = np.inf
    for k in range(len(price)):
        if prior[k] > 0:
            lowest = min(lowest, price[k])
    total = 0.0
    for k in range(len(price)):
        if prior[k] > 0:
            total += prior[k] * np.exp((lowest - price[k]) / lam)
    return np.log(total) - lowest / lam


@kernel
def _factorize(
    first,
    cluster,
    ratio,
    row_weight,
    label,
    slack,
    hit,
    pull,
    stiffness,
    weight,
    pivots,
    system,
):
    """Eliminate the samples' unknowns: the linear system of the price changes.

    first, cluster, ratio, label, slack, hit, pull, stiffness : IN
    weight : (n_entries,) OUT, label / slack
    pivots : (n_open, 3) OUT, of each sample's 2 x 2 block: its weights' mean ratio,
        sum, and variation
    system : (n_clusters, n_clusters) OUT, symmetric and positive definite

    A sample adds diag(weight) - weight weight' / sum - v v' / variation with
    v = weight * (ratio - mean). Its rows sum to zero, so that the diagonal follows from
    the couplings of two clusters each.
    """
    n_clusters = len(stiffness)
    system[:] = 0.0
    for i in range(len(first) - 1):
        total = 0.0
        moment = 0.0
        for e in range(first[i], first[i + 1]):
            weight[e] = label[e] / slack[e]
            total += weight[e]
            moment += weight[e] * ratio[e]
        mean = moment / total
        variation = hit[i] / pull[i]
        for e in range(first[i], first[i + 1]):
            variation += weight[e] * (ratio[e] - mean) ** 2
        pivots[i, 0] = mean
        pivots[i, 1] = total
        pivots[i, 2] = variation
        by_sum = 1 / total
        by_variation = 1 / variation
        if first[i + 1] - first[i] == 2:  # the same, without cancellation
            by_sum *= hit[i] / pull[i] * by_variation
            by_variation = 0.0
        for e in range(first[i], first[i + 1]):
            j = cluster[e]
            for f in range(first[i], e):
                k = cluster[f]
                product = (ratio[e] - mean) * (ratio[f] - mean)
                coupling = weight[e] * weight[f] * (by_sum + by_variation * product)
                coupling *= row_weight[i]
                system[j, j] += coupling
                system[k, k] += coupling
                system[j, k] -= coupling
    for k in range(n_clusters):
        # Couplings may be negative, and their sum below 0 by rounding. The last term
        # keeps the matrix positive definite in spite of it.
        system[k, k] = max(system[k, k], 0.0)
        system[k, k] += stiffness[k] + 1e-15 * system[k, k] + 1e-300
        for j in range(k):
            system[j, k] = system[k, j]


@kernel
def _direction(
    first, cluster, ratio, row_weight, label, slack, hit, pull, weight, pivots, factor, change,
    turn, demand, total_weight,
    d_label, d_slack, d_hit, d_pull, d_level, d_usage, d_price, reach,
):  # fmt: skip
    """Solve for a Newton step.

    first, cluster, ratio, label, slack, hit, pull, weight, pivots : IN
    factor : (n_clusters, n_clusters) IN, Cholesky factor of the system
    change : (n_entries,) IN, step of the labels if no slack moves
    turn : (n_open,) IN, step of hit if no pull moves
    demand : (n_clusters,) IN, see `_demand`
    d_label, ... d_price : OUT, the step
    reach : (n_open,) OUT, product of the sample's own longest steps
    returns : longest step of the labels, and of the slacks and pulls, up to 1 / 0.99;
        sum of weight * label * slack if every sample went as far as it can
    """
    n_open = len(first) - 1
    d_price[:] = demand
    for i in range(n_open):
        mean, total, variation = pivots[i, 0], pivots[i, 1], pivots[i, 2]
        moved = 0.0
        turned = -turn[i]
        for e in range(first[i], first[i + 1]):
            moved += change[e]
            turned += change[e] * (ratio[e] - mean)
        d_level[i] = moved
        d_pull[i] = -turned
        moved /= total
        turned /= variation
        for e in range(first[i], first[i + 1]):
            spread = moved + (ratio[e] - mean) * turned
            d_price[cluster[e]] += row_weight[i] * (weight[e] * spread - change[e])
    _solve_factorized(factor, d_price)

    label_rate = 0.99  # fastest relative fall: the longest step is its reciprocal
    price_rate = 0.99
    products = 0.0
    d_usage[:] = 0.0
    for i in range(n_open):
        mean, total, variation = pivots[i, 0], pivots[i, 1], pivots[i, 2]
        moved = d_level[i]
        turned = d_pull[i]
        for e in range(first[i], first[i + 1]):
            paid = weight[e] * d_price[cluster[e]]
            moved += paid
            turned -= paid * (ratio[e] - mean)
        moved /= total
        turned /= variation
        shift = 0.0
        own_label_rate = 1.0
        own_price_rate = max(1.0, -turned / pull[i])
        for e in range(first[i], first[i + 1]):
            k = cluster[e]
            d_slack[e] = moved - d_price[k] - (ratio[e] - mean) * turned
            d_label[e] = change[e] - weight[e] * d_slack[e]
            shift += ratio[e] * d_label[e]
            d_usage[k] += row_weight[i] * d_label[e]
            own_label_rate = max(own_label_rate, -d_label[e] / label[e])
            own_price_rate = max(own_price_rate, -d_slack[e] / slack[e])
        d_hit[i] = shift
        d_pull[i] = turned
        d_level[i] = moved + mean * turned
        label_rate = max(label_rate, own_label_rate if own_label_rate > 1 else 0.99)
        price_rate = max(price_rate, own_price_rate if own_price_rate > 1 else 0.99)
        label_step = 1 / own_label_rate
        price_step = 1 / own_price_rate
        reach[i] = label_step * price_step
        own = 0.0
        for e in range(first[i], first[i + 1]):
            own += (label[e] + label_step * d_label[e]) * (
                slack[e] + price_step * d_slack[e]
            )
        products += row_weight[i] * own
    label_step = 1 / label_rate
    price_step = 1 / price_rate
    for k in range(len(d_usage)):
        d_usage[k] /= total_weight
    return label_step, price_step, products


@kernel
def _cholesky(system):
    """Return the lower Cholesky factor, of more than `system` if rounding asks for it.

    system : (n, n) IN/OUT, symmetric and positive semidefinite, up to rounding
    """
    for ridge in (0.0, 1e-14, 1e-12, 1e-10, 1e-8):
        for k in range(len(system)):
            system[k, k] *= 1 + ridge
        try:
            return np.linalg.cholesky(system)
        except Exception:  # a LinAlgError; compiled code cannot name it
            continue
    return np.diag(np.sqrt(np.diag(system)))


@kernel
def _solve_factorized(factor, x):
    """Solve factor factor' x = b in place.

    factor : (n, n) IN, lower triangular
    x : (n,) IN: b; OUT: the solution
    """
    n = len(x)
    for i in range(n):
        for j in range(i):
            x[i] -= factor[i, j] * x[j]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        x[i] /= factor[i, i]
        for j in range(i):
            x[j] -= factor[i, j] * x[i]
