"""The threads of a computation: those of BLAS and of OpenMP, and our own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Event, Lock, Thread

from joblib import effective_n_jobs, parallel_config
from threadpoolctl import ThreadpoolController

_lock = Lock()
_n_inside = 0
_all_left = Event()
_keeper = None


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, until the last caller of all Python threads is done.

    The number of OpenBLAS's threads belongs to the process: if every caller put back
    what it had found, the first one would put it back while others still compute, and
    the last one would put back the limit of another. So a thread of its own holds the
    limit; of all others, threadpoolctl (from 3.8 on) heeds none meanwhile.
    """
    global _n_inside
    with _lock:
        if _n_inside == 0:
            _start_keeper()
        _n_inside += 1
    try:
        # Of MKL, and of OpenBLAS with OpenMP, it belongs to the calling thread.
        with _libraries().limit(limits=1, user_api="blas"):
            yield
    finally:
        with _lock:
            _n_inside -= 1
            if _n_inside == 0:
                _all_left.set()
                _keeper.join()


def _start_keeper() -> None:
    global _keeper
    is_limited = Event()
    _all_left.clear()

    def hold():
        with _libraries().limit(limits=1, user_api="blas"):
            is_limited.set()
            _all_left.wait()

    _keeper = Thread(target=hold, name="skcce-blas-limit", daemon=True)
    _keeper.start()
    is_limited.wait()


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
    # In the worker of a pool joblib's own processes are not to be had; threads are.
    with parallel_config(backend="threading"):
        return effective_n_jobs(n_jobs)
