"""Choose the hyper-parameters that the paper does not give, without its data.

    OMP_NUM_THREADS=1 python examples/paper/reproduce.py tune

The rule, the same for all methods: of the grid in methods.py, the value with the best
mean accuracy of three seeds on the digits of scikit-learn, which no table evaluates.
For Table 2 with its linear model and settings, on columns of unit variance, with 33
copies of each row: an epoch has about as many steps as one of MNIST. For networks with
a VGG-4 of a tenth of the channels, on digits enlarged to 28 x 28, one augmented view,
Adam at 1e-3, 15 epochs. Prints the chosen values. TUNED in methods.py repeats those of
the linear methods; those of networks are what "auto" stands for in the library, or the
default, but for IIC, which finds no clusters of these digits with any of its values.
"""

import numpy as np
import runs
import table2
import table3
from methods import GRIDS, LAM, make_estimator, own_parameters
from sklearn.datasets import load_digits
from sklearn.preprocessing import scale


def add_arguments(add):
    """Add the arguments of the command line."""
    runs.add_arguments(add, "tune", n_runs=3)
    add("--only", choices=list(GRIDS), nargs="+", default=list(GRIDS))
    add("--width", type=float, default=0.1, help="factor of the channels of VGG-4")
    add("--epochs", type=int, default=15, help="of the networks")
    add("--linear-epochs", type=int, default=10)
    add("--copies", type=int, default=33, help="of each row, for the linear model")
    add("--device", default="auto")
    add("--threads", type=int, default=1, help="of torch on the CPU")


def load(args, column):
    """Return the digits as rows, or enlarged as images."""
    X, y = load_digits(return_X_y=True)
    if column.startswith("linear"):
        return np.tile(scale(X), (args.copies, 1)), np.tile(y, args.copies)
    images = np.kron(X.reshape(-1, 8, 8), np.ones((3, 3))) * 255 / 16
    return np.pad(images.astype(np.uint8), ((0, 0), (2, 2), (2, 2))), y


def make_clusterer(args, kind, method, X, own):
    """Return a clusterer with some of the values of the grid."""
    if kind == "linear":
        clusterer = table2.make_clusterer(
            method, X, 10, table2.ALPHA["mnist"], args.linear_epochs
        )
        return clusterer.set_params(**own)
    model = table3.make_model(args, "mnist", X.shape[1:], **table3.PAPER | {"lr": 1e-3})
    settings = {"n_init": 1, "tol": 0, "max_iter": args.epochs, "batch_size": 250}
    settings |= own_parameters(method, kind, LAM, view_weight=1.0) | own
    return make_estimator(method, 10, model=model, **settings)


def text_of(own):
    """Return the name of a row."""
    return " ".join(f"{name}={value}" for name, value in own.items())


def run(args, data, cell, checkpoint):
    """Cluster the digits once."""
    X, y = data
    kind, method = cell.column.split()
    (own,) = [own for own in GRIDS[kind][method] if text_of(own) == cell.row]
    clusterer = make_clusterer(args, kind, method, X, own)
    clusterer.set_params(random_state=cell.seed)
    seconds = runs.fit(clusterer, X)
    return runs.score(y, clusterer.labels_) | {"seconds": seconds}


def main(args):
    """Run, and print what is best."""
    grids = {
        f"{kind} {method}": grid
        for kind in args.only
        for method, grid in GRIDS[kind].items()
    }
    places = [(text_of(own), name) for name, grid in grids.items() for own in grid]
    results = runs.run_all(args, places, load, run)
    for name, grid in grids.items():
        means = []
        for own in grid:
            cells = [cell for cell in results if cell[:2] == (text_of(own), name)]
            scores = [results[cell].get("ACC", np.nan) for cell in cells]
            means.append(np.mean(scores))
            spread = np.std(scores)
            print(f"{name}, {text_of(own)}: {runs.percent(means[-1], spread)}")
        print(f"{name}: {grid[int(np.nanargmax(means))]}")
