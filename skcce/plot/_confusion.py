"""Classes against clusters."""

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from skcce.metrics import clustering_accuracy_score, match_labels
from skcce.plot._display import (
    GREY,
    check_labels,
    import_pyplot,
    place,
    size_in_points,
    thinned,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Smaller numbers in the cells are not drawn.
_LEAST_POINTS = 5.5
_AXES = {None: None, "true": 1, "pred": 0, "all": (0, 1)}
_COLOR_LABELS = {
    None: "Samples",
    "true": "% of the class",
    "pred": "% of the cluster",
    "all": "% of all samples",
}


class ClusterConfusionDisplay:
    r"""Confusion matrix of classes and clusters, matched one to one.

    Draws how many samples of class t are in cluster k,

    .. math::

        C_{tk} = \sum_i [t_i = t]\,[k_i = k],

    with the clusters in the order of the classes that they are matched to by
    :func:`skcce.metrics.match_labels`, so that the diagonal is what agrees. Clusters
    without a class come last, and so do classes without a cluster, each after a line.
    The title has the clustering accuracy, which is the share of the diagonal, the
    normalized mutual information and the adjusted Rand index.

    Use ``from_estimator`` or ``from_predictions``, which find the order and the scores.

    Parameters
    ----------
    confusion_matrix : ndarray of shape (n_classes, n_clusters)
        What the cells show: counts, or shares from 0 to 1.
    classes : ndarray of shape (n_classes,)
        Class of each row.
    clusters : ndarray of shape (n_clusters,)
        Cluster of each column.
    n_matched : int
        Number of matched pairs: the length of the diagonal.
    scores : dict
        Scores for the title, ``{name: value}``, each at most 1.
    display_labels : array-like of shape (n_classes,), default=None
        Name of each row. None means the classes themselves.
    normalize : {"true", "pred", "all"}, default=None
        What the shares are of: of a class, of a cluster, or of all samples. None means
        counts.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the matrix is.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    im_ : matplotlib AxesImage
        The cells.
    text_ : list of matplotlib Text
        The numbers in the cells; empty if the cells are too small for them.

    See Also
    --------
    skcce.metrics.clustering_accuracy_score : The accuracy.
    sklearn.metrics.ConfusionMatrixDisplay : The same for classifiers.

    Examples
    --------
    >>> from skcce.plot import ClusterConfusionDisplay
    >>> y = ["cat", "cat", "cat", "dog", "dog"]
    >>> display = ClusterConfusionDisplay.from_predictions(y, [1, 1, 0, 0, 0])
    >>> display.clusters, display.confusion_matrix
    (array([1, 0]), array([[2, 1],
           [0, 2]]))
    >>> display.ax_.get_title()
    'ACC 80.0, NMI 43.3, ARI 16.7 %'
    """

    def __init__(
        self,
        confusion_matrix: NDArray,
        *,
        classes: NDArray,
        clusters: NDArray,
        n_matched: int,
        scores: dict[str, float],
        display_labels: ArrayLike | None = None,
        normalize: Literal["true", "pred", "all"] | None = None,
    ):
        self.confusion_matrix = confusion_matrix
        self.classes = classes
        self.clusters = clusters
        self.n_matched = n_matched
        self.scores = scores
        self.display_labels = display_labels
        self.normalize = normalize

    def plot(
        self,
        *,
        cmap: str = "Blues",
        include_values: bool | None = None,
        colorbar: bool = True,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw the matrix.

        Parameters
        ----------
        cmap : str or matplotlib Colormap, default="Blues"
            Colors of the cells, from 0 to the largest one.
        include_values : bool, default=None
            Whether to write the numbers into the cells; zeros are left out. None means:
            if they can be read.
        colorbar : bool, default=True
            Whether to draw a scale of the colors.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        self : ClusterConfusionDisplay
            This display.
        """
        # Shares are shown in percent.
        cells = self.confusion_matrix * (1 if self.normalize is None else 100)
        n_classes, n_clusters = cells.shape
        cell = min(0.45, 8 / max(cells.shape))
        ax = place(
            ax,
            (
                max(4.8, 2.2 + cell * n_clusters),
                max(3.2, 1.0 + cell * n_classes),
            ),
        )
        width, height = size_in_points(ax)
        unit = min(width / n_clusters, height / n_classes)
        self.im_ = ax.imshow(
            cells, cmap=cmap, vmin=0, interpolation="nearest", aspect="auto"
        )
        self.text_ = self._write(ax, cells, unit, include_values)
        if colorbar:
            ax.figure.colorbar(
                self.im_, ax=ax, label=_COLOR_LABELS[self.normalize], pad=0.02
            )
        self._separate(ax, n_classes, n_clusters)
        rows = thinned(n_classes, height)
        columns = thinned(n_clusters, width)
        names = self.classes if self.display_labels is None else self.display_labels
        digits = max(len(str(cluster)) for cluster in self.clusters)
        narrow = width / len(columns) < 7 * digits
        size = "small" if max(n_classes, n_clusters) > 15 else "medium"
        ax.set_yticks(
            rows, [str(names[i]) for i in rows], fontsize=size, parse_math=False
        )
        ax.set_xticks(
            columns,
            [str(self.clusters[i]) for i in columns],
            fontsize=size,
            rotation=90 if narrow else 0,
            parse_math=False,
        )
        ax.set(xlabel="Cluster", ylabel="Class")
        title = ", ".join(f"{k} {100 * v:.1f}" for k, v in self.scores.items())
        ax.set_title(f"{title} %", fontsize="medium")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _write(
        self, ax: "Axes", cells: NDArray, unit: float, include_values: bool | None
    ) -> list:
        numbers = np.round(cells).astype(int)
        fontsize = min(10.0, 0.85 * unit / max(1, 0.6 * len(str(numbers.max()))))
        if include_values is None:
            include_values = fontsize >= _LEAST_POINTS
        if not include_values:
            return []
        half = cells.max() / 2
        return [
            ax.text(
                column,
                row,
                f"{number}",
                ha="center",
                va="center",
                fontsize=fontsize,
                # Of the two ends of the map the one that is farther away.
                color=self.im_.cmap(0.0 if cells[row, column] > half else 1.0),
            )
            for (row, column), number in np.ndenumerate(numbers)
            if number
        ]

    def _separate(self, ax: "Axes", n_classes: int, n_clusters: int) -> None:
        """Draw lines between what is matched and what is not."""
        if self.n_matched < n_clusters:
            ax.axvline(self.n_matched - 0.5, color=GREY, linewidth=1)
        if self.n_matched < n_classes:
            ax.axhline(self.n_matched - 0.5, color=GREY, linewidth=1)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        normalize: Literal["true", "pred", "all"] | None = None,
        display_labels: ArrayLike | None = None,
        cmap: str = "Blues",
        include_values: bool | None = None,
        colorbar: bool = True,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw the confusion matrix of a fitted clusterer.

        Parameters
        ----------
        estimator : clusterer or Pipeline
            Fitted, with ``predict``.
        X : array-like
            What it predicts on.
        y : array-like of shape (n_samples,)
            Classes.
        normalize : {"true", "pred", "all"}, default=None
            See ``from_predictions``.
        display_labels : array-like of shape (n_classes,), default=None
            See ``from_predictions``.
        cmap : str or matplotlib Colormap, default="Blues"
            See ``plot``.
        include_values : bool, default=None
            See ``plot``.
        colorbar : bool, default=True
            See ``plot``.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        display : ClusterConfusionDisplay
            The display, drawn.
        """
        import_pyplot()
        return cls.from_predictions(
            y,
            estimator.predict(X),
            normalize=normalize,
            display_labels=display_labels,
            cmap=cmap,
            include_values=include_values,
            colorbar=colorbar,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        labels: ArrayLike,
        *,
        normalize: Literal["true", "pred", "all"] | None = None,
        display_labels: ArrayLike | None = None,
        cmap: str = "Blues",
        include_values: bool | None = None,
        colorbar: bool = True,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw the confusion matrix of given clusters.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            Classes: integers, strings, or anything that can be sorted.
        labels : array-like of shape (n_samples,)
            Clusters, likewise.
        normalize : {"true", "pred", "all"}, default=None
            Show percentages of the class (rows), of the cluster (columns), or of all
            samples. None shows counts.
        display_labels : array-like of shape (n_classes,), default=None
            Names of the classes, in their sorted order. None means the classes
            themselves.
        cmap : str or matplotlib Colormap, default="Blues"
            See ``plot``.
        include_values : bool, default=None
            See ``plot``.
        colorbar : bool, default=True
            See ``plot``.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        display : ClusterConfusionDisplay
            The display, drawn.
        """
        if normalize not in _AXES:
            raise ValueError(
                f"normalize={normalize!r} must be 'true', 'pred', 'all' or None."
            )
        y_true = check_labels(y_true, labels, "y_true")
        labels = check_labels(labels, y_true)
        matched = match_labels(y_true, labels)
        classes, clusters = np.unique(y_true), np.unique(labels)
        if display_labels is not None and len(display_labels) != len(classes):
            raise ValueError(
                f"display_labels must have {len(classes)} names, one for each class, "
                f"got {len(display_labels)}."
            )
        rows, columns = _matched_first(classes, clusters, matched)
        table = contingency_matrix(y_true, labels)[np.ix_(rows, columns)]
        if normalize is not None:
            # No class and no cluster is empty, so there is no division by zero.
            table = table / table.sum(axis=_AXES[normalize], keepdims=True)
        display = cls(
            table,
            classes=classes[rows],
            clusters=clusters[columns],
            n_matched=len(matched),
            scores={
                "ACC": clustering_accuracy_score(y_true, labels),
                "NMI": normalized_mutual_info_score(y_true, labels),
                "ARI": adjusted_rand_score(y_true, labels),
            },
            display_labels=(
                None if display_labels is None else np.asarray(display_labels)[rows]
            ),
            normalize=normalize,
        )
        return display.plot(
            cmap=cmap, include_values=include_values, colorbar=colorbar, ax=ax
        )


def _matched_first(
    classes: NDArray, clusters: NDArray, matched: dict[Hashable, Hashable]
) -> tuple[NDArray, NDArray]:
    """Return an order of classes and one of clusters that puts pairs on the diagonal.

    The pairs are in the order of the classes; what is unmatched comes last.
    """
    row_of = {name: i for i, name in enumerate(classes.tolist())}
    pairs = sorted(
        (row_of[matched[cluster]], column)
        for column, cluster in enumerate(clusters.tolist())
        if cluster in matched
    )
    rows, columns = np.array(pairs).T
    return (
        np.r_[rows, np.setdiff1d(np.arange(len(classes)), rows)],
        np.r_[columns, np.setdiff1d(np.arange(len(clusters)), columns)],
    )
