"""Files of models and of unfinished trainings.

They are torch's, read with ``weights_only=True``: numbers, strings, lists, dicts and
tensors. No code is ever unpickled from them.
"""

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = 1
_N_PROBES = 64  # samples by which two data sets are told apart


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Write a record, at once: whoever reads `path` finds the old or the new file."""
    import torch

    part = Path(f"{path}.part")
    with part.open("wb") as file:
        torch.save({"format": _FORMAT, **_to_tensors(record)}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Read a record; its tensors stay tensors."""
    import torch

    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is no file of skcce: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"{path} is no file of skcce, or of a newer version.")
    return record


def check_same_run(
    path: str | os.PathLike, record: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    """Raise an error if the checkpoint is that of another run."""
    if "random_state" not in record:
        raise ValueError(
            f"checkpoint={str(path)!r} is a saved model, not an unfinished training."
        )
    theirs, ours = record["run"], _to_tensors(run)
    different = [
        f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    if different:
        raise ValueError(
            f"checkpoint={str(path)!r} is that of another run ({'; '.join(different)})."
            " Give another path, or delete it to start anew."
        )


def fingerprint(X: Any) -> str:
    """Return a short text that tells this data from other data."""
    import hashlib

    rows = np.linspace(0, len(X) - 1, min(len(X), _N_PROBES)).astype(int)
    first, second = (
        hashlib.sha256(np.ascontiguousarray(X[rows])).hexdigest()[:16] for _ in range(2)
    )
    # A data set that augments at random has no contents to compare.
    contents = first if first == second else "random"
    return f"{tuple(X.shape)} {contents}"


def _to_tensors(value: Any) -> Any:
    """Replace numpy's types, which torch would have to unpickle, in a nested value."""
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


def to_numpy(value: Any) -> Any:
    """Replace the tensors of a nested value by arrays."""
    if isinstance(value, Mapping):
        return {key: to_numpy(item) for key, item in value.items()}
    return value.numpy() if hasattr(value, "numpy") else value
