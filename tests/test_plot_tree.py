"""TreeDisplay: which clusters join where, in which colors, and what is in them."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import tiny_images
from scipy.cluster.hierarchy import (
    cophenet,
    dendrogram,
    fcluster,
    is_valid_linkage,
    linkage,
)
from scipy.spatial.distance import squareform
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skcce.plot import TreeDisplay

pytestmark = pytest.mark.usefixtures("close_figures")

N_LEAVES = 12


class Tree(BaseEstimator):
    """A clusterer with a tree: predicts leaf ``X[i, 0]`` with ``X[i, 1]``."""

    def __init__(self, n_leaves=N_LEAVES, n_clusters=5, seed=0, counts=None):
        self.n_leaves, self.n_clusters = n_leaves, n_clusters
        self.seed, self.counts = seed, counts

    def fit(self, X):
        centers = np.random.default_rng(self.seed).normal(size=(self.n_leaves, 3))
        joins = linkage(centers)
        valid = joins.copy()
        if self.counts == "samples":
            joins[:, 3] *= 10
        self.tree_ = SimpleNamespace(
            linkage=joins,
            n_clusters=self.n_clusters,
            cut=lambda k: fcluster(valid, k, "maxclust") - 1,
        )
        return self._predicting(X, self.n_clusters)

    def _predicting(self, X, n_clusters):
        self.X_, self.groups_ = X, self.tree_.cut(n_clusters)
        proba = self.predict_proba(X)
        self.labels_, self.probabilities_ = proba.argmax(1), proba.max(1)
        return self

    def cut(self, n_clusters):
        other = Tree(self.n_leaves, self.n_clusters)
        other.tree_ = self.tree_
        return other._predicting(self.X_, n_clusters)

    def predict_proba(self, X):
        proba = np.repeat(1 - X[:, 1:], self.n_leaves, axis=1) / (self.n_leaves - 1)
        proba[np.arange(len(X)), X[:, 0].astype(int)] = X[:, 1]
        return proba @ np.eye(self.groups_.max() + 1)[self.groups_]


def rows_of(n_samples=300, n_leaves=N_LEAVES, seed=0):
    rng = np.random.default_rng(seed)
    leaves = np.r_[np.arange(n_leaves), rng.integers(n_leaves, size=n_samples)]
    return np.c_[leaves, rng.uniform(0.6, 1, size=len(leaves))]


@pytest.fixture
def tree():
    return Tree().fit(rows_of())


def random_joins(n_clusters, seed=0):
    return linkage(np.random.default_rng(seed).normal(size=(n_clusters, 2)), "ward")


def stems_and_bars(display):
    segments = np.array(display.lines_.get_segments())
    return np.split(segments, [2 * len(display.shares) - 1])


@pytest.mark.parametrize("n_clusters", [2, 3, 25])
def test_coordinates_are_those_of_scipy(n_clusters):
    labels = np.arange(400) ** 2 % n_clusters
    display = TreeDisplay.from_predictions(random_joins(n_clusters), labels)
    assert is_valid_linkage(display.linkage)
    # As a color, scipy gives back the number of each join.
    expected = dendrogram(display.linkage, no_plot=True, link_color_func=str)
    order = np.argsort([int(k) for k in expected["color_list"]])
    across = np.array(expected["icoord"])[order] / 10
    heights = np.array(expected["dcoord"])[order]
    stems, bars = stems_and_bars(display)
    pitch = np.ptp(stems[:n_clusters, 0, 1]) / (n_clusters - 1)
    np.testing.assert_allclose(bars[:, :, 1] / pitch, across[:, 1:3])
    # The axis of heights may begin anywhere.
    x, height = bars[:, 0, 0], heights[:, 1]
    np.testing.assert_allclose(
        (x - x[-1]) * np.ptp(height), (height[-1] - height) * np.ptp(x), atol=1e-10
    )
    np.testing.assert_array_equal(
        np.argsort(stems[:n_clusters, 0, 1]), expected["leaves"]
    )


def test_stems_end_at_their_joins():
    display = TreeDisplay.from_predictions(random_joins(9), np.arange(9))
    stems, bars = stems_and_bars(display)
    for bar, pair in zip(bars, display.linkage[:, :2].astype(int), strict=True):
        np.testing.assert_array_equal(bar, stems[pair, 1])
    np.testing.assert_allclose(stems[9:, 0], bars.mean(axis=1))
    np.testing.assert_array_equal(display.dots_.get_offsets(), stems[:9, 0])


def test_the_larger_cluster_is_on_top():
    labels = np.repeat(np.arange(9), [5, 1, 40, 7, 7, 90, 2, 3, 60])
    display = TreeDisplay.from_predictions(random_joins(9), labels)
    sizes = np.r_[np.bincount(labels), np.zeros(8)]
    stems, _ = stems_and_bars(display)
    for node, (a, b) in enumerate(display.linkage[:, :2].astype(int), 9):
        assert sizes[a] >= sizes[b]
        assert stems[a, 0, 1] < stems[b, 0, 1]
        sizes[node] = sizes[a] + sizes[b]
    areas = display.dots_.get_sizes()
    np.testing.assert_allclose(areas / areas.sum(), np.bincount(labels) / len(labels))


@pytest.mark.parametrize("n_cut", [1, 2, 5, 14, 20])
def test_colors_are_clusters_at_the_line(n_cut):
    display = TreeDisplay.from_predictions(random_joins(20), np.arange(20), n_cut=n_cut)
    joins = display.linkage
    colors = np.unique(display.dots_.get_facecolors(), axis=0, return_inverse=True)[1]
    groups = fcluster(joins, n_cut, "maxclust")
    assert adjusted_rand_score(groups, colors.ravel()) == 1
    # The line crosses one stem for each cluster.
    stems, _ = stems_and_bars(display)
    (at, _) = display.cut_line_.get_xdata()
    crossed = (stems[:, 1, 0] < at) & (at < stems[:, 0, 0])
    assert np.count_nonzero(crossed) == n_cut


@pytest.mark.parametrize("n_clusters", range(1, N_LEAVES + 1))
def test_joins_of_a_cut_are_those_of_its_leaves(tree, n_clusters):
    display = TreeDisplay.from_estimator(tree, n_clusters=n_clusters)
    assert display.linkage.shape == (n_clusters - 1, 4)
    groups = tree.tree_.cut(n_clusters)
    leaves = [np.flatnonzero(groups == k)[0] for k in range(n_clusters)]
    expected = squareform(cophenet(tree.tree_.linkage))[np.ix_(leaves, leaves)]
    if n_clusters > 1:
        np.testing.assert_array_equal(squareform(cophenet(display.linkage)), expected)
    labels = tree.cut(n_clusters).labels_
    np.testing.assert_allclose(
        display.shares, np.bincount(labels, minlength=n_clusters) / len(labels)
    )


@pytest.mark.parametrize("n_clusters", [4, 5, 6, 12])
def test_the_line_is_between_the_joins_around_it(tree, n_clusters):
    display = TreeDisplay.from_estimator(tree, n_clusters=n_clusters)
    if n_clusters < tree.tree_.n_clusters:
        assert display.cut_line_ is None
        return
    # Heights that are shown, from those of two joins.
    x = stems_and_bars(display)[1][:, 0, 0]
    heights = display.linkage[:, 2]
    slope = (heights[-1] - heights[0]) / (x[-1] - x[0])
    cut = heights[0] + slope * (display.cut_line_.get_xdata()[0] - x[0])
    groups = fcluster(tree.tree_.linkage, cut, "distance")
    assert adjusted_rand_score(groups, tree.tree_.cut(5)) == 1


def test_as_many_clusters_as_were_found_but_30_at_most():
    found = Tree(50, 8).fit(rows_of(n_leaves=50))
    assert len(TreeDisplay.from_estimator(found).shares) == 8
    found = Tree(50, 44).fit(rows_of(n_leaves=50))
    display = TreeDisplay.from_estimator(found)
    assert len(display.shares) == 30
    assert display.cut_line_ is None
    assert len(TreeDisplay.from_estimator(found, n_clusters=44).shares) == 44


def test_counts_may_be_of_samples():
    X = rows_of()
    one, other = (
        TreeDisplay.from_estimator(Tree(counts=counts).fit(X), n_clusters=7)
        for counts in (None, "samples")
    )
    np.testing.assert_array_equal(one.linkage, other.linkage)


def test_the_most_confident_samples(tree):
    X = tree.X_
    images, texts = tiny_images(len(X)), [f"text {i}" for i in range(len(X))]
    display = TreeDisplay.from_estimator(tree, n_exemplars=4, texts=texts)
    part = tree.cut(5)
    written = [text.get_text() for text in display.text_]
    for k, row in enumerate(display.indices):
        members = np.flatnonzero(part.labels_ == k)
        most = members[np.argsort(-part.probabilities_[members])[:4]]
        np.testing.assert_array_equal(row, most)
        assert "\n".join(texts[i] for i in row) in written
        assert f"#{k}" in written
    other = TreeDisplay.from_estimator(tree, n_exemplars=4, images=images)
    np.testing.assert_array_equal(other.indices, display.indices)
    assert set(other.tiles) == set(display.texts) == set(display.indices.ravel())
    # The images are in the rows of their clusters.
    pixels = np.asarray(other.im_.get_array())
    scale = len(pixels) / other.im_.get_extent()[2]
    for row, (_, y) in zip(other.indices, other.dots_.get_offsets(), strict=True):
        middle = pixels[int(y * scale)]
        values = middle[middle[:, 3] > 0, 0]
        assert len(values)
        assert set(values) <= set(images[row].ravel())


def test_given_samples_are_predicted(tree):
    texts = np.array([f"text {i}" for i in range(len(tree.X_))])
    one = TreeDisplay.from_estimator(tree, texts=texts)
    other = TreeDisplay.from_estimator(tree, tree.X_, texts=texts)
    np.testing.assert_array_equal(one.indices, other.indices)
    new = rows_of(seed=1)[:50]
    display = TreeDisplay.from_estimator(tree, new, texts=texts[:50])
    assert display.indices.max() < 50
    pipe = make_pipeline(FunctionTransformer(np.negative), tree)
    piped = TreeDisplay.from_estimator(pipe, -new, texts=texts[:50])
    np.testing.assert_array_equal(piped.indices, display.indices)
    search = SimpleNamespace(best_estimator_=make_pipeline(tree))
    searched = TreeDisplay.from_estimator(search, new, texts=texts[:50])
    np.testing.assert_array_equal(searched.indices, display.indices)


def test_without_confidence_the_first_samples():
    labels = np.array([1, 0, 1, 0, 1, 2])
    display = TreeDisplay.from_predictions(
        random_joins(3), labels, texts=list("abcdef"), n_exemplars=2
    )
    np.testing.assert_array_equal(display.indices, [[1, 3], [0, 2], [5, -1]])


def test_rows_of_no_cluster_are_in_none():
    labels = np.array([-1, 0, -1, 1, 1])
    display = TreeDisplay.from_predictions(
        random_joins(2), labels, y=list("abbcc"), texts=list("abcde"), n_exemplars=2
    )
    np.testing.assert_allclose(np.sort(display.shares), [0.2, 0.4])
    np.testing.assert_array_equal(display.indices, [[1, -1], [3, 4]])
    assert display.names == ["b", "c"]
    TreeDisplay.from_predictions(random_joins(2), [-1, -1], texts=["a", "b"])


def test_names_are_classes_of_more_than_half():
    labels = np.repeat([0, 1, 2, 3], [3, 4, 1, 0])
    y = np.array(list("aababccd"))
    joins = random_joins(5)
    display = TreeDisplay.from_predictions(joins, labels, y=y, texts=list("abcdefgh"))
    assert display.names == ["a", None, "d", None, None]
    written = {text.get_text() for text in display.text_}
    assert {"a", "#0  37.5 %", "#1", "50.0 %", "#4", "0.0 %"} <= written


@pytest.mark.parametrize("heights", [[-2, -1, 0], [-1, 2, np.inf], [np.inf] * 3])
@pytest.mark.parametrize("floor", [None, -7, np.inf])
def test_heights_may_be_negative_and_infinite(heights, floor):
    joins = random_joins(4)
    joins[:, 2] = heights
    display = TreeDisplay.from_predictions(joins, np.arange(4), n_cut=3, floor=floor)
    display.figure_.canvas.draw()
    stems, bars = stems_and_bars(display)
    assert np.isfinite(stems).all()
    assert (np.diff(bars[:, 0, 0]) <= 0).all()
    assert (stems[:, 1, 0] <= stems[:, 0, 0]).all()
    names = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ("∞" in names) == np.isinf(heights).any()


def test_long_texts_stay_on_their_line():
    texts = ["word " * 100, "letters" * 100, "two\nlines", "$x_", "", "short"]
    display = TreeDisplay.from_predictions(
        random_joins(2), np.arange(6) // 3, texts=texts
    )
    assert all("\n" not in text and len(text) <= 64 for text in display.texts.values())
    assert display.texts[2] == "two lines"
    assert display.texts[0].endswith("…")
    display.figure_.canvas.draw()


def test_names_of_a_few_words_are_whole():
    names = ["dataset, classification, load", "calculate, multidimensional, axis"]
    display = TreeDisplay.from_predictions(
        random_joins(2), [0, 1], y=names, texts=["first", "second"]
    )
    written = {text.get_text().replace("\n", " ") for text in display.text_}
    assert written >= {*names}


@pytest.mark.parametrize("n_clusters", [2, 30])
@pytest.mark.parametrize("given_ax", [False, True])
def test_nothing_overlaps(n_clusters, given_ax):
    # Older versions of matplotlib round the size of letters to pixels.
    ax = plt.subplots(figsize=(5, 4), dpi=600)[1] if given_ax else None
    labels = np.arange(90) % n_clusters
    display = TreeDisplay.from_predictions(
        random_joins(n_clusters),
        labels,
        y=np.array([f"class {k} of all classes" for k in labels]),
        texts=["How do I do that in a language that has no such thing, if I may?"] * 90,
        n_cut=2,
        ax=ax,
    )
    display.figure_.canvas.draw()
    boxes = [text.get_window_extent() for text in display.text_]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    inside = display.figure_.bbox.padded(2)
    assert all(inside.containsx(b.x1) and inside.containsy(b.y1) for b in boxes)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"linkage": [1, 2]}, ValueError, r"linkage must have shape .* shape \(2,\)"),
        ({"linkage": [[0, 0, 1, 2]]}, ValueError, "linkage must join every cluster"),
        ({"linkage": [[0, 3, 1, 2], [1, 2, 2, 3]]}, ValueError, "after it is made"),
        ({"linkage": [[0, 1, 2, 2], [2, 3, 1, 3]]}, ValueError, "do not decrease"),
        ({"linkage": [[0, 1, np.nan, 2]]}, ValueError, "do not decrease"),
        ({"labels": [0, 1, 2, 2]}, ValueError, r"labels must be from 0 to 1, .*2\]"),
        ({"labels": list("abab")}, ValueError, r"labels must be from 0 to 1, .*'a'"),
        ({"labels": []}, ValueError, "labels must be"),
        ({"confidence": [1.0]}, ValueError, r"confidence must have shape \(4,\)"),
        ({"y": [1]}, ValueError, r"y must have shape \(4,\)"),
        ({"n_cut": 3}, ValueError, "n_cut=3 must be at most 2"),
        ({"n_cut": 0}, ValueError, "n_cut=0"),
        ({"n_exemplars": 0}, ValueError, "n_exemplars=0"),
        ({"n_exemplars": 1.5}, TypeError, r"n_exemplars=1\.5"),
        ({"texts": ["a"]}, ValueError, r"texts must have shape \(4,\)"),
        ({"texts": "four"}, ValueError, r"texts must have shape \(4,\)"),
        ({"images": tiny_images(3)}, ValueError, "images must be 4"),
        (
            {"images": tiny_images(4), "texts": list("abcd")},
            ValueError,
            "images and texts",
        ),
    ],
)
def test_tree_errors(change, error, match):
    given = {"linkage": [[0, 1, 1, 2]], "labels": [0, 0, 1, 1], **change}
    with pytest.raises(error, match=match):
        TreeDisplay.from_predictions(**given)


def test_a_fitted_tree_is_needed(tree):
    with pytest.raises(TypeError, match="estimator=KMeans"):
        TreeDisplay.from_estimator(KMeans(2, random_state=0).fit(tree.X_))
    with pytest.raises(NotFittedError):
        TreeDisplay.from_estimator(Tree())
    with pytest.raises(ValueError, match="n_clusters=13 must be at most 12"):
        TreeDisplay.from_estimator(tree, n_clusters=13)
    with pytest.raises(TypeError, match=r"n_clusters=2\.0"):
        TreeDisplay.from_estimator(tree, n_clusters=2.0)
