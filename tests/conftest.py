import contextlib
import faulthandler
import os
import signal
import subprocess
import tempfile
import urllib.error
from pathlib import Path

# Small matrices: threads cost more than they give. Before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# device="auto" is the CPU in all tests, wherever they run. Those marked cuda are
# skipped unless this names a GPU; examples/paper/on_gpu.py runs them.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Or scikit-learn skips one of its checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
# No window, wherever the tests run.
os.environ["MPLBACKEND"] = "Agg"
# A child process that is aborted prints the stacks of its threads.
os.environ.setdefault("PYTHONFAULTHANDLER", "1")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from sklearn.datasets import load_digits, load_iris, make_blobs
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skcce import CollisionClusterer
from skcce._persistence import Checkpoint
from skcce._pseudo_labels.objective import collision_and_usage, fairness, pose

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


# --- Which tests are run ----------------------------------------------------


def pytest_addoption(parser):
    one = "run one case of each parametrized test, the first"
    parser.addoption("--one-case", action="store_true", help=one)


def pytest_collection_modifyitems(config, items):
    """Leave out of coverage, which doubles their time, the tests by many examples.

    These are scikit-learn's checks and those of hypothesis.
    """
    for item in items:
        function = getattr(item, "function", None)
        if "check" in item.fixturenames or hasattr(function, "hypothesis"):
            item.add_marker("no_cover")
    if config.getoption("--one-case"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        items[:] = reversed(first.values())


# Which solver of the pseudo-labels takes which divergence.
SOLVERS = [
    ("interior-point", "reverse"),
    ("interior-point", "forward"),
    ("em", "reverse"),
    ("em", "forward"),
    ("pgd", "reverse"),
    ("pgd", "forward"),
]

# Checks of scikit-learn that a clusterer must fail; test_sparse.py runs them.
SPARSE_CHECKS = {
    f"check_estimator_sparse_{kind}": "predict_proba is taken for a classifier's"
    for kind in ("array", "matrix")
}


def deterministic(max_examples):
    """Settings of hypothesis: the same examples in every run."""
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=max_examples,
        suppress_health_check=[HealthCheck.too_slow],
    )


def pseudo_label_loss(proba, labels, lam, prior, forward=False, weight=None):
    """Evaluate eq. (11), or eq. (10) if `forward`."""
    problem = pose(proba, lam, prior, forward, weight)
    collision, usage = collision_and_usage(problem, labels)
    return collision + lam * fairness(usage, prior, forward)


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


def save(images, folder, suffix="png", **options):
    """Write PIL images to files, and return their paths."""
    folder.mkdir(exist_ok=True, parents=True)
    paths = [folder / f"{i}.{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path, **options)
    return paths


def synthetic_predictions(n_clusters, n_samples=1500, seed=0):
    """Return predictions, and classes that depend on them."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(n_clusters, 0.1), size=n_samples)
    classes = [rng.choice(n_clusters, p=row) for row in proba]
    return proba, np.array(classes)


def tiny_images(n, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, 6, 6), dtype=np.uint8)


@contextlib.contextmanager
def stopped_after_epochs(n_epochs):
    """Interrupt a fit once its file was written this often, the fine fit aside."""
    write, n_written = Checkpoint.write, []

    def write_and_stop(*args):
        write(*args)
        n_written.append(0)
        if len(n_written) == n_epochs:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", write_and_stop)
        with pytest.warns(UserWarning, match="interrupted"):
            yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture(scope="session")
def drawings():
    """Images for the fits of persistence.py."""
    from persistence import load_images

    return load_images()


@pytest.fixture(scope="session")
def whole(drawings):
    """A fit of them that was never interrupted, and had no checkpoint."""
    from persistence import make

    return make().fit(drawings)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.fixture
def blobs():
    return make_blobs(300, n_features=5, centers=4, random_state=0)


# --- Features of images; what needs torch is imported where it is needed ----


@pytest.fixture(scope="session")
def torch_home(tmp_path_factory):
    """Make a folder in which torchvision finds weights that count as pretrained."""
    import torch
    from feature_helpers import PRETRAINED, network_of

    home = tmp_path_factory.mktemp("torch")
    (home / "hub" / "checkpoints").mkdir(parents=True)
    for name, weights in PRETRAINED.items():
        path = home / "hub" / "checkpoints" / Path(weights.url).name
        torch.save(network_of(name, seed=1).state_dict(), path)
    return home


@pytest.fixture
def offline(monkeypatch, torch_home):
    def refuse(url, *args, **kwargs):
        raise urllib.error.URLError("no network here")

    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def empty_torch_home(monkeypatch, tmp_path):
    from skcce.features._networks import load

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    load.cache_clear()
    yield tmp_path / "torch" / "hub" / "checkpoints"
    load.cache_clear()


@pytest.fixture
def no_network(monkeypatch):
    """Nothing may be built."""

    def refuse(*args):
        raise AssertionError("a network was built")

    monkeypatch.setattr("skcce.features._image_features.load", refuse)
    monkeypatch.setattr("skcce.features._image_features.cut_own", refuse)


@pytest.fixture
def forwards(monkeypatch):
    from feature_helpers import Calls

    return Calls(monkeypatch)


@pytest.fixture(scope="session")
def images():
    from feature_helpers import smooth_images

    return smooth_images(7, 20, 24)


@pytest.fixture(scope="session")
def two():
    from feature_helpers import smooth_images

    return smooth_images(2)


@pytest.fixture(scope="session")
def expected(two):
    """Return the features of `two` by the pretrained network that most tests take."""
    from feature_helpers import direct, network_of

    return direct("resnet18", pil_images(two), network_of("resnet18", seed=1))


@pytest.fixture(scope="session")
def iris_pipeline():
    """Return a pipeline of three clusters, and what it was fitted to."""
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(PCA(3), CollisionClusterer(3, tol=0.05, random_state=0))
    return pipe.fit(X), X, y


@pytest.fixture
def close_figures():
    """Leave no figure open, and find none."""
    import matplotlib.pyplot as plt

    plt.close("all")
    yield
    plt.close("all")
