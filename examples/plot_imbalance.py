"""
Clusters of very different sizes
================================

The fairness term, of weight ``lam``, asks for equally large clusters. If the largest is
about 18 times the smallest, a small ``lam`` is better than the default 1, and a large
one is worse than k-means. The true shares, given as ``prior``, are no better than a
small ``lam``.

These are means over five thinned-out versions of one data set; from one to the next the
scores differ by more than the curve rises.
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
LAMS = [0.01, 0.03, 0.1, 1, 10, 100]


def thin_out(rng):
    """Return rows whose class sizes fall from all to a twentieth, and the sizes."""
    parts = []
    for part, digit in zip(np.geomspace(1, 0.05, 10), rng.permutation(10), strict=True):
        members = rng.permutation(np.flatnonzero(y == digit))
        parts.append(members[: max(10, int(part * len(members)))])
    return rng.permutation(np.concatenate(parts)), [len(part) for part in parts]


scores = {"KMeans": [], "prior": [], **{lam: [] for lam in LAMS}}
for seed in range(5):
    rows, sizes = thin_out(np.random.default_rng(seed))
    common = {"n_clusters": 10, "random_state": seed}
    clusterers = {
        "KMeans": KMeans(n_init=10, **common),
        "prior": CollisionClusterer(prior=sizes, **common),
        **{lam: CollisionClusterer(lam=lam, **common) for lam in LAMS},
    }
    for name, clusterer in clusterers.items():
        ari = adjusted_rand_score(y[rows], clusterer.fit_predict(X[rows]))
        scores[name].append(ari)
for name, aris in scores.items():
    print(f"{name:6}: ARI {np.mean(aris):.3f}, from {min(aris):.3f} to {max(aris):.3f}")

# %%
# ``prior`` only says how large the clusters are, not which is which: the largest share
# goes to the largest cluster that k-means finds.

figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
curves = np.array([scores[lam] for lam in LAMS])
ax.semilogx(LAMS, curves, color="tab:blue", alpha=0.25, linewidth=1)
ax.semilogx(LAMS, curves.mean(axis=1), "o-", color="tab:blue", label="equal shares")
for name, color, label in [
    ("prior", "tab:green", "prior=true shares, lam=1"),
    ("KMeans", "tab:orange", "KMeans"),
]:
    ax.axhline(np.mean(scores[name]), color=color, linestyle="--", label=label)
ax.set(xlabel="lam", ylabel="ARI", title="Mean of five subsets; pale: each of them")
legend = ax.legend()
