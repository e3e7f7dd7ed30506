"""What clusterers and classifiers share: the fit of a softmax model."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, assert_all_finite, check_random_state, gen_batches
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce._autologging import inner_fits
from skcce._blocks import fill, is_dask, map_blocks
from skcce._calibration import temperature
from skcce._callbacks import CallbackSupportMixin, EpochCallbacks
from skcce._data import TrainingData
from skcce._export import as_scikit_learn
from skcce._linear import LinearSoftmax
from skcce._messages import (
    advice,
    raise_if_diverged,
    raise_if_failed,
    warn_if_unfinished,
    warn_of_collapse,
)
from skcce._model import SoftmaxModel
from skcce._neighbors import smooth
from skcce._objective import Objective, with_targets
from skcce._outliers import find_outliers
from skcce._passes import goes_in_passes, train_in_passes
from skcce._persistence import (
    FITTED,
    Checkpoint,
    curves,
    load_fit,
    save_fit,
)
from skcce._progress import progress_bar
from skcce._pseudo_labels import check_prior
from skcce._scaling import BLOCK, canonical
from skcce._settings import Settings, draw_sample, resolve
from skcce._spectral import SpectralFeatures
from skcce._starts import (
    ask_labels,
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
from skcce._weights import check_weights

# Many at a time, so that several of them look into the same cell.
_ROWS_TO_LOOK_UP = 65_536

# What partial_fit adds to the attributes of a fit.
STREAMED = ("_stream", "n_samples_seen_")

_FLOATS = [np.float64, np.float32]
# What is converted block by block, not as a whole.
_IN_LARGE_FILES = [*_FLOATS, np.float16, np.uint8]


def _has_outlier_scores(estimator: "SoftmaxEstimator") -> bool:
    """Whether a fit has them, or may have them."""
    if getattr(estimator, "_surroundings", True) is None:
        raise AttributeError("Outlier scores need features='spectral'.")
    return True


def _largest(logits: NDArray, k: int) -> NDArray:
    """Return the columns (n, k) of the largest logits, and overwrite these.

    The largest first; of equal ones, the first first.
    """
    order = np.empty((len(logits), k), dtype=np.intp)
    # Of many clusters, a few are found much faster than all are sorted.
    for column in order.T:
        column[:] = logits.argmax(axis=1)
        np.put_along_axis(logits, column[:, None], -np.inf, axis=1)
    return order


def lazy_for_dask(method: Callable) -> Callable:
    """Have a method answer for a dask array or data frame with a lazy dask array."""

    @wraps(method)
    def either(self, X):
        if not is_dask(X):
            return method(self, X)
        from skcce._dask import predicted

        return predicted(self, method.__name__, X)

    return either


class SoftmaxEstimator(CallbackSupportMixin, BaseEstimator):
    """A softmax model that is trained with an objective; what it says is not yet told.

    A subclass has an ``__init__``, a ``fit`` that opens the data and calls `_fit`, and
    a ``predict``.
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
        "model": [SoftmaxModel, None],
        "features": [StrOptions({"auto", "spectral"}), SpectralFeatures, None],
        "n_neighbors": [
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "neighbors": [
            StrOptions({"auto", "exact", "approximate"}),
            "sparse matrix",
            HasMethods("fit_transform"),
        ],
        "n_init": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "max_samples": [Interval(Integral, 2, None, closed="left"), None],
        "checkpoint": [str, os.PathLike, None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # What an estimator without these parameters goes by.
    init = "auto"
    contamination = None

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of an inner estimator as ``model__...``.

        Parameters
        ----------
        **params
            Parameters of the estimator, and of its `model` and `features`. Where these
            are left at their defaults, ``model__...`` sets a ``LinearSoftmax``, and
            ``features__...`` a ``SpectralFeatures``.

        Returns
        -------
        self : estimator
            The estimator.

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        for name, default, stands_for in (
            ("model", [None], LinearSoftmax),
            ("features", ["auto", "spectral"], SpectralFeatures),
        ):
            is_inner = any(inner.startswith(f"{name}__") for inner in params)
            if is_inner and params.get(name, getattr(self, name)) in default:
                params = {**params, name: stands_for()}
        return super().set_params(**params)

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
        for name in (*FITTED, *STREAMED):
            vars(self).pop(name, None)
        vars(self).update(attributes)
        return self

    @lazy_for_dask
    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Return the probability of each cluster, or class, for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Probabilities; rows sum to 1. The dtype is that of `X`.
        """
        (proba,) = self._by_block(lambda rows: [softmax(self._logits(rows), axis=1)], X)
        return proba

    @lazy_for_dask
    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        """Return the log-probability of each cluster, or class, for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_clusters)
            Logarithms, finite where the probability itself underflows.
        """
        (log_proba,) = self._by_block(
            lambda rows: [log_softmax(self._logits(rows), axis=1)], X
        )
        return log_proba

    def predict_topk(self, X: ArrayLike, k: int) -> tuple[NDArray, NDArray]:
        """Return the most probable clusters, or classes, of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.
        k : int
            How many of them, from 1 to n_clusters.

        Returns
        -------
        labels : ndarray of shape (n_samples, k)
            Numbers of clusters, or entries of ``classes_``, the most probable first;
            of equal ones, the first first. There is no -1: outliers, too, have clusters
            that are more probable than others.
        probabilities : ndarray of shape (n_samples, k)
            Their probabilities.

        Raises
        ------
        ValueError
            If `k` is no integer from 1 to n_clusters.
        """
        check_is_fitted(self, "model_")
        is_int = isinstance(k, Integral) and not isinstance(k, bool)
        if not is_int or not 1 <= k <= self.n_clusters_:
            raise ValueError(
                f"k={k!r} must be an integer from 1 to n_clusters_={self.n_clusters_}: "
                "how many of the most probable ones."
            )

        names = getattr(self, "classes_", np.arange(self.n_clusters_))

        def most_probable(rows):
            logits = self._logits(rows)
            proba = softmax(logits, axis=1)
            order = _largest(logits, k)
            return names[order], np.take_along_axis(proba, order, axis=1)

        return self._by_block(most_probable, X)

    def to_sklearn(self) -> LogisticRegression | Pipeline:
        """Return a scikit-learn model that predicts the same probabilities.

        It needs skcce only for the features of ``features="spectral"``. Without these,
        skl2onnx makes ONNX of it.

        Returns
        -------
        LogisticRegression or Pipeline
            As if it had been fitted; in float64, whatever the dtype of the training
            data. With ``features="spectral"`` a pipeline of ``features_`` and the
            LogisticRegression. Its classes are the clusters, from 0 on, or
            ``classes_``; it knows no -1 of `contamination`.

        Raises
        ------
        NotFittedError
            If nothing was fitted.
        ValueError
            If the model is not linear, there is only one cluster, or the clusters are
            joined from finer ones (``model_.groups_``), as with ``prior="learn"``, and
            maybe "auto": sums of probabilities are not those of a LogisticRegression.

        Examples
        --------
        >>> import numpy as np
        >>> from sklearn.datasets import load_iris
        >>> from skcce import CollisionClusterer
        >>> X = load_iris().data
        >>> clusterer = CollisionClusterer(3, features=None, prior=None, random_state=0)
        >>> regression = clusterer.fit(X).to_sklearn()
        >>> regression
        LogisticRegression()
        >>> np.allclose(regression.predict_proba(X), clusterer.predict_proba(X))
        True
        """
        check_is_fitted(self, "model_")
        return as_scikit_learn(
            self.model_,
            self.features_,
            self.temperature_,
            getattr(self, "classes_", np.arange(self.n_clusters_)),
            getattr(self, "feature_names_in_", None),
        )

    @available_if(_has_outlier_scores)
    @lazy_for_dask
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

        def score(rows):
            _, around = self._look_up(rows)
            return [-self._surroundings.scores(*around)]

        (scores,) = self._by_block(score, X)
        return scores

    @property
    def coef_(self) -> NDArray:
        """Weights of a linear model, shape (n_units, n_features_out)."""
        return self._fitted("coef_")

    @property
    def intercept_(self) -> NDArray:
        """Intercepts of a linear model, shape (n_units,)."""
        return self._fitted("intercept_")

    def _by_block(
        self, function: Callable[[Any], Sequence[NDArray]], X: Any
    ) -> tuple[NDArray, ...]:
        """Return what `function` makes of new rows: arrays with an entry for each."""
        n_rows, blocks = self._blocks(X)
        return fill(n_rows, ((block, function(rows)) for block, rows in blocks))

    def _blocks(self, X: Any) -> tuple[int, Iterator[tuple[slice, Any]]]:
        """Return how many new rows there are, and the rows, checked, block by block.

        Of a network, all at once: it makes its own blocks.
        """
        check_is_fitted(self, "model_")
        model = self.model_
        if model.learns_features or model.validate_input(X) is not None:
            X = self._validate_input(X, model, reset=False)
            return X.shape[0], iter([(slice(None), X)])
        X = self._validate_input(
            X, model, reset=False, dtype=_IN_LARGE_FILES, ensure_all_finite=False
        )

        def checked(rows):
            name = type(self).__name__
            assert_all_finite(rows, estimator_name=name, input_name="X")
            return rows if rows.dtype in _FLOATS else rows.astype(np.float64)

        size = BLOCK if self.features_ is None else _ROWS_TO_LOOK_UP
        blocks = gen_batches(X.shape[0], size)
        return X.shape[0], ((block, checked(X[block])) for block in blocks)

    def _logits(self, rows: Any) -> NDArray:
        """Return the logits of rows that were checked, one column per cluster."""
        return self._logits_of(self._look_up(rows)[0])

    def _look_up(self, rows: Any) -> tuple[Any, Sequence[NDArray]]:
        """Return the features of rows that were checked, and what is near to them."""
        if self.features_ is None:
            return rows, ()
        with single_blas_thread(), inner_fits():
            features, *around = self.features_.look_up(rows)
        return features, around

    def _logits_of(self, features: Any) -> NDArray:
        with single_blas_thread():  # the bits of a product may depend on their number
            logits = self.model_.decision_function(features)
        return logits / logits.dtype.type(self.temperature_)

    def _check_has(self, name: str) -> None:
        # AttributeError, as scikit-learn's: hasattr tells whether there are any.
        if not hasattr(self, "model_"):
            raise AttributeError(f"{name} is available only after fit.")

    def _fitted(self, name: str) -> Any:
        self._check_has(name)
        value = getattr(self.model_, name)
        return value / value.dtype.type(self.temperature_)

    def _fit(
        self,
        X: Any,
        y: Any,
        model: SoftmaxModel,
        data: TrainingData,
        objective: Objective,
        classes: Mapping[str, NDArray] = MappingProxyType({}),
    ) -> Self:
        """Fit to data that were opened; `classes` are attributes known before."""
        random_state = check_random_state(self.random_state)
        whole, data = data, draw_sample(self, model, data, objective, random_state)
        settings = resolve(self, model, objective, data)
        checkpoint = None
        if self.checkpoint is not None:
            checkpoint = Checkpoint(self.checkpoint, self, model, data, settings)
        resumes = checkpoint is not None and checkpoint.exists
        if resumes:
            settings = checkpoint.settings(settings)
        verbose = self._shown(model)
        # Matrices are too small here to gain from more threads, whose number would
        # change the last digits.
        with single_blas_thread():
            data, neighbors, features, rows = embed(
                data, settings, random_state, verbose
            )
            settings = ask_labels(settings, data)
            if resumes:
                tree, fine = checkpoint.tree, None
                # With links, the model does not tell whether shares are the tree's.
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
                    neighbors,
                    rows,
                    settings,
                    random_state,
                    verbose,
                )
                settings, starts = choose(
                    tree, fine, rows, data, settings, random_state
                )
            if settings.shares != "given":
                objective = asking_for(settings.prior, objective)
            is_part = data.n_samples < whole.n_samples
            goes_on = is_part and goes_in_passes(model, objective, data)
            max_iter = 2 * self.max_iter if goes_on else self.max_iter
            callbacks = EpochCallbacks(self, X, y, max_iter)
            if resumes:
                model, state = checkpoint.resume(settings.n_clusters, random_state)
            elif not starts:
                model, state = join_fine(tree, fine, data, settings.n_clusters)
            else:
                model, state = best_start(
                    model, data, objective, starts, settings, random_state, verbose
                )
            scores, surroundings = None, None
            if features is not None:
                scores, surroundings = find_outliers(neighbors, self.contamination)
            found = {
                **classes,
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
            if goes_on and not (state.interrupted or state.stopped or state.error):
                state = train_in_passes(
                    model,
                    data,
                    whole,
                    objective,
                    settings.plan,
                    state.random_state,
                    title="all rows, ",
                    **self._around_epochs(model, data, settings, callbacks, found),
                )
            clusters = self._set_attributes(
                model, data, objective, state, found, scores
            )
        callbacks.end_fit()
        raise_if_diverged(state)
        # That of the sample stays: a run that goes on begins its passes anew.
        if checkpoint and not state.interrupted and not goes_on:
            checkpoint.write(state, found, self)
        if model.is_main_process:
            warn_if_unfinished(state, clusters, settings.n_wanted, self)
        return self

    def _shown(self, model: SoftmaxModel) -> int:
        """Return how verbose this process is, maybe one of several."""
        return self.verbose if model.is_main_process else 0

    def _open(
        self, X: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[SoftmaxModel, TrainingData]:
        """Return the model to be trained, and the data in the form that it takes."""
        model = LinearSoftmax() if self.model is None else self.model
        X = self._validate_input(X, model, reset=True)
        data = TrainingData.of(X, check_weights(sample_weight, X.shape[0]))
        if sample_weight is not None:
            weight = np.atleast_1d(np.asarray(sample_weight, dtype=np.float64))
            data = replace(data, given_weight=weight)
        return model, data

    def _validate_input(
        self, X: ArrayLike, model: SoftmaxModel, *, reset: bool, **how: Any
    ) -> NDArray | csr_array:
        data = model.validate_input(X)
        if data is not None:
            for name in ("n_features_in_", "feature_names_in_") if reset else ():
                vars(self).pop(name, None)  # those of an earlier fit to a table
            return data
        if is_dask(X):
            from skcce._dask import opened

            lazy = opened(self, X, reset=reset)
            return lazy if reset else lazy.compute()
        if issparse(X) and not model.takes_sparse:
            raise TypeError(
                f"X is sparse, and a {type(model).__name__} takes dense rows only. Use "
                "a LinearSoftmax, or reduce X first, by TruncatedSVD(128)."
            )
        accepts = "csr" if model.takes_sparse else False
        how = {"dtype": _FLOATS, "accept_sparse": accepts, **how}
        X = validate_data(self, X, reset=reset, **how)
        return canonical(X) if issparse(X) else X

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.model is None or self.model.takes_sparse
        return tags

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

        train(
            model,
            data,
            objective,
            settings.plan,
            state,
            **self._around_epochs(model, data, settings, callbacks, found, checkpoint),
        )
        if state.model_state is None:
            raise_if_failed(state)

    def _around_epochs(
        self,
        model: SoftmaxModel,
        data: TrainingData,
        settings: Settings,
        callbacks: EpochCallbacks,
        found: Mapping[str, Any],
        checkpoint: Checkpoint | None = None,
    ) -> dict[str, Any]:
        """Return what happens before an epoch and after it."""

        def end_epoch(state):
            if checkpoint:
                checkpoint.write(state, found)
            # A class that is rare need not be predicted.
            if model.is_main_process and not data.is_labeled:
                warn_of_collapse(state, settings.n_wanted, self)
            return callbacks.end_epoch(
                # A copy, because a callback may keep it.
                lambda: {"model_": copy.deepcopy(model), "temperature_": 1.0, **found}
            )

        return {
            "verbose": self._shown(model),
            "begin_epoch": callbacks.begin_epoch,
            "end_epoch": end_epoch,
        }

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
        try:
            # A copy, as a checkpoint goes on from the predictions of the last epoch.
            final = copy.copy(state)
            logits, loss = evaluate(model, data, objective, final, progress=1.0)
            tau = 1.0
            if data.graph is not None:
                proba = with_targets(softmax(logits, axis=1), data.target)
                tau = temperature(logits, smooth(data.graph, proba), data.weight)
            predicted = predictions(logits, tau)
            if data.kept is not None:
                predicted, scores = self._predict_given(model, data.given, found, tau)
        except FloatingPointError as error:
            raise ValueError(advice(error, state.n_iter)) from error
        labels, probabilities = predicted
        clusters = labels
        if scores is not None:
            found = {**found, "outlier_scores_": scores}
            is_foreign = scores > found["_surroundings"].threshold
            labels = np.where(is_foreign, -1, clusters)
        found = {**found, **self._describe(model, data, labels, logits)}
        # All at once, because Ctrl-C may come in between.
        for name in ("outlier_scores_", *STREAMED):  # of an earlier fit
            vars(self).pop(name, None)
        vars(self).update(
            model_=model,
            **found,
            temperature_=tau,
            labels_=labels,
            probabilities_=probabilities,
            loss_=loss,
            **curves(state),
        )
        return clusters

    def _describe(
        self, model: SoftmaxModel, data: TrainingData, labels: NDArray, logits: NDArray
    ) -> dict[str, Any]:
        """Return attributes that tell of the rows of each cluster.

        labels : those of all rows that were given; logits : those of the samples.
        """
        return {}

    def _predict_given(
        self, model: SoftmaxModel, given: Any, found: Mapping[str, Any], tau: float
    ) -> tuple[tuple[NDArray, NDArray], NDArray | None]:
        """Return predictions for all rows of a fit that looked at some, and scores.

        The tree gets their fine clusters.
        """
        features, tree = found["features_"], found["_tree"]
        predict = partial(predict_block, model, found, tau)
        with progress_bar(
            self._shown(model), total=given.shape[0], desc="predictions", unit=" rows"
        ) as bar:

            def parts() -> Iterator[tuple[slice, list[NDArray]]]:
                first = 0
                for part in map_blocks(
                    predict, given, _ROWS_TO_LOOK_UP, distributed=model.distributed
                ):
                    rows = slice(first, first + len(part[0]))
                    first = rows.stop
                    bar.update(len(part[0]))
                    yield rows, part

            labels, top, *others = fill(given.shape[0], parts())
        scores = None if features is None else others.pop(0)
        if tree is not None:
            tree.labels = others.pop()
        return (labels, top), scores


def predict_block(
    model: SoftmaxModel, found: Mapping[str, Any], tau: float, X: Any
) -> list[NDArray]:
    """Return clusters of rows, their probabilities, and what else there is.

    That are outlier scores if there are features, and fine clusters if there is a tree.
    """
    features, tree, others = found["features_"], found["_tree"], []
    if features is not None:
        X, *around = features.look_up(X)
        others.append(found["_surroundings"].scores(*around))
    if tree is not None:
        others.append(finite_logits(tree.model, X).argmax(axis=1))
    return [*predictions(finite_logits(model, X), tau), *others]


def predictions(logits: NDArray, temperature: float) -> tuple[NDArray, NDArray]:
    """Return the likeliest cluster of each row, and its probability."""
    logits = logits / logits.dtype.type(temperature)
    return logits.argmax(axis=1), softmax(logits, axis=1).max(axis=1)
