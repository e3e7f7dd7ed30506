"""Texts: words of topics, and the examples on them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer

from skcce.text import topic_words

ROOT = Path(__file__).parent.parent

TEXTS = ["apples and pears", "ripe apples", "fast cars", "cars and vans", "apples"]
LABELS = [0, 0, 1, 1, -1]


def test_words_are_those_of_the_formula(rng):
    words = [f"word{i}" for i in range(9)]
    texts = [" ".join(rng.choice(words, size=12)) for _ in range(20)]
    labels = rng.integers(3, size=20)
    joined = [" ".join(np.array(texts)[labels == k]).split() for k in range(3)]
    counts = np.array([[text.count(word) for word in words] for text in joined])
    rarity = np.log(1 + counts.sum() / 3 / counts.sum(axis=0))
    scores = counts / counts.sum(axis=1, keepdims=True) * rarity
    found = topic_words(texts, labels, 4)
    for k, row in enumerate(scores):
        assert found[k] == [words[i] for i in np.argsort(-row, kind="stable")[:4]]


def test_every_label_has_words():
    found = topic_words(iter(TEXTS), LABELS, 2)
    assert list(found) == [-1, 0, 1]
    assert found[-1] == ["apples"]
    assert found[0][0] == "apples"
    assert found[1] == ["cars", "fast"]  # of equal ones, the first in the alphabet
    assert "and" not in found[0] + found[1]  # a stop word
    names = topic_words(TEXTS, np.array(list("ffccf")), 1)
    assert names == {"c": ["cars"], "f": ["apples"]}
    assert topic_words(["and", "cars"], [0, 1]) == {0: [], 1: ["cars"]}


def test_the_vectorizer_says_what_a_word_is():
    pairs = CountVectorizer(ngram_range=(2, 2))
    found = topic_words(TEXTS, LABELS, 9, vectorizer=pairs)
    assert found == {
        -1: [],
        0: ["and pears", "apples and", "ripe apples"],
        1: ["and vans", "cars and", "fast cars"],
    }
    assert not hasattr(pairs, "vocabulary_")
    given = CountVectorizer(vocabulary=["cars", "apples", "boats"])
    found = topic_words(TEXTS, LABELS, vectorizer=given)
    assert found == {-1: ["apples"], 0: ["apples"], 1: ["cars"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TEXTS, [0, 1]), "2 labels and 5 texts"),
        ((TEXTS, np.eye(5)), r"one for each text, shape \(n_texts,\), got .* \(5, 5\)"),
        ((TEXTS, LABELS, 0), "n_words=0 must be a positive integer"),
        ((TEXTS, LABELS, 1.5), "n_words=1.5 must be"),
        (("apples and pears", LABELS), "texts='apples and pears'.* not one"),
        ((["and", "the"], [0, 1]), "empty vocabulary"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        topic_words(*arguments)


def test_the_page_goes_from_rows_to_named_topics_in_few_lines():
    page = (ROOT / "docs" / "texts.rst").read_text()
    blocks = re.findall(r"code-block:: python\n\n((?: {4}.*\n|\n)+)", page)
    (block,) = [block for block in blocks if "TreeDisplay" in block]
    assert "topic_words" in block
    assert len([line for line in block.splitlines() if line.strip()]) <= 12


@pytest.mark.slow
def test_norms_print_a_row_for_every_spread(tmp_path, digits, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import text_norms

    X, y = digits
    np.savez(tmp_path / "stackoverflow_minilm.npz", X=X.astype(np.float16), y=y)
    options = ["--spreads", "0", "0.5", "--rows", "300", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", ["", "--data", str(tmp_path), *options])
    text_norms.main()
    _, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["0", "0.5"]
    assert all(len(row.split()) == 6 for row in rows)
    lengths = np.linalg.norm(
        text_norms.with_lengths(X, 0.5, np.random.default_rng(0)), axis=1
    )
    assert 0.4 < np.log(lengths).std() < 0.6
