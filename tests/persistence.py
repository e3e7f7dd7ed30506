"""Fits that are stopped, written and read: for the files test_persistence_*."""

import contextlib
import io
import os
import signal
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits
from torch import nn

from skcce import CollisionClusterer, LinearSoftmax
from skcce._persistence import encode, read_record, write_record
from skcce.deep import DeepSoftmax

SHORT_FITS = [
    pytest.mark.filterwarnings(f"ignore:{text}:sklearn.exceptions.ConvergenceWarning")
    for text in ("More than tol", "Clusters in use. . of .. Try")
]


N_STEPS = 4  # in an epoch


EPOCHS = 5


class Event:
    """What happens at a training step of this process is no part of the network."""

    def __init__(self, at_step=-1, happen=None):
        self.at_step, self.happen = at_step, happen

    def __reduce__(self):
        return Event, ()

    def __deepcopy__(self, memo):
        return self


class Network(nn.Sequential):
    """Something happens at a given training step of this process, maybe."""

    def __init__(self, at_step=-1, happen=None, width=16):
        torch.manual_seed(0)
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
        )
        self.event = Event(at_step, happen)
        self.n_steps = 0

    def forward(self, batch):
        features = super().forward(batch)
        if self.training:
            self.n_steps += 1
            if self.n_steps == self.event.at_step:
                return self.event.happen(features)
        return features


def interrupt(features):
    raise KeyboardInterrupt


def emit_nan(features):
    return features * torch.nan


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def load_images():
    X, y = load_digits(return_X_y=True)
    rows = np.flatnonzero(y < 4)[:200]
    return (X[rows] * 15).astype(np.uint8).reshape(-1, 8, 8)


def make(network=None, **parameters):
    model = DeepSoftmax(
        Network() if network is None else network, augment="digits", lr=1e-2
    )
    return (
        CollisionClusterer(4, model=model, lam=100.0, n_init=1, random_state=0)
        .set_params(batch_size=50, max_iter=EPOCHS, tol=0)
        .set_params(**parameters)
    )


def stopped_after(n_epochs, X, path, **parameters):
    """Train a little more than `n_epochs` epochs, with a checkpoint in `path`."""
    network = parameters.pop("network", Network)(n_epochs * N_STEPS + 3, interrupt)
    clusterer = make(network, checkpoint=path, **parameters)
    with pytest.warns(UserWarning, match=f"interrupted after {n_epochs} epochs"):
        clusterer.fit(X)
    return clusterer


def assert_same_fit(one, other):
    # All but the optimizer, which a saved model lacks.
    states = [dict(fit.model_.get_state(), optimizer=None) for fit in (one, other)]
    (text, arrays), (expected_text, expected) = map(encode, states)
    assert text == expected_text
    for name, array in arrays.items():
        assert array.dtype == expected[name].dtype
        assert_array_equal(array, expected[name], err_msg=name)
    for name in ("labels_", "probabilities_", "share_curve_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("loss_", "loss_curve_", "n_iter_", "converged_"):
        assert getattr(one, name) == getattr(other, name), name


def small_network(seed=0, activation=nn.ReLU, p=0.1, frozen=False, mean=0.0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), activation(), nn.Dropout(p)
    )
    network.mean = torch.tensor(mean)
    network[1].weight.requires_grad_(not frozen)
    return network


def linear(**parameters):
    """Return a clusterer of rows as they are, and of no tree."""
    plain = {"lam": 1.0, "n_neighbors": 5, "features": None, "prior": None}
    return make(**{"model": LinearSoftmax(alpha=1e-3), **plain, **parameters})


@contextlib.contextmanager
def linear_steps(at_step, happen):
    """Let something happen at a training step of the linear model."""
    train_step, n_steps = LinearSoftmax.train_step, []

    def step(model, X, *args, **kwargs):
        n_steps.append(0)
        return train_step(
            model, happen(X) if len(n_steps) == at_step else X, *args, **kwargs
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearSoftmax, "train_step", step)
        yield


def changed(good, change):
    """Return the bytes of a file after a change of what it holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.npz"
        path.write_bytes(good)
        record = read_record(path)
        change(record)
        write_record(path, record)
        return path.read_bytes()


def with_members(good, compression=zipfile.ZIP_STORED, **members):
    """Return the bytes of an archive with other members; None takes one away."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        own = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in {**own, **members}.items():
            if content is not None:
                archive.writestr(name, content)
    return file.getvalue()
