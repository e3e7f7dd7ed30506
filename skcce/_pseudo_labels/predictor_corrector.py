"""A primal-dual interior-point method, for the labels of the candidates.

The optimality conditions are ``label * slack = 0``, ``hit * pull = 1`` and, for the
clusters, ``usage * (lam + price) = lam * prior`` (reverse divergence) or
``price = -lam * ln(usage / prior)`` (forward). Newton's method for them reduces to one
linear system in the prices, as every sample's own unknowns can be eliminated. The
system is factorized once for Mehrotra's predictor and corrector, and for Gondzio's
centrality correctors (S. Mehrotra, "On the implementation of a primal-dual interior
point method", 1992; J. Gondzio, "Multiple centrality corrections in a primal-dual
method for linear programming", 1996).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk

from skcce._kernel import kernel

_FIXED = 1e200  # stiffness of a price that does not move
# Correctors for centrality, and the step from which there is no need for another.
_CORRECTORS, _LONG = 3, 0.9
_ROWS = 256  # samples that go into a matrix product together
# Operations, about, after which a kernel returns: Python sees Ctrl-C only in between.
# Nor may a kernel that Python calls return an array: Numba runs Python code to wrap it,
# does not notice the KeyboardInterrupt that this raises, and ends with a SystemError.
_LONGEST = 1e8


class Candidates(NamedTuple):
    """The problem of the candidates: an entry is a candidate of a sample."""

    first: NDArray  # (n_open + 1,), entries first[i] <= e < first[i + 1] are sample i's
    cluster: NDArray | None  # (n_entries,); None: every cluster, for every sample
    ratio: NDArray  # (n_entries,), prediction, divided by the sample's largest one
    weight: NDArray  # (n_open,), of the samples
    settled: NDArray  # (n_clusters,), sum of weight * label over all other samples
    total_weight: float  # of all samples
    lam: float
    prior: NDArray  # (n_clusters,)
    forward: bool


class _Point(NamedTuple):
    """The unknowns, and what follows from them."""

    label: NDArray  # (n_entries,)
    level: NDArray  # (n_open,), multiplier of "the labels sum to 1"
    pull: NDArray  # (n_open,), 1 / hit at the optimum
    price: NDArray  # (n_clusters,), what a unit earns, minus what it earns in balance
    hit: NDArray  # (n_open,), collision probability, sum of ratio * label
    usage: NDArray  # (n_clusters,), mean label


class _Step(NamedTuple):
    """A step of the unknowns; those of slacks and labels follow, entry by entry."""

    aim: NDArray  # (n_entries,), what label * slack shall be after a full step
    level: NDArray  # (n_open,)
    pull: NDArray  # (n_open,)
    price: NDArray  # (n_clusters,)


class _Newton(NamedTuple):
    """The linear system of a step."""

    gap: NDArray  # (2,), duality gap, and sum of weight * label * slack
    turn: NDArray  # (n_open,), step of hit if no pull moves
    total: NDArray  # (n_open,), sum of a sample's mobilities label / slack
    mean: NDArray  # (n_open,), their mean ratio
    variation: NDArray  # (n_open,), of the ratios, second pivot of a 2 x 2 block
    stiffness: NDArray  # (n_clusters,), prices balance the usage after the step if
    demand: NDArray  # total_weight * d_usage + stiffness * d_price = demand
    system: NDArray  # (n_clusters, n_clusters), symmetric and positive definite


def solve_candidates(
    candidates: Candidates,
    price: NDArray,
    start: float,
    tol: float,
    max_iter: int,
) -> tuple[NDArray, NDArray, NDArray, NDArray, int, bool]:
    """Solve for the labels to a duality gap of `tol`, in nats.

    price : (n_clusters,), a guess
    start : duality gap of a sample at the start, about the error of the prices
    returns : label (n_entries,), hit (n_open,), usage and price (n_clusters,), all of
        the step with the least gap; the number of steps; whether they reached `tol`
    """
    n_open, n_entries = len(candidates.weight), len(candidates.ratio)
    n_clusters = len(price)
    sizes = [n_entries, n_open, n_open, n_clusters, n_open, n_clusters]
    point = _Point(*map(np.zeros, sizes))
    best = _Point(*map(np.zeros, [n_entries, 0, 0, n_clusters, n_open, n_clusters]))
    sizes = [n_entries, n_open, n_open, n_clusters]
    step, trial = (_Step(*map(np.zeros, sizes)) for _ in range(2))
    sizes = [2] + 4 * [n_open] + 2 * [n_clusters]
    newton = _Newton(*map(np.zeros, [*sizes, (n_clusters, n_clusters)]))
    point.price[:] = price
    weight, count = candidates.weight, np.diff(candidates.first.astype(np.float64))
    total = max(weight.sum(), np.finfo(np.float64).tiny)
    _center(candidates, start * total / max(weight @ count, total), point)
    progress = np.array([0, np.inf])  # number of steps, lowest gap
    state = point, newton, best, progress
    if candidates.cluster is None:
        while not _begin_step(candidates, tol, max_iter, *state):
            _couple_by_products(candidates, point, newton)
            if not _take_step(candidates, point, step, trial, newton, progress):
                break
    else:
        per_entry = 100 + n_entries / max(n_open, 1)
        pause = 1 + int(_LONGEST / (per_entry * n_entries + n_clusters**3))
        while not _take_steps(candidates, tol, max_iter, pause, step, trial, *state):
            pass
    n_iter, gap = progress
    return best.label, best.hit, best.usage, best.price, int(n_iter), bool(gap <= tol)


@kernel
def _take_steps(
    candidates, tol, max_iter, pause, step, trial, point, newton, best, progress
):
    """Take up to `pause` steps.

    candidates, tol, max_iter : IN, see `solve_candidates`
    step, trial, point, newton, best, progress : IN/OUT, its state and workspace
    returns : whether there is no more to do
    """
    for _ in range(pause):
        if _begin_step(candidates, tol, max_iter, point, newton, best, progress):
            return True
        _couple(candidates, point, newton)
        if not _take_step(candidates, point, step, trial, newton, progress):
            return True
    return False


@kernel
def _begin_step(candidates, tol, max_iter, point, newton, best, progress):
    """Look where we are; keep the best point; eliminate the samples' own unknowns.

    candidates, tol, max_iter : IN, see `solve_candidates`
    point : IN/OUT, see `_measure`
    newton : IN/OUT, gap, total, mean, variation, stiffness and demand are set
    best, progress : IN/OUT
    returns : whether there is no more to do
    """
    n_iter, lowest_gap = progress
    gap, products = _measure(candidates, point)
    gap += _demand(candidates, point, newton)
    newton.gap[:] = gap, products
    if gap < lowest_gap or n_iter == 0:
        progress[1] = gap
        best.label[:] = point.label
        best.hit[:] = point.hit
        best.usage[:] = point.usage
        best.price[:] = point.price
    if gap <= tol or n_iter == max_iter or not np.isfinite(gap):
        return True
    _eliminate(candidates, point, newton)
    return False


@kernel
def _take_step(candidates, point, step, trial, newton, progress):
    """Take a step: predictor, corrector, and correctors for centrality.

    candidates : IN
    point, step, trial, newton, progress : IN/OUT
    returns : whether there was a finite step
    """
    _complete_system(newton)
    if not np.isfinite(newton.system.sum()):
        return False
    factor = _cholesky(newton.system)
    n_entries = max((candidates.weight * np.diff(candidates.first)).sum(), 1e-300)
    gap, products = newton.gap
    mu = products / n_entries

    # Predictor: the Newton step to where all products vanish.
    step.aim[:] = 0.0
    for i in range(len(newton.turn)):
        newton.turn[i] = 1 / point.pull[i] - point.hit[i]
    _direction(candidates, point, factor, newton, step)

    # Corrector: to the central path, at a target that is lower the farther the
    # predictor could go, but not much lower than the rest of the gap.
    left = _look_ahead(candidates, point, step, newton) / n_entries
    target = mu * min(1.0, left / mu) ** 3
    target = max(target, 0.02 * gap * candidates.total_weight / n_entries)
    step.aim[:] += target
    _direction(candidates, point, factor, newton, step)
    label_length, price_length = _lengths(candidates, point, newton, step)

    # Centrality: what would be far from the target after a longer step is mended.
    for _ in range(_CORRECTORS):
        if min(label_length, price_length) > _LONG:
            break
        longer = min(1.0, 2 * label_length + 0.1), min(1.0, 2 * price_length + 0.1)
        _mend(candidates, point, step, longer, target, trial)
        _direction(candidates, point, factor, newton, trial)
        lengths = _lengths(candidates, point, newton, trial)
        if not lengths[0] + lengths[1] >= label_length + price_length:
            break
        label_length, price_length = lengths
        step, trial = trial, step

    if not np.isfinite(label_length * price_length + step.price.sum()):
        return False
    _advance(
        candidates, step, 0.99 * label_length, 0.99 * price_length, 0.01 * target, point
    )
    progress[0] += 1
    return True


@kernel
def _cluster_of(cluster, e, first):
    """Return the cluster of entry e of a sample whose entries begin at `first`."""
    return e - first if cluster is None else cluster[e]


@kernel
def _slack_of(level, price, pull, ratio):
    """Return the slack of an entry, the multiplier of label >= 0."""
    slack = level - price - pull * ratio
    least = 1e-16 * abs(price)
    return slack if slack > least else least


@kernel
def _label_step_of(aim, label, slack, d_slack):
    """Return the step of a label after which label * slack is the aim, linearized."""
    return (aim - label * d_slack) / slack - label


@kernel
def _center(candidates, mu, point):
    """Start where every sample is on the central path, given the prices.

    candidates : IN
    mu : of the path, where label * slack = mu and hit * pull = 1
    point : IN/OUT, its price is given, label, level and pull are set
    """
    first, cluster, ratio = candidates[:3]
    label, level, pull, price = point[:4]
    own_price = np.empty(len(price))
    for i in range(len(pull)):
        start, stop = first[i], first[i + 1]
        count = stop - start
        for m in range(count):
            own_price[m] = price[_cluster_of(cluster, start + m, start)]
        height, slope = _center_sample(own_price[:count], ratio[start:stop], mu)
        for m in range(count):
            slack = _slack_of(height, own_price[m], slope, ratio[start + m])
            label[start + m] = mu / slack
        level[i], pull[i] = height, slope


@kernel
def _center_sample(price, ratio, mu):
    """Return about the level and pull of a sample that is on the central path.

    price, ratio : (n_candidates,) IN
    mu : see `_center`

    They minimize level - ln pull - mu * sum(ln slack): a few damped steps of Newton's
    method, from a pull that would be right if the slacks were those of a pull of 1.
    """
    n = len(price)
    level = _highest(price, ratio, 1.0) + mu * n
    total, moment = 0.0, 0.0
    for m in range(n):
        inverse = 1 / (level - price[m] - ratio[m])
        total += inverse
        moment += inverse * ratio[m]
    pull = total / moment
    level = _highest(price, ratio, pull) + mu * n
    for _ in range(20):
        # First and second derivatives by level (x) and pull (t).
        x, t = 1.0, -1 / pull
        xx, xt, tt = 0.0, 0.0, 1 / pull**2
        for m in range(n):
            inverse = 1 / _slack_of(level, price[m], pull, ratio[m])
            label = mu * inverse
            mobility = label * inverse
            x -= label
            t += label * ratio[m]
            xx += mobility
            xt -= mobility * ratio[m]
            tt += mobility * ratio[m] * ratio[m]
        determinant = xx * tt - xt * xt
        d_level = (xt * t - tt * x) / determinant
        d_pull = (xt * x - xx * t) / determinant
        rate = max(1.0, -d_pull / pull / 0.9)
        for m in range(n):
            slack = _slack_of(level, price[m], pull, ratio[m])
            rate = max(rate, (d_pull * ratio[m] - d_level) / slack / 0.9)
        if not rate < np.inf:
            break
        level += d_level / rate
        pull += d_pull / rate
        if -(d_level * x + d_pull * t) < 0.1 * mu:
            break
    return level, pull


@kernel
def _highest(price, ratio, pull):
    """Return the maximum of price + pull * ratio; price, ratio : (n,) IN."""
    highest = -np.inf
    for m in range(len(price)):
        highest = max(highest, price[m] + pull * ratio[m])
    return highest


@kernel
def _measure(candidates, point):
    """Compute what follows from labels and prices.

    candidates : IN
    point : IN/OUT, labels are scaled to sum to 1; hit and usage are set
    returns : the samples' part of the duality gap; sum of weight * label * slack
    """
    first, cluster, ratio, weight, settled, total_weight = candidates[:6]
    label, level, pull, price, hit, usage = point
    usage[:] = settled
    products = 0.0
    gap = 0.0
    for i in range(len(pull)):
        total = 0.0
        for e in range(first[i], first[i + 1]):
            total += label[e]
        share = 1 / total
        for e in range(first[i], first[i + 1]):
            label[e] *= share
        hit[i] = 0.0
        product = 0.0
        for e in range(first[i], first[i + 1]):
            k = _cluster_of(cluster, e, first[i])
            hit[i] += ratio[e] * label[e]
            product += label[e] * _slack_of(level[i], price[k], pull[i], ratio[e])
        for e in range(first[i], first[i + 1]):
            usage[_cluster_of(cluster, e, first[i])] += weight[i] * label[e]
        products += weight[i] * product
        excess = hit[i] * pull[i] - 1
        gap += weight[i] * (excess - np.log1p(excess))
    for k in range(len(usage)):
        usage[k] /= total_weight
    return (gap + products) / total_weight, products


@kernel
def _demand(candidates, point, newton):
    """Linearize the condition that the prices balance the usage.

    candidates, point : IN
    newton : IN/OUT, stiffness and demand are set
    returns : the clusters' part of the duality gap
    """
    lam, prior, forward = candidates[-3:]
    total_weight = candidates.total_weight
    usage, price = point.usage, point.price
    stiffness, demand = newton.stiffness, newton.demand
    gap = 0.0
    log_asked = _log_asked(candidates, price) if forward else 0.0
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
            full_price = max(lam + price[k], lam * prior[k])
            missing = lam * prior[k] - usage[k] * full_price
            stiffness[k] = total_weight * usage[k] / full_price
            demand[k] = total_weight * missing / full_price
            excess = -missing / (lam * prior[k])
            gap += lam * prior[k] * (excess - np.log1p(excess))
    return gap


@kernel
def _log_asked(candidates, price):
    """Return ln sum_k prior_k exp(-price_k / lam); candidates, price : IN."""
    lam, prior = candidates.lam, candidates.prior
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
def _eliminate(candidates, point, newton):
    """Eliminate the samples' unknowns: pivots of a 2 x 2 block for each of them.

    candidates, point : IN
    newton : IN/OUT, total, mean and variation are set, the system is set to zero
    """
    first, cluster, ratio = candidates[:3]
    label, level, pull, price, hit, _ = point
    newton.system[:] = 0.0
    mobility = np.empty(len(price))
    for i in range(len(pull)):
        start, count = first[i], first[i + 1] - first[i]
        height, slope = level[i], pull[i]
        for m in range(count):
            e = start + m
            k = _cluster_of(cluster, e, start)
            mobility[m] = label[e] / _slack_of(height, price[k], slope, ratio[e])
        total, moment = 0.0, 0.0
        for m in range(count):
            total += mobility[m]
            moment += mobility[m] * ratio[start + m]
        mean = moment / total
        variation = hit[i] / slope
        for m in range(count):
            variation += mobility[m] * (ratio[start + m] - mean) ** 2
        newton.total[i] = total
        newton.mean[i] = mean
        newton.variation[i] = variation


@kernel
def _couple(candidates, point, newton):
    """Subtract the couplings of the candidates of each sample from the system.

    candidates, point : IN
    newton : IN/OUT, the system's entries below the diagonal

    A sample adds weight times diag(m) - m m' / total - v v' / variation to the system,
    with the mobilities m = label / slack and v = m * (ratio - mean). Its rows sum to
    zero, so that the diagonal follows from the couplings of two clusters each.
    """
    first, cluster, ratio, weight = candidates[:4]
    label, level, pull, price, hit, _ = point
    system = newton.system
    mobility = np.empty(len(price))
    for i in range(len(pull)):
        start, count, mean = first[i], first[i + 1] - first[i], newton.mean[i]
        for m in range(count):
            e = start + m
            slack = _slack_of(level[i], price[cluster[e]], pull[i], ratio[e])
            mobility[m] = label[e] / slack
        by_sum = weight[i] / newton.total[i]
        by_variation = weight[i] / newton.variation[i]
        if count == 2:  # the same, without cancellation
            by_sum *= hit[i] / pull[i] / newton.variation[i]
            by_variation = 0.0
        for m in range(count):
            j = cluster[start + m]
            for other in range(m):
                k = cluster[start + other]
                product = (ratio[start + m] - mean) * (ratio[start + other] - mean)
                coupling = by_sum + by_variation * product
                # The clusters of a sample are in order.
                system[j, k] -= mobility[m] * mobility[other] * coupling


def _couple_by_products(candidates: Candidates, point: _Point, newton: _Newton) -> None:
    """Do what `_couple` does, for a whole problem: by products of tall matrices."""
    n_open, n_clusters = len(point.pull), len(point.price)
    rows = np.empty((2 * min(_ROWS, n_open), n_clusters))
    for start in range(0, n_open, _ROWS):
        count = min(_ROWS, n_open - start)
        _fill_rows(candidates, point, newton, start, count, rows)
        # BLAS counts columns first: this is the part below the diagonal.
        dsyrk(-1.0, rows[: 2 * count].T, beta=1.0, c=newton.system.T, overwrite_c=True)


@kernel
def _fill_rows(candidates, point, newton, begin, count, rows):
    """Fill rows whose products are the couplings of the samples from `begin` on.

    candidates, point, newton : IN
    count : number of samples
    rows : (2 * count, n_clusters) or more OUT
    """
    _, _, ratio, weight = candidates[:4]
    label, level, pull, price, _, _ = point
    n_clusters = len(price)
    for row in range(count):
        i = begin + row
        height, slope, mean = level[i], pull[i], newton.mean[i]
        by_sum = np.sqrt(weight[i] / newton.total[i])
        by_variation = np.sqrt(weight[i] / newton.variation[i])
        entries = slice(i * n_clusters, (i + 1) * n_clusters)
        own_label, own_ratio = label[entries], ratio[entries]
        for k in range(n_clusters):
            slack = _slack_of(height, price[k], slope, own_ratio[k])
            rows[2 * row, k] = by_sum * own_label[k] / slack
        for k in range(n_clusters):
            distance = by_variation / by_sum * (own_ratio[k] - mean)
            rows[2 * row + 1, k] = rows[2 * row, k] * distance


@kernel
def _complete_system(newton):
    """Mirror the couplings, and set the diagonal; newton : IN/OUT, its system."""
    system = newton.system
    n_clusters = len(system)
    for j in range(n_clusters):
        system[j, j] = 0.0
        for k in range(j):
            system[k, j] = system[j, k]
    for k in range(n_clusters):
        # Couplings may be negative, and their sum below 0 by rounding. The last term
        # keeps the matrix positive definite in spite of it.
        diagonal = max(-system[k].sum(), 0.0)
        system[k, k] = diagonal + newton.stiffness[k] + 1e-15 * diagonal + 1e-300


@kernel
def _direction(candidates, point, factor, newton, step):
    """Solve for the prices of a Newton step.

    candidates, point, newton : IN
    factor : (n_clusters, n_clusters) IN, Cholesky factor of the system
    step : IN/OUT, its aim is given; level and pull are for `_finish_sample`
    """
    first, cluster, ratio, weight = candidates[:4]
    label, level, pull, price, _, _ = point
    aim, d_level, d_pull, d_price = step
    change = np.empty(len(price))
    mobility = np.empty(len(price))
    d_price[:] = newton.demand
    for i in range(len(pull)):
        start, count, mean = first[i], first[i + 1] - first[i], newton.mean[i]
        for m in range(count):
            e = start + m
            k = _cluster_of(cluster, e, start)
            inverse = 1 / _slack_of(level[i], price[k], pull[i], ratio[e])
            mobility[m] = label[e] * inverse
            change[m] = aim[e] * inverse - label[e]
        moved = 0.0
        turned = newton.turn[i]
        for m in range(count):
            moved += change[m]
            turned -= change[m] * (ratio[start + m] - mean)
        d_level[i] = moved
        d_pull[i] = turned
        moved /= newton.total[i]
        turned /= newton.variation[i]
        for m in range(count):
            spread = moved - (ratio[start + m] - mean) * turned
            change[m] = mobility[m] * spread - change[m]
        for m in range(count):
            d_price[_cluster_of(cluster, start + m, start)] += weight[i] * change[m]
    _solve_factorized(factor, d_price)


@kernel
def _finish_sample(i, candidates, point, newton, step):
    """Set the step of level and pull of sample i, from that of the prices.

    candidates, point, newton : IN
    step : IN/OUT, from `_direction`; at i, what prices add is added
    """
    first, cluster, ratio = candidates[:3]
    label, level, pull, price, _, _ = point
    start, stop, mean = first[i], first[i + 1], newton.mean[i]
    height, slope = level[i], pull[i]
    moved = step.level[i]
    turned = step.pull[i]
    for e in range(start, stop):
        k = _cluster_of(cluster, e, start)
        slack = _slack_of(height, price[k], slope, ratio[e])
        paid = label[e] / slack * step.price[k]
        moved += paid
        turned -= paid * (ratio[e] - mean)
    step.pull[i] = turned / newton.variation[i]
    step.level[i] = moved / newton.total[i] + mean * step.pull[i]


@kernel
def _look_ahead(candidates, point, step, newton):
    """Take the predictor's second-order terms over to the aims.

    candidates, point : IN
    step : IN/OUT, the predictor; its aim is set
    newton : IN/OUT, turn is set, and demand
    returns : sum of weight * label * slack if every sample went as far as it can

    The terms of a sample count as much as it can go along the predictor.
    """
    lam, prior, forward = candidates[-3:]
    for k in range(0 if forward else len(prior)):
        if prior[k] > 0:
            # That of usage * price; d_usage * total_weight is what the prices leave.
            full_price = max(lam + point.price[k], lam * prior[k])
            change = newton.demand[k] - newton.stiffness[k] * step.price[k]
            newton.demand[k] -= change * step.price[k] / full_price
    first, cluster, ratio, weight = candidates[:4]
    label, level, pull, price, hit, _ = point
    aim, d_level, d_pull, d_price = step
    d_slack = np.empty(len(price))
    inverse = np.empty(len(price))
    left = 0.0
    for i in range(len(pull)):
        _finish_sample(i, candidates, point, newton, step)
        start, count = first[i], first[i + 1] - first[i]
        for m in range(count):
            e = start + m
            k = _cluster_of(cluster, e, start)
            inverse[m] = 1 / _slack_of(level[i], price[k], pull[i], ratio[e])
            d_slack[m] = d_level[i] - d_price[k] - d_pull[i] * ratio[e]
        # A label changes by -label * (1 + d_slack / slack).
        highest = 0.0
        lowest = min(0.0, d_pull[i] / pull[i])
        for m in range(count):
            relative = d_slack[m] * inverse[m]
            highest = max(highest, relative)
            lowest = min(lowest, relative)
        label_length = 1 / (1 + highest)
        price_length = 1 / max(1.0, -lowest)
        trust = label_length * price_length
        for m in range(count):
            e = start + m
            d_label = -label[e] * (1 + d_slack[m] * inverse[m])
            aim[e] = -trust * d_label * d_slack[m]
        d_hit = 0.0
        product = 0.0
        for m in range(count):
            e = start + m
            d_label = -label[e] * (1 + d_slack[m] * inverse[m])
            d_hit += ratio[e] * d_label
            product += (label[e] + label_length * d_label) * (
                1 / inverse[m] + price_length * d_slack[m]
            )
        left += weight[i] * product
        newton.turn[i] = (1 - trust * d_hit * d_pull[i]) / pull[i] - hit[i]
    return left


@kernel
def _lengths(candidates, point, newton, step):
    """Return the longest steps of the labels, and of slacks and pulls.

    candidates, point, newton : IN
    step : IN/OUT, that of the prices is given, those of levels and pulls are set
    """
    first, cluster, ratio = candidates[:3]
    label, level, pull, price, _, _ = point
    aim, d_level, d_pull, d_price = step
    # Fastest relative falls, kept apart by position to make full use of the vectors.
    label_rates = np.ones(len(price))
    price_rates = np.ones(len(price))
    price_rate = 1.0
    for i in range(len(pull)):
        _finish_sample(i, candidates, point, newton, step)
        start, count = first[i], first[i + 1] - first[i]
        price_rate = max(price_rate, -d_pull[i] / pull[i])
        for m in range(count):
            e = start + m
            k = _cluster_of(cluster, e, start)
            inverse = 1 / _slack_of(level[i], price[k], pull[i], ratio[e])
            rate = -inverse * (d_level[i] - d_price[k] - d_pull[i] * ratio[e])
            price_rates[m] = rate if rate > price_rates[m] else price_rates[m]
            rate = 1 - rate - aim[e] * inverse / label[e]
            label_rates[m] = rate if rate > label_rates[m] else label_rates[m]
    return 1 / label_rates.max(), 1 / max(price_rate, price_rates.max())


@kernel
def _mend(candidates, point, step, lengths, target, trial):
    """Change the aims where a longer step would end far from the target.

    candidates, point, step : IN
    lengths : of the step, of labels and prices
    target : of all products label * slack
    trial : OUT, its aim is set
    """
    first, cluster, ratio = candidates[:3]
    label, level, pull, price, _, _ = point
    aim, d_level, d_pull, d_price = step
    label_length, price_length = lengths
    least, most = 0.1 * target, 10 * target
    for i in range(len(pull)):
        height, slope = level[i], pull[i]
        d_height, d_slope = d_level[i], d_pull[i]
        start = first[i]
        for e in range(start, first[i + 1]):
            k = _cluster_of(cluster, e, start)
            slack = _slack_of(height, price[k], slope, ratio[e])
            d_slack = d_height - d_price[k] - d_slope * ratio[e]
            d_label = _label_step_of(aim[e], label[e], slack, d_slack)
            product = (label[e] + label_length * d_label) * (
                slack + price_length * d_slack
            )
            missing = least - product
            excess = product - most
            excess = excess if excess < most else most
            missing = missing if missing > 0 else 0.0
            excess = excess if excess > 0 else 0.0
            trial.aim[e] = aim[e] + missing - excess


@kernel
def _advance(candidates, step, label_length, price_length, least_slack, point):
    """Take a step; slacks stay positive where a price fell less than planned.

    candidates, step : IN
    point : IN/OUT, label, level, pull and price take the step
    """
    lam, prior, forward = candidates[-3:]
    first, cluster, ratio = candidates[:3]
    label, level, pull, price, _, _ = point
    aim, d_level, d_pull, d_price = step
    own_price = np.empty(len(price))
    for i in range(len(pull)):
        height, slope = level[i], pull[i]
        d_height, d_slope = d_level[i], d_pull[i]
        start = first[i]
        for e in range(start, first[i + 1]):
            k = _cluster_of(cluster, e, start)
            slack = _slack_of(height, price[k], slope, ratio[e])
            d_slack = d_height - d_price[k] - d_slope * ratio[e]
            d_label = _label_step_of(aim[e], label[e], slack, d_slack)
            # A fall by 0.99 to 1 of itself shortens no step: rounding may make it 0.
            least = 1e-10 * label[e]
            label[e] += label_length * d_label
            label[e] = label[e] if label[e] > least else least
    for k in range(len(price)):
        least = -np.inf
        if not forward:  # The price is positive, and the usage at most 1.
            least = max(0.1 * (lam + price[k]), lam * prior[k]) - lam
        price[k] = max(price[k] + price_length * d_price[k], least)
    for i in range(len(pull)):
        start, stop = first[i], first[i + 1]
        count = stop - start
        pull[i] += price_length * d_pull[i]
        for e in range(start, stop):
            own_price[e - start] = price[_cluster_of(cluster, e, start)]
        highest = _highest(own_price[:count], ratio[start:stop], pull[i])
        level[i] = max(level[i] + price_length * d_level[i], highest + least_slack)


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
