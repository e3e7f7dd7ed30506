"""Neighbors in the same cluster, then training on certain labels (SCAN)."""

from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Epoch, Objective, view_weights
from skcce.losses import (
    collision_loss_and_gradient,
    log_normalize,
    shannon_loss_and_gradient,
    through_softmax,
)
from skcce.methods._clusterer import ObjectiveClusterer

__all__ = ["NeighborConsistency", "SCANClusterer"]


class NeighborConsistency(Objective):
    r"""Views of a sample in the same cluster, and samples in all clusters.

    .. math::

        -\frac{1}{nV} \sum_{i,v} \ln \sum_k \sigma_{ik}\, \tilde\sigma_{ivk}
        - \beta\, H(\bar\sigma), \qquad \bar\sigma = \frac1n \sum_i \sigma_i

    [1]_: collision cross-entropy between a sample and its views, minus the entropy of
    the shares. The views are augmented copies, if the model makes some, or else
    neighbors; without any, as for the `loss_` of a network, a sample is its own view.

    In the last epochs, the self-labeling step, a sample whose prediction is certain
    labels its views instead, by Shannon cross-entropy in which all clusters count
    alike. If no prediction is certain as an epoch begins, the first step goes on.

    Parameters
    ----------
    entropy_weight : float, default=5.0
        Weight :math:`\beta` of the entropy.
    self_label : float, default=0.25
        Fraction of the epochs, at the end, that the self-labeling step takes.
    threshold : float, default=0.99
        A prediction counts as certain from this probability on.

    References
    ----------
    .. [1] Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool. "SCAN: Learning
       to Classify Images without Labels". ECCV 2020.
    """

    view_source = "neighbors"
    _parameter_constraints: ClassVar[dict] = {
        "entropy_weight": [Interval(Real, 0, None, closed="left")],
        "self_label": [Interval(Real, 0, 1, closed="left")],
        "threshold": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        entropy_weight: float = 5.0,
        self_label: float = 0.25,
        threshold: float = 0.99,
    ):
        self.entropy_weight = entropy_weight
        self.self_label = self_label
        self.threshold = threshold

    def begin_epoch(self, epoch: Epoch) -> None:
        """Choose the step."""
        is_due = epoch.progress > 1 - self.self_label
        self._labels_itself = is_due and bool(epoch.proba.max() >= self.threshold)
        # Few changes before the second step are no reason to leave it out.
        self.may_stop = is_due or self.self_label == 0

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        weight = view_weights(logits[:1], batch, view_weight=0.0)[0]
        step = self._label_views if self._labels_itself else self._agree
        return step(logits, log_normalize(logits), weight)

    def _agree(
        self, logits: NDArray, normalized: tuple[NDArray, NDArray], weight: NDArray
    ) -> tuple[float, NDArray]:
        log_total, proba = normalized
        total = weight.sum()
        share = weight @ proba[0] / total
        log_share = np.log(np.maximum(share, np.finfo(share.dtype).tiny))
        value = self.entropy_weight * total * xlogy(share, share).sum()
        slope = np.broadcast_to(self.entropy_weight * log_share, (1, *proba[0].shape))
        gradient = np.zeros_like(logits)
        gradient[:1] = through_softmax(proba[:1], slope, weight[np.newaxis])
        views = range(1, len(logits)) if len(logits) > 1 else [0]
        each = weight / len(views)
        for v in views:
            loss, of_own = collision_loss_and_gradient(
                logits[0], proba[v], (log_total[0], proba[0])
            )
            _, of_view = collision_loss_and_gradient(
                logits[v], proba[0], (log_total[v], proba[v])
            )
            value += each @ loss
            gradient[0] += each[:, np.newaxis] * of_own
            gradient[v] += each[:, np.newaxis] * of_view
        return float(value), gradient

    def _label_views(
        self, logits: NDArray, normalized: tuple[NDArray, NDArray], weight: NDArray
    ) -> tuple[float, NDArray]:
        log_total, proba = normalized
        cluster = proba[0].argmax(axis=1)
        labels = np.eye(proba.shape[2], dtype=logits.dtype)[cluster]
        weight = np.where(proba[0].max(axis=1) >= self.threshold, weight, 0)
        count = np.bincount(cluster, weights=weight, minlength=proba.shape[2])
        # All clusters that have certain samples count alike, and all of them together
        # as much as these samples.
        weight = weight / np.where(count > 0, count, 1)[cluster]
        weight *= count.sum() / max(np.count_nonzero(count), 1)
        views = slice(1, None) if len(logits) > 1 else slice(None)
        loss, of_views = shannon_loss_and_gradient(
            logits[views], labels, (log_total[views], proba[views])
        )
        gradient = np.zeros_like(logits)
        gradient[views] = (weight / len(loss))[:, np.newaxis] * of_views
        return float((loss @ weight).mean()), gradient


class SCANClusterer(ObjectiveClusterer, objective=NeighborConsistency):
    r"""Clustering by consistency of neighbors, then by self-labeling (SCAN).

    Minimizes over the weights of a softmax model [1]_

    .. math::

        -\frac1M \sum_i \ln \sum_k \sigma_k(x_i)\, \sigma_k(\tilde x_i)
        - \beta\, H(\bar\sigma),

    in expectation over batches: a sample and its view :math:`\tilde x_i`, a neighbor or
    an augmented copy, should be in the same cluster, and all clusters be used. In the
    last epochs, predictions that are certain become labels of the views, if there are
    any: a short fit, or many clusters, may need a lower `threshold`.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    entropy_weight : float, default=5.0
        Weight :math:`\beta` of the entropy of the shares.
    self_label : float, default=0.25
        Fraction of the epochs, at the end, in which certain predictions become labels.
    threshold : float, default=0.99
        A prediction counts as certain from this probability on.
    model, features, n_neighbors, neighbors, init, n_init, max_iter, batch_size
        As those of :class:`skcce.CollisionClusterer`.
    max_samples, tol, contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, model_, ...
        As those of :class:`skcce.CollisionClusterer`; `loss_` is the value in the last
        epoch: of self-labeling, where it took place.

    See Also
    --------
    skcce.methods.NeighborConsistency : The objective.

    References
    ----------
    .. [1] Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool. "SCAN: Learning
       to Classify Images without Labels". ECCV 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import SCANClusterer
    >>> X = load_iris().data
    >>> SCANClusterer(3, random_state=0).fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """
