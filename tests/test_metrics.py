"""The clustering accuracy: best matching, invariances, scorer."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

from skcce.metrics import clustering_accuracy, clustering_accuracy_score, match_labels

#: Numbers of classes and of clusters.
SIZES = [(1, 1), (2, 2), (3, 3), (5, 5), (2, 4), (4, 2), (1, 5), (5, 1)]

all_sizes = pytest.mark.parametrize(("n_classes", "n_clusters"), SIZES)
both_functions = pytest.mark.parametrize(
    "function", [clustering_accuracy_score, match_labels]
)


def draw(n_classes, n_clusters, seed=0, n_samples=60):
    """Return classes, clusters that depend on them, and weights."""
    rng = np.random.default_rng(seed)
    true = rng.integers(n_classes, size=n_samples)
    related = rng.integers(n_clusters, size=n_classes)[true]
    noise = rng.integers(n_clusters, size=n_samples)
    pred = np.where(rng.random(n_samples) < 0.5, related, noise)
    return true, pred, rng.integers(4, size=n_samples)


def brute_force(true, pred, n_classes, n_clusters, weight=None):
    """Try every one-to-one map; classes beyond the real ones stand for 'unmatched'."""
    size = max(n_classes, n_clusters)
    return max(
        accuracy_score(true, np.array(names)[pred], sample_weight=weight)
        for names in permutations(range(size))
    )


@pytest.mark.parametrize("n_clusters", [1, 2, 7])
def test_perfect_under_any_names(n_clusters):
    rng = np.random.default_rng(0)
    true = np.r_[np.arange(n_clusters), rng.integers(n_clusters, size=40)]
    numbers = rng.permutation(n_clusters)
    for names in (numbers, -100 * numbers, numbers + 0.5, numbers.astype(str)):
        assert clustering_accuracy_score(true, names[true]) == 1
        assert clustering_accuracy_score(names[true], true) == 1
        expected = dict(zip(names.tolist(), range(n_clusters), strict=True))
        assert match_labels(true, names[true]) == expected


@all_sizes
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_equals_brute_force(n_classes, n_clusters, weighted, seed):
    true, pred, weight = draw(n_classes, n_clusters, seed)
    weight = weight if weighted else None
    score = clustering_accuracy_score(true, pred, sample_weight=weight)
    assert isinstance(score, float)
    assert 0 < score <= 1
    expected = brute_force(true, pred, n_classes, n_clusters, weight)
    assert score == pytest.approx(expected, abs=1e-15)


@all_sizes
@pytest.mark.parametrize("weighted", [False, True])
def test_match_attains_the_score_one_to_one(n_classes, n_clusters, weighted):
    true, pred, weight = draw(n_classes, n_clusters)
    weight = weight if weighted else None
    match = match_labels(true, pred, sample_weight=weight)
    assert list(match) == sorted(match)
    assert len(match) == len(set(match.values())) == min(n_classes, n_clusters)
    assert set(match) <= set(pred)
    assert set(match.values()) <= set(true)
    agree = [match.get(p) == t for p, t in zip(pred, true, strict=True)]
    score = clustering_accuracy_score(true, pred, sample_weight=weight)
    assert score == pytest.approx(np.average(agree, weights=weight), abs=1e-15)


@all_sizes
def test_weights_are_repetitions(n_classes, n_clusters):
    true, pred, weight = draw(n_classes, n_clusters)
    weighted = clustering_accuracy_score(true, pred, sample_weight=weight)
    repeated = clustering_accuracy_score(true.repeat(weight), pred.repeat(weight))
    assert weighted == pytest.approx(repeated, abs=1e-15)
    scaled = clustering_accuracy_score(true, pred, sample_weight=weight / 7)
    assert weighted == pytest.approx(scaled, abs=1e-14)


@all_sizes
def test_symmetric_and_blind_to_names_and_order(n_classes, n_clusters):
    true, pred, _ = draw(n_classes, n_clusters)
    score = clustering_accuracy_score(true, pred)
    assert clustering_accuracy_score(pred, true) == score
    rng = np.random.default_rng(1)
    order = rng.permutation(len(true))
    names = rng.permutation(n_clusters).astype(str)
    assert clustering_accuracy_score(true[order], names[pred][order]) == score


def test_clusters_beyond_the_classes_count_as_wrong():
    true = ["a", "a", "a", "b", "b"]
    pred = [0, 0, 1, 2, 2]
    assert clustering_accuracy_score(true, pred) == 4 / 5
    assert match_labels(true, pred) == {0: "a", 2: "b"}


def test_matching_is_not_greedy():
    """The largest cell must be given up for the best total."""
    true = np.repeat([0, 0, 1, 1], [5, 4, 4, 0])
    pred = np.repeat([0, 1, 0, 1], [5, 4, 4, 0])
    assert clustering_accuracy_score(true, pred) == 8 / 13
    assert match_labels(true, pred) == {0: 1, 1: 0}


@pytest.mark.parametrize("convert", [list, np.array, lambda a: np.array(a, object)])
def test_input_types(convert):
    true, pred = convert(["x", "y", "y", "x"]), convert(["q", "p", "p", "p"])
    assert clustering_accuracy_score(true, pred) == 3 / 4
    assert match_labels(true, pred) == {"p": "y", "q": "x"}


@pytest.fixture
def three_blobs():
    return make_blobs(
        120, centers=[[-10, 0], [0, 10], [10, 0]], cluster_std=0.5, random_state=0
    )


def test_scorer_in_cross_validation(three_blobs):
    X, y = three_blobs
    scores = cross_val_score(
        KMeans(3, n_init=10, random_state=0),
        X,
        np.array(["a", "b", "c"])[y],
        scoring=clustering_accuracy,
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        error_score="raise",
    )
    np.testing.assert_array_equal(scores, 1)


def test_scorer_chooses_the_number_of_clusters(three_blobs):
    X, y = three_blobs
    search = GridSearchCV(
        KMeans(n_init=10, random_state=0),
        {"n_clusters": [2, 3, 5]},
        scoring=clustering_accuracy,
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"n_clusters": 3}
    assert search.best_score_ == 1
    assert search.cv_results_["mean_test_score"].min() < 0.9


def test_scorer_scores_predictions(three_blobs):
    X, y = three_blobs
    model = KMeans(2, n_init=1, random_state=0).fit(X)
    expected = clustering_accuracy_score(y, model.predict(X))
    assert clustering_accuracy(model, X, y) == expected < 1


def test_scorer_needs_y(three_blobs):
    X, _ = three_blobs
    model = KMeans(2, n_init=1, random_state=0).fit(X)
    with pytest.raises(TypeError, match="y_true"):
        clustering_accuracy(model, X)
    with pytest.raises(ValueError, match="1d array"):
        clustering_accuracy(model, X, None)


@both_functions
@pytest.mark.parametrize(
    ("true", "pred", "weight", "message"),
    [
        ([], [], None, "empty"),
        ([0, 1], [0], None, "inconsistent numbers"),
        ([0, 1], [0, 1], [1.0], "inconsistent numbers"),
        ([[0, 1], [1, 0]], [0, 1], None, "1d array"),
        ([0, 1], [[0, 1], [1, 0]], None, "1d array"),
        ([0, 1], [0, 1], [2.0, -1.0], "sample_weight"),
        ([0, 1], [0, 1], [0.0, 0.0], "sample_weight"),
        ([0, 1], [0, 1], [np.nan, 1.0], "sample_weight"),
        ([0, 1], [0, 1], [np.inf, 1.0], "sample_weight"),
        ([0, 1], [0, 1], [[1.0, 2.0], [1.0, 2.0]], "sample_weight"),
    ],
)
def test_errors(function, true, pred, weight, message):
    with pytest.raises(ValueError, match=message):
        function(true, pred, sample_weight=weight)


MISSING = [
    np.array([np.nan, np.nan, 1.0, 0.0]),
    np.array(["a", "a", np.nan, "b"], dtype=object),
    pd.Series([1, None, 2, 2], dtype="Int64"),
    pd.Series(["a", None, "b", "b"], dtype="string"),
    np.array(["a", None, "b", "b"], dtype=object),
    np.array([1, pd.NA, 2, 2], dtype=object),
    np.array(["2020", "NaT", "2021", "2021"], dtype="datetime64[D]"),
]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("score", [clustering_accuracy_score, match_labels])
def test_missing_labels_are_refused(missing, score):
    """As by scikit-learn's scores: a class that is unknown is no class."""
    for labels in ((missing, [0, 0, 1, 1]), ([0, 0, 1, 1], missing)):
        with pytest.raises(ValueError, match=r"labels_(true|pred) contains NaN"):
            score(*labels)
