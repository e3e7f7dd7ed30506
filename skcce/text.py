"""Names for clusters of texts."""

from collections.abc import Iterable
from itertools import pairwise
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

__all__ = ["topic_words"]


def topic_words(
    texts: Iterable[str],
    labels: ArrayLike,
    n_words: int = 5,
    *,
    vectorizer: Any = None,
) -> dict:
    r"""Return the words that tell the texts of each cluster from those of the others.

    Those of the highest class-based TF-IDF [1]_,

    .. math:: \frac{n_{tc}}{\sum_s n_{sc}} \,
              \ln \left(1 + \frac{\frac1K \sum_{sc} n_{sc}}{\sum_c n_{tc}} \right),

    where word :math:`t` occurs :math:`n_{tc}` times in cluster :math:`c` of :math:`K`:
    the share of the word in its cluster, times how rare it is in all of them.

    Parameters
    ----------
    texts : iterable of str
        Texts.
    labels : array-like of shape (n_texts,)
        Cluster of each text: ``labels_`` of any clusterer, or other names of clusters.
        -1, for texts that belong nowhere, counts as one more cluster.
    n_words : int, default=5
        Number of words of each cluster, at most.
    vectorizer : transformer, default=None
        Counts the words, such as a ``CountVectorizer`` with other stop words, or one
        that counts pairs of words. A copy of it is fitted. None is
        ``CountVectorizer(stop_words="english")``.

    Returns
    -------
    dict
        ``{label: words}``, in the order of the labels; the words are a list, the one
        that tells most first. A cluster without any word has an empty list.

    Raises
    ------
    ValueError
        If there are not as many labels as texts, `n_words` is no positive integer, no
        text has a word, or `texts` is a single one.

    References
    ----------
    .. [1] Grootendorst. "BERTopic: Neural topic modeling with a class-based TF-IDF
       procedure". arXiv:2203.05794 (2022).

    Examples
    --------
    >>> from skcce.text import topic_words
    >>> texts = ["apples and pears", "ripe apples", "fast cars", "cars and vans"]
    >>> topic_words(texts, [0, 0, 1, 1], n_words=1)
    {0: ['apples'], 1: ['cars']}
    """
    if isinstance(texts, str):
        raise ValueError(f"texts={texts[:20]!r}... must be many texts, not one.")
    texts, labels = list(texts), np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(
            f"labels must be one for each text, shape (n_texts,), got shape "
            f"{labels.shape}."
        )
    if len(texts) != len(labels):
        raise ValueError(
            f"labels must be one for each text: there are {len(labels)} labels and "
            f"{len(texts)} texts."
        )
    if not isinstance(n_words, Integral) or n_words < 1:
        raise ValueError(f"n_words={n_words!r} must be a positive integer.")
    if vectorizer is None:
        vectorizer = CountVectorizer(stop_words="english")
    else:
        vectorizer = clone(vectorizer)
    counts = csr_array(vectorizer.fit_transform(texts), dtype=float)
    words = vectorizer.get_feature_names_out()
    topics, rows = np.unique(labels, return_inverse=True)
    shape = len(topics), len(labels)
    members = csr_array((np.ones(len(rows)), (rows, np.arange(len(rows)))), shape=shape)
    counts = members @ counts
    total = counts.sum(axis=0)
    # A vocabulary that was given may have words that no text has.
    rarity = np.log1p(counts.sum() / len(topics) / np.where(total > 0, total, 1))
    scores = csr_array(normalize(counts, norm="l1").multiply(rarity))
    scores.sort_indices()  # of equal words, the first in the alphabet first
    found = {}
    for topic, (start, end) in zip(
        topics.tolist(), pairwise(scores.indptr), strict=True
    ):
        best = np.argsort(-scores.data[start:end], kind="stable")[:n_words]
        found[topic] = words[scores.indices[start:end][best]].tolist()
    return found
