"""The losses as plain functions of arrays: `loss, gradient = balanced_cross_entropy(score, label)`.

They need no Caffe; the layers call them too. Each takes arrays of any number of axes, computes in
float32, and returns the loss and the gradient to its first array. N is the length of axis 0, C of
axis 1, x the prediction or score, t the target or label, w a weight, sp(z) = ln(1 + e^z).

All raise ValueError or TypeError for shapes, labels and parameters that are wrong, and
FloatingPointError for a NaN or an infinity and for a loss or gradient that float32 does not hold.
"""

import math
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from caffe_losses.checks import (
    FLOAT32_MAX,
    LABEL_TOLERANCE,
    Shape,
    batch_channel_position,
    batch_size,
    positions_of,
    product,
    raise_for_fractions,
    raise_for_labels,
    require_mask,
    require_number_for_each_channel,
    require_same_layout,
    require_same_shape,
)
from caffe_losses.formulas import half_squared_error, sigmoid_cross_entropy
from caffe_losses.loops.counting import count
from caffe_losses.loss import Evaluation, loss
from caffe_losses.overlap_losses import (  # noqa: F401
    dice,
    lovasz_hinge,
    lovasz_softmax,
    tversky,
)
from caffe_losses.parameters import (
    CHECK_LABELS,
    REQUIRED,
    Axis,
    Choice,
    Number,
    NumberForEachChannel,
)
from caffe_losses.weights import NO_ARRAY, balanced, groups_of, normalizer, uniform

BALANCE = Choice("image", "batch", "channel", "none", default="image")
NORMALIZATION = Choice("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID", default="WEIGHT")
ONE = np.ones(1, np.float32)


def check_pair(name: str, settings: Mapping[str, Any], prediction: Shape, target: Shape) -> None:
    """Both have the same layout."""
    require_same_layout(name, "target", target, "prediction", prediction)


@loss("prediction", "target", differentiable=2, check_shapes=check_pair)
def euclidean(evaluation: Evaluation, prediction: np.ndarray, target: np.ndarray) -> float:
    """Euclidean loss, 1/(2N) sum (x - t)^2, of a prediction (N, ...) and a target (the same)."""
    (batch,) = evaluation.mean_over_ranks(batch_size(prediction))
    return evaluation.pointwise(half_squared_error, prediction, target, uniform(1 / (batch or 1)))


def check_masked(name: str, settings: Mapping[str, Any], prediction: Shape, target: Shape, *mask: Shape) -> None:
    """The target has the layout of the prediction; the mask may have one value for all channels."""
    require_same_layout(name, "target", target, "prediction", prediction)
    for shape in mask:
        require_mask(name, "mask", shape, "prediction", prediction)


@loss(
    "prediction",
    "target",
    "mask",
    optional=1,
    differentiable=2,
    check_shapes=check_masked,
    balance=BALANCE,
    normalization=NORMALIZATION,
)
def weighted_euclidean(
    evaluation: Evaluation,
    prediction: np.ndarray,
    target: np.ndarray,
    mask: Optional[np.ndarray] = None,
    *,
    balance: str,
    normalization: str,
) -> float:
    """Balanced Euclidean loss, 1/(2N) sum_n [sum w (x - t)^2 / sum w].

    prediction (N, C, ...), target (the same), mask (N, 1, ...), (N, ...) or the prediction's shape:
    > 0 positive, = 0 negative, < 0 ignored. Without a mask a position is positive where any channel
    of the target is not 0.
    """
    shape = batch_channel_position(prediction.shape)
    any_channel = mask is None
    layout = positions_of(target if mask is None else mask, shape)
    groups = groups_of(balance, shape[0], 1 if any_channel else layout.shape[1])
    counts = count(layout, groups, -FLOAT32_MAX, FLOAT32_MAX, any_channel=any_channel)
    if counts.wrong:
        return math.nan  # a mask that is not finite is neither positive nor negative
    weights = balanced(
        counts.classes,
        layout,
        any_channel,
        shape,
        balance,
        normalization,
        evaluation.mean_over_ranks,
    )
    return evaluation.pointwise(half_squared_error, prediction, target, weights)


def check_labelled(name: str, settings: Mapping[str, Any], score: Shape, label: Shape) -> None:
    """Both have the same layout."""
    require_same_layout(name, "label", label, "score", score)


@loss(
    "score",
    "label",
    check_shapes=check_labelled,
    balance=BALANCE,
    normalization=NORMALIZATION,
    check_labels=CHECK_LABELS,
)
def balanced_cross_entropy(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    *,
    balance: str,
    normalization: str,
) -> float:
    """Balanced sigmoid cross-entropy, 1/N sum_n [sum w l / sum w], l = t sp(-x) + (1 - t) sp(x).

    score (N, ...), label (the same): > 0 positive, = 0 negative, < 0 ignored; at most 1.
    """
    shape = batch_channel_position(score.shape)
    layout = label.reshape(shape)
    counts = count(layout, groups_of(balance, *shape[:2]), highest=1 + LABEL_TOLERANCE)
    if counts.wrong and evaluation.check_labels:
        raise_for_labels(
            evaluation.name,
            label,
            ~(label <= 1 + LABEL_TOLERANCE),
            "at most 1",
            "divide a mask of 0 and 255 by 255; give voids a negative label to ignore them",
        )
    weights = balanced(
        counts.classes, layout, False, shape, balance, normalization, evaluation.mean_over_ranks
    )
    return evaluation.pointwise(sigmoid_cross_entropy, score, label, weights, ONE)


def check_weighted(
    name: str, settings: Mapping[str, Any], score: Shape, label: Shape, *weight: Shape
) -> None:
    """The label has the layout of the score; there is one class weight, or one for each channel."""
    require_same_layout(name, "label", label, "score", score)
    for shape in weight:
        require_mask(name, "weight", shape, "score", score)
    require_number_for_each_channel(name, "cls_weight", settings["cls_weight"], "score", score)


@loss(
    "score",
    "label",
    "weight",
    optional=1,
    check_shapes=check_weighted,
    cls_weight=NumberForEachChannel(REQUIRED, minimum=0),
    normalization=Choice("NONE", "FULL", "VALID", "BATCH_SIZE", default="NONE"),
    ignore_label=Number(default=None),
    check_labels=CHECK_LABELS,
)
def weighted_cross_entropy(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    cls_weight: Sequence[float],
    normalization: str,
    ignore_label: Optional[float],
) -> float:
    """Weighted sigmoid cross-entropy, sum v [w t sp(-x) + (1 - t) sp(x)].

    score (N, C, ...), label (the same) from 0 to 1, weight v (N, 1, ...), (N, ...) or the score's
    shape; the cls_weight w is a number, or one for each channel.
    """
    ignored = 0
    if evaluation.check_labels or ignore_label is not None:
        counts = count(
            label.reshape(1, 1, -1), (1, 1), 0, 1 + LABEL_TOLERANCE, ignore_label
        )
        ignored = counts.ignored
        if counts.wrong and evaluation.check_labels:
            raise_for_fractions(evaluation.name, label, ignore_label)
    batch, elements, valid = evaluation.mean_over_ranks(
        batch_size(score), label.size, label.size - ignored
    )
    divisor = normalizer(normalization, batch, elements, valid)
    shape = batch_channel_position(score.shape)
    of_element = NO_ARRAY if weight is None else positions_of(weight, shape)
    return evaluation.pointwise(
        sigmoid_cross_entropy,
        score,
        label,
        uniform(1 / divisor, of_element, ignore_label),
        np.array(cls_weight, np.float32),
    )


def check_summed(
    name: str, settings: Mapping[str, Any], prediction: Shape, target: Shape
) -> None:
    """Both have the same shape, and the axis is one of theirs."""
    require_same_shape(name, "target", target, "prediction", prediction)
    axis = settings["axis"]
    if not -len(prediction) <= axis < len(prediction):
        raise ValueError(
            f'{name}: parameter "axis" is {axis}, but the prediction has shape {prediction}; '
            f"expected an axis that it has"
        )


@loss(
    "prediction",
    "target",
    differentiable=2,
    check_shapes=check_summed,
    axis=Axis(default=1),
    reduce=Choice("axis", "tail", default="axis"),
)
def channel_sum_euclidean(
    evaluation: Evaluation,
    prediction: np.ndarray,
    target: np.ndarray,
    *,
    axis: int,
    reduce: str,
) -> float:
    """Euclidean loss of sums, 1/(2N) sum (s(x) - s(t))^2, where s sums over an axis.

    prediction (N, C, ...), target (the same). `reduce` "axis" sums over that axis alone, "tail"
    over it and all after it.
    """
    (batch,) = evaluation.mean_over_ranks(batch_size(prediction))
    first = axis % prediction.ndim
    end = first + 1 if reduce == "axis" else prediction.ndim
    sides = prediction.shape[:first], prediction.shape[first:end], prediction.shape[end:]
    summed = tuple(map(product, sides))
    return evaluation.channel_sum(
        half_squared_error, prediction.reshape(summed), target.reshape(summed), 1 / (batch or 1)
    )
