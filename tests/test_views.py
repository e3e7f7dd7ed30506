"""Second views of the samples: neighbors, and adversarial rows."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import approx_fprime
from scipy.special import rel_entr, softmax
from sklearn.metrics import adjusted_rand_score
from torch import nn

from skcce import LinearSoftmax, SoftmaxModel
from skcce._data import TrainingData
from skcce._neighbors import find_neighbors
from skcce._training import begin, epochs, evaluate, train
from skcce._views import adversarial_rows, logits_of_views, mean_distance, read
from skcce.deep import DeepSoftmax
from skcce.methods import IMSATClusterer, InvariantInformation, SelfAugmentation


def linear(X, n_clusters=4):
    model = LinearSoftmax()
    random_state = np.random.RandomState(0)
    model.initialize(
        X, n_clusters, labels=None, sample_weight=None, random_state=random_state
    )
    return model


def joined(X):
    """Return a model of 3 clusters, joined from 7 units."""
    return linear(X, 7).joined(np.array([0, 1, 0, 2, 1, 0, 0]))


def network():
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout())


def deep(X, n_clusters=4):
    model = DeepSoftmax(network, n_threads=1)
    model.initialize(
        X,
        n_clusters,
        labels=None,
        sample_weight=None,
        random_state=np.random.RandomState(0),
    )
    return model


@pytest.fixture
def rows(rng):
    return rng.normal(size=(60, 5)) * [1, 2, 3, 4, 5] + 1


# --- The gradient with respect to the rows --------------------------------------


@pytest.mark.parametrize("make", [linear, joined])
def test_input_gradient_agrees_with_differences(rows, make):
    model = make(rows)
    toward = np.random.RandomState(1).normal(size=model.decision_function(rows).shape)
    gradient = model.input_gradient(rows, toward)
    for row, direction, own in list(zip(rows, toward, gradient, strict=True))[:10]:
        expected = approx_fprime(
            row, lambda x, d=direction: model.decision_function(x[np.newaxis])[0] @ d
        )
        assert_allclose(own, expected, rtol=1e-4, atol=1e-5)


def test_input_gradient_of_a_network_is_that_of_autograd(rows):
    model = deep(rows)
    toward = np.random.RandomState(1).normal(size=(60, 4))
    before = model.decision_function(rows)
    gradient = model.input_gradient(rows, toward)
    assert all(weight.grad is None for weight in model._module.parameters())
    batch = torch.from_numpy(rows).float().requires_grad_()
    model._module.eval()
    logits = model._module(batch)
    (logits * torch.from_numpy(toward).float()).sum().backward()
    assert_allclose(gradient, batch.grad, rtol=1e-4, atol=1e-6)
    # In one piece or several, and nothing of the model has changed.
    assert_allclose(model.input_gradient(rows[:7], toward[:7]), gradient[:7], rtol=1e-4)
    assert_array_equal(model.decision_function(rows), before)


def test_models_of_the_same_function_have_the_same_gradient(rows):
    one = linear(rows)
    other = DeepSoftmax(nn.Identity, n_threads=1)
    other.initialize(
        rows,
        4,
        labels=None,
        sample_weight=None,
        random_state=np.random.RandomState(0),
    )
    with torch.no_grad():
        other.head_.weight.copy_(torch.from_numpy(one.coef_))
        other.head_.bias.copy_(torch.from_numpy(one.intercept_))
    toward = np.random.RandomState(1).normal(size=(60, 4))
    assert_allclose(
        other.input_gradient(rows, toward),
        one.input_gradient(rows, toward),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("make", [linear, joined, deep])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_and_views_have_the_dtype_of_the_rows(rows, make, dtype):
    rows = rows.astype(dtype)
    model = make(rows)
    logits = model.decision_function(rows)
    assert model.input_gradient(rows, logits).dtype == dtype
    moved = adversarial_rows(model, rows, np.ones(60), np.random.RandomState(0))
    assert moved.dtype == dtype


def test_a_model_without_a_gradient_says_so(rows):
    with pytest.raises(NotImplementedError, match="SoftmaxModel has no input_gradient"):
        SoftmaxModel().input_gradient(rows, rows)


# --- Adversarial rows -------------------------------------------------------------


def divergence(model, X, moved):
    """KL from the predictions for the rows to those for others."""
    one, other = (softmax(model.decision_function(rows), axis=1) for rows in (X, moved))
    return rel_entr(one, other).sum(axis=1)


@pytest.mark.parametrize("make", [linear, joined, deep])
def test_adversarial_rows_are_at_their_distance_and_worse_than_random_ones(rows, make):
    model = make(rows)
    distance = np.random.RandomState(1).uniform(0.05, 0.5, size=60)
    moved = adversarial_rows(model, rows, distance, np.random.RandomState(0))
    assert_allclose(np.linalg.norm(moved - rows, axis=1), distance, rtol=1e-6)
    random_state = np.random.RandomState(2)
    values = []
    for _ in range(20):
        toward = random_state.normal(size=rows.shape)
        toward *= (distance / np.linalg.norm(toward, axis=1))[:, np.newaxis]
        values.append(divergence(model, rows, rows + toward))
    found = divergence(model, rows, moved)
    assert found.mean() > 1.5 * np.mean(values)
    assert np.mean(found > np.median(values, axis=0)) > 0.8


def test_with_two_clusters_the_direction_is_the_only_one(rows):
    """Logits differ along one direction; either way is as good, nearly."""
    model = linear(rows, 2)
    moved = adversarial_rows(model, rows, np.full(60, 0.1), np.random.RandomState(0))
    toward = (moved - rows) / 0.1
    across = model.coef_[0] - model.coef_[1]
    assert_allclose(np.abs(toward @ across), np.linalg.norm(across), rtol=1e-6)
    # Uphill from the random point, that is, to its side.
    drawn = np.random.RandomState(0).normal(size=rows.shape)
    assert_array_equal(np.sign(toward @ across), np.sign(drawn @ across))


def test_where_nothing_changes_a_row_moves_at_random(rows):
    model = linear(rows)
    model._weights[0][:] = 0
    moved = adversarial_rows(model, rows, np.full(60, 0.5), np.random.RandomState(0))
    assert_allclose(np.linalg.norm(moved - rows, axis=1), 0.5)
    assert len(np.unique(moved - rows, axis=0)) == 60
    # So does one whose prediction is certain, however far it goes.
    model._weights[1][:] = [1e4, 0, 0, 0]
    again = adversarial_rows(model, rows, np.full(60, 0.5), np.random.RandomState(0))
    assert_array_equal(again, moved)


@pytest.mark.parametrize("make", [linear, deep])
def test_degenerate_rows(rows, make):
    model = make(rows)
    random_state = np.random.RandomState(0)
    still = adversarial_rows(model, rows, np.zeros(60), random_state)
    assert_array_equal(still, rows)
    equal = np.repeat(rows[:1], 60, axis=0)
    moved = adversarial_rows(model, equal, np.full(60, 1e-30), random_state)
    assert np.isfinite(moved).all()
    tiny = adversarial_rows(model, rows, np.full(60, 1e-200), random_state)
    assert_array_equal(tiny, rows)
    far = adversarial_rows(model, rows, np.full(60, 1e6), random_state)
    assert_allclose(np.linalg.norm(far - rows, axis=1), 1e6, rtol=1e-6)


def test_gradients_that_underflow_have_a_direction(rows):
    model = linear(rows)
    model._weights[0] *= 1e-170
    moved = adversarial_rows(model, rows, np.ones(60), np.random.RandomState(0))
    assert_allclose(np.linalg.norm(moved - rows, axis=1), 1)


def test_same_seed_same_rows(rows):
    model = deep(rows)
    one, same, other = (
        adversarial_rows(model, rows, np.ones(60), np.random.RandomState(seed))
        for seed in (0, 0, 1)
    )
    assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


# --- Distances ---------------------------------------------------------------------


def loop(X, graph):
    means = []
    for i, row in enumerate(X):
        others = graph.indices[graph.indptr[i] : graph.indptr[i + 1]]
        assert i in others
        lengths = [np.sqrt(((X[j] - row) ** 2).sum()) for j in others if j != i]
        means.append(np.mean(lengths))
    return means


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_neighbors", [1, 4])
def test_mean_distance_is_that_of_a_loop(rows, n_neighbors, weighted, monkeypatch):
    weight = np.random.RandomState(0).uniform(0.5, 2, 60) if weighted else None
    graph = find_neighbors(TrainingData(rows, weight), n_neighbors, None).walk
    expected = loop(rows, graph)
    assert_allclose(mean_distance(rows, graph), expected)
    # Block by block, too.
    monkeypatch.setattr("skcce._views.BLOCK", 7)
    assert_allclose(mean_distance(rows, graph), expected)


def test_copies_are_no_distance_apart():
    X = np.repeat([[1.0, 2.0], [5.0, 6.0]], 10, axis=0)
    graph = find_neighbors(TrainingData(X), 4, None).walk
    assert_array_equal(mean_distance(X, graph), 0)


@pytest.mark.parametrize("features", [None, "spectral"])
def test_a_fit_takes_distances_from_its_own_features(rows, features, monkeypatch):
    met = {}

    def spy(model, X, distance, random_state):
        met.update(zip(map(bytes, X), distance, strict=True))
        return X

    monkeypatch.setattr("skcce._views.adversarial_rows", spy)
    clusterer = IMSATClusterer(
        2, features=features, n_neighbors=4, n_init=1, max_iter=1, random_state=0
    )
    clusterer.set_params(view_distance=0.5, init="random", tol=1).fit(rows)
    graph = find_neighbors(TrainingData(rows), 4, None).walk
    X = rows if features is None else clusterer.features_.transform(rows)
    expected = dict(zip(map(bytes, X), 0.5 * mean_distance(X, graph), strict=True))
    assert met.keys() == expected.keys()
    assert_allclose([met[row] for row in expected], [*expected.values()])


# --- What a batch brings --------------------------------------------------------------


def training_data(rows, view_source):
    graph = find_neighbors(TrainingData(rows), 5, None).walk
    reach = mean_distance(rows, graph)
    return TrainingData(rows, graph=graph, view_source=view_source, reach=reach)


@pytest.mark.parametrize("make", [linear, deep])
def test_a_batch_brings_adversarial_rows(rows, make):
    data = training_data(rows, "adversarial")
    model, objective = make(rows), SelfAugmentation(view_distance=0.1)
    numbers = np.array([3, 50, 7])
    both = read(model, data, objective, numbers, np.random.RandomState(0))
    assert_array_equal(both[:3], rows[numbers])
    moved = np.linalg.norm(both[3:] - both[:3], axis=1)
    assert_allclose(moved, 0.1 * data.reach[numbers], rtol=1e-6)


def test_a_batch_brings_nothing_that_nobody_asked_for(rows):
    data = training_data(rows, None)
    numbers = np.array([3, 50, 7])
    model, objective = linear(rows), SelfAugmentation()
    assert_array_equal(read(model, data, objective, numbers, None), rows[numbers])
    assert logits_of_views(model, data, objective, None, None) == []


@pytest.mark.parametrize("make", [linear, joined, deep])
@pytest.mark.parametrize("source", ["adversarial", "neighbors"])
def test_views_of_all_samples_are_those_of_a_batch(rows, make, source, monkeypatch):
    """Of all of them in blocks, for adversarial ones."""
    data = training_data(rows, source)
    model, objective = make(rows), SelfAugmentation()
    logits = model.decision_function(rows)
    (views,) = logits_of_views(model, data, objective, logits, np.random.RandomState(0))
    both = read(model, data, objective, np.arange(60), np.random.RandomState(0))
    assert_allclose(views, model.decision_function(both[60:]), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr("skcce._views.BLOCK", 20)
    (views,) = logits_of_views(model, data, objective, logits, np.random.RandomState(0))
    assert_allclose(views, model.decision_function(both[60:]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [linear, deep])
@pytest.mark.parametrize("objective", [SelfAugmentation(), InvariantInformation()])
def test_evaluation_changes_nothing(rows, make, objective):
    data = training_data(rows, objective.view_source)
    model = make(rows)
    state = begin(model.decision_function(rows), np.random.RandomState(0))
    train(model, data, objective, epochs(20, 1, 0.0), state)
    drawn = state.random_state.get_state()[1].copy()
    one, value = evaluate(model, data, objective, state, 1.0)
    again, same = evaluate(model, data, objective, state, 1.0)
    assert value == same
    assert_array_equal(one, again)
    assert_array_equal(state.random_state.get_state()[1], drawn)


def test_copies_of_a_few_rows_are_clustered():
    """All neighbors are copies: no view moves."""
    X = np.repeat([[0.0, 0], [10, 0], [0, 10]], 30, axis=0)
    clusterer = IMSATClusterer(3, random_state=0).fit(X)
    assert adjusted_rand_score(np.repeat([0, 1, 2], 30), clusterer.labels_) == 1
