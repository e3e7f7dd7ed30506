"""Objectives, and the estimators that train a model with them.

The names may still change.
"""

from skcce._base import SoftmaxClusterer
from skcce._objective import Batch, Epoch, Objective, view_weights
from skcce.methods._clusterer import ObjectiveClusterer
from skcce.methods.collision import Collision
from skcce.methods.fair_cross_entropy import FairCrossEntropy, MIADMClusterer
from skcce.methods.invariant_information import IICClusterer, InvariantInformation
from skcce.methods.mutual_information import MIGDClusterer, MutualInformation
from skcce.methods.neighbor_consistency import NeighborConsistency, SCANClusterer
from skcce.methods.optimal_transport import OptimalTransport, SeLaClusterer
from skcce.methods.self_augmentation import IMSATClusterer, SelfAugmentation

__all__ = [
    "Batch",
    "Collision",
    "Epoch",
    "FairCrossEntropy",
    "IICClusterer",
    "IMSATClusterer",
    "InvariantInformation",
    "MIADMClusterer",
    "MIGDClusterer",
    "MutualInformation",
    "NeighborConsistency",
    "Objective",
    "ObjectiveClusterer",
    "OptimalTransport",
    "SCANClusterer",
    "SeLaClusterer",
    "SelfAugmentation",
    "SoftmaxClusterer",
    "view_weights",
]
