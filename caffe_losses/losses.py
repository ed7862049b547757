"""The losses as plain functions of arrays: `loss, gradient = balanced_cross_entropy(score, label)`.

They need no Caffe; the layers call them too. Each takes arrays of any number of axes, computes in
float32, and returns the loss and the gradient to its first array. N is the length of axis 0, C of
axis 1, x the prediction or score, t the target or label, w a weight, sp(z) = ln(1 + e^z).

All raise ValueError or TypeError for shapes, labels and parameters that are wrong, and
FloatingPointError for a NaN or an infinity and for a loss or gradient that float32 does not hold.
"""

import math
from typing import Any, Mapping, Optional, Sequence, Tuple

import numpy as np

from caffe_losses import formulas
from caffe_losses.checks import (
    FLOAT32_MAX,
    LABEL_TOLERANCE,
    Shape,
    batch_channel_position,
    batch_size,
    elementwise,
    positions_of,
    product,
    raise_for_elements,
    raise_for_fractions,
    raise_for_labels,
    require_axis,
    require_number_for_each_channel,
    require_same_shape,
)
from caffe_losses.loops.counting import Counts, count
from caffe_losses.loss import Evaluation, Weightless, is_extreme, loss
from caffe_losses.overlap_losses import dice, lovasz_hinge, lovasz_softmax, tversky
from caffe_losses.parameters import (
    CHECK_LABELS,
    REQUIRED,
    Axis,
    Choice,
    Number,
    NumberForEachChannel,
    OrNone,
)
from caffe_losses.softmax_losses import (
    FOCAL_NORMALIZATION,
    softmax_focal,
    softmax_ohem,
    weighted_softmax,
)
from caffe_losses.weights import (
    Weights,
    balanced,
    divided,
    groups_of,
    label_to_ignore,
    normalizer,
    of_classes,
    uniform,
    uniform_in_each_image,
)

__all__ = [
    "balanced_cross_entropy",
    "channel_sum_euclidean",
    "dice",
    "euclidean",
    "huber",
    "lovasz_hinge",
    "lovasz_softmax",
    "sigmoid_focal",
    "smooth_l1",
    "softmax_focal",
    "softmax_ohem",
    "tversky",
    "weighted_cross_entropy",
    "weighted_euclidean",
    "weighted_softmax",
]

BALANCE = Choice("image", "batch", "channel", "none", default="image")
NORMALIZATION = Choice("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID", default="WEIGHT")
ONE = np.ones(1, np.float32)


@loss("prediction", "target", differentiable=2, check_shapes=elementwise("prediction", "target"))
def euclidean(evaluation: Evaluation, prediction: np.ndarray, target: np.ndarray) -> float:
    """Euclidean loss, 1/(2N) sum (x - t)^2, of a prediction (N, ...) and a target (the same)."""
    (batch,) = evaluation.mean_over_ranks(batch_size(prediction))
    return evaluation.pointwise(
        formulas.half_squared_error, prediction, target, uniform(1 / (batch or 1))
    )


@loss(
    "prediction",
    "target",
    "mask",
    optional=1,
    differentiable=2,
    check_shapes=elementwise("prediction", "target", "mask"),
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
    weights = weights_of_mask(evaluation, prediction, target, mask, balance, normalization)
    if weights is None:
        return math.nan
    return evaluation.pointwise(formulas.half_squared_error, prediction, target, weights)


def weights_of_mask(
    evaluation: Evaluation,
    prediction: np.ndarray,
    target: np.ndarray,
    mask: Optional[np.ndarray],
    balance: str,
    normalization: str,
) -> Optional[Weights]:
    """Balanced weights by a mask, or by the target; None where it is not finite.

    What is not finite is neither positive nor negative.
    """
    shape = batch_channel_position(prediction.shape)
    any_channel = mask is None
    layout = positions_of(target if mask is None else mask, prediction.shape)
    groups = groups_of(balance, shape[0], 1 if any_channel else layout.shape[1])
    counts = count(layout, groups, -FLOAT32_MAX, FLOAT32_MAX, any_channel=any_channel)
    if counts.wrong and prediction.size:
        return None
    return balanced_weights(evaluation, counts, layout, any_channel, shape, balance, normalization)


def balanced_weights(
    evaluation: Evaluation,
    counts: Counts,
    layout: np.ndarray,
    any_channel: bool,
    shape: Tuple[int, int, int],
    balance: str,
    normalization: str,
) -> Weights:
    """Weights that balance the classes of a mask; notes where nothing weighs anything."""
    weights = balanced(
        counts.classes,
        layout,
        any_channel,
        shape,
        balance,
        normalization,
        evaluation.mean_over_ranks,
    )
    positive, negative = counts.classes
    if not np.any(weights.positive * positive + weights.negative * negative):
        positions = shape[0] * shape[2] if any_channel else layout.size
        of_class = int(positive.sum()), int(negative.sum())
        evaluation.weightless = Weightless(*of_class, positions - sum(of_class))
    return weights


@loss(
    "prediction",
    "target",
    "weight",
    optional=1,
    differentiable=2,
    check_shapes=elementwise("prediction", "target", "weight"),
    delta=Number(default=1, minimum=1e-30),
    balance=Choice("none", "image", "batch", "channel", default="none"),
    normalization=NORMALIZATION,
)
def huber(
    evaluation: Evaluation,
    prediction: np.ndarray,
    target: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    delta: float,
    balance: str,
    normalization: str,
) -> float:
    """Huber loss, 1/N sum_n [sum w h(x - t) / sum w].

    h(d) is d^2 / 2 for |d| <= delta and delta (|d| - delta / 2) beyond. prediction (N, C, ...),
    target (the same), weight (N, 1, ...), (N, ...) or the prediction's shape: w >= 0 itself with
    balance "none", a mask as in `weighted_euclidean` with the others.
    """
    if balance == "none":
        weights = weights_of_elements(evaluation, prediction, weight, normalization)
    else:
        weights = weights_of_mask(evaluation, prediction, target, weight, balance, normalization)
    if weights is None:
        return math.nan
    return evaluation.pointwise(formulas.huber, prediction, target, weights, [delta])


def weights_of_elements(
    evaluation: Evaluation,
    prediction: np.ndarray,
    weight: Optional[np.ndarray],
    normalization: str,
) -> Optional[Weights]:
    """The weights that elements are given, 1 by default; None where they are not finite."""
    batch, elements = evaluation.mean_over_ranks(batch_size(prediction), prediction.size)
    divisor = normalizer(
        "FULL" if normalization == "WEIGHT" else normalization, batch, elements, elements
    )
    if weight is None:
        return uniform(1 / divisor)
    layout = positions_of(weight, prediction.shape)
    if prediction.size and count(layout, lowest=0, highest=FLOAT32_MAX).wrong:
        require_not_negative(evaluation.name, weight)
        return None
    if normalization != "WEIGHT":
        return uniform(1 / divisor, layout)
    repeats = product(prediction.shape[1:2]) // max(layout.shape[1], 1)
    sums = repeats * np.add.reduce(layout, axis=(1, 2), dtype=np.float64)
    weights = uniform_in_each_image(batch * sums, layout)
    # One of these totals is extreme where the sum of any image is.
    evaluation.allow_for(float(np.add.reduce(sums)), float(np.add.reduce(weights.positive, None)))
    return weights


def require_not_negative(name: str, weight: np.ndarray) -> None:
    """Raises for negative weights of elements."""
    wrong = (weight < 0) & np.isfinite(weight)
    if wrong.any():
        raise_for_elements(
            name,
            "weight",
            weight,
            wrong,
            "weights of at least 0",
            'give 0 to what is to be left out; for a mask of -1, 0 and 1 set "balance": "image"',
        )


@loss(
    "prediction",
    "target",
    "inside_weight",
    "outside_weight",
    optional=2,
    differentiable=2,
    check_shapes=elementwise("prediction", "target", "inside_weight", "outside_weight"),
    sigma=Number(default=1, minimum=1e-3, maximum=1e3),
    normalization=Choice("BATCH_SIZE", "FULL", "NONE", default="BATCH_SIZE"),
)
def smooth_l1(
    evaluation: Evaluation,
    prediction: np.ndarray,
    target: np.ndarray,
    inside_weight: Optional[np.ndarray] = None,
    outside_weight: Optional[np.ndarray] = None,
    *,
    sigma: float,
    normalization: str,
) -> float:
    """Smooth L1 loss, 1/N sum v f(w (x - t)), with the inside weight w and the outside weight v.

    f(d) is (sigma d)^2 / 2 for |d| <= 1 / sigma^2 and |d| - 1 / (2 sigma^2) beyond. prediction
    (N, C, ...), target (the same), weights (N, 1, ...), (N, ...) or the prediction's shape.
    """
    batch, elements = evaluation.mean_over_ranks(batch_size(prediction), prediction.size)
    divisor = normalizer(normalization, batch, elements, elements)
    inside = positions_of(inside_weight, prediction.shape)
    outside = positions_of(outside_weight, prediction.shape)
    return evaluation.pointwise(
        formulas.smooth_l1,
        prediction,
        target,
        uniform(1 / (sigma**2 * divisor), outside),
        [sigma**2],
        inside,
    )


@loss(
    "score",
    "label",
    check_shapes=elementwise("score", "label"),
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
    weights = balanced_weights(evaluation, counts, layout, False, shape, balance, normalization)
    return evaluation.pointwise(formulas.sigmoid_cross_entropy, score, label, weights, ONE)


def check_weighted(name: str, settings: Mapping[str, Any], score: Shape, *others: Shape) -> None:
    """Those of elements; and there is one class weight, or one for each channel."""
    elementwise("score", "label", "weight")(name, settings, score, *others)
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
        counts = count(label.reshape(1, 1, -1), (1, 1), 0, 1 + LABEL_TOLERANCE, ignore_label)
        ignored = counts.ignored
        if counts.wrong and evaluation.check_labels:
            raise_for_fractions(evaluation.name, label, ignore_label)
    batch, elements, valid = evaluation.mean_over_ranks(
        batch_size(score), label.size, label.size - ignored
    )
    divisor = normalizer(normalization, batch, elements, valid)
    of_element = positions_of(weight, score.shape)
    return evaluation.pointwise(
        formulas.sigmoid_cross_entropy,
        score,
        label,
        uniform(1 / divisor, of_element, ignore_label),
        cls_weight,
    )


@loss(
    "score",
    "label",
    "weight",
    optional=1,
    check_shapes=elementwise("score", "label", "weight"),
    alpha=OrNone(Number(default=0.25, minimum=0, maximum=1)),
    gamma=Number(default=2, minimum=0),
    normalization=FOCAL_NORMALIZATION,
    ignore_label=Number(default=None),
    check_labels=CHECK_LABELS,
)
def sigmoid_focal(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    alpha: Optional[float],
    gamma: float,
    normalization: str,
    ignore_label: Optional[float],
) -> float:
    """Sigmoid focal loss, the mean of -v alpha_t (1 - p_t)^gamma ln p_t.

    p_t is the probability of the label, sigmoid(x) or 1 - sigmoid(x), and alpha_t is alpha for
    labels of 1 and 1 - alpha for labels of 0. score (N, C, ...), label (the same) of 0 and 1, < 0
    ignored, weight v (N, 1, ...), (N, ...) or the score's shape.
    """
    # What is counted as right is 1, so that a label above 0 that is not right is a wrong one.
    counts = count(label.reshape(1, 1, -1), (1, 1), 1, 1, ignore_label)
    positive, negative = counts.classes.ravel()
    ones = label.size - counts.ignored - counts.wrong
    if positive != ones and evaluation.check_labels:
        raise_for_not_hard(evaluation.name, label, ignore_label)
    layout = label.reshape(batch_channel_position(score.shape))
    of_positive, of_negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
    of_element = positions_of(weight, score.shape)
    weights = of_classes(of_positive, of_negative, layout, of_element, ignore_label)
    total = sum_of_weights(weights, layout) if normalization == "WEIGHT" else 0
    means = evaluation.mean_over_ranks(
        batch_size(score), label.size, positive + negative, positive, total
    )
    divisor = normalizer(normalization, *means)
    if normalization == "WEIGHT":
        evaluation.allow_for(divisor)
    weights = divided(weights, divisor)
    formula = formulas.sigmoid_focal_squared if gamma == 2 else formulas.sigmoid_focal
    return evaluation.pointwise(formula, score, label, weights, [gamma])


def sum_of_weights(weights: Weights, label: np.ndarray) -> float:
    """The sum of what all elements weigh; in float64 where float32 has too few digits for it."""
    total = Evaluation("sum").pointwise(formulas.unit, label, label, weights)
    if total == 0 or is_extreme(total):
        in_float64 = Evaluation("sum", has_extremes=True)
        total = in_float64.pointwise(formulas.unit, label, label, weights)
    return total


def raise_for_not_hard(name: str, label: np.ndarray, ignore_label: Optional[float]) -> None:
    """Raises for labels that are neither 0 nor 1 nor ignored."""
    wrong = (label > 0) & (label != 1) & (label != label_to_ignore(ignore_label))
    first = label[wrong][0]
    if first < 1:
        fix = (
            "there are three definitions of the focal loss of a soft label, which differ; round "
            "the labels, or use SigmoidCrossEntropyWeightLossLayer, which takes soft ones"
        )
    else:
        fix = (
            f'set "ignore_label": {first:.8g} if it marks elements to ignore, or scale the labels '
            f"(divide a mask of 0 and 255 by 255)"
        )
    raise_for_labels(name, label, wrong, "0 or 1, or negative ones to ignore", fix)


def check_summed(name: str, settings: Mapping[str, Any], prediction: Shape, target: Shape) -> None:
    """Both have the same shape, and the axis is one of theirs."""
    require_same_shape(name, "target", target, "prediction", prediction)
    require_axis(name, settings["axis"], "prediction", prediction)


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
        formulas.half_squared_error,
        prediction.reshape(summed),
        target.reshape(summed),
        1 / (batch or 1),
    )
