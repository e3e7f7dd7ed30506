r"""Figure 2 of the paper: training with corrupted labels.

    python examples/paper/reproduce.py fig2 --data FOLDER --picture fig2.png
    python examples/paper/reproduce.py fig2 --data FOLDER --dataset mnist \
        --subset 10000 --width 0.25 --epochs 5 --runs 3
    python examples/paper/reproduce.py fig2 --data . --dataset digits --runs 5

A part eta of the training labels is drawn anew, from all classes, and a classifier is
trained with soft labels, (1 - eta) times the label and eta times equal shares, by
collision cross-entropy, eq. (9), or Shannon's, eq. (8). Prints and draws the accuracy
on test images; the band is a standard deviation wide on either side.

The paper has a ResNet-18 and the Natural Scenes data set, and gives no figures but its
picture; here it is a VGG-4 on MNIST and CIFAR-10, with Adam at 1e-3 that decays to zero
along half a cosine, weight decay 1e-4, batches of 250, and no augmentation; and a
linear model on 70 % of digits, which come with scikit-learn.
"""

from pathlib import Path

import numpy as np
import runs
import table3
from image_data import load as load_images
from image_data import subset_of
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skcce import CollisionClassifier, LinearSoftmax

LOSSES = ("collision", "Shannon")
DATASETS = ("mnist", "cifar10", "digits")


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "fig2")
    runs.add_data_arguments(add, LOSSES, DATASETS)
    runs.add_network_arguments(add, epochs=20)
    table3.add_vgg4_arguments(add)
    add(
        "--alpha",
        type=float,
        help="L2 penalty of the linear model; L-BFGS, not Adam, then trains it",
    )
    add(
        "--corrupted",
        type=float,
        nargs="+",
        default=[0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
        help="parts of the labels",
    )
    add("--picture", type=Path, default=Path("fig2.png"), help="file to draw")


def load(args, column):
    """Return training and test images; of digits, those of all runs together."""
    dataset = column.split()[0]
    if dataset == "digits":
        return subset_of(*load_digits(return_X_y=True), args.subset), None
    train = load_images(
        args.data, dataset, "train", subset=args.subset, download=args.download
    )
    return train, load_images(args.data, dataset, "test", download=args.download)


def corrupted_labels(y, part, rng):
    """Return labels, a part of which is replaced by random classes."""
    rows = rng.permutation(len(y))[: round(part * len(y))]
    y = y.copy()
    y[rows] = rng.choice(np.unique(y), size=len(rows))
    return y


def make_model(args, dataset, image_shape):
    """Return the network, or the linear model of digits."""
    if dataset != "digits":
        return table3.make_model(
            args, dataset, image_shape, augment=None, weight_decay=1e-4
        )
    if args.alpha is None:
        return LinearSoftmax()
    return LinearSoftmax(alpha=args.alpha, optimizer="lbfgs")


def run(args, data, cell, checkpoint):
    """Train once, and return what there is to report."""
    (X, y), test = data
    dataset, loss = cell.column.split()
    part, seed = float(cell.row), cell.seed
    if test is None:
        X, X_test, y, y_test = train_test_split(
            X, y, test_size=0.3, stratify=y, random_state=seed
        )
        test = X_test, y_test
    classifier = CollisionClassifier(
        model=make_model(args, dataset, X.shape[1:]),
        loss=loss.lower(),
        transition=part,
        max_iter=args.epochs,
        tol=0,
        checkpoint=checkpoint,
        random_state=seed,
    )
    labels = corrupted_labels(y, part, np.random.default_rng(seed))
    seconds = runs.fit(classifier, X, labels)
    return {
        "ACC": 100 * classifier.score(*test),
        "loss": classifier.loss_,
        "seconds": seconds,
    }


def draw(args, results):
    """Draw accuracy against the part of corrupted labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1,
        len(args.dataset),
        figsize=(4.6 * len(args.dataset), 3.8),
        layout="constrained",
        squeeze=False,
    )
    for ax, dataset in zip(panels[0], args.dataset, strict=True):
        for loss, style in zip(args.methods, ("-o", "--s"), strict=False):
            column = f"{dataset} {loss}"
            scores = {
                part: [
                    result["ACC"]
                    for cell, result in results.items()
                    if cell[:2] == (f"{part:g}", column) and "ACC" in result
                ]
                for part in args.corrupted
            }
            x = [part for part in scores if scores[part]]
            mean = np.array([np.mean(scores[part]) for part in x])
            std = np.array([np.std(scores[part]) for part in x])
            (line,) = ax.plot(x, mean, style, label=f"{loss} cross-entropy")
            ax.fill_between(
                x, mean - std, mean + std, alpha=0.2, color=line.get_color()
            )
        ax.set(title=dataset, xlabel="part of the labels that is random")
        ax.grid(alpha=0.3)
        ax.legend()
    panels[0, 0].set_ylabel("test accuracy, %")
    figure.savefig(args.picture, dpi=130)
    print(f"The picture is in {args.picture}")


def main(args):
    """Run, report and draw."""
    rows = [f"{part:g}" for part in args.corrupted]
    columns = [f"{name} {loss}" for name in args.dataset for loss in args.methods]
    title = "Figure 2, test accuracy by the part of corrupted labels"
    results = runs.reproduce(args, title, rows, columns, load, run, {}, args.scores)
    draw(args, results)
