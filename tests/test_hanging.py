"""A test that hangs fails, with the stacks of all threads and of child processes."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from joblib.externals.loky import ProcessPoolExecutor

TESTS = Path(__file__).parent
HANGING = """
import signal, subprocess, sys, threading

CHILD = '''
import threading
def thread_of_child():
    threading.Event().wait()
def main_of_child():
    thread = threading.Thread(target=thread_of_child)
    thread.start()
    thread.join()
main_of_child()
'''

def wait_in_a_thread():
    threading.Event().wait()

def hang():
    thread = threading.Thread(target=wait_in_a_thread, daemon=True)
    thread.start()
    thread.join()

def test_threads():
    hang()

def test_child():
    subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True)

def test_others_still_run():
    pass

def test_without_interrupts():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    hang()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="child processes are in /proc")
@pytest.mark.parametrize(
    ("tests", "told"),
    [
        ("threads or others", ["in wait_in_a_thread", "in hang", "1 failed, 1 passed"]),
        ("child", ["in thread_of_child", "in main_of_child", "1 failed"]),
        ("interrupts", ["in wait_in_a_thread", "in hang", "Timeout (0:00:04)!"]),
    ],
)
def test_a_test_that_hangs_fails_with_all_stacks(tmp_path, tests, told):
    file = tmp_path / "test_that_hangs.py"
    file.write_text(HANGING)
    options = ["-c", TESTS.parent / "pyproject.toml", "-p", "conftest", "-k", tests]
    options += ["-p", "no:cacheprovider", "-o", "faulthandler_timeout=4"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, file],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 1
    assert [text for text in told if text not in run.stdout] == [], run.stdout


class PickledLate:
    """A task that comes only when the worker has left, which is warned of."""

    def __init__(self, seen):
        self.seen = seen

    def __reduce__(self):
        for _ in range(600):
            if not self.seen:
                time.sleep(0.1)
        return list, ()


@pytest.mark.slow
def test_a_worker_of_loky_that_leaves_is_no_error():
    """An error would end the thread that waits for the workers, and all hangs."""
    with (
        warnings.catch_warnings(record=True) as seen,
        ProcessPoolExecutor(1, timeout=0.01) as executor,
    ):
        assert executor.submit(len, PickledLate(seen)).result() == 0
    assert "A worker stopped while some jobs" in str(seen[0].message)
