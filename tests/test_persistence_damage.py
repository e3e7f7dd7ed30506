import copy
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from persistence import (
    SHORT_FITS,
    Network,
    changed,
    make,
    stopped_after,
    with_members,
)

pytestmark = SHORT_FITS


def fit_with(path, drawings):
    return make(checkpoint=path).fit(drawings)


def load_from(path, drawings):
    return make().load(path)


def change_a_weight(good):
    weight = np.load(io.BytesIO(good))["model/head/weight"]
    return good.replace(weight.tobytes(), (2 * weight).tobytes())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        pickle.dumps({"format": 1}),
        pytest.param(pickle.dumps(make()), id="pickle"),  # bytes differ by process
        b"<html></html>",
        b"hello world",
        b"a,b\n1,2\n",
        lambda good: good[: len(good) // 2],
        lambda good: good[:-1],
        change_a_weight,
        lambda good: bytes(8) + good[8:],
    ],
)
@pytest.mark.parametrize("read", [fit_with, load_from])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_and_foreign_files(drawings, path, content, read):
    stopped_after(1, drawings, path)
    good = path.read_bytes()
    bad = content if isinstance(content, bytes) else content(good)
    assert bad != good
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"run\.npz"):
        read(path, drawings)
    assert path.read_bytes() == bad
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("format_", [1, 2, 4, "3", None])
def test_other_formats(drawings, path, format_):
    make(max_iter=1).fit(drawings).save(path)
    path.write_bytes(set_item("format", value=format_)(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run\.npz"):
        load_from(path, drawings)


@pytest.mark.parametrize(
    "content", [Network().state_dict(), {"format": 1, "model": {}}]
)
@pytest.mark.parametrize("read", [fit_with, load_from])
def test_files_of_torch_and_of_earlier_versions(drawings, path, content, read):
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"run\.npz.* by torch.* earlier versions"):
        read(path, drawings)
    assert path.read_bytes() == before


@pytest.mark.parametrize("arrays", [{}, {"model": np.ones(3)}])
def test_other_files_of_numpy(drawings, path, arrays):
    np.savez(path, **arrays)
    for read in (fit_with, load_from):
        with pytest.raises(ValueError, match=r"run\.npz"):
            read(path, drawings)


def set_item(*keys, value):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return lambda good: changed(good, change)


def delete_item(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return lambda good: changed(good, change)


def set_members(**options):
    return lambda good: with_members(good, **options)


def npy(array, shape=None, **kwargs):
    """Return the bytes of an array, which may claim another shape."""
    file = io.BytesIO()
    if shape is None:
        np.lib.format.write_array(file, array, **kwargs)
        return file.getvalue()
    header = {"shape": shape, "fortran_order": False, "descr": array.dtype.str}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def claims_more_than_it_has(good):
    """One array under thousands of names: each is intact, all are gigabytes."""
    file = io.BytesIO(with_members(good, big=bytes(10**5)))
    with zipfile.ZipFile(file, "a") as archive:
        for i in range(5000):
            info = copy.copy(archive.getinfo("big"))
            info.filename = f"{i}.npy"
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
        archive._didModify = True
    return file.getvalue()


class Boom:
    """Pickled code that ends the process."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.parametrize(
    "change",
    [
        set_members(compression=zipfile.ZIP_DEFLATED),
        set_members(**{"training/proba.npy": None}),
        set_members(**{"record.json": None}),
        set_members(**{"record.json": b"{"}),
        set_members(**{"record.json": b"[]"}),
        set_members(**{"record.json": 10**5 * b"["}),
        set_members(**{"more.npy": npy(np.ones(3))}),
        set_members(**{"more.txt": b"more"}),
        set_members(**{"folder/": b""}),
        set_members(**{"training/proba.npy": npy(np.ones(4), (10**9, 4))}),
        set_members(**{"training/proba.npy": npy(np.ones(4), (2**62, 4))}),
        set_members(**{"training/proba.npy": npy(np.array([Boom()], object))}),
        set_members(**{"training/proba.npy": pickle.dumps(Boom())}),
        claims_more_than_it_has,
        delete_item("run"),
        delete_item("training"),
        delete_item("training", "proba"),
        delete_item("random_state"),
        delete_item("model", "network"),
        delete_item("model", "seed"),
        set_item("run", value=3),
        set_item("training", value=[]),
        set_item("training", "interrupted", value=True),
        set_item("training", "n_calm", value="3"),
        set_item("fitted", "share_curve_", value=np.zeros(3)),
        set_item("fitted", "loss_curve_", value=["a"]),
        set_item("fitted", "share_curve_", value=np.ones((1, 3))),
        set_item("random_state", "state", value="old"),
        set_item("random_state", "state", "pos", value=10**8),
        set_item("random_state", "state", "pos", value=-(10**8)),
        set_item("random_state", "state", "key", value=np.zeros(624)),
        set_item("random_state", "bit_generator", value="PCG64"),
        set_item("random_state", "has_gauss", value=0.5),
        set_item("training", "proba", value=np.ones((3, 4))),
        set_item("training", "n_calm", value=-1),
        set_item("fitted", "loss_curve_", value=[1.0, 2.0]),
        set_item("fitted", "labels_", value=np.zeros(200, dtype=int)),
        delete_item("fitted"),
        set_item("model", value=None),
        set_item("model", "head", value=7),
        set_item("model", "network", value={"1.weight": "a"}),
        set_item("model", "optimizer", value=3),
        set_item("model", "optimizer", "a", value={}),
        set_item("model", "optimizer", "0", "exp_avg_sq", value=3),
        set_item("model", "optimizer", "0", "exp_avg", value=np.ones(2)),
        set_item("model", "optimizer", "0", value=None),
    ],
)
def test_a_checkpoint_with_other_things_in_it_is_an_error(drawings, path, change):
    stopped_after(1, drawings, path)
    path.write_bytes(change(path.read_bytes()))
    clusterer = make(checkpoint=path)
    with pytest.raises(ValueError, match=r"run\.npz"):
        clusterer.fit(drawings)
    assert not hasattr(clusterer, "model_")


@pytest.mark.parametrize(
    "change",
    [
        set_item("fitted", "checkpoint", value="elsewhere.npz"),
        set_item("fitted", "n_clusters", value=5),
        set_item("fitted", "predict", value=3),
        set_item("fitted", "__class__", value=3),
        set_item("fitted", "model_", value=3),
        set_item("fitted", "coef_", value=np.zeros((4, 3))),
        set_item("fitted", "n_iter_", value=2.5),
        set_item("fitted", "n_iter_", value=7),
        set_item("fitted", "converged_", value=1),
        set_item("fitted", "loss_", value=np.zeros(3)),
        set_item("fitted", "loss_curve_", value="abc"),
        set_item("fitted", "labels_", value=np.full(200, 4)),
        set_item("fitted", "labels_", value=np.zeros(3, dtype=int)),
        set_item("fitted", "labels_", value=np.zeros(200)),
        set_item("fitted", "feature_names_in_", value=[1, 2]),
        set_item("fitted", "feature_names_in_", value=["a"]),
        set_members(**{"fitted/labels_.npy": npy(np.zeros(1, int), (10**9,))}),
        set_members(**{"fitted/share_curve_.npy": npy(np.ones(4), (10**9, 4))}),
        set_members(**{"fitted/labels_.npy": npy(np.array([Boom()], object))}),
        set_item("fitted", value=[]),
        delete_item("fitted", "labels_"),
        delete_item("model", "head"),
    ],
)
def test_a_file_sets_what_a_fit_finds_and_nothing_else(drawings, path, change):
    make(max_iter=1).fit(drawings).save(path)
    path.write_bytes(change(path.read_bytes()))
    clusterer = make()
    before = dict(vars(clusterer))
    with pytest.raises(ValueError, match=r"run\.npz"):
        clusterer.load(path)
    assert vars(clusterer) == before
