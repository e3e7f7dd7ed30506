"""Files of fitted estimators and of unfinished training runs.

A file is an uncompressed zip archive, as numpy's ``.npz``: ``record.json`` holds dicts,
lists, strings and numbers, and each array is a member of its own. No code is ever read
from it.
"""

import copy
import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.utils import gen_batches

from skcce._data import TrainingData
from skcce._linear import native
from skcce._model import SoftmaxModel
from skcce._outliers import Surroundings
from skcce._scaling import canonical
from skcce._settings import Settings
from skcce._spectral import SpectralFeatures
from skcce._training import TrainingState
from skcce._tree import ClusterTree

_FORMAT = 3
_RECORD = "record.json"
_ARRAY = "npy"  # the only key of what stands for an array in the record
# Larger data, and data sets, are fingerprinted from a sample of their rows.
_MAX_BYTES = 2**30
_N_PROBES = 64

# Parameters that do not change where a run ends, or may change on the way.
_MAY_CHANGE = frozenset({"max_iter", "tol", "verbose", "checkpoint"})

# What a file holds of a fit that is unfinished, of one that is over, of the run that it
# belongs to, and of its generator; and of which kind it is: a type, a list of one, or
# an array of a dtype's kind and a number of dimensions.
_UNFINISHED = {
    "n_clusters_": int,
    "prior_": ("f", 1),
    "loss_curve_": [float],
    "share_curve_": ("f", 2),
    "n_iter_": int,
    "converged_": bool,
}
_OF_TABLES = {"n_features_in_": int, "feature_names_in_": [str]}
_OF_OUTLIERS = {"outlier_scores_": ("f", 1)}
_OF_CLASSIFIERS = {"classes_": dict}
_NOT_OF_A_CUT = {"probabilities_", "loss_"}
FITTED = {
    "labels_": ("i", 1),
    "probabilities_": ("f", 1),
    "loss_": float,
    "temperature_": float,
    **_UNFINISHED,
    **_OF_TABLES,
    **_OF_OUTLIERS,
    **_OF_CLASSIFIERS,
}
_SURROUNDINGS = {
    "around": ("f", 2),
    "median": ("f", 1),
    "spread": ("f", 1),
    "threshold": float,
}
_CENTERS = {"mean": ("f", 2), "weight": ("f", 1), "inertia": ("f", 1)}
_KNOWN_BEFORE = ("n_clusters_", "prior_", "classes_")
_TRAINING = {"proba": ("f", 2), "n_calm": int}
_GENERATOR = {"bit_generator": str, "state": dict, "has_gauss": int, "gauss": float}
_MERSENNE_TWISTER = {"key": ("u", 1), "pos": int}


class Checkpoint:
    """The file of a training run, which exists already if this is not its first part.

    Raises ValueError if it cannot be one: there is no folder for it, it is another kind
    of file, or the checkpoint of another run; and OSError if it cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        estimator: BaseEstimator,
        model: SoftmaxModel,
        data: TrainingData,
        settings: Settings,
    ):
        self._path = _locate(path)
        self._writes = model.is_main_process
        self._record = None
        self.features, self.tree = None, None
        if not self._path.parent.is_dir():
            raise ValueError(
                f"checkpoint={str(path)!r}: there is no folder "
                f"{str(self._path.parent)!r}."
            )
        with _part_of(self._path) as part:  # before the work
            part.open("xb").close()
            with suppress(FileNotFoundError):
                self._path.stat()  # the name may be too long
        self._run = _describe_run(estimator, model, data)
        self._classes = _classes_of(estimator, model)
        if self._path.exists():
            self._record = read_record(self._path)
            _check_class(self._path, self._record, estimator)
            _check_same_run(self._path, self._record, self._run)
            with _damage_is_an_error(self._path):
                self._training = _training_of(self._record)
                if len(self._training.proba) != data.n_samples:
                    raise ValueError(
                        f"its predictions are not those of {data.n_samples} samples"
                    )
            self._model = _restored(model, self._path, self._record)
            with _damage_is_an_error(self._path):
                found = _found_of(self._record, self._model)
                self.features, self.tree = found["features_"], found["_tree"]
                if not self._fits(data, settings):
                    raise ValueError("its parts are not those of this run")

    @property
    def exists(self) -> bool:
        """Whether there is a first part to resume from."""
        return self._record is not None

    def settings(self, settings: Settings) -> Settings:
        """Return the settings with what the first part of the run has found."""
        if settings.features is None:
            return settings
        if self.features is None:  # neighbors were left out
            return settings._replace(n_neighbors=0, features=None, n_fine=0)
        return settings._replace(features=self.features, doubts_neighbors=False)

    def settle(self, settings: Settings) -> Settings:
        """Return the settings with the number and the shares of the run."""
        fitted = self._record["fitted"]
        settings = settings._replace(n_clusters=fitted["n_clusters_"])
        if (self._record["model"] or {}).get("groups") is None:
            is_tree_open = settings.shares in ("learn", "auto")
            return settings._replace(shares="given") if is_tree_open else settings
        return settings._replace(shares="learn", prior=fitted["prior_"])

    def _fits(self, data: TrainingData, settings: Settings) -> bool:
        """Whether features and tree are such as the run has."""
        parts = self.features is not None, self.tree is not None
        wanted = settings.features is not None, settings.n_fine > 0
        are_left_out = settings.doubts_neighbors and not any(parts)
        return (
            (parts == wanted or are_left_out)
            and (
                self.tree is None
                or len(self.tree.labels) in (data.n_samples, data.given.shape[0])
            )
            and (
                self.features is None
                or len(self._record["features"]["rows"]) == data.n_samples
            )
        )

    def resume(
        self, n_clusters: int, random_state: np.random.RandomState
    ) -> tuple[SoftmaxModel, TrainingState]:
        """Return model and training as they were in the file."""
        # A copy, because it may be the global one.
        random_state = copy.deepcopy(random_state)
        with _damage_is_an_error(self._path):
            generator = _checked(self._record["random_state"], _GENERATOR)
            state = _checked(generator["state"], _MERSENNE_TWISTER)
            # numpy would read whatever is in memory there.
            if state["key"].shape != (624,) or not 0 <= state["pos"] <= 624:
                raise ValueError("its random state is none")
            if self._training.proba.shape[1] != n_clusters:
                raise ValueError(
                    f"its predictions are not those of {n_clusters} clusters"
                )
            random_state.set_state(generator)
        self._training.random_state = random_state
        return self._model, self._training

    def write(
        self,
        training: TrainingState,
        found: Mapping[str, Any],
        estimator: BaseEstimator | None = None,
    ) -> None:
        """Write what the run needs to go on; at its end, also what was found.

        Of several processes that train together, only the main one writes.

        found : what is known before the training, such as the features and the tree.
        """
        if not self._writes:
            return
        known = {name: found[name] for name in _KNOWN_BEFORE if name in found}
        fitted = _plain_names({**curves(training), **known})
        record = {
            "run": self._run,
            "random_state": training.random_state.get_state(legacy=False),
            "training": {name: getattr(training, name) for name in _TRAINING},
            "fitted": _attributes_of(estimator) if estimator else fitted,
            **_parts_of(vars(estimator) if estimator else found),
            "model": training.model_state,
            **self._classes,
        }
        write_record(self._path, record)


def save_fit(path: str | os.PathLike, estimator: BaseEstimator) -> None:
    """Write a fitted estimator to a file, without what only more training needs."""
    state = dict(estimator.model_.get_state())
    state.pop("optimizer", None)
    record = {"model": state, **_classes_of(estimator, estimator.model_)}
    write_record(
        path,
        record | _parts_of(vars(estimator)) | {"fitted": _attributes_of(estimator)},
    )


def load_fit(
    path: str | os.PathLike, estimator: BaseEstimator, model: SoftmaxModel
) -> dict[str, Any]:
    """Return the attributes of the fit, or of the unfinished run, that a file holds.

    Raises ValueError if it holds none, or one of another class, architecture or number
    of clusters.
    """
    record, n_clusters = read_record(path), getattr(estimator, "n_clusters", None)
    _check_class(path, record, estimator)
    with _damage_is_an_error(path):
        attributes = _fitted_of(record)
        if is_classifier(estimator) and "classes_" not in attributes:
            raise ValueError("it has no classes")
    n_saved = attributes["n_clusters_"]
    if isinstance(n_clusters, Integral) and n_saved != n_clusters:
        raise ValueError(
            f"{str(path)!r} holds {n_saved} clusters, not n_clusters={n_clusters}."
        )
    model = _restored(model, path, record)
    with _damage_is_an_error(path):
        found = _found_of(record, model)
    return {
        "model_": model,
        "temperature_": 1.0,  # of an unfinished run
        "_n_features_out": n_saved,
        **attributes,
        **found,
    }


def _classes_of(estimator: BaseEstimator, model: SoftmaxModel) -> dict[str, str]:
    return {
        "estimator_class": type(estimator).__name__,
        "model_class": type(model).__name__,
    }


def _check_class(
    path: str | os.PathLike, record: Mapping[str, Any], estimator: BaseEstimator
) -> None:
    """Raise ValueError if a file was written by an estimator of another class."""
    with _damage_is_an_error(path):
        theirs, ours = record["estimator_class"], type(estimator).__name__
    if theirs != ours:
        raise ValueError(
            f"{str(path)!r} was written by {theirs}, this is a {ours}. Use {theirs}, "
            "or another path."
        )


def _parts_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the states of features, tree, surroundings and centers, if any."""
    parts = {"features": found["features_"], "tree": found["_tree"]}
    states = {name: part and part.get_state() for name, part in parts.items()}
    surroundings = found["_surroundings"]
    return {
        **states,
        "surroundings": surroundings and surroundings._asdict(),
        "centers": found.get("_centers"),
    }


def _found_of(record: Mapping[str, Any], model: SoftmaxModel) -> dict[str, Any]:
    """Return features, tree, surroundings and centers of a file, if they fit together.

    `model` is the one that the file holds.
    """
    fitted = record["fitted"]
    features, tree = record["features"], record["tree"]
    surroundings = record["surroundings"]
    width = fitted.get("n_features_in_")
    if features is not None:
        n_rows = len(features["rows"])
        features = SpectralFeatures().set_state(features)
        if width not in (None, features.n_features_in_):
            raise ValueError("its features are those of other rows")
        width = len(features.get_feature_names_out())
    if (surroundings is None) != (features is None):
        raise ValueError("there is only one of features and surroundings")
    if surroundings is not None:
        surroundings = _checked(surroundings, _SURROUNDINGS)
        names = ("around", "median", "spread")
        around, median, spread = arrays = [native(surroundings[name]) for name in names]
        threshold = surroundings["threshold"]
        if not (
            [array.shape for array in arrays] == [(n_rows, 2), (3,), (3,)]
            and all(np.isfinite(array).all() for array in arrays)
            and (spread >= 0).all()
            and threshold == threshold
        ):
            raise ValueError("its surroundings are not those of its features")
        surroundings = Surroundings(around, median, spread, threshold)
    models = {fitted["n_clusters_"]: model}
    if tree is not None:
        tree = ClusterTree.from_state(tree, model)
        if len(fitted.get("labels_", tree.labels)) != len(tree.labels):
            raise ValueError("its tree is that of other samples")
        models[len(tree.sizes)] = tree.model
    if width is not None and hasattr(model, "coef_"):
        for n_outputs, part in models.items():
            if part.decision_function(np.zeros((1, width))).shape != (1, n_outputs):
                raise ValueError("its model has another number of clusters")
    return {
        "features_": features,
        "_tree": tree,
        "_surroundings": surroundings,
        "_centers": _centers_of(record),
    }


def _centers_of(record: Mapping[str, Any]) -> dict[str, NDArray] | None:
    """Return the centers that a file holds, if they are those of its clusters."""
    centers, fitted = record["centers"], record["fitted"]
    if centers is None:
        return None
    centers = _checked(centers, _CENTERS)
    mean, weight, inertia = (centers[name] for name in _CENTERS)
    n_clusters = fitted["n_clusters_"]
    if not (
        mean.shape == (n_clusters, fitted["n_features_in_"])
        and weight.shape == inertia.shape == (n_clusters,)
        and np.isfinite(mean).all()
        and (weight >= 0).all()
        and not (inertia < 0).any()
    ):
        raise ValueError("its centers are not those of its clusters")
    return centers


def _attributes_of(estimator: BaseEstimator) -> dict[str, Any]:
    """Return the attributes of a fit that go into a file."""
    found = {
        name: getattr(estimator, name) for name in FITTED if hasattr(estimator, name)
    }
    return _plain_names(found)


def _plain_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes of a fit with names as lists, which JSON can hold."""
    plain_names = {}
    if "feature_names_in_" in found:
        plain_names["feature_names_in_"] = found["feature_names_in_"].tolist()
    if "classes_" in found:
        classes = found["classes_"]
        values = classes.tolist()
        plain_names["classes_"] = {"values": values, "dtype": classes.dtype.str}
    return {**found, **plain_names}


def _classes(described: Mapping[str, Any]) -> NDArray:
    """Return the classes that a file holds as a list."""
    values, dtype = described["values"], np.dtype(described["dtype"])
    is_plain = all(type(value) in (bool, int, float, str) for value in values)
    if dtype.kind not in "biufUO" or not is_plain:
        raise ValueError("its classes are no names")
    return np.array(values, dtype=dtype)


def curves(training: TrainingState) -> dict[str, Any]:
    """Return the attributes that tell how a training run went."""
    return {
        "loss_curve_": training.loss_curve,
        "share_curve_": np.reshape(
            training.share_curve, (training.n_iter, training.proba.shape[1])
        ),
        "n_iter_": training.n_iter,
        "converged_": training.converged,
    }


def write_record(path: str | os.PathLike, record: Mapping[str, Any]) -> None:
    """Write a file at once: whoever reads it finds the old or the new one.

    Raises OSError if it cannot be written.
    """
    text, arrays = encode({"format": _FORMAT, **record})
    path = _locate(path)
    with _part_of(path) as part:
        with part.open("xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(zipfile.ZipInfo(_RECORD), text)
                for name, array in arrays.items():
                    info = zipfile.ZipInfo(f"{name}.npy")  # of no date
                    with archive.open(info, "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)
        part.replace(path)


def read_record(path: str | os.PathLike) -> dict[str, Any]:
    """Read a file of :func:`write_record`.

    Raises OSError if there is none, or it may not be read, and ValueError if it is
    another one, or damaged.
    """
    path = _locate(path)
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a file that skcce wrote.")
    with (
        path.open("rb") as file,
        _damage_is_an_error(path),
        zipfile.ZipFile(file) as archive,
    ):
        members = archive.infolist()
        if any(member.filename.endswith("/data.pkl") for member in members):
            raise ValueError("it was written by torch, as those of earlier versions")
        # A few bytes may become terabytes, if they are compressed or read twice.
        size = sum(member.file_size for member in members)
        is_stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
        if size > os.fstat(file.fileno()).st_size or not is_stored:
            raise ValueError("it is compressed")
        text = archive.read(_RECORD)
        arrays = {
            # Of bytes whose checksum is right, and that are no fewer than it claims.
            member.filename.removesuffix(".npy"): np.lib.format.read_array(
                io.BytesIO(archive.read(member)), allow_pickle=False
            )
            for member in members
            if member.filename != _RECORD
        }
        record = decode(text, arrays)
        if record["format"] != _FORMAT:
            raise ValueError(
                f"it has the format {record['format']!r}, this version of skcce reads "
                f"{_FORMAT}"
            )
    return record


def encode(record: Mapping[str, Any]) -> tuple[str, dict[str, NDArray]]:
    """Return a nested record as JSON, and its arrays by their places in it.

    It may hold dicts with strings for keys, lists, strings, numbers, None and arrays.
    numpy's scalars become Python's, tuples become lists.
    """
    arrays = {}

    def without_arrays(value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray):
            arrays[name[1:]] = value
            return {_ARRAY: name[1:]}
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Mapping) and all(
            isinstance(key, str) and key != _ARRAY for key in value
        ):
            # Quoted, so that no two places have one name.
            return {
                key: without_arrays(item, f"{name}/{quote(key, safe='')}")
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [without_arrays(item, f"{name}/{i}") for i, item in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{name[1:]}={value!r} cannot be written to a file.")

    return json.dumps(without_arrays(record, "")), arrays


def decode(text: str | bytes, arrays: Mapping[str, NDArray]) -> Any:
    """Return the nested record of :func:`encode`.

    Raises KeyError or ValueError if some of the arrays are missing, or left over.
    """
    arrays = dict(arrays)
    record = json.loads(
        text,
        object_hook=lambda value: (
            arrays.pop(value[_ARRAY]) if value.keys() == {_ARRAY} else value
        ),
    )
    if arrays:
        raise ValueError(f"nothing refers to {sorted(arrays)}")
    return record


def _training_of(record: Mapping[str, Any]) -> TrainingState:
    training, fitted = _checked(record["training"], _TRAINING), _fitted_of(record)
    n_clusters = training["proba"].shape[1]
    is_cut = "labels_" in fitted and "probabilities_" not in fitted
    if (
        fitted["share_curve_"].shape[1] != n_clusters
        or is_cut
        or training["n_calm"] < 0
    ):
        raise ValueError("its parts do not fit together")
    return TrainingState(
        **training,
        loss_curve=fitted["loss_curve_"],
        share_curve=list(fitted["share_curve_"]),
        model_state=record["model"],
    )


def _fitted_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a fit, or of an unfinished one, and no others."""
    is_finished = "labels_" in record["fitted"]
    kinds = {**_UNFINISHED, **_OF_TABLES, **_OF_CLASSIFIERS}
    kinds = FITTED if is_finished else kinds
    optional = {*_OF_TABLES, *_OF_OUTLIERS, *_OF_CLASSIFIERS, *_NOT_OF_A_CUT}
    fitted = _checked(record["fitted"], kinds, optional)
    is_cut = is_finished and "probabilities_" not in fitted
    n_clusters, (n_epochs, n_trained) = (
        fitted["n_clusters_"],
        fitted["share_curve_"].shape,
    )
    labels, names = fitted.get("labels_", []), fitted.get("feature_names_in_", [])
    if not (
        len(labels) == len(fitted.get("probabilities_", labels))
        and len(labels) == len(fitted.get("outlier_scores_", labels))
        and len(fitted["prior_"]) == n_clusters
        and (is_cut or n_trained == n_clusters)
        and 0 < fitted.get("temperature_", 1.0) < np.inf
        and np.isin(labels, np.arange(-1, n_clusters)).all()
        and len(fitted["loss_curve_"]) == fitted["n_iter_"] == n_epochs
        and len(names) in (0, fitted.get("n_features_in_", 0))
    ):
        raise ValueError("its parts do not fit together")
    if "feature_names_in_" in fitted:
        fitted["feature_names_in_"] = np.array(names, dtype=object)
    if "classes_" in fitted:
        fitted["classes_"] = _classes(fitted["classes_"])
        if fitted["classes_"].shape != (n_clusters,):
            raise ValueError("its classes are not those of its model")
    return fitted


def _checked(
    values: Any, kinds: Mapping[str, Any], optional: Iterable[str] = ()
) -> dict[str, Any]:
    """Return named values of a file, if all are known, and none is missing."""
    for name, value in values.items():
        if name not in kinds or not _is_of_kind(value, kinds[name]):
            raise ValueError(f"{name!r} is not what it should be")
        if isinstance(value, np.ndarray):
            values[name] = native(value)
    missing = kinds.keys() - values.keys() - {*optional}
    if missing:
        raise ValueError(f"there is no {sorted(missing)}")
    return values


def _is_of_kind(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return isinstance(value, np.ndarray) and (value.dtype.kind, value.ndim) == kind
    if isinstance(kind, list):
        return type(value) is list and all(type(item) is kind[0] for item in value)
    return type(value) is kind


def _restored(
    model: SoftmaxModel, path: str | os.PathLike, record: Mapping[str, Any]
) -> SoftmaxModel:
    """Return a clone of `model` in the state that a file holds."""
    with _damage_is_an_error(path, "does not fit the model"):
        if record["model_class"] != type(model).__name__:
            raise ValueError(
                f"it holds a {record['model_class']}, not a {type(model).__name__}"
            )
        return clone(model).set_state(record["model"])


@contextmanager
def _damage_is_an_error(
    path: str | os.PathLike, problem: str = "was not written by skcce"
) -> Iterator[None]:
    """Raise ValueError for whatever a damaged or foreign file leads to."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} {problem}, or it is damaged: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _locate(path: str | os.PathLike) -> Path:
    """Return the file that is meant; what a link leads to, not the link."""
    return Path(os.path.realpath(Path(path).expanduser()))


@contextmanager
def _part_of(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`, of a file to put in its place, or else to delete.

    Nobody else has it, or can foresee it. Open it with "x", which follows no link.
    """
    part = path.with_name(f".{path.name[:50]}.{secrets.token_hex(8)}.part")
    try:
        yield part
    except OSError as error:
        # OSError makes a PermissionError, or whatever else the number stands for.
        reason = f"cannot write the file: {error.strerror or error}"
        raise OSError(error.errno, reason, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _describe_run(
    estimator: BaseEstimator, model: SoftmaxModel, data: TrainingData
) -> dict[str, Any]:
    """Return what has to be the same for all parts of a run."""
    parameters = estimator.get_params(deep=False) | {"model": model}
    run = {}
    for name, value in parameters.items():
        if name not in _MAY_CHANGE:
            run |= _described(name, value)
    run["data"] = _fingerprint(data.X)
    for name, values in (
        ("sample_weight", data.weight),
        ("kept", data.kept),
        ("labels", data.target),
    ):
        if values is not None:
            run[name] = _fingerprint(values)
    return run


def _described(name: str, value: Any) -> dict[str, Any]:
    """Return a parameter, and those of an estimator that it is, as plain values."""
    if isinstance(value, SoftmaxModel) and (text := value.fingerprint()) is not None:
        return {name: text}
    if isinstance(value, BaseEstimator):
        run = {name: type(value).__name__}
        for inner, part in value.get_params(deep=False).items():
            run |= _described(f"{name}__{inner}", part)
        return run
    try:
        return {name: plain(value)}
    except TypeError as error:
        raise TypeError(
            f"{name}={value!r} cannot be compared with that of another run "
            f"({error}), as a checkpoint needs. A model may have a fingerprint()."
        ) from error


def plain(value: Any) -> Any:
    """Return a parameter as a plain value, which can be compared later."""
    if hasattr(value, "__array__"):
        return np.asarray(value).tolist()
    if issparse(value):
        return _fingerprint(canonical(csr_array(value)))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # where it stands is in the file
    raise TypeError(f"{type(value).__name__} is no plain type")


def _check_same_run(
    path: Path, record: Mapping[str, Any], run: Mapping[str, Any]
) -> None:
    if "training" not in record:
        raise ValueError(
            f"checkpoint={str(path)!r} is a saved model, not a run to resume."
        )
    with _damage_is_an_error(path):
        theirs = record["run"]
        different = [
            "{}: {} there, {} here".format(
                name, *_where_they_part(theirs.get(name), run.get(name))
            )
            for name in sorted({*theirs, *run})
            if theirs.get(name) != run.get(name)
        ]
    if different:
        raise ValueError(
            f"checkpoint={str(path)!r} is that of another run "
            f"({'; '.join(different)}). Give another path, or delete it to start anew."
        )


def _where_they_part(*values: Any) -> list[str]:
    """Return the values as text; of long ones, some of it around the difference."""
    texts = [repr(value) for value in values]
    pairs = enumerate(zip(*texts, strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - 40)
    return [text[start : start + 80] for text in texts]


def _fingerprint(data: Any) -> str:
    """Return a short text that tells this data from other data."""
    n_rows = data.shape[0]
    rows, nbytes = np.arange(n_rows), getattr(data, "nbytes", np.inf)
    if issparse(data):
        nbytes = data.data.nbytes + data.indices.nbytes
    if nbytes > _MAX_BYTES:
        rows = np.linspace(0, n_rows - 1, min(n_rows, _N_PROBES)).astype(int)
    first = _hash(data, rows)
    # A data set that augments at random has no contents to compare.
    is_fixed = _hash(data, rows[:_N_PROBES]) == _hash(data, rows[:_N_PROBES])
    return f"{tuple(data.shape)} {first if is_fixed else 'random'}"


def _hash(data: Any, rows: np.ndarray) -> str:
    digest = hashlib.sha256()
    for block in gen_batches(len(rows), _N_PROBES):
        batch = data[rows[block]]
        batch = batch.cpu() if hasattr(batch, "cpu") else batch
        parts = [batch]
        if issparse(batch):
            numbers = (batch.indices, np.diff(batch.indptr))
            parts = [batch.data, *(part.astype(np.int64) for part in numbers)]
        for part in parts:
            digest.update(np.ascontiguousarray(part))
    return digest.hexdigest()[:16]
