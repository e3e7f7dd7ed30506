"""Predictions for three clusters, on a triangle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce._pseudo_labels import solve_pseudo_labels
from skcce.plot._display import (
    GREY,
    check_labels,
    check_proba,
    colors_of,
    import_pyplot,
    place,
    probabilities_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of more classes than these, the legend names some.
_MOST_NAMES = 12
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


class SimplexDisplay:
    r"""Predictions of three clusters as points of a triangle.

    Draws each prediction :math:`\sigma` at

    .. math::

        p(\sigma) = \sigma_0 v_0 + \sigma_1 v_1 + \sigma_2 v_2,

    where :math:`v_k` is the corner of cluster k: a sure prediction is in a corner, an
    even one in the middle. Lines mark where the assignment changes. The colors are the
    classes, or without them, the assigned clusters. With pseudo-labels, a thin line
    leads from each prediction to a cross, its pseudo-label.

    Use ``from_estimator`` or ``from_predictions``, which check what they are given.

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
    ax_ : matplotlib Axes
        Where the triangle is.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    points_ : list of matplotlib PathCollection
        The predictions: one collection a class, in sorted order, or one a cluster.
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

    def __init__(
        self,
        proba: NDArray,
        *,
        pseudo_labels: NDArray | None = None,
        y: NDArray | None = None,
        names: Sequence[str] | None = None,
    ):
        self.proba = proba
        self.pseudo_labels = pseudo_labels
        self.y = y
        self.names = names

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw the triangle.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        self : SimplexDisplay
            This display.
        """
        ax = place(ax, (5.6, 5.2))
        from matplotlib.collections import LineCollection

        middle = _CORNERS.mean(axis=0)
        halves = (_CORNERS + np.roll(_CORNERS, -1, axis=0)) / 2
        ax.fill(*_CORNERS.T, facecolor="none", edgecolor=GREY, linewidth=1.2, zorder=1)
        ax.add_collection(
            LineCollection(
                [(middle, half) for half in halves],
                colors=GREY,
                linewidths=0.8,
                linestyles=":",
                zorder=1,
            )
        )
        groups = self.proba.argmax(axis=1) if self.y is None else self.y
        values = np.arange(3) if self.y is None else np.unique(self.y)
        points = barycentric(self.proba)
        targets = None
        if self.pseudo_labels is not None:
            targets = barycentric(self.pseudo_labels)
        alpha = float(np.clip(20 / np.sqrt(len(points)), 0.5, 0.9))
        self.points_, self.crosses_ = [], []
        for value, color in zip(values, colors_of(len(values)), strict=True):
            mine = groups == value
            if targets is not None:
                ax.add_collection(
                    LineCollection(
                        np.stack([points[mine], targets[mine]], axis=1),
                        colors=color,
                        linewidths=0.7,
                        alpha=0.5 * alpha,
                        zorder=2,
                    )
                )
                self.crosses_.append(
                    ax.scatter(
                        *targets[mine].T,
                        s=32,
                        color=color,
                        marker="x",
                        linewidth=1.2,
                        clip_on=False,
                        zorder=4,
                    )
                )
            self.points_.append(
                ax.scatter(
                    *points[mine].T,
                    s=16,
                    color=color,
                    alpha=alpha,
                    linewidth=0,
                    label=str(value),
                    clip_on=False,
                    zorder=3,
                )
            )
        names = self.names or [f"cluster {k}" for k in range(3)]
        for corner, name in zip(_CORNERS, names, strict=True):
            up = corner[1] > 0
            ax.annotate(
                str(name),
                corner,
                xytext=(0, 8 if up else -8),
                textcoords="offset points",
                ha="center",
                va="bottom" if up else "top",
                parse_math=False,
            )
        self._explain(ax)
        ax.set(xlim=(-0.08, 1.08), ylim=(-0.1, 0.97), aspect="equal")
        ax.set_axis_off()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _explain(self, ax: "Axes") -> None:
        """Add a legend, of the classes and of the two markers."""
        from matplotlib.lines import Line2D

        handles = []
        if self.y is not None:
            handles += self.points_[:: -(-len(self.points_) // _MOST_NAMES)]
        if self.crosses_:
            handles += [
                Line2D(
                    [],
                    [],
                    color=GREY,
                    marker=marker,
                    markersize=size,
                    linestyle="",
                    label=label,
                )
                for marker, size, label in [
                    ("o", 4, "prediction"),
                    ("x", 6, "pseudo-label"),
                ]
            ]
        if handles:
            legend = ax.legend(
                handles=handles, fontsize="small", frameon=False, loc="upper left"
            )
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
        names: Sequence[str] | None = None,
        ax: "Axes | None" = None,
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
        names : sequence of 3 str, default=None
            Names of the corners.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        display : SimplexDisplay
            The display, drawn.
        """
        import_pyplot()
        proba = _check_three(probabilities_of(estimator, X), "proba")
        pseudo_labels = None
        if lam is not None:
            pseudo_labels = solve_pseudo_labels(proba, lam=lam).pseudo_labels
        return cls.from_predictions(
            proba, pseudo_labels=pseudo_labels, y=y, names=names, ax=ax
        )

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
        display : SimplexDisplay
            The display, drawn.
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
            y = check_labels(y, proba, "y")
        if names is not None and len(names) != 3:
            raise ValueError(f"names={names!r} must have 3 entries, got {len(names)}.")
        return cls(proba, pseudo_labels=pseudo_labels, y=y, names=names).plot(ax=ax)


def barycentric(proba: NDArray) -> NDArray:
    """Return points of the plane for probabilities of three clusters."""
    return proba @ _CORNERS


def _check_three(proba: ArrayLike, name: str) -> NDArray:
    proba = check_proba(proba, name)
    if proba.shape[1] != 3:
        raise ValueError(
            f"{name} must have 3 columns, one a corner of the triangle, got "
            f"{proba.shape[1]}."
        )
    return proba
