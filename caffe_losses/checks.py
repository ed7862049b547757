"""What the bottoms of a loss must be, and the errors that say what was found and what to do."""

import functools
import math
from typing import Any, Callable, Mapping, Optional, Sequence, Tuple

import numpy as np

from caffe_losses.loops.counting import count_classes
from caffe_losses.weights import NO_ARRAY, label_to_ignore

Shape = Tuple[int, ...]

FLOAT32_MAX = float(np.finfo(np.float32).max)
# Labels of k / 255 that were written with six digits are a little more than 1.
LABEL_TOLERANCE = 1e-4
CHANNEL_FOR_EACH_CLASS = "give the net as many channels as there are classes"


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


def positions_of(mask: Optional[np.ndarray], shape: Shape) -> np.ndarray:
    """A mask as (N, C, S), or as (N, 1, S) where it has one value for all channels.

    In an empty batch too: what ranks exchange depends on the channels of a mask. Where there is no
    mask, it is an array without axes of any length.
    """
    if mask is None:
        return NO_ARRAY
    batch, channels, positions = batch_channel_position(shape)
    lengths, own = (product(tuple(max(n, 1) for n in s[1:])) for s in (shape, mask.shape))
    is_for_elements = mask.size == product(shape) and own == lengths
    return mask.reshape(batch, channels if is_for_elements else 1, positions)


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


def require_mask(
    layer: str,
    name: str,
    shape: Shape,
    reference: str,
    like: Shape,
    of_position: str = "one value for all channels",
) -> None:
    """Raises unless a mask has one value for each element or one for all channels of a position.

    `of_position` says what that one value is.
    """
    one_channel = like[:1] + (1,) + like[2:]
    no_channel = like[:1] + like[2:]
    if shape not in (like, one_channel, no_channel) and not same_layout(shape, like):
        raise ValueError(
            f"{layer}: the {name} has shape {shape}; expected {one_channel} or {no_channel} "
            f"({of_position}) or {like}, to go with the {reference} of shape {like}"
        )


def require_positions(
    layer: str, name: str, shape: Shape, reference: str, like: Shape, axis: int = 1
) -> None:
    """Raises unless a bottom has one number for all that stand along an axis of the reference."""
    before, after = like[:axis], like[axis + 1 :]
    if shape not in (before + (1,) + after, before + after):
        raise ValueError(
            f"{layer}: the {name} has shape {shape}; expected {before + (1,) + after} or "
            f"{before + after}, one number for each position, to go with the {reference} of shape "
            f"{like} and its classes along axis {axis}"
        )


def elementwise(first: str, second: str, *others: str) -> Callable[..., None]:
    """A check of the shapes of bottoms with these names.

    The second one has the layout of the first; the others may have one value for all channels.
    """

    def check(
        layer: str, settings: Mapping[str, Any], like: Shape, shape: Shape, *masks: Shape
    ) -> None:
        require_same_layout(layer, second, shape, first, like)
        for name, mask in zip(others, masks):
            require_mask(layer, name, mask, first, like)

    return check


# Parameters that must fit a shape


def require_axis(layer: str, axis: int, reference: str, like: Shape) -> None:
    """Raises unless the parameter "axis" is an axis of the reference bottom."""
    if not -len(like) <= axis < len(like):
        raise ValueError(
            f'{layer}: parameter "axis" is {axis}, but the {reference} has shape {like}; expected '
            f"an axis that it has"
        )


def require_number_for_each_channel(
    layer: str, key: str, numbers: Sequence[float], reference: str, like: Shape, axis: int = 1
) -> None:
    """Raises unless a parameter is one number, or one for each channel of the reference bottom."""
    channels = product(like[axis : axis + 1])
    if len(numbers) not in (1, channels):
        raise ValueError(
            f'{layer}: parameter "{key}" has {len(numbers)} numbers, the {reference} of shape '
            f"{like} {channels} channels along axis {axis}; expected one number, or one for each "
            f"channel"
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


def raise_for_fractions(name: str, label: np.ndarray, ignore_label: Optional[float]) -> None:
    """Raises for labels that are neither from 0 to 1 nor ignored."""
    wrong = ~((label >= 0) & (label <= 1 + LABEL_TOLERANCE))
    wrong &= label != label_to_ignore(ignore_label)
    raise_for_labels(
        name,
        label,
        wrong,
        "0 to 1",
        f'set "ignore_label": {label[wrong][0]:.8g} if it marks elements to ignore, or scale the '
        f"labels (divide a mask of 0 and 255 by 255)",
    )


def require_class_numbers(
    name: str,
    label: np.ndarray,
    classes: int,
    ignore_label: Optional[float],
    fix: str = CHANNEL_FOR_EACH_CLASS,
) -> None:
    """Raises unless all labels are whole numbers below that of the classes, or ignored."""
    if count_classes(label, np.ones(classes), ignore_label=ignore_label).wrong:
        raise_for_classes(name, label, classes, ignore_label, fix)


def raise_for_classes(
    name: str,
    label: np.ndarray,
    classes: int,
    ignore_label: Optional[float],
    fix: str = CHANNEL_FOR_EACH_CLASS,
) -> None:
    """Raises for labels that are neither class numbers nor ignored."""
    wrong = ~((label >= 0) & (label < classes) & (np.floor(label) == label))
    wrong &= label != label_to_ignore(ignore_label)
    raise_for_labels(
        name,
        label,
        wrong,
        f"whole numbers from 0 to {classes - 1}",
        f'set "ignore_label": {label[wrong][0]:.8g} if it marks what to ignore, or {fix}',
    )


def require_finite(layer: str, name: str, array: np.ndarray, when: str) -> None:
    """Raises if a bottom holds a NaN or an infinity."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise FloatingPointError(
            f"{layer}: the {name} is not finite in {example_of(array, wrong)}{when}"
        )


def require_finite_loss(
    layer: str,
    loss: float,
    names: Sequence[str],
    bottoms: Sequence[Optional[np.ndarray]],
    when: str = "",
) -> None:
    """Raises FloatingPointError that tells what made the loss NaN or infinite."""
    if fits_float32(loss):
        return
    for name, array in zip(names, bottoms):
        if array is not None:
            require_finite(layer, name, array, when)
    raise FloatingPointError(
        f"{layer}: the loss overflows float32, though all bottoms are finite{when}; scale the "
        f"bottoms down"
    )
