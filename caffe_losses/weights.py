"""What weight each element has in a loss, block by block.

A weighting is a function of a block: called with the block's index and scratch buffers, it returns
arrays that broadcast against that block. Weights of classes follow a mask or label: > 0 is
positive, = 0 negative, < 0 ignored. Where weights differ between images they include the
normalization, so that the loss is a plain sum over elements.
"""

from typing import Any, Callable, NamedTuple, Optional, Tuple

import numpy as np

from caffe_losses.blocks import Index, Scratch, Shape, for_each_block, part
from caffe_losses.shapes import product

BlockClasses = Tuple[np.ndarray, np.ndarray]
Coefficients = Tuple[np.ndarray, np.ndarray]

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


def as_weight(values: np.ndarray) -> np.ndarray:
    """Float32; float64 operands would make NumPy compute whole blocks in float64."""
    return np.asarray(values, dtype=np.float32)


class ClassesOfMask:
    """Which positions of an (N, C or 1, S) mask or label are positive and which negative."""

    def __init__(self, mask: np.ndarray) -> None:
        self.mask = mask
        self.shape = mask.shape

    def __call__(self, index: Index, scratch: Scratch) -> BlockClasses:
        mask = part(self.mask, index)
        positive = np.greater(mask, 0, out=scratch.take_bool(mask.shape))
        negative = np.equal(mask, 0, out=scratch.take_bool(mask.shape))
        return positive, negative


class ClassesOfTarget:
    """A position of an (N, C, S) target is positive where any of its channels is not zero."""

    def __init__(self, target: np.ndarray) -> None:
        self.target = target
        self.shape = (target.shape[0], 1, target.shape[2])

    def __call__(self, index: Index, scratch: Scratch) -> BlockClasses:
        images, _, positions = index
        target = self.target[images, :, positions]
        shape = (target.shape[0], 1, target.shape[2])
        positive, nonzero = scratch.take_bool(shape), scratch.take_bool(shape)
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
    for images, positive, negative in for_each_block(classes.shape, count):
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
        return int(np.count_nonzero(np.not_equal(block, value, out=scratch.take_bool(block.shape))))

    return sum(for_each_block(array.shape, count))


def is_binary(label: np.ndarray, counts: ClassCounts) -> bool:
    """Whether every label is 0 or 1, given how many are positive and negative."""
    ones = counts.positive.sum()
    return ones + counts.negative.sum() == label.size == ones + count_unequal(label, 1)


def normalizer(normalization: str, batch: float, count: float, valid: float) -> float:
    """What the sum is divided by, as Caffe's LossParameter means it: never less than 1."""
    divisors = {"NONE": 1, "FULL": count, "VALID": valid, "BATCH_SIZE": batch}
    return max(1.0, divisors[normalization])


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
    """The weight of each position: that of its class in its image, zero where ignored."""

    def __init__(self, classes: Any, weights: ClassWeights) -> None:
        self.classes = classes
        self.weights = weights

    def __call__(self, index: Index, scratch: Scratch) -> np.ndarray:
        positive, negative = self.classes(index, scratch)
        weight = weigh(positive, part(self.weights.positive, index), scratch)
        weight += weigh(negative, part(self.weights.negative, index), scratch)
        scratch.give_back()
        return weight


def weigh(members: np.ndarray, weight: np.ndarray, scratch: Scratch) -> np.ndarray:
    """The weight where an element is a member, 0 elsewhere."""
    weights = scratch.take(members.shape)
    np.copyto(weights, members)  # several times faster than to multiply booleans with floats
    weights *= weight
    return weights


class Constant:
    """The same weight for every element."""

    def __init__(self, weight: float) -> None:
        self.weight = np.full((1, 1, 1), weight, dtype=np.float32)

    def __call__(self, index: Index, scratch: Scratch) -> np.ndarray:
        return self.weight


class CoefficientsOfClasses:
    """What sp(score) and sp(-score) are multiplied with: w (1 - t) and w t for the label t."""

    def __init__(self, label: np.ndarray, weights: ClassWeights) -> None:
        self.label = label
        self.weight = WeightOfClasses(ClassesOfMask(label), weights)

    def __call__(self, index: Index, scratch: Scratch) -> Coefficients:
        weight = self.weight(index, scratch)
        positive = np.multiply(weight, self.label[index], out=scratch.take(weight.shape))
        negative = np.subtract(weight, positive, out=weight)
        return negative, positive


class CoefficientsOfLabel:
    """What sp(score) and sp(-score) are multiplied with: v (1 - t) and w t for the label t.

    w and v are the weights of the positive and the negative class. `element_weight`, which
    broadcasts, multiplies both.
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
        self.minus_negative = -weights.negative
        self.element_weight = element_weight
        self.ignore_label = ignore_label

    def __call__(self, index: Index, scratch: Scratch) -> Coefficients:
        label = self.label[index]
        negative_weight = part(self.weights.negative, index)
        negative, positive = scratch.take(label.shape), scratch.take(label.shape)
        if self.ignore_label is not None:
            valid = scratch.take_bool(label.shape)
            np.not_equal(label, np.float32(self.ignore_label), out=valid)
            label = np.multiply(label, valid, out=positive)
            negative_weight = weigh(valid, negative_weight, scratch)
            scratch.give_back()
        np.multiply(label, part(self.minus_negative, index), out=negative)
        negative += negative_weight
        np.multiply(label, part(self.weights.positive, index), out=positive)
        if self.element_weight is not None:
            element_weight = part(self.element_weight, index)
            negative *= element_weight
            positive *= element_weight
        return negative, positive
