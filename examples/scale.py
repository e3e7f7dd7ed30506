r"""Time and memory on many rows, beside other libraries on the same rows.

    python examples/scale.py neighbors --rows 100000
    python examples/scale.py fit --sizes 100000 1000000
    python examples/scale.py fit --sizes 100000 1000000 --data FOLDER
    python examples/scale.py small --data FOLDER
    python examples/scale.py stream --data FOLDER
    python examples/scale.py predict

FOLDER holds mnist.npz (`X_train`, `X_test`, `y_train` and `y_test`, images of uint8)
and stackoverflow_minilm.npz (`X`, 20,000 embeddings of titles, and `y`). The others
need no files: their rows are a mixture of Gaussians in 384 dimensions, scaled to length
1, whose variances fall as those of the embeddings do. With --data, `neighbors` and
`fit` take MNIST: 384 principal components of its images, each of them as often as the
number of rows asks for, with noise.

neighbors: the 10 nearest neighbors of all rows, among 384 features and among the 128
principal components that a fit searches. "recall" is of the true neighbors of some
rows, "first" how long the first call takes, with few rows: what is compiled then. The
imports are timed after that of scikit-learn; "again" and "1 = 2" tell whether another
run, and one with one thread in place of two, give the same bits.
fit: a whole fit beside one of KMeans, and the slope of log time on log rows.
small: 20,000 embeddings, beside k-means and EVoC.
stream: partial_fit with batches in random order, beside a fit in memory.
predict: rows per second, all at once and one by one.

Each measurement has a process of its own, with --threads threads, and is warm before
the clock starts: a call with few rows has compiled what it compiles. MiB is by how
much the memory of this process rises above what it has with the data loaded (its peak,
which is reset before, as only Linux can). "ratio" is time, against that of the method
that has 1.00. The extra `benchmark` installs the other libraries; what is not there is
left out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

import numpy as np
from benchmark import peak, read, reset_peak
from data_sets import load
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from skcce import CollisionClusterer
from skcce._nearest import approximate_neighbors, exact_neighbors, find_cells
from skcce._neighbors import principal_projection
from skcce._threads import single_blas_thread

N_FEATURES = 384
N_NEIGHBORS = 10
N_WARM = 2000  # rows of the call that compiles
BLOCK = 10_000
NOISE = 0.1  # of copies of images, beside pixels from 0 to 1
BATCH_SIZE = 256
OURS = "CollisionClusterer"

# --- Rows -------------------------------------------------------------------


def write_mixture(folder, n_rows, n_clusters, seed=0):
    """Write rows of length 1 around centers of the same covariance as the noise."""
    rng = np.random.default_rng(seed)
    # Nearly the variances of all-MiniLM-L6-v2's embeddings of titles.
    deviations = (np.arange(N_FEATURES) + 9.0) ** -0.5
    rotation = np.linalg.qr(rng.standard_normal((N_FEATURES, N_FEATURES)))[0]
    spread = (deviations[:, np.newaxis] * rotation).astype(np.float32)
    centers = rng.standard_normal((n_clusters, N_FEATURES), dtype=np.float32) @ spread
    y = rng.integers(n_clusters, size=n_rows)

    def rows(block):
        noise = rng.standard_normal((len(y[block]), N_FEATURES), dtype=np.float32)
        drawn = centers[y[block]] + np.float32(0.9) * (noise @ spread)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    write_rows(folder, rows, y)


def write_images(folder, n_rows, path, seed=0):
    """Write principal components of MNIST's images, copied with noise."""
    rng = np.random.default_rng(seed)
    images, classes = load(path, "all")
    components = np.linalg.eigh(np.cov(images, rowvar=False))[1][:, -N_FEATURES:]
    images = images @ components.astype(np.float32)
    copies = [rng.permutation(len(images)) for _ in range(0, n_rows, len(images))]
    chosen = np.concatenate(copies)[:n_rows]

    def rows(block):
        some = images[chosen[block]]
        noise = rng.standard_normal(some.shape, dtype=np.float32)
        return some + np.float32(NOISE) * noise

    write_rows(folder, rows, classes[chosen])


def write_rows(folder, rows, y):
    """Write X.npy, a block of `rows` at a time, and y.npy."""
    blocks = list(gen_batches(len(y), BLOCK))
    first = rows(blocks[0])
    shape = len(y), first.shape[1]
    X = np.lib.format.open_memmap(
        folder / "X.npy", mode="w+", dtype=np.float32, shape=shape
    )
    X[blocks[0]] = first
    for block in blocks[1:]:
        X[block] = rows(block)
    X.flush()
    np.save(folder / "y.npy", y)


def read_rows(folder, n_rows=None):
    """Return the first rows and their classes, in memory."""
    X = np.load(folder / "X.npy", mmap_mode="r")
    return np.array(X[:n_rows]), np.load(folder / "y.npy")[:n_rows]


# --- Measurements -----------------------------------------------------------


def apart(function, *arguments, threads):
    """Return what a function returns in a new process with so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    with (
        patch.dict(os.environ, dict.fromkeys(names, str(threads))),
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
    ):
        return pool.submit(quietly, function, *arguments).result()


def quietly(function, *arguments):
    warnings.simplefilter("ignore")  # of convergence, and the like
    return function(*arguments)


def attempt(name, function, *arguments, threads):
    """Return what `apart` does, or print under a name why there is nothing."""
    try:
        return apart(function, *arguments, threads=threads)
    except (ImportError, BrokenProcessPool) as error:
        print(f"{name:<30}{type(error).__name__}: {error}", flush=True)
        return None


def measure(action):
    """Return what an action returns, its seconds, CPU seconds and MiB."""
    before, cpu, start = reset_peak(), time.process_time(), time.perf_counter()
    result = action()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return result, {"s": seconds, "CPU s": cpu, "MiB": peak() - before}


def print_line(name, *cells):
    print(f"{name:<30}" + "".join(f"{cell:>10}" for cell in cells), flush=True)


def score(y, labels):
    """Return the adjusted Rand index in %."""
    return 100 * adjusted_rand_score(y, labels)


def mean_and_std(values):
    return f"{np.mean(values):.1f}" + (
        f" ± {np.std(values):.1f}" if len(values) > 1 else ""
    )


# --- Neighbors --------------------------------------------------------------


def search_brute(X, n_neighbors, n_threads):
    model = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute")
    return model.fit(X).kneighbors(X)


def search_exactly(X, n_neighbors, n_threads):
    with single_blas_thread():
        return exact_neighbors(X, X, n_neighbors)


def search_cells(X, n_neighbors, n_threads):
    with single_blas_thread():
        return approximate_neighbors(X, X, find_cells(X), n_neighbors)


def search_pynndescent(X, n_neighbors, n_threads):
    from pynndescent import NNDescent

    index = NNDescent(X, n_neighbors=n_neighbors, random_state=0, n_jobs=n_threads)
    numbers, distances = index.neighbor_graph
    return distances, numbers


def search_faiss(make, X, n_neighbors, n_threads):
    import faiss

    faiss.omp_set_num_threads(n_threads)
    index = make(faiss, X)
    index.add(X)
    return index.search(X, n_neighbors)


def flat(faiss, X):
    return faiss.IndexFlatL2(X.shape[1])


def hnsw(faiss, X):
    index = faiss.IndexHNSWFlat(X.shape[1], 32)
    index.hnsw.efSearch = 64
    return index


def inverted_file(faiss, X):
    index = faiss.index_factory(X.shape[1], f"IVF{max(1, len(X) // 400)},Flat")
    index.train(X)
    index.nprobe = 16
    return index


def search_usearch(X, n_neighbors, n_threads):
    from usearch.index import Index

    index = Index(ndim=X.shape[1], metric="l2sq", dtype="f32")
    index.add(np.arange(len(X)), X, threads=n_threads)
    found = index.search(X, n_neighbors, threads=n_threads)
    return found.distances, found.keys.astype(np.int64)


SEARCHES = {  # what is imported, and what returns distances and numbers
    "scikit-learn, brute": ("sklearn", search_brute),
    "skcce, exact": ("skcce", search_exactly),
    "skcce, approximate": ("skcce", search_cells),
    "pynndescent": ("pynndescent", search_pynndescent),
    "faiss, flat": ("faiss", lambda *rest: search_faiss(flat, *rest)),
    "faiss, IVF": ("faiss", lambda *rest: search_faiss(inverted_file, *rest)),
    "faiss, HNSW": ("faiss", lambda *rest: search_faiss(hnsw, *rest)),
    "usearch, HNSW": ("usearch.index", search_usearch),
}


def search(name, path, probes, n_threads):
    """Return the neighbors of some rows, when all have been searched, and figures."""
    X, find = np.load(path), SEARCHES[name][1]
    start = time.perf_counter()
    find(X[:N_WARM], N_NEIGHBORS + 1, n_threads)
    first = time.perf_counter() - start
    found, figures = measure(lambda: find(X, N_NEIGHBORS + 1, n_threads))
    return found[1][probes], figures | {"first": first}


def search_again(name, path, n_rows, n_threads):
    """Return the bits of what two searches among the first rows find."""
    X, find = np.load(path)[:n_rows], SEARCHES[name][1]
    runs = [find(X, N_NEIGHBORS + 1, n_threads) for _ in range(2)]
    return [b"".join(np.ascontiguousarray(a).tobytes() for a in run) for run in runs]


def find_truth(path, probes):
    """Return the numbers of the nearest rows to some of them, in float64."""
    X = np.load(path)
    model = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1, algorithm="brute").fit(X)
    return model.kneighbors(X[probes].astype(np.float64), return_distance=False)


def recall(found, truth, probes):
    """Return which part of the true neighbors was found; a row is none of its own."""
    rows = zip(found, truth, probes, strict=True)
    hits = [len((set(some) & set(true)) - {row}) for some, true, row in rows]
    return np.mean(hits) / N_NEIGHBORS


@cache
def import_seconds(module):
    """Return how long it takes to import a module after scikit-learn."""
    program = (
        "import time, sklearn.cluster, sklearn.decomposition, sklearn.neighbors\n"
        f"start = time.perf_counter(); import {module}\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare_searches(args, folder):
    write_data(args, folder, args.rows, 100)
    paths = {N_FEATURES: folder / "X.npy", 128: folder / "components.npy"}
    X = np.load(paths[N_FEATURES])
    np.save(paths[128], principal_projection(X, np.random.RandomState(0))(X))
    del X
    probes = np.random.default_rng(0).permutation(args.rows)[: args.probes]
    truths = {}
    for width, path in paths.items():
        truth = apart(find_truth, path, probes, threads=args.threads)
        truths[width] = truth
        print_line(
            f"{args.rows} x {width}",
            *("recall", "s", "CPU s", "ratio", "MiB", "first s", "import s"),
            *("again", "1 = 2"),
        )
        rival = None
        for name in args.methods:
            options = name, path, probes, args.threads
            outcome = attempt(name, search, *options, threads=args.threads)
            if outcome is None:
                continue
            found, figures = outcome
            rival = rival or figures["s"]
            one, two = (
                apart(search_again, name, path, args.check, n, threads=n)
                for n in (1, 2)
            )
            print_line(
                name,
                f"{recall(found, truth, probes):.3f}",
                f"{figures['s']:.2f}",
                f"{figures['CPU s']:.2f}",
                f"{figures['s'] / rival:.2f}",
                f"{figures['MiB']:.0f}",
                f"{figures['first']:.2f}",
                f"{import_seconds(SEARCHES[name][0]):.2f}",
                "yes" if one[0] == one[1] and two[0] == two[1] else "no",
                "yes" if one[0] == two[0] else "no",
            )
    part = recall(truths[128], truths[N_FEATURES], probes)
    print(f"The nearest among 128 components are {part:.3f} of those among all.")


# --- Fits -------------------------------------------------------------------


def evoc(n_clusters, seed):
    from evoc import EVoC

    return EVoC(random_state=seed)


CLUSTERERS = {
    "KMeans(n_init=1)": lambda k, seed: KMeans(k, n_init=1, random_state=seed),
    "KMeans(n_init=10)": lambda k, seed: KMeans(k, n_init=10, random_state=seed),
    "MiniBatchKMeans": lambda k, seed: MiniBatchKMeans(k, random_state=seed),
    "EVoC": evoc,
    OURS: lambda k, seed: CollisionClusterer(k, random_state=seed),
    f"{OURS}, exact": lambda k, seed: CollisionClusterer(
        k, neighbors="exact", random_state=seed
    ),
}


def fit(name, X, y, n_clusters, seed):
    """Return figures of one fit."""
    make = CLUSTERERS[name]
    few = make(2, 0)
    if isinstance(few, CollisionClusterer):
        few.set_params(max_samples=N_WARM // 2)  # look-ups have code of their own
    few.fit(X[:N_WARM])
    labels, figures = measure(lambda: make(n_clusters, seed).fit_predict(X))
    return figures | {"ARI": score(y, labels), "clusters": len(np.unique(labels))}


def fit_rows(name, folder, n_rows, n_clusters, seed):
    return fit(name, *read_rows(folder, n_rows), n_clusters, seed)


def compare_fits(args, folder):
    write_data(args, folder, max(args.sizes), args.clusters)
    seconds = {}
    for n_rows in args.sizes:
        heads = "ARI", "s", "CPU s", "ratio", "MiB"
        print_line(f"{n_rows} x {N_FEATURES}, K={args.clusters}", *heads)
        rival = None
        for name in args.methods:
            options = name, folder, n_rows, args.clusters, 0
            figures = attempt(name, fit_rows, *options, threads=args.threads)
            if figures is None:
                continue
            seconds.setdefault(name, {})[n_rows] = figures["s"]
            rival = rival or figures["s"]
            print_line(
                name,
                f"{figures['ARI']:.1f}",
                f"{figures['s']:.1f}",
                f"{figures['CPU s']:.1f}",
                f"{figures['s'] / rival:.2f}",
                f"{figures['MiB']:.0f}",
            )
    for name, times in seconds.items():
        if len(times) > 1:
            slope = np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0]
            print(f"{name}: seconds grow as rows to the power of {slope:.2f}")


def fit_titles(name, path, seed):
    X, y = read(path, "test", None)
    return fit(name, X, y, len(np.unique(y)), seed)


def compare_on_titles(args, folder):
    path = args.data / "stackoverflow_minilm.npz"
    print_line(path.stem, "ARI", "clusters", "s", "CPU s", "ratio", "MiB")
    rival = None
    for name in args.methods:
        runs = []
        for seed in tqdm(range(args.seeds), leave=False):
            run = attempt(name, fit_titles, name, path, seed, threads=args.threads)
            if run is None:
                break
            runs.append(run)
        if runs:
            means = {key: np.mean([run[key] for run in runs]) for key in runs[0]}
            rival = rival or means["s"]
            print_line(
                name,
                mean_and_std([run["ARI"] for run in runs]),
                f"{means['clusters']:.1f}",
                f"{means['s']:.2f}",
                f"{means['CPU s']:.2f}",
                f"{means['s'] / rival:.2f}",
                f"{means['MiB']:.0f}",
            )


# --- Streams ----------------------------------------------------------------


def fit_stream(name, path, passes, seed):
    """Return scores and seconds of a fit in memory and after some of the passes."""
    X, y = read(path, "test", None)
    order = np.random.default_rng(seed).permutation(len(X))
    X, y, n_clusters = X[order], y[order], len(np.unique(y))
    make = CLUSTERERS[name]
    make(n_clusters, 0).partial_fit(X[:BATCH_SIZE])
    whole, figures = measure(lambda: make(n_clusters, seed).fit(X))
    outcomes = {"fit": (score(y, whole.labels_), figures["s"])}
    model, seconds = make(n_clusters, seed), 0
    for number in range(1, max(passes) + 1):

        def one_pass():
            for batch in gen_batches(len(X), BATCH_SIZE):
                model.partial_fit(X[batch])

        seconds += measure(one_pass)[1]["s"]
        if number in passes:
            text = f"{number} pass" + "es" * (number > 1)
            outcomes[text] = score(y, model.predict(X)), seconds
    return outcomes


def compare_streams(args, folder):
    for file in ("stackoverflow_minilm.npz", "mnist.npz"):
        print_line(file.removesuffix(".npz"), "ARI", "to fit", "s", "ratio")
        for name in args.methods:
            options = name, args.data / file, args.passes
            runs = [
                apart(fit_stream, *options, seed, threads=args.threads)
                for seed in tqdm(range(args.seeds), leave=False)
            ]
            whole = np.mean([run["fit"] for run in runs], axis=0)
            for part in runs[0]:
                means = np.mean([run[part] for run in runs], axis=0)
                print_line(
                    f"{name}, {part}",
                    mean_and_std([run[part][0] for run in runs]),
                    f"{means[0] - whole[0]:+.1f}",
                    f"{means[1]:.2f}",
                    f"{means[1] / whole[1]:.2f}",
                )


# --- Predictions ------------------------------------------------------------


PREDICTORS = {
    "KMeans": CLUSTERERS["KMeans(n_init=1)"],
    "features=None": lambda k, seed: CollisionClusterer(
        k, features=None, random_state=seed
    ),
    "features='spectral'": CLUSTERERS[OURS],
}


def predict(name, folder, n_train, n_clusters, n_single):
    """Return the seconds for all rows, and the median of those for one row."""
    X, _ = read_rows(folder)
    model = PREDICTORS[name](n_clusters, 0).fit(X[:n_train])
    model.predict(X[:N_WARM])
    rows = X[n_train:]
    times = [
        measure(lambda row=row: model.predict(row))[1]["s"]
        for row in rows[:n_single, np.newaxis]
    ]
    return measure(lambda: model.predict(rows))[1] | {"one": np.median(times)}


def compare_predictions(args, folder):
    write_mixture(folder, args.train + args.rows, args.clusters)
    print_line(
        f"fit to {args.train} rows, K={args.clusters}",
        *("rows / s", "s", "CPU s", "ratio", "MiB", "1 row, ms", "ratio"),
    )
    rival = None
    for name in PREDICTORS:
        figures = apart(
            *(predict, name, folder, args.train, args.clusters, 100),
            threads=args.threads,
        )
        rival = rival or figures
        print_line(
            name,
            f"{args.rows / figures['s']:.0f}",
            f"{figures['s']:.2f}",
            f"{figures['CPU s']:.2f}",
            f"{figures['s'] / rival['s']:.2f}",
            f"{figures['MiB']:.0f}",
            f"{1000 * figures['one']:.2f}",
            f"{figures['one'] / rival['one']:.2f}",
        )


# --- The command line -------------------------------------------------------


def write_data(args, folder, n_rows, n_clusters):
    if args.data is None:
        write_mixture(folder, n_rows, n_clusters)
    else:
        write_images(folder, n_rows, args.data / "mnist.npz")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, methods=None, default=None):
        add = commands.add_parser(name).add_argument
        add("--threads", type=int, default=2, help="of each process")
        add("--scratch", type=Path, help="where rows are written, for a time")
        if methods is not None:
            chosen = default or list(methods)
            text = "the first one has ratio 1"
            add("--methods", nargs="+", choices=methods, default=chosen, help=text)
        add("--data", type=Path, required=name in ("small", "stream"), help="a folder")
        commands.choices[name].set_defaults(function=function)
        return add

    add = command("neighbors", compare_searches, SEARCHES)
    add("--rows", type=int, default=100_000)
    add("--probes", type=int, default=2000, help="rows whose true neighbors are found")
    add("--check", type=int, default=10_000, help="rows that are searched four times")
    add = command("fit", compare_fits, CLUSTERERS, ["KMeans(n_init=1)", OURS])
    add("--sizes", type=int, nargs="+", default=[100_000])
    add("--clusters", type=int, default=100)
    usual = ["KMeans(n_init=10)", "MiniBatchKMeans", "EVoC", OURS]
    add = command("small", compare_on_titles, CLUSTERERS, usual)
    add("--seeds", type=int, default=3)
    streams = ["MiniBatchKMeans", OURS]
    add = command("stream", compare_streams, streams)
    add("--seeds", type=int, default=3)
    add("--passes", type=int, nargs="+", default=[1, 3])
    add = command("predict", compare_predictions)
    add("--rows", type=int, default=100_000)
    add("--train", type=int, default=20_000)
    add("--clusters", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        args.function(args, Path(folder))


if __name__ == "__main__":
    main()
