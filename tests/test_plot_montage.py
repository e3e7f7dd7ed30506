"""MontageDisplay: which images are drawn, and where."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import synthetic_predictions, tiny_images
from PIL import Image
from sklearn.cluster import KMeans

from skcce.plot import MontageDisplay
from skcce.plot._montage import choose, letterbox

pytestmark = pytest.mark.usefixtures("close_figures")


def texts(display):
    return [text.get_text() for text in display.text_]


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


def test_without_confidence_the_first_images(iris_pipeline):
    _, X, _ = iris_pipeline
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
        with pytest.raises(ValueError, match=r"names=.* unknown clusters"):
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_150_clusters_are_one_image():
    """As many artists as tiles would take minutes to draw."""
    proba, y = synthetic_predictions(150, 6000)
    display = MontageDisplay.from_predictions(
        tiny_images(6000), proba.argmax(1), confidence=proba.max(1), y=y
    )
    display.figure_.canvas.draw()
    assert len(display.ax_.images) == 1
    assert len(display.ax_.findobj()) < 10 * 150


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


def test_features_need_images(iris_pipeline):
    pipe, X, _ = iris_pipeline
    with pytest.raises(ValueError, match="also pass images="):
        MontageDisplay.from_estimator(pipe, X)
