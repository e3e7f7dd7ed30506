"""
How many clusters?
==================

``label_stability`` measures how much of a clustering is found again from a part of the
data, without labels. On the digits it is highest for 10 clusters, their number; but not
by much, and the clusters agree best with the digits (ARI) if there are 12.

This is one data set. :doc:`/choosing` has others, and where it chooses badly.
"""  # noqa: D205, D400

# %%
# Half of the images, and three seeds for each number of clusters. A stability takes as
# many fits as it has subsamples, so these are few. A fit may end while 1 percent of the
# images still move.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer
from skcce.model_selection import label_stability

X, y = load_digits(return_X_y=True)
X, y = X[::2], y[::2]
COUNTS = [5, 8, 10, 12, 15]

stability, agreement = np.empty((2, len(COUNTS), 3))
for i, n_clusters in enumerate(COUNTS):
    for seed in range(3):
        clusterer = CollisionClusterer(n_clusters, tol=0.01, random_state=seed)
        clusterer.fit(X)
        agreement[i, seed] = adjusted_rand_score(y, clusterer.labels_)
        stability[i, seed] = label_stability(
            clusterer, X, n_subsamples=2, random_state=seed
        )
    print(
        f"{n_clusters:2} clusters: stability {stability[i].mean():.3f}, "
        f"ARI {agreement[i].mean():.3f}"
    )

# %%
# Lines are means, bars go from the lowest to the highest seed.

figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for values, name, color in [
    (stability, "label_stability (no labels)", "tab:blue"),
    (agreement, "ARI (with labels)", "tab:orange"),
]:
    mean = values.mean(axis=1)
    bars = [mean - values.min(axis=1), values.max(axis=1) - mean]
    ax.errorbar(COUNTS, mean, bars, color=color, marker="o", capsize=3, label=name)
ax.axvline(10, color="gray", linestyle=":", label="number of digits")
ax.set(xlabel="n_clusters", ylabel="Score", xticks=COUNTS, ylim=(0, 1))
legend = ax.legend()
