"""Classes against clusters."""

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass
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

# Numbers in the cells that would be smaller are not drawn.
_LEAST_POINTS = 5.5
# What each `normalize` sums over, and what its colors then show.
_CELLS = {
    None: (None, "Samples"),
    "true": (1, "% of the class"),
    "pred": (0, "% of the cluster"),
    "all": ((0, 1), "% of all samples"),
}


@dataclass(eq=False, repr=False)
class ClusterConfusionDisplay:
    """Confusion matrix of classes and clusters, matched one to one.

    Draws how many samples of each class (row) are in each cluster (column). The
    clusters are in the order of the classes that they are matched to
    (:func:`skcce.metrics.match_labels`), so that the diagonal is what agrees. Clusters
    without a class and classes without a cluster come last, after a line. The title has
    the clustering accuracy, which is the share of the diagonal, the normalized mutual
    information and the adjusted Rand index.

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
    ax_, figure_ : matplotlib Axes and Figure
        Where the matrix is.
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

    confusion_matrix: NDArray
    _: KW_ONLY
    classes: NDArray
    clusters: NDArray
    n_matched: int
    scores: dict[str, float]
    display_labels: ArrayLike | None = None
    normalize: Literal["true", "pred", "all"] | None = None

    def plot(
        self,
        *,
        cmap: Any = "Blues",
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
        ClusterConfusionDisplay
        """
        cells = self.confusion_matrix * (1 if self.normalize is None else 100)
        n_classes, n_clusters = cells.shape
        cell = min(0.45, 8 / max(cells.shape))
        figsize = max(4.8, 2.2 + cell * n_clusters), max(3.2, 1.0 + cell * n_classes)
        ax = place(ax, figsize)
        width, height = size_in_points(ax)
        self.im_ = ax.imshow(
            cells, cmap=cmap, vmin=0, interpolation="nearest", aspect="auto"
        )
        fontsize = _fontsize(cells, min(width / n_clusters, height / n_classes))
        if include_values is None:
            include_values = fontsize >= _LEAST_POINTS
        self.text_ = []
        if include_values:
            self.text_ = _write(ax, cells, fontsize, self.im_.cmap)
        if colorbar:
            label = _CELLS[self.normalize][1]
            ax.figure.colorbar(self.im_, ax=ax, label=label, pad=0.02)
        # Lines between what is matched and what is not.
        if self.n_matched < n_clusters:
            ax.axvline(self.n_matched - 0.5, color=GREY, linewidth=1)
        if self.n_matched < n_classes:
            ax.axhline(self.n_matched - 0.5, color=GREY, linewidth=1)
        self._name(ax, width, height)
        title = ", ".join(f"{k} {100 * v:.1f}" for k, v in self.scores.items())
        ax.set_title(f"{title} %", fontsize="medium")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _name(self, ax: "Axes", width: float, height: float) -> None:
        """Name rows and columns, as many as there is room for."""
        names = self.classes if self.display_labels is None else self.display_labels
        rows = thinned(len(self.classes), height)
        columns = thinned(len(self.clusters), width)
        digits = max(len(str(cluster)) for cluster in self.clusters)
        rotation = 90 if width / len(columns) < 7 * digits else 0
        size = "small" if max(self.confusion_matrix.shape) > 15 else "medium"
        style = dict(fontsize=size, parse_math=False)  # names may have dollars in them
        ax.set_yticks(rows, [str(names[i]) for i in rows], **style)
        names = [str(self.clusters[i]) for i in columns]
        ax.set_xticks(columns, names, rotation=rotation, **style)
        ax.set(xlabel="Cluster", ylabel="Class")

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: ArrayLike, **kwargs: Any
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
        **kwargs : dict
            Arguments of ``from_predictions``: ``normalize``, ``display_labels``, and
            those of ``plot``.

        Returns
        -------
        ClusterConfusionDisplay
        """
        import_pyplot()
        return cls.from_predictions(y, estimator.predict(X), **kwargs)

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        labels: ArrayLike,
        *,
        normalize: Literal["true", "pred", "all"] | None = None,
        display_labels: ArrayLike | None = None,
        **kwargs: Any,
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
        **kwargs : dict
            Arguments of ``plot``: ``cmap``, ``include_values``, ``colorbar``, ``ax``.

        Returns
        -------
        ClusterConfusionDisplay
        """
        if normalize not in _CELLS:
            raise ValueError(
                f"normalize={normalize!r} must be 'true', 'pred', 'all' or None."
            )
        y_true = check_labels(y_true, len(labels), "y_true")
        labels = check_labels(labels, len(y_true))
        classes, clusters = np.unique(y_true), np.unique(labels)
        names = classes if display_labels is None else np.asarray(display_labels)
        if len(names) != len(classes):
            raise ValueError(
                f"display_labels must have {len(classes)} names, one for each class, "
                f"got {len(names)}."
            )
        matched = match_labels(y_true, labels)
        rows, columns = _matched_first(classes, clusters, matched)
        table = contingency_matrix(y_true, labels)[np.ix_(rows, columns)]
        if normalize is not None:
            # No class and no cluster is empty, so there is no division by zero.
            table = table / table.sum(axis=_CELLS[normalize][0], keepdims=True)
        return cls(
            table,
            classes=classes[rows],
            clusters=clusters[columns],
            n_matched=len(matched),
            scores={
                "ACC": clustering_accuracy_score(y_true, labels),
                "NMI": normalized_mutual_info_score(y_true, labels),
                "ARI": adjusted_rand_score(y_true, labels),
            },
            display_labels=names[rows],
            normalize=normalize,
        ).plot(**kwargs)


def _matched_first(
    classes: NDArray, clusters: NDArray, matched: dict[Hashable, Hashable]
) -> tuple[NDArray, NDArray]:
    """Return orders of the classes and of the clusters, matched pairs first.

    The pairs are in the order of the classes, so they are on the diagonal.
    """
    row_of = {name: i for i, name in enumerate(classes.tolist())}
    column_of = {name: i for i, name in enumerate(clusters.tolist())}
    pairs = sorted((row_of[name], column_of[k]) for k, name in matched.items())
    rows, columns = np.array(pairs).T
    return (
        np.r_[rows, np.setdiff1d(np.arange(len(classes)), rows)],
        np.r_[columns, np.setdiff1d(np.arange(len(clusters)), columns)],
    )


def _fontsize(cells: NDArray, side: float) -> float:
    """Return the size of the numbers that fit into cells of this side, in points."""
    digits = len(str(round(cells.max())))
    return min(10.0, 0.85 * side / max(1, 0.6 * digits))


def _write(ax: "Axes", cells: NDArray, fontsize: float, cmap: Any) -> list:
    """Write the numbers into the cells, but for zeros."""
    # Each in the end of the color map that is farther from the color of its cell.
    is_high = cells > cells.max() / 2
    colors = np.where(is_high[..., None], cmap(0.0), cmap(1.0))
    style = {"ha": "center", "va": "center", "fontsize": fontsize}
    return [
        ax.text(column, row, str(n), color=colors[row, column], **style)
        for (row, column), n in np.ndenumerate(np.round(cells).astype(int))
        if n
    ]
