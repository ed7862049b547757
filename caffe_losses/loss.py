"""What a loss is: a plain function of arrays, and what a layer must know of it."""

import inspect
import math
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from caffe_losses import parameters
from caffe_losses.checks import batch_channel_position, require_finite_loss
from caffe_losses.loops.along_axis import Formula as AxisFormula
from caffe_losses.loops.along_axis import Scores, along_axis
from caffe_losses.loops.channel_sum import channel_sum
from caffe_losses.loops.pointwise import NO_PARAMETER, Blobs, Formula, pointwise
from caffe_losses.parameters import Parameter
from caffe_losses.weights import NO_ARRAY, Weights, label_to_ignore

ShapeCheck = Callable[..., None]
# The positions of a balanced loss in which nothing weighs anything.
Weightless = NamedTuple("Weightless", [("positive", int), ("negative", int), ("ignored", int)])
NO_POSITIONS = np.zeros((0, 0), np.float32)
NO_CLASSES = np.zeros(0, np.float32)
# Products of a few numbers from 2^-60 to 2^40 (about 1e-18 and 1e12) are made in float32.
SMALLEST_EXPONENT, LARGEST_EXPONENT = -60, 40


def own_counts(*counts: float) -> Sequence[float]:
    """The counts as they are: the whole batch is here."""
    return counts


def is_extreme(number: float) -> bool:
    """Whether products with a number may leave float32 though the whole product is in its range."""
    return not SMALLEST_EXPONENT <= math.frexp(number)[1] <= LARGEST_EXPONENT


def has_extremes(settings: Mapping[str, Any]) -> bool:
    """Whether a parameter has an extreme number."""
    values = [value if isinstance(value, tuple) else (value,) for value in settings.values()]
    return any(isinstance(x, float) and is_extreme(x) for numbers in values for x in numbers)


class Evaluation:
    """One evaluation of a loss: where its gradients go, and how it is to be done.

    It is done in float32, and in float64 where numbers are extreme or a result is not finite.
    """

    def __init__(
        self,
        name: str,
        gradients: Sequence[Optional[np.ndarray]] = (),
        loss_weight: float = 1,
        check_labels: bool = True,
        mean_over_ranks: Callable[..., Sequence[float]] = own_counts,
        ranks: int = 1,
        has_extremes: bool = False,
    ) -> None:
        self.name = name  # of the layer or function, for errors
        self.gradients = gradients  # to prediction and target, None where not wanted
        self.loss_weight = loss_weight  # what gradients are multiplied with
        self.check_labels = check_labels
        self.mean_over_ranks = mean_over_ranks  # of counts; ranks average their gradients
        self.ranks = ranks  # how many there are
        self.has_extremes = has_extremes or is_extreme(loss_weight)
        self.gradient_overflows = False
        self.bits: Sequence[int] = ()  # the sum of the bits of each gradient; empty if not known
        self.weightless: Optional[Weightless] = None

    def allow_for(self, *numbers: float) -> None:
        """Looks at numbers that elements will be multiplied with or divided by."""
        self.has_extremes = self.has_extremes or any(map(is_extreme, numbers))

    def pointwise(
        self,
        formula: Formula,
        prediction: np.ndarray,
        target: np.ndarray,
        weights: Weights,
        parameter: Sequence[float] = NO_PARAMETER,
        parameter_factor: np.ndarray = NO_ARRAY,
    ) -> float:
        """The weighted sum of a formula over all elements of prediction and target (N, C, ...).

        The parameter is one number or one for each channel; parameter_factor (N, C or 1, S), where
        there is one, multiplies it for each element.
        """
        shape = batch_channel_position(prediction.shape)
        x, t = prediction.reshape(shape), target.reshape(shape)

        def loop(dtype: Any) -> float:
            blobs = self.blobs(x, t, np.asarray(parameter, dtype), parameter_factor)
            result, self.bits = pointwise(formula, blobs, weights, dtype)
            return result

        return self.run(loop)

    def channel_sum(
        self, formula: Formula, prediction: np.ndarray, target: np.ndarray, weight: float
    ) -> float:
        """The weighted sum of a formula of sums over axis 1; both arrays are (N, C, S)."""
        blobs = self.blobs(prediction, target, NO_PARAMETER)
        return self.run(lambda dtype: channel_sum(formula, blobs, weight, dtype))

    def along_axis(
        self,
        formula: AxisFormula,
        score: np.ndarray,
        label: np.ndarray,
        weight: np.ndarray,
        of_class: np.ndarray,
        smooth: np.ndarray = NO_CLASSES,
        value: np.ndarray = NO_POSITIONS,
        ignore_label: Optional[float] = None,
        gamma: float = 0,
    ) -> float:
        """The weighted sum of a formula of the softmax over axis 1 of the score (N, K, S).

        label (N, S) has class numbers, weight (N, S) is that of each position and of_class (K) that
        of each class; smooth (K) is what -ln p_c weighs for each class, whatever the label. What
        the formula gives for each position goes to value (N, S). Weight, smooth and value may have
        no elements.
        """
        gradient = self.gradients[0] if self.gradients else None

        def loop(dtype: Any) -> float:
            scores = Scores(
                score,
                label,
                weight,
                NO_ARRAY if gradient is None else gradient.reshape(score.shape),
                value,
                of_class.astype(dtype),
                smooth.astype(dtype, copy=False),
                label_to_ignore(ignore_label),
                np.float32(gamma),
                np.float32(self.loss_weight),
            )
            result, self.bits = along_axis(formula, scores, dtype)
            return result

        return self.run(loop)

    def blobs(
        self,
        prediction: np.ndarray,
        target: np.ndarray,
        parameter: np.ndarray,
        parameter_factor: np.ndarray = NO_ARRAY,
    ) -> Blobs:
        """The arrays (N, C, S) of a loop, with the gradients that are wanted."""
        wanted = [NO_ARRAY, NO_ARRAY]
        for i, gradient in enumerate(self.gradients):
            if gradient is not None:
                wanted[i] = gradient.reshape(prediction.shape)
        loss_weight = np.float32(self.loss_weight)
        return Blobs(
            prediction, target, wanted[0], wanted[1], parameter, parameter_factor, loss_weight
        )

    def run(self, loop: Callable[[Any], float]) -> float:
        """What a loop returns that computes in float32 or float64 and writes the gradients.

        In float32 it must return what is not finite where the gradients are not.
        """
        if not self.has_extremes:
            total = loop(np.float32)
            if math.isfinite(total):
                return total
        total = loop(np.float64)
        wanted = [gradient for gradient in self.gradients if gradient is not None]
        self.gradient_overflows = not all(np.isfinite(gradient).all() for gradient in wanted)
        return total


class Loss:
    """A loss as a function: `loss, gradient = euclidean(prediction, target)`.

    It takes arrays of any number of axes and returns the loss and the gradient to the first of
    them. Layers call `compute` with an `Evaluation` of their own.
    """

    def __init__(
        self,
        compute: Callable[..., float],
        bottoms: Sequence[str],
        optional: int,
        differentiable: int,
        check_shapes: ShapeCheck,
        parameters: Mapping[str, Parameter],
    ) -> None:
        self.compute = compute
        self.bottoms = tuple(bottoms)
        self.required = len(bottoms) - optional
        self.differentiable = differentiable  # so many of the bottoms get a gradient
        self.check_shapes = check_shapes
        self.parameters = dict(parameters)
        self.__name__, self.__module__ = compute.__name__, compute.__module__
        self.__doc__ = compute.__doc__
        self.__signature__ = self.signature()

    def __reduce__(self) -> str:
        """Pickled by name, as a function is."""
        return self.__name__

    def signature(self) -> inspect.Signature:
        """What `help` shows."""
        kinds = inspect.Parameter
        bottoms = [
            kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in zip(
                self.bottoms,
                [kinds.empty] * self.required + [None] * (len(self.bottoms) - self.required),
            )
        ]
        settings = [
            kinds(
                name,
                kinds.KEYWORD_ONLY,
                default=kinds.empty if value.default is parameters.REQUIRED else value.default,
            )
            for name, value in self.parameters.items()
        ]
        return inspect.Signature([*bottoms, *settings])

    def require_bottoms(self, name: str, count: int) -> None:
        """Raises unless the loss takes that many bottoms."""
        if not self.required <= count <= len(self.bottoms):
            raise ValueError(f"{name}: {count} bottoms; expected {self.expected()}")

    def expected(self) -> str:
        """The names of the bottoms, as errors list them."""
        names = list(self.bottoms[: self.required])
        names += [f"{bottom} (optional)" for bottom in self.bottoms[self.required :]]
        return ", ".join(names)

    def __call__(self, *arrays: Any, **given: Any) -> Tuple[float, np.ndarray]:
        name = self.__name__
        bottoms = self.arrays_of(arrays, given)
        given = {key: value for key, value in given.items() if key not in self.bottoms}
        settings = parameters.checked(name, given, self.parameters)
        # Before one that is given, what is left out has a shape that fits.
        shapes = [bottoms[0].shape if array is None else array.shape for array in bottoms]
        self.check_shapes(name, settings, *shapes)
        settings.pop("check_labels", None)
        gradient = np.empty_like(bottoms[0])
        evaluation = Evaluation(name, [gradient], has_extremes=has_extremes(settings))
        result = self.compute(evaluation, *bottoms, **settings)
        require_finite_loss(name, result, self.bottoms, bottoms)
        if evaluation.gradient_overflows:
            raise FloatingPointError(f"{name}: the gradient overflows float32")
        return result, gradient

    def arrays_of(self, arrays: Sequence[Any], given: Mapping[str, Any]) -> List[Any]:
        """The array of each bottom up to the last that is given; None for one that is left out."""
        name = self.__name__
        self.require_bottoms(name, max(len(arrays), self.required))
        named = dict(zip(self.bottoms, arrays))
        for bottom in self.bottoms:
            if bottom in given and bottom in named:
                raise TypeError(f"{name}: the {bottom} is given twice, by its place and its name")
        named.update((bottom, given[bottom]) for bottom in self.bottoms if bottom in given)
        found = [bottom for bottom in self.bottoms if named.get(bottom) is not None]
        missing = [bottom for bottom in self.bottoms[: self.required] if bottom not in found]
        if missing:
            raise ValueError(f"{name}: no {' and no '.join(missing)}; expected {self.expected()}")
        last = self.bottoms.index(found[-1])
        return [
            np.asarray(named[bottom], np.float32, "C") if bottom in found else None
            for bottom in self.bottoms[: last + 1]
        ]


def loss(
    *bottoms: str,
    check_shapes: ShapeCheck,
    optional: int = 0,
    differentiable: int = 1,
    **parameters: Parameter,
) -> Callable[[Callable[..., float]], Loss]:
    """Makes a `Loss` of the function that computes it."""

    def decorate(compute: Callable[..., float]) -> Loss:
        return Loss(compute, bottoms, optional, differentiable, check_shapes, parameters)

    return decorate
