"""The exact solver beside general-purpose ones: cvxpy's conic solvers, and POT.

    OMP_NUM_THREADS=1 python examples/paper/peers.py

cvxpy gets eq. (11) as one would write it down, and its solvers the same tolerance as
ours; "solver s" is their own time, "total s" that of cvxpy with it.

Unbalanced optimal transport (POT) with cost -ln(sigma) and the penalty lam * KL(usage
|| prior) minimizes an upper bound of our loss in the forward divergence, as -sum y
ln(sigma) >= -ln(sum y sigma), with equality for one-hot labels. Sinkhorn adds an
entropy, of weight 0.05 or 0.01; L-BFGS-B softens the constraint on the samples; "fixed
shares" are those of the prior. "loss - ours" and "gap" are those of the peer's labels
in our loss.
"""

import argparse
import time
import warnings
from itertools import product

import numpy as np
from timing import (
    compile_exact_solver,
    draw_predictions,
    fastest,
    solve_exactly,
)

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.objective import check_prior, pose
from skcce._pseudo_labels.solve import certify

CONIC = {  # {solver: names of its tolerances}
    "CLARABEL": ("tol_gap_abs", "tol_gap_rel"),
    "ECOS": ("abstol", "reltol"),
    "SCS": ("eps_abs", "eps_rel"),
}
TIME_LIMITS = {"CLARABEL": "time_limit", "SCS": "time_limit_secs"}


def certified(proba, labels, lam, divergence="reverse"):
    """Return the loss of labels, put onto the simplex, and their duality gap."""
    labels = np.maximum(labels, 0)
    labels /= labels.sum(axis=1, keepdims=True)
    prior = check_prior(None, proba.shape[1])
    return certify(pose(proba, lam, prior, divergence == "forward"), labels)


def solve_with_cvxpy(proba, lam, tol, solver, max_seconds):
    """Return labels, the seconds in the solver, and all seconds of cvxpy."""
    import cvxpy as cp

    prior = check_prior(None, proba.shape[1])
    labels = cp.Variable(proba.shape, nonneg=True)
    usage = cp.sum(labels, axis=0) / len(proba)
    hits = cp.sum(cp.multiply(proba, labels), axis=1)
    loss = -cp.sum(cp.log(hits)) / len(proba) + lam * cp.sum(cp.kl_div(prior, usage))
    problem = cp.Problem(cp.Minimize(loss), [cp.sum(labels, axis=1) == 1])
    options = dict.fromkeys(CONIC[solver], tol)
    if solver == "SCS":
        options["max_iters"] = 10**6
    if solver in TIME_LIMITS:
        options[TIME_LIMITS[solver]] = max_seconds
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Solution may be inaccurate": we measure it
        problem.solve(solver=solver, **options)
    seconds = time.perf_counter() - start
    return labels.value, problem.solver_stats.solve_time, seconds


def compare_with_cvxpy(proba, lam, tol, max_seconds):
    """Print a table; return {solver: (seconds of the solver / ours, loss - ours)}."""
    try:
        import cvxpy as cp
    except ImportError:
        print("cvxpy is not installed: skipped")
        return {}
    ours = fastest(lambda: solve_exactly(proba, lam, tol))[-1, 1]
    _, loss, gap, *_ = solve_pseudo_labels(proba, lam=lam, tol=tol)
    print(f"{'':10}{'solver s':>10}{'total s':>10}{'ratio':>8}", end="")
    print(f"{'loss - ours':>13}{'gap':>10}")
    print(f"{'skcce':10}{'':10}{ours:10.2g}{1:8}{0:13}{gap:10.1e}   loss {loss:.7f}")
    results = {}
    for solver in CONIC:
        if solver not in cp.installed_solvers():
            print(f"{solver:10} is not installed: skipped")
            continue
        try:
            labels, inner, total = solve_with_cvxpy(
                proba, lam, tol, solver, max_seconds
            )
        except cp.error.SolverError as error:
            print(f"{solver:10} {error}".split(". ")[0])
            continue
        if labels is None:
            print(f"{solver:10} no solution after {total:.1f} s")
            continue
        theirs, gap = certified(proba, labels, lam)
        results[solver] = inner / ours, theirs - loss
        print(f"{solver:10}{inner:10.2g}{total:10.2g}{inner / ours:8.0f}", end="")
        print(f"{theirs - loss:13.1e}{gap:10.1e}")
    return results


def transport_plans(cost, lam):
    """Return {name: function that returns POT's plan}."""
    import ot

    samples, clusters = (np.full(size, 1 / size) for size in cost.shape)
    problem = samples, clusters, cost
    semi_relaxed, nearly = (np.inf, lam), (1e3, lam)
    unbalanced = ot.unbalanced.sinkhorn_unbalanced
    return {
        "Sinkhorn 0.05": lambda: unbalanced(*problem, 0.05, semi_relaxed),
        "Sinkhorn 0.01": lambda: unbalanced(*problem, 0.01, semi_relaxed),
        "L-BFGS-B": lambda: ot.unbalanced.lbfgsb_unbalanced(*problem, 0, nearly),
        "fixed shares": lambda: ot.emd(*problem),
    }


def compare_with_transport(proba, lam, tol):
    """Print the losses of POT's labels under our forward objective, and times."""
    try:
        import ot  # noqa: F401
    except ImportError:
        print("POT is not installed: skipped")
        return

    def solve():
        compile_exact_solver()
        start = time.perf_counter()
        result = solve_pseudo_labels(proba, lam=lam, divergence="forward", tol=tol)
        seconds = time.perf_counter() - start
        return np.array([(result.loss, seconds, result.gap)])

    loss, ours, gap = fastest(solve)[-1]
    print(f"\n{'forward':14}{'s':>8}{'ratio':>9}{'loss - ours':>13}{'gap':>10}")
    print(f"{'skcce':14}{ours:8.2g}{1:9}{0:13}{gap:10.1e}   loss {loss:.6f}")
    for name, make_plan in transport_plans(-np.log(proba), lam).items():
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about convergence
            labels = make_plan() * len(proba)
        seconds = time.perf_counter() - start
        theirs, gap = certified(proba, labels, lam, "forward")
        print(f"{name:14}{seconds:8.2g}{seconds / ours:9.0f}", end="")
        print(f"{theirs - loss:13.1e}{gap:10.1e}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="number of samples")
    parser.add_argument("--clusters", type=int, default=20)
    parser.add_argument("--lam", type=float, nargs="+", default=[0.4, 4, 100])
    parser.add_argument("--std", type=float, default=3.0, help="of the logits")
    parser.add_argument(
        "--bias", type=float, nargs="+", default=[0, 1.5], help="std of the clusters'"
    )
    parser.add_argument("--tol", type=float, default=1e-6, help="of all solvers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=60, help="for a solver")
    args = parser.parse_args()
    for bias, lam in product(args.bias, args.lam):
        proba = draw_predictions(
            args.n, args.clusters, std=args.std, bias=bias, seed=args.seed
        )
        print(f"\n{args.n} x {args.clusters}, bias {bias:g}, lam {lam:g}: ", end="")
        print("cvxpy, eq. (11)")
        compare_with_cvxpy(proba, lam, args.tol, args.max_seconds)
        compare_with_transport(proba, lam, args.tol)


if __name__ == "__main__":
    main()
