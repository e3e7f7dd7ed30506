"""Objectives, and the estimator that trains a model with any of them.

The names may still change.
"""

from skcce._base import SoftmaxClusterer
from skcce._objective import Batch, Objective, view_weights
from skcce.methods.collision import Collision
from skcce.methods.invariant_information import InvariantInformation
from skcce.methods.mutual_information import MutualInformation

__all__ = [
    "Batch",
    "Collision",
    "InvariantInformation",
    "MutualInformation",
    "Objective",
    "SoftmaxClusterer",
    "view_weights",
]
