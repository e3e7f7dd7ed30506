"""
Pseudo-labels
=============

A model is trained with pseudo-labels, which follow from its own predictions: with a
small ``lam`` each goes to a corner, which means one cluster, mostly the nearest; with a
large ``lam`` some go farther, or between two, so that the clusters become equally
large. On iris, early in a fit, the smallest cluster has 22 percent of the
predictions; its share of the pseudo-labels is 15 percent with ``lam=0.1``, and 32
percent with ``lam=10``.

The labels need not be right: even with ``lam=10`` some flowers of one species go to the
corner of another.
"""  # noqa: D205, D400

# %%
# Three epochs from random weights, which is too short to be a good clustering.
# ``tol=1`` says that this is on purpose.

import matplotlib.pyplot as plt
from sklearn.datasets import load_iris

from skcce import CollisionClusterer, LinearSoftmax, solve_pseudo_labels
from skcce.plot import SimplexDisplay

iris = load_iris()
species = iris.target_names[iris.target]
model = LinearSoftmax(learning_rate=0.02)
start = {"init": "random", "n_init": 1, "n_neighbors": 0}
clusterer = CollisionClusterer(
    3, model=model, max_iter=3, tol=1.0, random_state=0, **start
).fit(iris.data)

# %%
# A line leads from each prediction, a dot, to its pseudo-label, a cross. The colors are
# the species, which neither the model nor the solver sees. These are the exact
# pseudo-labels; a fit stops at softer ones, see :doc:`/method`.

proba = clusterer.predict_proba(iris.data)
print(f"shares of the predictions: {proba.mean(axis=0).round(2)}")

figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
for lam, ax in zip([0.1, 10], axes, strict=True):
    labels = solve_pseudo_labels(proba, lam=lam).pseudo_labels
    display = SimplexDisplay.from_predictions(
        proba, pseudo_labels=labels, y=species, ax=ax
    )
    shares = labels.mean(axis=0).round(2)
    ax.set_title(f"lam={lam}: shares {', '.join(map(str, shares))}")
    one_hot = (labels.max(axis=1) > 0.99).sum()
    moved = (labels.argmax(axis=1) != proba.argmax(axis=1)).sum()
    print(
        f"lam={lam}: shares {shares}; of {len(labels)} pseudo-labels, {one_hot} are in "
        f"a corner, {moved} at another cluster than the most probable one"
    )
