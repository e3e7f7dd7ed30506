import contextlib
import os
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from persistence import (
    EPOCHS,
    SHORT_FITS,
    Network,
    assert_same_fit,
    emit_nan,
    interrupt,
    make,
    stopped_after,
)

from skcce import _persistence

pytestmark = SHORT_FITS


def test_path_may_be_in_the_home_folder(drawings, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(checkpoint="~/run.npz").fit(drawings)
    assert (tmp_path / "run.npz").exists()
    whole.save("~/model.npz")
    loaded = make().load("~/model.npz")
    assert_array_equal(loaded.predict(drawings), whole.labels_)


def test_missing_folder_is_an_error_before_training(drawings, tmp_path):
    network = Network(1, interrupt)
    clusterer = make(network, checkpoint=tmp_path / "nowhere" / "run.npz")
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        clusterer.fit(drawings)
    assert not hasattr(clusterer, "model_")
    assert os.listdir(tmp_path) == []


def test_checkpoint_is_a_folder(drawings, tmp_path):
    with pytest.raises(ValueError, match="checkpoint"):
        make(checkpoint=tmp_path).fit(drawings)


def test_bad_type_of_checkpoint(drawings):
    with pytest.raises(ValueError, match="checkpoint"):
        make(checkpoint=3).fit(drawings)


@pytest.mark.parametrize("writer", ["fit", "save"])
def test_writing_is_all_or_nothing(drawings, whole, path, monkeypatch, writer):
    if writer == "fit":
        stopped_after(2, drawings, path)
    else:
        make(max_iter=1).fit(drawings).save(path)
    before = path.read_bytes()

    def fail(archive, *args):
        archive.fp.write(b"half of it")
        raise OSError("no space left on device")

    def write():
        if writer == "save":
            return whole.save(path)
        return assert_same_fit(make(checkpoint=path).fit(drawings), whole)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "writestr", fail)
        with pytest.raises(OSError, match="no space left"):
            write()
    assert path.read_bytes() == before
    write()
    assert make().load(path).n_iter_ == EPOCHS
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "name with spaces.npz"])
def test_names_as_long_as_they_may_be(drawings, tmp_path, name):
    make(max_iter=1, checkpoint=tmp_path / name).fit(drawings)
    assert os.listdir(tmp_path) == [name]


NOT_WRITABLE = [
    pytest.param(Path("/proc/run.npz"), id="no files"),
    pytest.param(Path(tempfile.gettempdir()) / ("a" * 256), id="too long a name"),
]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux only")
@pytest.mark.parametrize("path", NOT_WRITABLE)
def test_what_cannot_be_written_is_an_error_before_training(drawings, whole, path):
    network = Network(1, emit_nan)
    with pytest.raises(OSError, match=f"cannot write the file: .*{path.name}"):
        make(network, checkpoint=path).fit(drawings)
    with pytest.raises(OSError, match=f"cannot write the file: .*{path.name}"):
        whole.save(path)


@contextlib.contextmanager
def full_disk(n_bytes):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named_and_the_old_file_stays(drawings, whole, path):
    stopped_after(2, drawings, path)
    before = path.read_bytes()
    with (
        full_disk(len(before) // 2),
        pytest.raises(OSError, match=rf"cannot write the file: .*{path.name}"),
    ):
        make(checkpoint=path).fit(drawings)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.npz"]
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)


def test_equal_runs_may_share_a_file(path):
    def write(number):
        for _ in range(30):
            record = {"model": np.full(1000, number)}
            _persistence.write_record(path, record)
            (value,) = set(_persistence.read_record(path)["model"].tolist())
            assert value in range(4)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write, range(4)))
    assert os.listdir(path.parent) == ["run.npz"]


def test_no_link_is_followed_that_was_not_asked_for(drawings, tmp_path, monkeypatch):
    """Whoever may write to the folder cannot know the name, nor does a link help."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("run.npz.part", ".run.npz.00.part"):
        (tmp_path / name).symlink_to(victim)
    monkeypatch.setattr(_persistence.secrets, "token_hex", lambda n_bytes: "00")
    with pytest.raises(FileExistsError, match="cannot write"):
        make(max_iter=1, checkpoint=tmp_path / "run.npz").fit(drawings)
    assert victim.read_text() == "precious"
    monkeypatch.undo()
    make(max_iter=1, checkpoint=tmp_path / "run.npz").fit(drawings)
    assert victim.read_text() == "precious"


def test_a_link_stays_a_link(drawings, whole, tmp_path):
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "run.npz", tmp_path / "disk" / "run.npz"
    link.symlink_to(file)
    make(max_iter=2, checkpoint=link).fit(drawings)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["run.npz"]
    whole.save(link)
    assert link.is_symlink()
    assert make().load(link).n_iter_ == EPOCHS


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_file_has_the_usual_mode(whole, path):
    whole.save(path)
    usual = path.with_name("usual")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let open files go")
def test_who_reads_a_file_while_it_is_written_finds_the_old_one(whole, path):
    whole.save(path)
    before = path.read_bytes()
    with path.open("rb") as file:
        start = file.read(10)
        whole.save(path)
        assert start + file.read() == before
        assert os.fstat(file.fileno()).st_nlink == 0


@pytest.mark.skipif(os.name != "posix", reason="permissions of files")
def test_a_file_keeps_its_permissions(drawings, path):
    clusterer = make(max_iter=1).fit(drawings)
    clusterer.save(path)
    path.chmod(0o600)
    clusterer.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
