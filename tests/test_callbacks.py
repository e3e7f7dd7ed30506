import copy
import io
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from torch import nn

from skcce import CollisionClusterer
from skcce._progress import balance_of
from skcce.deep import DeepSoftmax
from skcce.metrics import clustering_accuracy

try:
    from sklearn.callback import FitCallback, ProgressBar, ScoringMonitor
except ImportError:  # scikit-learn < 1.9
    FitCallback = None

needs_callbacks = pytest.mark.skipif(
    FitCallback is None, reason="scikit-learn < 1.9 has no callbacks"
)
# Most fits here are too short to converge, or to fill all clusters.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}:sklearn.exceptions.ConvergenceWarning")
    for text in ("More than tol", "Clusters in use. . of .. Try")
]


@pytest.fixture(scope="module")
def data(digits):
    """Rows (240, 64) of the digits 0 to 3, uint8 images of them, and the digits."""
    X, y = digits
    rows = np.flatnonzero(y < 4)[:240]
    X, y = X[rows], y[rows]
    return {"linear": X, "deep": (X * 15).astype(np.uint8).reshape(-1, 8, 8), "y": y}


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.2),
    )


def make(kind, **parameters):
    model = DeepSoftmax(network(), lr=1e-2) if kind == "deep" else None
    clusterer = CollisionClusterer(
        4, model=model, max_iter=5, tol=0, batch_size=60, random_state=0
    )
    if kind == "deep":
        clusterer.set_params(lam=100.0, n_init=1)
    else:  # rows as they are from random starts take all epochs
        clusterer.set_params(features=None, prior=None, init="random")
    return clusterer.set_params(**parameters)


class Recorder:
    """Notes all calls; asks to stop at the end of an epoch, or raises."""

    def __init__(self, stop_at=None, error=None):
        self.stop_at, self.error = stop_at, error
        self.calls, self.scores, self.data = [], [], []

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name))
        self.max_subtasks = context.max_subtasks

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
        self.calls.append(("end", context.task_name, context.task_id))
        self.data.append((X, y))
        if context.task_name != "epoch":
            return None
        self.scores.append(fitted_estimator.score(X))
        if context.task_id + 1 == self.stop_at:
            if self.error is not None:
                raise self.error
            return True
        return False


def epochs(n, first=0):
    """Return the calls of `n` epochs."""
    numbers = range(first, first + n)
    return [(what, "epoch", i) for i in numbers for what in ("begin", "end")]


def weights_of(clusterer):
    if hasattr(clusterer, "coef_"):
        return [clusterer.coef_, clusterer.intercept_]
    return [value.numpy() for value in clusterer.model_._module.state_dict().values()]


def assert_same_fit(one, other):
    for own, theirs in zip(weights_of(one), weights_of(other), strict=True):
        assert_array_equal(own, theirs)
    assert_array_equal(one.labels_, other.labels_)
    assert one.loss_curve_ == other.loss_curve_
    assert one.n_iter_ == other.n_iter_


def before_its_end(clusterer):
    """Return a fitted clusterer as callbacks see it: its temperature is found later."""
    last = copy.copy(clusterer)
    last.temperature_ = 1.0
    return last


KINDS = pytest.mark.parametrize("kind", ["linear", "deep"])


@needs_callbacks
@KINDS
@pytest.mark.parametrize("n_init", [1, 2])
def test_a_callback_sees_every_epoch(data, kind, n_init):
    X, y = data[kind], data["y"]
    plain = make(kind, n_init=n_init).fit(X)
    recorder = Recorder()
    clusterer = make(kind, n_init=n_init).set_callbacks(recorder).fit(X, y)
    assert recorder.calls == [
        ("setup", "fit"),
        ("begin", "fit", 0),
        *epochs(5),
        ("end", "fit", 0),
        ("teardown", "fit"),
    ]
    assert recorder.max_subtasks == clusterer.max_iter
    assert all(row[0] is X and row[1] is y for row in recorder.data)
    # What it looks at does not change the training: dropout, batch norm.
    assert_same_fit(clusterer, plain)


@needs_callbacks
@KINDS
def test_a_callback_sees_the_estimator_of_each_epoch(data, kind):
    """With a constant rate an estimator of 3 epochs is that of a shorter fit."""
    X = data[kind]
    rate = {"model__schedule": "constant"} if kind == "deep" else {}
    recorder = Recorder()
    clusterer = make(kind, n_init=1, **rate).set_callbacks(recorder).fit(X)
    assert recorder.scores[-1] == before_its_end(clusterer).score(X)
    assert len(set(recorder.scores)) == 5
    if kind == "deep":
        shorter = [make(kind, max_iter=n, **rate).fit(X).score(X) for n in range(1, 6)]
        assert recorder.scores == shorter


@needs_callbacks
def test_fitted_estimator_predicts(data):
    class Predicting(Recorder):
        def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
            proba = fitted_estimator.predict_proba(X)
            assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
            assert_array_equal(fitted_estimator.predict(X), proba.argmax(axis=1))
            assert fitted_estimator.get_feature_names_out().shape == (4,)
            assert isinstance(fitted_estimator, CollisionClusterer)
            self.calls.append(context.task_name)

    recorder = Predicting()
    make("deep").set_callbacks(recorder).fit(data["deep"])
    assert recorder.calls.count("epoch") == 5
    assert recorder.calls[-2:] == ["fit", ("teardown", "fit")]


@needs_callbacks
@KINDS
def test_true_stops_early(data, kind):
    X = data[kind]
    recorder = Recorder(stop_at=2)
    clusterer = make(kind).set_callbacks(recorder).fit(X)
    assert clusterer.n_iter_ == len(clusterer.loss_curve_) == 2
    assert clusterer.share_curve_.shape == (2, 4)
    assert recorder.calls[2:] == [*epochs(2), ("end", "fit", 0), ("teardown", "fit")]
    assert_array_equal(clusterer.predict(X), clusterer.labels_)
    assert clusterer.loss_curve_ == make(kind).fit(X).loss_curve_[:2]


@needs_callbacks
@pytest.mark.parametrize("kind", ["linear", "deep"])
def test_one_of_several_callbacks_stops(data, kind):
    first, second = Recorder(stop_at=1), Recorder()
    clusterer = make(kind).set_callbacks(first, second).fit(data[kind])
    assert clusterer.n_iter_ == 1
    assert first.calls == second.calls


@needs_callbacks
@KINDS
def test_error_in_a_callback(data, kind):
    recorder = Recorder(stop_at=2, error=ZeroDivisionError("of the callback"))
    clusterer = make(kind).set_callbacks(recorder)
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        clusterer.fit(data[kind])
    assert recorder.calls[-1] == ("teardown", "fit")
    assert not hasattr(clusterer, "model_")


@needs_callbacks
@KINDS
def test_interrupt_in_a_callback_leaves_a_fitted_estimator(data, kind):
    recorder = Recorder(stop_at=2, error=KeyboardInterrupt())
    clusterer = make(kind).set_callbacks(recorder)
    with pytest.warns(UserWarning, match="interrupted after 2 epochs"):
        clusterer.fit(data[kind])
    assert clusterer.n_iter_ == 2
    assert recorder.calls[-2:] == [("end", "fit", 0), ("teardown", "fit")]
    assert_array_equal(clusterer.predict(data[kind]), clusterer.labels_)


@needs_callbacks
def test_errors_before_the_training_call_nobody(data):
    recorder = Recorder()
    clusterer = make("linear", n_clusters=300).set_callbacks(recorder)
    with pytest.raises(ValueError, match="larger than n_samples"):
        clusterer.fit(data["linear"])
    assert recorder.calls == []
    assert_same_fit(
        clusterer.set_params(n_clusters=4).fit(data["linear"]),
        make("linear").fit(data["linear"]),
    )


@needs_callbacks
def test_resumed_training_shows_the_epochs_to_come(data, tmp_path):
    X, path = data["deep"], tmp_path / "run.npz"
    make("deep", checkpoint=path).set_callbacks(Recorder(stop_at=3)).fit(X)
    recorder = Recorder()
    resumed = make("deep", checkpoint=path).set_callbacks(recorder).fit(X)
    assert len(recorder.scores) == 2
    assert_same_fit(resumed, make("deep").fit(X))


@needs_callbacks
@KINDS
def test_scoring_monitor(data, kind):
    X, y = data[kind], data["y"]
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    clusterer = make(kind).set_callbacks(monitor).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    scores = [row["adjusted_rand_score"] for row in rows]
    assert len(scores) == clusterer.n_iter_ == 5
    assert scores[-1] == adjusted_rand_score(y, clusterer.labels_)
    assert_same_fit(clusterer, make(kind).fit(X))


def default(**parameters):
    return CollisionClusterer(
        4, max_iter=5, batch_size=60, random_state=0, verbose=0
    ).set_params(**parameters)


@needs_callbacks
@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto", "prior": None}])
def test_a_callback_sees_the_features(data, settings):
    X, y = data["linear"], data["y"]
    monitor = ScoringMonitor(scoring="adjusted_rand_score")
    recorder = Recorder()
    clusterer = default(**settings).set_callbacks(recorder, monitor).fit(X, y)
    assert_same_fit(clusterer, default(**settings).fit(X))
    assert len(recorder.scores) == clusterer.n_iter_
    assert recorder.scores[-1] == before_its_end(clusterer).score(X)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    last = rows[-1]["adjusted_rand_score"]
    assert last == adjusted_rand_score(y, clusterer.labels_)


@needs_callbacks
@pytest.mark.parametrize("settings", [{"n_clusters": "auto"}, {"prior": "learn"}])
def test_joined_clusters_have_no_epochs(data, settings):
    X, y = data["linear"], data["y"]
    monitor, recorder = ScoringMonitor(scoring="adjusted_rand_score"), Recorder()
    clusterer = default(**settings).set_callbacks(recorder, monitor).fit(X, y)
    assert recorder.calls == [
        ("setup", "fit"),
        ("begin", "fit", 0),
        ("end", "fit", 0),
        ("teardown", "fit"),
    ]
    (row,) = monitor.get_logs().data
    found = row["adjusted_rand_score"]
    assert found == adjusted_rand_score(y, clusterer.labels_)


@needs_callbacks
def test_a_callback_may_keep_and_cut_the_estimator(data):
    class Keeping(Recorder):
        def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
            self.calls.append(fitted_estimator)

    X, recorder = data["linear"], Keeping()
    clusterer = default().set_callbacks(recorder).fit(X)
    first, *_, last = (call for call in recorder.calls if not isinstance(call, tuple))
    assert (first.predict_proba(X) != clusterer.predict_proba(X)).any()
    assert_array_equal(last.predict_proba(X), clusterer.predict_proba(X))
    for estimator, end in ((first, before_its_end(clusterer)), (last, clusterer)):
        assert estimator.n_clusters_ == 4
        cut = estimator.cut(2)
        assert_array_equal(cut.predict_proba(X), end.cut(2).predict_proba(X))


@needs_callbacks
def test_scoring_monitor_of_own_scores(data):
    X, y = data["deep"], data["y"]
    monitor = ScoringMonitor(scoring={"accuracy": clustering_accuracy})
    clusterer = make("deep").set_callbacks(monitor).fit(X, y)
    scores = [row["accuracy"] for row in monitor.get_logs().data]
    assert scores[-1] == clustering_accuracy(clusterer, X, y)
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.slow
@needs_callbacks
@KINDS
def test_progress_bar_in_a_grid_search(data, kind):
    X, y = data[kind], data["y"]
    plain = GridSearchCV(
        make(kind), {"lam": [1.0, 50.0]}, scoring=clustering_accuracy, cv=2
    ).fit(X, y)
    shown = io.StringIO()
    with redirect_stdout(shown):
        search = clone(plain).set_callbacks(ProgressBar()).fit(X, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    assert "CollisionClusterer" in shown.getvalue()


@needs_callbacks
def test_clone_and_refit_keep_to_the_callbacks(data):
    recorder = Recorder()
    clusterer = make("linear").set_callbacks(recorder)
    clusterer.fit(data["linear"])
    clusterer.fit(data["linear"])
    assert recorder.calls.count(("setup", "fit")) == 2
    assert recorder.calls.count(("teardown", "fit")) == 2
    clusterer.set_callbacks().fit(data["linear"])
    assert recorder.calls.count(("setup", "fit")) == 2
    assert not [name for name in vars(clusterer) if "callback" in name]


WITHOUT = """
import sklearn.callback, sklearn.cluster, sklearn.metrics, sklearn.pipeline
del sklearn.callback.CallbackSupportMixin
import numpy as np
from skcce import CollisionClusterer, _callbacks
assert _callbacks.N_WRAPPERS == 0
X = np.random.RandomState(0).rand(200, 5)
clusterer = CollisionClusterer(4, random_state=0, max_iter=2, tol=1).fit(X)
assert not hasattr(clusterer, "set_callbacks")
print(clusterer.coef_.tobytes().hex())
"""


@pytest.mark.slow
@needs_callbacks
def test_older_scikit_learn():
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    X = np.random.RandomState(0).rand(200, 5)
    clusterer = CollisionClusterer(4, random_state=0, max_iter=2, tol=1).fit(X)
    assert process.stdout.strip() == clusterer.coef_.tobytes().hex()


@KINDS
def test_warnings_point_at_the_line_that_called_fit(data, kind):
    with pytest.warns(ConvergenceWarning, match="More than tol") as caught:
        make(kind, max_iter=1, init="random").fit(data[kind])
    assert {warning.filename for warning in caught} == {__file__}


# --- What is shown ----------------------------------------------------------


@KINDS
def test_nothing_is_shown_unasked(data, kind, capsys):
    make(kind).fit(data[kind])
    assert capsys.readouterr() == ("", "")


@KINDS
def test_progress_bar_of_one_fit(data, kind, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # some versions of tqdm cut the bar
    plain = make(kind).fit(data[kind])
    clusterer = make(kind, verbose=1).fit(data[kind])
    output = capsys.readouterr()
    assert output.out == ""
    last = output.err.split("\r")[-1]
    assert "epoch 5" in last
    assert "1.20k/1.20k" in last
    assert "samples/s" in last
    n_used = np.count_nonzero(clusterer.share_curve_[-1])
    balance = balance_of(clusterer.share_curve_[-1])
    assert f"loss {clusterer.loss_curve_[-1]:.4f}, {n_used} of 4 clusters" in last
    assert f"balance {balance:.2f}" in last
    assert_same_fit(clusterer, plain)


@KINDS
def test_lines_of_epochs(data, kind, capsys):
    clusterer = make(kind, verbose=2, n_init=2).fit(data[kind])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("start")] == lines[:2]
    assert len(lines) == 2 + 5
    for number, line in enumerate(lines[2:], start=1):
        shares = clusterer.share_curve_[number - 1]
        assert line.startswith(f"epoch {number:3d}: ")
        assert f"loss {clusterer.loss_curve_[number - 1]:.4f}" in line
        assert f"{np.count_nonzero(shares)} of 4 clusters used" in line
        assert f"balance {balance_of(shares):.3f}" in line


@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto"}])
def test_fine_clusters_are_shown(data, settings, capsys):
    plain = default(**settings).fit(data["linear"])
    assert capsys.readouterr() == ("", "")
    fit = default(verbose=1, **settings).fit(data["linear"])
    output = capsys.readouterr()
    assert "fine clusters, epoch 1" in output.err
    assert output.out == ""
    assert_same_fit(fit, plain)
    default(verbose=2, **settings).fit(data["linear"])
    lines = capsys.readouterr().out.splitlines()
    n_fine, n_natural = len(fit.tree_.sizes), fit.tree_.n_clusters
    assert lines[0] == f"tree: {n_fine} fine clusters, {n_natural} natural ones"
    epochs = [line for line in lines if line.startswith("epoch")]
    assert len(epochs) == (0 if settings else fit.n_iter_)


def test_bar_of_a_resumed_training_begins_where_it_stood(data, tmp_path, capsys):
    X, path = data["deep"], tmp_path / "run.npz"
    make("deep", max_iter=3, checkpoint=path).fit(X)
    make("deep", checkpoint=path, verbose=2).fit(X)
    output = capsys.readouterr()
    assert [line[:10] for line in output.out.splitlines()] == [
        "epoch   4:",
        "epoch   5:",
    ]
    assert "720/1.20k" in output.err.split("\r")[1]


@pytest.mark.parametrize("n_clusters", [1, 2, 5, 100])
def test_balance(n_clusters, rng):
    assert_allclose(balance_of(np.full(n_clusters, 1 / n_clusters)), 1.0)
    one = np.eye(n_clusters)[0]
    assert balance_of(one) == (1.0 if n_clusters == 1 else 0.0)
    shares = rng.dirichlet(np.ones(n_clusters))
    assert 0 <= balance_of(shares) <= 1 + 1e-12
    assert_allclose(balance_of(shares[::-1]), balance_of(shares))
    # Nearer to equal shares is more balanced.
    nearer = 0.5 * shares + 0.5 / n_clusters
    assert balance_of(nearer) >= balance_of(shares) - 1e-12


def test_balance_of_half_of_the_clusters():
    """Equal shares of K of K^2 clusters have half of the largest entropy."""
    assert_allclose(balance_of(np.repeat([1 / 3, 0.0], [3, 6])), 0.5)
