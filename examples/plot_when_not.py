"""
When not to use it
==================

Where clusters are not what lies between valleys, the default has to be told more, or is
the wrong tool.

*Clusters that touch, of unknown number.* Nothing parts them but their shape, which the
tree of clusters does not know: it joins them. If you know how many there are, say so,
and ``prior=None`` if they are about equally large. If they are Gaussian, take a
Gaussian mixture.

*Thin bands of unknown number.* The tree takes each for a chain of clouds, and cuts it
in pieces. If you know how many there are, say so: then they are found, and ``predict``
goes on following them for new points.
"""  # noqa: D205, D400

# %%
# On the left the default knows less than on the right.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_blobs, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer

# Of so few points, one or two move to the last.
warnings.simplefilter("ignore", ConvergenceWarning)
touching = make_blobs(1000, centers=5, random_state=2)
bands = make_moons(1000, noise=0.08, random_state=0)
data = [
    (*touching, {"n_clusters": "auto"}, {"n_clusters": 5}),
    (*bands, {"n_clusters": "auto"}, {"n_clusters": 2}),
]

# %%
# The shade is the most probable cluster; the points have the colors of the true ones.
# ARI is 1 if both are the same.

figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
for row, (X, y, *settings) in zip(axes, data, strict=True):
    (x_low, y_low), (x_high, y_high) = X.min(axis=0) - 0.3, X.max(axis=0) + 0.3
    grid = np.meshgrid(np.linspace(x_low, x_high, 150), np.linspace(y_low, y_high, 120))
    points = np.stack(grid, axis=-1).reshape(-1, 2)
    for ax, told in zip(row, settings, strict=True):
        clusterer = CollisionClusterer(**told, random_state=0).fit(X)
        levels = np.arange(clusterer.n_clusters_ + 1) - 0.5
        labels = clusterer.predict(points).reshape(grid[0].shape)
        ax.contourf(*grid, labels, levels=levels, cmap="Greys", alpha=0.5)
        ax.scatter(*X.T, c=y, cmap="tab10", vmin=0, vmax=9, s=4)
        ari = adjusted_rand_score(y, clusterer.labels_)
        title = ", ".join(f"{name}={value!r}" for name, value in told.items())
        ax.set(title=f"{title}: ARI {ari:.2f}", xticks=[], yticks=[])
