"""Every layer of the project under one module name: `module: "caffe_losses.layers"`."""

from caffe_losses import losses
from caffe_losses.layer import LossLayer
from pylayerUtils import (
    ChannelSumEuclideanLossLayer,
    DiceCoefLossLayer,
    EuclideanLossLayer,
    WeightedEuclideanLossLayer,
    WeightedSigmoidCrossEntropyLossLayer,
)
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer

__all__ = [
    "ChannelSumEuclideanLossLayer",
    "DiceCoefLossLayer",
    "DiceLossLayer",
    "EuclideanLossLayer",
    "SigmoidCrossEntropyWeightLossLayer",
    "TverskyLossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
]


class DiceLossLayer(LossLayer):
    """Dice loss: one less the overlap of prediction and label, whatever the size of either.

    For each channel S = (2 sum p g + s) / (sum p^k + sum g^k + s), with the probabilities p, the
    labels g and s = smooth; L is the mean over channels of 1 - S.

    Bottoms: prediction (N, C, ...): probabilities as they are, or scores with an `activation`;
    label: the same layout, 1 where the class is and 0 elsewhere, or anything in between; or, where
    C is not 1, class numbers (N, 1, ...) or (N, ...); and optionally a weight, (N, 1, ...),
    (N, ...) or the prediction's shape, that multiplies what an element adds to the sums.
    Gradient: -(2 g - S) / D for k = 1, -2 (g - S p) / D for k = 2, each divided by C, with D the
    denominator of S, and from there through the activation; zero to label and weight.

    Parameters:
        activation: "none" (default) takes the prediction for probabilities; "sigmoid" and "softmax"
            (over axis 1) make them of scores.
        reduce: "batch" (default) takes the sums over the batch; "image" over each image, and L is
            the mean over images too.
        smooth: s, 1 by default. It stands in both numerator and denominator: where label and
            prediction are empty the loss is 0, and false positives cost where the label is empty.
            With 0 they cost a constant 1 there, with gradient zero.
        squared: false (default) for k = 1, true for k = 2.
        class_weight: a number for each channel; the mean over channels is weighted with them. Equal
            by default.
        ignore_label: elements with this label add to none of the sums; with softmax all channels of
            their position are ignored. None by default.
        background: true (default); false leaves channel 0 out of the mean.

    Raises ValueError for labels that are neither from 0 to 1 nor ignored, and for class numbers that
    are no whole numbers below C.

    In data-parallel training `reduce: "batch"` takes the sums over all ranks, so that the ranks'
    mean gradient is that of the whole batch with s for each rank; "image" is exact.

    Source: F. Milletari et al., "V-Net", 3DV 2016 (k = 2); layers named DiceCoefLoss (k = 1).
    """

    loss = losses.dice


class TverskyLossLayer(LossLayer):
    """Tversky loss: Dice with a weight each for false positives and for false negatives.

    T = (TP + s) / (TP + alpha FP + beta FN + s) with TP = sum p g, FP = sum p (1 - g) and FN =
    sum (1 - p) g of a channel, and s = smooth; L is the mean over channels of (1 - T)^gamma. With
    alpha = beta = 1/2 and gamma = 1 it is the Dice loss of twice the smooth.

    Bottoms: prediction, label and optionally weight, as of DiceLossLayer.
    Gradient: -gamma (1 - T)^(gamma - 1) [g - T (g (1 - beta) + alpha (1 - g))] / (C D), with D the
    denominator of T, and from there through the activation; zero to label and weight.

    Parameters:
        alpha, beta: what false positives and false negatives weigh, 0.5 each by default. A beta
            larger than alpha finds more of a rare class. Abraham and Khan call alpha what is beta
            here.
        gamma: the exponent of the focal Tversky loss, 1 by default; Abraham and Khan take 0.75. The
            slope of a power below 1 is infinite where T = 1: where 1 - T is less than 1e-4 a
            parabola through 0, of the same value and slope at 1e-4, stands in for it.
        activation, reduce, smooth, class_weight, ignore_label, background: as of DiceLossLayer.

    Raises as DiceLossLayer does, and behaves like it in data-parallel training.

    Source: S. S. M. Salehi et al., "Tversky loss function for image segmentation using 3D fully
    convolutional deep networks", MLMI 2017; N. Abraham and N. M. Khan, "A novel focal Tversky loss
    function with improved attention U-Net for lesion segmentation", ISBI 2019.
    """

    loss = losses.tversky
