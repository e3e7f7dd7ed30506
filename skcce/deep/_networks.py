"""The networks of the paper's experiments (supplement 10.1)."""

import math
import zlib
from collections.abc import Callable
from functools import partial
from numbers import Integral

import torch
from torch import nn

__all__ = ["resnet18", "vgg4"]

# Table 8: the channels of the first convolution and the stride of all four, by the
# size of the images.
_TABLE_8 = {28: (64, 1), 32: (32, 1), 96: (128, 2)}


def vgg4(
    in_channels: int = 3, image_size: int = 32, *, width: float = 1.0
) -> nn.Module:
    """Build the paper's VGG-4 without its last, linear layer.

    Four 5 x 5 convolutions, each followed by batch normalization and ReLU, with 2 x 2
    max-pooling after the first three. The number of channels doubles each time; it
    starts at 64 for images of 28 x 28, at 32 for 32 x 32, and at 128 for 96 x 96, where
    all convolutions have stride 2.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images: 1 for grey, 3 for color.
    image_size : {28, 32, 96}, default=32
        Height and width of the images in pixels.
    width : float, default=1.0
        Factor of all numbers of channels; 0.25 makes a network for small machines.

    Returns
    -------
    torch.nn.Module
        Maps images (n, in_channels, image_size, image_size) to features: (n, 4608),
        (n, 4096) or (n, 1024) for the three sizes, times `width`.

    Raises
    ------
    ValueError
        If a parameter is out of its range; in ``forward``, if the images are of another
        size.

    References
    ----------
    .. [1] Zhang, Boykov, arXiv:2303.07321, supplement, Table 8.

    Examples
    --------
    >>> import torch
    >>> from skcce.deep import vgg4
    >>> vgg4(in_channels=1, image_size=28)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 4608])
    """
    if image_size not in list(_TABLE_8):
        raise ValueError(
            f"image_size={image_size!r} must be one of {list(_TABLE_8)}, the networks "
            "of the paper's Table 8. Resize the images, or pass a network of your own."
        )
    _check_channels(in_channels)
    if not 0 < width < math.inf:
        raise ValueError(f"width={width!r} must be positive and finite.")
    build = partial(_vgg4, in_channels, image_size, width)
    return remember_builder(build(), build)


def resnet18(in_channels: int = 3, *, max_pool: bool = False) -> nn.Module:
    """Build a ResNet-18 for small images, without its last, linear layer.

    torchvision's residual blocks behind a first convolution of 3 x 3 and stride 1, as
    is usual for CIFAR and in the paper's Table 4.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    max_pool : bool, default=False
        Whether 3 x 3 max-pooling of stride 2 follows the first convolution: False for
        images of about 32 x 32, True for 96 x 96 (STL-10).

    Returns
    -------
    torch.nn.Module
        Maps images (n, in_channels, height, width) to features (n, 512). The names of
        its weights are torchvision's.

    References
    ----------
    .. [1] He, Zhang, Ren, Sun. "Deep Residual Learning for Image Recognition". CVPR
       2016.

    Examples
    --------
    >>> import torch
    >>> from skcce.deep import resnet18
    >>> resnet18()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 512])
    """
    _check_channels(in_channels)
    build = partial(_resnet18, in_channels, max_pool)
    return remember_builder(build(), build)


class _VGG4(nn.Sequential):
    image_size: int | None = None  # None in a slice of the network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size, (height, width) = self.image_size, images.shape[-2:]
        if size is not None and (height, width) != (size, size):
            raise ValueError(
                f"This vgg4 takes images of {size} x {size} pixels, got {height} x "
                f"{width}. Resize them, or build it for one of the sizes "
                f"{list(_TABLE_8)}."
            )
        return super().forward(images)


def _vgg4(in_channels: int, image_size: int, width: float) -> nn.Module:
    first, stride = _TABLE_8[image_size]
    layers, n_in = [], in_channels
    for i in range(4):
        n_out = max(1, round(first * 2**i * width))
        layers += [
            nn.Conv2d(n_in, n_out, 5, stride=stride, padding=2),
            nn.BatchNorm2d(n_out),
        ]
        if i < 3:
            # Before the ReLU, which commutes with it and then has a quarter to do.
            layers += [nn.MaxPool2d(2)]
        layers += [nn.ReLU()]
        n_in = n_out
    network = _VGG4(*layers, nn.Flatten())
    network.image_size = image_size
    return network


def _resnet18(in_channels: int, max_pool: bool) -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    network = ResNet(BasicBlock, [2, 2, 2, 2])
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not max_pool:
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


def remember_builder(network: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """Note on `network` how it was built, and what came out."""
    network.build, network.as_built = build, _description(network)
    return network


def is_fresh(network: nn.Module) -> bool:
    """Tell whether `network` still has the layers and weights that it was built with.

    Then another seed may draw it anew, without the loss of anything.
    """
    as_built = getattr(network, "as_built", None)
    return as_built is not None and as_built == _description(network)


def _description(network: nn.Module) -> tuple[str, list[tuple]]:
    weights = []
    for weight in network.parameters():
        values = weight.detach().cpu().double().numpy()
        weights += [(weight.dtype, weight.requires_grad, zlib.crc32(values))]
    return repr(network), weights


def _check_channels(in_channels: int) -> None:
    if not isinstance(in_channels, Integral) or in_channels < 1:
        raise ValueError(f"in_channels={in_channels!r} must be an int, at least 1.")
