"""
Where the mistakes are
======================

``MontageDisplay`` shows the most and the least confident images of each cluster. The
mistakes are among the least confident ones: on the digits, 95 percent of them are in
the less confident half of the images.

Confidence is no guarantee: 0.6 percent of the more confident half are also wrong.
"""  # noqa: D205, D400

# %%
# A mistake is an image of another digit than the one that its cluster is matched to.
# The digits are used for this only; the fit does not see them.

import numpy as np
from sklearn.datasets import load_digits

from skcce import CollisionClusterer
from skcce.metrics import match_labels
from skcce.plot import MontageDisplay

X, y = load_digits(return_X_y=True)
clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)

matched = match_labels(y, clusterer.labels_)
wrong = np.array([matched[k] for k in clusterer.labels_]) != y
least_first = np.argsort(clusterer.probabilities_)
halves = np.array_split(wrong[least_first], 2)

print(f"wrong: {wrong.mean():.1%} of all images")
for half, name in zip(halves, ["less", "more"], strict=True):
    print(
        f"the {name} confident half: {half.mean():.1%} wrong, "
        f"{half.sum() / wrong.sum():.0%} of all mistakes"
    )

# %%
# A row is a cluster, with the digit that it is matched to, its number and its share of
# the images. Below are the probabilities of the cluster. Mistakes have a red frame.

display = MontageDisplay.from_estimator(
    clusterer, X, y, images=X.reshape(-1, 8, 8), n_images=8, n_columns=2
)
