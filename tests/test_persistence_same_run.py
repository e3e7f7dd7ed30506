import os

import numpy as np
import pytest
import torch
from persistence import (
    SHORT_FITS,
    Network,
    assert_same_fit,
    make,
    small_network,
    stopped_after,
)
from torch import nn
from torchvision.transforms import v2

from skcce import _persistence

pytestmark = SHORT_FITS


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"lam": 3.0}, r"lam: 100\.0 there, 3\.0 here"),
        ({"random_state": 1}, "random_state: 0 there, 1 here"),
        ({"n_clusters": 3}, "n_clusters: 4 there, 3 here"),
        ({"batch_size": 40}, "batch_size: 50 there, 40 here"),
        ({"prior": [1, 2, 3, 4]}, r"prior: 'auto' there, \[1, 2, 3, 4\] here"),
        ({"divergence": "forward"}, "divergence: 'reverse' there"),
        ({"model__lr": 0.5}, r"model: .*, lr=0\.01, .* there, .*, lr=0\.5, .* here"),
        ({"model__optimizer": "sgd"}, "model: .*optimizer='adam', .* there"),
        (
            {"model__augment": None},
            "model: .*augment='digits', .* there, .*augment=None.* here",
        ),
        ({"model__normalize": ([0.5], [0.5])}, "model: .*normalize=None.* there"),
        ({"lam": 3.0, "random_state": 1}, "lam: .*; random_state: "),
        (
            {"network": 8},
            "model: .*network=Network .* there, .*network=Network .* here",
        ),
        ({"drawings": "other"}, "data: "),
        ({"drawings": "fewer"}, r"data: '\(200, 1, 8, 8\).*there, '\(199, 1, 8, 8\)"),
        ({"drawings": "floats"}, "data: "),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_runs_are_told_apart(drawings, path, parameters, named, finished):
    if finished:
        make(max_iter=1, checkpoint=path).fit(drawings)
    else:
        stopped_after(1, drawings, path)
    before = path.read_bytes()
    parameters = dict(parameters)
    width = parameters.pop("network", 16)
    kind = parameters.pop("drawings", None)
    X = {
        None: drawings,
        "other": drawings[::-1],
        "fewer": drawings[:-1],
        "floats": drawings / np.float32(200),
    }[kind]
    clusterer = make(Network(width=width), checkpoint=path, **parameters)
    with pytest.raises(ValueError, match=named):
        clusterer.fit(X)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["run.npz"]
    assert not hasattr(clusterer, "model_")


@pytest.mark.parametrize(
    "changes",
    [{"seed": 1}, {"activation": nn.Tanh}, {"p": 0.9}, {"frozen": True}, {"mean": 1.0}],
)
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda: net])
def test_other_networks_are_told_apart(drawings, path, changes, wrap):
    def run(network):
        return make(wrap(network), checkpoint=path, max_iter=2).fit(drawings)

    expected = run(small_network())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"network=Sequential .* there, .*=Sequential"):
        run(small_network(**changes))
    assert path.read_bytes() == before
    assert_same_fit(run(small_network()), expected)


def test_a_function_may_draw_weights_from_elsewhere(drawings, path):
    """The file has them, so that the training can go on."""
    rng = np.random.default_rng(0)

    def build(activation=nn.ReLU):
        network = small_network(activation=activation)
        weight = rng.normal(size=(16, 64)) / 8
        network[1].weight.data = torch.from_numpy(weight).float()
        return network

    first = make(build, checkpoint=path).fit(drawings)
    assert_same_fit(make(build, checkpoint=path).fit(drawings), first)
    with pytest.raises(ValueError, match="model: "):
        make(lambda: build(nn.Tanh), checkpoint=path).fit(drawings)


def test_a_network_that_cannot_be_told_from_others_has_no_checkpoint(drawings, path):
    network = small_network()
    network.mean = torch.zeros(3, device="meta")
    with pytest.raises(
        TypeError, match=r"network cannot be compared .*\(mean, a torch"
    ):
        make(network, checkpoint=path).fit(drawings)
    assert not path.exists()


def test_functions_of_one_name_are_told_apart(drawings, path):
    def shifted_by(value):
        return lambda batch: batch + value

    stopped_after(1, drawings, path, model__augment=shifted_by(1))
    with pytest.raises(ValueError, match=r"model: .*augment=<lambda> "):
        make(checkpoint=path, model__augment=shifted_by(2)).fit(drawings)
    make(checkpoint=path, model__augment=shifted_by(1)).fit(drawings)


def test_transforms_are_told_apart(drawings, path):
    stopped_after(1, drawings, path, model__augment=v2.RandomErasing(p=0.2))
    with pytest.raises(ValueError, match=r"model: .*augment=RandomErasing"):
        make(checkpoint=path, model__augment=v2.RandomErasing(p=0.3)).fit(drawings)
    make(checkpoint=path, model__augment=v2.RandomErasing(p=0.2)).fit(drawings)


@pytest.mark.parametrize("row", [0, 1, 77, 199])
def test_every_image_counts(drawings, path, row):
    stopped_after(1, drawings, path)
    other = drawings.copy()
    other[row, 0, 0] ^= 1
    with pytest.raises(ValueError, match="data: "):
        make(checkpoint=path).fit(other)


def test_fingerprint_tells_data_apart(drawings):
    X = torch.from_numpy(drawings)
    assert _persistence._fingerprint(X) == _persistence._fingerprint(X.clone())
    assert _persistence._fingerprint(X) != _persistence._fingerprint(X.flip(0))
    assert _persistence._fingerprint(X) != _persistence._fingerprint(X[:-1])
    assert _persistence._fingerprint(X) != _persistence._fingerprint(X[:, :, :-1])


def test_saved_model_is_no_checkpoint(drawings, whole, path):
    whole.save(path)
    with pytest.raises(ValueError, match="is a saved model, not a"):
        make(checkpoint=path).fit(drawings)


def test_other_samples_of_weight_zero_are_another_run(drawings, path):
    weight = np.ones(len(drawings))
    weight[10] = 0
    make(max_iter=1, checkpoint=path).fit(drawings, sample_weight=weight)
    weight[[10, 11]] = 1, 0
    with pytest.raises(ValueError, match=r"another run .*kept"):
        make(checkpoint=path).fit(drawings, sample_weight=weight)
    weight[[10, 11]] = 0, 1
    other = drawings.copy()
    other[77] = 255 - other[77]
    with pytest.raises(ValueError, match=r"another run .*data"):
        make(checkpoint=path).fit(other, sample_weight=weight)
