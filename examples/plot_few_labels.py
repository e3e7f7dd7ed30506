"""
A few labels
============

A classifier learns from labeled samples only, a clusterer from none.
:class:`skcce.CollisionClassifier` takes both: some samples with labels, and the others
with -1, as scikit-learn's semi-supervised classifiers. Where labels are few, what
counts is how they spread: along the graph of nearest neighbors, not along straight
lines.
"""  # noqa: D205, D400

# %%
# One label for each moon. The boundary follows the gap between them, since walks from
# the two labeled samples stay in their moons.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits, make_moons
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skcce import CollisionClassifier

X, y = make_moons(400, noise=0.08, random_state=0)
labels = np.full(len(y), -1)
labels[[np.flatnonzero(y == 0)[3], np.flatnonzero(y == 1)[1]]] = [0, 1]
known = labels >= 0
OURS = "CollisionClassifier"
classifiers = {
    OURS: CollisionClassifier(random_state=0).fit(X, labels),
    "LogisticRegression": LogisticRegression().fit(X[known], labels[known]),
}
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3), layout="constrained")
for ax, (name, classifier) in zip(panels, classifiers.items(), strict=True):
    look = {"response_method": "predict_proba", "class_of_interest": 1, "alpha": 0.5}
    DecisionBoundaryDisplay.from_estimator(classifier, X, cmap="RdBu", ax=ax, **look)
    ax.scatter(*X.T, s=4, color="gray")
    ax.scatter(*X[known].T, s=90, c=labels[known], cmap="RdBu", edgecolor="black")
    ax.set_title(f"{name}: {100 * np.mean(classifier.predict(X) == y):.0f} % right")

# %%
# Digits: accuracy on the samples without a label, a mean of two draws of the labels.
# (`examples/few_labels.py` has more data sets, and five draws.)

X, y = load_digits(return_X_y=True)
numbers = [10, 20, 50, 100]
logistic = LogisticRegression(max_iter=1000)
scores = {}
for seed in range(2):
    rng = np.random.default_rng(seed)
    first = [rng.choice(np.flatnonzero(y == digit)) for digit in range(10)]
    others = rng.permutation(np.setdiff1d(np.arange(len(y)), first))
    for n in numbers:
        known = np.zeros(len(y), dtype=bool)
        known[first] = known[others[: n - 10]] = True
        some = np.where(known, y, -1)
        spreading = LabelSpreading(kernel="knn").fit(X, some)
        predicted = {
            OURS: CollisionClassifier(random_state=seed).fit(X, some).transduction_,
            "LabelSpreading": spreading.transduction_,
            "SelfTraining": SelfTrainingClassifier(logistic).fit(X, some).predict(X),
            "LogisticRegression": logistic.fit(X[known], y[known]).predict(X),
        }
        for name, labels in predicted.items():
            accuracy = 100 * np.mean(labels[~known] == y[~known])
            scores.setdefault(name, {}).setdefault(n, []).append(accuracy)
figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, by_number in scores.items():
    means = [np.mean(by_number[n]) for n in numbers]
    ax.plot(numbers, means, "-o" if name == OURS else "--o", ms=4, label=name)
    print(f"{name:23}" + "".join(f"{mean:7.1f}" for mean in means))
ax.set(xscale="log", xlabel="labeled digits, of 1797", ylabel="accuracy, %")
ax.set_xticks(numbers, numbers)
ax.minorticks_off()
ax.legend()
plt.show()
