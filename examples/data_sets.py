"""Data for the examples: files with known classes, and long tails made of them."""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize

PARTS = {"train": ["train"], "test": ["test"], "all": ["train", "test"]}


def holds_classes(path):
    """Whether the file holds X and y, or those of a train and a test part."""
    with np.load(path) as file:
        names = set(file.files)
    return {"X", "y"} <= names or {"X_train", "y_train", "X_test", "y_test"} <= names


def load(path, split="test"):
    """Return X as a 2-D float array, and y.

    `split` chooses between X_train and X_test where there is no X. uint8 is divided by
    255, and float16 becomes float32.
    """
    with np.load(path) as file:
        if "X" in file.files:
            X, y = file["X"], file["y"]
        else:
            X, y = (
                np.concatenate([file[f"{name}_{part}"] for part in PARTS[split]])
                for name in "Xy"
            )
    X = X.reshape(len(X), -1)
    if X.dtype == np.uint8:
        X = X.astype(np.float32) / np.float32(255)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float32)
    return X, y


def thin_out(X, y, ratio, seed):
    """Return a subset whose class sizes fall geometrically, and its shares.

    The largest class is `ratio` times the smallest, but none gets less than 10 rows.
    """
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.unique(y))
    keep = []
    for rank, label in enumerate(classes):
        members = rng.permutation(np.flatnonzero(y == label))
        part = ratio ** (-rank / (len(classes) - 1))
        keep.append(members[: max(10, int(part * len(members)))])
    shares = np.array([len(members) for members in keep])
    rows = rng.permutation(np.concatenate(keep))
    return X[rows], y[rows], shares


def add_split(parser):
    """Add the option that chooses a part of a file."""
    parser.add_argument("--split", default="test", choices=PARTS)


def parse_and_load(parser):
    """Add an optional path to `parser`; return its arguments and the data, X and y."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("path", type=Path, nargs="?", help="an .npz file with X and y")
    add_split(parser)
    parser.add_argument(
        "--normalize", action="store_true", help="scale every row to length 1 first"
    )
    args = parser.parse_args()
    if args.path is None:
        return args, *load_digits(return_X_y=True)
    if not holds_classes(args.path):
        parser.error(f"{args.path} has no X and y")
    X, y = load(args.path, args.split)
    return args, normalize(X) if args.normalize else X, y
