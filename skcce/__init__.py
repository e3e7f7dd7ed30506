"""Clustering with collision cross-entropy, in scikit-learn's API."""

from skcce._linear import LinearSoftmax
from skcce._model import SoftmaxModel
from skcce._pseudo_labels import PseudoLabels, solve_pseudo_labels
from skcce._spectral import SpectralFeatures
from skcce.classifier import CollisionClassifier
from skcce.losses import collision_cross_entropy
from skcce.methods.collision import CollisionClusterer

__version__ = "0.2.0"

__all__ = [
    "CollisionClassifier",
    "CollisionClusterer",
    "LinearSoftmax",
    "PseudoLabels",
    "SoftmaxModel",
    "SpectralFeatures",
    "collision_cross_entropy",
    "solve_pseudo_labels",
]
