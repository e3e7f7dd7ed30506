"""How soft should the pseudo-labels be? The number of EM iterations per batch.

    python examples/em_iterations.py               (the digits of scikit-learn)
    python examples/em_iterations.py data.npz --normalize

Few leave the labels soft, many come near the optimum, which is nearly one-hot.
"""

import argparse

import numpy as np
from benchmark import SCORES
from data_sets import parse_and_load
from tqdm.auto import tqdm

from skcce.methods import Collision, SoftmaxClusterer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, nargs="+", default=[1, 2, 5, 10, 50])
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    args, X, y = parse_and_load(parser)
    n_clusters = len(np.unique(y))
    print(f"{'EM iterations':14}" + "".join(f"{name + ' %':>14}" for name in SCORES))
    for em_iter in tqdm(args.iterations, leave=False):
        scores = []
        for seed in range(args.seeds):
            clusterer = SoftmaxClusterer(
                n_clusters, objective=Collision(em_iter=em_iter), random_state=seed
            )
            labels = clusterer.fit_predict(X)
            scores.append([100 * score(y, labels) for score in SCORES.values()])
        mean, std = np.mean(scores, axis=0), np.std(scores, axis=0)
        cells = (f"{m:8.1f} ± {s:3.1f}" for m, s in zip(mean, std, strict=True))
        tqdm.write(f"{em_iter:14}" + "".join(cells))


if __name__ == "__main__":
    main()
