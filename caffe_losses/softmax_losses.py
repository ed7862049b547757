"""The losses of a softmax over class scores, as plain functions of arrays; part of `losses`.

y is the class of a position, p the softmax of its score, p_y that of class y, w_y the weight of the
class, u that of the position, K the number of classes.
"""

import math
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from caffe_losses import formulas
from caffe_losses.checks import (
    Shape,
    product,
    raise_for_classes,
    require_axis,
    require_number_for_each_channel,
    require_positions,
)
from caffe_losses.loops.along_axis import Formula
from caffe_losses.loops.counting import ClassCounts, count_classes
from caffe_losses.loss import NO_CLASSES, NO_POSITIONS, Evaluation, Loss, loss
from caffe_losses.parameters import CHECK_LABELS, Axis, Choice, Number, NumberForEachChannel
from caffe_losses.weights import normalizer

LABEL_SMOOTHING = Number(0, minimum=0, maximum=1)
FOCAL_NORMALIZATION = Choice(
    "VALID", "POSITIVE", "WEIGHT", "FULL", "BATCH_SIZE", "NONE", default="VALID"
)


def check_scores_along_axis(
    name: str, settings: Mapping[str, Any], score: Shape, label: Shape, *weight: Shape
) -> None:
    """Labels and weights have the shape of the score, but for its axis of classes."""
    axis = settings["axis"]
    require_axis(name, axis, "score", score)
    axis %= len(score)
    for bottom, shape in zip(("label", "weight"), (label, *weight)):
        require_positions(name, bottom, shape, "score", score, axis)
    for key in ("class_weight", "alpha"):
        numbers = settings.get(key)
        if numbers is not None:
            require_number_for_each_channel(name, key, numbers, "score", score, axis)


def softmax_loss(**own: Any) -> Callable[[Callable[..., float]], Loss]:
    """Makes a loss, with bottoms and parameters of all losses of a softmax and some of its own."""
    return loss(
        "score",
        "label",
        "weight",
        optional=1,
        check_shapes=check_scores_along_axis,
        **own,
        ignore_label=Number(None),
        axis=Axis(1),
        check_labels=CHECK_LABELS,
    )


Positions = NamedTuple(
    "Positions",
    [
        ("score", np.ndarray),  # (N, K, S)
        ("label", np.ndarray),  # (N, S)
        ("weight", np.ndarray),  # (N, S), or no elements
        ("ignore_label", Optional[float]),
        ("of_class", np.ndarray),  # (K) in float64: the weight of each class
        ("counts", ClassCounts),
    ],
)


def softmax_positions(
    evaluation: Evaluation,
    of_class: Optional[Sequence[float]],
    score: np.ndarray,
    label: np.ndarray,
    weight: Optional[np.ndarray] = None,
    *,
    ignore_label: Optional[float],
    axis: int,
) -> Positions:
    """The bottoms as a loop along the axis takes them, with the counts of the labels.

    of_class is one weight, or one for each class; score has the classes along the axis, label and
    weight have one number for each position. Raises for a label that is no class number; where
    labels are not checked, it takes no part.
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
        ignore_label,
        weights,
        counts,
    )


def divisor_of(evaluation: Evaluation, positions: Positions, normalization: str) -> float:
    """What the sum over positions is divided by; 1 where that would be 0."""
    counts, batch = positions.counts, positions.score.shape[0]
    means = evaluation.mean_over_ranks(
        batch, positions.label.size, counts.valid, counts.positive, counts.weight
    )
    divisor = normalizer(normalization, *means)
    if normalization == "WEIGHT":
        evaluation.allow_for(divisor)
    return divisor


def sum_over(
    evaluation: Evaluation,
    positions: Positions,
    formula: Formula,
    of_class: np.ndarray,
    label_smoothing: float = 0,
    **options: Any,
) -> float:
    """The weighted sum of a formula over positions, with these weights of the classes, (K).

    With label_smoothing e a position has e / K of each class, and 1 - e more of its own one.
    """
    classes = of_class.size
    if classes == 1:
        label_smoothing = 0  # all of the label is on the one class there is
    smooth = of_class * label_smoothing / max(classes, 1)
    return evaluation.along_axis(
        formula,
        positions.score,
        positions.label,
        positions.weight,
        (1 - label_smoothing) * of_class,
        smooth if label_smoothing else NO_CLASSES,
        ignore_label=positions.ignore_label,
        **options,
    )


@softmax_loss(
    class_weight=NumberForEachChannel(1, minimum=0),
    label_smoothing=LABEL_SMOOTHING,
    normalization=Choice("WEIGHT", "VALID", "FULL", "BATCH_SIZE", "NONE", default="WEIGHT"),
)
def weighted_softmax(
    evaluation: Evaluation,
    *bottoms: np.ndarray,
    class_weight: Sequence[float],
    label_smoothing: float,
    normalization: str,
    **settings: Any,
) -> float:
    """Weighted softmax cross-entropy, sum u w_y (-ln p_y) / D; D = sum u w_y for "WEIGHT".

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label); the
    class_weight w is a number, or one for each class. With label_smoothing e the sum is that of
    u sum_c w_c q_c (-ln p_c), where q_c is e / K, and 1 - e more for class y.
    """
    positions = softmax_positions(evaluation, class_weight, *bottoms, **settings)
    of_class = positions.of_class / divisor_of(evaluation, positions, normalization)
    return sum_over(
        evaluation, positions, formulas.softmax_cross_entropy, of_class, label_smoothing
    )


@softmax_loss(
    alpha=NumberForEachChannel(None, minimum=0),
    gamma=Number(2, minimum=0, maximum=100),
    normalization=FOCAL_NORMALIZATION,
)
def softmax_focal(
    evaluation: Evaluation,
    *bottoms: np.ndarray,
    alpha: Optional[Sequence[float]],
    gamma: float,
    normalization: str,
    **settings: Any,
) -> float:
    """Focal loss of a softmax, sum u alpha_y (1 - p_y)^gamma (-ln p_y) / D.

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label);
    alpha is none, a number, or one for each class. D is the number of positions not ignored.
    """
    positions = softmax_positions(evaluation, alpha, *bottoms, **settings)
    of_class = positions.of_class / divisor_of(evaluation, positions, normalization)
    return sum_over(evaluation, positions, formulas.softmax_focal, of_class, gamma=gamma)


@softmax_loss(
    neg_pos_ratio=Number(3, minimum=0),
    keep_ratio=Number(None, minimum=0, maximum=1),
    thresh=Number(None, minimum=0, maximum=1),
    label_smoothing=LABEL_SMOOTHING,
)
def softmax_ohem(
    evaluation: Evaluation,
    *bottoms: np.ndarray,
    neg_pos_ratio: float,
    keep_ratio: Optional[float],
    thresh: Optional[float],
    label_smoothing: float,
    **settings: Any,
) -> float:
    """Softmax cross-entropy of the hardest positions, sum u (-ln p_y) / (the number kept).

    score (N, K, ...), label (N, 1, ...) or (N, ...) of class numbers, weight u (as the label). All
    positions of classes above 0 are kept, and neg_pos_ratio times as many of class 0; with a
    keep_ratio that fraction of all; with thresh all with p_y below it too. label_smoothing is that
    of `weighted_softmax`, for the positions that are kept.
    """
    positions = softmax_positions(evaluation, None, *bottoms, **settings)
    entropy = np.full_like(positions.label, -1)
    everything = sum_over(
        Evaluation(evaluation.name),
        positions,
        formulas.softmax_cross_entropy,
        positions.of_class,
        value=entropy,
    )
    if not math.isfinite(everything):
        return everything
    kept = hardest(entropy, positions, neg_pos_ratio, keep_ratio, thresh)
    (number,) = evaluation.mean_over_ranks(np.count_nonzero(kept))
    own = positions.weight if positions.weight.size else np.float32(1)
    of_kept = positions._replace(weight=np.where(kept, own, np.float32(0)))
    of_class = positions.of_class / (number or 1)
    return sum_over(evaluation, of_kept, formulas.softmax_cross_entropy, of_class, label_smoothing)


def hardest(
    entropy: np.ndarray,
    positions: Positions,
    neg_pos_ratio: float,
    keep_ratio: Optional[float],
    thresh: Optional[float],
) -> np.ndarray:
    """Which positions (N, S) are kept; their entropy -ln p_y is negative for ignored labels."""
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

    Both arrays have the same shape. Of equal values the first ones are taken.
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
