"""Labels of optimal transport (SeLa): ours beside POT's Sinkhorn.

    OMP_NUM_THREADS=1 python examples/paper/transport.py

The labels maximize the mean of ln(sigma) . y + epsilon H(y) under equal shares. Both
solvers stop at the same error of the shares, in the Euclidean norm; POT looks at it
every tenth iteration. "difference" is the largest one between two labels. Of POT's
variants the plain one is run, and the one in logarithms where the plain one fails.
"""

import argparse
import time
import warnings
from functools import partial
from itertools import product

import numpy as np
from timing import draw_predictions

from skcce._pseudo_labels.transport import transport_labels


def timed(solve, n_repeats):
    """Return what `solve` returns, and the seconds of its fastest call."""
    seconds = []
    for _ in range(n_repeats):
        start = time.perf_counter()
        result = solve()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def solve_with_pot(scores, epsilon, tol, max_iter):
    """Return labels, the number of iterations, and whether they have converged."""
    import ot

    n, n_clusters = scores.shape
    rows, shares = np.full(n, 1 / n), np.full(n_clusters, 1 / n_clusters)
    for method in ("sinkhorn", "sinkhorn_log"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of numbers that overflow: we look at them
            plan, log = ot.sinkhorn(
                *(rows, shares, -scores, epsilon),
                method=method,
                stopThr=tol,
                numItermax=max_iter,
                log=True,
            )
        error = np.linalg.norm(plan.sum(axis=0) - shares)
        if np.isfinite(error):
            break
    return n * plan, 10 * len(log["err"]), error <= 2 * tol


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1, 0.2, 0.05])
    parser.add_argument("--bias", type=float, default=1.5, help="of the clusters")
    parser.add_argument("--tol", type=float, default=1e-10)
    parser.add_argument("--max-iter", type=int, default=5000, help="of POT")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"{'samples x K':>14} {'epsilon':>8} {'ours s':>8} {'POT s':>8} ", end="")
    print(f"{'ratio':>6} {'iterations':>10} {'difference':>10}")
    for n, n_clusters, epsilon in product(args.n, args.clusters, args.epsilon):
        scores = np.log(draw_predictions(n, n_clusters, bias=args.bias))
        prior = np.full(n_clusters, 1 / n_clusters)
        # No entry is off by more than the norm.
        ours = partial(
            *(transport_labels, scores, prior, epsilon),
            tol=args.tol / np.sqrt(n_clusters),
        )
        theirs = partial(solve_with_pot, scores, epsilon, args.tol, args.max_iter)
        labels, seconds = timed(ours, args.repeats)
        (others, n_iter, converged), peer = timed(theirs, args.repeats)
        line = f"{f'{n} x {n_clusters}':>14} {epsilon:8g} {seconds:8.4f} {peer:8.4f} "
        line += f"{peer / seconds:6.2f} {n_iter:10} "
        line += f"{np.abs(labels - others).max():10.1e}"
        print(line + ("" if converged else "  POT: not converged"), flush=True)


if __name__ == "__main__":
    main()
