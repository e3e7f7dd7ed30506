"""Training in passes, on any workers, and dask's arrays and data frames."""

import subprocess
import sys

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax
from skcce import _blocks as blocks
from skcce import _ranks as ranks
from skcce._passes import train_in_passes
from skcce._pseudo_labels import labels_at, solve_batch, updated, usage_of
from skcce.methods import Collision, MIGDClusterer

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")
pd = pytest.importorskip("pandas")

RUN = 20  # rows


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Few blocks for few rows."""
    monkeypatch.setattr(blocks, "N_GROUPS", 4)
    monkeypatch.setattr(blocks, "_RUNS_PER_GROUP", 8)
    monkeypatch.setattr(blocks, "BLOCK", 70)


@pytest.fixture(scope="module")
def rows():
    """640 rows, hence runs of 20, in 4 clusters that touch."""
    return make_blobs(640, 3, centers=4, cluster_std=2.5, random_state=0)


def clusterer(**others):
    parameters = {"n_neighbors": 0, "max_samples": 200, "max_iter": 4, "tol": 1.0}
    return CollisionClusterer(4, random_state=0, **parameters | others)


@pytest.fixture(scope="module")
def serial(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "N_GROUPS", 4)
        patch.setattr(blocks, "_RUNS_PER_GROUP", 8)
        patch.setattr(blocks, "BLOCK", 70)
        return clusterer().fit(rows[0])


def assert_same(one, other):
    assert_array_equal(one.labels_, other.labels_)
    assert_array_equal(one.coef_, other.coef_)
    assert one.loss_ == other.loss_
    assert one.loss_curve_ == other.loss_curve_
    assert_array_equal(one.share_curve_, other.share_curve_)


# --- Running usages ---------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_labels_at_their_own_usages_are_those_of_em(dtype):
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(5), 90).astype(dtype)
    weight, prior = rng.random(90), np.array([0.4, 0.3, 0.2, 0.1, 0.0])
    usage = usage_of(proba, 2.0, prior, 10, 50.0, weight)
    expected = solve_batch(proba, 2.0, prior, forward=False, n_iter=10, weight=weight)
    labels, sums = labels_at(usage, proba, 2.0, prior, weight)
    assert_allclose(labels, expected, rtol=1e-5)
    assert_allclose(sums / weight.sum(), usage.mean, rtol=1e-5)
    # What a row gets does not depend on the others.
    part, _ = labels_at(usage, proba[40:], 2.0, prior, weight[40:])
    assert_allclose(part, labels[40:], rtol=1e-5)


def test_running_usages_do_not_depend_on_the_batch_size():
    sums = np.random.default_rng(0).random((6, 3, 2))
    usage = usage_of(np.full((4, 2), 0.5), 1.0, np.full(2, 0.5), 2, 10.0)
    equal = np.broadcast_to(sums[0], sums.shape)  # all batches alike
    small = usage
    for one in equal:
        small = updated(small, one, 1.0)
    large = updated(usage, equal.sum(axis=0), 6.0)
    assert_allclose(small.mean, large.mean)
    assert updated(usage, np.zeros((3, 2)), 0.0) is usage


# --- How rows are cut -------------------------------------------------------


def test_each_group_has_runs_from_many_places():
    ends = blocks.cut(np.empty((1000, 2)))
    assert ends[0] == 0
    assert ends[-1] == 1000
    groups = blocks.in_groups(ends, np.random.RandomState(0))
    assert len(groups) == blocks.N_GROUPS
    runs = np.concatenate([block for group in groups for block in group])
    assert_array_equal(np.sort(runs), np.arange(len(ends) - 1))
    for group in groups:
        assert np.ptp(np.concatenate(group)) > (len(ends) - 1) / 2


@pytest.mark.parametrize("n_rows", [1, 2, 7, 640, 100_000])
def test_blocks_in_order_are_all_rows(n_rows):
    ends = blocks.cut(np.empty((n_rows, 1)))
    some = blocks.in_order(ends)
    rows = np.concatenate([np.arange(n_rows)[blocks.rows_of(ends, b)] for b in some])
    assert_array_equal(rows, np.arange(n_rows))


def test_totals_are_added_in_order():
    parts = [(np.array([10.0**power]), 1) for power in (20, -3, 2)]
    (array, number) = blocks.total(iter(parts))
    assert_array_equal(array, parts[0][0] + parts[1][0] + parts[2][0])
    assert number == 3


# --- All workers come to the same bits --------------------------------------


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_threads(rows, serial, n_jobs):
    with parallel_config(n_jobs=n_jobs):
        assert_same(clusterer().fit(rows[0]), serial)


def test_processes_on_a_memory_map(rows, serial, tmp_path):
    np.save(tmp_path / "rows.npy", rows[0])
    X = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert_same(clusterer().fit(X), serial)
    with parallel_config("loky", n_jobs=2):
        assert_same(clusterer(max_iter=1).fit(X), clusterer(max_iter=1).fit(rows[0]))


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_dask_threads(rows, serial, n_workers):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    with dask.config.set(scheduler="threads", num_workers=n_workers):
        assert_same(clusterer().fit(X), serial)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_dask_cluster(rows, serial, n_workers):
    distributed = pytest.importorskip("distributed")
    X = da.from_array(rows[0], chunks=(RUN, 2))  # the columns are joined
    with (
        distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=False,
            dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster),
    ):  # fmt: skip
        assert_same(clusterer().fit(X), serial)


def test_data_frame(rows, serial):
    frame = dd.from_pandas(pd.DataFrame(rows[0], columns=list("abc")), chunksize=RUN)
    fitted = clusterer().fit(frame)
    assert_same(fitted, serial)
    assert_array_equal(fitted.feature_names_in_, ["a", "b", "c"])
    labels = fitted.predict(frame)
    assert isinstance(labels, da.Array)
    assert_array_equal(labels.compute(), fitted.labels_)
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame[["b", "a", "c"]])


def test_one_large_chunk_is_cut(rows, serial):
    X = da.from_array(rows[0], chunks=-1)
    ends = blocks.cut(clusterer()._open(X, None)[1].X)
    assert len(ends) - 1 >= blocks.N_GROUPS
    assert adjusted_rand_score(clusterer().fit(X).labels_, serial.labels_) > 0.9
