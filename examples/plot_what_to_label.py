"""
What to label next
==================

Labels cost work, so ask for the ones that tell most. A clustering comes first; then
:func:`~skcce.model_selection.rows_to_label` names the images whose labels are worth
most: those that could be of several classes, where there are many alike.
"""  # noqa: D205, D400

# %%
# Ten images after each fit, chosen or at random. The classes of all others are what
# the classifier says.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from skcce import CollisionClassifier, CollisionClusterer
from skcce.model_selection import rows_to_label

X, y = load_digits(return_X_y=True)
clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)
n_labels = [10, 20, 30, 40, 50]


def fit(known):
    return CollisionClassifier(n_init=1, random_state=0).fit(X, known)


def accuracy(classifier, known):
    return np.mean(classifier.predict(X[known < 0]) == y[known < 0])


chosen, estimator, known = [], clusterer, np.full(len(X), -1)
for _ in n_labels:
    rows = rows_to_label(estimator, X, 10, known)
    known[rows] = y[rows]  # look at these, and label them
    estimator = fit(known)
    chosen.append(accuracy(estimator, known))

order = np.random.default_rng(0).permutation(len(X))
random, regression = [], []
for n in n_labels:
    known = np.full(len(X), -1)
    known[order[:n]] = y[order[:n]]
    random.append(accuracy(fit(known), known))
    logistic = LogisticRegression(max_iter=1000).fit(X[order[:n]], y[order[:n]])
    regression.append(accuracy(logistic, known))
for n, *values in zip(n_labels, chosen, random, regression, strict=True):
    print(f"{n} labels:", ", ".join(f"{value:.3f}" for value in values))

# %%
# The first ten chosen images name the ten clusters. Random ones leave out digits, which
# a classifier can then never predict.

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(n_labels, chosen, "o-", label="chosen rows")
ax.plot(n_labels, random, "s-", label="random rows")
ax.plot(n_labels, regression, "^--", label="random rows, LogisticRegression")
ax.set(xlabel="labels", ylabel="accuracy on the other rows", xticks=n_labels)
ax.legend()
