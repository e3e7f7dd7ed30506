"""Collision cross-entropy with pseudo-labels (eqs. 10 and 11 of the paper)."""

import os
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import sparray
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from skcce._base import SoftmaxClusterer
from skcce._constraints import (
    agree,
    find_links,
    find_partners,
    link_loss_and_gradient,
)
from skcce._data import TrainingData
from skcce._estimator import SoftmaxEstimator
from skcce._model import SoftmaxModel
from skcce._neighbors import N_STEPS, smooth
from skcce._objective import Batch, Epoch, Objective, view_weights, with_targets
from skcce._pseudo_labels import (
    MAX_LAM,
    RunningUsage,
    fairness,
    labels_at,
    solve_batch,
    usage_of,
)
from skcce._settings import auto_value
from skcce._spectral import SpectralFeatures
from skcce.losses import (
    collision_loss_and_gradient,
    log_normalize,
    shannon_loss_and_gradient,
)

__all__ = ["Collision", "CollisionClusterer"]

# EM iterations per batch, with a model of given features and with one that learns them.
_EM_ITER = (10, 20)


class Collision(Objective):
    r"""Collision cross-entropy of predictions and pseudo-labels.

    With pseudo-labels :math:`y_i` that minimize eq. (11) for the predictions of the
    batch, or for those predictions averaged over neighbors, or what agrees with links,
    the value is

    .. math::

        \frac1n \sum_i w_i \Bigl[ H_2(y_i, \sigma_i)
        + \frac{a}{V} \sum_{v=1}^{V} H_2(y_i, \tilde\sigma_{iv}) \Bigr]
        + \lambda\, \mathrm{KL}(u \,\|\, \bar y)

    where :math:`\tilde\sigma_{iv}` are the predictions for the views of a sample. A
    sample that is linked to others has, for each prediction, more terms: the collision
    cross-entropy with the mean latest prediction :math:`\bar\sigma` of those that it
    must be with, and with :math:`1 - \bar\sigma` of those that it cannot be with. The
    gradient is that for fixed labels and partners.

    Parameters
    ----------
    lam : float or pair of floats, default=1.0
        Weight :math:`\lambda` of the fairness term; a pair goes geometrically from the
        first epoch to the last.
    prior : array-like of shape (n_clusters,), default=None
        Target shares :math:`u`; None means equal ones.
    divergence : {"reverse", "forward"}, default="reverse"
        Which of eq. (11) and eq. (10) the labels minimize.
    view_weight : float, default=2.0
        Weight :math:`a` of the views.
    em_iter : int, default=10
        EM iterations per batch; the forward divergence is solved to a gap of 0.01.
    loss : {"collision", "shannon"}, default="collision"
        Cross-entropy of predictions and given labels. Where labels are given
        (``batch.target``), they are those of the samples, and
        :math:`a_\ell` times the mean of their cross-entropy, by weight, takes the place
        of their terms in the first sum.
    label_weight : float, default=2.0
        Weight :math:`a_\ell` of the given labels.
    n_steps : int, default=4
        Steps of the walk to neighbors along which predictions are averaged.
    """

    uses_neighbors = True
    _parameter_constraints: ClassVar[dict] = {
        "lam": [Interval(Real, 0, MAX_LAM, closed="right"), tuple, list],
        "divergence": [StrOptions({"reverse", "forward"})],
        "view_weight": [Interval(Real, 0, None, closed="left")],
        "em_iter": [Interval(Integral, 1, None, closed="left")],
        "loss": [StrOptions({"collision", "shannon"})],
        "label_weight": [Interval(Real, 0, None, closed="left")],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        *,
        lam: float | tuple[float, float] = 1.0,
        prior: ArrayLike | None = None,
        divergence: Literal["reverse", "forward"] = "reverse",
        view_weight: float = 2.0,
        em_iter: int = 10,
        loss: Literal["collision", "shannon"] = "collision",
        label_weight: float = 2.0,
        n_steps: int = N_STEPS,
    ):
        self.lam = lam
        self.prior = prior
        self.divergence = divergence
        self.view_weight = view_weight
        self.em_iter = em_iter
        self.loss = loss
        self.label_weight = label_weight
        self.n_steps = n_steps

    @property
    def is_additive(self) -> bool:
        """Whether what a step needs of its samples are sums: at running usages."""
        return self.divergence == "reverse"

    def check(self, n_clusters: int) -> None:
        """Raise ValueError if a parameter is wrong."""
        super().check(n_clusters)
        _first_and_last(self.lam)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Average the predictions that the labels of this epoch are solved for."""
        first, last = _first_and_last(self.lam)
        self._lam = first * (last / first) ** epoch.progress
        super().begin_epoch(epoch)
        self._averaged = self._agreed = self._partners = None
        if epoch.graph is not None:
            proba = with_targets(epoch.proba, epoch.target)
            self._averaged = smooth(epoch.graph, proba, epoch.links, self.n_steps)
        if epoch.links is not None:
            self._link_weight = epoch.links.weight
            self._partners = find_partners(epoch.links, epoch.proba)
            if epoch.graph is None:
                rows = epoch.links.rows
                self._agreed = np.full_like(epoch.proba, np.nan)
                self._agreed[rows] = agree(epoch.links, epoch.proba)[rows]

    def __call__(self, logits: NDArray, batch: Batch) -> tuple[float, NDArray]:
        """Solve for the labels, and return the value and its gradient."""
        log_total, proba = log_normalize(logits)
        labels, is_given = self._solve(proba[0], batch), batch.is_given
        loss, gradient = collision_loss_and_gradient(logits, labels, (log_total, proba))
        if self._partners is not None:
            links = link_loss_and_gradient(logits, self._partners, batch.rows)
            loss += self._link_weight * links[0]
            gradient += self._link_weight * links[1]
        weights = view_weights(logits, batch, self.view_weight)
        value = 0.0
        if not is_given.all():
            usage = (weights[0] @ labels).astype(np.float64)
            total = usage.sum()  # of the weights
            value = (
                total
                * self._lam
                * fairness(usage / total, self._prior, self.divergence == "forward")
            )
        if is_given.any():
            if self.loss == "shannon":
                loss[:, is_given], gradient[:, is_given] = shannon_loss_and_gradient(
                    logits[:, is_given], labels[is_given]
                )
            weights[:, is_given] *= self.label_weight / weights[0, is_given].sum()
        gradient *= weights[..., np.newaxis]
        return float(value + np.vdot(weights, loss)), gradient

    def usages(
        self, proba: NDArray, memory: float, weight: NDArray | None = None
    ) -> RunningUsage:
        """Return the usages of these predictions, to begin a stream with.

        memory : number of samples after which what was known counts 1 / e.
        """
        return usage_of(proba, self._lam, self._prior, self.em_iter, memory, weight)

    def at_usages(
        self, logits: NDArray, usage: RunningUsage, weight: NDArray | None = None
    ) -> tuple[float, NDArray, NDArray]:
        """Return what samples of a stream add to the sums of their batch.

        They are the sum of the losses, its gradient with respect to the logits
        (n, n_clusters), and the labels' sums, which ``updated`` takes. `mean_value`
        makes the value of the batch of them. No sample depends on the others. This is
        for the reverse divergence, without links, neighbors, views or given labels.
        """
        log_total, proba = log_normalize(logits)
        labels, sums = labels_at(usage, proba, self._lam, self._prior, weight)
        loss, gradient = collision_loss_and_gradient(logits, labels, (log_total, proba))
        if weight is not None:
            loss, gradient = loss * weight, gradient * weight[:, np.newaxis]
            gradient = gradient.astype(logits.dtype, copy=False)
        return float(loss.sum(dtype=np.float64)), gradient, sums

    def mean_value(self, loss_sum: float, usage: RunningUsage, total: float) -> float:
        """Return the value of a batch, whose weight is `total`, at these usages.

        A small batch may have no label of a cluster at all: its own fairness would be
        infinite.
        """
        fair = fairness(usage.mean[-1], self._prior)
        return float(loss_sum / total + self._lam * fair)

    def _solve(self, proba: NDArray, batch: Batch) -> NDArray:
        """Return the labels of a batch."""
        if batch.is_given.all():
            return batch.target.astype(proba.dtype, copy=False)
        if self._averaged is not None:
            proba = self._averaged[batch.rows].astype(proba.dtype, copy=False)
        elif self._agreed is not None:
            # Only those of linked samples, without neighbors.
            proba = with_targets(proba, self._agreed[batch.rows])
        return solve_batch(
            proba,
            self._lam,
            self._prior,
            forward=self.divergence == "forward",
            n_iter=self.em_iter,
            weight=batch.weight,
            fixed=batch.target,
        )


class CollisionClusterer(SoftmaxClusterer):
    r"""Clustering by a softmax model that is trained with collision cross-entropy.

    Minimizes over the model's weights and the soft pseudo-labels :math:`y_i`, points of
    the simplex (eq. 11 of [1]_),

    .. math::

        \frac1M \sum_{i=1}^{M} -\ln \sum_k \sigma_k(x_i)\, y_{ik}
        + \lambda\, \mathrm{KL}(u \,\|\, \bar y),
        \qquad \bar y = \frac1M \sum_i y_i,

    where :math:`\sigma(x)` is the model's prediction. The first term is the negative
    log of the probability that prediction and label collide; the second one asks for
    cluster shares :math:`u`. For each batch the pseudo-labels are solved for, and the
    model takes a gradient step (Algorithm 2 of [1]_). With neighbors, the pseudo-labels
    are those of predictions averaged over each sample's neighborhood, so that the two
    parts of a step descend on slightly different functions.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters. "auto" finds it: the tree of clusters is cut where there is
        a valley of few neighbors between any two; a pair (low, high) bounds it. Some
        100 fine clusters are joined, so there are at most 100, or ``high``.
    model : SoftmaxModel or None, default=None
        The model that is trained. None means ``LinearSoftmax()``. Its own parameters
        are set and searched as ``model__alpha``, ...
        :class:`skcce.deep.DeepSoftmax` trains a torch network, on images or on rows.
    features : "auto", "spectral", SpectralFeatures or None, default="auto"
        What the model is trained on: "spectral" are the rows and, beside them, their
        place on the graph of neighbors (:class:`skcce.SpectralFeatures`), in which a
        linear boundary may follow the shape of the data. None are the rows as they are.
        "auto" is "spectral" for a linear model with neighbors, None for a network. A
        SpectralFeatures takes `n_neighbors` and `neighbors` of the clusterer; its
        number of components is set and searched as ``features__n_components``.
    lam : float, pair of floats or "auto", default="auto"
        Weight (:math:`\lambda > 0`) of the fairness term in the mean-level loss above;
        it does not depend on the batch size. A pair decays, or grows, geometrically
        from the first epoch to the last. "auto" is 1.0 for a linear model, (100.0, 1.0)
        for a network: strong until there are clusters, then weak, so that the batches,
        whose true shares vary, are not forced to equal ones. The paper uses 100 with
        batches of 250: its eq. (15), read literally, makes that 100 / 250 = 0.4 here;
        its eq. (11), read literally, 100.
    prior : "auto", "learn", None or array-like of shape (n_clusters,), default="auto"
        Target shares of the clusters (:math:`u`). None means equal ones. "learn" takes
        those of the tree of clusters, and its clusters with them. "auto" is "learn" if
        the number of clusters is not given, or if the tree says that sizes are unequal:
        the median sample lives in a cluster of more than 1.3 equal shares, and not all
        clusters are whole numbers of them. Otherwise, and where there is no tree, it is
        None. An array is scaled to sum to 1; cluster k is then the one of share
        ``prior[k]``: the largest cluster that k-means finds gets the largest share.
        With `must_link` or `cannot_link`, the fit only starts from the clusters of the
        tree.
    divergence : {"reverse", "forward"}, default="reverse"
        ``"reverse"`` is the loss above, eq. (11); ``"forward"`` puts
        :math:`\mathrm{KL}(\bar y \,\|\, u)` in its place, eq. (10). They make the same
        clusters; a cluster of zero prior is free in the first, forbidden in the second.
    view_weight : float, default=2.0
        Weight of the mean loss of the augmented views that a network makes of a sample,
        relative to the loss of the sample itself. The paper's Table 4, which starts
        from pretrained weights, has 0.5 for STL-10, 0.2 for CIFAR-10 and 0.4 for
        CIFAR-100-20.
    must_link, cannot_link : array-like of shape (n_pairs, 2) or None, default=None
        Pairs of numbers of rows of `X`: the two must be in one cluster, or must not.
        They are other rows where a search or a scorer fits to a part of `X`.
        What follows from several pairs counts, too: must-links are passed on, and what
        is joined to one of a cannot-link cannot be with the other one. Neither the
        order of the pairs nor that in a pair matters; a pair given twice counts once. A
        pair adds :math:`-\ln \sigma_i \cdot \sigma_j` or :math:`-\ln (1 - \sigma_i
        \cdot \sigma_j)` to the loss of each of its rows, and pseudo-labels take
        account of it, and those of the neighbors with them. Not all pairs hold in the
        end if the model has no such boundary; compare `labels_`. The joins in ``tree_``
        take account of the pairs, ``cut`` of no more than that.
    link_weight : float, default=2.0
        Weight of the loss of a pair, relative to the loss of a sample.
    n_neighbors : int or "auto", default="auto"
        Number of nearest neighbors. The pseudo-labels of a sample come from predictions
        averaged along four steps of a random walk from neighbor to neighbor. 0 turns
        this off, as in the paper. "auto" is 10 for a linear model, but at most
        ``n_samples // (4 * n_clusters)``, and 0 for a network, whose augmented views
        take the place of neighbors. Neighbors that tell no more of clusters than those
        in a cloud without any are left out, too, if `n_clusters` is a number.
    neighbors : str, sparse matrix or transformer, default="auto"
        How the nearest neighbors are found. "exact" takes a time that grows with the
        square of the number of rows, "approximate" looks around the nearest centers of
        k-means; "auto" is exact for up to 100,000 rows. Or a graph of distances, sparse
        and of shape (n_samples, n_samples), with at least `n_neighbors` per row, or a
        transformer that makes one, such as scikit-learn's ``KNeighborsTransformer``;
        then new rows are looked up by Euclidean distance, whatever made the graph. All
        rows of a graph take part, however many `max_samples` there may be.
    init : {"auto", "k-means", "k-means++", "random"} or array-like, default="auto"
        Where to start: at the centroids of k-means (on neighbor-averaged rows), turned
        into weights; at random weights (the paper's Kaiming initialization); at given
        centroids, shape (n_clusters, n_features), of the rows as given; or at the
        labels of any other clustering, integers of shape (n_samples,), which must name
        `n_clusters` clusters, from 0 on. A row of label -1, as of HDBSCAN, starts in
        the cluster whose mean row is nearest. "auto" is "k-means" for a linear model,
        "random" for a network; "k-means++" is another name of "k-means". There is a
        tree of clusters with "k-means" only.
    n_init : int or "auto", default="auto"
        Number of starts. With neighbors, the labels of k-means are refined first, and
        the three of them that say most about the labels of neighbors go on. Each is
        trained for 4 epochs, or about 160 steps if that is less; then the one with the
        least loss is trained on. "auto" is 12 for a linear model, or 6 without
        neighbors, and 4 for a network; an array `init` is one start.
    max_iter : int, default=20
        Maximum number of epochs. The learning rate decays over `max_iter` epochs;
        raising it slows the decay rather than appending epochs.
    batch_size : int or "auto", default="auto"
        Samples per step. "auto" is 250 for a network; for a linear model it makes about
        40 batches per epoch, of 32 to 1000 samples, or of as many as there are
        clusters (fine ones, if their number is to be found) if that is more.
    max_samples : int or None, default=100_000
        With neighbors, a fit to more rows looks at a random sample of so many: graph,
        tree, starts and training are those of the sample, and ``labels_`` are the
        predictions for all rows, with their neighbors in the sample. Rows in
        `must_link` or `cannot_link` belong to it, beside at least half as many others
        as it may have. Without neighbors, a linear model goes on from there in passes
        over all rows, whose pseudo-labels balance over the latest eighth of them;
        `max_iter` and `tol` count for the sample and for the passes, and the curves are
        those of the passes. L-BFGS, the forward divergence and a network take all rows
        at once, but of a dask array only the sample. None always takes all.
    tol : float, default=1e-3
        Stop after 3 consecutive epochs in which at most this share of the samples
        changed cluster.
    contamination : float or None, default=None
        Part of the training samples, up to 0.5, that belong nowhere: those with the
        highest outlier scores, and new rows with scores as high, get the label -1. It
        changes neither clusters nor probabilities. None labels all. It needs features.
    checkpoint : str, path-like or None, default=None
        File that is written after every epoch. If the file exists, fit resumes from
        it, and ends as if it had never been interrupted; delete it to start anew.
        `max_iter` and `tol` may differ from those of the interrupted fit; other
        settings or data are an error.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and the order of the batches. An int gives the same result,
        bit for bit, on one machine, whatever the number of threads or processes; with a
        network only if its own ``n_threads`` is set.
    verbose : int, default=0
        1 shows a progress bar, with the loss, the number of clusters in use, and the
        balance of the last epoch: the entropy of the cluster shares relative to that of
        equal ones. 2 also prints a line for each start and each epoch.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each training sample, equal to ``predict`` on the training data,
        unless `neighbors` has another metric; -1 for outliers, if `contamination` says
        how many.
    probabilities_ : ndarray of shape (n_samples,)
        Probability of the assigned cluster of each training sample.
    outlier_scores_ : ndarray of shape (n_samples,)
        How foreign each training sample is, from its distances to neighbors; 0 is
        usual. Only if there are features.
    cluster_centers_ : ndarray of shape (n_clusters, n_features)
        Mean row of each cluster, by weight, in the units of `X`. Rows of label -1 count
        in none; the center of a cluster without rows is the training row that is most
        probable in it. ``predict`` does not go by centers. There are none after a fit
        to images, or ``cut``.
    inertia_ : float
        Sum of the squared distances of the rows to the centers of their clusters, by
        weight, without those of label -1. A fit does not minimize it.
    temperature_ : float
        What the logits of the model are divided by, so that probabilities are as sure
        as neighbors are of one mind; 1 without neighbors.
    model_ : SoftmaxModel
        The trained model.
    n_clusters_ : int
        Number of clusters.
    prior_ : ndarray of shape (n_clusters,)
        Target shares: equal ones, those given, or those of the tree.
    features_ : SpectralFeatures or None
        What turns rows into the features of the model; None if it takes them as given.
    tree_ : ClusterTree
        Fine clusters, and the order in which they are joined: ``linkage`` (in SciPy's
        format), ``labels``, ``sizes``, and ``n_clusters`` at the natural cut.
        ``cut(n_clusters)`` is the clusterer at another cut. There is a tree unless
        number and shares are given, there are no neighbors, or less than 24 samples
        per cluster.
    coef_ : ndarray of shape (n_units, n_features_out)
        Weights of a linear model, for the features that ``features_`` makes. A unit is
        a cluster; where the clusters are joined from fine ones, it is one of those, and
        ``model_.groups_`` is the cluster of each.
    intercept_ : ndarray of shape (n_units,)
        Intercepts of a linear model.
    loss_ : float
        The loss above, in nats, of the trained model on the training data, or on the
        sample of them, with the last value of `lam`.
    loss_curve_ : list of float
        Loss in each epoch, the mean over its batches, with its value of `lam`: each
        batch counts the fairness of its own labels, and the weighted loss of its views.
    share_curve_ : ndarray of shape (n_epochs, n_clusters)
        Share of the samples, by weight, in each cluster, in each epoch. Where clusters
        are joined, curves and epochs are those of the fine ones.
    n_iter_ : int
        Number of epochs.
    converged_ : bool
        Whether at most ``tol`` of the samples, by weight, changed cluster in the last
        epoch.
    n_features_in_ : int
        Number of features seen during fit.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` has names that are all strings.

    See Also
    --------
    solve_pseudo_labels : The solver for the pseudo-labels alone.
    sklearn.cluster.KMeans : What this estimator can stand in for.

    Notes
    -----
    A fit with a linear model goes like this. Neighbors of the rows make a graph, and
    the graph makes features. Some 100 clusters of equal shares are found, and joined
    two by two: the tree. If the number is given and the tree finds sizes about equal,
    as many clusters of equal shares are found, from k-means. If not, the clusters are
    those of the tree, joined from fine ones, and probabilities are sums of theirs.

    Equal shares are an assumption only where the tree does not speak against them.
    Whether sizes are unequal is a guess: `prior` overrules it. Say None for clusters
    that touch and are known to be about equally large, "learn" for thin bands, such as
    two moons.

    Unlike KMeans, ``transform`` returns probabilities, not distances: the cluster of a
    row is the ``argmax`` of what it returns, where code for KMeans takes the
    ``argmin``.

    Sparse rows, such as those of tf-idf, stay sparse: neighbors are found between their
    128 leading components, found in a sample of 4096 rows, and a model of the rows as
    they are centers them in its products only. Where all rows have the same length and
    the components hold less than half of their variance, dense or not, the projected
    rows are brought to one length again.

    ``fit`` needs the memory of a few arrays of n_samples x n_clusters, or x 100 for the
    tree, of two of n_samples x min(n_features, 128), and of the neighbor graph, about 3
    n_neighbors numbers a sample; no copy of `X`, unless some weights are 0. Here
    n_samples is at most `max_samples`: for more rows, memory does not grow but for the
    results, and time grows with the number of rows.

    ``predict`` finds the neighbors of new rows among the training rows. So the fitted
    estimator keeps these, in at most 128 features each; with ``features=None`` it keeps
    only its weights.

    References
    ----------
    .. [1] Zhang, Boykov. "Collision Cross-entropy for Soft Class Labels and Deep
       Clustering". arXiv:2303.07321.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcce import CollisionClusterer
    >>> from skcce.metrics import clustering_accuracy_score
    >>> X, y = load_digits(return_X_y=True)
    >>> clusterer = CollisionClusterer(n_clusters=10, random_state=0).fit(X)
    >>> clustering_accuracy_score(y, clusterer.labels_) > 0.85
    True
    >>> clusterer.predict_proba(X[:1]).shape
    (1, 10)

    Another number of clusters, from the same tree:

    >>> clusterer.cut(5).predict_proba(X[:1]).shape
    (1, 5)
    """

    auto: ClassVar[Mapping[str, tuple]] = MappingProxyType(
        {"lam": (1.0, (100.0, 1.0)), **SoftmaxClusterer.auto}
    )

    _parameter_constraints: ClassVar[dict] = {
        **{
            name: constraint
            for name, constraint in SoftmaxClusterer._parameter_constraints.items()
            if name != "objective"
        },
        "lam": [*Collision._parameter_constraints["lam"], StrOptions({"auto"})],
        "prior": [StrOptions({"auto", "learn"}), "array-like", None],
        "divergence": Collision._parameter_constraints["divergence"],
        "view_weight": Collision._parameter_constraints["view_weight"],
        "must_link": ["array-like", None],
        "cannot_link": ["array-like", None],
        "link_weight": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(
        self,
        n_clusters: int | Literal["auto"] | tuple[int, int] = 8,
        *,
        model: SoftmaxModel | None = None,
        features: SpectralFeatures | Literal["auto", "spectral"] | None = "auto",
        lam: float | tuple[float, float] | Literal["auto"] = "auto",
        prior: ArrayLike | Literal["auto", "learn"] | None = "auto",
        divergence: Literal["reverse", "forward"] = "reverse",
        view_weight: float = 2.0,
        must_link: ArrayLike | None = None,
        cannot_link: ArrayLike | None = None,
        link_weight: float = 2.0,
        n_neighbors: int | Literal["auto"] = "auto",
        neighbors: str | sparray | BaseEstimator = "auto",
        init: str | ArrayLike = "auto",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        batch_size: int | Literal["auto"] = "auto",
        max_samples: int | None = 100_000,
        tol: float = 1e-3,
        contamination: float | None = None,
        checkpoint: str | os.PathLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_clusters = n_clusters
        self.model = model
        self.features = features
        self.lam = lam
        self.prior = prior
        self.divergence = divergence
        self.view_weight = view_weight
        self.must_link = must_link
        self.cannot_link = cannot_link
        self.link_weight = link_weight
        self.n_neighbors = n_neighbors
        self.neighbors = neighbors
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_samples = max_samples
        self.tol = tol
        self.contamination = contamination
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def _open(
        self, X: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[SoftmaxModel, TrainingData]:
        model, data = super()._open(X, sample_weight)
        links = find_links(
            self.must_link,
            self.cannot_link,
            self.link_weight,
            data.given.shape[0],
            data.kept,
        )
        return model, replace(data, links=links)

    def _new_objective(self, model: SoftmaxModel) -> Collision:
        return collision_of(self, model)


def collision_of(
    estimator: SoftmaxEstimator, model: SoftmaxModel, **of_labels: Any
) -> Collision:
    """Return what an estimator with these parameters minimizes.

    of_labels : parameters of ``Collision`` that only given labels need.
    """
    prior = estimator.prior
    return Collision(
        lam=auto_value(estimator, "lam", model),
        prior=None if isinstance(prior, str) else prior,
        divergence=estimator.divergence,
        view_weight=estimator.view_weight,
        em_iter=_EM_ITER[model.learns_features],
        **of_labels,
    )


def _first_and_last(lam: Any) -> tuple[float, float]:
    pair = (lam, lam) if isinstance(lam, Real) else tuple(lam)
    if len(pair) != 2 or not all(
        isinstance(value, Real) and 0 < value <= MAX_LAM for value in pair
    ):
        raise ValueError(
            f"lam={lam!r} must be a number in (0, {MAX_LAM:g}], or a pair of them for "
            "the first and the last epoch."
        )
    return float(pair[0]), float(pair[1])
