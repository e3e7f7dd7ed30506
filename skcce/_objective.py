"""The contract between the training loop and what it minimizes."""

from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator

from skcce._constraints import Links
from skcce._pseudo_labels import check_prior

__all__ = ["Batch", "Epoch", "Objective", "view_weights"]

_VIEW_SOURCES = ("neighbors", "adversarial", None)


class Batch(NamedTuple):
    """The samples of a batch, and what is known about them.

    Attributes
    ----------
    rows : ndarray of shape (n,)
        Their numbers in the training data.
    weight : ndarray of shape (n,) or None
        Their weights, of mean 1 over the training data; None if all are equal.
    target : ndarray of shape (n, n_clusters) or None
        Their labels, where they are given; rows of NaN where they are not.
    """

    rows: NDArray
    weight: NDArray | None = None
    target: NDArray | None = None

    @property
    def is_given(self) -> NDArray:
        """Which labels are given, (n,)."""
        if self.target is None:
            return np.zeros(len(self.rows), dtype=bool)
        return given_rows(self.target)

    def with_targets(self, labels: NDArray) -> NDArray:
        """Return `labels` (n, n_clusters), with those that are given in their place."""
        return with_targets(labels, self.target)


class Epoch(NamedTuple):
    """What is known as a pass over the training data begins.

    Attributes
    ----------
    proba : ndarray of shape (n_samples, n_clusters)
        Latest predictions for all training samples.
    graph : csr_array of shape (n_samples, n_samples) or None
        One step of a random walk to neighbors, rows sum to 1: ``graph @ proba``
        averages along it. None without neighbors.
    progress : float
        Fraction of the fit that is done: 0 in its first epoch and in all trials of
        starts, 1 in its last epoch and for `loss_`.
    weight : ndarray of shape (n_samples,) or None
        Weights of the samples, of mean 1; None if all are equal.
    target : ndarray of shape (n_samples, n_clusters) or None
        Labels, where they are given; rows of NaN where they are not.
    links : Links or None
        Which samples must, or cannot, be in one cluster; None without constraints.
    """

    proba: NDArray
    graph: csr_array | None = None
    progress: float = 0.0
    weight: NDArray | None = None
    target: NDArray | None = None
    links: Links | None = None


def given_rows(target: NDArray) -> NDArray:
    """Return which rows of `target` (n, n_clusters) are labels, and not NaN; (n,)."""
    return ~np.isnan(target[:, 0])


def with_targets(labels: NDArray, target: NDArray | None) -> NDArray:
    """Return `labels` (n, n_clusters), with those that are given in their place."""
    if target is None:
        return labels
    given = given_rows(target)[:, np.newaxis]
    return np.where(given, target, labels).astype(labels.dtype, copy=False)


class Objective(BaseEstimator):
    """What a fit minimizes: a function of the logits of a batch.

    An objective knows neither the model nor its input. The training loop calls
    `begin_epoch` before each pass over the data, and before each evaluation on all of
    them, and `__call__` for every batch. In between the objective is pure: the same
    logits give the same value, so that a model may call it several times, in a line
    search for example. All that an objective keeps must follow from the arguments of
    `begin_epoch`; then a fit that is resumed from a checkpoint ends as if it had never
    been interrupted.

    An objective is a scikit-learn ``BaseEstimator``: ``__init__`` stores its
    parameters, which can be set and searched as ``objective__…``. What
    ``_parameter_constraints`` says about them is checked when a fit begins.

    Attributes
    ----------
    view_source : {"neighbors", "adversarial"} or None
        Where the second view of a sample comes from if the model makes none; None if
        views are not compared. A neighbor is drawn anew in every epoch; a tenth of the
        samples draw themselves. An adversarial view is the row moved to where the
        prediction changes most, by `view_distance`.
    view_distance : float
        How far an adversarial view is from the sample, relative to the mean distance
        of the sample to its neighbors.
    uses_neighbors : bool
        Whether `begin_epoch` reads the graph of neighbors.
    is_additive : bool
        Whether it has `usages`, `at_usages` and `mean_value`, as
        :class:`skcce.methods.Collision`: what a step needs of its samples are sums.
        Then a linear model without neighbors is trained in passes over all rows, where
        these are more than `max_samples`.
    may_stop : bool
        Whether training may stop in this epoch if few samples change cluster.
    prior : array-like of shape (n_clusters,) or None
        Shares of the clusters that it asks for; None if they are equal.
    """

    view_source: ClassVar[Literal["neighbors", "adversarial"] | None] = None
    view_distance: float = 0.25
    uses_neighbors: ClassVar[bool] = False
    is_additive: bool = False
    may_stop: bool = True
    prior: ArrayLike | None = None
    _parameter_constraints: ClassVar[dict] = {}

    def check(self, n_clusters: int) -> None:
        """Raise ValueError if a parameter is wrong; called when a fit begins."""
        self._validate_params()
        if self.view_source not in _VIEW_SOURCES:
            raise ValueError(
                f"view_source={self.view_source!r} of {type(self).__name__} must be "
                f"one of {_VIEW_SOURCES}."
            )
        check_prior(self.prior, n_clusters)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Prepare for a pass over the data; by default, find the target shares.

        Parameters
        ----------
        epoch : Epoch
            What is known as it begins.
        """
        self._prior = check_prior(self.prior, epoch.proba.shape[1])

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Return the value for a batch, and its gradient with respect to the logits.

        Parameters
        ----------
        logits : ndarray of shape (n_views, n, n_clusters)
            ``logits[0]`` belong to the samples; the others, if any, to views of them,
            which are augmented copies or neighbors (``DeepSoftmax(n_views=2)`` makes
            three in all). A model that makes views makes none for `loss_`: be ready for
            ``n_views == 1``.
        batch : Batch
            The samples.

        Returns
        -------
        value : float
            A mean over the samples, so that it does not grow with the batch. The
            objective decides how samples and views are weighted.
        gradient : ndarray of shape (n_views, n, n_clusters)
            Exactly the gradient of `value`, in the dtype of the logits; what the
            objective solves for, such as pseudo-labels, is held fixed. The model
            back-propagates it as it is.
        """
        raise NotImplementedError(f"{type(self).__name__} has no __call__.")


def view_weights(logits: NDArray, batch: Batch, view_weight: float) -> NDArray:
    """Return the weights with which the views of the samples enter a mean.

    Parameters
    ----------
    logits : ndarray of shape (n_views, n, n_clusters)
        Logits of the samples and of their other views.
    batch : Batch
        The samples.
    view_weight : float
        Weight of the other views of a sample together, relative to its own.

    Returns
    -------
    ndarray of shape (n_views, n)
        Weights, in the dtype of the logits; those of the samples have mean 1 / n.
    """
    n_views, n = logits.shape[:2]
    weights = np.full((n_views, n), 1 / n, dtype=logits.dtype)
    weights[1:] *= view_weight / max(n_views - 1, 1)
    if batch.weight is not None:
        weights *= batch.weight.astype(logits.dtype)
    return weights
