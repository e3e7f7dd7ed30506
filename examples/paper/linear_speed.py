"""What a GPU can give the linear model: the time of its steps, and of their parts.

    python examples/paper/linear_speed.py
    python examples/paper/linear_speed.py --device cuda

Rows of a mixture, in float32, without neighbors. Labels are solved for on the CPU,
wherever the products of rows and weights are computed: their part of the time is what
no GPU shortens.
"""

import argparse
import time

import numpy as np

from skcce import LinearSoftmax
from skcce.deep import TorchLinearSoftmax
from skcce.methods import Batch, Collision, Epoch


def draw_rows(n, n_features, n_clusters):
    """Return rows (n, n_features) of a mixture, and their clusters."""
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(n_clusters, n_features)).astype(np.float32)
    labels = rng.integers(n_clusters, size=n)
    noise = rng.normal(size=(n, n_features)).astype(np.float32)
    return centers[labels] + noise, labels


def epoch_seconds(model, X, labels, n_clusters, batch_size):
    """Return the seconds of an epoch, those of its labels, and its mean loss."""
    random_state = np.random.RandomState(0)
    model.initialize(
        X, n_clusters, labels=labels, sample_weight=None, random_state=random_state
    )
    objective = Collision()
    objective.begin_epoch(Epoch(np.ones((len(X), n_clusters), np.float32)))
    batches = [
        np.arange(first, first + batch_size)
        for first in range(0, len(X) - batch_size + 1, batch_size)
    ]
    for_labels, losses = 0.0, []
    for number in range(-1, len(batches)):
        rows = batches[number]

        def solve(logits, rows=rows):
            nonlocal for_labels
            start = time.perf_counter()
            value, gradient = objective(logits[np.newaxis], Batch(rows))
            for_labels += time.perf_counter() - start
            return value, gradient[0]

        if number == 0:  # after a step that may load or compile something
            start, for_labels = time.perf_counter(), 0.0
        losses += [model.train_step(X[rows], solve, progress=0.0)]
    return time.perf_counter() - start, for_labels, np.mean(losses)


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cpu", help="of torch")
    add("--rows", type=int, default=50_000)
    add("--features", type=int, nargs="+", default=[64, 384, 2048])
    add("--clusters", type=int, default=100)
    add("--batch-size", type=int, default=1000)
    add("--repeats", type=int, default=3)
    args = parser.parse_args()
    models = {
        "NumPy": LinearSoftmax(),
        f"torch, {args.device}": TorchLinearSoftmax(device=args.device),
    }
    for n_features in args.features:
        X, labels = draw_rows(args.rows, n_features, args.clusters)
        parts, losses = [], []
        for name, model in models.items():
            runs = [
                epoch_seconds(model, X, labels, args.clusters, args.batch_size)
                for _ in range(args.repeats)
            ]
            seconds, for_labels, loss = np.median(runs, axis=0)
            share = 100 * for_labels / seconds
            parts += [f"{name} {seconds:.2f} s, {share:.0f} % for labels"]
            losses += [loss]
        gap = abs(losses[1] - losses[0]) / abs(losses[0])
        print(f"{n_features} features: {'; '.join(parts)}; losses differ by {gap:.0e}")


if __name__ == "__main__":
    main()
