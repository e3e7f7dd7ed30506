r"""Time and memory of the solvers: size x bias x lam.

    OMP_NUM_THREADS=1 python examples/paper/scaling.py
    OMP_NUM_THREADS=1 python examples/paper/scaling.py --solvers exact \
        --sizes 1000x200 50x1000 --bias 1.5 --lam 0.4 4

The bias skews the predictions: N(0, bias^2) on the logits of each cluster, the same for
all samples. An iteration of EM takes the same time for every lam. Every problem is
solved in a process of its own, so that its resident memory can be measured, and that it
can be ended.
"""

import argparse
import resource
import sys
import time
from itertools import product
from multiprocessing import get_context

import numpy as np
from timing import compile_exact_solver, draw_predictions

from skcce import solve_pseudo_labels
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import check_prior, pose

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # unit of ru_maxrss
N_ITER = 10  # EM iterations that are timed
MIN_SIZE = 1 << 20  # labels, below which the memory is not told from the interpreter's
SIZES = (
    "1000x20 10000x20 100000x20 1000000x20 10000x2 10000x200 10000x1000 "
    "1000x200 50x1000 2000x1000"
).split()


def run_em(proba, lam, tol):
    """Return seconds of an EM iteration; nothing is to be said about it."""
    labels = proba.copy()
    problem = pose(proba, lam, check_prior(None, proba.shape[1]))
    times = []
    for n_iter in (1, 1 + N_ITER):  # their difference leaves out what is done once
        runs = []
        while len(runs) < 3 or (len(runs) < 20 and sum(runs) < 0.3):
            labels[:] = proba
            start = time.perf_counter()
            prepare_em(problem, labels)(n_iter=n_iter)
            runs.append(time.perf_counter() - start)
        times.append(min(runs))
    return (times[1] - times[0]) / N_ITER, ""


def run_exact(proba, lam, tol):
    """Return seconds of the exact solver, and how it went."""
    start = time.perf_counter()
    result = solve_pseudo_labels(proba, lam=lam, tol=tol)
    seconds = time.perf_counter() - start
    relative_gap = result.gap / max(1.0, result.loss)
    verdict = "" if result.converged else "  NOT CONVERGED"
    return seconds, f"{result.n_iter:7d}{relative_gap:10.0e}{verdict}"


SOLVERS = {"em": run_em, "exact": run_exact}


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES


def measure(sender, solver, n, n_clusters, lam, tol, predictions):
    """Send seconds, the peak memory above the input, in inputs, and how it went."""
    run = SOLVERS[solver]
    compile_exact_solver(predictions["dtype"])
    run(draw_predictions(200, 10, **predictions), lam, tol)  # compiles EM
    proba = draw_predictions(n, n_clusters, **predictions)
    before = peak_memory()
    runs = [run(proba, lam, tol)]
    memory = (peak_memory() - before) / proba.nbytes
    while len(runs) < 5 and sum(seconds for seconds, _ in runs) < 5:
        runs.append(run(proba, lam, tol))
    seconds, outcome = min(runs)
    sender.send((seconds, memory, outcome))


def measure_apart(max_seconds, *problem):
    """Measure in a process of its own; return None if it takes too long."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender, *problem))
    process.start()
    sender.close()  # of this process: should the other one fail, recv says so
    measured = receiver.recv() if receiver.poll(max_seconds) else None
    process.kill()
    process.join()
    return measured


def sweep(solver, sizes, biases, lams, *, tol, max_seconds, **predictions):
    """Measure and print a line for every size, bias and lam."""
    print(f"\n{solver}" + ", one iteration" * (solver == "em"))
    head = f"{'n':>8}{'K':>6}{'bias':>6}{'lam':>9}{'seconds':>11}{'memory':>8}"
    print(head + f"{'steps':>7}{'gap':>10}" * (solver == "exact"))
    for (n, n_clusters), bias, lam in product(sizes, biases, lams):
        print(f"{n:8d}{n_clusters:6d}{bias:6g}{lam:9g}", end="", flush=True)
        options = {**predictions, "bias": bias}
        measured = measure_apart(max_seconds, solver, n, n_clusters, lam, tol, options)
        if measured is None:
            print(f"   ended after {max_seconds:g} s", flush=True)
            continue
        seconds, memory, outcome = measured
        memory = f"{memory:7.1f}x" if n * n_clusters >= MIN_SIZE else ""
        print(f"{seconds:11.2g}{memory:8}{outcome}", flush=True)


def parse_size(text):
    """Return (n, K) of a text like 1000x20."""
    n, n_clusters = map(int, text.split("x"))
    return n, n_clusters


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=[*SOLVERS])
    sizes = [parse_size(size) for size in SIZES]
    parser.add_argument(
        "--sizes", type=parse_size, nargs="+", default=sizes, metavar="NxK"
    )
    parser.add_argument("--bias", type=float, nargs="+", default=[0, 1.5, 3])
    lams = [0.4, 4, 100, 1e3, 1e6]
    parser.add_argument("--lam", type=float, nargs="+", default=lams)
    parser.add_argument("--tol", type=float, default=1e-6, help="of the exact solver")
    parser.add_argument("--std", type=float, default=3.0, help="of the logits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument(
        "--max-seconds", type=float, default=600, help="for a problem, with all of it"
    )
    args = parser.parse_args()
    print(f"{args.dtype}, tol {args.tol:g}; memory: peak above the input, in sizes of")
    print("the input (the labels that are returned are 1.0 of it)")
    for solver in args.solvers:
        lams = args.lam[:1] if solver == "em" else args.lam
        sweep(
            solver,
            args.sizes,
            args.bias,
            lams,
            tol=args.tol,
            max_seconds=args.max_seconds,
            std=args.std,
            seed=args.seed,
            dtype=getattr(np, args.dtype),
        )


if __name__ == "__main__":
    main()
