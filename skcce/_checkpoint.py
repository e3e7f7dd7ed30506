"""Files of fitted models and of unfinished trainings.

They are torch's, read with ``weights_only=True``: numbers, strings, lists, dicts and
tensors. No code is ever unpickled from them.
"""

import copy
import hashlib
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils import gen_batches

from skcce._model import SoftmaxModel
from skcce._training import TrainingState

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
    of file, or the checkpoint of another run; and OSError if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike, estimator: BaseEstimator, data: Any):
        self._path = _locate(path)
        self._record = None
        if not self._path.parent.is_dir():
            raise ValueError(
                f"checkpoint={str(path)!r}: there is no folder "
                f"{str(self._path.parent)!r}."
            )
        _check_writable(self._path)
        self._run = _describe_run(estimator, data)  # reads the data
        if self._path.exists():
            self._record = read_record(self._path)
            _check_same_run(self._path, self._record, self._run)
            self._training = training_of(self._path, self._record)
            shape = len(data), estimator.n_clusters
            if self._training.proba.shape != shape:
                raise _damaged(self._path, ValueError(f"it is not of shape {shape}"))

    @property
    def exists(self) -> bool:
        """Whether there is a first part to go on from."""
        return self._record is not None

    def resume(
        self, model: SoftmaxModel, random_state: np.random.RandomState
    ) -> tuple[SoftmaxModel, TrainingState, np.random.RandomState]:
        """Return model, training and random state as they were in the file."""
        # A copy, because it may be the global one.
        random_state = copy.deepcopy(random_state)
        with _damage_is_an_error(self._path):
            generator = _to_numpy(self._record["random_state"])
            state = generator["state"]
            # numpy would read whatever is in memory there.
            if state["key"].shape != (624,) or not 0 <= state["pos"] <= 624:
                raise ValueError("its random state is none")
            random_state.set_state(generator)
        model = restored(model, self._path, self._record)
        return model, self._training, random_state

    def write(
        self,
        training: TrainingState,
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


def training_of(path: str | os.PathLike, record: Mapping[str, Any]) -> TrainingState:
    """Return the training that a checkpoint holds."""
    fields = _checked(path, record.get("training"), _TRAINING)
    with _damage_is_an_error(path):
        shape = len(fields["loss_curve"]), fields["proba"].shape[1]
        if fields["share_curve"].shape != shape or fields["n_calm"] < 0:
            raise ValueError("its parts do not fit together")
    fields["share_curve"] = list(fields["share_curve"])
    return TrainingState(**fields, model_state=record["model"])


def fitted_of(path: str | os.PathLike, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a fit that a file holds, and no others."""
    fitted = _checked(path, record["fitted"], FITTED)
    with _damage_is_an_error(path):
        n_epochs, n_clusters = fitted["share_curve_"].shape
        labels, names = fitted["labels_"], fitted.get("feature_names_in_", [])
        n_features = fitted.get("n_features_in_", 0)
        if not (
            len(labels) == len(fitted["probabilities_"])
            and np.isin(labels, np.arange(n_clusters)).all()
            and len(fitted["loss_curve_"]) == fitted["n_iter_"] == n_epochs
            and len(names) in (0, n_features)
        ):
            raise ValueError("its parts do not fit together")
    if "feature_names_in_" in fitted:
        names = np.array(fitted["feature_names_in_"], dtype=object)
        fitted["feature_names_in_"] = names
    return fitted


def restored(
    model: SoftmaxModel, path: str | os.PathLike, record: Mapping[str, Any]
) -> SoftmaxModel:
    """Return a clone of `model` in the state that a file holds.

    Raises ValueError if its architecture is another one, or the file is damaged.
    """
    try:
        return clone(model).set_state(record["model"])
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} does not fit the model, or it is damaged: {error}"
        ) from error


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Write a file at once: whoever reads it finds the old or the new one.

    Raises OSError if it cannot be written.
    """
    import torch

    path = _locate(path)
    part = _new_part(path)
    try:
        with part.open("xb") as file:
            torch.save({"format": _FORMAT, **_to_tensors(record)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:
        # Torch has an error of its own for a write that failed.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise _unwritable(path, cause) from error
    finally:
        part.unlink(missing_ok=True)


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of :func:`write_record`; arrays come back as tensors.

    Raises OSError if there is none, or it may not be read, and ValueError if it is
    another one, or damaged.
    """
    import torch

    path = _locate(path)
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is no file of skcce, but a folder.")
    with path.open("rb") as file, _damage_is_an_error(path):
        _check_intact(file)
        file.seek(0)
        record = torch.load(file, map_location="cpu", weights_only=True)
        is_ours = isinstance(record, dict) and "model" in record
        if not (is_ours and type(record["format"]) is int):
            raise ValueError("it was written by something else")
        _check_sizes(record)
    if record["format"] != _FORMAT:
        raise ValueError(
            f"{str(path)!r} has the format {record['format']}, this version of skcce "
            f"reads {_FORMAT}."
        )
    return record


@contextmanager
def _damage_is_an_error(path: str | os.PathLike) -> Iterator[None]:
    """Raise ValueError for whatever a damaged or foreign file leads to."""
    try:
        yield
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike, error: Exception) -> ValueError:
    reason = str(error) or type(error).__name__
    return ValueError(f"{str(path)!r} is no file of skcce, or it is damaged: {reason}")


def _check_intact(file: BinaryIO) -> None:
    """Check that a file is a zip archive, as torch's are, with the right checksums.

    torch does not look at them.
    """
    with zipfile.ZipFile(file) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.filelist):
            raise ValueError("it is compressed")  # a few bytes may become terabytes
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"wrong checksum of {broken}")


def _check_sizes(value: Any) -> None:
    """Check that no tensor claims more numbers than there are in the file."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            _check_sizes(item)
    elif hasattr(value, "untyped_storage"):
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("a tensor is larger than what is stored of it")


def _locate(path: str | os.PathLike) -> Path:
    """Return the file that is meant; what a link leads to, not the link."""
    return Path(os.path.realpath(Path(path).expanduser()))


def _new_part(path: Path) -> Path:
    """Return a name beside `path` that nobody else has, or can foresee.

    It is opened with "x": a link that is there by chance is not followed.
    """
    return path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.part")


def _check_writable(path: Path) -> None:
    """Find out before the work whether a file can be written when it is done."""
    part = _new_part(path)
    try:
        with suppress(FileNotFoundError):
            path.stat()  # a name may be too long
        part.open("xb").close()
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _unwritable(path: Path, cause: OSError) -> OSError:
    # OSError makes a PermissionError, or whatever else the number stands for.
    reason = cause.strerror or str(cause)
    return OSError(cause.errno, f"cannot write the file: {reason}", str(path))


def _checked(
    path: str | os.PathLike, values: Any, types: Mapping[str, Callable]
) -> dict[str, Any]:
    """Return named values of a file, as arrays and numbers, if they are of their types.

    Optional ones may be missing; others than these must not be there.
    """
    with _damage_is_an_error(path):
        values = _to_numpy(values)
        for name, value in values.items():
            if name not in types or not types[name](value):
                raise ValueError(f"{name!r} is not what it should be")
        missing = types.keys() - values.keys() - _OPTIONAL
        if missing:
            raise ValueError(f"there is no {sorted(missing)}")
        return values


def _is_array(kind: str, ndim: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, np.ndarray)
        and value.dtype.kind == kind
        and value.ndim == ndim
    )


def _is_a(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: (
        type(value) is list and all(type(item) is kind for item in value)
    )


# What a training and a fit leave in a file.
_TRAINING = {
    "proba": _is_array("f", 2),
    "loss_curve": _is_list_of(float),
    "share_curve": _is_array("f", 2),
    "n_calm": _is_a(int),
}
FITTED = {
    "labels_": _is_array("i", 1),
    "probabilities_": _is_array("f", 1),
    "loss_": _is_a(float),
    "loss_curve_": _is_list_of(float),
    "share_curve_": _is_array("f", 2),
    "n_iter_": _is_a(int),
    "converged_": _is_a(bool),
    "n_features_in_": _is_a(int),
    "feature_names_in_": _is_list_of(str),
}
_OPTIONAL = frozenset({"n_features_in_", "feature_names_in_"})  # of tables only


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
                f"{name}={value!r} cannot be compared with that of another run "
                f"({error}), as a checkpoint needs."
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
    with _damage_is_an_error(path):
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
