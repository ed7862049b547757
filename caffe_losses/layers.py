"""Every layer of the project under one module name: `module: "caffe_losses.layers"`."""

from pylayerUtils import (
    ChannelSumEuclideanLossLayer,
    EuclideanLossLayer,
    WeightedEuclideanLossLayer,
    WeightedSigmoidCrossEntropyLossLayer,
)
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer

__all__ = [
    "ChannelSumEuclideanLossLayer",
    "EuclideanLossLayer",
    "SigmoidCrossEntropyWeightLossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
]
