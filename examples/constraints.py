r"""Pairs that must, or cannot, be in one cluster: what are they worth, by number.

    python examples/constraints.py            (the digits of scikit-learn)
    python examples/constraints.py data.npz --rows 3000 --picture constraints.png

For each number n, draws n random pairs of rows of one class and n of two classes, and
fits with them; the classes serve for nothing else. Prints the mean over the seeds of
the scores of all rows, of the adjusted Rand index of the rows in no pair (the others
could be learned by heart), and of the number of pairs that do not hold.

KMeans does not know of the pairs. GemClus takes them by add_mlcl_constraint, on its
RIM, if it is installed (the extra `benchmark`). It takes minutes, in batches of 250;
without batches, longer. Its check for contradictions compares numbers of rows with
others, and may refuse pairs that have none; then the table says of how many seeds.
"""

import argparse
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from data_sets import parse_and_load
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from skcce import CollisionClusterer
from skcce.metrics import clustering_accuracy_score


def draw_pairs(y, n_pairs, rng):
    """Return so many random pairs of rows of one class, and so many of two classes."""
    drawn = {True: set(), False: set()}
    while min(map(len, drawn.values())) < n_pairs:
        first, second = sorted(rng.integers(len(y), size=2).tolist())
        pairs = drawn[bool(y[first] == y[second])]
        if first != second and len(pairs) < n_pairs:
            pairs.add((first, second))
    return [
        np.array(sorted(drawn[same]), dtype=int).reshape(-1, 2)
        for same in (True, False)
    ]


def collision(X, n_clusters, seed, must_link, cannot_link):
    return CollisionClusterer(
        n_clusters, must_link=must_link, cannot_link=cannot_link, random_state=seed
    ).fit_predict(X)


def k_means(X, n_clusters, seed, must_link, cannot_link):
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(X)


def gemclus(X, n_clusters, seed, must_link, cannot_link):
    from gemclus import add_mlcl_constraint
    from gemclus.linear import RIM

    model = RIM(n_clusters, batch_size=250, random_state=seed)
    if len(must_link):
        model = add_mlcl_constraint(model, must_link, cannot_link)
    return model.fit_predict(X)


METHODS = {"CollisionClusterer": collision, "KMeans": k_means, "GemClus": gemclus}


def measure(method, X, y, n_pairs, seed):
    """Return ARI and ACC, ARI of the rows in no pair, pairs that do not hold, time."""
    must, cannot = draw_pairs(y, n_pairs, np.random.default_rng(seed))
    start = time.perf_counter()
    labels = method(X, len(np.unique(y)), seed, must, cannot)
    seconds = time.perf_counter() - start
    is_free = np.ones(len(y), dtype=bool)
    is_free[[*must.ravel(), *cannot.ravel()]] = False
    one, other = labels[must], labels[cannot]
    return (
        100 * adjusted_rand_score(y, labels),
        100 * clustering_accuracy_score(y, labels),
        100 * adjusted_rand_score(y[is_free], labels[is_free]),
        np.sum(one[:, 0] != one[:, 1]),
        np.sum(other[:, 0] == other[:, 1]),
        seconds,
    )


def draw(means, n_pairs, path):
    """Draw the two scores of each method against the number of pairs."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for ax, name, column in zip(axes, ["ARI, %", "ACC, %"], [0, 1], strict=True):
        for method, rows in means.items():
            ax.plot(n_pairs, [row[column] for row in rows], "o-", label=method)
        ax.set(xlabel="pairs of each kind", ylabel=name)
        ax.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[0, 50, 100, 200, 500, 1000]
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--rows", type=int, help="take so many rows, at random")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD"
    )
    parser.add_argument("--picture", type=Path, help="file of a picture")
    args, X, y = parse_and_load(parser)
    rows = np.random.default_rng(0).permutation(len(X))[: args.rows]
    X, y = X[rows], y[rows]
    warnings.simplefilter("ignore")  # of convergence
    if "GemClus" in args.methods and not find_spec("gemclus"):
        args.methods.remove("GemClus")
        print("GemClus is not installed, and left out.")
    print(f"{len(X)} rows, {len(np.unique(y))} classes, {args.seeds} seeds")
    heads = ["ARI %", "ACC %", "ARI % rest", "must broken", "cannot broken", "seconds"]
    print(f"{'':20}{'pairs':>6}" + "".join(f"{head:>15}" for head in heads))
    means = {}
    for name in args.methods:
        for n_pairs in args.pairs:
            figures, refused = [], 0
            for seed in tqdm(range(args.seeds), leave=False):
                try:
                    figures.append(measure(METHODS[name], X, y, n_pairs, seed))
                except ValueError as error:
                    if "contradiction" not in str(error):
                        raise
                    refused += 1
            mean = np.mean(figures, axis=0) if figures else np.full(6, np.nan)
            means.setdefault(name, []).append(mean)
            line = f"{name:20}{n_pairs:6}" + "".join(f"{x:15.1f}" for x in mean)
            print(line + (f"   ({refused} refused)" if refused else ""), flush=True)
    if args.picture:
        draw(means, args.pairs, args.picture)


if __name__ == "__main__":
    main()
