"""Fits of networks for test_deep_distributed.py: torchrun calls this file.

    torchrun --standalone --nproc-per-node 2 tests/distributed_fits.py CALL FOLDER

Each process writes what the function CALL returns to a file of its own.
"""

import contextlib
import io
import os
import signal
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import distributed, nn

from skcce import CollisionClusterer
from skcce._objective import Batch, Epoch
from skcce.deep import DeepSoftmax
from skcce.methods import Collision, InvariantInformation, SCANClusterer
from skcce.methods import SoftmaxClusterer as OfObjective

N_CLUSTERS = 4


def load_images():
    X, y = load_digits(return_X_y=True)
    return (X[y < N_CLUSTERS][:201] * 15).astype(np.uint8).reshape(-1, 8, 8)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())


def with_chance(seed=0):
    """Return a network of batch statistics, random numbers and channels."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4),
        nn.Flatten(), nn.Dropout(0.2),
    )  # fmt: skip


def darken(images):
    return 0.5 * images


def make(is_shared, network=mlp, method=CollisionClusterer, **parameters):
    # Adam would make much of rounding, where a gradient is nearly zero.
    how = {"optimizer": "sgd", "augment": darken, "distributed": is_shared}
    model = DeepSoftmax(network(), lr=1e-2, **how)
    options = {"n_init": 2, "batch_size": 67, "max_iter": 3, "random_state": 0}
    clusterer = method(N_CLUSTERS, model=model, **options)
    return clusterer.set_params(**parameters)


def fit(clusterer, X):
    """Return what there is to know of a fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clusterer.fit(X)
    weights = clusterer.model_._module.state_dict().values()
    return {
        "weights": np.concatenate([w.detach().numpy().ravel() for w in weights]),
        "proba": clusterer.predict_proba(X),
        "labels": clusterer.labels_,
        "loss": clusterer.loss_,
        "loss_curve": clusterer.loss_curve_,
    }


# --- What torchrun may call -------------------------------------------------


def gradients(is_shared):
    """Return the gradients of a step, at the weights of the start."""
    X = torch.from_numpy(load_images()[:, None])
    model = DeepSoftmax(mlp(), lr=0.0, augment=darken, distributed=is_shared)
    random_state = np.random.RandomState(0)
    model.initialize(
        X, N_CLUSTERS, labels=None, sample_weight=None, random_state=random_state
    )
    objective = Collision(lam=100.0)
    objective.begin_epoch(Epoch(np.ones((len(X), N_CLUSTERS))))
    of_batch = partial(_of_views, objective, Batch(np.arange(len(X))))
    value = model.train_step(X, of_batch, progress=0.0)
    found = [weight.grad.numpy().ravel() for weight in model._module.parameters()]
    return {"value": value, "gradient": np.concatenate(found)}


def _of_views(objective, batch, logits):
    return objective(logits, batch)


def images(is_shared):
    return fit(make(is_shared), load_images())


def pairs_of_views(is_shared):
    method = partial(OfObjective, objective=InvariantInformation())
    return fit(make(is_shared, method=method), load_images())


def table_of_neighbors(is_shared):
    X = (load_images().reshape(-1, 64) / 255).astype(np.float32)
    return fit(make(is_shared, method=SCANClusterer, model__augment=None), X)


def labels_to_start_from(is_shared):
    return fit(make(is_shared, init=np.arange(201) % N_CLUSTERS), load_images())


def chance(is_shared):
    parameters = {"model__augment": "digits", "model__optimizer": "adam"}
    return fit(make(is_shared, with_chance, **parameters), load_images())


def own_weights(is_shared):
    seed = distributed.get_rank() if is_shared else 0
    return fit(make(is_shared, partial(mlp, seed)), load_images())


def reports(is_shared):
    """Return what this process shows, how often it warns, and what it writes."""
    path = Path(sys.argv[2]) / f"run{distributed.get_rank()}.npz"
    clusterer = make(is_shared, n_init=1, verbose=1, tol=0, checkpoint=path)
    with (
        contextlib.redirect_stderr(io.StringIO()) as shown,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        clusterer.fit(load_images())
    kinds = [warning.category.__name__ for warning in caught]
    return {
        "shows": "epoch" in shown.getvalue(),
        "warns": "ConvergenceWarning" in kinds,
        "writes": path.exists(),
    }


def checkpoint(is_shared):
    """Return a fit in two parts; the second one ends as `chance` does."""
    path = Path(sys.argv[2]) / "run.npz"
    parameters = {"model__augment": "digits", "model__optimizer": "adam"}
    parameters |= {"model__schedule": "constant", "tol": 0, "n_init": 1}
    whole = fit(make(is_shared, with_chance, **parameters), load_images())
    parameters["checkpoint"] = path
    fit(make(is_shared, with_chance, max_iter=1, **parameters), load_images())
    distributed.barrier()
    parts = fit(make(is_shared, with_chance, **parameters), load_images())
    return {"whole": whole["weights"], "parts": parts["weights"]}


def predicts_alone(is_shared):
    clusterer = make(is_shared, n_init=1)
    fit(clusterer, load_images())
    if distributed.get_rank() == 0:
        clusterer.predict(load_images())
    distributed.barrier()
    return {}


def errors(is_shared):
    """Return what is said of wrong input; all processes have to say it."""
    X, rank = load_images(), distributed.get_rank()
    part = X[60 * rank :][:60]
    path = Path(sys.argv[2]) / f"of_{rank}.npz"
    if rank == 0:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(False, n_init=1, checkpoint=path, max_iter=1).fit(X)
    distributed.barrier()
    found = {}
    for name, rows, parameters in (
        ("random_state", X, {"random_state": rank}),
        ("X", part, {}),
        ("length", X[: 200 - rank], {}),
        ("checkpoint", X, {"checkpoint": path, "n_init": 1}),
        ("batch_size", X, {"batch_size": 1}),
    ):
        try:
            fit(make(is_shared, **parameters), rows)
        except ValueError as error:
            found[name] = str(error)
    return found


# Some are for one process as well.
COMPARED = (gradients, images, pairs_of_views, table_of_neighbors)
COMPARED += (labels_to_start_from, own_weights)


def everything(is_shared):
    calls = [*COMPARED, chance, reports, checkpoint, predicts_alone, errors]
    return {
        f"{call.__name__}/{name}": value
        for call in calls
        for name, value in call(is_shared).items()
    }


class Failing(nn.Sequential):
    """Something happens to one process at a step."""

    def __init__(self, happen):
        super().__init__(*mlp())
        self.happen, self.n_steps = happen, 0

    def forward(self, batch):
        self.n_steps += self.training
        if self.n_steps == 5 and distributed.get_rank() == 1:
            self.happen()
        return super().forward(batch)


def error_in_one(is_shared):
    def happen():
        raise RuntimeError("this process fails")

    make(is_shared, partial(Failing, happen)).fit(load_images())


def death_of_one(is_shared):
    def happen():
        os.kill(os.getpid(), signal.SIGKILL)

    make(is_shared, partial(Failing, happen)).fit(load_images())


if __name__ == "__main__":
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    found = globals()[sys.argv[1]](True)
    np.savez(Path(sys.argv[2]) / f"rank{distributed.get_rank()}.npz", **found)
    distributed.destroy_process_group()
