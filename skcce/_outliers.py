"""Scores of rows that belong nowhere, from the distances to their nearest neighbors."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from skcce._neighbors import SHORTEST, Neighbors, smooth


class Surroundings(NamedTuple):
    """What the training data are like around each of their rows.

    around : local statistics, averaged along the walk, (n_samples, 2).
    median, spread : those of the signals, (3,).
    threshold : score above which a row belongs nowhere.
    """

    around: NDArray
    median: NDArray
    spread: NDArray
    threshold: float

    def scores(self, distances: NDArray, nearest: NDArray) -> NDArray:
        """Return how foreign new rows are, from their nearest training rows."""
        around = self.around[nearest].mean(axis=1)
        signals = outlier_signals(local_statistics(distances), around)
        return outlier_scores(signals, (self.median, self.spread))


def find_outliers(
    neighbors: Neighbors, contamination: float | None
) -> tuple[NDArray, Surroundings]:
    """Return how foreign each training row is, and what tells it of new rows.

    contamination : share of the rows above the threshold; None for no threshold.
    """
    local = local_statistics(neighbors.distances)
    around = smooth(neighbors.walk, local)
    signals = outlier_signals(local, around[neighbors.nearest].mean(axis=1))
    median, spread = usual_signals(signals)
    scores = outlier_scores(signals, (median, spread))
    threshold = np.inf
    if contamination is not None:
        threshold = float(np.quantile(scores, 1 - contamination))
    return scores, Surroundings(around, median, spread, threshold)


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
    distances = np.maximum(distances.astype(np.float64), SHORTEST)
    others = distances[:, : max(1, distances.shape[1] - 1)]
    inverse_dimension = np.log(distances[:, -1:] / others).mean(axis=1)
    return np.column_stack([np.log(distances.mean(axis=1)), inverse_dimension])


def outlier_signals(local: NDArray, around: NDArray) -> NDArray:
    """Return what tells rows that belong nowhere from the others.

    Parameters
    ----------
    local : ndarray of shape (n_samples, 2)
        Local statistics of the rows.
    around : ndarray of shape (n_samples, 2)
        Local statistics around each of them: the mean of those of the nearest training
        rows, averaged along the walk.

    Returns
    -------
    ndarray of shape (n_samples, 3)
        The dimension around the row, its distance, and that relative to the distances
        around it.
    """
    distance = local[:, 0]
    dimension = -np.log(np.maximum(around[:, 1], SHORTEST))
    return np.column_stack([dimension, distance, distance - around[:, 0]])


def usual_signals(signals: NDArray) -> tuple[NDArray, NDArray]:
    """Return the median and the robust standard deviation of every signal."""
    spread = median_abs_deviation(signals, axis=0, scale="normal")
    # Where more than half of the rows are equal, as copies, the others still vary.
    return np.median(signals, axis=0), np.where(spread > 0, spread, signals.std(axis=0))


def outlier_scores(signals: NDArray, usual: tuple[NDArray, NDArray]) -> NDArray:
    """Return how foreign every row is.

    Parameters
    ----------
    signals : ndarray of shape (n_samples, 3)
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
