"""Networks by name: those of the studies, and any of torchvision, timm or your own."""

from secateur.networks.origin import Origin as Origin
from secateur.networks.origin import origin_of as origin_of
from secateur.networks.origin import set_origin as set_origin
from secateur.networks.registry import build as build
from secateur.networks.registry import classes_argument as classes_argument
from secateur.networks.registry import input_shape_of as input_shape_of
from secateur.networks.registry import names as names
from secateur.networks.resnet import ResNet as ResNet

__all__ = [
    "Origin",
    "ResNet",
    "build",
    "classes_argument",
    "input_shape_of",
    "names",
    "origin_of",
    "set_origin",
]
