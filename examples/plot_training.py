"""
How a fit went
==============

``TrainingDisplay`` shows a collapse of clusters, which the loss does not. Started from
random weights, two fits of the digits have loss curves alike; but with ``lam=0.01``,
too weak a wish for equal clusters, three of ten clusters are lost on the way, and the
accuracy is 61 percent instead of 89.

A single start from random weights, on the rows as they are, is not the default: that is
the best of twelve starts from k-means, on features that follow the neighbors.
"""  # noqa: D205, D400

# %%
# A fit that loses clusters also warns; that is the point here, so it may.

import warnings

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from skcce import CollisionClusterer
from skcce.metrics import clustering_accuracy_score
from skcce.plot import TrainingDisplay

warnings.simplefilter("ignore", ConvergenceWarning)
X, y = load_digits(return_X_y=True)
clusterers = [
    CollisionClusterer(
        10,
        lam=lam,
        features=None,
        init="random",
        n_init=1,
        max_iter=60,
        random_state=0,
    ).fit(X)
    for lam in [1, 0.01]
]

# %%
# In the middle are the share of clusters in use and the balance, which is 1 if all are
# equally large. Below are the sizes, one color a cluster. Losses with different ``lam``
# cannot be compared, only their course.

figure, axes = plt.subplots(1, 2, figsize=(11, 6.5), layout="constrained")
for clusterer, ax in zip(clusterers, axes, strict=True):
    display = TrainingDisplay.from_estimator(clusterer, ax=ax)
    accuracy = clustering_accuracy_score(y, clusterer.labels_)
    display.axes_[0].set_title(f"lam={clusterer.lam}: accuracy {accuracy:.1%}")
    for epoch in [0, -1]:
        shares = clusterer.share_curve_[epoch]
        print(
            f"lam={clusterer.lam}, epoch {epoch % clusterer.n_iter_ + 1}: "
            f"shares from {shares.min():.1%} to {shares.max():.1%}"
        )
