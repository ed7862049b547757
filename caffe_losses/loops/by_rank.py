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
from caffe_losses.loops.parts import Index, blocks, slices, whole_channel_blocks
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
# A group is a channel of an image, or of all images; it has a loss of its own.
Block = NamedTuple(
    "Block",  # what is sorted at once: one group, or several short ones
    [
        ("first_image", int),
        ("last_image", int),
        ("first_channel", int),
        ("last_channel", int),
        ("groups_of_image", int),  # 0 where groups are of all images
    ],
)
Loop = NamedTuple(
    "Loop",
    [
        # Sets keys, of which each is the group's number, the margin's bits, the place in the block,
        # and whether that is positive, in this order; and the number of positives of each group.
        # Returns how many keys there are. May set the margins of what has no error to its
        # derivative, 0.
        ("pack", Callable[[Errors, Block, np.ndarray, np.ndarray], int]),
        # Takes sorted keys and the numbers of positives; puts derivatives in the place of margins
        # and sets the losses, which were 0.
        ("walk", Callable[[Errors, Block, np.ndarray, np.ndarray, np.ndarray], None]),
    ],
)

# Bits of a key below the margin's: many for the place in a single group; few where the number of
# the group needs some too, which is above the margin's.
LONG, SHORT = np.uint64(32), np.uint64(17)
ELEMENTS_OF_SHORT = 2**14
BITS_OF_MARGIN = np.uint64(32)
SIGN, ALL_BITS = np.uint32(1 << 31), np.uint32(2**32 - 1)
BIT, IS_POSITIVE = np.uint64(1), np.uint64(1)


def blocks_of(shape: Tuple[int, int, int], per_image: bool) -> List[Block]:
    """All groups of an (N, C, S) blob that is not empty, in the order of images and channels."""
    batch, channels, positions = shape
    images_each = max(1, ELEMENTS_OF_SHORT // (channels * positions)) if per_image else batch
    size = positions if per_image else batch * positions
    channels_each = max(1, ELEMENTS_OF_SHORT // size)
    return [
        Block(
            images.start,
            min(images.stop, batch),
            some.start,
            min(some.stop, channels),
            min(channels_each, channels) * per_image,
        )
        for images in slices(batch, images_each)
        for some in slices(channels, channels_each)
    ]


def by_rank(errors: Errors, per_image: bool) -> Tuple[np.ndarray, np.ndarray]:
    """The Jaccard losses and how many positives there are: (N, C), or (1, C) of all images.

    Puts the derivatives of the losses in the place of the margins, those with respect to the score
    or probability of the positive class. Of equal errors the earlier comes first.
    """
    batch, channels, positions = errors.margins.shape

    def run(block: Block) -> np.ndarray:
        images = block.last_image - block.first_image
        some_channels = block.last_channel - block.first_channel
        losses = np.zeros(some_channels * (images if per_image else 1))
        positives = np.zeros(losses.size, np.int64)
        keys = np.empty(images * some_channels * positions, np.uint64)
        keys = keys[: loop().pack(errors, block, keys, positives)]
        keys.sort()  # all are different: nothing depends on how
        loop().walk(errors, block, keys, positives, losses)
        return np.array([losses, positives])

    shape = 2, batch if per_image else min(batch, 1), channels
    if errors.margins.size == 0:
        losses, positives = np.zeros(shape)
    else:
        results = for_each_part(run, blocks_of(errors.margins.shape, per_image))
        losses, positives = np.concatenate(results, axis=1).reshape(shape)
    return losses, positives


@functools.lru_cache(maxsize=None)
def loop() -> Loop:
    """The loops of the engine."""
    return engine.loop(compiled_loop, Loop(pack_block, walk_block))


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


def pack_block(errors: Errors, block: Block, keys: np.ndarray, positives: np.ndarray) -> int:
    """NumPy's loop for the keys."""
    images = slice(block.first_image, block.last_image)
    channels = slice(block.first_channel, block.last_channel)
    margin = errors.margins[images, channels]
    label = part_of(errors.label, (images, channels, slice(None)))
    is_positive = label == errors.positive[channels, np.newaxis]
    is_positive &= np.isfinite(margin)
    is_error = margin < errors.largest
    groups = positives.size
    positives[...] = np.count_nonzero(is_positive, axis=2).reshape(-1, groups).sum(axis=0)
    (place,) = np.nonzero(is_error.ravel())
    bits = (margin.ravel()[place] + ZERO).view(np.uint32)  # -0 becomes 0
    bits ^= np.where(bits & SIGN, ALL_BITS, SIGN)  # the order of numbers, as that of whole ones
    packed = keys[: place.size]
    packed[...] = bits
    if groups > 1:
        errors_of_row = np.count_nonzero(is_error, axis=2).ravel()
        group_of_row = np.arange(errors_of_row.size, dtype=np.uint64) % np.uint64(groups)
        packed |= np.repeat(group_of_row << BITS_OF_MARGIN, errors_of_row)
    packed <<= LONG if groups == 1 else SHORT
    packed |= (place.astype(np.uint64) << BIT) | is_positive.ravel()[place]
    return place.size


def walk_block(
    errors: Errors, block: Block, keys: np.ndarray, positives: np.ndarray, losses: np.ndarray
) -> None:
    """NumPy's loop along the sorted keys."""
    images = slice(block.first_image, block.last_image)
    channels = slice(block.first_channel, block.last_channel)
    margins = errors.margins[images, channels]
    margin_bit = LONG if positives.size == 1 else SHORT
    groups = np.arange(positives.size, dtype=np.uint64)
    start = np.searchsorted(keys, groups << BITS_OF_MARGIN << margin_bit)
    size = np.diff(np.append(start, keys.size))
    place = (keys & ((BIT << margin_bit) - BIT)) >> BIT
    is_positive = keys & IS_POSITIVE
    found = np.append(0.0, np.cumsum(is_positive))
    missed = np.repeat(positives + found[start], size) - found[:-1]
    union = missed + (np.arange(keys.size) - np.repeat(start, size))
    with np.errstate(all="ignore"):  # of a division by 0, which is replaced
        step = np.where(is_positive, 1, missed / (union + 1)) / union
    step[union == 0] = 1
    error = errors.largest - margins.ravel()[place]
    has_errors = size > 0
    losses[has_errors] = np.add.reduceat(error * step, start[has_errors])
    derivative = np.zeros(margins.size, np.float32)
    derivative[place] = np.where(is_positive, -step, step)
    margins[...] = derivative.reshape(margins.shape)


# Numba


def compiled_loop() -> Loop:
    """Numba's loops."""
    from caffe_losses.loops import numba_engine

    blob = np.zeros((1, 1, 1), np.float32)
    errors = Errors(blob, blob, np.zeros(1, np.float32), np.float32(1))
    keys, positives, losses = np.zeros(1, np.uint64), np.ones(1, np.int64), np.zeros(1)
    example = errors, Block(0, 1, 0, 1, 0), keys, positives
    return Loop(
        numba_engine.loop(pack_rows, "errors", example),
        numba_engine.loop(walk_keys, "errors", (*example, losses)),
    )


def pack_rows(errors: Errors, block: Block, keys: np.ndarray, positives: np.ndarray) -> int:
    """Numba's loop for the keys."""
    positions = errors.margins.shape[2]
    largest, last_label = errors.largest, errors.label.shape[1] - 1
    margin_bit = LONG if positives.size == 1 else SHORT
    count = place_of_row = 0
    for image in range(block.first_image, block.last_image):
        group = (image - block.first_image) * block.groups_of_image
        for channel in range(block.first_channel, block.last_channel):
            margins = errors.margins[image, channel]
            labels = errors.label[image, min(channel, last_label)]
            number = errors.positive[channel]
            bits_of_row = margins.view(np.uint32)
            positives_of_row = 0
            for i in range(positions):
                is_positive = (labels[i] == number) & (margins[i] < np.inf)
                positives_of_row += is_positive
                if margins[i] < largest:
                    bits = bits_of_row[i]
                    if bits == SIGN:
                        bits = np.uint32(0)  # -0 becomes 0
                    if bits & SIGN:
                        bits = np.uint32(~bits)
                    else:
                        bits = np.uint32(bits | SIGN)
                    key = (np.uint64(group) << BITS_OF_MARGIN) | np.uint64(bits)
                    place = np.uint64(place_of_row + i)
                    key = (key << margin_bit) | (place << BIT) | np.uint64(is_positive)
                    keys[count] = key
                    count += 1
                else:
                    margins[i] = ZERO
            positives[group] += positives_of_row
            place_of_row += positions
            group += 1
    return count


def walk_keys(
    errors: Errors, block: Block, keys: np.ndarray, positives: np.ndarray, losses: np.ndarray
) -> None:
    """Numba's loop along the sorted keys."""
    # In 32 bits: those of 64 are divided several times as slowly.
    positions = np.uint32(errors.margins.shape[2])
    channels = np.uint32(block.last_channel - block.first_channel)
    margin_bit = LONG if positives.size == 1 else SHORT
    bits_of_place = (BIT << margin_bit) - BIT
    group, missed, union = -1, 0.0, 0.0
    for k in range(keys.size):
        group_of_key = np.int64(keys[k] >> margin_bit >> BITS_OF_MARGIN)
        if group_of_key != group:
            group = group_of_key
            missed = union = np.float64(positives[group])
        place = np.uint32((keys[k] & bits_of_place) >> BIT)
        row, i = np.uint32(place // positions), place % positions
        image, channel = np.int64(row // channels), np.int64(row % channels)
        derivatives = errors.margins[block.first_image + image, block.first_channel + channel]
        error = np.float64(errors.largest - derivatives[i])
        if keys[k] & IS_POSITIVE:
            step = 1 / union
            missed -= 1
            derivatives[i] = -step
        else:
            step = missed / (union * (union + 1)) if union > 0 else 1.0
            union += 1
            derivatives[i] = step
        losses[group] += error * step
