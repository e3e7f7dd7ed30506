r"""Table 5 of the paper: a few labels, and all images.

    python examples/paper/reproduce.py table5 --data FOLDER
    python examples/paper/reproduce.py table5 --data FOLDER --network resnet18 \
        --pretext simclr-{}.pt

The loss is that of a method, and twice the cross-entropy of the labeled images of a
batch and of their views; their pseudo-labels are held at the truth (appendix E.2 of the
NeurIPS version). Ours is CollisionClassifier; "Only seeds" is the same, trained on the
labeled images alone for as many steps. The same part of each class of the training
images is labeled: another draw for each run. Scores are accuracies on test images,
without any matching. The last rows are scikit-learn's, on pixels.

The two versions of the paper differ: --network vgg4, from scratch and with the settings
of Table 3, is the arXiv version's; resnet18, from pretext weights and with those of
Table 4, the NeurIPS version's. What is a method's own is in methods.py.
"""

import math
import time

import numpy as np
import runs
import table3
import table4
from image_data import load as load_images
from methods import LAM, make_estimator, own_parameters
from published import TABLE5
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

from skcce import CollisionClassifier
from skcce.losses import shannon_loss_and_gradient
from skcce.methods import Objective, SoftmaxClusterer

ON_PIXELS = {
    "LogisticRegression": lambda: LogisticRegression(max_iter=1000),
    "LabelSpreading": lambda: LabelSpreading(kernel="knn"),
    "SelfTrainingClassifier": lambda: SelfTrainingClassifier(
        LogisticRegression(max_iter=1000)
    ),
}
METHODS = (
    *("Only seeds", "+ IMSAT", "+ IIC", "+ SeLa", "+ MIADM", "+ Our"),
    *ON_PIXELS,
)
RATIOS = ("0.1", "0.05", "0.01")


class WithLabels(Objective):
    """Another objective, and the cross-entropy of samples of known label.

    Parameters
    ----------
    target : ndarray of shape (n_samples, n_clusters)
        Known labels, one-hot; rows of NaN where they are not known.
    objective : Objective
        The other one, which is given the labels as ``batch.target``.
    weight : float, default=2.0
        Weight of the cross-entropy, a mean over the labeled samples of the batch and
        their views.
    """

    def __init__(self, target, objective, *, weight=2.0):
        self.target = target
        self.objective = objective
        self.weight = weight

    @property
    def view_source(self):
        """Where second views come from."""
        return self.objective.view_source

    @property
    def uses_neighbors(self):
        """Whether the other objective does."""
        return self.objective.uses_neighbors

    def check(self, n_clusters):
        """Raise ValueError if a parameter is wrong."""
        self.objective.check(n_clusters)

    def begin_epoch(self, epoch):
        """Prepare for a pass over the data."""
        self.objective.begin_epoch(epoch)

    def __call__(self, logits, batch):
        """Return the value and its gradient."""
        target = self.target[batch.rows].astype(logits.dtype)
        batch = batch._replace(target=target)
        value, gradient = self.objective(logits, batch)
        known = batch.is_given
        if known.any():
            loss, of_known = shannon_loss_and_gradient(logits[:, known], target[known])
            value += self.weight * float(loss.mean())
            gradient[:, known] += self.weight / loss.size * of_known
        return value, gradient


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "table5")
    runs.add_data_arguments(add, METHODS, ("stl10", "cifar10"))
    runs.add_network_arguments(add)
    add("--ratios", nargs="+", choices=RATIOS, default=list(RATIOS))
    add("--network", choices=list(TABLE5), default="vgg4")
    table3.add_vgg4_arguments(add)
    table4.add_resnet18_arguments(add)
    add("--lam", type=float, default=LAM)


def load(args, column):
    """Return training and test images."""
    dataset = column.split()[1]
    images = {"subset": args.subset, "download": args.download}
    X, y = load_images(args.data, dataset, "train", **images)
    return (X, y), load_images(args.data, dataset, "test", **images)


def known_labels(y, ratio, seed):
    """Return one-hot labels of a part of the samples, and NaN for the others."""
    n_classes = len(np.unique(y))
    n_known = max(round(ratio * len(y)), n_classes)
    rows, _ = train_test_split(
        np.arange(len(y)), train_size=n_known, stratify=y, random_state=seed
    )
    target = np.full((len(y), n_classes), np.nan, dtype=np.float32)
    target[rows] = np.eye(n_classes)[y[rows]]
    return target


def run(args, data, cell, checkpoint):
    """Train once, and return what there is to report."""
    (X, y), test = data
    ratio, dataset = cell.column.split()
    method = cell.row.removeprefix("+ ")
    n_clusters = len(np.unique(y))
    target = known_labels(y, float(ratio), cell.seed)
    is_known = ~np.isnan(target[:, 0])
    some = np.where(is_known, y, -1)
    if method in ON_PIXELS:
        return run_on_pixels(ON_PIXELS[method](), X, some, test)
    if args.network == "vgg4":
        model = table3.make_model(args, dataset, X.shape[1:], **table3.PAPER)
        batch_size, view_weight = (160 if dataset == "stl10" else 250), 1.0
    else:
        model = table4.make_model(args, dataset)
        batch_size, view_weight = args.batch_size, table4.VIEW_WEIGHT[dataset]
    shared = {
        "model": model,
        "n_init": 1,
        "max_iter": args.epochs,
        "batch_size": batch_size,
        "tol": 0,
        "checkpoint": checkpoint,
        "random_state": cell.seed,
    }
    if method in ("Our", "Only seeds"):
        if method == "Only seeds":
            # As many steps as the others take.
            steps, own_steps = (
                math.ceil(n / batch_size) for n in (len(X), is_known.sum())
            )
            shared["max_iter"] = round(args.epochs * steps / own_steps)
            X, some = X[is_known], some[is_known]
        estimator = CollisionClassifier(
            lam=args.lam, prior=None, view_weight=view_weight, **shared
        )
        seconds = runs.fit(estimator, X, some)
    else:
        own = own_parameters(method, "deep", args.lam, view_weight)
        objective = make_estimator(method, n_clusters, **own)._new_objective(model)
        estimator = SoftmaxClusterer(
            n_clusters, objective=WithLabels(target, objective), **shared
        )
        seconds = runs.fit(estimator, X)
    return {
        "ACC": 100 * float(np.mean(estimator.predict(test[0]) == test[1])),
        "loss": float(estimator.loss_),
        "seconds": seconds,
    }


def run_on_pixels(classifier, X, some, test):
    """Train one of scikit-learn's, and return what there is to report."""
    rows, new = (np.reshape(images, (len(images), -1)) / 255 for images in (X, test[0]))
    start = time.perf_counter()
    if isinstance(classifier, LogisticRegression):
        rows, some = rows[some >= 0], some[some >= 0]
    classifier.fit(rows, some)
    return {
        "ACC": 100 * float(np.mean(classifier.predict(new) == test[1])),
        "seconds": time.perf_counter() - start,
    }


def main(args):
    """Run and report."""
    title = f"Table 5, a few labels, {args.network}"
    columns = [f"{ratio} {name}" for ratio in args.ratios for name in args.dataset]
    paper = TABLE5[args.network]
    runs.reproduce(args, title, args.methods, columns, load, run, paper, args.scores)
