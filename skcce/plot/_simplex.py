"""Predictions for three clusters, on a triangle."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce._pseudo_labels import solve_pseudo_labels
from skcce.losses import check_simplex_rows
from skcce.plot._display import (
    GREY,
    add_legend,
    check_labels,
    colors_of,
    import_pyplot,
    place,
    probabilities_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more classes than this, the legend names some of them.
_MOST_NAMES = 12
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
_POINT = dict(s=16, linewidth=0, clip_on=False, zorder=3)
_CROSS = dict(s=32, marker="x", linewidth=1.2, clip_on=False, zorder=4)


@dataclass(eq=False, repr=False)
class SimplexDisplay:
    r"""Predictions of three clusters as points of a triangle.

    Draws each prediction :math:`\sigma` at
    :math:`\sigma_0 v_0 + \sigma_1 v_1 + \sigma_2 v_2`, where :math:`v_k` is the corner
    of cluster k: a sure prediction is in a corner, an even one in the middle. Lines
    mark where the assignment changes. The colors are the classes, or without them, the
    assigned clusters. With pseudo-labels, a thin line leads from each prediction to a
    cross, its pseudo-label.

    Use ``from_estimator`` or ``from_predictions``, which check their input.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, 3)
        Predictions.
    pseudo_labels : ndarray of shape (n_samples, 3), default=None
        Soft pseudo-labels of the same samples.
    y : ndarray of shape (n_samples,), default=None
        Classes.
    names : sequence of 3 str, default=None
        Names of the corners. None means the numbers of the clusters.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where the triangle is.
    points_ : list of matplotlib PathCollection
        The predictions: one collection per class, in sorted order, or per cluster.
    crosses_ : list of matplotlib PathCollection
        The pseudo-labels, likewise; empty if there are none.

    See Also
    --------
    skcce.solve_pseudo_labels : Where pseudo-labels come from.

    Examples
    --------
    >>> import numpy as np
    >>> from skcce import solve_pseudo_labels
    >>> from skcce.plot import SimplexDisplay
    >>> proba = np.random.default_rng(0).dirichlet([2, 1, 1], size=50)
    >>> result = solve_pseudo_labels(proba, lam=1.0)
    >>> display = SimplexDisplay.from_predictions(
    ...     proba, pseudo_labels=result.pseudo_labels
    ... )
    >>> [text.get_text() for text in display.ax_.texts]
    ['cluster 0', 'cluster 1', 'cluster 2']
    """

    proba: NDArray
    _: KW_ONLY
    pseudo_labels: NDArray | None = None
    y: NDArray | None = None
    names: Sequence[str] | None = None

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw the triangle.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        SimplexDisplay
        """
        ax = place(ax, (5.6, 5.2))
        names = [f"cluster {k}" for k in range(3)] if self.names is None else self.names
        _draw_triangle(ax, names)
        groups = self.proba.argmax(axis=1) if self.y is None else self.y
        values = np.arange(3) if self.y is None else np.unique(self.y)
        points = barycentric(self.proba)
        alpha = float(np.clip(20 / np.sqrt(len(points)), 0.5, 0.9))
        self.points_, self.crosses_ = [], []
        for value, color in zip(values, colors_of(len(values)), strict=True):
            mine = groups == value
            start = points[mine]
            if self.pseudo_labels is not None:
                end = barycentric(self.pseudo_labels[mine])
                style = dict(color=color, lw=0.7, alpha=0.5 * alpha, zorder=2)
                _draw_lines(ax, start, end, **style)
                self.crosses_.append(ax.scatter(*end.T, color=color, **_CROSS))
            style = dict(color=color, alpha=alpha, label=value, **_POINT)
            self.points_.append(ax.scatter(*start.T, **style))
        self._explain(ax)
        ax.set(xlim=(-0.08, 1.08), ylim=(-0.1, 0.97), aspect="equal")
        ax.set_axis_off()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _explain(self, ax: "Axes") -> None:
        """Add a legend of the classes and of the two markers."""
        step = -(-len(self.points_) // _MOST_NAMES)
        handles = [] if self.y is None else self.points_[::step]
        if self.crosses_:
            style = dict(color=GREY, linestyle="")
            handles += ax.plot([], [], "o", markersize=4, label="prediction", **style)
            handles += ax.plot([], [], "x", markersize=6, label="pseudo-label", **style)
        if handles:
            legend = add_legend(ax, handles=handles, loc="upper left")
            for handle in legend.legend_handles:
                handle.set_alpha(1)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        lam: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the predictions of a fitted clusterer.

        Parameters
        ----------
        estimator : clusterer or Pipeline
            Fitted, with ``predict_proba``, of three clusters.
        X : array-like
            What it predicts on.
        y : array-like of shape (n_samples,), default=None
            Classes, for the colors.
        lam : float, default=None
            Show where :func:`skcce.solve_pseudo_labels` puts the pseudo-labels of these
            predictions with this weight of the fairness, and equal shares. None shows
            no pseudo-labels.
        **kwargs : dict
            Arguments of ``from_predictions``: ``names``, ``ax``.

        Returns
        -------
        SimplexDisplay
        """
        import_pyplot()
        proba = _check_three(probabilities_of(estimator, X), "proba")
        soft = (
            None if lam is None else solve_pseudo_labels(proba, lam=lam).pseudo_labels
        )
        return cls.from_predictions(proba, pseudo_labels=soft, y=y, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        proba: ArrayLike,
        *,
        pseudo_labels: ArrayLike | None = None,
        y: ArrayLike | None = None,
        names: Sequence[str] | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw given predictions.

        Parameters
        ----------
        proba : array-like of shape (n_samples, 3)
            Probabilities of the clusters.
        pseudo_labels : array-like of shape (n_samples, 3), default=None
            Soft pseudo-labels of the same samples.
        y : array-like of shape (n_samples,), default=None
            Classes, for the colors.
        names : sequence of 3 str, default=None
            Names of the corners.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        SimplexDisplay
        """
        proba = _check_three(proba, "proba")
        if pseudo_labels is not None:
            pseudo_labels = _check_three(pseudo_labels, "pseudo_labels")
            if len(pseudo_labels) != len(proba):
                raise ValueError(
                    f"pseudo_labels must have {len(proba)} rows, as proba has, got "
                    f"{len(pseudo_labels)}."
                )
        if y is not None:
            y = check_labels(y, len(proba), "y")
        if names is not None and len(names) != 3:
            raise ValueError(f"names={names!r} must have 3 entries, got {len(names)}.")
        return cls(proba, pseudo_labels=pseudo_labels, y=y, names=names).plot(ax=ax)


def barycentric(proba: NDArray) -> NDArray:
    """Return points of the plane for probabilities of three clusters."""
    return proba @ _CORNERS


def _check_three(proba: ArrayLike, name: str) -> NDArray:
    proba = check_simplex_rows(proba, name)
    if proba.shape[1] != 3:
        raise ValueError(
            f"{name} must have 3 columns, one for each corner of the triangle, got "
            f"{proba.shape[1]}."
        )
    return proba


def _draw_triangle(ax: "Axes", names: Sequence[str]) -> None:
    """Draw the sides, the names of the corners, and where the assignment changes."""
    ax.fill(*_CORNERS.T, facecolor="none", edgecolor=GREY, linewidth=1.2, zorder=1)
    middles = (_CORNERS + np.roll(_CORNERS, -1, axis=0)) / 2
    centers = np.tile(_CORNERS.mean(axis=0), (3, 1))
    _draw_lines(ax, centers, middles, color=GREY, lw=0.8, linestyle=":", zorder=1)
    style = dict(textcoords="offset points", ha="center", parse_math=False)
    for corner, name in zip(_CORNERS, names, strict=True):
        offset, va = (8, "bottom") if corner[1] > 0 else (-8, "top")
        ax.annotate(str(name), corner, xytext=(0, offset), va=va, **style)


def _draw_lines(ax: "Axes", starts: NDArray, ends: NDArray, **style: Any) -> None:
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(np.stack([starts, ends], axis=1), **style))
