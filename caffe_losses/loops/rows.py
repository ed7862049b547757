"""What compiled loops do with a row: numbers that lie side by side in memory.

Short functions of one-dimensional arrays, which is what LLVM vectorises.
"""

from typing import Any, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, where
from caffe_losses.loops.parts import LANES, ROW


def add(total: Any, value: Any) -> Any:
    """A sum, which Numba's engine takes in any order."""
    return total + value


def tally(count: Any, condition: Any) -> Any:
    """One more where the condition holds. A count in float32 is exact up to 2^24."""
    return count + condition


def add_bits(total: Any, number: Any) -> Any:
    """A sum of the bits of numbers, as whole ones of 32 bits; in Numba's engine it wraps around."""
    return total + number.view(np.int32)


def order(number: Any) -> Any:
    """A number of the same order; in Numba's engine a whole one: it vectorises their maximum."""
    return number


def from_order(number: Any) -> Any:
    """The number whose `order` this is."""
    return number


def end_of_row(first: int, size: int) -> int:
    """Where a row ends that begins there: after ROW numbers, or where no LANES are left.

    What is left over is added up one by one, and where numbers are equal each addition rounds the
    same way: so they are rows of their own, of half as many at most.
    """
    left = min(size - first, ROW)
    return first + (left - left % LANES if left >= LANES else min(left, LANES // 2))


def fill(row: np.ndarray, number: Any) -> None:
    """Sets all to a number."""
    for i in range(row.size):
        row[i] = number


def copy(row: np.ndarray, numbers: np.ndarray, factor: Any) -> None:
    """Sets each to another number times a factor."""
    for i in range(row.size):
        row[i] = numbers[i] * factor


def add_difference(row: np.ndarray, x: np.ndarray, t: np.ndarray) -> None:
    """Adds x - t in float64."""
    for i in range(row.size):
        row[i] += np.float64(x[i]) - np.float64(t[i])


def multiply(row: np.ndarray, factors: np.ndarray) -> None:
    """Multiplies each with a factor."""
    for i in range(row.size):
        row[i] = row[i] * factors[i]


def mark_nonzero(row: np.ndarray, numbers: np.ndarray) -> None:
    """Sets to 1 where another number is not 0."""
    for i in range(row.size):
        row[i] = where(numbers[i] == ZERO, row[i], ONE)


def weigh_classes(weight: np.ndarray, mask: np.ndarray, positive: Any, negative: Any) -> None:
    """Sets each weight to that of its class."""
    for i in range(weight.size):
        weight[i] = where(mask[i] > ZERO, positive, where(mask[i] == ZERO, negative, ZERO))


def weigh_marked(weight: np.ndarray, positive: Any, negative: Any) -> None:
    """Sets each weight that is not 0 to that of the positive class, others to the negative's."""
    for i in range(weight.size):
        weight[i] = where(weight[i] == ZERO, negative, positive)


def ignore(weight: np.ndarray, target: np.ndarray, ignore_label: Any) -> None:
    """Sets to 0 where the target is the ignore_label."""
    for i in range(weight.size):
        weight[i] = where(target[i] == ignore_label, ZERO, weight[i])


def mark_any_channel(row: np.ndarray, mask: np.ndarray, image: int, here: slice) -> None:
    """Sets to 1 where any channel of the mask is not 0, to 0 elsewhere."""
    fill(row, ZERO)
    for channel in range(mask.shape[1]):
        mark_nonzero(row, mask[image, channel, here])


def sum_of(numbers: np.ndarray) -> float:
    """Their sum in float64."""
    result = 0.0
    for i in range(numbers.size):
        result = add(result, np.float64(numbers[i]))
    return result


def sum_of_bits(row: np.ndarray) -> int:
    """The sum of the bits of the numbers, taken as whole numbers of 32 bits that wrap around."""
    result = np.int32(0)
    for i in range(row.size):
        result = add_bits(result, row[i])
    return result


def count_not_finite(row: np.ndarray) -> Any:
    """How many are not finite: their difference with themselves is a NaN."""
    count = ZERO
    for i in range(row.size):
        count = tally(count, row[i] - row[i] != ZERO)
    return count


def after(
    step: int, image: int, channel: int, position: int, channels: int, positions: int
) -> Tuple[int, int, int]:
    """Image, channel and position after a step that does not go beyond the channel."""
    position += step
    if position == positions:
        position = 0
        channel += 1
    if channel == channels:
        channel = 0
        image += 1
    return image, channel, position
