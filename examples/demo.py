"""CollisionClusterer beside its rivals on the real data that scikit-learn bundles.

    python examples/demo.py --output demo.png

Prints a table for each data set and draws the clusters found in the digits.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from compare_on import DEFAULT_METHODS, DETERMINISTIC, compare, print_table
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import scale
from tqdm.auto import tqdm

from skcce import CollisionClusterer
from skcce.metrics import clustering_accuracy_score, match_labels

N_SEEDS = 5
N_DIGITS = 8


def load_data():
    """Return {name: (X, y)}; features of different units are standardized."""
    digits, wine = load_digits(return_X_y=True), load_wine(return_X_y=True)
    cancer = load_breast_cancer(return_X_y=True)
    return {
        "digits": digits,
        "wine (standardized)": (scale(wine[0]), wine[1]),
        "breast cancer (standardized)": (scale(cancer[0]), cancer[1]),
    }


def draw_clusters(images, y, clusterer, path):
    """Draw each cluster's most and least confident images, and the confusion matrix."""
    labels, confidence = clusterer.labels_, clusterer.probabilities_
    matched = match_labels(y, labels)
    clusters = sorted(matched, key=matched.get)
    figure = plt.figure(figsize=(16, 7.2), layout="constrained")
    figure.supxlabel(
        "Rows: clusters, named by the class they match. Numbers: probability of the "
        "cluster, red if the digit is of another class.",
        fontsize=10,
    )
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 1, 1.15])
    for panel, sign, title in [(left, -1, "most"), (middle, 1, "least")]:
        panel.suptitle(f"The {title} confident digits of each cluster")
        axes = panel.subplots(len(clusters), N_DIGITS)
        for row, cluster in zip(axes, clusters, strict=True):
            members = np.flatnonzero(labels == cluster)
            order = members[np.argsort(sign * confidence[members], kind="stable")]
            for ax in row:
                ax.set_axis_off()
            for ax, i in zip(row, order, strict=False):
                ax.imshow(images[i], cmap="gray_r")
                right_class = y[i] == matched[cluster]
                ax.set_title(
                    f"{confidence[i]:.2f}",
                    fontsize=7,
                    pad=1,
                    color="black" if right_class else "tab:red",
                )
            row[0].text(-4, 4, matched[cluster], fontsize=13, va="center", ha="center")
    accuracy = clustering_accuracy_score(y, labels)
    ax = right.subplots()
    ax.set_title(f"Clusters matched to classes: accuracy {100 * accuracy:.1f} %")
    table = confusion_matrix(y, [matched[label] for label in labels])
    ax.imshow(table, cmap="Blues")
    for (i, j), count in np.ndenumerate(table):
        if count:
            color = "white" if count > table.max() / 2 else "black"
            ax.text(j, i, count, ha="center", va="center", color=color, fontsize=9)
    ax.set(xlabel="cluster (matched)", ylabel="class")
    ax.set(xticks=range(len(table)), yticks=range(len(table)))
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo.png"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the rivals, about convergence
    data = load_data()
    runs_per_set = sum(1 if m in DETERMINISTIC else N_SEEDS for m in DEFAULT_METHODS)
    tables = {}
    with tqdm(total=runs_per_set * len(data)) as progress:
        for name, (X, y) in data.items():
            progress.set_description(name)
            tables[name] = compare(X, y, DEFAULT_METHODS, N_SEEDS, progress)
    for name, results in tables.items():
        print_table(name, *data[name], results)
    X, y = data["digits"]
    clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)
    draw_clusters(X.reshape(-1, 8, 8), y, clusterer, args.output)
    print(f"\nThe clusters of the digits are drawn in {args.output}")


if __name__ == "__main__":
    main()
