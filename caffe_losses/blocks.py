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

BLOCK_SIZE = 65536
# Rows shorter than this cost more in NumPy's loop overhead than in arithmetic.
SHORTEST_ROW = 1024
# exp and log are many times slower when their output touches the end of their input.
GAP = 80
FLOAT_BUFFERS = 6
BOOL_BUFFERS = 2
# Elements in each of the rows that are summed in float32 before float64 takes over.
ROW = 256


def part(operand: np.ndarray, index: Index) -> np.ndarray:
    """The part of an operand that belongs to a block; axes of size 1 broadcast."""
    if operand.size == 1:
        return operand
    return operand[tuple(s if n > 1 else slice(None) for s, n in zip(index, operand.shape))]


class Blocks:
    """The sequence of index triples that cuts an (N, C, S) blob into blocks.

    A block is a run of whole images, or a range of positions over all the channels of one image,
    or, where there are very many channels, over some of them.
    """

    def __init__(self, shape: Shape) -> None:
        batch, channels, positions = shape
        positions_each = min(positions, max(SHORTEST_ROW, BLOCK_SIZE // max(channels, 1)))
        channels_each = min(channels, BLOCK_SIZE // max(positions_each, 1))
        whole = positions_each == positions and channels_each == channels
        batch_each = max(1, BLOCK_SIZE // max(channels * positions, 1)) if whole else 1
        self.shape = shape
        self.lengths = (min(batch, batch_each), channels_each, positions_each)
        self.parts = tuple(-(-size // max(n, 1)) for size, n in zip(shape, self.lengths))

    def __len__(self) -> int:
        return self.parts[0] * self.parts[1] * self.parts[2]

    def __getitem__(self, number: int) -> Index:
        rest, channel = divmod(number, self.parts[1])
        image, position = divmod(rest, self.parts[2])
        images, channels, positions = self.lengths
        return (
            slice(image * images, (image + 1) * images),
            slice(channel * channels, (channel + 1) * channels),
            slice(position * positions, (position + 1) * positions),
        )


blocks_of = functools.lru_cache(maxsize=64)(Blocks)


class Buffers:
    """Uninitialised buffers of one block each, lent in order."""

    def __init__(self, count: int, dtype: Any) -> None:
        self.pool = np.empty((count, BLOCK_SIZE + GAP), dtype=dtype)
        self.views: Dict[Tuple[int, Tuple[int, ...]], np.ndarray] = {}
        self.taken = 0

    def take(self, shape: Tuple[int, ...]) -> np.ndarray:
        """A contiguous array of this shape that is the caller's until the buffers are released."""
        key = (self.taken, shape)
        self.taken += 1
        if key not in self.views:
            if len(self.views) > 100:  # shapes that change all the time must not pile up
                self.views.clear()
            self.views[key] = self.pool[key[0], : product(shape)].reshape(shape)
        return self.views[key]


class Scratch:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self.floats = Buffers(FLOAT_BUFFERS, np.float32)
        self.bools = Buffers(BOOL_BUFFERS, np.bool_)
        self.take = self.floats.take
        self.take_bool = self.bools.take

    def give_back(self) -> None:
        """Makes the float buffer that was taken last free again."""
        self.floats.taken -= 1

    def release(self) -> None:
        """Makes all buffers free again."""
        self.floats.taken = self.bools.taken = 0


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


_of_thread = _OfThread()
_pools: Dict[int, ThreadPoolExecutor] = {}


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


def for_each_block(shape: Shape, function: Callable[[Index, Scratch], Any]) -> List[Any]:
    """Calls `function(index, scratch)` for each block and returns the results in order.

    Call it where NumPy's floating-point errors are ignored, as `LossLayer` does: overflow is met by
    a check of the result, not by a warning on the way.
    """
    blocks = blocks_of(shape)
    results: List[Any] = [None] * len(blocks)
    # Threads take the next block from one iterator; advancing it is atomic.
    numbers = iter(range(len(blocks)))

    def work() -> None:
        scratch = _of_thread.scratch
        for number in numbers:
            scratch.release()
            results[number] = function(blocks[number], scratch)

    def help_with_work() -> None:
        with np.errstate(all="ignore"):  # it holds for one thread only
            work()

    helpers = min(thread_count(), len(blocks)) - 1 if len(blocks) > 1 else 0
    futures = [_pool().submit(help_with_work) for _ in range(helpers)]
    work()
    for future in futures:
        # One that has not begun by now has nothing left to do.
        if not future.cancel():
            future.result()
    return results


def sum_over_blocks(shape: Shape, function: Callable[[Index, Scratch], float]) -> float:
    """The sum of what `function` returns for each block, rounded once."""
    sums = for_each_block(shape, function)
    finite = all(map(math.isfinite, sums))
    return math.fsum(sums) if finite else sum(sums)


def dot(first: np.ndarray, second: np.ndarray) -> float:
    """The sum of products of two contiguous buffers: float32 in short rows, then float64."""
    first, second = first.reshape(-1), second.reshape(-1)
    whole = first.size - first.size % ROW
    total = float(np.dot(first[whole:], second[whole:]))
    if whole:
        rows = np.matmul(first[:whole].reshape(-1, 1, ROW), second[:whole].reshape(-1, ROW, 1))
        total += float(rows.sum(dtype=np.float64))
    return total
