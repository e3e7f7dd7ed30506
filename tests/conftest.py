import os
import tempfile

# Small matrices: threads cost more than they give. Before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Or scikit-learn skips one of its checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, make_blobs

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


@pytest.fixture(scope="session")
def images():
    """Images for the fits of persistence.py."""
    from persistence import load_images

    return load_images()


@pytest.fixture(scope="session")
def whole(images):
    """A fit of them that was never interrupted, and had no checkpoint."""
    from persistence import make

    return make().fit(images)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


@pytest.fixture
def blobs():
    return make_blobs(300, n_features=5, centers=4, random_state=0)
