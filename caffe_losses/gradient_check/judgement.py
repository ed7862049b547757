"""The verdict on the gradient of one bottom or parameter: what is measured, and what that says."""

from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.gradient_check.layer_function import Arrays, LayerFunction, Variable
from caffe_losses.gradient_check.measurement import Measurement, Measurer
from caffe_losses.gradient_check.report import CANNOT_TELL, OK, WRONG

Progress = Callable[[Iterable[Any], str], Iterable[Any]]
Group = Tuple[np.ndarray, np.ndarray]  # elements that move together, and which way

# Without --samples, as many elements and directions as make about this many values: about a second
# for a large blob, every element of a small one.
EFFORT = 5e6
MOST_SAMPLES, LEAST_SAMPLES = 256, 4
MOST_GROUPS, LEAST_GROUPS = 16, 3
ENOUGH = 0.9  # of the measurements that no kink spoils must be clear for a verdict
ENOUGH_AWAY_FROM_KINKS = 0.1  # of all measurements
# A backward in float32 may err by this share of the largest element in each element, and by some
# more where there is only one.
ROUNDING, ROUNDING_OF_ONE = 1.2e-7, 1e-6
NOISY = 3  # times its noise is the most by which the error of a measurement to accuse by may exceed
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
    seed: int = 1701
    progress: Progress = lambda measurements, name: measurements

    def require_sensible(self) -> None:
        for name in "samples", "step", "threshold":
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ValueError(f"{name} must be positive; it is {value}")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed must be from 0 to {LARGEST_SEED}; it is {self.seed}")


class Grouping(NamedTuple):
    """A way to group the elements of a blob, such as by channel."""

    name: str
    values: np.ndarray  # what the groups are called
    groups: np.ndarray  # the number of its group for each element
    largest: np.ndarray  # what is largest in the gradient of each group


class Judgement(NamedTuple):
    """A verdict with the measurements it rests on."""

    verdict: str
    decisive: List[Measurement]
    hindrance: str = ""  # to a verdict


class Judge:
    """Measures one gradient until there is a verdict on it."""

    def __init__(
        self,
        function: LayerFunction,
        variable: Variable,
        gradient: np.ndarray,
        masks: Arrays,
        options: Options,
    ) -> None:
        self.variable, self.options = variable, options
        self.gradient, self.masks = gradient, masks
        self.random = np.random.RandomState(options.seed)
        self.measurer = Measurer(function, variable, gradient, options.step)
        self.elements: Dict[int, Measurement] = {}  # measured one by one,
        self.directions: List[Measurement] = []  # and together
        self.largest = float(np.abs(gradient).max())
        self.groupings = [] if variable.bottom is None else groupings_of(gradient, masks)
        # For each element, what is largest in the weakest group that it is in.
        largest = [each.largest[each.groups] for each in self.groupings]
        self.weakest = np.minimum.reduce([np.full(gradient.size, np.inf), *largest])
        # About how many values a forward goes through; a multiplication is worth a tenth of one.
        work = sum(each.blob.count for each in function.variables) + function.cotangent.size
        if function.parameters and not function.is_python:
            weights = function.parameters[0].blob
            work += function.cotangent.size * weights.count / weights.shape[0] / 10
        affordable = EFFORT / work
        self.samples = options.samples or int(np.clip(affordable, LEAST_SAMPLES, MOST_SAMPLES))
        self.group_count = int(np.clip(affordable / 4, LEAST_GROUPS, MOST_GROUPS))
        data = function.origin[variable.name].ravel()
        self.candidates = np.arange(data.size)
        # A kink is at a value of the bottoms; what a parameter holds is not about it.
        if options.kink is not None and variable.bottom is not None:
            is_away = np.abs(np.abs(data) - options.kink) > options.step
            self.candidates = np.flatnonzero(is_away)

    # What a measurement says.

    def scale(self, measurement: Measurement, largest: float) -> float:
        """What an error is relative to: Caffe's max(|analytic|, |numeric|, 1), except that a blob
        or group whose gradient is nowhere as large as 1 is measured by its largest element."""
        floor = min(1.0, largest) if measurement.elements.size == 1 else measurement.size
        return max(abs(measurement.analytic), abs(measurement.numeric), floor)

    def relative_error(self, measurement: Measurement) -> float:
        return measurement.difference / (self.scale(measurement, self.largest) or 1)

    def rounding(self, measurement: Measurement) -> float:
        moved = float(self.measurer.unit[measurement.elements].sum())
        share = ROUNDING_OF_ONE if measurement.elements.size == 1 else ROUNDING * moved
        return share * self.largest

    def tolerance(self, measurement: Measurement) -> float:
        scale = self.scale(measurement, self.largest)
        return self.options.threshold * scale + self.rounding(measurement)

    def is_wrong(self, measurement: Measurement) -> bool:
        """By the scale of the blob, or that of the weakest channel, class or image around it."""
        tolerance = self.tolerance(measurement)
        scale = self.scale(measurement, self.weakest[measurement.elements].max())
        share = max(WRONG_BY_GROUP, self.options.threshold)
        narrower = min(tolerance, share * scale + self.rounding(measurement))
        # Next to a kink, the bound on the error is not one to accuse by.
        return any(
            measurement.error <= max(each, NOISY * measurement.noise)
            and measurement.difference > each + measurement.error
            for each in (tolerance, narrower)
        )

    def is_clear(self, measurement: Measurement) -> bool:
        """Whether an error as large as the tolerance would have been seen here."""
        return measurement.error <= self.tolerance(measurement)

    def is_kinked(self, measurement: Measurement) -> bool:
        """Whether it is a kink, not noise, that hides errors here."""
        return not self.is_clear(measurement) and not measurement.reach

    def is_enough(self, measurements: List[Measurement]) -> bool:
        """Whether a gradient is right that none of these says is wrong."""
        clear = sum(map(self.is_clear, measurements))
        count = len(measurements)
        away_from_kinks = count - sum(map(self.is_kinked, measurements))
        return clear >= max(1, ENOUGH * away_from_kinks, ENOUGH_AWAY_FROM_KINKS * count)

    # From single elements to the whole blob, until there is a verdict.

    def verdict(self) -> Judgement:
        if not self.candidates.size:
            return Judgement(CANNOT_TELL, [], EXCLUDED)
        elements = self.measure_elements(self.sample(self.samples))
        seen = [abs(each.numeric) - each.error for each in elements]
        self.largest = max([self.largest, *seen]) or 1.0  # Caffe's, if there is no gradient at all
        weak = self.measure(self.weak_groups())
        wrong = [each for each in elements + weak if self.is_wrong(each)]
        if wrong:
            return Judgement(WRONG, wrong)
        is_enough = self.is_enough(elements)
        if is_enough and len(elements) == self.candidates.size:
            return Judgement(OK, elements)
        return self.verdict_by_directions(elements, is_enough)

    def verdict_by_directions(self, elements: List[Measurement], is_enough: bool) -> Judgement:
        for measured in self.measure_directions(elements):
            suspects = [each for each in measured if self.is_wrong(each)]
            wrong = [each for each in map(self.narrow, suspects) if each]
            if wrong:
                return Judgement(WRONG, wrong)
            if suspects:
                return Judgement(CANNOT_TELL, suspects, KINKS)
            if self.is_enough(measured):
                return Judgement(OK, elements if is_enough else measured)
        if is_enough:
            return Judgement(OK, elements)
        unclear = [each for each in elements + self.directions if not self.is_clear(each)]
        is_kinked = sum(map(self.is_kinked, unclear)) > len(unclear) / 2
        return Judgement(CANNOT_TELL, unclear, KINKS if is_kinked else NOISE)

    def sample(self, most: int) -> np.ndarray:
        return np.sort(self.random.permutation(self.candidates)[:most])

    def measure_elements(self, elements: Iterable[int]) -> List[Measurement]:
        return self.measure([(np.array([element]), np.ones(1)) for element in elements])

    def measure(self, groups: List[Group], depth: Optional[int] = None) -> List[Measurement]:
        """Measures each group, with an error small enough to judge by where that can be."""
        measured = []
        for group in self.options.progress(groups, self.variable.name):
            direction = self.measurer.direction(*group)
            found = self.measurer.measure(direction, self.tolerance(direction) / 2, depth)
            measured.append(found)
            if found.elements.size == 1:
                self.elements[int(found.elements[0])] = found
            else:
                self.directions.append(found)
        return measured

    def weak_groups(self) -> List[Group]:
        """Each channel or class that is small against the largest, with all its elements at once:
        what is missing there may be too small to be seen in single elements."""
        groups = []
        for grouping in self.groupings:
            for group in np.flatnonzero(grouping.largest < WEAK * self.largest):
                members = self.candidates[grouping.groups[self.candidates] == group]
                groups.append((members, np.ones(members.size)))
        return [each for each in groups if each[0].size][: self.group_count]

    def measure_directions(self, elements: List[Measurement]) -> Iterator[List[Measurement]]:
        """Many elements at once, in one way after the other.

        In groups at random, so that no errors cancel; then, where that drowns in noise, all of them
        uphill, so that nothing cancels; then those alone that are farthest from their kinks.
        """
        anywhere = self.random.choice([-1.0, 1.0], self.gradient.size)
        groups = np.array_split(self.random.permutation(self.candidates), self.group_count)
        yield self.measure([(group, anywhere[group]) for group in groups if group.size])
        gradient = self.gradient.ravel()
        uphill = np.where(gradient == 0, anywhere, np.sign(gradient))
        yield self.measure([(self.candidates, uphill[self.candidates])])
        numbers = np.array([each.elements[0] for each in elements])
        reach = np.array([each.reach for each in elements]) / self.measurer.unit[numbers]
        if np.median(reach) > 0:
            far = numbers[reach >= np.median(reach)]
            yield self.measure([(far, uphill[far])], depth=1)

    def narrow(self, direction: Measurement) -> Optional[Measurement]:
        """Halves a wrong direction down to a wrong element, as far as the noise allows it.

        What is an error of the direction is one of its parts as well.
        """
        narrowest = direction
        while narrowest.elements.size > 1:
            halves = zip(*(np.array_split(each, 2) for each in narrowest[:2]))
            wrong = [each for each in self.measure(list(halves)) if self.is_wrong(each)]
            if not wrong:
                break
            narrowest = max(wrong, key=self.relative_error)
        is_part = narrowest.elements.size <= max(1, direction.elements.size // NARROWED)
        return narrowest if is_part else None

    # For the report.

    def worst(self, measurements: List[Measurement]) -> Optional[Measurement]:
        """The one with the largest relative error among those that say something."""
        finite = [each for each in measurements if np.isfinite(each.error)]
        clear = [each for each in finite if self.is_clear(each)]
        return max(clear or finite, key=self.relative_error, default=None)


def groupings_of(gradient: np.ndarray, masks: Arrays) -> List[Grouping]:
    """By the values of labels and masks, by image and by channel."""
    shape, found = gradient.shape, []
    for name, mask in masks.items():
        values, groups = np.unique(mask, return_inverse=True)
        aligned = broadcast(groups.reshape(mask.shape), shape)
        if aligned is not None and 1 < values.size <= MOST_VALUES:
            found.append((f"where {name} is", values, aligned.ravel()))
    for axis, name in enumerate(("in image", "in channel")[: len(shape)]):
        values = np.arange(shape[axis])
        along = values.reshape((-1,) + (1,) * (len(shape) - axis - 1))
        found.append((name, values, np.broadcast_to(along, shape).ravel()))
    groupings = []
    for name, values, groups in found:
        largest = np.zeros(len(values))
        np.maximum.at(largest, groups, np.abs(gradient).ravel())
        groupings.append(Grouping(name, values, groups, largest))
    return groupings


def broadcast(mask: np.ndarray, shape: Tuple[int, ...]) -> Optional[np.ndarray]:
    """The mask at each element: it has the shape, or one value for each image or position."""
    for axes in range(1, len(shape) + 1):
        for dims in (shape[:axes], shape[:1] + (1,) + shape[2:axes]):
            if mask.size == np.prod(dims):
                return np.broadcast_to(mask.reshape(dims + (1,) * (len(shape) - len(dims))), shape)
    return None
