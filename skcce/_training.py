"""The training loop (Algorithm 2 of the paper), for any objective and any model."""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skcce._data import TrainingData
from skcce._model import SoftmaxModel
from skcce._objective import Batch, Objective
from skcce._progress import progress_bar, show_epoch
from skcce._views import logits_of_views, read
from skcce.losses import log_normalize

# Stop after this many consecutive epochs with few label changes.
_PATIENCE = 3
_N_LOOKED_AT = 32  # samples whose logits tell whether a model is still finite


class Plan(NamedTuple):
    """How the data are visited, and for how long.

    batch_size : samples per step, at most.
    max_iter : epochs, at most.
    tol : share of samples; training stops when fewer change cluster.
    step_progress : maps the number of epochs done, a fraction included, to the progress
        that the model's learning rate sees.
    epoch_progress : the same for whole epochs, as the objective sees it.
    """

    batch_size: int
    max_iter: int
    tol: float
    step_progress: Callable[[float], float]
    epoch_progress: Callable[[int], float]


def epochs(batch_size: int, max_iter: int, tol: float) -> Plan:
    """Plan `max_iter` epochs, over which learning rate and objective change."""
    return Plan(
        batch_size,
        max_iter,
        tol,
        lambda done: done / max_iter,
        lambda done: done / max(1, max_iter - 1),
    )


def trial(batch_size: int, max_iter: int, tol: float) -> Plan:
    """Plan a short run: a whole schedule for the model, a start for the objective."""
    whole = epochs(batch_size, max_iter, tol)
    return whole._replace(epoch_progress=lambda done: 0.0)


@dataclass
class TrainingState:
    """Where training stands; :func:`train` goes on from there.

    proba : latest prediction for each sample, (n_samples, n_clusters).
    loss_curve : value of the objective in every epoch, as its batches were visited.
    share_curve : share of the samples in each cluster, (n_clusters,), in every epoch.
    n_calm : epochs in a row, up to now, in which hardly a sample changed cluster.
    random_state : source of the random numbers to come.
    model_state : that of the model after the last epoch.
    stopped, interrupted : whether it was ended by a callback, or by KeyboardInterrupt.
    error : why no further step is possible; the model is back at `model_state` then.
    """

    proba: NDArray
    random_state: np.random.RandomState | None = None
    loss_curve: list[float] = field(default_factory=list)
    share_curve: list[NDArray] = field(default_factory=list)
    n_calm: int = 0
    model_state: Any = None
    stopped: bool = False
    interrupted: bool = False
    error: FloatingPointError | None = None

    @property
    def n_iter(self) -> int:
        return len(self.loss_curve)

    @property
    def converged(self) -> bool:
        return self.n_calm > 0 and not (self.interrupted or self.error)


def begin(logits: NDArray, random_state: np.random.RandomState) -> TrainingState:
    """Return where training begins for a model with these logits."""
    return TrainingState(log_normalize(logits)[1], random_state)


def train(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    plan: Plan,
    state: TrainingState,
    **options: Any,
) -> None:
    """Train `model` and `state` in place, until the plan is fulfilled.

    The options are those of `run_epochs`.
    """

    def visit(on_samples):
        before = state.proba.argmax(axis=1)
        loss = _train_epoch(model, data, objective, plan, state, on_samples)
        after = state.proba.argmax(axis=1)
        shares = data.count(after, state.proba.shape[1]) / data.n_samples
        # Nothing has looked at the result of the last step yet.
        finite_logits(model, data.X[:_N_LOOKED_AT])
        return loss, data.mean(before != after), shares

    run_epochs(visit, model, objective, data.n_samples, plan, state, **options)


def run_epochs(
    visit: Callable[[Callable[[int], Any]], tuple[float, float, NDArray]],
    model: SoftmaxModel,
    objective: Objective,
    n_samples: int,
    plan: Plan,
    state: TrainingState,
    *,
    verbose: int = 0,
    title: str = "",
    begin_epoch: Callable[[], None] = lambda: None,
    end_epoch: Callable[[TrainingState], bool] = lambda state: False,
) -> None:
    """Call `visit` for every epoch, until the plan is fulfilled.

    A true result of `end_epoch` stops it; so does Ctrl-C, and a loss that is not
    finite, after which the model is what it was at the end of the last epoch.

    visit : trains for an epoch, and tells how many samples it has just seen; returns
        the loss, the part of the samples that changed cluster, and the clusters' shares
    """
    with progress_bar(
        verbose,
        total=n_samples * plan.max_iter,
        initial=n_samples * state.n_iter,
        unit=" samples",
        unit_scale=True,
    ) as bar:
        try:
            while state.n_iter < plan.max_iter and state.n_calm < _PATIENCE:
                begin_epoch()
                bar.set_description(f"{title}epoch {state.n_iter + 1}", refresh=False)
                loss, changed, shares = visit(bar.update)
                state.model_state = model.get_state()
                state.loss_curve.append(loss)
                state.share_curve.append(shares)
                is_calm = changed <= plan.tol and objective.may_stop
                state.n_calm = state.n_calm + 1 if is_calm else 0
                show_epoch(bar, verbose, state.n_iter, loss, changed, shares)
                state.stopped = end_epoch(state)
                if state.stopped:
                    break
        except KeyboardInterrupt:
            state.interrupted = True
        except FloatingPointError as error:
            state.error = error
            if state.model_state is not None:
                model.set_state(state.model_state)


def _train_epoch(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    plan: Plan,
    state: TrainingState,
    on_samples: Callable[[int], Any],
) -> float:
    """Visit every sample once, and return the mean value of the objective."""
    n_samples = data.n_samples
    latest = np.empty_like(state.proba)  # logits
    n_batches = -(-n_samples // plan.batch_size)
    objective.begin_epoch(data.epoch(state.proba, plan.epoch_progress(state.n_iter)))
    # A single batch has no order, and draws no numbers that depend on n_samples.
    order = np.arange(n_samples)
    if n_batches > 1:
        order = state.random_state.permutation(n_samples)
    batches = np.array_split(order, n_batches)
    loss = 0.0
    # A step that is too large overflows; the check of the logits tells.
    with np.errstate(over="ignore", invalid="ignore"):
        for i, rows in enumerate(batches):
            batch = data.batch(rows)

            def evaluate_batch(logits, batch=batch):
                # The samples, the views that the model makes, and those that were read.
                views = _finite(logits).reshape(-1, len(batch.rows), logits.shape[-1])
                latest[batch.rows] = views[0]
                value, gradient = _checked(objective, views, batch)
                return value, gradient.reshape(logits.shape)

            value = model.train_step(
                read(model, data, objective, rows, state.random_state),
                evaluate_batch,
                progress=plan.step_progress(state.n_iter + i / n_batches),
            )
            loss += value * len(rows) / n_samples
            on_samples(len(rows))
    state.proba = log_normalize(latest)[1]
    return loss


def _checked(
    objective: Objective, logits: NDArray, batch: Batch
) -> tuple[float, NDArray]:
    """Call an objective, which may be anybody's, and check what it returns."""
    result = objective(logits, batch)
    wanted = f"must return a number and a gradient of shape {logits.shape}"
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"objective={objective!r} {wanted}, not {reprlib.repr(result)}."
        )
    value, gradient = result
    if not isinstance(value, Real) or np.shape(gradient) != logits.shape:
        raise TypeError(
            f"objective={objective!r} {wanted}, got shapes {np.shape(value)} and "
            f"{np.shape(gradient)}."
        )
    if not math.isfinite(value):
        raise FloatingPointError("The loss became infinite or NaN")
    return float(value), gradient


def evaluate(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    state: TrainingState,
    progress: float,
) -> tuple[NDArray, float]:
    """Return the logits of all samples, and the value of the objective for them.

    The predictions of `state` become those of the model. Raises FloatingPointError if
    they are not finite: no step follows that would tell.
    """
    logits = finite_logits(model, data.X)
    state.proba = log_normalize(logits)[1]
    objective.begin_epoch(data.epoch(state.proba, progress))
    rows = np.arange(data.n_samples)
    # Always the same views, so that values can be compared.
    views = [
        logits,
        *logits_of_views(model, data, objective, logits, np.random.RandomState(0)),
    ]
    return logits, _checked(objective, np.stack(views), data.batch(rows))[0]


def finite_logits(model: SoftmaxModel, X: Any) -> NDArray:
    """Return the logits, or raise FloatingPointError if one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        logits = model.decision_function(X)
    return _finite(logits)


def _finite(logits: NDArray) -> NDArray:
    if not np.isfinite(logits).all():
        raise FloatingPointError("The logits became infinite or NaN")
    return logits
