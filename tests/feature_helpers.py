import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.data import Dataset
from torchvision import models

from skcce.features import _image_features

# Torchvision's own preparation, and the part that is replaced by hand.
TRANSFORMS = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1.transforms(),
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V2.transforms(),
    "convnext_tiny": models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1.transforms(),
    "vit_b_16": models.ViT_B_16_Weights.IMAGENET1K_V1.transforms(),
    "efficientnet_b0": models.EfficientNet_B0_Weights.IMAGENET1K_V1.transforms(),
    "mobilenet_v3_small": models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.transforms(),
    "squeezenet1_1": models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms(),
}
# These and their (untrained) weights are where torchvision looks for pretrained ones.
PRETRAINED = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "mobilenet_v3_small": models.MobileNet_V3_Small_Weights.IMAGENET1K_V1,
}


def network_of(name, seed=0, **options):
    """One of torchvision's networks; its batch norm has seen something, if seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = getattr(models, name)(weights=None, **options)
        if seed:
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 1.0
            network.train()(torch.randn(8, 3, 64, 64))
    return network


def without_head(name, network):
    if name.startswith("resnet"):
        network.fc = nn.Identity()
    elif name.startswith("vit"):
        network.heads.head = nn.Identity()
    else:
        row = {"convnext_tiny": 2, "mobilenet_v3_small": 3}.get(name, 1)
        network.classifier[row] = nn.Identity()
    return network


@torch.inference_mode()
def direct(name, images, network, transform=None):
    """What torchvision itself makes of PIL images, or of tensors of floats."""
    network = without_head(name, network).eval()
    transform = transform or TRANSFORMS[name]
    images = [x.convert("RGB") if hasattr(x, "convert") else x for x in images]
    return network(torch.stack([transform(image) for image in images])).numpy()


def assert_close(actual, expected):
    assert actual.dtype == np.float32
    assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def smooth_images(n, height=90, width=120):
    """Images of which each is another one, and no corner looks like the next."""
    y, x = np.mgrid[:height, :width] / 30
    waves = [
        [np.sin((1 + i) * x + k + (2 + k) * y) for k in range(3)] for i in range(n)
    ]
    values = np.ascontiguousarray(np.moveaxis(waves, 1, -1))
    return np.round(127 * (1 + values)).astype(np.uint8)


class Tiny(nn.Module):
    """Batch norm, dropout: what differs between the modes of a network."""

    def __init__(self, width=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Dropout(0.5),
            )
            self.body[1].running_mean.normal_()
            self.head = nn.Linear(width, 5)

    def forward(self, batch):
        return self.head(self.body(batch).mean(dim=(2, 3)))


class Colors(nn.Module):
    def forward(self, batch):
        return batch.mean(dim=(2, 3))


@torch.inference_mode()
def tiny(X):
    """What `Tiny` makes of bytes."""
    batch = torch.from_numpy(np.moveaxis(X, -1, 1) / np.float32(255))
    return Tiny().eval()(batch).numpy()


class Samples(Dataset):
    def __init__(self, samples):
        self.samples = list(samples)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, row):
        sample = self.samples[row]
        if isinstance(sample, Exception):
            raise sample
        return sample


class Output(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, batch):
        return self.function(batch)


class Calls(list):
    """The sizes of the batches that went through a network."""

    def __init__(self, monkeypatch, at_call=0):
        super().__init__()
        features = _image_features.features

        def counted(network, batch):
            if len(self) + 1 == at_call:
                raise KeyboardInterrupt
            self.append(len(batch))
            return features(network, batch)

        monkeypatch.setattr(_image_features, "features", counted)

    def take(self):
        """Return how many images went through since the last time."""
        n = sum(self)
        self.clear()
        return n
