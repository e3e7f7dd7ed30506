"""How a training went."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skcce._progress import balance_of
from skcce.plot._display import (
    GREY,
    HUES,
    MAIN,
    SECOND,
    colors_of,
    divide,
    import_pyplot,
    legend_above,
    size_in_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More epochs than these are a line without markers.
_MOST_MARKERS = 40


class TrainingDisplay:
    r"""Loss, balance and cluster shares over the epochs of a training.

    Draws three panels, one below the other:

    - the loss of each epoch;
    - the balance of the clusters, which is the entropy of their shares :math:`\bar y`
      relative to that of equal ones, :math:`-\sum_k \bar y_k \ln \bar y_k / \ln K`,
      and the share of clusters that are in use: a collapse is a drop of both;
    - the shares of the samples in each cluster: stacked, one color a cluster, or for
      more than ten clusters, their median, quartiles and extremes.

    Use ``from_estimator`` or ``from_curves``, which check what they are given.

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
    axes_ : ndarray of shape (3,)
        The panels.
    figure_ : matplotlib Figure
        The figure of the panels.
    loss_line_ : matplotlib Line2D
        The loss.
    balance_line_ : matplotlib Line2D
        The balance.
    used_line_ : matplotlib Line2D
        The share of clusters in use.
    share_areas_ : list of matplotlib PolyCollection
        The shares: one area a cluster, or the two bands of the quantiles.

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

    def __init__(self, loss_curve: ArrayLike, share_curve: ArrayLike):
        self.loss_curve = loss_curve
        self.share_curve = share_curve

    def plot(self, *, ax: "Axes | ArrayLike | None" = None) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of 3 Axes, default=None
            Where to draw. Axes are divided into panels; an array holds the panels. None
            makes a new figure.

        Returns
        -------
        self : TrainingDisplay
            This display.
        """
        self.ax_, self.axes_ = divide(
            ax, (7.0, 7.0), (3, 1), height_ratios=[1.1, 0.8, 1.1]
        )
        top, middle, bottom = self.axes_
        shares = np.asarray(self.share_curve)
        n_epochs, n_clusters = shares.shape
        epochs = np.arange(1, n_epochs + 1)
        marker = {"marker": "o" if n_epochs <= _MOST_MARKERS else "", "markersize": 3.5}
        (self.loss_line_,) = top.plot(epochs, self.loss_curve, color=MAIN, **marker)
        used = np.count_nonzero(shares, axis=1)
        balance = [balance_of(row) for row in shares]
        (self.used_line_,) = middle.plot(
            epochs,
            used / n_clusters,
            color=SECOND,
            # Wide enough to be seen where the balance is on top of it.
            linewidth=3.5,
            label=f"clusters in use ({used[-1]} of {n_clusters})",
            **marker,
        )
        (self.balance_line_,) = middle.plot(
            epochs,
            balance,
            color=MAIN,
            label=f"balance ({balance[-1]:.3f})",
            **marker,
        )
        legend_above(middle, ncols=2)
        draw = _draw_areas if n_clusters <= len(HUES) else _draw_quantiles
        self.share_areas_ = draw(bottom, shares)
        top.set_ylabel("Loss")
        middle.set(ylabel="Balance", ylim=(0, 1.08))
        bottom.set(ylabel="Cluster shares", xlabel="Epoch")
        for panel in self.axes_:
            panel.set_xlim(0.5, n_epochs + 0.5)
            panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in self.axes_[:-1]:
            # Not label_outer, which looks at the user's other columns, too.
            panel.tick_params(labelbottom=False)
        self.figure_ = top.figure
        self.figure_.align_ylabels(list(self.axes_))
        return self

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: "Axes | ArrayLike | None" = None
    ) -> Self:
        """Draw how a clusterer was trained.

        Parameters
        ----------
        estimator : CollisionClusterer or Pipeline
            Fitted, or loaded; a pipeline has to end in one.
        ax : matplotlib Axes or array-like of 3 Axes, default=None
            See ``plot``.

        Returns
        -------
        display : TrainingDisplay
            The display, drawn.
        """
        import_pyplot()
        best = getattr(estimator, "best_estimator_", estimator)  # of a search
        last = best[-1] if isinstance(best, Pipeline) else best
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
        """Draw given curves, such as those of a training under way.

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
        display : TrainingDisplay
            The display, drawn.
        """
        losses = np.asarray(loss_curve, dtype=float)
        shares = np.asarray(share_curve, dtype=float)
        if losses.ndim != 1 or shares.ndim != 2 or len(losses) != len(shares):
            raise ValueError(
                "loss_curve and share_curve must have shapes (n_epochs,) and "
                f"(n_epochs, n_clusters), got {losses.shape} and {shares.shape}."
            )
        if shares.size == 0:
            raise ValueError(
                "loss_curve and share_curve are empty, at least 1 epoch is needed."
            )
        if shares.min() < 0 or np.abs(shares.sum(axis=1) - 1).max() > 1e-3:
            raise ValueError(
                "share_curve must have non-negative rows that sum to 1, got a minimum "
                f"of {shares.min():g} and sums from {shares.sum(axis=1).min():g} to "
                f"{shares.sum(axis=1).max():g}."
            )
        return cls(losses, shares).plot(ax=ax)


def _steps(values: NDArray) -> tuple[NDArray, NDArray]:
    """Return edges and values of steps, one epoch wide; so one epoch is seen, too."""
    edges = np.arange(len(values) + 1) + 0.5
    return edges, np.concatenate([values, values[-1:]])


def _draw_areas(ax: "Axes", shares: NDArray) -> list:
    """Draw one area a cluster, stacked, with its number where there is room."""
    edges, tops = _steps(np.cumsum(shares, axis=1))
    n_clusters = shares.shape[1]
    bottoms = np.column_stack([np.zeros(len(tops)), tops[:, :-1]])
    areas = [
        ax.fill_between(
            edges,
            bottoms[:, k],
            tops[:, k],
            step="post",
            facecolor=color,
            edgecolor="white",
            linewidth=0.5,
            alpha=0.85,
        )
        for k, color in enumerate(colors_of(n_clusters))
    ]
    ax.set_ylim(0, 1)
    height = size_in_points(ax)[1]
    fontsize = np.clip(0.9 * height / n_clusters, 5.0, 9.0)
    highest = -np.inf
    for k, share in enumerate(shares[-1]):
        middle = tops[-1, k] - share / 2
        if share > 0 and (middle - highest) * height > 0.8 * fontsize:
            highest = middle
            ax.annotate(
                f"{k}",
                (1, middle),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=fontsize,
                annotation_clip=False,
            )
    return areas


def _draw_quantiles(ax: "Axes", shares: NDArray) -> list:
    """Draw the extremes, quartiles and median of the shares."""
    edges, levels = _steps(np.quantile(shares, [0, 0.25, 0.5, 0.75, 1], axis=1).T)
    bands = [
        ax.fill_between(
            edges,
            levels[:, low],
            levels[:, high],
            step="post",
            color=MAIN,
            alpha=alpha,
            linewidth=0,
            label=label,
        )
        for low, high, alpha, label in [
            (0, 4, 0.25, "smallest to largest"),
            (1, 3, 0.55, "middle half"),
        ]
    ]
    ax.step(edges, levels[:, 2], where="post", color=MAIN, label="median")
    ax.axhline(
        1 / shares.shape[1], color=GREY, linestyle=":", linewidth=1.2, label="equal"
    )
    ax.set_ylim(bottom=0)
    legend_above(ax, ncols=4, handlelength=1.2, columnspacing=1.2)
    return bands
