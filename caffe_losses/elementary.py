"""The functions of one element that formulas are made of.

Here they are NumPy's, for arrays; `loops/numba_engine.py` gives Numba its own for single numbers,
so that a formula that calls them runs on both. Constants are float32: a number of Python's would
make compiled code compute in float64.
"""

from typing import Any

import numpy as np

# A float32 where Numba runs a formula, an array where NumPy does.
Number = Any

ZERO = np.float32(0)
HALF = np.float32(0.5)
ONE = np.float32(1)
TWO = np.float32(2)


def exp(z: Number) -> Number:
    """e^z for z <= 0."""
    return np.exp(z)


def exp_of_sum(z: Number, tail: Number) -> Number:
    """e^(z + tail) for z and tail <= 0, with the digits of the tail that z + tail would lose."""
    return np.exp(z) * np.exp(tail)


def log1p(e: Number) -> Number:
    """ln(1 + e) for e from 0 to 1, right to its last digits also where 1 + e rounds to 1."""
    # NumPy's log1p is not vectorised, its log is: ln(1 + y) / y hardly changes with y, so it may be
    # taken at a y near e for which 1 + y is a float32. A little more than 1, so that y is not 0.
    rounded = e + np.nextafter(ONE, TWO, dtype=e.dtype)
    return np.log(rounded) / (rounded - ONE) * e


def log(z: Number) -> Number:
    """ln z for z >= 1."""
    return np.log(z)


def power(base: Number, exponent: Number) -> Number:
    """base^exponent for a base from 0 to 1 and an exponent from 0 to 100; 0^0 is 1."""
    return np.power(base, exponent)


def square(z: Number) -> Number:
    """z^2 for z from 0 to 1."""
    return z * z


def floor(z: Number) -> Number:
    """The next whole number that is not above z."""
    return np.floor(z)


def where(condition: Number, first: Number, second: Number) -> Number:
    """The first number where the condition holds, the second elsewhere; both are computed."""
    # NumPy's where jumps at each element, and takes four times as long as this where half of the
    # jumps are mispredicted.
    dtype = np.result_type(first, second)
    bits = {4: np.int32, 8: np.int64}[dtype.itemsize]
    ones = np.negative(condition.view(np.int8)).astype(bits)
    first, second = (np.asarray(number, dtype).view(bits) for number in (first, second))
    return (second ^ ((first ^ second) & ones)).view(dtype)


def absolute(z: Number) -> Number:
    """|z|."""
    return np.absolute(z)


def maximum(first: Number, second: Number) -> Number:
    """The larger of two numbers."""
    return np.maximum(first, second)


def minimum(first: Number, second: Number) -> Number:
    """The smaller of two numbers."""
    return np.minimum(first, second)
