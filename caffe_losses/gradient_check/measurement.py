"""Numeric derivatives of a layer along directions, with bounds on their errors.

The layer computes in float32. A small step drowns in rounding, a large one in curvature and kinks,
and where the best one lies differs from layer to layer: so it is chosen from the data, among the
halves and doubles of the step asked for. Outputs that cross a kink within the step (of ReLU, of
MAX pooling) are left out on both sides: their cotangent is set to zero.
"""

from typing import Callable, Dict, List, NamedTuple, Optional

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
    """The derivative along one direction, for a single element in units of that element."""

    elements: np.ndarray  # flat indices of those that the direction moves,
    signs: np.ndarray  # and which way
    analytic: float
    numeric: float
    error: float  # a bound on that of the numeric value
    noise: float  # the part of it that rounding makes
    reach: float  # how far along the direction no kink or other roughness shows
    size: float  # the root of the sum of squares of what adds up to the analytic value

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numeric)


class Derivative(NamedTuple):
    """The derivative of cotangent times outputs at one step, and what is known about its error."""

    value: float
    error: float
    noise: float
    reach: float
    left_out: np.ndarray  # the outputs that cross a kink


class DifferenceTable:
    """Differences of the outputs over step, 2 step, 4 step, ..., extrapolated to step zero."""

    def __init__(self, outputs: Outputs, step: float) -> None:
        self.outputs = outputs
        self.base = outputs(0.0)
        self.step = step
        self.rows: Dict[int, np.ndarray] = {}

    def row(self, row: int) -> np.ndarray:
        """What a step forward and a step back change."""
        if row not in self.rows:
            step = self.step * 2.0**row
            self.rows[row] = np.array([self.outputs(step), self.outputs(-step)]) - self.base
        return self.rows[row]

    def derivative(
        self, row: int, cotangent: np.ndarray, noise: np.ndarray, depth: int
    ) -> Derivative:
        """What 2 + depth rows from this one on say; `noise` is that of each output."""
        rows = [self.row(row + i) for i in range(2 + depth)]
        moved = outputs_that_move(rows)
        cotangent, noise = cotangent[moved], noise[moved] / (self.step * 2.0**row)
        above, below = np.array([each[:, moved] for each in rows]).swapaxes(0, 1)
        steps = self.step * 2.0 ** np.arange(row, row + 2 + depth).reshape(-1, 1)
        central = (above - below) / (2 * steps)
        richardson = (4 * central[:-1] - central[1:]) / 3  # the derivative to fourth order
        disagreements = richardson[1:] - richardson[0]
        # The forward less the backward difference, and what is left of it once curvature is
        # extrapolated away, to fifth order.
        gaps = (above + below) / steps
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
        error = random + (1 if depth == 1 else SAFETY_FOR_MANY) * rough
        return Derivative(
            value=float(cotangent @ richardson[0]),
            error=float(error) if np.isfinite(error) else np.inf,
            noise=random,
            reach=float(steps[2]) if rough <= VISIBLE * random else 0.0,
            left_out=moved[left_out],
        )


def norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def outputs_that_move(rows: List[np.ndarray]) -> np.ndarray:
    """Which outputs depend on the direction: the others have no noise. Of a few, each may do so
    below its rounding."""
    moved = np.flatnonzero(np.any(rows, axis=(0, 1)))
    size = rows[0].shape[1]
    return moved if moved.size and size > FEW_OUTPUTS else np.arange(size)


def derivative(
    outputs: Outputs,
    cotangent: np.ndarray,
    step: float,
    noise: np.ndarray,
    wanted: float,
    depth: int = 1,
) -> Derivative:
    """The derivative at 0, with the error that is wanted or the smallest that can be had."""
    table = DifferenceTable(outputs, step)
    found: Dict[int, Derivative] = {}
    row = 0
    while -HALVINGS <= row <= DOUBLINGS and row not in found:
        with np.errstate(invalid="ignore"):  # infinite values make an infinite error
            found[row] = table.derivative(row, cotangent, noise, depth)
        if found[row].error <= wanted:
            return found[row]
        row += 1 if found[row].reach else -1
    return min(found.values(), key=lambda each: each.error)


def noise_level(outputs: Outputs, sizes: List[int]) -> np.ndarray:
    """The standard deviation of the rounding noise in each output near 0.

    Over so small a step, an output is a parabola as far as float32 can tell, and its third
    differences are pure noise, of variance 20 where the noise has variance 1 (Moré and Wild,
    "Estimating computational noise", SIAM J. Sci. Comput. 33(3), 2011). Their median bears with a
    kink among the samples. It is one level for each top, of these sizes; and never less than the
    distance of neighbouring float32 numbers leaves, as the outputs may not change at all.
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
        self.function = function
        self.variable = variable
        self.analytic = analytic.ravel()
        self.step = step
        # Large values take a larger step, as float32 is coarse there.
        self.unit = np.maximum(1.0, np.abs(function.origin[variable.name].ravel()))
        self.noise: Optional[np.ndarray] = None

    def measure(
        self, elements: np.ndarray, signs: np.ndarray, wanted: float, depth: int = 1
    ) -> Measurement:
        """The derivative along the direction that moves these elements by these signs, with an
        error of no more than is wanted, where that is possible."""
        if self.noise is None:
            # As all elements move, up and down by turns, all outputs do.
            all_elements = np.arange(self.unit.size)
            all_signs = np.where(all_elements % 2, -1.0, 1.0)
            tops = [top.count for top in self.function.tops]
            self.noise = noise_level(self.along(all_elements, all_signs), tops)
        unit = float(self.unit[elements[0]]) if elements.size == 1 else 1.0
        found = derivative(
            self.along(elements, signs),
            self.function.cotangent,
            self.step,
            self.noise,
            wanted * unit,
            depth,
        )
        parts = self.parts(elements, signs)
        size = norm(parts)
        if found.left_out.size:
            cotangent = self.function.cotangent.copy()
            cotangent[found.left_out] = 0
            gradient = self.function.gradient(self.function.origin, cotangent)[self.variable.name]
            parts = gradient.ravel()[elements] * signs * self.unit[elements]
        numbers = (float(parts.sum()), *found[:4], size)
        return Measurement(elements, signs, *(each / unit for each in numbers))

    def parts(self, elements: np.ndarray, signs: np.ndarray) -> np.ndarray:
        """What adds up to the analytic derivative along the direction."""
        return self.analytic[elements] * signs * self.unit[elements]

    def along(self, elements: np.ndarray, signs: np.ndarray) -> Outputs:
        direction = signs * self.unit[elements]
        origin = self.function.origin
        return lambda t: self.function.outputs(origin, (self.variable, elements, t * direction))
