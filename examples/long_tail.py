"""Clusters of very different sizes: what the tree, lam and prior do.

    python examples/long_tail.py               (the digits of scikit-learn)
    python examples/long_tail.py data.npz --normalize

Thins the classes out, so that the largest is --ratio times the smallest, five times in
another order, and prints mean scores. The number of clusters is known; the true shares
are only known to the last row.
"""

import argparse
import warnings

import numpy as np
from benchmark import SCORES
from data_sets import parse_and_load, thin_out
from sklearn.cluster import KMeans
from tqdm.auto import tqdm

from skcce import CollisionClusterer

N_SUBSETS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ratio", type=float, default=20.0, help="largest to smallest")
    args, X, y = parse_and_load(parser)
    warnings.simplefilter("ignore")  # small clusters stay unused
    rows = {}
    for seed in tqdm(range(N_SUBSETS), leave=False):
        subset, classes, shares = thin_out(X, y, args.ratio, seed)
        k = len(shares)
        clusterers = {
            "KMeans": KMeans(k, n_init=10, random_state=seed),
            "CollisionClusterer": CollisionClusterer(k, random_state=seed),
        }
        settings = {
            "prior=None": {"prior": None},
            "prior=None, lam=0.1": {"prior": None, "lam": 0.1},
            "prior=None, lam=0.01": {"prior": None, "lam": 0.01},
            "prior=true shares": {"prior": shares},
        }
        for name, values in settings.items():
            clusterers[f"  {name}"] = CollisionClusterer(k, random_state=seed, **values)
        for name, clusterer in clusterers.items():
            labels = clusterer.fit_predict(subset)
            scores = [100 * score(classes, labels) for score in SCORES.values()]
            rows.setdefault(name, []).append(scores)
    print(f"{'':24}" + "".join(f"{name + ' %':>8}" for name in SCORES))
    for name, scores in rows.items():
        print(f"{name:24}" + "".join(f"{s:8.1f}" for s in np.mean(scores, axis=0)))


if __name__ == "__main__":
    main()
