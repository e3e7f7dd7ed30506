"""mlflow's autologging, or what stands for it here, sees no fit inside of another."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from skcce import CollisionClusterer
from skcce.model_selection import label_stability, probe_accuracy

PATCHED = [KMeans, LogisticRegression, PCA]


class Session:
    """As mlflow's: one for every fit under way, the innermost last."""

    stack = ()

    def __init__(self, estimator, allow_children):
        self.allow_children = allow_children

    def __enter__(self):
        Session.stack += (self,)

    def __exit__(self, *exception):
        Session.stack = Session.stack[:-1]


@pytest.fixture
def fits(monkeypatch):
    """Return the lists of all fits of scikit-learn's classes, and of those recorded."""
    seen, recorded = [], []

    def patch(cls, original):
        def fit(self, *args, **kwargs):
            seen.append(cls)
            if all(session.allow_children for session in Session.stack):
                recorded.append(cls)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "fit", fit)

    for cls in PATCHED:
        patch(cls, cls.fit)
    mlflow_sklearn = SimpleNamespace(_SklearnTrainingSession=Session)
    monkeypatch.setitem(sys.modules, "mlflow.sklearn", mlflow_sklearn)
    return seen, recorded


@pytest.fixture
def rows():
    # More features than neighbors are searched in, so that there is a PCA.
    rows = np.random.default_rng(0).normal(size=(300, 130))
    rows[:150] += 3
    return rows


@pytest.mark.slow
def test_no_inner_fit_is_recorded(fits, rows):
    seen, recorded = fits
    clusterer = CollisionClusterer(2, random_state=0).fit(rows)
    probe_accuracy(clusterer, rows)
    assert set(seen) == set(PATCHED)
    label_stability(KMeans(2, n_init=1, random_state=0).fit(rows), rows)
    assert recorded == [KMeans]  # the one of the test itself
    assert Session.stack == ()


def test_recording_goes_on_after_an_error(fits, rows, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(PCA, "fit", fail)
    with pytest.raises(MemoryError):
        CollisionClusterer(2, random_state=0).fit(rows)
    assert Session.stack == ()


@pytest.mark.parametrize("names", [{}, {"_SklearnTrainingSession": lambda: None}])
def test_another_mlflow_is_no_error(monkeypatch, rows, names):
    monkeypatch.setitem(sys.modules, "mlflow.sklearn", SimpleNamespace(**names))
    CollisionClusterer(2, random_state=0).fit(rows)
