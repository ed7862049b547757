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
    EuclideanLossLayer,
    WeightedEuclideanLossLayer,
    WeightedSigmoidCrossEntropyLossLayer,
)
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer

__all__ = [
    "ChannelSumEuclideanLossLayer",
    "EuclideanLossLayer",
    "HuberLossLayer",
    "SigmoidCrossEntropyWeightLossLayer",
    "SigmoidFocalLossLayer",
    "SmoothL1LossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
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
            positive ones, as RetinaNet, "FULL" of all, "BATCH_SIZE" N, "NONE" 1; never less than 1.
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
