"""What each element of a loss weighs: its class, its own weight, and the normalization.

Weights are the same for every loss and know nothing of its formula. They include the normalization,
so that a loss is a plain sum over elements. (N, C, S) are batch, channels and positions.
"""

import functools
from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from caffe_losses.elementary import Number

Shape = Tuple[int, int, int]
NO_ARRAY = np.zeros((0, 0, 0), np.float32)
NOTHING = np.float32(np.nan)  # which equals no label

Weights = NamedTuple(
    "Weights",
    [
        # (N or 1, C or 1), float64: what an element of the positive class weighs
        ("positive", np.ndarray),
        ("negative", np.ndarray),  # the same of the negative class
        ("mask", np.ndarray),  # (N, C or 1, S): > 0 positive, = 0 negative, < 0 ignored
        ("any_channel", bool),  # a position is positive where any channel of the mask is not 0
        ("of_element", np.ndarray),  # (N, C or 1, S): multiplies the weight of the class
        ("ignore_label", Any),  # float32: elements with this target weigh nothing; NaN for none
    ],
)


def uniform(
    weight: float, of_element: np.ndarray = NO_ARRAY, ignore_label: Optional[float] = None
) -> Weights:
    """The same weight for all elements, times the weight of each where there is one."""
    return uniform_weights(weight, ignore_label)._replace(of_element=of_element)


@functools.lru_cache(maxsize=64)
def uniform_weights(weight: float, ignore_label: Optional[float]) -> Weights:
    """The same weight for all elements; made once, as it takes longer than a small loss."""
    table = np.array([[weight]], np.float64)
    return Weights(table, table, NO_ARRAY, False, NO_ARRAY, label_to_ignore(ignore_label))


def label_to_ignore(ignore_label: Optional[float]) -> Any:
    """The ignore_label as float32; for none a NaN, which no label equals."""
    return NOTHING if ignore_label is None else np.float32(ignore_label)


def uniform_in_each_image(divisors: np.ndarray, of_element: np.ndarray) -> Weights:
    """The weights of elements (N, C or 1, S) divided by a number for each image, (N).

    Nothing weighs anything in images where that is 0.
    """
    table = inverse(divisors).reshape(-1, 1)
    return Weights(table, table, NO_ARRAY, False, of_element, NOTHING)


def inverse(divisors: np.ndarray) -> np.ndarray:
    """1 / divisor, and 0 where that is 0."""
    return 1 / np.where(divisors > 0, divisors, np.inf)


def of_classes(
    positive: float,
    negative: float,
    mask: np.ndarray,
    of_element: np.ndarray = NO_ARRAY,
    ignore_label: Optional[float] = None,
) -> Weights:
    """One weight for the positive class and one for the negative, times that of each element.

    mask and of_element are (N, C or 1, S), as in `Weights`.
    """
    of_positive, of_negative = np.array([[positive]], float), np.array([[negative]], float)
    return Weights(of_positive, of_negative, mask, False, of_element, label_to_ignore(ignore_label))


def divided(weights: Weights, divisor: float) -> Weights:
    """The weights of the classes divided by a number."""
    return weights._replace(
        positive=weights.positive / divisor, negative=weights.negative / divisor
    )


def normalizer(
    normalization: str,
    batch: float,
    count: float,
    valid: float,
    positive: float = np.nan,
    weight: float = np.nan,
) -> float:
    """What the sum is divided by, as Caffe's LossParameter means it; 1 where that would be 0.

    "POSITIVE" is the number of positive elements, "WEIGHT" the sum of all weights, where a loss has
    them.
    """
    divisors = {
        "NONE": 1,
        "FULL": count,
        "VALID": valid,
        "BATCH_SIZE": batch,
        "POSITIVE": positive,
        "WEIGHT": weight,
    }
    return float(divisors[normalization]) or 1.0


def groups_of(balance: str, batch: int, channels: int) -> Tuple[int, int]:
    """For how many images and channels apart the classes of a mask are counted."""
    return {"image": (batch, 1), "none": (batch, 1), "batch": (1, 1), "channel": (1, channels)}[
        balance
    ]


def balanced(
    counts: np.ndarray,
    mask: np.ndarray,
    any_channel: bool,
    shape: Shape,
    balance: str,
    normalization: str,
    mean_over_ranks: Callable[..., Sequence[float]],
) -> Weights:
    """Weights with which the positive and the negative class weigh the same.

    `counts` (2, N or 1, C or 1) are the positions P and Q of the two classes of the mask (N, C or
    1, S) in each group that is balanced; `shape` is the (N, C, S) of the prediction. A positive one
    weighs Q / (P + Q), a negative one P / (P + Q), so that nothing weighs anything where a class is
    missing.
    """
    channels = 1 if any_channel else mask.shape[1]
    repeats = shape[1] // max(channels, 1)  # how many elements share the weight of a position
    # Images are balanced on their own, whichever rank they are on.
    exchanged = counts.ravel() if balance in ("batch", "channel") else ()
    batch, count, valid, *means = mean_over_ranks(
        shape[0], shape[0] * shape[1] * shape[2], repeats * float(counts.sum()), *exchanged
    )
    if means:
        counts = np.reshape(means, counts.shape)
    both = counts[0] + counts[1]  # less than 1 where there are fewer positions than ranks
    if normalization == "WEIGHT":
        groups = {"batch": 1, "channel": counts.shape[2]}.get(balance, batch)
        # P positions of w / sum w = Q / (2 P Q) each: a class weighs a half.
        sums = both if balance == "none" else 2 * counts * (counts[::-1] > 0)
        weights = inverse(repeats * groups * sums)
    else:
        weights = balance == "none" or counts[::-1] * inverse(both)
        weights = weights / normalizer(normalization, batch, count, valid)
    tables = np.empty(counts.shape)
    tables[...] = weights
    return Weights(tables[0], tables[1], mask, any_channel, NO_ARRAY, NOTHING)


def weighted(
    formula: Callable[..., Tuple[Number, Number]],
    x: Number,
    t: Number,
    parameter: Number,
    weight: Number,
    loss_weight: Number,
) -> Tuple[Number, Number]:
    """What an element adds to the loss, and its gradient.

    What is not finite makes a NaN, which would otherwise be lost where a formula selects one of two
    numbers or where a weight is 0. (LLVM 10 takes 0 for a product with 0 that it fuses with a sum.)
    """
    value, derivative = formula(x, t, parameter)
    gradient = weight * derivative * loss_weight
    suspect = x + t + gradient
    return weight * value + (suspect - suspect), gradient
