"""Random augmentations of whole batches, drawn for each image by itself.

All take and return float images in [0, 1], shape (n, channels, height, width), and draw
from torch's global generator of the images' device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["digits", "natural"]

Augmentation = Callable[[Tensor], Tensor]

_LUMINANCE = (0.299, 0.587, 0.114)


def digits(images: Tensor) -> Tensor:
    """Shift, turn and scale images of digits, letters or other drawings.

    First by up to 15 % of the image's size in both directions, then by up to 25 degrees
    and 20 %, all uniformly distributed; what comes in from outside is black.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        Float images in [0, 1], bright on black.

    Returns
    -------
    Tensor of shape (n, channels, height, width)
        One random view of each image.

    Examples
    --------
    >>> import torch
    >>> from skcce.deep import digits
    >>> digits(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 1, 28, 28])
    """
    n = len(images)
    angle = _uniform(images, n, -25, 25) * (math.pi / 180)
    scale = _uniform(images, n, 0.8, 1.2)
    # On a grid that runs from -1 to 1.
    shift = _uniform(images, (n, 2), -0.3, 0.3)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    return _warp(images, ((cos, -sin), (sin, cos)), shift)


def natural(images: Tensor) -> Tensor:
    """Crop, mirror and recolor photographs, as contrastive methods do.

    A random part of 30 to 100 % of the area, with an aspect ratio changed by up to 4:3,
    is resized to the whole, and mirrored with probability 0.5. In color images
    brightness, contrast and saturation then change by up to 40 % and the hue by up to
    36 degrees, with probability 0.8; and a fifth of the images turns grey.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)
        Float images in [0, 1].

    Returns
    -------
    Tensor of shape (n, channels, height, width)
        One random view of each image.

    References
    ----------
    .. [1] Chen, Kornblith, Norouzi, Hinton. "A Simple Framework for Contrastive
       Learning of Visual Representations". ICML 2020, appendix A.

    Examples
    --------
    >>> import torch
    >>> from skcce.deep import natural
    >>> natural(torch.rand(5, 3, 32, 32)).shape
    torch.Size([5, 3, 32, 32])
    """
    n = len(images)
    side = _uniform(images, n, 0.3, 1).sqrt()
    stretch = torch.exp(_uniform(images, n, -0.5, 0.5) * math.log(4 / 3))
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    # The center stays where the crop is inside the image.
    center = _uniform(images, (n, 2), -1, 1) * torch.stack([1 - width, 1 - height], 1)
    mirror = 1 - 2 * (_uniform(images, n, 0, 1) < 0.5).to(images.dtype)
    zero = torch.zeros_like(width)
    images = _warp(
        images, ((mirror * width, zero), (zero, height)), center, padding="border"
    )
    return _recolor(images) if images.shape[1] == 3 else images


def as_augmentation(augment: str | Callable | None) -> Augmentation | None:
    """Return the function of a batch that an ``augment`` parameter stands for."""
    if augment is None or not isinstance(augment, str):
        return _one_by_one(augment) if _is_torchvision(augment) else augment
    if augment not in _PRESETS:
        raise ValueError(
            f"augment={augment!r} must be one of {list(_PRESETS)}, a transform of "
            "torchvision.transforms.v2, a function of a batch of images, or None."
        )
    return _PRESETS[augment]


_PRESETS = {"digits": digits, "natural": natural}


def _is_torchvision(augment: object) -> bool:
    if isinstance(augment, nn.Sequential):
        return any(_is_torchvision(part) for part in augment)
    return any(
        kind.__module__.startswith("torchvision.transforms.")
        for kind in type(augment).__mro__
    )


def _one_by_one(transform: Callable[[Tensor], Tensor]) -> Augmentation:
    # torchvision draws once for all images of a tensor.
    return lambda images: torch.stack([transform(image) for image in images])


def _warp(
    images: Tensor,
    rows: tuple[tuple[Tensor, Tensor], ...],
    shift: Tensor,
    padding: str = "zeros",
) -> Tensor:
    """Look up each pixel at rows @ (x, y) + shift, bilinearly."""
    linear = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    matrix = torch.cat([linear, shift[:, :, None]], dim=2)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, padding_mode=padding, align_corners=False
    )


def _recolor(images: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue: one matrix per image."""
    n = len(images)
    luminance = images.new_tensor(_LUMINANCE)
    identity = torch.eye(3, dtype=images.dtype, device=images.device).expand(n, 3, 3)
    grey = luminance.expand(3, 3).expand(n, 3, 3)
    one = images.new_ones(n)
    changed = _uniform(images, n, 0, 1) < 0.8

    def strength(at_most):
        return torch.where(changed, one + _uniform(images, n, -at_most, at_most), one)

    brightness, contrast = strength(0.4), strength(0.4)
    saturation, turn = strength(0.4), (strength(0.1) - 1) * (2 * math.pi)
    saturation = torch.where(_uniform(images, n, 0, 1) < 0.2, 0 * one, saturation)
    saturate = torch.lerp(grey, identity, saturation[:, None, None])
    color = saturate @ _hue_rotation(turn)
    mean = torch.einsum("nchw,c->n", images, luminance) / images[0, 0].numel()
    matrix = color * (brightness * contrast)[:, None, None]
    offset = (brightness * (1 - contrast) * mean)[:, None, None, None]
    flat = images.flatten(2)
    return (torch.bmm(matrix, flat).view_as(images) + offset).clamp(0, 1)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Return matrices (n, 3, 3) that turn colors about the grey axis by `angle`."""
    cos, sin = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    identity = torch.eye(3, dtype=angle.dtype, device=angle.device)
    axis = angle.new_full((3, 3), 1 / 3)
    cross = angle.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    return cos * identity + (1 - cos) * axis + sin * cross  # Rodrigues' formula


def _uniform(images: Tensor, size: int | tuple, low: float, high: float) -> Tensor:
    draw = torch.rand(size, dtype=images.dtype, device=images.device)
    return low + (high - low) * draw
