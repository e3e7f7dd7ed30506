"""Images that are read in threads, while the caller uses what came before."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from skcce._images import why_unread
from skcce._threads import in_threads

# Pillow and torch work without Python's lock, so threads are enough, and need neither
# copies between processes nor a guarded __main__.

# Looking at a file from outside takes less time than handing it to a thread, so that
# threads get blocks of files; this many blocks are read ahead.
_BLOCK, _BLOCKS_AHEAD = 16, 64


def attempt(function: Callable, images: Sequence, row: int) -> tuple[Any, str]:
    """Return what `function` makes of an image, and why it could not, or ""."""
    item = None  # until it is read
    try:
        item = images[row]
        return function(item), ""
    except Exception as error:  # decoders and data sets may raise anything
        return None, why_unread(item, error)


def read_each(
    function: Callable,
    images: Sequence,
    rows: Sequence[int],
    bad: dict[int, str],
    n_threads: int,
    report: Callable[[int], Any] = lambda n_done: None,
) -> Iterator[tuple[int, Any]]:
    """Yield rows, and what `function` makes of their images, from threads.

    Note in `bad` those of which it can make nothing, and `report` how many are done.
    """
    blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
    outcomes = in_threads(
        lambda block: [attempt(function, images, i) for i in block],
        blocks,
        n_threads,
        _BLOCKS_AHEAD,
    )
    for block, results in zip(blocks, outcomes, strict=True):
        for i, (result, reason) in zip(block, results, strict=True):
            if reason:
                bad[i] = reason
            else:
                yield i, result
        report(len(block))


def bad_images(bad: Mapping[int, str], n_images: int, hint: str = ".") -> str:
    """Say which images cannot be read, and why."""
    lines = [f"\n  row {row}: {reason}" for row, reason in sorted(bad.items())]
    return f"{len(bad)} of {n_images} images cannot be read{hint}{''.join(lines)}"
