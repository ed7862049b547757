"""The pointwise losses: the value and the derivative of one element, and nothing else.

x is the prediction or score, t the target or label; a third argument is a parameter of the loss.
The derivative is that of the value with respect to x.
"""

from typing import Tuple

from caffe_losses.elementary import (
    HALF,
    ONE,
    ZERO,
    Number,
    absolute,
    exp,
    exp_of_sum,
    floor,
    log1p,
    maximum,
    minimum,
    where,
)

Pair = Tuple[Number, Number]


def half_squared_error(x: Number, t: Number) -> Pair:
    """(x - t)^2 / 2."""
    d = x - t
    return HALF * d * d, d


def huber(x: Number, t: Number, delta: Number) -> Pair:
    """d^2 / 2 for |d| <= delta, delta (|d| - delta / 2) beyond, where d = x - t."""
    d = x - t
    quadratic = minimum(absolute(d), delta)  # the part of |d| that is squared
    return quadratic * (absolute(d) - HALF * quadratic), maximum(-delta, minimum(d, delta))


def smooth_l1(x: Number, t: Number, scale: Number) -> Pair:
    """The Huber loss of scale (x - t), whose delta is 1.

    For the smooth L1 loss of w d, with sigma, the scale is w sigma^2, and what comes out is
    sigma^2 times that loss.
    """
    d = scale * (x - t)
    quadratic = minimum(absolute(d), ONE)
    value = quadratic * (absolute(d) - HALF * quadratic)
    return value, scale * maximum(-ONE, minimum(d, ONE))


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


def sigmoid_focal(x: Number, t: Number, gamma: Number) -> Pair:
    """-(1 - p)^gamma ln p, where p = 1 / (1 + e^-s) is the probability of the label.

    s is the score x for t > 0 and -x for other labels. Both p and 1 - p come from one exponential
    without a subtraction. (1 - p)^gamma is e^(-gamma sp(s)), where sp(s) = ln(1 + e^s): no power of
    0 occurs, whatever gamma is. The whole part of sp(s) is multiplied alone, for a gamma of few
    digits without rounding: e^z has as many wrong digits as z has before the point.
    """
    s = where(t > ZERO, x, -x)
    e = exp(-absolute(s))
    larger = ONE / (ONE + e)
    smaller = e * larger
    p = where(s > ZERO, larger, smaller)
    rest = where(s > ZERO, smaller, larger)  # 1 - p
    above_zero = maximum(s, ZERO)
    whole = floor(above_zero)
    fraction = above_zero - whole + log1p(e)
    modulation = exp_of_sum(-gamma * whole, -gamma * fraction)
    entropy = above_zero - s + log1p(e)
    slope = modulation * (gamma * p * entropy + rest)
    return modulation * entropy, where(t > ZERO, -slope, slope)
