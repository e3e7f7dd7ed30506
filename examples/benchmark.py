r"""Clusterers side by side, on data with known classes: quality, time, memory, ranks.

    python examples/benchmark.py                      (the digits of scikit-learn)
    OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 \
        python examples/benchmark.py FOLDER --output results --limit 300

FOLDER holds .npz files (or is one), with `X`, of shape (n_samples, ...), and `y`; or
with `X_train`, `y_train`, `X_test` and `y_test`, of which --split chooses. The digits
are always there, too. Every method gets the same rows. uint8 is divided by 255, and
rows that only their rounding to float16 keeps from length 1 get length 1 again.

A panel is either the rows as they are ("balanced") or a long tail of them ("tail-10",
the largest class has 10 times the rows of the smallest; another tail for every seed),
and the methods are told the number of classes, or not ("-auto"), which only some can do
without. Rows that a method leaves out are one more cluster in the scores.

Settings are the defaults, but for what the libraries' guides say of clusters, and what
the data do not allow: KMeans has 10 starts, GaussianMixture diagonal covariances for
more than 100 columns, SpectralClustering a graph of neighbors, UMAP 5 components and
min_dist=0, HDBSCAN min_cluster_size=15. The extra `benchmark` installs UMAP, EVoC and
GemClus. Only if named: Forward, CollisionClusterer(divergence="forward"); MIGD-auto,
MIGDClusterer(prior="auto"), with the tree that CollisionClusterer has by default; RIM,
which is MIGD on the rows as they are, from one start, as that of GemClus is.

Each method has a process of its own for each panel and data set. It is warm before the
clock starts: a fit of few rows has compiled what it compiles. --limit holds for each
fit; after one that fails or takes longer, the other seeds are left out. MB is by how
much fit_predict raises the peak of the memory of its process (ru_maxrss) above what it
has with the data loaded, the most of the seeds. The peak is reset before, which only
Linux can do; elsewhere a higher peak from before may hide a part.

In the output folder are a JSON file for each run, which is not run again next time,
results.md, with a table of each panel, ari.png, with bars of the first one, and, if
KMeans is there, quality_and_time.png.
"""

import argparse
import json
import sys
import time
import warnings
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from data_sets import add_split, holds_classes, load, thin_out
from joblib import Parallel, delayed
from scipy.stats import rankdata, studentized_range
from sklearn.cluster import (
    HDBSCAN,
    AgglomerativeClustering,
    KMeans,
    SpectralClustering,
)
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, normalize
from tqdm.auto import tqdm

import skcce.methods
from skcce import CollisionClusterer
from skcce.metrics import clustering_accuracy_score

SCORES = {
    "ACC": clustering_accuracy_score,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}


def ours(name):
    """Return what makes the estimator of that name in skcce.methods."""
    return lambda k, seed, d: getattr(skcce.methods, name)(k, random_state=seed)


def gaussian_mixture(n_clusters, seed, n_features):
    kind = "full" if n_features <= 100 else "diag"
    return GaussianMixture(n_clusters, covariance_type=kind, random_state=seed)


def spectral(n_clusters, seed, n_features):
    return SpectralClustering(
        n_clusters,
        affinity="nearest_neighbors",
        assign_labels="cluster_qr",
        random_state=seed,
    )


def k_means(n_clusters, seed, n_features):
    return KMeans(n_clusters, n_init=10, random_state=seed)


def hdbscan(n_clusters, seed, n_features):
    return HDBSCAN(min_cluster_size=15)


def after_umap(method, n_clusters, seed, n_features):
    from umap import UMAP

    place = UMAP(n_components=5, min_dist=0.0, random_state=seed)
    return make_pipeline(place, method(n_clusters, seed, n_features))


def evoc(n_clusters, seed, n_features):
    from evoc import EVoC

    return make_pipeline(FunctionTransformer(np.float32), EVoC(random_state=seed))


def gemclus(name, n_clusters, seed, n_features):
    import gemclus.linear

    return getattr(gemclus.linear, name)(n_clusters, random_state=seed)


NUMBER_GIVEN = {
    "CollisionClusterer": lambda k, seed, d: CollisionClusterer(k, random_state=seed),
    "Forward": lambda k, seed, d: CollisionClusterer(
        k, divergence="forward", random_state=seed
    ),
    "RIM": lambda k, seed, d: skcce.methods.MIGDClusterer(
        k, features=None, n_neighbors=0, n_init=1, random_state=seed
    ),
    "MIGD-auto": lambda k, seed, d: skcce.methods.MIGDClusterer(
        k, prior="auto", random_state=seed
    ),
    "MIGD": ours("MIGDClusterer"),
    "SeLa": ours("SeLaClusterer"),
    "MIADM": ours("MIADMClusterer"),
    "IMSAT": ours("IMSATClusterer"),
    "IIC": ours("IICClusterer"),
    "SCAN": ours("SCANClusterer"),
    "KMeans": k_means,
    "GaussianMixture": gaussian_mixture,
    "Ward": lambda k, seed, d: AgglomerativeClustering(k, linkage="ward"),
    "Spectral": spectral,
    "UMAP+KMeans": partial(after_umap, k_means),
    "GemClus-RIM": partial(gemclus, "RIM"),
    "GemClus-LinearMMD": partial(gemclus, "LinearMMD"),
}
NUMBER_UNKNOWN = {
    "CollisionClusterer": lambda k, seed, d: CollisionClusterer(
        "auto", random_state=seed
    ),
    "HDBSCAN": hdbscan,
    "UMAP+HDBSCAN": partial(after_umap, hdbscan),
    "EVoC": evoc,
}
METHODS = NUMBER_GIVEN | NUMBER_UNKNOWN
NEEDS = {
    "UMAP+KMeans": "umap",
    "UMAP+HDBSCAN": "umap",
    "EVoC": "evoc",
    "GemClus-RIM": "gemclus",
    "GemClus-LinearMMD": "gemclus",
}
DETERMINISTIC = {"Ward", "HDBSCAN"}
IF_NAMED = ("Forward", "MIGD-auto", "RIM")
PANELS = {  # ratio of the largest class to the smallest, and the methods
    "balanced": (1, NUMBER_GIVEN),
    "tail-10": (10, NUMBER_GIVEN),
    "tail-100": (100, NUMBER_GIVEN),
    "balanced-auto": (1, NUMBER_UNKNOWN),
    "tail-10-auto": (10, NUMBER_UNKNOWN),
    "tail-100-auto": (100, NUMBER_UNKNOWN),
}
WARM_UP_LIMIT = 600  # seconds: some compile for a minute


def read(path, split, max_rows):
    """Return the rows and classes of a file, or the digits; at most so many, drawn."""
    X, y = load_digits(return_X_y=True) if path is None else load(path, split)
    if np.allclose(np.linalg.norm(X, axis=1), 1, rtol=0, atol=1e-3):
        X = normalize(X)
    if max_rows is not None and len(X) > max_rows:
        rows = np.random.default_rng(0).permutation(len(X))[:max_rows]
        X, y = X[rows], y[rows]
    return X, y


def measure(make, X, y, seed):
    """Fit what `make` makes; return its scores, how long it took and what memory."""
    clusterer = make(len(np.unique(y)), seed, X.shape[1])
    before, start = reset_peak(), time.perf_counter()
    labels = np.asarray(clusterer.fit_predict(X))
    seconds, memory = time.perf_counter() - start, peak() - before
    return {
        "rows": len(X),
        "columns": X.shape[1],
        "classes": len(np.unique(y)),
        "clusters": len(np.unique(labels[labels >= 0])),
        **{name: 100 * score(y, labels) for name, score in SCORES.items()},
        "coverage": 100 * np.mean(labels >= 0),
        "seconds": seconds,
        "MB": memory,
    }


def warm_up(method, make, X):
    """Fit few rows, so that what a fit compiles is compiled."""
    # Beyond 4,096 rows UMAP runs other code.
    large = NEEDS.get(method) == "umap" and len(X) > 4096
    with suppress(Exception):  # so few rows prove nothing
        n_rows = 4100 if large else 40
        rows = np.random.default_rng(0).permutation(len(X))[:n_rows]
        make(2, 0, X.shape[1]).fit_predict(X[rows])


def reset_peak():
    """Return the peak of this process's memory, in MB, after a reset if possible."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak():
    """Return the most memory that this process has had, in MB."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return np.nan
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def fit_all(pipe, source, panel, method, seeds):
    """Send {} when all is warm, then what is measured for each seed, or the error."""
    warnings.simplefilter("ignore")  # of convergence, and the like
    ratio, methods = PANELS[panel]
    try:
        X, y = read(*source)
        warm_up(method, methods[method], X)
        pipe.send({})
        for seed in seeds:
            rows, classes = (X, y) if ratio == 1 else thin_out(X, y, ratio, seed)[:2]
            pipe.send(measure(methods[method], rows, classes, seed))
    except Exception as error:
        pipe.send({"error": f"{type(error).__name__}: {error}"})


def run_apart(source, panel, method, seeds, limit):
    """Yield the outcome for each seed; a failure, or too long a fit, is the last."""
    # The imports are done once; that of UMAP starts threads, which no fork survives.
    context = get_context("forkserver")
    context.set_forkserver_preload(["skcce.methods", "sklearn.cluster"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=fit_all, args=(there, source, panel, method, seeds)
    )
    process.start()
    there.close()
    try:
        for seconds in [WARM_UP_LIMIT] + len(seeds) * [limit]:
            if not here.poll(seconds):
                yield {"error": f"> {seconds:g} s", "limit": limit}
                return
            outcome = here.recv()
            if outcome:
                yield outcome
            if "error" in outcome:
                return
        process.join(10)
    except EOFError:
        yield {"error": "its process died"}
    finally:
        process.kill()
        process.join()


def seeds_of(panel, method, n_seeds):
    """Return the seeds; a method without chance needs one, for always the same rows."""
    once = PANELS[panel][0] == 1 and method in DETERMINISTIC
    return range(1 if once else n_seeds)


def run_cell(cell, source, args, progress):
    """Run what is not yet in the output folder; return the outcomes for all seeds."""
    name, panel, method = cell
    seeds = seeds_of(panel, method, args.seeds)
    if not find_spec(NEEDS.get(method, "skcce")):
        progress.update(len(seeds))
        return [{"error": "not installed"}]
    files = {
        seed: args.output / "runs" / f"{name}--{panel}--{method}--{seed}.json"
        for seed in seeds
    }
    outcomes = {
        seed: json.loads(path.read_text())
        for seed, path in files.items()
        if path.exists()
    }
    for seed, outcome in list(outcomes.items()):
        if outcome.get("limit", args.limit) < args.limit:
            del outcomes[seed]  # it has more time now
    missing = [seed for seed in seeds if seed not in outcomes]
    if missing and not any("error" in outcome for outcome in outcomes.values()):
        progress.set_postfix_str(" ".join(cell))
        results = run_apart(source, panel, method, missing, args.limit)
        # The results come first, or nobody would see them end.
        for outcome, seed in zip(results, missing, strict=False):
            outcomes[seed] = outcome
            write(files[seed], json.dumps(outcome, indent=1))
            progress.update("error" not in outcome)
    done = sum("error" not in outcome for outcome in outcomes.values())
    progress.update(len(seeds) - done)
    return list(outcomes.values())


def write(path, text):
    """Write a file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def failure(outcomes):
    """Return what went wrong with a method, in short, or None."""
    errors = [outcome["error"] for outcome in outcomes if "error" in outcome]
    if not errors:
        return None
    line = " ".join(errors[0].split())
    return line if len(line) <= 60 else line[:59] + "…"


def mean(outcomes, name):
    """Return the mean of a figure over the seeds; nan if a fit failed."""
    if failure(outcomes):
        return np.nan
    return np.mean([outcome[name] for outcome in outcomes])


def mean_and_std(outcomes, name):
    """Return "mean ± std" over the seeds, or the mean alone if there is one seed."""
    values = [outcome[name] for outcome in outcomes]
    spread = f" ± {np.std(values):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"


def critical_difference(n_methods, n_data_sets, alpha=0.05):
    """Return by how much two mean ranks have to differ: Nemenyi's test, Demšar 2006."""
    q = studentized_range.isf(alpha, n_methods, np.inf) / np.sqrt(2)
    return q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_data_sets))


def mean_ranks(scores):
    """Return the mean rank of each column; 1 is the highest score, nan shares the last.

    `scores` is of shape (n_data_sets, n_methods).
    """
    return rankdata(-np.nan_to_num(scores, nan=-np.inf), axis=1).mean(axis=0)


def relative_time(runs, panel, names, method):
    """Return the time of a fit, that of KMeans on the same rows being 1.

    The geometric mean of the data sets, without those where one of the two failed.
    """
    ratio = PANELS[panel][0]
    (given,) = (p for p, (r, m) in PANELS.items() if r == ratio and m is NUMBER_GIVEN)
    ratios = [
        mean(runs[name, panel, method], "seconds")
        / mean(runs[name, given, "KMeans"], "seconds")
        for name in names
        if (name, given, "KMeans") in runs
    ]
    ratios = np.array([value for value in ratios if np.isfinite(value)])
    return np.exp(np.log(ratios).mean()) if len(ratios) else np.nan


def table(heads, rows):
    """Return a Markdown table, with columns of even width."""
    rows = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def details(runs):
    """Return a table of all figures, for {(method, ...): outcomes}."""
    figures = [*SCORES, "coverage"]
    heads = ["", *(f"{name} %" for name in figures), "clusters", "s", "MB"]
    rows = []
    for label, outcomes in runs.items():
        if failed := failure(outcomes):
            rows.append([label, failed, *[""] * (len(heads) - 2)])
            continue
        found = sorted(outcome["clusters"] for outcome in outcomes)
        rows.append(
            [
                label,
                *(mean_and_std(outcomes, name) for name in figures),
                "-".join(map(str, sorted({found[0], found[-1]}))),
                f"{mean(outcomes, 'seconds'):.2f}",
                f"{max(outcome['MB'] for outcome in outcomes):.0f}",
            ]
        )
    return table(heads, rows)


def rank(runs, cells, methods):
    """Return the mean rank by ARI of each installed method, and what they may differ.

    `cells` are pairs of a data set and a panel. The second is nan for one data set,
    which tells nothing of others, or one method.
    """
    there = [m for m in methods if failure(runs[*cells[0], m]) != "not installed"]
    if len(there) < 2:
        return dict.fromkeys(there, 1.0), np.nan
    ari = np.array([[mean(runs[*cell, m], "ARI") for m in there] for cell in cells])
    ranks = dict(zip(there, mean_ranks(ari), strict=True))
    if len({name for name, _ in cells}) < 2:
        return ranks, np.nan
    return ranks, critical_difference(len(there), len(cells))


def overview(runs, panel, names, methods):
    """Return a table: the ARI of each method on each data set, its rank, its time."""
    ranks, difference = rank(runs, [(name, panel) for name in names], methods)
    rows = []
    for method in sorted(methods, key=lambda m: ranks.get(m, np.inf)):
        cells = [runs[name, panel, method] for name in names]
        times = relative_time(runs, panel, names, method)
        rows.append(
            [
                method,
                f"{ranks[method]:.2f}" if method in ranks else "",
                *(failure(cell) or mean_and_std(cell, "ARI") for cell in cells),
                f"{times:.2g}" if np.isfinite(times) else "",
            ]
        )
    heads = ["", "mean rank", *(f"{name}, ARI %" for name in names), "x KMeans"]
    text = table(heads, rows)
    if np.isfinite(difference):
        text += f"\n\nCritical difference of ranks: {difference:.2f}."
    return text


def all_ranks(runs, panels, names, methods):
    """Return a table: the mean rank of each method in each panel, and in all."""
    groups = {panel: [(name, panel) for name in names] for panel in panels}
    groups["all"] = [cell for cells in groups.values() for cell in cells]
    results = {title: rank(runs, cells, methods) for title, cells in groups.items()}
    ranks, _ = results["all"]
    rows = [
        [method, *(f"{ranks[method]:.2f}" for ranks, _ in results.values())]
        for method in sorted(ranks, key=ranks.get)
    ]
    differences = [cd for _, cd in results.values()]
    if np.isfinite(differences).any():
        texts = [f"{cd:.2f}" if np.isfinite(cd) else "" for cd in differences]
        rows.append(["critical difference", *texts])
    return table(["mean rank by ARI", *results], rows)


def report(runs, panels, names, methods):
    """Return all tables as Markdown."""
    parts = []
    for title, of_all in (("given", NUMBER_GIVEN), ("unknown", NUMBER_UNKNOWN)):
        here = [method for method in methods if method in of_all]
        those = [panel for panel in panels if PANELS[panel][1] is of_all]
        if not (here and those):
            continue
        parts += [f"## Number {title}", all_ranks(runs, those, names, here)]
        for panel in those:
            parts += [f"### {panel}", overview(runs, panel, names, here)]
            for name in names:
                cells = {method: runs[name, panel, method] for method in here}
                parts += [f"#### {panel}: {name}{size(cells)}", details(cells)]
    return "\n\n".join(parts) + "\n"


def size(cells):
    """Return how many rows, columns and classes the data of these outcomes have."""
    for outcomes in cells.values():
        for outcome in outcomes:
            if "rows" in outcome:
                shape = f"{outcome['rows']:,} x {outcome['columns']}"
                return f", {shape}, {outcome['classes']} classes"
    return ""


def draw_bars(runs, panel, names, methods, path):
    """Draw the mean ARI of each method on each data set, to be read on a phone."""
    import matplotlib.pyplot as plt

    height = 0.8 / len(methods)
    size = 7, 0.6 + len(names) * (0.4 + 0.28 * len(methods))
    figure, ax = plt.subplots(figsize=size, layout="constrained")
    for i, method in enumerate(methods):
        quality = [mean(runs[name, panel, method], "ARI") for name in names]
        bars = ax.barh(
            np.arange(len(names)) + i * height, quality, height, label=method
        )
        ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=13)
    labels = [name.partition("_")[0] for name in names]
    ax.set_yticks(np.arange(len(names)) + 0.4 - height / 2, labels, fontsize=15)
    ax.tick_params(axis="y", length=0)
    ax.set(xticks=[], xlim=(0, 100))
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, fontsize=14, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw(runs, panels, names, methods, path):
    """Draw the mean ARI against the time, of methods that ran on all the data sets."""
    import matplotlib.pyplot as plt

    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure, axes = plt.subplots(
        n_rows,
        n_columns,
        figsize=(1.5 + 3.5 * n_columns, 0.6 + 3.2 * n_rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    colors = plt.get_cmap("tab20").colors
    handles = {}
    for ax, panel in zip(axes.flat, panels, strict=False):
        for i, method in enumerate(methods):
            if method not in PANELS[panel][1]:
                continue
            quality = np.mean([mean(runs[n, panel, method], "ARI") for n in names])
            times = relative_time(runs, panel, names, method)
            if np.isnan([quality, times]).any():
                continue
            handles[method] = ax.scatter(
                times,
                quality,
                color=colors[i % len(colors)],
                marker="osD^vP*"[i % 7],
                s=45,
            )
        ax.set(title=panel, xscale="log")
        ax.grid(alpha=0.3)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    figure.supxlabel("seconds of a fit, relative to KMeans")
    figure.supylabel("mean ARI, %")
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "path", type=Path, nargs="?", help="a folder of .npz files, or one of them"
    )
    add_split(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        default=[method for method in METHODS if method not in IF_NAMED],
        help=f"of {', '.join(METHODS)}; without it all but {', '.join(IF_NAMED)}",
    )
    parser.add_argument(
        "--panels",
        nargs="+",
        choices=PANELS,
        metavar="PANEL",
        default=list(PANELS),
        help=f"of {', '.join(PANELS)}; without it all",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument(
        "--max-rows", type=int, help="take so many rows of each data set, at random"
    )
    parser.add_argument("--limit", type=float, default=600, help="seconds, of a fit")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes at once; times are fair with 1"
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    args = parser.parse_args()
    if args.path is not None and not args.path.exists():
        parser.error(f"{args.path} does not exist")
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {args.seeds}")
    (args.output / "runs").mkdir(parents=True, exist_ok=True)
    settings = {"split": args.split, "max_rows": args.max_rows}
    file = args.output / "settings.json"
    if file.exists() and json.loads(file.read_text()) != settings:
        parser.error(
            f"{args.output} holds runs with {file.read_text()}, not {settings}; "
            "choose another --output"
        )
    write(file, json.dumps(settings))
    return args


def main():
    import matplotlib

    args = parse_arguments()
    sources = {"digits": None}
    if args.path is not None:
        files = sorted(args.path.glob("*.npz")) if args.path.is_dir() else [args.path]
        sources |= {path.stem: path for path in files if holds_classes(path)}
        for path in files:
            if path.stem not in sources:
                print(f"{path.name}: no X and y, skipped")
    cells = [
        (name, panel, method)
        for name in sources
        for panel in args.panels
        for method in args.methods
        if method in PANELS[panel][1]
    ]
    n_runs = sum(len(seeds_of(*cell[1:], args.seeds)) for cell in cells)
    with tqdm(total=n_runs) as progress:
        outcomes = Parallel(args.jobs, backend="threading")(
            delayed(run_cell)(
                cell, (sources[cell[0]], args.split, args.max_rows), args, progress
            )
            for cell in cells
        )
    runs = dict(zip(cells, outcomes, strict=True))
    text = report(runs, args.panels, list(sources), args.methods)
    print(text)
    write(args.output / "results.md", text)
    matplotlib.use("Agg")
    first = [m for m in args.methods if m in PANELS[args.panels[0]][1]]
    draw_bars(runs, args.panels[0], list(sources), first, args.output / "ari.png")
    picture = args.output / "quality_and_time.png"
    if "KMeans" in args.methods:
        draw(runs, args.panels, list(sources), args.methods, picture)
    else:
        print(f"No {picture}: its times are relative to those of KMeans.")


if __name__ == "__main__":
    main()
