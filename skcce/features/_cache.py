"""A cache of feature vectors on disk, for several processes at a time."""

import math
import os
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

_FILE = "features.sqlite3"
_SECONDS_TO_WAIT = 60  # for another process that writes
_KEYS_A_QUERY = 500
_CHECKSUM_BYTES = 4
_DAY = 86_400
# What a damaged file leads to; ValueError, if text cannot be decoded.
_BROKEN = (sqlite3.Error, ArithmeticError, LookupError, TypeError, ValueError)
# What is deleted if the cache is full: down to so much of its limit.
_FILL = 0.9


class FeatureCache:
    """Vectors of float32 by key, in an SQLite file of `folder`; None stores nothing.

    SQLite's locks make it safe for several processes. What goes wrong costs the cache,
    never the caller's work: a vector whose checksum is wrong is not found, a broken
    file is begun anew, and a disk that is full, locked or read-only is warned of. If
    the file has more than `size_limit` bytes, the vectors that were not used for the
    longest time are deleted.
    """

    def __init__(self, folder: str | os.PathLike | None, size_limit: int):
        self._path = None if folder is None else Path(folder).expanduser() / _FILE
        self._size_limit = size_limit
        self._connection = None

    def __enter__(self) -> Self:
        if self._path is not None:
            self._guarded(self._open)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, keys: Iterable[bytes]) -> dict[bytes, NDArray]:
        """Return the vectors that are stored, and not damaged."""
        found = {}
        if self._connection is not None:
            self._guarded(self._read, list(dict.fromkeys(keys)), found)
        return found

    def write(self, vectors: Mapping[bytes, NDArray]) -> None:
        """Store vectors, and forget the oldest ones if there are too many."""
        if self._connection is not None:
            self._guarded(self._write, vectors)

    def _guarded(self, action: Callable, *arguments: object) -> None:
        try:
            action(*arguments)
        except (sqlite3.OperationalError, OSError) as error:
            self._warn(f"is not used: {error}")
        except _BROKEN as error:
            self._warn(f"is broken, and begun anew: {error}")
            try:
                self._path.unlink(missing_ok=True)
                self._open()
            except (sqlite3.Error, OSError) as error:
                self._warn(f"is not used: {error}")

    def _warn(self, what: str) -> None:
        self.__exit__()
        warnings.warn(f"The cache {str(self._path)!r} {what}.", stacklevel=6)

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, timeout=_SECONDS_TO_WAIT)
        if self._number("PRAGMA page_count") == 0:  # a new file
            # Deleted pages can then be given back.
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._connection.executescript(
            "CREATE TABLE IF NOT EXISTS features "
            "(key BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL);"
            "CREATE INDEX IF NOT EXISTS by_use ON features (used)"
        )

    def _read(self, keys: list[bytes], found: dict[bytes, NDArray]) -> None:
        now, stale = int(time.time()), []
        for start in range(0, len(keys), _KEYS_A_QUERY):
            part = keys[start : start + _KEYS_A_QUERY]
            marks = ",".join("?" * len(part))
            rows = self._connection.execute(
                f"SELECT key, vector, used FROM features WHERE key IN ({marks})", part
            )
            for key, record, used in rows:
                vector = _unpack(key, record)
                if vector is not None:
                    found[key] = vector
                # Rarely, or each look would be a write.
                if not isinstance(used, int) or now - used > _DAY:
                    stale.append((now, key))
        if stale:
            with self._connection:
                self._connection.executemany(
                    "UPDATE features SET used = ? WHERE key = ?", stale
                )

    def _write(self, vectors: Mapping[bytes, NDArray]) -> None:
        now = int(time.time())
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO features VALUES (?, ?, ?)",
                ((key, _pack(key, vector), now) for key, vector in vectors.items()),
            )
        while self._n_bytes() > self._size_limit and self._shrink():
            pass

    def _n_bytes(self) -> int:
        return self._number("PRAGMA page_count") * self._number("PRAGMA page_size")

    def _shrink(self) -> bool:
        """Delete what was not used for the longest time; tell if there was anything."""
        surplus = 1 - _FILL * self._size_limit / self._n_bytes()
        n_vectors = self._number("SELECT COUNT(*) FROM features")
        with self._connection:
            self._connection.execute(
                "DELETE FROM features WHERE rowid IN "
                "(SELECT rowid FROM features ORDER BY used, rowid LIMIT ?)",
                (math.ceil(n_vectors * surplus),),
            )
        # Not by execute, which would free a single page.
        self._connection.executescript("PRAGMA incremental_vacuum")
        return n_vectors > 0

    def _number(self, query: str) -> int:
        return self._connection.execute(query).fetchone()[0]


def _pack(key: bytes, vector: NDArray) -> bytes:
    data = vector.astype("<f4").tobytes()
    return _checksum(key, data) + data


def _unpack(key: bytes, record: bytes) -> NDArray | None:
    """Return the vector of a record, None if the record is corrupt."""
    if not isinstance(record, bytes) or len(record) % 4:
        return None
    checksum, data = record[:_CHECKSUM_BYTES], record[_CHECKSUM_BYTES:]
    if _checksum(key, data) != checksum:
        return None
    return np.frombuffer(data, "<f4").astype(np.float32, copy=False)


def _checksum(key: bytes, data: bytes) -> bytes:
    # With the key: a damaged index may lead from one to the data of another.
    return zlib.crc32(data, zlib.crc32(key)).to_bytes(_CHECKSUM_BYTES, "little")
