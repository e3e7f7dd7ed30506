r"""Table 3 of the paper: features and clusters learned together, from scratch.

    python examples/paper/reproduce.py table3 --data FOLDER --dataset mnist
    python examples/paper/reproduce.py table3 --data FOLDER --dataset mnist \
        --methods Our --subset 10000 --settings skcce --width 0.25 --epochs 20

The defaults are the paper's (supplement 10.2): VGG-4, Adam with a constant learning
rate of 1e-4 and weight decay 0.01, batches of 250 (160 for STL-10), 50 epochs, 6 runs,
lam 100. It does not say how its images were augmented, or with what weight: here all
methods see one view of each image, made in the same way. What is a method's own is in
methods.py. --settings skcce takes the defaults of the library in place of all these
numbers. Scores are of the images that were clustered; the file of a run also has the
accuracy on test images, of the clusters matched anew.
"""

import numpy as np
import runs
from image_data import load as load_images
from methods import LAM, RIVALS, make_estimator, own_parameters
from published import TABLE3

METHODS = ("IMSAT", "IIC", "SeLa", "MIADM", "Our")
PAPER = {"lr": 1e-4, "weight_decay": 0.01, "schedule": "constant"}


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table3")
    runs.add_data_arguments(add, METHODS, TABLE3)
    runs.add_network_arguments(add)
    add_vgg4_arguments(add)
    add("--settings", choices=["paper", "skcce"], default="paper")
    add("--lam", type=float, nargs="+", help="one, or that of first and last epoch")


def add_vgg4_arguments(add):
    """Add the arguments of a VGG-4."""
    add("--width", type=float, default=1.0, help="factor of the channels")


def load(args, dataset):
    """Return the images to cluster, and those to test with, if there are others."""
    images = {"folder": args.data, "name": dataset, "download": args.download}
    train = load_images(**images, subset=args.subset)
    return train, None if dataset == "stl10" else load_images(**images, split="test")


def make_model(args, dataset, image_shape, **settings):
    """Return a VGG-4 for images of this shape."""
    from skcce.deep import DeepSoftmax, vgg4

    channels = 1 if len(image_shape) == 2 else image_shape[2]
    return DeepSoftmax(
        vgg4(channels, image_shape[0], width=args.width),
        device=args.device,
        n_threads=args.threads,
        **{"augment": "digits" if dataset == "mnist" else "natural"} | settings,
    )


def make_clusterer(args, dataset, method, image_shape, n_clusters):
    """Return the clusterer of a row."""
    batch_size = 160 if dataset == "stl10" else 250
    settings = {"max_iter": args.epochs, "batch_size": batch_size}
    model = {}
    if args.settings == "paper":
        model = PAPER
        settings |= {"n_init": 1, "tol": 0}
        settings |= own_parameters(method, "deep", LAM, view_weight=1.0)
    if args.lam and method not in RIVALS:
        settings["lam"] = args.lam[0] if len(args.lam) == 1 else args.lam
    model = make_model(args, dataset, image_shape, **model)
    return make_estimator(method, n_clusters, model=model, **settings)


def run(args, data, cell, checkpoint):
    """Cluster the images once, and return what there is to report."""
    (X, y), test = data
    clusterer = make_clusterer(
        args, cell.column, cell.row, X.shape[1:], len(np.unique(y))
    )
    clusterer.set_params(checkpoint=checkpoint, random_state=cell.seed)
    seconds = runs.fit(clusterer, X)
    result = runs.score(y, clusterer.labels_)
    if test is not None:
        scores = runs.score(test[1], clusterer.predict(test[0]))
        result["test ACC"] = scores["ACC"]
    return result | {
        "clusters": len(np.unique(clusterer.labels_)),
        "loss": float(clusterer.loss_),
        "seconds": seconds,
    }


def main(args):
    """Run and report."""
    title = "Table 3, VGG-4 from scratch"
    runs.reproduce(
        args, title, args.methods, args.dataset, load, run, TABLE3, args.scores
    )
