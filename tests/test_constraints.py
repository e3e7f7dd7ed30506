import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from persistence import SHORT_FITS, assert_same_fit
from scipy.optimize import check_grad
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score
from torch import nn

from skcce import CollisionClusterer
from skcce._constraints import (
    agree,
    balance,
    find_links,
    find_partners,
    link_loss_and_gradient,
)
from skcce._objective import Batch, Epoch
from skcce._persistence import Checkpoint
from skcce.deep import DeepSoftmax
from skcce.methods import Collision

pytestmark = SHORT_FITS

MUST = [(0, 1), (2, 3), (3, 4)]
CANNOT = [(1, 4), (6, 1)]


def pairs_of(y, n_pairs, rng):
    """Return so many random pairs of one class, and so many of two."""
    pairs = np.array(
        [rng.choice(len(y), 2, replace=False) for _ in range(20 * n_pairs)]
    )
    are_one = y[pairs[:, 0]] == y[pairs[:, 1]]
    return pairs[are_one][:n_pairs], pairs[~are_one][:n_pairs]


def n_violated(labels, must, cannot):
    one, other = labels[np.transpose(must)], labels[np.transpose(cannot)]
    return (one[0] != one[1]).sum(), (other[0] == other[1]).sum()


@pytest.fixture
def links():
    return find_links(MUST, CANNOT, 1.0, 8)


@pytest.fixture
def proba(rng):
    return softmax(rng.normal(0, 2, size=(8, 3)), axis=1)


@pytest.fixture(scope="module")
def two_halves():
    """Return rows whose clusters are the upper and the lower half, or left and right.

    What is farther apart is left and right.
    """
    rng = np.random.default_rng(0)
    corners = np.array([(0, 0), (0, 4), (5, 0), (5, 4)])
    X = np.repeat(corners, 60, axis=0) + rng.normal(0, 0.7, (240, 2))
    return X, np.tile(np.repeat([0, 1], 60), 2)


# --- What follows from pairs --------------------------------------------------


def test_must_links_are_passed_on(links):
    assert_array_equal(links.rows, [0, 1, 2, 3, 4, 6])
    assert_array_equal(links.group, [0, 0, 1, 1, 1, 2])
    assert_array_equal(links.sizes, [2, 3, 1])
    assert_array_equal(links.apart.toarray(), [[0, 1, 1], [1, 0, 0], [1, 0, 0]])


def test_samples_of_weight_zero_pass_links_on():
    kept = np.array([0, 2, 4, 5, 7])  # without 1, 3 and 6
    links = find_links(MUST, CANNOT, 1.0, 8, kept)
    assert_array_equal(kept[links.rows], [0, 2, 4])
    assert_array_equal(links.group, [0, 1, 1])
    assert_array_equal(links.apart.toarray(), [[0, 1], [1, 0]])
    assert find_links([(1, 3)], [(1, 6), (0, 6)], 1.0, 8, kept) is None


@pytest.mark.parametrize("pairs", [None, [], np.empty((0, 2))])
def test_no_pairs_are_no_links(pairs):
    assert find_links(pairs, pairs, 1.0, 5) is None


@pytest.mark.parametrize(
    ("must", "cannot", "chain"),
    [
        ([(3, 17)], [(17, 3)], "pair (17, 3), and must_link joins them: 17 - 3."),
        (
            [(8, 3), (12, 8), (12, 17), (17, 4), (4, 5), (5, 6), (6, 3), (1, 2)],
            [(0, 1), (3, 17)],
            "pair (3, 17), and must_link joins them: 3 - 8 - 12 - 17.",
        ),
    ],
)
def test_contradiction_is_named(must, cannot, chain):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        find_links(must, cannot, 1.0, 20)
    assert chain in str(error.value)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 8)], r"has the pair \(0, 8\); rows of X have numbers from 0 to 7"),
        ([(0, 1), (-1, 0)], r"has the pair \(-1, 0\)"),
        ([(0, 1), (3, 3)], r"has the pair \(3, 3\), of a row with itself"),
        ([0, 1], r"shape \(n_pairs, 2\), got shape \(2,\)"),
        (np.array(3), r"shape \(n_pairs, 2\), got shape \(\)"),
        ([(0, 1, 2)], r"shape \(n_pairs, 2\), got shape \(1, 3\)"),
        ([(0, 1), (2,)], r"must hold pairs of row numbers"),
        ([(0, 0.5)], r"integers .* got the pair \(0.0, 0.5\)"),
        ([(0, np.nan)], r"integers .* got the pair \(0.0, nan\)"),
        ([(0, 1e300)], r"integers .* got the pair"),
        ([("a", "b")], r"integers .* got \['a', 'b'\]"),
        ([(True, False)], r"integers .* got \[True, False\]"),
    ],
)
@pytest.mark.parametrize("name", ["must_link", "cannot_link"])
def test_bad_pairs_are_errors(blobs, name, pairs, message):
    clusterer = CollisionClusterer(4, **{name: pairs})
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        clusterer.fit(blobs[0][:8])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"must_link": 3}, "'must_link' parameter"),
        ({"link_weight": 0}, "'link_weight' parameter"),
        ({"n_clusters": 1, "cannot_link": [(0, 1)]}, "cannot_link needs at least 2"),
        ({"n_clusters": (1, 1), "cannot_link": [(0, 1)]}, "at least 2 clusters"),
    ],
)
def test_bad_parameters_are_errors(blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        CollisionClusterer(**parameters).fit(blobs[0])


def test_balance_counts_samples():
    links = find_links([(0, 1), (1, 2), (3, 4)], [(0, 3), (5, 6)], 1.0, 8)
    labels = np.array([0, 0, 1, 1, 2, 0, 0, 1])
    # Each of the three of the first group has two others, who count 1 / 2.
    joined = [[1, 1, 0], [1, 0, 1], [0, 1, 0]]
    apart = balance(links, labels) - joined
    assert_allclose(apart, apart.T)
    assert_allclose(apart.sum(), -(3 + 2 + 1 + 1))
    assert_allclose(apart[0, 0], -2)


# --- The loss -----------------------------------------------------------------


def test_loss_is_that_of_pairs(proba, rng):
    links = find_links([(0, 1)], [(2, 3)], 1.0, 8)
    logits = rng.normal(0, 2, size=(1, 8, 3))
    partners = find_partners(links, proba)
    loss, _ = link_loss_and_gradient(logits, partners, np.arange(8))
    collide = softmax(logits[0], axis=1) @ proba.T
    expected = -np.log([collide[0, 1], collide[1, 0]])
    expected = np.append(expected, -np.log([1 - collide[2, 3], 1 - collide[3, 2]]))
    assert_allclose(loss[0], [*expected, 0, 0, 0, 0])


def test_the_partner_of_a_group_is_the_mean_of_the_others(links, proba):
    partners = find_partners(links, proba)
    labels = partners.labels[partners.of[[3]].indices]  # 2 and 4; not 0 or 1
    expected = [proba[[2, 4]].mean(axis=0), 1 - proba[[0, 1]].mean(axis=0)]
    assert_allclose(labels, expected)


def test_gradient_is_that_of_finite_differences(links, proba, rng):
    rows = np.array([6, 3, 5, 0, 2])
    partners = find_partners(links, proba)
    shape = 2, len(rows), 3

    def value(z):
        return link_loss_and_gradient(z.reshape(shape), partners, rows)[0].sum()

    def gradient(z):
        return link_loss_and_gradient(z.reshape(shape), partners, rows)[1].ravel()

    assert check_grad(value, gradient, rng.normal(0, 2, size=30)) < 1e-5


@pytest.mark.parametrize("graph", [None, np.eye(8)])
def test_objective_adds_the_link_loss(links, proba, rng, graph):
    logits = rng.normal(0, 2, size=(2, 8, 3))
    batch = Batch(np.arange(8))
    target = np.eye(3)[[0, 0, 1, 1, 1, 2, 2, 2]]  # so that links change no label
    values, gradients = [], []
    for given in (None, links._replace(weight=0.7)):
        objective = Collision(view_weight=0.5, label_weight=1.0)
        objective.begin_epoch(Epoch(proba, graph, links=given))
        value, gradient = objective(logits, batch._replace(target=target))
        values.append(value)
        gradients.append(gradient)
    loss, slope = link_loss_and_gradient(
        logits, find_partners(links, proba), batch.rows
    )
    scale = np.array([0.7 / 8, 0.7 * 0.5 / 8])
    assert_allclose(values[1] - values[0], scale @ loss.sum(axis=1))
    assert_allclose(
        gradients[1] - gradients[0],
        scale[:, np.newaxis, np.newaxis] * slope,
        atol=1e-12,
    )


def test_without_neighbors_pseudo_labels_of_linked_samples_agree(links, proba):
    objective = Collision()
    objective.begin_epoch(Epoch(proba, links=links))
    labels = objective._solve(proba, Batch(np.arange(8)))
    assert_allclose(labels[0], labels[1])
    assert_allclose(labels[2], labels[4])
    assert np.abs(labels[5] - labels[7]).max() > 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_certain_predictions_are_no_problem(links, dtype):
    proba = np.eye(3, dtype=dtype)[[0, 1, 2, 2, 0, 1, 0, 1]]
    logits = 1e4 * proba[np.newaxis]
    agreed = agree(links, proba)
    assert agreed.dtype == dtype
    assert_allclose(agreed.sum(axis=1), 1, rtol=1e-6)
    partners = find_partners(links, proba)
    loss, gradient = link_loss_and_gradient(logits, partners, np.arange(8))
    assert loss.dtype == gradient.dtype == dtype
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()


def test_linked_predictions_agree(links, proba):
    agreed = agree(links, proba)
    assert_array_equal(agreed[0], agreed[1])
    assert_array_equal(agreed[2], agreed[3])
    assert_array_equal(agreed[[5, 7]], proba[[5, 7]])
    # Who is surer stays, and the other one makes way.
    links = find_links(None, [(0, 1)], 1.0, 2)
    one, other = agree(links, np.array([[0.98, 0.01, 0.01], [0.6, 0.4, 0]]))
    assert one.argmax() == 0
    assert other.argmax() == 1


# --- The fit ------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [[], np.empty((0, 2), dtype=int)])
def test_without_pairs_nothing_changes(blobs, pairs):
    plain = CollisionClusterer(4, random_state=0)
    empty = clone(plain).set_params(must_link=pairs, cannot_link=pairs, link_weight=9.0)
    assert_same_fit(empty.fit(blobs[0]), plain.fit(blobs[0]))


@pytest.mark.slow
def test_the_order_does_not_matter(digits, rng):
    X, y = digits[0][:300], digits[1][:300]
    must, cannot = pairs_of(y, 40, rng)
    one = CollisionClusterer(10, must_link=must, cannot_link=cannot, random_state=0)
    other = clone(one).set_params(
        must_link=[*must[::-1, ::-1].tolist(), must[0]],
        cannot_link=rng.permutation(cannot)[:, ::-1],
    )
    assert_same_fit(other.fit(X), one.fit(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"prior": None},
        {"prior": "learn"},
        {"n_clusters": "auto"},
        {"n_neighbors": 0},
        {"init": "random"},
        {"divergence": "forward"},
    ],
    ids=str,
)
def test_pairs_hold_where_clusters_are_apart(parameters, rng):
    X, y = make_blobs(300, centers=4, cluster_std=0.5, random_state=3)
    must, cannot = pairs_of(y, 20, rng)
    clusterer = CollisionClusterer(
        4, must_link=must, cannot_link=cannot, random_state=0
    ).set_params(**parameters)
    clusterer.fit(X.astype(np.float32))
    assert n_violated(clusterer.labels_, must, cannot) == (0, 0)
    assert_array_equal(clusterer.labels_, clusterer.predict(X.astype(np.float32)))


@pytest.mark.parametrize("n_neighbors", ["auto", 0])
def test_pairs_say_which_of_two_clusterings(two_halves, rng, n_neighbors):
    X, y = two_halves
    must, cannot = pairs_of(y, 10, rng)
    plain = CollisionClusterer(2, n_neighbors=n_neighbors, random_state=0)
    assert adjusted_rand_score(y, plain.fit_predict(X)) < 0.5
    linked = clone(plain).set_params(must_link=must, cannot_link=cannot)
    assert adjusted_rand_score(y, linked.fit_predict(X)) > 0.9
    assert n_violated(linked.labels_, must, cannot) == (0, 0)


@pytest.mark.slow
def test_the_shape_of_the_clusters_is_not_lost(rng):
    X, y = make_moons(400, noise=0.08, random_state=0)
    must, cannot = pairs_of(y, 10, rng)
    clusterer = CollisionClusterer(
        2, must_link=must, cannot_link=cannot, random_state=0
    )
    assert adjusted_rand_score(y, clusterer.fit_predict(X)) > 0.95


@pytest.mark.slow
def test_pairs_make_digits_better(digits, rng):
    X, y = digits
    must, cannot = pairs_of(y, 200, rng)
    plain = CollisionClusterer(10, random_state=0)
    linked = clone(plain).set_params(must_link=must, cannot_link=cannot)
    before = adjusted_rand_score(y, plain.fit_predict(X))
    assert adjusted_rand_score(y, linked.fit_predict(X)) > before + 0.03
    assert n_violated(linked.labels_, must, cannot) == (0, 0)


def test_rows_of_weight_zero_may_be_linked(two_halves, rng):
    X, y = two_halves
    must, cannot = pairs_of(y, 20, rng)
    weight = np.ones(len(X))
    weight[must[:5, 0]] = 0
    clusterer = CollisionClusterer(
        2, must_link=must, cannot_link=cannot, random_state=0
    )
    clusterer.fit(X, sample_weight=weight)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9


def test_cannot_link_asks_for_two_clusters(rng):
    X = rng.normal(size=(200, 2))
    left, right = X[:, 0].argmin(), X[:, 0].argmax()
    plain = CollisionClusterer("auto", random_state=0).fit(X)
    linked = CollisionClusterer("auto", cannot_link=[(left, right)], random_state=0)
    assert plain.n_clusters_ == 1
    assert linked.fit(X).n_clusters_ == 2


@pytest.mark.slow
def test_a_network_takes_pairs(two_halves, rng):
    X, y = two_halves
    must, cannot = pairs_of(y, 40, rng)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
    clusterer = CollisionClusterer(
        2,
        model=DeepSoftmax(network, augment=None, lr=1e-2),
        must_link=must,
        cannot_link=cannot,
        batch_size=20,
        random_state=0,
    )
    assert n_violated(clusterer.fit_predict(X), must, cannot) == (0, 0)


# --- Copies and files ---------------------------------------------------------


@pytest.fixture(scope="module")
def linked(two_halves):
    X, y = two_halves
    must, cannot = pairs_of(y, 10, np.random.default_rng(1))
    clusterer = CollisionClusterer(
        2, must_link=must, cannot_link=cannot, random_state=0
    )
    return clusterer.fit(X)


@pytest.mark.slow
def test_copies_keep_the_pairs(linked, two_halves):
    X, _ = two_halves
    for copy in (clone(linked), pickle.loads(pickle.dumps(linked))):
        assert_array_equal(copy.get_params()["must_link"], linked.must_link)
        assert_array_equal(copy.get_params()["cannot_link"], linked.cannot_link)
        assert_same_fit(copy.fit(X), linked)


def test_save_and_load(linked, two_halves, tmp_path):
    X, _ = two_halves
    linked.save(tmp_path / "linked.npz")
    loaded = CollisionClusterer(2).load(tmp_path / "linked.npz")
    assert_array_equal(loaded.predict_proba(X), linked.predict_proba(X))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [{}, {"prior": "learn"}, {"n_clusters": "auto"}, {"n_neighbors": 0}],
    ids=str,
)
def test_a_run_goes_on_after_an_interrupt(
    digits, rng, tmp_path, monkeypatch, parameters
):
    X, y = digits[0][:300], digits[1][:300]
    must, cannot = pairs_of(y, 30, rng)
    clusterer = CollisionClusterer(
        10, must_link=must, cannot_link=cannot, random_state=0
    ).set_params(**parameters)
    whole = clone(clusterer).fit(X)
    path = tmp_path / "run.npz"
    write, n_written = Checkpoint.write, []

    def interrupt(*args):
        write(*args)
        n_written.append(0)
        if len(n_written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", interrupt)
        with pytest.warns(UserWarning, match="interrupted after 2 epochs"):
            clone(clusterer).set_params(checkpoint=path).fit(X)
    assert_same_fit(clone(clusterer).set_params(checkpoint=path).fit(X), whole)
    assert_array_equal(
        whole.prior_,
        CollisionClusterer(2)
        .set_params(n_clusters=whole.n_clusters_)
        .load(path)
        .prior_,
    )
    other = clone(clusterer).set_params(checkpoint=path, must_link=must[1:])
    with pytest.raises(ValueError, match="must_link"):
        other.fit(X)


@pytest.mark.parametrize("at_epoch", [0, 2])
def test_interrupted_while_a_start_is_fitted(two_halves, rng, monkeypatch, at_epoch):
    X, y = two_halves
    must, cannot = pairs_of(y, 10, rng)
    begin_epoch, n_begun = Collision.begin_epoch, []

    def interrupt(objective, epoch):
        begin_epoch(objective, epoch)
        n_begun.append(0)
        if len(n_begun) == at_epoch + 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Collision, "begin_epoch", interrupt)
    clusterer = CollisionClusterer(
        2, must_link=must, cannot_link=cannot, prior=None, random_state=0
    )
    with pytest.warns(UserWarning, match="interrupted after 0 epochs"):
        clusterer.fit(X)
    assert clusterer.predict_proba(X).shape == (240, 2)
