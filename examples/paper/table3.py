r"""Table 3 of the paper: features and clusters learned together, from scratch.

    python examples/paper/table3.py --data FOLDER --dataset mnist --device cuda
    python examples/paper/table3.py --data FOLDER --dataset mnist --subset 10000 \
        --settings skcce --width 0.25 --epochs 20 --runs 5

The defaults are the paper's (supplement 10.2): VGG-4, Adam with learning rate 1e-4 and
weight decay 0.01, batches of 250 (160 for STL-10), lam 100, 50 epochs, 6 runs; it does
not say how its images were augmented, or with what weight. --settings skcce takes the
defaults of the library in place of these numbers. Prints the accuracy of every run,
then the paper's rows beside ours, mean (standard deviation), and writes a JSON file.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from image_data import DATASETS, load
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from skcce import CollisionClusterer
from skcce.deep import DeepSoftmax, vgg4
from skcce.metrics import clustering_accuracy_score

PAPER = {  # accuracy in percent, mean and standard deviation of 6 runs
    "stl10": {
        "IMSAT": (25.28, 0.5),
        "IIC": (24.12, 1.7),
        "SeLa": (23.99, 0.9),
        "MIADM": (23.37, 0.9),
        "paper": (25.98, 1.1),
    },
    "cifar10": {
        "IMSAT": (21.4, 0.5),
        "IIC": (21.3, 1.4),
        "SeLa": (24.16, 1.5),
        "MIADM": (23.26, 0.6),
        "paper": (24.26, 0.8),
    },
    "cifar100-20": {
        "IMSAT": (14.39, 0.7),
        "IIC": (12.58, 0.6),
        "SeLa": (15.34, 0.3),
        "MIADM": (14.02, 0.5),
        "paper": (15.14, 0.5),
    },
    "mnist": {
        "IMSAT": (92.90, 6.3),
        "IIC": (82.51, 2.3),
        "SeLa": (52.86, 1.9),
        "MIADM": (78.88, 3.3),
        "paper": (95.11, 4.3),
    },
}
SETTINGS = {
    "paper": {
        "lam": 100,
        "n_init": 1,
        "model__lr": 1e-4,
        "model__schedule": "constant",
        "model__weight_decay": 0.01,
        "view_weight": 1.0,
    },
    "skcce": {},
}
SCORES = {
    "ACC": clustering_accuracy_score,
    "NMI": normalized_mutual_info_score,
    "ARI": adjusted_rand_score,
}


def make_clusterer(args, image_shape, n_clusters, seed):
    """Return the clusterer of one run."""
    channels = 1 if len(image_shape) == 2 else image_shape[2]
    model = DeepSoftmax(
        vgg4(channels, image_shape[0], width=args.width),
        augment="digits" if args.dataset == "mnist" else "natural",
        device=args.device,
        n_threads=args.threads,
    )
    clusterer = CollisionClusterer(
        n_clusters,
        model=model,
        max_iter=args.epochs,
        batch_size=160 if args.dataset == "stl10" else 250,
        checkpoint=f"{args.checkpoint}-{seed}.npz" if args.checkpoint else None,
        random_state=seed,
        verbose=args.verbose,
    )
    settings = SETTINGS[args.settings]
    if args.lam:
        settings = settings | {"lam": args.lam[0] if args.lam[1:] == [] else args.lam}
    return clusterer.set_params(**settings)


def run(args, train, test, seed):
    """Fit once, and return what there is to report, all in plain numbers."""
    X, y = train
    clusterer = make_clusterer(args, X.shape[1:], len(np.unique(y)), seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer.fit(X)
    seconds = time.perf_counter() - start
    result = {name: 100 * f(y, clusterer.labels_) for name, f in SCORES.items()}
    if test is not None:
        result["test ACC"] = 100 * clustering_accuracy_score(
            test[1], clusterer.predict(test[0])
        )
    return result | {
        "seed": seed,
        "clusters": len(np.unique(clusterer.labels_)),
        "loss": clusterer.loss_,
        "seconds": seconds,
    }


def print_run(result):
    """Print one line for one run."""
    scores = ", ".join(f"{k} {v:5.2f}" for k, v in result.items() if k[-3:] in SCORES)
    print(
        f"run {result['seed']}: {scores}, {result['clusters']} clusters, loss "
        f"{result['loss']:.4f}, {result['seconds']:.0f} s",
        flush=True,
    )


def print_table(dataset, results):
    """Print the paper's rows and ours: accuracy in percent, mean (std)."""
    accuracy = np.array([result["ACC"] for result in results])
    rows = PAPER[dataset] | {"skcce": (accuracy.mean(), accuracy.std())}
    print(f"\n{dataset:10}  accuracy, % (std)")
    for name, (mean, std) in rows.items():
        print(f"{name:10}  {mean:6.2f} ({std:.1f})")


def write_json(args, results):
    """Write settings and runs to the file that --output names."""
    settings = {key: str(value) for key, value in vars(args).items()}
    args.output.write_text(
        json.dumps({"settings": settings, "runs": results}, indent=1)
    )


def parse_arguments(arguments=None):
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of the data")
    add("--dataset", choices=DATASETS, required=True)
    add("--runs", type=int, default=6, help="seeds 0, 1, ...")
    add("--first-run", type=int, default=0, help="the first seed")
    add("--epochs", type=int, default=50)
    add("--device", default="auto")
    add("--width", type=float, default=1.0, help="factor of the channels")
    add("--subset", type=int, help="train on this many images")
    add("--settings", choices=list(SETTINGS), default="paper")
    add("--lam", type=float, nargs="+", help="one, or that of first and last epoch")
    add("--threads", type=int, help="of torch on the CPU")
    add("--checkpoint", help="begin of the name of a file for each run")
    add("--output", type=Path, default=Path("table3.json"))
    add("--verbose", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run and report."""
    args = parse_arguments(arguments)
    train = load(args.data, args.dataset, subset=args.subset)
    test = None
    if args.dataset != "stl10":
        test = load(args.data, args.dataset, train=False)
    results = []
    for seed in range(args.first_run, args.first_run + args.runs):
        results.append(run(args, train, test, seed))
        print_run(results[-1])
    print_table(args.dataset, results)
    write_json(args, results)


if __name__ == "__main__":
    main()
