import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skcce.features import _cache
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


@pytest.mark.slow
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
