"""How well lam, and the number of clusters, can be chosen without labels.

    python examples/choose_without_labels.py             (digits)
    python examples/choose_without_labels.py data.npz

Takes random subsets of the rows; on each, fits all candidates, lets every criterion
choose one, and compares the ARI of its choice with that of the best candidate. Labels
are used for nothing else, except in "100 labels": the ARI of 100 random rows alone.
"long tail" thins the classes out, the largest is 20 times the smallest. "with noise"
adds a tenth of rows that belong to no class, and are not scored, and a quarter of
features that say nothing: values of other rows, drawn feature by feature.

Fits with different lam ask for equal shares. Those with different numbers of clusters
have the defaults, and beside them are the numbers that the tree finds on its own.
"""

import argparse
import warnings

import numpy as np
from data_sets import parse_and_load, thin_out
from joblib import Parallel, delayed
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score, silhouette_score
from tqdm.auto import tqdm

from skcce import CollisionClusterer
from skcce.model_selection import label_stability, probe_accuracy

LAMS = [0.01, 0.1, 0.4, 1.0, 4.0, 10.0, 100.0]
RATIOS = [0.25, 0.5, 0.7, 1.0, 1.4, 2.0]  # of the number of clusters to that of classes
TAIL = 20.0
NOISE_ROWS, NOISE_FEATURES = 0.1, 0.25
NO_CLASS = -1
STUDIES = ["lam", "lam-tail", "clusters", "clusters-tail", "clusters-noise"]
N_LABELS = 100


def silhouette(estimator, X, y):
    labels = estimator.predict(X)
    return silhouette_score(X, labels) if len(np.unique(labels)) > 1 else -1.0


def few_labels(estimator, X, y):
    rows = np.random.default_rng(0).permutation(np.flatnonzero(y != NO_CLASS))[
        :N_LABELS
    ]
    return adjusted_rand_score(y[rows], estimator.labels_[rows])


CRITERIA = {
    "label_stability": label_stability,
    "probe_accuracy": probe_accuracy,
    "silhouette": silhouette,
    "score": lambda estimator, X, y: estimator.score(X),
    f"{N_LABELS} labels": few_labels,
}


def add_noise(X, y, seed):
    """Add rows of no class, and features that say nothing."""
    rng = np.random.default_rng(seed)
    drawn = X[rng.permutation(len(X))[: round(NOISE_ROWS * len(X))]]
    X = np.concatenate([X, rng.permuted(drawn, axis=0)])
    y = np.append(y, np.full(len(drawn), NO_CLASS))
    columns = rng.permutation(X.shape[1])[: round(NOISE_FEATURES * X.shape[1])]
    return np.hstack([X, rng.permuted(X[:, columns], axis=0)]), y


def try_out(parameters, criteria, seed, X, y):
    """Fit one candidate; return its number of clusters, its ARI, and all criteria."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unused clusters, and convergence
        clusterer = CollisionClusterer(random_state=seed, **parameters).fit(X)
        has_class = y != NO_CLASS
        ari = adjusted_rand_score(y[has_class], clusterer.labels_[has_class])
        values = [criterion(clusterer, X, y) for criterion in criteria]
        return [clusterer.n_clusters_, ari, *values]


def run(title, candidates, criteria, subsets, n_jobs):
    """Return what `try_out` says of all candidates on all subsets, (s, c, 2 + n)."""
    jobs = [
        delayed(try_out)(parameters, criteria, seed, X, y)
        for seed, (X, y) in enumerate(subsets)
        for parameters in candidates
    ]
    results = Parallel(n_jobs, return_as="generator")(jobs)
    table = np.array(list(tqdm(results, total=len(jobs), desc=title, leave=False)))
    return table.reshape(len(subsets), len(candidates), -1)


def study(title, candidates, default, subsets, n_jobs, others=()):
    """Print how the choices of every criterion fare on all subsets.

    `others` are fits that choose on their own.
    """
    table = run(title, candidates, CRITERIA.values(), subsets, n_jobs)
    numbers, aris = table[:, :, 0], table[:, :, 1]
    best = aris.max(axis=1)
    every = np.arange(len(subsets))
    print(f"\n{title}: {', '.join(str(list(c.values())[-1]) for c in candidates)}")
    print(f"mean ARI {', '.join(f'{100 * a:.1f}' for a in aris.mean(axis=0))}")
    heads = f"{'best':>7}{'within 1':>10}{'ARI':>7}{'loss':>7}{'clusters':>14}"
    print(f"{'':22}{heads}{'rank corr.':>12}")
    for index, criterion in enumerate(CRITERIA, start=2):
        values = table[:, :, index]
        picks = values.argmax(axis=1)
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant values have no rank
            ranks = [spearmanr(*pair)[0] for pair in zip(values, aris, strict=True)]
            rank = np.nanmean(ranks)
        print_row(criterion, aris[every, picks], best, numbers[every, picks], rank)
    print_row("always the default", aris[:, default], best, numbers[:, default])
    for parameters in others:
        name = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
        (found,) = run(name, [parameters], [], subsets, n_jobs).transpose(1, 2, 0)
        print_row(name, found[1], best, found[0])
    at_random = aris.mean()
    print(f"{'at random':22}{'':17}{100 * at_random:7.1f}", end="")
    print(f"{100 * (best.mean() - at_random):7.1f}")


def print_row(name, picked, best, numbers, rank=None):
    """Print a row of ARIs against the best ones, with median and range of numbers."""
    loss = best - picked
    low, middle, high = np.quantile(numbers, [0, 0.5, 1], method="nearest").astype(int)
    print(
        f"{name:22}{np.mean(loss == 0):7.0%}{np.mean(loss <= 0.01):10.0%}"
        f"{100 * picked.mean():7.1f}{100 * loss.mean():7.1f}"
        f"{f'{middle} ({low}-{high})':>14}" + ("" if rank is None else f"{rank:12.2f}")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1500, help="of each subset")
    parser.add_argument("--jobs", type=int, default=-1, help="processes")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES)
    args, X, y = parse_and_load(parser)
    k = len(np.unique(y))
    seeds = range(args.subsets)
    parts = [
        np.random.default_rng(seed).permutation(len(X))[: args.rows] for seed in seeds
    ]
    tails = [thin_out(X, y, TAIL, seed) for seed in seeds]
    subsets = {"": [(X[part], y[part]) for part in parts]}
    subsets["tail"] = [(rows[: args.rows], y[: args.rows]) for rows, y, _ in tails]
    subsets["noise"] = [
        add_noise(*part, seed) for seed, part in enumerate(subsets["tail"])
    ]
    titles = {"": "", "tail": ", long tail", "noise": ", long tail with noise"}
    # Equal shares: those of a tree leave nothing for lam to do.
    lams = [{"n_clusters": k, "prior": None, "lam": lam} for lam in LAMS]
    counts = [{"n_clusters": max(2, round(ratio * k))} for ratio in RATIOS]
    bounds = (counts[0]["n_clusters"], counts[-1]["n_clusters"])
    found = [{"n_clusters": "auto"}, {"n_clusters": bounds}]
    for name in args.studies:
        what, _, kind = name.partition("-")
        data = subsets[kind]
        if what == "lam":
            study("lam" + titles[kind], lams, LAMS.index(1.0), data, args.jobs)
        else:
            title = f"clusters ({k} classes){titles[kind]}"
            default = RATIOS.index(1.0)
            study(title, counts, default, data, args.jobs, found)


if __name__ == "__main__":
    main()
