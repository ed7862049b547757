"""What a bottom may hold, and how tests draw it."""

from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Union

import numpy as np

Array = np.ndarray
Random = np.random.RandomState
Interval = NamedTuple("Interval", [("low", float), ("high", float)])


class Draw:
    """A way to draw a bottom.

    name: for the names of tests.
    elements: what an element may be: an interval; or numbers, each as often as it is to be drawn;
        or a function that gives one of these for a number of channels.
    draw: draws an array of a shape, for a number of channels; from the elements unless given.
    ignored: the element that takes no part in the loss, if there is one.
    needs: the parameters without which the draw makes no sense.
    """

    def __init__(
        self,
        name: str,
        elements: Any,
        draw: Optional[Callable[[Random, Sequence[int], int], Array]] = None,
        ignored: Optional[float] = None,
        **needs: Any,
    ) -> None:
        self.name = name
        self.elements = elements
        self.draw = draw
        self.ignored = ignored
        self.needs = needs

    def __repr__(self) -> str:
        return self.name

    def elements_for(self, channels: int) -> Union[Interval, Sequence[float]]:
        return self.elements(channels) if callable(self.elements) else self.elements

    def __call__(self, random: Random, shape: Sequence[int], channels: int) -> Array:
        if self.draw is not None:
            return self.draw(random, shape, channels).astype(np.float32)
        elements = self.elements_for(channels)
        if isinstance(elements, Interval):
            array = random.uniform(elements.low, elements.high, size=shape)
        else:
            array = random.choice(elements, size=shape)
        return array.astype(np.float32)


def vectors_of_which_a_third_are_zero(random: Random, shape: Sequence[int], _: int) -> Array:
    positions = (shape[0], 1, *shape[2:])[: len(shape)]
    return random.randn(*shape) * (random.rand(*positions) < 0.67)


normal = Draw("normal", Interval(-30, 30), lambda random, shape, _: random.randn(*shape))
sparse = Draw("sparse", Interval(-30, 30), vectors_of_which_a_third_are_zero)
hard = Draw("hard", [0] * 7 + [1] * 3)
mostly_one = Draw("mostly_one", [0] * 3 + [1] * 97)
soft = Draw("soft", Interval(0, 1))
tiny = Draw("tiny", [0, 0, -0.0, 1, 1, 1e-45, 1e-30])
positive = Draw("positive", Interval(0, 2))
positive_without_balance = Draw("positive", Interval(0, 2), balance=None)
with_minus_1 = Draw("with_minus_1", [-1, 0, 0, 0, 1, 0.5], ignored=-1)
with_minus_1_balanced = Draw("with_minus_1", [-1, 0, 0, 0, 1, 0.5], ignored=-1, balance="image")
hard_with_minus_1 = Draw("hard_with_minus_1", [-1, 0, 0, 0, 1], ignored=-1)
with_255 = Draw("with_255", [0, 0, 1, 255], ignored=255, ignore_label=255)


def class_numbers(channels: int) -> List[float]:
    return list(range(max(channels, 1)))


def mostly_background(channels: int) -> List[float]:
    return [0] * 7 * channels + class_numbers(channels)


def class_numbers_and_255(channels: int) -> List[float]:
    return [*class_numbers(channels), 255]


classes = Draw("classes", class_numbers)
rare_classes = Draw("rare_classes", mostly_background)
classes_with_255 = Draw("classes_with_255", class_numbers_and_255, ignored=255, ignore_label=255)


def mask_or_classes(channels: int) -> Sequence[float]:
    """0 and 1 for an element of one channel; the number of a class where it stands for several."""
    return [0] * 7 + [1] * 3 if channels == 1 else range(max(channels, 1))


def soft_or_classes(channels: int) -> Any:
    return Interval(0, 1) if channels == 1 else range(max(channels, 1))


probability = Draw("probability", Interval(1 / 64, 63 / 64))
score_of_sigmoid = Draw("normal", Interval(-30, 30), normal.draw, activation="sigmoid")
score_of_softmax = Draw("normal", Interval(-30, 30), normal.draw, activation="softmax")
mask = Draw("mask", mask_or_classes)
soft_mask = Draw("soft_mask", soft_or_classes)
mask_with_255 = Draw(
    "mask_with_255",
    lambda channels: [*mask_or_classes(channels), 255],
    ignored=255,
    ignore_label=255,
)


binary = Draw("binary", [0, 0, 0, 1])
binary_with_255 = Draw("binary_with_255", [0, 0, 1, 255], ignored=255, ignore_label=255)
