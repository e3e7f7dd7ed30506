"""Hard inputs at random: ``python tests/fuzz.py --minutes 10``.

Every case is drawn from a number, its seed. A case that fails is printed with the
command that repeats it. Some of the seeds are run by test_fuzz.py.
"""

import argparse
import contextlib
import faulthandler
import functools
import io
import itertools
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from unittest import mock

import conftest
import numpy as np
import persistence
import test_feature_cache
import test_solver_certificate as certificate
from PIL import Image
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights

from skcce.features import ImageFeatures

# A case that takes longer hangs: the process ends with the stacks of its threads.
SECONDS = 300
# More than that, and an image was blown up.
MOST_PIXELS = 2**25


# --- The solvers ------------------------------------------------------------


def fuzz_solver(rng, folder):
    """Labels on the simplex, a true gap, no silent miss; from 1e-320 to lam = 1e15."""
    solver, divergence = conftest.SOLVERS[rng.integers(len(conftest.SOLVERS))]
    dtype = np.float64 if rng.random() < 0.8 else np.float32
    problem = certificate.draw_problem(
        rng.integers(2**32),
        n_samples=int(rng.choice([1, 2, 3, 20, 100, 250])),
        n_clusters=int(rng.choice([2, 3, 4, 8, 13, 30])),
        sigma=rng.choice(list(certificate.SIGMAS)),
        prior=rng.choice(list(certificate.PRIORS)),
        lam=10.0 ** rng.uniform(-6, 15),
        dtype=dtype,
    )
    problem = with_subnormal_rows(problem, rng) if rng.random() < 0.3 else problem
    if dtype == np.float64:  # each layout is compiled for, of each type
        problem = problem._replace(proba=conftest.in_odd_memory(problem.proba, rng))
    options = {"solver": solver, "divergence": divergence}
    options["max_iter"] = int(rng.choice([1, 3, 30, 300]))
    options["step_size"] = 10.0 ** rng.uniform(-4, 2)
    result = problem.solve(**options)

    certificate.assert_distributions(result.pseudo_labels, n_ulp=50)
    assert result.pseudo_labels.dtype == dtype
    assert 0 <= result.n_iter <= options["max_iter"]
    assert result.gap >= 0
    assert not np.isnan(result.loss)
    if divergence == "forward":
        assert not result.pseudo_labels[:, problem.shares == 0].any()
    loss, _ = certificate.loss_and_bound(
        problem, result.pseudo_labels, None, divergence
    )
    rounding = problem.rounding(loss)
    if np.isfinite(loss):
        assert abs(result.loss - loss) <= rounding + 1e-12 * abs(loss)
    # No solve is better than what the certificate of another one allows.
    other = problem.solve(divergence=divergence, max_iter=100)
    for one, two in [(result, other), (other, result)]:
        if np.isfinite(one.gap):
            assert one.loss - one.gap <= two.loss + rounding
    is_small = np.isfinite(result.gap) and result.gap <= 1e-6 * max(1, result.loss)
    assert result.converged == is_small


def with_subnormal_rows(problem, rng):
    """Leave some rows one cluster, and next to nothing of the others."""
    proba = problem.proba.astype(np.float64)
    n_samples, n_clusters = proba.shape
    rows = rng.random(n_samples) < 0.5
    rest = 10.0 ** -rng.uniform(280, 323, proba.shape)
    hot = np.eye(n_clusters)[rng.integers(n_clusters, size=n_samples)]
    certain = np.maximum(hot, rest)
    proba[rows] = certain[rows]
    dtype = problem.proba.dtype
    if dtype == np.float32:  # of which the rest is 0
        proba = np.maximum(proba, 1e-44).astype(dtype)
    return problem._replace(proba=proba)


# --- Files of models --------------------------------------------------------


def fuzz_checkpoint(rng, folder):
    """A file that is not as it was is a ValueError, or makes no difference."""
    make = (persistence.make, persistence.linear)[rng.integers(2)]
    images, whole, checkpoint, saved = trained(make)
    good = checkpoint if rng.random() < 0.5 else saved
    bad = changed_record(good, rng) if rng.random() < 0.5 else damaged(good, rng)
    path = folder / "run.npz"
    path.write_bytes(bad)
    goes_on = good is checkpoint and rng.random() < 0.2
    clusterer = make(checkpoint=path if goes_on else None)
    before = dict(vars(clusterer))
    error = None
    try:
        clusterer.fit(images) if goes_on else clusterer.load(path)
    except ValueError as raised:
        error = raised
    if error is not None:
        assert type(error) is ValueError, repr(error)
        assert "run.npz" in str(error), str(error)
        vars(clusterer).pop("n_features_in_", None)  # of the data given to fit
        assert vars(clusterer) == before
        return
    tables = {"n_features_in_", "feature_names_in_"}
    assert vars(clusterer).keys() <= vars(whole).keys() | tables
    assert clusterer.n_clusters == whole.n_clusters
    if getattr(clusterer, "n_features_in_", 64) == 64:
        assert clusterer.predict_proba(images).shape == (len(images), 4)


@functools.cache
def trained(make):
    """Return images, a fitted estimator, its checkpoint after 2 epochs, its file."""
    images = persistence.load_images()[:100]
    if make is persistence.linear:
        images = images.reshape(len(images), -1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        make(max_iter=2, checkpoint=path).fit(images)
        checkpoint = path.read_bytes()
        whole = make(max_iter=3).fit(images)
        whole.save(path)
        return images, whole, checkpoint, path.read_bytes()


def damaged(good, rng):
    """Flip, overwrite, cut out, repeat or cut off some bytes."""
    data = bytearray(good)
    for _ in range(rng.integers(1, 4)):
        # Most of the structure is at the beginning.
        start = int(rng.integers(rng.choice([len(data), min(len(data), 4096)])))
        length = int(min(10 ** rng.uniform(0, 4), len(data) - start))
        part = data[start : start + length]
        kind = rng.integers(6)
        if kind == 0:
            data[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[start : start + length] = rng.bytes(length)
        elif kind == 2:
            data[start] = int(rng.choice([0, 0xFF, 0x7F, 0x80]))
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = part
        else:
            del data[start:]
        if not data:
            break
    return bytes(data)


def changed_record(good, rng):
    """Replace, or take away, something that a file holds; its checksums are right."""
    values = [
        *(None, True, -1, 2**40, 1e300, np.nan, "text", "ä" * 50, [], {}, (1, 2)),
        *([1, "a"], {"a": 1}, np.zeros(3), np.full((2, 2), np.nan), np.zeros(0)),
        *(np.zeros((4, 16), dtype=int), np.array("a"), np.zeros((), dtype=">f4")),
    ]

    def change(record):
        where, key = record, None
        while isinstance(where, dict) and where:
            parent, key = where, list(where)[rng.integers(len(where))]
            where = parent[key]
            if rng.random() < 0.2:
                break
        if rng.random() < 0.2:
            del parent[key]
        elif rng.random() < 0.2:
            parent[f"{key} too"] = where
        else:
            parent[key] = values[rng.integers(len(values))]

    return persistence.changed(good, change)


# --- The cache of features --------------------------------------------------


def fuzz_cache(rng, folder):
    """A damaged cache may forget, but gives no wrong vector and no error."""
    path = folder / test_feature_cache.FILE
    path.write_bytes(damaged(sound_cache(), rng))
    for _ in range(2):
        found = test_feature_cache.read(folder, range(300))
        for i, value in found.items():
            np.testing.assert_array_equal(value, test_feature_cache.vector(i))
        test_feature_cache.write(folder, range(290, 310))


@functools.cache
def sound_cache():
    with tempfile.TemporaryDirectory() as folder:
        test_feature_cache.write(Path(folder), range(300))
        return (Path(folder) / test_feature_cache.FILE).read_bytes()


# --- Images -----------------------------------------------------------------

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
FORMATS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA"]


class Means(nn.Module):
    def forward(self, batch):
        return batch.mean(dim=(2, 3))


def fuzz_images(rng, folder):
    """Odd and damaged images are read or named, and none takes much memory."""
    paths = [draw_image(rng, folder / str(i)) for i in range(3)]
    sound = folder / "sound.png"
    Image.new("RGB", (9, 8), (255, 0, 0)).save(sound)
    features = ImageFeatures(
        Means(),
        preprocess=SqueezeNet1_1_Weights.DEFAULT.transforms(),
        on_error="skip",
        n_jobs=1,
        cache=folder / "cache" if rng.random() < 0.3 else None,
    )
    with mock.patch.object(Image.Image, "resize", resize_within_reason):
        rows = features.transform([*paths, sound])
        again = features.transform([*paths, sound])
    np.testing.assert_array_equal(again, rows)
    assert rows.shape == (4, 3)
    assert np.isfinite(rows[3]).all()
    assert (np.isnan(rows).all(axis=1) | np.isfinite(rows).all(axis=1)).all()


class BlownUpError(BaseException):
    """No Exception, which would only make the image a bad one."""


def resize_within_reason(image, size, *args, resize=Image.Image.resize, **kwargs):
    if size[0] * size[1] > max(MOST_PIXELS, image.width * image.height):
        raise BlownUpError(f"{image.size} was blown up to {size}")
    return resize(image, size, *args, **kwargs)


def draw_image(rng, path):
    width, height = (int(10 ** rng.uniform(0, 2)) for _ in range(2))
    if rng.random() < 0.2:
        width, height = rng.permutation([int(10 ** rng.uniform(3, 4.8)), 1]).tolist()
    image = Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8))
    mode, kind = rng.choice(MODES), rng.choice(FORMATS)
    file = io.BytesIO()
    with contextlib.suppress(ValueError, OSError, KeyError):  # not every pair exists
        image = (
            image.convert("L").convert(mode) if mode[0] in "IF" else image.convert(mode)
        )
        image.save(file, kind)
    data = file.getvalue() or rng.bytes(100)
    path.write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
    return path


# --- Running them -----------------------------------------------------------

ROOMS = {
    "solver": fuzz_solver,
    "checkpoint": fuzz_checkpoint,
    "cache": fuzz_cache,
    "images": fuzz_images,
}


def run(room, seed):
    """Run a single case; raises whatever is wrong."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ROOMS[room](np.random.default_rng(seed), Path(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    parser.add_argument("--cases", type=int, help="of each room, at most")
    parser.add_argument("--room", choices=ROOMS, action="append")
    arguments = parser.parse_args()
    rooms = arguments.room or list(ROOMS)
    end = time.monotonic() + 60 * arguments.minutes
    n_cases = n_failed = 0
    for number in itertools.count():
        if number == arguments.cases or time.monotonic() > end:
            break
        for room in rooms:
            seed = arguments.seed + number
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                run(room, seed)
            except (Exception, BlownUpError):
                n_failed += 1
                traceback.print_exc()
                print(f"python tests/fuzz.py --room {room} --seed {seed} --cases 1")
            n_cases += 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{n_cases} cases, {n_failed} failed")
    return n_failed > 0


if __name__ == "__main__":
    sys.exit(main())
