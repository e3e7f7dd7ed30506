r"""EM that ends: proximal steps at Newton's prices, for both divergences.

EM replaces the fairness term by its tangent at the labels, and adds a distance from
them that makes up for it. The tangent is far below where all samples move together, so
that the distance has to be large, and the steps are short where `lam` is large. Here
the tangent is taken at the prices that balance the usage *after* the step, found by
Newton's method: one unknown per cluster. Then the distance may be divided by a stretch
that grows from iteration to iteration. This is the proximal point method.

Names, besides those of `em`:

============== =======================================================================
``distance``   sum of ``inertia * (label * ln(label / new) - label + new)``
``inertia[k]`` the full price that balances the usage (reverse divergence), or a like
               amount (forward), divided by the stretch; at stretch 1, steps are EM's
``reward[k]``  price, less the inertia that ``new`` has in the distance
``force[k]``   ``inertia[k] * label[i, k]``
``slack[k]``   ``level - reward[k] - pull * proba[k]``; a new label is force / slack
``trial``      labels after a full step
============== =======================================================================
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from skcce._kernel import kernel
from skcce._pseudo_labels.dual import balancing_price
from skcce._pseudo_labels.objective import Problem, sum_labels
from skcce._threads import count_threads, single_blas_thread

_NO_SHARE = 1e-250  # a usage below counts as it, for prices have to be finite
# Part of the usage that is added to the labels before a step: always, so that a label
# of zero need not stay so; and before a long step, as a label of nearly zero answers to
# prices all of a sudden, so that Newton's method cannot see it coming. Less for larger
# steps, which must end at the optimum, and where inertia would make too much of it.
_LEAST_BLEND = 1e-9
_BLEND = 1e-2
_LEAST_INERTIA = 1e-3  # relative to lam or 1
_GROWTH = 2.0  # of the stretch
_BLOCK = 512  # samples that are worked on together
_MAX_PARTS = 8  # each adds up a matrix of its own, however many threads there are
_MIN_SIZE = 100_000  # labels, for threads to be worth their start
# A sample that answers to prices by less, relative to the clusters themselves, is left
# out of Newton's matrix.
_NO_ANSWER = 1e-3


def prepare_accelerated_em(
    problem: Problem,
    labels: NDArray,
    n_jobs: int | None = None,
    accelerate: bool = True,
) -> Callable[[int], NDArray]:
    """Return a function that runs `n_iter` iterations on `labels`, in place.

    It returns prices, (n_clusters,), for the certificate. An iteration goes along the
    segment from the labels to the trial, to where the loss is least, so that none
    increases it. The result depends neither on `n_jobs`, the number of threads, nor on
    where the iterations are interrupted.

    accelerate : if False, the stretch remains 1, and prices those that balance the
        usage before the step
    """
    proba, lam, prior, _, weight, fixed_sum, total_weight, _ = problem
    n_samples, n_clusters = labels.shape
    trial, hits = np.empty_like(labels), np.empty((2, n_samples))
    n_blocks = max(1, -(-n_samples // _BLOCK))
    n_parts = min(_MAX_PARTS, n_blocks)
    ends = [n_blocks * part // n_parts for part in range(n_parts + 1)]
    sums = np.empty((n_parts, 2, n_clusters))
    couplings = np.empty((n_parts, n_clusters, n_clusters))
    n_threads = 1 if labels.size < _MIN_SIZE else min(n_parts, count_threads(n_jobs))

    stretch, failures = 1.0, 0
    usage = (sum_labels(labels, weight) + fixed_sum) / total_weight
    price = _balance(problem, usage)

    def respond(part: int, *step: NDArray) -> None:
        sums[part], couplings[part] = 0, 0
        answers = np.empty((2 * _BLOCK if accelerate else 0, n_clusters))
        for block in range(ends[part], ends[part + 1]):
            rows = slice(_BLOCK * block, _BLOCK * (block + 1))
            n_answers = _respond(
                proba[rows], weight[rows], labels[rows], *step, trial[rows],
                hits[:, rows], sums[part], answers,
            )  # fmt: skip
            couplings[part] += answers[:n_answers].T @ answers[:n_answers]

    def iterate(pool: ThreadPoolExecutor) -> None:
        nonlocal stretch, usage, price, failures
        inertia, shift = _inertia(problem, usage)
        reward = price - shift / stretch
        blend = _LEAST_BLEND + _BLEND * (1 - 1 / stretch) * min(
            stretch**-0.5, stretch**0.5 / lam
        )
        stiffness = usage / _full_price(problem, price)
        least_answer = _NO_ANSWER * stiffness[prior > 0].min(initial=np.inf)
        step = (
            reward - reward.max(), inertia / stretch,
            blend * np.maximum(usage, _NO_SHARE), least_answer,
        )  # fmt: skip
        list(pool.map(lambda part: respond(part, *step), range(n_parts)))
        trial_sum, drift = sums.sum(axis=0) / total_weight
        trial_usage = trial_sum + fixed_sum / total_weight
        if not np.isfinite(trial_usage).all():  # prices beyond all bounds
            stretch, price = 1.0, _balance(problem, usage)
            return
        length = _search(problem, hits, usage, trial_usage)
        if length > 0:
            _go(labels, trial, length)
        usage = (1 - length) * usage + length * trial_usage
        if not accelerate:
            price = _balance(problem, usage)
            return

        answer = -couplings.sum(axis=0) / total_weight
        np.fill_diagonal(answer, 0)
        np.fill_diagonal(answer, -answer.sum(axis=1))
        moved = np.zeros(n_clusters)
        failures = failures + 1 if length <= 0.1 else 0
        if failures == 0:
            # The next step starts elsewhere: the forces that the old labels had, and
            # what inertia took from the rewards, are replaced by those of the new ones.
            last_stretch = stretch
            stretch *= _GROWTH if length >= 0.9 else 1.0
            _, next_shift = _inertia(problem, usage)
            kept = (1 - length) / stretch
            moved = (kept * last_stretch - 1) * drift
            moved += answer @ (shift / last_stretch - kept * next_shift)
        elif failures > 1 and stretch > 1:
            stretch /= _GROWTH
        elif failures > 1:
            price = _balance(problem, usage)  # EM
            return
        change = _newton_step(problem, price, trial_usage, answer, moved)
        price = _balance(problem, usage) if change is None else price + change

    def run(n_iter: int) -> NDArray:
        with single_blas_thread(), ThreadPoolExecutor(n_threads) as pool:
            for _ in range(n_iter):
                iterate(pool)
        return price

    return run


def _balance(problem: Problem, usage: NDArray) -> NDArray:
    """Return the prices that balance a usage, finite ones of all wanted clusters."""
    usage = np.maximum(usage, _NO_SHARE)
    return balancing_price(usage, problem.lam, problem.prior, problem.forward)


def _inertia(problem: Problem, usage: NDArray) -> tuple[NDArray, NDArray]:
    """Return the inertia at stretch 1, and by how much it is above lam.

    With it, samples that see no difference between clusters move the usage to the
    prior. A larger one does no harm, and a tiny one would be lost beside the rewards.
    """
    lam, prior, forward = problem.lam, problem.prior, problem.forward
    ratio = np.where(prior > 0, prior / np.maximum(usage, _NO_SHARE), 1)
    shift = lam * (ratio - 1)
    if forward:
        # ratio ln(ratio) / (ratio - 1), without cancellation
        log = np.log(ratio)
        shift = lam * (log / np.where(log == 0, 1, -np.expm1(-log)) - (log != 0))
    shift = np.maximum(shift, _LEAST_INERTIA * max(lam, 1.0) - lam)
    return lam + shift, shift


def _full_price(problem: Problem, price: NDArray) -> NDArray:
    """Return what balances the prices' relative changes and those of the usage."""
    if problem.forward:
        return np.full(len(price), problem.lam)
    # A price near -lam has lost its digits; and that of an unwanted cluster is zero.
    full_price = np.maximum(problem.lam + price, problem.lam * problem.prior)
    return np.where(problem.prior > 0, full_price, problem.lam)


def _newton_step(
    problem: Problem, price: NDArray, usage: NDArray, answer: NDArray, moved: NDArray
) -> NDArray | None:
    """Return changes of the prices, to balance the usage after the next step.

    price, usage : of the trial
    answer : (n_clusters, n_clusters), derivative of the samples' usage by the prices
    moved : (n_clusters,), by how much the usage would change if the prices did not
    returns : None if there is no solution, by rounding
    """
    wanted = problem.prior > 0
    price, full_price = price[wanted], _full_price(problem, price)[wanted]
    stiffness = usage[wanted] / full_price
    demand = stiffness * (_balance(problem, usage)[wanted] - price) - moved[wanted]
    system = answer[np.ix_(wanted, wanted)]
    np.fill_diagonal(system, system.diagonal() * (1 + 1e-13) + stiffness)
    try:
        change = cho_solve(cho_factor(system, check_finite=False), demand)
    except (LinAlgError, ValueError):
        return None
    if not np.isfinite(change).all():
        return None
    # At most, a tenth or ten times as much is asked of a cluster.
    change = np.clip(change, -0.9 * full_price, 9 * full_price)
    if not problem.forward:  # no usage is above 1
        least = problem.lam * problem.prior[wanted]
        change = np.maximum(change, least - full_price)
    step = np.zeros(len(wanted))
    step[wanted] = change
    return step


def _search(
    problem: Problem, hits: NDArray, usage: NDArray, trial_usage: NDArray
) -> float:
    """Return how far to go from the labels to the trial: to the least loss, or less.

    The loss is convex on the segment, so that where its slope is negative, it has not
    yet risen. Along the segment collision probabilities and usage are linear, and
    nothing else matters: this costs little beside a step.

    hits : (2, n_samples), collision probabilities of labels and trial
    """
    allowed = (problem.prior > 0) | (not problem.forward)
    change, turn = hits[1] - hits[0], (trial_usage - usage)[allowed]

    def rises(length: float) -> bool:
        rate = change / ((1 - length) * hits[0] + length * hits[1])
        earned = problem.weight @ rate / problem.total_weight
        price = _balance(problem, (1 - length) * usage + length * trial_usage)
        return not earned + price[allowed] @ turn >= 0

    if not rises(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > 0.05 * high > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low


@kernel
def _go(labels, trial, length):
    """Move labels towards the trial, both (n_samples, n_clusters), by this part."""
    step = labels.dtype.type(length)
    for i in range(len(labels)):
        for k in range(labels.shape[1]):
            if step == 1:
                labels[i, k] = trial[i, k]
            else:
                labels[i, k] += step * (trial[i, k] - labels[i, k])


@kernel
def _respond(
    proba, weight, labels, reward, inertia, blend, least_answer,
    trial, hits, sums, answers,
):  # fmt: skip
    """Solve every sample's sub-problem, and differentiate it by the rewards.

    proba : (n_samples, n_clusters) IN
    weight : (n_samples,) IN
    labels : (n_samples, n_clusters) IN
    reward : (n_clusters,) IN, at most 0, -inf for a forbidden cluster
    inertia : (n_clusters,) IN
    blend : (n_clusters,) IN, what is added to the labels
    least_answer : of a sample that counts in the derivative
    trial : (n_samples, n_clusters) OUT, the new labels
    hits : (2, n_samples) OUT, collision probabilities of labels and trial
    sums : (2, n_clusters) IN/OUT, sums of weight * trial, and of weight * what the
        trial loses if its own force vanishes, are added
    answers : (2 * n_samples, n_clusters) OUT, or (0, n_clusters). Minus the products of
        its first rows are the derivative's entries off the diagonal.
    returns : the number of these rows

    The derivative of a new label is diag(m) - m m' / sum(m) - v v' / variation, with
    the mobilities m = label / slack and v = m * (proba - mean), see `_couple` of the
    interior-point method.
    """
    n_samples, n_clusters = proba.shape
    dtype, least = proba.dtype.type, np.finfo(proba.dtype).tiny
    sigma, label, force, slack, mobility = np.empty((5, n_clusters))
    n_answers = 0
    for i in range(n_samples):
        for k in range(n_clusters):
            sigma[k] = proba[i, k]
            label[k] = labels[i, k]
            force[k] = inertia[k] * (label[k] + blend[k])
        hit, best = 0.0, 0.0
        for k in range(n_clusters):
            hit += sigma[k] * label[k]
            best = max(best, sigma[k] if reward[k] > -np.inf else 0.0)
        hits[0, i] = max(hit, 1e-300)
        _solve_sub_problem(sigma, reward, force, 1 / max(hit, 1e-3 * best), slack)

        total = 0.0
        for k in range(n_clusters):
            label[k] = force[k] / slack[k]
        for k in range(n_clusters):
            total += label[k]
        for k in range(n_clusters):
            y = dtype(label[k] / total)
            y = max(y, least) if reward[k] > -np.inf else dtype(0)
            trial[i, k] = y
            label[k] = y
            mobility[k] = y / slack[k]
        hit, spread, moment = 0.0, 0.0, 0.0
        for k in range(n_clusters):
            hit += sigma[k] * label[k]
            spread += mobility[k]
            moment += mobility[k] * sigma[k]
        hits[1, i] = max(hit, 1e-300)
        mean = moment / spread
        variation, lead, largest = hit * hit, 0.0, 0.0
        for k in range(n_clusters):
            distance = sigma[k] - mean
            variation += mobility[k] * distance * distance
            lead += label[k] * distance
            largest = max(largest, mobility[k])
        for k in range(n_clusters):
            shared = mobility[k] * (1 / spread + (sigma[k] - mean) * lead / variation)
            sums[0, k] += weight[i] * label[k]
            sums[1, k] += weight[i] * (label[k] - shared)
        # The others' mobility bounds what the sample adds to any entry.
        if len(answers) == 0 or weight[i] == 0 or spread - largest <= least_answer:
            continue
        by_sum = np.sqrt(weight[i] / spread)
        by_variation = np.sqrt(weight[i] / variation)
        for k in range(n_clusters):
            answers[n_answers, k] = by_sum * mobility[k]
            answers[n_answers + 1, k] = by_variation * mobility[k] * (sigma[k] - mean)
        n_answers += 2
    return n_answers


@kernel
def _solve_sub_problem(sigma, reward, force, pull, slack):
    r"""Maximize :math:`\ln (\sigma \cdot y) + v \cdot y + \sum_k a_k \ln y_k`.

    sigma, reward, force : (n_clusters,) IN
    pull : a guess, positive
    slack : (n_clusters,) OUT, the solution is force / slack

    By duality, level and pull minimize the convex function :math:`\ell - \ln t -
    \sum_k a_k \ln (\ell - v_k - t \sigma_k)`: Newton's method, whose steps are cut
    where they leave its domain, and halved where they go too far up on the other side.
    """
    n_clusters = len(sigma)
    # Below the level at this pull: no label is above 1, and by Jensen's inequality.
    level, total, earned = -np.inf, 0.0, 0.0
    for k in range(n_clusters):
        slack[k] = reward[k] + pull * sigma[k]
        level = max(level, slack[k] + force[k])
    for k in range(n_clusters):
        total += force[k]
        earned += force[k] * max(slack[k], -1e300)
    level = max(level, total + earned / total)
    safe_level, safe_pull = level, pull
    d_level, d_pull, descent, length, error = 0.0, 0.0, 0.0, 0.0, np.inf
    for _ in range(50):
        for k in range(n_clusters):
            slack[k] = level - reward[k] - pull * sigma[k]
        n_outside, total, moment, c00, c01, c11 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(n_clusters):
            inverse = 1 / slack[k]
            y = force[k] * inverse
            d = y * inverse
            n_outside += 0.0 if slack[k] > 0 else 1.0
            total += y
            moment += y * sigma[k]
            c00 += d
            c01 += d * sigma[k]
            c11 += d * sigma[k] * sigma[k]
        g_level, g_pull = 1 - total, moment - 1 / pull
        uphill = g_level * d_level + g_pull * d_pull
        if n_outside > 0 or (uphill > -0.5 * descent and length > 1e-6):
            if n_outside > 0:  # go 0.9 of the way to the border
                rate = 0.0
                for k in range(n_clusters):
                    fall = d_pull * sigma[k] - d_level
                    distance = safe_level - reward[k] - safe_pull * sigma[k]
                    rate = max(rate, fall / distance)
                length = min(length / 2, 0.9 / rate)
            else:
                length /= 2
            level = safe_level + length * d_level
            pull = safe_pull + length * d_pull
            continue
        safe_level, safe_pull = level, pull
        last_error, error = error, max(abs(g_level), abs(g_pull) * pull)
        if error < 1e-12 or (error < 1e-7 and error > 0.1 * last_error):  # rounding
            break
        c11 += 1 / (pull * pull)
        det = max(c00 * c11 - c01 * c01, 1e-16 * c00 * c11)
        d_level = -(c11 * g_level + c01 * g_pull) / det
        d_pull = -(c00 * g_pull + c01 * g_level) / det
        descent = g_level * d_level + g_pull * d_pull
        length = min(1.0, 0.9 * pull / max(-d_pull, 1e-300))
        level += length * d_level
        pull += length * d_pull
    for k in range(n_clusters):  # no label is above 1, whatever rounding says
        distance = safe_level - reward[k] - safe_pull * sigma[k]
        slack[k] = max(distance, force[k], 1e-290)
