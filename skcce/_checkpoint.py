"""Files of fitted models and of unfinished trainings.

They are torch's, read with ``weights_only=True``: numbers, strings, lists, dicts and
tensors. No code is ever unpickled from them.
"""

import copy
import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import gen_batches

from skcce._model import SoftmaxModel
from skcce._training import Training

_FORMAT = 1
# Larger data, and those that are read from elsewhere, are told apart by some samples.
_MAX_BYTES = 2**30
_N_PROBES = 64

# Parameters that do not change where a training ends, or may change on the way.
_NOT_OF_THE_RUN = frozenset(
    {
        "model",
        "max_iter",
        "tol",
        "verbose",
        "checkpoint",
        "model__network",
        "model__device",
        "model__compile",
        "model__predict_batch_size",
    }
)


class Checkpoint:
    """The file of a training, which is there already if this is not its first part.

    Raises ValueError if it cannot be one: there is no folder for it, it is another kind
    of file, or the checkpoint of another run.
    """

    def __init__(self, path: str | os.PathLike, estimator: BaseEstimator, data: Any):
        self._path = Path(path).expanduser()
        self._record = None
        if not self._path.parent.is_dir():
            raise ValueError(
                f"checkpoint={str(path)!r}: there is no folder "
                f"{str(self._path.parent)!r}."
            )
        self._run = _describe_run(estimator, data)  # reads the data
        if self._path.exists():
            self._record = read_record(self._path)
            _check_same_run(self._path, self._record, self._run)

    @property
    def exists(self) -> bool:
        """Whether there is a first part to go on from."""
        return self._record is not None

    def resume(
        self, model: SoftmaxModel, random_state: np.random.RandomState
    ) -> tuple[SoftmaxModel, Training, np.random.RandomState]:
        """Return model, training and random state as they were in the file."""
        # A copy, because it may be the global one.
        random_state = copy.deepcopy(random_state)
        random_state.set_state(_to_numpy(self._record["random_state"]))
        try:
            model = clone(model).set_state(self._record["model"])
        except ValueError as error:
            raise _other_run(self._path, str(error)) from error
        return model, training_of(self._record), random_state

    def write(
        self,
        training: Training,
        random_state: np.random.RandomState,
        fitted: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what the training needs to go on; at its end, also what was found."""
        record = {
            "run": self._run,
            "random_state": random_state.get_state(legacy=False),
            "training": {
                "proba": training.proba,
                "loss_curve": training.loss_curve,
                "share_curve": np.array(training.share_curve),
                "n_calm": training.n_calm,
            },
            "model": training.model_state,
        }
        if fitted is not None:
            record["fitted"] = fitted
        write_record(self._path, record)


def training_of(record: Mapping[str, Any]) -> Training:
    """Return the training that a checkpoint holds."""
    fields = _to_numpy(record["training"])
    fields["share_curve"] = list(fields["share_curve"])
    return Training(**fields, model_state=record["model"])


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Write a file at once: whoever reads it finds the old or the new one."""
    import torch

    path = Path(path).expanduser()
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"format": _FORMAT, **_to_tensors(record)}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of :func:`write_record`; arrays come back as tensors."""
    import torch

    path = Path(path).expanduser()
    if path.is_dir() or not _is_intact(path):
        raise ValueError(f"{str(path)!r} is no file of skcce, or it is damaged.")
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{str(path)!r} is no file of skcce: {error}") from error
    if (
        not isinstance(record, dict)
        or record.get("format") != _FORMAT
        or "model" not in record
    ):
        raise ValueError(f"{str(path)!r} is no file of skcce, or of a newer version.")
    return record


def _is_intact(path: Path) -> bool:
    """Tell whether a file is a zip archive, as torch's are, with the right checksums.

    torch does not look at them.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            return False
        try:
            return zipfile.ZipFile(file).testzip() is None
        except zipfile.BadZipFile:
            return False


def _describe_run(estimator: BaseEstimator, data: Any) -> dict[str, Any]:
    """Return what has to be the same for all parts of a training."""
    run = {}
    for name, value in estimator.get_params(deep=True).items():
        if name in _NOT_OF_THE_RUN:
            continue
        try:
            run[name] = _plain(value)
        except TypeError as error:
            raise TypeError(
                f"{name}={value!r} cannot be told from other ones ({error}), which "
                "a checkpoint asks for."
            ) from error
    if hasattr(estimator.model, "fingerprint"):
        run["model"] = estimator.model.fingerprint()
    return run | {"data": _fingerprint(data)}


def _check_same_run(
    path: Path, record: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    if "training" not in record:
        raise ValueError(
            f"checkpoint={str(path)!r} is a saved model, not a training to go on with."
        )
    theirs = record["run"]
    different = [
        f"{name}: {_short(theirs.get(name))} there, {_short(run.get(name))} here"
        for name in sorted({*theirs, *run})
        if theirs.get(name) != run.get(name)
    ]
    if different:
        raise _other_run(path, "; ".join(different))


def _other_run(path: Path, difference: str) -> ValueError:
    return ValueError(
        f"checkpoint={str(path)!r} is that of another run ({difference}). Give another "
        "path, or delete it to start anew."
    )


def _fingerprint(data: Any) -> str:
    """Return a short text that tells this data from other data."""
    rows = np.arange(len(data))
    if getattr(data, "nbytes", np.inf) > _MAX_BYTES:
        rows = np.linspace(0, len(data) - 1, min(len(data), _N_PROBES)).astype(int)
    first = _hash(data, rows)
    # A data set that augments at random has no contents to compare.
    is_fixed = _hash(data, rows[:_N_PROBES]) == _hash(data, rows[:_N_PROBES])
    return f"{tuple(data.shape)} {first if is_fixed else 'random'}"


def _hash(data: Any, rows: np.ndarray) -> str:
    digest = hashlib.sha256()
    for block in gen_batches(len(rows), _N_PROBES):
        batch = data[rows[block]]
        batch = batch.cpu() if hasattr(batch, "cpu") else batch
        digest.update(np.ascontiguousarray(batch))
    return digest.hexdigest()[:16]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]} ... {text[-10:]}"


def _plain(value: Any) -> Any:
    """Return a parameter as a plain value or a text, which can be compared later."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # where it stands is in the file
    from skcce.deep._description import describe

    name = getattr(value, "__name__", type(value).__name__)
    return f"{name} {describe(value)[:16]}"


def _to_tensors(value: Any) -> Any:
    """Replace numpy's types, which would have to be unpickled, in a nested value."""
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype == np.uint32:  # the key of a RandomState
            value = value.astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _to_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_tensors(item) for item in value)
    return value


def _to_numpy(value: Any) -> Any:
    """Replace the tensors of a nested value by arrays."""
    if isinstance(value, Mapping):
        return {key: _to_numpy(item) for key, item in value.items()}
    return value.numpy() if hasattr(value, "numpy") else value
