"""What `neighbors` may be: a way to search, a transformer, or a graph."""

import numpy as np
import pytest
from conftest import stopped_after_epochs
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import coo_array, csr_array, csr_matrix, lil_array
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsTransformer, kneighbors_graph
from sklearn.pipeline import Pipeline, make_pipeline

from skcce import CollisionClassifier, CollisionClusterer, SpectralFeatures

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def groups():
    return make_blobs(400, n_features=6, centers=5, cluster_std=2, random_state=0)


@pytest.fixture(scope="module")
def graph(groups):
    return csr_array(kneighbors_graph(groups[0], 10, mode="distance"))


def make(**parameters):
    return CollisionClusterer(5, **{"random_state": 0, "n_neighbors": 10} | parameters)


def assert_same(one, other, X):
    assert_array_equal(one.labels_, other.labels_)
    assert_array_equal(one.probabilities_, other.probabilities_)
    assert_array_equal(one.predict_proba(X), other.predict_proba(X))


def unsorted(graph):
    """Entries of each row in another order."""
    graph, rng = csr_array(graph, copy=True), np.random.default_rng(0)
    for first, last in zip(graph.indptr, graph.indptr[1:], strict=False):
        order = first + rng.permutation(last - first)
        graph.indices[first:last] = graph.indices[order]
        graph.data[first:last] = graph.data[order]
    graph.has_sorted_indices = False
    return graph


def with_diagonal(graph):
    entries = coo_array(graph)
    numbers = np.arange(graph.shape[0])
    rows, columns = entries.coords
    data = np.append(entries.data, 0.0 * numbers)
    coordinates = np.append(rows, numbers), np.append(columns, numbers)
    return coo_array((data, coordinates), shape=graph.shape)


@pytest.mark.slow
def test_approximate_neighbors_find_the_same_clusters(digits):
    X = digits[0][:700]
    fits = [
        CollisionClusterer(10, neighbors=how, random_state=0).fit(X)
        for how in ("exact", "approximate")
    ]
    assert adjusted_rand_score(*(fit.labels_ for fit in fits)) > 0.95
    assert_array_equal(fits[1].predict(X), fits[1].labels_)
    assert_same(clone(fits[0]).set_params(neighbors="auto").fit(X), fits[0], X)


def test_the_number_of_rows_tells_how_to_search(groups, monkeypatch):
    X, _ = groups
    for rows, how in ((400, "exact"), (399, "approximate")):
        monkeypatch.setattr("skcce._settings._EXACT_ROWS", rows)
        assert make().fit(X).features_.neighbors == how


@pytest.mark.parametrize(
    "form",
    [
        csr_array,
        csr_matrix,
        coo_array,
        lil_array,
        unsorted,
        with_diagonal,
        lambda graph: unsorted(with_diagonal(graph)),
        lambda graph: csr_array(graph, dtype=np.float32),
        lambda graph: 1000 * graph,
    ],
)
def test_a_graph_is_as_a_search(groups, graph, form):
    X, _ = groups
    given = form(graph)
    before = given.copy().tocoo()
    fit = make(neighbors=given).fit(X)
    assert_same(fit, make(neighbors="exact").fit(X), X)
    assert_allclose(given.tocoo().data, before.data)  # is not changed


def test_a_graph_of_more_neighbors_than_are_asked_for(groups):
    X, _ = groups
    more = kneighbors_graph(X, 30, mode="distance")
    assert_same(make(neighbors=more).fit(X), make(neighbors="exact").fit(X), X)


@pytest.mark.slow
def test_a_transformer_is_as_a_search(groups):
    X, _ = groups
    expected = make(neighbors="exact").fit(X)
    for search in (
        KNeighborsTransformer(n_neighbors=10),
        make_pipeline(KNeighborsTransformer(n_neighbors=12)),
    ):
        clusterer = make(neighbors=search)
        assert_same(clusterer.fit(X), expected, X)
        assert not hasattr(search, "n_features_in_")  # a clone was fitted


def test_another_metric_decides_who_is_near(groups):
    X, _ = groups
    search = KNeighborsTransformer(n_neighbors=10, metric="cosine")
    fit = make(neighbors=search, contamination=0.1).fit(X)
    assert (fit.predict_proba(X) != make().fit(X).predict_proba(X)).any()
    # Its distances have another unit; outliers are found as in new rows.
    assert (fit.predict(X) == -1).mean() < 0.2
    features = SpectralFeatures(neighbors=search, random_state=0).fit(X)
    assert features.transform(X).shape == (400, len(features.get_feature_names_out()))


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_outliers_do_not_depend_on_the_unit_of_a_graph(groups, graph, scale):
    X, _ = groups
    fit = make(neighbors=scale * graph, contamination=0.1).fit(X)
    assert_array_equal(fit.predict(X), fit.labels_)
    assert_allclose(fit.outlier_scores_, -fit.score_samples(X))


class CountingTransformer(KNeighborsTransformer):
    calls = 0

    def fit_transform(self, X, y=None):
        type(self).calls += 1
        return super().fit_transform(X, y)


def test_a_search_is_done_once_for_a_grid(groups, tmp_path):
    X, y = groups
    CountingTransformer.calls = 0
    search = Pipeline(
        [("search", CountingTransformer(n_neighbors=10)), ("end", "passthrough")],
        memory=str(tmp_path),
    )
    grid = GridSearchCV(
        make(neighbors=search, n_init=1, max_iter=2),
        {"lam": [1.0, 10.0, 100.0]},
        scoring="adjusted_rand_score",
        cv=[(np.arange(400), np.arange(400))],
        refit=False,
    )
    grid.fit(X, y)
    assert CountingTransformer.calls == 1


def test_equal_points(groups):
    """Distances of 0, which a sparse matrix may hold, or not."""
    X = np.repeat(groups[0][:100], 4, axis=0)
    stored = kneighbors_graph(X, 10, mode="distance")
    assert (stored.data == 0).sum() >= 300
    assert_same(
        make(neighbors=stored).fit(X), make(neighbors=with_diagonal(stored)).fit(X), X
    )
    left_out = csr_array(stored)
    left_out.eliminate_zeros()
    with pytest.raises(ValueError, match=r"a sample with \d neighbors"):
        make(neighbors=left_out).fit(X)
    make(neighbors=left_out, n_neighbors=7).fit(X)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda graph: graph[:, :300], r"square sparse matrix.*\(400, 300\)"),
        (lambda graph: graph[:300, :300], "graph of 300 samples, and X has 400"),
        (lambda graph: -graph, "finite, and not negative"),
        (lambda graph: graph * np.nan, "finite, and not negative"),
        (lambda graph: graph * np.inf, "finite, and not negative. Got inf"),
        (lambda graph: graph * 1j, "distances, got csr_.* of .* complex"),
        (lambda graph: 0 * csr_array(graph.shape), "sample with 0 neighbors"),
        (lambda graph: coo_array(np.ones(400)), "square sparse matrix"),
        (lambda graph: graph.toarray(), "'neighbors' parameter"),
        (lambda graph: "fast", "'neighbors' parameter"),
        (lambda graph: KNeighborsTransformer(n_neighbors=4), "with 4 neighbors"),
        (lambda graph: None, "'neighbors' parameter"),
    ],
)
def test_wrong_graphs(groups, graph, wrong, message):
    X, _ = groups
    clusterer = make().fit(X)
    before = clusterer.labels_
    with pytest.raises(ValueError, match=message):
        clusterer.set_params(neighbors=wrong(graph)).fit(X)
    assert clusterer.labels_ is before


def test_samples_of_weight_zero_leave_the_graph(groups):
    X, _ = groups
    weight = np.ones(400)
    weight[::7] = 0
    kept = weight > 0
    graph = kneighbors_graph(X, 40, mode="distance")
    fit = make(neighbors=graph).fit(X, sample_weight=weight)
    among = kneighbors_graph(X[kept], 10, mode="distance")
    expected = make(neighbors=among).fit(X[kept])
    assert_array_equal(fit.predict_proba(X), expected.predict_proba(X))
    assert fit.labels_.shape == (400,)
    # A graph of the others alone will do, too.
    assert_array_equal(
        make(neighbors=among).fit(X, sample_weight=weight).labels_, fit.labels_
    )


@pytest.mark.parametrize("how", ["approximate", "graph", "transformer"])
def test_save_and_load(groups, graph, path, how):
    X, _ = groups
    how = {"graph": graph, "transformer": KNeighborsTransformer(n_neighbors=10)}.get(
        how, how
    )
    fit = make(neighbors=how).fit(X)
    fit.save(path)
    assert_same(make(neighbors=how).load(path), fit, X)
    assert_same(make().load(path), fit, X)


@pytest.mark.parametrize("how", ["approximate", "graph", "transformer"])
def test_a_run_goes_on(groups, graph, path, how):
    X, _ = groups
    how = {"graph": graph, "transformer": KNeighborsTransformer(n_neighbors=10)}.get(
        how, how
    )
    parameters = {"max_iter": 6, "tol": 0, "n_init": 2, "prior": None}
    whole = make(neighbors=how, **parameters).fit(X)
    run = make(neighbors=how, checkpoint=path, **parameters)
    with stopped_after_epochs(3):
        run.fit(X)
    assert run.n_iter_ == 3
    assert_same(run.fit(X), whole, X)
    # What neighbors are belongs to the run.
    with pytest.raises(ValueError, match=r"another run \(neighbors"):
        clone(run).set_params(neighbors="exact").fit(X)


def test_another_graph_is_another_run(groups, graph, path):
    X, _ = groups
    make(neighbors=graph, checkpoint=path, n_init=1, max_iter=2).fit(X)
    make(neighbors=unsorted(graph), checkpoint=path, n_init=1, max_iter=2).fit(X)
    with pytest.raises(ValueError, match=r"another run \(neighbors"):
        make(neighbors=2 * graph, checkpoint=path, n_init=1, max_iter=2).fit(X)


def test_clone_and_repr(graph):
    clusterer = make(neighbors=graph)
    copy = clone(clusterer)
    assert (copy.neighbors != graph).nnz == 0
    assert "neighbors" in repr(copy)
    search = make(neighbors=KNeighborsTransformer())
    assert search.get_params()["neighbors__n_neighbors"] == 5
    assert search.set_params(neighbors__n_neighbors=7).neighbors.n_neighbors == 7


def test_a_classifier_takes_graphs(groups, graph):
    X, y = groups
    labels = np.where(np.arange(400) < 40, y, -1)
    fits = [
        CollisionClassifier(n_neighbors=10, neighbors=how, random_state=0).fit(
            X, labels
        )
        for how in ("exact", graph, KNeighborsTransformer(n_neighbors=10))
    ]
    for fit in fits[1:]:
        assert_array_equal(fit.predict_proba(X), fits[0].predict_proba(X))
    approximate = CollisionClassifier(neighbors="approximate", random_state=0)
    assert approximate.fit(X, labels).score(X, y) > 0.9


def test_an_interrupted_search_leaves_all_as_it_was(groups, monkeypatch):
    """Nothing was trained: there is nothing to go on with."""
    X, _ = groups

    def interrupt(*args):
        raise KeyboardInterrupt

    fitted = make().fit(X)
    before = dict(vars(fitted))
    new = make(verbose=1)
    monkeypatch.setattr("skcce._neighbors.exact_neighbors", interrupt)
    for clusterer in (fitted, new):
        with pytest.raises(KeyboardInterrupt):
            clusterer.fit(X)
    assert not hasattr(new, "model_")
    assert vars(fitted) == before


def test_phases_are_shown(groups, capsys):
    X, _ = groups
    make(verbose=1).fit(X, sample_weight=np.arange(400) % 5)
    shown = capsys.readouterr().err
    phases = ["neighbors: 100%", "epoch 1", "predictions: 100%"]
    places = [shown.find(phase) for phase in phases]
    assert -1 not in places
    assert places == sorted(places)
    assert "rows/s" in shown
    make(verbose=0).fit(X)
    assert capsys.readouterr().err == ""
