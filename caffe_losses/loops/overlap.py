"""The loop of overlap losses: sums over each image and channel, then a gradient made of them."""

import functools
from typing import Any, Callable, NamedTuple, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, where
from caffe_losses.formulas import (
    identity,
    overlap_derivative,
    sigmoid,
    slope_of_identity,
    slope_of_sigmoid,
)
from caffe_losses.loops import engine
from caffe_losses.loops.parts import (
    BLOCK,
    SHORTEST_ROW,
    STRETCH,
    Index,
    Part,
    blocks,
    parts,
    whole_channel_blocks,
)
from caffe_losses.loops.pointwise import part_of
from caffe_losses.loops.rows import add, copy, count_not_finite, end_of_row, fill, ignore, multiply
from caffe_losses.loops.softmax import (
    exponentials,
    set_probabilities,
    softmax,
    take_through_softmax,
    through_softmax,
)
from caffe_losses.loops.threads import for_each_part

Formula = Callable[..., Any]
is_softmax = False  # compiled loops have a value of their own

Masks = NamedTuple(
    "Masks",
    [
        ("prediction", np.ndarray),  # (N, C, S): scores, or probabilities
        ("label", np.ndarray),  # the same; or class numbers (N, 1, S), where C is not 1
        ("weight", np.ndarray),  # (N, C or 1, S): multiplies what an element adds to the sums
        ("ignore_label", Any),  # float32: labels that add nothing; NaN for none
    ],
)
Loop = NamedTuple(
    "Loop",
    [
        # Takes for how many images apart to sum, 1 or N; returns (1 or N, C, 3), float64.
        ("sums", Callable[[Masks, int], np.ndarray]),
        # Takes coefficients (N or 1, C, 4), the last four arguments of `overlap_derivative` of each
        # group, and writes the gradient (N, C, S). Returns whether it is finite.
        ("write_gradient", Callable[[Masks, np.ndarray, np.ndarray], bool]),
    ],
)

BLOB = np.zeros((1, 1, 1), np.float32)
EXAMPLE = Masks(BLOB, BLOB, BLOB, ONE)


def sums(activation: str, formula: Formula, masks: Masks, images: int) -> np.ndarray:
    """True positives, false positives and false negatives of each channel: (images, C, 3).

    `images` is N for those of each image, 1 for those of all images together. They are not finite
    where a prediction or a weight is not, or where they overflow.
    """
    result = loop_for(activation, formula, masks).sums(masks, images)
    if not np.isfinite(result).all():
        result = sum_blocks(activation, formula, masks, images, np.float64)
    return result


def write_gradient(
    activation: str,
    formula: Formula,
    masks: Masks,
    coefficients: np.ndarray,
    gradient: np.ndarray,
) -> bool:
    """Writes the gradient to the predictions; False where it is not finite.

    With coefficients in float64 NumPy computes in that precision.
    """
    if coefficients.dtype == np.float64:
        return write_blocks(activation, masks, coefficients, gradient)
    return loop_for(activation, formula, masks).write_gradient(masks, coefficients, gradient)


def loop_for(activation: str, formula: Formula, masks: Masks) -> Loop:
    """The loops of the engine, NumPy's where compiled ones would have no rows."""
    has_rows = masks.prediction.shape[2] >= SHORTEST_ROW
    return (loop if has_rows else plain_loop)(activation, formula)


def are_class_numbers(masks: Masks) -> bool:
    """Whether the label has one class number for all channels of a position."""
    return masks.label.shape[1] != masks.prediction.shape[1]


@functools.lru_cache(maxsize=None)
def loop(activation: str, formula: Formula) -> Loop:
    """The loops of the engine."""
    return engine.loop(lambda: compiled_loop(activation, formula), plain_loop(activation, formula))


def plain_loop(activation: str, formula: Formula) -> Loop:
    """NumPy's loops."""
    return Loop(
        functools.partial(sum_blocks, activation, formula),
        functools.partial(write_blocks, activation),
    )


# NumPy


ELEMENTWISE = {
    "none": (identity, slope_of_identity),
    "sigmoid": (sigmoid, slope_of_sigmoid),
}


def blocks_for(activation: str, masks: Masks) -> Any:
    cut = whole_channel_blocks if activation == "softmax" else blocks
    return cut(masks.prediction.shape)


def label_of_block(masks: Masks, index: Index, dtype: Any) -> np.ndarray:
    """The label of each element of a block, as a fraction."""
    label = part_of(masks.label, index)
    if are_class_numbers(masks):
        label = label == np.arange(index[1].start, index[1].stop)[:, np.newaxis]
    return label.astype(dtype, copy=False)


def weight_of_block(activation: str, masks: Masks, index: Index, dtype: Any) -> np.ndarray:
    """What the elements of a block weigh; it broadcasts to the block."""
    valid = part_of(masks.label, index) != masks.ignore_label
    if activation == "softmax":
        valid = valid.all(1, keepdims=True)
    weight = valid.astype(dtype)
    return weight * part_of(masks.weight, index) if masks.weight.size else weight


def sum_blocks(
    activation: str, formula: Formula, masks: Masks, images: int, dtype: Any = np.float32
) -> np.ndarray:
    """NumPy's loop for the sums."""
    axes = (0, 2) if images == 1 else 2

    def sum_block(index: Index) -> Tuple[Index, np.ndarray]:
        with np.errstate(all="ignore"):  # it holds for one thread alone
            x = masks.prediction[index].astype(dtype, copy=False)
            g = label_of_block(masks, index, dtype)
            weight = weight_of_block(activation, masks, index, dtype)
            p, q = softmax(x)[:2] if activation == "softmax" else ELEMENTWISE[activation][0](x)
            first, *others = formula(p, q, g)
            terms = [weight * first + (x - x), *(weight * other for other in others)]
            return index, np.stack([term.sum(axes, dtype=np.float64) for term in terms], -1)

    result = np.zeros((images, masks.prediction.shape[1], 3))
    for (some_images, channels, _), own in for_each_part(sum_block, blocks_for(activation, masks)):
        result[some_images if images > 1 else slice(1), channels] += own
    return result


def write_blocks(
    activation: str, masks: Masks, coefficients: np.ndarray, gradient: np.ndarray
) -> bool:
    """NumPy's loop for the gradient."""
    dtype = coefficients.dtype

    def write_block(index: Index) -> bool:
        with np.errstate(all="ignore"):
            x = masks.prediction[index].astype(dtype, copy=False)
            g = label_of_block(masks, index, dtype)
            weight = weight_of_block(activation, masks, index, dtype)
            own = [
                part_of(table[:, :, np.newaxis], index) for table in np.rollaxis(coefficients, 2)
            ]
            if activation == "softmax":
                p, q, is_top = softmax(x)
                h = weight * overlap_derivative(p, q, g, *own)
                gradient[index] = through_softmax(h, p, is_top)
            else:
                activate, slope = ELEMENTWISE[activation]
                p, q = activate(x)
                gradient[index] = weight * overlap_derivative(p, q, g, *own) * slope(p, q)
        return bool(np.isfinite(gradient[index]).all())

    return all(for_each_part(write_block, blocks_for(activation, masks)))


# Numba


def formula(p: Any, q: Any, g: Any) -> Tuple[Any, Any, Any]:
    """Stands where a compiled loop puts the formula of a loss."""
    raise NotImplementedError


def activate(x: Any) -> Tuple[Any, Any]:
    """Stands where a compiled loop puts the activation."""
    raise NotImplementedError


def slope(p: Any, q: Any) -> Any:
    """Stands where a compiled loop puts the derivative of the activation."""
    raise NotImplementedError


# What a stretch of positions has, for compiled loops.
Stretch = NamedTuple(
    "Stretch",
    [
        ("p", np.ndarray),  # the probability of each class, one class after the other
        ("q", np.ndarray),  # that of all others, for one class
        ("label", np.ndarray),  # as fractions, for one class
        ("weight", np.ndarray),  # for one class
        ("valid", np.ndarray),  # 0 where a softmax ignores the position, 1 elsewhere
        ("largest", np.ndarray),  # of the scores, as a softmax needs them
        ("top", np.ndarray),  # the class that has it
        ("rest", np.ndarray),  # the sum of the exponentials of the others
    ],
)


def compiled_loop(activation: str, of_loss: Formula) -> Loop:
    """Numba's loops."""
    from caffe_losses.loops import numba_engine

    activate, slope = ELEMENTWISE.get(activation, ELEMENTWISE["none"])
    names = {
        "activate": numba_engine.compiled(activate),
        "slope": numba_engine.compiled(slope),
        "formula": numba_engine.compiled(of_loss),
        "is_softmax": activation == "softmax",
    }
    example = (EXAMPLE, np.zeros((1, 1, 3)), 0, 0, 1)
    name = f"{activation}_{of_loss.__name__}"
    sum_part = numba_engine.loop(sum_positions, name, example, **names)
    example = (EXAMPLE, np.zeros((1, 1, 4), np.float32), BLOB, 0, 1)
    write_part = numba_engine.loop(write_positions, name, example, **names)

    def parts_of(masks: Masks) -> Any:
        batch, channels, positions = masks.prediction.shape
        return parts(batch * positions if channels else 0, channels)

    def sum_parts(masks: Masks, images: int) -> np.ndarray:
        channels, positions = masks.prediction.shape[1:]

        def run(part: Part) -> Tuple[slice, np.ndarray]:
            first, last = part[0] // positions, -(-part[1] // positions)
            here = slice(first, last) if images > 1 else slice(1)
            own = np.zeros((min(images, last - first), channels, 3))
            sum_part(masks, own, first, *part)
            return here, own

        result = np.zeros((images, channels, 3))
        for here, own in for_each_part(run, parts_of(masks)):
            result[here] += own
        return result

    def write_parts(masks: Masks, coefficients: np.ndarray, gradient: np.ndarray) -> bool:
        def run(part: Part) -> int:
            return write_part(masks, coefficients, gradient, *part)

        return not any(for_each_part(run, parts_of(masks)))

    return Loop(sum_parts, write_parts)


def sum_positions(masks: Masks, sums: np.ndarray, first: int, start: int, stop: int) -> None:
    """Adds up the positions from start to stop; sums (images from the first one on or 1, C, 3)."""
    channels, positions = masks.prediction.shape[1:]
    stretch = new_stretch(channels)
    while start < stop:
        image, position = start // positions, start % positions
        here = slice(position, min(position + stretch.q.size, position + stop - start, positions))
        begin(stretch, masks, image, here)
        for channel in range(channels):
            p, q, g, weight = class_of_stretch(stretch, masks, image, channel, here)
            own = sums[min(image - first, sums.shape[0] - 1), channel]
            add_rows(own, masks.prediction[image, channel, here], p, q, g, weight)
        start += here.stop - here.start


def write_positions(
    masks: Masks, coefficients: np.ndarray, gradient: np.ndarray, start: int, stop: int
) -> int:
    """Writes the gradient from start to stop; returns how many elements are not finite."""
    channels, positions = masks.prediction.shape[1:]
    stretch = new_stretch(channels)
    result = 0
    while start < stop:
        image, position = start // positions, start % positions
        here = slice(position, min(position + stretch.q.size, position + stop - start, positions))
        begin(stretch, masks, image, here)
        for channel in range(channels):
            p, q, g, weight = class_of_stretch(stretch, masks, image, channel, here)
            own = coefficients[min(image, coefficients.shape[0] - 1), channel]
            write_row(gradient[image, channel, here], p, q, g, weight, own)
        if is_softmax:
            end(stretch, gradient, image, here)
        for channel in range(channels):
            result += count_not_finite(gradient[image, channel, here])
        start += here.stop - here.start
    return result


def new_stretch(channels: int) -> Stretch:
    """Memory for the longest stretch."""
    size = max(1, min(STRETCH, BLOCK // channels))
    return Stretch(
        np.empty(size * channels, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.float32),
    )


def begin(stretch: Stretch, masks: Masks, image: int, here: slice) -> None:
    """Sets what all classes of a softmax have in common."""
    if is_softmax:
        size = here.stop - here.start
        exponentials(
            stretch.p,
            stretch.largest[:size],
            stretch.top[:size],
            stretch.rest[:size],
            masks.prediction,
            image,
            here,
        )
        mark_valid(stretch.valid[:size], masks, image, here)


def end(stretch: Stretch, gradient: np.ndarray, image: int, here: slice) -> None:
    """Makes of the gradient to the probabilities of a softmax that to the scores."""
    size = here.stop - here.start
    top, of_top, mean = stretch.top[:size], stretch.largest[:size], stretch.rest[:size]
    take_through_softmax(gradient, stretch.p, top, of_top, mean, image, here)


def class_of_stretch(
    stretch: Stretch, masks: Masks, image: int, channel: int, here: slice
) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The probabilities of a class and of all others, the labels, and the weights."""
    size = here.stop - here.start
    p, q = stretch.p[channel * size : (channel + 1) * size], stretch.q[:size]
    if is_softmax:
        set_probabilities(p, q, stretch.rest[:size], stretch.top[:size], np.float32(channel))
    else:
        set_activation(p, q, masks.prediction[image, channel, here])
    labels = masks.label[image, min(channel, masks.label.shape[1] - 1), here]
    g, weight = labels, stretch.weight[:size]
    if are_class_numbers(masks):
        g = stretch.label[:size]
        mark_class(g, labels, np.float32(channel))
    if is_softmax:
        copy(weight, stretch.valid[:size], ONE)
    else:
        fill(weight, ONE)
        if masks.ignore_label == masks.ignore_label:
            ignore(weight, labels, masks.ignore_label)
    if masks.weight.size:
        multiply(weight, masks.weight[image, min(channel, masks.weight.shape[1] - 1), here])
    return p, q, g, weight


def mark_class(row: np.ndarray, labels: np.ndarray, number: Any) -> None:
    """Sets to 1 where a label is the number of the class, to 0 elsewhere."""
    for i in range(row.size):
        row[i] = where(labels[i] == number, ONE, ZERO)


def mark_valid(valid: np.ndarray, masks: Masks, image: int, here: slice) -> None:
    """Sets to 0 where the label of any channel is the ignore_label, to 1 elsewhere."""
    fill(valid, ONE)
    if masks.ignore_label == masks.ignore_label:
        for channel in range(masks.label.shape[1]):
            ignore(valid, masks.label[image, channel, here], masks.ignore_label)


def set_activation(p: np.ndarray, q: np.ndarray, x: np.ndarray) -> None:
    """Sets the probabilities of a class, and of all others."""
    for i in range(x.size):
        p[i], q[i] = activate(x[i])


def add_rows(
    sums: np.ndarray,
    x: np.ndarray,
    p: np.ndarray,
    q: np.ndarray,
    g: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Adds the sums of rows to those in float64; NaN where x is not finite."""
    if count_not_finite(x):
        sums[0] = np.nan
    first = 0
    while first < x.size:
        row = slice(first, end_of_row(first, x.size))
        own = sums_of_row(p[row], q[row], g[row], weight[row])
        for i in range(3):
            sums[i] += own[i]
        first = row.stop


def sums_of_row(p: np.ndarray, q: np.ndarray, g: np.ndarray, weight: np.ndarray) -> Any:
    """The three sums of a row, in float32."""
    true_positives = false_positives = false_negatives = ZERO
    for i in range(p.size):
        true_positive, false_positive, false_negative = formula(p[i], q[i], g[i])
        true_positives = add(true_positives, weight[i] * true_positive)
        false_positives = add(false_positives, weight[i] * false_positive)
        false_negatives = add(false_negatives, weight[i] * false_negative)
    return true_positives, false_positives, false_negatives


def write_row(
    gradient: np.ndarray,
    p: np.ndarray,
    q: np.ndarray,
    g: np.ndarray,
    weight: np.ndarray,
    own: np.ndarray,
) -> None:
    """Writes the gradient of a row of one channel."""
    n, n_p, m, m_q = own[0], own[1], own[2], own[3]
    for i in range(gradient.size):
        h = overlap_derivative(p[i], q[i], g[i], n, n_p, m, m_q)
        gradient[i] = weight[i] * h * slope(p[i], q[i])
