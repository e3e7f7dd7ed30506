import numpy as np
import pytest
import torch
from conftest import backwards, every_second, memmap, pil_images, read_only
from numpy.testing import assert_array_equal
from PIL import Image
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
    if dtype == np.uint8:
        assert not array.read
    # Floats are looked at once, in parts.
    assert sum(array.read) <= len(X)
    assert max(array.read, default=0) < len(X) / 2
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
    with pytest.raises(ValueError, match=r"NaN or infinity, in image 1300\b"):
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
        with pytest.raises(ValueError, match=r"NaN or infinity, in image 5\b"):
            images[rows]


@pytest.mark.parametrize(
    "make", [np.array, memmap, list, Samples, lambda X: tensor(X, torch.float64)]
)
def test_floats_that_float32_cannot_hold_are_not_finite(make):
    X = np.zeros((N, H, W))
    X[5] = 1e300
    with pytest.raises(ValueError, match=r"NaN or infinity, in image 5\b"):
        open_images(make(X), 1)[:]


@pytest.mark.parametrize("make", [np.array, torch.from_numpy, tensor, list, Samples])
@pytest.mark.parametrize(("found", "wanted"), [(3, 1), (4, 3), (1, 3), (2, 1)])
def test_wrong_number_of_channels(make, found, wanted):
    text = "one channel" if wanted == 1 else f"{wanted} channels"
    with pytest.raises(ValueError, match=f"not have the {text} that"):
        open_images(make(color_images(found)), wanted)


@pytest.mark.parametrize("make", [np.array, list, tensor])
def test_unusual_number_of_channels_that_the_network_does_not_tell(make):
    """Last in arrays, first in tensors."""
    X = color_images(2)
    check_batches(open_images(make(X), None), X, torch.uint8)


@pytest.mark.parametrize("make", [np.array, torch.from_numpy, Samples])
def test_grey_images_for_a_color_network(make):
    X = color_images(1)[..., 0]
    with pytest.raises(ValueError, match=r"not have the 3 channels.*Repeat the grey"):
        open_images(make(X), 3)
    X = np.stack([X, X, X], axis=-1)  # as the message says
    check_batches(open_images(make(X), 3), X, torch.uint8)


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("shape", [(N,), (N, 30), (N, 2, 3, 8, 8)])
def test_wrong_number_of_dimensions(make, shape):
    with pytest.raises(ValueError, match=r"must have shape \(n, H, W\)"):
        open_images(make(shape), 1)


@pytest.mark.parametrize("shape", [(), (30,), (1, 3, 8, 8)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("kind", [list, Samples, with_labels])
def test_wrong_number_of_dimensions_in_a_dataset(make, shape, kind):
    with pytest.raises(TypeError, match=r"Sample 0 .*of 2 or 3 dimensions"):
        open_images(kind([make(shape)]), None)


@pytest.mark.parametrize("shape", [(0, W), (H, 0), (3, 0, W), (H, 0, 3)])
@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
@pytest.mark.parametrize("kind", [lambda X: X, list, Samples, with_labels])
def test_images_without_pixels(make, shape, kind):
    with pytest.raises(ValueError, match="have no pixels"):
        open_images(kind(make((N, *shape))), None)


@pytest.mark.parametrize("make", [np.array, torch.from_numpy, list, Samples])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8, bool, np.uint16])
def test_wrong_dtype(make, dtype):
    X = make(color_images(3).astype(dtype))
    with pytest.raises(ValueError, match=rf"got dtype \S*{np.dtype(dtype).name}\b"):
        open_images(X, 3)


@pytest.mark.parametrize("dtype", [object, complex, "U1", "M8[s]"])
def test_wrong_dtype_that_torch_does_not_have(dtype):
    with pytest.raises(ValueError, match="got dtype"):
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
    with pytest.raises(TypeError, match=f"data set.*got {type(X).__name__}"):
        open_images(X, None)


@pytest.mark.parametrize(
    "item",
    ["a.png", b"a.png", None, 7, ("a.png", 1), {"image": np.zeros((H, W))}, [[1.0]]],
    ids=["string", "bytes", "none", "number", "tuple", "dict", "list-of-lists"],
)
@pytest.mark.parametrize("kind", [list, tuple, Samples])
def test_items_that_are_no_images(item, kind):
    message = rf"Sample {{}} of X must be an image.*got {type(item).__name__}\b"
    with pytest.raises(TypeError, match=message.format(0)):
        open_images(kind([item]), None)
    images = open_images(kind([np.zeros((H, W)), item]), None)
    assert images[:1].shape == (1, 1, H, W)
    with pytest.raises(TypeError, match=message.format(1)):
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
    message = rf"Image 5 has shape \(3, {H - 1}, {W}\).*\(3, {H}, {W}\). Resize"
    with pytest.raises(ValueError, match=message):
        images[np.array([8, 5, 0])]
    with pytest.raises(ValueError, match=message):
        images[4:7]


@pytest.mark.parametrize("other", [1, 4])
def test_a_dataset_image_with_other_channels_is_named(other):
    samples = [*tensor(color_images(3)), *tensor(color_images(other))]
    images = open_images(Samples(samples), 3)
    with pytest.raises(ValueError, match=rf"Sample {N} of X: .*\({other}, "):
        images[:]
