"""The pointwise losses: the value and the derivative of one element, and nothing else.

x is the prediction or score, t the target or label; a third argument is a parameter of the loss.
The derivative is that of the value with respect to x.

The overlap losses are made of sums of `overlap` or `squared_overlap`, in which p is the probability
of the class, q that of all others, and g the label.
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


def identity(x: Number) -> Pair:
    """A prediction that is a probability as it is, and what it lacks of 1."""
    return x, ONE - x


def slope_of_identity(p: Number, q: Number) -> Number:
    """The derivative of a probability with respect to itself."""
    return ONE


def sigmoid(x: Number) -> Pair:
    """1 / (1 + e^-x) and 1 / (1 + e^x), neither as a difference of numbers that are nearly equal."""
    e = exp(-absolute(x))
    larger = ONE / (ONE + e)
    smaller = e * larger
    return where(x > ZERO, larger, smaller), where(x > ZERO, smaller, larger)


def slope_of_sigmoid(p: Number, q: Number) -> Number:
    """The derivative of the sigmoid with respect to the score."""
    return p * q


def overlap(p: Number, q: Number, g: Number) -> Tuple[Number, Number, Number]:
    """What an element adds to true positives, false positives and false negatives."""
    return p * g, p * (ONE - g), q * g


def squared_overlap(p: Number, q: Number, g: Number) -> Tuple[Number, Number, Number]:
    """What an element adds to true positives, and (p - g)^2 as false positive and false negative."""
    d = p * (ONE - g) - q * g
    return p * g, (ONE - g) * d * d, g * d * d


def overlap_derivative(
    p: Number, q: Number, g: Number, n: Number, n_p: Number, m: Number, m_q: Number
) -> Number:
    """n + n_p p where the label is 0, m + m_q q where it is 1, and in between where it is."""
    return (ONE - g) * (n + n_p * p) + g * (m + m_q * q)
