"""How well lam, and the number of clusters, can be chosen without labels.

    python examples/choose_without_labels.py             (digits)
    python examples/choose_without_labels.py data.npz

Takes random subsets of the rows; on each, fits all candidates, lets every criterion
choose one, and compares the ARI of its choice with that of the best candidate. Labels
are used for nothing else, except in "100 labels": the ARI of 100 random rows alone.
"long tail" thins the classes out, the largest is 20 times the smallest.
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
RATIOS = [0.5, 0.7, 1.0, 1.4, 2.0]  # of the number of clusters to that of classes
TAIL = 20.0
N_LABELS = 100


def silhouette(estimator, X, y):
    labels = estimator.predict(X)
    return silhouette_score(X, labels) if len(np.unique(labels)) > 1 else -1.0


def few_labels(estimator, X, y):
    rows = np.random.default_rng(0).permutation(len(X))[:N_LABELS]
    return adjusted_rand_score(y[rows], estimator.labels_[rows])


CRITERIA = {
    "label_stability": label_stability,
    "probe_accuracy": probe_accuracy,
    "silhouette": silhouette,
    "score": lambda estimator, X, y: estimator.score(X),
    f"{N_LABELS} labels": few_labels,
}


def try_out(parameters, seed, X, y):
    """Fit one candidate; return its ARI and what every criterion says of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unused clusters, and convergence
        # Equal shares: those of a tree leave nothing for lam to do.
        clusterer = CollisionClusterer(prior=None, random_state=seed, **parameters)
        clusterer.fit(X)
        ari = adjusted_rand_score(y, clusterer.labels_)
        return [ari, *(criterion(clusterer, X, y) for criterion in CRITERIA.values())]


def study(name, candidates, default, subsets, n_jobs):
    """Print how the choices of every criterion fare on all subsets."""
    jobs = [
        delayed(try_out)(parameters, seed, X, y)
        for seed, (X, y) in enumerate(subsets)
        for parameters in candidates
    ]
    results = Parallel(n_jobs, return_as="generator")(jobs)
    table = np.array(list(tqdm(results, total=len(jobs), desc=name, leave=False)))
    table = table.reshape(len(subsets), len(candidates), -1)
    aris = table[:, :, 0]
    best = aris.max(axis=1)
    print(f"\n{name}: {', '.join(str(list(c.values())[-1]) for c in candidates)}")
    print(f"mean ARI {', '.join(f'{100 * a:.1f}' for a in aris.mean(axis=0))}")
    print(f"{'':18}{'best':>7}{'within 1':>10}{'ARI':>7}{'loss':>7}{'rank corr.':>12}")
    for index, criterion in enumerate(CRITERIA, start=1):
        values = table[:, :, index]
        picks = values.argmax(axis=1)
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant values have no rank
            ranks = [spearmanr(*pair)[0] for pair in zip(values, aris, strict=True)]
            rank = np.nanmean(ranks)
        print_row(criterion, aris, best, picks, rank)
    print_row("always the default", aris, best, np.full(len(subsets), default))
    at_random = aris.mean()
    print(f"{'at random':18}{'':17}{100 * at_random:7.1f}", end="")
    print(f"{100 * (best.mean() - at_random):7.1f}")


def print_row(name, aris, best, picks, rank=None):
    picked = aris[np.arange(len(picks)), picks]
    loss = best - picked
    print(
        f"{name:18}{np.mean(loss == 0):7.0%}{np.mean(loss <= 0.01):10.0%}"
        f"{100 * picked.mean():7.1f}{100 * loss.mean():7.1f}"
        + ("" if rank is None else f"{rank:12.2f}")
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subsets", type=int, default=10)
    parser.add_argument("--rows", type=int, default=1500, help="of each subset")
    parser.add_argument("--jobs", type=int, default=-1, help="processes")
    args, X, y = parse_and_load(parser)
    k = len(np.unique(y))
    rows = [
        np.random.default_rng(seed).permutation(len(X))[: args.rows]
        for seed in range(args.subsets)
    ]
    balanced = [(X[part], y[part]) for part in rows]
    tails = [thin_out(X, y, TAIL, seed)[:2] for seed in range(args.subsets)]
    tails = [(X[: args.rows], y[: args.rows]) for X, y in tails]
    lams = [{"n_clusters": k, "lam": lam} for lam in LAMS]
    study("lam", lams, LAMS.index(1.0), balanced, args.jobs)
    study("lam, long tail", lams, LAMS.index(1.0), tails, args.jobs)
    counts = [{"n_clusters": max(2, round(ratio * k))} for ratio in RATIOS]
    study(f"clusters ({k} classes)", counts, RATIOS.index(1.0), balanced, args.jobs)


if __name__ == "__main__":
    main()
