"""
From a folder of images to a montage
====================================

A pipeline of ``ImageFeatures`` and ``CollisionClusterer`` sorts a folder of images by
what they look like. Here these are 120 patches of two photos, and there are clusters of
petals, of sky, of dark background, and of houses and trees.

The network has random weights, so that this page builds without a download. They tell
colors and textures apart, no more, and some patches are in odd company: petals among
trees.
"""  # noqa: D205, D400

# %%
# First, a folder: the two photos that scikit-learn bundles, cut into patches.

from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skcce import CollisionClusterer
from skcce.features import ImageFeatures
from skcce.plot import MontageDisplay

SIDE = 64
folder = TemporaryDirectory()
for number, photo in enumerate(load_sample_images().images):
    for top in range(0, photo.shape[0] - SIDE + 1, SIDE):
        for left in range(0, photo.shape[1] - SIDE + 1, SIDE):
            patch = Image.fromarray(photo[top : top + SIDE, left : left + SIDE])
            patch.save(Path(folder.name, f"{number}-{top:03}-{left:03}.jpg"))

# %%
# The pipeline takes paths. For images of your own, leave ``weights`` (the pretrained
# ones) and ``layer`` at their defaults: ``ImageFeatures("resnet18")``. With random
# weights, an early layer is best.

paths = sorted(Path(folder.name).glob("*.jpg"))
pipe = make_pipeline(
    ImageFeatures("resnet18", weights=None, layer="layer1"),
    StandardScaler(),
    CollisionClusterer(n_clusters=6, random_state=0),
)
labels = pipe.fit_predict(paths)
print(f"{len(paths)} images in {len(set(labels))} clusters")

# %%
# There are no classes, so a cluster has only a number and its share of the images.
# ``MontageDisplay.from_estimator(pipe, paths)`` draws the same, but computes the
# features again.

display = MontageDisplay.from_predictions(
    paths, labels, confidence=pipe[-1].probabilities_, n_images=12
)
folder.cleanup()
