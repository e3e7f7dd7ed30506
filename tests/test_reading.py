import threading
from functools import partial

import pytest
import torch
from feature_helpers import (
    Output,
    Tiny,
)

from skcce import _threads
from skcce._threads import in_threads
from skcce.features import ImageFeatures

pytestmark = pytest.mark.usefixtures("offline")


def is_reading(thread):
    return thread.name.startswith("skcce-worker")


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("n_ahead", [0, 1, 4, 100])
def test_results_are_in_order(n_threads, n_ahead):
    barrier = threading.Barrier(n_threads)  # All of them work, and none is the last.

    def square(i):
        if i < n_threads and n_ahead >= n_threads:
            barrier.wait(timeout=30)
        return i * i

    results = in_threads(square, iter(range(40)), n_threads, n_ahead)
    assert list(results) == [i * i for i in range(40)]
    assert list(in_threads(square, [], n_threads, n_ahead)) == []
    assert not any(map(is_reading, threading.enumerate()))


def test_at_most_so_many_results_wait():
    begun = []
    lock = threading.Lock()

    def note(i):
        with lock:
            begun.append(i)
        return i

    n_ahead = 3
    results = in_threads(note, range(30), n_threads=4, n_ahead=n_ahead)
    assert begun == []
    for i, result in enumerate(results):
        assert result == i
        with lock:
            assert max(begun) <= i + n_ahead
    assert sorted(begun) == list(range(30))


def test_an_error_arrives_in_its_place():
    def invert(i):
        return 1 / (i - 3)

    results = in_threads(invert, range(9), n_threads=2, n_ahead=5)
    assert [next(results) for _ in range(3)] == [1 / (i - 3) for i in range(3)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert not any(map(is_reading, threading.enumerate()))


def test_who_stops_early_has_nothing_more_run(monkeypatch):
    begun, second, cancelled = [], threading.Event(), threading.Event()

    class Executor(_threads.ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(**(options | {"wait": False}))
            cancelled.set()
            super().shutdown(**options)

    def wait(i):
        begun.append(i)
        if i == 1:
            second.set()
            cancelled.wait(timeout=30)
        return i

    monkeypatch.setattr(_threads, "ThreadPoolExecutor", Executor)
    results = in_threads(wait, range(50), n_threads=1, n_ahead=20)
    assert next(results) == 0
    assert second.wait(timeout=30)
    results.close()
    assert cancelled.is_set()
    assert begun == [0, 1]
    assert not any(map(is_reading, threading.enumerate()))


def test_no_thread_is_left(images):
    ImageFeatures(Tiny(), n_jobs=4, batch_size=1).transform(images)
    assert not any(map(is_reading, threading.enumerate()))
    network = Output(partial(torch.mean, dim=99))
    with pytest.raises(IndexError):
        ImageFeatures(network, n_jobs=4, batch_size=1).transform(images)
    assert not any(map(is_reading, threading.enumerate()))
