"""What a few labels say about all samples, before a model is trained."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from skcce._objective import given_rows

# A walk from a label ends with this probability at each step, so that it sees samples
# that are some 50 steps away; the sum is cut off after twice as many.
_RESTART = 0.02
_N_STEPS = 100
_LEAST = 1e-6  # probability that a label says nothing about its sample's cluster


def label_mass(target: NDArray, weight: NDArray | None = None) -> NDArray:
    """Return the labels `target` (n_samples, n_classes) by weight, 0 where unknown.

    Float64, whatever the dtype of the labels.
    """
    mass = np.nan_to_num(target.astype(np.float64))
    return mass if weight is None else mass * weight[:, np.newaxis]


def spread_labels(
    walk: csr_array,
    strength: NDArray,
    target: NDArray,
    weight: NDArray | None = None,
) -> NDArray:
    r"""Return how often walks from the labels of each class visit each sample.

    Every label begins as many walks, relative to the others of its class, however many
    connections its sample has: these are columns of personalized PageRank, over the
    probability of each sample, and solve

    .. math:: F = (1 - \alpha)\, W F + \alpha\, Y,
        \qquad Y_{ik} = \frac{w_i\, y_{ik}}{\pi_i \sum_j w_j\, y_{jk}} .

    Parameters
    ----------
    walk : csr_array of shape (n_samples, n_samples)
        One step (:math:`W`) of a reversible random walk.
    strength : ndarray of shape (n_samples,)
        The distribution (:math:`\pi`) in which the walk stays, up to a factor.
    target : ndarray of shape (n_samples, n_classes)
        Labels, rows of NaN where they are not known.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Probabilities of the classes in the dtype of the walk, rows sum to 1: equal ones
        where no walk ends up.
    """
    begin = label_mass(target, weight)
    total = begin.sum(axis=0)
    begin /= strength[:, np.newaxis] * np.where(total > 0, total, 1)
    begin = (begin / begin.max()).astype(walk.dtype)  # a factor makes no difference
    reached = begin
    for _ in range(_N_STEPS):
        reached = (1 - _RESTART) * (walk @ reached) + begin
    sums = reached.sum(axis=1, keepdims=True)
    equal = 1 / target.shape[1]
    return np.where(sums > 0, reached / np.where(sums > 0, sums, 1), equal)


def class_shares(
    target: NDArray, weight: NDArray | None = None, spread: NDArray | None = None
) -> NDArray:
    """Return the shares of the classes, by the labels' spread or by the labels alone.

    The spread does not ask whether labels were drawn at random, or as many of each
    class. A class that no label names gets the share of an average one.

    Parameters
    ----------
    target : ndarray of shape (n_samples, n_classes)
        Labels, rows of NaN where they are not known.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples, of mean 1.
    spread : ndarray of shape (n_samples, n_classes), default=None
        Result of :func:`spread_labels`; None for the shares of the labels alone.

    Returns
    -------
    ndarray of shape (n_classes,)
        Shares, which sum to 1.
    """
    counts = label_mass(target, weight).sum(axis=0)
    is_named = counts > 0
    if spread is not None:
        # As many walks begin in each class, so that soft labels lean to equal shares;
        # the likeliest classes lean to large ones. The truth is in between.
        soft = np.average(spread, axis=0, weights=weight)
        hard = np.bincount(spread.argmax(axis=1), weight, minlength=len(counts))
        counts = (soft + hard / hard.sum()) * is_named
    shares = counts / counts.sum()
    return np.where(is_named, shares * is_named.mean(), 1 / len(counts))


def match_clusters(
    labels: NDArray,
    membership: NDArray,
    target: NDArray,
    weight: NDArray | None = None,
) -> NDArray:
    """Rename clusters by the classes that they fit best, each by another one.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,)
        Clusters, integers.
    membership : ndarray of shape (n_samples, n_classes)
        How much of each cluster is around each sample, rows sum to 1.
    target : ndarray of shape (n_samples, n_classes)
        Labels, rows of NaN where they are not known. Where no label has a class, any
        cluster that is left over gets it.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    ndarray of shape (n_samples,)
        Classes, those of the labels where they are known.
    """
    known = given_rows(target)
    votes = label_mass(target, weight)[known]
    fit = np.log(membership[known] + _LEAST).T @ votes
    clusters, classes = linear_sum_assignment(fit, maximize=True)
    name = np.empty(len(fit), dtype=labels.dtype)
    name[clusters] = classes
    return np.where(known, np.argmax(target, axis=1), name[labels])
