"""BERTopic by CollisionClusterer and by k-means, with UMAP and without.

    pip install ".[bertopic]"
    python examples/bertopic_topics.py --data FOLDER

FOLDER holds texts and their classes, such as stackoverflow.csv.gz, and the embeddings
of the texts, stackoverflow_minilm.npz. BERTopic gets the texts, the embeddings, and a
clusterer with the number of classes. UMAP has the settings that BERTopic gives it, and
runs once for both clusterers. Means over the seeds: the adjusted Rand index of topics
and classes, with its standard deviation, and the seconds of all, UMAP and the words of
the topics included.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from data_sets import load
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize
from text import read_texts
from tqdm.auto import tqdm

from skcce import CollisionClusterer

CLUSTERERS = {
    "CollisionClusterer": lambda k, seed: CollisionClusterer(k, random_state=seed),
    "KMeans(n_init=10)": lambda k, seed: KMeans(k, n_init=10, random_state=seed),
}
METHODS = [f"{before}{name}" for before in ("", "UMAP, ") for name in CLUSTERERS]


def with_umap(X, seed):
    """Return the rows in the dimensions that BERTopic clusters in."""
    from umap import UMAP

    umap = UMAP(
        n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=seed
    )
    return umap.fit_transform(X)


def topics_of(texts, X, clusterer):
    """Return the topic of each text."""
    from bertopic import BERTopic
    from bertopic.dimensionality import BaseDimensionalityReduction

    model = BERTopic(umap_model=BaseDimensionalityReduction(), hdbscan_model=clusterer)
    return model.fit_transform(texts, X)[0]


def timed(function, *arguments):
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def run(texts, X, y, seed, methods):
    """Yield the ARI in %, and seconds, of each way to find topics."""
    rows, seconds = {"": X}, {"": 0}
    if any(method.startswith("UMAP") for method in methods):
        rows["UMAP"], seconds["UMAP"] = timed(with_umap, X, seed)
    for method in methods:
        before, _, name = method.rpartition(", ")
        clusterer = CLUSTERERS[name](len(np.unique(y)), seed)
        topics, fit = timed(topics_of, texts, rows[before], clusterer)
        yield method, 100 * adjusted_rand_score(y, topics), seconds[before] + fit


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="*", default=["stackoverflow", "banking77"], help="data sets")
    add("--data", type=Path, required=True, help="folder of texts and embeddings")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD")
    add("--seeds", type=int, default=3, help="number of runs")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of UMAP, about its seed
    for name in args.names:
        texts, y = read_texts(args.data / f"{name}.csv.gz")
        X = normalize(load(args.data / f"{name}_minilm.npz")[0])
        scores = {}
        for seed in tqdm(range(args.seeds), leave=False):
            for method, *row in run(texts, X, y, seed, args.methods):
                scores.setdefault(method, []).append(row)
        print(f"{name + f', {len(y)} texts':34}{'ARI, %':>12}{'seconds':>10}")
        for method, rows in scores.items():
            ari, seconds = np.mean(rows, axis=0)
            spread = np.std(rows, axis=0)[0]
            print(f"{method:34}{ari:6.1f} ± {spread:3.1f}{seconds:10.1f}")


if __name__ == "__main__":
    main()
