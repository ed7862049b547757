"""The losses of overlap, Dice and Tversky, and those by rank, Lovász hinge and softmax.

They are functions of whole masks: of the true positives, false positives and false negatives of a
channel, counted with probabilities, or of the order of its errors.
"""

import math
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import numpy as np

from caffe_losses.checks import (
    LABEL_TOLERANCE,
    Shape,
    batch_channel_position,
    elementwise,
    positions_of,
    raise_for_fractions,
    require_class_numbers,
    require_mask,
    require_number_for_each_channel,
    require_positions,
)
from caffe_losses.formulas import overlap, squared_overlap
from caffe_losses.loops.by_rank import (
    Errors,
    by_rank,
    set_hinge_margins,
    set_softmax_margins,
    take_derivatives_through_softmax,
)
from caffe_losses.loops.counting import count
from caffe_losses.loops.overlap import Masks, are_class_numbers, sums, write_gradient
from caffe_losses.loss import Evaluation, Loss, loss
from caffe_losses.parameters import Boolean, Choice, Number, NumberForEachChannel
from caffe_losses.weights import label_to_ignore

# Of each group: its loss, and the coefficients (..., 4) of `formulas.overlap_derivative`.
OfGroups = Tuple[np.ndarray, np.ndarray]

# Below this 1 - T a power of it is a parabola, whose slope is bounded.
SMALLEST_POWER_BASE = 1e-4


def check_masks(
    name: str, settings: Mapping[str, Any], prediction: Shape, label: Shape, *weight: Shape
) -> None:
    """Label and weight have one value for each element, or one for all channels of a position."""
    require_mask(name, "label", label, "prediction", prediction, "class numbers")
    for shape in weight:
        require_mask(name, "weight", shape, "prediction", prediction)
    require_number_for_each_channel(
        name, "class_weight", settings["class_weight"], "prediction", prediction
    )
    if not settings["background"] and batch_channel_position(prediction)[1] == 1:
        raise ValueError(
            f'{name}: parameter "background" is false, but the prediction of shape {prediction} '
            f"has one channel, which would be the background; expected a channel for each class, "
            f'or "background": true'
        )


def mask_loss(**own: Any) -> Callable[[Callable[..., float]], Loss]:
    """Makes a loss, with bottoms and parameters of both losses of overlap and some of its own."""
    return loss(
        "prediction",
        "label",
        "weight",
        optional=1,
        check_shapes=check_masks,
        **own,
        activation=Choice("none", "sigmoid", "softmax", default="none"),
        reduce=Choice("batch", "image", default="batch"),
        smooth=Number(1, minimum=0),
        class_weight=NumberForEachChannel(1, minimum=0),
        ignore_label=Number(None),
        background=Boolean(True),
    )


@mask_loss(squared=Boolean(False))
def dice(
    evaluation: Evaluation,
    *bottoms: np.ndarray,
    smooth: float,
    squared: bool,
    **settings: Any,
) -> float:
    """Dice loss, the mean over channels of 1 - (2 sum p g + s) / (sum p^k + sum g^k + s).

    prediction (N, C, ...): probabilities, or scores with an activation; label (the same) from 0
    to 1, or class numbers (N, 1, ...) or (N, ...) where C is not 1; weight of each element or
    position.
    """

    def of_groups(true_positives: Any, false_positives: Any, false_negatives: Any) -> OfGroups:
        errors = false_positives + false_negatives
        denominator = 2 * true_positives + errors + smooth
        value = ratio(errors, denominator)
        zero, similarity = np.zeros_like(value), ratio(2 * true_positives + smooth, denominator)
        if squared:
            coefficients = zero, 2 * similarity, -2 * value, -2 * similarity
        else:
            coefficients = similarity, zero, -1 - value, zero
        return value, ratio(np.stack(coefficients, -1), denominator[..., np.newaxis])

    formula = squared_overlap if squared else overlap
    return overlap_loss(evaluation, formula, of_groups, *bottoms, **settings)


@mask_loss(alpha=Number(0.5, minimum=0), beta=Number(0.5, minimum=0), gamma=Number(1, above=0))
def tversky(
    evaluation: Evaluation,
    *bottoms: np.ndarray,
    alpha: float,
    beta: float,
    gamma: float,
    smooth: float,
    **settings: Any,
) -> float:
    """(Focal) Tversky loss, the mean over channels of (1 - T)^gamma.

    T = (TP + s) / (TP + alpha FP + beta FN + s) with TP = sum p g, FP = sum p (1 - g) and FN =
    sum (1 - p) g. Bottoms as of `dice`.
    """

    def of_groups(true_positives: Any, false_positives: Any, false_negatives: Any) -> OfGroups:
        errors = alpha * false_positives + beta * false_negatives
        denominator = true_positives + errors + smooth
        distance = ratio(errors, denominator)  # 1 - T
        value, slope = power_with_slope(distance, gamma)
        index, zero = ratio(true_positives + smooth, denominator), np.zeros_like(value)
        coefficients = slope * alpha * index, zero, -slope * (distance + beta * index), zero
        return value, ratio(np.stack(coefficients, -1), denominator[..., np.newaxis])

    return overlap_loss(evaluation, overlap, of_groups, *bottoms, **settings)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The ratio, and 0 where the denominator is 0: nothing is there to overlap."""
    return np.where(denominator == 0, 0, numerator / denominator)


def power_with_slope(base: np.ndarray, exponent: float) -> Tuple[np.ndarray, np.ndarray]:
    """base^exponent and its derivative, with a bounded slope.

    For an exponent below 1 the slope at 0 is infinite. There a parabola through 0 takes over, with
    the same value and slope where they meet.
    """
    if exponent == 1:
        return base, np.ones_like(base)
    smallest = SMALLEST_POWER_BASE if exponent < 1 else 0
    large = np.maximum(base, smallest)
    value = large**exponent
    slope = exponent * large ** (exponent - 1)
    if exponent > 1:
        return value, slope
    x = base / smallest
    of_parabola = smallest**exponent * x * ((2 - exponent) - (1 - exponent) * x)
    slope_of_parabola = smallest ** (exponent - 1) * ((2 - exponent) - 2 * (1 - exponent) * x)
    is_small = base < smallest
    return np.where(is_small, of_parabola, value), np.where(is_small, slope_of_parabola, slope)


def overlap_loss(
    evaluation: Evaluation,
    formula: Callable[..., Any],
    of_groups: Callable[..., OfGroups],
    prediction: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    activation: str,
    reduce: str,
    class_weight: Sequence[float],
    ignore_label: Optional[float],
    background: bool,
) -> float:
    """The weighted mean over channels (and images) of what `of_groups` makes of their sums.

    Bottoms as of `dice`. `of_groups` takes the sums of true positives, false positives and false
    negatives, each (1 or N, C).
    """
    shape = batch_channel_position(prediction.shape)
    masks = Masks(
        prediction.reshape(shape),
        positions_of(label, shape),
        positions_of(weight, shape),
        label_to_ignore(ignore_label),
    )
    if prediction.size:
        require_right_labels(evaluation.name, label, masks, ignore_label)
    own_sums = sums(activation, formula, masks, 1 if reduce == "batch" else shape[0])
    if not np.isfinite(own_sums).all():
        return math.nan
    if reduce == "batch":
        # All ranks have the loss of the whole batch; the mean of their gradients is to be its own.
        images, share = 1.0, evaluation.ranks
        means = evaluation.mean_over_ranks(*own_sums.ravel())
        groups = evaluation.ranks * np.reshape(means, (1, -1, 3))
    else:
        share, groups = 1, own_sums
        (images,) = evaluation.mean_over_ranks(shape[0])
    weights = np.broadcast_to(np.array(class_weight, np.float64), shape[1:2]).copy()
    weights[: not background] = 0
    weights /= (weights.sum() or 1) * (images or 1)
    with np.errstate(all="ignore"):
        values, coefficients = of_groups(*np.rollaxis(groups, 2))
        coefficients = coefficients * (share * evaluation.loss_weight * weights)[:, np.newaxis]
        in_float32 = coefficients.astype(np.float32)
        result = float((values * weights).sum())
    gradient = evaluation.gradients[0] if evaluation.gradients else None
    if gradient is not None:
        out = gradient.reshape(shape)
        evaluation.allow_for(float(np.add.reduce(groups, None)))

        def write(dtype: Any) -> float:
            table = in_float32 if dtype == np.float32 else coefficients
            return 0 if write_gradient(activation, formula, masks, table, out) else math.nan

        evaluation.run(write)
    return result


def require_right_labels(
    name: str, label: np.ndarray, masks: Masks, ignore_label: Optional[float]
) -> None:
    """Raises unless labels are class numbers, or fractions where there is one for each element."""
    classes = masks.prediction.shape[1]
    if are_class_numbers(masks):
        require_class_numbers(name, label, classes, ignore_label)
    elif count(label.reshape(1, 1, -1), (1, 1), 0, 1 + LABEL_TOLERANCE, ignore_label).wrong:
        raise_for_fractions(name, label, ignore_label)


@loss(
    "score",
    "label",
    check_shapes=elementwise("score", "label"),
    per_image=Boolean(True),
    ignore_label=Number(None),
)
def lovasz_hinge(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    *,
    per_image: bool,
    ignore_label: Optional[float],
) -> float:
    """Lovász hinge, the mean over images and channels of the Lovász extension of the Jaccard loss.

    score (N, C, ...), label (the same) of 0 and 1. The errors are 1 - (2 t - 1) x, where above 0.
    """
    shape = batch_channel_position(score.shape)
    if score.size:
        fix = "divide a mask of 0 and 255 by 255"
        require_class_numbers(evaluation.name, label, 2, ignore_label, fix)
    margins = margins_for(evaluation, shape)
    labels = label.reshape(shape)
    if not set_hinge_margins(margins, score.reshape(shape), labels, label_to_ignore(ignore_label)):
        return math.nan
    errors = Errors(margins, labels, np.ones(shape[1], np.float32), np.float32(1))
    losses, _ = by_rank(errors, per_image)
    (groups,) = evaluation.mean_over_ranks(len(losses))
    weight = 1 / ((groups or 1) * max(shape[1], 1))
    if evaluation.gradients:
        with np.errstate(under="ignore"):
            margins *= np.float32(weight * evaluation.loss_weight)
    return float(losses.sum() * weight)


def check_classes(name: str, settings: Mapping[str, Any], score: Shape, label: Shape) -> None:
    """The label has one class number for all channels of a position."""
    require_positions(name, "label", label, "score", score)


@loss(
    "score",
    "label",
    check_shapes=check_classes,
    per_image=Boolean(False),
    classes=Choice("present", "all", default="present"),
    ignore_label=Number(None),
)
def lovasz_softmax(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    *,
    per_image: bool,
    classes: str,
    ignore_label: Optional[float],
) -> float:
    """Lovász softmax, the mean over classes of the Lovász extension of the Jaccard loss.

    score (N, C, ...), label (N, 1, ...) or (N, ...) of class numbers. The errors are what the
    softmax lacks of 1 for the class of the label, and the probabilities of all others.
    """
    shape = batch_channel_position(score.shape)
    scores, labels = score.reshape(shape), label.reshape(shape[0], 1, shape[2])
    if score.size:
        require_class_numbers(evaluation.name, label, shape[1], ignore_label)
    margins = margins_for(evaluation, shape)
    if not set_softmax_margins(margins, scores, labels, label_to_ignore(ignore_label)):
        return math.nan
    errors = Errors(margins, labels, np.arange(shape[1], dtype=np.float32), np.float32(0))
    losses, positives = by_rank(errors, per_image)
    (groups,) = evaluation.mean_over_ranks(len(losses))
    counts = positives > 0 if classes == "present" else np.ones_like(positives, bool)
    weights = counts / (np.maximum(counts.sum(1, keepdims=True), 1) * (groups or 1))
    if evaluation.gradients:
        dtype = np.float64 if evaluation.has_extremes else np.float32
        with np.errstate(under="ignore"):
            factors = (weights * evaluation.loss_weight).astype(dtype)
        take_derivatives_through_softmax(margins, scores, factors)
    return float((losses * weights).sum())


def margins_for(evaluation: Evaluation, shape: Tuple[int, int, int]) -> np.ndarray:
    """An array for margins, which become the gradient: where that goes if it is wanted."""
    gradient = evaluation.gradients[0] if evaluation.gradients else None
    return np.empty(shape, np.float32) if gradient is None else gradient.reshape(shape)
