"""The clusterer: any objective, any model."""

import copy
import os
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse, sparray
from scipy.special import entr, softmax
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    clone,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from skcce._autologging import inner_fits
from skcce._blocks import is_dask
from skcce._callbacks import with_callbacks
from skcce._centers import Centers, find_centers, merged
from skcce._data import TrainingData
from skcce._discovery import check_extension, extension
from skcce._estimator import (
    STREAMED,
    SoftmaxEstimator,
    lazy_for_dask,
    predict_block,
)
from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._objective import Objective
from skcce._settings import number_and_bounds
from skcce._spectral import SpectralFeatures
from skcce._starts import asking_for
from skcce._stream import (
    Stream,
    begin_steps,
    can_step,
    check_stream,
    new_numbers,
    renumbered,
    step,
)
from skcce._threads import single_blas_thread
from skcce._tree import ClusterTree
from skcce._weights import check_weights

__all__ = ["SoftmaxClusterer"]

_MAX_SEED = np.iinfo(np.int32).max


def _takes_streams(estimator: "SoftmaxClusterer") -> bool:
    """Whether the model takes rows of given features; a network may take images."""
    if estimator.model is not None and estimator.model.learns_features:
        raise AttributeError(
            f"partial_fit needs a model of given features, got model="
            f"{estimator.model!r}. Turn images into features first, or use fit."
        )
    return True


class SoftmaxClusterer(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, SoftmaxEstimator
):
    """Clustering by a softmax model that is trained with any objective.

    Minimizes the mean of `objective` over batches, by stochastic gradient steps on the
    weights of `model`.

    Parameters
    ----------
    n_clusters : int, "auto" or pair of int, default=8
        Number of clusters, as that of :class:`skcce.CollisionClusterer`. "auto" takes
        the clusters of a tree; a number is trained for.
    objective : Objective
        What is minimized, such as :class:`skcce.methods.MutualInformation`.
    model, features, n_neighbors, neighbors, init, n_init, max_iter, batch_size, \
max_samples, tol, contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, cluster_centers_, inertia_, model_, n_clusters_, prior_, \
features_, tree_, coef_, intercept_, loss_, loss_curve_, share_curve_, n_iter_, \
converged_, n_features_in_, feature_names_in_
        As those of :class:`skcce.CollisionClusterer`; `loss_` is the value of
        `objective`.

    See Also
    --------
    skcce.CollisionClusterer : The same, with collision cross-entropy.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skcce.methods import MutualInformation, SoftmaxClusterer
    >>> X = load_iris().data
    >>> clusterer = SoftmaxClusterer(3, objective=MutualInformation(), random_state=0)
    >>> clusterer.fit(X).predict_proba(X[:2]).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict] = {
        **SoftmaxEstimator._parameter_constraints,
        "n_clusters": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
            tuple,
            list,
        ],
        "objective": [Objective],
        "init": [StrOptions({"auto", "k-means", "k-means++", "random"}), "array-like"],
        "contamination": [Interval(Real, 0, 0.5, closed="right"), None],
    }

    def __init__(
        self,
        n_clusters: int | Literal["auto"] | tuple[int, int] = 8,
        *,
        objective: Objective,
        model: SoftmaxModel | None = None,
        features: SpectralFeatures | Literal["auto", "spectral"] | None = "auto",
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
        self.objective = objective
        self.model = model
        self.features = features
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

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Find the clusters of `X`.

        Parameters
        ----------
        X : array-like or sparse of shape (n_samples, n_features), or images
            Training data, which may be a memory map, a dask array or a dask data frame.
            float32 and float64 are used as they are, other types are converted to
            float64. A network also takes images: arrays (n, H, W), (n, H, W, C) or
            (n, C, H, W), lists of them or of paths, or torch data sets. A linear model
            also takes sparse rows: CSR as they are, other formats are converted. No
            dense copy is made.
        y : array-like, default=None
            Not used by the fit; handed to scikit-learn's callbacks, which may compare
            it with the clusters of every epoch.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; a sample of weight 2 counts as two equal ones, one of
            weight 0 is given a label, and counts in nothing else. Only their ratios
            matter. None means equal weights.

        Returns
        -------
        self : estimator
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of its range or does not fit the data, or `X` is
            empty, not 2-D, not finite, or has chunks of unknown size; if `checkpoint`
            is that of another run; or if the loss becomes NaN. In the last case, the
            model goes back to the end of the last good epoch, if there is one, and the
            estimator is fitted with that.
        TypeError
            If `X` is sparse, and the model is a network.
        KeyboardInterrupt
            If the fit was interrupted before the training had begun, as in the search
            for neighbors; the estimator then stays as it was.

        Warns
        -----
        ConvergenceWarning
            If samples were still changing cluster, or fewer clusters are used than
            asked for; and as soon as less than half of them are used in 3 epochs.
        UserWarning
            If the training was interrupted from the keyboard; the estimator then keeps
            the weights that it had.
        """
        self._validate_params()
        model, data = self._open(X, sample_weight)
        least = number_and_bounds(self.n_clusters, data.n_samples)[1][0]
        if least > data.n_samples:
            suffix = "." if data.kept is None else " of positive weight."
            raise ValueError(
                f"n_clusters={self.n_clusters} must not be larger than "
                f"n_samples={data.n_samples}{suffix}"
            )
        return self._fit(X, y, model, data, self._new_objective(model))

    @available_if(_takes_streams)
    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn from a batch of a stream.

        A random sample of the stream is kept, at most `max_samples` rows of it, none
        twice. The first batch, and then each time when the stream has become half as
        long again, all of the sample is fitted to, and its clusters get the numbers of
        the old ones that they agree with. In between, each batch makes a small step of
        the optimizer if the number of clusters is given and their shares are not
        learned; then the shares are balanced over some 10,000 rows, however these are
        cut into batches.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Batch, which may be a dask array or data frame. The first one must have as
            many rows as there are clusters. All rows have the same weight.
        y : Ignored
            Present for API consistency.

        Returns
        -------
        self : estimator
            The estimator, ready to predict. ``labels_`` and ``probabilities_`` are
            those of the batch, ``loss_``, the curves, ``cluster_centers_`` and
            ``inertia_`` those of the last fit, and ``n_samples_seen_`` counts the rows
            of the stream.

        Raises
        ------
        ValueError
            If `X` has another number of features than the batches before, or values
            that are not finite; if the first batch has too few rows; or if a parameter
            is out of its range, or refers to rows by their number. The estimator stays
            as it was.
        TypeError
            If `X` is sparse.
        AttributeError
            If the model is a network.

        Notes
        -----
        After ``fit``, or ``load``, a stream begins anew, and the model stays as it is
        until the stream has half as many rows again as there were in the fit.
        """
        self._validate_params()
        model = LinearSoftmax() if self.model is None else self.model
        check_stream(self)
        is_first = not hasattr(self, "model_")
        least, _ = number_and_bounds(self.n_clusters, 1)[1]
        if self.max_samples is not None and self.max_samples < least:
            raise ValueError(
                f"max_samples={self.max_samples} must not be smaller than n_clusters="
                f"{self.n_clusters}."
            )
        X = X.compute() if is_dask(X) else X
        if issparse(X):
            raise TypeError(
                "X is sparse, and partial_fit takes dense rows: it keeps a sample of "
                "them. Reduce X first, by TruncatedSVD(128), or use fit."
            )
        X = self._validate_input(X, model, reset=is_first)
        stream = getattr(self, "_stream", None)
        if stream is None:
            seed = check_random_state(self.random_state).randint(_MAX_SEED)
            stream = Stream.like(X, np.random.RandomState(seed))
            stream.n_fitted = 0 if is_first else len(getattr(self, "labels_", X))
        X = X.astype(stream.rows.dtype, copy=False)
        if stream.is_due_with(len(X)):
            # A copy, as the fit may fail.
            stream = copy.deepcopy(stream)
        stream.add(X, self.max_samples)
        if is_first and least > stream.n_rows:
            for name in ("n_features_in_", "feature_names_in_"):
                vars(self).pop(name, None)
            raise ValueError(
                f"The first batch has {stream.n_rows} distinct rows, fewer than "
                f"n_clusters={self.n_clusters}. Make it larger."
            )
        with single_blas_thread(), inner_fits():
            if stream.is_due_with(0) and least <= stream.n_rows:
                self._fit_stream(stream)
            elif stream.usage is not None:
                features = self.features_
                rows = X if features is None else features.transform_rows(X)
                objective = self._stream_objective()
                stream.usage = step(self.model_, objective, stream.usage, rows)
            self.labels_, self.probabilities_, *others = predict_block(
                self.model_, vars(self), self.temperature_, X
            )
        self._stream, self.n_samples_seen_ = stream, stream.n_seen
        vars(self).pop("outlier_scores_", None)
        if self.features_ is not None:
            self.outlier_scores_ = others.pop(0)
            is_foreign = self.outlier_scores_ > self._surroundings.threshold
            self.labels_[is_foreign] = -1
        if self._tree is not None:
            self._tree.labels = others.pop()
        return self

    def _fit_stream(self, stream: Stream) -> None:
        """Fit to the sample of a stream, and go on with the numbers of the clusters."""
        X = stream.sample
        seed = stream.random_state.randint(_MAX_SEED)
        new = clone(self).set_params(random_state=seed)
        with warnings.catch_warnings():
            # There will be another fit.
            warnings.simplefilter("ignore", ConvergenceWarning)
            new.fit(X)
        logits = new._logits(X)
        # Clusters of a given prior have the numbers of their shares.
        is_free = self._new_objective(new.model_).prior is None
        if hasattr(self, "model_") and is_free:
            old, found = self._logits(X).argmax(axis=1), logits.argmax(axis=1)
            numbers = new_numbers(old, found, self.n_clusters_, new.n_clusters_)
            order = np.argsort(numbers)
            new.model_ = renumbered(new.model_, numbers)
            new.prior_, new.share_curve_ = new.prior_[order], new.share_curve_[:, order]
            centers = new._centers
            new._centers = {name: centers[name][order] for name in centers}
            logits = logits[:, order]
        parameters = self.get_params(deep=False)
        vars(self).update(
            {name: vars(new)[name] for name in vars(new) if name not in parameters}
        )
        stream.n_fitted, stream.usage = stream.n_seen, None
        objective = self._stream_objective()
        if can_step(self.model_, objective):
            stream.usage = begin_steps(objective, logits * self.temperature_)

    def _stream_objective(self) -> Objective:
        return asking_for(self.prior_, self._new_objective(self.model_))

    def cut(self, n_clusters: int) -> Self:
        """Return the clusterer with another number of clusters, at no cost.

        Its clusters are those of the tree at this number, and its probabilities are
        sums of those of the fine clusters.

        Parameters
        ----------
        n_clusters : int
            Number of clusters, at most that of the fine ones.

        Returns
        -------
        CollisionClusterer
            A fitted copy, ready to predict. ``loss_`` and the curves are those of the
            fit; ``labels_`` joins fine clusters as a whole, and there are no
            ``probabilities_`` and ``cluster_centers_``.

        Raises
        ------
        AttributeError
            If the fit had no tree: it has one if it looked for the number or the
            shares of the clusters.
        ValueError
            If there are fewer fine clusters.
        """
        check_is_fitted(self, "model_")
        tree, cut = self.tree_, copy.copy(self)
        for name in STREAMED:
            vars(cut).pop(name, None)
        labels = tree.cut(n_clusters)[tree.labels]
        labels[getattr(self, "labels_", labels) < 0] = -1  # not if it is unfinished
        cut.n_clusters = n_clusters
        vars(cut).pop("probabilities_", None)
        vars(cut).update(
            model_=tree.joined(n_clusters),
            n_clusters_=n_clusters,
            prior_=tree.shares(n_clusters),
            labels_=labels,
            _centers=None,
            _n_features_out=n_clusters,
        )
        return cut

    def extend(self, X: ArrayLike, *, max_new: int = 10) -> Self:
        """Return the clusterer with the same clusters, and new ones of new rows.

        The old clusters keep their numbers, and the rows of the last fit keep their
        clusters. A new cluster opens where new rows have less than half as many old
        rows among their neighbors as the old rows there have, by more than chance, and
        where at least 12 of them have no valley of few neighbors between them. All
        other new rows go to the cluster of their neighbors, be it old or new.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            New rows, of old and maybe of new clusters. The old ones are known: leave
            them out.
        max_new : int, default=10
            Number of new clusters, at most. How many there are, maybe none, is found.

        Returns
        -------
        CollisionClusterer
            A fitted copy, ready to predict, with old clusters from 0 to n_clusters - 1
            and new ones behind them. ``labels_``, ``probabilities_`` and
            ``outlier_scores_`` are those of `X`; the loss and the curves are those of
            a collision cross-entropy in which the clusters of the old rows, and the
            rows that opened new ones, are given labels. ``cluster_centers_`` and
            ``inertia_`` are those of old and new rows. There is no ``tree_``.

        Raises
        ------
        NotFittedError
            If nothing was fitted.
        ValueError
            If `max_new` is no positive number, `X` has other features than the rows of
            the fit, or the fit had no linear model with features="spectral".

        Notes
        -----
        Whatever weights the old rows had, all rows count equally here. Nothing tells
        new clusters from old ones that moved: rows of another source, or measured in
        another way, are new. And an old cluster of few rows leaves gaps: where these
        may explain what is missing, nothing opens. Many copies of one row have no
        neighbors but each other, and may open a cluster: leave all but one of them out.

        All parameters but `n_clusters` stay those of the old fit. An array `prior` or
        `init`, and pairs of rows, are of no use where a clone is fitted to other rows.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> from skcce import CollisionClusterer
        >>> X, y = load_digits(return_X_y=True)
        >>> is_first = np.random.default_rng(0).random(len(y)) < 0.5
        >>> old = CollisionClusterer(7, random_state=0).fit(X[is_first & (y < 7)])
        >>> old.extend(X[~is_first], max_new=5).n_clusters_ > 7
        True
        """
        # This module is imported there.
        from skcce.methods.collision import Collision

        check_is_fitted(self, "model_")
        check_extension(self.features_, self.model_, max_new)
        X = self._validate_input(X, self.model_, reset=False)
        extended = copy.copy(self)
        with single_blas_thread(), inner_fits():
            parts, found, scores = extension(self, X, max_new, Collision())
            extended._set_attributes(*parts, found, scores)
        extended.n_clusters = found["n_clusters_"]
        for name in ("labels_", "probabilities_", "outlier_scores_"):
            vars(extended)[name] = vars(extended)[name][-X.shape[0] :]
        if self._centers is not None:
            extended._centers = extended._centers_with(X, Centers(**self._centers))
        return extended

    def _centers_with(self, X: NDArray, old: Centers) -> dict[str, NDArray]:
        """Return the centers of the rows of a fit, and of new rows and clusters."""
        new = find_centers(X, self.labels_, self._logits(X).argmax(axis=0))
        n_old, nothing = len(old.mean), np.zeros(len(new.mean) - len(old.mean))
        old = Centers(
            np.concatenate([old.mean, new.mean[n_old:]]),
            np.append(old.weight, nothing),
            np.append(old.inertia, nothing),
        )
        return merged(old, new)._asdict()

    @lazy_for_dask
    def predict(self, X: ArrayLike) -> NDArray:
        """Return the most probable cluster of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            Clusters, integers from 0 to n_clusters - 1; with `contamination`, -1 for
            rows that belong nowhere.
        """
        check_is_fitted(self, "model_")
        surroundings = self._surroundings
        threshold = np.inf if surroundings is None else surroundings.threshold

        def label(rows):
            features, around = self._look_up(rows)
            labels = self._logits_of(features).argmax(axis=1)
            if np.isfinite(threshold):
                labels[surroundings.scores(*around) > threshold] = -1
            return [labels]

        (labels,) = self._by_block(label, X)
        return labels

    @lazy_for_dask
    def decision_function(self, X: ArrayLike) -> NDArray:
        """Return the logits of each cluster for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Logits, one column per cluster, even for two clusters.
        """
        (logits,) = self._by_block(lambda rows: [self._logits(rows)], X)
        return logits

    def transform(self, X: ArrayLike) -> NDArray:
        """Return the probability of each cluster: the same as ``predict_proba``.

        Not distances, as ``KMeans.transform`` does: the largest value of a row is that
        of its cluster, not the smallest. Code for KMeans that takes the ``argmin``
        needs the ``argmax``, or ``predict``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Probabilities, with feature names if ``set_output`` asks for them.
        """
        return self.predict_proba(X)

    def score(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> float:
        r"""Return the mutual information of sample and cluster.

        .. math:: H(\bar\sigma) - \frac1M \sum_i H(\sigma_i)

        High if the clusters are equally large and the predictions certain. It compares
        fits of equal settings; it cannot choose `lam` or `n_clusters`. For those give
        labels and a scorer, such as ``skcce.metrics.clustering_accuracy``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights of the means. None means equal weights.

        Returns
        -------
        float
            Mutual information in nats, between 0 and ln n_clusters.
        """
        n_rows, blocks = self._blocks(X)
        weight = check_weights(sample_weight, n_rows)
        usage, entropy = 0.0, 0.0
        for block, rows in blocks:
            proba = softmax(self._logits(rows), axis=1).astype(np.float64, copy=False)
            counts = np.ones(len(proba)) if weight is None else weight[block]
            usage += counts @ proba / n_rows
            entropy += counts @ entr(proba).sum(axis=1) / n_rows
        return float(entr(usage).sum() - entropy)

    @property
    def cluster_centers_(self) -> NDArray:
        """Mean row of each cluster, in the units of `X`, (n_clusters, n_features)."""
        return self._known_centers("cluster_centers_").mean

    @property
    def inertia_(self) -> float:
        """Sum of the squared distances of rows to their centers, by weight."""
        return float(self._known_centers("inertia_").inertia.sum())

    def _known_centers(self, name: str) -> Centers:
        self._check_has(name)
        if getattr(self, "_centers", None) is None:
            raise AttributeError(
                f"{name} is the mean of rows of a table, which are not kept: there is "
                "none of images, after cut, or of an unfinished fit. Where there are "
                "rows, NearestCentroid().fit(X, labels_).centroids_ of scikit-learn is "
                "the same."
            )
        return Centers(**self._centers)

    @property
    def tree_(self) -> ClusterTree:
        """Tree of clusters, if the fit had one."""
        if getattr(self, "_tree", None) is None:
            raise AttributeError(
                "The fit had no tree of clusters: it needs prior='auto' or 'learn', or "
                "n_clusters='auto', and neighbors, with at least 24 samples per "
                "cluster. After extend there is none."
            )
        return self._tree

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _describe(
        self, model: SoftmaxModel, data: TrainingData, labels: NDArray, logits: NDArray
    ) -> dict[str, Any]:
        if data.given is None or data.given.ndim != 2:
            return {"_centers": None}
        likeliest = logits.argmax(axis=0)
        centers = find_centers(
            data.given,
            labels,
            likeliest if data.kept is None else data.kept[likeliest],
            data.given_weight,
            distributed=model.distributed,
        )
        return {"_centers": centers._asdict()}

    def _new_objective(self, model: SoftmaxModel) -> Objective:
        """Return what is minimized."""
        return clone(self.objective)
