"""The contract between the training loop and the softmax model that it trains."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skcce._ranks import is_first

__all__ = ["SoftmaxModel"]

BatchObjective = Callable[[NDArray], tuple[float, NDArray]]


class SoftmaxModel(BaseEstimator):
    """What is trained: a function from samples to logits, with weights.

    A model knows its own input, optimizer and regularization; it knows nothing of
    clusters, pseudo-labels or losses. It is a scikit-learn ``BaseEstimator``:
    ``__init__`` stores its parameters, which can be set and searched as ``model__…``.
    The estimator clones it once per start, calls `initialize`, then `train_step` for
    every batch, and `decision_function` in between and afterwards. A model of your own
    derives from this class, and defines these three.

    Attributes
    ----------
    learns_features : bool
        Whether it learns its features, as a network does, instead of taking the rows
        as features. The estimator's "auto" depends on it.
    makes_views : bool
        Whether `train_step` makes augmented views of each sample.
    needs_all_samples : bool
        Whether every batch must hold all samples.
    distributed : bool
        Whether the processes of ``torch.distributed`` train the model together.
    is_main_process : bool
        Whether this process shows bars, warns and writes checkpoints: False in all but
        one of several that train a model together.
    takes_sparse : bool
        Whether rows may come as a ``scipy.sparse.csr_array`` as well.
    """

    learns_features: ClassVar[bool] = False
    makes_views: bool = False
    needs_all_samples: bool = False
    distributed: bool = False
    takes_sparse: ClassVar[bool] = False
    _parameter_constraints: ClassVar[dict] = {}

    @property
    def is_main_process(self) -> bool:
        return is_first() if self.distributed else True

    def validate_input(self, X: Any) -> Any:
        """Return input other than a table as something that is read batch by batch.

        Parameters
        ----------
        X : any
            What the user passed to the estimator.

        Returns
        -------
        any
            Has a length, `ndim` and `shape`, and can be indexed with an array of row
            numbers, or with a slice. None if `X` is a table, which the estimator
            checks itself.

        Raises
        ------
        ValueError, TypeError
            If the model cannot be trained on `X`.
        """
        if getattr(X, "ndim", 2) in (3, 4):
            raise ValueError(
                f"Found array with dim {X.ndim}, while dim <= 2 is required. Images "
                "need a network, model=skcce.deep.DeepSoftmax(...); or turn them into "
                "rows, X.reshape(len(X), -1)."
            )

    def initialize(
        self,
        X: NDArray,
        n_clusters: int,
        *,
        labels: NDArray | None,
        sample_weight: NDArray | None,
        random_state: np.random.RandomState,
    ) -> None:
        """Set new weights.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), or what `validate_input` returned
            Training data.
        n_clusters : int
            Number of clusters.
        labels : ndarray of shape (n_samples,) or None
            Clusters to start from, integers; one may be empty. None asks for random
            weights.
        sample_weight : ndarray of shape (n_samples,) or None
            Weights of the samples, of mean 1; None if all are equal.
        random_state : RandomState
            Source of all random numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} has no initialize.")

    def train_step(
        self, X: NDArray, objective: BatchObjective, *, progress: float
    ) -> float:
        """Take one optimizer step on a batch.

        Parameters
        ----------
        X : ndarray of shape (n, n_features), or rows of what `validate_input` returned
            Batch; for an objective that compares views, of a model that makes none,
            with a neighbor of each row behind them.
        objective : callable
            Maps the logits of the batch, shape (n, n_clusters), to a value and its
            gradient with respect to them, which the model back-propagates as it is. A
            model that looks at each sample in several ways passes logits of shape
            (n_views, n, n_clusters), those of the samples themselves first.
        progress : float
            Fraction of the fit that is done, from 0 up to but not including 1, for a
            learning-rate schedule.

        Returns
        -------
        float
            Value of the objective before the step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no train_step.")

    def decision_function(self, X: NDArray) -> NDArray:
        """Return the logits.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), or what `validate_input` returned
            Data.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Logits, finite, one row per sample in the order of `X`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decision_function.")

    def input_gradient(self, X: NDArray, gradient: NDArray) -> NDArray:
        """Back-propagate a gradient to the rows; needed for adversarial views only.

        Parameters
        ----------
        X : ndarray of shape (n, n_features)
            Rows.
        gradient : ndarray of shape (n, n_clusters)
            Gradient with respect to their logits, as `decision_function` has them.

        Returns
        -------
        ndarray of shape (n, n_features)
            Gradient with respect to the rows, in their dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} has no input_gradient.")

    def get_state(self) -> dict[str, Any]:
        """Return a copy of all that training changes.

        Returns
        -------
        dict
            Plain numbers, strings, lists, dicts with strings for keys, and NumPy
            arrays: what a checkpoint and a saved model hold, and what a fit returns to
            when its loss becomes NaN. By default, all attributes except the parameters.
            The entry "optimizer", if any, is left out of a saved model.
        """
        parameters = self.get_params(deep=False)
        return copy.deepcopy(
            {name: vars(self)[name] for name in vars(self) if name not in parameters}
        )

    def set_state(self, state: Mapping[str, Any]) -> Self:
        """Go back to a state of this model, or of an equal one.

        Parameters
        ----------
        state : mapping
            What `get_state` returned, possibly in another process.

        Returns
        -------
        self
            The model, ready to predict, and to train on unless "optimizer" is missing.

        Raises
        ------
        ValueError
            If the state belongs to another model.
        """
        vars(self).update(copy.deepcopy(dict(state)))
        return self

    def fingerprint(self) -> str | None:
        """Return what distinguishes this model from others, for a checkpoint.

        Returns
        -------
        str or None
            A text that changes with everything that a fit depends on. None if the
            parameters say it all.
        """
        return None
