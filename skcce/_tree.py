"""The tree of clusters: which ones are joined, in which order, and where to stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import gammaln
from sklearn.base import clone

from skcce._constraints import Links, balance
from skcce._linear import LinearSoftmax, native

__all__ = ["ClusterTree"]

# Two clusters are kept apart if their neighbors collide less often than this share of
# what they would in a uniform cloud.
_VALLEY = 0.22
# Neighbors that are no more than noise: the lift of this quantile of pairs, at most.
_NOISE_QUANTILE, _MOST_NOISE = 0.75, 0.3
# A cluster may be adjacent to this many others, whose collisions are no noise.
_ADJACENT = 8
# A fine cluster of less than this part of an equal share is joined at once.
_DUST = 0.2
# Rows nearer than this are copies; they have mean square norm 1.
_COPY = 1e-6
# Similarities are cut off below this, so that heights are finite.
_LEAST = 1e-3
_SMALLEST = 1e-150  # whose square is not 0
# Heights that would be equal differ by this.
_STEP = 1e-9


@dataclass(eq=False)
class ClusterTree:
    r"""Fine clusters, and the order in which they are joined.

    Attributes
    ----------
    linkage : ndarray of shape (n_leaves - 1, 4)
        The joins in SciPy's format (:func:`scipy.cluster.hierarchy.linkage`); the
        leaves are the fine clusters. Heights are below 1 before the natural cut, and
        fall with the share of neighbors that the join brings together; above it they
        are 1 + ln(1 + cost), and the cost is the smaller share, divided by how similar
        the two clusters are.
    labels : ndarray of shape (n_samples,)
        Fine cluster of each training sample.
    sizes : ndarray of shape (n_leaves,)
        Samples in each fine cluster, by weight.
    n_clusters : int
        Number of clusters at the natural cut, where there is a valley between any two.
    model : LinearSoftmax
        The model of the fine clusters.
    units : ndarray of shape (n_leaves,) or None
        Their numbers in training, where some may have stayed empty.
    """

    linkage: NDArray
    labels: NDArray
    sizes: NDArray
    n_clusters: int
    model: LinearSoftmax = field(repr=False)
    units: NDArray | None = field(default=None, repr=False)

    def cut(self, n_clusters: int) -> NDArray:
        """Return the cluster that each fine cluster belongs to.

        Parameters
        ----------
        n_clusters : int
            Number of clusters, at most that of the fine ones.

        Returns
        -------
        ndarray of shape (n_leaves,)
            Clusters, integers from 0 to n_clusters - 1, in the order of their first
            fine cluster.

        Raises
        ------
        ValueError
            If there are fewer fine clusters.
        """
        n_leaves = len(self.linkage) + 1
        if not isinstance(n_clusters, Integral) or not 1 <= n_clusters <= n_leaves:
            raise ValueError(
                f"n_clusters={n_clusters!r} must be an integer between 1 and the "
                f"{n_leaves} fine clusters of the tree."
            )
        return join(self.linkage[: n_leaves - n_clusters, :2].astype(int), n_leaves)

    def shares(self, n_clusters: int) -> NDArray:
        """Return the shares of the clusters of a cut, by weight, (n_clusters,)."""
        weight = np.bincount(self.cut(n_clusters), weights=self.sizes)
        return weight / weight.sum()

    def joined(self, n_clusters: int) -> LinearSoftmax:
        """Return the model whose predictions are sums of those of fine clusters."""
        return self.model.joined(self.cut(n_clusters))

    def get_state(self) -> dict[str, Any]:
        """Return the tree as numbers and arrays."""
        state = self.model.get_state()
        state.pop("optimizer", None)
        return {
            "linkage": self.linkage,
            "labels": self.labels,
            "sizes": self.sizes,
            "n_clusters": self.n_clusters,
            "model": state,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], model: LinearSoftmax) -> Self:
        """Return the tree of a state; raise ValueError if it is none.

        `model` has the parameters of that of the fine clusters.
        """
        names = ("linkage", "labels", "sizes")
        linkage, labels, sizes = (native(state[name]) for name in names)
        n_clusters, n_leaves = state["n_clusters"], len(linkage) + 1
        model = clone(model).set_state(state["model"])
        if (
            not is_linkage(linkage)
            or labels.dtype.kind != "i"
            or labels.ndim != 1
            or not np.isin(labels, np.arange(n_leaves)).all()
            or sizes.dtype != np.float64
            or sizes.shape != (n_leaves,)
            or not (np.isfinite(sizes).all() and (sizes > 0).all())
            or type(n_clusters) is not int
            or not 1 <= n_clusters <= n_leaves
            or model.groups_ is not None
            or len(model.coef_) != n_leaves
        ):
            raise ValueError("the parts of the tree do not fit together")
        return cls(linkage, labels, sizes, n_clusters, model)


def grow(
    model: LinearSoftmax,
    labels: NDArray,
    walk: csr_array,
    distances: NDArray,
    weight: NDArray | None,
    links: Links | None = None,
) -> ClusterTree:
    """Return the tree of the clusters of a model.

    labels : cluster of each sample, (n_samples,).
    walk : one step from neighbor to neighbor, (n_samples, n_samples).
    distances : those to the nearest neighbors, (n_samples, n_neighbors).
    weight : weights of the samples, of mean 1, or None.
    links : which samples must, or cannot, be in one cluster, or None.
    """
    used, labels = np.unique(labels, return_inverse=True)
    linked = 0.0 if links is None else balance(links, labels) / len(labels)
    linkage, n_clusters = link(collisions(walk, labels, weight), distances, linked)
    return ClusterTree(
        linkage,
        labels,
        np.bincount(labels, weights=weight).astype(np.float64),
        n_clusters,
        model.units(used),
        used,
    )


def link(
    together: NDArray,
    distances: NDArray,
    linked: NDArray | float = 0.0,
    level: float | None = None,
) -> tuple[NDArray, int]:
    """Return in which order clusters are joined, and their number at the natural cut.

    together : how often a sample and its neighbor lie in clusters k and l, (n, n).
    distances : those of the samples to their neighbors, (n_samples, n_neighbors).
    linked : what links add to the collisions beyond noise, (n, n).
    level : the lift of noise, if more is known of it than `together` tells.
    """
    n_samples, n_neighbors = distances.shape
    dimension = intrinsic_dimension(distances)
    joins, weights, n_before = joining_order(
        together,
        lambda shares: crossing(n_samples * shares, dimension, n_neighbors),
        linked,
        level,
    )
    order = undoing_order(joins, weights, n_before)[::-1]
    linkage = _scipy_linkage(joins[order], _heights(weights[order], n_before))
    return linkage, len(together) - n_before


def collisions(walk: csr_array, labels: NDArray, weight: NDArray | None) -> NDArray:
    """Return how often a sample and its neighbor lie in clusters k and l.

    A symmetric matrix (n_clusters, n_clusters) that sums to 1.
    """
    n_samples, n_clusters = len(labels), labels.max() + 1
    ones = np.ones(n_samples) if weight is None else weight.astype(np.float64)
    member = csr_array(
        (ones, labels, np.arange(n_samples + 1)), shape=(n_samples, n_clusters)
    )
    plain = csr_array((np.ones(n_samples), labels, np.arange(n_samples + 1)))
    together = (member.T @ (walk @ plain)).toarray() / ones.sum()
    return (together + together.T) / 2


def noise(together: NDArray) -> float:
    """Return the lift that neighbors have between clusters that are not adjacent.

    Some neighbors are no more than noise, and lead anywhere: a quantile of the lift
    J_kl / (p_k p_l) over all pairs of clusters, by weight. If that is as large as the
    mean, most clusters are adjacent, as in a single cloud of many dimensions, and there
    is nothing that tells noise.
    """
    shares = together.sum(axis=1)
    pairs = np.triu_indices(len(shares), 1)
    weight = np.outer(shares, shares)[pairs]
    if not len(weight):
        return 0.0
    lift = together[pairs] / weight
    order = np.argsort(lift, kind="stable")
    ahead = np.cumsum(weight[order])
    not_adjacent = min(_NOISE_QUANTILE, max(0, 1 - _ADJACENT / (len(shares) - 1)))
    rank = np.searchsorted(ahead, not_adjacent * ahead[-1])
    level = float(lift[order[rank]])
    is_cloud = level >= np.average(lift, weights=weight)
    return 0.0 if is_cloud else min(level, _MOST_NOISE)


def intrinsic_dimension(distances: NDArray) -> float:
    """Return the maximum-likelihood estimate of Levina and Bickel.

    From the distances (n_samples, n_neighbors) to the nearest neighbors, in increasing
    order; inverses are averaged (MacKay and Ghahramani). Only the farther half of the
    neighbors counts: the nearest ones may be copies of a row.
    """
    n_neighbors = distances.shape[1]
    half = n_neighbors // 2
    distances = distances[:, max(half - 1, 0) :].astype(np.float64)
    distances = distances[distances[:, 0] > _COPY]
    if n_neighbors < 3 or not len(distances):
        return 1.0
    inverse = np.log(distances[:, -1:] / distances[:, :-1]).sum() / len(distances)
    # The mean of log(d_k / d_j) is that of 1 / j + ... + 1 / (k - 1), over d.
    ranks = np.arange(max(half, 1), n_neighbors)
    expected = np.cumsum(1 / ranks[::-1]).sum()
    return max(1.0, expected / inverse) if inverse > 0 else 1.0


def crossing(n_samples: NDArray, dimension: float, n_neighbors: int) -> NDArray:
    """Return the collision similarity of the two halves of a uniform cube.

    A plane through the middle of `n_samples` points separates the share f of the pairs
    of neighbors: the mean extent of a pair along one axis. Then J_kl = f/2 and J_kk =
    (1 - f)/2, whose ratio is the similarity. Shape of `n_samples`.
    """
    ball = dimension / 2 * np.log(np.pi) - gammaln(dimension / 2 + 1)  # log-volume
    n_samples = np.maximum(n_samples, n_neighbors + 1)
    radius = np.exp((np.log(n_neighbors / n_samples) - ball) / dimension)
    mean_radius = radius * dimension / (dimension + 1)
    along_axis = np.exp(gammaln(dimension / 2) - gammaln((dimension + 1) / 2))
    share = np.minimum(mean_radius * along_axis / np.sqrt(np.pi), 0.5)
    return share / (1 - share)


def joining_order(
    together: NDArray,
    expected: Callable[[NDArray], NDArray],
    linked: NDArray | float = 0.0,
    level: float | None = None,
) -> tuple[NDArray, NDArray, int]:
    r"""Join clusters two by two, until there is only one.

    With :math:`B = J - \rho\, p p^\top`, the collisions beyond noise, two clusters have
    the similarity :math:`B_{kl} / \sqrt{B_{kk} B_{ll}}`, relative to what is expected
    in a uniform cloud of their size. Collisions add up when clusters are joined. At
    first, what is very small is joined to the most similar; then the two most similar
    clusters are, while there is less than a valley between them; beyond this natural
    cut, those of the least cost: the smaller share, divided by the similarity.

    Parameters
    ----------
    together : ndarray of shape (n, n)
        Collisions J.
    expected : callable
        Maps shares :math:`p_k + p_l` of the samples to the expected similarity.
    linked : ndarray of shape (n, n), default=0.0
        What links add to the collisions beyond noise, or take from them.
    level : float, default=None
        The lift :math:`\rho` of noise; None for what `noise` tells of `together`.

    Returns
    -------
    joins : ndarray of shape (n - 1, 2)
        The second cluster becomes part of the first.
    weights : ndarray of shape (n - 1,)
        Collisions J_kl of those before the natural cut, costs of the others.
    n_before : int
        Number of joins before the natural cut.
    """
    n = len(together)
    shares, joint = together.sum(axis=1), together.copy()
    level = noise(together) if level is None else level
    beyond = together - level * np.outer(shares, shares) + linked
    is_there = np.ones(n, dtype=bool)

    def similarities(some):
        """Return those of some clusters to all; -inf to itself and to what is gone."""
        own = np.maximum(beyond.diagonal(), _SMALLEST)
        rows = beyond[some] / np.sqrt(np.outer(own[some], own))
        rows /= expected(shares[some][:, np.newaxis] + shares)
        rows[np.arange(len(some)), some] = -np.inf
        rows[:, ~is_there] = -np.inf
        return rows

    similarity = similarities(np.arange(n))
    joins, weights, n_before = [], [], n
    for number in range(n - 1):
        score = similarity
        is_dust = is_there & (shares < _DUST / n)
        if is_dust.any():
            score = np.where(is_dust[:, np.newaxis], similarity, -np.inf)
        elif similarity.max() < _VALLEY:
            # What is joined beyond the cut may become similar again: no way back.
            n_before = min(n_before, number)
        if number >= n_before:
            smaller = np.minimum(shares[:, np.newaxis], shares)
            score = np.where(
                np.isneginf(similarity), -np.inf, -smaller / similarity.clip(_LEAST)
            )
        pair = np.unravel_index(np.argmax(score), score.shape)
        kept, gone = sorted(pair)
        joins.append((kept, gone))
        weights.append(joint[kept, gone] if number < n_before else -score[pair])
        for matrix in (joint, beyond):
            matrix[kept] += matrix[gone]
            matrix[:, kept] += matrix[:, gone]
        shares[kept] += shares[gone]
        shares[gone], is_there[gone] = 0, False
        similarity[gone] = similarity[:, gone] = -np.inf
        similarity[kept] = similarity[:, kept] = similarities(np.array([kept]))[0]
    joins = np.array(joins, dtype=int).reshape(-1, 2)
    return joins, np.array(weights), min(n_before, n - 1)


def undoing_order(joins: NDArray, weights: NDArray, n_before: int) -> list[int]:
    """Return in which order the joins are undone.

    Beyond the natural cut, a cluster is divided where that parts the fewest neighbors:
    a large one is not cut in two before small ones have left it.
    """
    parts = _parts(joins)
    order = list(range(n_before, len(joins)))[::-1]
    waiting = set(range(n_before)) - {
        part for pair in parts[:n_before] for part in pair
    }
    while waiting:
        join = min(waiting, key=lambda join: (weights[join], join))
        waiting |= {part for part in parts[join] if part is not None}
        waiting.remove(join)
        order.append(join)
    return order


def _parts(joins: NDArray) -> list[tuple[int | None, int | None]]:
    """Return the joins that made the two clusters of every join."""
    latest, parts = {}, []
    for i, (kept, gone) in enumerate(joins.tolist()):
        parts.append((latest.get(kept), latest.pop(gone, None)))
        latest[kept] = i
    return parts


def _heights(weights: NDArray, n_before: int) -> NDArray:
    """Return heights from 0 to 1 before the natural cut, and from 1 on above it."""
    collisions, costs = weights[:n_before], weights[n_before:]
    before = 1 - collisions / max(2 * collisions.max(initial=0), np.finfo(float).tiny)
    # No join is undone before the one above it, nor made before those below.
    before = np.minimum.accumulate(before[::-1])[::-1]
    heights = np.concatenate([before, 1 + np.maximum.accumulate(np.log1p(costs))])
    # SciPy cuts at a height, so no two joins may have the same.
    return heights + _STEP * np.arange(-n_before, len(costs))


def _scipy_linkage(joins: NDArray, heights: NDArray) -> NDArray:
    """Return joins of named clusters in SciPy's format, where a join is a new name."""
    n_leaves = len(joins) + 1
    name, count = np.arange(n_leaves), np.ones(n_leaves)
    linkage = np.empty((n_leaves - 1, 4))
    for i, (kept, gone) in enumerate(joins.tolist()):
        count[kept] += count[gone]
        linkage[i] = *sorted((name[kept], name[gone])), heights[i], count[kept]
        name[kept] = n_leaves + i
    return linkage


def is_linkage(linkage: NDArray) -> bool:
    """Whether an array has the joins of one tree, in SciPy's format."""
    n_leaves = len(linkage) + 1
    if linkage.dtype != np.float64 or linkage.shape != (n_leaves - 1, 4):
        return False
    nodes, heights, counts = linkage[:, :2], linkage[:, 2], linkage[:, 3]
    # Every node but the root is joined once, after it came about.
    if not (
        np.array_equal(np.sort(nodes, axis=None), np.arange(2 * n_leaves - 2))
        and (nodes < np.arange(n_leaves, 2 * n_leaves - 1)[:, np.newaxis]).all()
    ):
        return False
    count = np.concatenate([np.ones(n_leaves), counts])
    return (
        np.array_equal(counts, count[nodes.astype(int)].sum(axis=1))
        and bool(np.isfinite(heights).all())
        and bool((np.diff(heights, prepend=0) >= 0).all())
    )


def join(pairs: NDArray, n_leaves: int) -> NDArray:
    """Return the cluster of every leaf after some joins of a linkage, (n_leaves,)."""
    members = {leaf: [leaf] for leaf in range(n_leaves)}
    for i, (first, second) in enumerate(pairs.tolist()):
        members[n_leaves + i] = members.pop(first) + members.pop(second)
    groups = np.empty(n_leaves, dtype=np.intp)
    for number, leaves in enumerate(sorted(members.values(), key=min)):
        groups[leaves] = number
    return groups
