"""What clusterers and classifiers share: the fit of a softmax model."""

import copy
import os
from collections.abc import Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skcce._autologging import inner_fits
from skcce._calibration import temperature
from skcce._callbacks import CallbackSupportMixin, EpochCallbacks
from skcce._data import TrainingData
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
from skcce._persistence import (
    FITTED,
    Checkpoint,
    curves,
    load_fit,
    save_fit,
)
from skcce._pseudo_labels import check_prior
from skcce._scaling import canonical
from skcce._settings import Settings, resolve
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


def _has_outlier_scores(estimator: "SoftmaxEstimator") -> bool:
    """Whether a fit has them, or may have them."""
    if getattr(estimator, "_surroundings", True) is None:
        raise AttributeError("Outlier scores need features='spectral'.")
    return True


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

    # What an estimator without these parameters goes by.
    init = "auto"
    contamination = None

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
        return softmax(self._logits(X), axis=1)

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
        return log_softmax(self._logits(X), axis=1)

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

    @property
    def coef_(self) -> NDArray:
        """Weights of a linear model, shape (n_units, n_features_out)."""
        return self._fitted("coef_")

    @property
    def intercept_(self) -> NDArray:
        """Intercepts of a linear model, shape (n_units,)."""
        return self._fitted("intercept_")

    def _logits(self, X: ArrayLike) -> NDArray:
        """Return the logits, one column per cluster, or class."""
        check_is_fitted(self, "model_")
        X = self._validate_input(X, self.model_, reset=False)
        if self.features_ is not None:
            with single_blas_thread(), inner_fits():
                X = self.features_.transform_rows(X)
        logits = self.model_.decision_function(X)
        return logits / logits.dtype.type(self.temperature_)

    def _fitted(self, name: str) -> Any:
        # AttributeError, as scikit-learn's: hasattr tells whether there are any.
        if not hasattr(self, "model_"):
            raise AttributeError(f"{name} is available only after fit.")
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
            if settings.shares != "given":
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
            clusters = self._set_attributes(
                model, data, objective, state, found, scores
            )
        callbacks.end_fit()
        raise_if_diverged(state)
        if checkpoint and not state.interrupted:
            checkpoint.write(state, found, self)
        warn_if_unfinished(state, clusters, settings.n_wanted, self)
        return self

    def _open(
        self, X: ArrayLike, sample_weight: ArrayLike | None
    ) -> tuple[SoftmaxModel, TrainingData]:
        """Return the model to be trained, and the data in the form that it takes."""
        model = LinearSoftmax() if self.model is None else self.model
        X = self._validate_input(X, model, reset=True)
        data = TrainingData.of(X, check_weights(sample_weight, X.shape[0]))
        return model, data

    def _validate_input(
        self, X: ArrayLike, model: SoftmaxModel, *, reset: bool
    ) -> NDArray | csr_array:
        data = model.validate_input(X)
        if data is not None:
            for name in ("n_features_in_", "feature_names_in_") if reset else ():
                vars(self).pop(name, None)  # those of an earlier fit to a table
            return data
        if issparse(X) and not model.takes_sparse:
            raise TypeError(
                f"X is sparse, and a {type(model).__name__} takes dense rows only. Use "
                "a LinearSoftmax, or reduce X first, by TruncatedSVD(128)."
            )
        X = validate_data(
            self,
            X,
            accept_sparse="csr" if model.takes_sparse else False,
            dtype=[np.float64, np.float32],
            reset=reset,
        )
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

        def end_epoch(state):
            if checkpoint:
                checkpoint.write(state, found)
            if not data.is_labeled:  # or a class that is rare need not be predicted
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
        if state.model_state is None:
            raise_if_failed(state)

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
                proba = with_targets(softmax(logits, axis=1), data.target)
                tau = temperature(logits, smooth(data.graph, proba), data.weight)
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
