"""Displays of clusters: what is in them, how sure they are, how a fit went.

They follow scikit-learn's Displays: ``from_estimator`` and ``from_predictions`` compute
and draw, ``plot`` draws again, into given axes if wanted. They take any clusterer with
``predict_proba``, or a pipeline that ends in one, and need matplotlib: skcce's extra
``plot``.
"""

from skcce.plot._confidence import ConfidenceDisplay
from skcce.plot._confusion import ClusterConfusionDisplay
from skcce.plot._montage import MontageDisplay
from skcce.plot._simplex import SimplexDisplay
from skcce.plot._training import TrainingDisplay
from skcce.plot._tree import TreeDisplay

__all__ = [
    "ClusterConfusionDisplay",
    "ConfidenceDisplay",
    "MontageDisplay",
    "SimplexDisplay",
    "TrainingDisplay",
    "TreeDisplay",
]
