"""What a user is told when a fit does not go well."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import ConvergenceWarning

from skcce._callbacks import N_WRAPPERS
from skcce._training import TrainingState

# With fewer than half of the wanted clusters in use for this many consecutive epochs, a
# fit hardly ever recovers.
_COLLAPSE_EPOCHS = 3
# Parameters that ask for more clusters, and those that shrink weights.
_LARGER = ("lam", "mu", "gamma", "entropy_weight")
_SMALLER = ("weight_decay", "alpha")
_CALLER_OF_FIT = 4 + N_WRAPPERS  # for a function that _fit calls


def advice(error: FloatingPointError, epoch: int) -> str:
    """Return what to do about a model that is no longer finite."""
    return (
        f"{error} in epoch {epoch}. If the model is finite at the start, try a smaller "
        "learning rate."
    )


def raise_if_failed(state: TrainingState) -> None:
    """Raise ValueError if training has come to a model that is not finite."""
    if state.error:
        raise ValueError(advice(state.error, state.n_iter + 1)) from state.error


def raise_if_diverged(state: TrainingState) -> None:
    """Raise ValueError if the model went back to its last good epoch."""
    if state.error:
        raise ValueError(
            f"{advice(state.error, state.n_iter + 1)} The estimator is fitted with "
            f"the weights of epoch {state.n_iter}, the last good ones."
        ) from state.error


def warn_of_collapse(
    state: TrainingState, n_wanted: int, estimator: BaseEstimator
) -> None:
    """Warn in the epoch in which too few clusters were used for the third time."""
    n_used = [np.count_nonzero(shares) for shares in state.share_curve]
    few = [2 * n < n_wanted for n in n_used]
    if few[-_COLLAPSE_EPOCHS:] == [True] * _COLLAPSE_EPOCHS and not any(
        few[-_COLLAPSE_EPOCHS - 1 : -_COLLAPSE_EPOCHS]
    ):
        warnings.warn(
            f"Clusters in use: {n_used[-1]} of {n_wanted} after {state.n_iter} epochs. "
            "The fit has collapsed, and an empty cluster hardly ever comes back. "
            f"Stop it, and try {_changes(estimator, _LARGER, 'a larger')}"
            f"{_changes(estimator, _SMALLER, 'a smaller')}a smaller learning "
            "rate, or a larger batch_size.",
            ConvergenceWarning,
            stacklevel=2,
        )


def warn_if_unfinished(
    state: TrainingState, labels: NDArray, n_wanted: int, estimator: BaseEstimator
) -> None:
    """Warn the caller of fit if it has not reached its goal."""
    if state.interrupted:
        warnings.warn(
            f"Training was interrupted after {state.n_iter} epochs; the estimator "
            "keeps the weights that it had.",
            UserWarning,
            stacklevel=_CALLER_OF_FIT,
        )
    elif not (state.converged or state.stopped):
        warnings.warn(
            f"More than tol={estimator.tol} of the samples still changed "
            f"{'class' if is_classifier(estimator) else 'cluster'} in epoch "
            f"{state.n_iter}. Try a larger max_iter or tol.",
            ConvergenceWarning,
            stacklevel=_CALLER_OF_FIT,
        )
    n_used = np.count_nonzero(np.bincount(labels))
    # A class that is rare need not be predicted.
    if n_used < n_wanted and not is_classifier(estimator):
        warnings.warn(
            f"Clusters in use: {n_used} of {n_wanted}. Try "
            f"{_changes(estimator, _LARGER, 'a larger')}a larger n_init, or fewer "
            "clusters; the data may have fewer distinct groups.",
            ConvergenceWarning,
            stacklevel=_CALLER_OF_FIT,
        )


def _changes(estimator: BaseEstimator, candidates: tuple[str, ...], how: str) -> str:
    """Return advice to change those parameters that the estimator or its parts have."""
    names = {name.rpartition("__")[2] for name in estimator.get_params()}
    there = [name for name in candidates if name in names]
    return f"{how} {' or '.join(there)}, " if there else ""
