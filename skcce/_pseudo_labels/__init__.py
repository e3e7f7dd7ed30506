"""The solvers for the soft pseudo-labels."""

from skcce._pseudo_labels.objective import (
    check_prior,
    fairness,
    positive_rows,
    pseudo_label_loss,
)
from skcce._pseudo_labels.solve import (
    MAX_LAM,
    PseudoLabels,
    solve_batch,
    solve_pseudo_labels,
)

__all__ = [
    "MAX_LAM",
    "PseudoLabels",
    "check_prior",
    "fairness",
    "positive_rows",
    "pseudo_label_loss",
    "solve_batch",
    "solve_pseudo_labels",
]
