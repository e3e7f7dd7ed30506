"""
Unknown number
==============

``n_clusters="auto"`` grows a tree: a hundred fine clusters are joined two by two, those
first between which neighbors lie most densely. It is cut where there is a valley
between any two clusters. On the digits this leaves 15. All digits but the 1 are found,
and some are divided by how they are written; most of the ones are with the eights.

Where the number matters, look at the tree, and cut it elsewhere: ``cut(12)`` is the
same clusterer with 12 clusters, without another fit.
"""  # noqa: D205, D400

# %%
# What ends in images are the clusters that were found, each with its three most
# confident ones, the name of the digit that most of its images show, and its share. The
# farther to the right two of them are joined, the less there is between them.

from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer
from skcce.plot import TreeDisplay

X, y = load_digits(return_X_y=True)
clusterer = CollisionClusterer("auto", random_state=0).fit(X)
display = TreeDisplay.from_estimator(clusterer, X, y, images=16 - X.reshape(-1, 8, 8))

# %%
# No other number costs a fit. ARI is 1 if clusters and digits are the same.

for n_clusters in (8, 10, 12, clusterer.n_clusters_, 20, 30):
    labels = clusterer.cut(n_clusters).labels_
    print(f"{n_clusters:2} clusters: ARI {adjusted_rand_score(y, labels):.2f}")

# %%
# If the number is known after all, say so: with about equal sizes, that many clusters
# are trained for, and are better than those of the tree.

known = CollisionClusterer(10, random_state=0).fit(X)
print(f"10, known: ARI {adjusted_rand_score(y, known.labels_):.2f}")
