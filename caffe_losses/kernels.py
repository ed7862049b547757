"""The arithmetic of the losses on one block, with no temporaries.

Each loss has a kernel for its value and one for its gradient. What differs between layers that
share a kernel is the weight that each element gets; `weights.py` makes those.

A line `np.operation(..., out=buffer)` carries its mathematical meaning as a comment where the
expression alone would not show it.
"""

import numpy as np

from caffe_losses.blocks import Scratch, dot

ONE = np.float32(1)
# exp(87.33) is still finite, and 1 / (1 + exp(87.33)) the smallest sigmoid that is not denormal.
LARGEST_EXPONENT = np.float32(87.33)


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
    score: np.ndarray, negative: np.ndarray, positive: np.ndarray, scratch: Scratch
) -> float:
    """Sum of negative * sp(score) + positive * sp(-score), where sp(z) = ln(1 + e^z).

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows, and none of its terms is negative, so that
    nothing cancels.
    """
    magnitude = np.absolute(score, out=scratch.take(score.shape))
    work = np.negative(magnitude, out=scratch.take(score.shape))
    exponential = np.exp(work, out=scratch.take(score.shape))
    shifted = np.add(exponential, ONE, out=work)
    logarithm = np.log(shifted, out=scratch.take(score.shape))
    # ln(1 + e) from ln(u), u = 1 + e rounded: what the rounding lost, e - (u - 1), is added back.
    # Without it every e below 6e-8 would count as nothing.
    shifted -= ONE
    exponential -= shifted
    logarithm += exponential

    weight = np.add(negative, positive, out=work)
    total = dot(weight, logarithm)
    twice_rectified = np.add(magnitude, score, out=work)  # 2 max(score, 0)
    rectified = dot(negative, twice_rectified)
    twice_rectified = np.subtract(magnitude, score, out=work)  # 2 max(-score, 0)
    rectified += dot(positive, twice_rectified)
    return total + rectified / 2


def cross_entropy_gradient(
    score: np.ndarray,
    negative: np.ndarray,
    positive: np.ndarray,
    scale: float,
    out: np.ndarray,
    scratch: Scratch,
) -> None:
    """scale * (negative * sigmoid(score) - positive * sigmoid(-score)).

    Both sigmoids come from one exponential without a subtraction, so that each is right to its last
    digits however small it is.
    """
    exponent = np.negative(score, out=scratch.take(score.shape))
    np.minimum(exponent, LARGEST_EXPONENT, out=exponent)
    exponential = np.exp(exponent, out=scratch.take(score.shape))
    denominator = np.add(exponential, ONE, out=exponent)
    sigmoid = np.reciprocal(denominator, out=denominator)
    exponential *= sigmoid  # sigmoid(-score)
    sigmoid *= negative
    exponential *= positive
    sigmoid -= exponential
    np.multiply(sigmoid, np.float32(scale), out=out)
