"""Numeric derivatives of a layer along directions, with bounds on their errors.

The layer computes in float32. A small step drowns in rounding, a large one in curvature and kinks,
and where the best one lies differs from layer to layer: so it is chosen from the data, among the
halves and doubles of the step asked for. Outputs that cross a kink within the step (of ReLU, of
MAX pooling) are left out on both sides: their cotangent is set to zero.
"""

import functools
from typing import Callable, Dict, List, NamedTuple

import numpy as np

from caffe_losses.gradient_check.layer_function import LayerFunction, Variable

Outputs = Callable[[float], np.ndarray]

HALVINGS, DOUBLINGS = 5, 6  # of the step; beyond, float32 inputs or the layer's nature change
STANDARD_DEVIATIONS = 5  # of the noise, within which the value must lie
NOISE_STEP = 1e-5  # over a few of which a function is as good as a parabola
# A few outputs need many samples for a level of noise; many outputs are samples themselves.
FEW_OUTPUTS, SAMPLES_OF_FEW, SAMPLES_OF_MANY = 100, 8, 3
# The roughness of an output that only noise makes stays below this many standard deviations of its
# difference quotient, also where there are a million outputs; what is above is a kink.
KINK = 30
LEAST_KEPT = 0.1  # of the outputs that a direction changes, where those with kinks are left out
VISIBLE = 2  # times the bound on noise; less roughness than that is noise itself
# A direction through many elements can cross many kinks of one output, whose errors cancel in the
# differences that bound them: so there must be more of these, and they count more.
DEPTH_FOR_MANY, SAFETY_FOR_MANY = 2, 3


class Measurement(NamedTuple):
    """The derivative along one direction; for a single element, by that element."""

    elements: np.ndarray  # flat indices of those that the direction moves,
    rates: np.ndarray  # and how fast, each its way; a single one, by itself
    size: float  # the root of the sum of squares of what adds up to the analytic value
    analytic: float
    numeric: float = 0.0
    error: float = np.inf  # a bound on that of the numeric value
    reach: float = 0.0  # how far along the direction no kink shows; the error is noise's, if any

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numeric)


class Derivative(NamedTuple):
    """The derivative of cotangent times outputs at one step, and what is known about its error."""

    value: float
    error: float
    reach: float
    left_out: np.ndarray  # the outputs that cross a kink


def derivative(
    outputs: Outputs,
    cotangent: np.ndarray,
    step: float,
    noise: np.ndarray,
    wanted: float,
    depth: int = 1,
) -> Derivative:
    """The derivative at 0, with the error that is wanted or the smallest that can be had.

    cotangent and noise have one number for each output.
    """
    base = outputs(0.0)

    @functools.lru_cache(maxsize=None)
    def changes(step: float) -> np.ndarray:
        """What a step forward and a step back change."""
        return np.array([outputs(step), outputs(-step)]) - base

    found: Dict[int, Derivative] = {}
    doublings = 0
    while -HALVINGS <= doublings <= DOUBLINGS and doublings not in found:
        steps = step * 2.0 ** np.arange(doublings, doublings + 2 + depth)
        rows = np.array([changes(each) for each in steps])
        with np.errstate(invalid="ignore"):  # infinite values make an infinite error
            found[doublings] = extrapolated(steps, rows, cotangent, noise)
        if found[doublings].error <= wanted:
            return found[doublings]
        doublings += 1 if found[doublings].reach else -1
    return min(found.values(), key=lambda each: each.error)


def extrapolated(
    steps: np.ndarray, changes: np.ndarray, cotangent: np.ndarray, noise: np.ndarray
) -> Derivative:
    """What the changes over these steps, each twice the one before, say of the derivative.

    changes (steps, 2, outputs) are those of a step forward and a step back; cotangent and noise
    have one number for each output.
    """
    # Outputs that do not depend on the direction have no noise. A few may do so below rounding.
    moved = np.flatnonzero(np.any(changes, axis=(0, 1)))
    if not moved.size or cotangent.size <= FEW_OUTPUTS:
        moved = np.arange(cotangent.size)
    cotangent, noise = cotangent[moved], noise[moved] / steps[0]
    above, below = changes[:, :, moved].swapaxes(0, 1)
    spans = 2 * steps[:, np.newaxis]
    central = (above - below) / spans
    richardson = (4 * central[:-1] - central[1:]) / 3  # the derivative to fourth order
    disagreements = richardson[1:] - richardson[0]
    # The forward less the backward difference, and what is left of it once curvature is
    # extrapolated away, to fifth order.
    gaps = 2 * (above + below) / spans
    straight = 2 * gaps[:-1] - gaps[1:]
    kinks = (8 * straight[:-1] - straight[1:]) / 14
    # For one kink anywhere within the steps, the sum of the two bounds the error.
    roughness = np.abs(disagreements).max(axis=0) + np.abs(kinks).max(axis=0)
    left_out = roughness > KINK * noise
    weights = cotangent**2 * np.any([above, below], axis=(0, 1))
    if weights[~left_out].sum() < LEAST_KEPT * weights.sum():
        left_out[:] = False
    cotangent = np.where(left_out, 0.0, cotangent)
    random = STANDARD_DEVIATIONS * norm(cotangent * noise)
    rough = max(
        np.abs(disagreements @ cotangent).max() + np.abs(kinks @ cotangent).max(),
        norm(cotangent * roughness),
    )
    error = random + (1 if len(steps) == 3 else SAFETY_FOR_MANY) * rough
    return Derivative(
        value=float(cotangent @ richardson[0]),
        error=float(error) if np.isfinite(error) else np.inf,
        reach=float(steps[2]) if rough <= VISIBLE * random else 0.0,
        left_out=moved[left_out],
    )


def norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def noise_level(outputs: Outputs, sizes: List[int]) -> np.ndarray:
    """The standard deviation of the rounding noise in each output near 0.

    Over so small a step, an output is a parabola as far as float32 can tell, and its third
    differences are pure noise, of variance 20 where the noise has variance 1 (Moré and Wild,
    "Estimating computational noise", SIAM J. Sci. Comput. 33(3), 2011). Their median, of 0.6745
    standard deviations, bears with a kink among the samples. There is one level for each top, and
    none below what the distance of neighbouring float32 numbers leaves.
    """
    most = SAMPLES_OF_FEW if sum(sizes) <= FEW_OUTPUTS else SAMPLES_OF_MANY
    samples = np.array([outputs(NOISE_STEP * i) for i in range(-most, most + 1)])
    levels = []
    for top in np.split(samples, np.cumsum(sizes)[:-1], axis=1):
        with np.errstate(invalid="ignore"):  # infinite values make infinite noise
            irregularity = np.sqrt((np.diff(top, n=3, axis=0) ** 2).mean(axis=1))
            spacing = np.spacing(np.float32(np.sqrt((top[most] ** 2).mean())))
        level = np.median(irregularity) / 0.6745 / np.sqrt(20)
        levels.append(np.hypot(level, spacing / np.sqrt(12)))
    return np.repeat([level if np.isfinite(level) else np.inf for level in levels], sizes)


class Measurer:
    """Measures analytic and numeric derivatives of a layer by one of its variables."""

    def __init__(
        self, function: LayerFunction, variable: Variable, analytic: np.ndarray, step: float
    ) -> None:
        self.function, self.variable, self.step = function, variable, step
        self.analytic = analytic.ravel()
        self.base = function.outputs(function.origin)
        # Large values take a larger step, as float32 is coarse there.
        self.unit = np.maximum(1.0, np.abs(function.origin[variable.name].ravel()))
        # As all elements move, up and down by turns, all outputs do.
        everything = np.arange(self.unit.size)
        along = self.along(everything, np.where(everything % 2, -self.unit, self.unit))
        self.noise = noise_level(along, [top.count for top in function.tops])

    def measure(
        self,
        elements: np.ndarray,
        signs: np.ndarray,
        tolerance: Callable[[Measurement], float],
        depth: int,
    ) -> Measurement:
        """The derivative where these elements move by these signs, with an error small enough to
        judge by this tolerance where that can be. Many move each by its unit, for all to count."""
        is_one, cotangent = elements.size == 1, self.function.cotangent
        rates = np.ones(1) if is_one else signs * self.unit[elements]
        parts = self.analytic[elements] * rates
        asked = Measurement(elements, rates, norm(parts), float(parts.sum()))
        step = self.step * (self.unit[elements[0]] if is_one else 1)
        depth = depth or (1 if is_one else DEPTH_FOR_MANY)
        along = self.along(elements, rates)
        found = derivative(along, cotangent, step, self.noise, tolerance(asked) / 2, depth)
        if found.left_out.size:
            kept = cotangent.copy()
            kept[found.left_out] = 0
            gradient = self.function.gradient(self.function.origin, kept)[self.variable.name]
            asked = asked._replace(analytic=float((gradient.ravel()[elements] * rates).sum()))
        return Measurement(*asked[:4], *found[:3])

    def along(self, elements: np.ndarray, rates: np.ndarray) -> Outputs:
        def outputs(t: float) -> np.ndarray:
            change = self.variable, elements, t * rates
            return self.function.outputs(self.function.origin, change) if t else self.base

        return outputs
