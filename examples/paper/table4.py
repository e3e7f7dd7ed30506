r"""Table 4 of the paper: a ResNet-18, from pretext weights to clusters.

    python examples/paper/table4.py --data FOLDER --dataset cifar10 --device cuda \
        --pretext simclr-cifar10.pt

The weights are those that ``simclr.py`` beside this file writes, or the pretext
checkpoints of SCAN (Van Gansbeke et al., 2020). The other defaults are the paper's
(supplement 10.2): Adam with learning rate 1e-5 for the network and 5e-2 for the head,
weight decay 1e-4, batches of 200, lam 100, one augmented view of weight 0.5, 0.2 or
0.4, 50 epochs. Prints every run, then the paper's rows beside ours, mean (standard
deviation), and writes a JSON file.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from image_data import DATASETS, NORMALIZE, load
from sklearn.exceptions import ConvergenceWarning
from table3 import SCORES, print_run, write_json

from skcce import CollisionClusterer
from skcce.deep import DeepSoftmax, resnet18

PAPER = {  # accuracy, NMI and ARI in percent, each mean and standard deviation
    "cifar10": {
        "SCAN": ((81.8, 0.3), (71.2, 0.4), (66.5, 0.4)),
        "IMSAT": ((77.64, 1.3), (71.05, 0.4), (64.85, 0.3)),
        "MIADM": ((74.76, 0.3), (69.17, 0.2), (62.51, 0.2)),
        "paper": ((83.27, 0.2), (71.95, 0.2), (68.15, 0.1)),
    },
    "cifar100-20": {
        "SCAN": ((42.2, 3.0), (44.1, 1.0), (26.7, 1.3)),
        "IMSAT": ((43.68, 0.4), (42.92, 0.2), (26.47, 0.1)),
        "MIADM": ((43.47, 0.5), (42.85, 0.4), (27.78, 0.4)),
        "paper": ((47.01, 0.2), (43.28, 0.1), (29.11, 0.1)),
    },
    "stl10": {
        "SCAN": ((75.5, 2.0), (65.4, 1.2), (59.0, 1.6)),
        "IMSAT": ((70.23, 2.0), (62.22, 1.2), (53.54, 1.1)),
        "MIADM": ((67.84, 0.2), (60.33, 0.5), (51.67, 0.6)),
        "paper": ((78.12, 0.1), (68.11, 0.3), (62.34, 0.3)),
    },
}
VIEW_WEIGHT = {"stl10": 0.5, "cifar10": 0.2, "cifar100-20": 0.4}


def load_pretext(path, network):
    """Load pretext weights of this project's ResNet-18, torchvision's or SCAN's.

    Projection heads are left out; everything else has to fit.
    """
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


def run(args, train, test, seed):
    """Fit on the training images, and score on the test images, as SCAN does."""
    network = load_pretext(args.pretext, resnet18(max_pool=args.dataset == "stl10"))
    model = DeepSoftmax(
        network,
        augment="natural",
        lr=args.lr,
        head_lr=args.head_lr,
        weight_decay=1e-4,
        schedule="constant",
        normalize=NORMALIZE[args.dataset],
        device=args.device,
    )
    clusterer = CollisionClusterer(
        len(np.unique(train[1])),
        model=model,
        lam=args.lam,
        view_weight=VIEW_WEIGHT[args.dataset],
        max_iter=args.epochs,
        batch_size=args.batch_size,
        checkpoint=f"{args.checkpoint}-{seed}.npz" if args.checkpoint else None,
        random_state=seed,
        verbose=args.verbose,
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer.fit(train[0])
    seconds = time.perf_counter() - start
    labels = clusterer.predict(test[0])
    return {name: 100 * f(test[1], labels) for name, f in SCORES.items()} | {
        "seed": seed,
        "clusters": len(np.unique(labels)),
        "loss": clusterer.loss_,
        "seconds": seconds,
    }


def print_table(dataset, results):
    """Print the paper's rows and ours, mean (std)."""
    scores = np.array([[result[name] for name in SCORES] for result in results])
    ours = tuple(zip(scores.mean(axis=0), scores.std(axis=0), strict=True))
    print(f"\n{dataset:12}" + "".join(f"{name + ', %':>14}" for name in SCORES))
    for name, row in (PAPER[dataset] | {"skcce": ours}).items():
        cells = [f"{mean:.2f} ({std:.1f})" for mean, std in row]
        print(f"{name:12}" + "".join(f"{cell:>14}" for cell in cells))


def main(arguments=None):
    """Run and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data")
    add("--dataset", choices=DATASETS[1:], required=True)
    add("--pretext", type=Path, required=True, help="file of pretext weights")
    add("--runs", type=int, default=6, help="seeds 0, 1, ...")
    add("--epochs", type=int, default=50)
    add("--device", default="auto")
    add("--subset", type=int, help="train on this many images")
    add("--lr", type=float, default=1e-5, help="of the network")
    add("--head-lr", type=float, default=5e-2)
    add("--lam", type=float, default=100)
    add("--batch-size", type=int, default=200)
    add("--checkpoint", help="begin of the name of a file for each run")
    add("--output", type=Path, default=Path("table4.json"))
    add("--verbose", type=int, default=0)
    args = parser.parse_args(arguments)
    train = load(args.data, args.dataset, subset=args.subset)
    test = load(args.data, args.dataset, train=False, subset=args.subset)
    results = []
    for seed in range(args.runs):
        results.append(run(args, train, test, seed))
        print_run(results[-1])
    print_table(args.dataset, results)
    write_json(args, results)


if __name__ == "__main__":
    main()
