"""The speed that the pseudo-label solvers are held to.

    OMP_NUM_THREADS=1 python examples/paper/goals.py --data banking77_minilm.npz
    OMP_NUM_THREADS=1 python examples/paper/goals.py --only seconds conic

All of it on balanced predictions, the softmax of logits of std 3, and on skewed ones,
which lean to some clusters: the same with a bias of N(0, 1.5^2) on the logits of each
cluster. Float64, equal shares. "x" is a ratio of times, of which those of PGD and EM
leave out the looks at the gap.

pgd       EM against the best constant step of PGD, to the same gap
em        the exact solver against EM, to a gap of 1e-6
seconds   the exact solver to 1e-6, also with more clusters than samples
conic     the exact solver against the best conic solver of cvxpy, to 1e-6
copy      an EM iteration against a copy of its arrays; two threads against one
training  a fit with exact pseudo-labels against one with EM's, on the file --data

Every size is in scaling.py; that nothing is missed is in hard_problems.py.
"""

import argparse
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from peers import compare_with_cvxpy
from sklearn.preprocessing import normalize
from timing import best_step, descend, draw_predictions, fastest, solve_exactly

from skcce import CollisionClusterer
from skcce._pseudo_labels.em import prepare_em
from skcce._pseudo_labels.objective import check_prior, pose

BIASES = 0, 1.5
TOL = 1e-6  # of the exact solver


def report(text, value, goal, unit="x", at_most=False, cut_short=False):
    """Print a value beside its goal; it may be larger if a rival was cut short."""
    met = value <= goal if at_most else value >= goal
    verdict = "met" if met else "open" if cut_short else "MISSED"
    goal = f"{'<=' if at_most else '>='} {goal:g}{unit}"
    value = f"{'> ' if cut_short else ''}{value:.3g}{unit}"
    print(f"{text}: {value} (goal {goal}: {verdict})", flush=True)


def describe(name, trace):
    n_iter, seconds, gap = trace[-1]
    return f"{name} {seconds:.3g} s, {n_iter:.0f} it, gap {gap:.0e}"


def place(n, n_clusters, bias, lam):
    return f"{n} x {n_clusters}, bias {bias:g}, lam {lam:g}"


def em_against_pgd(n, n_clusters, max_seconds):
    """Compare EM with the best constant step of PGD, to the same gap."""
    for bias in BIASES:
        proba = draw_predictions(n, n_clusters, bias=bias)
        em = fastest(partial(descend, proba, 0.4, 1e-4, max_seconds))
        step, pgd = best_step(proba, 0.4, 1e-4, max_seconds, {})
        text = f"{describe('EM', em)}; {describe(f'PGD (eta {step:g})', pgd)}"
        text = f"pgd: {place(n, n_clusters, bias, 0.4)}: {text}"
        report(text, pgd[-1, 1] / em[-1, 1], 50, cut_short=pgd[-1, 2] > 1e-4)


def time_exactly(proba, lam):
    """Return the fastest run of the exact solver."""
    return fastest(partial(solve_exactly, proba, lam, TOL))


def exact_against_em(n, n_clusters, lams, goal, max_seconds):
    """Compare the exact solver with EM, to a gap of 1e-6."""
    for bias, lam in product(BIASES, lams):
        proba = draw_predictions(n, n_clusters, bias=bias)
        exact = time_exactly(proba, lam)
        em = descend(proba, lam, TOL, max_seconds)
        text = f"{describe('exact', exact)}; {describe('EM', em)}"
        text = f"em: {place(n, n_clusters, bias, lam)}: {text}"
        report(text, em[-1, 1] / exact[-1, 1], goal, cut_short=em[-1, 2] > TOL)


def exact_in_seconds(goals):
    """Time the exact solver; goals : {(n, K): seconds}."""
    for (size, goal), bias, lam in product(goals.items(), BIASES, (0.4, 4, 100)):
        trace = time_exactly(draw_predictions(*size, bias=bias), lam)
        n_iter, seconds, gap = trace[-1]
        text = f"seconds: {place(*size, bias, lam)}: {n_iter:.0f} it, gap {gap:.0e}"
        report(text, seconds if gap <= TOL else np.inf, goal, " s", at_most=True)


def exact_against_conic(n, max_seconds):
    """Compare the exact solver with the best conic solver of cvxpy."""
    for bias, lam in product(BIASES, (0.4, 4)):
        print(f"conic: {place(n, 20, bias, lam)}")
        proba = draw_predictions(n, 20, bias=bias)
        peers = compare_with_cvxpy(proba, lam, TOL, max_seconds)
        good = {name: r for name, (r, excess) in peers.items() if abs(excess) <= TOL}
        if good:
            best = min(good, key=good.get)
            report(f"   {best}, same optimum to {TOL:g}", good[best], 500)


def em_seconds(proba, n_jobs=1, n_iter=40):
    """Return the seconds of an EM iteration, without what is done once for all."""
    problem = pose(proba, 0.4, check_prior(None, proba.shape[1]))
    times = []
    for more in (1, 1 + n_iter):
        runs = []
        for _ in range(5):
            labels = proba.copy()
            start = time.perf_counter()
            prepare_em(problem, labels, n_jobs)(n_iter=more)
            runs.append(time.perf_counter() - start)
        times.append(min(runs))
    return (times[1] - times[0]) / n_iter


def copy_seconds(proba):
    """Return the seconds of copying predictions and labels."""
    sources = proba, proba.copy()
    targets = np.zeros_like(proba), np.zeros_like(proba)
    runs = []
    for _ in range(20):
        start = time.perf_counter()
        for target, source in zip(targets, sources, strict=True):
            np.copyto(target, source)
        runs.append(time.perf_counter() - start)
    return min(runs)


def em_against_copy(n, n_clusters):
    """Compare an EM iteration with a copy of its arrays, and two threads with one."""
    for bias in BIASES:
        proba = draw_predictions(n, n_clusters, bias=bias, dtype=np.float32)
        one, two = em_seconds(proba), em_seconds(proba, n_jobs=2)
        copy = copy_seconds(proba)
        where = f"copy: {n} x {n_clusters}, bias {bias:g}, float32"
        text = f"EM iteration {1e3 * one:.3g} ms, copy {1e3 * copy:.3g} ms"
        report(f"{where}: {text}", one / copy, 6, at_most=True)
        report(f"{where}: two threads {1e3 * two:.3g} ms", one / two, 1.7)


def exact_training(path):
    """Compare a fit with exact pseudo-labels with one that takes EM's.

    The divergence says which: the forward one has the exact solver's.
    """
    if path is None:
        print("training: no --data, skipped")
        return
    with np.load(path) as file:
        X, y = normalize(file["X"].astype(np.float32)), file["y"]
    seconds = {}
    for divergence in ("reverse", "forward"):
        # The first fit of a process loads the compiled solvers; it is not timed.
        CollisionClusterer(2, divergence=divergence, n_init=1, max_iter=1, tol=1).fit(
            X[:40]
        )
        clusterer = CollisionClusterer(
            len(np.unique(y)), divergence=divergence, random_state=0
        )
        start = time.perf_counter()
        clusterer.fit(X)
        seconds[divergence] = time.perf_counter() - start
        print(
            f"training: {path.stem}, {divergence}: {seconds[divergence]:.3g} s, "
            f"{clusterer.n_iter_} epochs"
        )
    ratio = seconds["forward"] / seconds["reverse"]
    report("   exact against EM", ratio, 1.5, at_most=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["pgd", "em", "seconds", "conic", "copy", "training"]
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    parser.add_argument("--n", type=int, default=1000, help="other sizes go with it")
    parser.add_argument("--large-k", type=int, default=200, help="likewise")
    parser.add_argument("--max-seconds", type=float, default=60, help="for a rival")
    parser.add_argument("--data", type=Path, help="an .npz file with X and y")
    args = parser.parse_args()
    n, large_k, max_seconds = args.n, args.large_k, args.max_seconds
    if "pgd" in args.only:
        em_against_pgd(n, large_k, max_seconds)
    if "em" in args.only:
        exact_against_em(10 * n, 20, (0.4, 4, 100), 100, max_seconds)
        exact_against_em(10 * n, large_k, (0.4, 4), 50, max_seconds)
    if "seconds" in args.only:
        many = 5 * large_k
        sizes = (n, large_k), (10 * n, large_k), (n // 20, many), (2 * n, many)
        exact_in_seconds(dict(zip(sizes, (0.2, 2, 0.5, 10), strict=True)))
    if "conic" in args.only:
        exact_against_conic(n, max_seconds)
    if "copy" in args.only:
        em_against_copy(100 * n, 20)
        em_against_copy(100 * n, large_k)
    if "training" in args.only:
        exact_training(args.data)


if __name__ == "__main__":
    main()
