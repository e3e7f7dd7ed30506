"""What takes KMeans takes CollisionClusterer: scikit-learn's own tests, and others."""

import itertools
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning

from skcce import CollisionClusterer

theirs = pytest.importorskip("sklearn.cluster.tests.test_k_means")

# --- scikit-learn's tests of KMeans -----------------------------------------

SAME = [
    "test_all_init",
    "test_centers_not_mutated",
    "test_dense_sparse",
    "test_fit_transform",
    "test_fortran_aligned_data",
    "test_integer_input",
    "test_kmeans_init_fitted_centers",
    "test_kmeans_with_array_like_or_np_scalar_init",
    "test_predict_dense_sparse",
    "test_result_equal_in_diff_n_threads",
    "test_sample_weight_unchanged",
    "test_scaled_weights",
    "test_unit_weights_vs_no_weights",
    "test_weighted_vs_repeated",
    "test_feature_names_out",
]
NOT_THE_SAME = {
    "asks for Lloyd's or Elkan's algorithm, or for copy_x, which are none here": [
        "test_k_means_1_iteration",
        "test_kmeans_convergence",
        "test_kmeans_copyx",
        "test_kmeans_elkan_iter_attribute",
        "test_kmeans_elkan_results",
        "test_kmeans_relocated_clusters",
        "test_kmeans_results",
        "test_kmeans_verbose",
        "test_relocating_with_duplicates",
        "test_warning_elkan_1_cluster",
    ],
    "looks at private attributes": [
        "test_kmeans_init_auto_with_initial_centroids",
        "test_n_init_auto",
        "test_sample_weight_init",
        "test_sample_weight_zero",
    ],
    "has KMeans' words of a warning or an error": [
        "test_kmeans_warns_less_centers_than_unique_points",
        "test_warning_n_init_precomputed_centers",
        "test_wrong_params",
    ],
    "starts without a row in a cluster, where a random one is taken": [
        "test_kmeans_empty_cluster_relocated"
    ],
    "asks that the center of a cluster belongs to it": ["test_kmeans_predict"],
    "transform returns distances": ["test_transform"],
    "transform, to four digits in float32": ["test_float_precision"],
    "a fit minimizes the inertia": ["test_n_init", "test_score_max_iter"],
    "sets cluster_centers_, by which predict goes": [
        "test_predict_does_not_change_cluster_centers"
    ],
    "is of functions, not of KMeans": [
        "test_euclidean_distance",
        "test_inertia",
        "test_is_same_clustering",
        "test_k_means_function",
        "test_kmeans_plusplus_dataorder",
        "test_kmeans_plusplus_norms",
        "test_kmeans_plusplus_output",
        "test_kmeans_plusplus_wrong_params",
        "test_relocate_empty_clusters",
    ],
    "is of MiniBatchKMeans": [
        "test_minibatch_declared_convergence",
        "test_minibatch_iter_steps",
        "test_minibatch_kmeans_init_size",
        "test_minibatch_kmeans_partial_fit_init",
        "test_minibatch_kmeans_verbose",
        "test_minibatch_kmeans_warning_init_size",
        "test_minibatch_reassign",
        "test_minibatch_sensible_reassign",
        "test_minibatch_update_consistency",
        "test_minibatch_with_many_reassignments",
    ],
}
FIXTURES = {"global_random_seed": 42, "global_dtype": np.float64}


def make(**parameters):
    """Return a clusterer where a test makes a KMeans, maybe without a seed."""
    return CollisionClusterer(**{"random_state": 0, **parameters})


def cases():
    """Yield the name of a test, and what each case gives to it, with our class."""
    for name in SAME:
        function = getattr(theirs, name, None)
        if function is None:  # in another version of scikit-learn
            continue
        axes = []
        for mark in getattr(function, "pytestmark", []):
            names, values = mark.args[0].replace(" ", "").split(","), mark.args[1]
            values = values if len(names) > 1 else [(value,) for value in values]
            axes.append([dict(zip(names, value, strict=True)) for value in values])
        wanted = function.__code__.co_varnames[: function.__code__.co_argcount]
        fixtures = {name: FIXTURES[name] for name in wanted if name in FIXTURES}
        for parts in itertools.product(*axes):
            given = {key: value for part in parts for key, value in part.items()}
            is_other = MiniBatchKMeans in [
                value for value in given.values() if isinstance(value, type)
            ]
            if not is_other and not callable(given.get("init")):  # we take none
                ours = {
                    key: CollisionClusterer if value is KMeans else value
                    for key, value in given.items()
                }
                yield name, ours | fixtures


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), [*cases()])
def test_of_scikit_learn(monkeypatch, name, arguments):
    monkeypatch.setattr(theirs, "KMeans", make)
    if "Estimator" in arguments:
        arguments = {**arguments, "Estimator": make}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        getattr(theirs, name)(**arguments)


def test_no_test_of_scikit_learn_is_in_two_lists():
    listed = [*SAME, *itertools.chain(*NOT_THE_SAME.values())]
    assert len(listed) == len(set(listed))
    assert len(list(cases())) > 40


# --- Other packages ---------------------------------------------------------


@pytest.fixture(scope="module")
def unequal():
    """Return a class of many rows and one of few, each of two clusters."""
    centers = [[0, 0], [0, 9], [9, 0], [9, 9]]
    X, clusters = make_blobs([150, 150, 20, 20], centers=centers, random_state=0)
    return X, clusters // 2


@pytest.mark.slow
def test_cluster_centroids_of_imbalanced_learn(unequal):
    sampling = pytest.importorskip("imblearn.under_sampling")
    X, y = unequal
    for voting in ("soft", "hard"):
        sampler = sampling.ClusterCentroids(
            estimator=CollisionClusterer(random_state=0), voting=voting, random_state=0
        )
        with warnings.catch_warnings():  # 40 clusters of 300 rows
            warnings.simplefilter("ignore", ConvergenceWarning)
            few, classes = sampler.fit_resample(X, y)
        assert_array_equal(np.bincount(classes), [40, 40])
        assert np.isfinite(few).all()
        assert_array_equal(few[classes == 1], X[y == 1])
        if voting == "hard":
            assert {*map(tuple, few)} <= {*map(tuple, X)}


@pytest.mark.slow
def test_kmeans_smote_of_imbalanced_learn(unequal):
    sampling = pytest.importorskip("imblearn.over_sampling")
    X, y = unequal
    sampler = sampling.KMeansSMOTE(
        kmeans_estimator=CollisionClusterer(4, random_state=0),
        k_neighbors=2,
        random_state=0,
    )
    more, classes = sampler.fit_resample(X, y)
    counts = np.bincount(classes)
    assert counts[0] == 300
    assert counts[1] >= 300
    assert_array_equal(more[: len(X)], X)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_visualizers_of_yellowbrick(blobs, close_figures):
    """Yellowbrick 1.5 takes no clusterer of today's scikit-learn but with force_model.

    Its legend calls NumPy in a way that is gone.
    """
    cluster = pytest.importorskip("yellowbrick.cluster")
    X, _ = blobs
    clusterer = CollisionClusterer(4, random_state=0)
    display = cluster.InterclusterDistance(clusterer, force_model=True, legend=False)
    display.fit(X).finalize()
    assert_allclose(display.cluster_centers_, clusterer.fit(X).cluster_centers_)
    assert display.embedded_centers_.shape == (4, 2)
    elbow = cluster.KElbowVisualizer(clusterer, k=(2, 7), force_model=True)
    elbow.fit(X).finalize()
    assert np.isfinite(elbow.k_scores_).all()
