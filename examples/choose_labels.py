"""What labels are worth on rows that `rows_to_label` chooses, beside random rows.

    python examples/choose_labels.py              (the digits of scikit-learn)
    python examples/choose_labels.py stackoverflow_minilm banking77_minilm --data FOLDER

FOLDER holds .npz files with X and y, whose rows are scaled to length 1. A clustering
comes first; then rows are chosen and labeled, all at once, or in rounds with a fit
after each. Labels are looked up for these rows only. Beside it, random rows: as many,
and ten times as many. Accuracy is that on all rows without a label, the mean and the
standard deviation of five seeds.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from data_sets import load
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from skcce import CollisionClassifier, CollisionClusterer
from skcce.model_selection import rows_to_label

LABELS_PER_CLASS = 5
TIMES_AS_MANY = 10


def make_classifier(seed):
    """Return ours, with one start from k-means beside the spread labels."""
    return CollisionClassifier(n_init=1, random_state=seed)


def label_in_rounds(estimator, X, y, n_labels, n_rounds, seed):
    """Choose rows by a fitted `estimator`, label and fit, `n_rounds` times.

    Return the last classifier, and which rows have a label.
    """
    known = np.full(len(y), -1)
    for batch in np.array_split(np.arange(n_labels), n_rounds):
        rows = rows_to_label(estimator, X, len(batch), known)
        known[rows] = y[rows]  # a person would look at them
        estimator = make_classifier(seed).fit(X, known)
    return estimator, known >= 0


def label_at_random(y, n_labels, seed):
    """Return which rows have a label."""
    known = np.zeros(len(y), dtype=bool)
    known[np.random.default_rng(seed).permutation(len(y))[:n_labels]] = True
    return known


def try_out(X, y, n_labels, n_rounds, seed):
    """Return the accuracy of every rule, by what the table says of it."""
    accuracies = {}

    def note(classifier, known, rows):
        name = f"{known.sum():6d}  {rows:22}{type(classifier).__name__}"
        right = classifier.predict(X[~known]) == y[~known]
        accuracies[name] = 100 * right.mean()

    for n_random in (n_labels, min(TIMES_AS_MANY * n_labels, len(y) // 2)):
        known = label_at_random(y, n_random, seed)
        regression = LogisticRegression(max_iter=1000).fit(X[known], y[known])
        note(regression, known, "random")
    known = label_at_random(y, n_labels, seed)
    classifier = make_classifier(seed).fit(X, np.where(known, y, -1))
    note(classifier, known, "random")
    clusterer = CollisionClusterer(len(np.unique(y)), random_state=seed).fit(X)
    for n, name in ((1, "chosen at once"), (n_rounds, f"chosen in {n_rounds} rounds")):
        note(*label_in_rounds(clusterer, X, y, n_labels, n, seed), name)
    return accuracies


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="*", default=["digits"], help="digits, or files without .npz")
    add("--data", type=Path, default=Path(), help="folder of the files")
    add("--labels", type=int, help=f"default: {LABELS_PER_CLASS} times the classes")
    add("--rounds", type=int, default=5)
    add("--seeds", type=int, nargs="+", default=range(5))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of fits that have not converged
    for name in args.names:
        if name == "digits":
            X, y = load_digits(return_X_y=True)
        else:
            X, y = load(args.data / f"{name}.npz")
            X = normalize(X)
        n_labels = args.labels or LABELS_PER_CLASS * len(np.unique(y))
        tries = [
            try_out(X, y, n_labels, args.rounds, seed)
            for seed in tqdm(args.seeds, desc=name, leave=False)
        ]
        print(f"{name}, {len(y)} rows, {len(np.unique(y))} classes")
        print("labels  rows                  classifier             accuracy")
        for rule in tries[0]:
            values = [accuracies[rule] for accuracies in tries]
            print(f"{rule:53}{np.mean(values):5.1f} ± {np.std(values):.1f}", flush=True)


if __name__ == "__main__":
    main()
