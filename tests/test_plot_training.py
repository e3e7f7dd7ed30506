"""TrainingDisplay: curves, shares, and what has none."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError

from skcce import CollisionClusterer
from skcce.plot import TrainingDisplay

pytestmark = pytest.mark.usefixtures("close_figures")


def test_training_of_a_pipeline(iris_pipeline):
    pipe, _, _ = iris_pipeline
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
        ([1, 2], [[1.0]], r"loss_curve must have shape \(1,\).* got shape \(2,\)"),
        ([1], [1.0], "share_curve must have shape"),
        ([], np.ones((0, 3)), r"share_curve .* at least one .* got shape \(0, 3\)"),
        ([1], [[0.5, 0.4]], "share_curve must sum to 1"),
        ([1], [[1.5, -0.5]], "share_curve must not be negative"),
    ],
)
def test_training_errors(losses, shares, match):
    with pytest.raises(ValueError, match=match):
        TrainingDisplay.from_curves(losses, shares)


def test_training_needs_a_fitted_collision_clusterer(iris_pipeline):
    _, X, _ = iris_pipeline
    with pytest.raises(NotFittedError):
        TrainingDisplay.from_estimator(CollisionClusterer())
    with pytest.raises(TypeError, match="estimator=KMeans"):
        TrainingDisplay.from_estimator(KMeans(2, random_state=0).fit(X))
