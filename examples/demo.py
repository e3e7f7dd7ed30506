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
from benchmark import NUMBER_GIVEN, details, measure, seeds_of, size, warm_up
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.preprocessing import scale
from tqdm.auto import tqdm

from skcce import CollisionClusterer
from skcce.plot import ClusterConfusionDisplay, MontageDisplay

METHODS = ["KMeans", "GaussianMixture", "Ward", "CollisionClusterer"]
N_SEEDS = 5


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
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(18, 8), width_ratios=[1.3, 1], layout="constrained"
    )
    # Lay out first: the montage takes the size of its text from the axes.
    figure.draw_without_rendering()
    labels, confidence = clusterer.labels_, clusterer.probabilities_
    MontageDisplay.from_predictions(
        images, labels, confidence=confidence, y=y, n_images=16, n_columns=1, ax=left
    )
    ClusterConfusionDisplay.from_predictions(y, labels, colorbar=False, ax=right)
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo.png"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of the rivals, about convergence
    data = load_data()
    tables = {}
    for name, (X, y) in tqdm(data.items()):
        warm_up("CollisionClusterer", NUMBER_GIVEN["CollisionClusterer"], X)
        tables[name] = {
            method: [
                measure(NUMBER_GIVEN[method], X, y, seed)
                for seed in seeds_of("balanced", method, N_SEEDS)
            ]
            for method in METHODS
        }
    for name, outcomes in tables.items():
        print(f"\n{name}{size(outcomes)}\n\n{details(outcomes)}")
    X, y = data["digits"]
    clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)
    ink = 16 - X.reshape(-1, 8, 8)  # dark on light
    draw_clusters(ink, y, clusterer, args.output)
    print(f"\nThe clusters of the digits are drawn in {args.output}")


if __name__ == "__main__":
    main()
