"""Table 2 of the paper: clusters of fixed features.

    python examples/paper/reproduce.py table2 --data FOLDER
    python examples/paper/reproduce.py table2 --data FOLDER --features pixels

Features are those of a ResNet-50 that was trained on ImageNet (--weights FILE, or
torchvision's, which are downloaded); of files FOLDER/<data set>.npz with arrays X and
y (--features FOLDER); or the pixels. The settings are the paper's (supplement 10.2):
a linear model, random weights, SGD with learning rate 0.1, batches of 250, 10 epochs,
L2 penalties of 0.001 (MNIST), 0.02 (CIFAR-10, STL-10) and 0.009 (CIFAR-100-20), no
neighbors, one start. LinearSoftmax divides the centered rows by the root s of their
mean square norm. For rows as they are given, as the paper's numbers have it, a learning
rate of 0.1 and a penalty alpha are 0.1 s^2 and alpha / s^2 there. What differs: the
rows are centered, and the intercept, too, learns at the rate of 0.1 s^2; the first
weights are drawn for the divided rows; and the learning rate decays to zero.

lam is 100 as in eq. (11), the weight of the mean-level loss. Eq. (15), read literally,
would make that 100 / 250: --lam 0.4. KMeans is scikit-learn's, with its defaults.
"""

from pathlib import Path

import numpy as np
import runs
from image_data import load as load_images
from image_data import subset_of
from methods import LAM, make_estimator, own_parameters
from published import TABLE2
from sklearn.cluster import KMeans

from skcce import LinearSoftmax

METHODS = ("KMeans", "MIGD", "SeLa", "MIADM", "Our")
ALPHA = {"mnist": 0.001, "cifar10": 0.02, "cifar100-20": 0.009, "stl10": 0.02}


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table2")
    runs.add_data_arguments(add, METHODS, TABLE2)
    add_linear_arguments(add)


def add_linear_arguments(add, epochs=10):
    """Add the arguments of fixed features."""
    add("--features", help='folder of <data set>.npz, or "pixels"')
    add("--weights", default="DEFAULT", help="of the ResNet-50")
    add("--device", default="auto", help="of the ResNet-50")
    add("--epochs", type=int, default=epochs)
    add("--lam", type=float, default=LAM)


def load(args, dataset):
    """Return features and classes."""
    if args.features not in (None, "pixels"):
        with np.load(Path(args.features) / f"{dataset}.npz") as arrays:
            return subset_of(arrays["X"], arrays["y"], args.subset)
    images, y = load_images(
        args.data, dataset, subset=args.subset, download=args.download
    )
    if args.features == "pixels":
        return images.reshape(len(images), -1).astype(np.float32) / 255, y
    from skcce.features import ImageFeatures

    features = ImageFeatures(
        "resnet50",
        weights=args.weights,
        device=args.device,
        cache=args.output / "features",
    )
    return features.transform(images), y


def make_clusterer(method, X, n_clusters, alpha, epochs, lam=LAM):
    """Return the clusterer of a row."""
    if method == "KMeans":
        return KMeans(n_clusters)
    square = float(X.var(axis=0, dtype=np.float64).sum())
    return make_estimator(
        method,
        n_clusters,
        model=LinearSoftmax(
            learning_rate=0.1 * square, alpha=alpha / square, optimizer="sgd"
        ),
        features=None,
        n_neighbors=0,
        init="random",
        n_init=1,
        batch_size=250,
        max_iter=epochs,
        tol=0,
        **own_parameters(method, "linear", lam),
    )


def run(args, data, cell, checkpoint):
    """Cluster the features once, and return what there is to report."""
    X, y = data
    clusterer = make_clusterer(
        cell.row, X, len(np.unique(y)), ALPHA[cell.column], args.epochs, args.lam
    )
    clusterer.set_params(random_state=cell.seed)
    seconds = runs.fit(clusterer, X)
    return runs.score(y, clusterer.labels_) | {
        "clusters": len(np.unique(clusterer.labels_)),
        "seconds": seconds,
    }


def main(args):
    """Run and report."""
    title = "Table 2, fixed features"
    runs.reproduce(
        args, title, args.methods, args.dataset, load, run, TABLE2, args.scores
    )
