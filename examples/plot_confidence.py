"""
What the probabilities are worth
================================

The probabilities of the clusters are as sure as the neighbors of an image are of one
mind, which needs no labels. On the digits their mean is 0.91, and 95 percent of the
images are in the cluster of their digit; before that, it was 0.998. Their order is
useful, too: without the least confident third, 99 percent are.

They know of clusters, and not of classes: an image that is amid a cluster of another
digit is sure, and wrong.
"""  # noqa: D205, D400

# %%
# An image is right if its digit is the one that its cluster is matched to.

import numpy as np
from scipy.special import softmax
from sklearn.datasets import load_digits

from skcce import CollisionClusterer
from skcce.metrics import match_labels
from skcce.plot import ConfidenceDisplay

X, y = load_digits(return_X_y=True)
clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)

matched = match_labels(y, clusterer.labels_)
right = np.array([matched[k] for k in clusterer.labels_]) == y
confidence = clusterer.probabilities_
print(f"mean confidence {confidence.mean():.3f}, accuracy {right.mean():.3f}")
logits = clusterer.decision_function(X) * clusterer.temperature_
raw = softmax(logits, axis=1).max(axis=1)
print(f"without the temperature {clusterer.temperature_:.1f}: {raw.mean():.3f}")
print(f"above 0.9: {np.mean(confidence > 0.9):.1%} of the images")
for left_out in [0, 0.1, 0.2, 0.3, 0.5]:
    threshold = np.quantile(confidence, left_out)
    kept = confidence >= threshold
    print(
        f"without the least confident {left_out:.0%}: "
        f"threshold {threshold:.4f}, accuracy {right[kept].mean():.3f}"
    )

# %%
# On the right, probabilities that could be taken at their word would be on the
# diagonal. The numbered dots are the clusters that are farthest below it; a cluster
# that mixes two digits is sure of itself and wrong for one of them. ECE is the mean
# distance of the blue line from the diagonal, weighted by the number of images.

display = ConfidenceDisplay.from_estimator(clusterer, X, y)
