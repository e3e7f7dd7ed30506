"""Pairs of samples that must, or cannot, be in one cluster."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from skcce.losses import collision_loss_and_gradient

# However sure a group is of its cluster, those that cannot be with it keep at least
# this part of their probability there: predictions may be wrong.
_LEAST = 1e-3


class Links(NamedTuple):
    """What pairs of samples say, and what follows from them.

    A group is all samples that must-links join, or one that has cannot-links only.

    rows : numbers of the linked samples in the training data, (n_linked,).
    group : group of each of them, (n_linked,).
    sizes : number of samples in each group, (n_groups,).
    apart : 1 where two groups cannot be in one cluster, symmetric,
        (n_groups, n_groups).
    weight : weight of what is linked to a sample, relative to the sample itself.
    """

    rows: NDArray
    group: NDArray
    sizes: NDArray
    apart: csr_array
    weight: float

    def mean(self, values: NDArray) -> NDArray:
        """Return the mean of `values` (n_samples, k) over each group."""
        member = csr_array(
            (
                (1 / self.sizes[self.group]).astype(values.dtype),
                (self.group, np.arange(len(self.rows))),
            ),
            shape=(len(self.sizes), len(self.rows)),
        )
        return member @ values[self.rows]


def find_links(
    must_link: ArrayLike | None,
    cannot_link: ArrayLike | None,
    weight: float,
    n_samples: int,
    kept: NDArray | None = None,
) -> Links | None:
    """Return what pairs say about the samples, or None if there is no pair.

    kept : numbers of the samples of positive weight, or None if all are. What follows
        from the others holds for these.

    Raises ValueError if these are no pairs of samples, or contradict each other.
    """
    must = _check_pairs(must_link, "must_link", n_samples)
    cannot = _check_pairs(cannot_link, "cannot_link", n_samples)
    if not len(must) and not len(cannot):
        return None
    graph = csr_array(
        (np.ones(len(must)), (must[:, 0], must[:, 1])), shape=(n_samples, n_samples)
    )
    n_components, component = connected_components(graph, directed=False)
    ends = component[cannot]
    contradicted = ends[:, 0] == ends[:, 1]
    if contradicted.any():
        first, last = (int(row) for row in cannot[contradicted.argmax()])
        chain = " - ".join(map(str, _chain(graph, first, last)))
        raise ValueError(
            f"cannot_link has the pair ({first}, {last}), and must_link joins them: "
            f"{chain}. Leave out one of these pairs."
        )
    component = component if kept is None else component[kept]
    n_members = np.bincount(component, minlength=n_components)
    ends = ends[n_members[ends].all(axis=1)]
    is_group = n_members > 1
    is_group[ends] = True
    rows = np.flatnonzero(is_group[component])
    if not len(rows):
        return None
    number = is_group.cumsum() - 1
    group, sizes, ends = number[component[rows]], n_members[is_group], number[ends]
    ends = np.unique(np.vstack([ends, ends[:, ::-1]]), axis=0)
    apart = csr_array(
        (np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(sizes), len(sizes))
    )
    return Links(rows, group, sizes, apart, weight)


def agree(links: Links, proba: NDArray) -> NDArray:
    """Return predictions (n_samples, n_clusters) that take account of the links.

    Each sample gets the mean of its group, less of it where other groups are that it
    cannot be with.
    """
    group = links.mean(proba)
    away = np.log(np.maximum(1 - group, _LEAST))
    logs = np.log(np.maximum(group, np.finfo(proba.dtype).tiny))
    logs += (links.apart @ away).astype(proba.dtype)
    logs -= logs.max(axis=1, keepdims=True)
    group = np.exp(logs)
    group /= group.sum(axis=1, keepdims=True)
    agreed = proba.copy()
    agreed[links.rows] = group[links.group]
    return agreed


def balance(links: Links, labels: NDArray) -> NDArray:
    """Return how many samples must, minus how many cannot, be with one of a cluster.

    labels : cluster of each sample, (n_samples,).
    A symmetric matrix (n_clusters, n_clusters); a sample counts once if others are in
    its group, and once for each group that it cannot be with.
    """
    group = links.mean(np.eye(labels.max() + 1)[labels])
    counts = group * links.sizes[:, np.newaxis]
    per_other = counts / np.maximum(links.sizes - 1, 1)[:, np.newaxis]
    joined = counts.T @ per_other - np.diag(per_other.sum(axis=0))
    apart = counts.T @ (links.apart @ group)
    return joined - (apart + apart.T) / 2


class Partners(NamedTuple):
    """What is held fixed for a link loss: see :func:`link_loss_and_gradient`.

    of : 1 where an entry belongs to a sample, (n_samples, n_entries).
    labels : what a sample has to collide with, (n_entries, n_clusters).
    """

    of: csr_array
    labels: NDArray


def find_partners(links: Links, proba: NDArray) -> Partners:
    """Return what the samples are linked to, as the predictions `proba` have it."""
    group = links.mean(proba)
    # The others of its group: their mean without the sample itself.
    size = links.sizes[links.group]
    joined = np.flatnonzero(size > 1)
    size = size[joined, np.newaxis].astype(proba.dtype)
    own = proba[links.rows[joined]]
    others = (size * group[links.group[joined]] - own) / (size - 1)
    # Collision with what another group is not.
    apart = links.apart[links.group].tocoo()
    not_there = 1 - group[apart.coords[1]]
    rows = links.rows[np.concatenate([joined, apart.coords[0]])]
    labels = np.concatenate([others, not_there]).clip(0, 1)
    of = csr_array(
        (np.ones(len(rows), dtype=proba.dtype), (rows, np.arange(len(rows)))),
        shape=(len(proba), len(rows)),
    )
    return Partners(of, labels)


def link_loss_and_gradient(
    logits: NDArray, partners: Partners, rows: NDArray
) -> tuple[NDArray, NDArray]:
    """Return the link loss of some samples, and its gradient for the logits.

    logits : (n_views, n, n_clusters), rows : their samples, (n,).
    Shapes (n_views, n) and (n_views, n, n_clusters).
    """
    of = partners.of[rows]
    loss = np.zeros(logits.shape[:2], dtype=logits.dtype)
    gradient = np.zeros_like(logits)
    if of.nnz:
        which = np.repeat(np.arange(len(rows)), np.diff(of.indptr))
        losses, gradients = collision_loss_and_gradient(
            logits[:, which], partners.labels[of.indices]
        )
        ones = csr_array(
            (np.ones(of.nnz, logits.dtype), np.arange(of.nnz), of.indptr),
            shape=(len(rows), of.nnz),
        )
        for view in range(len(logits)):
            loss[view] = ones @ losses[view]
            gradient[view] = ones @ gradients[view]
    return loss, gradient


def _check_pairs(pairs: ArrayLike | None, name: str, n_samples: int) -> NDArray:
    """Return pairs of row numbers, (n_pairs, 2)."""
    wanted = "pairs of row numbers, integers of shape (n_pairs, 2)"
    try:
        pairs = np.asarray([] if pairs is None else pairs)
    except ValueError as error:
        raise ValueError(f"{name} must hold {wanted}: {error}") from error
    if pairs.size == 0:
        return np.empty((0, 2), dtype=np.intp)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{name} must hold {wanted}, got shape {pairs.shape}.")
    if pairs.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold {wanted}, got {pairs[0].tolist()}.")
    with np.errstate(invalid="ignore"):
        numbers = pairs.astype(np.intp)
    wrong = (numbers != pairs).any(axis=1)
    if wrong.any():
        pair = _text(pairs[wrong.argmax()])
        raise ValueError(f"{name} must hold {wanted}, got the pair {pair}.")
    wrong = ((numbers < 0) | (numbers >= n_samples)).any(axis=1)
    if wrong.any():
        raise ValueError(
            f"{name} has the pair {_text(numbers[wrong.argmax()])}; rows of X have "
            f"numbers from 0 to {n_samples - 1}."
        )
    wrong = numbers[:, 0] == numbers[:, 1]
    if wrong.any():
        raise ValueError(
            f"{name} has the pair {_text(numbers[wrong.argmax()])}, of a row with "
            "itself."
        )
    return numbers


def _chain(graph: csr_array, first: int, last: int) -> list[int]:
    """Return the shortest way from one sample to another along must-links."""
    _, before = breadth_first_order(graph, first, directed=False)
    chain = [last]
    while chain[-1] != first:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]


def _text(pair: NDArray) -> str:
    return f"({pair[0]}, {pair[1]})"
