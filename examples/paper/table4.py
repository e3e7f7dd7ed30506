r"""Table 4 of the paper: a ResNet-18, from pretext weights to clusters.

    python examples/paper/reproduce.py table4 --data FOLDER --pretext simclr-{}.pt

The name of the data set stands for the {}. The weights are those that ``simclr.py``
beside this file writes, or the pretext checkpoints of SCAN (Van Gansbeke et al., 2020).
The other defaults are the paper's (supplement 10.2): Adam with learning rate 1e-5 for
the network and 5e-2 for the head, weight decay 1e-4, batches of 200, lam 100, one
augmented view of weight 0.5, 0.2 or 0.4, 50 epochs. What is a method's own is in
methods.py. Scores are of the test images, as SCAN's are. Pairs, for SCAN, are an image
and its view, not neighbors among pretext features.
"""

from pathlib import Path

import numpy as np
import runs
from image_data import NORMALIZE
from image_data import load as load_images
from methods import LAM, make_estimator, own_parameters
from published import TABLE4

METHODS = ("SCAN", "IMSAT", "MIADM", "Our")
VIEW_WEIGHT = {"stl10": 0.5, "cifar10": 0.2, "cifar100-20": 0.4}


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table4")
    runs.add_data_arguments(add, METHODS, TABLE4, ("ACC", "NMI", "ARI"))
    runs.add_network_arguments(add)
    add_resnet18_arguments(add)
    add("--lam", type=float, default=LAM)


def add_resnet18_arguments(add):
    """Add the arguments of a ResNet-18."""
    add("--pretext", default="simclr-{}.pt", help="files of pretext weights")
    add("--lr", type=float, default=1e-5, help="of the network")
    add("--head-lr", type=float, default=5e-2)
    add("--batch-size", type=int, default=200)


def load_pretext(path, network):
    """Load pretext weights of this project's ResNet-18, torchvision's or SCAN's.

    Projection heads are left out; everything else has to fit.
    """
    import torch

    if not Path(path).exists():
        raise FileNotFoundError(f"there are no weights {path}; simclr.py makes some")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("model", state.get("state_dict", state))
    renamed = {}
    for name, value in state.items():
        parts = name.replace("shortcut", "downsample").split(".")
        while parts[0] in ("module", "backbone", "encoder"):
            parts = parts[1:]
        renamed[".".join(parts)] = value
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - renamed.keys())
    if missing:
        raise ValueError(f"{path} has no weights for {missing[0]} (of {len(missing)}).")
    network.load_state_dict({name: renamed[name] for name in wanted})
    return network


def make_model(args, dataset):
    """Return a ResNet-18 with pretext weights."""
    from skcce.deep import DeepSoftmax, resnet18

    network = resnet18(max_pool=dataset == "stl10")
    return DeepSoftmax(
        load_pretext(args.pretext.format(dataset), network),
        augment="natural",
        lr=args.lr,
        head_lr=args.head_lr,
        weight_decay=1e-4,
        schedule="constant",
        normalize=NORMALIZE[dataset],
        device=args.device,
        n_threads=args.threads,
    )


def load(args, dataset):
    """Return the images to cluster and the test images, and a model for them."""
    images = {"subset": args.subset, "download": args.download}
    train = load_images(args.data, dataset, **images)
    test = load_images(args.data, dataset, "test", **images)
    return train, test, make_model(args, dataset)


def run(args, data, cell, checkpoint):
    """Fit on the training images, and score on the test images."""
    (X, y), test, model = data
    clusterer = make_estimator(
        cell.row,
        len(np.unique(y)),
        model=model,
        n_init=1,
        max_iter=args.epochs,
        batch_size=args.batch_size,
        tol=0,
        checkpoint=checkpoint,
        random_state=cell.seed,
        **own_parameters(cell.row, "deep", args.lam, VIEW_WEIGHT[cell.column]),
    )
    seconds = runs.fit(clusterer, X)
    labels = clusterer.predict(test[0])
    return runs.score(test[1], labels) | {
        "clusters": len(np.unique(labels)),
        "loss": float(clusterer.loss_),
        "seconds": seconds,
    }


def main(args):
    """Run and report."""
    title = "Table 4, ResNet-18 from pretext weights"
    runs.reproduce(
        args, title, args.methods, args.dataset, load, run, TABLE4, args.scores
    )
