"""How long an epoch takes, by one process and by several that train together.

    python examples/paper/deep_distributed.py --data FOLDER
    torchrun --nproc-per-node 2 examples/paper/deep_distributed.py --data FOLDER

The paper's VGG-4 on images of MNIST; each process has one thread of the CPU, or a GPU.
FOLDER is that of reproduce.py beside this file.
"""

import argparse
import os
import time
import warnings

import numpy as np
import torch
from image_data import load
from sklearn.exceptions import ConvergenceWarning

from skcce import CollisionClusterer
from skcce.deep import DeepSoftmax, vgg4


def fit_seconds(args, images, is_shared, max_iter):
    """Return the seconds of a fit, and its loss."""
    model = DeepSoftmax(
        vgg4(1, 28, width=args.width),
        augment="digits",
        schedule="constant",
        device=args.device,
        distributed=is_shared,
        n_threads=1,
    )
    clusterer = CollisionClusterer(
        10, model=model, n_init=1, max_iter=max_iter, tol=0, random_state=0
    )
    start = time.perf_counter()
    clusterer.fit(images)
    return time.perf_counter() - start, clusterer.loss_


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="folder of the data")
    add("--device", default="auto")
    add("--width", type=float, default=0.25, help="factor of the channels")
    add("--images", type=int, default=5000)
    add("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)

    n_processes = int(os.environ.get("WORLD_SIZE", 1))  # torchrun says so
    is_shared = n_processes > 1
    if is_shared:
        torch.distributed.init_process_group()
    images, _ = load(args.data, "mnist", subset=args.images)
    seconds = []
    for _ in range(args.repeats):
        # Two epochs more, so that what a fit does once does not count.
        one, _ = fit_seconds(args, images, is_shared, 1)
        three, loss = fit_seconds(args, images, is_shared, 3)
        seconds.append((three - one) / 2)
    if not is_shared or torch.distributed.get_rank() == 0:
        median = np.median(seconds)
        print(f"{n_processes} processes: {median:.2f} s an epoch, loss {loss:.4f}")
    if is_shared:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
