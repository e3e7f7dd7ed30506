"""Where a fit starts from, and which of several starts goes on."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score

from skcce._autologging import inner_fits
from skcce._data import TrainingData
from skcce._label_spreading import (
    class_shares,
    label_mass,
    match_clusters,
    spread_labels,
)
from skcce._messages import advice, raise_if_failed
from skcce._model import SoftmaxModel
from skcce._neighbors import (
    Neighbors,
    find_neighbors,
    principal_projection,
    smooth,
)
from skcce._objective import Objective, with_targets
from skcce._pseudo_labels import check_prior, solve_batch
from skcce._settings import Settings, nearest
from skcce._spectral import SpectralFeatures
from skcce._threads import count_openmp_threads, in_threads, openmp_threads
from skcce._training import (
    TrainingState,
    begin,
    epochs,
    evaluate,
    finite_logits,
    train,
    trial,
)
from skcce._tree import ClusterTree, collisions, grow
from skcce._trust import separation_ratio
from skcce._views import mean_distance

# With several starts, each is trained for this many epochs, or fewer if they make this
# many steps, before the best one goes on: by then its loss says about as much about its
# clusters as at the end.
_TRIAL_EPOCHS = 4
_TRIAL_STEPS = 160
# Each k-means start sees another sample of the rows: cheaper, and the starts differ.
_KMEANS_ROWS = 4096
# The labels of a start are solved for again, at most so often, before a model is
# trained: 10 times cheaper, and it tells good starts from bad ones. Then the best of
# them, if they differ by more than a few samples, are trained.
_N_REFINEMENTS, _N_CALM = 10, 1e-3
_N_TRAINED, _SAME = 3, 0.98
# The tree is preferred to k-means if it says this many times as much about neighbors.
_CLEARLY = 1.01
# Then its clusters are worth at least this part of as many equal ones.
_ABOUT_EQUAL = 0.8
# Epochs of the fine clusters of a tree.
_FINE_EPOCHS = 10
# Sizes are unequal if the median sample lives in a cluster of more than so many equal
# shares, and some cluster is so far from a whole number of them. Unlike a mean, the
# median does not move if a few clusters stay joined.
_LARGE, _NOT_WHOLE = 1.3, 0.1
# With fewer fine clusters per cluster, the sizes of joined ones are unequal anyway.
_FINE_TO_JUDGE = 3
# Neighbors are left out if k-means parts them more than this times as often as in a
# cloud without clusters.
_MISLEADING = 0.8


def embed(
    data: TrainingData,
    settings: Settings,
    random_state: np.random.RandomState,
    verbose: int = 0,
) -> tuple[TrainingData, Neighbors | None, SpectralFeatures | None, NDArray | None]:
    """Return the data as features and a graph, what found them, and rows for k-means.

    The last three are None if they are not asked for.
    """
    n_neighbors, features = settings.n_neighbors, settings.features
    if n_neighbors == 0 and not settings.uses_kmeans:
        return data, None, None, None
    if data.X.ndim != 2:
        wish, instead = "init='k-means'", 'init="random", or labels'
        if n_neighbors > 0:
            wish, instead = f"n_neighbors={n_neighbors}", "n_neighbors=0"
        raise ValueError(
            f"{wish} needs rows of features, X has {data.X.ndim} dimensions. "
            f"Use {instead}."
        )
    if n_neighbors == 0:
        with inner_fits():
            projection = principal_projection(data.X, random_state, data.weight)
        return data, None, None, projection(data.X)
    if hasattr(features, "eigenvalues_"):  # those of a run that goes on
        neighbors, rows = features.neighbors_of(data, settings.neighbors, verbose)
    else:
        neighbors = find_neighbors(
            data, n_neighbors, random_state, how=settings.neighbors, verbose=verbose
        )
        rows = neighbors.index.rows
        # Always the same cloud, so that a run that goes on comes to the same end.
        if settings.doubts_neighbors and _MISLEADING < separation_ratio(
            rows, settings.n_clusters, n_neighbors, np.random.RandomState(0)
        ):
            return data, None, None, rows
        if features is not None:
            rows = features.fit_neighbors(neighbors)
    data = replace(data, graph=neighbors.walk, view_source=settings.view_source)
    if data.target is not None and not data.is_labeled:
        spread = spread_labels(
            neighbors.walk, neighbors.strength, data.target, data.weight
        )
        data = replace(data, spread=spread)
    if features is not None:
        data = replace(data, X=rows)
    if settings.view_source == "adversarial":
        data = replace(data, reach=mean_distance(data.X, neighbors.walk))
    rows = smooth(neighbors.walk, rows) if settings.uses_kmeans else None
    return data, neighbors, features, rows


def find_tree(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    neighbors: Neighbors | None,
    rows: NDArray | None,
    settings: Settings,
    random_state: np.random.RandomState,
    verbose: int,
) -> tuple[ClusterTree | None, TrainingState | None]:
    """Return the tree of clusters, if one is asked for, and how its leaves were found.

    The leaves are clusters of equal shares, more than there may be in the end.
    """
    n_fine, plan = settings.n_fine, settings.plan
    if n_fine == 0 or neighbors is None:
        return None, None
    fine = clone(model)
    fine.initialize(
        data.X,
        n_fine,
        labels=kmeans_labels(rows, data, n_fine, random_state),
        sample_weight=data.weight,
        random_state=random_state,
    )
    state = begin(fine.decision_function(data.X), random_state)
    n_epochs = min(_FINE_EPOCHS, plan.max_iter)
    train(
        fine,
        data,
        objective,
        epochs(max(plan.batch_size, n_fine), n_epochs, plan.tol),
        state,
        verbose=min(verbose, 1),
        title="fine clusters, ",
    )
    try:
        if state.error:
            raise state.error
        labels = finite_logits(fine, data.X).argmax(axis=1)
    except FloatingPointError as error:
        raise ValueError(advice(error, state.n_iter + bool(state.error))) from error
    tree = grow(
        fine, labels, neighbors.walk, neighbors.distances, data.weight, data.links
    )
    if verbose > 1:
        print(f"tree: {len(tree.sizes)} fine clusters, {tree.n_clusters} natural ones")
    return tree, state


def settle(tree: ClusterTree | None, settings: Settings) -> Settings:
    """Return the settings, with what the tree tells about number and shares.

    Whether the shares are learned stays open if sizes are about equal.
    """
    n_clusters, shares = settings.n_clusters, settings.shares
    if tree is None:
        return settings
    n_leaves = len(tree.sizes)
    if n_clusters == "auto":
        low, high = settings.bounds
        n_clusters = min(max(tree.n_clusters, low), high, n_leaves)
        settings = settings._replace(n_clusters=n_clusters)
        return settings if shares == "given" else learned(tree, settings)
    if shares == "auto" and n_leaves < n_clusters:  # too few distinct rows
        return settings._replace(shares="given")
    is_fine_enough = n_leaves >= _FINE_TO_JUDGE * n_clusters
    if shares == "auto" and is_fine_enough and 2 * tree.n_clusters >= n_clusters:
        natural = n_clusters * np.sort(tree.shares(tree.n_clusters))  # in equal shares
        median = natural[np.searchsorted(natural.cumsum(), 0.5 * n_clusters)]
        # Clusters of equal size, of which some stay joined, are whole numbers of them.
        off = np.abs(natural - np.maximum(natural.round(), 1))
        if median > _LARGE and off.max() > _NOT_WHOLE:
            shares = "learn"
    return learned(tree, settings) if shares == "learn" else settings


def learned(tree: ClusterTree, settings: Settings) -> Settings:
    """Return the settings with the shares of the tree."""
    return settings._replace(shares="learn", prior=tree.shares(settings.n_clusters))


def choose(
    tree: ClusterTree | None,
    fine: TrainingState | None,
    rows: NDArray | None,
    data: TrainingData,
    settings: Settings,
    random_state: np.random.RandomState,
) -> tuple[Settings, list[NDArray | None]]:
    """Return the settings without anything open, and the starts of a fit, if any.

    Clusters of about equal size are those of the tree where they say more about a
    sample's neighbor than those of any start: they have a shape that k-means does not
    find. With links, the clusters of the tree are one of the starts.
    """
    settings = settle(tree, settings)
    is_learned = settings.shares == "learn"
    is_over = fine is not None and fine.interrupted
    if is_over or (is_learned and data.links is None):
        return settings, []
    starts = []
    if not is_learned:
        starts = find_starts(rows, data, settings, random_state)
    if is_learned or (tree is not None and settings.shares == "auto"):
        joined = tree.cut(settings.n_clusters)[tree.labels]
        if data.links is not None:
            # A fine cluster may hold both of a cannot-link: it is a start, no more.
            starts = [_refine(joined, data, settings), *starts]
            return settings, _most_informative(starts, data)
        most = information(starts[0], data)  # the others say less
        sizes = tree.shares(settings.n_clusters)
        if (
            information(joined, data) > _CLEARLY * most
            and 1 / (sizes**2).sum() > _ABOUT_EQUAL * settings.n_clusters
        ):
            return learned(tree, settings), []
    return settings, starts


def ask_labels(settings: Settings, data: TrainingData) -> Settings:
    """Return the settings with the shares that labels tell, if they are asked for."""
    if settings.shares not in ("labels", "spread"):
        return settings
    spread = data.spread if settings.shares == "spread" else None
    return settings._replace(prior=class_shares(data.target, data.weight, spread))


def asking_for(prior: NDArray, objective: Objective) -> Objective:
    """Return an objective that asks for these shares, if it asks for any."""
    if "prior" not in objective.get_params(deep=False):
        return objective
    return clone(objective).set_params(prior=prior)


def join_fine(
    tree: ClusterTree,
    fine: TrainingState,
    data: TrainingData,
    n_clusters: int,
) -> tuple[SoftmaxModel, TrainingState]:
    """Return the joined model, and how it was trained."""
    model, groups = tree.joined(n_clusters), tree.cut(n_clusters)
    curve = np.reshape(fine.share_curve, (fine.n_iter, fine.proba.shape[1]))
    curve = curve[:, tree.units]
    member = np.eye(n_clusters)[groups]
    curve = curve @ member
    state = replace(
        fine,
        proba=begin(model.decision_function(data.X), None).proba,
        share_curve=list(curve / curve.sum(axis=1, keepdims=True)),
        n_calm=1,
        model_state=model.get_state(),
    )
    return model, state


def find_starts(
    rows: NDArray | None,
    data: TrainingData,
    settings: Settings,
    random_state: np.random.RandomState,
) -> list[NDArray | None]:
    """Return the labels of each start; None stands for random weights."""
    if not isinstance(settings.init, str):
        return [settings.init]
    if settings.init == "random":
        return [None] * settings.n_init
    if data.is_labeled:
        return [data.target.argmax(axis=1)]
    starts = []
    for _ in range(settings.n_init):
        labels = kmeans_labels(rows, data, settings.n_clusters, random_state)
        if data.target is not None:
            around = np.eye(settings.n_clusters)[labels]
            if data.graph is not None:
                around = smooth(data.graph, around)
            labels = match_clusters(labels, around, data.target, data.weight)
        elif settings.prior is not None:
            labels = _match_sizes(labels, settings.prior, data)
        starts.append(labels)
    if data.graph is not None and len(starts) > 1:
        refine = partial(_refine, data=data, settings=settings)
        n_threads = count_openmp_threads()
        refined = in_threads(refine, starts, n_threads, n_threads)
        starts = _most_informative(refined, data)
    if _names_all(data.target):
        first = _guess_from_labels(rows, data)
        if data.graph is not None:
            first = _refine(first, data, settings)
            least = information(first, data)
            starts = [one for one in starts if information(one, data) > least]
        starts.insert(0, first)
    return starts


def _names_all(target: NDArray | None) -> bool:
    """Whether there is a label of every class."""
    return target is not None and bool((np.nansum(target, axis=0) > 0).all())


def _guess_from_labels(rows: NDArray, data: TrainingData) -> NDArray:
    """Return a class for every sample, by what the labels alone say.

    The class whose labels are near on the graph; without one, whose mean row is.
    """
    if data.spread is not None:
        proba = data.spread
    else:
        mass = label_mass(data.target, data.weight)
        means = (mass / mass.sum(axis=0)).T @ rows
        proba = np.eye(len(means))[nearest(rows, means)]
    return with_targets(proba, data.target).argmax(axis=1)


def information(labels: NDArray, data: TrainingData) -> float:
    """Return what the cluster of a sample says about that of its neighbor, in nats."""
    together = collisions(data.graph, labels, data.weight)
    shares = together.sum(axis=1)
    return float(rel_entr(together, np.outer(shares, shares)).sum())


def _refine(labels: NDArray, data: TrainingData, settings: Settings) -> NDArray:
    """Solve for labels given those of the neighbors, until hardly any one changes."""
    prior = check_prior(settings.prior, settings.n_clusters)
    for _ in range(_N_REFINEMENTS):
        proba = np.eye(len(prior), dtype=data.graph.dtype)[labels]
        proba = with_targets(proba, data.target)
        averaged = np.ascontiguousarray(smooth(data.graph, proba, data.links))
        before = labels
        labels = solve_batch(
            averaged,
            1.0,
            prior,
            forward=False,
            n_iter=10,
            weight=data.weight,
            fixed=data.target,
        ).argmax(axis=1)
        if data.mean(labels != before) <= _N_CALM:
            break
    return labels


def _most_informative(starts: list[NDArray], data: TrainingData) -> list[NDArray]:
    """Return the starts in which a sample says most about its neighbor's cluster."""
    best = []
    for labels in sorted(
        starts, key=lambda labels: information(labels, data), reverse=True
    ):
        if all(adjusted_rand_score(labels, other) < _SAME for other in best):
            best.append(labels)
        if len(best) == _N_TRAINED:
            break
    return best


def kmeans_labels(
    rows: NDArray,
    data: TrainingData,
    n_clusters: int,
    random_state: np.random.RandomState,
) -> NDArray:
    """Return the cluster of each row by k-means on a sample of them."""
    n_rows = max(_KMEANS_ROWS, 20 * n_clusters)
    sample = random_state.permutation(len(rows))[:n_rows]
    weight = None if data.weight is None else data.weight[sample]
    kmeans = KMeans(n_clusters, n_init=1, random_state=random_state)
    with openmp_threads(1), inner_fits(), warnings.catch_warnings():
        # The fit itself warns at its end if there are too few distinct rows.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(rows[sample], sample_weight=weight).predict(rows)


def best_start(
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    starts: list[NDArray | None],
    settings: Settings,
    random_state: np.random.RandomState,
    verbose: int,
) -> tuple[SoftmaxModel, TrainingState]:
    """Return the model of the most promising start, and where its training stands.

    starts : labels (n_samples,), or None for random weights.
    """
    plan = settings.plan
    n_batches = -(-data.n_samples // plan.batch_size)
    n_epochs = min(_TRIAL_EPOCHS, -(-_TRIAL_STEPS // n_batches), plan.max_iter)
    short = trial(plan.batch_size, n_epochs, plan.tol)
    best, least = None, np.inf
    for number, labels in enumerate(starts, start=1):
        candidate = clone(model)
        candidate.initialize(
            data.X,
            settings.n_clusters,
            labels=labels,
            sample_weight=data.weight,
            random_state=random_state,
        )
        state = begin(candidate.decision_function(data.X), random_state)
        has_some = data.target is not None and not data.is_labeled
        is_guided = data.graph is not None and (has_some or data.links is not None)
        if is_guided and labels is not None:
            state = _fit_to(labels, candidate, data, objective, settings, state)
        if len(starts) == 1 or state.interrupted:
            return candidate, state
        train(
            candidate,
            data,
            objective,
            short,
            state,
            verbose=min(verbose, 1),
            title=f"start {number} of {len(starts)}, ",
        )
        try:
            if state.error:
                raise state.error
            loss = evaluate(candidate, data, objective, state, progress=0.0)[1]
            if model.makes_views and objective.view_source and state.n_iter:
                loss = state.loss_curve[-1]  # only training makes views
        except FloatingPointError as error:
            failure = advice(error, state.n_iter + bool(state.error))
            continue
        if verbose > 1:
            print(f"start {number} of {len(starts)}: loss {loss:.4f}")
        if best is None or loss < least:
            best, best_state, least = candidate, state, loss
        if state.interrupted:
            best_state.interrupted = True
            return best, best_state
    if best is None:
        raise ValueError(failure)
    return best, TrainingState(best_state.proba, random_state)


def _fit_to(
    labels: NDArray,
    model: SoftmaxModel,
    data: TrainingData,
    objective: Objective,
    settings: Settings,
    state: TrainingState,
) -> TrainingState:
    """Train a model with the labels of its start, and return the state after it.

    Links and labels draw boundaries that centroids do not have; what a model does not
    predict as it begins, it forgets.
    """
    plan = settings.plan
    target = np.eye(settings.n_clusters, dtype=state.proba.dtype)[labels]
    train(
        model,
        replace(data, target=target),
        objective,
        epochs(plan.batch_size, min(_TRIAL_EPOCHS, plan.max_iter), plan.tol),
        state,
    )
    raise_if_failed(state)
    fitted = begin(model.decision_function(data.X), state.random_state)
    fitted.interrupted = state.interrupted
    return fitted


def _match_sizes(labels: NDArray, prior: NDArray, data: TrainingData) -> NDArray:
    """Rename clusters, so that the largest one has the name of the largest share."""
    size = data.count(labels, len(prior))
    name = np.empty(len(prior), dtype=labels.dtype)
    name[np.argsort(-size, kind="stable")] = np.argsort(-prior, kind="stable")
    return name[labels]
