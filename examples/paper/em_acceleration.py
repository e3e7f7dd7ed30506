"""EM as the paper has it, and accelerated: iterations and seconds to a gap.

    OMP_NUM_THREADS=1 python examples/paper/em_acceleration.py

The predictions are softmax(std * Gaussian noise + bias * another one of the cluster).
Seconds are of whole calls, with the looks at the gap; an iteration is a pass over all
samples and clusters. The forward divergence has no plain EM in the paper.
"""

import argparse
import time
from itertools import product

from timing import draw_predictions

from skcce import solve_pseudo_labels


def measure(proba, tol, max_iter, **kwargs):
    """Return what was printed of a run: iterations and seconds, ">" if too few."""
    start = time.perf_counter()
    result = solve_pseudo_labels(
        proba, solver="em", tol=tol, max_iter=max_iter, **kwargs
    )
    seconds = time.perf_counter() - start
    more = "" if result.converged else ">"
    return f"{more}{result.n_iter}", f"{more}{seconds:.2g}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--clusters", type=int, nargs="+", default=[20, 200])
    parser.add_argument("--lam", type=float, nargs="+", default=[0.4, 4, 100])
    parser.add_argument("--bias", type=float, nargs="+", default=[0, 1.5])
    parser.add_argument("--tol", type=float, default=1e-4, help="relative duality gap")
    parser.add_argument(
        "--max-entries",
        type=float,
        default=1e10,
        help="samples * clusters * iterations that plain EM may visit",
    )
    args = parser.parse_args()  # fmt: skip
    for kwargs in ({}, {"accelerate": False}, {"divergence": "forward"}):
        measure(draw_predictions(50, 3), 1e-1, 3, lam=1.0, **kwargs)  # compiles
    columns = ["n", "K", "bias", "lam", "plain", "s", "accel.", "s", "forward", "s"]
    print("".join(f"{name:>9}" for name in columns))
    for n, n_clusters, bias, lam in product(args.n, args.clusters, args.bias, args.lam):
        proba = draw_predictions(n, n_clusters, bias=bias)
        longest = int(args.max_entries / proba.size)
        cells = [n, n_clusters, bias, f"{lam:g}"]
        cells += measure(proba, args.tol, longest, lam=lam, accelerate=False)
        cells += measure(proba, args.tol, 1000, lam=lam)
        cells += measure(proba, args.tol, 1000, lam=lam, divergence="forward")
        print("".join(f"{cell:>9}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
