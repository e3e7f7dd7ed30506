"""Probabilities of classes, from clusters and a few labels: how far to trust them.

    python examples/calibration.py                          (the digits of scikit-learn)
    python examples/calibration.py stackoverflow_minilm.npz --normalize --rows 2000

All rows are clustered, some of them have a label: one per class, the others drawn at
random. Prints accuracy in percent, log loss in nats, and the expected calibration error
in percent, over ten bins of confidence, on the rows without a label: means over seeds.
"""

import argparse
import warnings

import numpy as np
from data_sets import parse_and_load
from few_labels import draw_labels
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tqdm.auto import tqdm

from skcce import CollisionClassifier, CollisionClusterer

N_BINS = 10


class Matched(ClassifierMixin, BaseEstimator):
    """Take the probability of a cluster for that of the class that it is matched to."""

    def fit(self, X, y):
        """Match clusters, the columns of X, to classes."""
        self.classes_ = np.unique(y)
        mass = (y == self.classes_[:, None]) @ X
        self.clusters_ = linear_sum_assignment(mass, maximize=True)[1]
        return self

    def predict_proba(self, X):
        """Return the probability of each class."""
        proba = X[:, self.clusters_]
        return proba / proba.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the most probable class."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def logarithm(proba):
    return np.log(np.maximum(proba, 1e-12))


def with_names(clusterer):
    """Return a classifier of the clusters: which of them speak for which class."""
    log = FunctionTransformer(logarithm)
    return make_pipeline(FrozenEstimator(clusterer), log, LogisticRegression())


def probabilities(known, found, X, y, is_known, seed):
    """Return the probabilities of classes of all rows, by method."""
    some = X[is_known], y[is_known]
    matched = make_pipeline(FrozenEstimator(known), Matched()).fit(*some)
    # Nothing is fitted in the folds, so that one fold of all rows does.
    everything = np.arange(is_known.sum())
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(matched), cv=[(everything, everything)]
    )
    classifier = CollisionClassifier(random_state=seed)
    classifiers = {
        "one cluster per class": matched,
        "  CalibratedClassifierCV": calibrated.fit(*some),
        "  regression": with_names(known).fit(*some),
        'n_clusters="auto"': with_names(found).fit(*some),
        "CollisionClassifier": classifier.fit(X, np.where(is_known, y, -1)),
        "LogisticRegression": LogisticRegression(max_iter=1000).fit(*some),
    }
    return {name: model.predict_proba(X) for name, model in classifiers.items()}


def scores(proba, y):
    """Return accuracy, log loss and expected calibration error."""
    confidence, is_right = proba.max(axis=1), proba.argmax(axis=1) == y
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    excess = np.bincount(bins, weights=confidence - is_right)
    proba = proba.astype(np.float64)  # in which its rows sum to 1
    loss = log_loss(y, proba / proba.sum(axis=1, keepdims=True))
    return 100 * is_right.mean(), loss, 100 * np.abs(excess).sum() / len(y)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--labels", type=int, nargs="+", default=[50, 100, 200])
    add("--rows", type=int, default=2000, help="at most, drawn at random")
    add("--seeds", type=int, default=5, help="number of draws")
    args, X, y = parse_and_load(parser)
    warnings.simplefilter("ignore")  # fits that have not converged
    classes, y = np.unique(y, return_inverse=True)
    results = {}
    for seed in tqdm(range(args.seeds), leave=False):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(X))[: args.rows]
        part, labels = X[rows], y[rows]
        known, found = (
            CollisionClusterer(n_clusters, random_state=seed).fit(part)
            for n_clusters in (len(classes), "auto")
        )
        for n_labels in args.labels:
            is_known = draw_labels(labels, n_labels / len(rows), rng)
            every = probabilities(known, found, part, labels, is_known, seed)
            for name, proba in every.items():
                row = scores(proba[~is_known], labels[~is_known])
                results.setdefault((n_labels, name), []).append(row)
    print(f"{'labels':>6}  {'':28}{'accuracy':>10}{'log loss':>10}{'ECE':>10}")
    for (n_labels, name), rows in results.items():
        accuracy, loss, error = np.mean(rows, axis=0)
        print(f"{n_labels:6}  {name:28}{accuracy:10.1f}{loss:10.2f}{error:10.1f}")


if __name__ == "__main__":
    main()
