"""Images of each cluster."""

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce._images import image_sequence, read_image
from skcce.metrics import match_labels
from skcce.plot._display import (
    ALARM,
    GREY,
    agrees,
    check_count,
    check_labels,
    import_pyplot,
    place,
    probabilities_of,
    size_in_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PatchCollection

# All lengths are in tiles. A tile is this wide in a new figure, in inches.
_INCHES = 0.6
_GAP = 0.08
_TILE = 1 - _GAP
_BETWEEN_HALVES = 0.35
_BETWEEN_COLUMNS = 0.7
_ROW = 1.46
_HEAD = 0.4
# The line that explains the frames, and their width.
_FOOT = 0.35
_FRAME = 0.06
# Font sizes, and the width of a letter in proportion.
_NAME, _INFO, _LETTER = 0.29, 0.22, 0.62
_LETTERS_A_LINE = 14
# The shape of a new figure comes near this ratio of width to height.
_RATIO = 1.3
# Sides of a tile on the canvas, in pixels, and of the whole of it.
_LEAST_SIDE, _MOST_SIDE, _MOST_PIXELS = 48, 144, 8_000_000


class MontageDisplay:
    """The most and the least confident images of each cluster.

    Draws a row of images for each cluster: on the left those of which the model is most
    sure, on the right those of which it is least sure, both from sure to unsure, with
    the range of the confidence below. Before the images are the cluster's name, its
    number, and its share of the samples. With classes, a cluster has the name of the
    class that it is matched to (:func:`skcce.metrics.match_labels`), and images of
    other classes have a red frame. Where another class is more frequent in the cluster
    than the matched one, there is neither. A file that cannot be read is a grey tile.

    Use ``from_estimator`` or ``from_predictions``, which choose and read the images.

    Parameters
    ----------
    tiles : dict
        ``{index: image}`` of the shown samples; images are uint8 arrays of shape
        (H, W, 3).
    indices : ndarray of shape (n_rows, n_images)
        The samples in each row, the most confident half first; -1 where there is none.
    clusters : list of length n_rows
        Cluster of each row.
    names : list of length n_rows
        Name of each row; None where the cluster has none but its number.
    shares : ndarray of shape (n_rows,)
        Share of the samples in each cluster.
    confidence : ndarray of shape (n_rows, n_images), default=None
        Confidence of the shown samples. None means that they are not in order of
        confidence, so that there are no halves.
    wrong : ndarray of shape (n_rows, n_images), default=None
        Which images have a frame. None means none of them.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the images are.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    im_ : matplotlib AxesImage
        All images, in one.
    frames_ : matplotlib PatchCollection or None
        The red frames; None if there are none.
    text_ : list of matplotlib Text
        Names, shares and ranges.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.mixture import GaussianMixture
    >>> from skcce.plot import MontageDisplay
    >>> X, y = load_digits(return_X_y=True)
    >>> model = GaussianMixture(10, covariance_type="diag", random_state=0).fit(X)
    >>> display = MontageDisplay.from_estimator(
    ...     model, X, y, images=X.reshape(-1, 8, 8), n_images=6
    ... )
    >>> display.indices.shape
    (10, 6)
    >>> display.names
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        tiles: Mapping[int, NDArray],
        indices: NDArray,
        *,
        clusters: list,
        names: list,
        shares: NDArray,
        confidence: NDArray | None = None,
        wrong: NDArray | None = None,
    ):
        self.tiles = tiles
        self.indices = indices
        self.clusters = clusters
        self.names = names
        self.shares = shares
        self.confidence = confidence
        self.wrong = wrong

    def plot(self, *, n_columns: int | None = None, ax: "Axes | None" = None) -> Self:
        """Draw the images.

        Parameters
        ----------
        n_columns : int, default=None
            In how many columns the clusters are arranged, one below the other in each.
            None chooses what fits the shape of `ax`; of a new figure, a shape that is
            somewhat wider than high.
        ax : matplotlib Axes, default=None
            Where to draw. None makes a new figure, which grows with the number of
            clusters; everything is in proportion to the size of the axes.

        Returns
        -------
        self : MontageDisplay
            This display.
        """
        import_pyplot()
        layout = self._arrange(n_columns, ax)
        if ax is None:
            points = 72 * _INCHES
            # The margins are those of a constrained layout.
            width, height = np.array([layout.width, layout.height]) * _INCHES + 0.1
            ax = place(None, (width, height))
        else:
            points = min(np.divide(size_in_points(ax), (layout.width, layout.height)))

        def write(x: float, y: float, text: str, size: float, **kwargs: Any) -> None:
            # Names may have dollars in them.
            artist = ax.text(
                x, y, text, fontsize=size * points, parse_math=False, **kwargs
            )
            # It is within the axes, so the layout need not measure it.
            artist.set_in_layout(False)
            self.text_.append(artist)

        self.text_ = []
        self.im_ = ax.imshow(
            self._paint(layout), extent=(0, layout.width, layout.height, 0)
        )
        self.frames_ = self._frame(layout, points)
        if self.frames_ is not None:
            ax.add_collection(self.frames_, autolim=False)
            write(0, layout.height, "red: other class", _INFO, va="bottom", color=ALARM)
        for x in np.unique(layout.corners[:, 0]):
            for half, title in zip(self._halves(), self._titles(), strict=True):
                middle = layout.slots[half].mean() + _TILE / 2
                write(x + middle, 0.7 * _HEAD, title, _INFO, ha="center", va="bottom")
        for row, corner in enumerate(layout.corners):
            self._write_name(write, row, *corner)
            self._write_ranges(write, row, corner[0] + layout.slots, corner[1])
        ax.set(xlim=(-_GAP, layout.width), ylim=(layout.height, 0))
        ax.set_axis_off()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _arrange(self, n_columns: int | None, ax: "Axes | None") -> "_Layout":
        n_rows = len(self.clusters)
        label = max(_width_of(*self._label(row)) for row in range(n_rows))
        slots = label + np.arange(self.indices.shape[1], dtype=float)
        for half in self._halves()[1:]:
            slots[half] += _BETWEEN_HALVES
        pitch = slots[-1] + 1 + _BETWEEN_COLUMNS
        if n_columns is None:
            ratio = _RATIO if ax is None else np.divide(*size_in_points(ax))
            n_columns = _best_columns(n_rows, pitch, ratio)
        n_lines = -(-n_rows // n_columns)
        column, line = np.divmod(np.arange(n_rows), n_lines)
        return _Layout(
            width=(column[-1] + 1) * pitch - _BETWEEN_COLUMNS,
            height=_HEAD + n_lines * _ROW + self._is_framed() * _FOOT,
            corners=np.column_stack([column * pitch, _HEAD + line * _ROW]),
            slots=slots,
        )

    def _is_framed(self) -> bool:
        return self.wrong is not None and bool(self.wrong.any())

    def _paint(self, layout: "_Layout") -> NDArray:
        """Return all tiles in one image, transparent where there is none."""
        area = layout.width * layout.height
        unit = int(np.clip(np.sqrt(_MOST_PIXELS / area), _LEAST_SIDE, _MOST_SIDE))
        size = np.ceil([layout.height * unit, layout.width * unit]).astype(int)
        canvas = np.zeros((*size, 4), dtype=np.uint8)
        for (row, slot), index in np.ndenumerate(self.indices):
            if index >= 0:
                x, y = layout.corners[row] + (layout.slots[slot], 0)
                _paste(canvas, self.tiles[index], x, y, unit)
        return canvas

    def _frame(self, layout: "_Layout", points: float) -> "PatchCollection | None":
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        if not self._is_framed():
            return None
        # Inside of the tiles, so that neighbors stay apart.
        side = _TILE - _FRAME
        corners = [
            layout.corners[row] + (layout.slots[slot], 0)
            for row, slot in np.argwhere(self.wrong)
        ]
        return PatchCollection(
            [Rectangle(corner + _FRAME / 2, side, side) for corner in corners],
            facecolor="none",
            edgecolor=ALARM,
            linewidth=_FRAME * points,
            joinstyle="miter",
        )

    def _write_name(self, write: Callable, row: int, x: float, y: float) -> None:
        """Write name and share of a cluster, centered at its tiles."""
        name, info = self._label(row)
        name_height = 1.2 * _NAME * (name.count("\n") + 1)
        top = y + _TILE / 2 - (name_height + 1.35 * _INFO) / 2
        write(x, top, name, _NAME, va="top", weight="bold", linespacing=1.1)
        write(x, top + name_height + 0.2 * _INFO, info, _INFO, va="top", color=GREY)

    def _write_ranges(self, write: Callable, row: int, x: NDArray, y: float) -> None:
        """Write the range of the confidence below each half of a row, or "empty"."""
        if (self.indices[row] < 0).all():
            y += _TILE / 2
            write(x[0], y, "empty", _NAME, va="center", style="italic", color=GREY)
        if self.confidence is None:
            return
        for half in self._halves():
            shown = self.indices[row, half] >= 0
            if shown.any():
                middle = x[half][shown].mean() + _TILE / 2
                text = _range_text(self.confidence[row, half][shown])
                write(middle, y + 1, text, _INFO, ha="center", va="top", color=GREY)

    def _halves(self) -> list[slice]:
        """Return the slots of the most and the least confident images."""
        n_images = self.indices.shape[1]
        half = n_images if self.confidence is None else -(-n_images // 2)
        return [slice(half), slice(half, None)][: 2 if half < n_images else 1]

    def _titles(self) -> list[str]:
        n_images = self.indices.shape[1]
        if self.confidence is None:
            return ["the first ones, without order" if n_images > 2 else "first"]
        words = ["most", "least"] if n_images > 1 else ["most"]
        return [f"{word} confident" if n_images > 3 else word for word in words]

    def _label(self, row: int) -> tuple[str, str]:
        """Return name and further lines of a row."""
        number, share = f"#{self.clusters[row]}", f"{100 * self.shares[row]:.1f} %"
        if self.names[row] is None:
            return number, share
        name = textwrap.wrap(
            str(self.names[row]), _LETTERS_A_LINE, max_lines=2, placeholder="…"
        )
        return "\n".join(name), f"{number}  {share}"

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        images: Any = None,
        n_images: int = 8,
        clusters: Iterable | None = None,
        names: Mapping | Sequence | None = None,
        n_columns: int | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw images of the clusters of a fitted clusterer.

        Parameters
        ----------
        estimator : clusterer or Pipeline
            Fitted, with ``predict_proba``; with ``predict`` alone, there is no
            confidence, and the first images of each cluster are shown.
        X : array-like
            What it predicts on: images, or features of them.
        y : array-like of shape (n_samples,), default=None
            Classes, if there are any.
        images : array-like, default=None
            The images, if `X` is something else: see ``from_predictions``.
        n_images : int, default=8
            Number of images of each cluster.
        clusters : iterable, default=None
            The clusters to show, in this order. None means all, the empty ones, too,
            if the estimator has ``predict_proba``.
        names : dict or sequence, default=None
            Names of the clusters: see ``from_predictions``.
        n_columns : int, default=None
            See ``plot``.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        display : MontageDisplay
            The display, drawn.
        """
        import_pyplot()
        if images is None:
            try:
                images = image_sequence(X)
            except (TypeError, ValueError) as error:
                message = f"{error} If X are features, pass images=, too."
                raise type(error)(message) from error
        confidence = n_clusters = None
        if hasattr(estimator, "predict_proba"):
            proba = probabilities_of(estimator, X)
            labels, confidence = proba.argmax(axis=1), proba.max(axis=1)
            n_clusters = proba.shape[1]
        else:
            labels = estimator.predict(X)
        return cls.from_predictions(
            images,
            labels,
            confidence=confidence,
            y=y,
            n_images=n_images,
            n_clusters=n_clusters,
            clusters=clusters,
            names=names,
            n_columns=n_columns,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        images: Any,
        labels: ArrayLike,
        *,
        confidence: ArrayLike | None = None,
        y: ArrayLike | None = None,
        n_images: int = 8,
        n_clusters: int | None = None,
        clusters: Iterable | None = None,
        names: Mapping | Sequence | None = None,
        n_columns: int | None = None,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw images of given clusters.

        Parameters
        ----------
        images : array-like
            Paths, PIL images, arrays or tensors of shape (n, H, W), (n, H, W, C) or
            (n, C, H, W), or a data set; only those that are shown are read. Floats
            outside of [0, 1] are scaled by the least and the largest value shown.
        labels : array-like of shape (n_samples,)
            Clusters.
        confidence : array-like of shape (n_samples,), default=None
            Probability of the assigned cluster. None shows the first images of each
            cluster instead of the most and the least confident ones.
        y : array-like of shape (n_samples,), default=None
            Classes, which give names to the clusters that are matched to them, and red
            frames to images of others. Clusters without a class have a number and no
            frames.
        n_images : int, default=8
            Number of images of each cluster, half of them the most confident ones; of
            an odd number, one more of these. No image is shown twice.
        n_clusters : int, default=None
            Number of clusters, labeled from 0, of which some may be empty. None means
            those that are in `labels`.
        clusters : iterable, default=None
            The clusters to show, in this order. None means all: with classes in the
            order of these, clusters without a class last; otherwise, the largest first.
        names : dict or sequence, default=None
            ``names[k]`` is the name of cluster k, instead of that of its class. A dict
            need not name all.
        n_columns : int, default=None
            See ``plot``.
        ax : matplotlib Axes, default=None
            See ``plot``.

        Returns
        -------
        display : MontageDisplay
            The display, drawn.
        """
        images = image_sequence(images)
        labels = check_labels(labels, range(len(images)))
        check_count(n_images, "n_images")
        if n_columns is not None:
            check_count(n_columns, "n_columns")
        if confidence is not None:
            confidence = check_labels(confidence, labels, "confidence").astype(float)
        numbers = np.unique(labels).tolist()
        if n_clusters is not None:
            if not set(numbers) <= set(range(n_clusters)):
                raise ValueError(
                    f"n_clusters={n_clusters!r} needs labels from 0 to n_clusters - 1, "
                    f"got {numbers[0]!r} to {numbers[-1]!r}."
                )
            numbers = list(range(n_clusters))
        matched, right = {}, None
        if y is not None:
            y = check_labels(y, labels, "y")
            matched = _majorities(match_labels(y, labels), y, labels)
            right = agrees(y, labels, matched)
        if clusters is None:
            clusters = _order(numbers, labels, matched)
        else:
            clusters = np.asarray(list(clusters)).tolist()
            unknown = set(clusters) - set(numbers)
            if unknown or not clusters:
                raise ValueError(
                    f"clusters={clusters!r} must be some of the clusters, which are "
                    f"{textwrap.shorten(str(numbers), 60)}."
                )
        named = {**matched, **_as_dict(names, numbers)}
        indices = np.array(
            [
                choose(np.flatnonzero(labels == cluster), confidence, n_images)
                for cluster in clusters
            ]
        )
        wrong = None
        if right is not None:
            named_by_class = np.array([cluster in matched for cluster in clusters])
            wrong = (indices >= 0) & ~right[indices] & named_by_class[:, None]
        display = cls(
            _read_tiles(images, indices),
            indices,
            clusters=clusters,
            names=[named.get(cluster) for cluster in clusters],
            shares=np.array([np.mean(labels == cluster) for cluster in clusters]),
            confidence=(
                None
                if confidence is None
                else np.where(indices >= 0, confidence[indices], np.nan)
            ),
            wrong=wrong,
        )
        return display.plot(n_columns=n_columns, ax=ax)


def choose(members: NDArray, confidence: NDArray | None, n_images: int) -> NDArray:
    """Return the most and the least confident members, from sure to unsure.

    Without confidence, the first ones. Where there are too few, -1 fills up: first the
    least confident half.
    """
    chosen = np.full(n_images, -1)
    if confidence is None:
        chosen[: len(members)] = members[:n_images]
        return chosen
    order = members[np.argsort(-confidence[members], kind="stable")]
    n_most = -(-n_images // 2)
    most, rest = order[:n_most], order[n_most:]
    least = rest[max(0, len(rest) - (n_images - n_most)) :]
    chosen[: len(most)] = most
    chosen[n_most : n_most + len(least)] = least
    return chosen


def letterbox(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return height and width of an image that is scaled into a square."""
    scale = side / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


class _Layout(NamedTuple):
    """Where the tiles are, and how large everything is, in tiles."""

    width: float
    height: float
    # Upper left corner of each row, and how far right of it its tiles are.
    corners: NDArray
    slots: NDArray


def _paste(canvas: NDArray, tile: NDArray, x: float, y: float, unit: int) -> None:
    """Put an image into the middle of the tile with this corner."""
    from PIL import Image

    side = round(unit * _TILE)
    height, width = letterbox(tile.shape[:2], side)
    # Averages where it is larger than the tile, sharp pixels where it is smaller.
    tile = Image.fromarray(tile).resize((width, height), Image.Resampling.BOX)
    top = round(y * unit) + (side - height) // 2
    left = round(x * unit) + (side - width) // 2
    target = canvas[top : top + height, left : left + width]
    target[..., :3], target[..., 3] = tile, 255


def _read_tiles(images: Sequence, indices: NDArray) -> dict[int, NDArray]:
    """Read the images that are shown, no larger than they are shown, as uint8."""
    from PIL import Image

    tiles, unreadable = {}, 0
    shown = np.unique(indices[indices >= 0]).tolist()
    for i in shown:
        try:
            image = read_image(images[i])
        except OSError as error:  # as in a pipeline that skips such files
            unreadable += 1
            if unreadable == len(shown):
                raise type(error)(f"images[{i}]: {error}") from error
            image = np.full((1, 1, 3), 200, dtype=np.uint8)
        except (TypeError, ValueError) as error:
            raise type(error)(f"images[{i}]: {error}") from error
        if isinstance(image, Image.Image):
            image.thumbnail((_MOST_SIDE, _MOST_SIDE))
            image = np.asarray(image)
        tiles[i] = image
    floats = [tile for tile in tiles.values() if tile.dtype.kind == "f"]
    low = min((float(tile.min()) for tile in floats), default=0.0)
    high = max((float(tile.max()) for tile in floats), default=1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = high - low or 1.0
    return {
        i: np.round((tile - low) / span * 255).astype(np.uint8)
        if tile.dtype.kind == "f"
        else tile
        for i, tile in tiles.items()
    }


def _order(numbers: list, labels: NDArray, matched: dict) -> list:
    """Return the clusters as they are shown by default."""
    if matched:
        rest = [number for number in numbers if number not in matched]
        return sorted(matched, key=matched.get) + rest
    sizes = {number: np.count_nonzero(labels == number) for number in numbers}
    return sorted(numbers, key=lambda number: -sizes[number])


def _majorities(matched: dict, y: NDArray, labels: NDArray) -> dict:
    """Leave out clusters in which another class is more frequent than the matched one.

    One-to-one matching gives such leftovers a class that hardly is in them.
    """
    kept = {}
    for cluster, name in matched.items():
        classes, counts = np.unique(y[labels == cluster], return_counts=True)
        if counts[classes == name].sum() == counts.max():
            kept[cluster] = name
    return kept


def _as_dict(names: Mapping | Sequence | None, numbers: list) -> Mapping:
    if names is None:
        return {}
    if isinstance(names, str):
        raise TypeError(f"names={names!r} must be a dict or a sequence of names.")
    named = names if isinstance(names, Mapping) else dict(enumerate(names))
    unknown = set(named) - set(numbers)
    if unknown:
        raise ValueError(
            f"names={names!r} names clusters that there are not, {sorted(unknown)}; "
            f"the clusters are {textwrap.shorten(str(numbers), 60)}."
        )
    return named


def _width_of(name: str, info: str) -> float:
    """Return how many tiles wide the label of a row is, at most."""
    name_width = max(len(line) for line in name.split("\n")) * _NAME * _LETTER * 1.1
    return max(0.9, name_width, len(info) * _INFO * _LETTER) + 0.15


def _range_text(confidence: NDArray) -> str:
    high, low = f"{confidence.max():.2f}", f"{confidence.min():.2f}"
    return high if high == low else f"{high} – {low}"


def _best_columns(n_rows: int, width: float, ratio: float) -> int:
    """Return the number of columns whose shape is nearest to `ratio`."""
    columns = np.arange(1, n_rows + 1)
    shape = columns * width / (_HEAD + _ROW * np.ceil(n_rows / columns))
    return int(columns[np.abs(np.log(shape / ratio)).argmin()])
