"""Mutual information of two views of a sample (IIC)."""

from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Objective, view_weights
from skcce.losses import log_normalize, through_softmax
from skcce.methods._clusterer import ObjectiveClusterer

__all__ = ["IICClusterer", "InvariantInformation"]


class InvariantInformation(Objective):
    r"""Clusters of two views of a sample, as informative about each other as possible.

    .. math:: -\sum_{kl} P_{kl} \ln \frac{P_{kl}}{(P_k P_l)^\gamma},
              \qquad P = \frac{1}{2n} \sum_i \bigl( \sigma_i \tilde\sigma_i^\top
              + \tilde\sigma_i \sigma_i^\top \bigr),

    with the marginals :math:`P_k` of :math:`P`: for :math:`\gamma = 1` minus the mutual
    information of the clusters of a sample and of its view [1]_. The views are
    augmented copies, if the model makes some, or else neighbors; if a sample has
    several, :math:`\tilde\sigma_i` is their mean prediction, and if it has none, as in
    the `loss_` of a network, it is its own view.

    A network needs a small ``DeepSoftmax(weight_decay=...)``: near uniform predictions
    the gradient vanishes, and the default of 0.01 may hold it there.

    Parameters
    ----------
    gamma : float, default=1.0
        Values above 1 ask for more equal clusters.

    References
    ----------
    .. [1] Ji, Henriques, Vedaldi. "Invariant Information Clustering for Unsupervised
       Image Classification and Segmentation". ICCV 2019.
    """

    view_source = "neighbors"
    _parameter_constraints: ClassVar[dict] = {
        "gamma": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, gamma: float = 1.0):
        self.gamma = gamma

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        proba = log_normalize(logits)[1]
        weights = view_weights(logits[:1], batch, view_weight=0)
        views = proba[1:] if len(proba) > 1 else proba
        own, other = proba[0], views.mean(axis=0)
        total = weights.sum()
        joint = (weights[0, :, np.newaxis] * own).T @ other / total
        joint = (joint + joint.T) / 2
        tiny = np.finfo(logits.dtype).tiny
        log_share = np.log(np.maximum(joint.sum(axis=1), tiny))
        # Derivative with respect to the joint probability; constants are left out, as
        # the softmax cancels them.
        slope = self.gamma * np.add.outer(log_share, log_share)
        slope -= np.log(np.maximum(joint, tiny))
        slopes = np.zeros_like(proba)
        slopes[0] = other @ slope
        slopes[-len(views) :] += own @ slope / len(views)
        value = total * np.vdot(joint, slope)
        return float(value), through_softmax(proba, slopes, weights)


class IICClusterer(ObjectiveClusterer, objective=InvariantInformation):
    r"""Invariant information clustering (IIC).

    Maximizes over the weights of a softmax model the mutual information of the clusters
    of a sample and of its view [1]_,

    .. math:: I(P) = \sum_{kl} P_{kl} \ln \frac{P_{kl}}{(P_k P_l)^\gamma},
              \qquad P = \frac{1}{2M} \sum_i \bigl( \sigma_i \tilde\sigma_i^\top
              + \tilde\sigma_i \sigma_i^\top \bigr),

    for :math:`\gamma = 1`, in expectation over batches. The views are augmented copies,
    if the model makes some, or else neighbors. It is at most :math:`\ln K`, where each
    sample and its view are in the same of K equal clusters with certainty.

    A network needs a small ``DeepSoftmax(weight_decay=...)``: near uniform predictions
    the gradient vanishes, and the default of 0.01 may hold it there.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    gamma : float, default=1.0
        Values above 1 ask for more equal clusters.
    model, features, n_neighbors, neighbors, init, n_init, max_iter, batch_size
        As those of :class:`skcce.CollisionClusterer`.
    max_samples, tol, contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, model_, ...
        As those of :class:`skcce.CollisionClusterer`; `loss_` is minus the information.

    See Also
    --------
    skcce.methods.InvariantInformation : The objective.

    References
    ----------
    .. [1] Ji, Henriques, Vedaldi. "Invariant Information Clustering for Unsupervised
       Image Classification and Segmentation". ICCV 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import IICClusterer
    >>> X = load_iris().data
    >>> IICClusterer(3, random_state=0).fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """
