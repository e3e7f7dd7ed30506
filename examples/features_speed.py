"""What ImageFeatures costs, as ratios against the loop that one would write by hand.

    python examples/features_speed.py --model resnet50
    python examples/features_speed.py --model mobilenet_v3_small --size 1024 768
    python examples/features_speed.py --model resnet50 --device cuda

Writes JPEG files, crops of scikit-learn's two photos, to a temporary folder. "arrays":
the same images in memory. "grid search": 4 values of lam on 3 folds, over the pipeline
with a cache, against one extraction and the same search over its features. The weights
are random: they cost what trained ones do.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_sample_images
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from torchvision.models import get_model, get_model_weights

from skcce import CollisionClusterer
from skcce.features import ImageFeatures

LAMS = {"collisionclusterer__lam": [0.4, 1, 4, 40]}


def write_photos(folder, n, size):
    """Write n crops of different places and sizes, scaled to `size`."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    paths = []
    for i in range(n):
        photo = photos[i % 2]
        width = int(rng.integers(100, photo.width))
        height = width * photo.height // photo.width
        left = int(rng.integers(photo.width - width))
        top = int(rng.integers(photo.height - height))
        crop = photo.crop((left, top, left + width, top + height)).resize(size)
        paths.append(folder / f"{i:05d}.jpg")
        crop.save(paths[-1], quality=90)
    return paths


def random_network(name, seed=0):
    """Build a network without its classifier, as one would by hand."""
    torch.manual_seed(seed)
    network = get_model(name, weights=None).eval()
    for head in ("fc", "classifier", "heads", "head"):
        if hasattr(network, head):
            last = getattr(network, head)
            if isinstance(last, torch.nn.Sequential):
                last[-1] = torch.nn.Identity()
            else:
                setattr(network, head, torch.nn.Identity())
    return network


def by_hand(model, transform, images, batch_size):
    """Compute the same features in a plain loop."""
    rows, device = [], next(model.parameters()).device
    for start in range(0, len(images), batch_size):
        batch = torch.stack(
            [transform(image()) for image in images[start : start + batch_size]]
        )
        with torch.inference_mode():
            rows.append(model(batch.to(device)).cpu().numpy())
    return np.concatenate(rows)


def seconds(action):
    start = time.perf_counter()
    result = action()
    return time.perf_counter() - start, result


def compare(title, features, images, by_hand_images, model, transform, repeats):
    """Time both in turn; print the best rate of each, and their ratio."""
    size = features.batch_size
    ours, plain = [], []
    for _ in range(repeats):
        time_ours, rows = seconds(lambda: features.transform(images))
        time_plain, expected = seconds(
            lambda: by_hand(model, transform, by_hand_images, size)
        )
        ours.append(time_ours)
        plain.append(time_plain)
    error = np.abs(rows - expected).max() / np.abs(expected).max()
    n = len(images)
    print(
        f"{title:14}{n / min(ours):10.1f}{n / min(plain):10.1f}"
        f"{min(plain) / min(ours):8.2f}   relative difference {error:.0e}"
    )


def compare_search(features, paths, folder):
    """Time a search over the pipeline against a search over extracted features."""
    cv = KFold(3, shuffle=True, random_state=0)
    clusterer = CollisionClusterer(10, random_state=0)
    clone(clusterer).fit(np.random.default_rng(0).normal(size=(100, 5)))  # loads Numba
    cached = ImageFeatures(**{**features.get_params(), "cache": folder / "cache"})
    search = GridSearchCV(make_pipeline(cached, clusterer), LAMS, cv=cv)
    time_ours, search = seconds(lambda: search.fit(paths))
    time_extraction, rows = seconds(lambda: features.transform(paths))
    on_rows = GridSearchCV(make_pipeline(clusterer), LAMS, cv=cv)
    time_fits, on_rows = seconds(lambda: on_rows.fit(rows))
    key = "mean_test_score"
    difference = np.abs(search.cv_results_[key] - on_rows.cv_results_[key]).max()
    print(
        f"grid search: {time_ours:.1f} s; extraction {time_extraction:.1f} s + fits "
        f"{time_fits:.1f} s; ratio {time_ours / (time_extraction + time_fits):.2f}; "
        f"largest difference of a score {difference:.0e}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # two photos have no ten clusters
    model = random_network(args.model).to(args.device)
    features = ImageFeatures(
        args.model, weights=None, batch_size=args.batch_size, device=args.device
    )
    transform = get_model_weights(args.model).DEFAULT.transforms()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_photos(folder, args.images, tuple(args.size))
        print(
            f"{args.model}, {args.images} images of {args.size[0]} x {args.size[1]}, "
            f"batches of {args.batch_size}, {torch.get_num_threads()} threads, "
            f"{args.device}"
        )
        print(f"{'images / s':14}{'skcce':>10}{'by hand':>10}{'ratio':>8}")
        few = paths[: max(args.images // 4, 40)]
        arrays = [np.asarray(Image.open(path)) for path in few]
        in_memory = [lambda a=array: Image.fromarray(a) for array in arrays]
        compare("arrays", features, arrays, in_memory, model, transform, args.repeats)
        files = [lambda p=path: Image.open(p).convert("RGB") for path in paths]
        compare("JPEG files", features, paths, files, model, transform, args.repeats)
        compare_search(features, few, folder)


if __name__ == "__main__":
    main()
