"""Counts of labels: how many are positive, negative or ignored, and how many are wrong."""

import functools
from typing import Any, Callable, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, maximum, minimum, where
from caffe_losses.loops import engine
from caffe_losses.loops.along_axis import class_of
from caffe_losses.loops.parts import (
    PART,
    ROW,
    SHORTEST_ROW,
    STRETCH,
    Index,
    Part,
    blocks,
    parts,
    slices,
)
from caffe_losses.loops.rows import after, mark_any_channel, multiply, sum_of, tally
from caffe_losses.loops.threads import for_each_part
from caffe_losses.weights import label_to_ignore

Groups = Tuple[int, int]
Loop = Callable[[np.ndarray, np.ndarray, bool, Groups], np.ndarray]


class Counts:
    """How many labels there are of each kind."""

    def __init__(self, kinds: np.ndarray, size: int, limits: np.ndarray) -> None:
        others = kinds.reshape(-1, 4)
        others = others[0] if len(others) == 1 else others.sum(axis=0)
        self.ignored, right = int(others[2]), int(others[3])  # the ignore_label, and in range
        if self.ignored:
            # What is ignored is nothing else. Only here: each comparison in a loop costs its time.
            lowest, highest, ignore_label = limits
            kinds[:, :, 0] -= kinds[:, :, 2] * (ignore_label > 0)
            kinds[:, :, 1] -= kinds[:, :, 2] * (ignore_label == 0)
            right -= self.ignored * bool(lowest <= ignore_label <= highest)
        self.wrong = size - self.ignored - right  # out of range, NaN among them
        self.classes = kinds[:, :, :2].transpose(2, 0, 1)  # (2, images, channels): above 0, and 0


def count(
    label: np.ndarray,
    groups: Groups = (1, 1),
    lowest: float = -np.inf,
    highest: float = np.inf,
    ignore_label: Optional[float] = None,
    any_channel: bool = False,
) -> Counts:
    """Counts the labels (N, C, S); `groups` is for how many images and channels apart.

    Labels from the lowest to the highest are right. What is ignored is nothing else. With
    `any_channel` positions are counted, as positive where any of their labels is not 0.
    """
    limits = np.array([lowest, highest, label_to_ignore(ignore_label)], np.float32)
    batch, channels, positions = label.shape
    size = batch * positions * (1 if any_channel else channels)
    run = loop()
    if positions < SHORTEST_ROW and any_channel:
        run = count_in_blocks
    elif positions < SHORTEST_ROW and groups[1] == 1:
        label = label.reshape(groups[0], 1, size // max(groups[0], 1))
    return Counts(run(label, limits, any_channel, groups), size, limits)


@functools.lru_cache(maxsize=None)
def loop() -> Loop:
    """The loop of the engine; it returns counts (images, channels, 4).

    They are the labels above 0, those of 0, those that are the ignore_label, and those in range.
    """
    plain: Loop = count_in_blocks
    return engine.loop(compiled_loop, plain)


def count_in_blocks(
    label: np.ndarray, limits: np.ndarray, any_channel: bool, groups: Groups
) -> np.ndarray:
    """NumPy's loop."""
    lowest, highest, ignore_label = limits
    axes = tuple(axis for axis, length in enumerate((*groups, 1)) if length == 1)
    counts = np.zeros((*groups, 4))

    def count_block(index: Index) -> Tuple[Tuple[slice, ...], np.ndarray]:
        block = label[index]
        if any_channel:
            block = np.any(label[index[0], :, index[2]] != 0, axis=1, keepdims=True)
        in_range = (block >= lowest) & (block <= highest)
        kinds = (block > 0, block == 0, block == ignore_label, in_range)
        sums = [count_true(kind, axes) for kind in kinds]
        place = (part if length > 1 else slice(1) for part, length in zip(index, groups))
        return tuple(place), np.stack(sums, 2)

    batch, channels, positions = label.shape
    for place, sums in for_each_part(
        count_block, blocks((batch, 1 if any_channel else channels, positions))
    ):
        counts[place] += sums
    return counts


def count_true(condition: np.ndarray, axes: Tuple[int, ...]) -> np.ndarray:
    """How often it holds along some axes, of which the last is one; that one goes."""
    if all(condition.shape[axis] == 1 for axis in range(3) if axis not in axes):
        # NumPy counts eight at a time where it need not tell apart what it counts.
        return np.full((1, 1), np.count_nonzero(condition))
    return condition.sum(axis=axes, keepdims=True)[:, :, 0]


def compiled_loop() -> Loop:
    """Numba's loop."""
    from caffe_losses.loops import numba_engine

    example = np.zeros((1, 1, 1), np.float32), np.zeros(3, np.float32), False, np.zeros((1, 1, 4))
    count_rows_compiled = numba_engine.loop(count_rows, "labels", (*example, 0, 1))

    def count_in_parts(
        label: np.ndarray, limits: np.ndarray, any_channel: bool, groups: Groups
    ) -> np.ndarray:
        batch, channels, positions = label.shape
        size = (1 if any_channel else channels) * positions
        counts = np.zeros((*groups, 4))
        if batch * size <= PART:
            count_rows_compiled(label, limits, any_channel, counts, 0, batch * size)
            return counts

        def count_part(part: Part) -> Tuple[slice, np.ndarray]:
            first, last = part[0] // size, -(-part[1] // size)
            images = slice(first, last) if groups[0] > 1 else slice(1)
            own = np.zeros((last - first if groups[0] > 1 else 1, groups[1], 4))
            start, stop = part[0] - first * size, part[1] - first * size
            count_rows_compiled(label[first:last], limits, any_channel, own, start, stop)
            return images, own

        for images, own in for_each_part(count_part, parts(batch * size)):
            counts[images] += own
        return counts

    return count_in_parts


def count_rows(
    label: np.ndarray,
    limits: np.ndarray,
    any_channel: bool,
    counts: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Adds up the elements from start to stop as they lie in memory, or the positions."""
    channels, positions = 1 if any_channel else label.shape[1], label.shape[2]
    buffer = np.empty(STRETCH, np.float32)
    longest = buffer.size if any_channel else PART
    row = start // positions
    image, channel, position = row // channels, row % channels, start - row * positions
    if positions < SHORTEST_ROW:
        count_one_by_one(label, limits, counts, (image, channel, position), stop - start)
        return
    while start < stop:
        step = min(positions - position, longest, stop - start)
        labels = label[image, channel, position : position + step]
        if any_channel:
            labels = buffer[:step]
            mark_any_channel(labels, label, image, slice(position, position + step))
        positive, negative, ignored, right = count_row(labels, limits[0], limits[1], limits[2])
        group = counts[min(image, counts.shape[0] - 1), min(channel, counts.shape[1] - 1)]
        group[0] += positive
        group[1] += negative
        group[2] += ignored
        group[3] += right
        start += step
        image, channel, position = after(step, image, channel, position, channels, positions)


def count_one_by_one(
    labels: np.ndarray,
    limits: np.ndarray,
    counts: np.ndarray,
    place: Tuple[int, int, int],
    number: int,
) -> None:
    """Adds up so many elements from this image, channel and position on."""
    image, channel, position = place
    channels, positions = labels.shape[1:]
    for _ in range(number):
        label = labels[image, channel, position]
        group = min(image, counts.shape[0] - 1), min(channel, counts.shape[1] - 1)
        counts[group[0], group[1], 0] += label > ZERO
        counts[group[0], group[1], 1] += label == ZERO
        counts[group[0], group[1], 2] += label == limits[2]
        counts[group[0], group[1], 3] += (label >= limits[0]) & (label <= limits[1])
        image, channel, position = after(1, image, channel, position, channels, positions)


def count_row(labels: np.ndarray, lowest: Any, highest: Any, ignore_label: Any) -> Any:
    """How many labels of a row are above 0, are 0, are the ignore_label, and are in range."""
    positive = negative = ignored = right = ZERO
    for i in range(labels.size):
        label = labels[i]
        positive = tally(positive, label > ZERO)
        negative = tally(negative, label == ZERO)
        ignored = tally(ignored, label == ignore_label)
        # A comparison takes longer than a minimum and a maximum.
        right = tally(right, minimum(maximum(label, lowest), highest) == label)
    return positive, negative, ignored, right


# Labels that are class numbers

ClassCounts = NamedTuple(
    "ClassCounts",
    [
        ("wrong", int),  # labels that are neither class numbers nor ignored
        ("valid", int),  # class numbers
        ("positive", int),  # class numbers that are not 0, which is the background
        ("weight", float),  # the sum of the weights of all class numbers
    ],
)
ClassLoop = Callable[[np.ndarray, np.ndarray, np.ndarray, Any], np.ndarray]


def count_classes(
    label: np.ndarray,
    of_class: np.ndarray,
    weight: Optional[np.ndarray] = None,
    ignore_label: Optional[float] = None,
) -> ClassCounts:
    """Counts the labels from 0 to K - 1; `of_class` are the K weights of the classes.

    The weight of a position is that of its class, times a weight of its own where there is one.
    """
    own = np.zeros(0, np.float32) if weight is None else weight.reshape(-1)
    ignored = label_to_ignore(ignore_label)
    wrong, valid, positive, total = class_loop()(label.reshape(-1), own, of_class, ignored)
    return ClassCounts(int(wrong), int(valid), int(positive), float(total))


@functools.lru_cache(maxsize=None)
def class_loop() -> ClassLoop:
    """The loop of the engine; it returns the four counts."""
    plain: ClassLoop = count_classes_in_blocks
    return engine.loop(compiled_class_loop, plain)


def count_classes_in_blocks(
    label: np.ndarray, weight: np.ndarray, of_class: np.ndarray, ignore_label: Any
) -> np.ndarray:
    """NumPy's loop."""

    def count_block(here: slice) -> np.ndarray:
        labels = label[here]
        number = class_of(labels, np.float32(of_class.size), ignore_label)
        valid = number >= 0
        weights = of_class.astype(np.float64)[number[valid].astype(np.intp)]
        if weight.size:
            with np.errstate(all="ignore"):
                weights = weights * weight[here][valid]
        wrong = ~valid & (labels != ignore_label)
        kinds = map(np.count_nonzero, (wrong, valid, number > 0))
        with np.errstate(all="ignore"):  # weights may be infinite
            return np.array([*kinds, weights.sum()])

    counted = for_each_part(count_block, slices(label.size, 32 * ROW))
    return sum(counted, np.zeros(4))


def compiled_class_loop() -> ClassLoop:
    """Numba's loop."""
    from caffe_losses.loops import numba_engine

    example = (*[np.zeros(1, np.float32)] * 2, np.zeros(1), ONE, np.zeros(4))
    count_compiled = numba_engine.loop(count_class_numbers, "labels", example)

    def count_in_parts(
        label: np.ndarray, weight: np.ndarray, of_class: np.ndarray, ignore_label: Any
    ) -> np.ndarray:
        def count_part(part: Part) -> np.ndarray:
            here, counts = slice(*part), np.zeros(4)
            count_compiled(label[here], weight[here], of_class, ignore_label, counts)
            return counts

        return sum(for_each_part(count_part, parts(label.size)), np.zeros(4))

    return count_in_parts


def count_class_numbers(
    label: np.ndarray,
    weight: np.ndarray,
    of_class: np.ndarray,
    ignore_label: Any,
    counts: np.ndarray,
) -> None:
    """Adds up a part of the labels."""
    number, weights = np.empty(ROW, np.int32), np.empty(ROW, np.float64)
    classes = np.float32(of_class.size)
    table = np.append(of_class, 0.0)
    for start in range(0, label.size, ROW):
        stop = min(start + ROW, label.size)
        row = number[: stop - start]
        wrong, valid, positive = count_numbers(row, label[start:stop], classes, ignore_label)
        counts[0] += wrong
        counts[1] += valid
        counts[2] += positive
        for i in range(row.size):
            weights[i] = table[np.uint32(row[i])]  # not a number that may count from the end
        if weight.size:
            multiply(weights[: row.size], weight[start:stop])
        counts[3] += sum_of(weights[: row.size])


def count_numbers(number: np.ndarray, label: np.ndarray, classes: Any, ignore_label: Any) -> Any:
    """Sets the class numbers of a row, to K where there is none.

    Returns how many are wrong, valid and positive.
    """
    wrong = valid = positive = ZERO
    for i in range(label.size):
        found = class_of(label[i], classes, ignore_label)
        number[i] = np.int32(where(found < ZERO, classes, found))
        wrong = tally(wrong, (found < ZERO) & (label[i] != ignore_label))
        valid = tally(valid, found >= ZERO)
        positive = tally(positive, found > ZERO)
    return wrong, valid, positive
