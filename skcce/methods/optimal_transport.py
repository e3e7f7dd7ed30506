"""Cross-entropy with balanced labels (SeLa; eq. 4 of the paper)."""

from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Epoch, Objective, view_weights
from skcce._pseudo_labels import positive_rows
from skcce._pseudo_labels.transport import transport_labels
from skcce.losses import log_normalize, shannon_loss_and_gradient
from skcce.methods._clusterer import ObjectiveClusterer

__all__ = ["OptimalTransport", "SeLaClusterer"]


class OptimalTransport(Objective):
    r"""Shannon cross-entropy with labels whose shares are the wanted ones.

    .. math::

        \frac1n \sum_i w_i \Bigl[ H(y_i, \sigma_i)
        + \frac{a}{V} \sum_{v=1}^{V} H(y_i, \tilde\sigma_{iv}) \Bigr],
        \qquad y = \arg\min_{\bar y = u} \overline{H(y, \sigma)}
        - \varepsilon \overline{H(y)}

    The labels are a plan of entropic optimal transport. They become balanced one-hot
    labels as :math:`\varepsilon \to 0`: eq. (4) of [1]_. The gradient is that for fixed
    labels.

    Parameters
    ----------
    epsilon : float, default=0.05
        Temperature of the labels; [2]_ has 0.04 and takes the most probable label.
    prior : array-like of shape (n_clusters,), default=None
        Target shares :math:`u`; None means equal ones.
    queue_size : int or None, default=None
        None solves for the labels of all samples as an epoch begins [2]_. A number
        solves for those of a batch in its step, beside as many of the latest
        predictions for other samples [3]_; 0 balances each batch by itself.
    view_weight : float, default=1.0
        Weight :math:`a` of the views.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (4).
    .. [2] Asano, Rupprecht, Vedaldi. "Self-labelling via simultaneous clustering and
       representation learning". ICLR 2020.
    .. [3] Caron et al. "Unsupervised Learning of Visual Features by Contrasting Cluster
       Assignments". NeurIPS 2020.
    """

    _parameter_constraints: ClassVar[dict] = {
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "queue_size": [Interval(Integral, 0, None, closed="left"), None],
        "view_weight": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        epsilon: float = 0.05,
        prior: ArrayLike | None = None,
        queue_size: int | None = None,
        view_weight: float = 1.0,
    ):
        self.epsilon = epsilon
        self.prior = prior
        self.queue_size = queue_size
        self.view_weight = view_weight

    def begin_epoch(self, epoch: Epoch) -> None:
        """Solve for the labels of all samples, or fill the queue."""
        super().begin_epoch(epoch)
        scores = np.log(positive_rows(epoch.proba))
        weight = np.ones(len(scores)) if epoch.weight is None else epoch.weight
        if self.queue_size is None:
            self._labels = transport_labels(
                scores, self._prior, self.epsilon, weight=weight
            )
        else:
            # Drawn, as samples may be sorted by class; always the same ones, so that a
            # fit that is resumed ends as if it had not been interrupted.
            rows = np.random.default_rng(0).permutation(len(scores))[: self.queue_size]
            self._queue = scores[rows], weight[rows]

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        normalized = log_normalize(logits)
        if self.queue_size is None:
            labels = self._labels[batch.rows]
        else:
            labels = self._solve(logits[0] - normalized[0][0, :, np.newaxis], batch)
        labels = batch.with_targets(labels.astype(logits.dtype))
        loss, gradient = shannon_loss_and_gradient(logits, labels, normalized)
        weights = view_weights(logits, batch, self.view_weight)
        gradient *= weights[..., np.newaxis]
        return float(np.vdot(weights, loss)), gradient

    def _solve(self, scores: NDArray, batch: Batch) -> NDArray:
        """Return the labels of a batch, solved for together with the queue."""
        others, weight = self._queue
        own = np.ones(len(scores)) if batch.weight is None else batch.weight
        return transport_labels(
            np.concatenate([scores, others]),
            self._prior,
            self.epsilon,
            weight=np.concatenate([own, weight]),
        )[: len(scores)]


class SeLaClusterer(ObjectiveClusterer, objective=OptimalTransport):
    r"""Clustering by self-labeling with optimal transport (SeLa).

    Minimizes in turn over the weights of a softmax model and over labels :math:`y`
    (eq. 4 of [1]_)

    .. math:: \frac1M \sum_i H(y_i, \sigma_i) - \varepsilon H(y_i)
              \quad \text{such that} \quad \bar y = u :

    Shannon cross-entropy, under exact shares of the clusters. The labels are solved for
    as each epoch begins, for all samples at once [2]_, or batch by batch.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`.
    epsilon : float, default=0.05
        Temperature :math:`\varepsilon` of the labels; they are one-hot in the limit 0.
    prior : "auto", "learn", None or array-like of shape (n_clusters,), default=None
        Shares :math:`u`, as those of :class:`skcce.CollisionClusterer`; None means
        equal ones.
    queue_size : int or None, default=None
        None solves for all labels as an epoch begins. A number solves for the labels of
        a batch in its step, beside as many of the latest predictions for other samples
        [3]_. A linear model then needs larger batches than its default, or smaller
        steps: it moves on fast from the predictions in the queue.
    view_weight : float, default=1.0
        Weight of all views of a sample, relative to that of the sample itself.
    model, features, n_neighbors, neighbors, init, n_init, max_iter, batch_size
        As those of :class:`skcce.CollisionClusterer`.
    max_samples, tol, contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, model_, ...
        As those of :class:`skcce.CollisionClusterer`; `loss_` is the cross-entropy.

    See Also
    --------
    skcce.methods.OptimalTransport : The objective.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (4).
    .. [2] Asano, Rupprecht, Vedaldi. "Self-labelling via simultaneous clustering and
       representation learning". ICLR 2020.
    .. [3] Caron et al. "Unsupervised Learning of Visual Features by Contrasting Cluster
       Assignments". NeurIPS 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import SeLaClusterer
    >>> X = load_iris().data
    >>> SeLaClusterer(3, random_state=0).fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """
