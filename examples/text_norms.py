"""Embeddings whose lengths vary: CollisionClusterer beside k-means.

    python examples/text_norms.py --data FOLDER

FOLDER holds stackoverflow_minilm.npz: embeddings of 20,000 titles of questions from 20
topics. Each row gets length 1, and then a random one, log-normal with --spread as the
standard deviation of its logarithm: at 0.5, one row in three is more than 1.6 times as
long or as short as the median. Both methods get the number of topics.

Besides the adjusted Rand index: the share of the rows in the largest cluster, and how
many of the 10 nearest neighbors of a row are of its topic. Means over the seeds.
"""

import argparse
from pathlib import Path

import numpy as np
from data_sets import load
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from skcce import CollisionClusterer

METHODS = {
    "KMeans(n_init=10)": lambda k, seed: KMeans(k, n_init=10, random_state=seed),
    "CollisionClusterer": lambda k, seed: CollisionClusterer(k, random_state=seed),
}
PROBES = 2000


def with_lengths(X, spread, rng):
    """Return the rows in random lengths, whose median is 1."""
    lengths = np.exp(spread * rng.standard_normal(len(X)))
    return normalize(X) * lengths.astype(X.dtype)[:, np.newaxis]


def neighbors_of_own(X, y, rng):
    """Return the part of the 10 nearest neighbors that is of the row's own topic."""
    probes = rng.permutation(len(X))[:PROBES]
    search = NearestNeighbors(n_neighbors=11, algorithm="brute").fit(X)
    nearest = search.kneighbors(X[probes], return_distance=False)[:, 1:]
    return (y[nearest] == y[probes, np.newaxis]).mean()


def measure(method, X, y, seed):
    """Return the ARI of a fit, and the share of the rows in its largest cluster."""
    labels = METHODS[method](len(np.unique(y)), seed).fit_predict(X)
    return adjusted_rand_score(y, labels), np.bincount(labels).max() / len(labels)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of stackoverflow_minilm.npz")
    add("--spreads", type=float, nargs="+", default=[0, 0.25, 0.5, 1])
    add("--rows", type=int, help="so many rows, drawn at random; all if not given")
    add("--seeds", type=int, default=2, help="number of runs")
    args = parser.parse_args()
    X, y = load(args.data / "stackoverflow_minilm.npz")
    drawn = np.random.default_rng(0).permutation(len(X))[: args.rows]
    X, y = X[drawn], y[drawn]
    print(f"{'':14}{'neighbors':>10}" + "".join(f"{name:>26}" for name in METHODS))
    print(f"{'spread':14}{'of own, %':>10}" + f"{'ARI, %   largest, %':>26}" * 2)
    runs = tqdm(total=len(args.spreads) * args.seeds * len(METHODS), leave=False)
    for spread in args.spreads:
        rows = []
        for seed in range(args.seeds):
            rng = np.random.default_rng(seed)
            scaled = with_lengths(X, spread, rng)
            row = [neighbors_of_own(scaled, y, rng)]
            for method in METHODS:
                row.extend(measure(method, scaled, y, seed))
                runs.update()
            rows.append(row)
        near, *scores = 100 * np.mean(rows, axis=0)
        cells = "".join(
            f"{ari:13.1f}{largest:13.1f}"
            for ari, largest in zip(scores[::2], scores[1::2], strict=True)
        )
        runs.write(f"{spread:<14g}{near:10.1f}{cells}")
    runs.close()


if __name__ == "__main__":
    main()
