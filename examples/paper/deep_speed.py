"""What clustering costs beside the network: skcce against a bare PyTorch loop.

    python examples/paper/deep_speed.py --width 0.25 --threads 2
    python examples/paper/deep_speed.py --device cuda

Both sides train the same VGG-4 on random 28 x 28 images, with the same batches, the
same augmented view of each image and the same optimizer, on the same device. The bare
loop minimizes cross-entropy with given labels. Then both predict. Also prints the part
of a step that is spent on the pseudo-labels, copies included.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.nn.functional import cross_entropy

from skcce import CollisionClusterer, solve_pseudo_labels
from skcce.deep import DeepSoftmax, digits, vgg4

N_CLUSTERS = 10


def make_clusterer(args, max_iter):
    """Return a clusterer that trains for `max_iter` epochs."""
    model = DeepSoftmax(
        vgg4(1, 28, width=args.width),
        augment="digits",
        schedule="constant",
        device=args.device,
        mixed_precision=False,
        predict_batch_size=args.batch_size,
    )
    return CollisionClusterer(
        N_CLUSTERS,
        model=model,
        n_init=1,
        tol=0,
        max_iter=max_iter,
        batch_size=args.batch_size,
        random_state=0,
    )


def fit_seconds(args, images, max_iter):
    """Return the seconds of a fit, and the fitted clusterer."""
    clusterer = make_clusterer(args, max_iter)
    start = time.perf_counter()
    clusterer.fit(images)
    return time.perf_counter() - start, clusterer


def bare_loop(args, images):
    """Return functions for one epoch of training and one of prediction."""
    module = torch.nn.Sequential(vgg4(1, 28, width=args.width))
    module.append(torch.nn.LazyLinear(N_CLUSTERS))
    module(torch.zeros(2, 1, 28, 28))
    module = module.to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    pixels = torch.from_numpy(images)[:, None]
    labels = torch.arange(len(images)) % N_CLUSTERS

    def train():
        module.train()
        for rows in torch.randperm(len(images)).split(args.batch_size):
            batch = pixels[rows].to(args.device) / 255
            batch = torch.cat([batch, digits(batch)])
            logits = module(batch.contiguous(memory_format=torch.channels_last))
            loss = cross_entropy(logits, labels[rows].to(args.device).repeat(2))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.item()

    def predict():
        module.eval()
        outputs = []
        with torch.inference_mode():
            for batch in pixels.split(args.batch_size):
                batch = batch.to(args.device) / 255
                batch = batch.contiguous(memory_format=torch.channels_last)
                outputs.append(module(batch).argmax(dim=1))
        return torch.cat(outputs).cpu().numpy()

    return train, predict


def seconds_of(function, *arguments):
    """Return the seconds of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def label_seconds(args, lam=100, n_repeats=100):
    """Return the seconds for the pseudo-labels of one batch, copied there and back."""
    logits = torch.randn(args.batch_size, N_CLUSTERS, device=args.device)
    solve = {"lam": lam, "solver": "em", "accelerate": False, "max_iter": 20, "tol": 0}

    def solve_once():
        proba = logits.softmax(dim=1).cpu().numpy()
        labels = solve_pseudo_labels(proba, **solve).pseudo_labels
        torch.from_numpy(labels).to(args.device)

    solve_once()
    return min(seconds_of(solve_once) for _ in range(n_repeats))


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cpu")
    add("--threads", type=int, help="of torch on the CPU")
    add("--width", type=float, default=1.0, help="factor of the channels")
    add("--images", type=int, default=5000)
    add("--batch-size", type=int, default=250)
    add("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.images, 28, 28), dtype=np.uint8)
    train, predict = bare_loop(args, images)
    clusterer = fit_seconds(args, images, 1)[1]
    train(), predict()
    times = {"train": [], "bare train": [], "predict": [], "bare predict": []}
    for _ in range(args.repeats):
        # Two epochs more, so that what a fit does once does not count.
        one, _ = fit_seconds(args, images, 1)
        times["bare train"].append(seconds_of(train))
        three, _ = fit_seconds(args, images, 3)
        times["train"].append((three - one) / 2)
        times["bare train"].append(seconds_of(train))
        for _ in range(3):
            times["predict"].append(seconds_of(clusterer.predict, images))
            times["bare predict"].append(seconds_of(predict))
    n_steps = -(-args.images // args.batch_size)
    for name in ("train", "predict"):
        ours, bare = np.median(times[name]), np.median(times[f"bare {name}"])
        print(
            f"{name}: skcce {args.images / ours:.0f} images/s, bare loop "
            f"{args.images / bare:.0f} images/s; time ratio {ours / bare:.3f}"
        )
    step = np.median(times["train"]) / n_steps
    labels = label_seconds(args)
    print(
        f"pseudo-labels of a batch: {1000 * labels:.2f} ms, "
        f"{100 * labels / step:.1f} % of a step of {1000 * step:.1f} ms"
    )


if __name__ == "__main__":
    main()
