"""Checks of what is in the bottoms, and the errors that say what was found and what to do."""

import math
from typing import NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.blocks import Index, Scratch, for_each_block

Range = NamedTuple("Range", [("smallest", float), ("largest", float)])

FLOAT32_MAX = float(np.finfo(np.float32).max)


def value_range(array: np.ndarray, ignore_label: Optional[float] = None) -> Range:
    """The smallest and largest element of an (N, C, S) array; both NaN where one element is.

    An ignored element counts as 0.
    """

    def block_range(index: Index, scratch: Scratch) -> Tuple[float, float]:
        block = array[index]
        if ignore_label is not None:
            valid = scratch.take(block.shape, np.bool_)
            np.not_equal(block, np.float32(ignore_label), out=valid)
            block = np.multiply(block, valid, out=scratch.take(block.shape))
        return float(block.min()), float(block.max())

    smallest, largest = zip(*for_each_block(array.shape, 2, block_range))
    if any(map(math.isnan, smallest)):  # min and max of Python would pass over it
        return Range(math.nan, math.nan)
    return Range(min(smallest), max(largest))


def all_finite(array: np.ndarray) -> bool:
    """Whether an (N, C, S) array holds neither a NaN nor an infinity."""

    def block_is_finite(index: Index, scratch: Scratch) -> bool:
        block = array[index]
        return bool(np.isfinite(block, out=scratch.take(block.shape, np.bool_)).all())

    return all(for_each_block(array.shape, 1, block_is_finite))


def example_of(array: np.ndarray, wrong: np.ndarray) -> str:
    """How many elements are wrong, and the first of them with its place."""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), array.shape))
    return (
        f"{np.count_nonzero(wrong)} of {array.size} elements, the first {array[place]:g} at {place}"
    )


def raise_for_labels(
    layer: str, label: np.ndarray, wrong: np.ndarray, expected: str, fix: str
) -> None:
    """Raises ValueError if a label is wrong."""
    if wrong.any():
        raise ValueError(
            f"{layer}: the label is wrong in {example_of(label, wrong)}; expected {expected}; {fix}"
        )


def require_finite(layer: str, name: str, array: np.ndarray, iteration: int) -> None:
    """Raises if a bottom holds a NaN or an infinity."""
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise FloatingPointError(
            f"{layer}: the {name} is not finite in {example_of(array, wrong)} (iteration "
            f"{iteration} of this layer)"
        )


def fits_float32(value: float) -> bool:
    return math.fabs(value) <= FLOAT32_MAX
