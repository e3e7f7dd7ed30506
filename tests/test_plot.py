"""All displays: where they draw, and what they refuse."""

import inspect
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import synthetic_predictions, tiny_images
from sklearn.cluster import KMeans

import skcce.plot
from skcce.plot import (
    ClusterConfusionDisplay,
    ConfidenceDisplay,
    MontageDisplay,
    SimplexDisplay,
    TrainingDisplay,
    TreeDisplay,
)
from skcce.plot._display import colors_of

pytestmark = pytest.mark.usefixtures("close_figures")


def chain(n_clusters):
    """Return joins of each cluster to all before it."""
    joins = np.arange(n_clusters - 1)
    before = np.where(joins == 0, 0, n_clusters + joins - 1)
    return np.c_[before, joins + 1, joins, joins + 2]


DRAWINGS = {
    "montage": lambda p, y, ax: MontageDisplay.from_predictions(
        tiny_images(len(p)), p.argmax(1), confidence=p.max(1), y=y, n_images=2, ax=ax
    ),
    "confusion": lambda p, y, ax: ClusterConfusionDisplay.from_predictions(
        y, p.argmax(1), ax=ax
    ),
    "training": lambda p, y, ax: TrainingDisplay.from_curves(np.ones(len(p)), p, ax=ax),
    "confidence": lambda p, y, ax: ConfidenceDisplay.from_predictions(p, ax=ax),
    "reliability": lambda p, y, ax: ConfidenceDisplay.from_predictions(p, y, ax=ax),
    "simplex": lambda p, y, ax: SimplexDisplay.from_predictions(
        p[:, :3] / p[:, :3].sum(axis=1, keepdims=True), y=y, pseudo_labels=None, ax=ax
    ),
    "tree": lambda p, y, ax: TreeDisplay.from_predictions(
        chain(p.shape[1]), p.argmax(1), y=y, images=tiny_images(len(p)), n_cut=1, ax=ax
    ),
}
every_display = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


@every_display
def test_a_figure_is_made_only_without_ax(draw):
    proba, y = synthetic_predictions(3, 60)
    display = draw(proba, y, None)
    assert plt.get_fignums() == [display.figure_.number]
    assert display.figure_.get_layout_engine() is not None
    figure, axes = plt.subplots(2, 2)
    display = draw(proba, y, axes[0, 1])
    assert display.figure_ is figure
    assert display.ax_ is axes[0, 1]
    assert len(plt.get_fignums()) == 2
    figure.canvas.draw()


@pytest.mark.slow
@every_display
@pytest.mark.parametrize("n_clusters", [3, 150])
def test_drawn_into_a_subfigure(draw, n_clusters):
    figure = plt.figure(layout="constrained")
    part, _ = figure.subfigures(1, 2)
    proba, y = synthetic_predictions(n_clusters, 400)
    display = draw(proba, y, part.subplots())
    assert display.figure_ is part
    figure.canvas.draw()


@pytest.mark.parametrize(
    "name", ["montage", "confusion", "training", "confidence", "tree"]
)
@pytest.mark.parametrize("with_y", [False, True])
def test_one_cluster(name, with_y):
    n = 20
    name = "reliability" if name == "confidence" and with_y else name
    display = DRAWINGS[name](np.ones((n, 1)), np.arange(n) % 2, None)
    display.figure_.canvas.draw()


@pytest.mark.parametrize("name", ["training", "confidence"])
def test_panels_are_drawn_into_again(name):
    proba, y = synthetic_predictions(3, 60)
    figure, ax = plt.subplots()
    display = DRAWINGS[name](proba, y, ax)
    assert not ax.axison
    n_axes = len(figure.axes)
    again = DRAWINGS[name](proba, y, display.axes_)
    assert again.ax_ is None
    assert again.figure_ is figure
    assert list(again.axes_) == list(display.axes_)
    assert len(figure.axes) == n_axes
    with pytest.raises(ValueError, match=r"ax=display\.axes_"):
        DRAWINGS[name](proba, y, ax)
    with pytest.raises(ValueError, match="ax holds 1 axes"):
        DRAWINGS[name](proba, y, [ax])
    free = figure.add_axes((0, 0, 1, 1))
    with pytest.raises(ValueError, match="add_subplot"):
        DRAWINGS[name](proba, y, free)


@pytest.mark.slow
def test_global_settings_stay():
    before = dict(matplotlib.rcParams)
    proba, y = synthetic_predictions(3, 60)
    for draw in DRAWINGS.values():
        draw(proba, y, None)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_matplotlib_is_imported_late():
    code = "import sys, skcce.plot; print('matplotlib' in sys.modules, end=' ')"
    code += "; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "False"]


@every_display
def test_says_what_to_install(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw(*synthetic_predictions(3, 60), None)


def public_functions():
    for name in skcce.plot.__all__:
        thing = getattr(skcce.plot, name)
        yield pytest.param(thing, id=name)
        for method in ["plot", "from_estimator", "from_predictions", "from_curves"]:
            if hasattr(thing, method):
                yield pytest.param(getattr(thing, method), id=f"{name}.{method}")


@pytest.mark.parametrize("thing", list(public_functions()))
def test_documented_defaults_are_the_defaults(thing):
    for name, parameter in inspect.signature(thing).parameters.items():
        if name == "self":
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            name = r"\*\*" + name
        line = re.search(rf"^ *{name} : (.+)$", inspect.getdoc(thing), re.MULTILINE)
        assert line, f"{name} is not documented"
        default = re.search(r"default=(.+)$", line[1])
        if parameter.default is parameter.empty:
            assert default is None
        else:
            assert eval(default[1]) == parameter.default


@pytest.mark.parametrize("name", ["MontageDisplay", "ConfidenceDisplay"])
def test_from_estimator_is_from_predictions(iris_pipeline, name):
    pipe, X, y = iris_pipeline
    p = pipe.predict_proba(X)
    if name == "MontageDisplay":
        images = tiny_images(len(X))
        one = MontageDisplay.from_estimator(pipe, X, y, images=images)
        other = MontageDisplay.from_predictions(
            images, pipe.predict(X), confidence=p.max(1), y=y
        )
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.confidence, other.confidence)
        assert one.names == other.names
    else:
        one = ConfidenceDisplay.from_estimator(pipe, X, y)
        assert one.ece_ == ConfidenceDisplay.from_predictions(p, y).ece_


@pytest.mark.parametrize("display", [ConfidenceDisplay, SimplexDisplay])
def test_predict_proba_is_needed(display):
    X = np.arange(8.0)[:, None]
    kmeans = KMeans(3, random_state=0).fit(X)
    with pytest.raises(TypeError, match="KMeans must have predict_proba"):
        display.from_estimator(kmeans, X)


def test_unknown_options_are_refused(iris_pipeline):
    pipe, X, y = iris_pipeline
    for display in (ClusterConfusionDisplay, ConfidenceDisplay, SimplexDisplay):
        with pytest.raises(TypeError, match="colour"):
            display.from_estimator(pipe, X, y, colour="red")
    with pytest.raises(TypeError, match="confidence"):
        MontageDisplay.from_estimator(pipe, X, images=tiny_images(len(X)), confidence=y)


@pytest.mark.parametrize("bad", [[[0.6, 0.6]], [[1.5, -0.5]], [[np.nan, 1]]])
def test_proba_is_checked(bad):
    with pytest.raises(ValueError, match="proba"):
        ConfidenceDisplay.from_predictions(bad)


@pytest.mark.parametrize("y", [[np.nan, np.nan, 1.0], ["a", np.nan, "b"]])
def test_missing_classes_are_refused(y):
    y, labels = np.array(y, dtype=object), [0, 0, 1]
    for draw in (
        lambda: ConfidenceDisplay.from_predictions(np.eye(2)[labels], y),
        lambda: ClusterConfusionDisplay.from_predictions(y, labels),
        lambda: MontageDisplay.from_predictions(tiny_images(3), labels, y=y),
        lambda: SimplexDisplay.from_predictions(np.eye(3), y=y),
        lambda: TreeDisplay.from_predictions(chain(2), labels, y=y),
    ):
        with pytest.raises(ValueError, match=r"y(_true)? contains NaN"):
            draw()


def test_dollars_are_not_mathematics():
    names, labels = ["$a", "b$_$"], [0, 1]
    y = np.array(names)
    for display in (
        MontageDisplay.from_predictions(tiny_images(2), labels, y=y),
        ClusterConfusionDisplay.from_predictions(y, labels),
        SimplexDisplay.from_predictions(np.eye(3), names=["$\\x$", "", "$"]),
        TreeDisplay.from_predictions(chain(2), labels, y=y, texts=["$\\x$", "a$"]),
    ):
        display.figure_.canvas.draw()


@pytest.mark.parametrize("n", [1, 10, 11, 40])
def test_colors_differ(n):
    assert len({matplotlib.colors.to_hex(color) for color in colors_of(n)}) == n
