"""The estimator: any objective, any model."""

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, log_softmax, softmax
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    clone,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce._autologging import inner_fits
from skcce._calibration import temperature
from skcce._callbacks import CallbackSupportMixin, EpochCallbacks, with_callbacks
from skcce._constraints import Links
from skcce._data import TrainingData
from skcce._linear import LinearSoftmax
from skcce._messages import (
    advice,
    raise_if_diverged,
    warn_if_unfinished,
    warn_of_collapse,
)
from skcce._model import SoftmaxModel
from skcce._neighbors import smooth
from skcce._objective import Objective
from skcce._outliers import find_outliers
from skcce._persistence import (
    FITTED,
    Checkpoint,
    curves,
    load_fit,
    save_fit,
)
from skcce._pseudo_labels import check_prior
from skcce._settings import Settings, number_and_bounds, resolve
from skcce._spectral import SpectralFeatures
from skcce._starts import (
    asking_for,
    best_start,
    choose,
    embed,
    find_tree,
    join_fine,
    settle,
)
from skcce._threads import single_blas_thread
from skcce._training import TrainingState, evaluate, finite_logits, train
from skcce._tree import ClusterTree
from skcce._weights import check_weights

__all__ = ["SoftmaxClusterer"]


def _has_outlier_scores(clusterer: "SoftmaxClusterer") -> bool:
    """Whether a fit has them, or may have them."""
    if getattr(clusterer, "_surroundings", True) is None:
        raise AttributeError("Outlier scores need features='spectral'.")
    return True


class SoftmaxClusterer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
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
    model, features, n_neighbors, init, n_init, max_iter, batch_size, tol, \
contamination, checkpoint, random_state, verbose
        As those of :class:`skcce.CollisionClusterer`.

    Attributes
    ----------
    labels_, probabilities_, model_, n_clusters_, prior_, features_, tree_, coef_, \
intercept_, loss_, loss_curve_, share_curve_, n_iter_, converged_, n_features_in_, \
feature_names_in_
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

    #: What "auto" stands for, with a model of given features and with one that learns
    #: its features.
    auto: ClassVar[Mapping[str, tuple]] = MappingProxyType(
        {
            "features": ("spectral", None),
            "n_neighbors": (10, 0),
            "init": ("k-means", "random"),
            "n_init": (12, 4),
            "batch_size": ("about 40 batches per epoch", 250),
        }
    )

    _parameter_constraints: ClassVar[dict] = {
        "n_clusters": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
            tuple,
            list,
        ],
        "objective": [Objective],
        "model": [SoftmaxModel, None],
        "features": [StrOptions({"auto", "spectral"}), SpectralFeatures, None],
        "n_neighbors": [
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "init": [StrOptions({"auto", "k-means", "random"}), "array-like"],
        "contamination": [Interval(Real, 0, 0.5, closed="right"), None],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "checkpoint": [str, os.PathLike, None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_clusters: int | Literal["auto"] | tuple[int, int] = 8,
        *,
        objective: Objective,
        model: SoftmaxModel | None = None,
        features: SpectralFeatures | Literal["auto", "spectral"] | None = "auto",
        n_neighbors: int | Literal["auto"] = "auto",
        init: str | ArrayLike = "auto",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        batch_size: int | Literal["auto"] = "auto",
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
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.batch_size = batch_size
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
        X : array-like of shape (n_samples, n_features), or images
            Training data. float32 and float64 are used as they are, other types are
            converted to float64. A network also takes images: arrays (n, H, W),
            (n, H, W, C) or (n, C, H, W), lists of them or of paths, or torch data sets.
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
            empty, not 2-D, or not finite; if `checkpoint` is that of another run; or if
            the loss becomes NaN. In the last case, the model goes back to the end of
            the last good epoch, if there is one, and the estimator is fitted with that.
        TypeError
            If `X` is sparse.

        Warns
        -----
        ConvergenceWarning
            If samples were still changing cluster, or fewer clusters are used than
            asked for; and as soon as less than half of them are used in 3 epochs.
        UserWarning
            If the fit was interrupted from the keyboard; the estimator then keeps the
            weights that it had.
        """
        self._validate_params()
        model, data = self._open(X, sample_weight)
        objective = self._new_objective(model)
        settings = resolve(self, model, objective, data)
        checkpoint = None
        if self.checkpoint is not None:
            checkpoint = Checkpoint(self.checkpoint, self, model, data, settings)
        resumes = checkpoint is not None and checkpoint.exists
        if resumes:
            settings = checkpoint.settings(settings)
        random_state = check_random_state(self.random_state)
        # Matrices are too small here to gain from more threads, whose number would
        # change the last digits.
        with single_blas_thread():
            data, neighbors, features, rows = embed(data, settings, random_state)
            if resumes:
                tree, fine = checkpoint.tree, None
                settings = (
                    checkpoint.settle(settings)
                    if data.links is None
                    else settle(tree, settings)
                )
            else:
                tree, fine = find_tree(
                    model,
                    data,
                    objective,
                    features,
                    neighbors,
                    rows,
                    settings,
                    random_state,
                    self.verbose,
                )
                settings, starts = choose(
                    tree, fine, rows, data, settings, random_state
                )
            if settings.shares == "learn":
                objective = asking_for(settings.prior, objective)
            callbacks = EpochCallbacks(self, X, y, self.max_iter)
            if resumes:
                model, state = checkpoint.resume(settings.n_clusters, random_state)
            elif not starts:
                model, state = join_fine(tree, fine, data, settings.n_clusters)
            else:
                model, state = best_start(
                    model, data, objective, starts, settings, random_state, self.verbose
                )
            scores, surroundings = None, None
            if features is not None:
                scores, surroundings = find_outliers(neighbors, self.contamination)
            found = {
                "n_clusters_": settings.n_clusters,
                "prior_": check_prior(settings.prior, settings.n_clusters),
                "features_": features,
                "_tree": tree,
                "_surroundings": surroundings,
                "_n_features_out": settings.n_clusters,
            }
            self._train(
                model, data, objective, settings, state, checkpoint, callbacks, found
            )
            clusters = self._set_attributes(
                model, data, objective, state, found, scores
            )
        callbacks.end_fit()
        raise_if_diverged(state)
        if checkpoint and not state.interrupted:
            checkpoint.write(state, found, self)
        warn_if_unfinished(state, clusters, settings.n_wanted, self)
        return self

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
            ``probabilities_``.

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
        labels = tree.cut(n_clusters)[tree.labels]
        labels[getattr(self, "labels_", labels) < 0] = -1  # not if it is unfinished
        cut.n_clusters = n_clusters
        vars(cut).pop("probabilities_", None)
        vars(cut).update(
            model_=tree.joined(n_clusters),
            n_clusters_=n_clusters,
            prior_=tree.shares(n_clusters),
            labels_=labels,
            _n_features_out=n_clusters,
        )
        return cut

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted estimator to a file.

        The file holds JSON and NumPy's arrays, no code: ``numpy.load`` reads it, and
        ``load`` brings it back.

        Parameters
        ----------
        path : str or path-like
            Where to write, such as ``"model.npz"``.

        Raises
        ------
        NotFittedError
            If nothing was fitted.
        OSError
            If the file cannot be written.
        """
        check_is_fitted(self, "model_")
        save_fit(path, self)

    def load(self, path: str | os.PathLike) -> Self:
        """Read what ``save`` has written, or a checkpoint, instead of a fit.

        Parameters
        ----------
        path : str or path-like
            File of an estimator with the same `model`, and with the same `n_clusters`
            if that is a number. The checkpoint of an unfinished fit lacks ``labels_``,
            ``probabilities_`` and ``loss_``.

        Returns
        -------
        self : estimator
            The estimator, ready to predict.

        Raises
        ------
        ValueError
            If the file is none of these, an estimator of another class wrote it, or its
            model has another architecture or number of clusters.
        """
        model = LinearSoftmax() if self.model is None else self.model
        attributes = load_fit(path, self, model)
        for name in FITTED:
            vars(self).pop(name, None)
        vars(self).update(attributes)
        return self

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
        labels = self.decision_function(X).argmax(axis=1)
        surroundings = self._surroundings
        if surroundings is not None and np.isfinite(surroundings.threshold):
            labels[-self.score_samples(X) > surroundings.threshold] = -1
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Return the probability of each cluster for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Probabilities; rows sum to 1. The dtype is that of `X`.
        """
        return softmax(self.decision_function(X), axis=1)

    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        """Return the log-probability of each cluster for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Logarithms, finite where the probability itself underflows.
        """
        return log_softmax(self.decision_function(X), axis=1)

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
        check_is_fitted(self, "model_")
        X = self._validate_input(X, self.model_, reset=False)
        if self.features_ is not None:
            with single_blas_thread(), inner_fits():
                X = self.features_.transform_rows(X)
        logits = self.model_.decision_function(X)
        return logits / logits.dtype.type(self.temperature_)

    @available_if(_has_outlier_scores)
    def score_samples(self, X: ArrayLike) -> NDArray:
        """Return how usual each row is: the lower, the less it belongs anywhere.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            The opposite of the outlier score, at most 0, as of scikit-learn's outlier
            detectors.

        Raises
        ------
        AttributeError
            If the fit had no neighbors, or its features are the rows as they are.
        """
        check_is_fitted(self, "model_")
        X = self._validate_input(X, self.model_, reset=False)
        with single_blas_thread(), inner_fits():
            return -self._surroundings.scores(*self.features_.nearest_others(X))

    def transform(self, X: ArrayLike) -> NDArray:
        """Return the probability of each cluster: the same as ``predict_proba``.

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
        proba = self.predict_proba(X).astype(np.float64, copy=False)
        weight = check_weights(sample_weight, len(proba))
        usage = np.average(proba, axis=0, weights=weight)
        entropy = np.average(entr(proba).sum(axis=1), weights=weight)
        return float(entr(usage).sum() - entropy)

    @property
    def tree_(self) -> ClusterTree:
        """Tree of clusters, if the fit had one."""
        if getattr(self, "_tree", None) is None:
            raise AttributeError(
                "The fit had no tree of clusters: it needs prior='auto' or 'learn', or "
                "n_clusters='auto', and neighbors, with at least 24 samples per "
                "cluster."
            )
        return self._tree

    @property
    def coef_(self) -> NDArray:
        """Weights of a linear model, shape (n_units, n_features_out)."""
        return self._fitted("coef_")

    @property
    def intercept_(self) -> NDArray:
        """Intercepts of a linear model, shape (n_units,)."""
        return self._fitted("intercept_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _fitted(self, name: str) -> Any:
        # AttributeError, as scikit-learn's: hasattr tells whether there are any.
        if not hasattr(self, "model_"):
            raise AttributeError(f"{name} is available only after fit.")
        value = getattr(self.model_, name)
        return value / value.dtype.type(self.temperature_)

    def _links(self, n_samples: int, kept: NDArray | None) -> Links | None:
        """Return what is known about pairs of samples."""
        return None

    def _new_objective(self, model: SoftmaxModel) -> Objective:
        """Return what is minimized."""
        return clone(self.objective)

    def _open(
        self, X: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[SoftmaxModel, TrainingData]:
        """Return the model to be trained, and the data in the form that it takes."""
        model = LinearSoftmax() if self.model is None else self.model
        X = self._validate_input(X, model, reset=True)
        data = TrainingData.of(X, check_weights(sample_weight, X.shape[0]))
        data = replace(data, links=self._links(X.shape[0], data.kept))
        least = number_and_bounds(self.n_clusters, data.n_samples)[1][0]
        if least > data.n_samples:
            suffix = "." if data.kept is None else " of positive weight."
            raise ValueError(
                f"n_clusters={self.n_clusters} must not be larger than "
                f"n_samples={data.n_samples}{suffix}"
            )
        return model, data

    def _validate_input(
        self, X: ArrayLike, model: SoftmaxModel, *, reset: bool
    ) -> NDArray:
        data = model.validate_input(X)
        if data is not None:
            for name in ("n_features_in_", "feature_names_in_") if reset else ():
                vars(self).pop(name, None)  # those of an earlier fit to a table
            return data
        return validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)

    def _train(
        self,
        model: SoftmaxModel,
        data: TrainingData,
        objective: Objective,
        settings: Settings,
        state: TrainingState,
        checkpoint: Checkpoint | None,
        callbacks: EpochCallbacks,
        found: Mapping[str, Any],
    ) -> None:
        """Train in place, with all that happens between two epochs."""
        is_joined = settings.shares == "learn" and data.links is None
        if state.interrupted or is_joined:
            return

        def end_epoch(state):
            if checkpoint:
                checkpoint.write(state, found)
            warn_of_collapse(state, settings.n_wanted, self)
            return callbacks.end_epoch(
                # A copy, because a callback may keep it.
                lambda: {"model_": copy.deepcopy(model), "temperature_": 1.0, **found}
            )

        train(
            model,
            data,
            objective,
            settings.plan,
            state,
            verbose=self.verbose,
            begin_epoch=callbacks.begin_epoch,
            end_epoch=end_epoch,
        )
        if state.error and state.model_state is None:
            raise ValueError(advice(state.error, 1)) from state.error

    def _set_attributes(
        self,
        model: SoftmaxModel,
        data: TrainingData,
        objective: Objective,
        state: TrainingState,
        found: Mapping[str, Any],
        scores: NDArray | None,
    ) -> NDArray:
        """Return the cluster of every sample, outliers included."""
        features = found["features_"]
        try:
            # A copy, as a checkpoint goes on from the predictions of the last epoch.
            final = copy.copy(state)
            logits, loss = evaluate(model, data, objective, final, progress=1.0)
            tau = 1.0
            if data.graph is not None:
                averaged = smooth(data.graph, softmax(logits, axis=1))
                tau = temperature(logits, averaged, data.weight)
            if data.kept is not None:
                given = data.given
                if features is not None:
                    scores = found["_surroundings"].scores(
                        *features.nearest_others(given)
                    )
                    given = features.transform_rows(given)
                logits = finite_logits(model, given)
                if found["_tree"] is not None:
                    fine = finite_logits(found["_tree"].model, given)
                    found["_tree"].labels = fine.argmax(axis=1)
        except FloatingPointError as error:
            raise ValueError(advice(error, state.n_iter)) from error
        logits = logits / logits.dtype.type(tau)
        labels = clusters = logits.argmax(axis=1)
        if scores is not None:
            found = {**found, "outlier_scores_": scores}
            is_foreign = scores > found["_surroundings"].threshold
            labels = np.where(is_foreign, -1, clusters)
        # All at once, because Ctrl-C may come in between.
        vars(self).pop("outlier_scores_", None)  # of an earlier fit
        vars(self).update(
            model_=model,
            **found,
            temperature_=tau,
            labels_=labels,
            probabilities_=softmax(logits, axis=1).max(axis=1),
            loss_=loss,
            **curves(state),
        )
        return clusters
