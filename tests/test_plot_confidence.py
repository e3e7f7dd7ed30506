"""ConfidenceDisplay: reliability and distributions."""

import numpy as np
import pytest

from skcce.metrics import match_labels
from skcce.plot import ConfidenceDisplay

pytestmark = pytest.mark.usefixtures("close_figures")


@pytest.fixture
def proba(rng):
    return rng.dirichlet([1.0, 0.5, 0.3, 0.3], size=80)


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
