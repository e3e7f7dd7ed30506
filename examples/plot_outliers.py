"""
Outliers
========

``outlier_scores_`` tells rows that belong nowhere from those of the clusters. Among the
digits are 180 images whose pixels are those of digits, shuffled; all of them have
higher scores than any digit. The confidence of the clusters is no such score: it is
about which cluster, and not about whether any.

``contamination`` says which part of the rows is to get the label -1, among the training
rows and in ``predict``. It is yours to say.
"""  # noqa: D205, D400

# %%
# The clusters of the digits are not worse for it.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from skcce import CollisionClusterer

digits, y = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
shuffled = rng.permuted(rng.permutation(digits)[:180], axis=1)
X = np.vstack([digits, shuffled])
is_foreign = np.arange(len(X)) >= len(digits)

clusterer = CollisionClusterer(10, contamination=0.1, random_state=0).fit(X)
scores, confidence = clusterer.outlier_scores_, clusterer.probabilities_
outliers = clusterer.labels_ == -1
print(f"AUROC of the scores: {roc_auc_score(is_foreign, scores):.3f}")
print(f"AUROC of 1 - confidence: {roc_auc_score(is_foreign, 1 - confidence):.3f}")
print(f"of the shuffled images, {outliers[is_foreign].mean():.0%} have the label -1,")
print(f"of the digits {outliers[~is_foreign].mean():.1%}")

alone = CollisionClusterer(10, random_state=0).fit(digits).labels_
among = clusterer.predict_proba(digits).argmax(axis=1)
for name, labels in [("alone", alone), ("with foreign rows", among)]:
    print(f"ARI of the digits {name}: {adjusted_rand_score(y, labels):.2f}")

# %%
# The line is the threshold that ``contamination`` makes. Below, the digits with the
# highest scores: who writes like this is rare.

figure = plt.figure(figsize=(8, 4.4), layout="constrained")
axes = figure.subplot_mosaic(
    [["scores"] * 10, list("0123456789")], height_ratios=[3, 1]
)
bins = np.linspace(0, scores.max(), 60)
for rows, color, name in [
    (~is_foreign, "tab:blue", "digits"),
    (is_foreign, "tab:orange", "shuffled pixels"),
]:
    axes["scores"].hist(scores[rows], bins, color=color, alpha=0.7, label=name)
threshold = scores[outliers].min()
axes["scores"].axvline(threshold, color="black", linestyle="--", linewidth=1)
axes["scores"].set(xlabel="outlier_scores_", ylabel="Images")
axes["scores"].legend()
strangest = np.argsort(-scores[~is_foreign])[:10]
for place, row in enumerate(strangest):
    axes[str(place)].imshow(digits[row].reshape(8, 8), cmap="Greys")
    axes[str(place)].set_axis_off()
