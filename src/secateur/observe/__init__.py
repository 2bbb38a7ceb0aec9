"""One pass over batches: activations, covariances, gradients and curvature, the model left as found."""

from secateur.observe.collect import observe
from secateur.observe.derivatives import Loss, cross_entropy
from secateur.observe.layer_inputs import layer_inputs
from secateur.observe.values import Covariance, Moments, Need, Observations, Taylor, pool
from secateur.observe.weights import WeightNeed, WeightObservations, observe_weights, weights_of

__all__ = [
    "Covariance",
    "Loss",
    "Moments",
    "Need",
    "Observations",
    "Taylor",
    "WeightNeed",
    "WeightObservations",
    "cross_entropy",
    "layer_inputs",
    "observe",
    "observe_weights",
    "pool",
    "weights_of",
]
