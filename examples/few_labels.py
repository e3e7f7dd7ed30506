"""A few labels: accuracy on the samples without one, beside scikit-learn's own.

    python examples/few_labels.py              (the digits of scikit-learn)
    python examples/few_labels.py digits banking77_minilm.npz --normalize
    python examples/few_labels.py --ratio 10   (a long tail)

Of each data set, one label per class is known, or a part of all labels, drawn at random
with at least one per class; five draws each. "--ratio 10" first thins the classes out,
so that the largest is 10 times the smallest. Every method has its defaults, but that
LabelSpreading gets its nearest-neighbor kernel: the width of the other one would have
to be chosen. LogisticRegression sees the labeled samples only.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from data_sets import add_split, load, thin_out
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from tqdm.auto import tqdm

from skcce import CollisionClassifier

OURS = "CollisionClassifier"


def make_methods(seed):
    """Return the classifiers by name."""
    return {
        OURS: CollisionClassifier(random_state=seed),
        "LogisticRegression": LogisticRegression(max_iter=1000),
        "LabelSpreading": LabelSpreading(kernel="knn"),
        "SelfTrainingClassifier": SelfTrainingClassifier(
            LogisticRegression(max_iter=1000)
        ),
    }


def draw_labels(y, part, rng):
    """Return which samples have a label: one per class, and more at random."""
    known = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        known[rng.choice(np.flatnonzero(y == label))] = True
    if part < 1:
        n_more = max(round(part * len(y)) - known.sum(), 0)
        known[rng.permutation(np.flatnonzero(~known))[:n_more]] = True
    return known


def accuracy(classifier, X, y, known):
    """Return the accuracy on the samples without a label, in %."""
    if isinstance(classifier, LogisticRegression):
        predicted = classifier.fit(X[known], y[known]).predict(X)
    else:
        classifier.fit(X, np.where(known, y, -1))
        is_wrapper = isinstance(classifier, SelfTrainingClassifier)
        # Its transduction_ has -1 where no label was sure enough to train with.
        predicted = classifier.predict(X) if is_wrapper else classifier.transduction_
    return 100 * np.mean(predicted[~known] == y[~known])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", nargs="*", default=["digits"], help="digits, or .npz files with X, y")
    add_split(parser)
    add("--normalize", action="store_true", help="scale rows of files to length 1")
    add("--ratio", type=float, default=1.0, help="largest class to smallest")
    add(
        "--parts",
        type=float,
        nargs="+",
        default=[1, 0.01, 0.05, 0.1],
        help="parts of the labels; 1 is one label per class",
    )
    add("--seeds", type=int, default=5, help="number of draws")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # a method may not converge in its iterations
    names = list(make_methods(0))
    print(f"{'accuracy, % (seconds)':34}" + "".join(f"{name:>24}" for name in names))
    n_first = n_cells = 0
    for source in args.data:
        if source == "digits":
            X, y = load_digits(return_X_y=True)
        else:
            X, y = load(source, args.split)
            X = normalize(X) if args.normalize else X
        for part in args.parts:
            scores = {name: [] for name in names}
            seconds = dict.fromkeys(names, 0.0)
            for seed in tqdm(range(args.seeds), leave=False):
                rows, labels = X, y
                if args.ratio > 1:
                    rows, labels, _ = thin_out(X, y, args.ratio, seed)
                known = draw_labels(labels, part, np.random.default_rng(seed))
                for name, classifier in make_methods(seed).items():
                    start = time.perf_counter()
                    scores[name].append(accuracy(classifier, rows, labels, known))
                    seconds[name] += (time.perf_counter() - start) / args.seeds
            means = {name: np.mean(scores[name]) for name in names}
            text = "1 label per class" if part == 1 else f"{100 * part:g} % of labels"
            print(
                f"{Path(source).stem:16}{text:18}"
                + "".join(f"{means[n]:15.1f} ({seconds[n]:6.2f})" for n in names)
            )
            n_cells += 1
            n_first += means[OURS] >= max(means.values())
    print(f"{OURS} is first in {n_first} of {n_cells} rows.")


if __name__ == "__main__":
    main()
