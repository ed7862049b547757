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


def cross_entropy(
    score: np.ndarray, negative: Coefficient, positive: Coefficient, scratch: Scratch
) -> float:
    """Sum of negative * sp(score) + positive * sp(-score), where sp(z) = ln(1 + e^z).

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows, and none of its terms is negative, so that
    nothing cancels. `negative` and `positive` write their values into the array they are given.
    """
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    magnitude = np.absolute(score, out=first)
    np.negative(magnitude, out=second)
    exponential = np.exp(second, out=first)
    shifted = np.add(exponential, ONE, out=second)
    logarithm = np.log(shifted, out=third)
    # ln(1 + e) from ln(u), u = 1 + e rounded: what the rounding lost, e - (u - 1), is added back.
    # Without it every e below 6e-8 would count as nothing.
    shifted -= ONE
    exponential -= shifted
    logarithm += exponential
    logarithm += logarithm

    softplus = np.absolute(score, out=first)
    softplus += score  # 2 max(score, 0)
    softplus += logarithm
    total = dot(negative(second), softplus)
    softplus = np.absolute(score, out=first)
    softplus -= score  # 2 max(-score, 0)
    softplus += logarithm
    total += dot(positive(second), softplus)
    return total / 2


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
