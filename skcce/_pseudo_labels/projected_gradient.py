"""Projected gradient descent: the generic method that the paper compares EM with."""

import numpy as np
from numpy.typing import NDArray

from skcce._kernel import kernel
from skcce._pseudo_labels.dual import balancing_price
from skcce._pseudo_labels.objective import Problem, sum_labels

# Shares and collision probabilities count as at least this in the gradient, which would
# be infinite at zero.
_LEAST = 1e-30
_LARGEST = 1e300  # step; so that differences are finite


def projected_gradient(
    problem: Problem, labels: NDArray, step_size: float, n_iter: int
) -> None:
    """Run projected gradient descent on `labels` in place.

    A step goes along the negative gradient of the loss, divided by the sample's part in
    the mean, so that it depends neither on the number of samples nor on their weights.
    Clusters that the forward divergence forbids, those of zero prior, lose all labels
    in the first step.
    """
    proba, lam, prior, forward, weight, fixed_sum, total_weight, _ = problem
    for _ in range(n_iter):
        usage = (sum_labels(labels, weight) + fixed_sum) / total_weight
        price = balancing_price(np.maximum(usage, _LEAST), lam, prior, forward)
        _gradient_step(proba, price, step_size, labels)


@kernel
def _gradient_step(proba, price, step_size, labels):
    """Take a step and project every row onto the simplex.

    proba : (n_samples, n_clusters) IN
    price : (n_clusters,) IN, minus the gradient of the fairness term, up to a common
        constant; -inf for a cluster whose labels have to be zero
    labels : (n_samples, n_clusters) IN/OUT

    The projection is max(x - threshold, 0), where the threshold makes the row sum to 1;
    it is found in the sorted row (Chen & Ye, "Projection onto a simplex", 2011).
    """
    n_samples, n_clusters = proba.shape
    point = np.empty(n_clusters)
    for i in range(n_samples):
        hit = 0.0
        for k in range(n_clusters):
            hit += np.float64(proba[i, k]) * labels[i, k]
        pull = 1 / max(hit, _LEAST)
        for k in range(n_clusters):
            step = step_size * (proba[i, k] * pull + price[k])
            point[k] = labels[i, k] + min(max(step, -_LARGEST), _LARGEST)
            point[k] = point[k] if price[k] > -np.inf else -np.inf
        # A shift of the row does not change the result; with the largest entry at zero
        # the 1 is not lost beside huge entries.
        highest = point.max()
        for k in range(n_clusters):
            point[k] -= highest
        total = 0.0
        threshold = 0.0
        ordered = np.sort(point)
        for count in range(1, n_clusters + 1):
            total += ordered[n_clusters - count]
            threshold = (total - 1) / count
            if count < n_clusters and threshold >= ordered[n_clusters - count - 1]:
                break
        for k in range(n_clusters):
            labels[i, k] = max(point[k] - threshold, 0.0)
