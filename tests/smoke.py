"""What an installation has to do at least: python tests/smoke.py."""

from importlib.metadata import version

from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

import skcce

if __name__ == "__main__":
    assert skcce.__version__ == version("skcce")
    X, y = make_blobs(200, centers=3, cluster_std=0.5, random_state=0)
    clusterer = skcce.CollisionClusterer(3, random_state=0).fit(X)
    assert adjusted_rand_score(y, clusterer.predict(X)) > 0.9
    print(f"skcce {skcce.__version__} works: {skcce.__file__}")
