"""Training in passes over rows that are too many for memory.

Without neighbors, the rows depend on each other through the usages of the clusters
alone. Where these are running ones, what a step needs is a sum over its rows: of the
losses, of their gradients, K x d numbers, and of the labels. So the rows can be read
block by block, by any workers, and nothing of n x K is ever held.
"""

import copy
import math
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from skcce._blocks import (
    BLOCK,
    N_GROUPS,
    cut,
    in_groups,
    rows_of,
    same_everywhere,
    total,
    visiting,
)
from skcce._data import TrainingData
from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._objective import Epoch, Objective
from skcce._pseudo_labels import RunningUsage, updated
from skcce._training import Plan, TrainingState, begin, finite_logits, run_epochs


def goes_in_passes(
    model: SoftmaxModel, objective: Objective, data: TrainingData
) -> bool:
    """Whether a model can be trained on all rows, after a fit to a sample of them."""
    return (
        objective.is_additive
        and isinstance(model, LinearSoftmax)
        and not model.needs_all_samples
        and model.groups_ is None
        and data.graph is None
        and data.links is None
        and data.target is None
    )


def train_in_passes(
    model: LinearSoftmax,
    sample: TrainingData,
    whole: TrainingData,
    objective: Objective,
    plan: Plan,
    random_state: np.random.RandomState,
    **options: Any,
) -> TrainingState:
    """Train `model`, which was fitted to a sample, on all rows, in place.

    The options are those of `run_epochs`. In the first pass, all rows change cluster.
    """
    X, weight = whole.X, whole.weight
    ends = cut(X)
    n_rows, n_clusters = ends[-1], model.n_clusters
    latest = np.full(n_rows, n_clusters, np.min_scalar_type(n_clusters))
    state = begin(finite_logits(model, sample.X), random_state)
    model.restart()
    same_everywhere(ends, *model.weights)
    objective.begin_epoch(Epoch(state.proba))
    usage = objective.usages(state.proba, n_rows / N_GROUPS, sample.weight)

    def visit_all(visit: Callable, on_samples: Callable) -> tuple:
        nonlocal usage
        objective.begin_epoch(Epoch(state.proba, progress=plan.epoch_progress(state.n_iter)))
        groups = in_groups(ends, state.random_state)
        loss, changed, shares = 0.0, 0.0, np.zeros(n_clusters)
        for i, blocks in enumerate(groups):
            places = [rows_of(ends, block) for block in blocks]
            weights = repeat(None, len(blocks))
            if weight is not None:
                weights = [weight[rows] for rows in places]

            function = partial(_sums, model.without_optimizer(), objective, usage)
            def counted():
                for rows, (labels, *sums) in zip(places, visit(function, blocks, weights)):
                    ...
        return loss, changed, shares

    with visiting(X) as visit:
        run_epochs(partial(visit_all, visit), model, objective, n_rows, plan, state, **options)
    return state
