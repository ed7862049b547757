"""Every layer of the project under one module name: `module: "caffe_losses.layers"`.

Notation: N is the batch size (axis 0), C the number of channels (axis 1), x the prediction or
score, t the target or label, w and v weights, sp(z) = ln(1 + e^z). Gradients are multiplied by the
layer's loss_weight.

All layers raise ValueError or TypeError for a param_str, a number of bottoms or shapes that do not
fit, and FloatingPointError for a NaN or an infinity in a bottom and for a loss that overflows.
"""

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
    "HuberLossLayer",
    "LovaszHingeLossLayer",
    "LovaszSoftmaxLossLayer",
    "SigmoidCrossEntropyWeightLossLayer",
    "SigmoidFocalLossLayer",
    "SmoothL1LossLayer",
    "SoftmaxFocalLossLayer",
    "SoftmaxWithLossOHEMLayer",
    "TverskyLossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
    "WeightedSoftmaxWithLossLayer",
]


class HuberLossLayer(LossLayer):
    """Huber loss: squared up to `delta`, beyond it a straight line, so that outliers pull less.

    L = 1/N sum_n [sum w h(x - t) / sum w], both inner sums over channels and positions of image n,
    with h(d) = d^2 / 2 for |d| <= delta and delta (|d| - delta / 2) beyond. With a delta that no
    |x - t| reaches it is WeightedEuclideanLossLayer.

    Bottoms: prediction (N, C, ...), target (same shape), and optionally weight: (N, 1, ...) or
    (N, ...) for all channels, or the prediction's shape. With balance "none" the third bottom is
    w >= 0 itself, 1 where it is missing. With any other balance it is a mask: > 0 positive, = 0
    negative, < 0 ignored; where it is missing a position is positive where any channel of the
    target is not zero.
    Gradients: w (x - t), or w delta with the sign of x - t beyond, divided by N sum_n w, to the
    prediction, the negative of that to the target; zero to the third bottom.

    Parameters:
        delta: at which |x - t| the line begins, 1 by default, at least 1e-30.
        balance: "none" (default) takes the third bottom as weights; "image", "batch" and "channel"
            take it as a mask and balance its classes as WeightedEuclideanLossLayer does.
        normalization: what the weighted sum is divided by. "WEIGHT" (default) by sum w of each
            image and by N, so that without weights the loss is the mean of h; as in
            WeightedEuclideanLossLayer with balance "batch" and "channel". "BATCH_SIZE" by N, as
            Caffe's EuclideanLoss; "NONE" by nothing, "FULL" by the number of elements, "VALID" by
            that of elements not ignored, which without a mask are all.

    Raises ValueError for negative weights with balance "none".

    Source: P. J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical
    Statistics 35 (1964).
    """

    loss = losses.huber


class SigmoidFocalLossLayer(LossLayer):
    """Sigmoid focal loss: a cross-entropy to which elements that are right already add little.

    L = sum v alpha_t (1 - p_t)^gamma (-ln p_t) / D, where p_t is the probability of the label,
    sigmoid(x) for t = 1 and sigmoid(-x) for t = 0, and alpha_t is alpha for t = 1 and 1 - alpha for
    t = 0. A loss that is called FocalLoss elsewhere may be the one of the softmax.

    Bottoms: score (N, C, ...), label (same layout) of 0 and 1, and optionally a weight v for each
    element: the score's layout, or (N, 1, ...) or (N, ...) for all channels. Labels < 0 are
    ignored.
    Gradient: v alpha_t (1 - p_t)^gamma [gamma p_t ln p_t - (1 - p_t)] / D to the score, with the
    sign changed for t = 0; zero to label and weight. It is finite for every gamma and score.

    Parameters:
        alpha: the weight of the positive class, 0.25 by default; that of the negative one is
            1 - alpha; null weighs both 1.
        gamma: how much less elements add that are right, 2 by default; 0 is the cross-entropy.
        normalization: D, "VALID" (default) the number of elements not ignored, "POSITIVE" that of
            positive ones, as RetinaNet, "WEIGHT" the sum of v alpha_t over elements not ignored,
            "FULL" the number of all, "BATCH_SIZE" N, "NONE" 1. Where D would be 0 it is 1.
        ignore_label: elements with this label take no part; none by default.
        check_labels: "always" (default), "first" (the first batch) or "never" raise ValueError for
            labels above 0 that are neither 1 nor ignored. Where they are not checked, all labels
            above 0 are taken for 1.

    Soft labels are refused: of the focal loss of a label between 0 and 1 there are three
    definitions in use, which differ.

    Source: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    loss = losses.sigmoid_focal


class SmoothL1LossLayer(LossLayer):
    """Smooth L1 loss of Fast R-CNN: quadratic near zero, a straight line beyond.

    L = 1/N sum v f(w (x - t)) with f(d) = (sigma d)^2 / 2 for |d| <= 1 / sigma^2 and
    |d| - 1 / (2 sigma^2) beyond, the inside weight w and the outside weight v.

    Bottoms: prediction (N, C, ...), target (same shape), and optionally the inside weight, or the
    inside and the outside weight: (N, 1, ...) or (N, ...) for all channels, or the prediction's
    shape. Three bottoms are those of Fast R-CNN and SSD, four those of Faster R-CNN.
    Gradients: v w f'(w (x - t)) / N to the prediction, the negative of that to the target; zero to
    the weights. With three bottoms the layers of Fast R-CNN and SSD leave out the factor w, which
    is the same for weights of 0 and 1 alone.

    Parameters:
        sigma: 1 by default (the RPN has 3), from 0.001 to 1000. PyTorch's beta is 1 / sigma^2.
        normalization: "BATCH_SIZE" (default) divides by N, "FULL" by the number of elements,
            "NONE" by nothing.

    Source: R. Girshick, "Fast R-CNN", ICCV 2015; sigma and both weights: S. Ren et al., "Faster
    R-CNN", NIPS 2015.
    """

    loss = losses.smooth_l1


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

    loss = losses.softmax_focal


class SoftmaxWithLossOHEMLayer(LossLayer):
    """SoftmaxWithLoss of the hardest positions: online hard example mining.

    L = sum u (-ln p_y) / M over the M positions that are kept, the hardest being those with the
    smallest p_y, the softmax of the class that the label names. Positions are chosen from the whole
    batch (on several ranks each chooses from its own part, and M is the mean of what they keep); of
    equally hard ones the first are taken. Which are kept is taken as fixed in the gradient.

    Bottoms: as WeightedSoftmaxWithLossLayer. Positions with weight 0 are never kept.
    Gradient: u (p_c - 1 where c is y) / M to the scores of positions that are kept, zero to all
    others, and to label and weight.

    Parameters:
        neg_pos_ratio: all positions of classes above 0 are kept, and this number (3 by default) of
            the hardest of class 0, the background, for each of them.
        keep_ratio: null (default), or the fraction of all positions to keep, whatever their class;
            neg_pos_ratio then has no effect.
        thresh: null (default), or a probability: positions with p_y below it are kept too.
        label_smoothing: as in WeightedSoftmaxWithLossLayer, for the positions that are kept; which
            ones those are depends on p_y alone.
        ignore_label, axis, check_labels: as in WeightedSoftmaxWithLossLayer.

    Takes memory for four numbers a position beside its blobs. Raises what
    WeightedSoftmaxWithLossLayer raises.

    Source: A. Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example
    Mining", CVPR 2016; the ratio of W. Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016.
    """

    loss = losses.softmax_ohem


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

    Raises as DiceLossLayer does.

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

    Takes memory to sort a channel of an image, or of the batch, on each thread: 8 bytes an element,
    150 on NumPy's engine. Raises ValueError for labels other than 0, 1 and the ignore_label.

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

    Takes memory as LovaszHingeLossLayer. Raises ValueError for labels that are no whole numbers
    from 0 to C - 1 and not ignored.

    In data-parallel training each rank sorts its own part of the batch: with `per_image` the loss
    is the mean over all images, which is exact; without it is the mean over the ranks' parts.

    Source: M. Berman, A. Rannen Triki and M. B. Blaschko, "The Lovász-Softmax loss", CVPR 2018.
    """

    loss = losses.lovasz_softmax
