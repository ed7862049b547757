"""Loss layers for imbalanced targets: the Euclidean family and the balanced cross-entropy.

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

from typing import Any, List, Optional

import numpy as np

from caffe_losses import losses
from caffe_losses.layer import LossLayer, opposite
from caffe_losses.parameters import CHECK_LABELS, Axis, Choice
from caffe_losses.shapes import (
    Shape,
    batch_channel_position,
    batch_size,
    flat,
    layout_of_mask,
    product,
    require_mask,
    require_same_layout,
    require_same_shape,
    row_of_each_image,
)
from caffe_losses.values import all_finite, raise_for_labels, require_finite, value_range
from caffe_losses.weights import (
    ClassesOfMask,
    ClassesOfTarget,
    ClassWeights,
    CoefficientsOfClasses,
    Constant,
    WeightOfBinary,
    WeightOfClasses,
    class_weights,
    count_binary,
    count_classes,
)

__all__ = [
    "ChannelSumEuclideanLossLayer",
    "EuclideanLossLayer",
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
]

BALANCE = Choice("image", "batch", "none", default="image")
NORMALIZATION = Choice("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID", default="WEIGHT")


class EuclideanLossLayer(LossLayer):
    """Caffe's own EuclideanLoss as a Python layer: L = 1/(2N) sum (x - t)^2.

    Bottoms: prediction (N, ...), target (same shape).
    Gradients: (x - t) / N to the prediction, the negative of that to the target.
    Parameters: none.
    """

    bottom_names = ("prediction", "target")
    differentiable_bottoms = 2

    def check_shapes(self, *shapes: Shape) -> None:
        prediction, target = shapes
        require_same_layout(self.name, "target", target, "prediction", prediction)

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        prediction, target = map(flat, bottoms)
        (batch,) = self.mean_over_ranks(batch_size(bottoms[0]))
        self.weight = 1 / batch
        return losses.squared_error(prediction, target) * self.weight

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        prediction, target = map(flat, bottoms)
        for diff, scale in opposite(diffs, loss_weight * self.weight):
            losses.squared_error_gradient(prediction, target, Constant(scale), flat(diff))


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
            images; "batch" counts them over the batch; "none" weighs every position that is not
            ignored 1.
        normalization: "WEIGHT" (default) divides by sum w of each image and by N (with balance
            "batch" by sum w over the batch, and not by N). "BATCH_SIZE": L = 1/(2N) sum w (x - t)^2
            with gradient w (x - t) / N, the update that the layer published under this name really
            applied. "NONE", "FULL" (all elements) and "VALID" (elements not ignored) divide the
            half sum as Caffe's LossParameter means them.

    Source: the flux loss of Y. Wang et al., "DeepFlux for Skeletons in the Wild", CVPR 2019.
    """

    bottom_names = ("prediction", "target", "mask")
    optional_bottoms = 1
    differentiable_bottoms = 2
    exchanged_counts = 4
    parameters = {"balance": BALANCE, "normalization": NORMALIZATION}

    def check_shapes(self, *shapes: Shape) -> None:
        require_same_layout(self.name, "target", shapes[1], "prediction", shapes[0])
        for mask in shapes[2:]:
            require_mask(self.name, "mask", mask, "prediction", shapes[0])
        self.layouts = [batch_channel_position(shapes[0])] * 2
        self.layouts += [layout_of_mask(mask, shapes[0]) for mask in shapes[2:]]

    def classes(self, target: np.ndarray, *mask: np.ndarray) -> Any:
        """Which positions are positive and which negative."""
        return ClassesOfMask(*mask) if mask else ClassesOfTarget(target)

    def weighting(self, classes: Any, weights: ClassWeights) -> Any:
        """The weight of each position, by blocks."""
        if self.binary:
            return WeightOfBinary(classes.mask, weights.positive, weights.negative, self.repeats)
        return WeightOfClasses(classes, weights, self.repeats)

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        prediction, target, *mask = self.views(*bottoms)
        classes = self.classes(target, *mask)
        self.repeats = prediction.shape[1] // classes.shape[1]
        counts = count_binary(*mask) if mask else None
        binary = counts is not None
        if counts is None:
            # A NaN would be neither positive nor negative, and so be ignored.
            if mask and not all_finite(*mask):
                require_finite(self.name, "mask", bottoms[2], self.iteration)
            counts = count_classes(classes)
        self.weights = class_weights(
            counts,
            prediction.shape,
            self.repeats,
            self.settings["balance"],
            self.settings["normalization"],
            self.mean_over_ranks,
        )
        self.binary = binary and self.weights.differ_linearly()
        root = self.weighting(classes, self.weights.roots())
        return losses.weighted_squared_error(prediction, target, root)

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        prediction, target, *mask = self.views(*bottoms)
        classes = self.classes(target, *mask)
        for diff, scale in opposite(diffs, loss_weight):
            weighting = self.weighting(classes, self.weights.times(scale))
            losses.squared_error_gradient(
                prediction, target, weighting, diff.reshape(prediction.shape)
            )


class WeightedSigmoidCrossEntropyLossLayer(LossLayer):
    """Sigmoid cross-entropy that gives positive and negative labels equal weight.

    L = 1/N sum_n [sum w l / sum w] with l = t sp(-x) + (1 - t) sp(x), both inner sums over channels
    and positions of image n. Labels > 0 are positive, = 0 negative, < 0 ignored; the weights w are
    those of WeightedEuclideanLossLayer, counted over all elements of the label.

    Bottoms: score (N, ...), label (same layout) with values up to 1.
    Gradient: w (sigmoid(x) - t) / (N sum_n w) to the score; zero to the label.

    Parameters:
        balance: "image" (default), "batch" or "none", as in WeightedEuclideanLossLayer.
        normalization: "WEIGHT" (default), "BATCH_SIZE", "NONE", "FULL" or "VALID", as in
            WeightedEuclideanLossLayer without the factor 1/2.
        check_labels: "always" (default), "first" (the first batch) or "never" raise ValueError for
            labels above 1, like masks of 0 and 255.

    Source: with normalization "BATCH_SIZE" and labels 0 and 1 the class-balanced loss of S. Xie and
    Z. Tu, "Holistically-Nested Edge Detection", ICCV 2015.
    """

    bottom_names = ("score", "label")
    exchanged_counts = 4
    parameters = {"balance": BALANCE, "normalization": NORMALIZATION, "check_labels": CHECK_LABELS}

    def check_shapes(self, *shapes: Shape) -> None:
        score, label = shapes
        require_same_layout(self.name, "label", label, "score", score)
        self.layouts = [row_of_each_image(score)] * 2

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        score, label = self.views(*bottoms)
        counts = count_binary(label)
        binary = counts is not None
        if counts is None:
            if self.check_is_due() and not value_range(label).largest <= 1:
                raise_for_labels(
                    self.name,
                    bottoms[1],
                    ~(bottoms[1] <= 1),
                    "at most 1",
                    "divide a mask of 0 and 255 by 255; give voids a negative label to ignore them",
                )
            counts = count_classes(ClassesOfMask(label))
        self.weights = class_weights(
            counts,
            score.shape,
            1,
            self.settings["balance"],
            self.settings["normalization"],
            self.mean_over_ranks,
        )
        self.binary = binary and self.weights.differ_linearly()
        if self.binary:
            return losses.binary_cross_entropy(score, label, self.weights)
        return losses.cross_entropy(score, CoefficientsOfClasses(label, self.weights))

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        score, label = self.views(*bottoms)
        (out,) = (diff.reshape(score.shape) for diff in diffs if diff is not None)
        weights = self.weights.times(loss_weight)
        if self.binary:
            losses.binary_cross_entropy_gradient(score, label, weights, out)
        else:
            coefficients = CoefficientsOfClasses(label, weights)
            losses.cross_entropy_gradient(score, coefficients, out)


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

    bottom_names = ("prediction", "target")
    differentiable_bottoms = 2
    parameters = {"axis": Axis(default=1), "reduce": Choice("axis", "tail", default="axis")}

    def check_shapes(self, *shapes: Shape) -> None:
        prediction, target = shapes
        require_same_shape(self.name, "target", target, "prediction", prediction)
        axis = self.settings["axis"]
        if not -len(prediction) <= axis < len(prediction):
            raise ValueError(
                f'{self.name}: parameter "axis" is {axis}, but the prediction has shape '
                f"{prediction}; expected an axis that it has"
            )

    def summed(self, array: np.ndarray) -> np.ndarray:
        """The view with what is summed as axis 1 of three."""
        axis = self.settings["axis"] % array.ndim
        end = axis + 1 if self.settings["reduce"] == "axis" else array.ndim
        summed = array.shape[axis:end]
        return array.reshape(
            product(array.shape[:axis]), product(summed), product(array.shape[end:])
        )

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        (self.batch,) = self.mean_over_ranks(batch_size(bottoms[0]))
        return losses.channel_sum_squared_error(*map(self.summed, bottoms)) / self.batch

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        prediction, target = map(self.summed, bottoms)
        for diff, scale in opposite(diffs, loss_weight / self.batch):
            losses.channel_sum_squared_error_gradient(prediction, target, scale, self.summed(diff))
