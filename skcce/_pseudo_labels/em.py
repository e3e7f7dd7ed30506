r"""The paper's EM algorithm (eqs. 13-17).

Names in the kernels, for one sample, with `lam` as the weight of the mean-level loss:

================= ============================ =======================================
name              paper                        meaning
================= ============================ =======================================
``proba``         :math:`\sigma_i`             prediction, a point of the simplex
``labels``        :math:`y_i`                  pseudo-label, a point of the simplex
``full_price[k]`` :math:`\lambda u_k/\bar y_k` of cluster k, one for all samples
``force[k]``      :math:`\lambda M u_k S_i^k`  ``full_price[k] * labels[i, k]``, E-step
``shortfall[k]``  :math:`1-\sigma_k/\sigma_{max}`  distance of k from the best cluster
``numerator[k]``  .                            ``force[k] * proba[k] / max(proba)``
================= ============================ =======================================
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from skcce._kernel import kernel
from skcce._pseudo_labels.objective import Problem, positive_rows, sum_labels
from skcce._threads import count_threads

# Below this a cluster's share counts as zero: its products with lam * n_samples and
# its reciprocal still have to be normal float64 numbers.
_NO_SHARE = 1e-250
_MAX_WEIGHT = 1e36  # finite in float32, and over _NO_SHARE in float64
# Blocks of samples whose sums of labels are added in order, whichever thread did them.
_BLOCK = 1024
_ROWS = 32  # worked on together; a divisor of _BLOCK
_MIN_SIZE = 200_000  # labels, for a thread to be worth its start


def prepare_em(
    problem: Problem, labels: NDArray, n_jobs: int | None = None
) -> Callable[[int], None]:
    """Return a function that runs `n_iter` EM iterations on `labels`, in place.

    What it needs once, for about the time of an iteration, is computed here. The result
    depends neither on `n_jobs`, the number of threads, nor on where the iterations are
    interrupted for a look at the labels.
    """
    n_samples, n_clusters = labels.shape
    proba, weight = problem.proba, problem.weight
    weighted_prior = (
        min(problem.lam * problem.total_weight, _MAX_WEIGHT) * problem.prior
    )
    best = proba.max(axis=1)
    # The last block is that of the fixed labels.
    n_blocks = max(1, -(-n_samples // _BLOCK))
    sums = np.zeros((2, n_blocks + 1, n_clusters))
    sums[0, 0] = sum_labels(labels, weight)
    sums[:, -1] = problem.fixed_sum
    flips = cycle([0, 1])  # of the two sums, which one is the old

    n_parts = min(labels.size // _MIN_SIZE + 1, n_blocks)
    if n_parts > 1:
        n_parts = min(n_parts, count_threads(n_jobs))
    ends = [n_blocks * part // n_parts for part in range(n_parts + 1)]

    def iterate(part: int, old: int) -> None:
        blocks = slice(ends[part], ends[part + 1])
        rows = slice(_BLOCK * blocks.start, _BLOCK * blocks.stop)
        _em_iteration(
            proba[rows], best[rows], weight[rows], weighted_prior, labels[rows],
            sums[old], sums[1 - old, blocks],
        )  # fmt: skip

    def run(n_iter: int) -> None:
        # The pool starts a thread at the first task: none for a single part.
        with ThreadPoolExecutor(n_parts) if n_parts > 1 else nullcontext() as pool:
            for old in islice(flips, n_iter):
                others = [pool.submit(iterate, i, old) for i in range(1, n_parts)]
                iterate(0, old)
                for other in others:
                    other.result()

    return run


def em_at_usages(
    proba: NDArray,
    lam: float,
    prior: NDArray,
    usages: NDArray,
    weight: NDArray | None = None,
) -> tuple[NDArray, NDArray]:
    """Run EM from the predictions, with the usage before each iteration given.

    A label then depends on no other sample. `usages` is (n_iter, n_clusters). Returns
    the labels, and the sums of weight * label before each iteration and after the last
    one, (n_iter + 1, n_clusters).
    """
    weight = np.ones(len(proba)) if weight is None else weight
    labels, best = positive_rows(proba), proba.max(axis=1)
    weighted_prior = min(float(lam), _MAX_WEIGHT) * prior
    n_blocks = max(1, -(-len(proba) // _BLOCK))
    sums = np.zeros((len(usages) + 1, n_blocks, proba.shape[1]))
    sums[0, 0] = sum_labels(labels, weight)
    for usage, new_sums in zip(usages, sums[1:], strict=True):
        _em_iteration(
            proba, best, weight, weighted_prior, labels, usage[np.newaxis], new_sums
        )
    return labels, sums.sum(axis=1)


@kernel
def _em_iteration(proba, best, weight, weighted_prior, labels, old_sums, new_sums):
    r"""One E-step and one M-step for every sample.

    proba : (n_samples, n_clusters) IN
    best : (n_samples,) IN, row maxima of proba
    weight : (n_samples,) IN
    weighted_prior : (n_clusters,) IN, lam * prior * sum of all weights, at most 1e36
    labels : (n_samples, n_clusters) IN/OUT
    old_sums : (any, n_clusters) IN, its column sums are those of weight * label
    new_sums : (n_blocks, n_clusters) OUT, sums of weight * label, block by block

    The label that minimizes eq. (15) is :math:`y_k = a_k x / (c x - \sigma_k)` with
    :math:`a` the force, :math:`c = 1 + \sum a` and the collision probability :math:`x`
    (eq. 16). With :math:`x = (1 + \epsilon)\sigma_{max}/c` and the shortfall :math:`r`,

    .. math:: y_k = a_k (1 + \epsilon) / (c (r_k + \epsilon)),

    and because :math:`(1+\epsilon)/(r+\epsilon) = 1 + (1-r)/(r+\epsilon)`, the labels
    sum to 1 exactly where :math:`G(\epsilon) = \sum_k b_k/(r_k+\epsilon) = 1` with
    the numerator :math:`b_k = a_k (1 - r_k)`: sums of positive terms, no cancellation.
    """
    n_samples, n_clusters = proba.shape
    dtype = proba.dtype.type
    zero, one = dtype(0), dtype(1)
    tiny = np.finfo(proba.dtype).tiny
    # Less counts as zero: subnormal numbers are slow.
    no_force = tiny / np.finfo(proba.dtype).eps
    full_price = np.zeros(n_clusters)
    for block in range(len(old_sums)):
        for k in range(n_clusters):
            full_price[k] += old_sums[block, k]
    for k in range(n_clusters):
        held = full_price[k]
        full_price[k] = weighted_prior[k] / held if held > _NO_SHARE else 0.0
    new_sums[:] = 0

    # Some rows at a time, so that the processor overlaps them. Full vectors: clusters
    # without force fill them up. The outer planes are a margin: the compiled code takes
    # a slower loop, which adds in another order, if other arrays begin too close by.
    width = n_clusters + -n_clusters % 8
    planes = np.zeros((5, _ROWS, width), proba.dtype)
    shortfall, numerator, force = planes[1], planes[2], planes[3]
    shortfall[:] = one
    floor = np.empty(_ROWS, proba.dtype)
    root = np.empty_like(floor)
    for first in range(0, n_samples, _ROWS):
        n_rows = min(_ROWS, n_samples - first)
        for i in range(n_rows):
            p_max = best[first + i]
            inverse = one / p_max
            total, moment, at_best = zero, zero, zero
            for k in range(n_clusters):
                p = proba[first + i, k]
                a = dtype(full_price[k] * labels[first + i, k])
                a = a if a > no_force else zero
                b = a * (p * inverse)
                r = (p_max - p) * inverse
                force[i, k] = a
                numerator[i, k] = b
                shortfall[i, k] = r
                total += b
                moment += b * r
                at_best += b if r == 0 else zero
            # Two points on the left of the root: G is at least the best cluster's term,
            # and by Jensen's inequality total / (moment / total + eps).
            floor[i] = max(at_best, tiny)
            root[i] = max(floor[i], total - moment / max(total, tiny))
        _solve_m_step(shortfall, numerator, force, floor, root, n_rows)
        for i in range(n_rows):
            x, total = root[i], zero
            for k in range(width):
                y = force[i, k] / (shortfall[i, k] + x)
                force[i, k] = y
                total += y
            root[i] = one / total  # its room is free now
        for i in range(n_rows):
            inverse, counted = root[i], weight[first + i]
            if counted == 1:  # all rows, mostly: a product would slow EM by a third
                for k in range(n_clusters):
                    y = force[i, k] * inverse
                    labels[first + i, k] = y
                    new_sums[first // _BLOCK, k] += y
                continue
            for k in range(n_clusters):
                y = force[i, k] * inverse
                labels[first + i, k] = y
                new_sums[first // _BLOCK, k] += counted * y


@kernel
def _solve_m_step(shortfall, numerator, force, floor, root, n_rows):
    r"""Find the root of :math:`G(\epsilon) = \sum_k b_k/(r_k+\epsilon) = 1` by rows.

    shortfall : (>= n_rows, n_clusters) IN, in [0, 1], zero for the best cluster
    numerator : (>= n_rows, n_clusters) IN, non-negative
    force : (>= n_rows, n_clusters) IN/OUT, set where zero shares ask for it
    floor : (>= n_rows,) IN, on the left of the root, positive
    root : (>= n_rows,) IN: a start, not less than floor; OUT: the root

    Halley's method: the hyperbola that osculates G crosses 1 at the next point, in one
    step if a single term dominates. It has third order, so that a step below the cube
    root of the rounding error is the last one; with respect to what the labels make of
    it, :math:`1/(r+\epsilon)` relative to :math:`1/(1+\epsilon)`.
    """
    zero, one = root.dtype.type(0), root.dtype.type(1)
    tiny = np.finfo(root.dtype).tiny
    tol = np.finfo(root.dtype).eps ** (1 / 3)
    active = np.arange(n_rows)
    n_active = n_rows
    for _ in range(100):
        n_visits, n_active = n_active, 0
        for visit in range(n_visits):
            i = active[visit]
            x = root[i]
            value, slope, curve = zero, zero, zero
            for k in range(shortfall.shape[1]):
                inverse = one / (shortfall[i, k] + x)
                term = numerator[i, k] * inverse
                decay = x * inverse  # x times it, no power of x can overflow
                value += term
                slope += term * decay
                curve += term * decay * decay
            excess = value - one
            if x == tiny and value < one:
                # Zero shares (supplement, section 9): the best cluster has no share,
                # the others take what they are due, and it gets the rest.
                for k in range(shortfall.shape[1]):
                    if shortfall[i, k] == 0:
                        force[i, k] = tiny * -excess
                        break
                continue
            # Far on the left the hyperbola may not cross 1: at most four times the step
            # of Newton's method on 1/G.
            chord = max(slope - excess * curve / slope, slope / (4 * value))
            root[i] = max(x + x / chord * excess, floor[i])
            active[n_active] = i
            n_active += abs(root[i] - x) > tol * x * (1 + x)
        if n_active == 0:
            break
