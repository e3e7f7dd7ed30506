"""Deep clustering: a torch network inside :class:`~skcce.CollisionClusterer`.

Needs PyTorch and torchvision, skcce's extra ``deep``.
"""

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        "skcce.deep needs PyTorch and torchvision: pip install torch torchvision"
    ) from error

from skcce.deep._augment import digits, natural
from skcce.deep._linear import TorchLinearSoftmax
from skcce.deep._model import DeepSoftmax
from skcce.deep._networks import resnet18, vgg4

__all__ = [
    "DeepSoftmax",
    "TorchLinearSoftmax",
    "digits",
    "natural",
    "resnet18",
    "vgg4",
]
