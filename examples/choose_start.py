"""Can the loss tell which start is good? It has to: there are no labels to choose by.

    python examples/choose_start.py            (the digits of scikit-learn)
    python examples/choose_start.py data.npz

Fits from many single starts, and compares the loss of each, after the few epochs of a
trial and at the end, with the adjusted Rand index that it arrives at. A single start is
one of k-means, not refined; shares are taken as equal.
"""

import argparse
import warnings

import numpy as np
from data_sets import parse_and_load
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from skcce import CollisionClusterer

TRIAL_EPOCHS = 4  # as CollisionClusterer tries its starts
BEST_OF = 6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=24, help="number of starts")
    args, X, y = parse_and_load(parser)
    if args.starts < BEST_OF:
        parser.error(f"--starts must be at least {BEST_OF}")
    warnings.simplefilter("ignore")  # a trial does not converge
    n_clusters = len(np.unique(y))
    trial, final, ari = [], [], []
    for seed in tqdm(range(args.starts), leave=False):
        # The same seed is the same start, whatever the number of epochs.
        clusterer = CollisionClusterer(
            n_clusters, prior=None, n_init=1, random_state=seed
        )
        final.append(clusterer.fit(X).loss_)
        ari.append(100 * adjusted_rand_score(y, clusterer.labels_))
        trial.append(clusterer.set_params(max_iter=TRIAL_EPOCHS).fit(X).loss_)
    ari = np.array(ari)
    print(f"ARI of a start: mean {ari.mean():.1f}, from {ari.min():.1f} to", end=" ")
    print(f"{ari.max():.1f} %")
    groups = np.random.default_rng(0).permuted(
        np.tile(np.arange(args.starts), (2000, 1)), axis=1
    )[:, :BEST_OF]
    for name, loss in [("trial", np.array(trial)), ("final", np.array(final))]:
        chosen = groups[np.arange(len(groups)), loss[groups].argmin(axis=1)]
        print(
            f"{name} loss: rank correlation with ARI {spearmanr(loss, ari)[0]:+.2f}; "
            f"its best of {BEST_OF} starts has a mean ARI of {ari[chosen].mean():.1f} %"
        )


if __name__ == "__main__":
    main()
