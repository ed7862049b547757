"""How the shape of a bottom must fit that of the first bottom."""

from typing import Callable, Sequence, Tuple

Shape = Tuple[int, ...]
Layout = Callable[[Shape, int], Shape]  # from the first bottom's shape and its axis of channels


def same(first: Shape, axis: int) -> Shape:
    return first


def one_channel(first: Shape, axis: int) -> Shape:
    return first[:axis] + (1,) + first[axis + 1 :]


def no_channel(first: Shape, axis: int) -> Shape:
    return first[:axis] + first[axis + 1 :]


def but_for_ones(shape: Shape) -> Tuple[Shape, Shape]:
    """What is left of a shape without its axes of size 1 after the batch axis."""
    return shape[:1], tuple(length for length in shape[1:] if length != 1)


class Layouts:
    """The layouts that a bottom may have; a bottom of the `same` may differ in axes of size 1."""

    def __init__(self, *layouts: Layout, exact: bool = False) -> None:
        self.layouts: Sequence[Layout] = layouts
        self.exact = exact

    def fit(self, shape: Shape, first: Shape, axis: int = 1) -> bool:
        """Whether a bottom may have this shape."""
        if any(shape == layout(first, axis) for layout in self.layouts):
            return True
        return (
            not self.exact and same in self.layouts and but_for_ones(shape) == but_for_ones(first)
        )


ELEMENTS = Layouts(same)
EXACTLY = Layouts(same, exact=True)
ELEMENTS_OR_POSITIONS = Layouts(one_channel, no_channel, same)
MASKS_OR_CLASSES = Layouts(same, one_channel, no_channel)
POSITIONS = Layouts(one_channel, no_channel)
