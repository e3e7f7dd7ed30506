import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import skcce._neighbors
import skcce._starts
from skcce import CollisionClusterer
from skcce._neighbors import neighbor_index, random_walk, search, smooth, without_itself
from skcce._pseudo_labels import solve_batch
from skcce.deep import DeepSoftmax
from skcce.methods import (
    Batch,
    Collision,
    Epoch,
    InvariantInformation,
    MutualInformation,
    Objective,
    SoftmaxClusterer,
)

OBJECTIVES = [
    Collision(lam=2.0, prior=[1, 2, 1], view_weight=0.5),
    Collision(lam=0.5, divergence="forward"),
    MutualInformation(),
    MutualInformation(lam=3.0, prior=[1, 2, 1], view_weight=0.5),
    InvariantInformation(),
    InvariantInformation(gamma=2.0),
]


def begun(objective, n=7, graph=None, progress=0.0):
    objective = clone(objective)
    objective.check(3)
    objective.begin_epoch(Epoch(np.full((n, 3), 1 / 3), graph, progress))
    return objective


def reference(objective, labels, logits, weight):
    """Compute the value as the docstrings have it, by torch."""
    log_proba = torch.log_softmax(logits, dim=-1)
    proba = log_proba.exp()
    n_views, n, n_clusters = logits.shape
    scale = torch.full((n_views,), getattr(objective, "view_weight", 0.0)).double()
    scale /= max(n_views - 1, 1)
    scale[0] = 1.0
    of_views = scale[:, None] * weight / n
    prior = torch.full((n_clusters,), 1 / n_clusters, dtype=torch.float64)
    if objective.prior is not None:
        prior = torch.tensor(objective.prior) / sum(objective.prior)
    if isinstance(objective, Collision):
        labels = torch.from_numpy(labels)
        collision = -(proba * labels).sum(dim=-1).log()
        usage = (weight[:, None] * labels).sum(dim=0) / weight.sum()
        fairness = (prior * (prior / usage).log()).sum()
        if objective.divergence == "forward":
            fairness = (usage * (usage / prior).log()).sum()
        return (of_views * collision).sum() + weight.mean() * objective.lam * fairness
    if isinstance(objective, MutualInformation):
        total = of_views.sum()
        usage = (of_views[..., None] * proba).sum(dim=(0, 1)) / total
        entropy = -(of_views[..., None] * proba * log_proba).sum()
        return entropy + total * objective.lam * (usage * (usage / prior).log()).sum()
    assert isinstance(objective, InvariantInformation)
    own, other = proba[0], proba[1:].mean(dim=0) if n_views > 1 else proba[0]
    joint = torch.einsum("i,ik,il->kl", weight / weight.sum(), own, other)
    joint = (joint + joint.T) / 2
    share = joint.sum(dim=0)
    ratio = joint.log() - objective.gamma * torch.outer(share, share).log()
    return -weight.mean() * (joint * ratio).sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_views", [1, 2, 4])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_value_and_gradient_are_those_of_autograd(objective, n_views, weighted, rng):
    logits = rng.normal(0, 2, size=(n_views, 7, 3))
    weight = rng.uniform(0, 2, size=7) if weighted else np.ones(7)
    batch = Batch(np.arange(7), weight if weighted else None)
    objective = begun(objective)
    value, gradient = objective(logits, batch)

    labels = None
    if isinstance(objective, Collision):
        labels = solve_batch(
            torch.softmax(torch.from_numpy(logits[0]), dim=-1).numpy(),
            objective.lam,
            objective._prior,
            forward=objective.divergence == "forward",
            n_iter=objective.em_iter,
            weight=batch.weight,
        )
    variable = torch.from_numpy(logits.copy()).requires_grad_()
    expected = reference(objective, labels, variable, torch.from_numpy(weight))
    expected.backward()
    assert_allclose(value, expected.item(), rtol=1e-9)
    assert_allclose(gradient, variable.grad, atol=1e-10)
    # Pure: asked again, it says the same, and the logits are as they were.
    again, same = objective(logits, batch)
    assert again == value
    assert_array_equal(same, gradient)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_weights_are_repeated_samples(objective, rng):
    logits = rng.normal(0, 2, size=(2, 5, 3))
    weight = np.array([0.0, 1.0, 3.0, 2.0, 0.0])
    rows = np.repeat(np.arange(5), weight.astype(int))
    weighted, gradient = begun(objective)(
        logits, Batch(np.arange(5), weight / weight.mean())
    )
    repeated, by_copy = begun(objective)(logits[:, rows], Batch(np.arange(6)))
    assert_allclose(weighted, repeated, rtol=1e-9)
    total = np.zeros_like(logits)
    np.add.at(total, (slice(None), rows), by_copy)
    assert_allclose(gradient, total, atol=1e-10)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_float32_stays_float32(objective, rng):
    logits = rng.normal(size=(2, 7, 3)).astype(np.float32)
    batch = Batch(np.arange(7), rng.uniform(size=7))
    assert begun(objective)(logits, batch)[1].dtype == np.float32


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_extreme_logits_are_no_problem(objective):
    logits = np.array([[[1e4, 0, -1e4]] * 4 + [[-1e4, 1e4, 0]] * 3])
    logits = np.concatenate([logits, -logits])
    value, gradient = begun(objective)(logits, Batch(np.arange(7)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_mutual_information_of_certain_equal_clusters_is_ln_k():
    logits = 1e3 * np.eye(3)[np.newaxis]
    batch = Batch(np.arange(3))
    # KL to equal shares is ln K minus the entropy of the shares.
    assert_allclose(begun(MutualInformation(), 3)(logits, batch)[0], 0, atol=1e-12)
    value, _ = begun(InvariantInformation(), 3)(logits, batch)
    assert_allclose(value, -np.log(3))


def test_invariant_information_does_not_know_which_view_is_which(rng):
    logits = rng.normal(size=(2, 7, 3))
    batch = Batch(np.arange(7))
    value, gradient = begun(InvariantInformation())(logits, batch)
    swapped, by_swap = begun(InvariantInformation())(logits[::-1], batch)
    assert_allclose(swapped, value)
    assert_allclose(by_swap[::-1], gradient)


def test_lam_goes_from_the_first_value_to_the_last(rng):
    logits, batch = rng.normal(size=(1, 7, 3)), Batch(np.arange(7))
    for progress, lam in ((0.0, 100.0), (0.5, 10.0), (1.0, 1.0)):
        changing = begun(Collision(lam=(100.0, 1.0)), progress=progress)
        constant = begun(Collision(lam=lam))
        assert_allclose(changing(logits, batch)[0], constant(logits, batch)[0])


def test_labels_come_from_predictions_averaged_over_neighbors(rng):
    rows = rng.normal(size=(7, 2))
    nearest = without_itself(*search(neighbor_index(rows, 2), rows))[1]
    graph = random_walk(nearest, None, np.float64)[0]
    proba, logits = rng.dirichlet(np.ones(3), size=7), rng.normal(size=(1, 4, 3))
    objective = Collision()
    objective.begin_epoch(Epoch(proba, graph))
    rows = np.array([5, 1, 0, 6])
    labels = solve_batch(
        smooth(graph, proba)[rows], 1.0, np.full(3, 1 / 3), forward=False, n_iter=10
    )
    own = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    posterior = own * labels / (own * labels).sum(axis=1, keepdims=True)
    assert_allclose(objective(logits, Batch(rows))[1][0], (own - posterior) / 4)


def test_labels_that_are_given_are_not_solved_for(rng):
    logits, target = rng.normal(size=(1, 7, 3)), np.full((7, 3), np.nan)
    target[2] = target[4] = [0, 1, 0]
    _, gradient = begun(Collision())(logits, Batch(np.arange(7), target=target))
    own = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    assert_allclose(gradient[0, [2, 4]], (own - [0, 1, 0])[[2, 4]] / 7, atol=1e-12)


def deep(augment):
    return DeepSoftmax(lambda: nn.Linear(5, 16), augment=augment, lr=3e-3, n_threads=1)


@pytest.mark.parametrize("model", [None, deep(lambda rows: rows + 0.01), deep(None)])
@pytest.mark.parametrize("objective", [MutualInformation(), InvariantInformation()])
@pytest.mark.filterwarnings("ignore:More than tol")
def test_every_objective_trains_every_model(objective, model, blobs):
    X, y = blobs
    clusterer = SoftmaxClusterer(
        4,
        objective=objective,
        model=model,
        n_neighbors=10,
        init="k-means",
        batch_size=50,
        random_state=0,
    ).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9
    assert_array_equal(clone(clusterer).fit(X).labels_, clusterer.labels_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [SoftmaxClusterer(objective=MutualInformation(), init="random", n_neighbors=0)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_collision_clusterer_is_a_softmax_clusterer(blobs):
    X, _ = blobs
    general = SoftmaxClusterer(4, objective=Collision(), random_state=0).fit(X)
    special = CollisionClusterer(4, prior=None, random_state=0).fit(X)
    assert_array_equal(general.predict_proba(X), special.predict_proba(X))
    assert general.loss_ == special.loss_


def test_parameters_of_an_objective_are_set_and_checked(blobs):
    clusterer = SoftmaxClusterer(4, objective=MutualInformation())
    clusterer.set_params(objective__lam=-1.0)
    with pytest.raises(ValueError, match="lam"):
        clusterer.fit(blobs[0])
    with pytest.raises(ValueError, match="prior must hold one share"):
        clusterer.set_params(objective__lam=1.0, objective__prior=[1, 1]).fit(blobs[0])


def test_views_are_asked_for_where_there_are_none(blobs):
    clusterer = SoftmaxClusterer(4, objective=InvariantInformation(), n_neighbors=0)
    with pytest.raises(ValueError, match="compares views of a sample: it needs n_nei"):
        clusterer.fit(blobs[0])


class Wrong(Objective):
    def __init__(self, what="shape"):
        self.what = what

    def __call__(self, logits, batch):
        if self.what == "shape":
            return 0.0, logits[0]
        return logits, 0.0


@pytest.mark.parametrize("what", ["shape", "order"])
def test_an_objective_that_returns_something_else_is_named(blobs, what):
    clusterer = SoftmaxClusterer(4, objective=Wrong(what))
    with pytest.raises(TypeError, match=r"Wrong.* a number and a gradient of"):
        clusterer.fit(blobs[0])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_starts_of_views_are_compared_with_their_views(blobs, monkeypatch):
    """On samples alone, an objective of views says something else."""
    model = deep(lambda rows: rows + 0.01)
    clusterer = SoftmaxClusterer(
        4, objective=InvariantInformation(), model=model, max_iter=1, verbose=2
    )
    printed = []
    monkeypatch.setattr("builtins.print", lambda text, **_: printed.append(text))
    curves = []
    train = skcce._starts.train

    def spy(model, data, objective, plan, state, **kwargs):
        train(model, data, objective, plan, state, **kwargs)
        curves.append(state.loss_curve)

    monkeypatch.setattr(skcce._starts, "train", spy)
    clusterer.fit(blobs[0])
    assert len(curves) == 4
    for text, curve in zip(printed, curves, strict=False):
        assert f"loss {curve[-1]:.4f}" in text


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_neighbors_are_found_for_those_who_ask(blobs, monkeypatch):
    """The search is quadratic in the samples: not for objectives that ignore them."""
    searched = []
    find = skcce._neighbors.search

    def spy(*args):
        searched.append(args)
        return find(*args)

    monkeypatch.setattr(skcce._neighbors, "search", spy)
    settings = {"init": "random", "n_init": 1, "random_state": 0, "tol": 1.0}
    for objective in (MutualInformation(), Collision(), InvariantInformation()):
        SoftmaxClusterer(4, objective=objective, **settings).fit(blobs[0])
    assert len(searched) == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_cluster_of_no_prior_costs_the_same_in_every_dtype(dtype, rng):
    logits = rng.normal(size=(1, 7, 3))
    objective = begun(MutualInformation(prior=[1, 1, 0]))
    expected, by_double = objective(logits, Batch(np.arange(7)))
    value, gradient = objective(logits.astype(dtype), Batch(np.arange(7)))
    assert_allclose(value, expected, rtol=1e-6)
    assert_allclose(gradient, by_double, atol=1e-5)
