"""How blobs are cut, by their shape alone: results do not depend on the number of threads."""

import functools
import math
from typing import Any, List, NamedTuple, Sequence, Tuple

Part = Tuple[int, int]
Index = Tuple[slice, slice, slice]
Result = NamedTuple(
    "Result",
    [
        ("sum", float),
        ("bits", Sequence[int]),  # the sum of the bits of each gradient; empty where not known
    ],
)

# Elements in a row, which compiled loops sum in float32; rows are summed in float64.
ROW = 256
# As many elements of a row as LLVM works on together, or more.
LANES = 64
# A row takes as long to begin as so many elements one by one, or in NumPy's blocks.
SHORTEST_ROW = 16
# Elements or positions that compiled loops work on together, row by row.
STRETCH = 8 * ROW
# Elements in a part: a thread takes about as long to wake as to work on one of a cheap loss.
PART = 512 * ROW
# Elements in a block of NumPy's: its temporaries fit the second-level cache.
BLOCK = 64 * ROW


@functools.lru_cache(maxsize=64)
def parts(count: int, size: int = 1) -> List[Part]:
    """The (start, stop) of the parts of so many things that have so many elements each."""
    each = max(1, PART // max(size, 1))
    if each > STRETCH:
        each -= each % STRETCH  # no stretch but the last is cut short
    return [(start, min(start + each, count)) for start in range(0, count, each)]


@functools.lru_cache(maxsize=64)
def blocks(shape: Tuple[int, int, int]) -> List[Index]:
    """The indices of the blocks of an (N, C, S) blob: runs of whole images, or parts of one."""
    batch, channels, positions = shape
    positions_each = min(positions, max(ROW, BLOCK // max(channels, 1)))
    channels_each = min(channels, max(1, BLOCK // max(positions_each, 1)))
    is_whole = positions_each == positions and channels_each == channels
    images_each = max(1, BLOCK // max(channels * positions, 1)) if is_whole else 1
    return [
        (images, some_channels, some_positions)
        for images in slices(batch, images_each)
        for some_positions in slices(positions, positions_each)
        for some_channels in slices(channels, channels_each)
    ]


@functools.lru_cache(maxsize=64)
def whole_channel_blocks(shape: Tuple[int, int, int], size: int = BLOCK) -> List[Index]:
    """The same with all channels in a block of this size; none where there are none."""
    batch, channels, positions = shape
    if channels == 0:
        return []
    positions_each = max(1, size // channels)
    images_each = max(1, positions_each // max(positions, 1))
    return [
        (images, slice(0, channels), some_positions)
        for images in slices(batch, images_each)
        for some_positions in slices(positions, positions_each)
    ]


def slices(length: int, each: int) -> List[slice]:
    """The slices of this length that cover an axis."""
    return [slice(start, start + each) for start in range(0, length, max(each, 1))]


def combined(results: Sequence[Sequence[Any]]) -> Result:
    """The result of all parts, from the sum and the sums of bits of each."""
    sums, *bits = zip(*results) if results else ((),)
    return Result(total(sums), [*map(sum, bits)])


def total(sums: Sequence[float]) -> float:
    """The sum of the parts' sums, rounded once; what is not finite stays so."""
    return math.fsum(sums) if all(map(math.isfinite, sums)) else sum(sums)
