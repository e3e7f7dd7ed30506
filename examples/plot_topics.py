"""
Topics of texts
===============

From sentences to topics that have names: what the documentation of SciPy and
scikit-learn says about its functions, one sentence each. Sentences become rows of
numbers, rows become clusters, and the words that tell a cluster from the others are its
name. :doc:`/texts` says what to do with new texts, and with embeddings of an encoder.
"""  # noqa: D205, D400

# %%
# The texts. From which module a sentence comes is only used at the end.

import inspect
from collections import Counter
from importlib import import_module

import numpy as np
from scipy.cluster.hierarchy import linkage
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from skcce import CollisionClusterer
from skcce.plot import TreeDisplay
from skcce.text import topic_words

MODULES = (
    "scipy.fft scipy.integrate scipy.interpolate scipy.linalg scipy.ndimage "
    "scipy.optimize scipy.signal scipy.sparse scipy.special scipy.stats "
    "sklearn.datasets sklearn.metrics"
).split()

module_of = {}
for module in MODULES:
    members = vars(import_module(module))
    for name in members["__all__"]:
        paragraphs = (inspect.getdoc(members.get(name)) or "").split("\n\n")
        summary = next((text for text in paragraphs if text.endswith(".")), "")
        if 3 < len(summary.split()) < 25:
            module_of[" ".join(summary.split())] = module
texts = list(module_of)
print(f"{len(texts)} texts, such as: {texts[0]}")

# %%
# Latent semantic analysis makes rows of the words. An encoder that knows what words
# mean does better, and needs to be downloaded. Such topics shade into one another: with
# ``prior=None`` they are about equally large, and none takes in all that is unclear.

words = TfidfVectorizer(stop_words="english", min_df=2, sublinear_tf=True)
embed = make_pipeline(words, TruncatedSVD(50, random_state=0), Normalizer())
X = embed.fit_transform(texts)
clusterer = CollisionClusterer(20, prior=None, random_state=0).fit(X)
labels = clusterer.labels_

# %%
# The names, and the modules of most texts of each topic.

topics = topic_words(texts, labels, 4)
modules = np.array(list(module_of.values()))
for topic, found in topics.items():
    (module, count), *_ = Counter(modules[labels == topic].tolist()).most_common()
    share = count / np.sum(labels == topic)
    print(f"{topic:2}  {', '.join(found):45} {share:4.0%} {module}")

# %%
# The texts on the right are those of which the clusterer is most sure. The tree joins
# the topics whose mean rows are near to each other.

names = [", ".join(topics[k][:3]) for k in labels]
TreeDisplay.from_predictions(
    linkage(clusterer.cluster_centers_, "ward"),
    labels,
    confidence=clusterer.probabilities_,
    y=names,
    texts=texts,
)
