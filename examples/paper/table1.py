"""Table 1 of the paper: projected gradient descent, EM, and the exact solver.

    OMP_NUM_THREADS=1 python examples/paper/reproduce.py table1 --picture gap.png

The predictions are softmax(std * Gaussian noise), another draw for each run; with
--bias 1.5 they are skewed, as N(0, 1.5^2) is added to the logits of each cluster. All
solvers start from scratch and stop at the same relative duality gap, at most --tol. The
looks at the gap of PGD and EM are not in their times; the exact solver's are. The steps
of PGD are the paper's, and the fastest constant one. The paper does not say how its
predictions were made, when a solver had converged, or on what machine.
"""

from functools import partial
from pathlib import Path

import numpy as np
import runs
from published import TABLE1
from timing import (
    best_step,
    descend,
    draw_predictions,
    fastest,
    paper_steps,
    solve_exactly,
)

SOLVERS = ("PGD(eta1)", "PGD(eta2)", "PGD(eta3)", "PGD (best)", "EM", "exact")
SCORES = ("s/iteration", "iterations", "seconds")
STYLES = [  # Okabe and Ito's colors, which the color-blind can tell apart
    ("#56b4e9", "-"),
    ("#0072b2", "-"),
    ("#009e73", "-"),
    ("#e69f00", "--"),
    ("#d55e00", "-"),
    ("black", "-o"),
]


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table1")
    add("--n", type=int, default=1000, help="number of samples")
    add("--clusters", type=int, nargs="+", default=[2, 20, 200])
    add("--lam", type=float, default=0.4)
    add("--std", type=float, default=3.0, help="of the logits")
    add("--bias", type=float, default=0.0, help="std of the clusters'")
    add("--tol", type=float, default=1e-4, help="relative duality gap")
    add("--max-seconds", type=float, default=60, help="for a solver")
    add("--picture", type=Path, help="draw gap against time there")


def predictions(args, n_clusters, seed):
    """Return the predictions of a run."""
    return draw_predictions(args.n, n_clusters, std=args.std, bias=args.bias, seed=seed)


def run(args, data, cell, checkpoint):
    """Run one solver, and return what it took."""
    n_clusters = int(cell.column)
    proba = predictions(args, n_clusters, cell.seed)
    limits = {"lam": args.lam, "tol": args.tol}
    steps = dict(zip(SOLVERS, paper_steps(n_clusters), strict=False))
    step = steps.get(cell.row)
    if cell.row == "exact":
        trace = fastest(partial(solve_exactly, proba, **limits))
    elif cell.row == "PGD (best)":
        step, trace = best_step(proba, **limits, max_seconds=args.max_seconds, tried={})
    else:
        limits["max_seconds"] = args.max_seconds
        trace = fastest(partial(descend, proba, **limits, step_size=step))
    n_iter, seconds, gap = map(float, trace[-1])
    result = {
        "s/iteration": seconds / max(n_iter, 1),
        "iterations": n_iter,
        "seconds": seconds,
        "gap": gap,
    }
    if step is not None:
        result["step"] = step
    if gap > args.tol:
        result["remark"] = "diverges" if gap >= 0.1 else "is not there yet"
    return result


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


def draw(traces, title, path):
    """Draw gap against time; traces : {K: {label: trace}}."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(4.4 * len(traces), 4.8), layout="constrained")
    panels = figure.subplots(1, len(traces), sharey=True, squeeze=False)[0]
    for ax, (n_clusters, lines) in zip(panels, traces.items(), strict=True):
        for (color, style), label in zip(STYLES, lines, strict=True):
            _, seconds, gap = lines[label].T
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


def main(args):
    """Run and report."""
    columns = [str(n_clusters) for n_clusters in args.clusters]
    results = runs.reproduce(
        args,
        f"Table 1, n = {args.n}, lam = {args.lam:g}, std {args.std:g}, bias "
        f"{args.bias:g}, relative gap {args.tol:g}",
        SOLVERS,
        columns,
        lambda args, column: None,
        run,
        TABLE1,
        SCORES,
        form=short,
        by_score=True,
    )
    if args.picture:
        best = {
            cell.column: result["step"]
            for cell, result in results.items()
            if cell.row == "PGD (best)" and cell.seed == 0
        }
        traces = {
            k: trace_all(
                predictions(args, k, 0), args.lam, best[str(k)], args.max_seconds
            )
            for k in args.clusters
        }
        title = f"Distance from the optimum: n = {args.n}, λ = {args.lam:g}"
        title += f", bias {args.bias:g}" * (args.bias > 0)
        draw(traces, title, args.picture)
        print(f"The picture is in {args.picture}")


def short(mean, std):
    """Return the text of a number of seconds or iterations."""
    return f"{mean:.3g}" if std is None else f"{mean:.3g} ({std:.1g})"
