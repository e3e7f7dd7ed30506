import numpy as np
import pytest
import torch
from conftest import SPARSE_CHECKS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.special import entr, log_softmax, rel_entr, softmax
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import skcce._neighbors
import skcce._starts
from skcce import CollisionClusterer
from skcce._neighbors import index_of, random_walk, search, smooth, without_itself
from skcce._pseudo_labels import solve_batch
from skcce._pseudo_labels.transport import transport_labels
from skcce.deep import DeepSoftmax
from skcce.losses import collision_cross_entropy, shannon_cross_entropy
from skcce.methods import (
    Batch,
    Collision,
    Epoch,
    FairCrossEntropy,
    IICClusterer,
    InvariantInformation,
    MutualInformation,
    NeighborConsistency,
    Objective,
    OptimalTransport,
    SelfAugmentation,
    SoftmaxClusterer,
)

OBJECTIVES = [
    Collision(lam=2.0, prior=[1, 2, 1], view_weight=0.5),
    Collision(lam=0.5, divergence="forward"),
    MutualInformation(),
    MutualInformation(lam=3.0, prior=[1, 2, 1], view_weight=0.5),
    InvariantInformation(),
    InvariantInformation(gamma=2.0),
    OptimalTransport(),
    OptimalTransport(epsilon=0.5, prior=[1, 2, 1], view_weight=0.5),
    OptimalTransport(epsilon=0.5, queue_size=0),
    OptimalTransport(epsilon=0.5, prior=[1, 2, 1], queue_size=20),
    FairCrossEntropy(),
    FairCrossEntropy(lam=3.0, penalty=0.2, prior=[1, 2, 1], view_weight=0.5),
    SelfAugmentation(),
    SelfAugmentation(lam=2.0, mu=1.5, prior=[1, 2, 1]),
    NeighborConsistency(),
    NeighborConsistency(entropy_weight=0.5, self_label=0.0),
    # All epochs but the first.
    NeighborConsistency(self_label=0.99, threshold=0.6),
]


def begun(objective, n=7, graph=None, progress=0.0, weight=None):
    objective = clone(objective)
    objective.check(3)
    proba = np.full((n, 3), 1 / 3)
    if isinstance(objective, NeighborConsistency):
        proba[0] = 0.8, 0.1, 0.1  # certain enough for the self-labeling step
    objective.begin_epoch(Epoch(proba, graph, progress, weight))
    return objective


def labels_of(objective, proba, batch):
    """Return the labels that an objective solves for, given predictions (n, 3)."""
    if isinstance(objective, Collision):
        return solve_batch(
            proba,
            objective.lam,
            objective._prior,
            forward=objective.divergence == "forward",
            n_iter=objective.em_iter,
            weight=batch.weight,
        )
    if isinstance(objective, FairCrossEntropy):
        return transport_labels(
            (1 + objective.penalty) * np.log(proba),
            objective._prior,
            objective.penalty,
            objective.lam,
            weight=batch.weight,
        )
    if isinstance(objective, OptimalTransport):
        if objective.queue_size is None:
            return objective._labels[batch.rows]
        return objective._solve(np.log(proba), batch)
    return None


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
    if isinstance(objective, OptimalTransport | FairCrossEntropy):
        labels = torch.from_numpy(labels)
        value = -(of_views[..., None] * labels * log_proba).sum()
        if isinstance(objective, OptimalTransport):
            return value
        usage = (weight[:, None] * labels).sum(dim=0) / weight.sum()
        fairness = (usage * (usage / prior).log()).sum()
        return value + weight.mean() * objective.lam * fairness
    if isinstance(objective, SelfAugmentation):
        consistency = torch.zeros((), dtype=torch.float64)
        for v in range(1, n_views):
            each = -(proba[0].detach() * log_proba[v]).sum(dim=-1)
            consistency = consistency + (weight * each).mean() / (n_views - 1)
        usage = (weight[:, None] * proba[0]).sum(dim=0) / weight.sum()
        entropy = -(weight[:, None] * proba[0] * log_proba[0]).sum() / n
        divergence = (usage * (usage / prior).log()).sum()
        divergence = weight.mean() * objective.mu * divergence
        return consistency + objective.lam * (entropy + divergence)
    if isinstance(objective, NeighborConsistency):
        views = range(1, n_views) if n_views > 1 else [0]
        if objective._labels_itself:
            best, cluster = proba[0].detach().max(dim=-1)
            certain = (best >= objective.threshold) * weight
            count = torch.zeros(n_clusters).double().scatter_add(0, cluster, certain)
            used = (count > 0).sum()
            value = 0
            for v in views:
                for k in range(n_clusters):
                    of_cluster = certain * (cluster == k)
                    if count[k] > 0:
                        mean = (of_cluster * log_proba[v, :, k]).sum() / count[k]
                        value = value - count.sum() / n * mean / used / len(views)
            return value + 0 * logits.sum()
        usage = (weight[:, None] * proba[0]).sum(dim=0) / weight.sum()
        value = weight.mean() * objective.entropy_weight * (usage * usage.log()).sum()
        for v in views:
            agreement = (proba[0] * proba[v]).sum(dim=-1)
            value = value - (weight * agreement.log()).mean() / len(views)
        return value
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
    objective = begun(objective, progress=0.5, weight=batch.weight)
    value, gradient = objective(logits, batch)

    labels = labels_of(objective, softmax(logits[0], axis=-1), batch)
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
    of_mean_1 = weight / weight.mean()
    weighted, gradient = begun(objective, 5, progress=0.5, weight=of_mean_1)(
        logits, Batch(np.arange(5), of_mean_1)
    )
    repeated, by_copy = begun(objective, 6, progress=0.5)(
        logits[:, rows], Batch(np.arange(6))
    )
    # Shares of labels of optimal transport are right up to 1e-6.
    assert_allclose(weighted, repeated, rtol=1e-5)
    total = np.zeros_like(logits)
    np.add.at(total, (slice(None), rows), by_copy)
    assert_allclose(gradient, total, atol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_float32_stays_float32(objective, rng):
    logits = rng.normal(size=(2, 7, 3)).astype(np.float32)
    batch = Batch(np.arange(7), rng.uniform(size=7))
    objective = begun(objective, progress=0.5)
    value, gradient = objective(logits, batch)
    assert gradient.dtype == np.float32
    assert type(value) is float
    expected, by_double = objective(logits.astype(float), batch)
    assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    assert_allclose(gradient, by_double, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_views", [1, 2])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_extreme_logits_are_no_problem(objective, n_views, dtype):
    logits = np.array([[[1e4, 0, -1e4]] * 4 + [[-1e4, 1e4, 0]] * 3], dtype=dtype)
    logits = np.concatenate([logits, -logits])[:n_views]
    value, gradient = begun(objective, progress=0.5)(logits, Batch(np.arange(7)))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_a_constant_added_to_logits_changes_nothing(objective, rng):
    logits, batch = rng.normal(size=(2, 7, 3)), Batch(np.arange(7))
    objective = begun(objective, progress=0.5)
    value, gradient = objective(logits, batch)
    moved, by_moved = objective(logits + 1e3 * rng.normal(size=(2, 7, 1)), batch)
    assert_allclose(moved, value, rtol=1e-6)
    assert_allclose(by_moved, gradient, atol=1e-6)
    assert_allclose(gradient.sum(axis=-1), 0, atol=1e-12)


# --- What each is, and its limits ---------------------------------------------


def test_mutual_information_is_the_difference_of_entropies(rng):
    logits = rng.normal(0, 2, size=(1, 9, 3))
    proba = softmax(logits[0], axis=1)
    value, _ = begun(MutualInformation(), 9)(logits, Batch(np.arange(9)))
    difference = entr(proba).sum(axis=1).mean() - entr(proba.mean(axis=0)).sum()
    assert_allclose(value, difference + np.log(3))


@pytest.mark.parametrize("queue_size", [None, 0])
def test_labels_of_transport_become_balanced_and_one_hot(rng, queue_size):
    proba = rng.dirichlet(np.ones(3), size=12)
    objective = OptimalTransport(epsilon=1e-3, queue_size=queue_size)
    objective.begin_epoch(Epoch(proba))
    logits = np.log(proba)[np.newaxis]
    _, gradient = objective(logits, Batch(np.arange(12)))
    labels = proba - 12 * gradient[0]
    assert_allclose(labels.max(axis=1), 1, atol=1e-3)
    assert_array_equal(np.bincount(labels.argmax(axis=1)), [4, 4, 4])


def test_labels_of_an_epoch_are_those_of_all_samples(rng):
    """They are kept while the model moves on, whatever the batch."""
    proba, weight = rng.dirichlet(np.ones(3), size=12), rng.uniform(0.5, 2, size=12)
    objective = OptimalTransport(epsilon=0.3, prior=[1, 2, 1])
    objective.begin_epoch(Epoch(proba, weight=weight / weight.mean()))
    labels = transport_labels(
        np.log(proba), np.array([0.25, 0.5, 0.25]), 0.3, weight=weight
    )
    rows, logits = np.array([5, 0, 11]), rng.normal(size=(1, 3, 3))
    value, gradient = objective(logits, Batch(rows))
    own = softmax(logits[0], axis=1)
    assert_allclose(gradient[0], (own - labels[rows]) / 3, atol=1e-9)
    assert_allclose(value, shannon_cross_entropy(own, labels[rows]).mean())
    # A cluster of probability 0 is no problem.
    objective.begin_epoch(Epoch(np.eye(3)[np.arange(12) % 2]))
    assert_allclose(objective._labels.mean(axis=0), [0.25, 0.5, 0.25], atol=1e-5)


def test_a_queue_stands_for_the_other_samples(rng):
    """With all of the samples in it, few in a batch are labeled as in an epoch."""
    proba = rng.dirichlet(np.ones(3), size=3000)
    rows = rng.permutation(3000)[:10]
    logits, batch = np.log(proba[np.newaxis, rows]), Batch(rows)
    gradients = []
    for queue_size in (None, 3000, 500, 0):
        objective = OptimalTransport(epsilon=0.3, queue_size=queue_size)
        objective.begin_epoch(Epoch(proba))
        gradients.append(objective(logits, batch)[1])
    whole, *others = gradients
    errors = [np.abs(other - whole).max() for other in others]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 1e-3


def value_of_fair_labels(labels, proba, objective, weight, prior):
    """Evaluate what the docstring of FairCrossEntropy says its labels minimize."""
    weight = weight / weight.sum()
    value = weight @ shannon_cross_entropy(proba, labels)
    value += objective.lam * rel_entr(weight @ labels, prior).sum()
    return value + objective.penalty * weight @ rel_entr(labels, proba).sum(axis=1)


@pytest.mark.parametrize("lam", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
def test_fair_labels_minimize_what_they_claim(rng, lam, penalty):
    objective = FairCrossEntropy(lam=lam, penalty=penalty, prior=[1, 2, 1])
    prior, weight = np.array([0.25, 0.5, 0.25]), rng.uniform(0.5, 2, size=5)
    logits = rng.normal(0, 1.5, size=(1, 5, 3))
    proba = softmax(logits[0], axis=1)
    batch = Batch(np.arange(5), weight / weight.mean())
    _, gradient = begun(objective, 5)(logits, batch)
    labels = proba - 5 * gradient[0] / batch.weight[:, np.newaxis]
    labels = labels.clip(0, 1) / labels.clip(0, 1).sum(axis=1, keepdims=True)

    def value(labels):
        return value_of_fair_labels(labels, proba, objective, weight, prior)

    found = minimize(
        lambda x: value(softmax(x.reshape(5, 3), axis=1)),
        logits.ravel(),
        method="L-BFGS-B",
        options={"maxiter": 5000, "ftol": 1e-15, "maxfun": 100_000},
    )
    assert value(labels) <= found.fun + 1e-7
    assert_allclose(labels, softmax(found.x.reshape(5, 3), axis=1), atol=1e-2)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(20):
            noise = size * rng.normal(size=(5, 3))
            moved = softmax(np.log(labels + 1e-12) + noise, axis=1)
            assert value(moved) >= value(labels) - 1e-12
    # The closed form of the docstring.
    usage = weight @ labels / weight.sum()
    form = proba ** (1 + 1 / penalty) * (prior / usage) ** (lam / penalty)
    assert_allclose(labels, form / form.sum(axis=1, keepdims=True), atol=1e-3)


def test_a_high_penalty_leaves_the_predictions(rng):
    logits = rng.normal(size=(1, 7, 3))
    _, gradient = begun(FairCrossEntropy(penalty=1e4))(logits, Batch(np.arange(7)))
    assert_allclose(gradient, 0, atol=1e-3)


def test_the_target_of_a_view_is_held_fixed(rng):
    logits, batch = rng.normal(size=(3, 7, 3)), Batch(np.arange(7))
    objective = begun(SelfAugmentation(lam=0.0))
    value, gradient = objective(logits, batch)
    assert_array_equal(gradient[0], 0)
    proba = softmax(logits, axis=-1)
    expected = [shannon_cross_entropy(view, proba[0]) for view in proba[1:]]
    assert_allclose(value, np.mean(expected))
    assert_allclose(gradient[1:], (proba[1:] - proba[0]) / 14)


def test_without_views_self_augmentation_is_mutual_information(rng):
    logits, batch = rng.normal(size=(1, 7, 3)), Batch(np.arange(7))
    value, gradient = begun(SelfAugmentation(lam=0.3, mu=2.0))(logits, batch)
    expected, of_it = begun(MutualInformation(lam=2.0))(logits, batch)
    assert_allclose(value, 0.3 * expected)
    assert_allclose(gradient, 0.3 * of_it)


@pytest.mark.parametrize("n_views", [2, 3])
def test_consistency_is_that_of_pairs_minus_entropy(rng, n_views):
    logits, batch = rng.normal(size=(n_views, 7, 3)), Batch(np.arange(7))
    own, *others = softmax(logits, axis=-1)
    value, _ = begun(NeighborConsistency(entropy_weight=2.0))(logits, batch)
    agreement = np.mean([collision_cross_entropy(own, other) for other in others])
    assert_allclose(value, agreement - 2 * entr(own.mean(axis=0)).sum())
    without, gradient = begun(NeighborConsistency(entropy_weight=0))(logits, batch)
    assert_allclose(without, agreement)
    if n_views == 2:  # symmetric, then
        swapped, by_swap = begun(NeighborConsistency(entropy_weight=0))(
            logits[::-1], batch
        )
        assert_allclose(swapped, without)
        assert_allclose(by_swap[::-1], gradient)
    # Certain and equal clusters: there is nothing better.
    best, _ = begun(NeighborConsistency(entropy_weight=2.0), 3)(
        np.repeat(1e3 * np.eye(3)[np.newaxis], n_views, axis=0), Batch(np.arange(3))
    )
    assert_allclose(best, -2 * np.log(3))


def self_labeling(**parameters):
    objective = NeighborConsistency(**parameters)
    objective.begin_epoch(Epoch(np.eye(3), progress=1.0))
    return objective


def test_only_certain_samples_label_their_views(rng):
    logits, batch = rng.normal(size=(2, 7, 3)), Batch(np.arange(7))
    logits[0, [1, 4, 5]] += 20 * np.eye(3)[[2, 0, 2]]
    value, gradient = self_labeling()(logits, batch)
    assert_array_equal(gradient[0], 0)
    assert_array_equal(np.flatnonzero(np.abs(gradient[1]).max(axis=1)), [1, 4, 5])
    # Clusters count alike, and those who have none not at all.
    loss = -log_softmax(logits[1], axis=1)
    of_2, of_0 = (loss[1, 2] + loss[5, 2]) / 2, loss[4, 0]
    assert_allclose(value, 3 / 7 * (of_2 + of_0) / 2)
    own = softmax(logits[1], axis=1)
    of_one, of_two = (own[[4, 1]] - np.eye(3)[[0, 2]]) * 3 / 7 / 2 / [[1], [2]]
    assert_allclose(gradient[1, [4, 1]], [of_one, of_two])


def test_nobody_is_certain(rng):
    logits = rng.normal(size=(2, 7, 3))
    value, gradient = self_labeling(threshold=0.9999)(logits, Batch(np.arange(7)))
    assert value == 0
    assert_array_equal(gradient, 0)


def test_without_certain_predictions_views_go_on_to_agree():
    objective = NeighborConsistency(threshold=0.9)
    for highest, is_certain in ((0.89, False), (0.9, True)):
        rest = (1 - highest) / 2
        proba = np.array([[highest, rest, rest], [0.4, 0.3, 0.3]])
        objective.begin_epoch(Epoch(proba, progress=1.0))
        assert objective._labels_itself == is_certain
        assert objective.may_stop


def test_self_labeling_takes_the_last_epochs():
    objective = NeighborConsistency(self_label=0.25)
    steps, may_stop = [], []
    for epoch in range(20):
        objective.begin_epoch(Epoch(np.eye(3), progress=epoch / 19))
        steps.append(objective._labels_itself)
        may_stop.append(objective.may_stop)
    assert steps == may_stop == [False] * 15 + [True] * 5
    for progress in (0.0, 1.0):
        never = begun(NeighborConsistency(self_label=0), progress=progress)
        assert not never._labels_itself
        assert never.may_stop


def test_invariant_information_of_a_balanced_permutation_is_ln_k():
    """Of a swap of clusters, or of none: the joint distribution is made symmetric."""
    certain = 1e3 * np.eye(4)
    for view in (certain, certain[[1, 0, 3, 2]]):
        objective = InvariantInformation()
        value, _ = objective(np.stack([certain, view]), Batch(np.arange(4)))
        assert_allclose(value, -np.log(4))
    cycle, _ = objective(
        np.stack([certain, certain[[1, 2, 3, 0]]]), Batch(np.arange(4))
    )
    assert_allclose(cycle, -np.log(4) + np.log(2))
    independent, gradient = objective(np.zeros((2, 4, 4)), Batch(np.arange(4)))
    assert_allclose(independent, 0, atol=1e-12)
    assert_allclose(gradient, 0, atol=1e-12)


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
    nearest = without_itself(*search(index_of(rows, 2, "exact"), rows))[1]
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


@pytest.mark.parametrize(
    "objective",
    [
        Collision(),
        FairCrossEntropy(),
        OptimalTransport(),
        OptimalTransport(queue_size=3),
    ],
)
def test_labels_that_are_given_are_not_solved_for(objective, rng):
    logits, target = rng.normal(size=(1, 7, 3)), np.full((7, 3), np.nan)
    target[2] = target[4] = [0, 1, 0]
    _, gradient = begun(objective)(logits, Batch(np.arange(7), target=target))
    own = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    weight = 1 / 7
    if isinstance(objective, Collision):  # it weighs the mean over given labels
        weight = objective.label_weight / 2
    expected = weight * (own - [0, 1, 0])[[2, 4]]
    assert_allclose(gradient[0, [2, 4]], expected, atol=1e-12)


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
    [SoftmaxClusterer(objective=MutualInformation(), init="random", n_neighbors=0)],
    expected_failed_checks=lambda estimator: SPARSE_CHECKS,
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
    with pytest.raises(ValueError, match=r"^objective=Inv.* compares views .*n_neigh"):
        clusterer.fit(blobs[0])
    with pytest.raises(ValueError, match=r"^IICClusterer compares .*n_neighbors=0"):
        IICClusterer(4, n_neighbors=0).fit(blobs[0])
    with pytest.raises(ValueError, match="neighbors need rows, and X has images"):
        IICClusterer(2, model=DeepSoftmax(nn.Identity)).fit(np.ones((20, 8, 8)))


def test_a_view_source_that_nobody_knows_is_an_error(blobs):
    class Misspelled(InvariantInformation):
        view_source = "neighbours"

    message = "view_source='neighbours' of Misspelled must be .*'neighbors'"
    with pytest.raises(ValueError, match=message):
        SoftmaxClusterer(4, objective=Misspelled()).fit(blobs[0])


class Wrong(Objective):
    def __init__(self, what="shape"):
        self.what = what

    def __call__(self, logits, batch):
        if self.what == "shape":
            return 0.0, logits[0]
        if self.what == "number":
            return 0.0
        if self.what == "three":
            return 0.0, logits, logits
        return logits, 0.0


@pytest.mark.parametrize("what", ["shape", "order", "number", "three"])
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


def test_where_all_labels_are_given_there_are_no_shares_to_ask_for(rng):
    logits, target = rng.normal(size=(1, 6, 3)), np.eye(3)[[0, 0, 0, 0, 1, 2]]
    objective = Collision(lam=9.0)
    objective.begin_epoch(Epoch(softmax(logits[0], axis=1), target=target))
    value, _ = objective(logits, Batch(np.arange(6), target=target))
    loss = collision_cross_entropy(softmax(logits[0], axis=1), target)
    assert_allclose(value, 2.0 * np.mean(loss))  # label_weight
