"""
How noisy are the labels?
=========================

What ``transition`` asks for can be estimated from the noisy labels themselves: take
what makes those likely that the classifier has not seen. A number is searched for by
cross-validation, a matrix is found by turns: predictions of samples that were left out,
then the matrix that makes their labels likely.

That works as long as the right label of each class is its most frequent one. Beyond
that, no noisy label tells which class is which.
"""  # noqa: D205, D400

# %%
# First the number: of the labels of digits, 20, 50 or 80 percent are drawn anew. The
# score is the mean log-probability of the noisy labels in the fold that is left out.

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, train_test_split

from skcce import CollisionClassifier

warnings.simplefilter("ignore", ConvergenceWarning)
X, X_test, y, y_test = train_test_split(
    *load_digits(return_X_y=True), test_size=0.3, random_state=0
)
classifier = CollisionClassifier(max_iter=10, random_state=0)
rng = np.random.default_rng(0)


def likelihood(fitted, X, noisy):
    part = fitted.transition
    return -log_loss(noisy, (1 - part) * fitted.predict_proba(X) + part / 10)


figure, ax = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
grid = {"transition": np.arange(1, 10) / 10}
for part in (0.2, 0.5, 0.8):
    noisy = np.where(rng.random(len(y)) < part, rng.integers(10, size=len(y)), y)
    search = GridSearchCV(classifier, grid, scoring=likelihood, cv=3).fit(X, noisy)
    found = search.best_params_["transition"]
    print(f"true part {part}, found {found}")
    scores = search.cv_results_["mean_test_score"]
    (line,) = ax.plot(grid["transition"], scores, label=f"true part {part}")
    ax.axvline(part, color=line.get_color(), ls=":")
    ax.plot(found, search.best_score_, "o", color=line.get_color())
ax.set(xlabel="transition", ylabel="log-likelihood of labels left out")
legend = ax.legend()

# %%
# Now the matrix. Of each digit, three tenths are called by the name of the next one,
# and a tenth by any name. The search begins at a number, one half.

truth = 0.6 * np.eye(10) + 0.3 * np.roll(np.eye(10), 1, axis=0) + 0.1 / 10
noisy = np.array([rng.choice(10, p=truth[:, k]) for k in y])
matrix = 0.5 * np.eye(10) + 0.5 / 10
for _ in range(4):
    classifier.set_params(transition=matrix)
    proba = cross_val_predict(classifier, X, noisy, method="predict_proba")
    for _ in range(100):  # expectation and maximization
        true = proba * matrix[noisy]
        true /= true.sum(axis=1, keepdims=True)
        matrix = np.eye(10)[noisy].T @ true
        matrix /= matrix.sum(axis=0)
for name, known in {"none": None, "found": matrix, "true": truth}.items():
    classifier.set_params(transition=known).fit(X, noisy)
    print(f"matrix {name}: accuracy {classifier.score(X_test, y_test):.3f}")
print(f"mean error of an entry: {np.abs(matrix - truth).mean():.3f}")

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, values, title in zip(axes, (truth, matrix), ("true", "found"), strict=True):
    image = ax.imshow(values, vmin=0, vmax=0.7, cmap="Blues")
    ax.set(title=f"{title} matrix", xlabel="true class", ylabel="label")
bar = figure.colorbar(image, ax=axes)
