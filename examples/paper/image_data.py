"""The image data sets of the paper, from a folder or through torchvision.

A folder may hold ``mnist.npz`` (arrays X_train, y_train, X_test, y_test) and
``cifar10_jpeg.npz`` (arrays jpeg, offsets, labels, split: all JPEG files one after
another). Everything else is looked for, or downloaded to it, by torchvision.datasets.
"""

import io
from pathlib import Path

import numpy as np

DATASETS = ("mnist", "cifar10", "cifar100-20", "stl10")

# Mean and standard deviation of the colors, which SCAN's pretext networks expect.
NORMALIZE = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100-20": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "stl10": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

# The 20 superclasses of the 100 classes of CIFAR-100, in the order of the classes.
SUPERCLASSES = np.array(
    [
        *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
        *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
        *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
        *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
        *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
    ]
)


def load(folder, name, split="clustered", *, subset=None, download=False):
    """Return images, uint8 (n, height, width[, channels]), and their classes.

    Parameters
    ----------
    folder : path-like
        Where they are.
    name : {"mnist", "cifar10", "cifar100-20", "stl10"}
        Which ones.
    split : {"clustered", "train", "test"}
        "clustered" are those that the paper clusters: the training images; of STL-10
        the test images, too.
    subset : int, default=None
        Take that many images, drawn once and for all.
    download : bool, default=False
        Whether torchvision fetches what is not there.
    """
    splits = ["train" if split == "clustered" else split]
    if split == "clustered" and name == "stl10":
        splits += ["test"]
    folder = Path(folder).expanduser()
    parts = [_read(folder, name, split == "train", download) for split in splits]
    images, classes = map(np.concatenate, zip(*parts, strict=True))
    return subset_of(images, classes, subset)


def subset_of(X, y, n):
    """Return `n` rows, always the same, or all if that is None."""
    if n is None:
        return X, y
    rows = np.random.default_rng(0).permutation(len(X))[:n]
    return X[rows], y[rows]


def _read(folder, name, train, download):
    if name == "mnist" and (folder / "mnist.npz").exists():
        split = "train" if train else "test"
        with np.load(folder / "mnist.npz") as arrays:
            return arrays[f"X_{split}"], arrays[f"y_{split}"].astype(int)
    if name == "cifar10" and (folder / "cifar10_jpeg.npz").exists():
        return _read_jpegs(folder / "cifar10_jpeg.npz", train)
    return _read_torchvision(folder, name, train, download)


def _read_jpegs(path, train):
    from PIL import Image

    with np.load(path) as arrays:
        raw, ends = arrays["jpeg"].tobytes(), arrays["offsets"]
        rows = np.flatnonzero(arrays["split"] == (0 if train else 1))
        classes = arrays["labels"][rows].astype(int)
    images = [
        np.asarray(Image.open(io.BytesIO(raw[ends[i] : ends[i + 1]])).convert("RGB"))
        for i in rows
    ]
    return np.stack(images), classes


def _read_torchvision(folder, name, train, download):
    from torchvision import datasets

    kind = {
        "mnist": datasets.MNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100-20": datasets.CIFAR100,
        "stl10": datasets.STL10,
    }[name]
    split = {"train": train}
    if name == "stl10":
        split = {"split": "train" if train else "test"}
    try:
        data = kind(folder, **split, download=download)
    except RuntimeError as error:  # torchvision's, if they are not there
        raise FileNotFoundError(
            f"there is no {name} in {folder}; --download fetches it"
        ) from error
    if name == "stl10":
        return data.data.transpose(0, 2, 3, 1), data.labels.astype(int)
    images, classes = np.asarray(data.data), np.asarray(data.targets)
    return images, SUPERCLASSES[classes] if name == "cifar100-20" else classes
