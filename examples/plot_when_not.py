"""
When not to use it
==================

The default model is linear: its clusters are divided by straight lines. It cannot find
two moons, which spectral clustering does find. Features in which the moons can be
divided linearly are not enough, either; the fit has to start from the right clusters.

So for some thousands of points of odd shapes, use ``SpectralClustering``. If you want
probabilities and predictions for new points as well, start from its labels, as on the
right.
"""  # noqa: D205, D400

# %%
# ``init`` takes the labels of any other clustering. ``Nystroem`` makes the features, an
# approximation of a Gaussian kernel; its width, ``gamma``, has to be chosen.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import SpectralClustering
from sklearn.datasets import make_moons
from sklearn.kernel_approximation import Nystroem
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline

from skcce import CollisionClusterer

X, y = make_moons(600, noise=0.08, random_state=0)
X_new, y_new = make_moons(600, noise=0.08, random_state=1)
spectral = SpectralClustering(2, affinity="nearest_neighbors", random_state=0).fit(X)
print(f"SpectralClustering: ARI {adjusted_rand_score(y, spectral.labels_):.2f}")

kernel = Nystroem(gamma=10, n_components=200, random_state=0)
linear = CollisionClusterer(2, random_state=0)
started = CollisionClusterer(2, init=spectral.labels_, random_state=0)
models = {
    "Linear": linear,
    "Kernel features": make_pipeline(kernel, linear),
    "Kernel features, started from\nspectral labels": make_pipeline(kernel, started),
}

# %%
# The shade is the probability of a cluster, the line is where it changes. The points
# have the colors of the moons; ARI is 1 if clusters and moons are the same.

grid = np.meshgrid(np.linspace(-1.4, 2.4, 200), np.linspace(-0.9, 1.4, 150))
points = np.stack(grid, axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    model.fit(X)
    proba = model.predict_proba(points)[:, 0].reshape(150, 200)
    ax.contourf(*grid, proba, levels=np.linspace(0, 1, 11), cmap="Greys", alpha=0.4)
    ax.contour(*grid, proba, levels=[0.5], colors="black", linewidths=1)
    ax.scatter(*X.T, c=np.array(["tab:blue", "tab:orange"])[y], s=5)
    ari = adjusted_rand_score(y, model.predict(X))
    ari_new = adjusted_rand_score(y_new, model.predict(X_new))
    ax.set_title(f"{name}\nARI {ari:.2f}, new points {ari_new:.2f}", fontsize="medium")
