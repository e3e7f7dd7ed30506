"""ClusterConfusionDisplay: the matrix, its order and its names."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import synthetic_predictions
from sklearn.cluster import KMeans
from sklearn.metrics import confusion_matrix

from skcce.metrics import clustering_accuracy_score, match_labels
from skcce.plot import ClusterConfusionDisplay
from skcce.plot._confusion import _matched_first

pytestmark = pytest.mark.usefixtures("close_figures")


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_150_classes_have_no_numbers_and_fewer_ticks():
    proba, y = synthetic_predictions(150)
    display = ClusterConfusionDisplay.from_predictions(y, proba.argmax(1))
    assert display.text_ == []
    assert 10 < len(display.ax_.get_yticks()) < 75
    assert 10 < len(display.ax_.get_xticks()) < 75
    display.figure_.canvas.draw()
    boxes = [t.get_window_extent() for t in display.ax_.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    display.plot(include_values=True, colorbar=False)
    assert len(display.text_) == np.count_nonzero(display.confusion_matrix)


def test_confusion_from_a_clusterer_without_probabilities(iris_pipeline):
    _, X, y = iris_pipeline
    kmeans = KMeans(3, random_state=0).fit(X)
    display = ClusterConfusionDisplay.from_estimator(kmeans, X, y, normalize="true")
    assert display.confusion_matrix.shape == (3, 3)


def test_confusion_errors():
    with pytest.raises(ValueError, match="normalize='rows'"):
        ClusterConfusionDisplay.from_predictions([0], [0], normalize="rows")
    with pytest.raises(ValueError, match=r"y_true must have shape \(1,\)"):
        ClusterConfusionDisplay.from_predictions([0, 1], [0])
