"""Mutual information, with predictions that stay where samples move (IMSAT)."""

from collections.abc import Mapping
from numbers import Real
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Objective, view_weights
from skcce.losses import log_normalize, shannon_loss_and_gradient
from skcce.methods._clusterer import ObjectiveClusterer
from skcce.methods.mutual_information import information_and_gradient

__all__ = ["IMSATClusterer", "SelfAugmentation"]


class SelfAugmentation(Objective):
    r"""Views predicted as their samples, and much information about the samples.

    .. math::

        \frac{1}{nV} \sum_{i,v} H(\sigma_i, \tilde\sigma_{iv}) + \lambda \Bigl[
        \frac1n \sum_i H(\sigma_i) + \mu\, \mathrm{KL}(\bar\sigma \,\|\, u) \Bigr]

    In the first term the prediction :math:`\sigma_i` is a target, and held fixed [1]_.
    The views are augmented copies, if the model makes some, or else adversarial: the
    row moved to where its prediction changes most (virtual adversarial training).

    Parameters
    ----------
    lam : float, default=0.1
        Weight :math:`\lambda` of the mutual information.
    mu : float, default=4.0
        Weight :math:`\mu` of the shares within it.
    prior : array-like of shape (n_clusters,), default=None
        Target shares :math:`u`; None means equal ones.
    view_distance : float, default=0.25
        How far an adversarial view is from its sample, relative to the mean distance of
        the sample to its neighbors.

    References
    ----------
    .. [1] Hu, Miyato, Tokui, Matsumoto, Sugiyama. "Learning Discrete Representations
       via Information Maximizing Self-Augmented Training". ICML 2017.
    """

    view_source = "adversarial"
    _parameter_constraints: ClassVar[dict] = {
        "lam": [Interval(Real, 0, None, closed="left")],
        "mu": [Interval(Real, 0, None, closed="left")],
        "view_distance": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        *,
        lam: float = 0.1,
        mu: float = 4.0,
        prior: ArrayLike | None = None,
        view_distance: float = 0.25,
    ):
        self.lam = lam
        self.mu = mu
        self.prior = prior
        self.view_distance = view_distance

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        weights = view_weights(logits, batch, view_weight=1.0)
        gradient = np.zeros_like(logits)
        value, gradient[:1] = information_and_gradient(
            logits[:1], weights[:1], self.mu, self._prior
        )
        value *= self.lam
        gradient[:1] *= self.lam
        if len(logits) > 1:
            target = log_normalize(logits[0])[1]
            loss, of_views = shannon_loss_and_gradient(logits[1:], target)
            value += float(np.vdot(weights[1:], loss))
            gradient[1:] = weights[1:, :, np.newaxis] * of_views
        return value, gradient


class IMSATClusterer(ObjectiveClusterer, objective=SelfAugmentation):
    r"""Clustering by information maximizing self-augmented training (IMSAT).

    Minimizes over the weights of a softmax model [1]_

    .. math::

        \frac1M \sum_i H(\sigma(x_i), \sigma(\tilde x_i)) + \lambda \Bigl[
        \frac1M \sum_i H(\sigma_i) + \mu\, \mathrm{KL}(\bar\sigma \,\|\, u) \Bigr],

    in expectation over batches: the views :math:`\tilde x_i` of a sample are predicted
    as the sample itself, whose prediction is held fixed there, and clusters tell much
    about samples. A network that augments, ``model=DeepSoftmax(augment=...)``, makes
    the views. Otherwise they are adversarial: the row, moved by a quarter of the
    distance to its neighbors to where its prediction changes most.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    lam : float or "auto", default="auto"
        Weight :math:`\lambda` of the mutual information. "auto" is 0.1 for a linear
        model, 1.0 for a network.
    mu : float, default=4.0
        Weight :math:`\mu` of the shares within it.
    prior : "auto", "learn", None or array-like of shape (n_clusters,), default=None
        Target shares :math:`u`, as those of :class:`skcce.CollisionClusterer`; None
        means equal ones.
    view_distance : float, default=0.25
        How far an adversarial view is from its sample, relative to the mean distance of
        the sample to its neighbors.
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
    skcce.methods.SelfAugmentation : The objective.

    References
    ----------
    .. [1] Hu, Miyato, Tokui, Matsumoto, Sugiyama. "Learning Discrete Representations
       via Information Maximizing Self-Augmented Training". ICML 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import IMSATClusterer
    >>> X = load_iris().data
    >>> IMSATClusterer(3, random_state=0).fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """

    auto: ClassVar[Mapping[str, tuple]] = MappingProxyType(
        {"lam": (0.1, 1.0), **ObjectiveClusterer.auto}
    )
