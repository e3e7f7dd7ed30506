"""Compare clusterers on data with known classes: accuracy, NMI, ARI and seconds.

    python examples/compare_on.py data.npz
    python examples/compare_on.py folder_of_npz_files --methods KMeans Ward

A file holds `X`, of shape (n_samples, ...), and `y`; or `X_train`, `y_train`, `X_test`
and `y_test`, of which --split chooses. uint8 is divided by 255, and float16 becomes
float32.
Every clusterer gets the same array and, of the classes, only their number. Forward is
CollisionClusterer with divergence="forward". UMAP+KMeans, UMAP+HDBSCAN and EVoC need
umap-learn and evoc; the last two find a number of their own, and what they leave out is
one more cluster here.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
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

from skcce import CollisionClusterer
from skcce.metrics import clustering_accuracy_score

SCORES = {
    "ACC": clustering_accuracy_score,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}


def gaussian_mixture(n_clusters, seed, n_features):
    """Full covariances where there are data enough for them, diagonal elsewhere."""
    kind = "full" if n_features <= 100 else "diag"
    return GaussianMixture(n_clusters, covariance_type=kind, random_state=seed)


def after_umap(clusterer, seed):
    """Cluster what UMAP makes of the rows, with the settings that suit clusters."""
    from umap import UMAP

    return make_pipeline(
        UMAP(n_components=5, min_dist=0.0, random_state=seed), clusterer
    )


def evoc(seed):
    from evoc import EVoC

    return make_pipeline(FunctionTransformer(np.float32), EVoC(random_state=seed))


METHODS = {
    "KMeans": lambda k, seed, d: KMeans(k, n_init=10, random_state=seed),
    "GaussianMixture": gaussian_mixture,
    "Ward": lambda k, seed, d: AgglomerativeClustering(k, linkage="ward"),
    "Spectral": lambda k, seed, d: SpectralClustering(
        k,
        affinity="nearest_neighbors",
        assign_labels="cluster_qr",
        random_state=seed,
    ),
    "CollisionClusterer": lambda k, seed, d: CollisionClusterer(k, random_state=seed),
    "Forward": lambda k, seed, d: CollisionClusterer(
        k, divergence="forward", random_state=seed
    ),
    "UMAP+KMeans": lambda k, seed, d: after_umap(
        KMeans(k, n_init=10, random_state=seed), seed
    ),
    "UMAP+HDBSCAN": lambda k, seed, d: after_umap(HDBSCAN(min_cluster_size=15), seed),
    "EVoC": lambda k, seed, d: evoc(seed),
}
DEFAULT_METHODS = ["KMeans", "GaussianMixture", "Ward", "CollisionClusterer"]
DETERMINISTIC = {"Ward"}


def compare(X, y, methods, n_seeds, progress):
    """Return {method: array of shape (n_runs, 4)}: ACC, NMI, ARI, seconds."""
    n_clusters = len(np.unique(y))
    # The first fit of a process loads the compiled solvers; it is not timed.
    for kind in ("reverse", "forward"):
        CollisionClusterer(2, divergence=kind, n_init=1, max_iter=1, tol=1).fit(X[:40])
    results = {}
    for method in methods:
        runs = []
        for seed in range(1 if method in DETERMINISTIC else n_seeds):
            progress.set_postfix_str(f"{method}, seed {seed}")
            clusterer = METHODS[method](n_clusters, seed, X.shape[1])
            start = time.perf_counter()
            labels = clusterer.fit_predict(X)
            seconds = time.perf_counter() - start
            runs.append([score(y, labels) for score in SCORES.values()] + [seconds])
            progress.update()
        results[method] = np.array(runs)
    return results


def print_table(name, X, y, results):
    """Print means and standard deviations over the seeds, and the time of a fit."""
    print(f"\n{name}: {X.shape[0]} x {X.shape[1]}, {len(np.unique(y))} clusters")
    heads = "".join(f"{score + ' %':>14}" for score in SCORES)
    print(f"{'':20}{heads}{'s':>8}{'/KMeans':>9}")
    for method, runs in results.items():
        mean, std = runs.mean(axis=0), runs.std(axis=0)
        cells = "".join(
            f"{100 * m:8.1f} ± {100 * s:3.1f}"
            for m, s in zip(mean[:-1], std[:-1], strict=True)
        )
        seconds = mean[-1]
        ratio = ""
        if "KMeans" in results:
            ratio = f"{seconds / results['KMeans'][:, -1].mean():9.2f}"
        print(f"{method:20}{cells}{seconds:8.2f}{ratio}")


def load(path, split):
    """Return X as a 2-D float array, and y; None if the file has no X and y."""
    with np.load(path) as file:
        if {"X", "y"} <= set(file.files):
            X, y = file["X"], file["y"]
        elif {"X_train", "y_train", "X_test", "y_test"} <= set(file.files):
            parts = ["train", "test"] if split == "all" else [split]
            X = np.concatenate([file[f"X_{part}"] for part in parts])
            y = np.concatenate([file[f"y_{part}"] for part in parts])
        else:
            return None
    X = X.reshape(len(X), -1)
    if X.dtype == np.uint8:
        X = X.astype(np.float32) / np.float32(255)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float32)
    return X, y


def add_options(parser):
    """Add what says how a file is read."""
    parser.add_argument("--split", default="test", choices=["train", "test", "all"])
    parser.add_argument(
        "--normalize", action="store_true", help="scale every row to length 1 first"
    )


def parse_and_load(parser):
    """Add an optional path to `parser`; return its arguments and the data, X and y."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", type=Path, nargs="?", help="an .npz file with X and y")
    add_options(parser)
    args = parser.parse_args()
    if args.path is None:
        return args, *load_digits(return_X_y=True)
    loaded = load(args.path, args.split)
    if loaded is None:
        parser.error(f"{args.path} has no X and y")
    X, y = loaded
    return args, normalize(X) if args.normalize else X, y


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="an .npz file, or a folder of them")
    add_options(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        default=DEFAULT_METHODS,
        help=f"of {', '.join(METHODS)}",
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    args = parser.parse_args()
    if not args.path.exists():
        parser.error(f"{args.path} does not exist")
    files = sorted(args.path.glob("*.npz")) if args.path.is_dir() else [args.path]
    if not files:
        parser.error(f"there is no .npz file in {args.path}")
    warnings.simplefilter("ignore")  # of the rivals, about convergence
    for path in files:
        loaded = load(path, args.split)
        if loaded is None:
            print(f"\n{path.name}: no X and y, skipped")
            continue
        X, y = loaded
        if args.normalize:
            X = normalize(X, copy=False)
        n_runs = sum(1 if m in DETERMINISTIC else args.seeds for m in args.methods)
        with tqdm(total=n_runs, desc=path.stem, leave=False) as progress:
            results = compare(X, y, args.methods, args.seeds, progress)
        print_table(path.stem, X, y, results)


if __name__ == "__main__":
    main()
