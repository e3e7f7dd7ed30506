"""Several threads that fit at a time, and how many there are."""

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest
from joblib import cpu_count, parallel_config

from skcce._threads import count_threads, single_blas_thread

# BLAS, OpenMP and torch have two threads, in a process of its own.
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
TWO_THREADS = os.environ | dict.fromkeys(LIBRARIES, "2")
N_BLAS = """
import warnings
import numpy, scipy.linalg
from threadpoolctl import threadpool_info
def n_blas():
    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    return {lib["num_threads"] for lib in libraries}
before = n_blas()
"""
OVERLAPPING = """
import threading
from skcce._threads import single_blas_thread
first_left, seen = threading.Event(), []
def second():
    with single_blas_thread():
        both_in.wait()
        first_left.wait()
        seen.append(n_blas())
for _ in range(2):
    both_in = threading.Barrier(2)
    first_left.clear()
    thread = threading.Thread(target=second)
    thread.start()
    with single_blas_thread(), single_blas_thread():
        both_in.wait()
        seen.append(n_blas())
    first_left.set()
    thread.join()
    assert seen == [{1}] * 2, seen
    assert n_blas() == before, (n_blas(), before)
    seen.clear()
"""
FITS = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np, torch
from torch import nn
from skcce import CollisionClusterer, LinearSoftmax
from skcce.deep import DeepSoftmax
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = np.vstack([rng.normal(m, 1, (300, 200)) for m in range(3)])
def network():
    return nn.Sequential(nn.Linear(200, 64), nn.ReLU())
models = [LinearSoftmax(), *(DeepSoftmax(network, n_threads=n) for n in (1, 2))]
def fit(job):
    model, max_iter = job
    options = {"init": "k-means", "n_neighbors": 5, "n_init": 1, "max_iter": max_iter}
    clusterer = CollisionClusterer(3, model=model, random_state=0, **options)
    return clusterer.fit(X).probabilities_.tobytes()
jobs = [(model, max_iter) for max_iter in (1, 3) for model in models]
alone = [fit(job) for job in jobs]
for _ in range(2):
    with ThreadPoolExecutor(4) as executor:
        assert [*executor.map(fit, jobs)] == alone
    assert n_blas() == before, (n_blas(), before)
assert torch.get_num_threads() == 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [OVERLAPPING, FITS])
def test_fits_in_threads_at_a_time(script):
    process = subprocess.run(
        [sys.executable, "-c", N_BLAS + script],
        env=TWO_THREADS,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    # OpenBLAS would warn if it had threads of its own inside of those of OpenMP.
    assert process.stderr == ""


def test_the_limit_ends_with_an_error():
    n_threads = threading.active_count()

    def fail():
        with single_blas_thread():
            assert threading.active_count() == n_threads + 1
            raise OSError("of the test")

    with pytest.raises(OSError, match="of the test"):
        fail()
    assert threading.active_count() == n_threads


def test_count_threads():
    assert count_threads(3) == 3
    assert count_threads(-1) == cpu_count()
    assert count_threads(None) == 1
    with parallel_config(n_jobs=2):
        assert count_threads(None) == 2
    with parallel_config(backend="sequential"):
        assert count_threads(4) == 1


def count_in_a_worker(n_jobs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return count_threads(n_jobs)


@pytest.mark.slow
def test_a_worker_of_a_pool_has_threads():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(count_in_a_worker, [3, 1]) == [3, 1]
