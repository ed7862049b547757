"""The check of one gradient: analytic against numeric derivatives along many directions."""

from typing import Any, Callable, Dict, Iterable, List, NamedTuple

import numpy as np

from caffe_losses.gradient_check.derivative import derivative, noise_level
from caffe_losses.gradient_check.layer_function import LayerFunction, Variable
from caffe_losses.gradient_check.report import CANNOT_TELL, OK, WRONG

Progress = Callable[[Iterable[Any], str], Iterable[Any]]

RANDOM_GROUPS, UPHILL_GROUPS = 16, 4  # of elements that move together in one direction
EVIDENCE = 500  # elements that a diagnosis looks at
ENOUGH = 0.9  # of the measurements must be clear for a verdict
ROUNDING = 1e-6  # of a float32 gradient, relative to its largest element


class Options(NamedTuple):
    """How to check; the defaults are those of Caffe's GradientChecker."""

    samples: int = 256
    step: float = 1e-2
    threshold: float = 1e-3
    kink: Any = None
    seed: int = 1701
    progress: Progress = lambda measurements, name: measurements


class Measurement(NamedTuple):
    """The derivative along one direction, for a single element in units of that element."""

    elements: np.ndarray  # flat indices of those that the direction moves,
    signs: np.ndarray  # and which way
    analytic: float
    numeric: float
    error: float  # a bound on that of the numeric value
    noise: float  # the part of it that rounding makes
    gap: float  # between the one-sided derivatives
    size: float  # the root of the sum of squares of what adds up to the analytic value

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numeric)


class BlobCheck:
    """The measurements of one bottom or parameter, and the verdict."""

    def __init__(
        self, function: LayerFunction, variable: Variable, analytic: np.ndarray, options: Options
    ) -> None:
        self.function = function
        self.variable = variable
        self.options = options
        self.random = np.random.RandomState(options.seed)
        data = function.origin[variable.name].ravel()
        # Large values take a larger step, as float32 is coarse there.
        self.unit = np.maximum(1.0, np.abs(data))
        self.shape = analytic.shape
        self.analytic = analytic.ravel()
        self.largest = float(np.abs(analytic).max())
        smooth = np.ones(data.size, dtype=bool)
        if options.kink is not None:
            smooth = np.abs(np.abs(data) - options.kink) > options.step
        self.smooth = np.flatnonzero(smooth)
        everywhere = self.unit * self.random.choice([-1.0, 1.0], data.size)
        along_all = function.along(variable, everywhere.reshape(self.shape))
        self.noise = noise_level(along_all, options.step, function.rounding())
        self.elements: List[Measurement] = []
        self.directions: List[List[Measurement]] = []

    def element(self, index: int) -> Measurement:
        return self.measure(np.array([index]), np.ones(1))

    def measure(self, elements: np.ndarray, signs: np.ndarray) -> Measurement:
        """The derivative along the direction that moves these elements by these signs."""
        direction = np.zeros(self.analytic.size)
        direction[elements] = signs * self.unit[elements]
        size = float(np.sqrt(((self.analytic * direction) ** 2).sum()))
        unit = float(self.unit[elements[0]]) if elements.size == 1 else 1.0
        floor = min(1.0, self.largest) * unit if elements.size == 1 else 0.0
        found = derivative(
            self.function.along(self.variable, direction.reshape(self.shape)),
            self.options.step,
            self.noise,
            self.options.threshold * max(size, floor) / 2,
        )
        analytic = float(self.analytic @ direction)
        numbers = (analytic, found.value, found.error, found.noise, found.gap, size)
        return Measurement(elements, signs, *(number / unit for number in numbers))

    def scale(self, measurement: Measurement) -> float:
        """What an error is relative to.

        Caffe's max(|analytic|, |numeric|, 1), except that a blob whose gradient is nowhere as large
        as 1 (a mean over many pixels) is measured by its largest element.
        """
        floor = measurement.size
        if measurement.elements.size == 1:
            floor = min(1.0, self.largest)
        return max(abs(measurement.analytic), abs(measurement.numeric), floor)

    def tolerance(self, measurement: Measurement) -> float:
        return self.options.threshold * self.scale(measurement) + ROUNDING * self.largest

    def is_smooth(self, measurement: Measurement) -> bool:
        """Whether there is no kink to speak of. Several in one direction defy the error bound."""
        return measurement.error <= max(self.tolerance(measurement), 3 * measurement.noise)

    def is_wrong(self, measurement: Measurement) -> bool:
        allowed = self.tolerance(measurement) + measurement.error
        return self.is_smooth(measurement) and measurement.difference > allowed

    def is_clear(self, measurement: Measurement) -> bool:
        """Whether an error as large as the tolerance would have been seen here."""
        tolerance = self.tolerance(measurement)
        # At a kink, any value between the one-sided derivatives is right.
        is_kink = 2 * measurement.noise < measurement.error and measurement.gap < 4 * self.largest
        between = measurement.difference <= measurement.gap / 2 + measurement.noise
        return measurement.error <= tolerance or (is_kink and between)

    def are_clear(self, measurements: List[Measurement]) -> bool:
        clear = [self.is_clear(each) for each in measurements]
        return bool(clear) and float(np.mean(clear)) >= ENOUGH

    def measure_elements(self) -> None:
        chosen = self.sample(self.options.samples)
        for element in self.options.progress(chosen, self.variable.name):
            self.elements.append(self.element(element))
        seen = [abs(each.numeric) - each.error for each in self.elements]
        self.largest = max([self.largest, *seen])

    def sample(self, most: int) -> np.ndarray:
        if self.smooth.size <= most:
            return self.smooth
        return np.sort(self.random.choice(self.smooth, most, replace=False))

    def measure_directions(self) -> None:
        """Directions that together move every element.

        At random, so that no errors cancel; then, where that drowns in noise, uphill, so that
        nothing cancels.
        """
        anywhere = self.random.choice([-1.0, 1.0], self.analytic.size)
        uphill = np.where(self.analytic == 0, anywhere, np.sign(self.analytic))
        for signs, count in (anywhere, RANDOM_GROUPS), (uphill, UPHILL_GROUPS):
            groups = np.array_split(self.random.permutation(self.smooth), count)
            groups = [group for group in groups if group.size > 1]
            measured = self.options.progress(groups, self.variable.name)
            self.directions.append([self.measure(group, signs[group]) for group in measured])
            if self.are_clear(self.directions[-1]) or self.wrong_directions():
                return

    def wrong_directions(self) -> List[Measurement]:
        return [each for found in self.directions for each in found if self.is_wrong(each)]

    def narrow(self, measurement: Measurement) -> Measurement:
        """Halves a wrong direction down to a wrong element, as far as the noise allows it."""
        parts = (np.array_split(each, 2) for each in (measurement.elements, measurement.signs))
        halves = [self.measure(elements, signs) for elements, signs in zip(*parts)]
        wrong = [half for half in halves if self.is_wrong(half)]
        if not wrong:
            return measurement
        worst = max(wrong, key=self.relative_error)
        return worst if worst.elements.size == 1 else self.narrow(worst)

    def verdict(self) -> str:
        """Measures, and says what the measurements mean."""
        self.measure_elements()
        if any(self.is_wrong(each) for each in self.elements):
            return WRONG
        if len(self.elements) == self.smooth.size and self.are_clear(self.elements):
            return OK
        self.measure_directions()
        for direction in self.wrong_directions():
            narrowed = self.narrow(direction)
            # What is an error of the direction is one of its parts as well.
            if narrowed.elements.size <= max(1, direction.elements.size // 4):
                self.elements.append(narrowed)
                return WRONG
        if self.wrong_directions():
            return CANNOT_TELL
        clear = self.are_clear(self.elements) or self.are_clear(self.directions[-1])
        return OK if clear or self.is_zero() else CANNOT_TELL

    def is_zero(self) -> bool:
        """Whether nothing but rounding is there on either side, far below the threshold."""
        return all(
            abs(each.analytic) <= each.noise / 10
            and abs(each.numeric) <= each.error
            and each.error <= self.options.threshold
            for each in self.elements + sum(self.directions, [])
        )

    def relative_error(self, measurement: Measurement) -> float:
        scale = self.scale(measurement)
        return measurement.difference / scale if scale else 0.0

    def decisive(self) -> List[Measurement]:
        """The measurements that the verdict rests on."""
        wrong = [each for each in self.elements if self.is_wrong(each)]
        if wrong or not self.directions or self.are_clear(self.elements):
            return wrong or self.elements
        return self.directions[-1] or self.elements

    def worst(self) -> Dict[str, Any]:
        """The decisive measurement with the largest error, as the fields of a Row."""
        finite = [each for each in self.decisive() if np.isfinite(each.error)]
        if not finite:
            return {}
        smooth = [each for each in finite if self.is_smooth(each)]
        worst = max(smooth or finite, key=self.relative_error)
        where = np.unravel_index(worst.elements[0], self.shape) if worst.elements.size == 1 else ()
        return {
            "error": self.relative_error(worst),
            "where": tuple(int(index) for index in where),
            "analytic": worst.analytic,
            "numeric": worst.numeric,
            "noise": worst.error,
        }

    def evidence(self) -> List[Measurement]:
        """Elements enough for a diagnosis, all of them where they are not too many."""
        known = {int(each.elements[0]): each for each in self.elements if each.elements.size == 1}
        chosen = set(self.sample(EVIDENCE).tolist()) - set(known)
        for element in self.options.progress(sorted(chosen), self.variable.name):
            known[element] = self.element(element)
        return [known[element] for element in sorted(known)]
