"""The threads of a computation: those of BLAS and of OpenMP, and our own."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from multiprocessing import current_process
from threading import Event, Lock, Thread
from typing import Any

from joblib import effective_n_jobs, parallel_config
from threadpoolctl import OpenBLASController, ThreadpoolController

_lock = Lock()
_inside = set()  # a token for everybody who asks for a single thread of BLAS
_keeper = None  # the thread that holds the limit, and what ends it


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, until the last caller of all Python threads is done.

    The number of OpenBLAS's threads belongs to the process: if every caller put back
    what it had found, the first one would put it back while others still compute, and
    the last one would put back the limit of another. So a thread of its own holds the
    limit. Whoever else sets the number at the same time still gets in the way.
    """
    token = object()
    try:
        with _lock:
            if not _inside:
                _start_keeper()
            _inside.add(token)
        # In MKL, and in OpenBLAS with OpenMP, it belongs to the calling thread.
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:  # also if Ctrl-C came before there was a token
        with _lock:
            _inside.discard(token)
            if not _inside:
                _end_keeper()


def _start_keeper() -> None:
    global _keeper
    is_limited, all_left = Event(), Event()

    def hold():
        # threadpoolctl, from 3.8 on, heeds only the thread that came first.
        if hasattr(OpenBLASController, "clear_controlling_thread"):
            OpenBLASController.clear_controlling_thread(force=True)
        with _libraries().limit(limits=1, user_api="blas"):
            is_limited.set()
            all_left.wait()

    thread = Thread(target=hold, name="skcce-blas-limit", daemon=True)
    _keeper = thread, all_left
    thread.start()
    is_limited.wait()


def _end_keeper() -> None:
    global _keeper
    if _keeper is not None:
        thread, all_left = _keeper
        _keeper = None
        all_left.set()
        if thread.is_alive():
            thread.join()


def _forget_the_parent() -> None:
    """In a child of a fork there is neither a keeper nor anybody inside."""
    global _lock, _keeper
    _lock, _keeper = Lock(), None
    _inside.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)


def openmp_threads(n_threads: int) -> AbstractContextManager:
    """Limit the threads of OpenMP; their number belongs to the calling thread."""
    return _libraries().limit(limits=n_threads, user_api="openmp")


def count_openmp_threads() -> int:
    """Return how many threads OpenMP would use."""
    libraries = _libraries().info()
    return max(
        (lib["num_threads"] for lib in libraries if lib["user_api"] == "openmp"),
        default=1,
    )


@cache
def _libraries() -> ThreadpoolController:
    # Those of numpy, scipy and scikit-learn are loaded by now; to look for them takes
    # 3 ms each time.
    return ThreadpoolController()


def count_threads(n_jobs: int | None) -> int:
    """Return how many threads of our own `n_jobs` asks for.

    As joblib has it, -1 stands for all processors, and None for 1 or what a
    ``parallel_config`` says.
    """
    if not current_process().daemon:
        return effective_n_jobs(n_jobs)
    # The worker of a pool may have no processes of its own, but it may have threads.
    with parallel_config(backend="threading"):
        return effective_n_jobs(n_jobs)


def in_threads(
    function: Callable[[Any], Any],
    items: Iterable,
    n_threads: int,
    n_ahead: int,
    initializer: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Yield ``function(item)`` for each item, with at most `n_ahead` results waiting.

    An exception of `function` is raised where its result would be due. If the caller
    stops early, what has not begun is never run. Each thread begins with `initializer`.
    """
    executor = ThreadPoolExecutor(
        n_threads, thread_name_prefix="skcce-worker", initializer=initializer
    )
    try:
        waiting = deque()
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)
