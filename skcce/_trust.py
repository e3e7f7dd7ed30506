"""Whether neighbors know anything of clusters."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestNeighbors

from skcce._autologging import inner_fits
from skcce._threads import openmp_threads

# Rows are enough to tell structure from none.
_ROWS = 2048
_ROWS_PER_CLUSTER = 20


def separation_ratio(
    rows: NDArray,
    n_clusters: int,
    n_neighbors: int,
    random_state: np.random.RandomState,
) -> float:
    r"""Compare how often k-means parts neighbors with how often it would by chance.

    Clusters that exist lie apart: k-means rarely cuts between neighbors. In a cloud
    without clusters it must. The cloud is Gaussian, as large as the data and with the
    same covariance, so that dimension, size and number of clusters cancel.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        What neighbors are searched in. A sample of them is used.
    n_clusters : int
        Number of clusters, at least 2.
    n_neighbors : int
        Number of neighbors, less than n_samples.
    random_state : RandomState
        Draws the sample and the cloud.

    Returns
    -------
    float
        Near 0 if neighbors share their cluster, near 1 if they tell no more of
        clusters than those in the cloud. 1 if all rows are equal.
    """
    size = max(_ROWS, _ROWS_PER_CLUSTER * n_clusters)
    sample = rows[random_state.permutation(len(rows))[:size]]
    sample = sample - sample.mean(axis=0)
    # Random mixtures of the rows have their covariance.
    mixture = random_state.standard_normal((len(sample), len(sample)))
    cloud = mixture.astype(rows.dtype) @ sample / rows.dtype.type(len(sample) ** 0.5)
    with inner_fits(), openmp_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        parted, by_chance = (
            _share_parted(points, n_clusters, n_neighbors, random_state)
            for points in (sample, cloud)
        )
    return parted / by_chance if by_chance > 0 else 1.0


def _share_parted(
    points: NDArray,
    n_clusters: int,
    n_neighbors: int,
    random_state: np.random.RandomState,
) -> float:
    """Return how often k-means parts neighbors, over how often any two points."""
    kmeans = KMeans(n_clusters, n_init=1, random_state=random_state)
    labels = kmeans.fit_predict(points)
    nearest = NearestNeighbors(n_neighbors=n_neighbors).fit(points)
    neighbors = nearest.kneighbors(return_distance=False)
    parted = (labels[neighbors] != labels[:, None]).mean()
    shares = np.bincount(labels) / len(labels)
    any_two = 1 - (shares**2).sum()
    return float(parted / any_two) if any_two > 0 else 0.0
