r"""Figure 2 of the paper: training with corrupted labels.

    python examples/paper/reproduce.py fig2 --data FOLDER --picture fig2.png
    python examples/paper/reproduce.py fig2 --data FOLDER --dataset mnist \
        --subset 10000 --width 0.25 --epochs 5 --runs 3

A part eta of the training labels is drawn anew, from all classes, and a network is
trained with soft labels, (1 - eta) times the label and eta times equal shares, by
collision cross-entropy, eq. (9), or Shannon's, eq. (8). Prints and draws the accuracy
on test images; the band is a standard deviation wide on either side.

The paper has a ResNet-18 and the Natural Scenes data set, and gives no figures but its
picture; here it is a VGG-4 on MNIST and CIFAR-10, with Adam at 1e-3 that decays to zero
along half a cosine, weight decay 1e-4, batches of 250, and no augmentation.
"""

import time
from pathlib import Path

import numpy as np
import runs
import table3
from image_data import load as load_images

from skcce.losses import collision_loss_and_gradient, shannon_loss_and_gradient

LOSSES = {
    "collision": collision_loss_and_gradient,
    "Shannon": shannon_loss_and_gradient,
}
DATASETS = ("mnist", "cifar10")
BATCH_SIZE = 250


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "fig2")
    runs.add_data_arguments(add, LOSSES, DATASETS)
    runs.add_network_arguments(add, epochs=20)
    table3.add_vgg4_arguments(add)
    add(
        "--corrupted",
        type=float,
        nargs="+",
        default=[0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
        help="parts of the labels",
    )
    add("--picture", type=Path, default=Path("fig2.png"), help="file to draw")


def load(args, column):
    """Return training and test images."""
    dataset = column.split()[0]
    train = load_images(
        args.data, dataset, "train", subset=args.subset, download=args.download
    )
    return train, load_images(args.data, dataset, "test", download=args.download)


def corrupted_labels(y, part, rng):
    """Return soft labels, after a part of `y` is replaced by random classes."""
    n_classes = len(np.unique(y))
    rows = rng.permutation(len(y))[: round(part * len(y))]
    y = y.copy()
    y[rows] = rng.integers(n_classes, size=len(rows))
    labels = part / n_classes + (1 - part) * np.eye(n_classes)[y]
    return labels.astype(np.float32)


def run(args, data, cell, checkpoint):
    """Train once, and return what there is to report."""
    (X, y), test = data
    dataset, loss_name = cell.column.split()
    part, seed = float(cell.row), cell.seed
    rng = np.random.default_rng(seed)
    labels = corrupted_labels(y, part, rng)
    model = table3.make_model(
        args, dataset, X.shape[1:], augment=None, weight_decay=1e-4
    )
    start = time.perf_counter()
    images = model.validate_input(X)
    model.initialize(
        images,
        labels.shape[1],
        labels=None,
        sample_weight=None,
        random_state=np.random.RandomState(seed),
    )
    n_batches = -(-len(y) // BATCH_SIZE)
    for epoch in range(args.epochs):
        batches = np.array_split(rng.permutation(len(y)), n_batches)
        for i, rows in enumerate(batches):

            def objective(logits, rows=rows):
                loss, gradient = LOSSES[loss_name](logits, labels[rows])
                return float(loss.mean()), gradient / loss.size

            progress = (epoch + i / n_batches) / args.epochs
            value = model.train_step(images[rows], objective, progress=progress)
    seconds = time.perf_counter() - start
    predicted = model.decision_function(model.validate_input(test[0])).argmax(axis=1)
    return {
        "ACC": 100 * float(np.mean(predicted == test[1])),
        "loss": value,
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
