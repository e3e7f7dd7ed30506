import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.cluster.hierarchy import (
    dendrogram,
    fcluster,
    is_monotonic,
    is_valid_linkage,
)
from scipy.special import softmax
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from skcce import CollisionClusterer
from skcce._linear import LinearSoftmax
from skcce._neighbors import (
    index_of,
    random_walk,
    search,
    without_itself,
)
from skcce._tree import (
    ClusterTree,
    collisions,
    crossing,
    grow,
    intrinsic_dimension,
    joining_order,
    noise,
    undoing_order,
)


def neighbors_of(X, n_neighbors=10):
    return without_itself(*search(index_of(X, n_neighbors, "exact"), X))


def cells(X, n_cells, rng):
    """Fine clusters: the rows nearest to some of them; a model and labels."""
    model = LinearSoftmax()
    centers = X[rng.choice(len(X), n_cells, replace=False)]
    labels = ((X[:, None] - centers) ** 2).sum(axis=2).argmin(axis=1)
    model.initialize(
        X, n_cells, labels=labels, sample_weight=None, random_state=np.random
    )
    return model, labels


def tree_of(X, n_cells=25, seed=0, names=None):
    model, labels = cells(X, n_cells, np.random.default_rng(seed))
    if names is not None:
        model, labels = model.units(np.argsort(names)), names[labels]
    distances, nearest = neighbors_of(X)
    return grow(model, labels, random_walk(nearest, None, X.dtype)[0], distances, None)


def random_collisions(rng, n, reach=2.0):
    points = rng.normal(size=(n, 3))
    squares = ((points[:, None] - points) ** 2).sum(axis=2)
    together = np.exp(-reach * squares) * rng.uniform(0.5, 1, (n, n))
    together += together.T
    return together / together.sum()


def in_a_cloud(shares):
    return crossing(1000 * shares, 3.0, 10)


def assert_same_partition(one, other):
    assert adjusted_rand_score(one, other) == 1


@pytest.mark.parametrize("centers", [1, 4])
def test_linkage_is_scipys(centers):
    X, _ = make_blobs(400, n_features=3, centers=centers, random_state=0)
    tree = tree_of(X)
    linkage = tree.linkage
    assert is_valid_linkage(linkage)
    assert is_monotonic(linkage)
    assert linkage[-1, 3] == len(tree.sizes)
    for n_clusters in range(1, len(tree.sizes) + 1):
        expected = fcluster(linkage, n_clusters, criterion="maxclust")
        cut = tree.cut(n_clusters)
        assert_array_equal(np.unique(cut), np.arange(n_clusters))
        if expected.max() == n_clusters:  # not always in SciPy 1.13
            assert_same_partition(cut, expected)
        # In the order of their first fine cluster.
        assert (np.diff(np.unique(cut, return_index=True)[1]) > 0).all()
    natural = fcluster(linkage, 1, criterion="distance")
    assert_same_partition(tree.cut(tree.n_clusters), natural)
    _, axes = plt.subplots()
    assert len(dendrogram(linkage, ax=axes)["leaves"]) == len(tree.sizes)
    plt.close("all")


def test_a_finer_cut_divides_one_cluster():
    tree = tree_of(make_blobs(400, centers=3, random_state=0)[0])
    for n_clusters in range(1, len(tree.sizes)):
        coarse, fine = tree.cut(n_clusters), tree.cut(n_clusters + 1)
        pairs = set(zip(coarse.tolist(), fine.tolist(), strict=True))
        assert len(pairs) == n_clusters + 1


def test_shares_are_those_of_the_labels():
    tree = tree_of(make_blobs(400, centers=3, random_state=0)[0])
    for n_clusters in (1, 3, 10):
        labels = tree.cut(n_clusters)[tree.labels]
        assert_allclose(tree.shares(n_clusters), np.bincount(labels) / 400)


def test_names_of_fine_clusters_do_not_matter():
    X, _ = make_blobs(400, n_features=3, centers=4, random_state=0)
    names = np.random.default_rng(1).permutation(25)
    tree, other = tree_of(X), tree_of(X, names=names)
    assert tree.n_clusters == other.n_clusters
    assert_allclose(tree.linkage[:, 2], other.linkage[:, 2], atol=1e-8)
    for n_clusters in range(1, 26):
        assert_same_partition(
            tree.cut(n_clusters)[tree.labels], other.cut(n_clusters)[other.labels]
        )
    X = X[:20]
    assert_allclose(
        np.sort(tree.joined(4).decision_function(X)),
        np.sort(other.joined(4).decision_function(X)),
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_collisions_against_their_sum(rng, weighted):
    X, labels = rng.normal(size=(40, 2)), rng.permutation(np.arange(40) % 5)
    weight = rng.uniform(0.5, 2, 40) if weighted else None
    ones = np.ones(40) if weight is None else weight / weight.mean()
    walk = random_walk(neighbors_of(X, 4)[1], weight, np.float64)[0]
    expected, dense = np.zeros((5, 5)), walk.toarray()
    for i in range(40):
        for j in range(40):
            expected[labels[i], labels[j]] += ones[i] * dense[i, j] / 80
            expected[labels[j], labels[i]] += ones[i] * dense[i, j] / 80
    together = collisions(walk, labels, None if weight is None else ones)
    assert_allclose(together, expected)
    assert_allclose(together.sum(), 1)
    # The walk stays near the weights, not at them: a hub is visited more often.
    shares = np.bincount(labels, ones) / 40
    assert_allclose(together.sum(axis=1), shares, atol=0.05)


@pytest.mark.parametrize(
    ("dimension", "tolerance"),
    # In many dimensions, neighborhoods reach beyond the faces of the cube.
    [(1, 0.15), (2, 0.1), (3, 0.1), (8, 0.5)],
)
def test_crossing_of_a_cube_cut_in_two(rng, dimension, tolerance):
    X = rng.uniform(size=(3000, dimension))
    nearest = neighbors_of(X)[1]
    shares = []
    # As many pairs cross any plane of one axis.
    for position in np.linspace(0.2, 0.8, 31):
        side = position < X
        shares.append((side[:, None] != side[nearest]).mean())
    expected = crossing(np.array([3000.0]), dimension, 10)[0]
    share = np.mean(shares)
    assert_allclose(share / (1 - share), expected, rtol=tolerance)


def test_crossing_is_a_similarity():
    n_samples = np.array([1.0, 10.0, 1e3, 1e6, 1e12])
    for dimension in (1.0, 2.5, 10.0, 100.0):
        values = crossing(n_samples, dimension, 10)
        assert (np.diff(values) <= 0).all()
        assert values.min() > 0
        assert values.max() <= 1


@pytest.mark.parametrize(("dimension", "tolerance"), [(1, 0.15), (2, 0.15), (5, 0.25)])
def test_dimension_of_uniform_rows(rng, dimension, tolerance):
    X = rng.uniform(size=(3000, dimension))
    # Too small by the edges, where neighbors are on one side.
    assert_allclose(intrinsic_dimension(neighbors_of(X)[0]), dimension, rtol=tolerance)
    # In a space of more dimensions, turned, in another unit.
    turned = 1e6 * X @ np.linalg.qr(rng.normal(size=(9, 9)))[0][:dimension]
    assert_allclose(
        intrinsic_dimension(neighbors_of(turned)[0]),
        intrinsic_dimension(neighbors_of(X)[0]),
        rtol=1e-6,
    )


def test_dimension_of_hardly_any_distances():
    assert intrinsic_dimension(np.zeros((5, 10))) == 1
    assert intrinsic_dimension(np.ones((5, 10))) == 1
    assert intrinsic_dimension(np.ones((5, 2))) == 1
    copies = np.repeat(np.random.default_rng(0).normal(size=(50, 2)), 3, axis=0)
    assert 1 <= intrinsic_dimension(neighbors_of(copies)[0]) < 10


@pytest.mark.parametrize("n", [1, 2, 3, 10, 40])
@pytest.mark.parametrize("reach", [0.5, 2.0, 10.0, 50.0])
def test_joins_and_their_undoing(rng, n, reach):
    together = random_collisions(rng, n, reach)
    given = together.copy()
    joins, weights, n_before = joining_order(together, in_a_cloud)
    assert_array_equal(together, given)
    assert joins.shape == (n - 1, 2)
    assert weights.shape == (n - 1,)
    assert isinstance(n_before, int)
    assert 0 <= n_before <= n - 1
    # Each cluster becomes part of one before it, once; the first is left.
    assert_array_equal(np.sort(joins[:, 1]), np.arange(1, n))
    assert (joins[:, 0] < joins[:, 1]).all()
    # Collisions of what is joined before the cut.
    at = np.arange(n)
    for (kept, gone), weight in zip(joins[:n_before], weights, strict=False):
        assert_allclose(together[np.ix_(at == kept, at == gone)].sum(), weight)
        at[at == gone] = kept
    assert (weights >= 0).all()
    # No join is undone before what it became part of; those above the cut come first.
    order = undoing_order(joins, weights, n_before)
    assert sorted(order) == list(range(n - 1))
    assert order[: n - 1 - n_before] == list(range(n - 1))[::-1][: n - 1 - n_before]
    done = set()
    for join in order:
        later = [i for i in range(join + 1, n - 1) if set(joins[i]) & set(joins[join])]
        assert all(i in done for i in later if joins[join][0] in joins[i])
        done.add(join)


def test_nothing_is_similar_again_beyond_the_cut():
    """Joined at a cost, two clusters may be as similar to a third as it takes."""
    together = np.full((3, 3), 0.2) + 0.8 * np.eye(3)
    joins, weights, n_before = joining_order(
        together / together.sum(), lambda shares: np.ones_like(shares)
    )
    joint = together[0, 2] + together[1, 2]
    own = together[:2, :2].sum()
    assert joint / np.sqrt(own) > 0.22
    assert n_before == 0
    assert len(joins) == len(weights) == 2


def test_very_small_clusters_are_joined_to_the_most_similar_ones():
    together = np.diag([0.3, 0.3, 0.001, 0.3])
    together[1, 2] = together[2, 1] = 1e-5
    joins, _, n_before = joining_order(
        together / together.sum(), lambda shares: np.ones_like(shares)
    )
    assert_array_equal(joins[0], [1, 2])
    assert n_before == 1


def test_equal_tiny_and_disconnected_clusters_are_joined_somehow():
    for together in (
        np.eye(6) / 6,
        np.ones((6, 6)) / 36,
        np.diag([0.7, 0.1, 0.1, 0.1]),
    ):
        joins, weights, n_before = joining_order(together, in_a_cloud)
        assert len(joins) == len(together) - 1
        assert np.isfinite(weights).all()
        order = undoing_order(joins, weights, n_before)
        assert sorted(order) == list(range(len(joins)))


def test_noise_is_a_floor_under_the_lift(rng):
    n = 60
    blocks = np.kron(np.eye(12), np.full((5, 5), 1.0))
    for level in (0.0, 0.01):
        total = (blocks + level).sum()
        expected = level / total * n**2
        assert_allclose(noise((blocks + level) / total), expected, atol=1e-12)
    # In a cloud, most clusters are adjacent: none of it is noise.
    cloud = np.full((n, n), 1.0) + rng.uniform(0, 0.1, (n, n))
    cloud += cloud.T + 60 * np.eye(n)
    assert noise(cloud / cloud.sum()) == 0
    assert noise(np.ones((1, 1))) == 0


@pytest.mark.parametrize("n_clusters", [0, -1, 26, 2.0, "auto", None])
def test_cuts_that_are_none(n_clusters):
    tree = tree_of(make_blobs(400, centers=3, random_state=0)[0])
    with pytest.raises(ValueError, match=r"n_clusters=.* between 1 and the 25 fine"):
        tree.cut(n_clusters)


def test_predictions_of_a_cut_are_sums():
    X, _ = make_blobs(400, centers=3, random_state=0)
    tree = tree_of(X)
    proba = softmax(tree.model.decision_function(X), axis=1)
    for n_clusters in (1, 3, 10, 25):
        groups = tree.cut(n_clusters)
        joined = softmax(tree.joined(n_clusters).decision_function(X), axis=1)
        expected = np.stack(
            [proba[:, groups == k].sum(axis=1) for k in range(n_clusters)], axis=1
        )
        assert_allclose(joined, expected, atol=1e-12)


def test_state_goes_around():
    X, _ = make_blobs(400, centers=3, random_state=0)
    tree = tree_of(X)
    other = ClusterTree.from_state(tree.get_state(), LinearSoftmax())
    assert_array_equal(tree.linkage, other.linkage)
    assert_array_equal(tree.labels, other.labels)
    assert tree.n_clusters == other.n_clusters
    assert_array_equal(
        tree.joined(5).decision_function(X), other.joined(5).decision_function(X)
    )


def twice(linkage):
    linkage = linkage.copy()
    linkage[3, :2] = linkage[2, :2]
    return linkage


@pytest.mark.parametrize(
    "change",
    [
        {"linkage": twice},
        {"linkage": lambda linkage: linkage[:-1]},
        {"linkage": lambda linkage: linkage[:, :3]},
        {"linkage": lambda linkage: -linkage},
        {"labels": lambda labels: labels + 1},
        {"labels": lambda labels: labels[:, None]},
        {"sizes": lambda sizes: sizes[1:]},
        {"n_clusters": lambda n_clusters: 0},
        {"n_clusters": lambda n_clusters: 1000},
    ],
)
def test_states_that_are_none(change):
    state = tree_of(make_blobs(400, centers=3, random_state=0)[0]).get_state()
    for name, of in change.items():
        state[name] = of(state[name])
    with pytest.raises(ValueError, match="do not fit together"):
        ClusterTree.from_state(state, LinearSoftmax())


def number_in(X, seed=0, **parameters):
    clusterer = CollisionClusterer("auto", random_state=seed, **parameters).fit(X)
    assert isinstance(clusterer.n_clusters_, int)
    return clusterer.n_clusters_


@pytest.mark.parametrize("n_features", [2, 20])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize(
    "n_samples", [100, 300, pytest.param(3000, marks=pytest.mark.slow)]
)
def test_a_cloud_is_one_cluster(n_samples, kind, n_features):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        X = getattr(rng, kind)(size=(n_samples, n_features))
        assert number_in(X, seed) == 1


@pytest.mark.parametrize(
    "sizes",
    [
        [60] * 2,
        [75] * 4,
        [100] * 8,
        [400, 200, 100, 50, 20],
        pytest.param([1000, 500, 200, 100, 50], marks=pytest.mark.slow),
        pytest.param([150] * 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("n_features", [3, 20])
def test_blobs_far_apart_are_counted(sizes, n_features):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(len(sizes), n_features))
        centers = np.concatenate([centers, centers + 1])[: len(sizes)]
        gaps = np.linalg.norm(centers[:, None] - centers, axis=2)
        centers *= 16 / gaps[np.triu_indices(len(sizes), 1)].min()
        X, y = make_blobs(sizes, centers=centers, random_state=seed)
        clusterer = CollisionClusterer("auto", random_state=seed).fit(X)
        assert clusterer.n_clusters_ == len(sizes)
        assert adjusted_rand_score(y, clusterer.labels_) == 1
        assert_allclose(np.sort(clusterer.prior_), np.sort(sizes) / len(X))
