"""The loop on sums over channels: a formula of their difference; all share its gradient."""

import functools
from typing import Any, Callable

import numpy as np

from caffe_losses.elementary import ONE
from caffe_losses.loops import engine
from caffe_losses.loops.parts import ROW, Index, Part, blocks, parts, total
from caffe_losses.loops.pointwise import (
    EXAMPLE,
    Blobs,
    Formula,
    compiled_formula,
    run_stretch,
    store,
    with_parameter,
)
from caffe_losses.loops.rows import add, add_difference, copy, fill
from caffe_losses.loops.threads import for_each_part
from caffe_losses.weights import weighted

Loop = Callable[[Blobs, float], float]


def channel_sum(formula: Formula, blobs: Blobs, weight: float, dtype: Any = np.float32) -> float:
    """The sum of weight * value(d, 0) over n and s, where d is the sum over c of x - t.

    Sums may cancel, so d is summed in float64. The result is not finite where a bottom is not, or
    where the gradient overflows. With `dtype` float64 NumPy computes in that precision.
    """
    if dtype == np.float64:
        return run_blocks(formula, blobs, weight, dtype)
    return loop(formula)(blobs, weight)


@functools.lru_cache(maxsize=None)
def loop(formula: Formula) -> Loop:
    """The loop of the engine for this formula."""
    plain: Loop = functools.partial(run_blocks, formula)
    return engine.loop(lambda: compiled_loop(formula), plain)


def run_blocks(formula: Formula, blobs: Blobs, weight: float, dtype: Any = np.float32) -> float:
    """NumPy's loop."""
    of_three = with_parameter(formula)
    batch, _, positions = blobs.prediction.shape
    zero, one, factor, loss_weight = map(dtype, (0, 1, weight, blobs.loss_weight))

    def run_block(index: Index) -> float:
        index = (index[0], slice(None), index[2])
        with np.errstate(all="ignore"):  # it holds for one thread alone
            sums = (array[index].sum(1, np.float64, keepdims=True) for array in blobs[:2])
            difference = np.subtract(*sums).astype(dtype)
            value, gradient = weighted(of_three, difference, zero, one, factor, loss_weight)
            store(blobs, index, gradient)
            return float(value.sum(dtype=np.float64))

    return total(for_each_part(run_block, blocks((batch, 1, positions))))


def compiled_loop(formula: Formula) -> Loop:
    """Numba's loop for this formula."""
    from caffe_losses.loops import numba_engine

    run = numba_engine.loop(
        run_sums,
        formula.__name__,
        (EXAMPLE[0], 1.0, 0, 1),
        formula=compiled_formula(formula),
    )

    def run_parts(blobs: Blobs, weight: float) -> float:
        batch, _, positions = blobs.prediction.shape

        def run_part(part: Part) -> float:
            return run(blobs, weight, *part)

        return total(for_each_part(run_part, parts(batch * positions)))

    return run_parts


def run_sums(blobs: Blobs, weight: Any, start: int, stop: int) -> float:
    """The sum over the positions from start to stop, row by row."""
    positions = blobs.prediction.shape[2]
    sums, difference = np.empty(ROW, np.float64), np.empty(ROW, np.float32)
    target, parameter = np.zeros(ROW, np.float32), np.zeros(ROW, np.float32)
    weights, gradient = np.empty(ROW, np.float32), np.empty(ROW, np.float32)
    fill(weights, np.float32(weight))
    result = 0.0
    while start < stop:
        image, position = start // positions, start % positions
        # Where there are no positions, the images of a row lie side by side.
        step = min(ROW, stop - start, ROW if positions == 1 else positions - position)
        sum_differences(sums[:step], blobs.prediction, blobs.target, image, position)
        copy(difference[:step], sums[:step], 1)
        result += run_stretch(
            difference[:step],
            target[:step],
            parameter[:step],
            weights[:step],
            gradient[:step],
            blobs.loss_weight,
        )
        spread(blobs.gradient, gradient[:step], ONE, image, position)
        spread(blobs.opposite, gradient[:step], -ONE, image, position)
        start += step
    return result


def sum_differences(
    sums: np.ndarray, x: np.ndarray, t: np.ndarray, image: int, position: int
) -> None:
    """Sets each to the sum over channels of x - t."""
    batch, channels, positions = x.shape
    if positions == 1:
        rows_of_x, rows_of_t = x.reshape(batch, channels), t.reshape(batch, channels)
        for i in range(sums.size):
            sums[i] = sum_of_difference(rows_of_x[image + i], rows_of_t[image + i])
    else:
        here = slice(position, position + sums.size)
        fill(sums, 0)
        for channel in range(channels):
            add_difference(sums, x[image, channel, here], t[image, channel, here])


def sum_of_difference(x: np.ndarray, t: np.ndarray) -> float:
    """The sum of x - t along a row."""
    result = 0.0
    for i in range(x.size):
        result = add(result, np.float64(x[i]) - np.float64(t[i]))
    return result


def spread(out: np.ndarray, gradient: np.ndarray, factor: Any, image: int, position: int) -> None:
    """Writes the gradient times a factor to all channels of those who want it."""
    if out.size == 0:
        return
    batch, channels, positions = out.shape
    if positions == 1:
        for i in range(gradient.size):
            fill(out.reshape(batch, channels)[image + i], factor * gradient[i])
    else:
        for channel in range(channels):
            copy(out[image, channel, position : position + gradient.size], gradient, factor)
