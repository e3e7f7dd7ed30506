r"""Collision cross-entropy, Shannon's for comparison, and collision entropy.

For a prediction :math:`\sigma` and a soft label :math:`y`, both points of the simplex,

.. math::

    H_2(y, \sigma) = -\ln \sum_k \sigma_k y_k          \qquad \text{(collision, eq. 9)}

    H(y, \sigma)   = -\sum_k y_k \ln \sigma_k          \qquad \text{(Shannon, eq. 8)}

    H_2(p)         = -\ln \sum_k p_k^2                 \qquad \text{(entropy, eq. 6)}

All values are in nats, one per sample. The functions that take logits also return the
gradient, and stay finite where a probability would underflow.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy
from sklearn.utils.validation import check_array

__all__ = [
    "collision_cross_entropy",
    "collision_cross_entropy_with_logits",
    "collision_entropy",
    "collision_loss_and_gradient",
    "log_normalize",
    "shannon_cross_entropy",
    "shannon_cross_entropy_with_logits",
    "shannon_loss_and_gradient",
    "through_softmax",
]


def collision_cross_entropy(proba: ArrayLike, pseudo_labels: ArrayLike) -> NDArray:
    r"""Negative log of the probability that prediction and label collide.

    .. math:: H_2(y, \sigma) = -\ln \sum_k \sigma_k y_k

    Symmetric in its arguments; equal to Shannon's cross-entropy for one-hot labels;
    constant, ln K, for uniform labels; at most :math:`-\ln \min_k y_k` for the others.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_clusters)
        Predictions (:math:`\sigma`), rows on the simplex.
    pseudo_labels : array-like of shape (n_samples, n_clusters)
        Soft labels (:math:`y`), rows on the simplex.

    Returns
    -------
    ndarray of shape (n_samples,)
        Loss of each sample in nats; inf where no cluster is possible in both.

    Raises
    ------
    ValueError
        If an array has a negative or non-finite entry, a row that does not sum to 1,
        or the shapes differ.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (9).

    Examples
    --------
    >>> from skcce import collision_cross_entropy
    >>> collision_cross_entropy([[0.9, 0.1], [0.9, 0.1]], [[1, 0], [0.5, 0.5]]).round(3)
    array([0.105, 0.693])
    """
    proba, pseudo_labels = _check_pair(proba, pseudo_labels, "proba")
    with np.errstate(divide="ignore"):
        return -np.log(np.einsum("ik,ik->i", proba, pseudo_labels))


def shannon_cross_entropy(proba: ArrayLike, pseudo_labels: ArrayLike) -> NDArray:
    r"""Shannon's cross-entropy, for comparison.

    .. math:: H(y, \sigma) = -\sum_k y_k \ln \sigma_k

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_clusters)
        Predictions (:math:`\sigma`), rows on the simplex.
    pseudo_labels : array-like of shape (n_samples, n_clusters)
        Soft labels (:math:`y`), rows on the simplex.

    Returns
    -------
    ndarray of shape (n_samples,)
        Loss of each sample in nats; inf where a label needs an impossible cluster.

    Raises
    ------
    ValueError
        If an array has a negative or non-finite entry, a row that does not sum to 1,
        or the shapes differ.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (8).
    """
    proba, pseudo_labels = _check_pair(proba, pseudo_labels, "proba")
    return -xlogy(pseudo_labels, proba).sum(axis=1)


def collision_entropy(proba: ArrayLike) -> NDArray:
    r"""Collision entropy, the Renyi entropy of order 2.

    .. math:: H_2(p) = -\ln \sum_k p_k^2

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_clusters)
        Distributions, rows on the simplex.

    Returns
    -------
    ndarray of shape (n_samples,)
        Entropy of each row in nats, between 0 (one-hot) and ln K (uniform).

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (6).
    """
    return collision_cross_entropy(proba, proba)


def collision_cross_entropy_with_logits(
    logits: ArrayLike, pseudo_labels: ArrayLike
) -> tuple[NDArray, NDArray]:
    r"""Collision cross-entropy of softmax(logits), and its gradient.

    .. math::

        H_2 = \mathrm{logsumexp}(z) - \mathrm{logsumexp}(z + \ln y),
        \qquad
        \frac{\partial H_2}{\partial z_k}
        = \sigma_k - \frac{\sigma_k y_k}{\sigma \cdot y}

    The second term of the gradient is the posterior that both are k, given that they
    agree: the loss trains like Shannon's with this distribution as its target.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_clusters)
        Logits (:math:`z`) of the predictions.
    pseudo_labels : array-like of shape (n_samples, n_clusters)
        Soft labels (:math:`y`), rows on the simplex.

    Returns
    -------
    loss : ndarray of shape (n_samples,)
        Loss of each sample in nats. Finite where probabilities underflow.
    gradient : ndarray of shape (n_samples, n_clusters)
        Gradient of each sample's loss with respect to its logits; rows sum to 0.

    Raises
    ------
    ValueError
        If an entry is not finite, a row of the labels is not a distribution, or the
        shapes differ.
    """
    logits, pseudo_labels = _check_pair(logits, pseudo_labels, "logits")
    logits = logits - logits.max(axis=1, keepdims=True)
    return collision_loss_and_gradient(logits, pseudo_labels)


def shannon_cross_entropy_with_logits(
    logits: ArrayLike, pseudo_labels: ArrayLike
) -> tuple[NDArray, NDArray]:
    r"""Shannon's cross-entropy of softmax(logits), and its gradient.

    .. math::

        H = \sum_k y_k (\mathrm{logsumexp}(z) - z_k), \qquad
        \frac{\partial H}{\partial z_k} = \sigma_k - y_k

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_clusters)
        Logits (:math:`z`) of the predictions.
    pseudo_labels : array-like of shape (n_samples, n_clusters)
        Soft labels (:math:`y`), rows on the simplex.

    Returns
    -------
    loss : ndarray of shape (n_samples,)
        Loss of each sample in nats.
    gradient : ndarray of shape (n_samples, n_clusters)
        Gradient of each sample's loss with respect to its logits; rows sum to 0.

    Raises
    ------
    ValueError
        If an entry is not finite, a row of the labels is not a distribution, or the
        shapes differ.
    """
    logits, pseudo_labels = _check_pair(logits, pseudo_labels, "logits")
    logits = logits - logits.max(axis=1, keepdims=True)
    return shannon_loss_and_gradient(logits, pseudo_labels)


def collision_loss_and_gradient(
    logits: NDArray,
    pseudo_labels: NDArray,
    normalized: tuple[NDArray, NDArray] | None = None,
) -> tuple[NDArray, NDArray]:
    """Compute :func:`collision_cross_entropy_with_logits` without any checks.

    Parameters
    ----------
    logits : ndarray of shape (..., n_samples, n_clusters)
        Logits of the predictions, maybe of several views.
    pseudo_labels : ndarray of shape (n_samples, n_clusters)
        Soft labels, the same for all views.
    normalized : tuple or None, default=None
        Result of :func:`log_normalize` for these logits, if it is known.

    Returns
    -------
    loss : ndarray of shape (..., n_samples)
        Loss of each sample in nats.
    gradient : ndarray of shape (..., n_samples, n_clusters)
        Gradient of each loss with respect to its logits.
    """
    log_total, proba = log_normalize(logits) if normalized is None else normalized
    gradient = proba * pseudo_labels
    hit = gradient.sum(axis=-1, keepdims=True)
    limits = np.finfo(hit.dtype)
    if hit.min() > limits.tiny / limits.eps:
        gradient /= hit
        return -np.log(hit[..., 0]), np.subtract(proba, gradient, out=gradient)
    # Where products underflow, their logarithms do not.
    with np.errstate(divide="ignore"):
        joint = logits + np.log(pseudo_labels)
    log_collision, posterior = log_normalize(joint)
    return log_total - log_collision, proba - posterior


def shannon_loss_and_gradient(
    logits: NDArray,
    pseudo_labels: NDArray,
    normalized: tuple[NDArray, NDArray] | None = None,
) -> tuple[NDArray, NDArray]:
    """Compute :func:`shannon_cross_entropy_with_logits` without any checks.

    Parameters
    ----------
    logits : ndarray of shape (..., n_samples, n_clusters)
        Logits of the predictions, maybe of several views.
    pseudo_labels : ndarray of shape (n_samples, n_clusters)
        Soft labels, the same for all views.
    normalized : tuple or None, default=None
        Result of :func:`log_normalize` for these logits, if it is known.

    Returns
    -------
    loss : ndarray of shape (..., n_samples)
        Loss of each sample in nats.
    gradient : ndarray of shape (..., n_samples, n_clusters)
        Gradient of each loss with respect to its logits.
    """
    log_total, proba = log_normalize(logits) if normalized is None else normalized
    loss = log_total - np.einsum("...ik,ik->...i", logits, pseudo_labels)
    return loss, proba - pseudo_labels


def through_softmax(proba: NDArray, slope: NDArray, weights: NDArray) -> NDArray:
    r"""Turn derivatives with respect to probabilities into those for the logits.

    .. math:: w_i\, \sigma_{ik} \Bigl( s_{ik} - \sum_l \sigma_{il} s_{il} \Bigr)

    Parameters
    ----------
    proba : ndarray of shape (n_views, n_samples, n_clusters)
        Softmax of the logits.
    slope : ndarray of shape (n_views, n_samples, n_clusters)
        Derivatives :math:`s`; a constant added to a row makes no difference.
    weights : ndarray of shape (n_views, n_samples)
        What the derivatives of each sample are multiplied by.

    Returns
    -------
    ndarray of shape (n_views, n_samples, n_clusters)
        Gradient with respect to the logits.
    """
    mean = np.einsum("vik,vik->vi", proba, slope)
    return weights[..., np.newaxis] * proba * (slope - mean[..., np.newaxis])


def log_normalize(logits: NDArray) -> tuple[NDArray, NDArray]:
    """Return logsumexp and softmax of the rows, in one pass.

    Parameters
    ----------
    logits : ndarray of shape (..., n_samples, n_clusters)
        Logits.

    Returns
    -------
    log_total : ndarray of shape (..., n_samples)
        Log of the sum of their exponentials.
    proba : ndarray of shape (..., n_samples, n_clusters)
        Probabilities.
    """
    highest = logits.max(axis=-1, keepdims=True)
    proba = logits - highest
    np.exp(proba, out=proba)
    total = proba.sum(axis=-1, keepdims=True)
    proba /= total
    return (highest + np.log(total))[..., 0], proba


def check_simplex_rows(array: ArrayLike, name: str) -> NDArray:
    """Return a float array of distributions, or raise an error that names it."""
    array = _check_matrix(array, name)
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}.")
    row_sum = array @ np.ones(array.shape[1], dtype=array.dtype)
    worst = np.abs(row_sum - 1).argmax()
    if abs(row_sum[worst] - 1) > 1e-3:
        raise ValueError(
            f"Every row of {name} must sum to 1, row {worst} sums to "
            f"{row_sum[worst]:.6g}."
        )
    return array


def _check_matrix(array: ArrayLike, name: str) -> NDArray:
    # The shape is checked by hand, as scikit-learn's message does not name the array.
    array = check_array(
        array,
        dtype=[np.float64, np.float32],
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=0,
        ensure_min_features=0,
        input_name=name,
    )
    if array.ndim != 2 or array.size == 0:
        raise ValueError(
            f"{name} must have shape (n_samples, n_clusters), with at least one of "
            f"each, got shape {array.shape}."
        )
    return array


def _check_pair(
    first: ArrayLike, pseudo_labels: ArrayLike, name: str
) -> tuple[NDArray, NDArray]:
    if name == "proba":
        first = check_simplex_rows(first, name)
    else:
        first = _check_matrix(first, name)
    pseudo_labels = check_simplex_rows(pseudo_labels, "pseudo_labels")
    if first.shape != pseudo_labels.shape:
        raise ValueError(
            f"{name} and pseudo_labels must have equal shapes, "
            f"got {first.shape} and {pseudo_labels.shape}."
        )
    return first, pseudo_labels
