"""What the bottoms of a loss must be, and the errors that say what was found and what to do."""

import functools
import math
from typing import Sequence, Tuple

import numpy as np

Shape = Tuple[int, ...]

FLOAT32_MAX = float(np.finfo(np.float32).max)
# Labels of k / 255 that were written with six digits are a little more than 1.
LABEL_TOLERANCE = 1e-4


# Shapes


def product(lengths: Shape) -> int:
    """The number of elements of a shape."""
    count = 1  # a plain loop: np.prod takes longer than the whole loss of a small blob
    for length in lengths:
        count *= length
    return count


def batch_size(array: np.ndarray) -> int:
    """The length of the batch axis; a blob without axes is a batch of one."""
    return array.shape[0] if array.ndim else 1


@functools.lru_cache(maxsize=256)
def batch_channel_position(shape: Shape) -> Tuple[int, int, int]:
    """The (N, C, S) shape of a blob with any number of axes."""
    return product(shape[:1]), product(shape[1:2]), product(shape[2:])


def same_layout(first: Shape, second: Shape) -> bool:
    """Whether two shapes are equal, but for axes of size 1 after the batch axis."""
    return first[:1] == second[:1] and without_ones(first[1:]) == without_ones(second[1:])


def without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def require_same_layout(layer: str, name: str, shape: Shape, reference: str, like: Shape) -> None:
    """Raises unless a bottom has the layout of the reference bottom."""
    if not same_layout(shape, like):
        raise ValueError(
            f"{layer}: the {name} has shape {shape}, the {reference} {like}; expected the same "
            f"shape (axes of size 1 after the batch axis may differ)"
        )


def require_same_shape(layer: str, name: str, shape: Shape, reference: str, like: Shape) -> None:
    """Raises unless a bottom has the very shape of the reference bottom."""
    if shape != like:
        raise ValueError(
            f"{layer}: the {name} has shape {shape}, the {reference} {like}; expected the same"
        )


def require_mask(layer: str, name: str, shape: Shape, reference: str, like: Shape) -> None:
    """Raises unless a mask has one value for each element or one for all channels of a position."""
    one_channel = like[:1] + (1,) + like[2:]
    no_channel = like[:1] + like[2:]
    if shape not in (like, one_channel, no_channel) and not same_layout(shape, like):
        raise ValueError(
            f"{layer}: the {name} has shape {shape}; expected {one_channel} or {no_channel} (one "
            f"value for all channels) or {like}, to go with the {reference} of shape {like}"
        )


# Values


def fits_float32(value: float) -> bool:
    return math.fabs(value) <= FLOAT32_MAX


def example_of(array: np.ndarray, wrong: np.ndarray) -> str:
    """How many elements are wrong, and the first of them with its place."""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), array.shape))
    found = f"{array[place]:.8g}"  # all digits that tell it from another float32
    return f"{np.count_nonzero(wrong)} of {array.size} elements, the first {found} at {place}"


def raise_for_elements(
    layer: str, name: str, array: np.ndarray, wrong: np.ndarray, expected: str, fix: str
) -> None:
    """Raises ValueError for elements of a bottom that are wrong."""
    raise ValueError(
        f"{layer}: the {name} is wrong in {example_of(array, wrong)}; expected {expected}; {fix}"
    )


def raise_for_labels(
    layer: str, label: np.ndarray, wrong: np.ndarray, expected: str, fix: str
) -> None:
    """Raises ValueError for labels that are wrong."""
    raise_for_elements(layer, "label", label, wrong, expected, fix)


def require_finite(layer: str, name: str, array: np.ndarray, when: str) -> None:
    """Raises if a bottom holds a NaN or an infinity."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise FloatingPointError(
            f"{layer}: the {name} is not finite in {example_of(array, wrong)}{when}"
        )


def require_finite_loss(
    layer: str, loss: float, names: Sequence[str], bottoms: Sequence[np.ndarray], when: str = ""
) -> None:
    """Raises FloatingPointError that tells what made the loss NaN or infinite."""
    if fits_float32(loss):
        return
    for name, array in zip(names, bottoms):
        require_finite(layer, name, array, when)
    raise FloatingPointError(
        f"{layer}: the loss overflows float32, though all bottoms are finite{when}; scale the "
        f"bottoms down"
    )
