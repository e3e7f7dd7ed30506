"""Code that takes KMeans takes CollisionClusterer: scikit-learn's own tests, and others."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from skcce import CollisionClusterer

suite = pytest.importorskip("sklearn.cluster.tests.test_k_means")

FIXTURES = {"global_random_seed": 42, "global_dtype": np.float64}


def cases(function):
    """Return the arguments of each case of a test for KMeans."""
    marks = getattr(function, "pytestmark", [])
    axes = []
    for names, values, *_ in (m.args for m in marks if m.name == "parametrize"):
        names = names.replace(" ", "").split(",")
        values = values if len(names) > 1 else [(value,) for value in values]
        axes.append([dict(zip(names, value, strict=True)) for value in values])
    for parts in itertools.product(*axes):
        case = {name: value for part in parts for name, value in part.items()}
        yield case
