"""The loop element by element: the weighted sum of a formula, and its gradient, in one pass."""

import functools
import inspect
import math
from typing import Any, Callable, NamedTuple, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, where
from caffe_losses.loops import engine
from caffe_losses.loops.parts import (
    ROW,
    SHORTEST_ROW,
    STRETCH,
    Index,
    Part,
    Result,
    blocks,
    combined,
    parts,
    total,
)
from caffe_losses.loops.rows import (
    add,
    after,
    copy,
    end_of_row,
    fill,
    ignore,
    mark_any_channel,
    multiply,
    sum_of_bits,
    weigh_classes,
    weigh_marked,
)
from caffe_losses.loops.threads import for_each_part
from caffe_losses.weights import Weights, uniform, weighted

Formula = Callable[..., Tuple[Any, Any]]
Blobs = NamedTuple(
    "Blobs",
    [  # arrays are (N, C, S); one without elements stands for a gradient that is not wanted
        ("prediction", np.ndarray),
        ("target", np.ndarray),
        ("gradient", np.ndarray),  # to the prediction
        ("opposite", np.ndarray),  # to the target: the negative of the other
        ("parameter", np.ndarray),  # the formula's third argument, one or one for each channel
        ("parameter_factor", np.ndarray),  # (N or 1, C or 1, S): multiplies that of each element
        ("loss_weight", Any),  # float32: what both gradients are multiplied with
    ],
)
Loop = Callable[[Blobs, Weights], Result]
NO_PARAMETER, ONE_PARAMETER = np.zeros(1, np.float32), np.ones(1, np.float32)
BLOB = np.zeros((1, 1, 1), np.float32)
EXAMPLE = Blobs(BLOB, BLOB, BLOB, BLOB, NO_PARAMETER, BLOB, ONE), uniform(1)


def pointwise(formula: Formula, blobs: Blobs, weights: Weights, dtype: Any = np.float32) -> Result:
    """The sum of weight * value; writes loss_weight * weight * derivative as the gradient.

    The sum is not finite where a bottom is not, whatever that element weighs, or where the gradient
    overflows. With `dtype` float64 NumPy computes in that precision.
    """
    if blobs.prediction.shape[2] < SHORTEST_ROW:
        blobs, weights = with_long_rows(blobs, weights)
    channels, positions = blobs.prediction.shape[1:]
    has_rows = positions >= SHORTEST_ROW
    if dtype == np.float64 or (weights.any_channel and not has_rows):
        return run_blocks(formula, blobs, weights, dtype)
    is_shared = has_rows and (weights.any_channel or weights.mask.shape[1] == 1 < channels)
    return loop(formula, is_shared)(blobs, weights)


def with_long_rows(blobs: Blobs, weights: Weights) -> Tuple[Blobs, Weights]:
    """The same elements with channels, and with images that weigh the same, side by side.

    They stay as they are where channels share a mask or weights, or have their own class weights.
    """
    batch, channels, positions = blobs.prediction.shape
    given = [
        each for each in (weights.mask, weights.of_element, blobs.parameter_factor) if each.size
    ]
    is_shared = weights.any_channel or any(each.shape[1] < channels for each in given)
    if is_shared or weights.positive.shape[1] > 1 or blobs.prediction.size == 0:
        return blobs, weights
    parameter, factor, images = blobs.parameter, blobs.parameter_factor, 1
    if weights.positive.shape[0] == 1:
        images = batch if parameter.size == 1 else math.gcd(batch, ROW)
    if parameter.size > 1:  # a loss has one for each channel, or a factor
        parameter, factor = ONE_PARAMETER, np.tile(parameter.repeat(positions), images)

    def joined(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, 1, images * channels * positions) if array.size else array

    x, t, gradient, opposite = map(joined, blobs[:4])
    return (
        Blobs(x, t, gradient, opposite, parameter, joined(factor), blobs.loss_weight),
        weights._replace(mask=joined(weights.mask), of_element=joined(weights.of_element)),
    )


@functools.lru_cache(maxsize=None)
def loop(formula: Formula, is_shared: bool) -> Loop:
    """The loop of the engine for this formula; whether all channels share the mask."""
    plain: Loop = functools.partial(run_blocks, formula)
    return engine.loop(lambda: compiled_loop(formula, is_shared), plain)


def takes_parameter(formula: Formula) -> bool:
    return len(inspect.signature(formula).parameters) == 3


def with_parameter(formula: Formula) -> Formula:
    """The formula as one of three arguments."""
    return formula if takes_parameter(formula) else lambda x, t, parameter: formula(x, t)


# NumPy


def run_blocks(formula: Formula, blobs: Blobs, weights: Weights, dtype: Any = np.float32) -> Result:
    """NumPy's loop."""
    of_three = with_parameter(formula)
    parameters = blobs.parameter.reshape(1, -1, 1).astype(dtype)

    def run_block(index: Index) -> float:
        x, t = (array[index].astype(dtype, copy=False) for array in blobs[:2])
        with np.errstate(all="ignore"):  # it holds for one thread alone
            weight = weight_of_block(weights, t, index, dtype)
            parameter = part_of(parameters, index)
            if blobs.parameter_factor.size:
                parameter = parameter * part_of(blobs.parameter_factor, index)
            value, gradient = weighted(of_three, x, t, parameter, weight, dtype(blobs.loss_weight))
            store(blobs, index, gradient)
            return float(value.sum(dtype=np.float64))

    return Result(total(for_each_part(run_block, blocks(blobs.prediction.shape))), ())


def store(blobs: Blobs, index: Index, gradient: np.ndarray) -> None:
    """Writes the gradient of a block to those who want it."""
    if blobs.gradient.size:
        blobs.gradient[index] = gradient
    if blobs.opposite.size:
        blobs.opposite[index] = -gradient


def part_of(operand: np.ndarray, index: Index) -> np.ndarray:
    """The part of an operand that belongs to a block; axes of size 1 broadcast."""
    parts = zip(index, operand.shape)
    return operand[tuple(part if size > 1 else slice(1) for part, size in parts)]


def weight_of_block(weights: Weights, target: np.ndarray, index: Index, dtype: Any) -> np.ndarray:
    """What the elements of a block weigh; it broadcasts to the block."""
    weight = part_of(weights.positive[:, :, np.newaxis], index).astype(dtype)
    if weights.mask.size:
        negative = part_of(weights.negative[:, :, np.newaxis], index).astype(dtype)
        mask = part_of(weights.mask, index)
        if weights.any_channel:
            mask = np.any(weights.mask[index[0], :, index[2]] != 0, axis=1, keepdims=True)
        weight = weight * (mask > 0) + negative * (mask == 0)
    if not np.isnan(weights.ignore_label):
        weight = weight * (target != weights.ignore_label)
    if weights.of_element.size:
        weight = weight * part_of(weights.of_element, index)
    return weight


# Numba


def compiled_loop(formula: Formula, is_shared: bool) -> Loop:
    """Numba's loop for this formula."""
    from caffe_losses.loops import numba_engine

    run = numba_engine.loop(
        run_positions if is_shared else run_rows,
        formula.__name__,
        (*EXAMPLE, 0, 1),
        formula=compiled_formula(formula),
    )

    def run_parts(blobs: Blobs, weights: Weights) -> Result:
        batch, channels, positions = blobs.prediction.shape

        def run_part(part: Part) -> Tuple[float, int, int]:
            return run(blobs, weights, *part)

        count, size = (batch * positions, channels) if is_shared else (blobs.prediction.size, 1)
        return combined(for_each_part(run_part, parts(count, size)))

    return run_parts


def compiled_formula(formula: Formula) -> Any:
    """The formula as a compiled one of three arguments."""
    from caffe_losses.loops import numba_engine

    compiled = numba_engine.compiled(formula)
    if takes_parameter(formula):
        return compiled
    return numba_engine.compiled(ignoring_parameter, formula.__name__, formula=compiled)


def formula(*arguments: Any) -> Tuple[Any, Any]:
    """Stands where a compiled loop puts the formula of a loss."""
    raise NotImplementedError


def ignoring_parameter(x: Any, t: Any, parameter: Any) -> Tuple[Any, Any]:
    """A formula of two arguments as one of three."""
    return formula(x, t)


def run_row(
    x: np.ndarray,
    t: np.ndarray,
    parameter: np.ndarray,
    weight: np.ndarray,
    gradient: np.ndarray,
    loss_weight: Any,
) -> Any:
    """The sum over a row, in float32, and its gradient."""
    result = ZERO
    for i in range(x.size):
        value, gradient[i] = weighted(formula, x[i], t[i], parameter[i], weight[i], loss_weight)
        result = add(result, value)
    return result


def run_stretch(
    x: np.ndarray,
    t: np.ndarray,
    parameter: np.ndarray,
    weight: np.ndarray,
    gradient: np.ndarray,
    loss_weight: Any,
) -> float:
    """The sum over a stretch, row by row, and its gradient."""
    result = 0.0
    first = 0
    while first < x.size:
        here = slice(first, end_of_row(first, x.size))
        result += run_row(
            x[here], t[here], parameter[here], weight[here], gradient[here], loss_weight
        )
        first = here.stop
    return result


def run_rows(blobs: Blobs, weights: Weights, start: int, stop: int) -> Tuple[float, int, int]:
    """The sum over the elements from start to stop as they lie in memory, and those of bits."""
    x, t = blobs.prediction.reshape(-1), blobs.target.reshape(-1)
    gradient, opposite = blobs.gradient.reshape(-1), blobs.opposite.reshape(-1)
    channels, positions = blobs.prediction.shape[1:]
    row = start // positions
    place = row // channels, row % channels, start - row * positions
    parameter, weight = np.empty(STRETCH, np.float32), np.empty(STRETCH, np.float32)
    unwanted = np.empty(STRETCH, np.float32)
    fill(parameter, blobs.parameter[0])
    fill(weight, np.float32(weights.positive[0, 0]))
    parameters_differ = blobs.parameter.size + blobs.parameter_factor.size > 1
    weights_differ = differ(weights)
    elements_differ = weights_differ or parameters_differ
    result, bits, opposite_bits = 0.0, 0, 0
    for first in range(start, stop, STRETCH):
        last = min(first + STRETCH, stop)
        length = last - first
        done = 0
        if elements_differ and positions < SHORTEST_ROW:
            place = weigh_one_by_one(
                weight[:length], parameter[:length], t[first:last], blobs, weights, place
            )
            done = length
        while done < length and elements_differ:
            image, channel, position = place
            step = min(positions - position, length - done)
            to = done + step
            if weights_differ:
                own = t[first + done : first + to]
                weigh(weight[done:to], own, weights, image, channel, position)
            if parameters_differ:
                set_parameter(parameter[done:to], blobs, image, channel, position)
            place = after(step, image, channel, position, channels, positions)
            done = to
        out = gradient[first:last] if gradient.size else unwanted[:length]
        result += run_stretch(
            x[first:last],
            t[first:last],
            parameter[:length],
            weight[:length],
            out,
            blobs.loss_weight,
        )
        if gradient.size:
            bits += sum_of_bits(out)
        if opposite.size:
            copy(opposite[first:last], out, -ONE)
            opposite_bits += sum_of_bits(opposite[first:last])
    return result, bits, opposite_bits


def run_positions(blobs: Blobs, weights: Weights, start: int, stop: int) -> Tuple[float, int, int]:
    """The same over all channels of the positions from start to stop, which share their weights."""
    x, t, gradient, opposite = blobs.prediction, blobs.target, blobs.gradient, blobs.opposite
    channels, positions = x.shape[1:]
    parameter, weight = np.empty(STRETCH, np.float32), np.empty(STRETCH, np.float32)
    unwanted = np.empty(STRETCH, np.float32)
    fill(parameter, blobs.parameter[0])
    result, bits, opposite_bits = 0.0, 0, 0
    while start < stop:
        image, position = start // positions, start % positions
        length = min(positions - position, STRETCH, stop - start)
        here = slice(position, position + length)
        if weights.any_channel:
            mark_any_channel(weight[:length], weights.mask, image, here)
            weigh_marked(weight[:length], *table_of(weights, image, 0))
        else:
            weigh_classes(
                weight[:length], weights.mask[image, 0, here], *table_of(weights, image, 0)
            )
        for channel in range(channels):
            set_parameter(parameter[:length], blobs, image, channel, position)
            out = gradient[image, channel, here] if gradient.size else unwanted[:length]
            result += run_stretch(
                x[image, channel, here],
                t[image, channel, here],
                parameter[:length],
                weight[:length],
                out,
                blobs.loss_weight,
            )
            if gradient.size:
                bits += sum_of_bits(out)
            if opposite.size:
                copy(opposite[image, channel, here], out, -ONE)
                opposite_bits += sum_of_bits(opposite[image, channel, here])
        start += length
    return result, bits, opposite_bits


def set_parameter(
    parameter: np.ndarray, blobs: Blobs, image: int, channel: int, start: int
) -> None:
    """Sets the formula's third argument for a run of elements of one channel."""
    factor = blobs.parameter_factor
    number = blobs.parameter[min(channel, blobs.parameter.size - 1)]
    if factor.size:
        row = factor[min(image, factor.shape[0] - 1), min(channel, factor.shape[1] - 1)]
        copy(parameter, row[start : start + parameter.size], number)
    elif blobs.parameter.size > 1:
        fill(parameter, number)


def differ(weights: Weights) -> bool:
    """Whether not all elements weigh the same."""
    ignored = weights.ignore_label
    sizes = weights.mask.size + weights.of_element.size + weights.positive.size
    return sizes > 1 or ignored == ignored


def weigh(
    weight: np.ndarray, target: np.ndarray, weights: Weights, image: int, channel: int, start: int
) -> None:
    """Sets the weights of a run of elements of one channel."""
    positive, negative = table_of(weights, image, channel)
    here = slice(start, start + weight.size)
    of_element = weights.of_element
    if weights.mask.size:
        weigh_classes(weight, weights.mask[image, channel, here], positive, negative)
    else:
        fill(weight, positive)
    if weights.ignore_label == weights.ignore_label:
        ignore(weight, target, weights.ignore_label)
    if of_element.size:
        multiply(weight, of_element[image, min(channel, of_element.shape[1] - 1), here])


def weigh_one_by_one(
    weight: np.ndarray,
    parameter: np.ndarray,
    target: np.ndarray,
    blobs: Blobs,
    weights: Weights,
    place: Tuple[int, int, int],
) -> Tuple[int, int, int]:
    """Sets weights and parameters of elements from this image, channel and position on.

    Returns the place after the last one.
    """
    image, channel, position = place
    channels, positions = blobs.prediction.shape[1:]
    mask, of_element, factor = weights.mask, weights.of_element, blobs.parameter_factor
    for i in range(weight.size):
        positive, negative = table_of(weights, image, channel)
        own = positive
        if mask.size:
            kind = mask[image, min(channel, mask.shape[1] - 1), position]
            own = where(kind > ZERO, positive, where(kind == ZERO, negative, ZERO))
        own = where(target[i] == weights.ignore_label, ZERO, own)
        if of_element.size:
            own = own * of_element[image, min(channel, of_element.shape[1] - 1), position]
        weight[i] = own
        third = blobs.parameter[min(channel, blobs.parameter.size - 1)]
        if factor.size:
            first, second = min(image, factor.shape[0] - 1), min(channel, factor.shape[1] - 1)
            third = third * factor[first, second, position]
        parameter[i] = third
        image, channel, position = after(1, image, channel, position, channels, positions)
    return image, channel, position


def table_of(weights: Weights, image: int, channel: int) -> Tuple[Any, Any]:
    """What the positive and the negative class of an image and channel weigh."""
    images, channels = weights.positive.shape
    row, column = min(image, images - 1), min(channel, channels - 1)
    return np.float32(weights.positive[row, column]), np.float32(weights.negative[row, column])
