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
    "SoftmaxFocalLossLayer",
    "SoftmaxWithLossOHEMLayer",
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


class SoftmaxFocalLossLayer(LossLayer):
    """Focal loss of a softmax: positions that are already right count little.

    L = sum u alpha_y (1 - p_y)^gamma (-ln p_y) / D, where p is the softmax of the scores of a
    position, y the class that its label names, and u the weight of the position.

    Bottoms: as WeightedSoftmaxWithLossLayer.
    Gradient: with A = u alpha_y (1 - p_y)^gamma [(1 - p_y) - gamma p_y ln p_y] / D it is -A to the
    score of class y, and A p_c / (1 - p_y) to the others; zero to label and weight.

    Parameters:
        alpha: null (default, all classes weigh 1), a number >= 0, or a list with one for each
            class. A single number multiplies every class alike; it balances nothing.
        gamma: a number from 0 to 100, 2 by default; 0 is the weighted softmax cross-entropy.
        ignore_label, axis, check_labels: as in WeightedSoftmaxWithLossLayer.
        normalization: D. "VALID" (default), the positions that are not ignored; "POSITIVE", those
            of them whose class is not 0, the background; "WEIGHT", the sum of their u alpha_y;
            "FULL", all positions; "BATCH_SIZE", N; "NONE", 1. Where D would be 0 it is 1.

    Raises what WeightedSoftmaxWithLossLayer raises.

    Source: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, with a softmax in
    place of the sigmoid, as in most FocalLoss layers that were written for Caffe.
    """

    loss = losses.softmax_focal_loss


class SoftmaxWithLossOHEMLayer(LossLayer):
    """SoftmaxWithLoss of the hardest positions: online hard example mining.

    L = sum u (-ln p_y) / M over the M positions that are kept, the hardest being those with the
    smallest p_y, the softmax of the class that the label names. Positions are chosen from the whole
    batch (on several ranks, each from its own part); of equally hard ones the first are taken.
    Which ones are kept is taken as fixed in the gradient.

    Bottoms: as WeightedSoftmaxWithLossLayer. Positions with weight 0 are never kept.
    Gradient: u (p_c - 1 where c is y) / M to the scores of positions that are kept, zero to all
    others, and to label and weight.

    Parameters:
        neg_pos_ratio: all positions of classes above 0 are kept, and this number (3 by default) of
            the hardest of class 0, the background, for each of them.
        keep_ratio: null (default), or the fraction of all positions to keep, whatever their class;
            neg_pos_ratio then has no effect.
        thresh: null (default), or a probability: positions with p_y below it are kept too.
        ignore_label, axis, check_labels: as in WeightedSoftmaxWithLossLayer.

    Takes memory for four numbers a position beside its blobs. Raises what
    WeightedSoftmaxWithLossLayer raises.

    Source: A. Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
    Mining", CVPR 2016; the ratio of W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.
    """

    loss = losses.softmax_ohem
