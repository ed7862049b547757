"""Loss layers for imbalanced targets: the Euclidean family, balanced cross-entropy and Dice.

Name this module and one of its classes in a prototxt,

    layer {
      name: "loss" type: "Python" top: "loss" loss_weight: 1
      bottom: "prediction" bottom: "target" bottom: "mask"
      python_param {
        module: "pylayerUtils" layer: "WeightedEuclideanLossLayer"
        param_str: "{\\"balance\\": \\"batch\\"}"
      }
    }

or in a net spec, `WeightedEuclideanLossLayer.spec(net.prediction, net.target, balance="batch")`.

Notation: N is the batch size (axis 0), C the number of channels (axis 1), x the prediction or
score, t the target or label, w a weight, sp(z) = ln(1 + e^z). Gradients are multiplied by the
layer's loss_weight.

All layers raise ValueError or TypeError for a param_str, a number of bottoms or shapes that do not
fit, and FloatingPointError for a NaN or an infinity in a bottom and for a loss that overflows.
"""

from caffe_losses import losses
from caffe_losses.layer import LossLayer

__all__ = [
    "ChannelSumEuclideanLossLayer",
    "DiceCoefLossLayer",
    "EuclideanLossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
]


class EuclideanLossLayer(LossLayer):
    """Caffe's own EuclideanLoss as a Python layer: L = 1/(2N) sum (x - t)^2.

    Bottoms: prediction (N, ...), target (same shape).
    Gradients: (x - t) / N to the prediction, the negative of that to the target.
    Parameters: none.
    """

    loss = losses.euclidean


class WeightedEuclideanLossLayer(LossLayer):
    """Euclidean loss that gives the positive and the negative positions of a mask equal weight.

    L = 1/(2N) sum_n [sum w (x - t)^2 / sum w], both inner sums over channels and positions of image
    n. Mask > 0 is positive, = 0 negative, < 0 ignored. With P and Q positive and negative positions
    a positive one weighs w = Q/(P+Q), a negative one P/(P+Q), an ignored one 0, on every channel.
    Where P or Q is 0 no position weighs anything: loss 0 and gradient 0.

    Bottoms: prediction (N, C, ...), target (same shape), and optionally a mask: (N, 1, ...) or
    (N, ...) for all channels, or the prediction's shape. Without a mask a position is positive
    where any channel of the target is not zero.
    Gradients: w (x - t) / (N sum_n w) to the prediction, the negative of that to the target; zero
    to the mask.

    Parameters:
        balance: "image" (default) counts P and Q in each image, so that a batch is the mean of its
            images; "batch" counts them over the batch; "channel" over the batch too, but in each
            channel of the mask; "none" weighs every position that is not ignored 1.
        normalization: "WEIGHT" (default) divides by sum w of each image and by N (with balance
            "batch" by sum w over the batch, and not by N; with "channel" by sum w of each channel
            over the batch and by C: the mean over channels). "BATCH_SIZE": L = 1/(2N) sum w
            (x - t)^2 with gradient w (x - t) / N, the update that the layer published under this
            name really applied. "NONE", "FULL" (all elements) and "VALID" (elements not ignored)
            divide the half sum as Caffe's LossParameter means them.

    Source: the flux loss of Y. Wang et al., "DeepFlux for Skeletons in the Wild", CVPR 2019.
    """

    loss = losses.weighted_euclidean


class WeightedSigmoidCrossEntropyLossLayer(LossLayer):
    """Sigmoid cross-entropy that gives positive and negative labels equal weight.

    L = 1/N sum_n [sum w l / sum w] with l = t sp(-x) + (1 - t) sp(x), both inner sums over channels
    and positions of image n. Labels > 0 are positive, = 0 negative, < 0 ignored; the weights w are
    those of WeightedEuclideanLossLayer, counted over all elements of the label.

    Bottoms: score (N, ...), label (same layout) with values up to 1.
    Gradient: w (sigmoid(x) - t) / (N sum_n w) to the score; zero to the label.

    Parameters:
        balance: "image" (default), "batch", "channel" or "none", as in WeightedEuclideanLossLayer.
            With "channel" a rare attribute does not drown among others.
        normalization: "WEIGHT" (default), "BATCH_SIZE", "NONE", "FULL" or "VALID", as in
            WeightedEuclideanLossLayer without the factor 1/2.
        check_labels: "always" (default), "first" (the first batch) or "never" raise ValueError for
            labels above 1, like masks of 0 and 255.

    Source: with normalization "BATCH_SIZE" and labels 0 and 1 the class-balanced loss of S. Xie and
    Z. Tu, "Holistically-Nested Edge Detection", ICCV 2015.
    """

    loss = losses.balanced_cross_entropy


class ChannelSumEuclideanLossLayer(LossLayer):
    """Euclidean loss of sums over an axis: L = 1/(2N) sum (s(x) - s(t))^2.

    Bottoms: prediction (N, C, ...), target (same shape).
    Gradients: (s(x) - s(t)) / N to every element of the prediction that was summed, the negative of
    that to the target.

    Parameters:
        axis: the axis that s sums over, 1 by default; negative axes count from the end.
        reduce: "axis" (default) sums that axis alone and equals a fixed 1x1 convolution of ones
            before EuclideanLoss; "tail" sums that axis and all after it and equals Caffe's
            Reduction layer (axis, SUM) before EuclideanLoss, for axes after the batch axis.

    Source: the question "Trying to understand custom loss layer in caffe" and its answer.
    """

    loss = losses.channel_sum_euclidean


class DiceCoefLossLayer(LossLayer):
    """The Dice loss under the name that published EAST nets use: L = 1 - S, of probabilities.

    S = (2 sum p g + 1) / (sum p + sum g + 1), with all sums over the batch. It is
    `caffe_losses.layers.DiceLossLayer`, whose docstring has the bottoms (prediction, label and
    optionally weight) and all parameters. For one channel the defaults give what the published
    layer prints, with the gradient of that; the published one, 2 (S p - g) / D with the denominator
    D of S, is another. A layer of this name in AdvancedEAST is a balanced cross-entropy.
    """

    loss = losses.dice
