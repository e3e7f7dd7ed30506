"""Clustering accuracy: agreement under the best one-to-one matching of clusters.

NMI and ARI are scikit-learn's: ``sklearn.metrics.normalized_mutual_info_score`` and
``adjusted_rand_score``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from sklearn.metrics import make_scorer
from sklearn.utils.validation import check_consistent_length, column_or_1d

from skcce._weights import check_weights

__all__ = ["clustering_accuracy", "clustering_accuracy_score", "match_labels"]


def clustering_accuracy_score(
    labels_true: ArrayLike,
    labels_pred: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> float:
    r"""Share of samples that agree under the best matching of clusters to classes.

    .. math::

        \max_\pi \frac{\sum_i w_i [t_i = \pi(p_i)]}{\sum_i w_i},

    where :math:`\pi` maps clusters to classes one to one (Hungarian algorithm). If
    there are more clusters than classes, or fewer, the rest stays unmatched and counts
    as wrong.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        Classes: integers, strings, or anything that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        Clusters, likewise.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. None means equal weights.

    Returns
    -------
    float
        Accuracy in [0, 1]; 1 for equal partitions, whatever the labels' names.

    Raises
    ------
    ValueError
        If the arrays are empty, differ in length, or hold NaN, or a weight is negative,
        or all weights are zero.

    Notes
    -----
    The matching is made on the samples that are scored: on few samples per class the
    score is optimistic. Report it beside the adjusted Rand index.

    Examples
    --------
    >>> from skcce.metrics import clustering_accuracy_score
    >>> clustering_accuracy_score(["a", "a", "b", "b"], [1, 1, 0, 1])
    0.75
    """
    _, _, weight, matched = _match(labels_true, labels_pred, sample_weight)
    return float(weight[matched].sum() / weight.sum())


def match_labels(
    labels_true: ArrayLike,
    labels_pred: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
) -> dict:
    """Match clusters to classes one to one, so that most samples agree.

    Parameters
    ----------
    labels_true : array-like of shape (n_samples,)
        Classes: integers, strings, or anything that can be sorted.
    labels_pred : array-like of shape (n_samples,)
        Clusters, likewise.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights. None means equal weights.

    Returns
    -------
    dict
        ``{cluster: class}``, in the order of the clusters. Clusters beyond the number
        of classes have no entry.

    Raises
    ------
    ValueError
        As :func:`clustering_accuracy_score`.

    Examples
    --------
    >>> from skcce.metrics import match_labels
    >>> match_labels(["a", "a", "b", "b"], [1, 1, 0, 1])
    {0: 'b', 1: 'a'}
    """
    classes, clusters, _, (rows, columns) = _match(
        labels_true, labels_pred, sample_weight
    )
    order = np.argsort(columns)
    return dict(
        zip(
            clusters[columns[order]].tolist(),
            classes[rows[order]].tolist(),
            strict=True,
        )
    )


def _match(
    labels_true: ArrayLike, labels_pred: ArrayLike, sample_weight: ArrayLike | None
) -> tuple[NDArray, NDArray, NDArray, tuple[NDArray, NDArray]]:
    """Return classes, clusters, their table of weights, and its matched cells."""
    labels_true, labels_pred = column_or_1d(labels_true), column_or_1d(labels_pred)
    check_consistent_length(labels_true, labels_pred, sample_weight)
    check_none_missing(labels_true, "labels_true")
    check_none_missing(labels_pred, "labels_pred")
    if len(labels_true) == 0:
        raise ValueError("labels_true and labels_pred are empty, at least 1 is needed.")
    sample_weight = check_weights(sample_weight, len(labels_true))
    if sample_weight is None:
        sample_weight = np.ones(len(labels_true))
    classes, rows = np.unique(labels_true, return_inverse=True)
    clusters, columns = np.unique(labels_pred, return_inverse=True)
    shape = (len(classes), len(clusters))
    weight = coo_array((sample_weight, (rows, columns)), shape=shape).toarray()
    return classes, clusters, weight, linear_sum_assignment(weight, maximize=True)


def check_none_missing(labels: NDArray, name: str) -> None:
    """Raise ValueError if one is None, pandas' NA, or NaN: not equal to itself."""
    if labels.dtype == object:
        missing = [x is None or type(x).__name__ == "NAType" or x != x for x in labels]
    else:
        missing = labels != labels
    if np.any(missing):
        raise ValueError(
            f"{name} contains NaN or None, first at {np.argmax(missing)}; leave out "
            "the samples of unknown class."
        )


#: Scorer for GridSearchCV and cross_val_score: ``scoring=clustering_accuracy``. Needs
#: ``y``. Use a shuffled splitter: data sets are often sorted by class.
clustering_accuracy = make_scorer(clustering_accuracy_score, response_method="predict")
