"""What passes over many rows cost, and what their workers exchange.

    python examples/scale_passes.py workers --n-samples 1000000
    python examples/scale_passes.py disk --n-samples 100000000 --folder FOLDER

"workers" trains a linear model without neighbors on rows of 64 features, in 100
clusters, in passes: on one worker, on two threads, and on two processes that read a
memory map. It prints the time for a row of each, whether all end at the same model, and
the bytes that a step sends to the workers and gets back.

"disk" writes a memory map of rows of 16 features (64 bytes each) to FOLDER, unless it
is there, fits CollisionClusterer to it, and prints the time and the largest memory that
was in use beside the map (RssAnon, Linux only).
"""

import argparse
import pickle
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
from joblib import parallel_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer
from skcce._blocks import cut, in_groups
from skcce._data import TrainingData
from skcce._objective import Epoch
from skcce._passes import summed, train_in_passes
from skcce._training import epochs
from skcce.methods import Collision

SAMPLE = 20_000  # rows of the fit that the passes go on from
WORKERS = {
    "one": {"n_jobs": 1},
    "two threads": {"n_jobs": 2, "backend": "threading"},
    "two processes": {"n_jobs": 2, "backend": "loky"},
}


def write_rows(path, n_samples, n_features, n_clusters):
    """Write Gaussian clusters of standard deviation 1, and return their numbers."""
    random = np.random.default_rng(0)
    centers = random.normal(scale=2.0, size=(n_clusters, n_features)).astype("f4")
    X = np.lib.format.open_memmap(path, "w+", "f4", (n_samples, n_features))
    for first in range(0, n_samples, 100_000):
        numbers = labels(n_samples, n_clusters, first)
        noise = random.standard_normal((len(numbers), n_features), dtype="f4")
        X[first : first + 100_000] = centers[numbers] + noise
    X.flush()


def labels(n_samples, n_clusters, first):
    """Return the clusters of up to 100,000 rows."""
    random = np.random.default_rng([1, first])
    return random.integers(n_clusters, size=min(100_000, n_samples - first))


def compare_workers(path, n_clusters, n_passes):
    """Print the time for a row, and the bytes of a step, of each kind of workers."""
    X = np.load(path, mmap_mode="r")
    sample = TrainingData(np.array(X[:SAMPLE]))
    start = CollisionClusterer(
        n_clusters, n_neighbors=0, n_init=1, max_iter=5, random_state=0
    ).fit(sample.X)
    exchanged(start.model_, X, sample, n_clusters)
    first, serial = None, None
    plan = epochs(0, n_passes, 0.0)
    for name, workers in WORKERS.items():
        model = pickle.loads(pickle.dumps(start.model_))
        with parallel_config(**workers):
            # Processes are there, and have imported what they need.
            few = TrainingData(X[:SAMPLE])
            train_in_passes(model, sample, few, Collision(), plan, np.random)
            model.set_state(start.model_.get_state())
            begin, processor = time.perf_counter(), time.process_time()
            state = train_in_passes(
                model,
                sample,
                TrainingData(X),
                Collision(),
                plan,
                np.random.RandomState(0),
            )
        seconds = time.perf_counter() - begin
        processor = time.process_time() - processor
        serial, first = serial or seconds, model.coef_ if first is None else first
        loss = state.loss_curve[-1]
        print(
            f"{name:13}: {seconds / n_passes / len(X) * 1e6:6.2f} us for a row and "
            f"pass ({processor / n_passes / len(X) * 1e6:.2f} us of this process's "
            f"processors), {serial / seconds:.2f} x one, loss {loss:.6f}, "
            f"same bits: {np.array_equal(first, model.coef_)}",
            flush=True,
        )


def exchanged(model, X, sample, n_clusters):
    """Print the bytes that a step sends and gets."""
    objective = Collision()
    proba = np.full((10, n_clusters), 1 / n_clusters)
    objective.begin_epoch(Epoch(proba))
    usage = objective.usages(proba, 1.0)
    ends = cut(X)
    group = in_groups(ends, np.random.RandomState(0))[0]
    sent = len(pickle.dumps((summed, model.frozen(), objective, usage)))
    n_rows = sum(ends[block + 1].sum() - ends[block].sum() for block in group)
    parts = summed(model, objective, usage, sample.X, None)
    got = sum(np.asarray(part).nbytes for part in parts[1:])
    print(
        f"a step: {n_rows} rows in {len(group)} blocks; for each block, {sent} bytes "
        f"are sent, and {got} + 1 for a row come back"
    )


def memory(which):
    """Return a figure of the memory of this process, in GiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 2**20
    return np.nan


def fit_from_disk(path, n_samples, n_clusters, n_passes):
    """Fit to a memory map, and print the time and the memory of the process."""
    X = np.load(path, mmap_mode="r")
    most, is_over = memory("RssAnon"), threading.Event()
    before = most

    def watch():
        nonlocal most
        while not is_over.wait(0.05):
            most = max(most, memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin = time.perf_counter()
    fitted = CollisionClusterer(
        n_clusters, n_neighbors=0, max_iter=n_passes, random_state=0, verbose=1
    ).fit(X)
    seconds = time.perf_counter() - begin
    is_over.set()
    watcher.join()
    true = labels(n_samples, n_clusters, 0)
    print(
        f"{n_samples} rows, {fitted.n_iter_} passes: {seconds:.0f} s, "
        f"{seconds / n_samples * 1e6:.2f} us for a row; map {X.nbytes / 2**30:.2f} GiB,"
        f" other memory {before:.2f} GiB before, {most:.2f} GiB at most; ARI of the "
        f"first rows {adjusted_rand_score(true, fitted.labels_[: len(true)]):.4f}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["workers", "disk"])
    parser.add_argument("--n-samples", type=int, default=200_000)
    parser.add_argument("--n-passes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    n_features, n_clusters = (64, 100) if options.what == "workers" else (16, 20)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        path = folder / f"rows_{options.n_samples}_{n_features}.npy"
        if not path.exists():
            write_rows(path, options.n_samples, n_features, n_clusters)
        if options.what == "workers":
            compare_workers(path, n_clusters, options.n_passes)
        else:
            fit_from_disk(path, options.n_samples, n_clusters, options.n_passes)


if __name__ == "__main__":
    main()
