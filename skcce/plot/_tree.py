"""How clusters join."""

import textwrap
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from skcce._images import image_sequence
from skcce.losses import check_simplex_rows
from skcce.plot._display import (
    GREY,
    check_count,
    check_labels,
    colors_of,
    import_pyplot,
    place,
    size_in_points,
    split,
)
from skcce.plot._montage import (
    GAP,
    INCHES,
    INFO,
    LETTER,
    TILE,
    choose,
    height_of,
    label_of,
    label_texts,
    paint,
    read_tiles,
    width_of,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes

# All lengths are in tiles, as in the montage.
_TREE, _HEAD, _BETWEEN_ROWS, _BEFORE_LABELS = 5.0, 0.4, 0.16, 0.3
# Room for the axis below a new figure, in inches.
_FOOT = 0.5
_LINE_SPACING, _LETTERS_PER_NAME, _LETTERS_PER_TEXT = 1.35, 22, 64
# Line width, and the diameter of the dot of the largest cluster.
_LINE, _DOT = 0.05, 0.34
# In proportion to the range of heights: the least and the longest stub of a cluster,
# how far above all others a join of infinite height is, and the stem of the last join.
_LEAST_STUB, _LONGEST_STUB, _TO_INFINITY, _STEM = 0.12, 1.0, 0.15, 0.06
_MOST_CLUSTERS = 30


@dataclass(eq=False, repr=False)
class TreeDisplay:
    r"""Tree of the clusters: which of them join first, and what is in them.

    Draws a dendrogram, from all samples on the left to the clusters on the right, the
    larger one of each two on top. A join is the farther to the right, the more similar
    the two clusters are. The dashed line is the cut; what joins below it has one color.
    Each cluster ends in a dot, as large as the cluster, followed by its name, its
    number, its share of the samples, and its most confident samples: images, or texts.
    With classes, a cluster has the name of the class of more than half of its samples.

    Use ``from_estimator`` or ``from_predictions``, which choose and read the samples.

    Parameters
    ----------
    linkage : ndarray of shape (n_clusters - 1, 4)
        Joins of the drawn clusters, in the format of
        :func:`scipy.cluster.hierarchy.linkage`. The first of two clusters is drawn on
        top. Heights may be negative, or infinite at the end.
    shares : ndarray of shape (n_clusters,)
        Share of the samples in each cluster.
    names : list of length n_clusters
        Name of each cluster; None where it has only a number.
    n_cut : int, default=None
        Number of clusters at the dashed line. None draws no line; then each cluster has
        a color of its own.
    floor : float, default=None
        Height of the last join within the drawn clusters, below which the line may not
        be. None if there is none.
    indices : ndarray of shape (n_clusters, n_exemplars), default=None
        The samples that are shown of each cluster; -1 where there is none. None shows
        no samples.
    tiles : dict, default=None
        ``{index: image}`` of the shown samples; images are uint8 arrays of shape
        (H, W, 3).
    texts : dict, default=None
        ``{index: text}`` of the shown samples.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where the tree is.
    lines_ : matplotlib LineCollection
        The tree: the stem of each cluster and join, in the order of their numbers in
        `linkage`, then the bar of each join.
    dots_ : matplotlib PathCollection
        The dots, in the order of the clusters.
    cut_line_ : matplotlib Line2D or None
        The dashed line.
    im_ : matplotlib AxesImage or None
        All images, in one.
    text_ : list of matplotlib Text
        Names, shares and texts.

    See Also
    --------
    MontageDisplay : More images of each cluster.
    scipy.cluster.hierarchy.dendrogram : Trees of any data.

    Examples
    --------
    Any linkage of clusters can be drawn:

    >>> from scipy.cluster.hierarchy import linkage
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from skcce.plot import TreeDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> kmeans = KMeans(20, random_state=0).fit(X)
    >>> display = TreeDisplay.from_predictions(
    ...     linkage(kmeans.cluster_centers_, "ward"),
    ...     kmeans.labels_,
    ...     n_cut=10,
    ...     images=X.reshape(-1, 8, 8),
    ... )
    >>> display.indices.shape
    (20, 3)
    """

    linkage: NDArray
    shares: NDArray
    _: KW_ONLY
    names: list
    n_cut: int | None = None
    floor: float | None = None
    indices: NDArray | None = None
    tiles: "Mapping[int, NDArray] | None" = None
    texts: "Mapping[int, str] | None" = None

    def plot(self, *, ax: "Axes | None" = None) -> Self:
        """Draw the tree.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure, which grows with the number of
            clusters; everything is in proportion to the size of the axes.

        Returns
        -------
        TreeDisplay
        """
        import_pyplot()
        layout = self._arrange()
        size = np.array([layout.width, layout.height + _HEAD])
        if ax is None:
            # The margins are those of a constrained layout, and of the axis.
            ax = place(None, tuple(size * INCHES + [0.1, _FOOT]))
            points = 72 * INCHES
        else:
            points = min(size_in_points(ax) / size)
        self._draw_tree(ax, layout, points)
        self.im_ = None
        if self.tiles is not None:
            n_rows, n_tiles = self.indices.shape
            left = np.tile(np.arange(n_tiles), (n_rows, 1))
            top, size = layout.y[:n_rows] - TILE / 2, (n_tiles, layout.height)
            canvas = paint(self.tiles, self.indices, left, top, size)
            extent = (layout.right, layout.right + n_tiles, layout.height, 0)
            self.im_ = ax.imshow(canvas, extent=extent)
        self.text_ = write(ax, self._write(layout), points)
        ax.set(xlim=(-GAP, layout.width), ylim=(layout.height, -_HEAD), aspect="equal")
        _draw_axis(ax, layout, self.linkage[:, 2], points)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _arrange(self) -> "_Layout":
        n_clusters = len(self.shares)
        numbered = enumerate(zip(self.names, self.shares, strict=True))
        labels = [
            label_of(k, name, share, _LETTERS_PER_NAME) for k, (name, share) in numbered
        ]
        right = _TREE + _BEFORE_LABELS + max(width_of(*label) for label in labels)
        pitch, width, lines = max(height_of(name) for name, _ in labels), right, None
        if self.tiles is not None:
            pitch, width = max(pitch, TILE), right + self.indices.shape[1]
        if self.texts is not None:
            lines = [[self.texts[i] for i in row if i >= 0] for row in self.indices]
            pitch = max(pitch, self.indices.shape[1] * _LINE_SPACING * INFO)
            longest = max((len(text) for text in self.texts.values()), default=0)
            width = right + longest * LETTER * INFO
        pitch += _BETWEEN_ROWS
        order = _members(self.linkage)[-1]
        y = np.empty(2 * n_clusters - 1)
        y[order] = (np.arange(n_clusters) + 0.5) * pitch
        for node, pair in enumerate(_pairs(self.linkage), n_clusters):
            y[node] = y[pair].mean()
        return _Layout(
            width=width,
            height=n_clusters * pitch,
            right=right,
            labels=labels,
            lines=lines,
            y=y,
            levels=_levels(self.linkage[:, 2], self.floor),
        )

    def _draw_tree(self, ax: "Axes", layout: "_Layout", points: float) -> None:
        from matplotlib.collections import LineCollection

        n_clusters, pairs = len(self.shares), _pairs(self.linkage)
        y, x = layout.y, layout.x(layout.levels.of_nodes)
        # Where the stem of each node ends: at its join, the last one at the margin.
        end = np.zeros(len(x))
        end[pairs] = x[n_clusters:, None]
        stems = [[(x[i], y[i]), (end[i], y[i])] for i in range(len(x))]
        bars = [
            [(x[i], y[a]), (x[i], y[b])] for i, (a, b) in enumerate(pairs, n_clusters)
        ]
        colors = _node_colors(self.linkage, self.n_cut or n_clusters, y)
        self.lines_ = LineCollection(
            stems + bars,
            colors=colors + colors[n_clusters:],
            linewidth=_LINE * points,
            capstyle="projecting",
        )
        ax.add_collection(self.lines_, autolim=False)
        area = self.shares / (self.shares.max() or 1.0) * (_DOT * points) ** 2
        style = dict(linewidth=0, zorder=3, clip_on=False)
        k = slice(n_clusters)
        self.dots_ = ax.scatter(x[k], y[k], area, color=colors[k], **style)
        self.cut_line_ = None
        if self.n_cut is not None:
            at = layout.x(layout.levels.cut(self.n_cut))
            (self.cut_line_,) = ax.plot(
                [at, at],
                [-0.1, layout.height],
                color=GREY,
                linestyle="--",
                linewidth=0.5 * _LINE * points,
                zorder=1,
            )

    def _write(self, layout: "_Layout") -> "Iterator[tuple[float, float, str, dict]]":
        """Yield x, y, text and style of all that is written, sizes in tiles."""
        if self.n_cut is not None:
            style = dict(fontsize=INFO, color=GREY, ha="center", va="bottom")
            at = layout.x(layout.levels.cut(self.n_cut))
            plural = "s" if self.n_cut > 1 else ""
            yield at, -0.13, f"{self.n_cut} cluster{plural}", style
        left = _TREE + _BEFORE_LABELS
        for k, (name, below) in enumerate(layout.labels):
            yield from label_texts(name, below, left, layout.y[k])
            if layout.lines is not None:
                style = dict(fontsize=INFO, va="center", linespacing=_LINE_SPACING)
                yield layout.right, layout.y[k], "\n".join(layout.lines[k]), style

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: ArrayLike | None = None,
        *,
        n_clusters: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the tree of a fitted clusterer.

        Parameters
        ----------
        estimator : CollisionClusterer or Pipeline
            Fitted; a pipeline has to end in one.
        X : array-like, default=None
            The samples, to predict on. None means those of the fit; the first samples
            of each cluster are then shown instead of the most confident ones.
        y : array-like of shape (n_samples,), default=None
            Classes of the samples, if there are any.
        n_clusters : int, default=None
            How many clusters are drawn: those of ``estimator.cut(n_clusters)``, with
            the same numbers. None means as many as the clusterer found, but 30 at most.
            The dashed line is where it cuts the tree itself; it is not drawn where that
            is within the drawn clusters.
        **kwargs : dict
            Arguments of ``from_predictions``: ``images``, ``texts``, ``n_exemplars``,
            ``ax``.

        Returns
        -------
        TreeDisplay
        """
        import_pyplot()
        before, last = split(estimator)
        check_is_fitted(last)
        if hasattr(last, "cut"):
            last.tree_  # noqa: B018 - says why there is none
        if not hasattr(last, "tree_"):
            raise TypeError(
                f"estimator={type(last).__name__} must be a CollisionClusterer, or a "
                "pipeline that ends in one; others keep no tree. Draw a linkage of "
                "your own with from_predictions."
            )
        tree = last.tree_
        n_leaves = len(tree.linkage) + 1
        if n_clusters is None:
            n_clusters = min(tree.n_clusters, _MOST_CLUSTERS)
        check_count(n_clusters, "n_clusters")
        if n_clusters > n_leaves:
            raise ValueError(
                f"n_clusters={n_clusters!r} must be at most {n_leaves}, the number of "
                "clusters that the tree begins with."
            )
        part = last.cut(n_clusters)
        if X is None:
            labels = part.labels_
            confidence = getattr(part, "probabilities_", None)
        else:
            rows = X if before is None else before.transform(X)
            proba = check_simplex_rows(part.predict_proba(rows), "proba")
            labels, confidence = proba.argmax(axis=1), proba.max(axis=1)
        within = n_leaves - n_clusters
        return cls.from_predictions(
            _joins_of(tree.linkage, tree.cut(n_clusters)),
            labels,
            confidence=confidence,
            y=y,
            n_cut=tree.n_clusters if tree.n_clusters <= n_clusters else None,
            floor=tree.linkage[within - 1, 2] if within else None,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        linkage: ArrayLike,
        labels: ArrayLike,
        *,
        confidence: ArrayLike | None = None,
        y: ArrayLike | None = None,
        images: Any = None,
        texts: ArrayLike | None = None,
        n_exemplars: int = 3,
        n_cut: int | None = None,
        floor: float | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the tree of given clusters.

        Parameters
        ----------
        linkage : array-like of shape (n_clusters - 1, 4)
            Joins of the clusters, in the format of
            :func:`scipy.cluster.hierarchy.linkage`; the counts are not used.
        labels : array-like of shape (n_samples,)
            Cluster of each sample, from 0 to ``n_clusters - 1``, as in `linkage`; -1
            is none.
        confidence : array-like of shape (n_samples,), default=None
            Probability of the assigned cluster. None shows the first samples of each
            cluster instead of the most confident ones.
        y : array-like of shape (n_samples,), default=None
            Classes of the samples, which name the clusters.
        images : array-like, default=None
            Images of the samples, to be shown: see ``MontageDisplay.from_predictions``.
        texts : array-like of shape (n_samples,), default=None
            Texts of the samples, to be shown instead of images. Long ones are cut.
        n_exemplars : int, default=3
            How many images or texts of each cluster are shown.
        n_cut : int, default=None
            Number of clusters at the dashed line. None draws none.
        floor : float, default=None
            Height of the last join within the clusters, if they are made of others.
        **kwargs : dict
            Arguments of ``plot``: ``ax``.

        Returns
        -------
        TreeDisplay
        """
        linkage = _check_linkage(linkage)
        n_clusters = len(linkage) + 1
        labels = check_labels(labels, len(labels))
        numbers = np.unique(labels).tolist()
        if not numbers or not set(numbers) <= set(range(-1, n_clusters)):
            raise ValueError(
                f"labels must be from 0 to {n_clusters - 1}, the clusters of linkage, "
                f"or -1, got {textwrap.shorten(str(numbers), 60)}."
            )
        if confidence is not None:
            confidence = check_labels(confidence, len(labels), "confidence")
        if n_cut is not None:
            check_count(n_cut, "n_cut")
            if n_cut > n_clusters:
                raise ValueError(
                    f"n_cut={n_cut!r} must be at most {n_clusters}, the number of "
                    "clusters."
                )
        check_count(n_exemplars, "n_exemplars")
        if images is not None and texts is not None:
            raise ValueError("images and texts cannot both be shown; pass one of them.")
        members = [np.flatnonzero(labels == k) for k in range(n_clusters)]
        shares = np.array([len(rows) / len(labels) for rows in members])
        names = [None] * n_clusters
        if y is not None:
            y = check_labels(y, len(labels), "y")
            names = [_class_of_most(y[rows].tolist()) for rows in members]
        indices = tiles = None
        if images is not None or texts is not None:
            ranked = members
            if confidence is not None:
                order = np.argsort(-confidence, kind="stable")
                ranked = [order[labels[order] == k] for k in range(n_clusters)]
            indices = np.array([choose(rows, None, n_exemplars) for rows in ranked])
            shown = np.unique(indices[indices >= 0]).tolist()
        if images is not None:
            images = image_sequence(images)
            if len(images) != len(labels):
                raise ValueError(
                    f"images must be {len(labels)}, one for each sample, got "
                    f"{len(images)}."
                )
            tiles = read_tiles(images, shown)
        if texts is not None:
            texts = np.asarray(texts, dtype=object)
            texts = check_labels(texts, len(labels), "texts")
            texts = {i: _shortened(str(texts[i])) for i in shown}
        return cls(
            _larger_first(linkage, shares),
            shares,
            names=names,
            n_cut=n_cut,
            floor=floor,
            indices=indices,
            tiles=tiles,
            texts=texts,
        ).plot(**kwargs)


class _Levels(NamedTuple):
    """Where heights are drawn; joins of infinite height are finite here."""

    bottom: float  # where the clusters begin
    floor: float  # the last join that is not drawn is not above this
    joins: NDArray
    top: float  # where the stem of the last join ends

    @property
    def of_nodes(self) -> NDArray:
        """The level of each cluster, then of each join."""
        return np.r_[np.full(len(self.joins) + 1, self.bottom), self.joins]

    def cut(self, n_clusters: int) -> float:
        """Return the level between the joins below and above a cut."""
        levels = [self.floor, *self.joins, self.top]
        below = len(self.joins) + 1 - n_clusters
        return (levels[below] + levels[below + 1]) / 2


class _Layout(NamedTuple):
    """Where everything is, and how large all of it is, in tiles."""

    width: float
    height: float
    right: float  # where the images or texts begin
    labels: list[tuple[str, str]]  # of each cluster: its name, and what is below it
    lines: list[list[str]] | None  # texts of each cluster
    y: NDArray  # of each cluster, then of each join
    levels: _Levels

    def x(self, level: Any) -> Any:
        """Return where a level is."""
        top, bottom = self.levels.top, self.levels.bottom
        return _TREE * (top - level) / (top - bottom)


def _check_linkage(linkage: ArrayLike) -> NDArray:
    """Return joins as floats, if each is of two earlier nodes, and above those before.

    scipy's own check refuses negative heights.
    """
    linkage = np.asarray(linkage, dtype=float)
    if linkage.ndim != 2 or linkage.shape[1] != 4:
        raise ValueError(
            f"linkage must have shape (n_clusters - 1, 4), got shape {linkage.shape}."
        )
    nodes, n_joins = linkage[:, :2], len(linkage)
    is_once = np.array_equal(np.sort(nodes, axis=None), np.arange(2 * n_joins))
    if not is_once or (nodes.max(axis=1) > n_joins + np.arange(n_joins)).any():
        raise ValueError("linkage must join every cluster once, after it is made.")
    if np.isnan(linkage[:, 2]).any() or (linkage[1:, 2] < linkage[:-1, 2]).any():
        raise ValueError("linkage must have heights that do not decrease.")
    return linkage


def _pairs(linkage: NDArray) -> NDArray:
    return linkage[:, :2].astype(int)


def _members(linkage: NDArray) -> list[list[int]]:
    """Return the clusters in each node, from top to bottom; the last node has all."""
    members = [[k] for k in range(len(linkage) + 1)]
    for a, b in _pairs(linkage):
        members.append(members[a] + members[b])
    return members


def _larger_first(linkage: NDArray, shares: NDArray) -> NDArray:
    """Return the joins with the larger one of two first, and counts of clusters."""
    members = _members(linkage)
    ordered = linkage.copy()
    for row, (a, b) in zip(ordered, _pairs(linkage), strict=True):
        if shares[members[a]].sum() < shares[members[b]].sum():
            row[:2] = b, a
        row[3] = len(members[a]) + len(members[b])
    return ordered


def _roots(linkage: NDArray, n_clusters: int) -> NDArray:
    """Return the nodes that are left when only this many clusters are."""
    n_joins = len(linkage) + 1 - n_clusters
    n_nodes = len(linkage) + 1 + n_joins
    return np.setdiff1d(np.arange(n_nodes), _pairs(linkage)[:n_joins])


def _joins_of(linkage: NDArray, groups: NDArray) -> NDArray:
    """Return the linkage of groups of leaves, which are a cut of another linkage."""
    members, n_groups = _members(linkage), groups.max() + 1
    number = {node: groups[members[node][0]] for node in _roots(linkage, n_groups)}
    n_joins = len(groups) - n_groups
    joins = linkage[n_joins:].copy()
    for row, pair in enumerate(_pairs(joins)):
        joins[row, :2] = [number[node] for node in pair]
        number[len(groups) + n_joins + row] = n_groups + row
    return joins


def _node_colors(linkage: NDArray, n_cut: int, y: NDArray) -> list:
    """Return a color for each node: of its cluster, if it is below the cut."""
    n_clusters, roots = len(linkage) + 1, _roots(linkage, n_cut)
    group = np.full(len(y), -1)
    group[roots[np.argsort(y[roots])]] = np.arange(n_cut)
    for node in reversed(range(n_clusters, len(y))):
        if group[node] >= 0:
            group[_pairs(linkage)[node - n_clusters]] = group[node]
    colors = [*colors_of(n_cut), GREY]
    return [colors[k] for k in group]


def _levels(heights: NDArray, floor: float | None) -> _Levels:
    """Return where joins of these heights are drawn, and what is around them."""
    known = heights[np.isfinite(heights)]
    has_floor = floor is not None and np.isfinite(floor)
    if not len(known):
        known = np.array([floor if has_floor else 0.0])
    low, high = known[[0, -1]]
    span = (high - low) or 1.0
    bottom = low - _LEAST_STUB * span
    if has_floor:
        bottom = max(min(bottom, floor), low - _LONGEST_STUB * span)
    joins = np.where(np.isfinite(heights), heights, high + _TO_INFINITY * span)
    return _Levels(
        bottom=bottom,
        floor=max(bottom, floor) if has_floor else bottom,
        joins=joins,
        top=max([high, *joins]) + _STEM * span,
    )


def _draw_axis(ax: "Axes", layout: _Layout, heights: NDArray, points: float) -> None:
    """Draw the axis of the heights, below the tree only."""
    from matplotlib.ticker import MaxNLocator

    levels, known = layout.levels, heights[np.isfinite(heights)]
    ticks, names = [], []
    if len(known):
        # Heights below 0 are marked only where there are any.
        low = max(levels.bottom, min(0, known[0]))
        ticks = MaxNLocator(5).tick_values(low, known[-1])
        ticks = ticks[(ticks >= low) & (ticks <= known[-1])].tolist()
        names = [f"{tick + 0:g}" for tick in ticks]  # no "-0"
    if len(known) < len(heights):
        ticks.append(levels.joins[-1])
        names.append("∞")
    size = INFO * points
    ax.set_xticks(layout.x(np.array(ticks)), names)
    ax.tick_params(labelsize=size, labelcolor=GREY, color=GREY)
    middle = (GAP + _TREE / 2) / (GAP + layout.width)
    ax.set_xlabel("height of the joins", fontsize=size, color=GREY, x=middle)
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set(color=GREY, bounds=(0, _TREE))


def _class_of_most(classes: list) -> Any:
    """Return the class of more than half of these, None if there is none."""
    for name, count in Counter(classes).most_common(1):
        if 2 * count > len(classes):
            return name
    return None


def _shortened(text: str) -> str:
    """Return a text on one line, no longer than fits."""
    text = " ".join(text.split())
    if len(text) <= _LETTERS_PER_TEXT:
        return text
    return text[: _LETTERS_PER_TEXT - 1].rstrip() + "…"
