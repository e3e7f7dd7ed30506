"""Choosing parameters of a clustering without labels.

Both functions are scorers: ``GridSearchCV(..., scoring=label_stability)``. How often
they choose well, and where not, is measured in the user guide.
"""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_random_state, indexable
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _num_samples

from skcce._autologging import inner_fits

__all__ = ["label_stability", "probe_accuracy"]


@validate_params(
    {
        "estimator": [BaseEstimator],
        "n_subsamples": [Interval(Integral, 1, None, closed="left")],
        "subsample": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def label_stability(
    estimator: BaseEstimator,
    X: Any,
    y: object = None,
    *,
    n_subsamples: int = 5,
    subsample: float = 0.8,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    r"""Measure how much of a clustering is found again from a part of the data.

    .. math:: \frac1B \sum_{b=1}^{B} \mathrm{ARI}\bigl(c(X), c_b(X)\bigr)

    where :math:`c` is the fitted estimator and :math:`c_b` a clone of it, fitted to the
    :math:`b`-th random subsample of `X` [1]_ [2]_. Both predict all of `X`.

    Parameters
    ----------
    estimator : estimator
        A fitted clusterer with ``predict``, or a pipeline that ends in one.
    X : array-like
        Data, such as the part that a search has held out.
    y : object, default=None
        Ignored, but every scorer has it.
    n_subsamples : int, default=5
        Number :math:`B` of subsamples, and so of fits.
    subsample : float, default=0.8
        Share of `X` in each of them.
    random_state : int, RandomState instance or None, default=0
        Seed of the subsamples; an int compares all candidates of a search on the same.

    Returns
    -------
    float
        Mean adjusted Rand index: 1 if nothing changes, about 0 if nothing is found
        again. A single cluster, which anything finds again, counts as 0.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    A stable clustering need not be a good one: few clusters are often more stable than
    the right number.

    References
    ----------
    .. [1] Ben-Hur, Elisseeff, Guyon. "A stability based method for discovering
       structure in clustered data". PSB 2002.
    .. [2] Lange, Roth, Braun, Buhmann. "Stability-based validation of clustering
       solutions". Neural Computation 16 (2004).

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skcce import CollisionClusterer
    >>> from skcce.model_selection import label_stability
    >>> X, _ = make_blobs(300, centers=3, cluster_std=0.5, random_state=0)
    >>> label_stability(CollisionClusterer(3, random_state=0).fit(X), X) > 0.9
    True
    """
    random_state = check_random_state(random_state)
    n_samples = _num_samples(X)
    labels = estimator.predict(X)
    scores = []
    for _ in range(n_subsamples):
        rows = random_state.permutation(n_samples)[: max(1, int(subsample * n_samples))]
        with inner_fits():
            again = clone(estimator).fit(_safe_indexing(X, rows)).predict(X)
        scores.append(0.0 if _is_single(again) else adjusted_rand_score(labels, again))
    return float(np.mean(scores))


@validate_params(
    {
        "estimator": [BaseEstimator],
        "probe": [BaseEstimator, None],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def probe_accuracy(
    estimator: BaseEstimator,
    X: Any,
    y: object = None,
    *,
    probe: BaseEstimator | None = None,
    cv: int = 5,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    r"""Measure how well a classifier learns the clusters from a part of the data.

    .. math:: \frac1M \sum_{i=1}^{M} \bigl[ h_{-i}(x_i) = c(x_i) \bigr]

    where :math:`c` is the fitted estimator and :math:`h_{-i}` a classifier that learned
    its clusters from the folds without sample :math:`i`: the generalization score of
    TURTLE [1]_.

    Parameters
    ----------
    estimator : estimator
        A fitted clusterer with ``predict``, or a pipeline that ends in one.
    X : array-like
        Data, such as the part that a search has held out. In a pipeline the classifier
        gets what the clusterer gets.
    y : object, default=None
        Ignored, but every scorer has it.
    probe : classifier or None, default=None
        None is a logistic regression on standardized features.
    cv : int, default=5
        Number of folds.
    random_state : int, RandomState instance or None, default=0
        Seed of the folds.

    Returns
    -------
    float
        Accuracy in [0, 1]. A single cluster, which anything predicts, counts as 0.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Notes
    -----
    Clusters of a linear model are linearly separable, so the accuracy is high for all
    candidates, and small differences decide. It falls with the number of clusters.

    References
    ----------
    .. [1] Gadetsky, Jiang, Brbic. "Let Go of Your Labels with Unsupervised Transfer".
       ICML 2024.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skcce import CollisionClusterer
    >>> from skcce.model_selection import probe_accuracy
    >>> X, _ = make_blobs(300, centers=3, cluster_std=0.5, random_state=0)
    >>> probe_accuracy(CollisionClusterer(3, random_state=0).fit(X), X) > 0.9
    True
    """
    labels = np.asarray(estimator.predict(X))
    if _is_single(labels):
        return 0.0
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        X = estimator[:-1].transform(X)
    if probe is None:
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    (X,) = indexable(X)
    folds = KFold(cv, shuffle=True, random_state=check_random_state(random_state))
    n_right = 0
    for learned, left_out in folds.split(labels):
        # A matrix of distances is split along its columns as well.
        known_rows, known = _safe_split(probe, X, labels, learned)
        rows, expected = _safe_split(probe, X, labels, left_out, learned)
        predicted = known[0]  # a classifier takes no single class
        if not _is_single(known):
            with inner_fits():
                predicted = clone(probe).fit(known_rows, known).predict(rows)
        n_right += np.count_nonzero(predicted == expected)
    return float(n_right / len(labels))


def _is_single(labels: NDArray) -> bool:
    return len(np.unique(labels)) < 2
