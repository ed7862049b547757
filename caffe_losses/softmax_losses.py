"""The losses of a softmax over class scores, as plain functions of arrays; part of `losses`.

y is the class of a position, p the softmax of its score, p_y that of class y, w_y the weight of the
class, u that of the position, K the number of classes.
"""

import math
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from caffe_losses.checks import Shape, product, raise_for_labels
from caffe_losses.formulas import softmax_cross_entropy, softmax_focal
from caffe_losses.loops.counting import ClassCounts, count_classes
from caffe_losses.loss import NO_CLASSES, NO_POSITIONS, Evaluation, loss
from caffe_losses.parameters import (
    CHECK_LABELS,
    Axis,
    Choice,
    Number,
    NumberForEachChannel,
)
from caffe_losses.weights import normalizer

AXIS = Axis(default=1)
IGNORE_LABEL = Number(default=None)


def check_classes(
    name: str, settings: Mapping[str, Any], score: Shape, label: Shape, *weight: Shape
) -> None:
    """Labels and weights have the shape of the score, but for its axis of classes."""
    axis = settings["axis"]
    if not -len(score) <= axis < len(score):
        raise ValueError(
            f'{name}: parameter "axis" is {axis}, but the score has shape {score}; expected an '
            f"axis that it has"
        )
    axis %= len(score)
    before, after = score[:axis], score[axis + 1 :]
    for bottom, shape in zip(("label", "weight"), (label, *weight)):
        if shape not in (before + (1,) + after, before + after):
            raise ValueError(
                f"{name}: the {bottom} has shape {shape}; expected {before + (1,) + after} or "
                f"{before + after}, one number for each position, to go with the score of shape "
                f"{score} and classes along axis {axis}"
            )
    for key in ("class_weight", "alpha"):
        numbers = settings.get(key)
        if numbers is not None and len(numbers) not in (1, score[axis]):
            raise ValueError(
                f'{name}: parameter "{key}" has {len(numbers)} numbers, the score of shape {score} '
                f"{score[axis]} classes along axis {axis}; expected one number, or one for each "
                f"class"
            )


Positions = NamedTuple(
    "Positions",
    [
        ("score", np.ndarray),  # (N, K, S)
        ("label", np.ndarray),  # (N, S)
        ("weight", np.ndarray),  # (N, S), or no elements
        ("of_class", np.ndarray),  # (K) in float64: the weight of each class
        ("counts", ClassCounts),
    ],
)


def positions_of(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray],
    of_class: Optional[Sequence[float]],
    ignore_label: Optional[float],
    axis: int,
) -> Positions:
    """The bottoms as a loop along the axis takes them, with the counts of the labels.

    Raises for a label that is no class number; where labels are not checked, it takes no part.
    """
    axis %= score.ndim
    batch, classes, positions = map(
        product, (score.shape[:axis], score.shape[axis : axis + 1], score.shape[axis + 1 :])
    )
    weights = np.full(classes, 1.0 if of_class is None else of_class)
    if score.size == 0:
        counts = ClassCounts(0, 0, 0, 0)
    else:
        counts = count_classes(label, weights, weight, ignore_label)
    if counts.wrong and evaluation.check_labels:
        raise_for_classes(evaluation.name, label, classes, ignore_label)
    layout = batch, positions
    return Positions(
        score.reshape(batch, classes, positions),
        label.reshape(layout),
        NO_POSITIONS if weight is None else weight.reshape(layout),
        weights,
        counts,
    )


def raise_for_classes(
    name: str, label: np.ndarray, classes: int, ignore_label: Optional[float]
) -> None:
    """Raises for labels that are neither class numbers nor ignored."""
    wrong = ~((label >= 0) & (label < classes) & (np.floor(label) == label))
    if ignore_label is not None:
        wrong &= label != np.float32(ignore_label)
    raise_for_labels(
        name,
        label,
        wrong,
        f"a whole number from 0 to {classes - 1}, the number of a class",
        f'set "ignore_label": {label[wrong][0]:.8g} if it marks positions to ignore, or give the '
        f"score as many channels as there are classes",
    )


def divisor_of(evaluation: Evaluation, positions: Positions, normalization: str) -> float:
    """What the sum over positions is divided by; 1 where that would be 0."""
    counts, batch = positions.counts, positions.score.shape[0]
    batch, total, valid, positive, weight = evaluation.mean_over_ranks(
        batch, positions.label.size, counts.valid, counts.positive, counts.weight
    )
    if normalization == "WEIGHT":
        evaluation.allow_for(weight)
        return weight or 1.0
    if normalization == "POSITIVE":
        return positive or 1.0
    return normalizer(normalization, batch, total, valid)


@loss(
    "score",
    "label",
    "weight",
    optional=1,
    check_shapes=check_classes,
    class_weight=NumberForEachChannel(1, minimum=0),
    ignore_label=IGNORE_LABEL,
    axis=AXIS,
    label_smoothing=Number(0, minimum=0, maximum=1),
    normalization=Choice("WEIGHT", "VALID", "FULL", "BATCH_SIZE", "NONE", default="WEIGHT"),
    check_labels=CHECK_LABELS,
)
def weighted_softmax(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    class_weight: Sequence[float],
    ignore_label: Optional[float],
    axis: int,
    label_smoothing: float,
    normalization: str,
) -> float:
    """Weighted softmax cross-entropy, sum u w_y (-ln p_y) / D; D = sum u w_y for "WEIGHT".

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label); the
    class_weight w is a number, or one for each class. With label_smoothing e the sum is that of
    u sum_c w_c q_c (-ln p_c), where q_c is e / K, and 1 - e more for class y.
    """
    positions = positions_of(evaluation, score, label, weight, class_weight, ignore_label, axis)
    of_class = positions.of_class / divisor_of(evaluation, positions, normalization)
    classes = of_class.size
    if classes == 1:
        label_smoothing = 0  # all of the label is on the one class there is
    smooth = of_class * label_smoothing / max(classes, 1)
    return evaluation.along_axis(
        softmax_cross_entropy,
        positions.score,
        positions.label,
        positions.weight,
        (1 - label_smoothing) * of_class,
        smooth if label_smoothing else NO_CLASSES,
        ignore_label=ignore_label,
    )


@loss(
    "score",
    "label",
    "weight",
    optional=1,
    check_shapes=check_classes,
    alpha=NumberForEachChannel(None, minimum=0),
    gamma=Number(2, minimum=0, maximum=100),
    ignore_label=IGNORE_LABEL,
    axis=AXIS,
    normalization=Choice(
        "VALID", "POSITIVE", "WEIGHT", "FULL", "BATCH_SIZE", "NONE", default="VALID"
    ),
    check_labels=CHECK_LABELS,
)
def softmax_focal_loss(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    alpha: Optional[Sequence[float]],
    gamma: float,
    ignore_label: Optional[float],
    axis: int,
    normalization: str,
) -> float:
    """Focal loss of a softmax, sum u alpha_y (1 - p_y)^gamma (-ln p_y) / D.

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label);
    alpha is none, a number, or one for each class. D is the number of positions not ignored.
    """
    positions = positions_of(evaluation, score, label, weight, alpha, ignore_label, axis)
    of_class = positions.of_class / divisor_of(evaluation, positions, normalization)
    return evaluation.along_axis(
        softmax_focal,
        positions.score,
        positions.label,
        positions.weight,
        of_class,
        ignore_label=ignore_label,
        gamma=gamma,
    )


@loss(
    "score",
    "label",
    "weight",
    optional=1,
    check_shapes=check_classes,
    neg_pos_ratio=Number(3, minimum=0),
    keep_ratio=Number(None, minimum=0, maximum=1),
    thresh=Number(None, minimum=0, maximum=1),
    ignore_label=IGNORE_LABEL,
    axis=AXIS,
    check_labels=CHECK_LABELS,
)
def softmax_ohem(
    evaluation: Evaluation,
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    neg_pos_ratio: float,
    keep_ratio: Optional[float],
    thresh: Optional[float],
    ignore_label: Optional[float],
    axis: int,
) -> float:
    """Softmax cross-entropy of the hardest positions, sum u (-ln p_y) / (the number kept).

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label). All
    positions of classes above 0 are kept, and neg_pos_ratio times as many of class 0; with a
    keep_ratio that fraction of all; with thresh all with p_y below it too.
    """
    positions = positions_of(evaluation, score, label, weight, None, ignore_label, axis)
    ones = np.ones(positions.of_class.size)
    entropy = np.full_like(positions.label, -1)
    first = Evaluation(evaluation.name)
    everything = first.along_axis(
        softmax_cross_entropy,
        positions.score,
        positions.label,
        positions.weight,
        ones,
        value=entropy,
        ignore_label=ignore_label,
    )
    if not math.isfinite(everything):
        return everything
    kept = hardest(entropy, positions, neg_pos_ratio, keep_ratio, thresh)
    (number,) = evaluation.mean_over_ranks(np.count_nonzero(kept))
    own = np.float32(1) if weight is None else positions.weight
    return evaluation.along_axis(
        softmax_cross_entropy,
        positions.score,
        positions.label,
        np.where(kept, own, np.float32(0)),
        ones / (number or 1),
        ignore_label=ignore_label,
    )


def hardest(
    entropy: np.ndarray,
    positions: Positions,
    neg_pos_ratio: float,
    keep_ratio: Optional[float],
    thresh: Optional[float],
) -> np.ndarray:
    """Which positions are kept; the entropy -ln p_y is negative where a label is ignored."""
    candidates = entropy >= 0
    if positions.weight.size:
        candidates &= positions.weight != 0
    kept = np.zeros_like(candidates)
    if keep_ratio is None:
        kept = candidates & (positions.label > 0)
        candidates &= ~kept
        count = neg_pos_ratio * np.count_nonzero(kept)
    else:
        count = keep_ratio * np.count_nonzero(candidates)
    kept |= largest(entropy, candidates, count)
    if thresh is not None:
        with np.errstate(under="ignore"):
            kept |= candidates & (np.exp(-entropy) < np.float32(thresh))
    return kept


def largest(values: np.ndarray, candidates: np.ndarray, count: float) -> np.ndarray:
    """Which candidates have the largest values, as many as the count, rounded up.

    Of those that are equal the first ones are taken.
    """
    found = values[candidates]
    number = min(math.ceil(count), found.size)
    taken = np.zeros(found.size, bool)
    if number:
        smallest = np.partition(found, found.size - number)[found.size - number]
        taken = found > smallest
        equal = np.flatnonzero(found == smallest)
        taken[equal[: number - np.count_nonzero(taken)]] = True
    result = np.zeros_like(candidates)
    result[candidates] = taken
    return result
