"""One pass over batches: activations, covariances, gradients and curvature, the model left as found."""

from secateur.observe.collect import observe
from secateur.observe.derivatives import Loss, cross_entropy
from secateur.observe.layers import Patches, layer_inputs, layers_in, observe_layers, patches
from secateur.observe.subsets import Drawn, Subsets
from secateur.observe.values import Covariance, Moments, Need, Observations, Relevance, Taylor, pool
from secateur.observe.weights import WeightNeed, WeightObservations, observe_weights, weights_of

__all__ = [
    "Covariance",
    "Drawn",
    "Loss",
    "Moments",
    "Need",
    "Observations",
    "Patches",
    "Relevance",
    "Subsets",
    "Taylor",
    "WeightNeed",
    "WeightObservations",
    "cross_entropy",
    "layer_inputs",
    "layers_in",
    "observe",
    "observe_layers",
    "observe_weights",
    "patches",
    "pool",
    "weights_of",
]
