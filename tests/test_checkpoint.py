import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from torch import nn
from torchvision.transforms import v2

from skcce import CollisionClusterer, _checkpoint
from skcce.deep import DeepSoftmax, vgg4

# Most fits here are too short to converge, or to fill all clusters.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}:sklearn.exceptions.ConvergenceWarning")
    for text in ("More than tol", "Only . of . clusters are used. Try")
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
    state, expected = one.model_.get_state(), other.model_.get_state()
    for part in ("network", "head"):
        for name, value in state[part].items():
            assert torch.equal(value, expected[part][name]), name
    for name in ("labels_", "probabilities_", "share_curve_"):
        assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("loss_", "loss_curve_", "n_iter_", "converged_"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.fixture(scope="module")
def images():
    return load_images()


@pytest.fixture(scope="module")
def whole(images):
    """A fit that was never interrupted, and had no checkpoint."""
    return make().fit(images)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.pt"


# --- Going on ---------------------------------------------------------------


def test_checkpoint_does_not_change_the_fit(images, whole, path):
    assert_same_fit(make(checkpoint=path).fit(images), whole)
    assert os.listdir(path.parent) == ["run.pt"]


@pytest.mark.parametrize("n_epochs", [1, 3, EPOCHS - 1])
def test_goes_on_after_an_interrupt(images, whole, path, n_epochs):
    stopped = stopped_after(n_epochs, images, path)
    assert len(stopped.loss_curve_) == n_epochs
    assert_same_fit(make(checkpoint=path).fit(images), whole)


def test_goes_on_several_times(images, whole, path):
    for step in (2, N_STEPS + 1, 1, 2 * N_STEPS):
        with pytest.warns(UserWarning, match="interrupted"):
            make(Network(step, interrupt), checkpoint=path).fit(images)
    assert_same_fit(make(checkpoint=path).fit(images), whole)


def test_interrupted_before_the_first_epoch_was_over(images, whole, path):
    stopped_after(0, images, path)
    assert not path.exists()
    assert_same_fit(make(checkpoint=path).fit(images), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"model__optimizer": "sgd"},
        {"model__optimizer": "adamw", "model__weight_decay": 0.1},
        {"model__schedule": "constant", "model__augment": None},
        {"n_init": 2},
        {"lam": (100.0, 1.0)},
        {"prior": [4, 3, 2, 1], "lam": 2.0},
        {"divergence": "forward", "batch_size": 60, "lam": 1.0},
    ],
)
def test_goes_on_with_all_kinds_of_settings(images, path, parameters):
    expected = make(**parameters).fit(images)
    # Each start has a network of its own, which is first tried for 4 epochs.
    n_trial_steps = 4 * N_STEPS if "n_init" in parameters else 0
    network = Network(n_trial_steps + 2 * N_STEPS + 3, interrupt)
    with pytest.warns(UserWarning, match="interrupted after 2 epochs"):
        make(network, checkpoint=path, **parameters).fit(images)
    assert_same_fit(make(checkpoint=path, **parameters).fit(images), expected)


def test_goes_on_with_a_generator_as_random_state(images, path):
    """A new one of the same seed; where it stood is in the file."""
    for network in (Network(), Network(N_STEPS + 3, interrupt)):
        network_path = None if network.event.happen is None else path
        seed = np.random.RandomState(3)
        clusterer = make(network, checkpoint=network_path, random_state=seed)
        if network.event.happen is None:
            expected = clusterer.fit(images)
        else:
            with pytest.warns(UserWarning, match="interrupted after 1 epochs"):
                clusterer.fit(images)
    other = np.random.RandomState(17)
    assert_same_fit(make(checkpoint=path, random_state=other).fit(images), expected)


@pytest.mark.parametrize("n_neighbors", [0, 5])
def test_goes_on_with_tables(images, path, n_neighbors):
    X = images.reshape(-1, 64) / 255
    settings = {"n_neighbors": n_neighbors, "init": "k-means", "model__augment": None}
    expected = make(**settings).fit(X)
    stopped_after(2, X, path, **settings)
    resumed = make(checkpoint=path, **settings).fit(X)
    assert_same_fit(resumed, expected)
    assert resumed.n_features_in_ == 64


def test_goes_on_with_a_fresh_network(path):
    X = np.random.RandomState(0).randint(0, 255, (40, 28, 28)).astype(np.uint8)
    model = DeepSoftmax(vgg4(1, 28, width=0.05))
    settings = {"n_clusters": 2, "model": model, "batch_size": 20, "random_state": 0}
    settings["n_init"] = 1
    expected = CollisionClusterer(**settings, max_iter=4, tol=0).fit(X)

    calls = []
    train_step = DeepSoftmax.train_step

    def stop(model, *args, **kwargs):
        calls.append(0)
        if len(calls) == 6:
            raise OSError
        return train_step(model, *args, **kwargs)

    clusterer = CollisionClusterer(**settings, max_iter=4, tol=0, checkpoint=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeepSoftmax, "train_step", stop)
        with pytest.raises(OSError):  # noqa: PT011
            clusterer.fit(X)
    torch.manual_seed(17)
    clusterer.set_params(model__network=vgg4(1, 28, width=0.05))
    assert_same_fit(clusterer.fit(X), expected)


def test_finished_run_returns_at_once(images, whole, path):
    make(checkpoint=path).fit(images)
    again = make(Network(1, interrupt), checkpoint=path).fit(images)
    assert_same_fit(again, whole)


def test_more_epochs_go_on(images, path):
    settings = {"model__schedule": "constant"}
    expected = make(**settings).fit(images)
    make(max_iter=2, checkpoint=path, **settings).fit(images)
    network = Network((EPOCHS - 2) * N_STEPS + 1, interrupt)
    longer = make(network, checkpoint=path, **settings).fit(images)
    assert_same_fit(longer, expected)
    fewer = make(checkpoint=path, max_iter=1, **settings).fit(images)
    assert_same_fit(fewer, expected)


def test_converged_run_stays_converged(images, path):
    first = make(checkpoint=path, tol=1).fit(images)
    assert first.converged_
    assert first.n_iter_ == 3
    assert_same_fit(make(checkpoint=path, tol=1, max_iter=50).fit(images), first)


def test_what_may_change_between_two_parts(images, whole, path):
    stopped_after(2, images, path)
    changed = make(
        checkpoint=str(path), verbose=0, model__predict_batch_size=50, tol=1e-9
    )
    assert_array_equal(changed.fit(images).labels_, whole.labels_)


def test_nan_is_met_again(images, path):
    network = Network(2 * N_STEPS + 2, emit_nan)
    with pytest.raises(ValueError, match="weights of epoch 2"):
        make(network, checkpoint=path).fit(images)
    before = path.read_bytes()
    clusterer = make(Network(2, emit_nan), checkpoint=path)
    with pytest.raises(ValueError, match=r"epoch 3.*weights of epoch 2"):
        clusterer.fit(images)
    assert clusterer.n_iter_ == 2
    assert np.isfinite(clusterer.predict_proba(images)).all()
    assert path.read_bytes() == before


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_checkpoint
from test_checkpoint import *
{patch}
make(Network({at_step}, kill), checkpoint={path!r}).fit(load_images())
"""
KILL_WHILE_WRITING = """
save, n_calls = torch.save, []
def half(record, file):
    n_calls.append(0)
    if len(n_calls) == 3:
        file.write(b"half of it")
        file.flush()
        kill()
    save(record, file)
torch.save = half
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize(
    ("at_step", "patch"), [(2 * N_STEPS + 2, ""), (-1, KILL_WHILE_WRITING)]
)
def test_goes_on_after_its_process_was_killed(images, whole, path, at_step, patch):
    script = SCRIPT.format(
        folder=str(Path(__file__).parent), path=str(path), at_step=at_step, patch=patch
    )
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    halfway = make().load(path)
    assert halfway.n_iter_ == 2
    assert halfway.loss_curve_ == whole.loss_curve_[:2]
    assert_same_fit(make(checkpoint=path).fit(images), whole)
    half_files = [name for name in os.listdir(path.parent) if name != "run.pt"]
    assert len(half_files) == (patch != "")


# --- The files --------------------------------------------------------------


def test_files_hold_no_code(images, path):
    stopped_after(1, images, path)
    record = torch.load(path, weights_only=True)
    assert isinstance(record, dict)
    fitted = make(checkpoint=path).fit(images)
    torch.load(path, weights_only=True)
    other = path.with_name("model.pt")
    fitted.save(other)
    weights = torch.load(other, weights_only=True)["model"]
    network = Network()
    network.load_state_dict(weights["network"])
    assert torch.equal(network[1].weight, fitted.model_.network_[1].weight)


def test_path_may_be_in_the_home_folder(images, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    make(checkpoint="~/run.pt").fit(images)
    assert (tmp_path / "run.pt").exists()
    whole.save("~/model.pt")
    loaded = make().load("~/model.pt")
    assert_array_equal(loaded.predict(images), whole.labels_)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"lam": 3.0}, r"lam: 100\.0 there, 3\.0 here"),
        ({"random_state": 1}, "random_state: 0 there, 1 here"),
        ({"n_clusters": 3}, "n_clusters: 4 there, 3 here"),
        ({"batch_size": 40}, "batch_size: 50 there, 40 here"),
        ({"prior": [1, 2, 3, 4]}, r"prior: None there, \[1, 2, 3, 4\] here"),
        ({"divergence": "forward"}, "divergence: 'reverse' there"),
        ({"model__lr": 0.5}, r"model__lr: 0\.01 there, 0\.5 here"),
        ({"model__optimizer": "sgd"}, "model__optimizer: 'adam' there"),
        ({"model__augment": None}, "model__augment: 'digits' there, None here"),
        ({"model__normalize": ([0.5], [0.5])}, "model__normalize: None there"),
        ({"lam": 3.0, "random_state": 1}, "lam: .*; random_state: "),
        ({"network": 8}, "model: 'Network .*' there, 'Network .*' here"),
        ({"images": "other"}, "data: "),
        ({"images": "fewer"}, r"data: '\(200, 1, 8, 8\).*there, '\(199, 1, 8, 8\)"),
        ({"images": "floats"}, "data: "),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_runs_are_told_apart(images, path, parameters, named, finished):
    if finished:
        make(max_iter=1, checkpoint=path).fit(images)
    else:
        stopped_after(1, images, path)
    before = path.read_bytes()
    parameters = dict(parameters)
    width = parameters.pop("network", 16)
    kind = parameters.pop("images", None)
    X = {
        None: images,
        "other": images[::-1],
        "fewer": images[:-1],
        "floats": images / np.float32(200),
    }[kind]
    clusterer = make(Network(width=width), checkpoint=path, **parameters)
    with pytest.raises(ValueError, match=named):
        clusterer.fit(X)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.pt"]
    assert not hasattr(clusterer, "model_")


def small_network(seed=0, activation=nn.ReLU, p=0.1, frozen=False, mean=0.0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), activation(), nn.Dropout(p)
    )
    network.mean = torch.tensor(mean)
    network[1].weight.requires_grad_(not frozen)
    return network


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"activation": nn.Tanh}, {"p": 0.9}, {"frozen": True}, {"mean": 1.0}],
)
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda: net])
def test_other_networks_are_told_apart(images, path, changes, wrap):
    def run(network):
        return make(wrap(network), checkpoint=path, max_iter=2).fit(images)

    expected = run(small_network())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"model: 'Sequential .*' there, 'Sequential"):
        run(small_network(**changes))
    assert path.read_bytes() == before
    assert_same_fit(run(small_network()), expected)


def test_a_function_may_draw_weights_from_elsewhere(images, path):
    """The file has them, so that the training can go on."""
    rng = np.random.default_rng(0)

    def build(activation=nn.ReLU):
        network = small_network(activation=activation)
        weight = rng.normal(size=(16, 64)) / 8
        network[1].weight.data = torch.from_numpy(weight).float()
        return network

    first = make(build, checkpoint=path).fit(images)
    assert_same_fit(make(build, checkpoint=path).fit(images), first)
    with pytest.raises(ValueError, match="model: "):
        make(lambda: build(nn.Tanh), checkpoint=path).fit(images)


def sequence_model():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.lstm = nn.LSTM(8, 4, batch_first=True)

        def forward(self, batch):
            return self.lstm(batch.flatten(1, 2))[1][0][0]

    return Rows()


def hooked():
    network = small_network()
    network.hooks, network.meta = [], {"mean": 3}
    network[1].register_forward_hook(lambda module, inputs, output: output + 1)
    return network


@pytest.mark.parametrize(
    "build",
    [
        sequence_model,
        hooked,
        lambda: torch.fx.symbolic_trace(small_network()),
        lambda: torch.compile(small_network(), backend="eager"),
        lambda: nn.Sequential(
            nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 16))
        ),
    ],
    ids=["lstm", "hooks", "fx", "compiled", "weight_norm"],
)
def test_networks_of_all_kinds_go_on(images, path, build):
    torch.manual_seed(0)
    network = build()
    first = make(network, checkpoint=path, max_iter=2).fit(images)
    torch.manual_seed(0)
    assert_same_fit(make(build(), checkpoint=path, max_iter=2).fit(images), first)


def test_a_network_that_cannot_be_told_from_others_has_no_checkpoint(images, path):
    network = small_network()
    network.mean = torch.zeros(3, device="meta")
    with pytest.raises(
        TypeError, match=r"network cannot be compared .*\(mean, a torch"
    ):
        make(network, checkpoint=path).fit(images)
    assert not path.exists()


def test_functions_of_one_name_are_told_apart(images, path):
    def shifted_by(value):
        return lambda batch: batch + value

    stopped_after(1, images, path, model__augment=shifted_by(1))
    with pytest.raises(ValueError, match=r"model__augment: .*lambda"):
        make(checkpoint=path, model__augment=shifted_by(2)).fit(images)
    make(checkpoint=path, model__augment=shifted_by(1)).fit(images)


def fit_with(path, images):
    return make(checkpoint=path).fit(images)


def load_from(path, images):
    return make().load(path)


def change_a_weight(good):
    record = torch.load(io.BytesIO(good), weights_only=True)
    weight = record["model"]["head"]["weight"].numpy()
    return good.replace(weight.tobytes(), (2 * weight).tobytes())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        pickle.dumps({"format": 1}),
        pickle.dumps(make()),
        b"<html></html>",
        b"hello world",
        b"a,b\n1,2\n",
        lambda good: good[: len(good) // 2],
        lambda good: good[:-1],
        change_a_weight,
        lambda good: bytes(8) + good[8:],
    ],
)
@pytest.mark.parametrize("read", [fit_with, load_from])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_and_foreign_files(images, path, content, read):
    stopped_after(1, images, path)
    good = path.read_bytes()
    bad = content if isinstance(content, bytes) else content(good)
    assert bad != good
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"run\.pt"):
        read(path, images)
    assert path.read_bytes() == bad
    assert os.listdir(path.parent) == ["run.pt"]


@pytest.mark.parametrize(
    "content",
    [
        Network().state_dict(),
        torch.ones(3),
        nn.Linear(2, 2),
        {"format": 99},
        {"format": _checkpoint._FORMAT},
    ],
)
def test_other_files_of_torch(images, path, content):
    torch.save(content, path)
    before = path.read_bytes()
    for read in (fit_with, load_from):
        with pytest.raises(ValueError, match=r"run\.pt"):
            read(path, images)
    assert path.read_bytes() == before


def test_saved_model_is_no_checkpoint(images, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match="is a saved model, not a"):
        make(checkpoint=path).fit(images)


def test_missing_folder_is_an_error_before_training(images, tmp_path):
    network = Network(1, interrupt)
    clusterer = make(network, checkpoint=tmp_path / "nowhere" / "run.pt")
    with pytest.raises(ValueError, match=r"no folder .*nowhere"):
        clusterer.fit(images)
    assert not hasattr(clusterer, "model_")
    assert os.listdir(tmp_path) == []


def test_checkpoint_is_a_folder(images, tmp_path):
    with pytest.raises(ValueError, match="checkpoint"):
        make(checkpoint=tmp_path).fit(images)


@pytest.mark.parametrize(
    "use",
    [
        lambda X, path: CollisionClusterer(4, checkpoint=path).fit(X),
        lambda X, path: CollisionClusterer(4, random_state=0).fit(X).save(path),
        lambda X, path: CollisionClusterer(4).load(path),
    ],
    ids=["fit", "save", "load"],
)
def test_linear_model_says_that_it_cannot(digits, path, use):
    with pytest.raises(ValueError, match=r"needs a model with get_state.*pickled"):
        use(digits[0][:200], path)
    assert not path.exists()


def test_bad_type_of_checkpoint(images):
    with pytest.raises(ValueError, match="checkpoint"):
        make(checkpoint=3).fit(images)


@pytest.mark.parametrize("writer", ["fit", "save"])
def test_writing_is_all_or_nothing(images, whole, path, monkeypatch, writer):
    if writer == "fit":
        stopped_after(2, images, path)
    else:
        make(max_iter=1).fit(images).save(path)
    before = path.read_bytes()

    def fail(record, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    def write():
        if writer == "save":
            return whole.save(path)
        return assert_same_fit(make(checkpoint=path).fit(images), whole)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            write()
    assert path.read_bytes() == before
    write()
    assert make().load(path).n_iter_ == EPOCHS
    assert os.listdir(path.parent) == ["run.pt"]


def change_record(change):
    def changed(good):
        record = torch.load(io.BytesIO(good), weights_only=True)
        change(record)
        file = io.BytesIO()
        torch.save(record, file)
        return file.getvalue()

    return changed


def set_item(*keys, value):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change_record(change)


def delete_item(*keys):
    def change(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change_record(change)


def compressed(good):
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(good)) as archive,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as other,
    ):
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        compressed,
        delete_item("run"),
        delete_item("training"),
        delete_item("training", "proba"),
        delete_item("random_state"),
        delete_item("model", "network"),
        delete_item("model", "seed"),
        set_item("run", value=3),
        set_item("training", value=[]),
        set_item("training", "interrupted", value=True),
        set_item("training", "n_calm", value="3"),
        set_item("training", "share_curve", value=torch.zeros(3)),
        set_item("training", "loss_curve", value=["a"]),
        set_item("random_state", "state", value="old"),
        set_item("random_state", "state", "pos", value=10**8),
        set_item("random_state", "state", "pos", value=-(10**8)),
        set_item("training", "proba", value=torch.ones(3, 4, dtype=torch.float64)),
        set_item("training", "proba", value=torch.ones(1).expand(10**9, 4)),
        set_item("training", "n_calm", value=-1),
        set_item("training", "loss_curve", value=[1.0, 2.0]),
        set_item("model", value=None),
        set_item("model", "head", value=7),
        set_item("model", "network", value={"1.weight": "a"}),
        set_item("model", "optimizer", value={}),
        set_item("model", "optimizer", "state", 0, "exp_avg_sq", value=3),
        set_item("model", "optimizer", "state", 0, "exp_avg", value=torch.ones(2)),
        set_item("model", "optimizer", "state", 0, value=None),
    ],
)
def test_a_checkpoint_with_other_things_in_it_is_an_error(images, path, change):
    stopped_after(1, images, path)
    path.write_bytes(change(path.read_bytes()))
    clusterer = make(checkpoint=path)
    with pytest.raises(ValueError, match=r"run\.pt"):
        clusterer.fit(images)
    assert not hasattr(clusterer, "model_")


@pytest.mark.parametrize(
    "change",
    [
        set_item("fitted", "checkpoint", value="elsewhere.pt"),
        set_item("fitted", "n_clusters", value=5),
        set_item("fitted", "predict", value=3),
        set_item("fitted", "__class__", value=3),
        set_item("fitted", "model_", value=3),
        set_item("fitted", "coef_", value=torch.zeros(4, 3)),
        set_item("fitted", "n_iter_", value=2.5),
        set_item("fitted", "n_iter_", value=7),
        set_item("fitted", "converged_", value=1),
        set_item("fitted", "loss_", value=torch.zeros(3)),
        set_item("fitted", "loss_curve_", value="abc"),
        set_item("fitted", "labels_", value=torch.full((200,), 4)),
        set_item("fitted", "labels_", value=torch.zeros(3, dtype=torch.int64)),
        set_item("fitted", "labels_", value=torch.zeros(200)),
        set_item("fitted", "feature_names_in_", value=[1, 2]),
        set_item("fitted", "feature_names_in_", value=["a"]),
        set_item("fitted", "labels_", value=torch.zeros(1).long().expand(10**9)),
        set_item("fitted", "share_curve_", value=torch.ones(1).expand(10**9, 4)),
        set_item("fitted", value=[]),
        delete_item("fitted", "labels_"),
        delete_item("model", "head"),
    ],
)
def test_a_file_sets_what_a_fit_finds_and_nothing_else(images, path, change):
    make(max_iter=1).fit(images).save(path)
    path.write_bytes(change(path.read_bytes()))
    clusterer = make()
    before = dict(vars(clusterer))
    with pytest.raises(ValueError, match=r"run\.pt"):
        clusterer.load(path)
    assert vars(clusterer) == before


# --- Where it is written ----------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "name with spaces.pt"])
def test_names_as_long_as_they_may_be(images, tmp_path, name):
    make(max_iter=1, checkpoint=tmp_path / name).fit(images)
    assert os.listdir(tmp_path) == [name]


NOT_WRITABLE = [
    pytest.param(Path("/proc/run.pt"), id="no files"),
    pytest.param(Path(tempfile.gettempdir()) / ("a" * 256), id="too long a name"),
]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Linux only")
@pytest.mark.parametrize("path", NOT_WRITABLE)
def test_what_cannot_be_written_is_an_error_before_training(images, whole, path):
    network = Network(1, emit_nan)
    with pytest.raises(OSError, match=f"cannot write the file: .*{path.name}"):
        make(network, checkpoint=path).fit(images)
    with pytest.raises(OSError, match=f"cannot write the file: .*{path.name}"):
        whole.save(path)


@contextlib.contextmanager
def full_disk(n_bytes):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_named_and_the_old_file_stays(images, whole, path):
    stopped_after(2, images, path)
    before = path.read_bytes()
    with (
        full_disk(len(before) // 2),
        pytest.raises(OSError, match=rf"cannot write the file: .*{path.name}"),
    ):
        make(checkpoint=path).fit(images)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.pt"]
    assert_same_fit(make(checkpoint=path).fit(images), whole)


def test_equal_runs_may_share_a_file(path):
    def write(number):
        for _ in range(30):
            record = {"model": np.full(1000, number)}
            _checkpoint.write_record(path, record)
            (value,) = set(_checkpoint.read_record(path)["model"].tolist())
            assert value in range(4)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write, range(4)))
    assert os.listdir(path.parent) == ["run.pt"]


def test_no_link_is_followed_that_was_not_asked_for(images, tmp_path, monkeypatch):
    """Whoever may write to the folder cannot know the name, nor does a link help."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("run.pt.part", ".run.pt.00.part"):
        (tmp_path / name).symlink_to(victim)
    monkeypatch.setattr(_checkpoint.secrets, "token_hex", lambda n_bytes: "00")
    with pytest.raises(FileExistsError, match="cannot write"):
        make(max_iter=1, checkpoint=tmp_path / "run.pt").fit(images)
    assert victim.read_text() == "precious"
    monkeypatch.undo()
    make(max_iter=1, checkpoint=tmp_path / "run.pt").fit(images)
    assert victim.read_text() == "precious"


def test_a_link_stays_a_link(images, whole, tmp_path):
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "run.pt", tmp_path / "disk" / "run.pt"
    link.symlink_to(file)
    make(max_iter=2, checkpoint=link).fit(images)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["run.pt"]
    whole.save(link)
    assert link.is_symlink()
    assert make().load(link).n_iter_ == EPOCHS


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_file_has_the_usual_mode(whole, path):
    whole.save(path)
    usual = path.with_name("usual")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode


# --- Saving and loading -----------------------------------------------------


def test_save_and_load(images, whole, path):
    whole.save(path)
    loaded = make()
    assert loaded.load(path) is loaded
    assert_same_fit(loaded, whole)
    assert_array_equal(loaded.predict_proba(images), whole.predict_proba(images))
    assert_array_equal(loaded.transform(images), whole.transform(images))
    assert loaded.score(images) == whole.score(images)
    assert_array_equal(loaded.get_feature_names_out(), whole.get_feature_names_out())
    for name in ("labels_", "loss_curve_", "share_curve_", "n_iter_", "converged_"):
        own, theirs = getattr(loaded, name), getattr(whole, name)
        assert type(own) is type(theirs), name
    assert loaded.labels_.dtype == whole.labels_.dtype
    second = path.with_name("second.pt")
    loaded.save(second)
    assert_same_fit(make().load(second), whole)
    assert_same_fit(pickle.loads(pickle.dumps(loaded)), whole)
    assert_same_fit(clone(loaded).fit(images), whole)


def test_load_of_a_table(images, path):
    X = images.reshape(-1, 64) / 255
    fitted = make(model__augment=None).fit(X)
    fitted.save(path)
    loaded = make(model__augment=None).load(path)
    assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.n_features_in_ == 64
    with pytest.raises(ValueError, match="63 features"):
        loaded.predict(X[:, 1:])


def test_load_of_a_checkpoint(images, whole, path):
    stopped_after(2, images, path)
    unfinished = make().load(path)
    expected = make(max_iter=2, model__schedule="cosine").fit(images)
    assert unfinished.predict(images).shape == expected.labels_.shape
    assert unfinished.n_iter_ == 2
    assert unfinished.loss_curve_ == whole.loss_curve_[:2]
    assert_array_equal(unfinished.share_curve_, whole.share_curve_[:2])
    assert not hasattr(unfinished, "labels_")
    make(checkpoint=path).fit(images)
    finished = make().load(path)
    assert_same_fit(finished, whole)
    assert_array_equal(finished.predict(images), whole.labels_)


def test_load_forgets_an_earlier_fit(images, path):
    stopped_after(2, images, path)
    clusterer = make(max_iter=1).fit(images[:100]).load(path)
    assert not hasattr(clusterer, "labels_")


def test_save_after_an_interrupt_in_the_first_epoch(images, path):
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        clusterer = make(Network(2, interrupt)).fit(images)
    assert clusterer.share_curve_.shape == (0, 4)
    clusterer.save(path)
    assert_array_equal(make().load(path).predict(images), clusterer.labels_)


@pytest.mark.parametrize("read", ["checkpoint", "load"])
def test_network_that_learns_its_input_size(images, path, read):
    def build():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU())

    expected = make(build).fit(images)
    if read == "load":
        expected.save(path)
        assert_same_fit(make(build).load(path), expected)
    else:
        make(build, checkpoint=path).fit(images)
        assert_same_fit(make(build, checkpoint=path).fit(images), expected)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not let open files go")
def test_who_reads_a_file_while_it_is_written_finds_the_old_one(whole, path):
    whole.save(path)
    before = path.read_bytes()
    with path.open("rb") as file:
        start = file.read(10)
        whole.save(path)
        assert start + file.read() == before
        assert os.fstat(file.fileno()).st_nlink == 0


def test_load_with_another_number_of_clusters_or_architecture(images, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match="holds 4 clusters, not n_clusters=3"):
        make(n_clusters=3).load(path)
    other = make(Network(width=8))
    with pytest.raises(ValueError, match=r"architecture.*\(16, 64\) there"):
        other.load(path)
    with pytest.raises(NotFittedError):
        other.predict(images)
    deeper = nn.Sequential(*Network(), nn.Linear(16, 16))
    with pytest.raises(ValueError, match=r"architecture: 5.weight has shape None"):
        make(deeper).load(path)


def test_save_before_fit_and_load_of_nothing(path):
    with pytest.raises(NotFittedError):
        make().save(path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        make().load(path)


def test_fingerprint_tells_data_apart(images):
    X = torch.from_numpy(images)
    assert _checkpoint._fingerprint(X) == _checkpoint._fingerprint(X.clone())
    assert _checkpoint._fingerprint(X) != _checkpoint._fingerprint(X.flip(0))
    assert _checkpoint._fingerprint(X) != _checkpoint._fingerprint(X[:-1])
    assert _checkpoint._fingerprint(X) != _checkpoint._fingerprint(X[:, :, :-1])


def test_a_data_set_that_augments_at_random_can_go_on(images, path):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, row):
            noise = np.random.default_rng().integers(0, 30, (8, 8), dtype=np.uint8)
            return images[row] // 2 + noise

    stopped_after(2, Noisy(), path)
    assert make(checkpoint=path).fit(Noisy()).n_iter_ == EPOCHS


def test_predictions_of_a_loaded_model_are_probabilities(images, whole, path):
    whole.save(path)
    proba = make().load(path).predict_proba(images)
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)


def test_resume_leaves_the_global_generator_alone(images, path):
    stopped_after(1, images, path, random_state=None)
    generator = check_random_state(None)
    before = generator.get_state()[1].copy()
    make(checkpoint=path, random_state=None).fit(images)
    assert_array_equal(generator.get_state()[1], before)


@pytest.mark.parametrize("row", [0, 1, 77, 199])
def test_every_image_counts(images, path, row):
    stopped_after(1, images, path)
    other = images.copy()
    other[row, 0, 0] ^= 1
    with pytest.raises(ValueError, match="data: "):
        make(checkpoint=path).fit(other)


def test_transforms_are_told_apart(images, path):
    stopped_after(1, images, path, model__augment=v2.RandomErasing(p=0.2))
    with pytest.raises(ValueError, match="model__augment: "):
        make(checkpoint=path, model__augment=v2.RandomErasing(p=0.3)).fit(images)
    make(checkpoint=path, model__augment=v2.RandomErasing(p=0.2)).fit(images)


def test_failed_load_changes_nothing(images, whole, path):
    whole.save(path)
    clusterer = make(Network(width=8)).fit(images)
    labels, probabilities = clusterer.labels_, clusterer.predict_proba(images)
    with pytest.raises(ValueError, match="architecture"):
        clusterer.load(path)
    assert clusterer.labels_ is labels
    assert_array_equal(clusterer.predict_proba(images), probabilities)


def test_load_checks_how_images_are_normalized(images, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match=r"normalize=None, not with"):
        make(model__normalize=([0.5], [0.5])).load(path)


def test_feature_names_are_saved(path):
    X = pd.DataFrame(np.random.RandomState(0).normal(size=(40, 64)))
    X.columns = [f"pixel {i}" for i in range(64)]
    clusterer = make(model__augment=None).fit(X)
    clusterer.save(path)
    loaded = make(model__augment=None).load(path)
    assert_array_equal(loaded.feature_names_in_, clusterer.feature_names_in_)
    assert_array_equal(loaded.predict(X), clusterer.labels_)
