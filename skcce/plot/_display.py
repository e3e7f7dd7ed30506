"""What the displays share: checked predictions, a place to draw, and colors."""

from collections.abc import Hashable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline

from skcce.metrics import check_none_missing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Ten hues that color-blind readers can tell apart: Petroff, arXiv:2107.02270.
HUES = (
    "#3f90da #ffa90e #bd1f01 #832db6 #94a4a2 #a96b59 #e76300 #b9ac70 #717581 #92dadd"
).split()
MAIN, SECOND, ALARM = HUES[:3]
GREY = "#6b6b6b"


def import_pyplot() -> Any:
    """Return matplotlib.pyplot, or say what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "skcce.plot needs matplotlib: pip install matplotlib"
        ) from error
    return plt


def place(ax: "Axes | None", figsize: tuple[float, float]) -> "Axes":
    """Return `ax`, or the axes of a new figure."""
    if ax is not None:
        return ax
    return import_pyplot().figure(figsize=figsize, layout="constrained").add_subplot()


def divide(
    ax: "Axes | ArrayLike | None",
    figsize: tuple[float, float],
    shape: tuple[int, int],
    **ratios: Any,
) -> "tuple[Axes | None, NDArray]":
    """Return `ax`, or new axes, and the panels that it is divided into.

    An array of axes holds the panels themselves; then there is no `ax`.
    """
    if isinstance(ax, (np.ndarray, list, tuple)):
        panels = np.asarray(ax, dtype=object).ravel()
        if len(panels) != np.prod(shape):
            raise ValueError(
                f"ax holds {len(panels)} axes, the display has {np.prod(shape)} panels."
            )
        return None, panels
    ax = place(ax, figsize)
    if ax.get_subplotspec() is None:
        raise ValueError(
            "ax has no place in a grid, so it cannot be divided into panels. Make it "
            "with add_subplot or subplots."
        )
    if not ax.axison:
        raise ValueError(
            "ax is divided already, or switched off. To draw into the same panels "
            "again, pass ax=display.axes_."
        )
    ax.set_axis_off()
    if ax.figure.get_layout_engine() is None:
        # Without an engine, nothing else makes room for the labels between panels.
        ratios = {"wspace": 0.4, "hspace": 0.35, **ratios}
    grid = ax.get_subplotspec().subgridspec(*shape, **ratios)
    return ax, np.array([ax.figure.add_subplot(spec) for spec in grid], dtype=object)


def size_in_points(ax: "Axes") -> tuple[float, float]:
    """Return width and height of `ax`; a layout engine may still change them."""
    box = ax.get_window_extent()
    points = 72 / ax.figure.dpi
    return box.width * points, box.height * points


def add_legend(ax: "Axes", *, above: bool = False, **kwargs: Any) -> Any:
    """Return a new legend of `ax`; one above it should be a single line."""
    if above:
        kwargs |= {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    return ax.legend(fontsize="small", frameon=False, **kwargs)


def thinned(n: int, points: float, *, each: float = 9.0) -> NDArray:
    """Return the first of n ticks, and every further one that leaves it `each`."""
    return np.arange(0, n, max(1, int(np.ceil(each * n / points))))


def colors_of(n: int) -> list:
    """Return n colors: different hues for up to ten, a uniform map for more."""
    if n <= len(HUES):
        return HUES[:n]
    return list(import_pyplot().get_cmap("viridis")(np.linspace(0, 1, n)))


def split(estimator: Any) -> tuple[Pipeline | None, Any]:
    """Return the steps before the clusterer, None if there are none, and it."""
    best = getattr(estimator, "best_estimator_", estimator)  # of a search
    if not isinstance(best, Pipeline):
        return None, best
    return (best[:-1] if len(best) > 1 else None), best[-1]


def probabilities_of(estimator: Any, X: Any) -> NDArray:
    """Return the predictions of an estimator, unchecked, or say that it has none."""
    if not hasattr(estimator, "predict_proba"):
        raise TypeError(
            f"estimator={type(estimator).__name__} must have predict_proba, as "
            "CollisionClusterer and GaussianMixture have, or be a pipeline that ends "
            "in one that has."
        )
    return estimator.predict_proba(X)


def check_labels(labels: ArrayLike, n_samples: int, name: str = "labels") -> NDArray:
    """Return `labels` as an array, if there is one for each sample and none is NaN."""
    labels = np.asarray(labels)
    if labels.shape != (n_samples,):
        raise ValueError(
            f"{name} must have shape ({n_samples},), one entry per sample, got shape "
            f"{labels.shape}."
        )
    check_none_missing(labels, name)
    return labels


def check_count(value: int, name: str) -> None:
    """Raise an error unless this is an int, and positive."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}={value!r} must be an int.")
    if value < 1:
        raise ValueError(f"{name}={value!r} must be at least 1.")


def agrees(
    y: NDArray, labels: NDArray, matched: Mapping[Hashable, Hashable]
) -> NDArray[np.bool_]:
    """Return where the class is the one that the cluster is matched to."""
    pairs = zip(y.tolist(), labels.tolist(), strict=True)
    return np.array([k in matched and matched[k] == t for t, k in pairs])
