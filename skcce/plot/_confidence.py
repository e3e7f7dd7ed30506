"""How sure the clusters are, and how rightly."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce.metrics import match_labels
from skcce.plot._display import (
    ALARM,
    GREY,
    MAIN,
    SECOND,
    agrees,
    check_count,
    check_labels,
    check_proba,
    divide,
    import_pyplot,
    probabilities_of,
    size_in_points,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# So many clusters are named, if their confidence exceeds their accuracy by so much.
_N_NAMED = 4
_LEAST_EXCESS = 0.05


class ConfidenceDisplay:
    r"""Confidence of the predictions, and with classes, how right they are.

    The confidence of a sample is the probability of its cluster,
    :math:`c_i = \max_k \sigma_{ik}`. Draws, on the left, its histogram; and on the
    right,

    - without classes, its distribution in each cluster (median, middle half, and 5 to
      95 percent), from the least confident cluster to the most confident one;
    - with classes, the reliability: the share of samples whose class is the one that
      their cluster is matched to (:func:`skcce.metrics.match_labels`) against the mean
      confidence, for bins of confidence, and as a dot of its size for each cluster. The
      clusters that are farthest below the diagonal, so the most overconfident ones,
      have their number. The title has the accuracy and the expected calibration error,

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
    axes_ : ndarray of shape (2,)
        The panels.
    figure_ : matplotlib Figure
        The figure of the panels.
    ece_ : float or None
        Expected calibration error, from 0 to 1; None without classes.
    bins_line_ : matplotlib Line2D or None
        Accuracy against confidence, by bins; None without classes.
    cluster_dots_ : matplotlib PathCollection
        A dot for each cluster that is not empty: accuracy against mean confidence, in
        the order of the clusters; without classes, the median, in the order drawn.

    Notes
    -----
    The matching is made on the same samples: on few samples a class, the accuracy is
    optimistic, so that the confidence looks better than it is. With more clusters than
    classes, samples in clusters without a class count as wrong.

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

    def __init__(
        self,
        confidence: NDArray,
        labels: NDArray,
        *,
        n_clusters: int,
        correct: NDArray | None = None,
        n_bins: int = 10,
    ):
        self.confidence = confidence
        self.labels = labels
        self.n_clusters = n_clusters
        self.correct = correct
        self.n_bins = n_bins

    def plot(self, *, ax: "Axes | ArrayLike | None" = None) -> Self:
        """Draw the histogram, and the reliability or the distributions.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of 2 Axes, default=None
            Where to draw. Axes are divided into panels; an array holds the panels. None
            makes a new figure.

        Returns
        -------
        self : ConfidenceDisplay
            This display.
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
        if self.correct is None:
            groups, colors, names = [self.confidence], [MAIN], None
        else:
            groups = [self.confidence[self.correct], self.confidence[~self.correct]]
            colors, names = [MAIN, SECOND], ["right", "wrong"]
        ax.hist(
            groups,
            bins=np.linspace(0, 1, 2 * self.n_bins + 1),
            weights=[np.full(len(g), 1 / len(self.confidence)) for g in groups],
            stacked=True,
            color=colors,
            label=names,
        )
        if names:
            ax.legend(loc="best", fontsize="small", frameon=False)
        ax.set(xlim=(0, 1), xlabel="Confidence", ylabel="Share of samples")
        ax.set_title(f"Mean confidence {self.confidence.mean():.3f}", fontsize="medium")

    def _draw_reliability(self, ax: "Axes") -> None:
        confidence, correct = self.confidence, self.correct.astype(float)
        n_in_bin, mean, accuracy = _means_by_group(
            _bin_of(confidence, self.n_bins), confidence, correct
        )
        self.ece_ = float(np.average(np.abs(accuracy - mean), weights=n_in_bin))
        ax.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2)
        size, by_cluster, right = _means_by_group(self.labels, confidence, correct)
        self.cluster_dots_ = ax.scatter(
            by_cluster,
            right,
            s=size / size.max() * np.clip(900 / len(size), 22, 200),
            color=SECOND,
            edgecolor="white",
            linewidth=0.5,
            alpha=0.85,
            label="clusters",
            clip_on=False,
            zorder=2.5,
        )
        (self.bins_line_,) = ax.plot(
            mean,
            accuracy,
            color=MAIN,
            marker="s",
            markersize=4.5,
            label="all, in bins",
            clip_on=False,
        )
        excess = by_cluster - right
        numbers = np.unique(self.labels)
        for i in np.argsort(-excess)[:_N_NAMED]:
            if excess[i] > _LEAST_EXCESS:
                ax.annotate(
                    f"{numbers[i]}",
                    (by_cluster[i], right[i]),
                    xytext=(5, -3),
                    textcoords="offset points",
                    ha="left",
                    va="top",
                    fontsize="small",
                    color=ALARM,
                )
        ax.legend(loc="best", fontsize="small", frameon=False)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Mean confidence", ylabel="Accuracy")
        ax.set_title(
            f"ACC {100 * correct.mean():.1f}, ECE {100 * self.ece_:.1f} %",
            fontsize="medium",
        )

    def _draw_distributions(self, ax: "Axes") -> None:
        groups = {k: self.confidence[self.labels == k] for k in np.unique(self.labels)}
        levels = {
            k: np.quantile(group, [0.05, 0.25, 0.5, 0.75, 0.95])
            for k, group in groups.items()
        }
        order = sorted(levels, key=lambda k: (levels[k][2], levels[k][1]))
        low, lower, median, upper, high = np.array([levels[k] for k in order]).T
        x = np.arange(len(order))
        width = np.clip(0.45 * size_in_points(ax)[0] / len(x), 1.0, 9.0)
        ax.vlines(x, low, high, color=MAIN, linewidth=max(0.6, width / 6), alpha=0.5)
        ax.vlines(x, lower, upper, color=MAIN, linewidth=width)
        self.cluster_dots_ = ax.scatter(
            x,
            median,
            s=max(1.8, 0.6 * width) ** 2,
            facecolor="white" if width > 3 else "black",
            edgecolor="black",
            linewidth=0.8 if width > 3 else 0,
            clip_on=False,
            zorder=3,
        )
        ticks = thinned(len(x), size_in_points(ax)[0], each=16)
        ax.set_xticks(ticks, [str(order[i]) for i in ticks], fontsize="small")
        ax.set(xlim=(-0.7, len(x) - 0.3), ylim=(0, 1.02))
        ax.set(xlabel="Cluster, by median")
        ax.set_ylabel("Confidence: median, 50 %, 90 %")
        ax.set_title(
            f"{len(order)} of {self.n_clusters} clusters in use", fontsize="medium"
        )

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        n_bins: int = 10,
        ax: "Axes | ArrayLike | None" = None,
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
        n_bins : int, default=10
            Number of bins of the reliability.
        ax : matplotlib Axes or array-like of 2 Axes, default=None
            See ``plot``.

        Returns
        -------
        display : ConfidenceDisplay
            The display, drawn.
        """
        import_pyplot()
        proba = probabilities_of(estimator, X)
        return cls.from_predictions(proba, y, n_bins=n_bins, ax=ax)

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
        display : ConfidenceDisplay
            The display, drawn.
        """
        proba = check_proba(proba)
        check_count(n_bins, "n_bins")
        labels, correct = proba.argmax(axis=1), None
        if y is not None:
            y = check_labels(y, proba, "y")
            correct = agrees(y, labels, match_labels(y, labels))
        return cls(
            np.minimum(proba.max(axis=1), 1),
            labels,
            n_clusters=proba.shape[1],
            correct=correct,
            n_bins=n_bins,
        ).plot(ax=ax)


def _bin_of(confidence: NDArray, n_bins: int) -> NDArray:
    """Return the bin of each confidence; 1, too, is in the last one."""
    return np.clip((confidence * n_bins).astype(int), 0, n_bins - 1)


def _means_by_group(group: NDArray, *values: NDArray) -> list[NDArray]:
    """Return the sizes of the groups that occur, and the means of values in them."""
    _, index, sizes = np.unique(group, return_inverse=True, return_counts=True)
    return [sizes, *(np.bincount(index, weights=value) / sizes for value in values)]
