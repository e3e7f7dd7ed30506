"""Second views of the samples, where the model makes none."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.utils import gen_batches

from skcce._data import TrainingData
from skcce._model import SoftmaxModel
from skcce._neighbors import draw_neighbors
from skcce._objective import Objective
from skcce._scaling import BLOCK
from skcce.losses import log_normalize


def read(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    rows: NDArray,
    random_state: np.random.RandomState,
) -> NDArray:
    """Return the samples of a batch and, behind them, a view of each, if one is due.

    rows : (n,), the numbers of the samples.
    """
    if data.view_source == "neighbors":
        return data.X[
            np.concatenate([rows, draw_neighbors(data.graph, rows, random_state)])
        ]
    X = data.X[rows]
    if data.view_source == "adversarial":
        distance = objective.view_distance * data.reach[rows]
        X = np.concatenate([X, adversarial_rows(model, X, distance, random_state)])
    return X


def logits_of_views(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    logits: NDArray,
    random_state: np.random.RandomState,
) -> list[NDArray]:
    """Return the logits (n_samples, n_clusters) of the views of all samples, if any.

    `logits` are those of the samples themselves.
    """
    if data.view_source == "neighbors":
        rows = np.arange(data.n_samples)
        return [logits[draw_neighbors(data.graph, rows, random_state)]]
    if data.view_source == "adversarial":
        moved = np.empty_like(logits)
        for block in gen_batches(data.n_samples, BLOCK):
            distance = objective.view_distance * data.reach[block]
            moved[block] = model.decision_function(
                adversarial_rows(model, data.X[block], distance, random_state)
            )
        return [moved]
    return []


def adversarial_rows(
    model: SoftmaxModel,
    X: NDArray,
    distance: NDArray,
    random_state: np.random.RandomState,
) -> NDArray:
    """Move each row to where, nearly, the model's prediction changes most.

    One step of the power iteration of virtual adversarial training (Miyato et al.,
    2018): the direction in which the divergence from the prediction grows fastest, seen
    from a random point at the same distance. A row whose prediction does not change is
    moved to that point.

    Parameters
    ----------
    model : SoftmaxModel
        The model, with an `input_gradient`.
    X : ndarray of shape (n, n_features)
        Rows.
    distance : ndarray of shape (n,)
        How far each is moved.
    random_state : RandomState
        Source of the random points.

    Returns
    -------
    ndarray of shape (n, n_features)
        Rows, in the dtype of `X`.
    """
    distance = distance[:, np.newaxis].astype(X.dtype)
    toward = _unit(random_state.normal(size=X.shape).astype(X.dtype))
    near = X + distance * toward
    # KL(p || q) has the derivative q - p with respect to the logits of q.
    slope = log_normalize(model.decision_function(near))[1]
    slope -= log_normalize(model.decision_function(X))[1]
    steepest = model.input_gradient(near, slope)
    changes = np.abs(steepest).max(axis=1, keepdims=True) > 0
    return X + distance * np.where(changes, _unit(steepest), toward)


def mean_distance(X: NDArray, graph: csr_array) -> NDArray:
    """Return the mean distance of each row to the neighbors that it has on the graph.

    X : (n_samples, n_features); graph : (n_samples, n_samples), with a diagonal.
    """
    total = np.empty(len(X))
    for block in gen_batches(len(X), BLOCK):
        ends = graph.indptr[block.start : block.stop + 1]
        counts = np.diff(ends)
        others = X[graph.indices[ends[0] : ends[-1]]]
        lengths = np.linalg.norm(others - np.repeat(X[block], counts, axis=0), axis=1)
        # Every row has an entry: the walk may stay where it is.
        total[block] = np.add.reduceat(lengths, np.cumsum(counts) - counts)
        total[block] /= np.maximum(counts - 1, 1)  # without the sample itself
    return total


def _unit(rows: NDArray) -> NDArray:
    """Return the rows divided by their lengths; rows of zeros stay."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    rows = rows / np.where(largest > 0, largest, 1)  # squares would underflow
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
