"""The displays: what is drawn, where, and what is refused."""

import inspect
import re
import subprocess
import sys
from itertools import pairwise

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline

import skcce.plot
from skcce import CollisionClusterer, solve_pseudo_labels
from skcce.metrics import clustering_accuracy_score, match_labels
from skcce.plot import (
    ClusterConfusionDisplay,
    ConfidenceDisplay,
    MontageDisplay,
    SimplexDisplay,
    TrainingDisplay,
)
from skcce.plot._confusion import _matched_first
from skcce.plot._display import colors_of
from skcce.plot._montage import choose, letterbox
from skcce.plot._simplex import barycentric


@pytest.fixture(autouse=True)
def no_figure_is_left():
    plt.close("all")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    """Return a pipeline of three clusters, and what it was fitted to."""
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(PCA(3), CollisionClusterer(3, tol=0.05, random_state=0))
    return pipe.fit(X), X, y


@pytest.fixture
def proba(rng):
    return rng.dirichlet([1.0, 0.5, 0.3, 0.3], size=80)


def synthetic(n_clusters, n_samples=1500, seed=0):
    """Return predictions, and classes that depend on them."""
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.full(n_clusters, 0.1), size=n_samples)
    classes = [rng.choice(n_clusters, p=row) for row in proba]
    return proba, np.array(classes)


def tiny_images(n, seed=0):
    return np.random.default_rng(seed).integers(256, size=(n, 6, 6), dtype=np.uint8)


def texts(display):
    return [text.get_text() for text in display.text_]


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
}
every_display = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS)


# All displays


@every_display
def test_a_figure_is_made_only_without_ax(draw):
    proba, y = synthetic(3, 60)
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
    proba, y = synthetic(n_clusters, 400)
    display = draw(proba, y, part.subplots())
    assert display.figure_ is part
    figure.canvas.draw()


@pytest.mark.parametrize("name", ["montage", "confusion", "training", "confidence"])
@pytest.mark.parametrize("with_y", [False, True])
def test_one_cluster(name, with_y):
    n = 20
    name = "reliability" if name == "confidence" and with_y else name
    display = DRAWINGS[name](np.ones((n, 1)), np.arange(n) % 2, None)
    display.figure_.canvas.draw()


@pytest.mark.parametrize("name", ["training", "confidence"])
def test_panels_are_drawn_into_again(name):
    proba, y = synthetic(3, 60)
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


def test_global_settings_stay(fitted):
    before = dict(matplotlib.rcParams)
    proba, y = synthetic(3, 60)
    for draw in DRAWINGS.values():
        draw(proba, y, None)
    assert dict(matplotlib.rcParams) == before


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
        draw(*synthetic(3, 60), None)


def public_functions():
    for name in skcce.plot.__all__:
        thing = getattr(skcce.plot, name)
        yield pytest.param(thing, id=name)
        for method in vars(thing):
            if not method.startswith("_"):
                yield pytest.param(getattr(thing, method), id=f"{name}.{method}")


@pytest.mark.parametrize("thing", list(public_functions()))
def test_documented_defaults_are_the_defaults(thing):
    for name, parameter in inspect.signature(thing).parameters.items():
        if name == "self":
            continue
        line = re.search(rf"^ *{name} : (.+)$", inspect.getdoc(thing), re.MULTILINE)
        assert line, f"{name} is not documented"
        default = re.search(r"default=(.+)$", line[1])
        if parameter.default is parameter.empty:
            assert default is None
        else:
            assert eval(default[1]) == parameter.default


@pytest.mark.parametrize("name", ["MontageDisplay", "ConfidenceDisplay"])
def test_from_estimator_is_from_predictions(fitted, name):
    pipe, X, y = fitted
    p = pipe.predict_proba(X)
    if name == "MontageDisplay":
        images = tiny_images(len(X))
        one = MontageDisplay.from_estimator(pipe, X, y, images=images)
        other = MontageDisplay.from_predictions(
            images, pipe.predict(X), confidence=p.max(1), y=y
        )
        np.testing.assert_array_equal(one.indices, other.indices)
        assert texts(one) == texts(other)
    else:
        one = ConfidenceDisplay.from_estimator(pipe, X, y)
        assert one.ece_ == ConfidenceDisplay.from_predictions(p, y).ece_


@pytest.mark.parametrize("display", [ConfidenceDisplay, SimplexDisplay])
def test_predict_proba_is_needed(display):
    X = np.arange(8.0)[:, None]
    kmeans = KMeans(3, random_state=0).fit(X)
    with pytest.raises(TypeError, match="KMeans must have predict_proba"):
        display.from_estimator(kmeans, X)


@pytest.mark.parametrize("bad", [[[0.6, 0.6]], [[1.5, -0.5]], [[np.nan, 1]]])
def test_proba_is_checked(bad):
    with pytest.raises(ValueError, match="proba"):
        ConfidenceDisplay.from_predictions(bad)


# Montage


def test_most_and_least_confident_images():
    confidence = np.array([0.5, 0.9, 0.8, 0.7, 0.6, 0.95])
    labels = np.array([0, 0, 0, 0, 0, 1])
    display = MontageDisplay.from_predictions(
        tiny_images(6), labels, confidence=confidence, n_images=4
    )
    assert display.clusters == [0, 1]
    np.testing.assert_array_equal(display.indices, [[1, 2, 4, 0], [5, -1, -1, -1]])
    np.testing.assert_allclose(display.shares, [5 / 6, 1 / 6])
    np.testing.assert_array_equal(display.confidence[1], [0.95] + 3 * [np.nan])
    assert {"#0", "83.3 %", "0.90 – 0.80", "0.60 – 0.50", "0.95"} <= set(texts(display))
    assert "most confident" in texts(display)


@pytest.mark.parametrize("n_images", range(1, 9))
@pytest.mark.parametrize("size", range(8))
def test_choose_shows_none_twice(n_images, size):
    rng = np.random.default_rng(size)
    confidence = rng.random(20)
    members = rng.permutation(20)[:size]
    chosen = choose(members, confidence, n_images)
    shown = chosen[chosen >= 0]
    assert len(chosen) == n_images
    assert len(shown) == len(set(shown)) == min(n_images, size)
    assert set(shown) <= set(members)
    assert (np.diff(confidence[shown]) < 0).all()
    if size:
        assert shown[0] == members[confidence[members].argmax()]
    if size and n_images > 1:
        assert shown[-1] == members[confidence[members].argmin()]


def test_without_confidence_the_first_images(fitted):
    _, X, _ = fitted
    kmeans = KMeans(3, random_state=0).fit(X)
    display = MontageDisplay.from_estimator(
        kmeans, X, images=tiny_images(len(X)), n_images=5
    )
    for cluster, row in zip(display.clusters, display.indices, strict=True):
        np.testing.assert_array_equal(
            row, np.flatnonzero(kmeans.labels_ == cluster)[:5]
        )
    assert "the first ones, without order" in texts(display)
    assert display.confidence is None


def test_largest_cluster_first_and_empty_ones_last():
    labels = np.repeat([3, 1, 4], [2, 5, 2])
    display = MontageDisplay.from_predictions(tiny_images(9), labels, n_clusters=5)
    assert display.clusters == [1, 3, 4, 0, 2]
    assert texts(display).count("empty") == 2
    assert (display.indices[3:] == -1).all()
    display = MontageDisplay.from_predictions(tiny_images(9), labels, clusters=[4, 3])
    assert display.clusters == [4, 3]


def test_classes_give_names_order_and_frames():
    y = np.array(["b", "b", "a", "a", "a", "c"])
    labels = np.array([0, 0, 1, 1, 0, 1])
    display = MontageDisplay.from_predictions(
        tiny_images(6), labels, confidence=np.linspace(0.9, 0.4, 6), y=y
    )
    assert display.clusters == [1, 0]
    assert display.names == ["a", "b"]
    framed = display.indices[display.wrong]
    assert sorted(framed) == [4, 5]
    assert len(display.frames_.get_paths()) == 2
    assert "red: other class" in texts(display)
    assert "#1  50.0 %" in texts(display)


def test_clusters_without_a_class_come_last_and_have_no_frames():
    display = MontageDisplay.from_predictions(
        tiny_images(6), [0, 1, 1, 1, 2, 2], y=np.zeros(6, dtype=int)
    )
    assert display.clusters == [1, 0, 2]
    assert display.names == [0, None, None]
    assert display.frames_ is None
    assert "#2" in texts(display)


def test_own_names():
    labels = [0, 0, 1, 1]
    display = MontageDisplay.from_predictions(
        tiny_images(4), labels, y=["x", "x", "z", "z"], names={1: "a cat"}
    )
    assert display.names == ["x", "a cat"]
    display = MontageDisplay.from_predictions(
        tiny_images(4), labels, names=["one", "a name that is so long that it is cut"]
    )
    assert "a name that is\nso long that…" in texts(display)
    with pytest.raises(TypeError, match="names='ab'"):
        MontageDisplay.from_predictions(tiny_images(4), labels, names="ab")
    for names in (["a", "b", "c"], {77: "x"}):
        with pytest.raises(ValueError, match=r"names=.* clusters that there are not"):
            MontageDisplay.from_predictions(tiny_images(4), labels, names=names)


def test_montage_gives_no_name_of_a_minority():
    labels = np.repeat([0, 1, 2], [4, 4, 5])
    y = list("aaaa" + "aaab" + "ccccb")
    display = MontageDisplay.from_predictions(tiny_images(13), labels, y=y)
    named = dict(zip(display.clusters, display.names, strict=True))
    assert named == {0: "a", 1: None, 2: "c"}
    wrong = dict(zip(display.clusters, display.wrong.sum(axis=1), strict=True))
    assert wrong == {0: 0, 1: 0, 2: 1}


def test_montage_of_a_file_that_cannot_be_read_is_grey(tmp_path):
    path = tmp_path / "no.jpg"
    path.write_text("no image")
    images = [path, tiny_images(1)[0], tmp_path / "none.png"]
    display = MontageDisplay.from_predictions(images, [0, 0, 0])
    for i in (0, 2):
        np.testing.assert_array_equal(display.tiles[i], np.full((1, 1, 3), 200))
    assert display.tiles[1].shape == (6, 6, 3)


class Counting:
    """A data set that knows what was read of it."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.read.append(i)
        return self.images[i], "target"


def test_only_shown_images_are_read():
    data = Counting(tiny_images(100))
    display = MontageDisplay.from_predictions(
        data, np.arange(100) % 2, confidence=np.arange(100.0), n_images=4
    )
    assert sorted(data.read) == sorted(display.indices.ravel())
    assert sorted(data.read) == [0, 1, 2, 3, 96, 97, 98, 99]


def test_floats_are_scaled_by_what_is_shown():
    images = np.zeros((4, 5, 5))
    images[0] = 16
    images[1, 0, 0] = -4
    images[3] = 1000
    show = {"n_images": 2, "clusters": [0]}
    display = MontageDisplay.from_predictions(images, [0, 0, 1, 1], **show)
    assert (display.tiles[0] == 255).all()
    assert display.tiles[1][0, 0].tolist() == [0, 0, 0]
    assert display.tiles[1][1, 1].tolist() == [51, 51, 51]
    display = MontageDisplay.from_predictions(images / 1000, [1, 1, 1, 0], **show)
    assert (display.tiles[3] == 255).all()
    half = np.full((1, 5, 5), 0.5)
    assert (MontageDisplay.from_predictions(half, [0]).tiles[0] == 128).all()
    flat = np.full((1, 5, 5), 7.0)
    assert (MontageDisplay.from_predictions(flat, [0]).tiles[0] == 0).all()


def test_photos_keep_their_shape_and_the_canvas_is_one_image(tmp_path):
    red, path = Image.new("RGB", (400, 100), (255, 0, 0)), tmp_path / "blue.png"
    Image.new("RGB", (100, 300), (0, 0, 255)).save(path)
    display = MontageDisplay.from_predictions([red, path], [0, 0], n_images=2)
    assert len(display.ax_.images) == 1
    assert red.size == (400, 100)
    pixels = display.im_.get_array()
    for color, ratio in [((255, 0, 0), 4), ((0, 0, 255), 1 / 3)]:
        rows, columns = np.nonzero((pixels == (*color, 255)).all(axis=2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert width / height == pytest.approx(ratio, rel=0.1)
        assert len(rows) == width * height
    # Between them there is nothing.
    assert set(np.unique(pixels[..., 3])) == {0, 255}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), (50, 50)), ((10, 20), (25, 50)), ((900, 3), (50, 1)), ((1, 1), (50, 50))],
)
def test_letterbox(shape, expected):
    assert letterbox(shape, 50) == expected


def test_columns():
    images, labels = tiny_images(60), np.arange(60) % 30
    wide = MontageDisplay.from_predictions(images, labels, n_images=2, n_columns=10)
    high = MontageDisplay.from_predictions(images, labels, n_images=2, n_columns=1)
    auto = MontageDisplay.from_predictions(images, labels, n_images=2)
    ratios = [np.divide(*d.figure_.get_size_inches()) for d in (high, auto, wide)]
    assert ratios[0] < 0.3 < 0.7 < ratios[1] < 2.5 < ratios[2]
    with pytest.raises(ValueError, match="n_columns=0"):
        MontageDisplay.from_predictions(images, labels, n_columns=0)


def test_text_fits_into_a_given_ax():
    _, ax = plt.subplots(figsize=(3, 3))
    display = MontageDisplay.from_predictions(
        tiny_images(40), np.arange(40) % 10, confidence=np.linspace(0, 1, 40), ax=ax
    )
    display.figure_.canvas.draw()
    outer = ax.get_window_extent()
    boxes = [text.get_window_extent() for text in display.text_]
    assert all(outer.padded(2).containsx(b.x0 + b.width) for b in boxes)
    overlaps = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(overlaps)


@pytest.mark.parametrize("y", [[np.nan, np.nan, 1.0], ["a", np.nan, "b"]])
def test_missing_classes_are_refused(y):
    y, labels = np.array(y, dtype=object), [0, 0, 1]
    for draw in (
        lambda: ConfidenceDisplay.from_predictions(np.eye(2)[labels], y),
        lambda: ClusterConfusionDisplay.from_predictions(y, labels),
        lambda: MontageDisplay.from_predictions(tiny_images(3), labels, y=y),
        lambda: SimplexDisplay.from_predictions(np.eye(3), y=y),
    ):
        with pytest.raises(ValueError, match=r"y(_true)? contains NaN"):
            draw()


@pytest.mark.slow
def test_150_clusters_are_one_image():
    """As many artists as tiles would take minutes to draw."""
    proba, y = synthetic(150, 6000)
    display = MontageDisplay.from_predictions(
        tiny_images(6000), proba.argmax(1), confidence=proba.max(1), y=y
    )
    display.figure_.canvas.draw()
    assert len(display.ax_.images) == 1
    assert len(display.ax_.findobj()) < 10 * 150


def test_dollars_are_not_mathematics():
    names, labels = ["$a", "b$_$"], [0, 1]
    y = np.array(names)
    for display in (
        MontageDisplay.from_predictions(tiny_images(2), labels, y=y),
        ClusterConfusionDisplay.from_predictions(y, labels),
        SimplexDisplay.from_predictions(np.eye(3), names=["$\\x$", "", "$"]),
    ):
        display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": [0, 1]}, ValueError, r"labels must have shape \(4,\)"),
        ({"confidence": [1.0]}, ValueError, r"confidence must have shape \(4,\)"),
        ({"y": [[1]] * 4}, ValueError, r"y must have shape \(4,\)"),
        ({"n_images": 0}, ValueError, "n_images=0"),
        ({"n_images": 2.0}, TypeError, r"n_images=2\.0"),
        ({"n_clusters": 1}, ValueError, "n_clusters=1"),
        ({"clusters": [7]}, ValueError, r"clusters=\[7\]"),
        ({"clusters": []}, ValueError, r"clusters=\[\]"),
        ({"images": "a.png"}, TypeError, "single path"),
        ({"images": [np.full((3, 3), np.inf)] * 4}, ValueError, r"images\[0\]: "),
        ({"images": ["missing.png"] * 4}, FileNotFoundError, r"images\[3\]: "),
    ],
)
def test_montage_errors(change, error, match):
    given = {"images": tiny_images(4), "labels": [0, 0, 1, 1], **change}
    with pytest.raises(error, match=match):
        MontageDisplay.from_predictions(**given)


def test_features_need_images(fitted):
    pipe, X, _ = fitted
    with pytest.raises(ValueError, match="images=, too"):
        MontageDisplay.from_estimator(pipe, X)


# Confusion matrix


def test_confusion_matrix_is_that_of_matched_clusters(digits):
    _, y = digits
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(len(y)) < 0.8, (3 * y + 1) % 10, rng.integers(10))
    matched = match_labels(y, labels)
    expected = confusion_matrix(y, [matched[label] for label in labels])
    display = ClusterConfusionDisplay.from_predictions(y, labels)
    np.testing.assert_array_equal(display.confusion_matrix, expected)
    np.testing.assert_array_equal(display.im_.get_array(), expected)
    assert [matched[k] for k in display.clusters] == list(range(10))
    accuracy = clustering_accuracy_score(y, labels)
    assert f"ACC {100 * accuracy:.1f}," in display.ax_.get_title()
    assert len(display.text_) == np.count_nonzero(expected)


@pytest.mark.parametrize("n_classes", [1, 3, 5])
@pytest.mark.parametrize("n_clusters", [1, 3, 5])
def test_permuted_clusters_have_the_same_diagonal(n_classes, n_clusters, rng):
    y = rng.integers(n_classes, size=200)
    labels = np.where(rng.random(200) < 0.7, y, rng.integers(9, size=200)) % n_clusters
    names = rng.permutation(n_clusters)
    one = ClusterConfusionDisplay.from_predictions(y, labels)
    two = ClusterConfusionDisplay.from_predictions(y, names[labels])
    diagonal = np.diag(one.confusion_matrix)
    np.testing.assert_array_equal(np.diag(two.confusion_matrix), diagonal)
    assert len(diagonal) == one.n_matched
    assert diagonal.sum() / 200 == pytest.approx(one.scores["ACC"])
    assert one.ax_.get_title() == two.ax_.get_title()


def test_unmatched_come_last_after_a_line():
    rows, columns = _matched_first(np.arange(3), np.arange(5), {4: 2, 1: 0, 2: 1})
    assert rows.tolist() == [0, 1, 2]
    assert columns.tolist() == [1, 2, 4, 0, 3]
    display = ClusterConfusionDisplay.from_predictions([0, 0, 1, 1], [5, 5, 6, 7])
    assert display.clusters.tolist() in ([5, 6, 7], [5, 7, 6])
    (line,) = display.ax_.lines
    assert line.get_xdata() == [1.5, 1.5]
    display = ClusterConfusionDisplay.from_predictions(["a", "b", "b"], [0, 0, 0])
    assert display.classes.tolist() == ["b", "a"]
    (line,) = display.ax_.lines
    assert line.get_ydata() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("normalize", "axis"), [("true", 1), ("pred", 0), ("all", None)]
)
def test_normalize(normalize, axis):
    y, labels = [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]
    display = ClusterConfusionDisplay.from_predictions(y, labels, normalize=normalize)
    np.testing.assert_allclose(display.confusion_matrix.sum(axis=axis), 1)
    shown = [text.get_text() for text in display.text_]
    expected = display.confusion_matrix.ravel()
    assert shown == [f"{100 * share:.0f}" for share in expected if share]


def test_class_names_follow_their_classes():
    y, labels = [0, 1, 1, 2], [0, 1, 1, 1]
    names = ["zero", "one", "two"]
    display = ClusterConfusionDisplay.from_predictions(y, labels, display_labels=names)
    ticks = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert ticks == names
    y = [1, 2, 2, 0]
    display = ClusterConfusionDisplay.from_predictions(y, labels, display_labels=names)
    ticks = [tick.get_text() for tick in display.ax_.get_yticklabels()]
    assert ticks == ["one", "two", "zero"]
    with pytest.raises(ValueError, match="must have 3 names"):
        ClusterConfusionDisplay.from_predictions(y, labels, display_labels=["a"])


def test_150_classes_have_no_numbers_and_fewer_ticks():
    proba, y = synthetic(150)
    display = ClusterConfusionDisplay.from_predictions(y, proba.argmax(1))
    assert display.text_ == []
    assert 10 < len(display.ax_.get_yticks()) < 75
    assert 10 < len(display.ax_.get_xticks()) < 75
    display.figure_.canvas.draw()
    boxes = [t.get_window_extent() for t in display.ax_.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    display.plot(include_values=True, colorbar=False)
    assert len(display.text_) == np.count_nonzero(display.confusion_matrix)


def test_confusion_from_a_clusterer_without_probabilities(fitted):
    _, X, y = fitted
    kmeans = KMeans(3, random_state=0).fit(X)
    display = ClusterConfusionDisplay.from_estimator(kmeans, X, y, normalize="true")
    assert display.confusion_matrix.shape == (3, 3)


def test_confusion_errors():
    with pytest.raises(ValueError, match="normalize='rows'"):
        ClusterConfusionDisplay.from_predictions([0], [0], normalize="rows")
    with pytest.raises(ValueError, match=r"y_true must have shape \(1,\)"):
        ClusterConfusionDisplay.from_predictions([0, 1], [0])


# Training


def test_training_of_a_pipeline(fitted):
    pipe, _, _ = fitted
    display = TrainingDisplay.from_estimator(pipe)
    last = pipe[-1]
    np.testing.assert_array_equal(display.loss_line_.get_ydata(), last.loss_curve_)
    assert len(display.share_areas_) == 3
    assert len(display.axes_) == 3
    assert TrainingDisplay.from_estimator(last).loss_curve.tolist() == last.loss_curve_


def test_balance_and_clusters_in_use():
    shares = [[0.25] * 4, [0.5, 0.5, 0, 0], [1, 0, 0, 0]]
    display = TrainingDisplay.from_curves([3, 2, 1], shares)
    np.testing.assert_allclose(display.balance_line_.get_ydata(), [1, 0.5, 0])
    np.testing.assert_allclose(display.used_line_.get_ydata(), [1, 0.5, 0.25])
    (label,) = [text.get_text() for text in display.axes_[2].texts]
    assert label == "0"


@pytest.mark.parametrize("n_clusters", [1, 4, 150])
def test_one_epoch_is_seen(n_clusters):
    shares = np.full((1, n_clusters), 1 / n_clusters)
    display = TrainingDisplay.from_curves([1.0], shares)
    assert display.loss_line_.get_marker() == "o"
    assert display.axes_[0].get_xlim() == (0.5, 1.5)
    for area in display.share_areas_:
        assert np.ptp(area.get_paths()[0].vertices[:, 0]) == 1


def test_many_clusters_are_drawn_as_quantiles():
    shares = np.random.default_rng(0).dirichlet(np.ones(150), size=60)
    display = TrainingDisplay.from_curves(np.ones(60), shares)
    outer, inner = (area.get_paths()[0].vertices[:, 1] for area in display.share_areas_)
    assert (outer.min(), outer.max()) == (shares.min(), shares.max())
    assert inner.max() == np.quantile(shares, 0.75, axis=1).max()
    assert display.loss_line_.get_marker() == ""


@pytest.mark.parametrize(
    ("losses", "shares", "match"),
    [
        ([1, 2], [[1.0]], r"got \(2,\) and \(1, 1\)"),
        ([1], [1.0], "shapes"),
        ([], np.ones((0, 3)), "empty"),
        ([1], [[0.5, 0.4]], "sum to 1"),
        ([1], [[1.5, -0.5]], "non-negative"),
    ],
)
def test_training_errors(losses, shares, match):
    with pytest.raises(ValueError, match=match):
        TrainingDisplay.from_curves(losses, shares)


def test_training_needs_a_fitted_collision_clusterer(fitted):
    _, X, _ = fitted
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(CollisionClusterer())
    with pytest.raises(TypeError, match="estimator=KMeans"):
        TrainingDisplay.from_estimator(KMeans(2, random_state=0).fit(X))


# Confidence


@pytest.mark.parametrize("n_bins", [1, 4, 10])
def test_ece_equals_a_direct_computation(proba, rng, n_bins):
    y = rng.integers(4, size=len(proba))
    display = ConfidenceDisplay.from_predictions(proba, y, n_bins=n_bins)
    matched = match_labels(y, proba.argmax(axis=1))
    correct = np.array(
        [matched.get(k) == t for k, t in zip(proba.argmax(axis=1), y, strict=True)]
    )
    confidence, expected = proba.max(axis=1), 0.0
    for low in np.arange(n_bins) / n_bins:
        inside = (low <= confidence) & (confidence < low + 1 / n_bins)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            expected += inside.mean() * abs(gap)
    assert display.ece_ == pytest.approx(expected)
    np.testing.assert_array_equal(display.correct, correct)
    assert f"ECE {100 * expected:.1f} %" in display.axes_[1].get_title()


def test_one_dot_a_cluster_of_its_size():
    proba = [[0.9, 0.1]] * 3 + [[0.2, 0.8]]
    display = ConfidenceDisplay.from_predictions(proba, ["a", "a", "b", "b"])
    np.testing.assert_allclose(
        display.cluster_dots_.get_offsets(), [[0.9, 2 / 3], [0.8, 1]]
    )
    sizes = display.cluster_dots_.get_sizes()
    assert sizes[0] == pytest.approx(3 * sizes[1])
    # The one that is too sure has its number.
    assert [text.get_text() for text in display.axes_[1].texts] == ["0"]
    heights = [patch.get_height() for patch in display.axes_[0].patches]
    assert sum(heights) == pytest.approx(1)


def test_clusters_without_a_class_are_wrong():
    proba = np.eye(3)[[0, 0, 1, 2]]
    display = ConfidenceDisplay.from_predictions(proba, [0, 0, 0, 0])
    assert display.correct.tolist() == [True, True, False, False]
    assert display.ece_ == 0.5


def test_distributions_are_in_order_of_the_median(proba):
    proba = np.column_stack([proba, np.zeros(len(proba))])
    display = ConfidenceDisplay.from_predictions(proba)
    assert display.ece_ is display.bins_line_ is None
    labels, confidence = proba.argmax(axis=1), proba.max(axis=1)
    medians = [np.median(confidence[labels == k]) for k in range(4)]
    drawn = display.cluster_dots_.get_offsets()[:, 1]
    np.testing.assert_allclose(drawn, np.sort(medians))
    ticks = [int(t.get_text()) for t in display.axes_[1].get_xticklabels()]
    assert ticks == np.argsort(medians).tolist()
    assert display.axes_[1].get_title() == "4 of 5 clusters in use"


def test_a_rounded_one_is_in_the_histogram():
    display = ConfidenceDisplay.from_predictions([[1.0005, 0], [1, 0]])
    heights = [patch.get_height() for patch in display.axes_[0].patches]
    assert heights[-1] == 1


@pytest.mark.parametrize(("n_bins", "error"), [(0, ValueError), (2.5, TypeError)])
def test_n_bins_is_checked(proba, n_bins, error):
    with pytest.raises(error, match=f"n_bins={n_bins}"):
        ConfidenceDisplay.from_predictions(proba, n_bins=n_bins)


# Simplex


def test_barycentric():
    corners = barycentric(np.eye(3))
    np.testing.assert_allclose(corners, [[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, 1)
    np.testing.assert_allclose(barycentric(np.full(3, 1 / 3)), corners.mean(axis=0))


def test_simplex_of_an_estimator(fitted):
    pipe, X, y = fitted
    names = load_iris().target_names
    display = SimplexDisplay.from_estimator(pipe, X, names[y], names="abc")
    points = barycentric(pipe.predict_proba(X))
    for k, collection in enumerate(display.points_):
        np.testing.assert_allclose(collection.get_offsets(), points[y == k])
    assert [p.get_label() for p in display.points_] == names.tolist()
    assert [text.get_text() for text in display.ax_.texts] == ["a", "b", "c"]
    assert display.crosses_ == []


def test_simplex_solves_for_pseudo_labels(fitted):
    pipe, X, _ = fitted
    display = SimplexDisplay.from_estimator(pipe, X, lam=2.0)
    proba = pipe.predict_proba(X)
    expected = barycentric(solve_pseudo_labels(proba, lam=2.0).pseudo_labels)
    for k, crosses in enumerate(display.crosses_):
        mine = proba.argmax(axis=1) == k
        np.testing.assert_allclose(crosses.get_offsets(), expected[mine])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["prediction", "pseudo-label"]


def test_simplex_errors(proba):
    with pytest.raises(ValueError, match="proba must have 3 columns"):
        SimplexDisplay.from_predictions(proba)
    three = np.eye(3)
    with pytest.raises(ValueError, match="pseudo_labels must have 3 columns"):
        SimplexDisplay.from_predictions(three, pseudo_labels=np.eye(2))
    with pytest.raises(ValueError, match="pseudo_labels must have 3 rows"):
        SimplexDisplay.from_predictions(three, pseudo_labels=three[:2])
    with pytest.raises(ValueError, match="3 entries"):
        SimplexDisplay.from_predictions(three, names=["a"])
    with pytest.raises(ValueError, match=r"y must have shape \(3,\)"):
        SimplexDisplay.from_predictions(three, y=[1])


@pytest.mark.parametrize("n", [1, 10, 11, 40])
def test_colors_differ(n):
    assert len({matplotlib.colors.to_hex(color) for color in colors_of(n)}) == n
