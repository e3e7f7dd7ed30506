import numpy as np
import pandas as pd
import pytest
import torch
from conftest import backwards, every_second, memmap, pil_images, read_only, save
from numpy.testing import assert_array_equal
from PIL import Image
from sklearn.base import clone
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from skcce import CollisionClusterer
from skcce.deep import DeepSoftmax
from skcce.deep._images import open_images

# No side of an image is a usual number of channels, and no two sides are equal.
N, H, W = 9, 6, 5

ROWS = [
    slice(None),
    slice(2, 5),
    slice(None, None, 2),
    slice(7, 100),
    np.array([4, 0, 4, 8]),
    np.array([3], dtype=np.int32),
]


class Samples(Dataset):
    """A map-style data set that notes what is read."""

    def __init__(self, samples):
        self.samples = list(samples)
        self.read = []

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        assert type(row) is int
        self.read.append(row)
        return self.samples[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(np.zeros((N, H, W), dtype=np.uint8))


class StreamOfKnownLength(Stream):
    def __len__(self):
        return N


class ArrayOnDisk:
    """An array that notes how many rows are read at a time."""

    def __init__(self, array):
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype
        self.read = []
        self._array = array

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        batch = self._array[rows]
        self.read.append(len(batch))
        return batch


def color_images(channels, n=N):
    rng = np.random.default_rng(channels)
    return rng.integers(256, size=(n, H, W, channels), dtype=np.uint8)


def channels_first(X):
    return X if X.ndim == 3 else np.moveaxis(X, -1, 1)


def tensor(X, dtype=None):
    return torch.from_numpy(channels_first(X).copy()).to(dtype)


def with_labels(samples, kind=tuple):
    return Samples(kind((sample, i)) for i, sample in enumerate(samples))


# What holds the bytes of an array (n, H, W) or (n, H, W, C).
BYTES = {
    "array": lambda X: X,
    "channels-first": lambda X: channels_first(X).copy(),
    "channels-first-view": channels_first,
    "read-only": read_only,
    "every-second-column": every_second,
    "backwards": backwards,
    "fortran": np.asfortranarray,
    "memmap": memmap,
    "memmap-channels-first": lambda X: memmap(channels_first(X)),
    "list": list,
    "tuple": tuple,
    "list-channels-first": lambda X: list(channels_first(X)),
    "list-of-tensors": lambda X: list(tensor(X)),
    "list-of-pil": pil_images,
    "tensor": tensor,
    "tensor-channels-last": torch.from_numpy,
    "tensor-view": lambda X: torch.from_numpy(channels_first(X)),
    "tensor-every-second": lambda X: tensor(np.repeat(X, 2, axis=0))[::2],
    "dataset-of-tensors": lambda X: Samples(tensor(X)),
    "dataset-of-arrays": Samples,
    "dataset-of-read-only": lambda X: Samples(read_only(X)),
    "dataset-of-backwards": lambda X: Samples(backwards(X)),
    "dataset-of-pil": lambda X: Samples(pil_images(X)),
    "dataset-with-labels": lambda X: with_labels(tensor(X)),
    "dataset-with-labels-list": lambda X: with_labels(X, kind=list),
    "dataset-of-pil-with-labels": lambda X: with_labels(pil_images(X)),
    "tensor-dataset": lambda X: TensorDataset(tensor(X), torch.arange(len(X))),
    "tensor-dataset-without-labels": lambda X: TensorDataset(tensor(X)),
    "subset": lambda X: Subset(Samples(tensor(X).flip(0)), range(len(X))[::-1]),
}

# The same, but as floats; bytes are exact in all of them.
FLOATS = {
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X.astype(np.float64),
    "longdouble": lambda X: X.astype(np.longdouble),
    "big-endian-16": lambda X: X.astype(">f2"),
    "big-endian-32": lambda X: X.astype(">f4"),
    "big-endian-64": lambda X: X.astype(">f8"),
    "read-only": lambda X: read_only(X.astype(np.float32)),
    "every-second-column": lambda X: every_second(X.astype(np.float32)),
    "backwards": lambda X: backwards(X.astype(np.float64)),
    "memmap": lambda X: memmap(X.astype(np.float32)),
    "memmap-big-endian": lambda X: memmap(channels_first(X).astype(">f8")),
    "list": lambda X: list(X.astype(np.float32)),
    "list-of-labelled": lambda X: list(zip(X.astype(float), X, strict=True)),
    "list-of-tensors-that-require-grad": lambda X: [
        image.requires_grad_() for image in tensor(X, torch.float32)
    ],
    "tensor-16": lambda X: tensor(X, torch.float16),
    "tensor-bfloat16": lambda X: tensor(X, torch.bfloat16),
    "tensor-32": lambda X: tensor(X, torch.float32),
    "tensor-64": lambda X: tensor(X, torch.float64),
    "tensor-requires-grad": lambda X: tensor(X, torch.float32).requires_grad_(),
    "tensor-of-a-graph": lambda X: tensor(X, torch.float64).requires_grad_() * 1,
    "dataset-of-tensors": lambda X: Samples(tensor(X, torch.float64)),
    "dataset-of-tensors-that-require-grad": lambda X: Samples(
        tensor(X, torch.float32).requires_grad_()
    ),
    "dataset-of-arrays": lambda X: Samples(X.astype(np.float16)),
    "dataset-of-big-endian": lambda X: Samples(X.astype(">f4")),
    "dataset-with-labels": lambda X: with_labels(X.astype(np.float32)),
    "tensor-dataset": lambda X: TensorDataset(tensor(X, torch.float32)),
}


def check_batches(images, X, dtype):
    """Check `images` against the array (n, H, W) or (n, H, W, C) of the same images."""
    expected = channels_first(X[..., None] if X.ndim == 3 else X)
    assert len(images) == len(X)
    assert images.shape == expected.shape
    assert images.ndim == 4
    for rows in ROWS:
        batch = images[rows]
        assert isinstance(batch, torch.Tensor)
        assert batch.dtype == dtype
        assert not batch.requires_grad
        assert_array_equal(batch.numpy(), expected[rows])


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_of_every_kind_stay_the_same_bytes(kind, channels):
    X = color_images(channels) if channels else color_images(1)[..., 0]
    for known in (None, max(channels, 1)):
        check_batches(open_images(BYTES[kind](X), known), X, torch.uint8)


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_of_every_kind_become_float32(kind, channels):
    X = color_images(channels) if channels else color_images(1)[..., 0]
    for known in (None, max(channels, 1)):
        check_batches(open_images(FLOATS[kind](X), known), X, torch.float32)


@pytest.mark.parametrize("channels", [2, 7])
@pytest.mark.parametrize("kind", ["array", "channels-first", "tensor", "memmap"])
def test_any_number_of_channels_that_the_network_tells(kind, channels):
    X = color_images(channels)
    check_batches(open_images(BYTES[kind](X), channels), X, torch.uint8)


@pytest.mark.parametrize("kind", [lambda X: X, list, Samples, with_labels])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_known_channels_decide_where_both_ends_could_be_channels(make, kind):
    X = kind(make((N, 3, 8, 4)))
    assert open_images(X, 3).shape == (N, 3, 8, 4)
    assert open_images(X, 4).shape == (N, 4, 3, 8)


@pytest.mark.parametrize("kind", [lambda X: X, list, Samples, with_labels])
def test_channels_at_both_ends_are_last_in_arrays_and_first_in_tensors(kind):
    X = np.arange(N * 3 * 8 * 3, dtype=np.uint8).reshape(N, 3, 8, 3)
    for known in (3, None):
        assert_array_equal(open_images(kind(X), known)[:], np.moveaxis(X, -1, 1))
        assert_array_equal(open_images(kind(torch.from_numpy(X)), known)[:], X)


@pytest.mark.parametrize(
    "make", [*BYTES.values(), *FLOATS.values()], ids=[*BYTES, *FLOATS]
)
def test_a_batch_is_a_copy(make):
    images = open_images(make(color_images(3)), 3)
    for rows in ROWS:
        images[rows].zero_()
    assert_array_equal(images[:], channels_first(color_images(3)))


@pytest.mark.parametrize("kind", [lambda X: X, list, TensorDataset])
def test_a_network_that_writes_on_its_input_spares_the_users_images(kind):
    torch.manual_seed(0)
    X = torch.randn(20, 1, H, W)
    before = X.clone()
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(H * W, 4))
    model = DeepSoftmax(network, device="cpu")
    clusterer = CollisionClusterer(
        2, model=model, batch_size=10, max_iter=1, random_state=0
    )
    clusterer.fit(kind(X))
    clusterer.predict(kind(X))
    clusterer.predict_proba(kind(X))
    assert torch.equal(X, before)


@pytest.mark.parametrize("with_label", [False, True])
def test_a_dataset_is_read_batch_by_batch(with_label):
    samples = tensor(color_images(3))
    dataset = with_labels(samples) if with_label else Samples(samples)
    images = open_images(dataset, 3)
    assert set(dataset.read) <= {0}
    for rows in ROWS:
        dataset.read.clear()
        images[rows]
        assert_array_equal(dataset.read, np.arange(N)[rows])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, ">f4"])
def test_an_array_on_disk_is_read_batch_by_batch(dtype):
    X = memmap(np.ones((5000, 2, 2), dtype=dtype))
    array = ArrayOnDisk(X)
    images = open_images(array, 1)
    # Floats are looked at once, in parts; of bytes, the first image.
    assert sum(array.read) <= (1 if dtype == np.uint8 else len(X) + 1)
    assert max(array.read) < len(X) / 2
    array.read.clear()
    images[10:17]
    images[np.array([4999, 3])]
    assert array.read == [7, 2]


def test_opening_bytes_takes_no_memory():
    X = np.broadcast_to(np.uint8(7), (10**9, 32, 32, 3))  # 3 TB
    images = open_images(X, 3)
    assert images.shape == (10**9, 3, 32, 32)
    assert (images[np.array([0, 10**9 - 1])] == 7).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda X: X.astype(np.float16),
        lambda X: X.astype(np.float32),
        lambda X: X,
        memmap,
        torch.from_numpy,
        lambda X: tensor(X, torch.bfloat16),
        lambda X: torch.from_numpy(X).requires_grad_(),
        lambda X: X.astype(">f4"),
    ],
    ids=[
        *("float16", "float32", "float64", "memmap", "tensor", "bfloat16"),
        *("requires-grad", "big-endian"),
    ],
)
def test_the_first_image_that_is_not_finite_is_named(make, value):
    X = np.zeros((2500, 2, 2))
    X[[1300, 2400], 1, 0] = value
    with pytest.raises(ValueError, match="row 1300: contains NaN or infinity"):
        open_images(make(X), 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "make",
    [
        list,
        lambda X: list(tensor(X)),
        lambda X: Samples(X.astype(">f4")),
        lambda X: with_labels(X.astype(np.float16)),
        lambda X: TensorDataset(tensor(X)),
    ],
    ids=["list", "list-of-tensors", "big-endian", "with-labels", "tensor-dataset"],
)
def test_an_image_of_a_dataset_that_is_not_finite_is_named_when_read(make, value):
    X = np.zeros((N, H, W))
    X[[5, 7], 1, 0] = value
    images = open_images(make(X), 1)
    assert images[:5].shape == (5, 1, H, W)
    assert images[np.array([8, 6])].shape == (2, 1, H, W)
    for rows in (slice(None), slice(4, 7), np.array([8, 5, 7])):
        with pytest.raises(ValueError, match="row 5: contains NaN or infinity"):
            images[rows]


@pytest.mark.parametrize(
    "make", [np.array, memmap, list, Samples, lambda X: tensor(X, torch.float64)]
)
def test_floats_that_float32_cannot_hold_are_not_finite(make):
    X = np.zeros((N, H, W))
    X[5] = 1e300
    with pytest.raises(ValueError, match="row 5: contains NaN or infinity"):
        open_images(make(X), 1)[:]


@pytest.mark.parametrize("make", [np.array, torch.from_numpy, tensor, list, Samples])
@pytest.mark.parametrize(("found", "wanted"), [(3, 1), (4, 1), (3, 4), (2, 1), (2, 3)])
def test_wrong_number_of_channels(make, found, wanted):
    text = "1, 3 or 4" if wanted == 3 else wanted
    with pytest.raises(ValueError, match=f"network takes, {text}, first"):
        open_images(make(color_images(found)), wanted)


@pytest.mark.parametrize("make", [np.array, list, tensor])
def test_unusual_number_of_channels_that_the_network_does_not_tell(make):
    """Last in arrays, first in tensors."""
    X = color_images(2)
    check_batches(open_images(make(X), None), X, torch.uint8)


@pytest.mark.parametrize(
    "make", [np.array, torch.from_numpy, tensor, memmap, list, Samples, pil_images]
)
def test_a_color_network_gets_grey_repeated_and_no_alpha(make):
    for channels in (0, 1, 4):
        X = color_images(max(channels, 1))
        color = X[..., :3] if channels == 4 else np.repeat(X, 3, axis=-1)
        given = X if channels else X[..., 0]
        check_batches(open_images(make(given), 3), color, torch.uint8)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("shape", [(N,), (N, 30), (N, 2, 3, 8, 8)])
def test_wrong_number_of_dimensions(make, shape):
    with pytest.raises(ValueError, match=r"must have shape \(n, H, W\)"):
        open_images(make(shape), 1)


@pytest.mark.parametrize("shape", [(), (30,), (1, 3, 8, 8)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("kind", [list, Samples, with_labels])
def test_wrong_number_of_dimensions_in_a_dataset(make, shape, kind):
    with pytest.raises(ValueError, match=r"row 0: .* 2 or 3 dimensions, got shape"):
        open_images(kind([make(shape)]), None)


@pytest.mark.parametrize("shape", [(0, W), (H, 0), (3, 0, W), (H, 0, 3)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("kind", [lambda X: X, list, Samples, with_labels])
def test_images_without_pixels(make, shape, kind):
    with pytest.raises(ValueError, match="have no pixels"):
        open_images(kind(make((N, *shape))), None)


@pytest.mark.parametrize("make", [np.array, torch.from_numpy, list, Samples])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
def test_wrong_dtype(make, dtype):
    X = make(color_images(3).astype(dtype))
    with pytest.raises(ValueError, match=rf"not of {np.dtype(dtype).name}\b"):
        open_images(X, 3)


@pytest.mark.parametrize("dtype", [object, complex, "U1", "M8[s]"])
def test_wrong_dtype_that_torch_does_not_have(dtype):
    with pytest.raises(ValueError, match=r"not of complex|one column of images"):
        open_images(np.zeros((N, H, W)).astype(dtype), 1)


@pytest.mark.parametrize(
    "X",
    [
        [],
        (),
        np.zeros((0, H, W)),
        np.zeros((0, H, W, 3), dtype=np.uint8),
        torch.zeros(0, 3, H, W),
        Samples([]),
    ],
    ids=["list", "tuple", "array", "bytes", "tensor", "dataset"],
)
def test_no_images(X):
    with pytest.raises(ValueError, match="0 samples"):
        open_images(X, 3)


@pytest.mark.parametrize(
    "X",
    [
        *((image for image in np.zeros((N, H, W))), iter([]), {1, 2}, None, 7),
        *(Stream(), StreamOfKnownLength()),
        *("images", b"images", {0: np.zeros((H, W))}),
    ],
    ids=[
        *("generator", "iterator", "set", "none", "number"),
        *("stream", "stream-of-known-length"),
        *("string", "bytes", "dict"),
    ],
)
def test_what_is_no_set_of_images(X):
    text = (
        "single path"
        if isinstance(X, (str, bytes))
        else f"data set.*{type(X).__name__}"
    )
    with pytest.raises(TypeError, match=text):
        open_images(X, None)


@pytest.mark.parametrize(
    "item",
    ["a.png", b"a.png", None, 7, ("a.png", 1), {"image": np.zeros((H, W))}, [[1.0]]],
    ids=["string", "bytes", "none", "number", "tuple", "dict", "list-of-lists"],
)
@pytest.mark.parametrize("kind", [list, tuple, Samples])
def test_items_that_are_no_images(item, kind):
    message = "row {}: (an image is a path, a PIL image|a.png: No such file)"
    with pytest.raises(ValueError, match=message.format(0)):
        open_images(kind([item]), None)
    images = open_images(kind([np.zeros((H, W)), item]), None)
    assert images[:1].shape == (1, 1, H, W)
    with pytest.raises(ValueError, match=message.format(1)):
        images[:]


@pytest.mark.parametrize("kind", [list, Samples, with_labels])
def test_palette_images_have_their_colors(kind):
    colors = np.array([[9, 200, 31], [255, 0, 128]], dtype=np.uint8)
    X = np.random.default_rng(0).integers(2, size=(N, H, W), dtype=np.uint8)
    samples = [Image.fromarray(image) for image in X]
    for sample in samples:
        sample.putpalette(colors.tobytes())
    assert {sample.mode for sample in samples} == {"P"}
    for known in (None, 3):
        check_batches(open_images(kind(samples), known), colors[X], torch.uint8)


@pytest.mark.parametrize("kind", [list, Samples, with_labels])
def test_images_of_one_bit_are_black_and_white(kind):
    X = 255 * np.random.default_rng(0).integers(2, size=(N, H, W), dtype=np.uint8)
    samples = [image.convert("1") for image in pil_images(X)]
    for known in (None, 1):
        check_batches(open_images(kind(samples), known), X, torch.uint8)


@pytest.mark.parametrize("mode", ["LA", "RGBX", "CMYK"])
def test_pil_images_of_other_modes_are_grey_or_color(mode):
    X = color_images(1)[..., 0] if mode == "LA" else color_images(3)
    samples = [image.convert(mode) for image in pil_images(X)]
    check_batches(open_images(samples, None), X, torch.uint8)


@pytest.mark.parametrize("kind", [Samples, list, tuple])
@pytest.mark.parametrize("make", [tensor, np.array, pil_images])
def test_a_dataset_image_of_another_size_is_named(make, kind):
    samples = list(make(color_images(3)))
    samples[5] = make(color_images(3)[:, 1:])[0]
    images = open_images(kind(samples), 3)
    assert images[:5].shape == (5, 3, H, W)
    message = rf"row 5: .* uint8 of \({H - 1}, {W}, 3\), .* uint8 of \({H}, {W}, 3\)"
    with pytest.raises(ValueError, match=message):
        images[np.array([8, 5, 0])]
    with pytest.raises(ValueError, match=message):
        images[4:7]


@pytest.mark.parametrize("other", [1, 2, 4])
def test_a_dataset_image_with_other_channels_is_named(other):
    samples = [*tensor(color_images(3)), *tensor(color_images(other))]
    images = open_images(Samples(samples), None)
    with pytest.raises(ValueError, match=rf"row {N}: .* of \({H}, {W}, {other}\)"):
        images[:]


def test_a_dataset_image_of_another_dtype_is_named():
    images = open_images([*color_images(3), color_images(3)[0] / 255], 3)
    with pytest.raises(ValueError, match=rf"row {N}: .* has float32 .*one uint8 "):
        images[:]


# --- Booleans and 16 bits ---------------------------------------------------

WAYS = {
    "array": lambda X: X,
    "channels-first": lambda X: channels_first(X).copy(),
    "read-only": read_only,
    "backwards": backwards,
    "memmap": memmap,
    "list": list,
    "dataset": Samples,
    "tensor": tensor,
    "list-of-tensors": lambda X: list(tensor(X)),
}


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_16_bits_are_reduced_to_8(way, channels):
    X = color_images(channels) if channels else color_images(1)[..., 0]
    images = open_images(WAYS[way](X.astype(np.uint16) * 257), max(channels, 1))
    check_batches(images, X, torch.uint8)


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_booleans_are_black_and_white(way, channels):
    X = color_images(channels) if channels else color_images(1)[..., 0]
    images = open_images(WAYS[way](X > 99), max(channels, 1))
    check_batches(images, np.where(X > 99, 255, 0).astype(np.uint8), torch.uint8)


def test_booleans_and_16_bits_are_read_batch_by_batch():
    for value in (np.True_, np.uint16(65535)):
        X = np.broadcast_to(value, (10**9, 32, 32, 3))
        images = open_images(X, 3)
        assert images.shape == (10**9, 3, 32, 32)
        assert (images[np.array([0, 10**9 - 1])] == 255).all()


# --- Paths ------------------------------------------------------------------


# All that holds paths.
PATHS = {
    "list-of-Path": list,
    "list-of-str": lambda paths: [*map(str, paths)],
    "tuple": tuple,
    "array-of-str": lambda paths: np.array([*map(str, paths)]),
    "array-of-objects": lambda paths: np.array(paths, dtype=object),
    "series": lambda paths: pd.Series([*map(str, paths)], index=range(9, 9 - N, -1)),
    "series-of-Path": pd.Series,
    "strings": lambda paths: pd.Series([*map(str, paths)]).astype("string"),
    "categories": lambda paths: pd.Series([*map(str, paths)]).astype("category"),
    "table": lambda paths: pd.DataFrame({"file": paths}),
    "column": lambda paths: np.array([*map(str, paths)])[:, None],
    "dataset": Samples,
    "dataset-with-labels": with_labels,
    "list-of-labelled": lambda paths: list(zip(paths, range(N), strict=True)),
}


@pytest.mark.parametrize("kind", PATHS)
def test_paths_of_every_kind_are_no_table(tmp_path, kind):
    X = color_images(3)
    paths = PATHS[kind](save(pil_images(X), tmp_path))
    images = DeepSoftmax(nn.Conv2d(3, 1, 1)).validate_input(paths)
    check_batches(images, X, torch.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_files_have_the_channels_that_the_network_takes(tmp_path, channels, mode):
    """Converted as Pillow does it; a PIL image in memory takes the same way."""
    if mode == "I;16":
        grey = color_images(1)[..., 0]
        photos = [Image.fromarray(image.astype(np.uint16) * 257) for image in grey]
        plain = pil_images(grey)
    else:
        photos = plain = [image.convert(mode) for image in pil_images(color_images(3))]
    target = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    expected = np.stack([np.asarray(image.convert(target)) for image in plain])
    for X in (save(photos, tmp_path, "tiff" if mode == "CMYK" else "png"), photos):
        check_batches(open_images(X, channels), expected, torch.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_files_keep_their_channels_if_the_network_does_not_tell(tmp_path, mode):
    X = color_images({"L": 1, "RGB": 3, "RGBA": 4}[mode])
    check_batches(open_images(save(pil_images(X), tmp_path), None), X, torch.uint8)


def test_files_have_no_unusual_number_of_channels(tmp_path):
    paths = save(pil_images(color_images(3)), tmp_path)
    with pytest.raises(ValueError, match=r"row 0: .*0\.png: .*no 2 channels"):
        open_images(paths, 2)


def test_rotations_of_a_camera_are_undone(tmp_path):
    """In the sizes that are compared, too."""
    X = np.repeat(np.repeat(color_images(3), 16, 1), 24, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = pil_images(np.rot90(X, axes=(1, 2)))
    for suffix in ("png", "jpg"):
        paths = save(turned[:4], tmp_path / "turned", suffix, exif=exif)
        paths += save(pil_images(X[4:]), tmp_path / "upright", suffix)
        images = open_images(paths, 3)
        assert images.shape == (N, 3, 16 * H, 24 * W)
        if suffix == "png":
            assert_array_equal(images[:].movedim(1, -1), X)


def test_bad_files_are_named_in_one_error_when_opened(tmp_path):
    paths = save(pil_images(color_images(3)), tmp_path)
    paths[2].write_text("no image")
    paths[4].write_bytes(paths[3].read_bytes()[:-30])
    paths[6] = tmp_path / "missing.png"
    with pytest.raises(ValueError, match="3 of 9 images cannot be read") as caught:
        open_images(paths, 3)
    lines = str(caught.value).splitlines()[1:]
    for row, line in zip((2, 4, 6), lines, strict=True):
        assert line.startswith(f"  row {row}: {paths[row]}: ")


def test_a_file_of_another_size_is_named_when_opened(tmp_path):
    paths = save(pil_images(color_images(3)), tmp_path)
    Image.new("RGB", (W + 1, H)).save(paths[5])
    Image.new("RGB", (W, H + 1)).save(paths[7])
    message = f"row 5: {paths[5]} has {W + 1} x {H} pixels, the first one {W} x {H} pix"
    message = f"2 of [0-9]+ images.*\n.*{message}.*\n.*row 7: {paths[7]} has"
    with pytest.raises(ValueError, match=message):
        open_images(paths, 3)


def test_a_file_that_vanishes_is_named_when_read(tmp_path):
    paths = save(pil_images(color_images(3)), tmp_path)
    images = open_images(paths, 3)
    paths[7].unlink()
    assert images[:7].shape == (7, 3, H, W)
    with pytest.raises(ValueError, match=f"row 7: {paths[7]}: No such file"):
        images[np.array([0, 7])]


def test_files_are_read_batch_by_batch(tmp_path, monkeypatch):
    paths = save(pil_images(color_images(3)), tmp_path)
    images = open_images(paths, 3)
    opened, open_file = [], Image.open
    monkeypatch.setattr(
        Image, "open", lambda path: opened.append(str(path)) or open_file(path)
    )
    for rows in ROWS:
        images[rows]
        assert sorted(opened) == sorted(str(path) for path in np.array(paths)[rows])
        opened.clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fit_of_paths_is_that_of_the_images_bit_for_bit(tmp_path, channels):
    X = color_images(channels, n=40)
    paths = save(pil_images(X), tmp_path / "images")
    fits = []
    for data in (X, paths, pd.Series([*map(str, paths)]), Samples(paths)):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten())
        clusterer = CollisionClusterer(
            3,
            model=DeepSoftmax(network, device="cpu", lr=1e-2),
            batch_size=16,
            max_iter=3,
            random_state=0,
        )
        fits.append(clusterer.fit(data))
        assert_array_equal(fits[-1].predict_proba(data), fits[0].predict_proba(X))
    for fit in fits:
        assert_array_equal(fit.labels_, fits[0].labels_)
        assert_array_equal(fit.probabilities_, fits[0].probabilities_)
        assert_array_equal(fit.loss_curve_, fits[0].loss_curve_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_checkpoint_of_paths_is_gone_on_with(tmp_path):
    X = color_images(3, n=20)
    paths = save(pil_images(X), tmp_path / "images")

    def make(max_iter, **parameters):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        model = DeepSoftmax(network, device="cpu", schedule="constant")
        settings = {"lam": 1.0, "n_init": 1, "batch_size": 10, "random_state": 0}
        return CollisionClusterer(
            2, model=model, max_iter=max_iter, **settings, **parameters
        )

    checkpoint = tmp_path / "checkpoint"
    make(2, checkpoint=checkpoint).fit(paths)
    resumed = make(4, checkpoint=checkpoint).fit(paths)
    assert_array_equal(resumed.loss_curve_, make(4).fit(X).loss_curve_)
    Image.new("RGB", (W, H)).save(paths[3])
    with pytest.raises(ValueError, match=r"another run.*data"):
        make(4, checkpoint=checkpoint).fit(paths)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_images_of_weight_zero_are_as_if_they_were_not_there(tmp_path):
    X = color_images(3, n=20)
    paths = save(pil_images(X), tmp_path / "images")
    weight = np.arange(20) % 3 > 0
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    model = DeepSoftmax(network, device="cpu", n_threads=1)
    settings = {"model": model, "n_init": 1, "max_iter": 2, "batch_size": 6}
    clusterer = CollisionClusterer(2, random_state=0, **settings)
    alone = clone(clusterer).fit(X[weight]).predict_proba(X)
    for images in (X, paths, torch.from_numpy(X)):
        clusterer.fit(images, sample_weight=weight)
        assert_array_equal(clusterer.predict_proba(X), alone)
        assert_array_equal(clusterer.labels_, clusterer.predict(images))
