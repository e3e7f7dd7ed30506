import itertools
import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch import nn
from torchvision.models import get_model
from torchvision.transforms import v2

from skcce.features import ImageFeatures, _cache, _image_features
from skcce.features._cache import FeatureCache

LIMIT = 10**9
DAY = 24 * 60 * 60
FILE = "features.sqlite3"


def key(i):
    return i.to_bytes(16, "little")


def vector(i, length=8):
    return np.random.default_rng(i).normal(size=length).astype(np.float32)


def vectors(rows, length=8):
    return {key(i): vector(i, length) for i in rows}


def write(folder, rows, length=8, limit=LIMIT):
    with FeatureCache(folder, limit) as cache:
        cache.write(vectors(rows, length))


def read(folder, rows, limit=LIMIT):
    with FeatureCache(folder, limit) as cache:
        found = cache.read(key(i) for i in rows)
    return {int.from_bytes(k, "little"): value for k, value in found.items()}


def execute(folder, statement, *arguments):
    connection = sqlite3.connect(folder / FILE)
    with connection:
        rows = connection.execute(statement, arguments).fetchall()
    connection.close()
    return rows


def assert_whole(found, rows, length=8):
    assert set(found) == set(rows)
    for i in found:
        assert found[i].dtype == np.float32
        assert_array_equal(found[i], vector(i, length))


def assert_close(actual, expected):
    """Features of batches that may differ in size."""
    assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


class Network(nn.Module):
    """Three colors, weighted: as much as is needed to tell images apart."""

    def __init__(self, seed=0, width=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Conv2d(3, width, 3)
            self.norm = nn.BatchNorm2d(width)

    def forward(self, batch):
        return self.norm(self.layer(batch))


class Calls(list):
    """The sizes of the batches that went through a network."""

    def __init__(self, monkeypatch, at_call=0):
        super().__init__()
        features = _image_features.features

        def counted(network, batch):
            if len(self) + 1 == at_call:
                raise KeyboardInterrupt
            self.append(len(batch))
            return features(network, batch)

        monkeypatch.setattr(_image_features, "features", counted)

    def take(self):
        """Return how many images went through since the last time."""
        n = sum(self)
        self.clear()
        return n


@pytest.fixture
def forwards(monkeypatch):
    return Calls(monkeypatch)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(256, size=(7, 9, 8, 3), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path, images):
    folder = tmp_path / "images"
    folder.mkdir()
    return save(folder, images)


@pytest.fixture
def make(tmp_path):
    def make(model=None, **parameters):
        settings = {"cache": tmp_path / "cache", "batch_size": 3, "n_jobs": 2}
        return ImageFeatures(model or Network(), **(settings | parameters))

    return make


def state_of(name, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_model(name, weights=None).state_dict()


def save(folder, images):
    paths = [folder / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def uncached(model, X, **parameters):
    return ImageFeatures(model, n_jobs=1, **parameters).transform(X)


# --- Vectors by key ---------------------------------------------------------


def test_what_is_written_is_read_again(tmp_path):
    write(tmp_path / "a" / "b", range(1200))
    assert os.listdir(tmp_path / "a" / "b") == [FILE]
    assert_whole(read(tmp_path / "a" / "b", range(1000, 1300)), range(1000, 1200))
    assert_whole(read(tmp_path / "a" / "b", [3, 3, 5, 3]), [3, 5])
    assert_whole(read(tmp_path / "a" / "b", range(1200)), range(1200))
    assert read(tmp_path / "a" / "b", []) == {}


def test_the_last_one_counts(tmp_path):
    write(tmp_path, [1, 2], length=3)
    write(tmp_path, [2], length=5)
    assert_whole(read(tmp_path, [1]), [1], length=3)
    assert_whole(read(tmp_path, [2]), [2], length=5)


def test_special_values_keep_their_bits(tmp_path):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38], np.float32)
    with FeatureCache(tmp_path, LIMIT) as cache:
        cache.write({key(1): values})
        found = cache.read([key(1)])[key(1)]
    assert found.tobytes() == values.tobytes()


def test_no_folder_stores_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(None, range(3))
    assert read(None, range(3)) == {}
    assert os.listdir(tmp_path) == []


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write("~/cache", range(3))
    assert_whole(read(tmp_path / "cache", range(3)), range(3))


# --- What goes wrong --------------------------------------------------------


@pytest.mark.parametrize("place", [0, 2, 4, 7, -1])
def test_a_flipped_bit_is_not_read(tmp_path, place):
    write(tmp_path, range(3))
    ((record,),) = execute(tmp_path, "SELECT vector FROM features WHERE key=?", key(1))
    record = bytearray(record)
    record[place] ^= 4
    execute(tmp_path, "UPDATE features SET vector=? WHERE key=?", record, key(1))
    assert_whole(read(tmp_path, range(3)), [0, 2])
    write(tmp_path, [1])
    assert_whole(read(tmp_path, range(3)), range(3))


@pytest.mark.parametrize("record", [b"", b"abc", b"abcd", b"abcdefgh", "text", 7, 0.5])
def test_what_is_no_record_is_not_read(tmp_path, record):
    write(tmp_path, range(3))
    execute(tmp_path, "UPDATE features SET vector=? WHERE key=?", record, key(1))
    assert_whole(read(tmp_path, range(3)), [0, 2])


def test_a_vector_under_another_key_is_not_read(tmp_path):
    """As in a file whose pages were mixed up: wrong features are the worst."""
    write(tmp_path, range(3))
    other = "(SELECT vector FROM features WHERE key=?)"
    execute(tmp_path, f"UPDATE features SET vector={other} WHERE key=?", key(2), key(1))
    assert_whole(read(tmp_path, range(3)), [0, 2])


@pytest.mark.parametrize("used", [None, "yesterday", b"", float("inf"), -(2**63)])
def test_a_broken_time_does_no_harm(tmp_path, used):
    folder = tmp_path
    connection = sqlite3.connect(folder / FILE)
    with connection:  # without the NOT NULL of the real one
        connection.execute(
            "CREATE TABLE features (key BLOB PRIMARY KEY, vector BLOB, used)"
        )
    connection.close()
    write(folder, range(3))
    execute(folder, "UPDATE features SET used=? WHERE key=?", used, key(1))
    found = read(folder, range(3))
    for i, value in found.items():
        assert_array_equal(value, vector(i))


@pytest.mark.parametrize("data", [b"not a database" * 999, bytes(5000)])
def test_a_broken_file_is_begun_anew(tmp_path, data):
    (tmp_path / FILE).write_bytes(data)
    with pytest.warns(UserWarning, match=r"features\.sqlite3.*begun anew"):
        write(tmp_path, range(3))
    assert_whole(read(tmp_path, range(3)), range(3))


@pytest.mark.parametrize("data", [b"", b"x"])
def test_a_file_with_nothing_in_it_is_a_new_one(tmp_path, data):
    (tmp_path / FILE).write_bytes(data)
    write(tmp_path, range(3))
    assert_whole(read(tmp_path, range(3)), range(3))


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.filterwarnings("ignore:The cache:UserWarning")
def test_a_truncated_file_does_no_harm(tmp_path, fraction):
    write(tmp_path, range(500))
    data = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(data[: int(fraction * len(data))])
    for i, value in read(tmp_path, range(500)).items():
        assert_array_equal(value, vector(i))
    write(tmp_path, range(500, 1000))
    for i, value in read(tmp_path, range(1000)).items():
        assert_array_equal(value, vector(i))
    write(tmp_path, range(5))
    assert_whole(read(tmp_path, range(5)), range(5))


@pytest.fixture(scope="module")
def sound_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(folder, range(300))
    return (folder / FILE).read_bytes()


@pytest.mark.filterwarnings("ignore:The cache:UserWarning")
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=40))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damage_anywhere_gives_no_wrong_vector(tmp_path, sound_file, damage):
    data = bytearray(sound_file)
    for place, flip in damage:
        data[int(place * (len(data) - 1))] ^= flip
    (tmp_path / FILE).write_bytes(data)
    for i, value in read(tmp_path, range(300)).items():
        assert_array_equal(value, vector(i))
    write(tmp_path, range(300, 310))
    for i, value in read(tmp_path, range(310)).items():
        assert_array_equal(value, vector(i))


def test_what_is_no_damage_deletes_nothing(tmp_path, monkeypatch):
    write(tmp_path, range(3))

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(_cache, "_unpack", fail)
        with pytest.raises(MemoryError):
            read(tmp_path, range(3))
    assert_whole(read(tmp_path, range(3)), range(3))


@pytest.mark.filterwarnings("ignore:The cache:UserWarning")
def test_damage_of_the_schema_does_no_harm(tmp_path):
    """Its text may become one that SQLite's messages cannot be decoded with."""
    write(tmp_path, range(1))
    good = (tmp_path / FILE).read_bytes()
    schema = range(good.index(b"CREATE TABLE") - 60, good.rindex(b"CREATE") + 90, 7)
    for place in (*schema, 3866):
        data = bytearray(good)
        data[place] = 0xFF
        (tmp_path / FILE).write_bytes(data)
        assert_whole(read(tmp_path, range(1)), read(tmp_path, range(1)))
        write(tmp_path, range(3))


def test_a_row_of_the_index_that_points_elsewhere_gives_no_wrong_vector(
    tmp_path, sound_file
):
    """One bit: the index of keys names another row, whose checksum is right."""
    data = bytearray(sound_file)
    wanted = key(5)
    # An entry of the index ends with the number of its row, which is 6.
    places = [
        place
        for place in range(len(data) - 17)
        if data[place : place + 16] == wanted and data[place + 16] == 6
    ]
    assert places
    for place in places:
        data[place + 16] ^= 1
    (tmp_path / FILE).write_bytes(data)
    for i, value in read(tmp_path, range(300)).items():
        assert_array_equal(value, vector(i))


def test_a_folder_that_cannot_be_made_is_warned_of(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.warns(UserWarning, match="is not used") as caught:
            write(folder, range(3))
        assert len(caught) == 1
    (tmp_path / "folder" / FILE).mkdir(parents=True)
    with pytest.warns(UserWarning, match="is not used"):
        write(tmp_path / "folder", range(3))


def only_to_read(monkeypatch):
    connect = sqlite3.connect

    def connect_to_read(path, **options):
        return connect(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(_cache.sqlite3, "connect", connect_to_read)


def test_a_file_that_is_only_to_be_read_is_read(tmp_path, monkeypatch):
    write(tmp_path, range(3))
    only_to_read(monkeypatch)
    assert_whole(read(tmp_path, range(5)), range(3))
    with pytest.warns(UserWarning, match=r"is not used.*readonly"):
        write(tmp_path, [3])
    assert_whole(read(tmp_path, range(5)), range(3))


def test_an_old_file_that_is_only_to_be_read_is_read(tmp_path, monkeypatch):
    write(tmp_path, range(3))
    execute(tmp_path, "UPDATE features SET used = used - ?", 3 * DAY)
    only_to_read(monkeypatch)
    with pytest.warns(UserWarning, match=r"is not used.*readonly"):
        found = read(tmp_path, range(5))
    assert_whole(found, range(3))


def test_a_new_file_that_is_only_to_be_read_is_warned_of(tmp_path, monkeypatch):
    only_to_read(monkeypatch)
    with pytest.warns(UserWarning, match="is not used"):
        write(tmp_path, range(3))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root")
def test_a_read_only_folder_is_warned_of(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="is not used"):
        write(tmp_path, range(3))


@pytest.mark.parametrize("lock", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_locked_file_is_warned_of(tmp_path, monkeypatch, lock):
    monkeypatch.setattr(_cache, "_SECONDS_TO_WAIT", 0)
    write(tmp_path, range(3))
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute(f"BEGIN {lock}")
    with pytest.warns(UserWarning, match=r"is not used.*locked"):
        write(tmp_path, [3])
    other.execute("ROLLBACK")
    other.close()
    assert_whole(read(tmp_path, range(5)), range(3))


def test_a_full_disk_is_warned_of(tmp_path, monkeypatch):
    write(tmp_path, range(3))
    connect = sqlite3.connect

    def connect_to_little(path, **options):
        connection = connect(path, **options)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    monkeypatch.setattr(_cache.sqlite3, "connect", connect_to_little)
    with pytest.warns(UserWarning, match=r"is not used.*full"):
        write(tmp_path, range(3, 999))
    monkeypatch.undo()
    assert_whole(read(tmp_path, range(999)), range(3))


def test_a_table_of_something_else_is_warned_of(tmp_path):
    connection = sqlite3.connect(tmp_path / FILE)
    connection.execute("CREATE TABLE features (a, b)")
    connection.close()
    with pytest.warns(UserWarning, match="The cache"):
        write(tmp_path, range(3))


# --- The limit --------------------------------------------------------------


def size_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_full_cache_stays_full(tmp_path):
    """What is deleted once makes room for some time."""
    write(tmp_path, range(500), length=200)
    limit = int(0.95 * size_of(tmp_path))
    for i in range(500, 530):
        write(tmp_path, [i], length=200, limit=limit)
    n_kept = len(read(tmp_path, range(530)))
    assert_whole(read(tmp_path, range(530)), range(530 - n_kept, 530), length=200)
    assert n_kept > 350


def test_the_file_stays_under_its_limit_and_the_oldest_go_first(tmp_path):
    limit = 300_000
    for start in range(0, 2000, 50):
        write(tmp_path, range(start, start + 50), length=200, limit=limit)
        assert size_of(tmp_path) <= limit
    found = read(tmp_path, range(2000))
    assert_whole(found, range(2000 - len(found), 2000), length=200)
    assert len(found) * 200 * 4 > limit / 2


def test_what_was_used_stays(tmp_path):
    write(tmp_path, range(200), length=200)
    execute(tmp_path, "UPDATE features SET used = used - ?", 3 * DAY)
    used = range(0, 200, 3)
    assert_whole(read(tmp_path, used), used, length=200)
    limit = size_of(tmp_path) // 2
    write(tmp_path, [200], length=200, limit=limit)
    found = read(tmp_path, range(201))
    assert {*used, 200} < set(found)
    assert size_of(tmp_path) <= limit


def test_times_of_use_are_written_at_most_once_a_day(tmp_path):
    write(tmp_path, range(3))
    now = int(time.time())
    for age in (3 * DAY, DAY // 2):
        execute(tmp_path, "UPDATE features SET used = ?", now - age)
        read(tmp_path, [0, 1])
        times = [t for (t,) in execute(tmp_path, "SELECT used FROM features")]
        assert sum(t >= now for t in times) == (2 if age > DAY else 0)


def test_a_smaller_limit_gives_the_space_back(tmp_path):
    write(tmp_path, range(1000), length=500)
    before = size_of(tmp_path)
    write(tmp_path, [1000], length=500, limit=before // 10)
    assert size_of(tmp_path) <= before // 10
    assert_whole(read(tmp_path, [1000]), [1000], length=500)


def test_vectors_of_several_lengths_stay_under_the_limit(tmp_path):
    limit = 400_000
    write(tmp_path, range(1000), length=4, limit=limit)
    for start in range(1000, 1200, 10):
        write(tmp_path, range(start, start + 10), length=2000, limit=limit)
        assert size_of(tmp_path) <= limit


def test_a_limit_too_small_for_anything_does_no_harm(tmp_path):
    for start in (0, 10):
        write(tmp_path, range(start, start + 10), limit=1)
        assert size_of(tmp_path) < 10**5
        for i, value in read(tmp_path, range(20), limit=1).items():
            assert_array_equal(value, vector(i))


# --- Several processes ------------------------------------------------------

# Without torch, which takes long to import.
WRITER = """
import runpy, sys, numpy as np
_, module, folder, first = sys.argv
FeatureCache = runpy.run_path(module)["FeatureCache"]
for start in range(int(first), int(first) + 300, 10):
    with FeatureCache(folder, 10**9) as cache:
        cache.write({
            i.to_bytes(16, "little"):
            np.random.default_rng(i).normal(size=8).astype(np.float32)
            for i in range(start, start + 10)
        })
"""


def test_two_processes_that_write_at_a_time_lose_nothing(tmp_path):
    command = [sys.executable, "-W", "error", "-c", WRITER, _cache.__file__]
    processes = [
        subprocess.Popen([*command, str(tmp_path), str(first)]) for first in (0, 300)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert_whole(read(tmp_path, range(600)), range(600))
    assert os.listdir(tmp_path) == [FILE]


# --- Features from the cache ------------------------------------------------


def test_the_second_call_neither_decodes_nor_computes(
    make, paths, forwards, monkeypatch
):
    expected = make().fit_transform(paths)
    assert_close(expected, uncached(Network(), paths))
    assert forwards.take() == 2 * len(paths)

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(_image_features, "cut_own", refuse)
    monkeypatch.setattr(_image_features, "load", refuse)
    assert_array_equal(make().transform(paths), expected)
    assert_array_equal(make(batch_size=1).transform(paths[::-1]), expected[::-1])
    assert_array_equal(make().transform([str(paths[3])]), expected[[3]])
    assert forwards == []


def test_named_tables_are_looked_up_too(make, paths, forwards):
    make().transform(paths)
    forwards.clear()
    table = make().set_output(transform="pandas").transform(paths)
    assert table.shape == (len(paths), 3)
    assert forwards == []


def test_only_new_images_are_computed(make, images, forwards):
    make().transform(images[:4])
    assert forwards.take() == 4
    assert_close(make().transform(images), uncached(Network(), images))
    assert forwards.take() == 3 + len(images)


def test_pixels_are_known_again_however_they_are_held(make, images, forwards):
    expected = make().transform(images)
    forwards.clear()
    for X in (
        list(images),
        torch.from_numpy(images).movedim(-1, 1),
        [Image.fromarray(image) for image in images],
        [(image, 3) for image in images],
        np.asfortranarray(images),
        images.copy(),
    ):
        assert_array_equal(make().transform(X), expected)
    assert forwards == []


def test_pixels_of_another_shape_or_type_are_others(make, forwards):
    zeros = [
        np.zeros((6, 5), np.uint8),
        np.zeros((5, 6), np.uint8),
        np.zeros((6, 5), np.float32),
        np.zeros((3, 10), np.uint8),
    ]
    for X in zeros:
        make().transform(X[None])
    assert forwards.take() == len(zeros)


def test_images_that_occur_twice(make, images, paths):
    rows = [0, 3, 0, 0, 5, 3]
    for X in (images, paths):
        twice = [X[i] for i in rows]
        expected = uncached(Network(), X)[rows]
        for _ in range(2):
            assert_close(make().transform(twice), expected)


def test_a_changed_file_is_computed_again(make, paths, forwards):
    make().transform(paths)
    forwards.clear()
    stat = paths[2].stat()
    pixels = np.asarray(Image.open(paths[2])).copy()
    Image.fromarray(255 - pixels).save(paths[2])
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    expected = uncached(Network(), paths)
    forwards.clear()
    assert_close(make().transform(paths), expected)
    assert forwards.take() == 1

    # The same time, but another size.
    Image.fromarray(pixels // 2).save(paths[2])
    paths[2].write_bytes(paths[2].read_bytes().ljust(stat.st_size + 1, b"\0"))
    assert paths[2].stat().st_size != stat.st_size
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    expected = uncached(Network(), paths)
    forwards.clear()
    assert_close(make().transform(paths), expected)
    assert forwards.take() == 1


def test_one_name_in_two_folders_is_two_images(make, images, tmp_path, monkeypatch):
    model = make()
    for name, image in zip("ab", images, strict=False):
        (tmp_path / name).mkdir()
        (path,) = save(tmp_path / name, image[None])
        path.write_bytes(path.read_bytes().ljust(2000, b"\0"))
        os.utime(path, ns=(0, 10**18))
    rows = []
    for name in "ab":
        monkeypatch.chdir(tmp_path / name)
        rows.append(model.transform(["0.png"]))
    assert_close(np.concatenate(rows), uncached(Network(), images[:2]))


class Scaled(Network):
    def __init__(self, buffer=1.0, attribute=1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(buffer), persistent=False)
        self.other_scale = attribute

    def forward(self, batch):
        return super().forward(batch) * self.scale * self.other_scale


class Centered(Network):
    """Holds what it subtracts in no buffer."""

    def __init__(self, **held):
        super().__init__()
        vars(self).update(held)

    def forward(self, batch):
        mean = self.mean
        if callable(mean):
            mean = mean()
        while isinstance(mean, (list, dict)):
            mean = mean[0]
        return super().forward(batch) - mean


def one():
    return 1.0


class Sine(Network):
    def forward(self, batch):
        return super().forward(batch).sin()


def moved(model):
    model.norm.running_mean += 1
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Network(0), Network(1)),
        (Network(), moved(Network())),
        (Network(), Network(width=4)),
        (Network(), Sine()),
        (nn.AvgPool2d(3), nn.AvgPool2d(2)),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(3)), nn.AvgPool2d(3)),
        (Network().double().float().eval(), Network(3)),
        (Scaled(), Scaled(buffer=2.0)),
        (Scaled(), Scaled(attribute=2.0)),
        (Centered(mean=torch.ones(1)), Centered(mean=torch.zeros(1))),
        (Centered(mean=[torch.ones(1)]), Centered(mean=[torch.zeros(1)])),
        (Centered(mean={0: np.float32(1)}), Centered(mean={0: np.float32(2)})),
        (Centered(mean=lambda: 1.0), Centered(mean=lambda: 2.0)),
        (Centered(mean=one), Centered(mean=float)),
    ],
    ids=[
        *("weights", "buffers", "width", "class", "settings", "layers", "modes"),
        *("non-persistent-buffer", "attribute", "tensor", "list", "dict", "lambda"),
        "function",
    ],
)
def test_own_modules_that_differ_have_entries_of_their_own(make, images, one, other):
    for model in (one, other, one):
        expected = uncached(model, images)
        assert_close(make(model).transform(images), expected)


class Opaque:
    """Can be copied, but tells nothing of itself."""

    def __init__(self, value):
        self.value = value

    def __deepcopy__(self, memo):
        return Opaque(self.value)

    def __reduce__(self):
        raise TypeError("cannot pickle it")

    def __call__(self):
        return self.value


def test_a_module_that_cannot_be_told_from_others_is_not_cached(make, images, tmp_path):
    for value in (1.0, 2.0):
        model = Centered(mean=Opaque(value))
        expected = uncached(model, images)
        with pytest.warns(UserWarning, match="not used: model .*mean, a .*Opaque"):
            rows = make(model).transform(images)
        assert_close(rows, expected)
    assert make(model).fit(images).get_feature_names_out().shape == rows.shape[1:]
    assert list(tmp_path.rglob("*.sqlite3")) == []


def test_training_mode_and_device_do_not_matter(make, images, forwards):
    make(Network().train()).transform(images)
    forwards.clear()
    make(Network().eval()).transform(images)
    make(Network().requires_grad_(False), device="cpu").transform(images)
    assert forwards == []


class Encoded(Network):
    """Keeps something in its state dict that is no tensor."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_an_extra_state_is_no_obstacle(make, images):
    assert_close(make(Encoded()).transform(images), uncached(Network(), images))


def test_layers_have_entries_of_their_own(make, images):
    for layer in (None, "layer", None, "layer"):
        expected = uncached(Network(), images, layer=layer)
        assert_close(make(layer=layer).transform(images), expected)


def to_tensor(image):
    return v2.functional.pil_to_tensor(image) / 255


def inverted(image):
    return 1 - to_tensor(image)


def test_what_is_prepared_otherwise_has_entries_of_its_own(
    make, images, paths, forwards
):
    for X in (images, paths):
        for preprocess in (None, inverted, lambda image: to_tensor(image)[[2, 1, 0]]):
            expected = uncached(Network(), X, preprocess=preprocess)
            assert_close(make(preprocess=preprocess).transform(X), expected)
            forwards.clear()
            make(preprocess=preprocess).transform(X)
            assert forwards == []


SMALL = {"preprocess": v2.Compose([v2.Resize((32, 32)), to_tensor])}


@pytest.mark.parametrize(
    "changes",
    [
        [{}, {"random_state": 1}],
        [{}, {"layer": "features.3"}, {"layer": "features.4"}],
        [{}, {"model": "squeezenet1_0"}],
    ],
    ids=["random_state", "layer", "model"],
)
def test_settings_have_entries_of_their_own(make, images, changes):
    base = {"model": "squeezenet1_1", "weights": None, **SMALL}
    computed = []
    for _ in range(2):
        for change in changes:
            settings = base | change
            expected = uncached(settings.pop("model"), images, **settings)
            settings = base | change
            assert_close(make(**settings).transform(images), expected)
            computed.append(expected)
    for one, other in itertools.combinations(computed[: len(changes)], 2):
        assert one.shape != other.shape or np.abs(one - other).max() > 1e-3


def test_a_file_of_weights_that_changed_is_another(make, images, tmp_path):
    path = tmp_path / "weights.pth"
    settings = {"model": "squeezenet1_1", "weights": path, **SMALL}
    rows = []
    for seed in range(2):
        random = {"weights": None, "random_state": seed}
        expected = uncached("squeezenet1_1", images, **(random | SMALL))
        torch.save(state_of("squeezenet1_1", seed), path)
        os.utime(path, ns=(0, seed))
        rows.append(make(**settings).transform(images))
        assert_close(rows[-1], expected)
    assert not np.array_equal(*rows)


def test_a_damaged_entry_is_computed_again_and_replaced(
    make, images, tmp_path, forwards
):
    expected = make().transform(images)
    forwards.clear()
    folder = tmp_path / "cache"
    ((record,),) = execute(folder, "SELECT vector FROM features LIMIT 1")
    damaged = record[:-1] + bytes([record[-1] ^ 1])
    execute(folder, "UPDATE features SET vector=? WHERE vector=?", damaged, record)
    assert_close(make().transform(images), expected)
    assert forwards.take() == 1
    assert_close(make().transform(images), expected)
    assert forwards == []
    assert (damaged,) not in execute(folder, "SELECT vector FROM features")


@pytest.mark.parametrize(
    ("length", "row", "n_new"), [(0, 0, 1), (1, 0, 0), (1, 4, 0), (1, 4, 1), (9, 4, 0)]
)
def test_a_record_of_another_length_is_computed_again(
    make, images, tmp_path, length, row, n_new
):
    expected = uncached(Network(), images)
    make().transform(images[: len(images) - n_new])
    make(cache=tmp_path / "one").transform(images[[row]])
    ((known,),) = execute(tmp_path / "one", "SELECT key FROM features")
    with FeatureCache(tmp_path / "cache", LIMIT) as cache:
        assert len(cache.read([known])) == 1
        cache.write({known: vector(0, length)})
    assert_close(make().transform(images), expected)


@pytest.mark.parametrize("damage", [b"garbage", bytes(9000), "half"])
def test_features_survive_a_broken_file(make, images, tmp_path, damage, forwards):
    expected = make().transform(np.concatenate([images] * 9 + [255 - images]))
    file = tmp_path / "cache" / FILE
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    with pytest.warns(UserWarning, match="begun anew"):
        actual = make().transform(images)
    assert_close(actual, expected[: len(images)])
    forwards.clear()
    assert_close(make().transform(images), actual)


def test_a_cache_that_cannot_be_used_costs_a_warning_only(make, images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"file.*is not used"):
        actual = make(cache=tmp_path / "file").transform(images)
    assert_close(actual, uncached(Network(), images))


def test_an_interrupt_keeps_what_was_finished(make, images, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch, at_call=3)
        with pytest.raises(KeyboardInterrupt):
            make(n_jobs=1).transform(images)
        assert calls.take() == 6
    forwards = Calls(monkeypatch)
    actual = make().transform(images)
    assert forwards.take() == 1
    assert_close(actual, uncached(Network(), images))


def test_an_error_keeps_what_was_finished(make, images, forwards):
    X = [*images[:6], images[6, :5]]  # of another size: found in the third batch
    with pytest.raises(ValueError, match="one size"):
        make(batch_size=2).transform([*X[:5], X[6], X[5]])
    forwards.clear()
    make(batch_size=2).transform(images)
    assert forwards.take() == 3


def test_bad_images_are_bad_again(make, paths, forwards):
    good = uncached(Network(), paths)
    paths[1].write_text("no image")
    for n_computed in (len(paths) - 1, 0):
        forwards.clear()
        with pytest.warns(UserWarning, match=r"row 1: .*1\.png"):
            actual = make(on_error="skip").transform(paths)
        assert np.isnan(actual[1]).all()
        assert_close(np.delete(actual, 1, 0), np.delete(good, 1, 0))
        assert forwards.take() == n_computed
        with pytest.raises(ValueError, match="1 of 7 images"):
            make().transform(paths)


def test_a_small_cache_gives_the_right_features(make, images):
    for _ in range(2):
        actual = make(cache_size=1).transform(images)
        assert_close(actual, uncached(Network(), images))


def test_home_is_found_by_the_transformer(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ImageFeatures(Network(), cache="~/features").transform(images)
    assert os.listdir(tmp_path / "features") == [FILE]
