"""BERTopic with CollisionClusterer in the place of HDBSCAN."""

import gzip
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import normalize

from skcce import CollisionClusterer

pytest.importorskip("bertopic")
from bertopic import BERTopic
from bertopic.cluster import BaseCluster
from bertopic.dimensionality import BaseDimensionalityReduction
from bertopic.vectorizers import OnlineCountVectorizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SIZES = [150, 120, 90, 60]


@pytest.fixture(scope="module")
def documents():
    """Return texts of four topics, embeddings, and topics, in random order."""
    rng = np.random.default_rng(0)
    y = rng.permutation(np.repeat([2, 0, 3, 1], SIZES))
    texts = [
        " ".join([f"topic{k}word{i}" for i in rng.integers(20, size=6)]) for k in y
    ]
    X = 4 * rng.standard_normal((4, 16))[y] + rng.standard_normal((len(y), 16))
    return texts, normalize(X), y


def new_model(clusterer, **options):
    options.setdefault("umap_model", BaseDimensionalityReduction())
    return BERTopic(hdbscan_model=clusterer, **options)


def topic_proba(model, clusterer, X):
    """Return the probability of each topic, as the docs do it."""
    proba = clusterer.predict_proba(X)
    topic_of = model.topic_mapper_.get_mappings().items()
    topic_of = {k: topic for k, topic in topic_of if min(k, topic) >= 0}
    of_topic = np.zeros((proba.shape[1], max(topic_of.values()) + 1))
    of_topic[list(topic_of), list(topic_of.values())] = 1
    return proba @ of_topic


@pytest.fixture(scope="module")
def fitted(documents):
    texts, X, _ = documents
    clusterer = CollisionClusterer(4, random_state=0)
    model = new_model(clusterer)
    topics, probabilities = model.fit_transform(texts, X)
    return model, clusterer, np.array(topics), probabilities


def test_topics_are_the_clusters_by_size(documents, fitted):
    _, _, y = documents
    model, clusterer, topics, probabilities = fitted
    assert adjusted_rand_score(y, topics) == 1
    assert adjusted_rand_score(clusterer.labels_, topics) == 1
    assert_array_equal(np.bincount(topics), SIZES)
    assert_array_equal(probabilities, clusterer.probabilities_)
    for topic, true in enumerate([2, 0, 3, 1]):
        assert all(w.startswith(f"topic{true}") for w, _ in model.get_topic(topic))


def test_columns_of_predict_proba_are_reordered(documents, fitted):
    _, X, _ = documents
    model, clusterer, topics, probabilities = fitted
    proba = topic_proba(model, clusterer, X)
    assert_array_equal(proba.argmax(axis=1), topics)
    assert_allclose(proba.max(axis=1), probabilities)


def test_topics_that_were_merged_add_up(documents):
    texts, X, _ = documents
    clusterer = CollisionClusterer(4, random_state=0)
    model = new_model(clusterer)
    model.fit_transform(texts, X)
    model.merge_topics(texts, [1, 2])
    proba = topic_proba(model, clusterer, X)
    assert proba.shape == (len(X), 3)
    assert_array_equal(proba.argmax(axis=1), model.topics_)


def test_new_documents_get_topics(documents, fitted):
    texts, X, _ = documents
    model, _, topics, _ = fitted
    assert_array_equal(model.transform(texts[:50], X[:50])[0], topics[:50])


def test_outliers_are_minus_1(documents):
    texts, X, y = documents
    foreign = normalize(np.random.default_rng(1).standard_normal((20, 16)))
    texts, X = [*texts, *["stray"] * 20], np.vstack([X, foreign])
    clusterer = CollisionClusterer(4, contamination=0.05, random_state=0)
    model = new_model(clusterer)
    topics = np.array(model.fit_transform(texts, X)[0])
    assert_array_equal(topics == -1, clusterer.labels_ == -1)
    assert (topics[-20:] == -1).mean() > 0.8
    assert adjusted_rand_score(y, topics[:-20]) > 0.9
    others = topics >= 0
    proba = topic_proba(model, clusterer, X)
    assert_array_equal(proba.argmax(axis=1)[others], topics[others])
    assert_array_equal(model.transform(texts, X)[0], topics)


def test_another_reduction_may_come_first(documents):
    texts, X, y = documents
    clusterer = CollisionClusterer(4, random_state=0)
    model = new_model(clusterer, umap_model=PCA(5, random_state=0))
    assert adjusted_rand_score(y, model.fit_transform(texts, X)[0]) == 1
    assert clusterer.n_features_in_ == 5


@pytest.mark.filterwarnings("ignore:n_jobs value")
def test_umap_may_come_first(documents):
    umap = pytest.importorskip("umap")
    texts, X, y = documents
    reduction = umap.UMAP(n_components=5, min_dist=0.0, random_state=0)
    model = new_model(CollisionClusterer(4, random_state=0), umap_model=reduction)
    topics, _ = model.fit_transform(texts, X)
    assert adjusted_rand_score(y, topics) > 0.9
    new, _ = model.transform(texts[:50], X[:50])
    assert np.mean(np.array(topics[:50]) == new) > 0.9


def test_topics_of_a_stream(documents):
    texts, X, y = documents
    model = new_model(
        CollisionClusterer(4, random_state=0),
        vectorizer_model=OnlineCountVectorizer(),
    )
    topics = []
    for start in range(0, len(X), 105):
        batch = slice(start, start + 105)
        model.partial_fit(texts[batch], X[batch])
        topics.extend(model.topics_)
    assert model.hdbscan_model.n_samples_seen_ == len(X)
    assert adjusted_rand_score(y, topics) > 0.9
    for topic in range(4):
        assert len({word[:6] for word, _ in model.get_topic(topic)}) == 1


def test_a_saved_model_names_topics_and_the_clusterer_finds_them(
    documents, fitted, tmp_path
):
    pytest.importorskip("safetensors")
    texts, X, _ = documents
    model, clusterer, topics, _ = fitted
    model.save(tmp_path / "topics", serialization="safetensors", save_ctfidf=True)
    clusterer.save(tmp_path / "clusterer.npz")
    loaded = BERTopic.load(tmp_path / "topics")
    assert isinstance(loaded.hdbscan_model, BaseCluster)
    assert loaded.get_topics().keys() == model.get_topics().keys()
    loaded.umap_model = BaseDimensionalityReduction()
    loaded.hdbscan_model = CollisionClusterer(4).load(tmp_path / "clusterer.npz")
    assert_array_equal(loaded.transform(texts, X)[0], topics)
    proba = topic_proba(loaded, loaded.hdbscan_model, X)
    assert_array_equal(proba.argmax(axis=1), topics)


def test_code_of_the_page_runs(documents, tmp_path, monkeypatch):
    texts, X, _ = documents
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "texts.rst").read_text()
    section = page.partition("\nBERTopic\n---")[2]
    blocks = re.findall(r"::\n\n((?: {4}.*\n|\n)+)", section)
    names = {"texts": texts, "X": X, "new_texts": texts[:9], "new_X": X[:9], "np": np}
    names["CollisionClusterer"] = CollisionClusterer
    for block in blocks:
        if " = " in block:
            exec(re.sub("^ {4}", "", block, flags=re.MULTILINE), names)
    assert_array_equal(names["topic_proba"].argmax(axis=1), names["topics"])
    assert_array_equal(names["model"].transform(texts, X)[0], names["topics"])


def test_the_script_prints_a_row_for_every_way(
    documents, tmp_path, monkeypatch, capsys
):
    texts, X, y = documents
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import bertopic_topics

    monkeypatch.setattr(bertopic_topics, "with_umap", lambda X, seed: X[:, :5])
    np.savez(tmp_path / "small_minilm.npz", X=X.astype(np.float16), y=y)
    rows = [f"{text},{k}" for text, k in zip(texts, y, strict=True)]
    with gzip.open(tmp_path / "small.csv.gz", "wt") as file:
        file.write("\n".join(["text,y", *rows]))
    options = ["small", "--data", str(tmp_path), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["", *options])
    bertopic_topics.main()
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("small, 420 texts")
    assert len(table) == 4
    assert float(table[0].split()[1]) == 100
