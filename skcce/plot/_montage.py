"""Images of each cluster."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skcce._images import image_sequence, read_image
from skcce.losses import check_simplex_rows
from skcce.metrics import match_labels
from skcce.plot._display import (
    ALARM,
    GREY,
    agrees,
    check_count,
    check_labels,
    import_pyplot,
    place,
    size_in_points,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PatchCollection

# All lengths are in tiles, which are this wide in a new figure, in inches. A new figure
# comes near this ratio of width to height.
INCHES, _RATIO = 0.6, 1.3
GAP, _BETWEEN_HALVES, _BETWEEN_COLUMNS = 0.08, 0.35, 0.7
TILE, _ROW, _HEAD = 1 - GAP, 1.46, 0.4
# The line that explains the frames, and their width.
_FOOT, _FRAME = 0.35, 0.06
# Font sizes, and the width of a letter in proportion.
NAME, INFO, LETTER = 0.29, 0.22, 0.62
_LETTERS_PER_LINE = 14
# Sides of a tile on the canvas, in pixels, and of the whole of it.
_LEAST_SIDE, _MOST_SIDE, _MOST_PIXELS = 48, 144, 8_000_000


@dataclass(eq=False, repr=False)
class MontageDisplay:
    """The most and the least confident images of each cluster.

    Draws a row of images for each cluster: on the left those of which the model is most
    sure, on the right those of which it is least sure, both from sure to unsure, with
    the range of the confidence below. Before the images are the cluster's name, its
    number, and its share of the samples. With classes, a cluster has the name of the
    class that it is matched to (:func:`skcce.metrics.match_labels`), and images of
    other classes have a red frame; where another class is more frequent in the cluster
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
        Name of each row; None where the cluster has only a number.
    shares : ndarray of shape (n_rows,)
        Share of the samples in each cluster.
    confidence : ndarray of shape (n_rows, n_images), default=None
        Confidence of the shown samples. None means that they are not in order of
        confidence, so that there are no halves.
    wrong : ndarray of shape (n_rows, n_images), default=None
        Which images have a frame. None means none of them.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where the images are.
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

    tiles: Mapping[int, NDArray]
    indices: NDArray
    _: KW_ONLY
    clusters: list
    names: list
    shares: NDArray
    confidence: NDArray | None = None
    wrong: NDArray | None = None

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
        MontageDisplay
        """
        import_pyplot()
        if n_columns is not None:
            check_count(n_columns, "n_columns")
        ratio = _RATIO if ax is None else np.divide(*size_in_points(ax))
        layout = self._arrange(n_columns, ratio)
        size = np.array([layout.width, layout.height])
        if ax is None:
            # The margins are those of a constrained layout.
            ax, points = place(None, tuple(size * INCHES + 0.1)), 72 * INCHES
        else:
            points = min(size_in_points(ax) / size)
        extent = (0, layout.width, layout.height, 0)
        canvas = paint(self.tiles, self.indices, layout.x, layout.top, extent[1:3])
        self.im_ = ax.imshow(canvas, extent=extent)
        self.frames_ = None
        if self._is_framed():
            self.frames_ = _frames(self.wrong, layout, points)
            ax.add_collection(self.frames_, autolim=False)
        self.text_ = write(ax, self._texts(layout), points)
        ax.set(xlim=(-GAP, layout.width), ylim=(layout.height, 0))
        ax.set_axis_off()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _is_framed(self) -> bool:
        return self.wrong is not None and bool(self.wrong.any())

    def _halves(self) -> dict[str, NDArray]:
        """Return the slots of the most and of the least confident images, by title."""
        n_images = self.indices.shape[1]
        if self.confidence is None:
            titles = ["the first ones, without order" if n_images > 2 else "first"]
        elif n_images > 3:
            titles = ["most confident", "least confident"]
        else:
            titles = ["most", "least"][:n_images]
        halves = np.array_split(np.arange(n_images), len(titles))
        return dict(zip(titles, halves, strict=True))

    def _arrange(self, n_columns: int | None, ratio: float) -> "_Layout":
        rows = zip(self.clusters, self.names, self.shares, strict=True)
        labels = [label_of(*row) for row in rows]
        first, *_ = self._halves().values()
        slots = np.arange(self.indices.shape[1])
        slots = slots + (slots >= len(first)) * _BETWEEN_HALVES
        slots += max(width_of(*label) for label in labels)
        pitch = slots[-1] + 1 + _BETWEEN_COLUMNS
        n_columns = n_columns or _best_columns(len(labels), pitch, ratio)
        n_lines = -(-len(labels) // n_columns)
        column, line = np.divmod(np.arange(len(labels)), n_lines)
        left, top = column * pitch, _HEAD + line * _ROW
        return _Layout(
            width=left[-1] + pitch - _BETWEEN_COLUMNS,
            height=_HEAD + n_lines * _ROW + self._is_framed() * _FOOT,
            labels=labels,
            left=left,
            top=top,
            x=left[:, None] + slots,
        )

    def _texts(self, layout: "_Layout") -> Iterator[tuple[float, float, str, dict]]:
        """Yield x, y, text and style of all that is written, sizes in tiles."""
        info = dict(fontsize=INFO, color=GREY, va="top")
        if self._is_framed():
            style = dict(fontsize=INFO, color=ALARM, va="bottom")
            yield 0, layout.height, "red: other class", style
        style = dict(fontsize=INFO, ha="center", va="bottom")
        for x in layout.x[layout.top == _HEAD]:
            for title, half in self._halves().items():
                yield x[half].mean() + TILE / 2, 0.7 * _HEAD, title, style
        for row, (name, below) in enumerate(layout.labels):
            x, top = layout.x[row], layout.top[row]
            yield from label_texts(name, below, layout.left[row], top + TILE / 2)
            shown = self.indices[row] >= 0
            if not shown.any():
                style = dict(fontsize=NAME, color=GREY, va="center", style="italic")
                yield x[0], top + TILE / 2, "empty", style
            if self.confidence is not None:
                for half in self._halves().values():
                    half = half[shown[half]]
                    if len(half):
                        text = _range_text(self.confidence[row, half])
                        middle = x[half].mean() + TILE / 2
                        yield middle, top + 1, text, info | {"ha": "center"}

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        images: Any = None,
        **kwargs: Any,
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
        **kwargs : dict
            Arguments of ``from_predictions``: ``n_images``, ``clusters``, ``names``,
            and those of ``plot``.

        Returns
        -------
        MontageDisplay
        """
        import_pyplot()
        if images is None:
            try:
                images = image_sequence(X)
            except (TypeError, ValueError) as error:
                message = f"{error} If X holds features, also pass images=."
                raise type(error)(message) from error
        confidence = n_clusters = None
        if hasattr(estimator, "predict_proba"):
            proba = check_simplex_rows(estimator.predict_proba(X), "proba")
            labels, confidence = proba.argmax(axis=1), proba.max(axis=1)
            n_clusters = proba.shape[1]
        else:
            labels = estimator.predict(X)
        return cls.from_predictions(
            images, labels, confidence=confidence, n_clusters=n_clusters, y=y, **kwargs
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
        **kwargs: Any,
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
            Classes, which name the clusters that are matched to them, and put red
            frames around images of others. Clusters without a class have a number and
            no frames.
        n_images : int, default=8
            Number of images of each cluster: the more confident half, rounded up, and
            the less confident one. No image is shown twice.
        n_clusters : int, default=None
            Number of clusters, labeled from 0, of which some may be empty. None means
            those that are in `labels`.
        clusters : iterable, default=None
            The clusters to show, in this order. None means all: with classes in the
            order of these, clusters without a class last; otherwise, the largest first.
        names : dict or sequence, default=None
            ``names[k]`` is the name of cluster k, instead of that of its class. A dict
            need not name all.
        **kwargs : dict
            Arguments of ``plot``: ``n_columns``, ``ax``.

        Returns
        -------
        MontageDisplay
        """
        images = image_sequence(images)
        labels = check_labels(labels, len(images))
        check_count(n_images, "n_images")
        if confidence is not None:
            confidence = check_labels(confidence, len(labels), "confidence")
            confidence = confidence.astype(float)
        known = _known_clusters(labels, n_clusters)
        matched = {}
        if y is not None:
            y = check_labels(y, len(labels), "y")
            matched = _majorities(match_labels(y, labels), y, labels)
        if clusters is None:
            clusters = _order(known, labels, matched)
        else:
            clusters = np.asarray(list(clusters)).tolist()
            if not clusters:
                raise ValueError("clusters=[] must hold at least one cluster.")
            _check_known(clusters, known, f"clusters={clusters!r}")
        named = {**matched, **_as_dict(names, known)}
        members = [np.flatnonzero(labels == cluster) for cluster in clusters]
        indices = np.array([choose(rows, confidence, n_images) for rows in members])
        shown, wrong = indices >= 0, None
        if y is not None:
            has_class = np.array([cluster in matched for cluster in clusters])
            wrong = ~agrees(y, labels, matched)[indices] & shown & has_class[:, None]
        if confidence is not None:
            confidence = np.where(shown, confidence[indices], np.nan)
        return cls(
            read_tiles(images, np.unique(indices[shown]).tolist()),
            indices,
            clusters=clusters,
            names=[named.get(cluster) for cluster in clusters],
            shares=np.array([len(rows) / len(labels) for rows in members]),
            confidence=confidence,
            wrong=wrong,
        ).plot(**kwargs)


class _Layout(NamedTuple):
    """Where everything is, and how large all of it is, in tiles."""

    width: float
    height: float
    labels: list[tuple[str, str]]  # of each row: its name, and what is below it
    left: NDArray  # (n_rows,): where the label of each row begins
    top: NDArray  # (n_rows,)
    x: NDArray  # (n_rows, n_images): where each tile begins


def choose(members: NDArray, confidence: NDArray | None, n_images: int) -> NDArray:
    """Return the most and the least confident members, from sure to unsure.

    Without confidence, the first ones. Where there are too few, -1 fills up: first the
    least confident half.
    """
    n_most, order = n_images, members
    if confidence is not None:
        n_most = -(-n_images // 2)
        order = members[np.argsort(-confidence[members], kind="stable")]
    most, rest = order[:n_most], order[n_most:]
    least = rest[max(0, len(rest) - (n_images - n_most)) :]
    chosen = np.full(n_images, -1)
    chosen[: len(most)], chosen[n_most : n_most + len(least)] = most, least
    return chosen


def _known_clusters(labels: NDArray, n_clusters: int | None) -> list:
    """Return all clusters, the empty ones included."""
    numbers = np.unique(labels).tolist()
    if n_clusters is None:
        return numbers
    if not set(numbers) <= set(range(n_clusters)):
        raise ValueError(
            f"n_clusters={n_clusters!r} needs labels from 0 to n_clusters - 1, "
            f"got {numbers[0]!r} to {numbers[-1]!r}."
        )
    return list(range(n_clusters))


def _check_known(clusters: Iterable, known: list, argument: str) -> None:
    """Raise an error that names the argument, unless these are clusters."""
    if unknown := sorted(set(clusters) - set(known), key=str):
        raise ValueError(
            f"{argument} refers to unknown clusters, {unknown}; the clusters are "
            f"{textwrap.shorten(str(known), 60)}."
        )


def _as_dict(names: Mapping | Sequence | None, known: list) -> Mapping:
    """Return the names as ``{cluster: name}``."""
    if names is None:
        return {}
    if isinstance(names, str):
        raise TypeError(f"names={names!r} must be a dict or a sequence of names.")
    named = names if isinstance(names, Mapping) else dict(enumerate(names))
    _check_known(named, known, f"names={names!r}")
    return named


def _majorities(matched: dict, y: NDArray, labels: NDArray) -> dict:
    """Leave out clusters in which another class is more frequent than the matched one.

    One-to-one matching may give such leftovers a class that is hardly in them.
    """
    counts = {k: Counter(y[labels == k].tolist()) for k in matched}
    most = {k: max(count.values()) for k, count in counts.items()}
    return {k: name for k, name in matched.items() if counts[k][name] == most[k]}


def _order(known: list, labels: NDArray, matched: dict) -> list:
    """Return the clusters in the order of their classes, or from the largest on."""
    if matched:
        rest = [cluster for cluster in known if cluster not in matched]
        return sorted(matched, key=matched.get) + rest
    return sorted(known, key=lambda cluster: -np.count_nonzero(labels == cluster))


def read_tiles(images: Sequence, shown: list[int]) -> dict[int, NDArray]:
    """Read the images that are shown as uint8, no larger than needed."""
    tiles, unreadable = {}, {}
    for i in shown:
        try:
            image = read_image(images[i])
        except OSError as error:  # as in a pipeline that skips such files
            unreadable[i] = error
            image = np.full((1, 1, 3), 200, dtype=np.uint8)
        except (TypeError, ValueError) as error:
            raise type(error)(f"images[{i}]: {error}") from error
        if not isinstance(image, np.ndarray):
            image.thumbnail((_MOST_SIDE, _MOST_SIDE))
        tiles[i] = np.asarray(image)
    if unreadable and len(unreadable) == len(tiles):
        i, error = unreadable.popitem()
        raise type(error)(f"images[{i}]: {error}") from error
    return _scale_floats(tiles)


def _scale_floats(tiles: dict[int, NDArray]) -> dict[int, NDArray]:
    """Return the tiles as uint8; floats from 0 to 1, or from least to largest."""
    floats = {i: tile for i, tile in tiles.items() if tile.dtype.kind == "f"}
    low = min((float(tile.min()) for tile in floats.values()), default=0.0)
    high = max((float(tile.max()) for tile in floats.values()), default=1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scale = 255 / (high - low or 1.0)
    for i, tile in floats.items():
        floats[i] = np.round((tile - low) * scale).astype(np.uint8)
    return tiles | floats


def paint(
    tiles: Mapping[int, NDArray],
    indices: NDArray,
    left: NDArray,
    top: NDArray,
    size: tuple[float, float],
) -> NDArray:
    """Return all tiles in one image of this size, transparent where there is none.

    `left` is where each tile begins, `top` where each row does.
    """
    from PIL import Image

    unit = np.sqrt(_MOST_PIXELS / np.prod(size))
    unit = int(np.clip(unit, _LEAST_SIDE, _MOST_SIDE))
    size = np.ceil(np.multiply(size, unit)).astype(int)
    canvas = Image.new("RGBA", tuple(size.tolist()))
    side = round(unit * TILE)
    for row, slot in np.argwhere(indices >= 0):
        tile = Image.fromarray(tiles[indices[row, slot]])
        width, height = letterbox(tile.size, side)
        x = round(left[row, slot] * unit) + (side - width) // 2
        y = round(top[row] * unit) + (side - height) // 2
        # Averages where it is larger than the tile, sharp pixels where it is smaller.
        tile = tile.resize((width, height), Image.Resampling.BOX)
        canvas.paste(tile, (x, y))
    return np.asarray(canvas)


def letterbox(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the size of an image that is scaled into a square, in the same order."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _frames(wrong: NDArray, layout: _Layout, points: float) -> "PatchCollection":
    """Return frames inside of the tiles, so that neighbors stay apart."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    side, off = TILE - _FRAME, _FRAME / 2
    frames = [
        Rectangle((layout.x[row, slot] + off, layout.top[row] + off), side, side)
        for row, slot in np.argwhere(wrong)
    ]
    style = dict(facecolor="none", edgecolor=ALARM, joinstyle="miter")
    return PatchCollection(frames, linewidth=_FRAME * points, **style)


def label_of(
    cluster: Any, name: Any, share: float, per_line: int = _LETTERS_PER_LINE
) -> tuple[str, str]:
    """Return the name of a row, and what is below it."""
    number, percent = f"#{cluster}", f"{100 * share:.1f} %"
    if name is None:
        return number, percent
    lines = textwrap.wrap(str(name), per_line, max_lines=2, placeholder="…")
    return "\n".join(lines), f"{number}  {percent}"


def width_of(name: str, info: str) -> float:
    """Return how many tiles wide the label of a row is, at most."""
    name_width = max(len(line) for line in name.split("\n")) * NAME * LETTER * 1.1
    return max(0.9, name_width, len(info) * INFO * LETTER) + 0.15


def height_of(name: str) -> float:
    """Return how many tiles high the label of a row is."""
    return 1.2 * NAME * (name.count("\n") + 1) + 1.35 * INFO


def label_texts(
    name: str, below: str, left: float, middle: float
) -> Iterator[tuple[float, float, str, dict]]:
    """Yield what :func:`write` takes, of a label that is centered on `middle`."""
    top, end = middle - height_of(name) / 2, middle + height_of(name) / 2
    style = dict(fontsize=NAME, va="top", weight="bold", linespacing=1.1)
    yield left, top, name, style
    yield left, end - 1.15 * INFO, below, dict(fontsize=INFO, color=GREY, va="top")


def write(
    ax: "Axes", texts: Iterable[tuple[float, float, str, dict]], points: float
) -> list:
    """Write texts, each given by x, y, text and style; a tile is `points` wide."""
    artists = []
    for x, y, text, style in texts:
        # Names may have dollars in them.
        artist = ax.text(x, y, text, parse_math=False, **style)
        artist.set_fontsize(style["fontsize"] * points)
        # It is within the axes, so the layout need not measure it.
        artist.set_in_layout(False)
        artists.append(artist)
    return artists


def _range_text(confidence: NDArray) -> str:
    high, low = f"{confidence.max():.2f}", f"{confidence.min():.2f}"
    return high if high == low else f"{high} – {low}"


def _best_columns(n_rows: int, width: float, ratio: float) -> int:
    """Return the number of columns whose shape is nearest to `ratio`."""
    columns = np.arange(1, n_rows + 1)
    shape = columns * width / (_HEAD + _ROW * np.ceil(n_rows / columns))
    return int(columns[np.abs(np.log(shape / ratio)).argmin()])
