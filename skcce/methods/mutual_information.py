"""Mutual information of sample and cluster (eq. 1 of the paper)."""

from numbers import Real
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.utils._param_validation import Interval

from skcce._objective import Batch, Objective, view_weights
from skcce._pseudo_labels import check_prior
from skcce.losses import log_normalize, through_softmax

__all__ = ["MutualInformation"]

_LEAST = 1e-30  # share whose logarithm is taken for that of zero


class MutualInformation(Objective):
    r"""Certain predictions, with cluster shares near a prior.

    .. math:: \frac1n \sum_i H(\sigma_i) + \lambda\, \mathrm{KL}(\bar\sigma \,\|\, u),
              \qquad \bar\sigma = \frac1n \sum_i \sigma_i

    With equal shares :math:`u` and :math:`\lambda = 1` this is, up to a constant, minus
    the mutual information of sample and cluster [1]_ [2]_. Without an L2 penalty on the
    weights (``LinearSoftmax(alpha=...)``, ``DeepSoftmax(weight_decay=...)``) it
    finds clusters of which it is certain, whether they mean something or not.

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

    def begin_epoch(
        self, proba: NDArray, graph: csr_array | None, progress: float
    ) -> None:
        """Find the target shares."""
        self._prior = check_prior(self.prior, proba.shape[1])

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value and its gradient."""
        log_total, proba = log_normalize(logits)
        log_proba = logits - log_total[..., np.newaxis]
        weights = view_weights(logits, batch, self.view_weight)
        total = weights.sum()
        usage = np.einsum("vi,vik->k", weights, proba, dtype=np.float64) / total
        log_ratio = np.log(np.maximum(usage, _LEAST) / np.maximum(self._prior, _LEAST))
        # Derivative of the value with respect to a probability, divided by the weight
        # of its sample; constants are left out, as the softmax cancels them.
        slope = self.lam * log_ratio.astype(logits.dtype) - log_proba
        value = np.einsum("vi,vik,vik->", weights, proba, slope, dtype=np.float64)
        return float(value), through_softmax(proba, slope, weights)
