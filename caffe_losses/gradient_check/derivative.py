"""The numeric derivative of a noisy function of one variable, with a bound on its error.

The function is what a layer computes in float32 along one direction, f(t) = J(x + t v). A small
step drowns in rounding, a large one in curvature and kinks, and where the best one lies differs
from layer to layer: so it is chosen from the data, among the halves and doubles of the step asked
for.
"""

from typing import Callable, Dict, NamedTuple

import numpy as np

Function = Callable[[float], float]

HALVINGS, DOUBLINGS = 5, 6
STANDARD_DEVIATIONS = 5  # of the noise, within which the value must lie


class Derivative(NamedTuple):
    """A numeric derivative and what is known about its error."""

    value: float
    error: float  # a bound on |value - true derivative|
    noise: float  # the part of it that rounding makes: a larger step lowers it
    gap: float  # between the one-sided derivatives


def noise_level(f: Function, step: float, rounding: float) -> float:
    """The standard deviation of the rounding noise in f near 0.

    Over a thousandth of a step, f is a parabola as far as float32 can tell, and its third
    differences are pure noise, of variance 20 where the noise has variance 1 (Moré and Wild,
    "Estimating computational noise", SIAM J. Sci. Comput. 33(3), 2011). Their median bears with a
    kink among the samples. `rounding` is the distance between neighbouring values of f: where it
    is large, f may not change at all.
    """
    values = [f(step * i / 1000) for i in range(-8, 9)]
    if not np.isfinite(values).all():
        return np.inf
    irregularity = np.median(np.abs(np.diff(values, n=3))) / 0.6745 / np.sqrt(20)
    return float(np.hypot(irregularity, rounding / np.sqrt(12)))


class DifferenceTable:
    """Differences of f over step, 2 step, 4 step, ..., extrapolated to step zero."""

    def __init__(self, f: Function, step: float, noise: float) -> None:
        self.f = f
        self.step = step
        self.noise = noise
        self.center = f(0.0)
        self.sides: Dict[int, np.ndarray] = {}

    def values_beside(self, row: int) -> np.ndarray:
        if row not in self.sides:
            step = self.step * 2.0**row
            self.sides[row] = np.array([self.f(step), self.f(-step)])
        return self.sides[row]

    def central_difference(self, row: int) -> float:
        above, below = self.values_beside(row)
        return (above - below) / (2 * self.step * 2.0**row)

    def one_sided_gap(self, row: int) -> float:
        """The forward minus the backward difference: curvature times step, or a kink."""
        above, below = self.values_beside(row)
        return (above - 2 * self.center + below) / (self.step * 2.0**row)

    def richardson(self, row: int) -> float:
        """The derivative to fourth order."""
        return (4 * self.central_difference(row) - self.central_difference(row + 1)) / 3

    def kink(self, row: int) -> float:
        """The gap that is left once curvature is extrapolated away, to fifth order."""
        gap = [self.one_sided_gap(row + i) for i in range(3)]
        return (8 * (2 * gap[0] - gap[1]) - (2 * gap[1] - gap[2])) / 7

    def derivative(self, row: int) -> Derivative:
        """What three rows from this one on say."""
        value = self.richardson(row)
        noise = STANDARD_DEVIATIONS * self.noise / (self.step * 2.0**row)
        roughness = max(abs(value - self.richardson(row + 1)), abs(self.kink(row)) / 2)
        error = noise + roughness
        gap = abs(self.one_sided_gap(row))
        return Derivative(value, error if np.isfinite(error) else np.inf, noise, gap)


def derivative(f: Function, step: float, noise: float, error: float) -> Derivative:
    """The derivative of f at 0, with the error asked for or the smallest that can be had."""
    table = DifferenceTable(f, step, noise)
    found: Dict[int, Derivative] = {}
    row = 0
    while -HALVINGS <= row <= DOUBLINGS and row not in found:
        with np.errstate(invalid="ignore"):  # infinite values make an infinite error
            found[row] = table.derivative(row)
        if found[row].error <= error:
            return found[row]
        row += 1 if found[row].noise > found[row].error / 2 else -1
    return min(found.values(), key=lambda each: each.error)
