import contextlib
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import stopped_after_epochs
from numpy.testing import assert_array_equal
from persistence import (
    EPOCHS,
    SHORT_FITS,
    assert_same_fit,
    changed,
    linear,
    linear_steps,
)

from skcce import CollisionClusterer, LinearSoftmax, SpectralFeatures

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


def test_a_fit_by_lbfgs_goes_on(X, path):
    settings = {"model__optimizer": "lbfgs", "batch_size": "auto"}
    expected = linear(**settings).fit(X)
    with stopped(2):
        linear(**settings, checkpoint=path).fit(X)
    resumed = linear(**settings, checkpoint=path).fit(X)
    assert_same_fit(resumed, expected)
    assert_array_equal(resumed.coef_, expected.coef_)


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
        if len(model.coef_) == 2:  # no fine clusters
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


@pytest.mark.slow
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


# --- The defaults: features, and a tree of clusters --------------------------


def default(**parameters):
    """Return a clusterer of the defaults, for short fits."""
    return CollisionClusterer(4, max_iter=EPOCHS, tol=0, random_state=0).set_params(
        **parameters
    )


TRAINED = [
    {},
    {"prior": None},
    {"n_clusters": "auto", "prior": None},
    {"features": None},
    {"features": SpectralFeatures(5), "contamination": 0.1},
]
JOINED = [
    {"n_clusters": "auto"},
    {"n_clusters": (2, 3)},
    {"prior": "learn"},
    {"prior": "learn", "features": None},
]


def assert_same_parts(one, other):
    assert_same_fit(one, other)
    assert one.n_clusters_ == other.n_clusters_
    assert one.temperature_ == other.temperature_
    assert_array_equal(one.prior_, other.prior_)
    assert (one._tree is None) == (other._tree is None)
    if one._tree is not None:
        for name in ("linkage", "labels", "sizes"):
            found, expected = (getattr(fit.tree_, name) for fit in (one, other))
            assert_array_equal(found, expected)
            assert found.dtype == expected.dtype


@pytest.mark.parametrize("settings", TRAINED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_resumed_fit_with_features_is_the_uninterrupted_one(X, path, settings, dtype):
    X = X.astype(dtype)
    expected = default(**settings).fit(X)
    for n_epochs in (1, 2):
        with stopped_after_epochs(1):
            stopped_fit = default(checkpoint=path, **settings).fit(X)
        assert stopped_fit.n_iter_ == n_epochs
    resumed = default(checkpoint=path, **settings).fit(X)
    assert_same_parts(resumed, expected)
    assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))
    assert_same_parts(default(checkpoint=path, **settings).fit(X), expected)


@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto"}])
def test_features_and_tree_of_a_resumed_fit_are_those_of_the_file(path, settings):
    """They were drawn by a generator whose beginning nobody knows any more."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 150)) + 6 * np.eye(4, 150)[np.arange(240) % 4]

    def fit(seed, **more):
        generator = np.random.RandomState(seed)
        return default(**{**settings, "random_state": generator, **more}).fit(X)

    expected = fit(1)
    if settings:
        fit(1, checkpoint=path)
    else:
        with stopped_after_epochs(2):
            fit(1, checkpoint=path)
    resumed = fit(2, checkpoint=path)
    assert_same_parts(resumed, expected)
    assert_array_equal(resumed.predict_proba(X), expected.predict_proba(X))


@pytest.mark.slow
@pytest.mark.parametrize("features", ["auto", None])
def test_a_fit_that_leaves_its_neighbors_out_goes_on_without_them(path, features):
    X = np.random.default_rng(0).normal(size=(600, 30))
    expected = default(features=features).fit(X)
    assert expected.features_ is None
    with stopped_after_epochs(2):
        default(features=features, checkpoint=path).fit(X)
    resumed = default(features=features, checkpoint=path).fit(X)
    assert_same_parts(resumed, expected)
    assert_array_equal(default().load(path).predict_proba(X), resumed.predict_proba(X))


def test_files_of_fewer_fine_clusters_than_asked_for(path):
    X = np.random.default_rng(0).normal(size=(3, 4)).repeat(100, axis=0)
    fit = default(checkpoint=path).fit(X)
    assert len(fit.tree_.sizes) == 3
    assert_same_parts(default().load(path), fit)
    assert_same_parts(default(checkpoint=path).fit(X), fit)
    with pytest.raises(ValueError, match=r"n_clusters=4 .* the 3 fine clusters"):
        default(prior="learn").fit(X)


@pytest.mark.parametrize("settings", JOINED)
def test_joined_clusters_are_not_trained_again(X, path, settings):
    expected = default(**settings).fit(X)
    assert_same_parts(default(checkpoint=path, **settings).fit(X), expected)
    with linear_steps(1, interrupt):  # there is none
        for max_iter in (EPOCHS, EPOCHS + 1):
            again = default(checkpoint=path, max_iter=max_iter, **settings).fit(X)
            assert_same_parts(again, expected)
            assert again.converged_


@pytest.mark.parametrize("settings", TRAINED + JOINED)
def test_loaded_fit_with_features_predicts_the_same(X, path, settings):
    X = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    fitted = default(**settings).fit(X)
    fitted.save(path)
    model = {key: value for key, value in settings.items() if key == "n_clusters"}
    loaded = CollisionClusterer(4).set_params(**model).load(path)
    assert_same_parts(loaded, fitted)
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert_array_equal(loaded.predict(X), fitted.predict(X))
    assert_array_equal(loaded.get_feature_names_out(), fitted.get_feature_names_out())
    if fitted.features_ is not None:
        names = ("eigenvalues_", "n_features_in_")
        for name in names:
            found, expected = (getattr(f.features_, name) for f in (loaded, fitted))
            assert_array_equal(found, expected)
        assert_array_equal(loaded.score_samples(X), fitted.score_samples(X))
    if fitted._tree is None:
        assert not hasattr(loaded, "tree_")
        return
    cut = loaded.cut(3)
    assert_array_equal(cut.predict_proba(X), fitted.cut(3).predict_proba(X))
    other = path.with_name("cut.npz")
    cut.save(other)
    again = CollisionClusterer(3).load(other)
    assert_array_equal(again.predict_proba(X), cut.predict_proba(X))
    assert_array_equal(again.labels_, cut.labels_)
    assert_array_equal(again.cut(2).labels_, fitted.cut(2).labels_)
    assert not hasattr(again, "probabilities_")
    with pytest.raises(ValueError, match="3 clusters, not n_clusters=4"):
        CollisionClusterer(4).load(other)


def test_a_cut_of_a_loaded_tree_keeps_the_model(X, path):
    fitted = default(model=Other(alpha=1e-3), prior="learn").fit(X)
    fitted.save(path)
    cut = default(model=Other(alpha=1e-3)).load(path).cut(3)
    assert isinstance(cut.model_, Other)
    assert cut.model_.alpha == 1e-3


@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto"}])
def test_rows_of_weight_zero_are_in_tree_and_file(X, path, settings):
    weight = np.ones(len(X))
    weight[::7] = 0
    fit = default(checkpoint=path, contamination=0.1, **settings).fit(
        X, sample_weight=weight
    )
    assert fit.tree_.labels.shape == fit.labels_.shape == (len(X),)
    labels = fit.cut(3).labels_
    assert_array_equal(labels < 0, fit.labels_ < 0)
    assert set(labels) == {-1, 0, 1, 2}
    again = default(checkpoint=path, contamination=0.1, **settings).fit(
        X, sample_weight=weight
    )
    assert_same_parts(again, fit)
    assert_array_equal(again.outlier_scores_, fit.outlier_scores_)


@pytest.mark.parametrize("settings", TRAINED)
def test_an_unfinished_fit_with_features_predicts(X, path, settings):
    with stopped_after_epochs(2):
        stopped_fit = default(checkpoint=path, **settings).fit(X)
    loaded = default(**settings).load(path)
    assert not hasattr(loaded, "labels_")
    assert loaded.n_clusters_ == stopped_fit.n_clusters_
    assert_array_equal(loaded.prior_, stopped_fit.prior_)
    assert loaded.temperature_ == 1  # it is found at the end
    loaded.temperature_ = stopped_fit.temperature_
    assert_array_equal(loaded.predict_proba(X), stopped_fit.predict_proba(X))
    if loaded._tree is not None:
        cut = loaded.cut(3)
        assert_array_equal(cut.labels_ < 0, np.zeros(len(X), dtype=bool))
        cut.save(path)
        again = CollisionClusterer(3).load(path)
        assert_array_equal(again.predict_proba(X), cut.predict_proba(X))


@pytest.fixture(scope="module")
def files(X, tmp_path_factory):
    """The bytes of an unfinished checkpoint and of a saved fit."""
    path = tmp_path_factory.mktemp("files") / "run.npz"
    with stopped_after_epochs(2):
        default(checkpoint=path).fit(X)
    unfinished = path.read_bytes()
    default().fit(X).save(path)
    return {"checkpoint": unfinished, "load": path.read_bytes()}


def read_file(X, path, read):
    return default().load(path) if read == "load" else default(checkpoint=path).fit(X)


@pytest.mark.parametrize("read", ["load", "checkpoint"])
def test_files_of_a_machine_of_other_byte_order(X, path, files, read):
    def swapped(part):
        if isinstance(part, dict):
            return {name: swapped(value) for name, value in part.items()}
        if isinstance(part, list):
            return [swapped(value) for value in part]
        if isinstance(part, np.ndarray):
            return part.astype(part.dtype.newbyteorder("S"))
        return part

    path.write_bytes(changed(files[read], lambda r: r.update(swapped(dict(r)))))
    loaded, expected = read_file(X, path, read), default().fit(X)
    assert_same_parts(loaded, expected)
    assert_array_equal(loaded.predict_proba(X), expected.predict_proba(X))
    assert_array_equal(loaded.cut(3).labels_, expected.cut(3).labels_)


def at(place, change):
    """Return a change of one array of a record, or of what else is there."""
    *keys, last = place.split("/")

    def apply(record):
        for key in keys:
            record = record[key]
        value = record[last]
        record[last] = change(value.copy() if hasattr(value, "copy") else value)

    return apply


def put(index, value):
    def change(array):
        array[index] = value
        return array

    return change


def always(value):
    return lambda _: value


FEATURES = ["rows", "vectors", "mean", "attraction", "center", "eigenvalues"]
BAD_PARTS = [
    *[(f"features/{name}", put(0, np.nan)) for name in FEATURES],
    *[(f"features/{name}", lambda array: array[:-1]) for name in FEATURES],
    *[(f"features/{name}", lambda a: a.astype(np.float16)) for name in FEATURES],
    *[(f"features/{name}", always([1.0])) for name in FEATURES],
    ("features/rows", lambda rows: rows[:, 1:]),
    ("features/attraction", put(0, 0.0)),
    ("features/attraction", put(0, -1.0)),
    *[(f"features/{name}", always(0.0)) for name in ("scale", "unit")],
    *[(f"features/{name}", always(np.inf)) for name in ("scale", "unit")],
    *[(f"features/{name}", always("1")) for name in ("scale", "unit")],
    *[("features/n_neighbors", always(value)) for value in (0, 200, 2.5, True, "5")],
    ("features", lambda features: {**features, "components": np.ones((3, 64))}),
    ("features", always({})),
    ("features", always(None)),
    ("features", always(7)),
    ("surroundings", always(None)),
    ("surroundings", always({})),
    ("surroundings/around", lambda around: around[1:]),
    ("surroundings/around", put(0, np.nan)),
    ("surroundings/median", lambda median: median[1:]),
    ("surroundings/spread", put(0, -1.0)),
    ("surroundings/threshold", always(np.nan)),
    ("tree", always({})),
    ("tree", always(7)),
    ("tree/linkage", lambda linkage: linkage[:-1]),
    ("tree/linkage", lambda linkage: linkage[:, :3]),
    ("tree/linkage", lambda linkage: linkage[::-1].copy()),
    ("tree/linkage", lambda linkage: linkage.astype(int)),
    ("tree/linkage", put((0, 0), 0.5)),
    ("tree/linkage", put((0, 0), -1.0)),
    ("tree/linkage", put((0, 0), np.nan)),
    ("tree/linkage", lambda linkage: put((1, 0), linkage[0, 0])(linkage)),
    ("tree/linkage", put((0, 2), np.nan)),
    ("tree/linkage", put((-1, 2), 0.0)),
    ("tree/linkage", put((0, 3), 3.0)),
    ("tree/labels", put(0, 1000)),
    ("tree/labels", put(0, -1)),
    ("tree/labels", lambda labels: labels[1:]),
    ("tree/labels", lambda labels: labels.astype(float)),
    ("tree/sizes", lambda sizes: sizes[1:]),
    ("tree/sizes", put(0, np.nan)),
    ("tree/sizes", put(0, 0.0)),
    ("tree/linkage", always([])),
    *[("tree/n_clusters", always(value)) for value in (0, 1000, 2.5, True, None)],
    ("tree/model/weights", lambda weights: weights[:, 1:]),
    ("tree/model/weights", put((0, 0), np.nan)),
    ("tree/model", always(None)),
    ("model/groups", always(np.array([0, 1, 1, 0]))),
    ("model/groups", always(np.array([0, 1, 1, 3]))),
    ("model/groups", always(np.arange(4.0))),
    ("model/groups", always(np.arange(3))),
    ("model/groups", always([0, 1, 2, 3])),
    ("model/weights", put((0, 0), np.inf)),
    ("fitted/n_clusters_", always(3)),
    ("fitted/n_clusters_", always(4.0)),
    ("fitted/prior_", lambda prior: prior[1:]),
]


@pytest.mark.parametrize(("place", "change"), BAD_PARTS)
@pytest.mark.parametrize("read", ["load", "checkpoint"])
def test_damaged_features_and_trees_are_errors(X, path, files, read, place, change):
    path.write_bytes(changed(files[read], at(place, change)))
    with pytest.raises(ValueError, match=r"run\.npz"):
        read_file(X, path, read)


@pytest.mark.parametrize("place", ["features", "tree"])
def test_a_checkpoint_without_its_parts_is_an_error(X, path, files, place):
    def change(record):
        record[place] = None
        if place == "features":
            record["surroundings"] = None

    path.write_bytes(changed(files["checkpoint"], change))
    with pytest.raises(ValueError, match=r"run\.npz"):
        read_file(X, path, "checkpoint")


@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto"}, {"prior": "learn"}])
@pytest.mark.parametrize(("at_step", "n_epochs"), [(1, 0), (10, 1)])
def test_interrupt_in_the_fine_fit(X, path, settings, at_step, n_epochs):
    """The estimator is fitted with what there was, its fine clusters joined."""
    with (
        linear_steps(at_step, interrupt),
        pytest.warns(UserWarning, match=f"interrupted after {n_epochs} epochs"),
    ):
        fit = default(checkpoint=path, **settings).fit(X)
    assert fit.n_iter_ == n_epochs
    assert fit.share_curve_.shape == (n_epochs, fit.n_clusters_)
    assert fit.predict_proba(X).shape == (len(X), fit.n_clusters_)
    assert not path.exists()


def test_a_fine_fit_that_diverges(X, path):
    clusterer = default(checkpoint=path)
    with (
        linear_steps(10, lambda X: X * np.nan),
        pytest.raises(ValueError, match=r"in epoch 2.*smaller learning rate"),
    ):
        clusterer.fit(X)
    assert not path.exists()
    assert not hasattr(clusterer, "model_")


class Other(LinearSoftmax):
    """Says nothing of its own."""


def test_a_file_of_another_class_is_refused(X, path):
    linear().fit(X).save(path)
    with pytest.raises(ValueError, match="it holds a LinearSoftmax, not a Other"):
        linear(model=Other()).load(path)


@pytest.mark.slow
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
