import copy
import itertools
import pickle
import random
import warnings

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torchvision.transforms import v2

from skcce import CollisionClusterer, solve_pseudo_labels
from skcce._messages import warn_of_collapse
from skcce._objective import Batch, view_weights
from skcce._training import TrainingState
from skcce.deep import DeepSoftmax, vgg4
from skcce.losses import collision_loss_and_gradient
from skcce.metrics import clustering_accuracy

# Most fits here are too short to converge, or to fill all clusters.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}:sklearn.exceptions.ConvergenceWarning")
    for text in ("More than tol", "Clusters in use. . of .. Try")
]


@pytest.fixture(autouse=True)
def _same_networks_in_every_run():
    torch.manual_seed(0)


def mlp(*layers, n_in=64):
    return nn.Sequential(nn.Flatten(), nn.Linear(n_in, 16), nn.ReLU(), *layers)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
    )


def make(network=None, **parameters):
    network = mlp() if network is None else network
    clusterer = CollisionClusterer(
        4,
        model=DeepSoftmax(network, lr=1e-2, weight_decay=0.0),
        lam=100.0,
        view_weight=1.0,
        n_init=1,
        batch_size=60,
        max_iter=3,
        random_state=0,
    )
    return clusterer.set_params(**parameters)


def no_label_step(**parameters):
    """Return an estimator whose training does not change the weights."""
    return make(model__lr=0.0, max_iter=1, **parameters)


def weights_of(clusterer):
    model = clusterer.model_
    state = {**model.network_.state_dict(), **model.head_.state_dict(prefix="head.")}
    return {name: value.cpu().numpy() for name, value in state.items()}


def assert_same_weights(one, other):
    one, other = weights_of(one), weights_of(other)
    assert list(one) == list(other)
    for name in one:
        assert_array_equal(one[name], other[name], err_msg=name)


def differ(one, other):
    one, other = weights_of(one), weights_of(other)
    return all((one[name] != other[name]).any() for name in one if "weight" in name)


def numbers(module):
    return [value.clone() for value in module.state_dict().values()]


@pytest.fixture(scope="module")
def four_digits(digits):
    """Images (240, 8, 8) of uint8 of the digits 0 to 3, and the digits."""
    X, y = digits
    rows = np.flatnonzero(y < 4)[:240]
    return (X[rows] * 15).astype(np.uint8).reshape(-1, 8, 8), y[rows]


@pytest.fixture(scope="module")
def images(four_digits):
    return four_digits[0]


@pytest.fixture(scope="module")
def shapes():
    """Squares and lines, uint8 images (60, 28, 28)."""
    images = np.zeros((60, 28, 28), dtype=np.uint8)
    images[:30, 4:24, 4:24] = 255
    images[30:, 12:16, :] = 255
    noise = np.random.RandomState(0).randint(0, 100, images.shape)
    return np.maximum(images, noise.astype(np.uint8))


def fit_vgg4(X, random_state=0, network=None, **parameters):
    model = DeepSoftmax(vgg4(1, 28, width=0.05) if network is None else network)
    clusterer = CollisionClusterer(
        2, model=model, n_init=1, batch_size=30, max_iter=2, random_state=random_state
    )
    return clusterer.set_params(**parameters).fit(X)


# --- What scikit-learn expects ---------------------------------------------


class Fitting(nn.Module):
    """A layer of 8 ReLUs that finds out in its first call how many features it has."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(8)

    def forward(self, rows):
        return torch.relu(self.layer(rows))


def table_clusterer(network):
    model = DeepSoftmax(network, lr=0.05)
    return CollisionClusterer(2, model=model, init="k-means", n_init=1, random_state=0)


@pytest.mark.slow
@parametrize_with_checks(
    [table_clusterer(nn.Identity), table_clusterer(Fitting)],
    expected_failed_checks=lambda estimator: {
        "check_sample_weight_equivalence_on_dense_data": "starts from k-means"
    },
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_read_only_table_does_not_make_torch_warn(images):
    X = images.reshape(-1, 64) / 255
    X.flags.writeable = False
    torch.set_warn_always(True)  # not just at the first time
    try:
        make().fit(X)
    finally:
        torch.set_warn_always(False)


def test_attributes_and_methods_agree(four_digits):
    X, y = four_digits
    clusterer = make(max_iter=60).fit(X)
    proba = clusterer.predict_proba(X)
    assert proba.shape == (240, 4)
    assert proba.dtype == np.float32
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert_array_equal(clusterer.labels_, clusterer.predict(X))
    assert_array_equal(clusterer.labels_, proba.argmax(axis=1))
    assert_array_equal(clusterer.probabilities_, proba.max(axis=1))
    assert_array_equal(clusterer.transform(X), proba)
    assert_allclose(np.exp(clusterer.predict_log_proba(X)), proba, rtol=1e-5)
    assert 0 < clusterer.score(X) <= np.log(4) + 1e-6
    assert clusterer.n_iter_ == len(clusterer.loss_curve_)
    assert clusterer.n_iter_ < 60
    assert clusterer.converged_
    assert np.isfinite(clusterer.loss_)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.5
    names = clusterer.get_feature_names_out()
    assert list(names) == [f"collisionclusterer{k}" for k in range(4)]
    assert not hasattr(clusterer, "coef_")


def test_share_curve(images):
    clusterer = make().fit(images)
    assert clusterer.share_curve_.shape == (3, 4)
    assert_allclose(clusterer.share_curve_.sum(axis=1), 1)
    assert (clusterer.share_curve_ >= 0).all()


def test_predictions_of_an_image_do_not_depend_on_the_others(images):
    clusterer = make(cnn(), max_iter=10).fit(images[:200])
    expected = clusterer.predict_proba(images)
    assert_allclose(clusterer.predict_proba(images[200:]), expected[200:], rtol=1e-5)
    assert_allclose(clusterer.predict_proba(images[7:8]), expected[7:8], rtol=1e-5)
    clusterer.model_.set_params(predict_batch_size=17)
    assert_allclose(clusterer.predict_proba(images), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X[..., None],
        lambda X: X[:, None],
        lambda X: X.astype(np.float32) / np.float32(255),
        lambda X: torch.from_numpy(X),
        lambda X: list(X),
        lambda X: [(image, 0) for image in torch.from_numpy(X)],
        lambda X: np.asfortranarray(X),
    ],
)
def test_form_of_the_images_does_not_matter(images, convert):
    expected = make(cnn()).fit(images)
    X = convert(images)
    if isinstance(X, list) and isinstance(X[0], tuple):
        X = torch.utils.data.TensorDataset(torch.from_numpy(images))
    clusterer = make(cnn())
    clusterer.set_params(model=expected.model).fit(X)
    assert_same_weights(clusterer, expected)
    assert_array_equal(clusterer.predict_proba(X), expected.predict_proba(images))


def test_clone_is_the_same_unfitted(images):
    clusterer = make().fit(images)
    copied = clone(clusterer)
    with pytest.raises(NotFittedError):
        copied.predict(images)
    assert copied.model is not clusterer.model
    assert_same_weights(copied.fit(images), clusterer)


@pytest.mark.slow
@pytest.mark.parametrize("network", [cnn, vgg4], ids=["cnn", "vgg4"])
def test_pickle_joblib_and_copies(images, shapes, tmp_path, network):
    if network is cnn:
        X, clusterer = images, make(cnn()).fit(images)
    else:
        X, clusterer = shapes, fit_vgg4(shapes)
    joblib.dump(clusterer, tmp_path / "clusterer")
    for other in (
        pickle.loads(pickle.dumps(clusterer)),
        joblib.load(tmp_path / "clusterer"),
        copy.deepcopy(clusterer),
        copy.copy(clusterer),
    ):
        assert_array_equal(other.predict_proba(X), clusterer.predict_proba(X))
        assert_array_equal(other.labels_, clusterer.labels_)
        assert_same_weights(other.fit(X), clusterer)
    unfitted = pickle.loads(pickle.dumps(clone(clusterer)))
    assert_same_weights(unfitted.fit(X), clusterer)


def test_parameters_of_the_model_are_set_and_searched(four_digits):
    X, y = four_digits
    clusterer = make(model__lr=0.5, model__optimizer="sgd")
    assert clusterer.get_params()["model__lr"] == clusterer.model.lr == 0.5
    search = GridSearchCV(
        make(max_iter=15),
        {"lam": [1e-3, 30.0], "model__lr": [1e-5, 1e-2]},
        scoring=clustering_accuracy,
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(X[..., None], y)
    assert search.best_params_ == {"lam": 30.0, "model__lr": 1e-2}
    assert search.best_score_ > 0.5
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert_array_equal(search.predict(X[..., None]), search.best_estimator_.labels_)


def test_networks_and_models_are_searched(four_digits):
    X, y = four_digits
    networks = [nn.Flatten(), mlp(), cnn]
    models = [make(network).model for network in networks]
    scores = []
    for grid in ({"model__network": networks}, {"model": models}):
        search = GridSearchCV(make(), grid, scoring=clustering_accuracy, cv=2)
        scores.append(search.fit(X, y).cv_results_["mean_test_score"])
    assert_array_equal(*scores)


def test_frame_with_names(images):
    frame = make().set_output(transform="pandas").fit_transform(images)
    assert list(frame.columns) == [f"collisionclusterer{k}" for k in range(4)]
    assert_allclose(frame.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("n_samples", "n_clusters"), [(1, 1), (2, 1), (4, 4), (5, 2)])
def test_few_images(images, n_samples, n_clusters):
    clusterer = make(n_clusters=n_clusters).fit(images[:n_samples])
    assert clusterer.predict_proba(images).shape == (240, n_clusters)
    assert np.isfinite(clusterer.predict_proba(images)).all()


def test_network_that_learns_its_input_size(images):
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU())
    assert make(network).fit(images).model_.network_[1].weight.shape == (16, 64)


# --- Random numbers ---------------------------------------------------------


@pytest.mark.parametrize(
    "parameters", [{}, {"n_init": 2}, {"model__augment": "digits"}]
)
def test_same_seed_same_bits(images, parameters):
    network = mlp(nn.Dropout(0.3))
    first, second = (make(network, **parameters).fit(images) for _ in range(2))
    assert_same_weights(first, second)
    assert_array_equal(first.labels_, second.labels_)
    assert first.loss_curve_ == second.loss_curve_
    other = make(network, random_state=1, **parameters).fit(images)
    assert differ(first, other)
    assert first.loss_curve_ != other.loss_curve_


def test_weights_of_a_fresh_network_follow_the_seed_of_the_fit(shapes):
    torch.manual_seed(1)
    first = fit_vgg4(shapes)
    torch.manual_seed(2)
    second = fit_vgg4(shapes)
    assert_same_weights(first, second)
    assert differ(first, fit_vgg4(shapes, random_state=1))


def test_factory(images):
    torch.manual_seed(1)
    first = make(cnn).fit(images)
    torch.manual_seed(2)
    second = make(cnn).fit(images)
    assert_same_weights(first, second)
    assert differ(first, make(cnn, random_state=1).fit(images))
    assert adjusted_rand_score(first.labels_, second.predict(images)) == 1


def test_starts_of_a_factory_differ(images, monkeypatch):
    weights = []
    initialize = DeepSoftmax.initialize

    def spy(model, *args, **kwargs):
        initialize(model, *args, **kwargs)
        weights.append(model.network_[0].weight.detach().clone())

    monkeypatch.setattr(DeepSoftmax, "initialize", spy)
    make(cnn, n_init=3).fit(images)
    assert len(weights) == 3
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize("build", [mlp, lambda: vgg4(1, 28, width=0.05)])
def test_loaded_weights_are_where_training_starts(images, shapes, build):
    torch.manual_seed(3)
    pretrained = build().state_dict()
    network = build()
    network.load_state_dict(pretrained)
    X = images if "1.weight" in pretrained and len(pretrained) == 2 else shapes
    clusterer = no_label_step(network=network, n_clusters=2).fit(X)
    for name, value in clusterer.model_.network_.named_parameters():
        assert torch.equal(value, pretrained[name]), name
    trained = clone(clusterer).set_params(model__lr=1e-4).fit(X)
    for name, value in trained.model_.network_.named_parameters():
        assert_allclose(value.detach(), pretrained[name], atol=1e-2, err_msg=name)
        assert not torch.equal(value, pretrained[name]), name


@pytest.mark.parametrize("change", ["append", "replace", "freeze"])
def test_changes_of_a_fresh_network_are_kept(shapes, change):
    network = vgg4(1, 28, width=0.05)
    if change == "append":
        network.append(nn.Dropout(0.5))
    elif change == "replace":
        network[2] = nn.AvgPool2d(2)
    else:
        network[0].requires_grad_(False)
    trained = fit_vgg4(shapes, network=network).model_.network_
    assert str(trained) == str(network)
    for own, theirs in zip(trained.parameters(), network.parameters(), strict=True):
        assert own.requires_grad == theirs.requires_grad


@pytest.mark.parametrize("kind", ["mlp", "cnn", "vgg4"])
def test_the_network_given_is_not_touched(images, shapes, kind):
    network = {"mlp": mlp, "cnn": cnn, "vgg4": lambda: vgg4(1, 28, width=0.05)}[kind]()
    network.eval()
    before = numbers(network)
    if kind == "vgg4":
        clusterer = fit_vgg4(shapes, network=network)
    else:
        clusterer = make(network).fit(images)
    assert clusterer.model.network is network
    assert clusterer.model_.network_ is not network
    assert all(map(torch.equal, before, numbers(network)))
    assert not network.training
    assert all(weight.grad is None for weight in network.parameters())
    assert not hasattr(clusterer.model, "_module")


def test_global_generators_and_settings_are_untouched(images):
    def states():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            np.random.get_state()[2],  # noqa: NPY002
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.backends.cudnn.deterministic,
        )

    torch.manual_seed(5)
    before = states()
    network = cnn().append(nn.Dropout(0.5))
    before = states()
    clusterer = make(network, model__augment="digits", n_init=2).fit(images)
    clusterer.predict_proba(images)
    clusterer.score(images)
    pickle.loads(pickle.dumps(clusterer))
    assert states() == before
    make(cnn).fit(images)
    assert states() == before


# --- The optimizer ----------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimizers_and_schedules_lower_the_loss(images, optimizer, schedule):
    lr = 0.1 if optimizer == "sgd" else 1e-2
    clusterer = make(
        max_iter=25,
        tol=0,
        model__lr=lr,
        model__optimizer=optimizer,
        model__schedule=schedule,
    ).fit(images)
    assert clusterer.loss_ < clusterer.loss_curve_[-1] * 1.05
    assert clusterer.loss_curve_[-1] < 0.95 * clusterer.loss_curve_[0]


@pytest.mark.parametrize(("lr", "head_lr"), [(0.0, 1e-2), (1e-2, 0.0), (0.0, 0.0)])
def test_network_and_head_have_learning_rates_of_their_own(images, lr, head_lr):
    network = mlp()
    start = no_label_step(network=network).fit(images)
    clusterer = make(network, model__lr=lr, model__head_lr=head_lr).fit(images)
    before, after = weights_of(start), weights_of(clusterer)
    for name in before:
        rate = head_lr if name.startswith("head") else lr
        assert (before[name] != after[name]).any() == (rate > 0), name
    both = make(network, model__lr=0.02, model__head_lr=0.02).fit(images)
    assert_same_weights(both, make(network, model__lr=0.02).fit(images))


def test_cosine_decays_and_constant_does_not(images, monkeypatch):
    rates = []
    train_step = DeepSoftmax.train_step

    def spy(model, *args, **kwargs):
        loss = train_step(model, *args, **kwargs)
        rates.append([group["lr"] for group in model._optimizer.param_groups])
        return loss

    monkeypatch.setattr(DeepSoftmax, "train_step", spy)
    make(max_iter=4, tol=0, model__head_lr=0.5).fit(images)
    rates = np.array(rates)
    steps = np.arange(16) / 16
    assert_allclose(rates[:, 0], 1e-2 * (1 + np.cos(np.pi * steps)) / 2)
    assert_allclose(rates[:, 1], 50 * rates[:, 0])


def test_weight_decay_shrinks_the_weights(images):
    network = mlp()
    free, held = (
        make(network, max_iter=10, model__weight_decay=decay, tol=0).fit(images)
        for decay in (0.0, 0.01)
    )
    size = [
        sum(np.square(value).sum() for value in weights_of(fitted).values())
        for fitted in (free, held)
    ]
    assert size[1] < size[0]


def test_frozen_weights_stay(images):
    network = mlp()
    network[1].weight.requires_grad_(False)
    clusterer = make(network, model__weight_decay=0.1).fit(images)
    before, after = network.state_dict(), clusterer.model_.network_.state_dict()
    assert torch.equal(before["1.weight"], after["1.weight"])
    assert not torch.equal(before["1.bias"], after["1.bias"])


# --- The loss and its gradient ----------------------------------------------


def darken(images):
    return 0.5 * images


def noisy(images):
    return images + 0.1 * torch.randn_like(images)


def start(model, X, random_state):
    model.initialize(X, 4, labels=None, sample_weight=None, random_state=random_state)
    return model


@pytest.mark.parametrize("network", [mlp, cnn])
@pytest.mark.parametrize(
    ("augment", "n_views", "weight"),
    [(None, 1, 1.0), (darken, 1, 1.0), (darken, 3, 0.4), (darken, 2, 0.0)],
)
def test_gradient_is_that_of_the_paper(images, rng, network, augment, n_views, weight):
    """Of eq. (9), with pseudo-labels held fixed, by torch's autograd."""
    batch = torch.from_numpy(images[:50, None])
    labels = rng.dirichlet(np.ones(4), size=50).astype(np.float32)
    model = DeepSoftmax(network(), augment=augment, n_views=n_views)
    start(model, batch, np.random.RandomState(0))
    reference = copy.deepcopy(model._module).train()

    def objective(logits):
        weights = view_weights(logits, Batch(np.arange(50)), weight)
        loss, gradient = collision_loss_and_gradient(logits, labels)
        return np.vdot(weights, loss), weights[..., None] * gradient

    value = model.train_step(batch, objective, progress=0.0)

    views = [batch / 255]
    if augment is not None:
        views += [darken(batch / 255)] * n_views
    logits = reference(torch.cat(views)).view(len(views), 50, 4)
    collision = torch.softmax(logits, dim=-1) * torch.from_numpy(labels)
    losses = -torch.log(collision.sum(dim=-1))
    total = losses[0].mean()
    if augment is not None:
        total = total + weight * losses[1:].mean()
    total.backward()
    assert_allclose(value, total.detach(), rtol=1e-5)
    for own, theirs in zip(
        model._module.parameters(), reference.parameters(), strict=True
    ):
        assert_allclose(own.grad, theirs.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("augment", [None, darken])
def test_paper_to_the_letter(images, augment):
    """Two epochs equal Algorithm 2, written down plainly."""
    network = mlp()
    options = {"lr": 0.05, "optimizer": "sgd", "schedule": "constant"}
    options["weight_decay"] = 0.0
    model = DeepSoftmax(network, augment=augment, **options)
    clusterer = make(lam=2.0, view_weight=0.5, max_iter=2, tol=0)
    clusterer.set_params(model=model).fit(images)

    random_state = np.random.RandomState(0)
    module = start(
        clone(model), torch.from_numpy(images[:, None]), random_state
    )._module
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for rows in np.array_split(random_state.permutation(240), 4):
            batch = torch.from_numpy(images[rows]) / 255
            proba = torch.softmax(module(batch), dim=1)
            labels = solve_pseudo_labels(
                proba.detach().numpy(),
                lam=2.0,
                solver="em",
                accelerate=False,
                max_iter=20,
                tol=0,
            ).pseudo_labels
            labels = torch.from_numpy(labels)
            loss = -torch.log((proba * labels).sum(dim=1)).mean()
            if augment is not None:
                view = torch.softmax(module(darken(batch)), dim=1)
                loss = loss - 0.5 * torch.log((view * labels).sum(dim=1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    expected = torch.softmax(module(torch.from_numpy(images) / 255), dim=1)
    assert_allclose(clusterer.predict_proba(images), expected.detach(), atol=1e-4)


def test_views_of_no_weight_change_nothing(images):
    network = mlp()
    plain = make(network).fit(images)
    for n_views in (1, 3):
        parameters = {"model__augment": noisy, "view_weight": 0.0}
        clusterer = make(network, model__n_views=n_views, **parameters).fit(images)
        assert_allclose(
            clusterer.predict_proba(images), plain.predict_proba(images), atol=1e-4
        )


def test_views_that_equal_the_image_weigh_as_it_does(images):
    """With SGD: twice the gradient is twice the learning rate."""
    network = mlp()
    options = {"model__optimizer": "sgd", "model__schedule": "constant"}
    clusterer = make(
        network, model__augment=torch.clone, model__n_views=2, **options
    ).fit(images)
    double = make(network, model__lr=2e-2, **options).fit(images)
    assert_allclose(
        clusterer.predict_proba(images), double.predict_proba(images), atol=1e-4
    )


def test_views_are_drawn_anew_in_every_step_and_differ(images):
    seen = []

    def augment(batch):
        seen.append(torch.rand(1).item())
        return batch

    make(model__augment=augment, model__n_views=2).fit(images)
    assert len(seen) == 2 * 4 * 3
    assert len(set(seen)) == len(seen)


def test_large_lam_gives_the_prior(four_digits):
    X, y = four_digits
    prior = [0.4, 0.3, 0.2, 0.1]
    clusterer = make(prior=prior, max_iter=40, lam=100.0, init=y)
    clusterer.set_params(batch_size=120).fit(X)
    share = clusterer.predict_proba(X).mean(axis=0)
    assert_allclose(share, prior, atol=0.07)


# --- How it is computed -----------------------------------------------------


def test_layout_of_the_channels_does_not_matter(images):
    network = cnn()
    first, last = (
        make(network, max_iter=1, model__channels_last=channels_last).fit(images)
        for channels_last in (False, True)
    )
    assert_allclose(first.predict_proba(images), last.predict_proba(images), atol=2e-2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_is_the_same(images):
    network = cnn()
    plain = make(network).fit(images)
    compiled = make(network, model__compile="eager").fit(images)
    assert_allclose(
        compiled.predict_proba(images), plain.predict_proba(images), atol=1e-4
    )
    loaded = pickle.loads(pickle.dumps(compiled))
    assert_allclose(
        loaded.predict_proba(images), compiled.predict_proba(images), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_only_once_for_each_mode_and_size(images):
    compiled = []

    def backend(module, example):
        compiled.append(module)
        return module.forward

    torch._dynamo.reset()
    torch._dynamo.register_backend(backend, name="counting")
    make(cnn(), model__compile="counting", batch_size=12).fit(images)
    assert 1 <= len(compiled) <= 4


def test_half_precision_is_nearly_the_same(images):
    network = cnn()
    full, half = (
        make(network, model__mixed_precision=mixed).fit(images)
        for mixed in (False, True)
    )
    assert half.predict_proba(images).dtype == np.float32
    assert np.isfinite(half.loss_)
    assert_allclose(half.predict_proba(images), full.predict_proba(images), atol=0.2)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_normalize_is_that_by_hand(images, n_channels):
    X = np.repeat(images[..., None], n_channels, axis=-1)
    X = X // np.arange(1, n_channels + 1, dtype=np.uint8)
    mean, std = np.array([0.3, 0.2, 0.1]), np.array([0.5, 0.4, 0.3])
    mean, std = mean[:n_channels], std[:n_channels]
    by_hand = ((X / 255 - mean) / std).astype(np.float32)
    network = mlp(n_in=64 * n_channels)
    expected = make(network).fit(by_hand)
    clusterer = make(network, model__normalize=(mean.tolist(), std.tolist())).fit(X)
    assert_allclose(
        clusterer.predict_proba(X), expected.predict_proba(by_hand), atol=1e-4
    )
    floats = (X / 255).astype(np.float32)
    assert_allclose(
        clusterer.predict_proba(floats), clusterer.predict_proba(X), atol=1e-5
    )


def test_init_labels_are_predicted_at_the_start(four_digits):
    X, y = four_digits
    clusterer = no_label_step(network=mlp(), init=y).fit(X)
    assert clustering_accuracy(clusterer, X, y) > 0.8
    # Cluster k is the one of label k.
    assert np.mean(clusterer.labels_ == y) > 0.8
    trained = make(mlp(), init=y, max_iter=20).fit(X)
    assert np.mean(trained.labels_ == y) > 0.8


class Spy:
    """A data set that notes how many images were asked for at a time."""

    def __init__(self, images):
        self.images, self.sizes = images, []
        self.dtype, self.shape, self.ndim = images.dtype, images.shape, images.ndim

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        batch = self.images[rows]
        self.sizes.append(len(batch))
        return batch


def test_images_are_read_batch_by_batch(images):
    spy = Spy(images)
    clusterer = make(batch_size=40, model__predict_batch_size=30).fit(spy)
    assert max(spy.sizes) == 40
    # Once an epoch, and once before and after.
    assert 5 * len(images) <= sum(spy.sizes) <= 5 * len(images) + 100
    spy.sizes.clear()
    clusterer.predict(spy)
    assert max(spy.sizes) == 30
    assert sum(spy.sizes) == len(images) + 1  # the first one tells the shape
    assert_same_weights(
        clusterer, make(batch_size=40).set_params(model=clusterer.model).fit(images)
    )


def test_images_stay_bytes_until_the_network(images, monkeypatch, tmp_path):
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    seen = []
    scale = DeepSoftmax._scale

    def spy(model, X, device):
        seen.append((X.dtype, len(X)))
        return scale(model, X, device)

    monkeypatch.setattr(DeepSoftmax, "_scale", spy)
    make(model__predict_batch_size=50).fit(mapped)
    assert {dtype for dtype, _ in seen} == {torch.uint8}
    assert max(n for _, n in seen) <= 60


# --- Tables -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_neighbors", [0, 5])
def test_tables(dtype, n_neighbors):
    X, y = make_blobs(240, n_features=5, centers=4, random_state=0)
    X = (X / 10).astype(dtype)
    parameters = {"n_neighbors": n_neighbors, "init": "k-means", "max_iter": 20}
    clusterer = make(mlp(n_in=5), **parameters).fit(X)
    proba = clusterer.predict_proba(X)
    assert proba.dtype == dtype
    assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert_array_equal(clusterer.labels_, clusterer.predict(X))
    assert clusterer.n_features_in_ == 5
    assert adjusted_rand_score(y, clusterer.labels_) > 0.7


def test_starts_of_kmeans_on_tables():
    X, y = make_blobs(240, n_features=5, centers=4, random_state=0)
    clusterer = no_label_step(network=mlp(n_in=5), init="k-means").fit(X / 10)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.7


# --- Errors -----------------------------------------------------------------


class Pair(nn.Module):
    def forward(self, batch):
        return batch, batch


class Empty:
    pass


COLOR = np.zeros((20, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("network", "X", "parameters", "error", "message"),
    [
        (nn.Identity(), None, {}, ValueError, r"shape \(2, d\).*Flatten"),
        (nn.Flatten(0), None, {}, ValueError, r"shape \(2, d\)"),
        (Pair(), None, {}, ValueError, r"shape \(2, d\)"),
        (mlp(n_in=63), None, {}, ValueError, r"cannot take samples of shape"),
        (vgg4(1, 28, width=0.05), None, {}, ValueError, "28 x 28 pixels, got 8 x 8"),
        (cnn(), COLOR, {}, ValueError, "the network takes, 1, first"),
        (vgg4(4, 28, width=0.05), None, {}, ValueError, "the network takes, 4, first"),
        (mlp(), np.zeros((20, 8, 8, 7)), {}, ValueError, r"samples of shape \(7, 8, 8"),
        (mlp(), np.zeros((20, 8, 8), dtype=int), {}, ValueError, "not of int64"),
        (mlp(), np.full((20, 8, 8), np.nan), {}, ValueError, "row 0: .*NaN or inf"),
        (mlp(), np.zeros((0, 8, 8)), {}, ValueError, "0 samples"),
        (mlp(), np.zeros((3, 8, 8)), {}, ValueError, "larger than n_samples=3"),
        (lambda: None, None, {}, TypeError, "returned NoneType"),
        (Empty, None, {}, TypeError, "returned Empty"),
        (mlp(), None, {"model__device": "abacus"}, ValueError, "device='abacus'"),
        (mlp(), None, {"model__augment": "letters"}, ValueError, "augment='letters'"),
        (
            mlp(),
            None,
            {"model__augment": lambda x: x[..., 1:]},
            ValueError,
            r"augment=.* must keep the shape \(60, 1, 8, 8\)",
        ),
        (mlp(), None, {"model__lr": -1}, ValueError, "lr"),
        (mlp(), None, {"model__head_lr": -1}, ValueError, "head_lr"),
        (mlp(), None, {"model__n_views": 0}, ValueError, "n_views"),
        (mlp(), None, {"view_weight": -1}, ValueError, "view_weight"),
        (mlp(), None, {"model__optimizer": "lbfgs"}, ValueError, "optimizer"),
        (mlp(), None, {"model__schedule": "step"}, ValueError, "schedule"),
        (mlp(), None, {"model__predict_batch_size": 0}, ValueError, "predict_batch"),
        (mlp(), None, {"model__network": "vgg4"}, ValueError, "network"),
        (mlp(), None, {"n_neighbors": 5}, ValueError, "n_neighbors=5 needs rows"),
        (mlp(), None, {"init": "k-means"}, ValueError, "init='k-means' needs rows"),
        (mlp(), None, {"init": np.full(240, 4)}, ValueError, "from 0 to 3"),
        (mlp(), None, {"init": np.ones((4, 64))}, ValueError, "init must hold"),
    ],
)
def test_bad_input_is_named(images, network, X, parameters, error, message):
    clusterer = make(network, **parameters)
    with pytest.raises(error, match=message):
        clusterer.fit(images if X is None else X)
    assert not hasattr(clusterer, "model_")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_device_that_is_not_there(images):
    with pytest.raises(ValueError, match="device='cuda' cannot be used"):
        make(model__device="cuda").fit(images)


@pytest.mark.parametrize(
    ("normalize", "table"),
    [
        ((0.5, 0.5), False),
        (([0.5] * 3, [0.5] * 3), False),
        (([0.5],), False),
        (([0.5], [0.5]), True),
    ],
)
def test_bad_normalize_is_named(images, normalize, table):
    clusterer = make(model__normalize=normalize)
    with pytest.raises(ValueError, match="normalize"):
        clusterer.fit(images.reshape(-1, 64) / 255 if table else images)


def test_normalize_by_zero_is_named(images):
    with pytest.raises(ValueError, match="normalize"):
        make(model__normalize=([0.5], [0.0])).fit(images)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((5, 9, 8), dtype=np.uint8), r"do not fit.* \(1, 8, 8\)"),
        (np.zeros((5, 8, 8, 3), dtype=np.uint8), "as many channels as .*, 1, first"),
        (np.zeros((5, 64)), r"do not fit.* \(1, 8, 8\)"),
    ],
)
def test_images_of_another_size_at_predict(images, other, message):
    clusterer = make().fit(images)
    with pytest.raises(ValueError, match=message):
        clusterer.predict(other)


def test_a_lazy_convolution_takes_any_channels(images):
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten())
    clusterer = make(network, max_iter=1).fit(images)
    assert_array_equal(clusterer.predict(images), clusterer.labels_)


def test_images_after_a_table_leave_no_features(images):
    clusterer = make().fit(images.reshape(-1, 64).astype(float))
    assert clusterer.n_features_in_ == 64
    assert not hasattr(clusterer.fit(images), "n_features_in_")


def test_a_network_by_a_function_predicts_what_it_was_trained_on():
    color = np.random.default_rng(0).integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
    clusterer = make(lambda: mlp(n_in=3 * 64), batch_size=20, max_iter=1).fit(color)
    grey = np.repeat(color[..., :1], 3, axis=3)
    assert_array_equal(clusterer.predict(grey[..., 0]), clusterer.predict(grey))


# --- Things that go wrong ---------------------------------------------------


class CountingNetwork(nn.Sequential):
    """Something happens at a given training step."""

    def __init__(self, at_step, happen):
        super().__init__(*mlp())
        self.at_step, self.happen = at_step, happen
        self.n_steps = 0

    def forward(self, batch):
        features = super().forward(batch)
        if self.training:
            self.n_steps += 1
            if self.n_steps == self.at_step:
                return self.happen(features)
        return features


def emit_nan(features):
    return features * torch.nan


def interrupt(features):
    raise KeyboardInterrupt


@pytest.mark.parametrize("at_step", [9, 11])
def test_nan_names_the_epoch_and_goes_back(images, at_step):
    network = CountingNetwork(at_step, emit_nan)
    clusterer = make(network, max_iter=20, tol=0)
    with pytest.raises(ValueError, match=r"epoch 3.*learning rate.*weights of epoch 2"):
        clusterer.fit(images)
    assert clusterer.n_iter_ == len(clusterer.loss_curve_) == 2
    assert clusterer.share_curve_.shape == (2, 4)
    assert not clusterer.converged_
    assert all(np.isfinite(value).all() for value in weights_of(clusterer).values())
    assert np.isfinite(clusterer.predict_proba(images)).all()
    assert_array_equal(clusterer.predict(images), clusterer.labels_)
    with pytest.raises(ValueError, match="epoch 3"):
        CollisionClusterer().set_params(
            **clone(clusterer, safe=False).get_params(deep=False)
        ).fit(images)


def test_nan_goes_back_to_what_a_shorter_fit_has(images):
    options = {"max_iter": 20, "tol": 0, "model__schedule": "constant"}
    network = CountingNetwork(10, emit_nan)
    broken = make(network, **options)
    with pytest.raises(ValueError, match="epoch 3"):
        broken.fit(images)
    whole = CountingNetwork(-1, emit_nan)
    whole.load_state_dict(network.state_dict())
    assert_same_weights(
        broken,
        make(
            whole,
            **options,
        )
        .set_params(max_iter=2)
        .fit(images),
    )


def test_nan_in_the_first_epoch(images):
    clusterer = make(CountingNetwork(2, emit_nan))
    with pytest.raises(ValueError, match="in epoch 1"):
        clusterer.fit(images)
    with pytest.raises(NotFittedError):
        clusterer.predict(images)


def test_huge_learning_rate_is_an_error(images):
    clusterer = make(model__lr=1e38, model__optimizer="sgd")
    with pytest.raises(ValueError, match="smaller learning rate"):
        clusterer.fit(images)


@pytest.mark.parametrize("max_iter", [1, 5])
def test_nan_after_the_last_step_of_an_epoch(images, max_iter):
    """One batch an epoch: the first step spoils the weights, no logits show it."""
    clusterer = make(
        batch_size=240, max_iter=max_iter, model__lr=1e30, model__optimizer="sgd"
    )
    with pytest.raises(ValueError, match="smaller learning rate"):
        clusterer.fit(images)
    assert (
        not hasattr(clusterer, "model_")
        or np.isfinite(clusterer.predict_proba(images)).all()
    )


@pytest.mark.parametrize(("at_step", "n_iter"), [(2, 0), (6, 1), (9, 2)])
def test_interrupt_leaves_a_fitted_estimator(images, at_step, n_iter):
    clusterer = make(CountingNetwork(at_step, interrupt), max_iter=20, tol=0)
    with pytest.warns(UserWarning, match=f"interrupted after {n_iter} epochs"):
        clusterer.fit(images)
    assert clusterer.n_iter_ == len(clusterer.loss_curve_) == n_iter
    assert not clusterer.converged_
    assert_array_equal(clusterer.predict(images), clusterer.labels_)
    assert np.isfinite(clusterer.loss_)


def collapse_warnings(curve, n_wanted):
    """Return in which epochs a collapse is warned of."""
    epochs = []
    for n in range(1, len(curve) + 1):
        state = TrainingState(
            np.ones((1, n_wanted)),
            loss_curve=[0.0] * n,
            share_curve=[np.asarray(shares) for shares in curve[:n]],
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_collapse(state, n_wanted, make())
        if caught:
            assert "collapsed" in str(caught[0].message)
            assert f"after {n} epochs" in str(caught[0].message)
            epochs.append(n)
    return epochs


FULL, HALF, ONE = [0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]


@pytest.mark.parametrize(
    ("curve", "epochs"),
    [
        ([FULL] * 9, []),
        ([HALF] * 9, []),
        ([ONE] * 9, [3]),
        ([FULL, ONE, ONE, ONE, ONE], [4]),
        ([ONE, ONE, FULL, ONE, ONE], []),
        ([ONE] * 4 + [FULL] + [ONE] * 4, [3, 8]),
    ],
)
def test_warns_of_a_collapse_once(curve, epochs):
    assert collapse_warnings(curve, 4) == epochs
    assert collapse_warnings([ONE] * 5, 2) == []


def test_collapse_says_what_to_change(images):
    with pytest.warns(ConvergenceWarning, match="larger lam, a smaller weight_decay"):
        clusterer = make(lam=1e-6, max_iter=15, tol=0, model__lr=0.1).fit(images)
    n_used = np.count_nonzero(clusterer.share_curve_[-1])
    assert n_used < 2


def test_verbose_shows_the_epochs(images, capsys):
    make(verbose=2).fit(images)
    output = capsys.readouterr()
    assert output.out.count("epoch") == 3
    assert "of 4 clusters used, balance" in output.out


@pytest.mark.parametrize(
    "augment",
    [
        v2.RandomCrop(8, padding=1),
        v2.RandomErasing(),
        v2.Compose([v2.RandomRotation(10)]),
    ],
    ids=lambda augment: type(augment).__name__,
)
def test_transforms_of_torchvision_are_parameters(images, augment):
    """Some have a get_params, which is not that of scikit-learn."""
    network = mlp()
    clusterer = clone(make(network, model__augment=augment)).fit(images)
    assert set(clusterer.get_params()) > {"model__augment", "model__lr"}
    assert repr(clusterer.model.augment) == repr(augment)
    twin = make(network, model__augment=augment).fit(images)
    assert_same_weights(clusterer, twin)


def test_interrupt_in_a_later_start_leaves_the_better_one(images):
    steps = 0

    def stop_in_the_third_start(batch):
        nonlocal steps
        steps += 1
        if steps > 2 * 3 * 4 + 2:  # 3 epochs of 4 batches each
            raise KeyboardInterrupt
        return batch

    clusterer = make(n_init=4, model__augment=stop_in_the_third_start)
    with pytest.warns(UserWarning, match="interrupted after 3 epochs"):
        clusterer.fit(images)
    assert len(clusterer.loss_curve_) == len(clusterer.share_curve_) == 3


def test_one_start_that_diverges_does_not_stop_the_others(images):
    factors = itertools.chain([torch.nan], itertools.repeat(1))

    def spoil_the_first(batch):
        return batch * next(factors)

    clusterer = make(n_init=2)
    clusterer.model.augment = spoil_the_first
    assert np.isfinite(clusterer.fit(images).loss_)
    with pytest.raises(ValueError, match="NaN in epoch 1"):
        make(n_init=2, model__augment=lambda batch: batch * torch.nan).fit(images)


def test_images_without_a_network_are_told_what_they_need(images):
    with pytest.raises(ValueError, match=r"skcce\.deep\.DeepSoftmax"):
        CollisionClusterer(2).fit(images)


def test_pickle_of_a_device_that_is_not_there(images, monkeypatch):
    clusterer = make().fit(images)
    clusterer.model_.device = "cuda"
    pickled = pickle.dumps(clusterer)
    if torch.cuda.is_available():
        pytest.skip("the device is there")
    with pytest.warns(UserWarning, match="The CPU is used"):
        loaded = pickle.loads(pickled)
    assert_array_equal(loaded.predict(images), clusterer.labels_)


def test_first_statistics_of_batch_norms_are_means(images):
    """After one batch, predictions in evaluation mode are those of the training."""
    network = cnn()
    clusterer = make(network, model__lr=0.0, max_iter=1, batch_size=len(images))
    clusterer.fit(images)
    norm = clusterer.model_.network_[1]
    batch = torch.from_numpy(images)[:, None] / 255
    seen = network[0](batch)
    assert_allclose(norm.running_mean, seen.mean(dim=(0, 2, 3)).detach(), atol=1e-5)
    assert norm.momentum == 0.1
