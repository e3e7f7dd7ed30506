"""Shannon cross-entropy with fair labels (MIADM; eq. 5 of the paper)."""

from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Objective, view_weights
from skcce._pseudo_labels import fairness
from skcce._pseudo_labels.transport import transport_labels
from skcce.losses import log_normalize, shannon_loss_and_gradient
from skcce.methods._clusterer import ObjectiveClusterer

__all__ = ["FairCrossEntropy", "MIADMClusterer"]


class FairCrossEntropy(Objective):
    r"""Shannon cross-entropy with labels whose shares are near a prior.

    .. math::

        \frac1n \sum_i w_i \Bigl[ H(y_i, \sigma_i)
        + \frac{a}{V} \sum_{v=1}^{V} H(y_i, \tilde\sigma_{iv}) \Bigr]
        + \lambda\, \mathrm{KL}(\bar y \,\|\, u)

    (eq. 5 of [1]_). The labels minimize this for the predictions of the batch, with
    :math:`\tau\, \overline{\mathrm{KL}(y \,\|\, \sigma)}` added, which holds them near
    the predictions [2]_. For given shares they have the closed form

    .. math:: y_{ik} \propto \sigma_{ik}^{1 + 1/\tau}
              \Bigl( \frac{u_k}{\bar y_k} \Bigr)^{\lambda/\tau} ,

    and the shares are those that agree with it. The gradient is that for fixed labels.

    Parameters
    ----------
    lam : float, default=1.0
        Weight :math:`\lambda` of the fairness term.
    penalty : float, default=1.0
        Weight :math:`\tau` of the divergence of labels from predictions.
    prior : array-like of shape (n_clusters,), default=None
        Target shares :math:`u`; None means equal ones.
    view_weight : float, default=1.0
        Weight :math:`a` of the views.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (5).
    .. [2] Jabi, Pedersoli, Mitiche, Ben Ayed. "Deep clustering: On the link between
       discriminative models and K-means". TPAMI 2021.
    """

    _parameter_constraints: ClassVar[dict] = {
        "lam": [Interval(Real, 0, None, closed="neither")],
        "penalty": [Interval(Real, 0, None, closed="neither")],
        "view_weight": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        lam: float = 1.0,
        penalty: float = 1.0,
        prior: ArrayLike | None = None,
        view_weight: float = 1.0,
    ):
        self.lam = lam
        self.penalty = penalty
        self.prior = prior
        self.view_weight = view_weight

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        normalized = log_normalize(logits)
        labels = transport_labels(
            (1 + self.penalty) * (logits[0] - normalized[0][0, :, np.newaxis]),
            self._prior,
            self.penalty,
            self.lam,
            weight=batch.weight,
        )
        labels = batch.with_targets(labels.astype(logits.dtype))
        loss, gradient = shannon_loss_and_gradient(logits, labels, normalized)
        weights = view_weights(logits, batch, self.view_weight)
        gradient *= weights[..., np.newaxis]
        usage = (weights[0] @ labels).astype(np.float64)
        total = usage.sum()  # of the weights
        divergence = fairness(usage / total, self._prior, forward=True)
        return float(np.vdot(weights, loss) + total * self.lam * divergence), gradient


class MIADMClusterer(ObjectiveClusterer, objective=FairCrossEntropy):
    r"""Clustering by Shannon cross-entropy with soft fair labels (MIADM).

    Minimizes in turn over the weights of a softmax model and over labels :math:`y`
    (eq. 5 of [1]_)

    .. math:: \frac1M \sum_i H(y_i, \sigma_i)
              + \lambda\, \mathrm{KL}(\bar y \,\|\, u) :

    mutual information by the method of alternating directions [2]_. The labels of each
    batch have a closed form, see :class:`skcce.methods.FairCrossEntropy`. With
    collision cross-entropy in place of Shannon's it is
    ``CollisionClusterer(divergence="forward")``.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    lam : float or "auto", default="auto"
        Weight :math:`\lambda` of the fairness term. "auto" is 1.0 for a linear model,
        10.0 for a network.
    penalty : float, default=1.0
        Weight of the divergence of labels from predictions: small values make labels
        more certain than predictions are.
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
    skcce.methods.FairCrossEntropy : The objective.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (5).
    .. [2] Jabi, Pedersoli, Mitiche, Ben Ayed. "Deep clustering: On the link between
       discriminative models and K-means". TPAMI 2021.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import MIADMClusterer
    >>> X = load_iris().data
    >>> MIADMClusterer(3, random_state=0).fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """

    auto: ClassVar[Mapping[str, tuple]] = MappingProxyType(
        {"lam": (1.0, 10.0), **ObjectiveClusterer.auto}
    )
