import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torchvision import models, transforms
from torchvision.transforms import v2

from skcce.deep import digits, natural, resnet18, vgg4
from skcce.deep._augment import as_augmentation
from skcce.deep._networks import is_fresh

# The paper's Table 8: channels of the four convolutions, their stride, and features.
TABLE_8 = {
    28: ([64, 128, 256, 512], 1, 4608),
    32: ([32, 64, 128, 256], 1, 4096),
    96: ([128, 256, 512, 1024], 2, 1024),
}

BUILDERS = {
    "vgg4": lambda: vgg4(3, 32, width=0.125),
    "resnet18": lambda: resnet18(3),
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def layers_of(network, kind):
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def pickled(network):
    return pickle.loads(pickle.dumps(network))


def seeded(augment, images, seed=0):
    torch.manual_seed(seed)
    return augment(images)


# VGG-4


@pytest.mark.parametrize("width", [0.25, 1.0])
@pytest.mark.parametrize("image_size", TABLE_8)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_vgg4_is_table_8(in_channels, image_size, width):
    channels, stride, n_features = TABLE_8[image_size]
    channels = [in_channels, *(int(n * width) for n in channels)]
    network = vgg4(in_channels, image_size, width=width).eval()
    convolutions = layers_of(network, nn.Conv2d)
    shapes = [tuple(layer.weight.shape) for layer in convolutions]
    assert shapes == [(n, m, 5, 5) for m, n in itertools.pairwise(channels)]
    assert [layer.stride for layer in convolutions] == [(stride, stride)] * 4
    norms = layers_of(network, nn.BatchNorm2d)
    assert [layer.num_features for layer in norms] == channels[1:]
    poolings = layers_of(network, nn.MaxPool2d)
    assert [layer.kernel_size for layer in poolings] == [2] * 3
    assert not layers_of(network, nn.Linear)
    with torch.no_grad():
        features = network(torch.rand(2, in_channels, image_size, image_size))
    assert features.shape == (2, n_features * width)
    assert features.dtype == torch.float32


@pytest.mark.parametrize("image_size", TABLE_8)
def test_vgg4_normalizes_and_rectifies_after_each_convolution(image_size):
    network = vgg4(1, image_size, width=0.1)
    kinds = [type(layer) for layer in network if not isinstance(layer, nn.MaxPool2d)]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*block * 4, nn.Flatten]
    # Pooling is in the first three blocks, behind the normalization.
    whole = [type(layer) for layer in network]
    poolings = [i for i, kind in enumerate(whole) if kind is nn.MaxPool2d]
    assert [whole[:i].count(nn.BatchNorm2d) for i in poolings] == [1, 2, 3]
    assert [whole[:i].count(nn.Conv2d) for i in poolings] == [1, 2, 3]
    assert (network(torch.randn(5, 1, image_size, image_size)) >= 0).all()


@pytest.mark.parametrize("image_size", TABLE_8)
def test_vgg4_pooling_before_relu_equals_relu_before_pooling(image_size):
    network = vgg4(3, image_size, width=0.125)
    swapped = list(copy.deepcopy(network))
    for i, layer in enumerate(network):
        if isinstance(layer, nn.MaxPool2d):
            swapped[i : i + 2] = reversed(swapped[i : i + 2])
    swapped = nn.Sequential(*swapped)
    kinds = [type(layer) for layer in network]
    assert kinds != [type(layer) for layer in swapped]
    images = torch.randn(4, 3, image_size, image_size)
    assert torch.equal(network(images), swapped(images))


@pytest.mark.parametrize("shape", [(32, 32), (28, 32), (32, 28), (27, 28), (1, 1)])
def test_vgg4_names_both_sizes_of_wrong_images(shape):
    height, width = shape
    message = rf"takes images of 28 x 28 .*got {height} x {width}\b"
    with pytest.raises(ValueError, match=message):
        vgg4(1, 28, width=0.1)(torch.zeros(2, 1, height, width))


@pytest.mark.parametrize("image_size", [0, 27, 64, 224, None, "28", (28, 28)])
def test_vgg4_of_another_image_size(image_size):
    with pytest.raises(ValueError, match=r"image_size=.*\[28, 32, 96\]"):
        vgg4(1, image_size)


@pytest.mark.parametrize("width", [0, 0.0, -1.0, np.nan, np.inf, -np.inf])
def test_vgg4_of_no_width(width):
    with pytest.raises(ValueError, match=f"width={width} must be positive and fin"):
        vgg4(1, 28, width=width)


def test_vgg4_has_at_least_one_channel():
    network = vgg4(1, 28, width=1e-6).eval()
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 9)


@pytest.mark.parametrize("build", [vgg4, resnet18])
@pytest.mark.parametrize("in_channels", [0, -3, 1.5, 3.0, None, "3"])
def test_no_channels(build, in_channels):
    with pytest.raises(ValueError, match=f"in_channels={in_channels!r} must be"):
        build(in_channels)


def test_vgg4_can_be_sliced():
    network = vgg4(1, 28, width=0.1).eval()
    first_block, others = network[:4], network[4:]
    images = torch.rand(2, 1, 28, 28)
    assert first_block(images).shape == (2, 6, 14, 14)
    assert torch.equal(others(first_block(images)), network(images))
    # A slice takes images of any size, and is no network that was built here.
    assert first_block(torch.rand(2, 1, 32, 20)).shape == (2, 6, 16, 10)
    assert not is_fresh(first_block)


# ResNet-18


@pytest.mark.slow
@pytest.mark.parametrize("max_pool", [False, True])
@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("size", [32, 48])
def test_resnet18_has_512_features(in_channels, max_pool, size):
    network = resnet18(in_channels, max_pool=max_pool).eval()
    sides = []
    network.layer4.register_forward_hook(lambda *args: sides.append(args[2].shape[2:]))
    with torch.no_grad():
        assert network(torch.rand(2, in_channels, size, size)).shape == (2, 512)
    # Only three of the blocks have a stride, and the pooling.
    side = size // 16 if max_pool else size // 8
    assert sides == [(side, side)]
    assert network.conv1.weight.shape == (64, in_channels, 3, 3)
    assert not layers_of(network, nn.Linear)


@pytest.mark.parametrize("in_channels", [1, 3])
def test_resnet18_has_torchvisions_first_random_weights(in_channels):
    # Variance 2 / fan-out, of a kernel of 3 x 3.
    weight = resnet18(in_channels).conv1.weight
    assert_allclose(weight.var().item(), 2 / (64 * 9), rtol=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("max_pool", [False, True])
def test_resnet18_takes_a_checkpoint_of_torchvision(max_pool):
    reference = models.resnet18(weights=None)
    state = reference.state_dict()
    for name in ("conv1.weight", "fc.weight", "fc.bias"):
        del state[name]
    network = resnet18(3, max_pool=max_pool)
    report = network.load_state_dict(state, strict=False)
    assert report.missing_keys == ["conv1.weight"]
    assert report.unexpected_keys == []
    assert not is_fresh(network)
    # Between the same ends, it computes the same.
    for name in ("conv1", "maxpool", "fc"):
        setattr(reference, name, getattr(network, name))
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.eval()(images), reference.eval()(images))


# Whether a network is as it was built


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
def test_is_fresh_after_building_and_copying(name):
    network = BUILDERS[name]()
    assert is_fresh(network)
    with torch.no_grad():
        network.eval()(torch.rand(2, 3, 32, 32))
    assert is_fresh(network)
    assert is_fresh(copy.deepcopy(network))
    assert is_fresh(pickled(network))


@pytest.mark.parametrize(
    ("name", "duplicate"),
    [("vgg4", copy.deepcopy), ("vgg4", pickled), ("resnet18", pickled)],
)
def test_build_gives_the_same_architecture_anew(name, duplicate):
    network = duplicate(BUILDERS[name]())
    torch.manual_seed(1)
    one, two = network.build(), network.build()
    torch.manual_seed(1)
    again = network.build()
    assert str(one) == str(network)
    convolution = [layers_of(n, nn.Conv2d)[-1].weight for n in (one, two, network)]
    for a, b in itertools.combinations(convolution, 2):
        assert not torch.equal(a, b)
    for a, b in zip(one.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", BUILDERS)
def test_is_not_fresh_after_loading_weights(name):
    network = BUILDERS[name]()
    network.load_state_dict(network.build().state_dict())
    for other in (network, copy.deepcopy(network), pickled(network)):
        assert not is_fresh(other)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_is_not_fresh_after_loading_weights(duplicate):
    network = BUILDERS["vgg4"]()
    other = duplicate(network)
    other.load_state_dict(network.build().state_dict())
    assert not is_fresh(other)
    assert is_fresh(network)


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_is_not_fresh_after_an_optimizer_step(name, optimizer):
    network = BUILDERS[name]()
    optimizer = optimizer(network.parameters(), lr=1e-3)
    (network(torch.rand(4, 3, 32, 32)) ** 2).mean().backward()
    assert is_fresh(network)
    optimizer.step()
    assert not is_fresh(network)


@pytest.mark.parametrize("name", BUILDERS)
def test_is_not_fresh_after_one_weight_has_changed(name):
    network = BUILDERS[name]()
    with torch.no_grad():
        layers_of(network, nn.Conv2d)[2].weight.view(-1)[7] += 0.01
    assert not is_fresh(network)


def test_networks_of_others_are_not_fresh():
    assert not is_fresh(nn.Linear(3, 2))
    assert not is_fresh(nn.Sequential(BUILDERS["vgg4"](), nn.Dropout()))


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network.append(nn.Dropout()),
        lambda network: network.__setitem__(2, nn.AvgPool2d(2)),
        lambda network: setattr(network[1], "momentum", 0.5),
        lambda network: network.requires_grad_(False),
        lambda network: network[0].weight.requires_grad_(False),
        lambda network: network.double(),
    ],
    ids=["appended", "replaced", "option", "frozen", "one-frozen", "double"],
)
def test_is_not_fresh_after_a_change_without_weights(change):
    network = BUILDERS["vgg4"]()
    change(network)
    for other in (network, copy.deepcopy(network), pickled(network)):
        assert not is_fresh(other)


# Augmentations


@pytest.mark.parametrize("shape", [(5, 28, 28), (1, 20, 32), (3, 7, 5)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augmentation_keeps_shape_dtype_and_input(augment, channels, shape, dtype):
    n, height, width = shape
    images = torch.rand(n, channels, height, width, dtype=dtype)
    before = images.clone()
    views = augment(images)
    assert views.shape == images.shape
    assert views.dtype == dtype
    assert not views.requires_grad
    assert torch.equal(images, before)
    assert not torch.equal(views, images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
@pytest.mark.parametrize("level", ["white", "black-and-white", "noise"])
def test_augmentation_stays_between_black_and_white(augment, channels, level):
    images = torch.rand(200, channels, 16, 16)
    if level != "noise":
        images = images.round() if level == "black-and-white" else images * 0 + 1
    views = augment(images)
    assert torch.isfinite(views).all()
    assert views.min() >= 0
    assert views.max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
def test_each_image_gets_its_own_random_change(augment, channels):
    images = torch.rand(1, channels, 16, 16).expand(20, -1, -1, -1)
    views = augment(images).flatten(1)
    assert len(torch.unique(views, dim=0)) == 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
def test_augmentation_follows_the_seed(augment, channels):
    images = torch.rand(8, channels, 16, 16)
    one, other = seeded(augment, images, 1), seeded(augment, images, 2)
    assert torch.equal(one, seeded(augment, images, 1))
    for a, b in zip(one, other, strict=True):
        assert not torch.equal(a, b)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
def test_augmentation_without_gradients(augment, channels):
    images = torch.rand(8, channels, 16, 16)
    expected = seeded(augment, images)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert torch.equal(seeded(augment, images), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [digits, natural])
def test_black_stays_black(augment, channels):
    assert not augment(torch.zeros(50, channels, 16, 16)).any()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("augment", [digits, natural])
def test_geometry_is_the_same_for_all_channels(augment, channels):
    """The channels of grey images stay equal, whatever happens to their colors."""
    images = torch.rand(50, 1, 16, 16).expand(-1, channels, -1, -1)
    views = augment(images)
    assert_allclose(views, views[:, :1].expand_as(views), atol=1e-5)


def drawing(size=64):
    """Return a lying ellipse in the middle of an image."""
    x = torch.linspace(-1, 1, size)
    return (1.2 - (x / 0.25) ** 2 - (x[:, None] / 0.1) ** 2).clamp(0, 1)[None, None]


def moments(images):
    """Return mass, center and angle of each image; sides run from -1/2 to 1/2."""
    height, width = images.shape[2:]
    y = ((torch.arange(height) + 0.5) / height - 0.5)[:, None].expand(height, width)
    x = ((torch.arange(width) + 0.5) / width - 0.5).expand(height, width)
    weights = images[:, 0].flatten(1)
    mass = weights.sum(dim=1)
    points = torch.stack([x.flatten(), y.flatten()], dim=1)
    center = weights @ points / mass[:, None]
    away = points - center[:, None]
    covariance = torch.einsum("np,npi,npj->nij", weights, away, away)
    vectors = torch.linalg.eigh(covariance).eigenvectors[..., -1]
    angle = torch.atan(vectors[:, 1] / vectors[:, 0]).rad2deg()
    return mass.numpy(), center.numpy(), angle.numpy()


def test_digits_turns_scales_and_shifts_as_it_says():
    image = drawing()
    mass, center, angle = moments(digits(image.expand(500, -1, -1, -1)))
    assert np.abs(angle).max() < 25.5
    assert angle.min() < -20
    assert angle.max() > 20
    scale = np.sqrt(mass / image.sum().item())
    assert 0.78 < scale.min() < 0.85
    assert 1.15 < scale.max() < 1.22
    # A shift of 15 % along each side, before the scaling.
    distance = np.linalg.norm(center, axis=1) / scale
    assert 0.15 < distance.max() < 0.15 * np.sqrt(2) + 0.01
    assert_allclose(center.mean(axis=0), 0, atol=0.02)


@pytest.fixture
def crops():
    """Edges of 1000 crops: left and right, top and bottom, from 0 to 1."""
    size = 32
    ramp = ((torch.arange(size) + 0.5) / size).expand(1000, 1, size, size)
    # Inside, because what is outside of the image may count at an edge.
    inner = torch.tensor([size // 4, 3 * size // 4 - 1])
    columns = seeded(natural, ramp)[:, 0, size // 2, inner]
    rows = seeded(natural, ramp.mT.contiguous())[:, 0, inner, size // 2]

    def edges(values):
        slope = (values[:, 1] - values[:, 0]) / (size // 2 - 1)
        first = values[:, 0] - (size // 4 + 0.5) * slope
        return first.numpy(), (first + size * slope).numpy()

    return edges(columns), edges(rows)


def test_natural_crops_as_it_says(crops):
    (left, right), (top, bottom) = crops
    width, height = np.abs(right - left), bottom - top
    assert (width * height).min() > 0.299
    assert (width * height).min() < 0.35
    assert (width * height).max() > 0.9
    aspect = width / height
    assert 3 / 4 - 0.001 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 4 / 3 + 0.001
    for edge in (left, right, top, bottom):
        assert edge.min() > -0.001
        assert edge.max() < 1.001


def test_natural_mirrors_half_of_the_images(crops):
    (left, right), (top, bottom) = crops
    assert 0.45 < (right < left).mean() < 0.55
    assert (top < bottom).all()


def test_natural_turns_a_fifth_of_the_images_grey():
    images = torch.rand(2000, 3, 4, 4)
    views = natural(images)
    spread = (views.amax(dim=1) - views.amin(dim=1)).flatten(1).amax(dim=1)
    assert 0.16 < (spread < 1e-5).float().mean() < 0.24


def test_natural_changes_the_brightness_as_it_says():
    # The other changes leave a grey image without contrast alone.
    views = natural(torch.full((2000, 3, 32, 32), 0.5))[:, 0, 16, 16]
    brightness = views / 0.5
    assert 0.57 < brightness.min() < 0.65
    assert 1.35 < brightness.max() < 1.43
    assert 0.16 < ((brightness - 1).abs() < 1e-5).float().mean() < 0.24


def test_natural_changes_the_color_as_it_says():
    color = torch.tensor([0.3, 0.5, 0.4])
    views = natural(color[:, None, None].expand(2000, 3, 8, 8))[:, :, 4, 4]
    same = (views - color).abs().amax(dim=1) < 1e-5
    assert 0.12 < same.float().mean() < 0.2  # 0.2 * 0.8

    def around_grey(colors):
        away = colors - colors.mean(dim=-1, keepdim=True)
        red, green, blue = away.unbind(dim=-1)
        return torch.complex(red - (green + blue) / 2, 3**0.5 / 2 * (green - blue))

    turned = around_grey(views) / around_grey(color)
    assert turned.abs().max() < 1.4**3 + 0.01
    hue = turned[turned.abs() > 0.01].angle().rad2deg()
    assert -36.1 < hue.min() < -30
    assert 30 < hue.max() < 36.1


def test_natural_crops_of_white_are_white():
    """Nothing from outside of the image is mixed in at its edge."""
    assert_allclose(natural(torch.ones(200, 1, 16, 16)), 1, atol=1e-5)


# What the parameter `augment` stands for


def test_as_augmentation_of_names_and_none():
    assert as_augmentation("digits") is digits
    assert as_augmentation("natural") is natural
    assert as_augmentation(None) is None


@pytest.mark.parametrize("name", ["", "digit", "Natural", "none"])
def test_as_augmentation_of_an_unknown_name(name):
    with pytest.raises(ValueError, match=f"augment='{name}' .*'digits', 'natural'"):
        as_augmentation(name)


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(),
        v2.Compose([v2.RandomHorizontalFlip(), v2.Identity()]),
        v2.RandomAffine(20),
        v2.RandomResizedCrop(16),
        v2.ColorJitter(0.4, 0.4),
        v2.RandomChoice([v2.Identity(), v2.RandomErasing(p=1)]),
        transforms.RandomHorizontalFlip(),
        transforms.Compose([transforms.RandomResizedCrop(16)]),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_torchvision_transforms_are_applied_image_by_image(transform):
    images = torch.rand(1, 3, 16, 16).expand(32, -1, -1, -1).clone()
    together = transform(images)
    assert len(torch.unique(together.flatten(1), dim=0)) == 1
    views = as_augmentation(transform)(images)
    assert views.shape == images.shape
    assert len(torch.unique(views.flatten(1), dim=0)) > 1


def test_a_torchvision_transform_without_chance_is_itself():
    images = torch.rand(5, 3, 16, 16)
    flip = v2.RandomHorizontalFlip(p=1)
    assert torch.equal(as_augmentation(flip)(images), images.flip(-1))


class Mirror(nn.Module):
    def forward(self, images):
        return images.flip(-1)


@pytest.mark.parametrize("augment", [lambda images: images.flip(-1), Mirror()])
def test_other_callables_get_the_whole_batch(augment):
    shapes = []

    def spy(images):
        shapes.append(tuple(images.shape))
        return augment(images)

    images = torch.rand(5, 3, 16, 16)
    assert torch.equal(as_augmentation(spy)(images), images.flip(-1))
    assert shapes == [(5, 3, 16, 16)]
    assert as_augmentation(augment) is augment


class MirrorSome(v2.RandomHorizontalFlip):
    pass


@pytest.mark.parametrize(
    "transform", [MirrorSome(), nn.Sequential(v2.RandomHorizontalFlip())]
)
def test_transforms_made_of_torchvisions_are_applied_image_by_image(transform):
    images = torch.rand(1, 3, 16, 16).expand(32, -1, -1, -1)
    views = as_augmentation(transform)(images)
    assert len(torch.unique(views.flatten(1), dim=0)) > 1
