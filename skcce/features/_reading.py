"""Work done in threads, in order, while the caller uses what came before."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Pillow and torch work without Python's lock, so threads are enough, and need neither
# copies between processes nor a guarded __main__.


def read_ahead(
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
    executor = ThreadPoolExecutor(n_threads, initializer=initializer)
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
