"""How sure the clusters are, and how often they are right."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce.losses import check_simplex_rows
from skcce.metrics import match_labels
from skcce.plot._display import (
    ALARM,
    GREY,
    MAIN,
    SECOND,
    add_legend,
    agrees,
    check_count,
    check_labels,
    divide,
    import_pyplot,
    probabilities_of,
    size_in_points,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to four clusters are numbered, if their confidence exceeds their accuracy by this.
_N_NUMBERED = 4
_LEAST_EXCESS = 0.05
_DOT = dict(
    color=SECOND,
    edgecolor="white",
    linewidth=0.5,
    alpha=0.85,
    clip_on=False,
    zorder=2.5,
)
_BINS = dict(color=MAIN, marker="s", markersize=4.5, clip_on=False)
_NUMBER = dict(textcoords="offset points", va="top", fontsize="small", color=ALARM)


@dataclass(eq=False, repr=False)
class ConfidenceDisplay:
    r"""Confidence of the predictions, and with classes, how right they are.

    The confidence of a sample is the probability of its cluster,
    :math:`c_i = \max_k \sigma_{ik}`. Draws its histogram on the left, and on the right,

    - without classes, its distribution in each cluster (median, middle half, and 5 to
      95 percent), from the least confident cluster to the most confident one;
    - with classes, the reliability: the share of samples whose class is the one that
      their cluster is matched to (:func:`skcce.metrics.match_labels`) against the mean
      confidence, for bins of confidence, and as a dot for each cluster, as large as the
      cluster. The most overconfident clusters, farthest below the diagonal, are
      numbered. The title has the accuracy and the expected calibration error,

      .. math::

          \mathrm{ECE} = \sum_b \frac{n_b}{n}
          \left| \mathrm{acc}_b - \mathrm{conf}_b \right|,

      over bins b of equal width [1]_.

    Use ``from_estimator`` or ``from_predictions``, which do the matching.

    Parameters
    ----------
    confidence : ndarray of shape (n_samples,)
        Probability of the assigned cluster.
    labels : ndarray of shape (n_samples,)
        The assigned cluster, from 0 to ``n_clusters - 1``.
    n_clusters : int
        Number of clusters.
    correct : ndarray of shape (n_samples,), default=None
        Whether the class is the one that the cluster is matched to. None means that
        there are no classes.
    n_bins : int, default=10
        Number of bins of the reliability. The histogram has two for each.

    Attributes
    ----------
    ax_ : matplotlib Axes or None
        The axes that were divided; None if `ax` was an array.
    axes_, figure_ : ndarray of shape (2,) and matplotlib Figure
        The panels.
    ece_ : float or None
        Expected calibration error, from 0 to 1; None without classes.
    bins_line_ : matplotlib Line2D or None
        Accuracy against confidence, by bins; None without classes.
    cluster_dots_ : matplotlib PathCollection
        A dot for each cluster that is not empty: accuracy against mean confidence, in
        the order of the clusters; without classes, the median, in the order drawn.

    Notes
    -----
    The matching is made on the same samples: with few samples per class, the accuracy
    is optimistic, so that the confidence looks better than it is. With more clusters
    than classes, samples in clusters without a class count as wrong.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger. "On Calibration of Modern Neural Networks".
       ICML 2017.

    Examples
    --------
    >>> from skcce.plot import ConfidenceDisplay
    >>> proba = [[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]]
    >>> display = ConfidenceDisplay.from_predictions(proba, ["a", "a", "b", "a"])
    >>> print(f"{display.ece_:.2f}")
    0.40
    """

    confidence: NDArray
    labels: NDArray
    _: KW_ONLY
    n_clusters: int
    correct: NDArray | None = None
    n_bins: int = 10

    def plot(self, *, ax: "Axes | ArrayLike | None" = None) -> Self:
        """Draw the histogram, and the reliability or the distributions.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of 2 Axes, default=None
            Where to draw. Axes are divided into panels; an array holds the panels. None
            makes a new figure.

        Returns
        -------
        ConfidenceDisplay
        """
        self.ax_, self.axes_ = divide(ax, (9.0, 4.2), (1, 2))
        left, right = self.axes_
        self._draw_histogram(left)
        if self.correct is None:
            self.ece_ = self.bins_line_ = None
            self._draw_distributions(right)
        else:
            self._draw_reliability(right)
        for panel in self.axes_:
            panel.spines[["top", "right"]].set_visible(False)
        self.figure_ = left.figure
        return self

    def _draw_histogram(self, ax: "Axes") -> None:
        groups, names = [self.confidence], None
        if self.correct is not None:
            groups = [self.confidence[self.correct], self.confidence[~self.correct]]
            names = ["right", "wrong"]
        ax.hist(
            groups,
            bins=np.linspace(0, 1, 2 * self.n_bins + 1),
            weights=[np.full(len(g), 1 / len(self.confidence)) for g in groups],
            stacked=True,
            color=[MAIN, SECOND][: len(groups)],
            label=names,
        )
        if names:
            add_legend(ax, loc="best")
        ax.set(xlim=(0, 1), xlabel="Confidence", ylabel="Share of samples")
        ax.set_title(f"Mean confidence {self.confidence.mean():.3f}", fontsize="medium")

    def _draw_reliability(self, ax: "Axes") -> None:
        confidence, correct = self.confidence, self.correct.astype(float)
        bins = np.minimum((confidence * self.n_bins).astype(int), self.n_bins - 1)
        _, in_bin, mean, accuracy = _means_by_group(bins, confidence, correct)
        self.ece_ = float(np.average(np.abs(accuracy - mean), weights=in_bin))
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
        clusters, size, sure, right = _means_by_group(self.labels, confidence, correct)
        area = size / size.max() * np.clip(900 / len(size), 22, 200)
        self.cluster_dots_ = ax.scatter(sure, right, area, label="clusters", **_DOT)
        (self.bins_line_,) = ax.plot(mean, accuracy, label="all, in bins", **_BINS)
        excess = sure - right
        for i in np.argsort(-excess)[:_N_NUMBERED]:
            if excess[i] > _LEAST_EXCESS:
                ax.annotate(f"{clusters[i]}", (sure[i], right[i]), (5, -3), **_NUMBER)
        add_legend(ax, loc="best")
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Mean confidence", ylabel="Accuracy")
        title = f"ACC {100 * correct.mean():.1f}, ECE {100 * self.ece_:.1f} %"
        ax.set_title(title, fontsize="medium")

    def _draw_distributions(self, ax: "Axes") -> None:
        clusters, levels = _quantiles_by_group(self.labels, self.confidence)
        low, lower, median, upper, high = levels.T
        x, points = np.arange(len(clusters)), size_in_points(ax)[0]
        width = np.clip(0.45 * points / len(x), 1.0, 9.0)
        ax.vlines(x, low, high, color=MAIN, linewidth=max(0.6, width / 6), alpha=0.5)
        ax.vlines(x, lower, upper, color=MAIN, linewidth=width)
        fill, edge = ("white", 0.8) if width > 3 else ("black", 0)
        style = dict(facecolor=fill, edgecolor="black", linewidth=edge, zorder=3)
        area = max(1.8, 0.6 * width) ** 2
        self.cluster_dots_ = ax.scatter(x, median, area, clip_on=False, **style)
        ticks = thinned(len(x), points, each=16)
        ax.set_xticks(ticks, [str(k) for k in clusters[ticks]], fontsize="small")
        ax.set(xlim=(-0.7, len(x) - 0.3), ylim=(0, 1.02))
        ax.set(xlabel="Cluster, by median", ylabel="Confidence: median, 50 %, 90 %")
        title = f"{len(x)} of {self.n_clusters} clusters in use"
        ax.set_title(title, fontsize="medium")

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike | None = None, **kwargs: Any
    ) -> Self:
        """Draw the confidence of a fitted clusterer.

        Parameters
        ----------
        estimator : clusterer or Pipeline
            Fitted, with ``predict_proba``.
        X : array-like
            What it predicts on.
        y : array-like of shape (n_samples,), default=None
            Classes, if there are any.
        **kwargs : dict
            Arguments of ``from_predictions``: ``n_bins``, ``ax``.

        Returns
        -------
        ConfidenceDisplay
        """
        import_pyplot()
        return cls.from_predictions(probabilities_of(estimator, X), y, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        proba: ArrayLike,
        y: ArrayLike | None = None,
        *,
        n_bins: int = 10,
        ax: "Axes | ArrayLike | None" = None,
    ) -> Self:
        """Draw the confidence of given predictions.

        Parameters
        ----------
        proba : array-like of shape (n_samples, n_clusters)
            Probabilities of the clusters.
        y : array-like of shape (n_samples,), default=None
            Classes, if there are any.
        n_bins : int, default=10
            Number of bins of the reliability.
        ax : matplotlib Axes or array-like of 2 Axes, default=None
            See ``plot``.

        Returns
        -------
        ConfidenceDisplay
        """
        proba = check_simplex_rows(proba, "proba")
        check_count(n_bins, "n_bins")
        labels, correct = proba.argmax(axis=1), None
        if y is not None:
            y = check_labels(y, len(proba), "y")
            correct = agrees(y, labels, match_labels(y, labels))
        return cls(
            np.minimum(proba.max(axis=1), 1),
            labels,
            n_clusters=proba.shape[1],
            correct=correct,
            n_bins=n_bins,
        ).plot(ax=ax)


def _means_by_group(group: NDArray, *values: NDArray) -> list[NDArray]:
    """Return the groups that occur, their sizes, and the mean of each value in them."""
    groups, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    return [groups, sizes, *(np.bincount(index, weights=v) / sizes for v in values)]


def _quantiles_by_group(group: NDArray, values: NDArray) -> tuple[NDArray, NDArray]:
    """Return the groups in the order of their medians, and five quantiles of each."""
    groups = np.unique(group)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = np.array([np.quantile(values[group == k], levels) for k in groups])
    order = np.lexsort([quantiles[:, 1], quantiles[:, 2]])
    return groups[order], quantiles[order]
