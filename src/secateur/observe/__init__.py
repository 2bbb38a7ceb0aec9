"""One pass over batches: activations, covariances, gradients and curvature, the model left as found."""

from secateur.observe.collect import observe
from secateur.observe.derivatives import Loss, cross_entropy
from secateur.observe.layer_inputs import layer_inputs
from secateur.observe.values import Covariance, Moments, Need, Observations, Taylor, pool

__all__ = [
    "Covariance",
    "Loss",
    "Moments",
    "Need",
    "Observations",
    "Taylor",
    "cross_entropy",
    "layer_inputs",
    "observe",
    "pool",
]
