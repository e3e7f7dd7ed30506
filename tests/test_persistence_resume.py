import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from persistence import (
    EPOCHS,
    N_STEPS,
    SHORT_FITS,
    Network,
    assert_same_fit,
    emit_nan,
    interrupt,
    make,
    small_network,
    stopped_after,
)
from sklearn.utils import check_random_state
from torch import nn

from skcce import CollisionClusterer
from skcce.deep import DeepSoftmax, vgg4

pytestmark = SHORT_FITS


def test_checkpoint_does_not_change_the_fit(drawings, whole, path):
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)
    assert os.listdir(path.parent) == ["run.npz"]


@pytest.mark.parametrize("n_epochs", [1, 3, EPOCHS - 1])
def test_goes_on_after_an_interrupt(drawings, whole, path, n_epochs):
    stopped = stopped_after(n_epochs, drawings, path)
    assert len(stopped.loss_curve_) == n_epochs
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)


def test_goes_on_several_times(drawings, whole, path):
    for step in (2, N_STEPS + 1, 1, 2 * N_STEPS):
        with pytest.warns(UserWarning, match="interrupted"):
            make(Network(step, interrupt), checkpoint=path).fit(drawings)
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)


def test_interrupted_before_the_first_epoch_was_over(drawings, whole, path):
    stopped_after(0, drawings, path)
    assert not path.exists()
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)


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
def test_goes_on_with_all_kinds_of_settings(drawings, path, parameters):
    expected = make(**parameters).fit(drawings)
    # Each start has a network of its own, which is first tried for 4 epochs.
    n_trial_steps = 4 * N_STEPS if "n_init" in parameters else 0
    network = Network(n_trial_steps + 2 * N_STEPS + 3, interrupt)
    with pytest.warns(UserWarning, match="interrupted after 2 epochs"):
        make(network, checkpoint=path, **parameters).fit(drawings)
    assert_same_fit(make(checkpoint=path, **parameters).fit(drawings), expected)


def test_goes_on_with_a_generator_as_random_state(drawings, path):
    """A new one of the same seed; where it stood is in the file."""
    for network in (Network(), Network(N_STEPS + 3, interrupt)):
        network_path = None if network.event.happen is None else path
        seed = np.random.RandomState(3)
        clusterer = make(network, checkpoint=network_path, random_state=seed)
        if network.event.happen is None:
            expected = clusterer.fit(drawings)
        else:
            with pytest.warns(UserWarning, match="interrupted after 1 epochs"):
                clusterer.fit(drawings)
    other = np.random.RandomState(17)
    assert_same_fit(make(checkpoint=path, random_state=other).fit(drawings), expected)


@pytest.mark.parametrize("n_neighbors", [0, 5])
def test_goes_on_with_tables(drawings, path, n_neighbors):
    X = drawings.reshape(-1, 64) / 255
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


def test_finished_run_returns_at_once(drawings, whole, path):
    make(checkpoint=path).fit(drawings)
    again = make(Network(1, interrupt), checkpoint=path).fit(drawings)
    assert_same_fit(again, whole)


def test_more_epochs_go_on(drawings, path):
    settings = {"model__schedule": "constant"}
    expected = make(**settings).fit(drawings)
    make(max_iter=2, checkpoint=path, **settings).fit(drawings)
    network = Network((EPOCHS - 2) * N_STEPS + 1, interrupt)
    longer = make(network, checkpoint=path, **settings).fit(drawings)
    assert_same_fit(longer, expected)
    fewer = make(checkpoint=path, max_iter=1, **settings).fit(drawings)
    assert_same_fit(fewer, expected)


def test_converged_run_stays_converged(drawings, path):
    first = make(checkpoint=path, tol=1).fit(drawings)
    assert first.converged_
    assert first.n_iter_ == 3
    assert_same_fit(make(checkpoint=path, tol=1, max_iter=50).fit(drawings), first)


def test_what_may_change_between_two_parts(drawings, whole, path):
    stopped_after(2, drawings, path)
    changed = make(
        checkpoint=str(path), verbose=0, model__predict_batch_size=50, tol=1e-9
    )
    assert_array_equal(changed.fit(drawings).labels_, whole.labels_)


def test_nan_is_met_again(drawings, path):
    network = Network(2 * N_STEPS + 2, emit_nan)
    with pytest.raises(ValueError, match="weights of epoch 2"):
        make(network, checkpoint=path).fit(drawings)
    before = path.read_bytes()
    clusterer = make(Network(2, emit_nan), checkpoint=path)
    with pytest.raises(ValueError, match=r"epoch 3.*weights of epoch 2"):
        clusterer.fit(drawings)
    assert clusterer.n_iter_ == 2
    assert np.isfinite(clusterer.predict_proba(drawings)).all()
    assert path.read_bytes() == before


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from persistence import *
{patch}
make(Network({at_step}, kill), checkpoint={path!r}).fit(load_images())
"""


KILL_WHILE_WRITING = """
import zipfile
write, n_calls = zipfile.ZipFile.writestr, []
def half(archive, *args):
    n_calls.append(0)
    if len(n_calls) == 3:
        archive.fp.write(b"half of it")
        archive.fp.flush()
        kill()
    write(archive, *args)
zipfile.ZipFile.writestr = half
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize(
    ("at_step", "patch"), [(2 * N_STEPS + 2, ""), (-1, KILL_WHILE_WRITING)]
)
def test_goes_on_after_its_process_was_killed(drawings, whole, path, at_step, patch):
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
    assert_same_fit(make(checkpoint=path).fit(drawings), whole)
    half_files = [name for name in os.listdir(path.parent) if name != "run.npz"]
    assert len(half_files) == (patch != "")


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


@pytest.mark.slow
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
def test_networks_of_all_kinds_go_on(drawings, path, build):
    torch.manual_seed(0)
    network = build()
    first = make(network, checkpoint=path, max_iter=2).fit(drawings)
    torch.manual_seed(0)
    assert_same_fit(make(build(), checkpoint=path, max_iter=2).fit(drawings), first)


def test_a_data_set_that_augments_at_random_can_go_on(drawings, path):
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return len(drawings)

        def __getitem__(self, row):
            noise = np.random.default_rng().integers(0, 30, (8, 8), dtype=np.uint8)
            return drawings[row] // 2 + noise

    stopped_after(2, Noisy(), path)
    assert make(checkpoint=path).fit(Noisy()).n_iter_ == EPOCHS


def test_resume_leaves_the_global_generator_alone(drawings, path):
    stopped_after(1, drawings, path, random_state=None)
    generator = check_random_state(None)
    before = generator.get_state()[1].copy()
    make(checkpoint=path, random_state=None).fit(drawings)
    assert_array_equal(generator.get_state()[1], before)
