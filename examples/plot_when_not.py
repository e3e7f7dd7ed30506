"""
When not to use it
==================

Where clusters are not what lies between valleys, the default has to be told more, or is
the wrong tool.

*Clusters that touch.* Nothing parts them but their shape, which the tree of clusters
does not know: it joins them, and takes their sizes for unequal. If they are about
equally large, say ``prior=None``. If they are Gaussian, take a Gaussian mixture.

*Thin bands.* A known number of clusters is trained for from k-means, which cuts bands
in pieces. ``prior="learn"`` keeps to the tree, which follows them, and ``predict`` goes
on following them for new points.
"""  # noqa: D205, D400

# %%
# The number of clusters is given; only ``prior`` differs.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer

# Of so few points, one or two move to the last.
warnings.simplefilter("ignore", ConvergenceWarning)
data = {
    "touch": (*make_blobs(1000, centers=5, random_state=0), None),
    "bands": (*make_moons(1000, noise=0.08, random_state=0), "learn"),
}

# %%
# The shade is the most probable cluster; the points have the colors of the true ones.
# ARI is 1 if both are the same.

figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for row, (X, y, told) in zip(axes, data.values(), strict=True):
    (x_low, y_low), (x_high, y_high) = X.min(axis=0) - 0.3, X.max(axis=0) + 0.3
    grid = np.meshgrid(np.linspace(x_low, x_high, 150), np.linspace(y_low, y_high, 120))
    points = np.stack(grid, axis=-1).reshape(-1, 2)
    for ax, prior in zip(row, ["auto", told], strict=True):
        n_clusters = len(np.unique(y))
        clusterer = CollisionClusterer(n_clusters, prior=prior, random_state=0).fit(X)
        levels = np.arange(n_clusters + 1) - 0.5
        labels = clusterer.predict(points).reshape(grid[0].shape)
        ax.contourf(*grid, labels, levels=levels, cmap="Greys", alpha=0.5)
        ax.scatter(*X.T, c=y, cmap="tab10", vmin=0, vmax=9, s=4)
        ari = adjusted_rand_score(y, clusterer.labels_)
        ax.set(title=f"prior={prior!r}: ARI {ari:.2f}", xticks=[], yticks=[])
