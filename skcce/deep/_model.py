"""The softmax model that is a torch network."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor, nn

from skcce._images import is_table
from skcce._linear import LinearSoftmax
from skcce._model import BatchObjective, SoftmaxModel
from skcce._persistence import plain
from skcce._ranks import check_group
from skcce.deep._augment import as_augmentation
from skcce.deep._description import describe
from skcce.deep._images import Images, open_images
from skcce.deep._networks import is_fresh
from skcce.deep._processes import (
    check_same,
    copy_from_first,
    gather_rows,
    own_device,
    own_part,
    sum_gradients,
)
from skcce.deep._torch_state import random_numbers, resolve_device, torch_threads

__all__ = ["DeepSoftmax"]

_OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, **options: torch.optim.SGD(groups, momentum=0.9, **options),
}
# Parameters that do not change where a run ends.
_MAY_CHANGE = frozenset({"device", "compile", "distributed", "predict_batch_size"})
# From the seeds of a process to those of the next one, past all of its steps.
_NEXT_PROCESS = 0x9E3779B1
# Their bits are kept instead.
_NOT_IN_NUMPY = {
    str(dtype): dtype
    for dtype in (
        *(torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    )
}
_BITS = {1: torch.uint8, 2: torch.int16}


class DeepSoftmax(SoftmaxModel):
    r"""Deep softmax model: a torch network and a linear head, trained end to end.

    Predicts :math:`\sigma(x) = \mathrm{softmax}(v^\top f_w(x) + b)` (eq. 4 of [1]_),
    where :math:`f_w` is `network`. For each batch the objective gets the predictions
    for the samples and, behind them, for :math:`V` augmented views of each.

    Parameters
    ----------
    network : torch.nn.Module or callable
        Maps a batch of images (n, channels, height, width), or rows (n, n_features), to
        features (n, d); the linear head is added. A module is copied, and trained from
        the weights that it holds: load pretrained ones into it. A function without
        arguments is called for a new module; its random weights, as those of a network
        fresh from :func:`vgg4` or :func:`resnet18`, then follow the ``random_state`` of
        the fit.
    augment : {"digits", "natural"}, callable or None, default=None
        Makes the augmented views: :func:`digits` or :func:`natural`; a transform of
        torchvision.transforms.v2, which is called for one image at a time; any other
        function of a batch (n, channels, height, width), of floats in [0, 1] if the
        images are uint8. None: no views.
    n_views : int, default=1
        Augmented views per image and step (:math:`V`).
    lr : float, default=1e-3
        Learning rate of the network.
    head_lr : float or None, default=None
        Learning rate of the head. None: `lr`.
    weight_decay : float, default=0.01
        L2 penalty on all weights as torch's optimizer has it.
    optimizer : {"adam", "adamw", "sgd"}, default="adam"
        torch's optimizer; "sgd" has momentum 0.9.
    schedule : {"cosine", "constant"}, default="cosine"
        "cosine" lets the learning rates decay to zero along half a cosine over the
        epochs of a fit.
    normalize : tuple of two sequences or None, default=None
        Mean and standard deviation of each channel: they are subtracted and divided by
        before the network, as pretrained ones ask for. uint8 images are divided by 255
        before that, floats are used as they are.
    device : str or torch.device, default="auto"
        Where to compute. "auto" is the GPU ("cuda") if there is one, or else the CPU.
    mixed_precision : bool or "auto", default="auto"
        Whether to compute in bfloat16 where torch's autocast does so. "auto": on a GPU
        that supports it.
    channels_last : bool, default=True
        Whether images are laid out with their channels last, which is faster for most
        convolutions, on GPUs and on CPUs.
    compile : bool or str, default=False
        Whether to compile the network with ``torch.compile``; a str names the backend.
    distributed : bool, default=False
        Whether all processes of ``torch.distributed`` train one network together, each
        with its part of every batch. All of them call ``fit`` with the same data, and
        ``random_state`` an int. See Notes.
    n_threads : int or None, default=None
        Threads of torch on the CPU. None: as torch is set. The last digits of a
        result depend on their number, which joblib may change in parallel searches; set
        it if a fit must give the same result, bit for bit, wherever it runs.
    predict_batch_size : int, default=500
        Images at a time when nothing is trained.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network, on `device`.
    head_ : torch.nn.Linear
        The trained head.

    See Also
    --------
    skcce.LinearSoftmax : The model for features that stay as they are.

    Notes
    -----
    The random numbers of a step (augmentations, dropout) depend on ``random_state`` and
    on the number of the step alone; torch's global generators are left as they were.

    With `distributed`, the pseudo-labels are those of the whole batch: the logits of
    all processes are gathered, every process solves for all labels and back-propagates
    the gradient of its rows, and the gradients of the weights are summed. The network
    becomes that of one process, but for rounding, as long as rows do not depend on one
    another or on chance: batch norms take the statistics of the rows of their process
    (or of all, on GPUs, if ``torch.nn.SyncBatchNorm`` takes their place), and each
    process draws augmentations and dropout of its own. Weights at the start, and
    buffers after each step, are those of the first process, as in torch's
    DistributedDataParallel. Only the first process shows bars, warns and writes
    checkpoints. To predict, a process needs no other one. With ``device="auto"`` each
    process takes the GPU of its ``LOCAL_RANK``. A script for
    ``torchrun --nproc-per-node 2``::

        torch.distributed.init_process_group(timeout=timedelta(minutes=5))
        model = DeepSoftmax(vgg4(1, 28), augment="digits", distributed=True)
        clusterer = CollisionClusterer(10, model=model, random_state=0).fit(images)
        if torch.distributed.get_rank() == 0:
            clusterer.save("model.npz")
        torch.distributed.destroy_process_group()

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, eq. (4), section 5.2 and supplement 10.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skcce import CollisionClusterer
    >>> from skcce.deep import DeepSoftmax, vgg4
    >>> images = np.zeros((60, 28, 28), dtype=np.uint8)
    >>> images[:30, 4:24, 4:24] = 255  # squares
    >>> images[30:, 12:16, :] = 255  # lines
    >>> model = DeepSoftmax(vgg4(1, 28, width=0.1), augment="digits", lr=1e-2)
    >>> clusterer = CollisionClusterer(2, model=model, batch_size=20, random_state=0)
    >>> clusterer.set_params(model__lr=1e-3).fit(images).predict_proba(images[:5]).shape
    (5, 2)
    """

    _parameter_constraints: ClassVar[dict] = {
        "network": [callable],
        "augment": [str, callable, None],
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "lr": [Interval(Real, 0, None, closed="left")],
        "head_lr": [Interval(Real, 0, None, closed="left"), None],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "optimizer": [StrOptions(set(_OPTIMIZERS))],
        "schedule": [StrOptions({"cosine", "constant"})],
        "normalize": [tuple, list, None],
        "device": [str, torch.device],
        "mixed_precision": ["boolean", StrOptions({"auto"})],
        "channels_last": ["boolean"],
        "compile": ["boolean", str],
        "distributed": ["boolean"],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "predict_batch_size": [Interval(Integral, 1, None, closed="left")],
    }

    learns_features = True

    def __init__(
        self,
        network: nn.Module | Callable[[], nn.Module],
        *,
        augment: str | Callable[[Tensor], Tensor] | None = None,
        n_views: int = 1,
        lr: float = 1e-3,
        head_lr: float | None = None,
        weight_decay: float = 0.01,
        optimizer: Literal["adam", "adamw", "sgd"] = "adam",
        schedule: Literal["cosine", "constant"] = "cosine",
        normalize: tuple[Sequence[float], Sequence[float]] | None = None,
        device: str | torch.device = "auto",
        mixed_precision: bool | Literal["auto"] = "auto",
        channels_last: bool = True,
        compile: bool | str = False,
        distributed: bool = False,
        n_threads: int | None = None,
        predict_batch_size: int = 500,
    ):
        self.network = network
        self.augment = augment
        self.n_views = n_views
        self.lr = lr
        self.head_lr = head_lr
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.schedule = schedule
        self.normalize = normalize
        self.device = device
        self.mixed_precision = mixed_precision
        self.channels_last = channels_last
        self.compile = compile
        self.distributed = distributed
        self.n_threads = n_threads
        self.predict_batch_size = predict_batch_size

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters without nested ones: nothing inside is an estimator.

        Parameters
        ----------
        deep : bool, default=True
            Ignored: ``get_params`` of torchvision's transforms means something else.

        Returns
        -------
        dict
            Value of each parameter.
        """
        return super().get_params(deep=False)

    def __sklearn_clone__(self) -> Self:
        # For the same reason: scikit-learn would take the transforms for estimators.
        return type(self)(**copy.deepcopy(self.get_params()))

    def validate_input(self, X: Any) -> Images | None:
        if is_table(X):
            return None
        channels = _first_channels(self.network)
        if len(getattr(self, "_input_shape", ())) == 3:
            channels = self._input_shape[0]  # it is trained
        return open_images(X, channels)

    def initialize(
        self,
        X: Images | NDArray,
        n_clusters: int,
        *,
        labels: NDArray | None,
        sample_weight: NDArray | None,
        random_state: np.random.RandomState,
    ) -> None:
        self._validate_params()
        self._resolve()
        self._seed = int(random_state.randint(2**31 - 1))
        self._n_steps = 0
        with self._random_numbers():
            network = _new_network(self.network)
            n_features = _count_features(network, self._scale(X[:2], "cpu"))
            self._install(network, nn.Linear(n_features, n_clusters), X.shape[1:])
        if self.distributed:
            check_same(0, self._seed, X, self._device)
            copy_from_first(self._module.state_dict().values())
        if labels is not None:
            start = LinearSoftmax()
            features = self._apply(self.network_, X)
            start.initialize(
                features,
                n_clusters,
                labels=labels,
                sample_weight=sample_weight,
                random_state=random_state,
            )
            with torch.no_grad():
                self.head_.weight.copy_(torch.from_numpy(start.coef_))
                self.head_.bias.copy_(torch.from_numpy(start.intercept_))

    @property
    def makes_views(self) -> bool:
        """Whether there are augmented views."""
        return self.augment is not None

    def train_step(
        self, X: Tensor | NDArray, objective: BatchObjective, *, progress: float
    ) -> float:
        self._module.train()
        part, rank = self._share(X)
        with (
            self._random_numbers(rank),
            torch_threads(self.n_threads),
            self._warm_norms(),
        ):
            batch = self._scale(X[part], self._device)
            views = [batch]
            if self._augment is not None:
                views += [self._view(batch) for _ in range(self.n_views)]
            with self._autocast():
                logits = self._forward(self._lay_out(torch.cat(views)))
            logits = logits.float()  # of bfloat16 under autocast
            # The pseudo-labels are solved for on the CPU: n x K numbers go there and
            # back. An EM iteration on a GPU would start dozens of kernels for them.
            values = logits.detach().reshape(len(views), len(batch), -1)
            if self.distributed:
                values = gather_rows(values, part, len(X))
            value, gradient = objective(values.cpu().numpy())
            self._set_learning_rate(progress)
            self._optimizer.zero_grad(set_to_none=True)
            gradient = torch.from_numpy(gradient)[:, part].reshape(logits.shape)
            logits.backward(gradient.to(logits.device))
            if self.distributed:
                sum_gradients(self._module.parameters())
            self._optimizer.step()
            if self.distributed:
                copy_from_first(self._module.buffers())
        self._n_steps += 1
        return value

    def decision_function(self, X: Images | NDArray) -> NDArray:
        if X.shape[1:] != self._input_shape:
            raise ValueError(
                f"Images of shape {X.shape[1:]} (channels first) do not fit the model, "
                f"which was trained with {self._input_shape}."
            )
        logits = self._apply(self._forward, X)
        return logits.astype(X.dtype, copy=False) if X.ndim == 2 else logits

    def input_gradient(self, X: NDArray, gradient: NDArray) -> NDArray:
        self._module.eval()
        with (
            self._random_numbers(),
            torch_threads(self.n_threads),
            torch.enable_grad(),
        ):
            batch = self._scale(X, self._device).requires_grad_()
            with self._autocast():
                logits = self._forward(self._lay_out(batch)).float()
            toward = torch.from_numpy(gradient).to(logits)
            (of_rows,) = torch.autograd.grad(logits, batch, toward)
        return of_rows.cpu().numpy().astype(X.dtype, copy=False)

    def get_state(self) -> dict[str, Any]:
        return {
            "network": _to_plain(self.network_.state_dict()),
            "head": _to_plain(self.head_.state_dict()),
            "optimizer": _to_plain(self._optimizer.state_dict()["state"]),
            "input_shape": list(self._input_shape),
            "normalize": _as_lists(self.normalize),
            "seed": self._seed,
            "n_steps": self._n_steps,
        }

    def set_state(self, state: Mapping[str, Any]) -> Self:
        self._validate_params()
        self._resolve()
        self._seed, self._n_steps = state["seed"], state["n_steps"]
        weights, head_weights = map(_to_tensors, (state["network"], state["head"]))
        if not hasattr(self, "_module"):
            input_shape = tuple(state["input_shape"])
            with self._random_numbers():
                network = _new_network(self.network)
                # Lazy layers are built by the first batch.
                _count_features(network, torch.zeros(2, *input_shape))
            head = nn.Linear(*reversed(head_weights["weight"].shape), device="meta")
            head = head.to_empty(device="cpu")
            self._install(network, head, input_shape)
        _check_architecture(self.network_, weights)
        _check_architecture(self.head_, head_weights)
        if state["normalize"] != _as_lists(self.normalize):
            raise ValueError(
                f"The saved weights were trained with normalize={state['normalize']}, "
                f"not with {self.normalize}."
            )
        self.network_.load_state_dict(weights)
        self.head_.load_state_dict(head_weights)
        if "optimizer" in state:
            # What it has learned; its settings are those of this model.
            settings = self._optimizer.state_dict()["param_groups"]
            learned = _to_tensors(state["optimizer"])
            self._optimizer.load_state_dict(
                {
                    "state": {int(index): held for index, held in learned.items()},
                    "param_groups": settings,
                }
            )
            _match_weights(self._optimizer)
        return self

    def fingerprint(self) -> str:
        texts = []
        for name, value in sorted(self.get_params().items()):
            if name in _MAY_CHANGE:
                continue
            try:
                text = self._describe_network() if name == "network" else _text(value)
            except TypeError as error:
                raise TypeError(
                    f"{name} cannot be compared with that of another run ({error})."
                ) from error
            texts.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(texts)})"

    def _describe_network(self) -> str:
        network = self._build_with_seed_0()
        digest = describe(network)
        if not isinstance(self.network, nn.Module):
            # A function may draw weights from elsewhere: only layers are known.
            again = describe(self._build_with_seed_0())
            digest = digest if again == digest else str(network)
        trainable = [weight.requires_grad for weight in network.parameters()]
        return f"{type(network).__name__} {describe([digest, trainable])[:16]}"

    def _build_with_seed_0(self) -> nn.Module:
        with random_numbers(0, torch.device("cpu")):
            return _new_network(self.network)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__().copy()
        for name in ("_forward", "_optimizer", "_augment", "_device", "_new_norms"):
            state.pop(name, None)
        if "_module" in state:
            # On the CPU, because the machine that reads it may have no GPU.
            state["_module"] = copy.deepcopy(self._module).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_module" in state:
            try:
                self._resolve()
            except ValueError as error:
                warnings.warn(f"{error} The CPU is used.", UserWarning, stacklevel=2)
                self._device = torch.device("cpu")
            self._install(*self._module, self._input_shape)

    @property
    def network_(self) -> nn.Module:
        return self._module[0]

    @property
    def head_(self) -> nn.Linear:
        return self._module[1]

    def _resolve(self) -> None:
        """Find out what the parameters stand for on this machine."""
        self._augment = as_augmentation(self.augment)
        is_shared = self.distributed and self.device == "auto"
        self._device = resolve_device(own_device() if is_shared else self.device)

    def _install(
        self, network: nn.Module, head: nn.Linear, input_shape: tuple[int, ...]
    ) -> None:
        """Put the network and its head to work on the device."""
        self._input_shape = tuple(input_shape)
        if self.normalize is not None:
            _check_normalize(self.normalize, self._input_shape)
        module = nn.Sequential(network, head).to(self._device)
        if self.channels_last:
            module = module.to(memory_format=torch.channels_last)
        self._module = self._forward = module
        if self.compile:
            backend = self.compile if isinstance(self.compile, str) else "inductor"
            self._forward = torch.compile(module, backend=backend)
        self._new_norms = [
            norm
            for norm in network.modules()
            if isinstance(norm, nn.modules.batchnorm._BatchNorm)
            and norm.track_running_stats
            and norm.momentum
            and not norm.num_batches_tracked
        ]
        head_lr = self.lr if self.head_lr is None else self.head_lr
        groups = [
            {"params": [w for w in part.parameters() if w.requires_grad], "lr": lr}
            for part, lr in ((network, self.lr), (head, head_lr))
        ]
        for group in groups:
            group["first_lr"] = group["lr"]
        self._optimizer = _OPTIMIZERS[self.optimizer](
            groups, weight_decay=self.weight_decay
        )

    def _set_learning_rate(self, progress: float) -> None:
        decay = 1.0
        if self.schedule == "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = group["first_lr"] * decay

    def _share(self, X: Tensor | NDArray) -> tuple[slice, int]:
        """Return which rows of a batch this process takes, and its number."""
        if not self.distributed:
            return slice(None), 0
        check_group()
        check_same(self._n_steps, self._seed, X, self._device)
        return own_part(len(X)), torch.distributed.get_rank()

    def _scale(self, X: Tensor | NDArray, device: Any) -> Tensor:
        """Move a batch to the device, and turn it into floats."""
        if isinstance(X, np.ndarray):
            X = torch.from_numpy(X.astype(np.float32))
        batch = X.to(device, non_blocking=True)
        return batch / 255 if batch.dtype == torch.uint8 else batch.float()

    def _view(self, batch: Tensor) -> Tensor:
        view = self._augment(batch)
        if view.shape != batch.shape:
            raise ValueError(
                f"augment={self.augment!r} must keep the shape {tuple(batch.shape)} of "
                f"a batch, it gives {tuple(view.shape)}."
            )
        return view

    def _lay_out(self, batch: Tensor) -> Tensor:
        if self.normalize is not None:
            mean, std = (batch.new_tensor(values) for values in self.normalize)
            batch = (batch - mean[:, None, None]) / std[:, None, None]
        if self.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        return batch

    def _apply(
        self, module: Callable[[Tensor], Tensor], X: Images | NDArray
    ) -> NDArray:
        """Apply the network, or network and head, to all samples, in batches."""
        self._module.eval()
        outputs = []
        with torch.inference_mode(), self._autocast(), torch_threads(self.n_threads):
            for block in gen_batches(len(X), self.predict_batch_size):
                batch = self._lay_out(self._scale(X[block], self._device))
                outputs.append(module(batch).float())
        return torch.cat(outputs).cpu().numpy()

    def _autocast(self) -> torch.autocast:
        enabled = self.mixed_precision
        if enabled == "auto":
            # Not on the CPU, where it can be many times slower.
            enabled = self._device.type == "cuda" and torch.cuda.is_bf16_supported(
                including_emulation=False
            )
        return torch.autocast(
            self._device.type, dtype=torch.bfloat16, enabled=bool(enabled)
        )

    @contextmanager
    def _random_numbers(self, rank: int = 0) -> Iterator[None]:
        """Give this step random numbers of its own, and leave torch's alone.

        rank : the number of a process that has others than the first one.
        """
        seed = (self._seed + self._n_steps + rank * _NEXT_PROCESS) % 2**32
        with random_numbers(seed, self._device), _deterministic_cudnn():
            yield

    @contextmanager
    def _warm_norms(self) -> Iterator[None]:
        """Let the first statistics of a batch norm be means over all batches so far.

        Otherwise the initial ones linger for tens of steps, and the predictions of a
        network that was trained for a short time have little to do with its training.
        """
        number = self._n_steps + 1
        early = [norm for norm in self._new_norms if norm.momentum * number < 1]
        before = [(n.running_mean.clone(), n.running_var.clone()) for n in early]
        yield
        # Not by another momentum, for which torch.compile would compile again.
        for norm, old in zip(early, before, strict=True):
            weight = 1 / (norm.momentum * number)
            norm.running_mean.copy_(torch.lerp(old[0], norm.running_mean, weight))
            norm.running_var.copy_(torch.lerp(old[1], norm.running_var, weight))


@contextmanager
def _deterministic_cudnn() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def _new_network(network: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if isinstance(network, nn.Module):
        return network.build() if is_fresh(network) else copy.deepcopy(network)
    built = network()
    if not isinstance(built, nn.Module):
        raise TypeError(
            "network must be a torch.nn.Module, or a function without arguments that "
            f"returns one; it returned {type(built).__name__}."
        )
    return built


def _count_features(network: nn.Module, batch: Tensor) -> int:
    """Return the number of features d of the network's output (n, d)."""
    weight = next(network.parameters(), None)
    batch = batch if weight is None else batch.to(weight.device)
    shape = tuple(batch.shape[1:])
    try:
        with torch.no_grad():
            features = network.eval()(batch)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"network cannot take samples of shape {shape}: {error}"
        ) from error
    if not isinstance(features, Tensor) or features.shape[:-1] != batch.shape[:1]:
        found = tuple(features.shape) if isinstance(features, Tensor) else features
        raise ValueError(
            f"network must map {len(batch)} samples of shape {shape} to features of "
            f"shape ({len(batch)}, d), it gives {found}. nn.Flatten() at its end may "
            "help."
        )
    return features.shape[1]


def _check_normalize(normalize: Sequence, input_shape: tuple[int, ...]) -> None:
    if (
        len(input_shape) != 3
        or [np.shape(values) for values in normalize] != 2 * [input_shape[:1]]
        or not np.all(np.asarray(normalize[1], dtype=float) > 0)
    ):
        raise ValueError(
            f"normalize={normalize!r} must hold the mean and the positive standard "
            f"deviation of each channel of images; a sample has shape {input_shape}."
        )


def _first_channels(network: Any) -> int | None:
    """Return how many channels the network takes, if a convolution tells."""
    if not isinstance(network, nn.Module):
        return None
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    first = next(convolutions, None)
    return None if first is None else first.in_channels or None  # 0 if it is lazy


def _as_lists(normalize: Sequence | None) -> list[list[float]] | None:
    if normalize is None:
        return None
    return [[float(value) for value in values] for values in normalize]


def _check_architecture(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own, other = (
        {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
        for values in (module.state_dict(), state)
    )
    for name in [*own, *other]:
        if own.get(name) != other.get(name):
            raise ValueError(
                "The saved weights are those of another architecture: "
                f"{name} has shape {other.get(name)} there, {own.get(name)} here."
            )


def _match_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give what it holds the layout of the weights, or raise ValueError.

    Sums and products of other strides are slower, and may round otherwise.
    """
    for weight, held in optimizer.state.items():
        for name, value in held.items():
            shape = () if name == "step" else weight.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                raise ValueError(
                    f"The optimizer's {name} of a weight of shape "
                    f"{tuple(weight.shape)} cannot be {value!r}."
                )
            if name != "step":
                held[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _to_plain(value: Any) -> Any:
    """Copy a nested structure; its tensors become arrays, its keys strings."""
    if isinstance(value, Tensor):
        value = value.detach().to("cpu", copy=True)
        if str(value.dtype) not in _NOT_IN_NUMPY:
            return value.numpy()
        bits = value.view(_BITS[value.element_size()])
        return {"dtype": str(value.dtype), "bits": bits.numpy()}
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


def _to_tensors(value: Any) -> Any:
    """Copy a nested structure of :func:`_to_plain`; its arrays become tensors."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
    if isinstance(value, Mapping) and value.keys() == {"dtype", "bits"}:
        return _to_tensors(value["bits"]).view(_NOT_IN_NUMPY[value["dtype"]])
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_tensors(item) for item in value]
    return value


def _text(value: Any) -> str:
    """Return a parameter as a text, which can be compared later."""
    try:
        return repr(plain(value))
    except TypeError:
        name = getattr(value, "__name__", type(value).__name__)
        return f"{name} {describe(value)[:16]}"
