import contextlib
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from persistence import (
    EPOCHS,
    SHORT_FITS,
    assert_same_fit,
    changed,
    linear,
    linear_steps,
)

from skcce import CollisionClusterer, LinearSoftmax

pytestmark = SHORT_FITS


@pytest.fixture(scope="module")
def X(drawings):  # noqa: N802
    return drawings.reshape(-1, 64) / 255


def interrupt(X):
    raise KeyboardInterrupt


@contextlib.contextmanager
def stopped(at_step):
    with linear_steps(at_step, interrupt), pytest.warns(UserWarning, match="interrupt"):
        yield


SETTINGS = [
    {},
    {"model__optimizer": "sgd"},
    {"init": "random", "n_init": 3},
    {"lam": (10.0, 1.0), "n_neighbors": 0},
    {"prior": [4, 3, 2, 1], "lam": 2.0},
    {"divergence": "forward", "batch_size": 60},
    {"random_state": np.random.RandomState(3)},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resumed_fit_is_the_uninterrupted_one(X, path, settings, dtype):
    def fit(**more):
        generator = settings.get("random_state", 0)
        if generator != 0:  # where it stood is in the file
            generator = np.random.RandomState(3)
        more = {**settings, "random_state": generator, **more}
        return linear(**more).fit(X.astype(dtype))

    expected = fit()
    n_trial_steps = 3 * 4 * 4 if "n_init" in settings else 0
    for n_epochs in (1, 2):
        with stopped(n_trial_steps * (n_epochs == 1) + 4 + 2):
            assert fit(checkpoint=path).n_iter_ == n_epochs
    resumed = fit(checkpoint=path)
    assert_same_fit(resumed, expected)
    assert_array_equal(resumed.coef_, expected.coef_)
    assert resumed.coef_.dtype == dtype
    assert_same_fit(fit(checkpoint=path), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loaded_fit_predicts_the_same(X, path, dtype):
    X = pd.DataFrame(X.astype(dtype), columns=[f"pixel {i}" for i in range(64)])
    fitted = linear().fit(X)
    fitted.save(path)
    loaded = CollisionClusterer(4).load(path)
    assert_same_fit(loaded, fitted)
    assert_same_fit(pickle.loads(pickle.dumps(loaded)), fitted)
    for name in ("predict_proba", "predict_log_proba", "decision_function"):
        found, expected = (getattr(fit, name)(X) for fit in (loaded, fitted))
        assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    for name in ("coef_", "intercept_", "feature_names_in_", "n_features_in_"):
        assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(X.iloc[:, 1:])


def test_a_checkpoint_is_loaded_as_a_fit(X, path):
    whole = linear().fit(X)
    with stopped(2 * 4 + 1):
        linear(checkpoint=path).fit(X)
    halfway = linear().load(path)
    assert halfway.loss_curve_ == whole.loss_curve_[:2]
    assert halfway.predict(X).shape == whole.labels_.shape
    assert not hasattr(halfway, "labels_")


def test_no_model_is_the_linear_one(X, path):
    def fit(model, **more):
        return CollisionClusterer(
            4, model=model, random_state=0, max_iter=EPOCHS, checkpoint=path, **more
        ).fit(X)

    first = fit(None)
    before = path.read_bytes()
    assert_same_fit(fit(LinearSoftmax()), first)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"model__alpha: 0\.0 there, 1\.0 here"):
        fit(LinearSoftmax(alpha=1.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model__learning_rate": 0.2}, r"model__learning_rate: 0\.1 there, 0\.2 here"),
        ({"model__optimizer": "sgd"}, "model__optimizer: 'adam' there, 'sgd' here"),
        ({"init": np.arange(200) % 4}, r"init: 'auto' there, \[0, 1, 2, 3"),
        ({"lam": np.float64(3)}, r"lam: 1\.0 there, 3\.0 here"),
        ({"n_neighbors": 4}, "n_neighbors: 5 there, 4 here"),
    ],
)
def test_other_runs_are_told_apart(X, path, settings, named):
    linear(checkpoint=path, max_iter=1).fit(X)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=named):
        linear(checkpoint=path, **settings).fit(X)
    assert path.read_bytes() == before


def test_the_same_settings_in_other_types_are_the_same(X, path):
    settings = {"prior": [1.0, 2.0, 3.0, 4.0], "random_state": 0}
    first = linear(checkpoint=path, **settings).fit(X)
    others = {"prior": pd.Series(settings["prior"]), "random_state": np.int64(0)}
    assert_same_fit(linear(checkpoint=path, lam=np.float32(1), **others).fit(X), first)


class Activated(LinearSoftmax):
    def __init__(self, activation=np.tanh):
        super().__init__()
        self.activation = activation


def test_a_model_that_cannot_be_told_from_others_has_no_checkpoint(X, path):
    with pytest.raises(TypeError, match=r"model__activation=.*needs|may have a finger"):
        linear(model=Activated(), checkpoint=path).fit(X)
    assert not path.exists()


def test_nan_goes_back_to_the_last_good_epoch(X, path):
    expected = linear(max_iter=EPOCHS).fit(X)
    with (
        linear_steps(2 * 4 + 2, lambda X: X * np.nan),
        pytest.raises(ValueError, match="weights of epoch 2"),
    ):
        linear(checkpoint=path).fit(X)
    assert_same_fit(linear(checkpoint=path).fit(X), expected)


def test_a_state_is_a_copy(X):
    model = linear().fit(X).model_
    state = model.get_state()
    before = pickle.dumps(state)
    logits = model.decision_function(X)

    def objective(logits):
        return 0.0, np.ones_like(logits)

    for _ in range(2):
        model.set_state(state)
        assert_array_equal(model.decision_function(X), logits)
        model.train_step(X, objective, progress=0)
        assert pickle.dumps(state) == before
        assert (model.decision_function(X) != logits).any()


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_state_of_a_machine_of_other_byte_order(X, order):
    model = linear().fit(X).model_
    state = model.get_state()
    for name in ("weights", "intercept", "mean"):
        state[name] = state[name].astype(state[name].dtype.newbyteorder(order))
    other = LinearSoftmax().set_state(state)
    assert_array_equal(other.decision_function(X), model.decision_function(X))
    assert other.coef_.dtype.isnative


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("weights",), np.ones((4, 63))),
        (("weights",), np.ones(64)),
        (("weights",), np.ones((4, 64), dtype=np.float32)),
        (("weights",), np.ones((4, 64), dtype=int)),
        (("weights",), [[1.0]]),
        (("intercept",), np.ones(5)),
        (("mean",), np.ones(63)),
        (("mean",), None),
        (("scale",), 0.0),
        (("scale",), np.inf),
        (("scale",), np.nan),
        (("scale",), "a"),
        (("scale",), np.ones(64)),
        (("optimizer",), []),
        (("optimizer", "n_steps"), -1),
        (("optimizer", "n_steps"), 1.5),
        (("optimizer", "moments"), []),
        (("optimizer", "moments"), [1, 2]),
        (("optimizer", "moments"), 2 * [2 * [np.ones((4, 64))]]),
    ],
)
@pytest.mark.parametrize("read", ["load", "checkpoint"])
def test_a_state_whose_parts_do_not_fit_is_an_error(X, path, keys, value, read):
    with stopped(4 + 2):
        linear(checkpoint=path).fit(X)

    def change(record):
        where = record["model"]
        for key in keys[:-1]:
            where = where[key]
        where[keys[-1]] = value

    path.write_bytes(changed(path.read_bytes(), change))
    with pytest.raises(ValueError, match=r"run\.npz' does not fit the model"):
        linear().load(path) if read == "load" else linear(checkpoint=path).fit(X)


SCRIPT = """
import os, signal, sys, numpy as np
from skcce import CollisionClusterer, LinearSoftmax
class Killer(Exception): pass
X = np.random.default_rng(0).normal(size=(200, 3))
X[:100] += 4
path = sys.argv[1]
def new(**kwargs):
    return CollisionClusterer(2, random_state=0, max_iter=4, tol=0, **kwargs)
step, n_steps = LinearSoftmax.train_step, []
if sys.argv[2] == "kill":
    def train_step(model, X, *args, **kwargs):
        n_steps.append(0)
        if len(n_steps) == int(sys.argv[3]):
            os._exit(9)
        return step(model, X, *args, **kwargs)
    LinearSoftmax.train_step = train_step
resumed = new(checkpoint=path, n_init=1).fit(X)
whole = new(n_init=1).fit(X)
whole.save(path + "2")
loaded = new().load(path + "2")
assert (loaded.predict_proba(X) == whole.predict_proba(X)).all()
assert (resumed.predict_proba(X) == whole.predict_proba(X)).all()
assert resumed.loss_curve_ == whole.loss_curve_
print(*sys.modules)
"""


def test_files_of_linear_fits_need_no_torch(path):
    """In processes of its own: one that dies, and one that goes on."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)]
    died = subprocess.run([*command, "kill", "14"], capture_output=True, text=True)
    assert died.returncode == 9, died.stderr
    assert path.exists()
    assert linear_epochs(path) == 1
    ended = subprocess.run(
        [*command, "go on"], capture_output=True, text=True, check=True
    )
    modules = set(ended.stdout.split())
    assert "skcce" in modules
    assert not modules & {"torch", "torchvision", "matplotlib"}
    assert sorted(os.listdir(path.parent)) == ["run.npz", "run.npz2"]


def linear_epochs(path):
    return CollisionClusterer(2).load(path).n_iter_


def test_skops(X, tmp_path):
    io = pytest.importorskip("skops.io")
    fitted = linear(model__optimizer="adam").fit(X)
    io.dump(fitted, tmp_path / "fit.skops")
    trusted = io.get_untrusted_types(file=tmp_path / "fit.skops")
    assert all(re.match(r"skcce\.|numpy\.", name) for name in trusted), trusted
    loaded = io.load(tmp_path / "fit.skops", trusted=trusted)
    assert_same_fit(loaded, fitted)
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))


class Other(LinearSoftmax):
    """Says nothing of its own."""


def test_a_file_of_another_class_is_refused(X, path):
    linear().fit(X).save(path)
    with pytest.raises(ValueError, match="it holds a LinearSoftmax, not a Other"):
        linear(model=Other()).load(path)


def test_equal_runs_have_files_of_equal_bytes(tmp_path):
    """Whatever order the process has for sets of strings."""
    code = (
        "import sys, warnings, numpy as np; warnings.simplefilter('ignore');"
        "from skcce import CollisionClusterer;"
        "X = np.random.RandomState(0).rand(60, 3);"
        "CollisionClusterer(2, max_iter=1, n_init=1, random_state=0,"
        " checkpoint=sys.argv[1]).fit(X)"
    )
    files = []
    for seed in ("1", "2"):
        files.append(tmp_path / f"{seed}.npz")
        subprocess.run(
            [sys.executable, "-c", code, str(files[-1])],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
    assert files[0].read_bytes() == files[1].read_bytes()
