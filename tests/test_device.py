"""What may differ on a GPU; the same tests on the CPU show that they are right.

They need no other file of this folder: examples/paper/on_gpu.py runs them alone.
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn

import skcce.methods
from skcce import CollisionClassifier, CollisionClusterer, LinearSoftmax
from skcce.deep import (
    DeepSoftmax,
    TorchLinearSoftmax,
    digits,
    natural,
    resnet18,
    vgg4,
)
from skcce.features import ImageFeatures
from skcce.methods import (
    IMSATClusterer,
    InvariantInformation,
    MIGDClusterer,
    SCANClusterer,
    SoftmaxClusterer,
)

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    ],
)
pytestmark = [
    # Of fits this short.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Torch says so once, in the thread that goes backward, and takes the context.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),
]
METHODS = {CollisionClusterer} | {
    getattr(skcce.methods, name)
    for name in skcce.methods.__all__
    if name.endswith("Clusterer")
    and name not in ("ObjectiveClusterer", "SoftmaxClusterer")
}


@pytest.fixture(params=["cpu", GPU])
def device(request):
    return request.param


def bars(n=45, size=28, channels=None):
    """Return uint8 images of bars at three heights, with noise."""
    shape = (n, size, size) if channels is None else (n, size, size, channels)
    images = np.random.default_rng(0).integers(0, 60, shape, dtype=np.uint8)
    for i, image in enumerate(images):
        image[2 + 8 * (i % 3) :][:6] += 180
    return images


def make(device, network=None, method=CollisionClusterer, **parameters):
    network = vgg4(1, 28, width=0.1) if network is None else network
    model = DeepSoftmax(network, augment="digits", device=device)
    clusterer = method(
        3, model=model, n_init=1, batch_size=20, max_iter=2, random_state=0
    )
    return clusterer.set_params(**parameters)


def weights_of(clusterer):
    state = clusterer.model_._module.state_dict()
    return {name: value.cpu().numpy() for name, value in state.items()}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    for name, value in one.items():
        assert_array_equal(value, other[name], err_msg=name)


def assert_is_on(device, clusterer):
    assert {w.device.type for w in clusterer.model_._module.parameters()} == {device}


# --- A training -------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(METHODS, key=str), ids=lambda m: m.__name__)
def test_every_method_trains(device, method):
    clusterer = make(device, method=method).fit(bars())
    assert_is_on(device, clusterer)
    assert np.isfinite(clusterer.loss_)
    assert_array_equal(clusterer.predict(bars()), clusterer.labels_)


def test_pairs_of_views_train(device):
    of_pairs = partial(SoftmaxClusterer, objective=InvariantInformation())
    clusterer = make(device, method=of_pairs)
    assert np.isfinite(clusterer.fit(bars()).loss_)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "size", "channels", "parameters"),
    [
        (lambda: vgg4(1, 28, width=0.1), 28, None, {}),
        (lambda: vgg4(1, 28, width=0.1), 28, None, {"model__mixed_precision": False}),
        (
            lambda: vgg4(3, 32, width=0.1),
            32,
            3,
            {
                "model__augment": "natural",
                "model__n_views": 2,
                "model__normalize": ([0.5] * 3, [0.2] * 3),
                "model__channels_last": False,
            },
        ),
        (lambda: resnet18(max_pool=True), 32, 3, {"model__augment": "natural"}),
    ],
    ids=["vgg4", "float32", "color", "resnet18"],
)
def test_same_seed_same_bits(device, build, size, channels, parameters):
    images = bars(12, size, channels)
    one, other = (make(device, build(), **parameters).fit(images) for _ in range(2))
    assert_same_weights(one, other)
    assert_array_equal(one.decision_function(images), other.decision_function(images))


def test_generators_are_left_as_they_were(device):
    def states():
        states = [torch.get_rng_state()]
        return states + ([torch.cuda.get_rng_state()] if device == "cuda" else [])

    clusterer = make(device)
    before = states()
    clusterer.fit(bars()).predict(bars())
    for old, new in zip(before, states(), strict=True):
        assert_array_equal(old, new)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_checkpoint_goes_on_with_the_same_bits(device, optimizer, tmp_path):
    options = {"model__optimizer": optimizer, "model__schedule": "constant"}
    whole = make(device, max_iter=3, **options).fit(bars())
    options["checkpoint"] = tmp_path / "run.npz"
    make(device, max_iter=1, **options).fit(bars())
    parts = make(device, max_iter=3, **options).fit(bars())
    assert parts.n_iter_ == 3
    assert_same_weights(whole, parts)


def test_given_labels_are_where_training_starts(device):
    labels = np.arange(45) % 3
    clusterer = make(device, init=labels, max_iter=1, model__lr=0.0).fit(bars())
    assert_array_equal(clusterer.labels_, labels)


@pytest.mark.parametrize("method", sorted(METHODS, key=str), ids=lambda m: m.__name__)
def test_every_method_trains_on_rows_of_a_table(device, method):
    rows = bars().reshape(45, -1) / np.float32(255)
    network = nn.Sequential(nn.LazyLinear(16), nn.ReLU())
    clusterer = make(device, network, method, model__augment=None).fit(rows)
    assert clusterer.decision_function(rows).dtype == np.float32


class Watched(nn.Sequential):
    """Notes in `seen` whether cuDNN is deterministic wherever gradients are wanted."""

    seen: ClassVar[list] = []

    def forward(self, rows):
        if torch.is_grad_enabled():
            self.seen.append(torch.backends.cudnn.deterministic)
        return super().forward(rows)


@pytest.mark.parametrize("method", [CollisionClusterer, skcce.methods.IMSATClusterer])
def test_gradients_are_held_to_deterministic_kernels(device, method):
    rows = bars().reshape(45, -1) / np.float32(255)
    network, before = Watched(nn.Linear(784, 8)), torch.backends.cudnn.deterministic
    Watched.seen.clear()
    make(device, network, method, model__augment=None).fit(rows)
    assert Watched.seen
    assert all(Watched.seen)
    assert torch.backends.cudnn.deterministic == before


@pytest.mark.parametrize("device", [GPU])
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_compiled_is_nearly_the_same(device):
    pytest.importorskip("triton", reason="torch.compile needs it on a GPU")
    plain, compiled = (
        make(device, model__compile=compile, model__mixed_precision=False).fit(bars())
        for compile in (False, True)
    )
    assert_allclose(plain.loss_curve_, compiled.loss_curve_, rtol=0.05)


# --- Between the devices ----------------------------------------------------


def test_saved_model_predicts_the_same_on_the_cpu(device, tmp_path):
    fitted = make(device, model__mixed_precision=False).fit(bars())
    fitted.save(tmp_path / "model.npz")
    loaded = make("cpu").load(tmp_path / "model.npz")
    assert_is_on("cpu", loaded)
    assert_same_weights(fitted, loaded)
    logits = fitted.decision_function(bars())
    # TF32, which convolutions on a GPU may use, has 10 bits.
    atol = 0.01 * np.abs(logits).max()
    assert_allclose(loaded.decision_function(bars()), logits, atol=atol)


def test_half_precision_is_nearly_the_same(device):
    fitted = make(device).fit(bars())
    half = fitted.decision_function(bars())
    fitted.model_.mixed_precision = False
    full = fitted.decision_function(bars())
    assert half.dtype == full.dtype == np.float32
    assert_allclose(half, full, atol=0.1 * np.abs(full).max())


def test_pickle_stays_on_the_device(device):
    fitted = make(device).fit(bars())
    loaded = pickle.loads(pickle.dumps(fitted))
    assert_is_on(device, loaded)
    assert_array_equal(
        loaded.decision_function(bars()), fitted.decision_function(bars())
    )


def test_network_that_is_on_the_device_is_copied(device):
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.ReLU()).to(device)
    before = network[1].weight.clone()
    clusterer = make(device, network).fit(bars())
    assert_array_equal(network[1].weight.detach().cpu(), before.detach().cpu())
    assert_is_on(device, clusterer)


def test_images_on_the_device_are_the_same_images(device):
    there = torch.from_numpy(bars()).to(device)
    assert_same_weights(make(device).fit(bars()), make(device).fit(there))


def test_threads_predict_at_the_same_time(device):
    fitted = make(device).fit(bars())
    expected = fitted.decision_function(bars())
    with ThreadPoolExecutor(4) as executor:
        for logits in executor.map(fitted.decision_function, 8 * [bars()]):
            assert_array_equal(logits, expected)


# --- The linear model -------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    X, y = load_digits(return_X_y=True)
    return X[:600], y[:600]


def pair_of_fits(estimator, device, X, y=None):
    """Return a fit with NumPy, and the same one with torch."""
    here = LinearSoftmax(alpha=1e-3)
    there = TorchLinearSoftmax(alpha=1e-3, device=device)
    return [
        clone(estimator).set_params(model=model).fit(X, y) for model in (here, there)
    ]


def assert_nearly_the_same(one, other, X):
    assert_allclose(other.loss_, one.loss_, rtol=1e-6)
    assert_allclose(other.predict_proba(X), one.predict_proba(X), atol=1e-5)
    assert_array_equal(other.predict(X), one.predict(X))


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        CollisionClusterer(10, random_state=0),  # with a tree
        CollisionClusterer((2, 12), random_state=0),
        CollisionClusterer(10, n_neighbors=0, init="random", random_state=0),
        CollisionClusterer(
            10, n_neighbors=5, features=None, prior=None, random_state=0
        ),
        MIGDClusterer(10, random_state=0),
        SCANClusterer(10, random_state=0),
        IMSATClusterer(10, random_state=0),
    ],
    ids=["tree", "number", "plain", "equal", "MIGD", "SCAN", "IMSAT"],
)
def test_linear_model_is_that_of_numpy(device, table, estimator):
    one, other = pair_of_fits(estimator, device, table[0])
    assert_nearly_the_same(one, other, table[0])


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs"])
def test_linear_model_with_labels_is_that_of_numpy(device, table, optimizer):
    estimator = CollisionClassifier(model=LinearSoftmax(), random_state=0)
    X, y = table
    here = LinearSoftmax(alpha=1e-2, optimizer=optimizer)
    there = TorchLinearSoftmax(alpha=1e-2, optimizer=optimizer, device=device)
    one, other = (clone(estimator).set_params(model=m).fit(X, y) for m in (here, there))
    assert_nearly_the_same(one, other, X)


def test_linear_model_in_float32(device, table):
    X = table[0].astype(np.float32)
    estimator = CollisionClusterer(10, n_neighbors=0, max_iter=1, random_state=0)
    one, other = pair_of_fits(estimator, device, X)
    assert other.decision_function(X).dtype == other.coef_.dtype == np.float32
    assert_allclose(other.loss_, one.loss_, rtol=1e-3)


@pytest.mark.slow
def test_linear_model_is_kept(device, table, tmp_path):
    X = table[0]
    model = TorchLinearSoftmax(device=device)
    fitted = CollisionClusterer(10, model=model, random_state=0).fit(X)
    fitted.save(tmp_path / "model.npz")
    copies = [pickle.loads(pickle.dumps(fitted))]
    copies += [CollisionClusterer(10, model=model).load(tmp_path / "model.npz")]
    for copied in copies:
        assert_array_equal(copied.predict_proba(X), fitted.predict_proba(X))
    assert fitted.cut(5).predict_proba(X).shape == (600, 5)


def test_linear_model_of_a_device_that_is_not_there(table):
    model = TorchLinearSoftmax(device="abacus")
    with pytest.raises(ValueError, match="device='abacus' cannot be used"):
        CollisionClusterer(10, model=model, random_state=0).fit(table[0])


# --- Augmentations, features ------------------------------------------------


@pytest.mark.parametrize("device", ["meta", GPU])
@pytest.mark.parametrize("augment", [digits, natural])
def test_views_stay_on_the_device(device, augment):
    images = torch.full((7, 3, 32, 32), 0.5, device=device)
    view = augment(images)
    assert view.device == images.device
    assert (view.shape, view.dtype) == (images.shape, images.dtype)


@pytest.mark.slow
def test_features_are_nearly_those_of_the_cpu(device):
    images = bars(9, 64, 3)
    options = {"weights": None, "batch_size": 4}
    there, again, here = (
        ImageFeatures("resnet18", device=d, n_jobs=n, **options).transform(images)
        for d, n in ((device, 3), (device, 1), ("cpu", 1))
    )
    assert_array_equal(there, again)
    assert_allclose(there, here, atol=0.01 * np.abs(here).max())


def test_features_of_images_on_the_device_and_an_own_network(device):
    images = bars(5, 16, 3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).to(device)
    features = ImageFeatures(network, device=device)
    rows = features.transform(torch.from_numpy(images).movedim(-1, 1).to(device))
    assert_array_equal(rows, features.transform(images))
