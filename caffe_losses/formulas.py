"""The pointwise losses: the value and the derivative of one element, and nothing else.

x is the prediction or score, t the target or label; a third argument is a parameter of the loss.
The derivative is that of the value with respect to x.
"""

from typing import Tuple

from caffe_losses.elementary import HALF, ONE, ZERO, Number, absolute, exp, log1p, maximum, where

Pair = Tuple[Number, Number]


def half_squared_error(x: Number, t: Number) -> Pair:
    """(x - t)^2 / 2."""
    d = x - t
    return HALF * d * d, d


def sigmoid_cross_entropy(x: Number, t: Number, positive_weight: Number) -> Pair:
    """w t sp(-x) + (1 - t) sp(x), where sp(z) = ln(1 + e^z) and w is the positive weight.

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows. Both sigmoids come from the same exponential
    without a subtraction, so that each is right to its last digits however small it is.
    """
    e = exp(-absolute(x))
    larger = ONE / (ONE + e)
    smaller = e * larger
    sigmoid = where(x > ZERO, larger, smaller)
    sigmoid_of_minus_x = where(x > ZERO, smaller, larger)
    above_zero = maximum(x, ZERO)
    softplus = above_zero + log1p(e)
    softplus_of_minus_x = above_zero - x + log1p(e)
    positive, negative = positive_weight * t, ONE - t
    value = positive * softplus_of_minus_x + negative * softplus
    return value, negative * sigmoid - positive * sigmoid_of_minus_x
