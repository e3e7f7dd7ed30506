import os

# Small matrices: threads cost more than they give. Before numpy is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
# Or scikit-learn skips one of its checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs

# Which solver of the pseudo-labels takes which divergence.
SOLVERS = [
    ("interior-point", "reverse"),
    ("interior-point", "forward"),
    ("em", "reverse"),
    ("pgd", "reverse"),
    ("pgd", "forward"),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def digits():
    return load_digits(return_X_y=True)


@pytest.fixture
def blobs():
    return make_blobs(300, n_features=5, centers=4, random_state=0)
