"""The linear softmax model."""

import copy
from collections.abc import Mapping
from itertools import chain
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.utils import gen_batches
from sklearn.utils._param_validation import Interval, StrOptions

from skcce._model import BatchObjective, SoftmaxModel
from skcce._scaling import BLOCK, StandardizedRows, row_scale, standardize

__all__ = ["LinearSoftmax"]

# Sharpness of the first predictions, softmax(-_SHARPNESS * squared distance to the
# centroid), where the rows have mean square norm 1.
_SHARPNESS = 10.0
# Where "lbfgs" ends: at a gradient that is zero but for rounding, at a value that does
# not fall any more, or, where labels can be separated and there is no minimum, here.
_LBFGS = {"gtol": 1e-9, "ftol": 1e-15, "maxiter": 1000, "maxfun": 5000}


class LinearSoftmax(SoftmaxModel):
    r"""Linear softmax model, the default ``model`` of CollisionClusterer.

    Predicts :math:`\sigma(x) = \mathrm{softmax}(v^\top x + b)` (eq. 3 of [1]_) and
    minimizes, by stochastic gradient steps on the batches that it is given,

    .. math:: \frac1B \sum_{i} \ell_i + \frac{\alpha}{2} \|v\|^2 ,

    or, with L-BFGS, goes to a minimum over all samples in every epoch.

    The optimizer works on rows that are centered and divided by one number, the root of
    their mean square norm; `learning_rate` and `alpha` refer to these. A fit therefore
    depends neither on the origin nor on the unit of the data; as in k-means, the scales
    of the features relative to one another matter.

    Parameters
    ----------
    learning_rate : float, default=0.1
        First step size of the optimizer; it decays to zero along half a cosine over
        the epochs of a fit. L-BFGS has none.
    alpha : float, default=0.0
        L2 penalty on the weights, not on the intercept.
    optimizer : {"adam", "sgd", "lbfgs"}, default="adam"
        "adam" (with moments 0.9 and 0.999), or plain stochastic gradient descent, the
        paper's choice for a linear model. "lbfgs" takes all samples at once, and
        minimizes the loss in each epoch as far as float64 can tell, in at most 1000
        iterations: for labels that are given, where one epoch then is the whole fit,
        the same as that of scikit-learn's LogisticRegression. With pseudo-labels, each
        epoch fits the model to the labels of the last one as if they were true: that
        takes longer than "adam", and the clusters stay closer to the start.
    distributed : bool, default=False
        Whether the processes of ``torch.distributed`` share the work on more rows than
        the estimator's `max_samples`. All of them call ``fit`` with the same data, and
        `random_state` an int; all end with the same model, bit for bit.

    Attributes
    ----------
    coef_ : ndarray of shape (n_units, n_features)
        Weights (:math:`v`), for rows as they were given. There is a unit for each
        cluster, or several, if the clusters are joined from finer ones: then the
        probability of a cluster is the sum of theirs.
    intercept_ : ndarray of shape (n_units,)
        Intercepts (:math:`b`).
    groups_ : ndarray of shape (n_units,) or None
        Cluster of each unit; None if each is a cluster.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (3) and supplement 10.2.

    Examples
    --------
    >>> from skcce import CollisionClusterer, LinearSoftmax
    >>> clusterer = CollisionClusterer(model=LinearSoftmax(alpha=1e-3))
    >>> clusterer.set_params(model__learning_rate=0.01).model
    LinearSoftmax(alpha=0.001, learning_rate=0.01)
    """

    takes_sparse = True
    _parameter_constraints: ClassVar[dict] = {
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "optimizer": [StrOptions({"adam", "sgd", "lbfgs"})],
        "distributed": ["boolean"],
    }

    def __init__(
        self,
        *,
        learning_rate: float = 0.1,
        alpha: float = 0.0,
        optimizer: Literal["adam", "sgd", "lbfgs"] = "adam",
        distributed: bool = False,
    ):
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.optimizer = optimizer
        self.distributed = distributed

    @property
    def needs_all_samples(self) -> bool:
        return self.optimizer == "lbfgs"

    def initialize(
        self,
        X: NDArray,
        n_clusters: int,
        *,
        labels: NDArray | None,
        sample_weight: NDArray | None,
        random_state: np.random.RandomState,
    ) -> None:
        self._validate_params()
        n_features = X.shape[1]
        self._mean, self._scale = row_scale(X, sample_weight)
        if labels is None:
            # Kaiming's variance, 2 / n_features, for features of unit variance.
            weights = random_state.normal(0, np.sqrt(2), (n_clusters, n_features))
            intercept = np.zeros(n_clusters)
        else:
            centroids = self._centroids(
                X, n_clusters, labels, sample_weight, random_state
            )
            weights = 2 * _SHARPNESS * centroids
            intercept = -_SHARPNESS * (centroids**2).sum(axis=1)
        self._weights = [weights.astype(X.dtype), intercept.astype(X.dtype)]
        self.groups_ = None
        self._reset_optimizer()

    def units(self, numbers: NDArray) -> Self:
        """Return a model of some of the units, each of which is a cluster."""
        return self._derived([weight[numbers] for weight in self._weights], None)

    def affine(self) -> tuple[NDArray, NDArray]:
        """Return weights and intercepts, for rows as they were given, in float64."""
        weights = self._weights[0].astype(np.float64) / self._scale
        return weights, self._weights[1] - weights @ self._mean

    def joined(self, groups: NDArray) -> Self:
        """Return a model whose clusters are joined from the units.

        Parameters
        ----------
        groups : ndarray of shape (n_units,)
            Cluster of each unit, integers from 0 on.

        Returns
        -------
        LinearSoftmax
            A model that predicts the sums of the units' probabilities.
        """
        return self._derived([weight.copy() for weight in self._weights], groups)

    def _derived(self, weights: list[NDArray], groups: NDArray | None) -> Self:
        model = clone(self)
        model._mean, model._scale = self._mean.copy(), self._scale
        model._weights, model.groups_ = weights, groups
        model._reset_optimizer()
        return model

    def train_step(
        self, X: NDArray, objective: BatchObjective, *, progress: float
    ) -> float:
        if self.optimizer == "lbfgs":
            return self._minimize(self._standardize(X), objective)
        value, gradient = self.gradient(X, objective)
        self.update(gradient, progress)
        return value

    def gradient(
        self, X: NDArray, objective: BatchObjective
    ) -> tuple[float, list[NDArray]]:
        """Return value and gradient by weights and intercepts, without the penalty.

        With an objective that is a sum over rows, those of several parts add up.
        """
        placed = self._place(self._standardize(X))
        value, gradient = objective(self._forward(placed, *self._weights))
        return value, [self._backward(placed, gradient), gradient.sum(axis=0)]

    def frozen(self) -> Self:
        """Return what gives gradients, and no more: to be sent to workers."""
        model = copy.copy(self)
        model._moments = None
        return model

    def update(self, gradient: list[NDArray], progress: float) -> None:
        """Take one step of the optimizer."""
        step_size = 0.5 * self.learning_rate * (1 + np.cos(np.pi * progress))
        self._n_steps += 1
        dtype = self._mean.dtype
        slope, shift = (part.astype(dtype, copy=False) for part in gradient)
        if self.alpha:
            slope = slope + dtype.type(self.alpha) * self._weights[0]
        for weight, (mean, square), grad in zip(
            self._weights, self._moments, (slope, shift), strict=True
        ):
            if self.optimizer == "adam":
                grad = _adam(grad, mean, square, self._n_steps)
            weight -= weight.dtype.type(step_size) * grad

    def _minimize(
        self, rows: NDArray | StandardizedRows, objective: BatchObjective
    ) -> float:
        """Go to a minimum of the penalized objective, in float64.

        Returns the value of the objective before.
        """
        value, _ = objective(self._forward(self._place(rows), *self._weights))
        placed = self._place(rows.astype(np.float64, copy=False))
        n_weights, shape = self._weights[0].size, self._weights[0].shape

        def penalized(parameters):
            weights = parameters[:n_weights].reshape(shape)
            logits = self._forward(placed, weights, parameters[n_weights:])
            value, gradient = objective(logits)
            slope = self._backward(placed, gradient) + self.alpha * weights
            value += self.alpha / 2 * np.vdot(weights, weights)
            return value, np.concatenate([slope.ravel(), gradient.sum(axis=0)])

        start = np.concatenate([weight.ravel() for weight in self._weights])
        start = start.astype(np.float64)  # or SciPy would go on in float32
        found = minimize(penalized, start, jac=True, method="L-BFGS-B", options=_LBFGS)
        parts = np.split(found.x.astype(self._mean.dtype), [n_weights])
        self._weights = [parts[0].reshape(shape), parts[1]]
        return value

    def decision_function(self, X: NDArray) -> NDArray:
        n_units = len(self._weights[0])
        n_clusters = n_units if self.groups_ is None else self.groups_.max() + 1
        logits = np.empty((X.shape[0], n_clusters), dtype=X.dtype)
        for block in gen_batches(X.shape[0], BLOCK):
            units = self._units(X[block])
            logits[block] = units if self.groups_ is None else self._sums(units)
        return logits

    def input_gradient(self, X: NDArray, gradient: NDArray) -> NDArray:
        if self.groups_ is not None:
            units = self._units(X)
            # A joined logit follows each of its units by the unit's part of it.
            part = np.exp(units - self._sums(units)[:, self.groups_])
            gradient = gradient[:, self.groups_] * part
        return gradient @ self.coef_

    def get_state(self) -> dict[str, Any]:
        weights, intercept = (weight.copy() for weight in self._weights)
        moments = [[moment.copy() for moment in pair] for pair in self._moments]
        return {
            "weights": weights,
            "intercept": intercept,
            "groups": None if self.groups_ is None else self.groups_.copy(),
            "mean": self._mean.copy(),
            "scale": float(self._scale),
            "optimizer": {"moments": moments, "n_steps": self._n_steps},
        }

    def set_state(self, state: Mapping[str, Any]) -> Self:
        self._validate_params()
        self._weights = [native(state["weights"]), native(state["intercept"])]
        self._mean = native(state["mean"])
        self._scale = self._mean.dtype.type(state["scale"])
        groups = state["groups"]
        self.groups_ = None if groups is None else native(groups)
        self._reset_optimizer()
        if "optimizer" in state:
            moments = state["optimizer"]["moments"]
            self._moments = [tuple(map(native, pair)) for pair in moments]
            self._n_steps = state["optimizer"]["n_steps"]
        arrays = [*self._weights, self._mean, *chain(*self._moments)]
        shape = n_clusters, n_features = self._weights[0].shape
        shapes = [shape, (n_clusters,), (n_features,), *2 * [shape]]
        if (
            [array.shape for array in arrays] != shapes + 2 * [(n_clusters,)]
            or {array.dtype for array in arrays} - {self._mean.dtype}
            or self._mean.dtype not in (np.float32, np.float64)
            or not all(np.isfinite(array).all() for array in arrays[:3])
            or not 0 < self._scale < np.inf
            or not (isinstance(self._n_steps, Integral) and self._n_steps >= 0)
            or not (self.groups_ is None or _is_partition(self.groups_, shape[0]))
        ):
            raise ValueError("the parts of a linear model's state do not fit together")
        return self

    @property
    def coef_(self) -> NDArray:
        return self._weights[0] / self._scale

    @property
    def intercept_(self) -> NDArray:
        offset = self.coef_.astype(np.float64) @ self._mean
        return (self._weights[1] - offset).astype(self._mean.dtype)

    def _units(self, X: NDArray) -> NDArray:
        """Return the logits of the units, (n, n_units)."""
        return self._forward(self._place(self._standardize(X)), *self._weights)

    # All that is large is in these three, so that it can be done elsewhere.

    def _place(self, rows: NDArray) -> Any:
        """Return standardized rows where their products are computed."""
        return rows

    def _forward(self, placed: Any, weights: NDArray, intercept: NDArray) -> NDArray:
        """Return the logits of the units for some weights, (n, n_units)."""
        return placed @ weights.T + intercept

    def _backward(self, placed: Any, gradient: NDArray) -> NDArray:
        """Return the gradient with respect to the weights, (n_units, n_features)."""
        return gradient.T @ placed

    def _sums(self, units: NDArray) -> NDArray:
        """Return logits (n, n_clusters) of the sums of the units' probabilities."""
        order = np.argsort(self.groups_, kind="stable")
        first = np.flatnonzero(np.diff(self.groups_[order], prepend=-1))
        # Relative to the largest unit of each cluster, so that nothing underflows.
        units = units[:, order]
        largest = np.maximum.reduceat(units, first, axis=1)
        units -= largest[:, self.groups_[order]]
        return largest + np.log(np.add.reduceat(np.exp(units), first, axis=1))

    def _reset_optimizer(self) -> None:
        self._moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self._weights]
        self._n_steps = 0

    def _standardize(self, X: NDArray | csr_array) -> NDArray | StandardizedRows:
        return standardize(X, self._mean, self._scale)

    def _centroids(
        self,
        X: NDArray,
        n_clusters: int,
        labels: NDArray,
        sample_weight: NDArray | None,
        random_state: np.random.RandomState,
    ) -> NDArray:
        """Mean standardized row of every cluster; of an empty one, a random row."""
        n_samples, n_features = X.shape
        total = np.zeros((n_clusters, n_features))
        for block in gen_batches(n_samples, BLOCK):
            member = (labels[block] == np.arange(n_clusters)[:, None]).astype(X.dtype)
            if sample_weight is not None:
                member *= sample_weight[block].astype(X.dtype)
            total += member @ self._standardize(X[block])
        count = np.bincount(labels, weights=sample_weight, minlength=n_clusters)
        for k in np.flatnonzero(count == 0):
            row = random_state.randint(n_samples)
            one = np.ones((1, 1), X.dtype)
            total[k] = (one @ self._standardize(X[row : row + 1]))[0]
        return total / np.where(count > 0, count, 1)[:, None]


def _is_partition(groups: NDArray, n_units: int) -> bool:
    """Whether every unit has a cluster, and every cluster a unit."""
    numbers = np.unique(groups)
    return (
        groups.dtype.kind == "i"
        and groups.shape == (n_units,)
        and np.array_equal(numbers, np.arange(len(numbers)))
    )


def native(array: NDArray) -> NDArray:
    """Return a copy in the byte order of this machine."""
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _adam(gradient: NDArray, mean: NDArray, square: NDArray, n_steps: int) -> NDArray:
    """Update both moments in place, and return Adam's direction (Kingma and Ba)."""
    mean *= 0.9
    mean += 0.1 * gradient
    square *= 0.999
    square += 0.001 * gradient**2
    corrected = np.sqrt(square / (1 - 0.999**n_steps)) + 1e-8
    return mean / ((1 - 0.9**n_steps) * corrected)
