"""Where a fit starts from, and which of several starts goes on."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from skcce._autologging import inner_fits
from skcce._data import TrainingData
from skcce._messages import advice
from skcce._model import SoftmaxModel
from skcce._objective import Objective
from skcce._settings import Settings
from skcce._threads import openmp_threads
from skcce._training import TrainingState, begin, evaluate, train, trial

# With several starts, each is trained for this many epochs, or fewer if they make this
# many steps, before the best one goes on: by then its loss says about as much about its
# clusters as at the end.
_TRIAL_EPOCHS = 4
_TRIAL_STEPS = 160
# Each k-means start sees another sample of the rows: cheaper, and the starts differ.
_KMEANS_ROWS = 4096


def find_starts(
    rows: NDArray | None,
    data: TrainingData,
    settings: Settings,
    random_state: np.random.RandomState,
) -> list[NDArray | None]:
    """Return the labels of each start; None stands for random weights."""
    if not isinstance(settings.init, str):
        return [settings.init]
    if settings.init == "random":
        return [None] * settings.n_init
    starts = []
    for _ in range(settings.n_init):
        labels = _kmeans_labels(rows, data, settings.n_clusters, random_state)
        if settings.prior is not None:
            labels = _match_sizes(labels, settings.prior, data)
        starts.append(labels)
    return starts


def _kmeans_labels(
    rows: NDArray,
    data: TrainingData,
    n_clusters: int,
    random_state: np.random.RandomState,
) -> NDArray:
    n_rows = max(_KMEANS_ROWS, 20 * n_clusters)
    sample = random_state.permutation(len(rows))[:n_rows]
    weight = None if data.weight is None else data.weight[sample]
    kmeans = KMeans(n_clusters, n_init=1, random_state=random_state)
    with openmp_threads(1), inner_fits(), warnings.catch_warnings():
        # The fit itself warns at its end if there are too few distinct rows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(rows[sample], sample_weight=weight).predict(rows)


def best_start(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    starts: list[NDArray | None],
    settings: Settings,
    random_state: np.random.RandomState,
    verbose: int,
) -> tuple[SoftmaxModel, TrainingState]:
    """Return the model of the most promising start, and where its training stands.

    starts : labels (n_samples,), or None for random weights.
    """
    plan = settings.plan
    n_batches = -(-data.n_samples // plan.batch_size)
    n_epochs = min(_TRIAL_EPOCHS, -(-_TRIAL_STEPS // n_batches), plan.max_iter)
    short = trial(plan.batch_size, n_epochs, plan.tol)
    best, least = None, np.inf
    for number, labels in enumerate(starts, start=1):
        candidate = clone(model)
        candidate.initialize(
            data.X,
            settings.n_clusters,
            labels=labels,
            sample_weight=data.weight,
            random_state=random_state,
        )
        state = begin(candidate.decision_function(data.X), random_state)
        if len(starts) == 1:
            return candidate, state
        train(
            candidate,
            data,
            objective,
            short,
            state,
            verbose=min(verbose, 1),
            title=f"start {number} of {len(starts)}, ",
        )
        try:
            if state.error:
                raise state.error
            loss = evaluate(candidate, data, objective, state, progress=0.0)[1]
            if model.makes_views and objective.needs_views and state.n_iter:
                loss = state.loss_curve[-1]  # only training makes views
        except FloatingPointError as error:
            failure = advice(error, state.n_iter + bool(state.error))
            continue
        if verbose > 1:
            print(f"start {number} of {len(starts)}: loss {loss:.4f}")
        if best is None or loss < least:
            best, best_state, least = candidate, state, loss
        if state.interrupted:
            best_state.interrupted = True
            return best, best_state
    if best is None:
        raise ValueError(failure)
    return best, TrainingState(best_state.proba, random_state)


def _match_sizes(labels: NDArray, prior: NDArray, data: TrainingData) -> NDArray:
    """Rename clusters, so that the largest one has the name of the largest share."""
    size = data.count(labels, len(prior))
    name = np.empty(len(prior), dtype=labels.dtype)
    name[np.argsort(-size, kind="stable")] = np.argsort(-prior, kind="stable")
    return name[labels]
