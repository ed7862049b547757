"""The losses of one element or of one position: value and derivative, and nothing else.

Pointwise losses: x is the prediction or score, t the target or label; a third argument is a
parameter of the loss. The derivative is that of the value with respect to x.

Losses of a softmax: x are the scores of a position, one for each class, m is the largest of them
and x_y that of the label's class y. `own` is e^(x_y - m), `others` the sum of e^(x_c - m) over the
other classes, so that p = own / (own + others) is the softmax of class y, and `margin` is x_y - m.
They return the value, the derivative with respect to x_c divided by e^(x_c - m), the same for all
c that are not y, and the derivative with respect to x_y.

The overlap losses are made of sums of `overlap` or `squared_overlap`, in which p is the probability
of the class, q that of all others, and g the label.
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
    log,
    log1p,
    maximum,
    minimum,
    power,
    square,
    where,
)

Pair = Tuple[Number, Number]
Triple = Tuple[Number, Number, Number]


def half_squared_error(x: Number, t: Number) -> Pair:
    """(x - t)^2 / 2."""
    d = x - t
    return HALF * d * d, d


def unit(x: Number, t: Number) -> Pair:
    """1 for every element: the weighted sum of it is that of the weights."""
    return ONE, ZERO


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


def numerators_of_sigmoids(x: Number, e: Number) -> Pair:
    """1 / (1 + e^-x) and 1 / (1 + e^x), times 1 + e, where e = e^-|x|.

    Neither is a difference, so that each is right to its last digits however small it is.
    """
    return where(x > ZERO, ONE, e), where(x > ZERO, e, ONE)


def both_sigmoids(x: Number, e: Number) -> Pair:
    """1 / (1 + e^-x) and 1 / (1 + e^x), where e = e^-|x|."""
    inverse = ONE / (ONE + e)
    of_x, of_minus_x = numerators_of_sigmoids(x, e)
    return of_x * inverse, of_minus_x * inverse


def sigmoid_cross_entropy(x: Number, t: Number, positive_weight: Number) -> Pair:
    """w t sp(-x) + (1 - t) sp(x), where sp(z) = ln(1 + e^z) and w is the positive weight.

    sp(z) = max(z, 0) + ln(1 + e^-|z|) never overflows.
    """
    e = exp(-absolute(x))
    of_x, of_minus_x = numerators_of_sigmoids(x, e)
    above_zero, logarithm = maximum(x, ZERO), log1p(e)
    softplus = above_zero + logarithm
    softplus_of_minus_x = above_zero - x + logarithm
    positive, negative = positive_weight * t, ONE - t
    value = positive * softplus_of_minus_x + negative * softplus
    return value, (negative * of_x - positive * of_minus_x) / (ONE + e)


def sigmoid_focal(x: Number, t: Number, gamma: Number) -> Pair:
    """-(1 - p)^gamma ln p, where p = 1 / (1 + e^-s) is the probability of the label.

    s is the score x for t > 0 and -x for other labels. (1 - p)^gamma is e^(-gamma sp(s)), where
    sp(s) = ln(1 + e^s): no power of 0 occurs, whatever gamma is. The whole part of sp(s) is
    multiplied alone, for a gamma of few digits without rounding: e^z has as many wrong digits as z
    has before the point.
    """
    s = where(t > ZERO, x, -x)
    e = exp(-absolute(s))
    above_zero, logarithm = maximum(s, ZERO), log1p(e)
    whole = floor(above_zero)
    fraction = above_zero - whole + logarithm
    modulation = exp_of_sum(-gamma * whole, -gamma * fraction)
    p, rest = both_sigmoids(s, e)
    return modulated(modulation, p, rest, above_zero - s + logarithm, t, gamma)


def sigmoid_focal_squared(x: Number, t: Number, gamma: Number) -> Pair:
    """The same for a gamma of 2: its power is a product, and takes no second exponential."""
    s = where(t > ZERO, x, -x)
    e = exp(-absolute(s))
    p, rest = both_sigmoids(s, e)
    return modulated(square(rest), p, rest, maximum(s, ZERO) - s + log1p(e), t, gamma)


def modulated(
    modulation: Number, p: Number, rest: Number, entropy: Number, t: Number, gamma: Number
) -> Pair:
    """The entropy -ln p times (1 - p)^gamma, and its derivative with respect to the score.

    `modulation` is (1 - p)^gamma and `rest` is 1 - p. The score is s for t > 0 and -s otherwise.
    """
    slope = modulation * (gamma * p * entropy + rest)
    return modulation * entropy, where(t > ZERO, -slope, slope)


def exponential_of_difference(x: Number, m: Number) -> Number:
    """e^(x - m) for x <= m, right to its last digits also where x - m has to be rounded.

    It is not finite where x is not, nor where x - m overflows.
    """
    d = x - m
    minus_m = d - x
    lost = (x - (d - minus_m)) - (m + minus_m)
    e = exp(d)
    return e + e * lost


def log_of_sum(own: Number, others: Number) -> Number:
    """ln(own + others), without loss of digits where `others` is small.

    One of e^(x_c - m) is 1, so that the larger of the two is at least 1; if it is `own`, it is 1.
    """
    larger = maximum(own, others)
    return log(larger) + log1p(minimum(own, others) / larger)


def softmax_cross_entropy(own: Number, others: Number, margin: Number, gamma: Number) -> Triple:
    """-ln p."""
    total = own + others
    return log_of_sum(own, others) - margin, ONE / total, -others / total


def softmax_focal(own: Number, others: Number, margin: Number, gamma: Number) -> Triple:
    """(1 - p)^gamma (-ln p).

    The derivative with respect to x_y is -(1 - p)^gamma [(1 - p) - gamma p ln p]. The other classes
    share the opposite of it in proportion to e^(x_c - m): the quotient by `others` is taken before
    the sum, where it exists also if nothing is left of `others`.
    """
    total = own + others
    p = own / total
    entropy = log_of_sum(own, others) - margin
    factor = power(others / total, gamma)
    quotient = where(others == ZERO, ONE, entropy / others)
    shared = factor * (ONE / total + gamma * p * quotient)
    return factor * entropy, shared, -others * shared


def smoothing_derivative(e: Number, rest: Number, weight: Number, others: Number) -> Number:
    """The derivative of sum_k s_k (-ln p_k) with respect to x_c, times the sum of exponentials.

    e is e^(x_c - m) and rest the sum of the others, weight is s_c and others the sum of the other
    s_k. Nothing cancels where p_c is nearly 1, as it does in p_c sum_k s_k - s_c.
    """
    return others * e - weight * rest


def identity(x: Number) -> Pair:
    """A prediction that is a probability as it is, and what it lacks of 1."""
    return x, ONE - x


def slope_of_identity(p: Number, q: Number) -> Number:
    """The derivative of a probability with respect to itself."""
    return ONE


def sigmoid(x: Number) -> Pair:
    """1 / (1 + e^-x) and 1 / (1 + e^x)."""
    return both_sigmoids(x, exp(-absolute(x)))


def slope_of_sigmoid(p: Number, q: Number) -> Number:
    """The derivative of the sigmoid with respect to the score."""
    return p * q


def overlap(p: Number, q: Number, g: Number) -> Tuple[Number, Number, Number]:
    """What an element adds to true positives, false positives and false negatives."""
    return p * g, p * (ONE - g), q * g


def squared_overlap(p: Number, q: Number, g: Number) -> Tuple[Number, Number, Number]:
    """What an element adds to true positives, and (p - g)^2 as false ones of both kinds."""
    d = p * (ONE - g) - q * g
    return p * g, (ONE - g) * d * d, g * d * d


def overlap_derivative(
    p: Number, q: Number, g: Number, n: Number, n_p: Number, m: Number, m_q: Number
) -> Number:
    """n + n_p p where the label is 0, m + m_q q where it is 1, and in between where it is."""
    return (ONE - g) * (n + n_p * p) + g * (m + m_q * q)
