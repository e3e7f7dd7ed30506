"""The solvers for the soft pseudo-labels."""

from skcce._pseudo_labels.objective import (
    check_prior,
    fairness,
    positive_rows,
)
from skcce._pseudo_labels.running import (
    RunningUsage,
    labels_at,
    updated,
    usage_of,
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
    "RunningUsage",
    "check_prior",
    "fairness",
    "labels_at",
    "positive_rows",
    "solve_batch",
    "solve_pseudo_labels",
    "updated",
    "usage_of",
]
