"""SimplexDisplay: points, pseudo-labels and corners."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

from skcce import solve_pseudo_labels
from skcce.plot import SimplexDisplay
from skcce.plot._simplex import barycentric

pytestmark = pytest.mark.usefixtures("close_figures")


def test_barycentric():
    corners = barycentric(np.eye(3))
    np.testing.assert_allclose(corners, [[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    np.testing.assert_allclose(sides, 1)
    np.testing.assert_allclose(barycentric(np.full(3, 1 / 3)), corners.mean(axis=0))


def test_simplex_of_an_estimator(iris_pipeline):
    pipe, X, y = iris_pipeline
    names = load_iris().target_names
    display = SimplexDisplay.from_estimator(pipe, X, names[y], names="abc")
    points = barycentric(pipe.predict_proba(X))
    for k, collection in enumerate(display.points_):
        np.testing.assert_allclose(collection.get_offsets(), points[y == k])
    assert [p.get_label() for p in display.points_] == names.tolist()
    assert [text.get_text() for text in display.ax_.texts] == ["a", "b", "c"]
    assert display.crosses_ == []


def test_simplex_solves_for_pseudo_labels(iris_pipeline):
    pipe, X, _ = iris_pipeline
    display = SimplexDisplay.from_estimator(pipe, X, lam=2.0)
    proba = pipe.predict_proba(X)
    expected = barycentric(solve_pseudo_labels(proba, lam=2.0).pseudo_labels)
    for k, crosses in enumerate(display.crosses_):
        mine = proba.argmax(axis=1) == k
        np.testing.assert_allclose(crosses.get_offsets(), expected[mine])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["prediction", "pseudo-label"]


def test_simplex_errors():
    with pytest.raises(ValueError, match="proba must have 3 columns"):
        SimplexDisplay.from_predictions(np.eye(4))
    three = np.eye(3)
    with pytest.raises(ValueError, match="pseudo_labels must have 3 columns"):
        SimplexDisplay.from_predictions(three, pseudo_labels=np.eye(2))
    with pytest.raises(ValueError, match="pseudo_labels must have 3 rows"):
        SimplexDisplay.from_predictions(three, pseudo_labels=three[:2])
    with pytest.raises(ValueError, match="3 entries"):
        SimplexDisplay.from_predictions(three, names=["a"])
    with pytest.raises(ValueError, match=r"y must have shape \(3,\)"):
        SimplexDisplay.from_predictions(three, y=[1])
