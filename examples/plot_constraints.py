"""
Pairs that belong together, and pairs that do not
=================================================

Rows may be grouped in more than one way, and the largest gap need not be the one that
is wanted. A few pairs say which: ``must_link`` are pairs of rows of one cluster,
``cannot_link`` of two.

Pairs also tell of rows in none of them: on digits, the more pairs, the better the
clusters of the other images.
"""  # noqa: D205, D400

# %%
# Four groups, to be made two. Without pairs the fit parts them at the larger gap, left
# from right. Three pairs of each kind turn that: the line is a must-link, dashes are a
# cannot-link.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer

rng = np.random.default_rng(0)
corners = np.array([(0, 0), (5, 0), (0, 4), (5, 4)])
points = np.repeat(corners, 60, axis=0) + rng.normal(0, 0.7, (240, 2))
row = np.repeat([0, 1], 120)  # the lower two groups, and the upper two


def draw_pairs(classes, n_pairs):
    """Return so many random pairs of rows of one class, and of two classes."""
    pairs = rng.integers(len(classes), size=(40 * n_pairs, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    same = classes[pairs[:, 0]] == classes[pairs[:, 1]]
    return pairs[same][:n_pairs], pairs[~same][:n_pairs]


must, cannot = draw_pairs(row, 3)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for ax, given in zip(
    axes, [{}, {"must_link": must, "cannot_link": cannot}], strict=True
):
    clusterer = CollisionClusterer(2, random_state=0, **given).fit(points)
    ax.scatter(*points.T, c=clusterer.labels_, cmap="Set2", s=12)
    for pairs, style in zip(given.values(), ["-", "--"], strict=False):
        ax.plot(*points[pairs].T, style, color="black", linewidth=1)
    ax.set(title="with pairs" if given else "without pairs", xticks=[], yticks=[])

# %%
# Digits, with more and more random pairs of each kind. The score is that of the images
# in no pair, whose clusters the pairs do not say.

X, y = load_digits(return_X_y=True)
numbers, scores = [0, 100, 200, 400], []
for n_pairs in numbers:
    must, cannot = draw_pairs(y, n_pairs)
    labels = CollisionClusterer(
        10, must_link=must, cannot_link=cannot, random_state=0
    ).fit_predict(X)
    others = np.setdiff1d(np.arange(len(X)), [must, cannot])
    scores.append(adjusted_rand_score(y[others], labels[others]))
    n_broken = np.sum(labels[must[:, 0]] != labels[must[:, 1]])
    n_broken += np.sum(labels[cannot[:, 0]] == labels[cannot[:, 1]])
    print(f"{n_pairs:3} pairs: ARI {scores[-1]:.3f}, {n_broken} of them do not hold")
figure, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
ax.plot(numbers, scores, "o-")
ax.grid(alpha=0.3)
labels = ax.set(xlabel="pairs of each kind", ylabel="ARI of the other digits")
