"""The losses as functions of arrays: what the layers compute, without Caffe.

All arrays are (N, C, S): batch, channels, positions. Weightings and coefficients come from
`weights.py`.
"""

import math
from functools import partial
from typing import Any, Callable, Tuple

import numpy as np

from caffe_losses import kernels
from caffe_losses.blocks import Index, Scratch, dot, for_each_block, sum_over_blocks
from caffe_losses.weights import ClassWeights, CoefficientsOfLabel, WeightOfBinary, is_binary

# Two sums in float64 and their difference in float32.
DIFFERENCE_BUFFERS = 5


def squared_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """Half the sum of (x - t)^2."""

    def block_sum(index: Index, scratch: Scratch) -> float:
        return kernels.squared_error(prediction[index], target[index], scratch)

    return sum_over_blocks(prediction.shape, 1, block_sum) / 2


def weighted_squared_error(prediction: np.ndarray, target: np.ndarray, root: Any) -> float:
    """Half the sum of w (x - t)^2; `root` is the weighting by the square root of w."""

    def block_sum(index: Index, scratch: Scratch) -> float:
        return kernels.weighted_squared_error(
            prediction[index], target[index], root(index, scratch), scratch
        )

    return sum_over_blocks(prediction.shape, 1 + root.buffers, block_sum) / 2


def squared_error_gradient(
    prediction: np.ndarray, target: np.ndarray, weighting: Any, out: np.ndarray
) -> None:
    """w (x - t), the gradient to the prediction x, written to `out`."""

    def write_block(index: Index, scratch: Scratch) -> None:
        weight = weighting(index, scratch)
        kernels.squared_error_gradient(prediction[index], target[index], weight, out[index])

    for_each_block(prediction.shape, weighting.buffers, write_block)


def cross_entropy(score: np.ndarray, coefficients: Any) -> float:
    """The sum of a sp(x) + b sp(-x) for the coefficients a, b; sp(z) = ln(1 + e^z)."""
    block_sum = partial(cross_entropy_of_block, score, coefficients)
    return sum_over_blocks(score.shape, 3 + coefficients.buffers, block_sum, operations=20)


def cross_entropy_of_block(
    score: np.ndarray, coefficients: Any, index: Index, scratch: Scratch
) -> float:
    """`cross_entropy` of one block."""
    negative = partial(coefficients.negative, index, scratch)
    positive = partial(coefficients.positive, index, scratch)
    return kernels.cross_entropy(score[index], negative, positive, scratch)


def cross_entropy_gradient(score: np.ndarray, coefficients: Any, out: np.ndarray) -> None:
    """a sigmoid(x) - b sigmoid(-x), the gradient to the score x, written to `out`."""

    def write_block(index: Index, scratch: Scratch) -> None:
        negative = partial(coefficients.negative, index, scratch)
        positive = partial(coefficients.positive, index, scratch)
        kernels.cross_entropy_gradient(score[index], negative, positive, out[index], scratch)

    for_each_block(score.shape, 2 + coefficients.buffers, write_block, operations=12)


def binary_cross_entropy(score: np.ndarray, label: np.ndarray, weights: ClassWeights) -> float:
    """`cross_entropy` of labels that are all 0 or 1, in fewer passes."""
    block_sum = binary_cross_entropy_of_block(score, label, weights)
    return sum_over_blocks(score.shape, 3, block_sum, operations=12)


def binary_cross_entropy_of_block(
    score: np.ndarray, label: np.ndarray, weights: ClassWeights
) -> Callable[[Index, Scratch], float]:
    """The function that computes `binary_cross_entropy` of a block."""
    weighting = WeightOfBinary(label, weights.positive, weights.negative)

    def block_sum(index: Index, scratch: Scratch) -> float:
        weight = partial(weighting, index, scratch)
        total = kernels.binary_cross_entropy(score[index], label[index], weight, scratch)
        if not math.isfinite(total):  # scores that are wrong by more than 88
            scratch.release()
            coefficients = CoefficientsOfLabel(label, weights)
            total = cross_entropy_of_block(score, coefficients, index, scratch)
        return total

    return block_sum


def cross_entropy_of_labels(
    score: np.ndarray, label: np.ndarray, weights: ClassWeights
) -> Tuple[float, bool]:
    """`cross_entropy` of labels from 0 to 1, and whether all of them are 0 or 1.

    Each block in which all are takes fewer passes.
    """
    binary_block_sum = binary_cross_entropy_of_block(score, label, weights)
    binary = []

    def block_sum(index: Index, scratch: Scratch) -> float:
        block_is_binary = is_binary(label[index], scratch)
        binary.append(block_is_binary)
        if block_is_binary:
            return binary_block_sum(index, scratch)
        coefficients = CoefficientsOfLabel(label, weights)
        return cross_entropy_of_block(score, coefficients, index, scratch)

    total = sum_over_blocks(score.shape, 3, block_sum, operations=12)
    return total, all(binary)


def binary_cross_entropy_gradient(
    score: np.ndarray, label: np.ndarray, weights: ClassWeights, out: np.ndarray
) -> None:
    """`cross_entropy_gradient` of labels that are all 0 or 1, in fewer passes."""
    weighting = WeightOfBinary(label, -weights.positive, weights.negative)

    def write_block(index: Index, scratch: Scratch) -> None:
        weight = partial(weighting, index, scratch)
        kernels.binary_cross_entropy_gradient(
            score[index], label[index], weight, out[index], scratch
        )

    for_each_block(score.shape, 1, write_block, operations=8)


def channel_sum_difference(
    prediction: np.ndarray, target: np.ndarray, index: Index, scratch: Scratch
) -> np.ndarray:
    """s(x) - s(t) of a block of positions, s being the sum over axis 1.

    Sums may cancel, so they and their difference are taken in float64.
    """
    images, _, positions = index
    shape = prediction[images, :1, positions].shape
    sums = scratch.take(shape, np.float64), scratch.take(shape, np.float64)
    for array, out in zip((prediction, target), sums):
        np.add.reduce(array[images, :, positions], axis=1, keepdims=True, out=out)
    return np.subtract(*sums, out=scratch.take(shape), casting="same_kind")


def channel_sum_squared_error(prediction: np.ndarray, target: np.ndarray) -> float:
    """Half the sum of (s(x) - s(t))^2."""

    def block_sum(index: Index, scratch: Scratch) -> float:
        difference = channel_sum_difference(prediction, target, index, scratch)
        return dot(difference, difference)

    total = sum_over_blocks(
        positions_of(prediction), DIFFERENCE_BUFFERS, block_sum, operations_of_sums(prediction)
    )
    return total / 2


def channel_sum_squared_error_gradient(
    prediction: np.ndarray, target: np.ndarray, scale: float, out: np.ndarray
) -> None:
    """scale * (s(x) - s(t)), the same for every element that was summed, written to `out`."""
    factor = np.float32(scale)

    def write_block(index: Index, scratch: Scratch) -> None:
        images, _, positions = index
        difference = channel_sum_difference(prediction, target, index, scratch)
        difference *= factor
        out[images, :, positions] = difference

    for_each_block(
        positions_of(prediction), DIFFERENCE_BUFFERS, write_block, operations_of_sums(prediction)
    )


def positions_of(array: np.ndarray) -> Tuple[int, int, int]:
    """The shape of an (N, C, S) array after a sum over its channels."""
    return array.shape[0], 1, array.shape[2]


def operations_of_sums(array: np.ndarray) -> int:
    """About how many operations on a position the difference of two sums over channels takes."""
    return 10 * array.shape[1]  # to sum in float64 takes long
