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
    "LovaszHingeLossLayer",
    "LovaszSoftmaxLossLayer",
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

    Raises ValueError for labels that are neither from 0 to 1 nor ignored, and for class numbers
    that are no whole numbers below C.

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


class LovaszHingeLossLayer(LossLayer):
    """Lovász hinge: a convex surrogate of the Jaccard loss, 1 - intersection over union.

    With the errors e = 1 - (2 t - 1) x in descending order, L = sum max(e, 0) (J_i - J_(i-1)),
    where J_i is the Jaccard loss of the mask in which the first i elements are wrong; L is the mean
    over images and channels.

    Bottoms: score (N, C, ...), label (the same layout) of 0 and 1.
    Gradient: -(2 t - 1) (J_i - J_(i-1)) where e > 0, divided by the number of images and channels;
    0 elsewhere, and zero to the label. Of equal errors the one that comes first in the blob is
    taken first, which is one of the subgradients there.

    Parameters:
        per_image: true (default) sorts the errors of each image; false those of the whole batch.
        ignore_label: elements with this label take no part. None by default. An image of which all
            is ignored has loss 0 and counts in the mean.

    Raises ValueError for labels other than 0, 1 and the ignore_label.

    In data-parallel training each rank sorts its own part of the batch, and the loss is the mean
    over all images, which is exact; with `per_image` false it is the mean over the ranks' parts.

    Source: M. Berman, A. Rannen Triki and M. B. Blaschko, "The Lovász-Softmax loss", CVPR 2018.
    """

    loss = losses.lovasz_hinge


class LovaszSoftmaxLossLayer(LossLayer):
    """Lovász softmax: a surrogate of the mean Jaccard loss of the classes.

    With p the softmax over axis 1, class c has the errors e = 1 - p_c where the label is c and e =
    p_c elsewhere. In descending order, L_c = sum e (J_i - J_(i-1)), where J_i is the Jaccard loss
    of class c when the first i positions are wrong; L is the mean over classes.

    Bottoms: score (N, C, ...), not probabilities; label (N, 1, ...) or (N, ...) of class numbers.
    Gradient: -(J_i - J_(i-1)) to p_c where the label is c and J_i - J_(i-1) elsewhere, divided by
    the number of classes, and from there through the softmax; zero to the label. Of equal errors
    the one that comes first in the blob is taken first.

    Parameters:
        per_image: false (default) sorts the errors of the whole batch; true those of each image,
            and L is the mean over images too.
        classes: "present" (default) averages over the classes that have positions in the batch (in
            the image); "all" over all C, where the loss of a missing class is its largest p.
        ignore_label: positions with this label take no part. None by default. An image of which all
            is ignored has loss 0 with "present" and counts in the mean over images.

    Raises ValueError for labels that are no whole numbers from 0 to C - 1 and not ignored.

    In data-parallel training each rank sorts its own part of the batch: with `per_image` the loss
    is the mean over all images, which is exact; without it is the mean over the ranks' parts.

    Source: M. Berman, A. Rannen Triki and M. B. Blaschko, "The Lovász-Softmax loss", CVPR 2018.
    """

    loss = losses.lovasz_softmax
