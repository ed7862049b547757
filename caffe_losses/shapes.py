"""How the shapes of a loss's bottoms must fit together."""

from typing import Tuple

import numpy as np

Shape = Tuple[int, ...]


def product(lengths: Shape) -> int:
    """The number of elements of a shape."""
    count = 1  # a plain loop: np.prod takes longer than the whole loss of a small blob
    for length in lengths:
        count *= length
    return count


def batch_size(array: np.ndarray) -> int:
    """The length of the batch axis; a blob without axes is a batch of one."""
    return array.shape[0] if array.ndim else 1


def flat(array: np.ndarray) -> np.ndarray:
    """The (1, 1, S) view of a blob, for losses that treat all elements alike."""
    return array.reshape(1, 1, array.size)


def one_row(shape: Shape) -> Shape:
    """The (1, 1, S) shape of a blob, for losses that treat all elements alike."""
    return 1, 1, product(shape)


def row_of_each_image(shape: Shape) -> Shape:
    """The (N, 1, S) shape of a blob, for losses that treat all elements of an image alike."""
    return product(shape[:1]), 1, product(shape[1:])


def batch_channel_position(shape: Shape) -> Shape:
    """The (N, C, S) shape of a blob with any number of axes."""
    return product(shape[:1]), product(shape[1:2]), product(shape[2:])


def layout_of_mask(mask: Shape, reference: Shape) -> Shape:
    """The (N, C, S) shape of a mask, with C = 1 where the mask holds for all channels."""
    batch, channels, positions = batch_channel_position(reference)
    return batch, channels if same_layout(mask, reference) else 1, positions


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
