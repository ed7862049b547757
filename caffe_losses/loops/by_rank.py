"""The loop by rank: errors in the order of their size, and what each adds to the Jaccard loss.

With n errors taken, the largest first, f of them at positives, the Jaccard loss of G positives is
1 - (G - f) / (G + n - f). Each error is multiplied by the step that it makes: after n and f, by
1 / (G + n - f) at a positive and by (G - f) / ((G + n - f) (G + n - f + 1)) at a negative.
"""

import functools
from typing import Any, Callable, List, NamedTuple, Tuple

import numpy as np

from caffe_losses.elementary import ONE, ZERO
from caffe_losses.loops import engine
from caffe_losses.loops.parts import Index, blocks, whole_channel_blocks
from caffe_losses.loops.pointwise import part_of
from caffe_losses.loops.softmax import softmax, through_softmax
from caffe_losses.loops.threads import for_each_part

Errors = NamedTuple(
    "Errors",
    [
        # (N, C, S): the error of an element is `largest` less its margin, and none where that is
        # not above 0. What takes no part has an infinite margin.
        ("margins", np.ndarray),
        ("label", np.ndarray),  # (N, C or 1, S)
        ("positive", np.ndarray),  # (C): the label that is positive in each channel
        ("largest", Any),  # float32
    ],
)
Group = Tuple[int, int, int]  # the images from a first to a last one, and a channel
Loop = NamedTuple(
    "Loop",
    [
        # Sets keys, of which each is the margin's bits, the place in the group, and whether that is
        # positive, in this order. Returns how many there are, and how many positives. May set
        # the margins of what has no error to its derivative, 0.
        ("pack", Callable[[Errors, np.ndarray, int, int, int], Tuple[int, int]]),
        # Takes sorted keys and the number of positives; puts derivatives in the place of margins.
        ("walk", Callable[[Errors, np.ndarray, int, int, int, int], float]),
    ],
)

PLACE, SIGN = np.uint64(32), np.uint32(1 << 31)
BIT, IS_POSITIVE = np.uint64(1), np.uint64(1)
LOW, ALL_BITS = np.uint64(2**32 - 1), np.uint32(2**32 - 1)


def groups_of(shape: Tuple[int, int, int], images_each: int) -> List[Group]:
    """Each channel of so many images at a time."""
    batch, channels, _ = shape
    return [
        (first, min(first + images_each, batch), channel)
        for first in range(0, batch, max(images_each, 1))
        for channel in range(channels)
    ]


def by_rank(errors: Errors, images_each: int) -> Tuple[np.ndarray, np.ndarray]:
    """The Jaccard losses of the groups and how many positives each has, both (groups, C).

    Puts the derivatives of the losses in the place of the margins, those with respect to the score
    or probability of the positive class. Of equal errors the earlier comes first.
    """

    def run(group: Group) -> Tuple[float, int]:
        first, last, _ = group
        keys = np.empty((last - first) * errors.margins.shape[2], np.uint64)
        count, positives = loop().pack(errors, keys, *group)
        keys = keys[:count]
        keys.sort()  # all are different: nothing depends on how
        return loop().walk(errors, keys, positives, *group), positives

    groups = groups_of(errors.margins.shape, images_each)
    results = np.array(for_each_part(run, groups), np.float64)
    batch, channels, _ = errors.margins.shape
    shape = -(-batch // max(images_each, 1)), channels, 2
    losses, positives = np.moveaxis(results.reshape(shape), 2, 0)
    return losses, positives


@functools.lru_cache(maxsize=None)
def loop() -> Loop:
    """The loops of the engine."""
    return engine.loop(compiled_loop, Loop(pack_group, walk_group))


# Margins


def set_hinge_margins(
    margins: np.ndarray, score: np.ndarray, label: np.ndarray, ignore_label: Any
) -> bool:
    """Sets the margins (2 t - 1) x of labels 0 and 1; whether all scores are finite."""

    def set_block(index: Index) -> bool:
        x, t = score[index], label[index]
        margin = np.where(t == ONE, x, -x)
        margins[index] = np.where(t == ignore_label, np.inf, margin)
        return bool(np.isfinite(x).all())

    return all(for_each_part(set_block, blocks(score.shape)))


def set_softmax_margins(
    margins: np.ndarray, score: np.ndarray, label: np.ndarray, ignore_label: Any
) -> bool:
    """Sets the margins, less what the probability of each class is wrong by; as for the hinge."""
    classes = np.arange(score.shape[1], dtype=np.float32)[:, np.newaxis]

    def set_block(index: Index) -> bool:
        x, t = score[index], part_of(label, index)
        with np.errstate(all="ignore"):  # it holds for one thread alone
            p, q, _ = softmax(x)
            margin = -np.where(t == classes, q, p)
            margins[index] = np.where(t == ignore_label, np.inf, margin)
        return bool(np.isfinite(x).all())

    return all(for_each_part(set_block, whole_channel_blocks(score.shape)))


def take_derivatives_through_softmax(
    derivatives: np.ndarray, score: np.ndarray, factors: np.ndarray
) -> None:
    """Makes derivatives to scores of those to probabilities, times factors (N or 1, C).

    Computes in the precision of the factors.
    """

    def write_block(index: Index) -> None:
        with np.errstate(all="ignore"):
            p, _, is_top = softmax(score[index].astype(factors.dtype, copy=False))
            h = derivatives[index] * part_of(factors[:, :, np.newaxis], index)
            derivatives[index] = through_softmax(h, p, is_top)

    for_each_part(write_block, whole_channel_blocks(score.shape))


# NumPy


def pack_group(
    errors: Errors, keys: np.ndarray, first: int, last: int, channel: int
) -> Tuple[int, int]:
    """NumPy's loop for the keys."""
    margin = errors.margins[first:last, channel].ravel()
    label = errors.label[first:last, min(channel, errors.label.shape[1] - 1)].ravel()
    is_positive = (label == errors.positive[channel]) & np.isfinite(margin)
    (place,) = np.nonzero(margin < errors.largest)
    bits = (margin[place] + ZERO).view(np.uint32)  # -0 becomes 0
    bits ^= np.where(bits & SIGN, ALL_BITS, SIGN)  # the order of numbers, as that of whole ones
    packed = keys[: place.size]
    packed[...] = bits
    packed <<= PLACE
    packed |= (place.astype(np.uint64) << BIT) | is_positive[place]
    return place.size, np.count_nonzero(is_positive)


def walk_group(
    errors: Errors, keys: np.ndarray, positives: int, first: int, last: int, channel: int
) -> float:
    """NumPy's loop along the sorted keys."""
    margins = errors.margins[first:last, channel]
    place, is_positive = (keys & LOW) >> BIT, keys & IS_POSITIVE
    found = (np.cumsum(is_positive) - is_positive).astype(np.float64)
    missed, union = positives - found, positives + np.arange(keys.size) - found
    with np.errstate(all="ignore"):  # of a division by 0, which is replaced
        step = np.where(is_positive, 1, missed / (union + 1)) / union
    if positives == 0:
        step[:1] = 1
    error = errors.largest - margins.ravel()[place]
    derivative = np.zeros(margins.size, np.float32)
    derivative[place] = np.where(is_positive, -step, step)
    margins[...] = derivative.reshape(margins.shape)
    return float(np.sum(error * step))


# Numba


def compiled_loop() -> Loop:
    """Numba's loops."""
    from caffe_losses.loops import numba_engine

    blob = np.zeros((1, 1, 1), np.float32)
    errors = Errors(blob, blob, np.zeros(1, np.float32), np.float32(1))
    keys = np.zeros(1, np.uint64)
    return Loop(
        numba_engine.loop(pack_rows, "errors", (errors, keys, 0, 1, 0)),
        numba_engine.loop(walk_keys, "errors", (errors, keys, 1, 0, 1, 0)),
    )


def pack_rows(
    errors: Errors, keys: np.ndarray, first: int, last: int, channel: int
) -> Tuple[int, int]:
    """Numba's loop for the keys."""
    positions = errors.margins.shape[2]
    label_channel = min(channel, errors.label.shape[1] - 1)
    largest, number = errors.largest, errors.positive[channel]
    count = positives = 0
    for image in range(first, last):
        margins, labels = errors.margins[image, channel], errors.label[image, label_channel]
        bits_of_row = margins.view(np.uint32)
        for i in range(positions):
            is_positive = (labels[i] == number) & (margins[i] < np.inf)
            positives += is_positive
            if margins[i] < largest:
                bits = bits_of_row[i]
                if bits == SIGN:
                    bits = np.uint32(0)  # -0 becomes 0
                if bits & SIGN:
                    bits = np.uint32(~bits)
                else:
                    bits = np.uint32(bits | SIGN)
                place = np.uint64((image - first) * positions + i)
                key = (np.uint64(bits) << PLACE) | (place << BIT) | np.uint64(is_positive)
                keys[count] = key
                count += 1
            else:
                margins[i] = ZERO
    return count, positives


def walk_keys(
    errors: Errors, keys: np.ndarray, positives: int, first: int, last: int, channel: int
) -> float:
    """Numba's loop along the sorted keys."""
    positions = errors.margins.shape[2]
    loss = 0.0
    missed, union = np.float64(positives), np.float64(positives)
    images = errors.margins[first:last]
    for k in range(keys.size):
        place = np.int64((keys[k] & LOW) >> BIT)
        row = images[place // positions, channel]
        i = place % positions
        error = np.float64(errors.largest - row[i])
        if keys[k] & IS_POSITIVE:
            step = 1 / union
            missed -= 1
            row[i] = -step
        else:
            step = missed / (union * (union + 1)) if union > 0 else 1.0
            union += 1
            row[i] = step
        loss += error * step
    return loss
