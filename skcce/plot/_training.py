"""How a fit went."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skcce._progress import balance_of
from skcce.losses import check_simplex_rows
from skcce.plot._display import (
    GREY,
    HUES,
    MAIN,
    SECOND,
    add_legend,
    colors_of,
    divide,
    import_pyplot,
    size_in_points,
    split,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# With more epochs than this, lines have no markers.
_MOST_MARKERS = 40
_AREA = dict(step="post", edgecolor="white", linewidth=0.5, alpha=0.85)


@dataclass(eq=False, repr=False)
class TrainingDisplay:
    r"""Loss, balance and cluster shares over the epochs of a fit.

    Draws three panels, one below the other:

    - the loss of each epoch;
    - the balance of the clusters, which is the entropy of their shares :math:`\bar y`
      relative to that of equal ones, :math:`-\sum_k \bar y_k \ln \bar y_k / \ln K`,
      and the share of clusters that are in use: a collapse is a drop of both;
    - the shares of the samples in each cluster: stacked, one color per cluster, or for
      more than ten clusters, their median, quartiles and extremes.

    Use ``from_estimator`` or ``from_curves``, which check their input.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Loss in each epoch.
    share_curve : array-like of shape (n_epochs, n_clusters)
        Share of the samples in each cluster, in each epoch.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        The axes that were divided; None if `ax` was an array.
    axes_, figure_ : ndarray of shape (3,) and matplotlib Figure
        The panels.
    loss_line_, balance_line_, used_line_ : matplotlib Line2D
        The loss, the balance, and the share of clusters in use.
    share_areas_ : list of matplotlib PolyCollection
        The shares: one area per cluster, or the two bands of the quantiles.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce import CollisionClusterer
    >>> from skcce.plot import TrainingDisplay
    >>> X, _ = load_iris(return_X_y=True)
    >>> clusterer = CollisionClusterer(3, tol=0.05, random_state=0).fit(X)
    >>> display = TrainingDisplay.from_estimator(clusterer)
    >>> len(display.loss_line_.get_ydata()) == clusterer.n_iter_
    True
    """

    loss_curve: ArrayLike
    share_curve: ArrayLike

    def plot(self, *, ax: "Axes | ArrayLike | None" = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of 3 Axes, default=None
            Where to draw. Axes are divided into panels; an array holds the panels. None
            makes a new figure.

        Returns
        -------
        TrainingDisplay
        """
        heights = [1.1, 0.8, 1.1]
        self.ax_, self.axes_ = divide(ax, (7.0, 7.0), (3, 1), height_ratios=heights)
        top, middle, bottom = self.axes_
        shares = np.asarray(self.share_curve)
        n_epochs, n_clusters = shares.shape
        epochs = np.arange(1, n_epochs + 1)
        style = dict(marker="o" if n_epochs <= _MOST_MARKERS else "", markersize=3.5)
        (self.loss_line_,) = top.plot(epochs, self.loss_curve, color=MAIN, **style)
        top.set_ylabel("Loss")
        used = np.count_nonzero(shares, axis=1)
        balance = [balance_of(row) for row in shares]
        label = f"clusters in use ({used[-1]} of {n_clusters})"
        # Wide enough to be seen where the balance is on top of it.
        (self.used_line_,) = middle.plot(
            epochs, used / n_clusters, SECOND, linewidth=3.5, label=label, **style
        )
        label = f"balance ({balance[-1]:.3f})"
        (self.balance_line_,) = middle.plot(epochs, balance, MAIN, label=label, **style)
        add_legend(middle, above=True, ncols=2)
        middle.set(ylabel="Balance", ylim=(0, 1.08))
        draw = _draw_areas if n_clusters <= len(HUES) else _draw_quantiles
        self.share_areas_ = draw(bottom, shares)
        bottom.set(ylabel="Cluster shares", xlabel="Epoch")
        for panel in self.axes_:
            panel.set_xlim(0.5, n_epochs + 0.5)
            panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            panel.spines[["top", "right"]].set_visible(False)
            if panel is not bottom:
                # Not label_outer, which also looks at the user's other columns.
                panel.tick_params(labelbottom=False)
        self.figure_ = top.figure
        self.figure_.align_ylabels(list(self.axes_))
        return self

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: "Axes | ArrayLike | None" = None
    ) -> Self:
        """Draw how the fit of a clusterer went.

        Parameters
        ----------
        estimator : CollisionClusterer or Pipeline
            Fitted, or loaded; a pipeline has to end in one.
        ax : matplotlib Axes or array-like of 3 Axes, default=None
            See ``plot``.

        Returns
        -------
        TrainingDisplay
        """
        import_pyplot()
        _, last = split(estimator)
        check_is_fitted(last)
        if not hasattr(last, "share_curve_"):
            raise TypeError(
                f"estimator={type(last).__name__} must be a CollisionClusterer, or a "
                "pipeline that ends in one; others keep no curves."
            )
        return cls.from_curves(last.loss_curve_, last.share_curve_, ax=ax)

    @classmethod
    def from_curves(
        cls,
        loss_curve: ArrayLike,
        share_curve: ArrayLike,
        *,
        ax: "Axes | ArrayLike | None" = None,
    ) -> Self:
        """Draw given curves, such as those of a fit that is still running.

        Parameters
        ----------
        loss_curve : array-like of shape (n_epochs,)
            Loss in each epoch.
        share_curve : array-like of shape (n_epochs, n_clusters)
            Share of the samples in each cluster, in each epoch.
        ax : matplotlib Axes or array-like of 3 Axes, default=None
            See ``plot``.

        Returns
        -------
        TrainingDisplay
        """
        losses = np.asarray(loss_curve, dtype=float)
        shares = check_simplex_rows(share_curve, "share_curve")
        if losses.shape != (len(shares),):
            raise ValueError(
                f"loss_curve must have shape ({len(shares)},), one loss for each row "
                f"of share_curve, got shape {losses.shape}."
            )
        return cls(losses, shares).plot(ax=ax)


def _steps(values: NDArray) -> tuple[NDArray, NDArray]:
    """Return edges and values of steps one epoch wide, so that one epoch is seen."""
    return np.arange(len(values) + 1) + 0.5, np.concatenate([values, values[-1:]])


def _draw_areas(ax: "Axes", shares: NDArray) -> list:
    """Draw one area per cluster, stacked, with its number where there is room."""
    edges, levels = _steps(shares)
    areas = ax.stackplot(edges, levels.T, colors=colors_of(shares.shape[1]), **_AREA)
    ax.set_ylim(0, 1)
    height = size_in_points(ax)[1]
    fontsize = np.clip(0.9 * height / shares.shape[1], 5.0, 9.0)
    style = dict(textcoords="offset points", va="center", annotation_clip=False)
    style["xycoords"] = "axes fraction", "data"
    highest = -np.inf
    for k, (share, top) in enumerate(zip(shares[-1], shares[-1].cumsum(), strict=True)):
        at = top - share / 2
        if share > 0 and (at - highest) * height > 0.8 * fontsize:
            highest = at
            ax.annotate(f"{k}", (1, at), (4, 0), fontsize=fontsize, **style)
    return areas


def _draw_quantiles(ax: "Axes", shares: NDArray) -> list:
    """Draw the extremes, quartiles and median of the shares."""
    edges, levels = _steps(np.quantile(shares, [0, 0.25, 0.5, 0.75, 1], axis=1).T)
    least, lower, median, upper, largest = levels.T
    style = dict(step="post", color=MAIN, linewidth=0)
    bands = [
        ax.fill_between(edges, low, high, alpha=alpha, label=label, **style)
        for low, high, alpha, label in [
            (least, largest, 0.25, "smallest to largest"),
            (lower, upper, 0.55, "middle half"),
        ]
    ]
    ax.step(edges, median, where="post", color=MAIN, label="median")
    equal = 1 / shares.shape[1]
    ax.axhline(equal, color=GREY, linestyle=":", linewidth=1.2, label="equal")
    ax.set_ylim(bottom=0)
    add_legend(ax, above=True, ncols=4, handlelength=1.2, columnspacing=1.2)
    return bands
