"""
Noisy labels
============

Of the labels of digits, a part is drawn anew from all classes. A classifier that is
told how many, by ``transition``, takes each label for a soft one. Trained on the same
soft labels, collision cross-entropy then keeps more of its accuracy than Shannon's:
predictions need not be as undecided as the labels. This is Figure 2 of the `paper
<https://arxiv.org/abs/2303.07321>`_ with a linear model.
"""  # noqa: D205, D400

# %%
# The accuracy is that on images that were not trained on, whose labels are clean.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from skcce import CollisionClassifier

# Between classes that noise leaves hardly apart, samples go on changing.
warnings.simplefilter("ignore", ConvergenceWarning)
X, y = load_digits(return_X_y=True)
parts = [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
runs = {"collision": [], "shannon": []}
for seed in range(5):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, stratify=y, random_state=seed
    )
    rng = np.random.default_rng(seed)
    for loss in runs:
        runs[loss].append([])
    for part in parts:
        is_new = rng.random(len(y_train)) < part
        noisy = np.where(is_new, rng.integers(10, size=len(y_train)), y_train)
        for loss, accuracies in runs.items():
            classifier = CollisionClassifier(
                loss=loss, transition=part, max_iter=10, random_state=seed
            )
            accuracies[-1].append(classifier.fit(X_train, noisy).score(X_test, y_test))

# %%
# A line is the mean of five seeds, a band a standard deviation wide on either side.

figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
print("part".ljust(10), *(f"{part:5}" for part in parts))
for (loss, accuracies), style in zip(runs.items(), ("-o", "--s"), strict=True):
    mean, std = np.mean(accuracies, axis=0), np.std(accuracies, axis=0)
    print(loss.ljust(10), *(f"{value:5.1%}" for value in mean))
    (line,) = ax.plot(parts, mean, style, label=f"{loss.capitalize()} cross-entropy")
    ax.fill_between(parts, mean - std, mean + std, alpha=0.2, color=line.get_color())
ax.set(xlabel="part of the labels that is random", ylabel="test accuracy")
ax.legend()
