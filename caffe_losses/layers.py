"""Every layer of the project under one module name: `module: "caffe_losses.layers"`."""

from caffe_losses import losses
from caffe_losses.layer import LossLayer
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
    "WeightedSoftmaxWithLossLayer",
]


class WeightedSoftmaxWithLossLayer(LossLayer):
    """Caffe's SoftmaxWithLoss with a weight for each class, and one for each position.

    L = sum u w_y (-ln p_y) / D, where p is the softmax of the scores of a position, y the class
    that its label names, w_y the weight of that class, and u the weight of the position.

    Bottoms: score (N, K, ...) for K classes, label (N, 1, ...) or (N, ...) of class numbers from 0
    to K - 1, and optionally u, the weight of each position, of the shape of the label.
    Gradient: u w_y (p_c - 1 where c is y) / D to the score; zero to label and weight.

    Parameters:
        class_weight: w, a number >= 0 (1 by default), or a list with one for each class.
        ignore_label: positions with this label take no part; none by default.
        axis: the axis of the classes, 1 by default; negative axes count from the end. N is then the
            product of the axes before it.
        label_smoothing: e from 0 (default) to 1. The label is then q_c = e / K for each class, and
            1 - e more for class y: L = sum u sum_c w_c q_c (-ln p_c) / D.
        normalization: D. "WEIGHT" (default): the sum of u w_y over positions that are not ignored,
            with and without smoothing. As in Caffe: "VALID", the positions that are not ignored;
            "FULL", all positions; "BATCH_SIZE", N; "NONE", 1. Where D would be 0 it is 1.
        check_labels: "always" (default), "first" (the first batch) or "never" raise ValueError for
            labels that are no class numbers; unchecked ones take no part in the loss.

    Raises ValueError or TypeError for a param_str, a number of bottoms or shapes that do not fit,
    and FloatingPointError for a NaN or an infinity in a bottom and for a loss that overflows.

    Source: with "VALID" and no weights Caffe's SoftmaxWithLoss; with "WEIGHT" the cross_entropy of
    PyTorch with weight and label_smoothing, and the WeightedSoftmaxWithLoss proposed for Caffe.
    """

    loss = losses.weighted_softmax
