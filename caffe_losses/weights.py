"""What each element of a loss weighs: its class, its own weight, and the normalization.

Weights are the same for every loss and know nothing of its formula. They include the normalization,
so that a loss is a plain sum over elements. (N, C, S) are batch, channels and positions.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.elementary import Number

Shape = Tuple[int, int, int]
NO_ARRAY = np.zeros((0, 0, 0), np.float32)

Weights = NamedTuple(
    "Weights",
    [
        ("positive", np.ndarray),  # (N or 1, C or 1): what an element of the positive class weighs
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
    table = np.full((1, 1), weight, np.float32)
    ignored = np.float32(np.nan if ignore_label is None else ignore_label)
    return Weights(table, table, NO_ARRAY, False, of_element, ignored)


def normalizer(normalization: str, batch: float, count: float, valid: float) -> float:
    """What the sum is divided by, as Caffe's LossParameter means it; 1 where that would be 0."""
    divisors = {"NONE": 1, "FULL": count, "VALID": valid, "BATCH_SIZE": batch}
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
    mean_over_ranks: Callable[..., np.ndarray],
) -> Weights:
    """Weights with which the positive and the negative class weigh the same.

    `counts` (2, N or 1, C or 1) are the positions P and Q of the two classes in each group that is
    balanced. A positive one weighs Q / (P + Q), a negative one P / (P + Q), so that nothing weighs
    anything where a class is missing.
    """
    channels = 1 if any_channel else mask.shape[1]
    repeats = shape[1] // max(channels, 1)  # how many elements share the weight of a position
    # Images are balanced on their own, whichever rank they are on.
    exchanged = counts.ravel() if balance in ("batch", "channel") else ()
    batch, count, valid, *means = mean_over_ranks(
        shape[0], shape[0] * shape[1] * shape[2], repeats * counts.sum(), *exchanged
    )
    positive, negative = np.reshape(means, counts.shape) if means else counts
    weights = np.array([negative, positive]) / np.maximum(positive + negative, 1)
    if balance == "none":
        weights = np.ones_like(weights)
    if normalization == "WEIGHT":
        divisor = repeats * (weights[0] * positive + weights[1] * negative)
        divisor *= {"batch": 1, "channel": counts.shape[2]}.get(balance, batch)
        divisor[divisor == 0] = np.inf
        weights = weights / divisor
    else:
        weights = weights / normalizer(normalization, batch, count, valid)
    positive, negative = weights.astype(np.float32)
    return Weights(positive, negative, mask, any_channel, NO_ARRAY, np.float32(np.nan))


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
