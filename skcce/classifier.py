"""Classification with few, soft or noisy labels."""

import os
from collections.abc import Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import sparray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils._param_validation import Interval, StrOptions

from skcce._callbacks import with_callbacks
from skcce._data import TrainingData
from skcce._estimator import SoftmaxEstimator, lazy_for_dask
from skcce._labels import read_labels
from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._pseudo_labels import check_prior
from skcce._spectral import SpectralFeatures
from skcce.methods.collision import Collision, CollisionClusterer, collision_of

__all__ = ["CollisionClassifier"]

# The start has found what lies farther along the walk; labels tell the rest better than
# neighbors do.
_N_STEPS = 1


class CollisionClassifier(ClassifierMixin, SoftmaxEstimator):
    r"""Classification by a softmax model, with a few labels, soft or noisy ones.

    Minimizes over the model's weights, and over the soft pseudo-labels :math:`y_i` of
    the samples without a label,

    .. math::

        \frac1M \sum_{i \text{ without}} -\ln \sum_k \sigma_k(x_i)\, y_{ik}
        + \lambda\, \mathrm{KL}(u \,\|\, \bar y)
        + \frac{a}{|L|} \sum_{i \in L} H(y_i, \sigma(x_i)),
        \qquad \bar y = \frac1M \sum_i y_i,

    the loss of :class:`CollisionClusterer`, and the mean cross-entropy of the labeled
    samples :math:`L`, whose labels are held fixed where the pseudo-labels are solved
    for (section 5.3 and appendix E.2 of [1]_). If all samples have labels, only the
    last term is left, with weight 1.

    The first predictions come from the labels' spread: random walks along the graph of
    nearest neighbors begin at the labels of each class equally often, and a sample is
    of the class whose walks visit it most often [2]_. Clusters of k-means, each matched
    to another class, compete with them, and the least loss wins.

    Parameters
    ----------
    n_extra_clusters : int, default=0
        Number of classes that no label names, to be found beside the others.
    model : SoftmaxModel or None, default=None
        The model that is trained, as that of :class:`CollisionClusterer`. None means
        ``LinearSoftmax()``, with ``optimizer="lbfgs"`` if all samples have hard labels:
        then there is one optimum, and it is reached. Its own parameters are set and
        searched as ``model__alpha``, ...; the optimizer is "adam" then, if none is set.
    features : "auto", "spectral", SpectralFeatures or None, default="auto"
        What the model is trained on, as that of :class:`CollisionClusterer`. "auto"
        takes the rows as they are if all of them have labels.
    loss : {"collision", "shannon"}, default="collision"
        Cross-entropy :math:`H` of given labels and predictions. ``"collision"`` is
        :math:`-\ln \sum_k \sigma_k y_k`: soft labels leave open which class it is, and
        count less. ``"shannon"`` is :math:`-\sum_k y_k \ln \sigma_k`: predictions are
        to be as soft as the labels. They are equal where labels are hard.
    label_weight : float, default=2.0
        Weight :math:`a` of the mean cross-entropy of the labeled samples, if some have
        no label.
    transition : float, array-like (n_classes, n_classes) or None, default=None
        How the labels in `y` became noisy: ``transition[l, k]`` is the probability that
        a sample of class k is labeled l, in the order of ``classes_``. Columns sum to
        1. A number :math:`\eta` is the share of labels that were drawn anew, from all
        classes alike. An observed label l then becomes the soft label proportional to
        row l; with a number, :math:`\eta u + (1 - \eta) y`, :math:`u` uniform. With the
        collision loss, the model learns to predict true classes such that observed
        labels are likely: the forward correction of [3]_.
    lam : float, pair of floats or "auto", default="auto"
        Weight :math:`\lambda` of the fairness term, as that of
        :class:`CollisionClusterer`.
    prior : {"learn", "labels"}, array-like (n_classes,) or None, default="learn"
        Shares of the classes (:math:`u`). "learn" takes those of the labels' spread,
        however the labels were chosen. "labels" takes those of the labels, for many
        labels that were drawn at random. None means equal ones. An array holds one
        share per class, in the order of ``classes_``.
    divergence : {"reverse", "forward"}, default="reverse"
        As that of :class:`CollisionClusterer`.
    view_weight : float, default=2.0
        Weight of augmented views, as that of :class:`CollisionClusterer`.
    n_neighbors : int or "auto", default="auto"
        Number of nearest neighbors, as that of :class:`CollisionClusterer`. "auto" is 0
        if all samples have labels, and `features` asks for none.
    neighbors : str, sparse matrix or transformer, default="auto"
        How they are found, as that of :class:`CollisionClusterer`.
    n_init : int or "auto", default="auto"
        Number of k-means starts beside the spread labels, or of random ones of a
        network; "auto" is as that of :class:`CollisionClusterer`, or 1 if all samples
        have labels.
    max_iter : int, default=20
        Maximum number of epochs, over which the learning rate decays.
    batch_size : int or "auto", default="auto"
        Samples per step, as that of :class:`CollisionClusterer`.
    max_samples : int or None, default=100_000
        Number of rows of a random sample, as that of :class:`CollisionClusterer`; rows
        with labels belong to it, beside at least half as many others as it may have. If
        all have labels, and without neighbors, all rows take part.
    tol : float, default=1e-3
        Stop after 3 consecutive epochs in which the predicted class of at most this
        share of the samples changed.
    checkpoint : str, path-like or None, default=None
        File that is written after every epoch, and from which an interrupted fit is
        resumed, as that of :class:`CollisionClusterer`.
    random_state : int, RandomState instance or None, default=None
        Seed of the starts and the order of the batches.
    verbose : int, default=0
        1 shows a progress bar, 2 also prints a line for each start and each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels in `y`, sorted; behind them the names of extra clusters: the next
        integers, or "extra_0" and so on. Of soft labels, 0, 1, ...
    transduction_ : ndarray of shape (n_samples,)
        Predicted class of each training sample.
    labels_ : ndarray of shape (n_samples,)
        Its number, the column of ``predict_proba``.
    probabilities_ : ndarray of shape (n_samples,)
        Probability of the predicted class of each training sample.
    prior_ : ndarray of shape (n_classes,)
        Shares of the classes that the fit asked for.
    n_clusters_ : int
        Number of classes, extra ones included.
    model_, features_, outlier_scores_, temperature_, coef_, intercept_
        As those of :class:`CollisionClusterer`, with classes for clusters.
    loss_, loss_curve_, share_curve_, n_iter_, converged_
        As those of :class:`CollisionClusterer`, with classes for clusters.
    n_features_in_, feature_names_in_
        As those of :class:`CollisionClusterer`, with classes for clusters.

    See Also
    --------
    CollisionClusterer : The same without labels.
    sklearn.semi_supervised.LabelSpreading : The walk without a model.

    Notes
    -----
    With every label given, one-hot, and an L2 penalty, the optimum is that of
    :class:`sklearn.linear_model.LogisticRegression`;
    ``model=LinearSoftmax(alpha=..., optimizer="lbfgs")`` reaches it.

    ``score`` treats -1 as a class, which is never predicted. Cross-validation with few
    labels therefore needs pairs of row numbers as ``cv``: some of the known labels to
    score, all other samples to fit. ``predict`` and ``transduction_`` need not agree
    with every given label.

    References
    ----------
    .. [1] Zhang, Boykov. "Collision Cross-entropy for Soft Class Labels and Deep
       Clustering". arXiv:2303.07321.
    .. [2] Zhou, Bousquet, Lal, Weston, Schölkopf. "Learning with local and global
       consistency". NIPS 2003.
    .. [3] Patrini, Rozza, Menon, Nock, Qu. "Making deep neural networks robust to label
       noise: a loss correction approach". CVPR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from skcce import CollisionClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> few = np.where(np.random.default_rng(0).random(len(y)) < 0.02, y, -1)
    >>> classifier = CollisionClassifier(random_state=0).fit(X, few)
    >>> classifier.score(X[few == -1], y[few == -1]) > 0.9
    True
    """

    auto: ClassVar[Mapping[str, tuple]] = MappingProxyType(
        dict(CollisionClusterer.auto)
    )

    _parameter_constraints: ClassVar[dict] = {
        **SoftmaxEstimator._parameter_constraints,
        "n_extra_clusters": [Interval(Integral, 0, None, closed="left")],
        "loss": Collision._parameter_constraints["loss"],
        "label_weight": Collision._parameter_constraints["label_weight"],
        "transition": [Real, "array-like", None],
        "lam": CollisionClusterer._parameter_constraints["lam"],
        "prior": [StrOptions({"learn", "labels"}), "array-like", None],
        "divergence": Collision._parameter_constraints["divergence"],
        "view_weight": Collision._parameter_constraints["view_weight"],
    }

    def __init__(
        self,
        *,
        n_extra_clusters: int = 0,
        model: SoftmaxModel | None = None,
        features: SpectralFeatures | Literal["auto", "spectral"] | None = "auto",
        loss: Literal["collision", "shannon"] = "collision",
        label_weight: float = 2.0,
        transition: float | ArrayLike | None = None,
        lam: float | tuple[float, float] | Literal["auto"] = "auto",
        prior: ArrayLike | Literal["learn", "labels"] | None = "learn",
        divergence: Literal["reverse", "forward"] = "reverse",
        view_weight: float = 2.0,
        n_neighbors: int | Literal["auto"] = "auto",
        neighbors: str | sparray | BaseEstimator = "auto",
        n_init: int | Literal["auto"] = "auto",
        max_iter: int = 20,
        batch_size: int | Literal["auto"] = "auto",
        max_samples: int | None = 100_000,
        tol: float = 1e-3,
        checkpoint: str | os.PathLike | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_extra_clusters = n_extra_clusters
        self.model = model
        self.features = features
        self.loss = loss
        self.label_weight = label_weight
        self.transition = transition
        self.lam = lam
        self.prior = prior
        self.divergence = divergence
        self.view_weight = view_weight
        self.n_neighbors = n_neighbors
        self.neighbors = neighbors
        self.n_init = n_init
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_samples = max_samples
        self.tol = tol
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn the classes from some labels and all samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Training data, as for :meth:`CollisionClusterer.fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels: numbers or strings, -1, NaN, None or pandas' NA where there is none.
            (In an array of strings, that is "-1".) Or soft labels: rows that sum to 1,
            rows of NaN where there is none.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; a sample of weight 2 counts as two equal ones.

        Returns
        -------
        self : CollisionClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If `y` has no label, only one class, soft labels that are not distributions
            or a class without a row; if `transition` does not fit; or for the reasons
            of :meth:`CollisionClusterer.fit`.
        TypeError
            If `X` is sparse, and the model is a network.

        Warns
        -----
        ConvergenceWarning
            If samples were still changing class in the last epoch.
        UserWarning
            If the fit was interrupted from the keyboard; the estimator then keeps the
            weights that it had.
        """
        self._validate_params()
        model, data = self._open(X, sample_weight)
        classes, target = read_labels(
            y, data.given.shape[0], self.transition, self.n_extra_clusters
        )
        data = data.with_labels(target)
        objective = self._new_objective(model)
        n_named = len(classes) - self.n_extra_clusters
        _check_classes(classes, n_named, data, objective.prior)
        if data.is_labeled:
            objective.label_weight = 1.0  # there is nothing to weigh labels against
            if self.model is None and (data.target.max(axis=1) == 1).all():
                model = LinearSoftmax(optimizer="lbfgs")
        return self._fit(X, y, model, data, objective, {"classes_": classes})

    @lazy_for_dask
    def predict(self, X: ArrayLike) -> NDArray:
        """Return the most probable class of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples,)
            Entries of ``classes_``.
        """
        (labels,) = self._by_block(
            lambda rows: [self.classes_[self._logits(rows).argmax(axis=1)]], X
        )
        return labels

    @lazy_for_dask
    def decision_function(self, X: ArrayLike) -> NDArray:
        """Return the logits of the classes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or images
            Data, not necessarily seen in fit.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples,)
            Logits; of two classes, those of the second minus those of the first.
        """

        def decide(rows):
            logits = self._logits(rows)
            return [logits if logits.shape[1] != 2 else logits[:, 1] - logits[:, 0]]

        (decisions,) = self._by_block(decide, X)
        return decisions

    @property
    def transduction_(self) -> NDArray:
        """Predicted class of each training sample."""
        if not hasattr(self, "labels_"):
            raise AttributeError("transduction_ is available only after fit.")
        return self.classes_[self.labels_]

    def _new_objective(self, model: SoftmaxModel) -> Collision:
        return collision_of(
            self,
            model,
            loss=self.loss,
            label_weight=self.label_weight,
            n_steps=_N_STEPS,
        )


def _check_classes(
    classes: NDArray, n_named: int, data: TrainingData, prior: ArrayLike | None
) -> None:
    """Raise ValueError if classes have too few samples, or no share.

    The first `n_named` classes have labels.
    """
    names = classes.tolist()
    counts = np.nansum(data.target, axis=0)[:n_named]
    if not counts.all():
        raise ValueError(
            f"y has no row of positive sample_weight for class "
            f"{names[counts.argmin()]!r}."
        )
    if len(names) > data.n_samples:
        raise ValueError(
            f"y has {len(names)} classes, extra ones included, and there are "
            f"n_samples={data.n_samples}: at least one sample per class is needed."
        )
    if data.is_labeled and n_named < len(names):
        raise ValueError(
            f"n_extra_clusters={len(names) - n_named} must be 0: all samples have a "
            "label, and none is left for classes that no label names."
        )
    if prior is not None:
        shares = check_prior(prior, len(names))[:n_named]
        if not shares.all():
            raise ValueError(
                f"prior has 0 for class {names[shares.argmin()]!r}, of which y has "
                "labels: its share must be positive."
            )
