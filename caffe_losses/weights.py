"""What weight each element has in a loss, block by block.

A weighting is called with the index of a block and scratch memory, and returns an array that
broadcasts against that block; coefficients do so for each of the two terms of a cross-entropy, into
an array that they are given. `buffers` says how much scratch they need beyond that. Weights of
classes follow a mask or label: > 0 is
positive, = 0 negative, < 0 ignored. Where weights differ between images they include the
normalization, so that the loss is a plain sum over elements.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.blocks import Index, Scratch, Shape, for_each_block, part
from caffe_losses.shapes import product

ONE = np.float32(1)

BlockClasses = Tuple[np.ndarray, np.ndarray]

# How many positions of each image are positive and negative, shape (N,).
ClassCounts = NamedTuple("ClassCounts", [("positive", np.ndarray), ("negative", np.ndarray)])


class ClassWeights:
    """What a positive and a negative element weigh: float32 arrays that broadcast to (N, C, S)."""

    def __init__(self, positive: np.ndarray, negative: np.ndarray) -> None:
        self.positive = positive
        self.negative = negative

    def times(self, scale: float) -> "ClassWeights":
        """These weights multiplied by a number."""
        factor = np.float32(scale)
        return ClassWeights(self.positive * factor, self.negative * factor)

    def differ_linearly(self) -> bool:
        """Whether negative + (positive - negative) is precisely positive, to a few digits.

        Where the positive weight is far smaller, the sum has lost it.
        """
        return bool((8 * np.abs(self.positive) >= np.abs(self.negative)).all())


def as_weight(values: np.ndarray) -> np.ndarray:
    """Float32; float64 operands would make NumPy compute whole blocks in float64."""
    return np.asarray(values, dtype=np.float32)


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


def count_classes(classes: Any) -> ClassCounts:
    """How many positions of each image are positive and negative."""

    def count(index: Index, scratch: Scratch) -> Tuple[slice, Any, Any]:
        positive, negative = classes(index, scratch)
        return index[0], count_each(positive), count_each(negative)

    counts = ClassCounts(np.zeros(classes.shape[0]), np.zeros(classes.shape[0]))
    for images, positive, negative in for_each_block(classes.shape, 1, count):
        counts.positive[images] += positive
        counts.negative[images] += negative
    return counts


def count_each(members: np.ndarray) -> Any:
    """The number of true elements in each image of a block."""
    if len(members) == 1:  # counting without an axis is several times faster
        return np.count_nonzero(members)
    return np.count_nonzero(members.reshape(len(members), -1), axis=1)


def count_unequal(array: np.ndarray, value: float) -> int:
    """The number of elements that differ from a value."""

    def count(index: Index, scratch: Scratch) -> int:
        block = array[index]
        differs = np.not_equal(block, value, out=scratch.take(block.shape, np.bool_))
        return int(np.count_nonzero(differs))

    return sum(for_each_block(array.shape, 1, count))


def is_binary(label: np.ndarray, zeros: int) -> bool:
    """Whether every label is 0 or 1, given how many are 0."""
    return zeros == count_unequal(label, 1)


def normalizer(normalization: str, batch: float, count: float, valid: float) -> float:
    """What the sum is divided by, as Caffe's LossParameter means it; 1 where that would be 0."""
    divisors = {"NONE": 1, "FULL": count, "VALID": valid, "BATCH_SIZE": batch}
    return divisors[normalization] or 1


def class_weights(
    counts: ClassCounts,
    shape: Shape,
    repeats: int,
    balance: str,
    normalization: str,
    mean_over_ranks: Callable[..., np.ndarray],
) -> ClassWeights:
    """The weight of a positive and a negative position in each image, normalization included.

    With P and Q positive and negative positions a positive one weighs Q / (P + Q), a negative one
    P / (P + Q): the two classes then weigh the same, and nothing where one of them is missing.
    `repeats` is the number of elements at each position.
    """
    batch, count, positives, negatives = mean_over_ranks(
        shape[0], product(shape), counts.positive.sum(), counts.negative.sum()
    )
    positive, negative = counts
    if balance == "batch":
        positive, negative = (np.full(shape[0], total) for total in (positives, negatives))
    if balance == "none":
        positive_weight = negative_weight = np.ones(shape[0])
    else:
        present = np.maximum(positive + negative, 1)
        positive_weight, negative_weight = negative / present, positive / present
    if normalization == "WEIGHT":
        total = repeats * (positive_weight * positive + negative_weight * negative)
        divisor = total if balance == "batch" else batch * total
    else:
        valid = repeats * (positives + negatives)
        divisor = np.full(shape[0], normalizer(normalization, batch, count, valid))
    # Where nothing weighs anything there is nothing to divide.
    scale = np.where(divisor > 0, 1 / np.maximum(divisor, np.finfo(np.float64).tiny), 0)
    weights = (scale * weight for weight in (positive_weight, negative_weight))
    return ClassWeights(*(as_weight(weight.reshape(-1, 1, 1)) for weight in weights))


class WeightOfClasses:
    """The weight of each position: that of its class in its image, zero where ignored.

    `repeats` is the number of elements at each position, which share its weight.
    """

    def __init__(self, classes: Any, weights: ClassWeights, repeats: int = 1) -> None:
        self.classes = classes
        self.weights = weights
        # What else is needed on the way is free before more is taken.
        self.buffers = 1 / repeats

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


class Constant:
    """The same weight for every element."""

    buffers = 0

    def __init__(self, weight: float) -> None:
        self.weight: np.ndarray = np.full((1, 1, 1), weight, dtype=np.float32)

    def __call__(self, index: Index, scratch: Scratch) -> np.ndarray:
        return self.weight


class CoefficientsOfClasses:
    """What sp(score) and sp(-score) are multiplied with: w (1 - t) and w t for the label t."""

    buffers = 2  # two of booleans and one of floats

    def __init__(self, label: np.ndarray, weights: ClassWeights) -> None:
        self.label = label
        self.weight = WeightOfClasses(ClassesOfMask(label), weights)

    def negative(self, index: Index, scratch: Scratch, out: np.ndarray) -> np.ndarray:
        mark = scratch.taken
        weight = self.weight(index, scratch, out)
        # Not w - w t, of which little is left for soft labels near 1.
        weight *= np.subtract(1, self.label[index], out=scratch.take(weight.shape))
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
