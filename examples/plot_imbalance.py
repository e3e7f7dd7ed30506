"""
Very different sizes
====================

By default the fit sees for itself that sizes are unequal, and takes the shares from its
tree of clusters. On digits of which the most frequent is about 18 times as frequent as
the rarest, this is better than to ask for equal shares (``prior=None``), with any
weight ``lam``, and better than k-means.

The true shares, given as ``prior``, are worth less than the tree: they say how large
the clusters are, and not which is which.
"""  # noqa: D205, D400

# %%
# The digits, thinned out: each class has about 0.72 times as many images as the one
# before, in five random orders of the classes.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer

# With a small lam, some of the ten clusters may stay empty.
warnings.simplefilter("ignore", ConvergenceWarning)
X, y = load_digits(return_X_y=True)


def thin_out(rng):
    """Return rows whose class sizes fall from all to a twentieth, and the sizes."""
    parts = []
    for part, digit in zip(np.geomspace(1, 0.05, 10), rng.permutation(10), strict=True):
        members = rng.permutation(np.flatnonzero(y == digit))
        parts.append(members[: max(10, int(part * len(members)))])
    return rng.permutation(np.concatenate(parts)), [len(part) for part in parts]


scores = {}
for seed in range(5):
    rows, sizes = thin_out(np.random.default_rng(seed))
    common = {"n_clusters": 10, "random_state": seed}
    clusterers = {
        "default": CollisionClusterer(**common),
        "prior=true shares": CollisionClusterer(prior=sizes, **common),
        "prior=None, lam=0.1": CollisionClusterer(prior=None, lam=0.1, **common),
        "prior=None": CollisionClusterer(prior=None, **common),
        "KMeans": KMeans(n_init=10, **common),
    }
    for name, clusterer in clusterers.items():
        ari = adjusted_rand_score(y[rows], clusterer.fit_predict(X[rows]))
        scores.setdefault(name, []).append(ari)
for name, aris in scores.items():
    print(f"{name:20}: ARI {np.mean(aris):.2f}, {min(aris):.2f} to {max(aris):.2f}")

# %%
# Dots are the five subsets, bars their means.

figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
colors = ["tab:blue", "tab:green", "tab:purple", "tab:purple", "tab:orange"]
names = list(scores)[::-1]
means = [np.mean(scores[name]) for name in names]
ax.barh(names, means, color=colors[::-1], alpha=0.35, height=0.6)
for name, color in zip(scores, colors, strict=True):
    ax.scatter(scores[name], [name] * 5, color=color, s=18)
bounds = ax.set(xlabel="ARI", xlim=(0, 1))
