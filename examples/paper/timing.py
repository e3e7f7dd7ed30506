"""What the scripts of this folder share: problems, and timed runs of the solvers.

A trace is an array with rows (iterations, seconds, relative gap): the duality gap
divided by max(1, loss), as solve_pseudo_labels compares it with its `tol`.
"""

import time
from functools import cache, partial

import numpy as np

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import check_prior, pose, positive_rows
from skcce._pseudo_labels.projected_gradient import projected_gradient
from skcce._pseudo_labels.solve import certify

# Constant steps of PGD, 1-2-3-5 in each decade. The likely ones come first, as the
# fastest so far is the time limit of the next.
GRID = [0.3, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 0.1, 0.05, 0.03, 0.02, 0.01]


def draw_predictions(n, n_clusters, *, std=3.0, bias=0.0, seed=0, dtype=np.float64):
    """Return predictions: the softmax of Gaussian logits.

    With a bias they are skewed: a vector N(0, bias^2) is added to the logits of all
    samples, so that they lean to some clusters. It takes little more memory than what
    is returned.
    """
    rng = np.random.default_rng(seed)
    proba = rng.standard_normal((n, n_clusters), dtype)
    proba *= std
    proba += bias * rng.standard_normal(n_clusters, dtype)
    proba -= proba.max(axis=1, keepdims=True)
    np.exp(proba, out=proba)
    proba /= proba.sum(axis=1, keepdims=True)
    return proba


@cache
def compile_exact_solver(dtype=np.float64):
    """Have the exact solver compiled, or loaded, for problems of either kind."""
    for bias in (0, 3):
        solve_pseudo_labels(draw_predictions(3000, 5, bias=bias, dtype=dtype), lam=1.0)


def paper_steps(n_clusters):
    return [1, 10, 20] if n_clusters == 2 else [0.1, 1, 5]


def relative_gap(proba, labels, lam):
    """Return the duality gap as solve_pseudo_labels compares it with its `tol`."""
    prior = check_prior(None, proba.shape[1])
    loss, gap = certify(pose(proba, lam, prior), labels)
    return gap / max(1.0, loss) if np.isfinite(gap) else np.inf


def descend(proba, lam, tol, max_seconds, step_size=None):
    """Run EM, or PGD if there is a step size, until the gap is small or time is up.

    Returns rows of (iterations, seconds, relative gap). The gap is looked at after
    every twentieth part of the iterations; these looks are not in the seconds.
    """
    problem = pose(proba, lam, check_prior(None, proba.shape[1]))
    labels = positive_rows(proba)

    def prepare():
        if step_size is None:
            return prepare_em(problem, labels)
        return partial(projected_gradient, problem, labels, step_size)

    prepare()(n_iter=1)  # compiles
    labels[:] = positive_rows(proba)
    start = time.perf_counter()
    run = prepare()
    preparation = time.perf_counter() - start
    trace = [(0, 0.0, relative_gap(proba, labels, lam))]
    while True:
        n_iter, seconds, gap = trace[-1]
        if gap <= tol or seconds >= max_seconds or stuck(trace):
            return np.array(trace)
        seconds = seconds if n_iter else preparation
        time_left = (max_seconds - seconds) * n_iter / seconds if n_iter else 1
        more = 1 + int(min(n_iter // 20, time_left))
        start = time.perf_counter()
        run(n_iter=more)
        seconds += time.perf_counter() - start
        trace.append((n_iter + more, seconds, relative_gap(proba, labels, lam)))


def stuck(trace):
    """Tell whether the second half of many iterations brought nothing."""
    n_iter, _, gap = np.array(trace).T
    late = n_iter > n_iter[-1] / 2
    return n_iter[-1] > 2000 and gap[late].min() >= gap[~late].min()


def fastest(run, min_seconds=0.5):
    """Return the trace that took the least time, of up to ten."""
    traces = [run()]
    while len(traces) < 10 and sum(t[-1, 1] for t in traces) < min_seconds:
        traces.append(run())
    return min(traces, key=lambda trace: trace[-1, 1])


def solve_exactly(proba, lam, tol):
    """Return the trace of the exact solver: its end, (iterations, seconds, gap)."""
    compile_exact_solver(proba.dtype.type)
    start = time.perf_counter()
    result = solve_pseudo_labels(proba, lam=lam, tol=tol)
    seconds = time.perf_counter() - start
    return np.array([(result.n_iter, seconds, result.gap / max(1.0, result.loss))])


def best_step(proba, lam, tol, max_seconds, tried):
    """Return the constant step with which PGD is fastest, and its trace.

    tried : {step size: trace}, steps that need no second run
    """
    tried = dict(tried)
    limit = max_seconds
    for step in [*tried, *GRID]:
        if step not in tried:
            tried[step] = descend(proba, lam, tol, limit, step)
        if tried[step][-1, 2] <= tol:
            limit = min(limit, tried[step][-1, 1])
    return min(
        tried.items(), key=lambda item: (max(item[1][-1, 2], tol), item[1][-1, 1])
    )
