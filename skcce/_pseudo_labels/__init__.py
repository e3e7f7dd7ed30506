"""The solvers for the soft pseudo-labels."""

from skcce._pseudo_labels.em import expectation_maximization
from skcce._pseudo_labels.objective import (
    check_prior,
    fairness,
    positive_rows,
    pseudo_label_loss,
)
from skcce._pseudo_labels.solve import MAX_LAM, PseudoLabels, solve_pseudo_labels

__all__ = [
    "MAX_LAM",
    "PseudoLabels",
    "check_prior",
    "expectation_maximization",
    "fairness",
    "positive_rows",
    "pseudo_label_loss",
    "solve_pseudo_labels",
]


def solve_batch(proba, lam, prior, *, forward, n_iter, weight=None, fixed=None):
    from skcce._pseudo_labels.interior_point import interior_point

    labels = positive_rows(proba)
    if not forward:
        expectation_maximization(proba, labels, lam, prior, n_iter)
        return labels
    return interior_point(labels, lam, prior, True, 100, 1e-2)[0]
