import itertools
import os

import numpy as np
import pytest
import torch
from conftest import pil_images, save
from feature_helpers import Calls, assert_close
from numpy.testing import assert_array_equal
from PIL import Image
from test_feature_cache import FILE, LIMIT, execute, vector
from torch import nn
from torchvision.models import get_model
from torchvision.transforms import v2

from skcce.features import ImageFeatures, _image_features
from skcce.features._cache import FeatureCache


class Network(nn.Module):
    """Three colors, weighted: as much as is needed to tell images apart."""

    def __init__(self, seed=0, width=3):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Conv2d(3, width, 3)
            self.norm = nn.BatchNorm2d(width)

    def forward(self, batch):
        return self.norm(self.layer(batch))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(256, size=(7, 9, 8, 3), dtype=np.uint8)


@pytest.fixture
def paths(tmp_path, images):
    return save(pil_images(images), tmp_path / "images")


@pytest.fixture
def make(tmp_path):
    def make(model=None, **parameters):
        settings = {"cache": tmp_path / "cache", "batch_size": 3, "n_jobs": 2}
        return ImageFeatures(model or Network(), **(settings | parameters))

    return make


def state_of(name, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_model(name, weights=None).state_dict()


def uncached(model, X, **parameters):
    return ImageFeatures(model, n_jobs=1, **parameters).transform(X)


def test_the_second_call_neither_decodes_nor_computes(
    make, paths, forwards, monkeypatch
):
    expected = make().fit_transform(paths)
    assert_close(expected, uncached(Network(), paths))
    assert forwards.take() == 2 * len(paths)

    def refuse(*args):
        raise AssertionError

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(_image_features, "cut_own", refuse)
    monkeypatch.setattr(_image_features, "load", refuse)
    assert_array_equal(make().transform(paths), expected)
    assert_array_equal(make(batch_size=1).transform(paths[::-1]), expected[::-1])
    assert_array_equal(make().transform([str(paths[3])]), expected[[3]])
    assert forwards == []


def test_named_tables_are_looked_up_too(make, paths, forwards):
    make().transform(paths)
    forwards.clear()
    table = make().set_output(transform="pandas").transform(paths)
    assert table.shape == (len(paths), 3)
    assert forwards == []


def test_only_new_images_are_computed(make, images, forwards):
    make().transform(images[:4])
    assert forwards.take() == 4
    assert_close(make().transform(images), uncached(Network(), images))
    assert forwards.take() == 3 + len(images)


def test_pixels_are_known_again_however_they_are_held(make, images, forwards):
    expected = make().transform(images)
    forwards.clear()
    for X in (
        list(images),
        torch.from_numpy(images).movedim(-1, 1),
        [Image.fromarray(image) for image in images],
        [(image, 3) for image in images],
        np.asfortranarray(images),
        images.copy(),
    ):
        assert_array_equal(make().transform(X), expected)
    assert forwards == []


def test_pixels_of_another_shape_or_type_are_others(make, forwards):
    zeros = [
        np.zeros((6, 5), np.uint8),
        np.zeros((5, 6), np.uint8),
        np.zeros((6, 5), np.float32),
        np.zeros((3, 10), np.uint8),
    ]
    for X in zeros:
        make().transform(X[None])
    assert forwards.take() == len(zeros)


def test_images_that_occur_twice(make, images, paths):
    rows = [0, 3, 0, 0, 5, 3]
    for X in (images, paths):
        twice = [X[i] for i in rows]
        expected = uncached(Network(), X)[rows]
        for _ in range(2):
            assert_close(make().transform(twice), expected)


def test_a_changed_file_is_computed_again(make, paths, forwards):
    make().transform(paths)
    forwards.clear()
    stat = paths[2].stat()
    pixels = np.asarray(Image.open(paths[2])).copy()
    Image.fromarray(255 - pixels).save(paths[2])
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    expected = uncached(Network(), paths)
    forwards.clear()
    assert_close(make().transform(paths), expected)
    assert forwards.take() == 1

    # The same time, but another size.
    Image.fromarray(pixels // 2).save(paths[2])
    paths[2].write_bytes(paths[2].read_bytes().ljust(stat.st_size + 1, b"\0"))
    assert paths[2].stat().st_size != stat.st_size
    os.utime(paths[2], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    expected = uncached(Network(), paths)
    forwards.clear()
    assert_close(make().transform(paths), expected)
    assert forwards.take() == 1


def test_one_name_in_two_folders_is_two_images(make, images, tmp_path, monkeypatch):
    model = make()
    for name, image in zip("ab", images, strict=False):
        (path,) = save(pil_images(image[None]), tmp_path / name)
        path.write_bytes(path.read_bytes().ljust(2000, b"\0"))
        os.utime(path, ns=(0, 10**18))
    rows = []
    for name in "ab":
        monkeypatch.chdir(tmp_path / name)
        rows.append(model.transform(["0.png"]))
    assert_close(np.concatenate(rows), uncached(Network(), images[:2]))


class Scaled(Network):
    def __init__(self, buffer=1.0, attribute=1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(buffer), persistent=False)
        self.other_scale = attribute

    def forward(self, batch):
        return super().forward(batch) * self.scale * self.other_scale


class Centered(Network):
    """Holds what it subtracts in no buffer."""

    def __init__(self, **held):
        super().__init__()
        vars(self).update(held)

    def forward(self, batch):
        mean = self.mean
        if callable(mean):
            mean = mean()
        while isinstance(mean, (list, dict)):
            mean = mean[0]
        return super().forward(batch) - mean


def one():
    return 1.0


class Sine(Network):
    def forward(self, batch):
        return super().forward(batch).sin()


def moved(model):
    model.norm.running_mean += 1
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Network(0), Network(1)),
        (Network(), moved(Network())),
        (Network(), Network(width=4)),
        (Network(), Sine()),
        (nn.AvgPool2d(3), nn.AvgPool2d(2)),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(3)), nn.AvgPool2d(3)),
        (Network().double().float().eval(), Network(3)),
        (Scaled(), Scaled(buffer=2.0)),
        (Scaled(), Scaled(attribute=2.0)),
        (Centered(mean=torch.ones(1)), Centered(mean=torch.zeros(1))),
        (Centered(mean=[torch.ones(1)]), Centered(mean=[torch.zeros(1)])),
        (Centered(mean={0: np.float32(1)}), Centered(mean={0: np.float32(2)})),
        (Centered(mean=lambda: 1.0), Centered(mean=lambda: 2.0)),
        (Centered(mean=one), Centered(mean=float)),
    ],
    ids=[
        *("weights", "buffers", "width", "class", "settings", "layers", "modes"),
        *("non-persistent-buffer", "attribute", "tensor", "list", "dict", "lambda"),
        "function",
    ],
)
def test_own_modules_that_differ_have_entries_of_their_own(make, images, one, other):
    for model in (one, other, one):
        expected = uncached(model, images)
        assert_close(make(model).transform(images), expected)


class Opaque:
    """Can be copied, but tells nothing of itself."""

    def __init__(self, value):
        self.value = value

    def __deepcopy__(self, memo):
        return Opaque(self.value)

    def __reduce__(self):
        raise TypeError("cannot pickle it")

    def __call__(self):
        return self.value


def test_a_module_that_cannot_be_told_from_others_is_not_cached(make, images, tmp_path):
    for value in (1.0, 2.0):
        model = Centered(mean=Opaque(value))
        expected = uncached(model, images)
        with pytest.warns(UserWarning, match="not used: model .*mean, a .*Opaque"):
            rows = make(model).transform(images)
        assert_close(rows, expected)
    assert make(model).fit(images).get_feature_names_out().shape == rows.shape[1:]
    assert list(tmp_path.rglob("*.sqlite3")) == []


def test_training_mode_and_device_do_not_matter(make, images, forwards):
    make(Network().train()).transform(images)
    forwards.clear()
    make(Network().eval()).transform(images)
    make(Network().requires_grad_(False), device="cpu").transform(images)
    assert forwards == []


class Encoded(Network):
    """Keeps something in its state dict that is no tensor."""

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


def test_an_extra_state_is_no_obstacle(make, images):
    assert_close(make(Encoded()).transform(images), uncached(Network(), images))


def test_layers_have_entries_of_their_own(make, images):
    for layer in (None, "layer", None, "layer"):
        expected = uncached(Network(), images, layer=layer)
        assert_close(make(layer=layer).transform(images), expected)


def to_tensor(image):
    return v2.functional.pil_to_tensor(image) / 255


def inverted(image):
    return 1 - to_tensor(image)


def test_what_is_prepared_otherwise_has_entries_of_its_own(
    make, images, paths, forwards
):
    for X in (images, paths):
        for preprocess in (None, inverted, lambda image: to_tensor(image)[[2, 1, 0]]):
            expected = uncached(Network(), X, preprocess=preprocess)
            assert_close(make(preprocess=preprocess).transform(X), expected)
            forwards.clear()
            make(preprocess=preprocess).transform(X)
            assert forwards == []


SMALL = {"preprocess": v2.Compose([v2.Resize((32, 32)), to_tensor])}


@pytest.mark.parametrize(
    "changes",
    [
        [{}, {"random_state": 1}],
        [{}, {"layer": "features.3"}, {"layer": "features.4"}],
        [{}, {"model": "squeezenet1_0"}],
    ],
    ids=["random_state", "layer", "model"],
)
def test_settings_have_entries_of_their_own(make, images, changes):
    base = {"model": "squeezenet1_1", "weights": None, **SMALL}
    computed = []
    for _ in range(2):
        for change in changes:
            settings = base | change
            expected = uncached(settings.pop("model"), images, **settings)
            settings = base | change
            assert_close(make(**settings).transform(images), expected)
            computed.append(expected)
    for one, other in itertools.combinations(computed[: len(changes)], 2):
        assert one.shape != other.shape or np.abs(one - other).max() > 1e-3


def test_a_file_of_weights_that_changed_is_another(make, images, tmp_path):
    path = tmp_path / "weights.pth"
    settings = {"model": "squeezenet1_1", "weights": path, **SMALL}
    rows = []
    for seed in range(2):
        random = {"weights": None, "random_state": seed}
        expected = uncached("squeezenet1_1", images, **(random | SMALL))
        torch.save(state_of("squeezenet1_1", seed), path)
        os.utime(path, ns=(0, seed))
        rows.append(make(**settings).transform(images))
        assert_close(rows[-1], expected)
    assert not np.array_equal(*rows)


def test_a_damaged_entry_is_computed_again_and_replaced(
    make, images, tmp_path, forwards
):
    expected = make().transform(images)
    forwards.clear()
    folder = tmp_path / "cache"
    ((record,),) = execute(folder, "SELECT vector FROM features LIMIT 1")
    damaged = record[:-1] + bytes([record[-1] ^ 1])
    execute(folder, "UPDATE features SET vector=? WHERE vector=?", damaged, record)
    assert_close(make().transform(images), expected)
    assert forwards.take() == 1
    assert_close(make().transform(images), expected)
    assert forwards == []
    assert (damaged,) not in execute(folder, "SELECT vector FROM features")


@pytest.mark.parametrize(
    ("length", "row", "n_new"), [(0, 0, 1), (1, 0, 0), (1, 4, 0), (1, 4, 1), (9, 4, 0)]
)
def test_a_record_of_another_length_is_computed_again(
    make, images, tmp_path, length, row, n_new
):
    expected = uncached(Network(), images)
    make().transform(images[: len(images) - n_new])
    make(cache=tmp_path / "one").transform(images[[row]])
    ((known,),) = execute(tmp_path / "one", "SELECT key FROM features")
    with FeatureCache(tmp_path / "cache", LIMIT) as cache:
        assert len(cache.read([known])) == 1
        cache.write({known: vector(0, length)})
    assert_close(make().transform(images), expected)


@pytest.mark.parametrize("damage", [b"garbage", bytes(9000), "half"])
def test_features_survive_a_broken_file(make, images, tmp_path, damage, forwards):
    expected = make().transform(np.concatenate([images] * 9 + [255 - images]))
    file = tmp_path / "cache" / FILE
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] if damage == "half" else damage)
    with pytest.warns(UserWarning, match="begun anew"):
        actual = make().transform(images)
    assert_close(actual, expected[: len(images)])
    forwards.clear()
    assert_close(make().transform(images), actual)


def test_a_cache_that_cannot_be_used_costs_a_warning_only(make, images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"file.*is not used"):
        actual = make(cache=tmp_path / "file").transform(images)
    assert_close(actual, uncached(Network(), images))


def test_an_interrupt_keeps_what_was_finished(make, images, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch, at_call=3)
        with pytest.raises(KeyboardInterrupt):
            make(n_jobs=1).transform(images)
        assert calls.take() == 6
    forwards = Calls(monkeypatch)
    actual = make().transform(images)
    assert forwards.take() == 1
    assert_close(actual, uncached(Network(), images))


def test_an_error_keeps_what_was_finished(make, images, forwards):
    X = [*images[:6], images[6, :5]]  # of another size: found in the third batch
    with pytest.raises(ValueError, match="one size"):
        make(batch_size=2).transform([*X[:5], X[6], X[5]])
    forwards.clear()
    make(batch_size=2).transform(images)
    assert forwards.take() == 3


def test_bad_images_are_bad_again(make, paths, forwards):
    good = uncached(Network(), paths)
    paths[1].write_text("no image")
    for n_computed in (len(paths) - 1, 0):
        forwards.clear()
        with pytest.warns(UserWarning, match=r"row 1: .*1\.png"):
            actual = make(on_error="skip").transform(paths)
        assert np.isnan(actual[1]).all()
        assert_close(np.delete(actual, 1, 0), np.delete(good, 1, 0))
        assert forwards.take() == n_computed
        with pytest.raises(ValueError, match="1 of 7 images"):
            make().transform(paths)


def test_a_small_cache_gives_the_right_features(make, images):
    for _ in range(2):
        actual = make(cache_size=1).transform(images)
        assert_close(actual, uncached(Network(), images))


def test_home_is_found_by_the_transformer(images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    ImageFeatures(Network(), cache="~/features").transform(images)
    assert os.listdir(tmp_path / "features") == [FILE]
