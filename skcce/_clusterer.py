"""The estimator: validation, starts, and the attributes of the best one."""

import copy
import os
import warnings
from numbers import Integral, Real
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
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.utils import Tags, check_array, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce._autologging import inner_fits
from skcce._callbacks import (
    N_WRAPPERS,
    CallbackSupportMixin,
    EpochCallbacks,
    with_callbacks,
)
from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._neighbors import neighbor_average, principal_rows, smooth
from skcce._persistence import (
    FITTED,
    Checkpoint,
    curves,
    fitted_attributes,
    load_fit,
    save_fit,
)
from skcce._pseudo_labels import MAX_LAM, check_prior
from skcce._threads import openmp_threads, single_blas_thread
from skcce._training import Recipe, Training, advice, begin, evaluate, train

__all__ = ["CollisionClusterer"]

# With several starts, each is trained for so many epochs, or fewer if they make so many
# steps, before the best one goes on: by then its loss tells about as much of its
# clusters as at the end.
_TRIAL_EPOCHS = 4
_TRIAL_STEPS = 160
# What a model has to have defaults for.
_DEFAULTS = frozenset(
    {"lam", "solver", "em_iter", "n_neighbors", "init", "n_init", "batch_size"}
)
# With fewer clusters in use than half of those wanted, for so many epochs in a row, a
# training hardly recovers.
_COLLAPSE_EPOCHS = 3
# Each k-means start sees another sample of the rows: cheaper, and the starts differ.
_KMEANS_ROWS = 4096


class CollisionClusterer(
    CallbackSupportMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    BaseEstimator,
):
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
    n_clusters : int, default=8
        Number of clusters.
    model : SoftmaxModel or None, default=None
        The model that is trained. None means ``LinearSoftmax()``; pass that, or
        another model, to set or search its own parameters (``model__alpha``, ...).
        :class:`skcce.deep.DeepSoftmax` trains a torch network, on images or on rows.
    lam : float, pair of floats or "auto", default="auto"
        Weight (:math:`\lambda > 0`) of the fairness term in the mean-level loss above;
        it does not depend on the batch size. A pair decays, or grows, geometrically
        from the first epoch to the last. "auto" is 1.0 for a linear model, and (100, 1)
        for a network: strong until there are clusters, then weak, so that the batches,
        whose true shares vary, are not forced to equal ones. Weaker
        values (0.1, 0.01) suit imbalanced clusters of unknown sizes. The paper uses
        100 with batches of 250: its eq. (15), read literally, makes that 100 / 250 =
        0.4 here; its eq. (11), read literally, 100.
    prior : array-like of shape (n_clusters,), default=None
        Target shares of the clusters (:math:`u`), scaled to sum to 1. Cluster k is the
        one of share ``prior[k]``: of the clusters that k-means finds, the largest gets
        the largest share. None means equal shares.
    divergence : {"reverse", "forward"}, default="reverse"
        ``"reverse"`` is the loss above, eq. (11); ``"forward"`` puts
        :math:`\mathrm{KL}(\bar y \,\|\, u)` in its place, eq. (10). They make the same
        clusters; a cluster of zero prior is free in the first, forbidden in the second.
    solver : {"auto", "em", "interior-point"}, default="auto"
        How the pseudo-labels of a batch are solved for: by a number of EM iterations
        that the model sets (10 for a linear one), or to a duality gap of one percent.
        The second makes the same clusters, and takes much longer where the predictions
        of a batch are far from the prior. "auto" is "em" for the reverse divergence,
        and "interior-point" for the forward one, which has no EM.
    n_neighbors : int or "auto", default="auto"
        The pseudo-labels of a sample come from predictions averaged along four steps
        of a random walk, each to one of so many nearest neighbors. 0 turns this off,
        and gives the paper's method to the letter. "auto" is 10 for a linear model, but
        at most ``n_samples // (4 * n_clusters)``, and 0 for a network, whose augmented
        views take their place.
    init : {"auto", "k-means", "random"} or array-like, default="auto"
        Where to start: at the centroids of k-means (on neighbor-averaged rows), turned
        into weights; at random weights (the paper's Kaiming initialization); at given
        centroids, shape (n_clusters, n_features); or at the labels of any other
        clustering, integers of shape (n_samples,). "auto" is "k-means" for a linear
        model, "random" for a network.
    n_init : int or "auto", default="auto"
        Number of starts. Each is trained for 4 epochs, or for as many as make 160 steps
        if that is less, then the one of the least loss is trained on. "auto" is 6 for a
        linear model, 4 for a network; an array `init` is one start.
    max_iter : int, default=20
        Maximum number of epochs. The step size falls to zero over so many: a larger
        number is a slower training, which stops later, and not the same one continued.
    batch_size : int or "auto", default="auto"
        Samples per step. "auto" makes about 40 steps an epoch, of 32 to 1000 samples,
        or of `n_clusters` if that is more; with a network it is 250.
    tol : float, default=1e-3
        Stop when in 3 epochs in a row at most this share of the samples changed its
        cluster.
    checkpoint : str, path-like or None, default=None
        File that is written after every epoch, such as ``"run.npz"``. If it exists,
        fit resumes from it, and ends as if it had never been interrupted; delete it to
        start anew. It may go on with another `max_iter` or `tol`; with other settings
        or data it is an error.
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
        Cluster of each training sample, equal to ``predict`` on the training data.
    probabilities_ : ndarray of shape (n_samples,)
        Probability of the assigned cluster of each training sample.
    model_ : SoftmaxModel
        The trained model.
    coef_ : ndarray of shape (n_clusters, n_features)
        Weights of a linear model.
    intercept_ : ndarray of shape (n_clusters,)
        Intercepts of a linear model.
    loss_ : float
        The loss above, in nats, of the trained model on the training data, with the
        last value of `lam`.
    loss_curve_ : list of float
        Loss in each epoch, as its batches were visited, with its value of `lam`.
    share_curve_ : ndarray of shape (n_epochs, n_clusters)
        Share of the samples in each cluster, in each epoch.
    n_iter_ : int
        Number of epochs.
    converged_ : bool
        Whether at most ``tol`` of the samples changed cluster in the last epoch.
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
    Equal shares are an assumption. On clusters of very different sizes the term pulls
    samples of the large ones into the small ones: give `prior`, or a small `lam`.

    Unlike KMeans, ``transform`` returns probabilities, not distances. Sparse data and
    sample weights are not supported.

    ``fit`` needs the memory of a few arrays of n_samples x n_clusters, of one of
    n_samples x min(n_features, 128), and of the neighbor graph, about 3 n_neighbors
    numbers a sample; no copy of `X`. The neighbors are exact: the time for them grows
    with the square of n_samples.

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
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "model": [HasMethods(["initialize", "train_step", "decision_function"]), None],
        "lam": [
            Interval(Real, 0, MAX_LAM, closed="right"),
            StrOptions({"auto"}),
            tuple,
            list,
        ],
        "prior": ["array-like", None],
        "divergence": [StrOptions({"reverse", "forward"})],
        "solver": [StrOptions({"auto", "em", "interior-point"})],
        "n_neighbors": [
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "init": [StrOptions({"auto", "k-means", "random"}), "array-like"],
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
        n_clusters: int = 8,
        *,
        model: SoftmaxModel | None = None,
        lam: float | tuple[float, float] | Literal["auto"] = "auto",
        prior: ArrayLike | None = None,
        divergence: Literal["reverse", "forward"] = "reverse",
        solver: Literal["auto", "em", "interior-point"] = "auto",
        n_neighbors: int | Literal["auto"] = "auto",
        init: str | ArrayLike = "auto",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        batch_size: int | Literal["auto"] = "auto",
        tol: float = 1e-3,
        checkpoint: str | os.PathLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_clusters = n_clusters
        self.model = model
        self.lam = lam
        self.prior = prior
        self.divergence = divergence
        self.solver = solver
        self.n_neighbors = n_neighbors
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.tol = tol
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Find the clusters of `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Training data. float32 and float64 are used as they are, other types are
            converted to float64. A network takes images, too: arrays (n, H, W),
            (n, H, W, C) or (n, C, H, W), lists, or torch data sets.
        y : array-like, default=None
            Not used by the fit; handed to scikit-learn's callbacks, which may compare
            it with the clusters of every epoch.

        Returns
        -------
        self : CollisionClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of its range or does not fit the data, or `X` is
            empty, not 2-D, or not finite; if `checkpoint` is that of another run; or if
            the loss becomes NaN. In the last case, a model that can be saved goes back
            to the end of the last good epoch, and the estimator is fitted with that.
        TypeError
            If `X` is sparse.

        Warns
        -----
        ConvergenceWarning
            If samples were still changing cluster, or fewer clusters are used than
            asked for; and as soon as less than half of them are used in 3 epochs.
        UserWarning
            If the training was interrupted from the keyboard; the estimator is then
            fitted with what it had.
        """
        self._validate_params()
        model = LinearSoftmax() if self.model is None else self.model
        data = self._validate_input(X, model, reset=True)
        settings = self._settings(data, model)
        checkpoint = None
        if self.checkpoint is not None:
            _check_can_save(model, f"checkpoint={str(self.checkpoint)!r}")
            checkpoint = Checkpoint(self.checkpoint, self, model, data)
        random_state = check_random_state(self.random_state)
        # Matrices are too small here to gain from more threads, whose number would
        # change the last digits.
        with single_blas_thread():
            average, rows = self._find_neighbors(data, settings, random_state)
            recipe = Recipe(
                first_lam=settings["lam"][0],
                lam=settings["lam"][1],
                prior=settings["prior"],
                forward=self.divergence == "forward",
                average=average,
                solver=settings["solver"],
                em_iter=model.defaults["em_iter"],
            )
            callbacks = EpochCallbacks(self, X, y, self.max_iter)
            if checkpoint and checkpoint.exists:
                model, training, random_state = checkpoint.resume(model, random_state)
            else:
                starts = self._starts(rows, settings, random_state)
                model, training = self._best_start(
                    data, model, recipe, starts, settings, random_state
                )
            del rows
            self._train(
                model,
                data,
                recipe,
                training,
                settings,
                random_state,
                checkpoint,
                callbacks,
            )
            if training.failure and training.model_state is None:
                raise ValueError(training.failure)
            self._set_attributes(model, data, recipe, training)
        callbacks.end_fit()
        if training.failure:
            raise ValueError(
                f"{training.failure} The estimator is fitted with the weights of epoch "
                f"{self.n_iter_}, the last good ones."
            )
        if checkpoint and not training.interrupted:
            checkpoint.write(training, random_state, fitted_attributes(self))
        self._warn_if_unfinished(training, n_wanted=np.count_nonzero(recipe.prior))
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted model to a file.

        The file holds JSON and numpy's arrays, no code: ``numpy.load`` reads it, and
        ``load`` brings it back.

        Parameters
        ----------
        path : str or path-like
            Where to write, such as ``"model.npz"``.

        Raises
        ------
        NotFittedError
            If nothing was fitted.
        ValueError
            If the model has no ``get_state``.
        """
        check_is_fitted(self, "model_")
        _check_can_save(self.model_, f"save({str(path)!r})")
        save_fit(path, self)

    def load(self, path: str | os.PathLike) -> Self:
        """Read what ``save`` has written, or a checkpoint, instead of a fit.

        Parameters
        ----------
        path : str or path-like
            File of an estimator with the same `model` and `n_clusters`. No code is
            unpickled from it. That of an unfinished training lacks ``labels_``,
            ``probabilities_`` and ``loss_``.

        Returns
        -------
        self : CollisionClusterer
            The estimator, ready to predict.

        Raises
        ------
        ValueError
            If the file is none of these, or its model has another architecture or
            number of clusters.
        """
        model = LinearSoftmax() if self.model is None else self.model
        _check_can_save(model, f"load({str(path)!r})")
        attributes = load_fit(path, model, self.n_clusters)
        for name in FITTED:
            vars(self).pop(name, None)
        vars(self).update(attributes, _n_features_out=self.n_clusters)
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
            Clusters, integers from 0 to n_clusters - 1.
        """
        return self.decision_function(X).argmax(axis=1)

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
            Logits, one column per cluster (for two clusters, too).
        """
        check_is_fitted(self, "model_")
        X = self._validate_input(X, self.model_, reset=False)
        return self.model_.decision_function(X)

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

    def score(self, X: ArrayLike, y: object = None) -> float:
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

        Returns
        -------
        float
            Mutual information in nats, between 0 and ln n_clusters.
        """
        proba = self.predict_proba(X)
        usage = proba.mean(axis=0, dtype=np.float64)
        return float(entr(usage).sum() - entr(proba).sum(axis=1).mean())

    @property
    def coef_(self) -> NDArray:
        """Weights of a linear model, shape (n_clusters, n_features)."""
        return self._fitted("coef_")

    @property
    def intercept_(self) -> NDArray:
        """Intercepts of a linear model, shape (n_clusters,)."""
        return self._fitted("intercept_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _fitted(self, name: str) -> Any:
        # AttributeError, as scikit-learn's: hasattr tells whether there are any.
        if not hasattr(self, "model_"):
            raise AttributeError(f"{name} is there after fit only.")
        return getattr(self.model_, name)

    def _validate_input(
        self, X: ArrayLike, model: SoftmaxModel, *, reset: bool
    ) -> NDArray:
        if hasattr(model, "validate_input"):
            data = model.validate_input(X)
            if data is not None:
                return data
        elif getattr(X, "ndim", 2) in (3, 4):
            raise ValueError(
                f"Found array with dim {X.ndim}, while dim <= 2 is required. Images "
                "need a network, model=skcce.deep.DeepSoftmax(...); or turn them into "
                "rows, X.reshape(len(X), -1)."
            )
        return validate_data(self, X, dtype=[np.float64, np.float32], reset=reset)

    def _settings(self, X: NDArray, model: SoftmaxModel) -> dict[str, Any]:
        """Resolve "auto", and check the parameters against the data."""
        missing = _DEFAULTS.difference(getattr(model, "defaults", None) or {})
        if missing:
            raise ValueError(
                f"model={model!r} has no {sorted(missing)} in its attribute defaults, "
                "a mapping that CollisionClusterer reads."
            )
        n_samples, n_clusters = len(X), self.n_clusters
        if n_clusters > n_samples:
            raise ValueError(
                f"n_clusters={n_clusters} must not be larger than "
                f"n_samples={n_samples}."
            )
        settings = {
            name: model.defaults[name] if _is(value, "auto") else value
            for name, value in self.get_params(deep=False).items()
            if name in _DEFAULTS
        }
        if _is(self.n_neighbors, "auto"):
            most = n_samples // (4 * n_clusters)
            settings["n_neighbors"] = min(settings["n_neighbors"], most)
        elif self.n_neighbors >= n_samples:
            raise ValueError(
                f"n_neighbors={self.n_neighbors} must be smaller than "
                f"n_samples={n_samples}."
            )
        if not isinstance(settings["init"], str):
            settings["init"] = self._labels_of_init(X)
            settings["n_init"] = 1
        if settings["batch_size"] is None:
            fortieth = min(max(n_samples // 40, 32), 1000)
            settings["batch_size"] = max(fortieth, n_clusters)
        if self.divergence == "forward":
            if self.solver == "em":
                raise ValueError(
                    'solver="em" minimizes the reverse divergence only; take '
                    'solver="interior-point" for divergence="forward".'
                )
            settings["solver"] = "interior-point"
        settings["lam"] = _check_lam(settings["lam"])
        settings["prior"] = check_prior(self.prior, n_clusters)
        return settings

    def _labels_of_init(self, X: NDArray) -> NDArray:
        """Return labels for an `init` that is an array of centroids or of labels."""
        init = check_array(self.init, ensure_2d=False, input_name="init")
        if init.ndim == 2 and init.shape == (self.n_clusters, *X.shape[1:]):
            return _nearest(X, init)
        if init.shape != (len(X),):
            raise ValueError(
                f"init must hold centroids, shape (n_clusters={self.n_clusters}, "
                f"n_features), or labels, shape (n_samples={len(X)},), got shape "
                f"{init.shape}."
            )
        labels = init.astype(np.intp)
        if (
            (labels != init).any()
            or labels.min() < 0
            or labels.max() >= self.n_clusters
        ):
            raise ValueError(
                f"Labels in init must be integers from 0 to {self.n_clusters - 1}, got "
                f"values from {init.min()} to {init.max()}."
            )
        return labels

    def _find_neighbors(
        self,
        X: NDArray,
        settings: dict[str, Any],
        random_state: np.random.RandomState,
    ) -> tuple[Any, NDArray | None]:
        """Return the averaging matrix, and the rows for k-means; None if not needed."""
        n_neighbors = settings["n_neighbors"]
        with_kmeans = _is(settings["init"], "k-means")
        if n_neighbors == 0 and not with_kmeans:
            return None, None
        if X.ndim != 2:
            if n_neighbors > 0:
                wish, instead = f"n_neighbors={n_neighbors}", "n_neighbors=0"
            else:
                wish, instead = "init='k-means'", 'init="random", or labels'
            raise ValueError(
                f"{wish} needs rows of features, X has {X.ndim} dimensions. Use "
                f"{instead}."
            )
        with inner_fits():
            rows = principal_rows(X, random_state)
            if n_neighbors == 0:
                return None, rows
            average = neighbor_average(rows, n_neighbors)
        return average, smooth(average, rows) if with_kmeans else None

    def _starts(
        self,
        rows: NDArray | None,
        settings: dict[str, Any],
        random_state: np.random.RandomState,
    ) -> list[NDArray | None]:
        """Return the labels of each start; None stands for random weights."""
        init, n_init = settings["init"], settings["n_init"]
        if not isinstance(init, str):
            return [init]
        if init == "random":
            return [None] * n_init
        with openmp_threads(1), inner_fits():
            starts = [self._kmeans_labels(rows, random_state) for _ in range(n_init)]
        if self.prior is not None:
            starts = [_match_sizes(labels, settings["prior"]) for labels in starts]
        return starts

    def _kmeans_labels(
        self, rows: NDArray, random_state: np.random.RandomState
    ) -> NDArray:
        n_rows = max(_KMEANS_ROWS, 20 * self.n_clusters)
        sample = rows[random_state.permutation(len(rows))[:n_rows]]
        kmeans = KMeans(self.n_clusters, n_init=1, random_state=random_state)
        with warnings.catch_warnings():
            # Of too few distinct rows: the fit itself says so at its end.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return kmeans.fit(sample).predict(rows)

    def _best_start(
        self,
        X: NDArray,
        model: SoftmaxModel,
        recipe: Recipe,
        starts: list[NDArray | None],
        settings: dict[str, Any],
        random_state: np.random.RandomState,
    ) -> tuple[SoftmaxModel, Training]:
        """Return the model of the most promising start, and its training to come."""
        n_batches = -(-len(X) // settings["batch_size"])
        n_epochs = min(_TRIAL_EPOCHS, -(-_TRIAL_STEPS // n_batches))
        recipe = recipe.at(0)
        best, least = None, np.inf
        for number, labels in enumerate(starts, start=1):
            candidate = clone(model)
            candidate.initialize(
                X, self.n_clusters, labels=labels, random_state=random_state
            )
            trial = begin(candidate.decision_function(X))
            if len(starts) == 1:
                return candidate, trial
            train(
                candidate,
                X,
                recipe,
                trial,
                batch_size=settings["batch_size"],
                max_iter=min(n_epochs, self.max_iter),
                tol=self.tol,
                random_state=random_state,
                verbose=min(self.verbose, 1),
                title=f"start {number} of {len(starts)}, ",
            )
            if trial.failure:
                failure = trial.failure
                continue
            try:
                logits, loss = evaluate(candidate, X, recipe)
            except FloatingPointError as error:
                failure = advice(error, trial.n_iter)
                continue
            if self.verbose > 1:
                print(f"start {number} of {len(starts)}: loss {loss:.4f}")
            if best is None or loss < least:
                best, best_trial, best_logits, least = candidate, trial, logits, loss
            if trial.interrupted:
                best_trial.interrupted = True
                return best, best_trial
        if best is None:
            raise ValueError(failure)
        return best, begin(best_logits)

    def _train(
        self,
        model: SoftmaxModel,
        X: NDArray,
        recipe: Recipe,
        training: Training,
        settings: dict[str, Any],
        random_state: np.random.RandomState,
        checkpoint: Checkpoint | None,
        callbacks: EpochCallbacks,
    ) -> None:
        """Train in place, with all that happens between two epochs."""
        if training.interrupted:
            return
        n_wanted = np.count_nonzero(recipe.prior)

        def end_epoch(training):
            if checkpoint:
                checkpoint.write(training, random_state)
            _warn_of_collapse(training, n_wanted, recipe.first_lam)
            return callbacks.end_epoch(
                # A copy, because a callback may keep it.
                lambda: {
                    "model_": copy.deepcopy(model),
                    "_n_features_out": self.n_clusters,
                }
            )

        train(
            model,
            X,
            recipe,
            training,
            batch_size=settings["batch_size"],
            max_iter=self.max_iter,
            tol=self.tol,
            random_state=random_state,
            verbose=self.verbose,
            begin_epoch=callbacks.begin_epoch,
            end_epoch=end_epoch,
        )

    def _set_attributes(
        self, model: SoftmaxModel, X: NDArray, recipe: Recipe, training: Training
    ) -> None:
        try:
            logits, loss = evaluate(model, X, recipe)
        except FloatingPointError as error:
            raise ValueError(advice(error, training.n_iter)) from error
        # All at once, because Ctrl-C may come in between.
        vars(self).update(
            model_=model,
            _n_features_out=self.n_clusters,
            labels_=logits.argmax(axis=1),
            probabilities_=softmax(logits, axis=1).max(axis=1),
            loss_=loss,
            **curves(training),
        )

    def _warn_if_unfinished(self, training: Training, *, n_wanted: int) -> None:
        n_used = len(np.unique(self.labels_))
        if training.interrupted:
            warnings.warn(
                f"Training was interrupted after {self.n_iter_} epochs; the estimator "
                "is fitted with the weights that it had.",
                UserWarning,
                stacklevel=3 + N_WRAPPERS,
            )
        elif not (training.converged or training.stopped):
            warnings.warn(
                f"More than tol={self.tol} of the samples still changed cluster in "
                f"epoch {self.n_iter_}. Try a larger max_iter or tol.",
                ConvergenceWarning,
                stacklevel=3 + N_WRAPPERS,
            )
        if n_used < n_wanted:
            warnings.warn(
                f"Only {n_used} of {n_wanted} clusters are used. Try "
                "a larger lam or n_init, or fewer clusters; the data may have fewer "
                "distinct groups.",
                ConvergenceWarning,
                stacklevel=3 + N_WRAPPERS,
            )


def _check_can_save(model: SoftmaxModel, wish: str) -> None:
    if not hasattr(model, "get_state"):
        raise ValueError(
            f"{wish} needs a model with get_state and set_state; "
            f"{type(model).__name__} has none. Its fits can be pickled."
        )


def _warn_of_collapse(training: Training, n_wanted: int, lam: float) -> None:
    """Warn in the epoch in which too few clusters were used for the third time."""
    n_used = [np.count_nonzero(shares) for shares in training.share_curve]
    few = [2 * n < n_wanted for n in n_used]
    if few[-_COLLAPSE_EPOCHS:] == [True] * _COLLAPSE_EPOCHS and not any(
        few[-_COLLAPSE_EPOCHS - 1 : -_COLLAPSE_EPOCHS]
    ):
        warnings.warn(
            f"Only {n_used[-1]} of {n_wanted} clusters are used after "
            f"{training.n_iter} epochs: the training has collapsed, and an empty "
            f"cluster hardly comes back. Stop it, and try a lam larger than {lam:g}, a "
            "smaller learning rate, or a larger batch_size.",
            ConvergenceWarning,
            stacklevel=2,
        )


def _check_lam(lam: Any) -> tuple[float, float]:
    """Return the first and the last value of `lam`."""
    pair = (lam, lam) if isinstance(lam, Real) else tuple(lam)
    if len(pair) != 2 or not all(
        isinstance(value, Real) and 0 < value <= MAX_LAM for value in pair
    ):
        raise ValueError(
            f"lam={lam!r} must be a number in (0, {MAX_LAM:g}], or a pair of them for "
            "the first and the last epoch."
        )
    return float(pair[0]), float(pair[1])


def _nearest(X: NDArray, centroids: NDArray) -> NDArray:
    """Return the index of the nearest of the centroids for every row."""
    centroids = centroids.astype(X.dtype, copy=False)
    largest = max(np.abs(X).max(), np.abs(centroids).max())
    limits = np.finfo(X.dtype)
    if largest > 0 and not limits.tiny**0.25 < largest < limits.max**0.25:
        X, centroids = X / largest, centroids / largest  # squares would overflow
    return pairwise_distances_argmin(X, centroids)


def _match_sizes(labels: NDArray, prior: NDArray) -> NDArray:
    """Rename clusters, so that the largest one has the name of the largest share."""
    size = np.bincount(labels, minlength=len(prior))
    name = np.empty(len(prior), dtype=labels.dtype)
    name[np.argsort(-size, kind="stable")] = np.argsort(-prior, kind="stable")
    return name[labels]


def _is(value: object, name: str) -> bool:
    return isinstance(value, str) and value == name  # not an array
