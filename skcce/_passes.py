"""Training in passes over rows that are too many for memory.

Without neighbors, the rows depend on each other through the usages of the clusters
alone. Where these are running ones, what a step needs is a sum over its rows: of the
losses, of their gradients, K x d numbers, and of the labels. So the rows are read block
by block, by any workers, and nothing of n x K is ever held.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

from skcce._blocks import (
    BLOCK,
    cut,
    in_groups,
    rows_of,
    total,
    visiting,
)
from skcce._data import TrainingData
from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._objective import Epoch, Objective
from skcce._pseudo_labels import RunningUsage, updated
from skcce._ranks import check_ranks
from skcce._training import Plan, TrainingState, begin, finite_logits, run_epochs

# Part of the rows over which usages are averaged: some steps, which may differ where
# the chunks of a dask array do.
_MEMORY = 1 / 8


def goes_in_passes(
    model: SoftmaxModel, objective: Objective, data: TrainingData
) -> bool:
    """Whether a model can be trained on all rows, after a fit to a sample of them."""
    knows_more = data.graph, data.links, data.target
    return learns_from_sums(model, objective) and all(
        part is None for part in knows_more
    )


def learns_from_sums(model: SoftmaxModel, objective: Objective) -> bool:
    """Whether all that a step of the model needs are sums over its rows."""
    return (
        objective.is_additive
        and isinstance(model, LinearSoftmax)
        and not model.needs_all_samples
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
    n_rows = int(ends[-1])
    start = model.get_state()
    start.pop("optimizer")
    model.set_state(start)
    if model.distributed:
        check_ranks(ends, start["weights"])
    state = begin(finite_logits(model, sample.X), random_state)
    state.model_state = model.get_state()
    n_clusters = state.proba.shape[1]
    latest = np.full(n_rows, n_clusters, np.min_scalar_type(n_clusters))
    objective.begin_epoch(Epoch(state.proba))
    usage = objective.usages(state.proba, _MEMORY * n_rows, sample.weight)

    def visit_all(visit: Callable, on_samples: Callable) -> tuple:
        nonlocal usage
        progress = plan.epoch_progress(state.n_iter)
        objective.begin_epoch(Epoch(state.proba, progress=progress))
        groups = in_groups(ends, state.random_state)
        loss, changed, counts = 0.0, 0.0, np.zeros(n_clusters)

        def summands(blocks: list) -> Iterator[list]:
            nonlocal changed, counts
            weights = [None] * len(blocks)
            if weight is not None:
                weights = [weight[rows_of(ends, block)] for block in blocks]
            function = partial(summed, model.frozen(), objective, usage)
            parts = visit(function, blocks, weights)
            for block, some, (labels, *sums) in zip(
                blocks, weights, parts, strict=True
            ):
                rows = rows_of(ends, block)
                is_new = labels != latest[rows]
                changed += is_new.sum() if some is None else some[is_new].sum()
                counts += np.bincount(labels, some, n_clusters)
                latest[rows] = labels
                on_samples(len(labels))
                yield sums

        for i, blocks in enumerate(groups):
            loss_sum, *gradient, label_sums, size = total(summands(blocks))
            if size == 0:
                continue  # rows of weight 0 only
            usage = updated(usage, label_sums, size)
            value = objective.mean_value(loss_sum, usage, size)
            if not np.isfinite(value):
                raise FloatingPointError("The loss became infinite or NaN")
            model.update(
                [part / size for part in gradient],
                plan.step_progress(state.n_iter + i / len(groups)),
            )
            loss += value * size / n_rows
        # Nothing has looked at the result of the last step yet.
        finite_logits(model, sample.X[:BLOCK])
        return loss, changed / n_rows, counts / n_rows

    with visiting(X, distributed=model.distributed) as visit:
        run_epochs(
            partial(visit_all, visit), model, objective, n_rows, plan, state, **options
        )
    return state


def summed(
    model: LinearSoftmax,
    objective: Objective,
    usage: RunningUsage,
    X: NDArray,
    weight: NDArray | None = None,
) -> tuple:
    """Return the clusters of a block, and what it adds to a step: `at_usages`, weight.

    Sums are in float64, so that their order hardly matters.
    """
    clusters, sums = [], None

    def parts() -> Iterator[list]:
        for rows in gen_batches(X.shape[0], 4 * BLOCK):
            some = None if weight is None else weight[rows]
            found = []

            def evaluate(logits, some=some, found=found):
                loss, gradient, sums = objective.at_usages(logits, usage, some)
                clusters.append(logits.argmax(axis=1))
                found.append(sums)
                return loss, gradient

            loss, gradient = model.gradient(X[rows], evaluate)
            gradient = [part.astype(np.float64) for part in gradient]
            size = rows.stop - rows.start if some is None else some.sum()
            yield [loss, *gradient, *found, float(size)]

    with np.errstate(over="ignore", invalid="ignore"):
        sums = total(parts())
    small = np.min_scalar_type(sums[-2].shape[1])
    return np.concatenate(clusters).astype(small), *sums
