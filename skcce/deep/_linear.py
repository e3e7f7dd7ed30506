"""The linear softmax model, with its products on a GPU."""

from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from skcce._linear import LinearSoftmax
from skcce.deep._torch_state import resolve_device

__all__ = ["TorchLinearSoftmax"]


class TorchLinearSoftmax(LinearSoftmax):
    """Linear softmax model whose products are computed by torch, on a GPU if wanted.

    The same model as :class:`skcce.LinearSoftmax`, with the same weights but for
    rounding: a product of rows and weights, and one of rows and gradients, are the only
    difference. It is meant for many features: with a few hundred, most of the time goes
    into neighbors and pseudo-labels, which stay on the CPU.

    Parameters
    ----------
    learning_rate : float, default=0.1
        First step size of the optimizer, as of :class:`skcce.LinearSoftmax`.
    alpha : float, default=0.0
        L2 penalty on the weights, not on the intercept.
    optimizer : {"adam", "sgd", "lbfgs"}, default="adam"
        As that of :class:`skcce.LinearSoftmax`. With "lbfgs" the rows are copied to
        the device once an epoch, and used for hundreds of products there.
    distributed : bool, default=False
        As that of :class:`skcce.LinearSoftmax`.
    device : str or torch.device, default="auto"
        Where to compute. "auto" is the GPU ("cuda") if there is one, or else the CPU.

    Attributes
    ----------
    coef_, intercept_, groups_
        As those of :class:`skcce.LinearSoftmax`, NumPy arrays.

    Notes
    -----
    float64 stays float64, for which many GPUs are slow; embeddings are mostly float32.
    Whether products of these are rounded to TF32 is up to
    ``torch.set_float32_matmul_precision``; by default they are not.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce import CollisionClusterer
    >>> from skcce.deep import TorchLinearSoftmax
    >>> X = load_iris().data
    >>> model = TorchLinearSoftmax(device="cpu")
    >>> CollisionClusterer(3, model=model, random_state=0).fit(X).coef_.shape[0] >= 3
    True
    """

    takes_sparse = False
    _parameter_constraints: ClassVar[dict] = {
        **LinearSoftmax._parameter_constraints,
        "device": [str, torch.device],
    }

    def __init__(
        self,
        *,
        learning_rate: float = 0.1,
        alpha: float = 0.0,
        optimizer: Literal["adam", "sgd", "lbfgs"] = "adam",
        distributed: bool = False,
        device: str | torch.device = "auto",
    ):
        super().__init__(
            learning_rate=learning_rate,
            alpha=alpha,
            optimizer=optimizer,
            distributed=distributed,
        )
        self.device = device

    def validate_input(self, X: Any) -> None:
        resolve_device(self.device)  # before the work, if it is not there
        return super().validate_input(X)

    def _place(self, rows: NDArray) -> Tensor:
        return torch.from_numpy(rows).to(resolve_device(self.device))

    def _forward(self, placed: Tensor, weights: NDArray, intercept: NDArray) -> NDArray:
        there = torch.tensor(weights, device=placed.device)
        return (placed @ there.T).cpu().numpy() + intercept

    def _backward(self, placed: Tensor, gradient: NDArray) -> NDArray:
        there = torch.tensor(gradient, device=placed.device)
        return (there.T @ placed).cpu().numpy()
