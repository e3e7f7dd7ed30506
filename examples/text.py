"""Clusters of texts by their words: tf-idf as it is, sparse, beside k-means.

    python examples/text.py --data FOLDER

FOLDER holds stackoverflow.csv.gz: 20,000 titles of questions, and their topics, in the
columns "text" and "y". Words and pairs of words are weighed by TfidfVectorizer, the
50,000 most frequent of them. Every method gets the number of topics, and sees neither
their names nor each other's results. LSA is the recipe of scikit-learn's user guide:
TruncatedSVD to 128 components, rows of length 1, k-means.

Each fit runs in a process of its own. Memory is what its peak adds to that before the
fit; seconds are those of the processor. Linux only.
"""

import argparse
import csv
import gzip
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from tqdm.auto import tqdm

from skcce import CollisionClusterer

METHODS = {
    "CollisionClusterer": lambda k, seed: CollisionClusterer(k, random_state=seed),
    "KMeans(n_init=10)": lambda k, seed: KMeans(k, n_init=10, random_state=seed),
    "LSA, KMeans(n_init=10)": lambda k, seed: make_pipeline(
        TruncatedSVD(128, random_state=seed),
        Normalizer(copy=False),
        KMeans(k, n_init=10, random_state=seed),
    ),
}


def read_texts(path):
    """Return the texts of a file, and the number of the class of each."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [(row["text"], int(row["y"])) for row in csv.DictReader(file)]
    texts, y = zip(*rows, strict=True)
    return texts, np.array(y)


def mebibytes(X):
    """Return the memory of a CSR matrix."""
    return sum(part.nbytes for part in (X.data, X.indices, X.indptr)) / 2**20


def peak():
    """Return the peak of this process's memory since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if "VmHWM" in line) / 1024


def measure(name, seed, X, y):
    """Return ARI and NMI in %, seconds and memory of a fit."""
    n_clusters = len(np.unique(y))
    # What is imported, compiled and allocated once does not count.
    METHODS[name](2, 0).fit(X[:200])
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak(), time.process_time()
    labels = METHODS[name](n_clusters, seed).fit_predict(X)
    seconds = time.process_time() - start
    scores = (adjusted_rand_score, normalized_mutual_info_score)
    return *(100 * score(y, labels) for score in scores), seconds, peak() - before


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of stackoverflow.csv.gz")
    add("--seeds", type=int, default=5, help="number of runs")
    args = parser.parse_args()
    texts, y = read_texts(args.data / "stackoverflow.csv.gz")
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), max_features=50_000, dtype=np.float32
    )
    X = vectorizer.fit_transform(texts)
    print(f"X: {X.shape[0]} x {X.shape[1]}, {mebibytes(X):.1f} MiB in CSR")
    print(f"{'':24}{'ARI, %':>14}{'NMI, %':>14}{'seconds':>10}{'MiB':>8}")
    for name in METHODS:
        runs = []
        for seed in tqdm(range(args.seeds), leave=False):
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                runs.append(pool.submit(measure, name, seed, X, y).result())
        (ari, nmi, seconds, memory), spread = (
            np.mean(runs, axis=0),
            np.std(runs, axis=0),
        )
        print(
            f"{name:24}{ari:7.1f} ± {spread[0]:4.1f}{nmi:7.1f} ± {spread[1]:4.1f}"
            f"{seconds:10.1f}{memory:8.0f}"
        )


if __name__ == "__main__":
    main()
