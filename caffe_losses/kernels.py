"""The arithmetic of the losses on one block, with no temporaries.

Each loss has a kernel for its value and one for its gradient. What differs between layers that
share a kernel is the weight that each element gets; `weights.py` makes those. Gradients are written
to `out`, which also serves as scratch on the way there.

A line `np.operation(..., out=buffer)` carries its mathematical meaning as a comment where the
expression alone would not show it.
"""

from typing import Callable

import numpy as np

from caffe_losses.blocks import Scratch, dot

Coefficient = Callable[[np.ndarray], np.ndarray]

# Arrays without axes: NumPy is quicker with them than with its scalars.
ONE = np.array(1, dtype=np.float32)
AFTER_ONE = np.array(np.nextafter(np.float32(1), np.float32(2)))
TWO = np.array(2, dtype=np.float32)
MINUS_TWO = np.array(-2, dtype=np.float32)


def squared_error(prediction: np.ndarray, target: np.ndarray, scratch: Scratch) -> float:
    """Sum of (prediction - target)^2."""
    difference = np.subtract(prediction, target, out=scratch.take(prediction.shape))
    return dot(difference, difference)


def weighted_squared_error(
    prediction: np.ndarray, target: np.ndarray, root: np.ndarray, scratch: Scratch
) -> float:
    """Sum of weight * (prediction - target)^2, given the square root of the weight."""
    difference = np.subtract(prediction, target, out=scratch.take(prediction.shape))
    difference *= root
    return dot(difference, difference)


def squared_error_gradient(
    prediction: np.ndarray, target: np.ndarray, weight: np.ndarray, out: np.ndarray
) -> None:
    """weight * (prediction - target), the derivative of half the squared error."""
    np.subtract(prediction, target, out=out)
    out *= weight


def logarithm_of_one_plus(exponential: np.ndarray, work: np.ndarray, out: np.ndarray) -> np.ndarray:
    """ln(1 + e), right to its last digits also where 1 + e rounds to 1.

    ln(1 + y) / y hardly changes with y, so that it may be taken at a y close to e for which 1 + y
    is a float32: ln(1 + e) = e ln(1 + y) / y.
    """
    # A little more than 1, so that y is not 0.
    rounded = np.add(exponential, AFTER_ONE, out=work)
    logarithm = np.log(rounded, out=out)
    rounded -= ONE
    logarithm /= rounded
    logarithm *= exponential
    return logarithm


def cross_entropy(
    score: np.ndarray, negative: Coefficient, positive: Coefficient, scratch: Scratch
) -> float:
    """Sum of negative * sp(score) + positive * sp(-score), where sp(z) = ln(1 + e^z).

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows, and none of its terms is negative, so that
    nothing cancels. Coefficients write their values into the array that they are given.
    """
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    magnitude = np.absolute(score, out=first)
    np.negative(magnitude, out=second)
    exponential = np.exp(second, out=first)
    logarithm = logarithm_of_one_plus(exponential, work=second, out=third)
    logarithm += logarithm  # twice everything: 2 max(z, 0) is |z| + z
    softplus = np.absolute(score, out=first)
    softplus += score
    softplus += logarithm
    total = dot(negative(second), softplus)
    softplus = np.absolute(score, out=first)
    softplus -= score
    softplus += logarithm
    total += dot(positive(second), softplus)
    return total / 2


def binary_cross_entropy(
    score: np.ndarray, label: np.ndarray, weight: Coefficient, scratch: Scratch
) -> float:
    """`cross_entropy` for labels of 0 and 1 alone: the sum of weight * sp(z), z = (1 - 2 t) x.

    Infinite or NaN where e^z overflows, for z above 88.
    """
    first, second, third = (scratch.take(score.shape) for _ in range(3))
    # x - 2 t x: unlike (1 - 2 t) x it makes a NaN of an infinite score, which e^z could hide.
    signed = np.multiply(label, score, out=first)
    signed *= MINUS_TWO
    signed += score
    exponential = np.exp(signed, out=second)
    softplus = logarithm_of_one_plus(exponential, work=first, out=third)
    return dot(weight(first), softplus)


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
    first, second = (scratch.take(score.shape) for _ in range(2))
    np.negative(score, out=out)
    exponential = np.exp(out, out=first)
    # Not in place: a reciprocal is several times slower when its output is its input.
    inverse = np.reciprocal(exponential, out=out)
    exponential += ONE
    inverse += ONE
    down = np.divide(positive(second), inverse, out=second)
    up = np.divide(negative(out), exponential, out=out)
    up -= down


def binary_cross_entropy_gradient(
    score: np.ndarray,
    label: np.ndarray,
    signed_weight: Coefficient,
    out: np.ndarray,
    scratch: Scratch,
) -> None:
    """`cross_entropy_gradient` for labels of 0 and 1 alone: signed weight / (1 + e^-z)."""
    minus_signed = np.multiply(label, TWO, out=out)
    minus_signed -= ONE
    minus_signed *= score
    denominator = np.exp(minus_signed, out=scratch.take(score.shape))
    denominator += ONE
    gradient = signed_weight(out)
    gradient /= denominator
