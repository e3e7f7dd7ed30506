"""Scores of rows that belong nowhere, from the distances to their nearest neighbors."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

# Rows have mean square norm 1; shorter distances are rounding, or copies of a row.
_SHORTEST = 1e-3


def local_statistics(distances: NDArray) -> NDArray:
    """Return how far the neighbors of every row are, and in how few dimensions.

    Parameters
    ----------
    distances : ndarray of shape (n_samples, n_neighbors)
        Distances to the nearest neighbors, ascending, without the row itself, between
        rows of mean square norm 1.

    Returns
    -------
    ndarray of shape (n_samples, 2)
        The logarithm of the mean distance, and the inverse of the local dimension
        (Levina and Bickel's estimate). Both may be averaged over rows.
    """
    if distances.ndim != 2 or distances.shape[1] < 2:
        raise ValueError(
            "distances must have shape (n_samples, n_neighbors >= 2), got "
            f"{distances.shape}."
        )
    distances = np.maximum(distances.astype(np.float64), _SHORTEST)
    inverse_dimension = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
    return np.column_stack([np.log(distances.mean(axis=1)), inverse_dimension])


def isolation(coordinates: NDArray, eigenvalues: NDArray) -> NDArray:
    """Return how long the walk takes to come to every row, as a logarithm.

    Parameters
    ----------
    coordinates : ndarray of shape (n_samples, n_components)
        Leading eigenvectors of the walk, without the constant one, of mean square 1
        under its stationary distribution.
    eigenvalues : ndarray of shape (n_components,)
        Their eigenvalues, at most 1.

    Returns
    -------
    ndarray of shape (n_samples,)
        Large in small groups that the walk seldom enters.
    """
    # A group of no connections has eigenvalue 1, and would be at infinity.
    gaps = np.maximum(1 - eigenvalues, 1e-4)
    return np.log((coordinates**2 / gaps).sum(axis=1) + np.finfo(np.float64).tiny)


def outlier_signals(
    local: NDArray, around: NDArray, isolation: NDArray | None = None
) -> NDArray:
    """Return what tells rows that belong nowhere from the others.

    Parameters
    ----------
    local : ndarray of shape (n_samples, 2)
        Local statistics of the rows.
    around : ndarray of shape (n_samples, 2)
        Local statistics averaged around each of them: along the walk for the training
        data, over those of the nearest training rows for others.
    isolation : ndarray of shape (n_samples,), default=None
        Isolation of the rows, if it is known.

    Returns
    -------
    ndarray of shape (n_samples, 3 or 4)
        The dimension around the row, its distance, that relative to the distances
        around it, and its isolation.
    """
    distance = local[:, 0]
    dimension = -np.log(np.maximum(around[:, 1], _SHORTEST))
    signals = [dimension, distance, distance - around[:, 0]]
    if isolation is not None:
        signals.append(isolation)
    return np.column_stack(signals)


def usual_signals(signals: NDArray) -> tuple[NDArray, NDArray]:
    """Return the median and the robust standard deviation of every signal."""
    spread = median_abs_deviation(signals, axis=0, scale="normal")
    # Where more than half of the rows are equal, as copies, the others still vary.
    return np.median(signals, axis=0), np.where(spread > 0, spread, signals.std(axis=0))


def outlier_scores(signals: NDArray, usual: tuple[NDArray, NDArray]) -> NDArray:
    """Return how foreign every row is.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, 3 or 4)
        Signals of the rows.
    usual : (median, spread)
        Those of the training data.

    Returns
    -------
    ndarray of shape (n_samples,)
        Distance from the usual in robust standard deviations, 0 or more: higher is more
        foreign.
    """
    median, spread = usual
    deviations = (signals - median) / np.where(spread > 0, spread, 1)
    # Foreign rows that form a group may have simpler neighborhoods than the others.
    # Nearer neighbors, in contrast, are those of a row in the middle of a cluster.
    deviations[:, 1:] = np.maximum(deviations[:, 1:], 0)
    return np.sqrt((deviations**2).sum(axis=1))


def outlier_threshold(scores: NDArray, contamination: float) -> float:
    """Return the score above which a share `contamination` of the rows lies."""
    if not 0 < contamination <= 0.5:
        raise ValueError(
            f"contamination={contamination} must be in (0, 0.5], the share of outliers."
        )
    return float(np.quantile(scores, 1 - contamination))
