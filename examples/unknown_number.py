"""Clusters of unknown number: how many are found, and how good they are.

    python examples/unknown_number.py               (the digits of scikit-learn)
    python examples/unknown_number.py data.npz --normalize

Twice: with all rows, and thinned out, so that the largest class is --ratio times the
smallest. HDBSCAN and, if umap-learn and evoc are installed, UMAP+HDBSCAN and EVoC leave
rows out. ARI is that of all rows, of which those left out are one more cluster; then
come the share of the rows that have a cluster, the ARI of these, and that of as many
rows about which CollisionClusterer is the most certain. Means over the seeds.
"""

import argparse
import time
import warnings
from importlib.util import find_spec

import numpy as np
from benchmark import NEEDS, NUMBER_UNKNOWN
from data_sets import parse_and_load, thin_out
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from skcce import CollisionClusterer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--ratio", type=float, default=20.0, help="largest to smallest")
    args, X, y = parse_and_load(parser)
    warnings.simplefilter("ignore")  # of the rivals
    for title in ("all rows", "thinned out"):
        rows = {}
        for seed in tqdm(range(args.seeds), leave=False):
            part, classes = X, y
            if title == "thinned out":
                part, classes, _ = thin_out(X, y, args.ratio, seed)
            for name, row in run(part, classes, seed).items():
                rows.setdefault(name, []).append(row)
        print_table(f"{title}, {len(np.unique(y))} classes", rows)


def run(X, y, seed):
    """Return, for each method, a number of clusters, ARIs, a share, and seconds."""
    known = CollisionClusterer(len(np.unique(y)), random_state=seed)
    ours = CollisionClusterer("auto", random_state=seed)
    clusterers = {
        "CollisionClusterer": ours,
        "  number known": known,
        "HDBSCAN": HDBSCAN(min_cluster_size=15),
        **{
            name: NUMBER_UNKNOWN[name](None, seed, X.shape[1])
            for name in ("UMAP+HDBSCAN", "EVoC")
            if find_spec(NEEDS[name])
        },
    }
    results = {}
    for name, clusterer in clusterers.items():
        start = time.perf_counter()
        labels = clusterer.fit_predict(X)
        seconds = time.perf_counter() - start
        has_one = labels >= 0
        surest = np.argsort(-ours.probabilities_, kind="stable")[: has_one.sum()]
        results[name] = [
            len(np.unique(labels[has_one])),
            100 * adjusted_rand_score(y, labels),
            100 * has_one.mean(),
            100 * adjusted_rand_score(y[has_one], labels[has_one]),
            100 * adjusted_rand_score(y[surest], ours.labels_[surest]),
            seconds,
        ]
    return results


def print_table(title, rows):
    """Print the least and the largest number of clusters, and means of the rest."""
    print(f"\n{title}")
    heads = ["ARI %", "rows %", "their ARI", "ours", "s"]
    print(f"{'':20}{'clusters':>10}" + "".join(f"{head:>11}" for head in heads))
    for name, runs in rows.items():
        low, high = (int(bound(runs, axis=0)[0]) for bound in (np.min, np.max))
        found = f"{low}" if low == high else f"{low}-{high}"
        cells = "".join(f"{mean:11.1f}" for mean in np.mean(runs, axis=0)[1:])
        print(f"{name:20}{found:>10}{cells}")


if __name__ == "__main__":
    main()
