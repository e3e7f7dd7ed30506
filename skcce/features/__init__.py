"""Features of images, from pretrained networks, as scikit-learn transformers.

Needs PyTorch and torchvision, skcce's extra ``deep``.
"""

try:
    import torch  # noqa: F401
    import torchvision  # noqa: F401
except ImportError as error:
    raise ImportError(
        "skcce.features needs PyTorch and torchvision: pip install torch torchvision"
    ) from error

from skcce.features._image_features import ImageFeatures

__all__ = ["ImageFeatures"]
