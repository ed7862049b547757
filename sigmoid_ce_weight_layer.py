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

from typing import List, Optional

import numpy as np

from caffe_losses import losses
from caffe_losses.layer import LossLayer
from caffe_losses.parameters import (
    CHECK_LABELS,
    REQUIRED,
    Choice,
    Number,
    NumberForEachChannel,
)
from caffe_losses.shapes import (
    Shape,
    batch_channel_position,
    batch_size,
    layout_of_mask,
    one_row,
    require_mask,
    require_same_layout,
)
from caffe_losses.values import raise_for_labels, value_range
from caffe_losses.weights import (
    ClassWeights,
    CoefficientsOfLabel,
    count_values,
    normalizer,
)

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

    bottom_names = ("score", "label", "weight")
    optional_bottoms = 1
    exchanged_counts = 3
    parameters = {
        "cls_weight": NumberForEachChannel(REQUIRED, minimum=0),
        "normalization": Choice("NONE", "FULL", "VALID", "BATCH_SIZE", default="NONE"),
        "ignore_label": Number(default=None),
        "check_labels": CHECK_LABELS,
    }

    def check_shapes(self, *shapes: Shape) -> None:
        score = shapes[0]
        require_same_layout(self.name, "label", shapes[1], "score", score)
        for weight in shapes[2:]:
            require_mask(self.name, "weight", weight, "score", score)
        cls_weight = np.array(self.settings["cls_weight"], dtype=np.float32).reshape(1, -1, 1)
        self.weights = ClassWeights([cls_weight, np.ones_like(cls_weight)])
        alike = cls_weight.size == 1 and len(shapes) == 2
        self.layouts = [one_row(score) if alike else batch_channel_position(score)] * 2
        self.layouts += [layout_of_mask(weight, score) for weight in shapes[2:]]
        channels = score[1] if len(score) > 1 else 1
        count = len(self.settings["cls_weight"])
        if count not in (1, channels):
            raise ValueError(
                f'{self.name}: parameter "cls_weight" has {count} numbers, the score of shape '
                f"{score} {channels} channels; expected one number, or one for each channel"
            )

    def coefficients(
        self, scale: float, label: np.ndarray, *weight: np.ndarray
    ) -> CoefficientsOfLabel:
        """The weights of both terms of the loss, times a scale, by blocks."""
        return CoefficientsOfLabel(
            label,
            self.weights.times(scale),
            weight[0] if weight else None,
            self.settings["ignore_label"],
        )

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        score, label, *weight = self.views(*bottoms)
        ignore_label = self.settings["ignore_label"]
        self.largest_weight = max(1.0, *self.settings["cls_weight"])
        if weight:
            self.largest_weight *= max(map(abs, value_range(weight[0])))
        ignored = 0 if ignore_label is None else count_values(label, ignore_label).sum()
        batch, count, valid = self.mean_over_ranks(
            batch_size(bottoms[0]), label.size, label.size - ignored
        )
        self.divisor = normalizer(self.settings["normalization"], batch, count, valid)
        if ignore_label is None and not weight and self.weights.differ_linearly():
            total, self.binary = losses.cross_entropy_of_labels(score, label, self.weights)
        else:
            total = losses.cross_entropy(score, self.coefficients(1, label, *weight))
            self.binary = False
        if not self.binary and self.check_is_due():
            smallest, largest = value_range(label, ignore_label)
            if not (smallest >= 0 and largest <= 1):
                self.raise_for_labels(bottoms[1])
        return total / self.divisor

    def raise_for_labels(self, label: np.ndarray) -> None:
        """Raises for labels that are neither in [0, 1] nor ignored."""
        wrong = ~((label >= 0) & (label <= 1))
        if self.settings["ignore_label"] is not None:
            wrong &= label != np.float32(self.settings["ignore_label"])
        found = label[wrong][0]
        raise_for_labels(
            self.name,
            label,
            wrong,
            "0 to 1",
            f'set "ignore_label": {found:g} if it marks elements to ignore, or scale the labels '
            f"(divide a mask of 0 and 255 by 255)",
        )

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        score, label, *weight = self.views(*bottoms)
        (out,) = (diff.reshape(score.shape) for diff in diffs if diff is not None)
        scale = loss_weight / self.divisor
        if self.binary:
            losses.binary_cross_entropy_gradient(score, label, self.weights.times(scale), out)
        else:
            losses.cross_entropy_gradient(score, self.coefficients(scale, label, *weight), out)
