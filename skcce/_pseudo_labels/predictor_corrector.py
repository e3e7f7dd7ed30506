"""Mehrotra's predictor-corrector method, for the labels of the candidates.

The optimality conditions are ``label * slack = 0``, ``hit * pull = 1`` and, for the
clusters, ``usage * (lam + price) = lam * prior`` (reverse divergence) or
``price = -lam * ln(usage / prior)`` (forward). Newton's method for them reduces to one
linear system in the prices, as every sample's own unknowns can be eliminated.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skcce._pseudo_labels.kernel import kernel

_FIXED = 1e200  # stiffness of a price that does not move
# Operations, about, after which a kernel returns: Python sees Ctrl-C only in between.
# Nor may a kernel that Python calls return an array: Numba runs Python code to wrap it,
# does not notice the KeyboardInterrupt that this raises, and ends with a SystemError.
_LONGEST = 1e8


class Candidates(NamedTuple):
    """The problem of the candidates: an entry is a candidate of a sample."""

    first: NDArray  # (n_open + 1,), entries first[i] <= e < first[i + 1] are sample i's
    cluster: NDArray  # (n_entries,)
    ratio: NDArray  # (n_entries,), prediction, divided by the sample's largest one
    weight: NDArray  # (n_open,), of the samples
    settled: NDArray  # (n_clusters,), sum of weight * label over all other samples
    total_weight: float  # of all samples
    lam: float
    prior: NDArray  # (n_clusters,)
    forward: bool


class _Point(NamedTuple):
    """All unknowns, or a step of them."""

    label: NDArray  # (n_entries,)
    slack: NDArray  # (n_entries,), level - price - pull * ratio, multiplier of y >= 0
    hit: NDArray  # (n_open,), collision probability, sum of ratio * label
    pull: NDArray  # (n_open,), 1 / hit at the optimum
    level: NDArray  # (n_open,), multiplier of "the labels sum to 1"
    usage: NDArray  # (n_clusters,), mean label
    price: NDArray  # (n_clusters,), what a unit earns, minus what it earns in balance


class _Newton(NamedTuple):
    """The linear system of a step."""

    mobility: NDArray  # (n_entries,), label / slack
    change: NDArray  # (n_entries,), step of the labels if no slack moves
    total: NDArray  # (n_open,), sum of a sample's mobilities
    mean: NDArray  # (n_open,), their mean ratio
    variation: NDArray  # (n_open,), of the ratios, second pivot of a 2 x 2 block
    turn: NDArray  # (n_open,), step of hit if no pull moves
    reach: NDArray  # (n_open,), product of the sample's own longest steps
    stiffness: NDArray  # (n_clusters,), prices balance the usage after the step if
    demand: NDArray  # total_weight * d_usage + stiffness * d_price = demand
    system: NDArray  # (n_clusters, n_clusters), symmetric and positive definite


def solve_candidates(
    candidates: Candidates,
    price: NDArray,
    start: float,
    tol: float,
    max_iter: int,
) -> tuple[NDArray, NDArray, NDArray, NDArray, int]:
    """Solve for the labels to a duality gap of `tol`, in nats.

    price : (n_clusters,), a guess
    start : slack at the start
    returns : label (n_entries,), hit (n_open,), usage and price (n_clusters,), all of
        the step with the least gap; the number of steps
    """
    n_open, n_entries = len(candidates.weight), len(candidates.cluster)
    n_clusters = len(price)
    sizes = 2 * [n_entries] + 3 * [n_open] + 2 * [n_clusters]
    point, step = (_Point(*map(np.zeros, sizes)) for _ in range(2))
    best = _Point(*map(np.zeros, [n_entries, 0, n_open, 0, 0, n_clusters, n_clusters]))
    sizes = 2 * [n_entries] + 5 * [n_open] + 2 * [n_clusters]
    newton = _Newton(*map(np.zeros, [*sizes, (n_clusters, n_clusters)]))
    point.price[:] = price
    per_entry = 50 + n_entries / max(n_open, 1)
    pause = 1 + int(_LONGEST / (per_entry * n_entries + n_clusters**3))
    # Number of steps, length of the last one, lowest gap, the gap after the last step
    # that was worth its while, and the number of steps since.
    progress = np.array([0, 1, np.inf, np.inf, 0])
    while not _take_steps(
        candidates, start, tol, max_iter, pause, point, step, newton, best, progress
    ):
        pass
    return best.label, best.hit, best.usage, best.price, int(progress[0])


@kernel
def _take_steps(
    candidates, start, tol, max_iter, pause, point, step, newton, best, progress
):
    """Take up to `pause` steps, from where the last call ended.

    candidates, start, tol, max_iter : IN, see `solve_candidates`
    point, step, newton, best, progress : IN/OUT, its state and workspace
    returns : whether there is no more to do
    """
    lam, prior, forward = candidates[-3:]
    n_entries = max((candidates.weight * np.diff(candidates.first)).sum(), 1e-300)
    n_iter, length, lowest_gap, milestone, n_in_vain = progress
    if n_iter == 0:
        _start(candidates, start, point)
    while True:
        gap, mu = _measure(candidates, point)
        mu /= n_entries
        gap += _demand(candidates, point, step, 0.0, newton)
        n_in_vain = 0 if gap < 0.9 * milestone else n_in_vain + 1
        milestone = gap if n_in_vain == 0 else milestone
        if gap < lowest_gap or n_iter == 0:
            lowest_gap = gap
            best.label[:] = point.label
            best.hit[:] = point.hit
            best.usage[:] = point.usage
            best.price[:] = point.price
        if gap <= tol or n_iter == max_iter or not np.isfinite(gap):
            return True

        # Full steps may run in a circle, among prices that hit their bound.
        longest = 0.99 if n_in_vain < 8 else 0.3

        # Predictor: the Newton step to where all products vanish.
        _factorize(candidates, point, newton)
        if not np.isfinite(newton.system.sum()):
            return True
        factor = _cholesky(newton.system)
        _aim(candidates, point, step, 0.0, 0.0, newton)
        _, _, left = _direction(candidates, point, factor, newton, step)

        # Corrector: to the central path, at a target that is lower the farther the
        # predictor could go, but not much lower than the rest of the gap. If the last
        # step was blocked, center instead.
        target = mu * min(1.0, left / n_entries / mu) ** 3
        target = max(target, 0.02 * gap * candidates.total_weight / n_entries)
        trust = 1.0
        if length < 0.05:
            target = max(target, 0.7 * mu)
            trust = 0.0
        _aim(candidates, point, step, trust, target, newton)
        _demand(candidates, point, step, trust, newton)
        label_length, price_length, _ = _direction(
            candidates, point, factor, newton, step
        )
        change = step.price.sum() + step.usage.sum()
        if not np.isfinite(label_length * price_length + change):
            return True
        label_length *= longest
        price_length *= longest
        length = min(label_length, price_length)
        for k in range(len(prior)):
            least = -np.inf
            if not forward:  # The price is positive, and the usage at most 1.
                least = max(0.1 * (lam + point.price[k]), lam * prior[k]) - lam
            price = point.price[k] + price_length * step.price[k]
            point.price[k] = max(price, least)
        _advance(candidates, step, label_length, price_length, 0.01 * target, point)
        n_iter += 1
        progress[:] = n_iter, length, lowest_gap, milestone, n_in_vain
        if n_iter % pause == 0:
            return False


@kernel
def _start(candidates, start, point):
    """Set a start with slacks of at least `start`, and about equal products.

    candidates : IN
    point : IN/OUT, its price is given, label, pull and level are set
    """
    first, cluster, ratio = candidates[:3]
    label, _, _, pull, level, _, price = point
    for i in range(len(pull)):
        entries = range(first[i], first[i + 1])
        pull[i] = 1 / ratio[first[i] : first[i + 1]].mean()
        top = -np.inf
        for e in entries:
            top = max(top, price[cluster[e]] + pull[i] * ratio[e])
        level[i] = top + start
        for e in entries:
            label[e] = 1 / (level[i] - price[cluster[e]] - pull[i] * ratio[e])


@kernel
def _measure(candidates, point):
    """Compute what follows from labels and prices.

    candidates : IN
    point : IN/OUT, labels are scaled to sum to 1; slack, hit and usage are set
    returns : the samples' part of the duality gap; sum of weight * label * slack
    """
    first, cluster, ratio, weight, settled, total_weight = candidates[:6]
    label, slack, hit, pull, level, usage, price = point
    usage[:] = settled
    products = 0.0
    gap = 0.0
    for i in range(len(pull)):
        total = 0.0
        for e in range(first[i], first[i + 1]):
            total += label[e]
        share = 1 / total
        hit[i] = 0.0
        product = 0.0
        for e in range(first[i], first[i + 1]):
            k = cluster[e]
            label[e] *= share
            slack[e] = level[i] - price[k] - pull[i] * ratio[e]
            slack[e] = max(slack[e], 1e-16 * abs(price[k]))  # if that took its digits
            hit[i] += ratio[e] * label[e]
            usage[k] += weight[i] * label[e]
            product += slack[e] * label[e]
        products += weight[i] * product
        excess = hit[i] * pull[i] - 1
        gap += weight[i] * (excess - np.log1p(excess))
    for k in range(len(usage)):
        usage[k] /= total_weight
    return (gap + products) / total_weight, products


@kernel
def _demand(candidates, point, step, trust, newton):
    """Linearize the condition that the prices balance the usage.

    candidates, point : IN
    step : IN, that of the predictor, for its second-order term
    trust : part of the second-order term that is taken over
    newton : OUT, stiffness and demand
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
            second = trust * step.usage[k] * step.price[k]
            stiffness[k] = total_weight * usage[k] / full_price
            demand[k] = total_weight * (missing - second) / full_price
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
def _aim(candidates, point, step, trust, target, newton):
    """Set the right-hand side of the samples' equations.

    candidates, point : IN
    step : IN, that of the predictor, for its second-order terms
    trust : part of the second-order terms that is taken over
    target : of all products label * slack
    newton : IN/OUT, change and turn are set
    """
    first = candidates.first
    label, slack, hit, pull = point[:4]
    for i in range(len(pull)):
        second = trust * newton.reach[i]
        for e in range(first[i], first[i + 1]):
            product = second * step.label[e] * step.slack[e]
            newton.change[e] = (target - product) / slack[e] - label[e]
        product = second * step.hit[i] * step.pull[i]
        newton.turn[i] = (1 - product) / pull[i] - hit[i]


@kernel
def _factorize(candidates, point, newton):
    """Eliminate the samples' unknowns: the linear system of the price changes.

    candidates, point : IN
    newton : IN/OUT, stiffness is given; mobility, total, mean, variation, system are
        set

    A sample adds weight times diag(m) - m m' / total - v v' / variation to the system,
    with the mobilities m and v = m * (ratio - mean). Its rows sum to zero, so that the
    diagonal follows from the couplings of two clusters each.
    """
    first, cluster, ratio, weight = candidates[:4]
    label, slack, hit, pull = point[:4]
    mobility, system = newton.mobility, newton.system
    system[:] = 0.0
    for i in range(len(pull)):
        total = 0.0
        moment = 0.0
        # Two loops, see `kernel`.
        for e in range(first[i], first[i + 1]):
            mobility[e] = label[e] / slack[e]
        for e in range(first[i], first[i + 1]):
            total += mobility[e]
            moment += mobility[e] * ratio[e]
        mean = moment / total
        variation = hit[i] / pull[i]
        for e in range(first[i], first[i + 1]):
            variation += mobility[e] * (ratio[e] - mean) ** 2
        newton.total[i] = total
        newton.mean[i] = mean
        newton.variation[i] = variation
        by_sum = weight[i] / total
        by_variation = weight[i] / variation
        if first[i + 1] - first[i] == 2:  # the same, without cancellation
            by_sum *= hit[i] / pull[i] / variation
            by_variation = 0.0
        for e in range(first[i], first[i + 1]):
            j = cluster[e]
            for f in range(first[i], e):
                k = cluster[f]
                product = (ratio[e] - mean) * (ratio[f] - mean)
                coupling = mobility[e] * mobility[f] * (by_sum + by_variation * product)
                system[j, j] += coupling
                system[k, k] += coupling
                system[j, k] -= coupling
    for k in range(len(system)):
        # Couplings may be negative, and their sum below 0 by rounding. The last term
        # keeps the matrix positive definite in spite of it.
        system[k, k] = max(system[k, k], 0.0)
        system[k, k] += newton.stiffness[k] + 1e-15 * system[k, k] + 1e-300
        for j in range(k):
            system[j, k] = system[k, j]


@kernel
def _direction(candidates, point, factor, newton, step):
    """Solve for a Newton step.

    candidates, point : IN
    factor : (n_clusters, n_clusters) IN, Cholesky factor of the system
    newton : IN/OUT, reach is set
    step : OUT
    returns : longest step of the labels, and of the slacks and pulls, up to 1 / 0.99;
        sum of weight * label * slack if every sample went as far as it can
    """
    first, cluster, ratio, weight, _, total_weight = candidates[:6]
    label, slack, _, pull = point[:4]
    d_label, d_slack, d_hit, d_pull, d_level, d_usage, d_price = step
    mobility, change = newton.mobility, newton.change
    d_price[:] = newton.demand
    for i in range(len(pull)):
        mean = newton.mean[i]
        moved = 0.0
        turned = -newton.turn[i]
        for e in range(first[i], first[i + 1]):
            moved += change[e]
            turned += change[e] * (ratio[e] - mean)
        d_level[i] = moved
        d_pull[i] = -turned
        moved /= newton.total[i]
        turned /= newton.variation[i]
        for e in range(first[i], first[i + 1]):
            spread = moved + (ratio[e] - mean) * turned
            d_price[cluster[e]] += weight[i] * (mobility[e] * spread - change[e])
    _solve_factorized(factor, d_price)

    label_rate = 0.99  # fastest relative fall: the longest step is its reciprocal
    price_rate = 0.99
    products = 0.0
    d_usage[:] = 0.0
    for i in range(len(pull)):
        mean = newton.mean[i]
        moved = d_level[i]
        turned = d_pull[i]
        for e in range(first[i], first[i + 1]):
            paid = mobility[e] * d_price[cluster[e]]
            moved += paid
            turned -= paid * (ratio[e] - mean)
        moved /= newton.total[i]
        turned /= newton.variation[i]
        shift = 0.0
        own_label_rate = 1.0
        own_price_rate = max(1.0, -turned / pull[i])
        for e in range(first[i], first[i + 1]):
            k = cluster[e]
            d_slack[e] = moved - d_price[k] - (ratio[e] - mean) * turned
            d_label[e] = change[e] - mobility[e] * d_slack[e]
            shift += ratio[e] * d_label[e]
            d_usage[k] += weight[i] * d_label[e]
            own_label_rate = max(own_label_rate, -d_label[e] / label[e])
            own_price_rate = max(own_price_rate, -d_slack[e] / slack[e])
        d_hit[i] = shift
        d_pull[i] = turned
        d_level[i] = moved + mean * turned
        label_rate = max(label_rate, own_label_rate if own_label_rate > 1 else 0.99)
        price_rate = max(price_rate, own_price_rate if own_price_rate > 1 else 0.99)
        label_length = 1 / own_label_rate
        price_length = 1 / own_price_rate
        newton.reach[i] = label_length * price_length
        product = 0.0
        for e in range(first[i], first[i + 1]):
            product += (label[e] + label_length * d_label[e]) * (
                slack[e] + price_length * d_slack[e]
            )
        products += weight[i] * product
    for k in range(len(d_usage)):
        d_usage[k] /= total_weight
    return 1 / label_rate, 1 / price_rate, products


@kernel
def _advance(candidates, step, label_length, price_length, least_slack, point):
    """Take a step; the slacks stay positive where a price fell less than planned.

    candidates, step : IN
    point : IN/OUT, its price is the new one; label, pull and level take the step
    """
    first, cluster, ratio = candidates[:3]
    label, _, _, pull, level, _, price = point
    for i in range(len(pull)):
        pull[i] += price_length * step.pull[i]
        top = -np.inf
        for e in range(first[i], first[i + 1]):
            # A fall by 0.99 to 1 of itself shortens no step: rounding may make it 0.
            label[e] = max(label[e] + label_length * step.label[e], 1e-10 * label[e])
            top = max(top, price[cluster[e]] + pull[i] * ratio[e])
        level[i] = max(level[i] + price_length * step.level[i], top + least_slack)


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
