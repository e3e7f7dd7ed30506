"""Time and memory of the solvers against the number of samples and of clusters.

    OMP_NUM_THREADS=1 python examples/paper/scaling.py

Every size runs in a process of its own, so that its resident memory can be measured.
"""

import argparse
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import pose

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss
N_ITER = 10  # EM iterations that are timed
MIN_SIZE = 1 << 20  # labels, below which the memory is not told from the interpreter's


def make_proba(n, n_clusters, std, seed):
    """Return float32 predictions, made without much more memory than they need."""
    proba = np.random.default_rng(seed).standard_normal((n, n_clusters), np.float32)
    proba *= np.float32(std)
    np.exp(proba, out=proba)
    proba /= proba.sum(axis=1, keepdims=True)
    return proba


def run_em(proba, lam, tol):
    """Return seconds of an EM iteration, and the number of iterations run."""
    labels = proba.copy()
    problem = pose(proba, lam, np.full(proba.shape[1], 1 / proba.shape[1]))
    times = []
    for n_iter in (1, 1 + N_ITER):  # their difference leaves out what is done once
        runs = []
        while len(runs) < 3 or (len(runs) < 20 and sum(runs) < 0.3):
            labels[:] = proba
            start = time.perf_counter()
            prepare_em(problem, labels)(n_iter=n_iter)
            runs.append(time.perf_counter() - start)
        times.append(min(runs))
    return (times[1] - times[0]) / N_ITER, N_ITER


def run_exact(proba, lam, tol):
    """Return seconds of the exact solver, and its iterations (negative: no success)."""
    start = time.perf_counter()
    result = solve_pseudo_labels(proba, lam=lam, tol=tol)
    seconds = time.perf_counter() - start
    return seconds, result.n_iter if result.converged else -result.n_iter


SOLVERS = {"EM, one iteration": run_em, "exact": run_exact}


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def measure(solver, n, n_clusters, lam, tol, std, seed):
    """Return seconds, iterations and the peak memory above the input, in inputs."""
    run = SOLVERS[solver]
    small = make_proba(200, 2, std, seed)
    run(small, lam, tol)  # compiles
    proba = make_proba(n, n_clusters, std, seed)
    before = peak_memory()
    runs = [run(proba, lam, tol)]
    memory = (peak_memory() - before) / proba.nbytes
    while len(runs) < 5 and sum(seconds for seconds, _ in runs) < 2:
        runs.append(run(proba, lam, tol))
    return *min(runs), memory


def sweep(solver, sizes, variable, **options):
    """Measure and print every size; print the slope of the time with `variable`."""
    print(f"\n{solver}, lam = {options['lam']:g}")
    print(f"{'n':>9}{'K':>6}{'ms':>11}{'ns/label':>10}{'iterations':>12}{'memory':>9}")
    times = []
    for n, n_clusters in sizes:
        context = get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            job = pool.submit(measure, solver, n, n_clusters, **options)
            seconds, n_iter, memory = job.result()
        times.append(seconds)
        size = n * n_clusters
        cells = f"{1e3 * seconds:11.2f}{1e9 * seconds / size:10.2f}{n_iter:12d}"
        memory = f"{memory:8.1f}x" if size >= MIN_SIZE else f"{'':9}"
        print(f"{n:9d}{n_clusters:6d}{cells}{memory}", flush=True)
    if len(sizes) > 1:
        x = np.log([size[variable == "K"] for size in sizes])
        slope = np.polyfit(x, np.log(times), 1)[0]
        last = np.log(times[-1] / times[-2]) / (x[-1] - x[-2])
        print(
            f"time ~ {variable}^{slope:.2f}, between the last two {variable}^{last:.2f}"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    samples = [1000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--samples", type=int, nargs="+", default=samples)
    clusters = [2, 5, 10, 20, 50, 100, 200, 500, 1000]
    parser.add_argument("--clusters", type=int, nargs="+", default=clusters)
    parser.add_argument("--n", type=int, default=10_000, help="for the sweep of K")
    parser.add_argument("--k", type=int, default=20, help="for the sweep of n")
    parser.add_argument("--lam", type=float, default=0.4)
    parser.add_argument("--tol", type=float, default=1e-6, help="of the exact solver")
    parser.add_argument("--std", type=float, default=3.0, help="of the logits")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    options = dict(lam=args.lam, tol=args.tol, std=args.std, seed=args.seed)
    print("float32; memory: peak above the input, in sizes of the input (the labels")
    print("that are returned are 1.0 of it); iterations < 0: not converged")
    for solver in SOLVERS:
        sweep(solver, [(n, args.k) for n in args.samples], "n", **options)
        sweep(solver, [(args.n, k) for k in args.clusters], "K", **options)


if __name__ == "__main__":
    main()
