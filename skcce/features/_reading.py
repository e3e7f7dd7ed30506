"""Items read in threads, in order, while the caller works on those before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits

# Pillow decodes and resizes without Python's lock, so threads are enough, and need
# neither copies between processes nor a guarded __main__.


def read_ahead(
    function: Callable[[Any], Any], items: Iterable, n_threads: int, n_ahead: int
) -> Iterator[Any]:
    """Yield ``function(item)`` for each item, with at most `n_ahead` results waiting.

    An exception of `function` is raised where its result would be due. If the caller
    stops early, what has not begun is never run.
    """
    items = iter(items)
    executor = ThreadPoolExecutor(n_threads, initializer=_use_one_thread)
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


def _use_one_thread() -> None:
    # Of OpenMP, by the calling thread: there are already as many threads as cores, and
    # what torch does to a single image is small.
    threadpool_limits(limits=1, user_api="openmp")
