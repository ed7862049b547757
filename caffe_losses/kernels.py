"""The arithmetic of the losses on one block, with no temporaries.

Each loss has a kernel for its value and one for its gradient. What differs between layers that
share a kernel is the weight that each element gets; `weights.py` makes those.

A line `np.operation(..., out=buffer)` carries its mathematical meaning as a comment where the
expression alone would not show it.
"""

from typing import Callable

import numpy as np

from caffe_losses.blocks import Scratch, dot

Coefficient = Callable[[np.ndarray], np.ndarray]

ONE = np.float32(1)
TWO = np.float32(2)
MINUS_TWO = np.float32(-2)


def squared_error(
    prediction: np.ndarray, target: np.ndarray, weight: np.ndarray, scratch: Scratch
) -> float:
    """Sum of weight * (prediction - target)^2."""
    difference = np.subtract(prediction, target, out=scratch.take(prediction.shape))
    weighted = np.multiply(difference, weight, out=scratch.take(prediction.shape))
    return dot(weighted, difference)


def squared_error_gradient(
    prediction: np.ndarray,
    target: np.ndarray,
    weight: np.ndarray,
    out: np.ndarray,
    scratch: Scratch,
) -> None:
    """weight * (prediction - target), the derivative of half the squared error."""
    difference = np.subtract(prediction, target, out=scratch.take(prediction.shape))
    np.multiply(difference, weight, out=out)


def twice_softplus_of_minus_magnitude(
    score: np.ndarray, work: np.ndarray, other: np.ndarray, out: np.ndarray
) -> np.ndarray:
    """2 ln(1 + e^-|score|), which is 2 sp(score) but for 2 max(score, 0)."""
    magnitude = np.absolute(score, out=work)
    np.negative(magnitude, out=other)
    exponential = np.exp(other, out=work)
    shifted = np.add(exponential, ONE, out=other)
    logarithm = np.log(shifted, out=out)
    # ln(1 + e) from ln(u), u = 1 + e rounded: what the rounding lost, e - (u - 1), is added back.
    # Without it every e below 6e-8 would count as nothing.
    shifted -= ONE
    exponential -= shifted
    logarithm += exponential
    logarithm += logarithm
    return logarithm


def cross_entropy(
    score: np.ndarray, negative: Coefficient, positive: Coefficient, scratch: Scratch
) -> float:
    """Sum of negative * sp(score) + positive * sp(-score), where sp(z) = ln(1 + e^z).

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows, and none of its terms is negative, so that
    nothing cancels. `negative` and `positive` write their values into the array they are given.
    """
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    logarithm = twice_softplus_of_minus_magnitude(score, first, second, out=third)
    softplus = np.absolute(score, out=first)
    softplus += score  # 2 max(score, 0)
    softplus += logarithm
    total = dot(negative(second), softplus)
    softplus = np.absolute(score, out=first)
    softplus -= score  # 2 max(-score, 0)
    softplus += logarithm
    total += dot(positive(second), softplus)
    return total / 2


def binary_cross_entropy(
    score: np.ndarray,
    label: np.ndarray,
    negative_weight: np.ndarray,
    positive_weight: np.ndarray,
    scratch: Scratch,
) -> float:
    """`cross_entropy` for labels of 0 and 1 alone: the sum of weight * sp(z), z = (1 - 2 t) x."""
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    logarithm = twice_softplus_of_minus_magnitude(score, first, second, out=third)
    signed = np.multiply(label, MINUS_TWO, out=first)
    signed += ONE
    signed *= score
    softplus = np.absolute(score, out=second)
    softplus += signed  # 2 max(z, 0)
    softplus += logarithm
    weight = np.multiply(label, positive_weight - negative_weight, out=first)
    weight += negative_weight
    return dot(weight, softplus) / 2


def cross_entropy_gradient(
    score: np.ndarray,
    negative: Coefficient,
    positive: Coefficient,
    out: np.ndarray,
    scratch: Scratch,
) -> None:
    """negative * sigmoid(score) - positive * sigmoid(-score).

    Both sigmoids come from one exponential without a subtraction, so that each is right to its last
    digits however small it is: sigmoid(z) = 1 / (1 + e^-z), where e^-z may well be infinite.
    """
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    np.negative(score, out=first)
    exponential = np.exp(first, out=second)
    # Not in place: a reciprocal is several times slower when its output is its input.
    inverse = np.reciprocal(exponential, out=first)
    exponential += ONE
    inverse += ONE
    up = np.divide(negative(third), exponential, out=third)
    down = np.divide(positive(second), inverse, out=second)
    np.subtract(up, down, out=out)


def binary_cross_entropy_gradient(
    score: np.ndarray,
    label: np.ndarray,
    negative_weight: np.ndarray,
    positive_weight: np.ndarray,
    out: np.ndarray,
    scratch: Scratch,
) -> None:
    """`cross_entropy_gradient` for labels of 0 and 1 alone: +-weight / (1 + e^-z)."""
    first, second = (scratch.take(score.shape) for _ in range(2))
    minus_signed = np.multiply(label, TWO, out=first)
    minus_signed -= ONE
    minus_signed *= score
    denominator = np.exp(minus_signed, out=second)
    denominator += ONE
    weight = np.multiply(label, -(positive_weight + negative_weight), out=first)
    weight += negative_weight
    np.divide(weight, denominator, out=out)
