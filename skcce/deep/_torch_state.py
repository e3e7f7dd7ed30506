"""What torch keeps for the whole process: its device, threads and random numbers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

import torch

# The global generator belongs to one user at a time, of those in several threads.
_GENERATOR = RLock()


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that is meant; "auto" is the GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device!r} cannot be used: {error}") from error
    return resolved


@contextmanager
def torch_threads(n_threads: int | None) -> Iterator[None]:
    """Let torch use this many threads; None leaves their number as it is."""
    before = torch.get_num_threads()
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if n_threads is not None:
            torch.set_num_threads(before)


@contextmanager
def single_threads() -> Iterator[Callable[[], None]]:
    """Yield what limits torch to one thread, in whichever thread calls it."""
    before = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(1)
    finally:
        # For threads to come; the limit of this one was never touched.
        torch.set_num_threads(before)


@contextmanager
def random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Start torch's random numbers at `seed`, and put them back afterwards."""
    on_gpu = device.type == "cuda"
    with _GENERATOR, torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
