"""What weight each element has in a loss, block by block.

A weighting is called with the index of a block and scratch memory, and returns an array that
broadcasts against that block; coefficients do so for each of the two terms of a cross-entropy, into
an array that they are given. `buffers` says how much scratch they need beyond that. Weights of
classes follow a mask or label: > 0 is positive, = 0 negative, < 0 ignored. Where weights differ
between images they include the normalization, so that the loss is a plain sum over elements.
"""

from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from caffe_losses.blocks import SHORTEST_ROW, Index, Scratch, Shape, for_each_block, part
from caffe_losses.kernels import ONE
from caffe_losses.shapes import product

# Two arrays of booleans.
BUFFERS_OF_CLASSES = 0.5

BlockClasses = Tuple[np.ndarray, np.ndarray]


class ClassWeights:
    """What a positive and a negative element weigh: float32 arrays that broadcast to (N, C, S)."""

    def __init__(self, both: Any) -> None:
        # Float64 operands would make NumPy compute whole blocks in float64.
        self.both = np.asarray(both, dtype=np.float32)
        self.positive, self.negative = self.both

    def times(self, scale: float) -> "ClassWeights":
        """These weights multiplied by a number."""
        return ClassWeights(self.both * np.float32(scale))

    def roots(self) -> "ClassWeights":
        """The square roots of these weights."""
        return ClassWeights(np.sqrt(self.both))

    def differ_linearly(self) -> bool:
        """Whether negative + (positive - negative) is precisely positive, to a few digits.

        Where the positive weight is far smaller, the sum has lost it.
        """
        return bool((8 * self.positive >= self.negative).all())


class ClassesOfMask:
    """Which positions of an (N, C or 1, S) mask or label are positive and which negative."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask
        self.shape = mask.shape

    def shape_of_block(self, index: Index) -> Tuple[int, ...]:
        return part(self.mask, index).shape

    def __call__(self, index: Index, scratch: Scratch) -> BlockClasses:
        mask = part(self.mask, index)
        positive = np.greater(mask, 0, out=scratch.take(mask.shape, np.bool_))
        negative = np.equal(mask, 0, out=scratch.take(mask.shape, np.bool_))
        return positive, negative


class ClassesOfTarget:
    """A position of an (N, C, S) target is positive where any of its channels is not zero."""

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        self.shape = (target.shape[0], 1, target.shape[2])

    def shape_of_block(self, index: Index) -> Tuple[int, ...]:
        return self.target[index[0], :1, index[2]].shape

    def __call__(self, index: Index, scratch: Scratch) -> BlockClasses:
        images, _, positions = index
        target = self.target[images, :, positions]
        shape = self.shape_of_block(index)
        positive, nonzero = scratch.take(shape, np.bool_), scratch.take(shape, np.bool_)
        np.not_equal(target[:, :1], 0, out=positive)
        for channel in range(1, target.shape[1]):
            np.not_equal(target[:, channel : channel + 1], 0, out=nonzero)
            np.logical_or(positive, nonzero, out=positive)
        return positive, np.logical_not(positive, out=nonzero)


def count_classes(classes: Any) -> np.ndarray:
    """How many positions of each image are positive and how many negative, shape (2, N)."""
    return count_members(classes.shape, 2, classes)


def count_binary(label: np.ndarray) -> Optional[np.ndarray]:
    """`count_classes` of a label or mask that is 0 or 1 everywhere; None for any other."""
    counts = count_values(label, 1, 0)
    return counts if counts.sum() == label.size else None


def is_binary(label: np.ndarray, scratch: Scratch) -> bool:
    """Whether every label of a block is 0 or 1."""
    mark = scratch.taken
    members = sum(map(np.count_nonzero, equal_to((0, 1), label, scratch)))
    scratch.release(mark)
    return bool(members == label.size)


def count_values(array: np.ndarray, *values: float) -> np.ndarray:
    """How many elements of each image have each of the values, shape (values, N)."""

    def equal(index: Index, scratch: Scratch) -> Iterator[np.ndarray]:
        return equal_to(values, array[index], scratch)

    return count_members(array.shape, len(values), equal)


def equal_to(values: Sequence[float], block: np.ndarray, scratch: Scratch) -> Iterator[np.ndarray]:
    """For each of the values which elements have it, in the same memory one after the other."""
    equal = scratch.take(block.shape, np.bool_)
    return (np.equal(block, value, out=equal) for value in values)


def count_members(
    shape: Shape, kinds: int, members: Callable[[Index, Scratch], Iterable[np.ndarray]]
) -> np.ndarray:
    """How many members of each kind each image has, shape (kinds, N).

    `members` tells which elements of a block are, in an array of booleans for each kind.
    """

    def count(index: Index, scratch: Scratch) -> Tuple[slice, List[Any]]:
        return index[0], [count_each(kind) for kind in members(index, scratch)]

    counts = np.zeros((kinds, shape[0]))
    for images, numbers in for_each_block(shape, BUFFERS_OF_CLASSES, count):
        for kind, number in zip(counts, numbers):
            kind[images] += number
    return counts


def count_each(members: np.ndarray) -> Any:
    """The number of true elements in each image of a block."""
    if len(members) == 1:
        return np.count_nonzero(members)
    rows = members.reshape(len(members), -1)
    if rows.shape[1] < SHORTEST_ROW:
        return np.count_nonzero(rows, axis=1)
    return [np.count_nonzero(row) for row in rows]  # several times faster


def normalizer(normalization: str, batch: float, count: float, valid: float) -> float:
    """What the sum is divided by, as Caffe's LossParameter means it; 1 where that would be 0."""
    divisors = {"NONE": 1, "FULL": count, "VALID": valid, "BATCH_SIZE": batch}
    return divisors[normalization] or 1


def class_weights(
    counts: np.ndarray,
    shape: Shape,
    repeats: int,
    balance: str,
    normalization: str,
    mean_over_ranks: Callable[..., np.ndarray],
) -> ClassWeights:
    """The weight of a positive and a negative position in each image, normalization included.

    With P and Q positive and negative positions, the `counts`, a positive one weighs Q / (P + Q), a
    negative one P / (P + Q): the two classes then weigh the same, and nothing where one of them is
    missing. `repeats` is the number of elements at each position.
    """
    batch, count, *totals = mean_over_ranks(shape[0], product(shape), *counts.sum(axis=1))
    if balance == "batch":
        counts = np.repeat([totals], shape[0], axis=0).T
    positive, negative = counts
    if balance == "none":
        weights = np.ones_like(counts)
    else:
        weights = counts[::-1] / np.maximum(positive + negative, 1.0)
    if normalization == "WEIGHT":
        divisor = weights[0] * positive + weights[1] * negative
        divisor *= repeats if balance == "batch" else repeats * batch
        divisor[divisor == 0] = np.inf  # nothing weighs anything
    else:
        divisor = normalizer(normalization, batch, count, repeats * sum(totals))
    weights /= divisor
    return ClassWeights(weights.reshape(2, -1, 1, 1))


class WeightOfClasses:
    """The weight of each position: that of its class in its image, zero where ignored.

    `repeats` is the number of elements at each position, which share its weight.
    """

    def __init__(self, classes: Any, weights: ClassWeights, repeats: int = 1) -> None:
        self.classes = classes
        self.weights = weights
        self.buffers = (2 + BUFFERS_OF_CLASSES) / repeats

    def __call__(
        self, index: Index, scratch: Scratch, out: Optional[np.ndarray] = None
    ) -> np.ndarray:
        if out is None:
            out = scratch.take(self.classes.shape_of_block(index))
        mark = scratch.taken
        positive, negative = self.classes(index, scratch)
        weight = weigh(positive, part(self.weights.positive, index), out)
        other = scratch.take(weight.shape)
        weight += weigh(negative, part(self.weights.negative, index), other)
        scratch.release(mark)
        return weight


def weigh(members: np.ndarray, weight: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The weight where an element is a member, 0 elsewhere."""
    np.copyto(out, members)  # several times faster than to multiply booleans with floats
    out *= weight
    return out


class WeightOfBinary:
    """`WeightOfClasses` of a mask m of 0 and 1: negative + (positive - negative) m."""

    def __init__(
        self, mask: np.ndarray, positive: np.ndarray, negative: np.ndarray, repeats: int = 1
    ) -> None:
        self.mask = mask
        self.negative = negative
        self.difference = positive - negative
        self.buffers = 1 / repeats

    def __call__(
        self, index: Index, scratch: Scratch, out: Optional[np.ndarray] = None
    ) -> np.ndarray:
        mask = part(self.mask, index)
        if out is None:
            out = scratch.take(mask.shape)
        np.multiply(mask, part(self.difference, index), out=out)
        out += part(self.negative, index)
        return out


class Constant:
    """The same weight for every element."""

    buffers = 0

    def __init__(self, weight: float) -> None:
        self.weight: np.ndarray = np.full((1, 1, 1), weight, dtype=np.float32)

    def __call__(self, index: Index, scratch: Scratch) -> np.ndarray:
        return self.weight


class CoefficientsOfClasses:
    """What sp(score) and sp(-score) are multiplied with: w (1 - t) and w t for the label t."""

    buffers = 1 + BUFFERS_OF_CLASSES

    def __init__(self, label: np.ndarray, weights: ClassWeights) -> None:
        self.label = label
        self.weight = WeightOfClasses(ClassesOfMask(label), weights)

    def negative(self, index: Index, scratch: Scratch, out: np.ndarray) -> np.ndarray:
        mark = scratch.taken
        weight = self.weight(index, scratch, out)
        # Not w - w t, of which little is left for soft labels near 1.
        weight *= np.subtract(ONE, self.label[index], out=scratch.take(weight.shape))
        scratch.release(mark)
        return weight

    def positive(self, index: Index, scratch: Scratch, out: np.ndarray) -> np.ndarray:
        weight = self.weight(index, scratch, out)
        weight *= self.label[index]
        return weight


class CoefficientsOfLabel:
    """What sp(score) and sp(-score) are multiplied with: v (1 - t) and w t for the label t.

    w and v are the weights of the positive and the negative class. `element_weight`, which
    broadcasts, multiplies both; both are 0 where the label is `ignore_label`.
    """

    def __init__(
        self,
        label: np.ndarray,
        weights: ClassWeights,
        element_weight: Optional[np.ndarray] = None,
        ignore_label: Optional[float] = None,
    ) -> None:
        self.label = label
        self.weights = weights
        self.element_weight = element_weight
        self.ignore_label = ignore_label
        self.buffers = 0 if ignore_label is None else 1

    def negative(self, index: Index, scratch: Scratch, out: np.ndarray) -> np.ndarray:
        label = self.valid(self.label[index], index, scratch, out)
        # Not v - v t, which would lose the last digits of soft labels near 1.
        np.subtract(ONE, label, out=out)
        out *= part(self.weights.negative, index)
        return self.of_elements(self.valid(out, index, scratch, out), index)

    def positive(self, index: Index, scratch: Scratch, out: np.ndarray) -> np.ndarray:
        label = self.valid(self.label[index], index, scratch, out)
        np.multiply(label, part(self.weights.positive, index), out=out)
        return self.of_elements(out, index)

    def valid(
        self, values: np.ndarray, index: Index, scratch: Scratch, out: np.ndarray
    ) -> np.ndarray:
        """The values, 0 where the label is ignored."""
        if self.ignore_label is None:
            return values
        mark = scratch.taken
        valid = scratch.take(out.shape, np.bool_)
        np.not_equal(self.label[index], np.float32(self.ignore_label), out=valid)
        np.multiply(values, valid, out=out)
        scratch.release(mark)
        return out

    def of_elements(self, coefficient: np.ndarray, index: Index) -> np.ndarray:
        """The coefficient times the weight of each element."""
        if self.element_weight is not None:
            coefficient *= part(self.element_weight, index)
        return coefficient
