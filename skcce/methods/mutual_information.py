"""Mutual information of sample and cluster (MIGD, RIM; eq. 1 of the paper)."""

from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Objective, view_weights
from skcce.losses import log_normalize, through_softmax
from skcce.methods._clusterer import ObjectiveClusterer

__all__ = ["MIGDClusterer", "MutualInformation"]

_LEAST = 1e-30  # share whose logarithm is taken for that of zero


class MutualInformation(Objective):
    r"""Certain predictions, with cluster shares near a prior.

    .. math:: \frac1n \sum_i H(\sigma_i) + \lambda\, \mathrm{KL}(\bar\sigma \,\|\, u),
              \qquad \bar\sigma = \frac1n \sum_i \sigma_i

    With equal shares :math:`u` and :math:`\lambda = 1` this is, up to the constant
    :math:`\ln K`, the difference of entropies :math:`\overline{H(\sigma)} -
    H(\bar\sigma)`: minus the mutual information of sample and cluster [1]_ [2]_.
    Without an L2 penalty on the weights (``LinearSoftmax(alpha=...)``,
    ``DeepSoftmax(weight_decay=...)``) it finds clusters of which it is certain, whether
    they mean something or not.

    Parameters
    ----------
    lam : float, default=1.0
        Weight :math:`\lambda` of the second term.
    prior : array-like of shape (n_clusters,), default=None
        Target shares :math:`u`; None means equal ones.
    view_weight : float, default=1.0
        Weight of all views of a sample, relative to that of the sample itself.

    References
    ----------
    .. [1] Bridle, Heading, MacKay. "Unsupervised Classifiers, Mutual Information and
       'Phantom Targets'". NIPS 1991.
    .. [2] Krause, Perona, Gomes. "Discriminative Clustering by Regularized Information
       Maximization". NIPS 2010.
    """

    _parameter_constraints: ClassVar[dict] = {
        "lam": [Interval(Real, 0, None, closed="left")],
        "view_weight": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        lam: float = 1.0,
        prior: ArrayLike | None = None,
        view_weight: float = 1.0,
    ):
        self.lam = lam
        self.prior = prior
        self.view_weight = view_weight

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        weights = view_weights(logits, batch, self.view_weight)
        return information_and_gradient(logits, weights, self.lam, self._prior)


def information_and_gradient(
    logits: NDArray, weights: NDArray, lam: float, prior: NDArray
) -> tuple[float, NDArray]:
    """Return the value above, and its gradient.

    Parameters
    ----------
    logits : ndarray of shape (n_views, n, n_clusters)
        Logits of the samples and of their other views.
    weights : ndarray of shape (n_views, n)
        Their weights in the means.
    lam : float
        Weight of the divergence.
    prior : ndarray of shape (n_clusters,)
        Target shares.

    Returns
    -------
    value : float
        The value, for weights of sum 1; for others, times their sum.
    gradient : ndarray of shape (n_views, n, n_clusters)
        Gradient with respect to the logits.
    """
    log_total, proba = log_normalize(logits)
    log_proba = logits - log_total[..., np.newaxis]
    usage = np.einsum("vi,vik->k", weights, proba, dtype=np.float64) / weights.sum()
    log_ratio = np.log(np.maximum(usage, _LEAST) / np.maximum(prior, _LEAST))
    # Derivative of the value with respect to a probability, divided by the weight of
    # its sample; constants are left out, as the softmax cancels them.
    slope = lam * log_ratio.astype(logits.dtype) - log_proba
    value = np.einsum("vi,vik,vik->", weights, proba, slope, dtype=np.float64)
    return float(value), through_softmax(proba, slope, weights)


class MIGDClusterer(ObjectiveClusterer, objective=MutualInformation):
    r"""Clustering by mutual information and gradient descent (MIGD).

    Minimizes over the weights of a softmax model (eq. 1 of [1]_)

    .. math:: \frac1M \sum_i H(\sigma_i) + \lambda\, \mathrm{KL}(\bar\sigma \,\|\, u),

    in expectation over batches: predictions that are certain, and cluster shares near
    :math:`u`. With :math:`\lambda = 1` and equal shares this is minus the mutual
    information of sample and cluster, of Bridle, Heading and MacKay [2]_; with an L2
    penalty, ``model=LinearSoftmax(alpha=...)``, Krause's regularized information
    maximization (RIM) [3]_.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    lam : float, default=1.0
        Weight :math:`\lambda` of the second term. The paper's experiments use 1.3.
    prior : "auto", "learn", None or array-like of shape (n_clusters,), default=None
        Target shares :math:`u`, as those of :class:`skcce.CollisionClusterer`; None
        means equal ones.
    view_weight : float, default=1.0
        Weight of all views of a sample, relative to that of the sample itself.
    model, features, n_neighbors, neighbors, init, n_init, max_iter, batch_size
        As those of :class:`skcce.CollisionClusterer`.
    max_samples, tol, contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, model_, ...
        As those of :class:`skcce.CollisionClusterer`; `loss_` is the value above.

    See Also
    --------
    skcce.methods.MutualInformation : The objective.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (1).
    .. [2] Bridle, Heading, MacKay. "Unsupervised Classifiers, Mutual Information and
       'Phantom Targets'". NIPS 1991.
    .. [3] Krause, Perona, Gomes. "Discriminative Clustering by Regularized Information
       Maximization". NIPS 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce import LinearSoftmax
    >>> from skcce.methods import MIGDClusterer
    >>> X = load_iris().data
    >>> rim = MIGDClusterer(3, model=LinearSoftmax(alpha=1e-3), random_state=0)
    >>> rim.fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """
