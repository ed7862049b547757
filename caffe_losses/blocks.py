"""The block loop that every loss runs in.

A blob is seen as (N, C, S): batch, channels, and all spatial positions in one axis. It is worked
through in blocks that stay in the processor's cache, with scratch buffers that are allocated once
for each thread, so that no temporary of the blob's size is ever made. The partition into blocks
depends on the shape alone, and the sums of the blocks are added exactly, so that the result is the
same to the bit for any number of threads.
"""

import functools
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

from caffe_losses.shapes import product

Shape = Tuple[int, int, int]
Index = Tuple[slice, slice, slice]

# Larger blocks are faster: the interpreter's share shrinks, and threads meet less often at its
# lock. They are as large as two threads can have them in 4 MB.
SCRATCH_BYTES = 1792 * 1024
# exp and log are many times slower when their output touches the end of their input.
GAP = 320
LARGEST_BLOCK = 512 * 1024
# To wake a thread takes as long as about this many operations on an element.
LEAST_FOR_A_THREAD = 2500000
# Rows shorter than this cost more in NumPy's loop overhead than in arithmetic.
SHORTEST_ROW = 1024
# Elements in each of the rows that are summed in float32 before float64 takes over.
ROW = 512


def part(operand: np.ndarray, index: Index) -> np.ndarray:
    """The part of an operand that belongs to a block; axes of size 1 broadcast."""
    if operand.size == 1:
        return operand
    return operand[tuple(s if n > 1 else slice(None) for s, n in zip(index, operand.shape))]


def cut(shape: Shape, size: int) -> List[Index]:
    """The index triples that cut an (N, C, S) blob into blocks of at most `size` elements.

    A block is a run of whole images, or a range of positions over all the channels of one image,
    or, where there are very many channels, over some of them.
    """
    batch, channels, positions = shape
    positions_each = even(positions, max(SHORTEST_ROW, size // max(channels, 1)))
    channels_each = even(channels, size // max(positions_each, 1))
    whole_images = positions_each == positions and channels_each == channels
    batch_each = even(batch, size // max(channels * positions, 1)) if whole_images else 1
    return [
        (images, some_channels, some_positions)
        for images in slices(batch, batch_each)
        for some_positions in slices(positions, positions_each)
        for some_channels in slices(channels, channels_each)
    ]


def slices(length: int, each: int) -> List[slice]:
    """The slices of this length that cover an axis."""
    return [slice(start, start + each) for start in range(0, length, max(each, 1))]


def even(length: int, most: int) -> int:
    """The length of equal parts, none longer than `most`, that a length is cut into.

    Of several it makes an even number where it can, so that two threads end together.
    """
    parts = ceil_divide(length, max(most, 1))
    while 1 < parts < length and ceil_divide(length, ceil_divide(length, parts)) % 2:
        parts += 1
    return ceil_divide(length, max(parts, 1))


def ceil_divide(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


@functools.lru_cache(maxsize=64)
def blocks_of(shape: Shape, buffers: float) -> List[Index]:
    """The blocks of a blob for work that needs so many float32 buffers of a block's size."""
    bytes_each = SCRATCH_BYTES / buffers - 2 * GAP if buffers else math.inf
    return cut(shape, int(min(LARGEST_BLOCK, bytes_each / 4)))


class Scratch:
    """The memory of one thread, lent as uninitialised arrays one after the other."""

    def __init__(self) -> None:
        self.memory: np.ndarray = np.empty(SCRATCH_BYTES, dtype=np.uint8)
        self.views: Dict[Any, Tuple[np.ndarray, int]] = {}
        self.taken = 0

    def take(self, shape: Tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """A contiguous array of this shape that is the caller's until it is released."""
        key = (self.taken, shape, dtype)
        if key not in self.views:
            if len(self.views) > 100:  # shapes that change all the time must not pile up
                self.views.clear()
            end = self.taken + product(shape) * np.dtype(dtype).itemsize
            view = self.memory[self.taken : end].view(dtype).reshape(shape)
            self.views[key] = (view, end + GAP - end % 64)
        view, self.taken = self.views[key]
        return view

    def release(self, mark: int = 0) -> None:
        """Makes free again what was taken since `taken` was at the mark."""
        self.taken = mark


_of_thread = threading.local()
_pools: Dict[int, ThreadPoolExecutor] = {}


def scratch_of_this_thread() -> Scratch:
    """Made at a thread's first block, and kept."""
    if not hasattr(_of_thread, "scratch"):
        _of_thread.scratch = Scratch()
    return _of_thread.scratch


def thread_count() -> int:
    """As many threads as the affinity mask allows, and no more than OMP_NUM_THREADS."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(1, min(available, int(wanted))) if wanted.isdigit() else available


def _pool() -> ThreadPoolExecutor:
    # A forked child inherits the pool object but none of its threads, so it gets a new one.
    process = os.getpid()
    if process not in _pools:
        _pools.clear()
        _pools[process] = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    return _pools[process]


def for_each_block(
    shape: Shape,
    buffers: float,
    function: Callable[[Index, Scratch], Any],
    operations: int = 4,
) -> List[Any]:
    """Calls `function(index, scratch)` for each block and returns the results in order.

    `buffers` is how many float32 arrays of a block's size the function holds at once, `operations`
    about how many it does on each element: the fewer, the larger a blob must be for two threads.
    Call it where NumPy's floating-point errors are ignored, as `LossLayer` does: overflow is met by
    a check of the result, not by a warning on the way.
    """
    blocks = blocks_of(shape, buffers)
    if len(blocks) == 1:
        scratch = scratch_of_this_thread()
        scratch.release()
        return [function(blocks[0], scratch)]
    results: List[Any] = [None] * len(blocks)
    # Threads take the next block from one iterator; advancing it is atomic.
    numbers = iter(range(len(blocks)))

    def work() -> None:
        scratch = scratch_of_this_thread()
        for number in numbers:
            scratch.release()
            results[number] = function(blocks[number], scratch)

    def help_with_work() -> None:
        with np.errstate(all="ignore"):  # it holds for one thread only
            work()

    worthwhile = product(shape) * operations // LEAST_FOR_A_THREAD
    threads = min(thread_count(), len(blocks), worthwhile)
    futures = [_pool().submit(help_with_work) for _ in range(threads - 1)]
    try:
        work()
    finally:  # even after Ctrl-C: the caller may free the memory that the others work on
        for future in futures:
            # One that has not begun by now has nothing left to do.
            if not future.cancel():
                future.result()
    return results


def sum_over_blocks(
    shape: Shape,
    buffers: float,
    function: Callable[[Index, Scratch], float],
    operations: int = 4,
) -> float:
    """The sum of what `function` returns for each block, rounded once."""
    sums = for_each_block(shape, buffers, function, operations)
    finite = all(map(math.isfinite, sums))
    return math.fsum(sums) if finite else sum(sums)


def dot(first: np.ndarray, second: np.ndarray) -> float:
    """The sum of products of two contiguous buffers: float32 in short rows, then float64."""
    rest = first.size % ROW
    whole = first.size - rest
    first, second = first.reshape(-1), second.reshape(-1)
    total = 0.0
    if whole:
        rows = np.matmul(first[:whole].reshape(-1, 1, ROW), second[:whole].reshape(-1, ROW, 1))
        total += float(rows.sum(dtype=np.float64))
    if rest:
        total += float(np.dot(first[whole:], second[whole:]))
    return total
