import faulthandler
import os
import signal
import subprocess
import tempfile
from pathlib import Path

# Small matrices: threads cost more than they give. Before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Or scikit-learn skips one of its checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# A child process that is aborted prints the stacks of its threads.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, make_blobs

# --- Tests that hang --------------------------------------------------------


def timeout(config):
    return float(config.getini("faulthandler_timeout"))


def fail_with_all_stacks(*_):
    """Print what all threads do, and end the child processes, which do the same."""
    faulthandler.dump_traceback(file=2)
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            # Later tests need the trackers of shared memory.
            if command and b"resource_tracker" not in command:
                os.kill(int(child), signal.SIGABRT)
                # Who waits for the child may fail now, and tell what it printed.
                signal.setitimer(signal.ITIMER_REAL, 1)
    if not signal.getitimer(signal.ITIMER_REAL)[0]:
        pytest.fail("The test hangs; its stderr has the stacks of all threads.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Interrupt a test that hangs; if that does not help, faulthandler ends pytest."""
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, fail_with_all_stacks)
        signal.setitimer(signal.ITIMER_REAL, timeout(item.config) / 2)
    try:
        return (yield)
    except subprocess.CalledProcessError as error:
        error.add_note(f"{error.stderr}")
        raise
    finally:
        if hasattr(signal, "SIGALRM"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def pytest_unconfigure(config):
    """Let an interpreter that hangs at its exit fail as well."""
    faulthandler.dump_traceback_later(timeout(config), exit=True)


# Which solver of the pseudo-labels takes which divergence.
SOLVERS = [
    ("interior-point", "reverse"),
    ("interior-point", "forward"),
    ("em", "reverse"),
    ("pgd", "reverse"),
    ("pgd", "forward"),
]


# The same images in other arrays, or in PIL's.


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def every_second(X):
    return np.repeat(X, 2, axis=2)[:, :, ::2]


def backwards(X):
    return X[::-1, :, ::-1].copy()[::-1, :, ::-1]


def memmap(X):
    with tempfile.TemporaryFile() as file:
        file.write(X.tobytes())
        file.flush()
        return np.memmap(file, dtype=X.dtype, mode="r", shape=X.shape)


def in_odd_memory(X, rng):
    """Return the same numbers, maybe read-only, strided or in another order."""
    kinds = [np.asarray, read_only, np.asfortranarray, lambda X: X[::-1].copy()[::-1]]
    kinds += [lambda X: np.repeat(X, 2, axis=1)[:, ::2]]
    return kinds[rng.integers(len(kinds))](X)


def pil_images(X):
    return [Image.fromarray(image.squeeze()) for image in X]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture
def blobs():
    return make_blobs(300, n_features=5, centers=4, random_state=0)
