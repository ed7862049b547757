"""The verdict on the gradient of one bottom or parameter: what is measured, and what that says."""

from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.build_net import SEED
from caffe_losses.gradient_check.layer_function import Arrays, LayerFunction, Variable
from caffe_losses.gradient_check.measurement import Measurement, Measurer
from caffe_losses.gradient_check.report import CANNOT_TELL, OK, WRONG

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
Groupings = Dict[str, Dict[float, np.ndarray]]  # "in channel": the elements in 0, in 1, ...

# Without --samples, as many elements and directions as make about this many values: half a second
# for a large blob, every element of a small one.
EFFORT = 2.5e6
MOST_SAMPLES, LEAST_SAMPLES = 256, 4
MOST_GROUPS, LEAST_GROUPS = 16, 3
ENOUGH = 0.9  # of the measurements that no kink spoils must be clear for a verdict
ENOUGH_AWAY_FROM_KINKS = 0.1  # of all measurements
# A backward in float32 may err by this share of the largest element in each element, and by some
# more where there is only one.
ROUNDING, ROUNDING_OF_ONE = 1.2e-7, 1e-6
# A channel or class is weak whose gradient is smaller than this share of the largest, and wrong by
# its own scale where it errs by this share of itself: far above what a backward loses by rounding
# to the scale of the largest.
WEAK, WRONG_BY_GROUP = 1e-2, 1e-2
MOST_VALUES = 32  # of a label or mask that makes groups
NARROWED = 4  # times as few elements must be wrong by themselves for a wrong direction to count

LARGEST_SEED = 2**32 - 1  # that NumPy and Caffe take

# Why there is no verdict, and what to do.
KINKS = (
    "cannot tell: too many kinks lie within a step; leave out what is near them (--kink 0, if they "
    "are at 0 in this blob), or check the others alone (--only)"
)
NOISE = "cannot tell: float32 rounding hides the gradient; check a smaller blob, or smaller values"
EXCLUDED = "cannot tell: every element is within a step of the kink and so left out"


class Options(NamedTuple):
    """How to check; step and threshold are those of Caffe's GradientChecker."""

    samples: Optional[int] = None
    step: float = 1e-2
    threshold: float = 1e-3
    kink: Optional[float] = None
    seed: int = SEED
    progress: Progress = lambda measurements, name: measurements

    def require_sensible(self) -> None:
        for name in "samples", "step", "threshold":
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive; it is {value}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed must be from 0 to {LARGEST_SEED}; it is {self.seed}")


class Judge:
    """Measures one gradient until there is a verdict on it."""

    def __init__(
        self, function: LayerFunction, variable: Variable, gradient: np.ndarray, options: Options
    ) -> None:
        self.function, self.variable, self.options = function, variable, options
        self.gradient = gradient
        self.random = np.random.RandomState(options.seed)
        self.measurer = Measurer(function, variable, gradient, options.step)
        self.elements: Dict[int, Measurement] = {}  # measured one by one,
        self.directions: List[Measurement] = []  # and together
        self.largest = self.largest_of(np.arange(gradient.size))
        self.masks = {each: function.origin[each] for each in function.labels - {variable.name}}
        self.groupings = {} if variable.is_parameter else groupings_of(gradient, self.masks)
        self.groups = [each for groups in self.groupings.values() for each in groups.values()]
        # The scale of each element by the weakest group that it is in: the threshold of it is
        # WRONG_BY_GROUP of what is largest there.
        self.weakest = np.full(gradient.size, np.inf)
        for group in self.groups:
            scale = max(WRONG_BY_GROUP / options.threshold, 1) * self.largest_of(group)
            self.weakest[group] = np.minimum(self.weakest[group], scale)
        affordable = EFFORT / function.work
        self.samples = options.samples or int(np.clip(affordable, LEAST_SAMPLES, MOST_SAMPLES))
        self.group_count = int(np.clip(affordable / 4, LEAST_GROUPS, MOST_GROUPS))
        self.candidates = np.arange(gradient.size)
        # A kink is at a value of the bottoms; what a parameter holds is not about it.
        if options.kink is not None and not variable.is_parameter:
            distance = np.abs(np.abs(function.origin[variable.name].ravel()) - options.kink)
            self.candidates = np.flatnonzero(distance > options.step)

    def largest_of(self, elements: np.ndarray) -> float:
        return float(np.abs(self.gradient.ravel()[elements]).max())

    # What a measurement says.

    def scale(self, measurement: Measurement, by_group: bool = False) -> float:
        """What an error is relative to: Caffe's max(|analytic|, |numeric|, 1), except that a blob
        or group whose gradient is nowhere as large as 1 is measured by its largest element."""
        floor = measurement.size
        if measurement.elements.size == 1:
            weakest = self.weakest[measurement.elements[0]] if by_group else np.inf
            floor = min(1.0, self.largest, weakest)
        return max(abs(measurement.analytic), abs(measurement.numeric), floor)

    def relative_error(self, measurement: Measurement) -> float:
        return measurement.difference / (self.scale(measurement) or 1)

    def tolerance(self, measurement: Measurement, by_group: bool = False) -> float:
        """The error that a right backward may have: the threshold, and rounding."""
        moved = float(self.measurer.unit[measurement.elements].sum())
        rounding = ROUNDING_OF_ONE if measurement.elements.size == 1 else ROUNDING * moved
        return self.options.threshold * self.scale(measurement, by_group) + rounding * self.largest

    def is_wrong(self, measurement: Measurement) -> bool:
        """By the scale of the blob, or that of the weakest channel, class or image around it."""
        tolerance = self.tolerance(measurement, by_group=True)
        # Next to a kink, the bound on the error is not one to accuse by.
        is_smooth = measurement.reach > 0 or measurement.error <= tolerance
        return is_smooth and measurement.difference > tolerance + measurement.error

    def unclear(self, measurements: List[Measurement]) -> List[Measurement]:
        """Those where an error as large as the tolerance would not have been seen."""
        return [each for each in measurements if each.error > self.tolerance(each)]

    def is_enough(self, measurements: List[Measurement]) -> bool:
        """Whether a gradient is right that none of these says is wrong."""
        count, unclear = len(measurements), self.unclear(measurements)
        away_from_kinks = count - sum(not each.reach for each in unclear)
        needed = max(1, ENOUGH * away_from_kinks, ENOUGH_AWAY_FROM_KINKS * count)
        return count - len(unclear) >= needed

    # From single elements to the whole blob, until there is a verdict.

    def verdict(self) -> Tuple[str, List[Measurement], List[str]]:
        """The verdict, the measurements that it rests on, and what stands in the way of another."""
        if not self.candidates.size:
            return CANNOT_TELL, [], [EXCLUDED]
        elements = self.measure_sample(self.samples)
        seen = [abs(each.numeric) - each.error for each in elements]
        self.largest = max([self.largest, *seen]) or 1.0  # Caffe's, if there is no gradient at all
        wrong = self.wrong_of(elements + self.measure(self.weak_groups()))
        if wrong:
            return WRONG, wrong, []
        is_enough = self.is_enough(elements)
        is_all = is_enough and len(elements) == self.candidates.size
        for measured in [] if is_all else self.measure_directions(elements):
            suspects = self.wrong_of(measured)
            wrong = [each for each in map(self.narrow, suspects) if each]
            if suspects:
                return (WRONG, wrong, []) if wrong else (CANNOT_TELL, suspects, [KINKS])
            if self.is_enough(measured):
                return OK, elements if is_enough else measured, []
        if is_enough:
            return OK, elements, []
        unclear = self.unclear(elements + self.directions)
        is_kinked = sum(not each.reach for each in unclear) > len(unclear) / 2
        return CANNOT_TELL, unclear, [KINKS if is_kinked else NOISE]

    def wrong_of(self, measurements: List[Measurement]) -> List[Measurement]:
        return [each for each in measurements if self.is_wrong(each)]

    def measure_sample(self, most: int) -> List[Measurement]:
        """Measures elements at random, one by one, if they are not yet."""
        sample = {*self.random.permutation(self.candidates)[:most]} - {*self.elements}
        return self.measure([np.array([element]) for element in sorted(sample)])

    def measure(
        self, groups: List[np.ndarray], signs: Optional[np.ndarray] = None, depth: int = 0
    ) -> List[Measurement]:
        """Measures each group, its elements moving by their signs or all up."""
        signs = np.ones(self.gradient.size) if signs is None else signs
        measured = []
        for group in self.options.progress(groups, self.variable.name):
            found = self.measurer.measure(group, signs[group], self.tolerance, depth)
            measured.append(found)
            if group.size == 1:
                self.elements[int(group[0])] = found
            else:
                self.directions.append(found)
        return measured

    def weak_groups(self) -> List[np.ndarray]:
        """Each channel or class that is small against the largest, with all its elements at once:
        what is missing there may be too small to be seen in single elements."""
        weak = [group for group in self.groups if self.largest_of(group) < WEAK * self.largest]
        groups = [np.intersect1d(group, self.candidates) for group in weak]
        return [group for group in groups if group.size][: self.group_count]

    def measure_directions(self, elements: List[Measurement]) -> Iterator[List[Measurement]]:
        """Many elements at once, in one way after the other.

        In groups at random, so that no errors cancel; then, where that drowns in noise, all of them
        uphill, so that nothing cancels; then those alone that are farthest from their kinks.
        """
        anywhere = self.random.choice([-1.0, 1.0], self.gradient.size)
        groups = np.array_split(self.random.permutation(self.candidates), self.group_count)
        yield self.measure([group for group in groups if group.size], anywhere)
        gradient = self.gradient.ravel()
        uphill = np.where(gradient == 0, anywhere, np.sign(gradient))
        yield self.measure([self.candidates], uphill)
        numbers = np.array([each.elements[0] for each in elements])
        reach = np.array([each.reach for each in elements]) / self.measurer.unit[numbers]
        if np.median(reach) > 0:
            yield self.measure([numbers[reach >= np.median(reach)]], uphill, depth=1)

    def narrow(self, direction: Measurement) -> Optional[Measurement]:
        """Halves a wrong direction down to a wrong element, as far as the noise allows it.

        What is an error of the direction is one of its parts as well.
        """
        signs = np.zeros(self.gradient.size)
        signs[direction.elements] = np.sign(direction.rates)
        narrowest, wrong = direction, [direction]
        while wrong:
            narrowest = max(wrong, key=self.relative_error)
            halves = np.array_split(narrowest.elements, 2) if narrowest.elements.size > 1 else []
            wrong = self.wrong_of(self.measure(halves, signs))
        is_part = narrowest.elements.size <= max(1, direction.elements.size // NARROWED)
        return narrowest if is_part else None

    # For the report.

    def worst(self, measurements: List[Measurement]) -> Optional[Measurement]:
        """The one with the largest relative error among those that say something."""
        finite = [each for each in measurements if np.isfinite(each.error)]
        clear = [each for each in finite if not self.unclear([each])]
        return max(clear or finite, key=self.relative_error, default=None)


def groupings_of(gradient: np.ndarray, masks: Arrays) -> Groupings:
    """By the values of labels and masks, by image and by channel."""
    numbers = np.arange(gradient.size).reshape(gradient.shape)
    groupings: Groupings = {}
    for name, mask in masks.items():
        shape, values = broadcastable(mask, gradient.shape), np.unique(mask[np.isfinite(mask)])
        if shape and 1 < values.size <= MOST_VALUES:
            everywhere = np.broadcast_to(mask.reshape(shape), gradient.shape)
            groupings[f"where {name} is"] = {each: numbers[everywhere == each] for each in values}
    for axis, name in zip(range(gradient.ndim), ("in image", "in channel")):
        groups = np.moveaxis(numbers, axis, 0).reshape(gradient.shape[axis], -1)
        groupings[name] = dict(enumerate(groups))
    return groupings


def broadcastable(mask: np.ndarray, shape: Tuple[int, ...]) -> Optional[Tuple[int, ...]]:
    """The mask's shape beside a blob of this shape: it has one value for each element, image or
    position."""
    for axes in range(1, len(shape) + 1):
        for dims in (shape[:axes], shape[:1] + (1,) + shape[2:axes]):
            if mask.size == np.prod(dims):
                return dims + (1,) * (len(shape) - len(dims))
    return None
