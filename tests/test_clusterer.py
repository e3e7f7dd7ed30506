import contextlib
import io
import itertools
import os
import pickle
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import SPARSE_CHECKS
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

import skcce._estimator
import skcce._starts
from skcce import (
    CollisionClusterer,
    LinearSoftmax,
    SoftmaxModel,
    solve_pseudo_labels,
)
from skcce._data import TrainingData
from skcce._neighbors import smooth
from skcce._settings import Settings, labels_of_init
from skcce._spectral import SpectralFeatures
from skcce._starts import embed, find_starts
from skcce.losses import collision_cross_entropy_with_logits
from skcce.metrics import clustering_accuracy

PAPER = CollisionClusterer(
    n_neighbors=0, init="random", model=LinearSoftmax(optimizer="sgd", alpha=1e-3)
)


def why_it_must_fail(estimator):
    """k-means draws other rows to start from, as scikit-learn's own does."""
    if estimator.init == "random":
        return SPARSE_CHECKS
    return SPARSE_CHECKS | {
        f"check_sample_weight_equivalence_on_{kind}_data": "starts from k-means"
        for kind in ("dense", "sparse")
    }


@pytest.mark.slow
@parametrize_with_checks(
    [CollisionClusterer(), PAPER], expected_failed_checks=why_it_must_fail
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "name",
    [
        "check_param_validation",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_get_feature_names_out_error",
        "check_dataframe_column_names_consistency",
        "check_inplace_ensure_writeable",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_checks_that_scikit_learn_does_not_generate(name):
    getattr(estimator_checks, name)("CollisionClusterer", CollisionClusterer())


def test_sample_weights_are_repeated_samples_from_a_given_start():
    # Rows of the check, because an empty cluster would start at a random one.
    init = np.random.RandomState(42).uniform(size=(15, 30))[:3]
    clusterer = CollisionClusterer(3, n_neighbors=0, init=init)
    estimator_checks.check_sample_weight_equivalence_on_dense_data("Given", clusterer)


@pytest.mark.parametrize("parameters", [{}, {"init": "random"}, {"batch_size": 20}])
def test_samples_of_weight_zero_are_as_if_they_were_not_there(blobs, parameters):
    X, y = blobs
    weight = (np.random.RandomState(0).uniform(size=300) < 0.3).astype(float)
    few = weight > 0
    X[~few] *= 1e3
    weighted = CollisionClusterer(4, random_state=0, **parameters)
    weighted.fit(X, sample_weight=3 * weight)
    alone = CollisionClusterer(4, random_state=0, **parameters).fit(X[few])
    assert_array_equal(weighted.coef_, alone.coef_)
    assert weighted.loss_ == alone.loss_
    assert_array_equal(weighted.labels_, weighted.predict(X))
    given = CollisionClusterer(4, init=y, random_state=0).fit(X, sample_weight=weight)
    assert np.mean(given.labels_[few] == y[few]) > 0.9


@pytest.mark.parametrize(
    "as_given", [list, pd.Series, np.float32, lambda w: w * 1e-300]
)
def test_only_ratios_of_weights_matter(blobs, as_given):
    X, _ = blobs
    weight = np.random.RandomState(0).uniform(0.5, 2, size=300).astype(np.float32)
    expected = fit(X, sample_weight=weight.astype(float)).predict_proba(X)
    weight = as_given(weight.astype(float))
    # Eigenvectors of a walk of other last bits differ in more than the last bits.
    proba = fit(X, sample_weight=weight).predict_proba(X)
    assert_allclose(proba, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0] * 299, r"sample_weight must have shape \(300,\)"),
        (np.ones((300, 1)), r"sample_weight must have shape \(300,\)"),
        ([-1.0] + [1.0] * 299, "sample_weight must not be negative"),
        ([0.0] * 300, "not all zero"),
        ([np.nan] * 300, "sample_weight contains NaN"),
        ([1.0] * 3 + [0.0] * 297, "n_clusters=4 .* n_samples=3 of positive weight"),
    ],
)
def test_weights_that_are_none(blobs, weight, message):
    with pytest.raises(ValueError, match=message):
        fit(blobs[0], sample_weight=weight)


def fit(X, sample_weight=None, **parameters):
    clusterer = CollisionClusterer(4, random_state=0).set_params(**parameters)
    return clusterer.fit(X, sample_weight=sample_weight)


@pytest.mark.slow
def test_beats_kmeans_on_digits(digits):
    X, y = digits
    kmeans = KMeans(10, n_init=10, random_state=0).fit(X)
    clusterer = CollisionClusterer(10, random_state=0).fit(X)
    gain = adjusted_rand_score(y, clusterer.labels_) - adjusted_rand_score(
        y, kmeans.labels_
    )
    assert gain > 0.05


@pytest.mark.parametrize(
    "parameters",
    [{"lam": 0.01, "prior": None, "features": None}, {"prior": "true shares"}],
)
@pytest.mark.filterwarnings("ignore:Clusters in use. . of 10")
def test_not_worse_than_kmeans_on_a_long_tail(digits, parameters):
    X, y = digits
    rows = np.concatenate([np.flatnonzero(y == k)[: 170 // (k + 1)] for k in range(10)])
    X, y = X[rows], y[rows]
    if parameters.get("prior"):
        parameters = {"prior": np.bincount(y)}
    kmeans = KMeans(10, n_init=10, random_state=0).fit(X)
    clusterer = CollisionClusterer(10, random_state=0, **parameters).fit(X)
    assert adjusted_rand_score(y, clusterer.labels_) > adjusted_rand_score(
        y, kmeans.labels_
    )


@pytest.mark.parametrize("features", ["auto", None])
@pytest.mark.parametrize("n_clusters", [4, "auto"])
def test_attributes_and_methods_agree(blobs, features, n_clusters):
    X, y = blobs
    clusterer = fit(X, features=features, n_clusters=n_clusters)
    proba = clusterer.predict_proba(X)
    assert_array_equal(clusterer.labels_, clusterer.predict(X))
    assert_array_equal(clusterer.labels_, proba.argmax(axis=1))
    assert_array_equal(clusterer.probabilities_, proba.max(axis=1))
    assert_array_equal(clusterer.transform(X), proba)
    assert_allclose(np.exp(clusterer.predict_log_proba(X)), proba)
    assert_allclose(proba.sum(axis=1), 1)
    rows = X if features is None else clusterer.features_.transform(X)
    logits = rows @ clusterer.coef_.T + clusterer.intercept_
    units = np.exp(clusterer.temperature_ * logits)
    groups = clusterer.model_.groups_
    groups = np.arange(4) if groups is None else groups
    sums = np.stack([units[:, groups == k].sum(axis=1) for k in range(4)], axis=1)
    logits = clusterer.model_.decision_function(rows)
    assert_allclose(logits, np.log(sums), rtol=1e-9, atol=1e-9)
    assert clusterer.coef_.shape == (len(groups), rows.shape[1])
    assert clusterer.n_clusters_ == 4
    assert_allclose(clusterer.prior_.sum(), 1)
    assert clusterer.n_iter_ == len(clusterer.loss_curve_) <= clusterer.max_iter
    assert clusterer.converged_
    assert adjusted_rand_score(y, clusterer.labels_) > 0.9


@pytest.mark.slow
def test_loss_falls(digits):
    X, _ = digits
    clusterer = CollisionClusterer(10, features=None, n_init=1, random_state=0)
    curve = clusterer.fit(X).loss_curve_
    assert curve[-1] < 0.9 * curve[0]
    assert np.mean(curve[-5:]) < np.mean(curve[:5])


def test_stops_when_the_clusters_rest():
    X, _ = make_blobs(300, centers=4, cluster_std=0.1, random_state=0)
    clusterer = fit(X, n_init=1)
    assert clusterer.n_iter_ < clusterer.max_iter
    assert clusterer.converged_


def test_kmeans_starts_from_averaged_rows(digits):
    X = digits[0]
    settings = settings_of(n_neighbors=5, features=SpectralFeatures())
    data, neighbors, features, rows = embed(
        TrainingData(X), settings, np.random.RandomState(0)
    )
    assert_allclose(features.transform(X), data.X, atol=1e-12)
    assert_allclose(rows, smooth(neighbors.walk, data.X), atol=1e-12)
    rows = embed(
        TrainingData(X), settings._replace(features=None), np.random.RandomState(0)
    )[-1]
    assert_allclose(rows, smooth(neighbors.walk, neighbors.index.rows), atol=1e-12)


def settings_of(**settings):
    """Two clusters from 20 k-means starts; no neighbors, unless they are asked for."""
    values = {
        "n_clusters": 2,
        "bounds": (2, 2),
        "prior": None,
        "shares": "given",
        "n_fine": 0,
        "n_neighbors": 0,
        "neighbors": "exact",
        "doubts_neighbors": False,
        "features": None,
        "view_source": None,
        "init": "k-means",
        "n_init": 20,
        "plan": None,
    }
    return Settings(**values | settings)


def test_kmeans_starts_with_weights():
    """It pays to leave 10 with 1, because nearly all of the weight is at 0 and 1."""
    X, weight = np.array([[0.0], [1.0], [10.0]]), np.array([1.5, 1.4985, 0.0015])
    settings = settings_of()
    for given, expected in ((weight, [0, 1, 1]), (None, [0, 0, 1])):
        data = TrainingData.of(X, given)
        starts = find_starts(X, data, settings, np.random.RandomState(0))
        same = [adjusted_rand_score(expected, labels) == 1 for labels in starts]
        assert np.mean(same) > 0.7


def test_score_is_mutual_information(blobs):
    X, _ = blobs
    clusterer = fit(X)
    proba = clusterer.predict_proba(X)
    usage = proba.mean(axis=0)
    pointwise = proba * np.log(np.maximum(proba, 1e-300) / usage)
    assert_allclose(clusterer.score(X), pointwise.sum(axis=1).mean())
    assert 0 < clusterer.score(X) <= np.log(4) + 1e-12


@pytest.mark.parametrize("parameters", [{}, {"n_neighbors": 0, "init": "random"}])
def test_origin_and_unit_do_not_matter(blobs, parameters):
    X, _ = blobs
    clusterer = fit(X, **parameters)
    assert_array_equal(fit(8.0 * X, **parameters).labels_, clusterer.labels_)
    moved = fit(X + 100.0, **parameters)
    assert_allclose(
        moved.predict_proba(X + 100.0), clusterer.predict_proba(X), atol=1e-6
    )


def test_paper_to_the_letter_without_neighbors(blobs):
    """Two epochs equal Algorithm 2, written down plainly."""
    X, _ = blobs
    model = LinearSoftmax(optimizer="sgd", learning_rate=0.1, alpha=0.01)
    parameters = {"n_neighbors": 0, "init": "random", "lam": 0.4, "batch_size": 50}
    with pytest.warns(ConvergenceWarning, match="changed cluster"):
        clusterer = fit(X, model=model, n_init=1, max_iter=2, tol=0, **parameters)

    random_state = np.random.RandomState(0)
    rows = X - X.mean(axis=0)
    scale = np.sqrt((rows**2).sum(axis=1).mean())
    rows /= scale
    weights = random_state.normal(0, np.sqrt(2), (4, 5))
    intercept = np.zeros(4)
    for epoch in range(2):
        batches = np.array_split(random_state.permutation(300), 6)
        for i, batch in enumerate(batches):
            logits = rows[batch] @ weights.T + intercept
            proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            labels = solve_pseudo_labels(
                proba,
                lam=0.4,
                solver="em",
                accelerate=False,
                max_iter=10,
                tol=0,
            ).pseudo_labels
            _, gradient = collision_cross_entropy_with_logits(logits, labels)
            step = 0.05 * (1 + np.cos(np.pi * (epoch + i / 6) / 2))
            weights -= step * (gradient.T @ rows[batch] / 50 + 0.01 * weights)
            intercept -= step * gradient.mean(axis=0)
    assert_allclose(clusterer.coef_, weights / scale, rtol=1e-7)
    assert_allclose(
        clusterer.intercept_, intercept - weights @ X.mean(axis=0) / scale, rtol=1e-7
    )


@pytest.mark.slow
def test_divergences_find_the_same_clusters(digits):
    X, _ = digits
    reverse = fit(X, n_clusters=10, n_init=2)
    forward = fit(X, n_clusters=10, n_init=2, divergence="forward")
    assert adjusted_rand_score(reverse.labels_, forward.labels_) > 0.9


def test_forward_divergence_forbids_clusters_without_prior(blobs):
    X, _ = blobs
    clusterer = fit(X, prior=[1, 1, 0, 1], divergence="forward")
    assert not np.isin(2, clusterer.labels_)
    assert np.isfinite(clusterer.loss_)


@pytest.mark.slow
def test_large_lam_gives_the_prior():
    X = np.random.RandomState(0).rand(400, 2)
    prior = [0.6, 0.3, 0.1]
    clusterer = CollisionClusterer(3, prior=prior, lam=100.0, random_state=0).fit(X)
    share = np.sort(np.bincount(clusterer.labels_, minlength=3))[::-1] / 400
    assert_allclose(share, prior, atol=0.06)
    counts = CollisionClusterer(3, prior=[6, 3, 1], lam=100.0, random_state=0).fit(X)
    assert_array_equal(counts.labels_, clusterer.labels_)


def test_order_of_the_prior_does_not_matter():
    X, y = make_blobs([300, 60, 40], cluster_std=2.0, random_state=1)
    for prior in ([300, 60, 40], [40, 300, 60], [60, 40, 300]):
        clusterer = CollisionClusterer(
            3, prior=prior, features=None, lam=4.0, random_state=0
        ).fit(X)
        assert adjusted_rand_score(y, clusterer.labels_) > 0.9
        share = np.bincount(clusterer.labels_)
        assert_array_equal(np.argsort(share), np.argsort(prior))


def test_no_warning_of_a_cluster_that_nobody_wants(blobs):
    clusterer = CollisionClusterer(5, prior=[1, 1, 1, 1, 0], random_state=0)
    assert set(clusterer.fit(blobs[0]).labels_) <= {0, 1, 2, 3}


def test_start_of_least_loss_is_trained_on(blobs, monkeypatch):
    X, _ = blobs
    trained, losses = [], iter([3.0, 1.0, 2.0, 0.0])
    train = skcce._starts.train

    def spy(model, *args, **kwargs):
        trained.append(model)
        return train(model, *args, **kwargs)

    def next_loss(model, data, objective, state, progress):
        return model.decision_function(data.X), next(losses)

    for module in (skcce._estimator, skcce._starts):
        monkeypatch.setattr(module, "train", spy)
        monkeypatch.setattr(module, "evaluate", next_loss)
    clusterer = fit(X, n_neighbors=0, n_init=3)
    assert len(trained) == 4
    assert trained[3] is trained[1]
    assert clusterer.model_ is trained[1]
    assert clusterer.loss_ == 0.0


@pytest.mark.slow
def test_init_with_labels_or_centroids(digits):
    X, y = digits
    ward = AgglomerativeClustering(10).fit_predict(X)
    clusterer = CollisionClusterer(10, init=ward, random_state=0).fit(X)
    assert adjusted_rand_score(ward, clusterer.labels_) > 0.7
    # Cluster k stays cluster k.
    assert np.mean(ward == clusterer.labels_) > 0.8
    centroids = np.array([X[y == k].mean(axis=0) for k in range(10)])
    clusterer = CollisionClusterer(10, init=centroids, random_state=0).fit(X)
    assert np.mean(y == clusterer.labels_) > 0.85


def test_float32_stays_float32(blobs):
    X, _ = blobs
    X32 = X.astype(np.float32)
    clusterer = fit(X32)
    assert clusterer.coef_.dtype == np.float32
    assert clusterer.intercept_.dtype == np.float32
    assert clusterer.probabilities_.dtype == np.float32
    assert clusterer.predict_proba(X32).dtype == np.float32
    assert_array_equal(clusterer.labels_, fit(X).labels_)


@pytest.mark.slow
def test_layout_of_the_array_does_not_matter(blobs, tmp_path):
    X, _ = blobs
    expected = fit(X).coef_
    read_only = X.copy()
    read_only.flags.writeable = False
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    for array in (read_only, mapped, wide, np.asfortranarray(X), X.tolist()):
        assert_allclose(fit(array).coef_, expected, rtol=1e-6)


def test_data_frame_in_data_frame_out(blobs):
    X = pd.DataFrame(blobs[0], columns=list("abcde"))
    clusterer = fit(X).set_output(transform="pandas")
    assert_array_equal(clusterer.feature_names_in_, list("abcde"))
    frame = clusterer.transform(X)
    assert list(frame.columns) == [f"collisionclusterer{k}" for k in range(4)]
    with pytest.raises(ValueError, match="feature names"):
        clusterer.predict(X[list("edcba")])


@pytest.mark.slow
def test_grid_search_over_pipeline_and_model(digits):
    X, y = digits[0][:400], digits[1][:400]
    clusterer = CollisionClusterer(10, n_init=1, random_state=0)
    pipe = make_pipeline(StandardScaler(), PCA(20, random_state=0), clusterer)
    grid = {
        "collisionclusterer__lam": [0.1, 10.0],
        "collisionclusterer__model": [LinearSoftmax()],
        "collisionclusterer__model__alpha": [0.0, 1e-4],
    }
    splitter = StratifiedKFold(3, shuffle=True, random_state=0)
    results = []
    for n_jobs in (1, 2):
        search = GridSearchCV(
            pipe, grid, scoring=clustering_accuracy, cv=splitter, n_jobs=n_jobs
        )
        with warnings.catch_warnings():
            # A worker of joblib cannot be told how to filter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(X, y)
        results.append(search.cv_results_["mean_test_score"])
    assert_array_equal(*results)
    assert results[0].max() > 0.5
    assert len(np.unique(results[0])) > 1


SAME_BITS = """
import hashlib, numpy as np
from skcce import CollisionClusterer
X = np.repeat(np.random.RandomState(0).rand(300, 20), 5, axis=0)
clusterer = CollisionClusterer(5, max_iter=2, tol=1, random_state=0).fit(X)
for array in (clusterer.coef_, clusterer.probabilities_, clusterer.predict_proba(X)):
    print(hashlib.sha256(array.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_same_bits_for_any_number_of_threads():
    """Of so few rows scikit-learn breaks ties by the number of threads."""
    with contextlib.redirect_stdout(io.StringIO()) as of_one:  # see conftest.py
        exec(SAME_BITS, {})
    hashes = {of_one.getvalue()}
    for n_threads in ("2", "4"):
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, n_threads)
        hashes.add(
            subprocess.run(
                [sys.executable, "-c", SAME_BITS],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(hashes) == 1


@pytest.mark.slow
def test_same_seed_same_bits_and_no_global_seed(blobs):
    X, _ = blobs
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = fit(X), fit(X)
    assert_array_equal(first.coef_, second.coef_)
    assert first.loss_curve_ == second.loss_curve_
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    in_worker = joblib.Parallel(n_jobs=2)(
        joblib.delayed(clone(first).fit)(X) for _ in range(2)
    )
    for worker in in_worker:
        assert_array_equal(worker.coef_, first.coef_)


def test_pickle_and_joblib_round_trip(blobs, tmp_path):
    X, _ = blobs
    clusterer = fit(X)
    joblib.dump(clusterer, tmp_path / "clusterer")
    for other in (
        pickle.loads(pickle.dumps(clusterer)),
        joblib.load(tmp_path / "clusterer", mmap_mode="r"),
    ):
        assert_array_equal(other.predict_proba(X), clusterer.predict_proba(X))


def test_model_given_is_not_touched(blobs):
    model = LinearSoftmax()
    clusterer = fit(blobs[0], model=model)
    assert clusterer.model is model
    assert not hasattr(model, "_weights")
    assert clusterer.model_ is not model


class MeanColor(SoftmaxModel):
    """A model of images: a linear one of their mean color."""

    learns_features = True

    def validate_input(self, X):
        if np.ndim(X) != 4:
            raise ValueError(f"Images have 4 dimensions, got {np.ndim(X)}.")
        return X

    def initialize(self, X, n_clusters, **kwargs):
        self.linear = LinearSoftmax()
        self.linear.initialize(X.mean(axis=(1, 2)), n_clusters, **kwargs)

    def train_step(self, X, objective, *, progress):
        return self.linear.train_step(X.mean(axis=(1, 2)), objective, progress=progress)

    def decision_function(self, X):
        return self.linear.decision_function(X.mean(axis=(1, 2)))


def test_any_model_of_any_input():
    color, y = make_blobs(120, n_features=3, centers=3, random_state=0)
    images = np.tile(color[:, None, None], (1, 4, 5, 1))
    clusterer = CollisionClusterer(
        3, model=MeanColor(), lam=2.0, batch_size=40, random_state=0, max_iter=50
    )
    labels = clusterer.fit_predict(images)
    assert adjusted_rand_score(y, labels) > 0.8
    assert_array_equal(clusterer.predict(images), labels)
    assert not hasattr(clusterer, "coef_")
    with pytest.raises(ValueError, match="4 dimensions"):
        clusterer.predict(color)
    for parameters in ({"n_neighbors": 5}, {"init": "k-means"}):
        with pytest.raises(ValueError, match="needs rows of features, X has 4"):
            clone(clusterer).set_params(**parameters).fit(images)


class InterruptedModel(LinearSoftmax):
    """Raises KeyboardInterrupt at a given step of a given start."""

    starts = 0

    def __init__(self, at_start=1, at_step=15):
        super().__init__()
        self.at_start = at_start
        self.at_step = at_step

    def initialize(self, X, n_clusters, **kwargs):
        super().initialize(X, n_clusters, **kwargs)
        type(self).starts += 1
        self.number = type(self).starts

    def train_step(self, X, objective, *, progress):
        if self.number == self.at_start and self._n_steps == self.at_step:
            raise KeyboardInterrupt
        return super().train_step(X, objective, progress=progress)


@pytest.mark.parametrize(
    ("n_init", "at_start", "parameters"),
    [
        (1, 1, {"prior": None}),
        (3, 2, {"n_neighbors": 0}),
        # While the fine clusters of the tree are trained.
        (3, 1, {}),
        (3, 1, {"n_clusters": "auto"}),
    ],
)
def test_interrupt_leaves_a_fitted_estimator(blobs, n_init, at_start, parameters):
    X, y = blobs
    InterruptedModel.starts = 0
    with pytest.warns(UserWarning, match="interrupted"):
        clusterer = fit(
            X, model=InterruptedModel(at_start), n_init=n_init, **parameters
        )
    assert not clusterer.converged_
    assert_array_equal(clusterer.predict(X), clusterer.labels_)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.5


def test_too_large_a_step_is_an_error(blobs):
    model = LinearSoftmax(optimizer="sgd", learning_rate=1e300, alpha=1e10)
    with pytest.raises(ValueError, match="smaller learning rate"):
        fit(blobs[0], model=model)


@pytest.mark.parametrize("n_init", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_last_step_that_is_too_large_is_an_error(blobs, n_init, dtype):
    """One batch, one epoch: no further step shows that the weights overflowed."""
    model = LinearSoftmax(learning_rate=1e100 if dtype == np.float32 else 1e308)
    clusterer = CollisionClusterer(
        4, model=model, max_iter=1, batch_size=1000, init="random", n_init=n_init
    )
    X = 1e3 * blobs[0].astype(dtype)
    with pytest.raises(ValueError, match=r"in epoch 1\. .* smaller learning rate"):
        clusterer.fit(X)
    assert not hasattr(clusterer, "loss_")


def test_a_start_that_overflows_is_not_the_best_one(blobs, monkeypatch):
    evaluate = skcce._starts.evaluate
    n_calls = []

    def overflow_at_first(*args, **kwargs):
        n_calls.append(0)
        if len(n_calls) == 1:
            raise FloatingPointError
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(skcce._starts, "evaluate", overflow_at_first)
    clusterer = fit(blobs[0], n_neighbors=0, n_init=2)
    assert len(n_calls) == 2
    assert adjusted_rand_score(blobs[1], clusterer.labels_) > 0.9


@pytest.mark.slow
def test_a_second_interrupt_leaves_all_attributes_or_none(blobs):
    lines = []

    def interrupt_at(number):
        def trace(frame, event, _):
            if frame.f_code is not CollisionClusterer._set_attributes.__code__:
                return trace if event == "call" else None
            lines.append(frame.f_lineno)
            if len(lines) == number:
                raise KeyboardInterrupt
            return trace

        return trace

    for number in itertools.count(2):
        lines.clear()
        clusterer = CollisionClusterer(4, n_init=1, max_iter=1, tol=1, random_state=0)
        before = sys.gettrace()
        sys.settrace(interrupt_at(number))
        try:
            with contextlib.suppress(KeyboardInterrupt):
                clusterer.fit(blobs[0])
        finally:
            sys.settrace(before)
        names = ("model_", "labels_", "probabilities_", "loss_", "n_iter_")
        assert len({hasattr(clusterer, name) for name in names}) == 1
        if len(lines) < number:
            break
    assert number > 5
    assert hasattr(clusterer, "loss_")


@pytest.mark.parametrize("n_neighbors", [0, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_any_size_have_the_same_clusters(blobs, n_neighbors, dtype):
    largest = np.finfo(dtype).max
    X = blobs[0].astype(dtype)
    expected = fit(X, n_neighbors=n_neighbors)
    for factor in (largest / 100, 1 / np.sqrt(largest)):
        scaled = X / np.abs(X).max() * dtype(factor)
        clusterer = fit(scaled, n_neighbors=n_neighbors)
        assert adjusted_rand_score(expected.labels_, clusterer.labels_) > 0.99
        assert_array_equal(clusterer.predict(scaled), clusterer.labels_)


@pytest.mark.parametrize("factor", [1e-200, 1, 1e306])
def test_centroids_of_any_size_start_their_clusters(blobs, factor):
    X, y = blobs
    X = X / np.abs(X).max()
    centroids = [X[y == k].mean(axis=0) for k in range(4)]
    clusterer = fit(factor * X, init=factor * np.array(centroids))
    assert_array_equal(clusterer.labels_, y)


def test_centroids_of_a_small_structure_far_from_an_outlier():
    X = np.array([[0.0]] * 50 + [[10.0]] * 50 + [[1e18]])
    labels = labels_of_init(
        np.array([[0.0], [10.0], [1e18]]), TrainingData.of(X, None), 3
    )
    assert_array_equal(np.bincount(labels), [50, 50, 1])


@pytest.mark.parametrize("n_neighbors", [0, 5])
def test_rows_whose_differences_overflow_are_an_error(blobs, n_neighbors):
    X = np.sign(blobs[0]) * np.finfo(float).max
    message = r"X has entries up to 1\.8e\+308 .* too large"
    # scikit-learn's own check overflows, too.
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        fit(X, n_neighbors=n_neighbors)


def test_warns_of_unused_clusters_and_of_no_convergence(blobs):
    with pytest.warns(ConvergenceWarning, match="Clusters in use: 1 of 4"):
        fit(np.ones((50, 3)))
    with pytest.warns(ConvergenceWarning, match="larger max_iter"):
        fit(blobs[0], n_neighbors=0, init="random", n_init=1, max_iter=1, tol=0)


@pytest.mark.parametrize("n_samples", [1, 2, 5, 30])
def test_as_many_clusters_as_samples(n_samples):
    X = np.arange(n_samples, dtype=float)[:, None] ** 2
    clusterer = CollisionClusterer(n_samples, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer.fit(X)
    assert np.isfinite(clusterer.predict_proba(X)).all()


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_extreme_units(blobs, factor):
    X = blobs[0].astype(np.float32)
    assert_array_equal(fit(X * np.float32(factor)).labels_, fit(X).labels_)


def test_verbose_reports_starts_and_epochs(blobs, capsys):
    clusterer = fit(blobs[0], n_neighbors=0, verbose=2, n_init=2)
    output = capsys.readouterr().out
    assert "start 2 of 2: loss" in output
    assert output.count("epoch") == clusterer.n_iter_
    assert "4 of 4 clusters used" in output


NAN = np.full((50, 2), np.nan)


@pytest.mark.parametrize(
    ("X", "parameters", "message"),
    [
        (NAN, {}, "NaN"),
        (np.full((50, 2), np.inf), {}, "infinity"),
        (np.empty((0, 2)), {}, "0 sample"),
        (np.ones(50), {}, "2D array"),
        (np.ones((3, 2)), {}, "n_clusters=4 must not be larger than n_samples=3"),
        (np.full((50, 2), "a"), {}, "could not convert string"),
        (None, {"n_clusters": 0}, "n_clusters"),
        (None, {"lam": 0}, "lam"),
        (None, {"lam": np.nan}, "lam"),
        (None, {"lam": 1e308}, "lam"),
        (None, {"lam": np.float32(0)}, "lam"),
        (None, {"lam": "strong"}, "lam"),
        (None, {"prior": [1, 1, 1]}, "prior must hold one share per cluster"),
        (None, {"prior": [1, 1, 1, -1]}, "prior must not be negative"),
        (None, {"prior": [0, 0, 0, 0]}, "prior must have a positive sum"),
        (None, {"prior": [1, 1, 1, np.nan]}, "prior contains NaN"),
        (None, {"n_neighbors": 300}, "n_neighbors=300 must be smaller"),
        (None, {"n_neighbors": -1}, "n_neighbors"),
        (None, {"init": "centers"}, "init"),
        (None, {"init": np.ones((3, 5))}, "init must hold centroids"),
        (None, {"init": np.full(300, 4)}, "integers from 0 to 3"),
        (None, {"init": np.full(300, 0.5)}, "integers from 0 to 3"),
        (None, {"init": np.full((4, 5), np.nan)}, "init contains NaN"),
        (None, {"n_init": 0}, "n_init"),
        (None, {"max_iter": 0}, "max_iter"),
        (None, {"batch_size": 0}, "batch_size"),
        (None, {"tol": -1}, "tol"),
        (None, {"model": KMeans()}, "model"),
        (None, {"model": LinearSoftmax(alpha=-1)}, "alpha"),
        (None, {"model": LinearSoftmax(optimizer="newton")}, "optimizer"),
    ],
)
def test_bad_input_is_named(blobs, X, parameters, message):
    X = blobs[0] if X is None else X
    with pytest.raises((ValueError, TypeError), match=message):
        fit(X, **parameters)


def test_not_fitted(blobs):
    with pytest.raises(NotFittedError):
        CollisionClusterer().predict(blobs[0])
    assert not hasattr(CollisionClusterer(), "coef_")


# --- The number of clusters, their sizes, and the tree ----------------------


@pytest.mark.parametrize("low_high", [(1, 2), [5, 6], (1, 1), (4, 4), (1, 1000)])
def test_bounds_of_the_number(blobs, low_high):
    clusterer = fit(blobs[0], n_clusters=low_high)
    assert clusterer.n_clusters_ == min(max(4, low_high[0]), low_high[1])
    assert clusterer.predict_proba(blobs[0]).shape == (300, clusterer.n_clusters_)
    assert len(clusterer.get_feature_names_out()) == clusterer.n_clusters_
    assert_allclose(clusterer.prior_.sum(), 1)


def test_cut_is_another_number_of_clusters(blobs):
    X, _ = blobs
    clusterer = fit(X, n_clusters="auto")
    before = clusterer.labels_.copy()
    for n_clusters in (1, 2, 4, 9):
        cut = clusterer.cut(n_clusters)
        assert cut.n_clusters_ == cut.n_clusters == n_clusters
        proba = cut.predict_proba(X)
        assert_allclose(proba.sum(axis=1), 1)
        assert proba.shape == (300, n_clusters)
        assert np.mean(cut.predict(X) == cut.labels_) > 0.95
        assert_allclose(cut.prior_, np.bincount(cut.labels_) / 300)
        assert cut.transform(X).shape[1] == len(cut.get_feature_names_out())
        again = cut.cut(4).labels_
        assert_array_equal(again, before)
    assert clusterer.n_clusters == "auto"
    assert_array_equal(clusterer.labels_, before)
    with pytest.raises(ValueError, match="n_clusters=301 must be an integer between"):
        clusterer.cut(301)


def test_cut_labels_every_sample_that_was_given(blobs):
    X, _ = blobs
    weight = np.r_[np.ones(200), np.zeros(100)]
    clusterer = fit(X, n_clusters="auto", sample_weight=weight)
    assert clusterer.cut(4).labels_.shape == (300,)
    assert_array_equal(clusterer.cut(4).labels_, clusterer.labels_)


@pytest.mark.parametrize("parameters", [{"prior": None}, {"n_neighbors": 0}])
def test_no_tree_where_nobody_asked_for_one(blobs, parameters):
    clusterer = fit(blobs[0], **parameters)
    assert not hasattr(clusterer, "tree_")
    with pytest.raises(AttributeError, match="no tree of clusters"):
        clusterer.cut(2)


def test_sizes_are_learned():
    sizes = [400, 200, 100, 50, 20]
    X, y = make_blobs(sizes, n_features=5, center_box=(-30, 30), random_state=1)
    for prior in ("auto", "learn"):
        clusterer = CollisionClusterer(5, prior=prior, random_state=0).fit(X)
        assert adjusted_rand_score(y, clusterer.labels_) == 1
        assert_allclose(np.sort(clusterer.prior_), np.sort(sizes) / len(X))


@pytest.mark.parametrize("prior", ["auto", "learn", None])
def test_equal_sizes_are_found_equal(blobs, prior):
    clusterer = fit(blobs[0], prior=prior)
    assert_allclose(clusterer.prior_, np.full(4, 0.25))
    assert adjusted_rand_score(blobs[1], clusterer.labels_) == 1


def test_clusters_that_touch_do_not_look_unequal():
    """Three are joined in the tree, and the fourth has just an equal share."""
    centers = np.array([[0, 0], [3, 0], [1.5, 2.6], [15, 0]])
    X, y = make_blobs(600, centers=centers, cluster_std=0.9, random_state=0)
    clusterer = CollisionClusterer(4, random_state=0).fit(X)
    assert clusterer._tree.n_clusters == 2
    assert_allclose(clusterer.prior_, 0.25)
    assert adjusted_rand_score(y, clusterer.labels_) > 0.7


@pytest.mark.parametrize("features", ["auto", "spectral", None, SpectralFeatures(3)])
def test_features_of_any_kind(blobs, features):
    X, y = blobs
    clusterer = fit(X, features=features, n_clusters="auto")
    assert adjusted_rand_score(y, clusterer.labels_) == 1
    assert_array_equal(clusterer.predict(X), clusterer.labels_)
    assert (clusterer.features_ is None) == (features is None)
    if isinstance(features, SpectralFeatures):
        assert not hasattr(features, "eigenvalues_")
        assert clusterer.features_.n_neighbors == 10


def test_weights_are_about_repeated_samples(blobs):
    X, _ = blobs
    weight = 1 + (np.arange(300) % 3 == 0)
    weighted = fit(X, n_clusters="auto", sample_weight=weight)
    repeated = fit(np.repeat(X, weight, axis=0), n_clusters="auto")
    assert weighted.n_clusters_ == repeated.n_clusters_ == 4
    assert adjusted_rand_score(weighted.labels_, repeated.predict(X)) == 1
    assert_allclose(np.sort(weighted.prior_), np.sort(repeated.prior_), atol=0.01)


@pytest.mark.parametrize("n_clusters", [3, "auto"])
def test_a_single_distinct_row(n_clusters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusterer = fit(np.ones((100, 3)), n_clusters=n_clusters)
    assert len(np.unique(clusterer.labels_)) == 1
    assert_array_equal(clusterer.predict(np.ones((100, 3))), clusterer.labels_)


@pytest.mark.parametrize("n_samples", range(24, 40, 3))
def test_hardly_any_samples_and_an_unknown_number(n_samples):
    X = np.random.RandomState(0).normal(size=(n_samples, 2))
    clusterer = fit(X, n_clusters="auto")
    assert 1 <= clusterer.n_clusters_ <= n_samples // 12
    assert np.isfinite(clusterer.predict_proba(X)).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_clusters": "many"}, "n_clusters"),
        ({"n_clusters": (3, 2)}, r"n_clusters=\(3, 2\) must be a number, 'auto', or"),
        ({"n_clusters": (0, 2)}, r"n_clusters=\(0, 2\)"),
        ({"n_clusters": (2.0, 3)}, r"n_clusters=\(2.0, 3\)"),
        ({"n_clusters": (1, 2, 3)}, r"n_clusters=\(1, 2, 3\)"),
        ({"n_clusters": (20, 40)}, r"\(20, 40\) needs a tree .* at least 480 samples"),
        ({"n_clusters": (301, 400)}, "must not be larger than n_samples=300"),
        ({"n_clusters": "auto", "n_neighbors": 0}, "Got a LinearS.*n_neighbors=0"),
        (
            {"n_clusters": "auto", "init": "random"},
            "Got a LinearSoftmax, init='random'",
        ),
        ({"n_clusters": "auto", "init": np.zeros(300)}, "init='an array'"),
        ({"n_clusters": "auto", "prior": [1, 1]}, r"prior=\[1, 1\] holds one share"),
        ({"n_clusters": "auto", "model": SoftmaxModel()}, "Got a SoftmaxModel"),
        ({"n_clusters": "auto", "lam": (1, -1)}, "lam"),
        ({"prior": "learn", "n_neighbors": 0}, "prior='learn' needs a tree"),
        ({"prior": "equal"}, "prior"),
        ({"features": "raw"}, "features"),
        ({"features": "spectral", "n_neighbors": 0}, "features='spectral' needs neigh"),
        ({"features": SpectralFeatures(0)}, "n_components"),
    ],
)
def test_what_a_tree_needs_is_said(blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        fit(blobs[0], **parameters)
