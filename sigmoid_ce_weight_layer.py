"""The weighted sigmoid cross-entropy layer.

layer {
  name: "loss" type: "Python" top: "loss" loss_weight: 1
  bottom: "score" bottom: "label"
  python_param {
    module: "sigmoid_ce_weight_layer" layer: "SigmoidCrossEntropyWeightLossLayer"
    param_str: "{\\"cls_weight\\": 100}"
  }
}
"""

from caffe_losses import losses
from caffe_losses.layer import LossLayer

__all__ = ["SigmoidCrossEntropyWeightLossLayer"]


class SigmoidCrossEntropyWeightLossLayer(LossLayer):
    """Sigmoid cross-entropy in which class 1 weighs `cls_weight` and class 0 weighs 1.

    L = sum [w t sp(-x) + (1 - t) sp(x)] with sp(z) = ln(1 + e^z), for labels t anywhere in [0, 1].

    Bottoms: score (N, C, ...), label (same layout), and optionally a weight for each element: the
    score's layout, or (N, 1, ...) or (N, ...) for all channels.
    Gradient: (1 - t) sigmoid(x) - w t sigmoid(-x) to the score, times the layer's loss_weight; zero
    to label and weight.

    Parameters:
        cls_weight: w, required: a number >= 0, or a list with one for each channel.
        normalization: what the sum is divided by, as in Caffe: "NONE" (default) by nothing, "FULL"
            by the number of elements, "VALID" by that of elements not ignored, "BATCH_SIZE" by N.
        ignore_label: elements with this label take no part; none by default.
        check_labels: "always" (default), "first" (the first batch) or "never" raise ValueError for
            labels outside [0, 1] that are not ignored.

    Raises ValueError or TypeError for a param_str, a number of bottoms or shapes that do not fit,
    and FloatingPointError for a NaN or an infinity in a bottom and for a loss that overflows.

    Source: the layer published under this name; with w = 1 Caffe's SigmoidCrossEntropyLoss.
    """

    loss = losses.weighted_cross_entropy
