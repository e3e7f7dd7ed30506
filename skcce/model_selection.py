"""Choosing parameters of a clustering without labels, and rows to label.

``label_stability`` and ``probe_accuracy`` are scorers: ``GridSearchCV(...,
scoring=label_stability)``. How often they choose well, and where not, is measured in
the user guide.
"""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_mutual_info_score
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_random_state, indexable
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _num_samples, check_array, check_is_fitted

from skcce._autologging import inner_fits
from skcce._labels import is_missing
from skcce._neighbors import principal_projection
from skcce._scaling import row_scale
from skcce._threads import single_blas_thread

__all__ = ["label_stability", "probe_accuracy", "rows_to_label"]

# A row counts by this power of its ambiguity. On one set of embeddings 4 chose better
# than 1 and 8, and hardly better than 2; on the digits it made no difference.
_FOCUS = 4


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

    .. math:: \frac1B \sum_{b=1}^{B} \mathrm{AMI}\bigl(c(X), c_b(X)\bigr)

    where :math:`c` is the fitted estimator and :math:`c_b` a clone of it, fitted to the
    :math:`b`-th random subsample of `X` [1]_ [2]_. Both predict all of `X`. The
    adjusted mutual information (AMI) sees what becomes of small clusters; the adjusted
    Rand index counts pairs of samples, of which the large ones have most [3]_.

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
        Mean adjusted mutual information: 1 if nothing changes, about 0 if nothing is
        found again. A single cluster, which anything finds again, counts as 0.

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
    .. [3] Romano, Vinh, Bailey, Verspoor. "Adjusting for Chance Clustering Comparison
       Measures". JMLR 17 (2016).

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
        score = 0.0 if _is_single(again) else adjusted_mutual_info_score(labels, again)
        scores.append(score)
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
        scaler = StandardScaler(with_mean=not issparse(X))
        probe = make_pipeline(scaler, LogisticRegression(max_iter=1000))
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


@validate_params(
    {
        "estimator": [BaseEstimator],
        "n_rows": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def rows_to_label(
    estimator: BaseEstimator,
    X: ArrayLike,
    n_rows: int,
    y: ArrayLike | None = None,
) -> NDArray:
    r"""Choose the rows whose labels would tell most about the others.

    Of every cluster without any label, first the row in its middle, as the cluster
    lacks a name. Then rows with small margins that have many like them: one after the
    other, the one that takes most from

    .. math:: \sum_i w_i\, \phi_i^\top A\, \phi_i, \qquad
        A = \Bigl(I + \sum_{j \in L} \phi_j \phi_j^\top\Bigr)^{-1},

    where :math:`L` are the rows chosen so far or labeled already: the variance that a
    linear model of the features :math:`\phi` has on all rows [1]_, weighted by how
    ambiguous they are, :math:`w_i = (1 - p_{i1} + p_{i2})^4`, from their two largest
    probabilities. Rows near a chosen one have little more to tell.

    Parameters
    ----------
    estimator : estimator
        A fitted :class:`skcce.CollisionClusterer` or
        :class:`skcce.CollisionClassifier`, or a pipeline that ends in one. Any other
        with ``predict_proba`` will do; the features are then the rows of `X`.
    X : array-like of shape (n_samples, n_features)
        Data to choose from.
    n_rows : int
        Number of rows to choose. Smaller batches, with a fit after each, choose better.
    y : array-like of shape (n_samples,) or (n_samples, n_classes), default=None
        What is labeled already, as for ``CollisionClassifier.fit``: -1, NaN or None
        where there is no label. None if nothing is.

    Returns
    -------
    ndarray of shape (n_rows,)
        Numbers of rows without a label, the most useful one first.

    Raises
    ------
    ValueError
        If there are fewer than `n_rows` rows without a label, `y` does not fit `X`, or
        a parameter is out of its range.
    TypeError
        If `estimator` has no ``predict_proba``.
    NotFittedError
        If `estimator` is not fitted.

    References
    ----------
    .. [1] Yu, Bi, Tresp. "Active learning via transductive experimental design".
       ICML 2006.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skcce import CollisionClassifier, CollisionClusterer
    >>> from skcce.model_selection import rows_to_label
    >>> X, y = load_digits(return_X_y=True)
    >>> clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)
    >>> known = np.full(len(X), -1)
    >>> rows = rows_to_label(clusterer, X, 40)
    >>> known[rows] = y[rows]  # label these
    >>> classifier = CollisionClassifier(random_state=0).fit(X, known)
    >>> classifier.score(X, y) > 0.95
    True
    """
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"estimator={estimator!r} must have predict_proba, which tells the rows "
            "that could be of several classes."
        )
    check_is_fitted(estimator)
    n_samples = _num_samples(X)
    is_open = np.ones(n_samples, dtype=bool) if y is None else _has_no_label(y)
    if len(is_open) != n_samples:
        raise ValueError(
            f"y must have one label per row of X: {n_samples} rows, got {len(is_open)} "
            "labels."
        )
    if n_rows > is_open.sum():
        raise ValueError(
            f"n_rows={n_rows} must not be larger than the {is_open.sum()} rows of X "
            "without a label."
        )
    proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    if proba.shape[1] < 2:
        raise ValueError("estimator knows a single cluster, which leaves nothing open.")
    second, first = np.partition(proba, -2, axis=1)[:, -2:].T
    ambiguity = (1 - first + second) ** _FOCUS
    with single_blas_thread():
        rows = _features(estimator, X)
        first = _one_per_cluster(rows, proba.argmax(axis=1), is_open)[:n_rows]
        is_open[first] = False
        rest = n_rows - len(first)
        return np.append(first, _most_informative(rows, ambiguity, is_open, rest))


def _has_no_label(y: ArrayLike) -> NDArray:
    y = np.asarray(y)
    if y.ndim not in (1, 2):
        raise ValueError(f"y must be 1-D or 2-D, got {y.ndim} dimensions.")
    if y.ndim == 2 and y.shape[1] > 1:
        return np.isnan(y.astype(np.float64)).all(axis=1)
    return is_missing(y.ravel())


def _features(estimator: BaseEstimator, X: ArrayLike) -> NDArray:
    """Return what a linear model sees, in float64, centered, mean square norm 1."""
    estimator = getattr(estimator, "best_estimator_", estimator)  # of a search
    if isinstance(estimator, Pipeline):
        X = estimator[:-1].transform(X) if len(estimator) > 1 else X
        estimator = estimator[-1]
    X = check_array(
        X, accept_sparse="csr", dtype=[np.float64, np.float32], input_name="X"
    )
    features = getattr(estimator, "features_", None)
    if features is not None:
        with inner_fits():
            X = features.transform_rows(X)
    if issparse(X):
        X = principal_projection(X, np.random.RandomState(0))(X)
    rows = X.astype(np.float64)
    mean, scale = row_scale(rows)
    return (rows - mean) / scale


def _one_per_cluster(rows: NDArray, clusters: NDArray, is_open: NDArray) -> NDArray:
    """Return the middle of each cluster that has no label, the largest one first."""
    numbers, sizes = np.unique(clusters, return_counts=True)
    unnamed = ~np.isin(numbers, clusters[~is_open])
    numbers, sizes = numbers[unnamed], sizes[unnamed]
    middles = []
    for number in numbers[np.argsort(-sizes, kind="stable")]:
        members = np.flatnonzero(clusters == number)
        offsets = rows[members] - rows[members].mean(axis=0)
        middles.append(members[(offsets**2).sum(axis=1).argmin()])
    return np.array(middles, dtype=int)


def _most_informative(
    rows: NDArray, weight: NDArray, is_open: NDArray, n_chosen: int
) -> NDArray:
    """Choose rows, one by one, that take most from the weighted variance.

    rows : (n_samples, n_features); weight : of each row; is_open : rows to choose from,
    the others are known.
    """
    known = rows[~is_open]
    covariance = np.linalg.inv(np.eye(rows.shape[1]) + known.T @ known)  # A
    weighted = (rows.T * weight) @ rows
    reach = rows @ covariance
    variance = np.einsum("ij,ij->i", reach, rows)
    # A choice takes this from all rows, divided by 1 + variance.
    loss = np.einsum("ij,ij->i", reach @ weighted, reach)
    can_choose, chosen = is_open.copy(), []
    for _ in range(n_chosen):
        gain = np.where(can_choose, loss / (1 + variance), -np.inf)
        row = int(gain.argmax())
        chosen.append(row)
        can_choose[row] = False
        # The choice changes A by a product of two vectors, and all else with it.
        step = covariance @ rows[row] / np.sqrt(1 + variance[row])
        along = rows @ step
        across = rows @ (covariance @ (weighted @ step))
        covariance -= np.outer(step, step)
        variance -= along**2
        loss += along * (along * (step @ weighted @ step) - 2 * across)
    return np.array(chosen, dtype=int)


def _is_single(labels: NDArray) -> bool:
    return len(np.unique(labels)) < 2
