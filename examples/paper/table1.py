"""Table 1 of the paper: projected gradient descent, EM, and the exact solver.

    OMP_NUM_THREADS=1 python examples/paper/table1.py --picture gap.png

The predictions are softmax(std * Gaussian noise); with --bias 1.5 they are skewed, as
N(0, 1.5^2) is added to the logits of each cluster. All solvers start from scratch and
stop at the same relative duality gap. The paper's own figures stand below ours; it does
not say how its predictions were made, when a solver had converged, or on what machine.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from timing import (
    best_step,
    descend,
    draw_predictions,
    fastest,
    paper_steps,
    solve_exactly,
)

PAPER = {  # {row: (seconds per iteration, iterations, seconds), each for these K}
    "K": (2, 20, 200),
    "PGD(eta1)": ((7.8e-4, 2.9e-3, 6.7e-2), (326, 742, 540), (0.25, 2.20, 36.25)),
    "PGD(eta2)": ((9.3e-4, 3.3e-3, 6.8e-2), (101, 468, 344), (0.09, 1.55, 23.35)),
    "PGD(eta3)": ((9.9e-4, 3.2e-3, 7.0e-2), (24, 202, 180), (0.02, 0.65, 12.60)),
    "EM": ((1.8e-3, 1.6e-3, 5.1e-3), (25, 53, 71), (0.04, 0.09, 0.36)),
}
STYLES = [  # Okabe and Ito's colors, which the color-blind can tell apart
    ("#56b4e9", "-"),
    ("#0072b2", "-"),
    ("#009e73", "-"),
    ("#e69f00", "--"),
    ("#d55e00", "-"),
    ("black", "-o"),
]


def run_all(proba, lam, tol, max_seconds):
    """Return {row of the table: trace}, and the best step of PGD."""
    run = partial(descend, proba, lam, tol, max_seconds)
    tried = {step: fastest(partial(run, step)) for step in paper_steps(proba.shape[1])}
    rows = {f"PGD(eta{i})": trace for i, trace in enumerate(tried.values(), 1)}
    step, trace = best_step(proba, lam, tol, max_seconds, tried)
    rows["PGD (best)"] = trace
    rows["EM"] = fastest(run)
    rows["exact"] = fastest(partial(solve_exactly, proba, lam, tol))
    return rows, step


def print_table(results, tol):
    """Print the paper's table, and remarks on who did not arrive.

    results : {K: {row: trace}}
    """
    groups = ["seconds/iteration", "iterations", "seconds to the end"]
    width = max(9 * len(results), 18)
    print(f"\n{'':12}" + "".join(f" |{group:^{width}}" for group in groups))
    print_row("K", {k: [k] * 3 for k in results})
    remarks = []
    for row in next(iter(results.values())):
        ours = {}
        for n_clusters, rows in results.items():
            n_iter, seconds, gap = rows[row][-1]
            more = "" if gap <= tol else ">"
            ours[n_clusters] = (
                f"{seconds / max(n_iter, 1):.1e}",
                f"{more}{n_iter:.0f}",
                f"{more}{seconds:.2g}",
            )
            if more:
                kind = "diverges" if gap >= 0.1 else "not yet there"
                remarks.append(f"{row}, K = {n_clusters}: {kind}, gap {gap:.1e}")
        print_row(row, ours)
        if row in PAPER:
            paper = dict(zip(PAPER["K"], zip(*PAPER[row], strict=True), strict=True))
            theirs = {k: map("{:g}".format, paper.get(k, ())) for k in results}
            print_row(
                "    paper", {k: [*cells] or "---" for k, cells in theirs.items()}
            )
    print("\n".join(["", *remarks]))


def print_row(name, cells):
    """Print a row; cells : {K: three strings}."""
    groups = ("".join(f"{c[i]:>9}" for c in cells.values()) for i in range(3))
    print(f"{name:12}" + "".join(f" |{group:>18}" for group in groups))


def trace_all(proba, lam, step, max_seconds):
    """Return {label: trace} down to a gap of 1e-10; `step` is the best one of PGD."""
    steps = {f"PGD, η = {eta:g}": eta for eta in paper_steps(proba.shape[1])}
    steps[f"PGD, best: η = {step:g}"] = step
    traces = {}
    for label, step_size in {**steps, "EM": None}.items():
        trace = descend(proba, lam, 1e-10, max_seconds, step_size)
        label += " (diverges)" if trace[-1, 2] >= 0.1 else ""
        trace[0, 1] = trace[1, 1]  # the start, as the logarithm of time has no zero
        traces[label] = trace
    tols = 10.0 ** -np.arange(1, 11)
    runs = [fastest(partial(solve_exactly, proba, lam, tol), 0.1) for tol in tols]
    traces["exact (interior point)"] = np.concatenate(runs)
    return traces


def draw(results, title, path):
    """Draw gap against time; results : {K: {label: trace}}."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(4.4 * len(results), 4.8), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for ax, (n_clusters, traces) in zip(panels, results.items(), strict=True):
        for (color, style), label in zip(STYLES, traces, strict=True):
            _, seconds, gap = traces[label].T
            ax.plot(seconds, gap, style, color=color, lw=2, ms=5, label=label)
        ax.set(xscale="log", yscale="log", title=f"K = {n_clusters}", xlabel="seconds")
        ax.set_ylim(3e-11, 3)
        ax.grid(alpha=0.3)
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False
        )
    panels[0].set_ylabel("duality gap / max(1, loss)")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="number of samples")
    parser.add_argument("--clusters", type=int, nargs="+", default=[2, 20, 200])
    parser.add_argument("--lam", type=float, default=0.4)
    parser.add_argument("--std", type=float, default=3.0, help="of the logits")
    parser.add_argument("--bias", type=float, default=0.0, help="std of the clusters'")
    parser.add_argument("--tol", type=float, default=1e-4, help="relative duality gap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-seconds", type=float, default=60, help="for a solver")
    parser.add_argument("--picture", type=Path, help="draw gap against time there")
    args = parser.parse_args()
    print(f"n = {args.n}, lam = {args.lam:g}, float64; ", end="")
    print(f"logits of std {args.std:g}, of the clusters' bias {args.bias:g}.")
    print(
        f"Stop: duality gap <= {args.tol:g} * max(1, loss), the same for all solvers."
    )
    print("The looks at the gap of PGD and EM are not in their times; exact's are.")
    results, traces = {}, {}
    for n_clusters in args.clusters:
        proba = draw_predictions(
            args.n, n_clusters, std=args.std, bias=args.bias, seed=args.seed
        )
        rows, step = run_all(proba, args.lam, args.tol, args.max_seconds)
        results[n_clusters] = rows
        print(
            f"K = {n_clusters}: eta 1-3 are {paper_steps(n_clusters)}, best is {step}"
        )
        if args.picture:
            traces[n_clusters] = trace_all(proba, args.lam, step, args.max_seconds)
    print_table(results, args.tol)
    if args.picture:
        title = f"Distance from the optimum: n = {args.n}, λ = {args.lam:g}"
        title += f", bias {args.bias:g}" * (args.bias > 0)
        draw(traces, title, args.picture)
        print(f"The picture is in {args.picture}")


if __name__ == "__main__":
    main()
