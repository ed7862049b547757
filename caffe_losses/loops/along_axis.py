"""The loop along an axis: a formula of the softmax over it, one value for each position."""

import functools
from typing import Any, Callable, NamedTuple, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO, floor, maximum, where
from caffe_losses.formulas import exponential_of_difference, log_of_sum, smoothing_derivative
from caffe_losses.loops import engine
from caffe_losses.loops.parts import (
    BLOCK,
    LANES,
    ROW,
    STRETCH,
    Index,
    Part,
    Result,
    combined,
    parts,
    total,
    whole_channel_blocks,
)
from caffe_losses.loops.rows import (
    add,
    after,
    copy,
    end_of_row,
    fill,
    from_order,
    multiply,
    order,
    sum_of,
    sum_of_bits,
)
from caffe_losses.loops.threads import for_each_part

Formula = Callable[..., Tuple[Any, Any, Any]]
Scores = NamedTuple(
    "Scores",
    [  # an array without elements stands for one that is missing or not wanted
        ("score", np.ndarray),  # (N, K, S): K classes along the axis, S positions
        ("label", np.ndarray),  # (N, S): class numbers; all others take no part
        ("weight", np.ndarray),  # (N, S): of each position
        ("gradient", np.ndarray),  # (N, K, S): to the score
        ("value", np.ndarray),  # (N, S): the value of each position, without any weight
        ("of_class", np.ndarray),  # (K): what the value weighs for each class of the label
        ("smooth", np.ndarray),  # (K): what -ln p_c weighs for each class c, whatever the label
        ("ignore_label", Any),  # float32: positions with this label take no part; NaN for none
        ("gamma", Any),  # float32: the parameter of the formula
        ("loss_weight", Any),  # float32: what the gradient is multiplied with
    ],
)
Loop = Callable[[Scores], Result]
NO_CLASS = np.float32(-1)
# Channels that are summed in float32; their sums are summed in float64.
CHANNELS = 64
# Up to so many classes short images are transposed, to work on many of them at a time.
FEW_CLASSES = 64
# Scores in a block of NumPy's, more than elsewhere: many operations are on its positions alone.
SCORES = 2 * BLOCK
# Elements of scores that are worked on together: they and their gradient stay in the cache.
TILE = 16 * STRETCH


def along_axis(formula: Formula, scores: Scores, dtype: Any = np.float32) -> Result:
    """The weighted sum of a formula over all positions; writes the gradient and the values.

    The sum is not finite where a bottom is not, whatever that position weighs, or where the
    gradient overflows. With `dtype` float64 NumPy computes in that precision.
    """
    if dtype == np.float64:
        return run_blocks(formula, scores, dtype)
    return loop(formula)(scores)


@functools.lru_cache(maxsize=None)
def loop(formula: Formula) -> Loop:
    """The loop of the engine for this formula."""
    plain: Loop = functools.partial(run_blocks, formula)
    return engine.loop(lambda: compiled_loop(formula), plain)


def class_of(label: Any, classes: Any, ignore_label: Any) -> Any:
    """The class number that a label is, NO_CLASS where it is none."""
    is_class = (label >= ZERO) & (label < classes) & (floor(label) == label)
    return where(is_class & (label != ignore_label), label, NO_CLASS)


# NumPy


def run_blocks(formula: Formula, scores: Scores, dtype: Any = np.float32) -> Result:
    """NumPy's loop."""

    def run_block(index: Index) -> float:
        images, _, positions = index
        with np.errstate(all="ignore"):  # it holds for one thread alone
            return run_block_of(formula, scores, dtype, images, positions)

    blocks = whole_channel_blocks(scores.score.shape, SCORES)
    return Result(total(for_each_part(run_block, blocks)), ())


def run_block_of(
    formula: Formula, scores: Scores, dtype: Any, images: slice, positions: slice
) -> float:
    """The weighted sum over a block."""
    x = scores.score[images, :, positions].astype(dtype, copy=False)
    label = scores.label[images, positions].astype(dtype)
    number = class_of(label, dtype(x.shape[1]), scores.ignore_label)
    counts = number >= 0
    own_class = np.maximum(number, 0).astype(np.intp)
    # Where the label's class stands among all elements of the block.
    here = np.arange(x.shape[0])[:, np.newaxis] * x.shape[1] + own_class
    here = here * x.shape[2] + np.arange(x.shape[2])

    largest = x.max(axis=1)
    e = exponential_of_difference(x, largest[:, np.newaxis])
    own = e.take(here)
    e.put(here, 0)
    others = e.sum(axis=1, dtype=np.float64).astype(dtype)
    margin = x.take(here) - largest
    value, of_others, of_own = formula(own, others, margin, dtype(scores.gamma))

    unit = counts.astype(dtype) + (label - label)
    if scores.weight.size:
        weight = scores.weight[images, positions].astype(dtype, copy=False)
        unit = where(counts, weight, ZERO).astype(dtype) + (label - label) + (weight - weight)
    weight = unit * scores.of_class.astype(dtype)[own_class]
    result = weight * value
    scale = weight * scores.loss_weight
    of_others, of_own = scale * of_others, scale * of_own
    if scores.smooth.size:
        smooth, others_of = smooth_of(scores.smooth, dtype)
        distances = (smooth * (largest[:, np.newaxis] - x)).sum(axis=1, dtype=np.float64)
        logarithm = (smooth[0] + others_of[0]) * log_of_sum(own, others)
        result = result + unit * (distances + logarithm).astype(dtype)
        share = unit * scores.loss_weight / (own + others)
        of_label = smooth[:, 0][own_class], others_of[:, 0][own_class]
        of_own = of_own + share * smoothing_derivative(own, others, *of_label)
    result = result + (of_others - of_others) + (of_own - of_own)

    if scores.value.size:
        scores.value[images, positions] = where(counts, value, NO_CLASS)
    if scores.gradient.size:
        gradient = e * of_others[:, np.newaxis]
        if scores.smooth.size:
            rest = rest_of(e, own, others)
            gradient += share[:, np.newaxis] * smoothing_derivative(e, rest, smooth, others_of)
        gradient.put(here, of_own)
        scores.gradient[images, :, positions] = gradient
    return float(result.sum(dtype=np.float64))


def smooth_of(smooth: np.ndarray, dtype: Any) -> Tuple[np.ndarray, np.ndarray]:
    """What -ln p_c weighs for each class c, and for all other classes together, both (K, 1)."""
    weights = smooth.astype(np.float64)[:, np.newaxis]
    return weights.astype(dtype), (weights.sum() - weights).astype(dtype)


def rest_of(e: np.ndarray, own: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The exponentials of all other classes, for each class but the label's, whose e is 0."""
    is_top = e == ONE
    smaller = np.where(is_top, ZERO, e).sum(axis=1, dtype=np.float64).astype(e.dtype)
    of_top = own + smaller + (is_top.sum(axis=1) - 1)
    return np.where(is_top, of_top[:, np.newaxis], (own + others)[:, np.newaxis] - e)


# Numba


def compiled_loop(formula: Formula) -> Loop:
    """Numba's loop for this formula."""
    from caffe_losses.loops import numba_engine

    of_channels = np.zeros((1, 1, 1), np.float32)
    of_positions, of_classes = np.zeros((1, 1), np.float32), np.zeros(1, np.float32)
    example = Scores(
        of_channels,
        of_positions,
        of_positions,
        of_channels,
        of_positions,
        of_classes,
        of_classes,
        ZERO,
        ZERO,
        ZERO,
    )
    run = numba_engine.loop(
        run_positions,
        formula.__name__,
        (example, 0, 1),
        formula=numba_engine.compiled(formula),
    )

    def run_parts(scores: Scores) -> Result:
        def run_part(part: Part) -> Tuple[float, int]:
            return run(scores, *part)

        batch, classes, positions = scores.score.shape
        count = batch * positions if classes else 0
        return combined(for_each_part(run_part, parts(count, classes)))

    return run_parts


def formula(own: Any, others: Any, margin: Any, gamma: Any) -> Tuple[Any, Any, Any]:
    """Stands where `compiled_loop` puts the formula of a loss."""
    raise NotImplementedError


# What compiled loops have for each position of a stretch: rows of float64 ...
(
    SUM,  # the sum of e^(x_c - m) over other classes
    DISTANCE,  # the sum of smooth[c] (m - x_c)
) = range(2)
# ... and rows of float32.
(
    NUMBER,  # the class number of the label, NO_CLASS where it has none
    UNIT,  # the weight of the position, 0 where its label has no class
    WEIGHT,  # that times the weight of the class
    LARGEST,  # m, the largest score
    MARGIN,  # x_y - m of the label's class y; then the value
    OWN,  # e^(x_y - m); then the gradient to the label's class
    OTHERS,  # that sum as float32; then the gradient to other classes
    SMOOTH,  # what label smoothing adds to the value
    SMOOTH_OWN,  # what it adds to the gradient to the label's class
    SHARE,  # what `smoothing_derivative` is multiplied with
    TOTAL,  # the sum of all e^(x_c - m)
    REST,  # that without the class of the largest score, if no label's
    TIES,  # how many more classes have that score; all but the label's count
    PARTIAL,  # the sum over some channels
) = range(14)
ROWS = 14


def run_positions(scores: Scores, start: int, stop: int) -> Tuple[float, int]:
    """The weighted sum over the positions from start to stop, counted through all images.

    The other number is the sum of the bits of their gradient.
    """
    classes, positions = scores.score.shape[1:]
    width = min(STRETCH, max(32, TILE // classes))
    is_transposed = positions < LANES and classes <= FEW_CLASSES
    has_vectors = positions == 1 and not is_transposed
    size = classes * width if is_transposed else 0
    columns, columns_of_gradient = np.empty(size, np.float32), np.empty(size, np.float32)
    buffer = np.empty(ROWS * STRETCH, np.float32)
    result, bits = 0.0, 0
    while start < stop:
        # Where there are no positions, the images of a row lie side by side.
        is_of_images = is_transposed or has_vectors
        rest = stop - start if is_of_images else positions - start % positions
        step = min(width, stop - start, rest)
        row = buffer[: ROWS * step].reshape(ROWS, step)
        sums = np.empty((2, step), np.float64)
        read_labels(row, scores, start)
        tile, first = scores, start
        if is_transposed:
            tile, first = transposed(scores, columns, columns_of_gradient, start, step), 0
        if has_vectors:
            sum_vectors(row, sums, scores, start)
        else:
            sum_channels(row, sums, tile, first // positions, first % positions)
        result += evaluate(row, sums, scores)
        if scores.value.size:
            store(scores.value.reshape(-1)[start : start + step], row[MARGIN], row[NUMBER])
        if scores.gradient.size and has_vectors:
            bits += write_vectors(row, scores, start)
        elif scores.gradient.size:
            bits += write_channels(row, tile, first // positions, first % positions)
        if scores.gradient.size and is_transposed:
            transpose_back(scores.gradient, tile.gradient, start)
        start += step
    return result, bits


def read_labels(row: np.ndarray, scores: Scores, start: int) -> None:
    """Sets the class numbers and the weights."""
    label = scores.label.reshape(-1)[start : start + row.shape[1]]
    classes = np.float32(scores.score.shape[1])
    set_numbers(row[NUMBER], row[UNIT], label, classes, scores.ignore_label)
    if scores.weight.size:
        multiply(row[UNIT], scores.weight.reshape(-1)[start : start + row.shape[1]])
    for i in range(row.shape[1]):
        row[WEIGHT, i] = row[UNIT, i] * scores.of_class[max(0, int(row[NUMBER, i]))]


def set_numbers(
    number: np.ndarray, unit: np.ndarray, label: np.ndarray, classes: Any, ignore_label: Any
) -> None:
    """Sets the class numbers, and the weights to 1 where there is one; NaN where a label is NaN."""
    for i in range(number.size):
        found = class_of(label[i], classes, ignore_label)
        number[i] = found
        unit[i] = where(found == NO_CLASS, ZERO, ONE) + (label[i] - label[i])


# Sums over channels, where positions lie side by side


def sum_channels(
    row: np.ndarray, sums: np.ndarray, scores: Scores, image: int, position: int
) -> None:
    """Sets what is summed over the channels, and leaves the exponentials in the gradient."""
    here = slice(position, position + row.shape[1])
    x, classes = scores.score[image], scores.score.shape[1]
    copy(row[LARGEST], x[0, here], ONE)
    for c in range(1, classes, 2):  # two at a time: reading them is what takes time
        raise_to_both(row[LARGEST], x[c, here], x[min(c + 1, classes - 1), here])
    for i in range(row.shape[1]):
        row[MARGIN, i] = x[max(0, int(row[NUMBER, i])), position + i]
    unwanted = np.empty(row.shape[1], np.float32)
    fill(sums[SUM], 0)
    fill(row[PARTIAL], ZERO)
    for c in range(classes):
        e = unwanted
        if scores.gradient.size:
            e = scores.gradient[image, c, here]
        exponentiate(e, x[c, here], row[LARGEST])
        add_other_class(row[PARTIAL], e, row[NUMBER], np.float32(c))
        if c % CHANNELS == CHANNELS - 1 or c == classes - 1:
            move(sums[SUM], row[PARTIAL])
    if scores.smooth.size:
        fill(sums[DISTANCE], 0)
        fill(row[REST], ZERO)
        fill(row[TIES], -ONE)
        for c in range(classes):
            add_distance(sums[DISTANCE], x[c, here], row[LARGEST], scores.smooth[c])
            if scores.gradient.size:
                e = scores.gradient[image, c, here]
                add_smaller(row[REST], e, row[NUMBER], np.float32(c))
                add_tie(row[TIES], e, row[NUMBER], np.float32(c))


def raise_to_both(row: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Sets each to the largest of it and two other numbers."""
    for i in range(row.size):
        row[i] = maximum(row[i], maximum(first[i], second[i]))


def exponentiate(e: np.ndarray, x: np.ndarray, m: np.ndarray) -> None:
    """Sets each to e^(x - m)."""
    for i in range(e.size):
        e[i] = exponential_of_difference(x[i], m[i])


def add_other_class(total: np.ndarray, e: np.ndarray, number: np.ndarray, c: Any) -> None:
    """Adds the exponentials of class c where that is not the class of the label."""
    for i in range(total.size):
        total[i] += where(number[i] == c, ZERO, e[i])


def add_smaller(rest: np.ndarray, e: np.ndarray, number: np.ndarray, c: Any) -> None:
    """Adds the exponentials of class c that are below 1, as `add_other_class` does."""
    for i in range(rest.size):
        rest[i] += where((number[i] == c) | (e[i] == ONE), ZERO, e[i])


def add_tie(ties: np.ndarray, e: np.ndarray, number: np.ndarray, c: Any) -> None:
    """One more where class c has the largest score and is not the class of the label."""
    for i in range(ties.size):
        ties[i] += where((number[i] != c) & (e[i] == ONE), ONE, ZERO)


def move(total: np.ndarray, partial: np.ndarray) -> None:
    """Adds partial sums and sets them to 0."""
    for i in range(total.size):
        total[i] += np.float64(partial[i])
        partial[i] = ZERO


def add_distance(total: np.ndarray, x: np.ndarray, m: np.ndarray, weight: Any) -> None:
    """Adds weight (m - x)."""
    for i in range(total.size):
        total[i] += np.float64(weight) * (np.float64(m[i]) - np.float64(x[i]))


def write_channels(row: np.ndarray, scores: Scores, image: int, position: int) -> int:
    """Makes the gradient of the exponentials; returns the sum of its bits."""
    here = slice(position, position + row.shape[1])
    everything = sum_of(scores.smooth)
    bits = 0
    for c in range(scores.gradient.shape[1]):
        gradient = scores.gradient[image, c, here]
        if scores.smooth.size:
            weight = scores.smooth[c]
            others = np.float32(everything - weight)
            write_smooth(gradient, row[OTHERS], row[SHARE], row[TOTAL], row[REST], weight, others)
        else:
            multiply(gradient, row[OTHERS])
        put_own(gradient, row[OWN], row[NUMBER], np.float32(c))
        bits += sum_of_bits(gradient)
    return bits


def put_own(gradient: np.ndarray, own: np.ndarray, number: np.ndarray, c: Any) -> None:
    """Sets the gradient to class c where that is the class of the label."""
    for i in range(gradient.size):
        gradient[i] = where(number[i] == c, own[i], gradient[i])


def write_smooth(
    gradient: np.ndarray,
    of_others: np.ndarray,
    share: np.ndarray,
    total: np.ndarray,
    rest: np.ndarray,
    weight: Any,
    others: Any,
) -> None:
    """Makes the gradient to a class of its exponentials, with label smoothing."""
    for i in range(gradient.size):
        e = gradient[i]
        of_smooth = smoothing_derivative(e, where(e == ONE, rest[i], total[i] - e), weight, others)
        gradient[i] = e * of_others[i] + share[i] * of_smooth


def subtract(row: np.ndarray, numbers: np.ndarray) -> None:
    """Subtracts another number from each."""
    for i in range(row.size):
        row[i] -= numbers[i]


# The same for short vectors, which are laid side by side first


def transposed(
    scores: Scores, columns: np.ndarray, columns_of_gradient: np.ndarray, start: int, step: int
) -> Scores:
    """So many positions of short images as one image."""
    classes, positions = scores.score.shape[1:]
    size = classes * step if scores.gradient.size else 0
    tile = columns[: classes * step].reshape(classes, step)
    image, position = start // positions, start % positions
    for i in range(step):
        for c in range(classes):
            tile[c, i] = scores.score[image, c, position]
        image, _, position = after(1, image, 0, position, 1, positions)
    return Scores(
        tile.reshape(1, classes, step),
        scores.label,
        scores.weight,
        columns_of_gradient[:size].reshape(1, classes, step if size else 0),
        scores.value,
        scores.of_class,
        scores.smooth,
        scores.ignore_label,
        scores.gamma,
        scores.loss_weight,
    )


def transpose_back(gradient: np.ndarray, tile: np.ndarray, start: int) -> None:
    """Writes a gradient to the positions of short images."""
    positions = gradient.shape[2]
    image, position = start // positions, start % positions
    for i in range(tile.shape[2]):
        for c in range(tile.shape[1]):
            gradient[image, c, position] = tile[0, c, i]
        image, _, position = after(1, image, 0, position, 1, positions)


# Sums over vectors, where there are no positions and channels lie side by side


def sum_vectors(row: np.ndarray, sums: np.ndarray, scores: Scores, start: int) -> None:
    """Sets what is summed over each vector, and leaves the exponentials in the gradient."""
    batch, classes = scores.score.shape[:2]
    unwanted = np.empty(ROW, np.float32)
    for i in range(row.shape[1]):
        x, number = scores.score.reshape(batch, classes)[start + i], int(row[NUMBER, i])
        e = x[:0]
        if scores.gradient.size:
            e = scores.gradient.reshape(batch, classes)[start + i]
        row[LARGEST, i] = largest_of(x)
        row[MARGIN, i] = x[max(0, number)]
        sums[SUM, i] = 0
        for first, last in ((0, number), (max(0, number + 1), classes)):
            sums[SUM, i] += exponentiate_vector(e, x, first, last, row[LARGEST, i], unwanted)
        if scores.smooth.size:
            sum_smooth(row, sums, i, x, e, scores.smooth)


def sum_smooth(
    row: np.ndarray, sums: np.ndarray, i: int, x: np.ndarray, e: np.ndarray, smooth: np.ndarray
) -> None:
    """Sets what label smoothing needs of a vector."""
    sums[DISTANCE, i] = row[REST, i] = 0
    row[TIES, i] = -1
    for c in range(x.size):
        sums[DISTANCE, i] += np.float64(smooth[c]) * (
            np.float64(row[LARGEST, i]) - np.float64(x[c])
        )
    for c in range(e.size):
        is_other = c != int(row[NUMBER, i])
        row[REST, i] += where(is_other & (e[c] < ONE), e[c], ZERO)
        row[TIES, i] += where(is_other & (e[c] == ONE), ONE, ZERO)


def largest_of(x: np.ndarray) -> Any:
    """The largest number of a row."""
    largest = order(x[0])
    for i in range(x.size):
        largest = max(largest, order(x[i]))
    return from_order(largest)


def exponentiate_vector(
    e: np.ndarray, x: np.ndarray, start: int, stop: int, m: Any, unwanted: np.ndarray
) -> float:
    """The sum of e^(x - m) from start to stop, which it leaves in e if that is wanted."""
    result = 0.0
    first = start
    while first < stop:
        last = end_of_row(first, stop)
        out = e[first:last] if e.size else unwanted[: last - first]
        result += exponentiate_row(out, x[first:last], m)
        first = last
    return result


def exponentiate_row(e: np.ndarray, x: np.ndarray, m: Any) -> Any:
    """Sets each to e^(x - m) for a single m; returns their sum."""
    result = ZERO
    for i in range(e.size):
        e[i] = exponential_of_difference(x[i], m)
        result = add(result, e[i])
    return result


def write_vectors(row: np.ndarray, scores: Scores, start: int) -> int:
    """Makes the gradient of the exponentials; returns the sum of its bits."""
    batch, classes = scores.score.shape[:2]
    others = np.empty(scores.smooth.size, np.float32)
    set_others(others, scores.smooth)
    bits = 0
    for i in range(row.shape[1]):
        gradient = scores.gradient.reshape(batch, classes)[start + i]
        if scores.smooth.size:
            write_smooth_vector(
                gradient,
                scores.smooth,
                others,
                row[OTHERS, i],
                row[SHARE, i],
                row[TOTAL, i],
                row[REST, i],
            )
        else:
            copy(gradient, gradient, row[OTHERS, i])
        if row[NUMBER, i] >= ZERO:
            gradient[int(row[NUMBER, i])] = row[OWN, i]
        bits += sum_of_bits(gradient)
    return bits


def set_others(others: np.ndarray, smooth: np.ndarray) -> None:
    """Sets the weights of all other classes together, for each class."""
    everything = sum_of(smooth)
    for c in range(smooth.size):
        others[c] = everything - smooth[c]


def write_smooth_vector(
    gradient: np.ndarray,
    smooth: np.ndarray,
    others: np.ndarray,
    of_others: Any,
    share: Any,
    total: Any,
    rest: Any,
) -> None:
    """The same as `write_smooth` for one position and all classes."""
    for c in range(gradient.size):
        e = gradient[c]
        not_e = where(e == ONE, rest, total - e)
        of_smooth = smoothing_derivative(e, not_e, smooth[c], others[c])
        gradient[c] = e * of_others + share * of_smooth


# From the sums to the value and to what the gradient is made of


def evaluate(row: np.ndarray, sums: np.ndarray, scores: Scores) -> float:
    """The weighted sum over a row; its own and others become gradients, its margin the value."""
    copy(row[OTHERS], sums[SUM], 1)
    exponentiate(row[OWN], row[MARGIN], row[LARGEST])
    subtract(row[MARGIN], row[LARGEST])
    if scores.smooth.size:
        set_smooth(row, sums, scores.smooth)
    apply_formula(row[MARGIN], row[OTHERS], row[OWN], scores.gamma)
    result = weighted_sum(row[MARGIN], row[OTHERS], row[OWN], row[WEIGHT], scores.loss_weight)
    if scores.smooth.size:
        result += weighted_sum(
            row[SMOOTH], row[SHARE], row[SMOOTH_OWN], row[UNIT], scores.loss_weight
        )
        add_all(row[OWN], row[SMOOTH_OWN])
    return result


def apply_formula(margin: np.ndarray, others: np.ndarray, own: np.ndarray, gamma: Any) -> None:
    """Puts value and gradients where the formula's arguments stood: so LLVM vectorises it."""
    for i in range(own.size):
        margin[i], others[i], own[i] = formula(own[i], others[i], margin[i], gamma)


def set_smooth(row: np.ndarray, sums: np.ndarray, smooth: np.ndarray) -> None:
    """Sets what label smoothing adds to the values and to the gradient."""
    everything = sum_of(smooth)
    copy(row[SMOOTH], sums[DISTANCE], 1)
    add_logarithms(row[SMOOTH], row[OWN], row[OTHERS], np.float32(everything))
    copy(row[TOTAL], row[OTHERS], ONE)
    add_all(row[TOTAL], row[OWN])
    add_all(row[REST], row[OWN])
    add_all(row[REST], row[TIES])
    for i in range(row.shape[1]):
        weight = smooth[max(0, int(row[NUMBER, i]))]
        others = np.float32(everything - weight)
        row[SHARE, i] = ONE / row[TOTAL, i]
        of_label = smoothing_derivative(row[OWN, i], row[OTHERS, i], weight, others)
        row[SMOOTH_OWN, i] = row[SHARE, i] * of_label


def add_logarithms(
    smooth: np.ndarray, own: np.ndarray, others: np.ndarray, everything: Any
) -> None:
    """Adds to the sum of smooth[c] (m - x_c) the rest of the sum of smooth[c] (-ln p_c)."""
    for i in range(own.size):
        smooth[i] += everything * log_of_sum(own[i], others[i])


def weighted_sum(
    value: np.ndarray, of_others: np.ndarray, of_own: np.ndarray, weight: np.ndarray, factor: Any
) -> float:
    """The weighted sum of values; weighs the gradients, whose NaN and infinities it tells."""
    result = 0.0
    first = 0
    while first < value.size:
        here = slice(first, end_of_row(first, value.size))
        result += weigh_row(value[here], of_others[here], of_own[here], weight[here], factor)
        first = here.stop
    return result


def weigh_row(
    value: np.ndarray, of_others: np.ndarray, of_own: np.ndarray, weight: np.ndarray, factor: Any
) -> Any:
    """The same of a row, in float32."""
    result = ZERO
    for i in range(value.size):
        scale = weight[i] * factor
        of_others[i] = scale * of_others[i]
        of_own[i] = scale * of_own[i]
        suspect = of_others[i] + of_own[i]
        result = add(result, weight[i] * value[i] + (suspect - suspect))
    return result


def add_all(row: np.ndarray, numbers: np.ndarray) -> None:
    """Adds another number to each."""
    for i in range(row.size):
        row[i] += numbers[i]


def store(out: np.ndarray, value: np.ndarray, number: np.ndarray) -> None:
    """Copies the values; NO_CLASS where there is no class."""
    for i in range(out.size):
        out[i] = where(number[i] == NO_CLASS, NO_CLASS, value[i])
