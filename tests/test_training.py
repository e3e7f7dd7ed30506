import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skcce import LinearSoftmax
from skcce._data import TrainingData
from skcce._training import Plan, begin, epochs, evaluate, train, trial
from skcce.methods import (
    Collision,
    InvariantInformation,
    NeighborConsistency,
    Objective,
    SCANClusterer,
)


class Recorder(Objective):
    """Asks for nothing, and remembers what it was told."""

    view_source = "neighbors"

    def __init__(self):
        self.progress, self.batches = [], []

    def begin_epoch(self, epoch):
        self.progress.append(epoch.progress)

    def __call__(self, logits, batch):
        self.batches.append((logits.copy(), batch))
        return 0.0, np.zeros_like(logits)


def started(X, n_clusters=3):
    model = LinearSoftmax()
    random_state = np.random.RandomState(0)
    model.initialize(
        X, n_clusters, labels=None, sample_weight=None, random_state=random_state
    )
    return model, begin(model.decision_function(X), random_state)


def value_for(model, X):
    state = begin(model.decision_function(X), None)
    return evaluate(model, TrainingData(X), Collision(), state, 0.0)[1]


def test_progress_goes_from_the_first_epoch_to_the_last(blobs):
    data = TrainingData(blobs[0])
    for plan, expected in (
        (epochs(100, 5, -1.0), [0, 0.25, 0.5, 0.75, 1]),
        (epochs(100, 1, -1.0), [0]),
        (trial(100, 3, -1.0), [0, 0, 0]),
    ):
        model, state = started(data.X)
        objective = Recorder()
        train(model, data, objective, plan, state)
        assert_allclose(objective.progress, expected)
        assert state.n_iter == len(expected)


def test_a_stream_has_no_last_epoch(blobs):
    """A constant rate, chunk after chunk, until somebody says stop."""
    X, _ = blobs
    plan = Plan(
        batch_size=50,
        max_iter=np.inf,
        tol=-1.0,
        step_progress=lambda done: 0.0,
        epoch_progress=lambda done: 0.0,
    )
    model, state = started(X, 4)
    values = []
    for chunk in np.array_split(np.random.RandomState(0).permutation(len(X)), 3):
        data = TrainingData(X[chunk])
        state = begin(model.decision_function(data.X), state.random_state)
        train(
            model,
            data,
            Collision(),
            plan,
            state,
            end_epoch=lambda state: state.n_iter == 10,
        )
        assert state.n_iter == 10
        assert state.stopped
        values.append(value_for(model, X))
    assert values[0] > values[-1]


def test_a_batch_holds_pairs_of_neighbors(rng):
    X = rng.normal(size=(12, 2))
    next_one = np.roll(np.arange(12), -1)
    graph = csr_array((np.ones(12), next_one, np.arange(13)), shape=(12, 12))
    data = TrainingData(X, graph=graph, view_source="neighbors")
    model, state = started(X)
    objective = Recorder()
    train(model, data, objective, epochs(5, 1, 0.0), state)
    logits = model.decision_function(X)
    for views, batch in objective.batches:
        assert_allclose(views[0], logits[batch.rows])
        assert_allclose(views[1], logits[next_one[batch.rows]])
    rows = np.concatenate([batch.rows for _, batch in objective.batches])
    assert_array_equal(np.sort(rows), np.arange(12))


def test_a_batch_brings_weights_and_targets(rng):
    X, weight = rng.normal(size=(12, 2)), rng.uniform(size=12)
    target = rng.dirichlet(np.ones(3), size=12)
    model, state = started(X)
    objective = Recorder()
    train(model, TrainingData(X, weight, target), objective, epochs(5, 1, 0.0), state)
    for _, batch in objective.batches:
        assert_array_equal(batch.weight, weight[batch.rows])
        assert_array_equal(batch.target, target[batch.rows])


@pytest.mark.parametrize("objective", [Collision(), InvariantInformation()])
def test_evaluation_changes_nothing(blobs, objective):
    X, _ = blobs
    graph = csr_array(np.eye(len(X))[::-1])
    data = TrainingData(X, graph=graph, view_source=objective.view_source)
    model, state = started(X)
    logits, value = evaluate(model, data, objective, state, 1.0)
    again, same = evaluate(model, data, objective, state, 1.0)
    assert value == same
    assert_array_equal(logits, again)


def test_an_objective_may_forbid_to_stop(blobs):
    """All epochs are calm."""

    class Patient(Recorder):
        def begin_epoch(self, epoch):
            super().begin_epoch(epoch)
            self.may_stop = epoch.progress >= 0.5

    data = TrainingData(blobs[0])
    for objective, n_epochs in ((Recorder(), 3), (Patient(), 8)):
        model, state = started(data.X)
        train(model, data, objective, epochs(100, 11, 0.0), state)
        assert state.n_iter == n_epochs
        assert state.converged


@pytest.mark.parametrize("max_iter", [4, 8, 20])
def test_no_training_ends_before_its_last_step(blobs, max_iter):
    """Few changes in the first step are no reason to leave out the second."""
    data = TrainingData(blobs[0], graph=None)
    objective = NeighborConsistency(self_label=0.25)
    model, state = started(data.X)
    calm = 1.0  # every epoch is
    train(model, data, objective, epochs(100, max_iter, calm), state)
    assert objective.may_stop
    assert state.n_iter == min(max_iter, max_iter - max_iter // 4 + 3)
    model, state = started(data.X)
    train(
        model,
        data,
        NeighborConsistency(self_label=0.0),
        epochs(100, max_iter, calm),
        state,
    )
    assert state.n_iter == 3


def test_a_trial_has_no_last_step(blobs):
    data, objective = TrainingData(blobs[0]), NeighborConsistency()
    model, state = started(data.X)
    train(model, data, objective, trial(100, 5, 1.0), state)
    assert not objective._labels_itself
    assert state.n_iter == 5


@pytest.mark.parametrize("tol", [0.0, 1.0])
def test_scan_labels_itself_before_it_stops(blobs, tol):
    clusterer = SCANClusterer(4, tol=tol, random_state=0).fit(blobs[0])
    assert clusterer.converged_
    assert clusterer.n_iter_ == 18  # the first three of the last five
