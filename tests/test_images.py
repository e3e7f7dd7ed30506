import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import backwards, every_second, memmap, pil_images, read_only
from numpy.testing import assert_array_equal
from PIL import Image, ImageFile
from scipy import sparse
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from skcce._images import (
    channel_axis,
    check_image,
    image_sequence,
    is_table,
    path_of,
    read_image,
)
from skcce.deep._images import open_images

# No side of an image is a usual number of channels, and no two sides are equal.
N, H, W = 4, 7, 9
ORIENTATION = 0x0112


def color_images(channels, n=N):
    rng = np.random.default_rng(channels)
    return rng.integers(256, size=(n, H, W, channels), dtype=np.uint8)


def channels_first(X):
    return np.moveaxis(X, -1, 1)


def series_of(images):
    return pd.Series(images, index=[f"row {i}" for i in range(len(images))])


class Samples(Dataset):
    def __init__(self, samples):
        self.samples = list(samples)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        assert type(row) is int
        return self.samples[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(color_images(3))


# What holds the bytes of an array (n, H, W, C).
BYTES = {
    "array": lambda X: X,
    "channels-first": lambda X: channels_first(X).copy(),
    "channels-first-view": channels_first,
    "read-only": read_only,
    "read-only-channels-first": lambda X: read_only(channels_first(X)),
    "every-second-column": every_second,
    "backwards": backwards,
    "fortran": np.asfortranarray,
    "memmap": memmap,
    "list": list,
    "list-channels-first": lambda X: list(channels_first(X)),
    "array-of-arrays": lambda X: array_of_objects(list(X)),
    "pil": pil_images,
    "series-of-pil": lambda X: series_of(pil_images(X)),
    "tensor": lambda X: torch.from_numpy(channels_first(X).copy()),
    "tensor-view": lambda X: torch.from_numpy(X).movedim(-1, 1),
    "tensor-channels-last": torch.from_numpy,
    "list-of-tensors": lambda X: list(torch.from_numpy(channels_first(X).copy())),
    "uint16": lambda X: X.astype(np.uint16) * 257,
    "uint16-read-only": lambda X: read_only(X.astype(np.uint16) * 257),
    "uint16-big-endian": lambda X: (X.astype(np.uint16) * 257).astype(">u2"),
    "uint16-tensor": lambda X: torch.from_numpy(X.astype(np.uint16) * 257),
    "dataset": Samples,
    "dataset-with-labels": lambda X: Samples(zip(X, range(len(X)), strict=True)),
    "dataset-with-lists": lambda X: Samples([image, 1] for image in pil_images(X)),
    "tensor-dataset": lambda X: TensorDataset(torch.from_numpy(X), torch.zeros(len(X))),
    "subset": lambda X: Subset(Samples(X[::-1]), range(len(X))[::-1]),
}

FLOATS = {
    "float16": lambda X: X.astype(np.float16),
    "float32": lambda X: X.astype(np.float32),
    "float64": lambda X: X.astype(np.float64),
    "longdouble": lambda X: X.astype(np.longdouble),
    "big-endian": lambda X: X.astype(">f4"),
    "read-only": lambda X: read_only(X.astype(np.float32)),
    "backwards": lambda X: backwards(X.astype(np.float32)),
    "list-channels-first": lambda X: list(channels_first(X.astype(np.float32))),
    "tensor": lambda X: torch.from_numpy(channels_first(X.astype(np.float32)).copy()),
    "tensor-requires-grad": lambda X: (
        torch.from_numpy(X.astype(np.float32)).movedim(-1, 1).requires_grad_()
    ),
    "tensor-bfloat16": lambda X: torch.from_numpy(channels_first(X).copy()).bfloat16(),
    "tensor-64": lambda X: torch.from_numpy(X.astype(np.float64)),
}


def array_of_objects(items):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def as_rgb(X):
    """Repeat grey, drop alpha."""
    return np.repeat(X, 3, axis=-1) if X.shape[-1] == 1 else X[..., :3]


def pixels(item):
    image = read_image(item)
    if isinstance(image, Image.Image):
        assert image.mode == "RGB"
    return np.asarray(image)


def all_pixels(X):
    images = image_sequence(X)
    return [pixels(images[i]) for i in range(len(images))]


# --- What holds images ------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", BYTES)
def test_bytes_of_every_kind_stay_the_same_bytes(kind, channels):
    X = color_images(channels)
    read = all_pixels(BYTES[kind](X))
    assert {image.dtype for image in read} == {np.dtype(np.uint8)}
    assert_array_equal(read, as_rgb(X))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", FLOATS)
def test_floats_of_every_kind_stay_the_same_numbers(kind, channels):
    X = color_images(channels) // 128  # exact in all of them
    read = all_pixels(FLOATS[kind](X))
    assert {image.dtype for image in read} == {np.dtype(np.float32)}
    assert_array_equal(read, as_rgb(X))


@pytest.mark.parametrize("kind", ["array", "tensor-channels-last", "list", "dataset"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_grey_ones_need_no_channel(kind, dtype):
    X = color_images(1).astype(dtype)
    assert_array_equal(all_pixels(BYTES[kind](X[..., 0])), as_rgb(X))


def test_booleans_are_black_and_white():
    X = color_images(1)[..., 0] > 100
    assert_array_equal(all_pixels(X), as_rgb(np.uint8(255) * X[..., None]))
    assert_array_equal(all_pixels(torch.from_numpy(X)), all_pixels(X))


def test_16_bits_are_rounded():
    values = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    (image,) = all_pixels(values)
    assert_array_equal(image[..., 0], np.round(values[0] / 257.0))


def test_ambiguous_channels_are_last_in_arrays_and_first_in_tensors():
    X = np.random.default_rng(0).integers(256, size=(2, 3, 5, 3), dtype=np.uint8)
    for image, x in zip(all_pixels(X), X, strict=True):
        assert_array_equal(image, x)
    for image, x in zip(all_pixels(torch.from_numpy(X)), X, strict=True):
        assert_array_equal(image, np.moveaxis(x, 0, -1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (1, 1, 1)])
@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy], ids=["np", "torch"])
def test_a_few_pixels_are_an_image(shape, convert):
    x = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    image = pixels(convert(x))
    assert image.shape == (*shape[:2], 3)
    assert_array_equal(image, np.broadcast_to(x.reshape(*shape[:2], -1), image.shape))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [*BYTES, *FLOATS, "bool"])
def test_networks_and_features_get_the_same_pixels(kind, channels):
    hold = {**BYTES, **FLOATS, "bool": lambda X: X > 99}[kind]
    batch = open_images(hold(color_images(channels)), 3)[:]
    assert_array_equal(batch.movedim(1, -1), all_pixels(hold(color_images(channels))))


@pytest.mark.parametrize(
    "X",
    [
        *(np.zeros((3, 2)), np.zeros(3), np.array(3.0), np.zeros((0, 3))),
        *([[1, 2]], [1, 2], [], (), [["1", "2"]], [b"x.png"], [None]),
        *(torch.zeros(3, 2), torch.zeros(3, 2, requires_grad=True)),
        *(np.array([["1", "2"]]), np.array([[{}, 1]]), np.array([[1.0]], dtype=object)),
        *(sparse.csr_array(np.eye(3)), sparse.coo_array(np.eye(3))),
        *(pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": ["1"], "b": ["2"]})),
        *(pd.Series([1.0]), np.zeros((2, 2, 2, 2, 2))),
    ],
    ids=lambda X: type(X).__name__,
)
def test_tables_are_no_images(X):
    assert is_table(X)


@pytest.mark.parametrize(
    "X",
    [
        *(["x.png"], (Path("x.png"),), np.array(["x.png"]), [("x.png", 3)]),
        *(pd.Series(["x.png"]), pd.Series([Path("x.png")]), np.array([["x.png"]])),
        *(pd.Series(["x.png"], index=[3]).astype("category"), "x.png", Path("x.png")),
        *(pd.DataFrame({"file": ["x.png"]}), np.array([Path("x.png")]), np.array("x")),
        *(np.zeros((3, 2, 2)), torch.zeros(3, 1, 2, 2), [np.zeros((2, 2))]),
        *([Image.new("L", (2, 2))], Samples([1]), {}, None, Stream()),
    ],
    ids=lambda X: type(X).__name__,
)
def test_images_are_no_tables(X):
    assert not is_table(X)


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        tuple,
        np.array,
        array_of_objects,
        series_of,
        lambda paths: series_of(paths).astype("string"),
        lambda paths: series_of(paths).astype("category"),
        lambda paths: pd.DataFrame({"path": paths}),
        lambda paths: np.array(paths)[:, None],
        lambda paths: [Path(path) for path in paths],
        lambda paths: [(path, 7) for path in paths],
        Samples,
    ],
    ids=[
        *("list", "tuple", "array", "objects", "series", "strings", "categories"),
        *("table", "column", "Path", "labels", "dataset"),
    ],
)
def test_paths_of_every_kind(tmp_path, wrap):
    X = color_images(3)
    paths = [str(tmp_path / f"{i}.png") for i in range(N)]
    for path, image in zip(paths, pil_images(X), strict=True):
        image.save(path)
    images = image_sequence(wrap(paths))
    assert [path_of(images[i]) for i in range(N)] == paths
    assert_array_equal([pixels(images[i]) for i in range(N)], X)


def test_image_folder(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i, image in enumerate(pil_images(color_images(3))):
            image.save(tmp_path / label / f"{i}.png")
    expected = np.concatenate([color_images(3)] * 2)
    assert_array_equal(all_pixels(ImageFolder(tmp_path)), expected)


# --- What an image may be ---------------------------------------------------


def saved(image, path, **options):
    image.save(path, **options)
    return path


def smooth_image(height=40, width=64):
    """Without noise, of which JPEG keeps little."""
    y, x = np.mgrid[:height, :width]
    channels = (4 * x % 256, 6 * y % 256, (2 * x + 3 * y) % 256)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_files_keep_their_pixels(tmp_path, suffix):
    (x,) = color_images(3, n=1)
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(x), tmp_path / f"x.{suffix}", **options)
    assert_array_equal(pixels(path), x)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_modes_become_rgb_as_pillow_does_it(mode):
    image = smooth_image().convert(mode)
    assert_array_equal(pixels(image), np.asarray(image.convert("RGB")))
    assert image.mode == mode


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpegs_are_what_pillow_decodes(tmp_path, mode):
    path = saved(smooth_image().convert(mode), tmp_path / "x.jpg")
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert_array_equal(pixels(path), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_alpha_is_dropped(tmp_path, mode, suffix):
    image = smooth_image().convert(mode)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    opaque = image.copy()
    opaque.putalpha(255)
    path = saved(image, tmp_path / f"x.{suffix}")
    assert_array_equal(pixels(path), pixels(opaque))
    assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 8))])
@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palettes_with_transparency_keep_their_colors(tmp_path, transparency, suffix):
    if suffix == "gif" and isinstance(transparency, bytes):
        pytest.skip("GIF has one transparent color")
    image = smooth_image().quantize(32)
    path = saved(image, tmp_path / f"x.{suffix}", transparency=transparency)
    with Image.open(path) as file:
        assert "transparency" in file.info
    assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(("mode", "color"), [("L", 9), ("RGB", (0, 6, 3)), ("1", 1)])
def test_a_transparent_color_is_kept(tmp_path, mode, color):
    image = smooth_image().convert(mode)
    path = saved(image, tmp_path / "x.png", transparency=color)
    assert_array_equal(pixels(path), np.asarray(image.convert("RGB")))


def test_16_bit_files_are_reduced_to_8_bits(tmp_path):
    grey = color_images(1, n=1)[0, ..., 0]
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for name in ("x.png", "x.tiff", "x.pgm"):
        path = saved(deep, tmp_path / name)
        assert_array_equal(pixels(path), as_rgb(grey[..., None]), err_msg=name)


def test_integers_of_pillow_are_16_bits():
    grey = color_images(1, n=1)[0, ..., 0]
    wide = Image.fromarray(grey.astype(np.int32) * 257)
    assert wide.mode == "I"
    assert_array_equal(pixels(wide), as_rgb(grey[..., None]))


def test_floats_of_pillow_are_floats():
    grey = color_images(1, n=1)[0, ..., 0].astype(np.float32) - 100
    image = Image.fromarray(grey)
    assert image.mode == "F"
    assert_array_equal(pixels(image), as_rgb(grey[..., None]))


@pytest.mark.parametrize("values", [[[0, 65536]], [[-1, 0]]])
def test_integers_of_no_known_range_are_refused(values):
    with pytest.raises(ValueError, match="must be from 0 to 65535"):
        read_image(Image.fromarray(np.array(values, dtype=np.int32)))


# What a camera that noted an orientation did to the upright image.
TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("orientation", TURNED)
def test_rotations_of_a_camera_are_undone(tmp_path, orientation):
    # Blocks of one color, which JPEG keeps.
    upright = np.repeat(np.repeat(color_images(3, n=1)[0], 16, 0), 16, 1)
    turned = Image.fromarray(np.ascontiguousarray(TURNED[orientation](upright)))
    exif = exif_of(orientation)
    png = saved(turned, tmp_path / "x.png", exif=exif)
    assert_array_equal(pixels(png), upright)
    jpeg = saved(turned, tmp_path / "x.jpg", exif=exif, quality=100, subsampling=0)
    read = pixels(jpeg)
    assert read.shape == upright.shape
    assert np.abs(read - upright.astype(int)).mean() < 5
    with Image.open(png) as image:
        assert_array_equal(pixels(image), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"\0",
        b"garbage, garbage, garbage",
        b"II*\0\x08\0\0\0\xff\xff\x12\x01",
        b"II*\0\xff\xff\xff\x7f",
        b"XX*\0\x08\0\0\0\x01\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
        b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01A\0\0\0\0\0\0\0",
    ],
    ids=["empty", "nul", "text", "cut", "far", "header", "orientation-99", "letter"],
)
def test_a_corrupt_exif_block_is_no_reason_to_refuse_an_image(tmp_path, suffix, exif):
    path = saved(smooth_image(), tmp_path / f"x.{suffix}", exif=b"Exif\0\0" + exif)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert_array_equal(pixels(path), expected)
    check_image(path)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [smooth_image().convert("L").point(lambda v, k=k: v // k) for k in (1, 2)]
    for suffix in ("gif", "png", "tiff"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert_array_equal(pixels(path), pixels(frames[0]), err_msg=suffix)


def test_what_was_given_is_left_as_it_was(tmp_path):
    image = smooth_image().convert("P")
    before = image.copy()
    read = read_image(image)
    read.paste(0, (0, 0, 9, 9))
    assert image.mode == "P"
    assert image.tobytes() == before.tobytes()

    rgb = smooth_image()
    read_image(rgb).paste(0, (0, 0, 9, 9))
    assert rgb.tobytes() == smooth_image().tobytes()

    x = color_images(3, n=1)[0]
    before = x.copy()
    read_image(x).paste(0, (0, 0, 5, 5))
    assert_array_equal(x, before)


# --- What is no image -------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "error", "text"),
    [
        ("one.jpg", TypeError, "single path 'one.jpg'.*rglob"),
        (b"one.jpg", TypeError, "single path"),
        (Path("one.jpg"), TypeError, "single path 'one.jpg'"),
        ({"a": 1}, TypeError, "dict"),
        ((i for i in range(3)), TypeError, "generator.*Turn a generator into a list"),
        (iter([1]), TypeError, "list_iterator"),
        ({"a.jpg"}, TypeError, "set"),
        (None, TypeError, "NoneType"),
        (3, TypeError, "int"),
        (Stream(), TypeError, "Stream"),
        (DataLoader(Samples([1])), TypeError, "DataLoader.*pass its dataset"),
        (np.float64(3), TypeError, "float"),
        ([], ValueError, "0 samples"),
        (pd.Series([], dtype=str), ValueError, "0 samples"),
        (np.zeros((0, 5, 5)), ValueError, "0 samples"),
        (Samples([]), ValueError, "0 samples"),
        (np.zeros((3, 4)), ValueError, r"got \(3, 4\)"),
        (torch.zeros(3, 4), ValueError, r"got \(3, 4\)"),
        (np.zeros((2, 3, 4, 5, 6)), ValueError, r"must have shape"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), ValueError, r"got \(1, 2\)"),
        (pd.DataFrame({"a": ["x"], "b": ["y"]}), ValueError, "one column"),
        (np.array([["a", "b"]]), ValueError, "one column"),
        (np.zeros((8, 9, 3), np.uint8), ValueError, r"single one. Pass X\[None\]"),
        (np.zeros((8, 9, 4), np.uint8), ValueError, "single one"),
    ],
)
def test_no_sequence_of_images(X, error, text):
    with pytest.raises(error, match=text):
        image_sequence(X)


@pytest.mark.parametrize(
    ("item", "error", "text"),
    [
        (None, TypeError, "NoneType"),
        (7, TypeError, "int"),
        (b"x.png", TypeError, "bytes"),
        (float("nan"), TypeError, "float"),
        ({"image": 3}, TypeError, "dict"),
        ((), TypeError, "tuple"),
        ([[1, 2], [3, 4]], TypeError, "list"),
        (np.zeros(5, np.uint8), ValueError, r"2 or 3 dimensions, got shape \(5,\)"),
        (np.zeros((2, 2, 2, 2)), ValueError, "2 or 3 dimensions"),
        (
            np.zeros((7, 9, 5), np.uint8),
            ValueError,
            "takes, 1, 3 or 4, first",
        ),
        (
            np.zeros((2, 7, 9), np.uint8),
            ValueError,
            "takes, 1, 3 or 4, first",
        ),
        (torch.zeros(5, 7, 9), ValueError, "takes, 1, 3 or 4, first"),
        (np.zeros((0, 9), np.uint8), ValueError, "no pixels"),
        (np.zeros((3, 0, 9), np.uint8), ValueError, "no pixels"),
        (np.zeros((7, 9), np.int64), ValueError, r"int64.*astype\(np.uint8\)"),
        (np.zeros((7, 9), np.int8), ValueError, "not of int8"),
        (np.zeros((7, 9), complex), ValueError, "complex"),
        (np.zeros((7, 9), object), ValueError, "object"),
        (torch.zeros(3, 7, 9, dtype=torch.int64), ValueError, "int64"),
        (np.full((7, 9), np.nan), ValueError, "NaN or infinity"),
        (np.full((7, 9, 3), np.inf, np.float32), ValueError, "NaN or infinity"),
        (np.full((7, 9, 3), 1e300), ValueError, "NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_no_image(item, error, text):
    with pytest.raises(error, match=text):
        read_image(item)


def encoded(format, **options):
    buffer = io.BytesIO()
    smooth_image().save(buffer, format, **options)
    return buffer.getvalue()


def raises(function, path):
    try:
        function(path)
    except (OSError, ValueError, SyntaxError):
        return True
    return False


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG"),
        encoded("JPEG", progressive=True),
        encoded("JPEG", restart_marker_rows=1),
        encoded("PNG"),
        encoded("GIF"),
        encoded("BMP"),
        encoded("WEBP"),
        encoded("TIFF"),
    ],
    ids=["JPEG", "progressive", "restart", "PNG", "GIF", "BMP", "WEBP", "TIFF"],
)
def test_a_check_finds_the_truncated_files_that_cannot_be_read(tmp_path, data):
    path = tmp_path / "x"
    refused = 0
    for length in np.linspace(0, len(data), 40, endpoint=False).astype(int):
        path.write_bytes(data[:length])
        assert raises(check_image, path) == raises(read_image, path), length
        refused += raises(read_image, path)
    assert refused > 30
    path.write_bytes(data)
    check_image(path)


def test_a_check_refuses_what_is_no_file_of_an_image(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg", "missing.jpg", "."):
        for function in (check_image, read_image):
            with pytest.raises(OSError):  # noqa: PT011
                function(tmp_path / name)


def test_a_check_does_not_decode_all_of_a_jpeg(tmp_path, monkeypatch):
    path = saved(smooth_image(800, 1600), tmp_path / "x.jpg")
    sizes = []
    load = ImageFile.ImageFile.load

    def noting(image):
        result = load(image)
        sizes.append(image.size)
        return result

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", noting)
    check_image(path)
    assert set(sizes) == {(200, 100)}
    sizes.clear()
    read_image(path)
    assert set(sizes) == {(1600, 800)}


# --- Which axis has the channels --------------------------------------------


@pytest.mark.parametrize(
    ("sides", "channels", "prefer_last", "axis"),
    [
        ((7, 9), None, True, None),
        ((7, 9), 1, False, None),
        ((7, 9, 3), None, False, 3),
        ((3, 7, 9), None, True, 1),
        ((3, 7, 3), 3, True, 3),
        ((3, 7, 3), 3, False, 1),
        ((1, 7, 3), 3, False, 3),
        ((5, 7, 9), 5, True, 1),
        ((7, 9, 5), 5, False, 3),
        ((7, 9, 5), None, False, 1),
        ((7, 9, 5), None, True, 3),
    ],
)
def test_axis_of_the_channels(sides, channels, prefer_last, axis):
    assert channel_axis(sides, channels, prefer_last=prefer_last) == axis


@pytest.mark.parametrize(
    ("sides", "channels", "text"),
    [
        ((7, 9), 4, "takes, 4, first or last"),
        ((7, 9, 1), 4, "takes, 4, first"),
        ((7, 9, 5), 3, "takes, 1, 3 or 4, first or last"),
        ((7, 9, 3), 1, "takes, 1, first"),
        ((7, 0), 1, "no pixels"),
    ],
)
def test_channels_that_the_network_does_not_take(sides, channels, text):
    with pytest.raises(ValueError, match=text):
        channel_axis(sides, channels, prefer_last=True)


def test_path_of():
    assert path_of("a.png") == "a.png"
    assert path_of(Path("a") / "b.png") == os.path.join("a", "b.png")
    assert path_of(("a.png", 3)) == "a.png"
    assert path_of([Path("a.png")]) == "a.png"
    for item in (None, 3, (), [], (3, "a.png"), np.zeros((2, 2)), b"a.png"):
        assert path_of(item) is None
