"""A fit in scikit-learn's own classes."""

import copy

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._spectral import SpectralFeatures


def as_scikit_learn(
    model: SoftmaxModel,
    features: SpectralFeatures | None,
    temperature: float,
    classes: NDArray,
    names: NDArray | None,
) -> LogisticRegression | Pipeline:
    """Return what predicts the same probabilities, behind the features if any.

    Parameters
    ----------
    model : SoftmaxModel
        A trained model.
    features : SpectralFeatures or None
        What makes its input of the rows; None if it takes the rows.
    temperature : float
        What its logits are divided by.
    classes : ndarray of shape (n_clusters,)
        Names of the clusters.
    names : ndarray of shape (n_features,) or None
        Names of the features of the rows, if they have any.

    Returns
    -------
    LogisticRegression or Pipeline
        As if it had been fitted.

    Raises
    ------
    ValueError
        If no LogisticRegression has these probabilities.
    """
    _check_exportable(model, len(classes))
    # In float64, as the intercepts for rows far from the origin are large.
    weights, intercept = (part / temperature for part in model.affine())
    if len(classes) == 2:
        weights, intercept = np.diff(weights, axis=0), np.diff(intercept)
    regression = LogisticRegression()
    regression.coef_, regression.intercept_ = weights, intercept
    regression.classes_, regression.n_features_in_ = classes, weights.shape[1]
    if features is not None:
        features = copy.copy(features)
    first = regression if features is None else features
    if names is not None:
        first.feature_names_in_ = names
    return regression if features is None else make_pipeline(features, regression)


def _check_exportable(model: SoftmaxModel, n_clusters: int) -> None:
    """Raise ValueError if no LogisticRegression has the probabilities of the model."""
    if not isinstance(model, LinearSoftmax):
        raise ValueError(
            f"to_sklearn needs a linear model, and this fit has a "
            f"{type(model).__name__}. Use model=None."
        )
    if n_clusters < 2:
        raise ValueError(
            "to_sklearn needs at least 2 clusters, as LogisticRegression does, and "
            f"this fit has n_clusters_={n_clusters}."
        )
    if model.groups_ is not None:
        raise ValueError(
            f"to_sklearn needs one linear unit per cluster, and the {n_clusters} "
            f"clusters of this fit are joined from {len(model.groups_)}. Fit with "
            "prior=None, or an array of shares, and n_clusters a number."
        )
