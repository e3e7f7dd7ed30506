"""Training in passes, on any workers, and dask's arrays and data frames."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax, _passes
from skcce import _blocks as blocks
from skcce._data import TrainingData
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
    return make_blobs(640, 3, centers=4, cluster_std=1.5, random_state=0)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_worker_costs_its_part(rows, serial, tmp_path):
    distributed = pytest.importorskip("distributed")
    log, n_chunks_before = tmp_path / "log", 150

    def read(chunk):
        import os

        with open(log, "ab") as file:
            file.write(b".")
        if os.path.getsize(log) == n_chunks_before:
            os._exit(1)
        return chunk

    X = da.from_array(rows[0], chunks=(RUN, 3)).map_blocks(read, meta=np.empty((0, 0)))
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None,
            silence_logs="CRITICAL",
        ) as cluster,
        distributed.Client(cluster),
    ):  # fmt: skip
        assert_same(clusterer().fit(X), serial)
    assert log.stat().st_size > n_chunks_before


RANK = """
import sys
import numpy as np
from torch import distributed
from skcce import CollisionClusterer, LinearSoftmax, _blocks, _passes
_blocks.N_GROUPS, _blocks._RUNS_PER_GROUP, _blocks.BLOCK = 4, 8, 70
folder, rank = sys.argv[1], int(sys.argv[2])
distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
)
X = np.load(f"{folder}/rows.npy", mmap_mode="r")
def fit(random_state):
    return CollisionClusterer(
        4, model=LinearSoftmax(distributed=True),
        n_neighbors=0, max_samples=200, max_iter=4, tol=1.0,
        random_state=random_state,
    ).fit(X)
n_summed = []
summed = _passes.summed
def counted(*arguments):
    n_summed.append(len(arguments[3]))
    return summed(*arguments)
_passes.summed = counted
fitted = fit(0)
if rank == 0:  # the others do not take part
    CollisionClusterer(
        2, n_neighbors=5, max_samples=200, tol=1.0, random_state=0
    ).fit(X)
np.savez(f"{folder}/{rank}.npz", coef=fitted.coef_, labels=fitted.labels_,
         loss=fitted.loss_, n_summed=sum(n_summed))
try:
    fit(rank)
except ValueError as error:
    print(error)
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_torch(rows, serial, tmp_path):
    np.save(tmp_path / "rows.npy", rows[0])
    command = [sys.executable, "-W", "error", "-c", RANK, str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        said, _ = process.communicate()
        assert process.returncode == 0
        assert "start from different models" in said
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert_array_equal(found["labels"], serial.labels_)
            assert_array_equal(found["coef"], serial.coef_)
            assert found["loss"] == serial.loss_
            assert found["n_summed"] < 0.7 * serial.n_iter_ * len(rows[0])


def test_ranks_need_a_group(rows):
    pytest.importorskip("torch")
    alone = clusterer(model=LinearSoftmax(distributed=True))
    with pytest.raises(ValueError, match="distributed=True needs a process group"):
        alone.fit(rows[0])
    assert not hasattr(alone, "model_")


# --- What a fit in passes is worth, and how it ends -------------------------


def test_about_as_good_as_a_fit_to_all(rows, serial):
    whole = clusterer(max_samples=None, max_iter=20, tol=1e-3).fit(rows[0])
    passes = clusterer(max_iter=20, tol=1e-2).fit(rows[0])
    assert passes.converged_
    assert adjusted_rand_score(whole.labels_, passes.labels_) > 0.9
    # Sorted rows make no difference.
    order = np.argsort(rows[1], kind="stable")
    in_order = clusterer(max_iter=20, tol=1e-2).fit(rows[0][order])
    assert adjusted_rand_score(whole.labels_[order], in_order.labels_) > 0.9


def test_all_rows_count(rows, serial):
    X = rows[0].copy()
    drawn = TrainingData(X).sample(200, np.random.RandomState(0)).kept
    X[np.setdiff1d(np.arange(len(X)), drawn)] += 0.1
    assert not np.array_equal(clusterer().fit(X).coef_, serial.coef_)


@pytest.mark.slow
def test_each_step_goes_on_from_the_usages_of_the_last(rows, monkeypatch):
    found, totals = [], []

    def follow(usage, sums, total):
        assert not found or usage is found[-1]
        found.append(updated(usage, sums, total))
        totals.append(total)
        return found[-1]

    monkeypatch.setattr(_passes, "updated", follow)
    fitted = clusterer(tol=0.0).fit(rows[0])
    assert len(fitted.loss_curve_) == fitted.max_iter
    assert sum(totals) == fitted.max_iter * len(rows[0])


def test_weights(rows):
    weight = np.random.default_rng(0).integers(0, 3, len(rows[0]))
    X = da.from_array(rows[0], chunks=(RUN, 3))
    one = clusterer().fit(X, sample_weight=weight)
    other = clusterer().fit(X, sample_weight=7.0 * weight)
    assert_array_equal(one.labels_, other.labels_)
    assert_allclose(one.share_curve_.sum(axis=1), 1)
    assert not np.array_equal(one.coef_, clusterer().fit(X).coef_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lazy_predictions(rows, serial, dtype):
    X = rows[0].astype(dtype)
    lazy = da.from_array(X, chunks=(100, 2))
    fitted = clusterer().fit(X)
    for method in ("predict", "predict_proba", "predict_log_proba", "transform",
                   "decision_function"):  # fmt: skip
        expected, found = getattr(fitted, method)(X), getattr(fitted, method)(lazy)
        assert isinstance(found, da.Array)
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert_array_equal(found.compute(), expected)
    unknown = lazy[lazy[:, 0] > 0]
    assert len(fitted.predict(unknown).compute()) == (X[:, 0] > 0).sum()


@pytest.mark.slow
def test_with_neighbors_a_sample_is_drawn(rows):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    parameters = {"n_neighbors": 10, "max_iter": 20, "tol": 1e-3}
    lazy = clusterer(**parameters).fit(X)
    assert_array_equal(lazy.labels_, clusterer(**parameters).fit(rows[0]).labels_)
    assert_array_equal(lazy.predict(X).compute(), lazy.labels_)
    scores = lazy.score_samples(X)
    assert isinstance(scores, da.Array)
    assert_array_equal(scores.compute(), -lazy.outlier_scores_)
    assert lazy.score(X) == lazy.score(rows[0])
    assert len(lazy.extend(X).labels_) == 640


def test_a_batch_of_dask_is_computed(rows):
    lazy, stream = clusterer(), clusterer()
    for first in (0, 320):
        batch = rows[0][first : first + 320]
        lazy.partial_fit(da.from_array(batch, chunks=(RUN, 3)))
        stream.partial_fit(batch)
    assert_array_equal(lazy.labels_, stream.labels_)


def test_other_objectives_take_a_sample_of_dask(rows):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    fitted = MIGDClusterer(4, n_neighbors=0, max_samples=200, random_state=0).fit(X)
    assert len(fitted.labels_) == 640


def test_a_small_dask_array_is_an_array(rows):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    small = clusterer(max_samples=None).fit(X)
    assert_same(small, clusterer(max_samples=None).fit(rows[0]))


def test_classifier_predicts_lazily(rows):
    X, y = rows
    fitted = CollisionClassifier(random_state=0).fit(X, np.where(y < 2, "a", "b"))
    lazy = da.from_array(X, chunks=(100, 3))
    assert_array_equal(fitted.predict(lazy).compute(), fitted.predict(X))
    assert fitted.decision_function(lazy).compute().shape == (640,)


def test_interrupted(rows, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Collision, "mean_value", interrupt)  # of the first step
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        fitted = clusterer().fit(rows[0])
    assert_array_equal(fitted.labels_, fitted.predict(rows[0]))


def test_diverged(rows, monkeypatch):
    monkeypatch.setattr(Collision, "mean_value", lambda *args: np.nan)
    fitted = clusterer()
    with pytest.raises(ValueError, match="fitted with the weights of epoch 0"):
        fitted.fit(rows[0])
    assert_array_equal(fitted.labels_, fitted.predict(rows[0]))


def test_steps_without_a_label_of_some_cluster(rows):
    X = rows[0][np.argsort(rows[1], kind="stable")].astype(np.float32)
    many = clusterer(max_samples=600).set_params(n_clusters=60)
    with pytest.warns(ConvergenceWarning, match="Clusters in use"):
        many.fit(da.from_array(X, chunks=(160, 3)))  # a step sees one of four blobs
    assert np.isfinite(many.loss_curve_).all()


def test_checkpoint_of_the_sample(rows, serial, tmp_path):
    path = tmp_path / "run.npz"
    first = clusterer(checkpoint=path).fit(rows[0])
    assert_same(first, serial)
    assert_same(clusterer(checkpoint=path).fit(rows[0]), serial)


def test_verbose(rows, capsys):
    clusterer(verbose=2).fit(rows[0])
    assert capsys.readouterr().out.count("epoch   3: loss") == 2  # sample, all rows


# --- Bad input --------------------------------------------------------------


def refuse(X, message):
    fitted = clusterer().fit(np.eye(4).repeat(5, axis=0))
    before = {name: id(value) for name, value in vars(fitted).items()}
    with pytest.raises(ValueError, match=message):
        fitted.fit(X)
    assert {name: id(value) for name, value in vars(fitted).items()} == before


def test_unknown_chunks(rows):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    refuse(X[X[:, 0] > 0], r"Call X.compute_chunk_sizes\(\)")
    clusterer().fit(X[X[:, 0] > 0].compute_chunk_sizes())


def test_nan_in_a_chunk(rows):
    X = rows[0].copy()
    X[45, 1] = np.nan
    refuse(da.from_array(X, chunks=(RUN, 3)), "row 45 .of the chunk that begins with")


def test_wrong_shapes(rows, serial):
    X = da.from_array(rows[0], chunks=(RUN, 3))
    refuse(X[:, 0], "Expected 2D array")
    refuse(X[:0], "0 sample")
    refuse(X.astype("S3"), "must hold numbers")
    with pytest.raises(ValueError, match=r"X has 2 features, but .* expecting 3"):
        serial.predict(X[:, :2])
    with pytest.raises(NotFittedError):
        clusterer().predict(X)
    with pytest.raises(ValueError, match="sample_weight must have shape"):
        clusterer().fit(X, sample_weight=np.ones(3))


def test_integers(rows):
    X = (100 * rows[0]).astype(int)
    lazy = clusterer().fit(da.from_array(X, chunks=(RUN, 3)))
    assert_same(lazy, clusterer().fit(X))
    assert lazy.coef_.dtype == np.float64


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples")
    import scale_passes

    monkeypatch.setattr(scale_passes, "SAMPLE", 400)
    monkeypatch.setattr(scale_passes, "WORKERS", {"one": {}, "two": {"n_jobs": 2}})
    options = ["--n-samples", "1200", "--n-passes", "1", "--folder", str(tmp_path)]
    for what in ("workers", "disk"):
        monkeypatch.setattr(sys, "argv", ["scale_passes.py", what, *options])
        scale_passes.main()
    printed = capsys.readouterr().out
    assert printed.count("same bits: True") == 2
    assert "1200 rows" in printed
