"""The contract between CollisionClusterer and the softmax model that it trains."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

Objective = Callable[[NDArray], tuple[NDArray, NDArray]]
"""Maps a batch's logits to the loss of each sample and its gradient by the logits.

The logits have shape (n, n_clusters), or (n_views, n, n_clusters) if a model looks at
each sample in several ways; all views of a sample get the pseudo-label of its first.
"""


class SoftmaxModel(Protocol):
    """What :class:`~skcce.CollisionClusterer` asks of its ``model``.

    A model is a scikit-learn ``BaseEstimator`` (so that ``model__…`` parameters can be
    set and searched) whose logits are trained batch by batch. It knows its own input,
    optimizer and regularization; it knows nothing of clusters, priors, pseudo-labels
    or losses. The estimator clones it once per start, calls `initialize`, then
    `train_step` for every batch, and afterwards only `decision_function`.

    A model whose input may be something else than a 2-D array of numbers (images, a
    data set) also has ``validate_input(X)``, which returns something with a length and
    a ``shape`` that can be indexed with an array of row numbers, or with a slice; or
    None, to leave a table to the estimator's own checks.

    A model with ``get_state()``, which returns a dict of all that training changes, and
    ``set_state(state)``, which returns the model, can be checkpointed and saved, and
    goes back to its last good epoch when the loss becomes NaN. The dict holds plain
    numbers, strings, lists, dicts with strings for keys, and numpy's arrays; what only
    more training needs is its entry "optimizer". ``fingerprint()`` returns a text that
    changes with all that the training depends on, or None if the parameters tell: a
    checkpoint of another model is refused.

    Attributes
    ----------
    defaults : mapping
        Recipe that suits the model: the value of every parameter of the estimator that
        is left at "auto" (``lam``, ``solver``, ``n_neighbors``, ``init``, ``n_init``,
        ``batch_size``), where a batch size of None means about 40 batches an epoch; and
        ``em_iter``, the number of EM iterations per batch.
    """

    defaults: ClassVar[Mapping[str, Any]]

    def initialize(
        self,
        X: NDArray,
        n_clusters: int,
        *,
        labels: NDArray | None,
        random_state: np.random.RandomState,
    ) -> None:
        """Set new weights: random ones, or such that they predict `labels` (n,)."""

    def train_step(self, X: NDArray, objective: Objective, *, progress: float) -> float:
        """Take one optimizer step on a batch, and return its mean loss.

        The model computes the logits of `X`, hands them to `objective`, and
        back-propagates the gradient that it returns (per sample; the step uses its
        mean). `progress`, in [0, 1), is the part of the training that is done, for a
        learning-rate schedule.
        """

    def decision_function(self, X: NDArray) -> NDArray:
        """Return the logits, an array of shape (n_samples, n_clusters)."""
