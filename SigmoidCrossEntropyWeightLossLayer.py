"""The weighted sigmoid cross-entropy layer under the module name that published prototxt uses."""

from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer

__all__ = ["SigmoidCrossEntropyWeightLossLayer"]
