"""What shows that somebody has written to an array: some of its bytes, and sums of its bits."""

import functools
from typing import Callable, List, Tuple

import numpy as np

from caffe_losses.loops import engine
from caffe_losses.loops.parts import Part, parts
from caffe_losses.loops.threads import for_each_part

Checksum = Tuple[bytes, List[int]]
# An array of so many elements is copied quicker than summed.
COPIED = 4096


def checksum(array: np.ndarray) -> Checksum:
    """It is another one, but for the rarest of chances, once any element has changed."""
    if array.size <= COPIED:
        return array.tobytes(), []
    flat = array.reshape(-1)
    # Negation leaves the sums as they are where as many elements are positive as negative: hence
    # the first bytes. An odd number of elements leaves out the last one: hence its own.
    pairs = flat[: flat.size // 2 * 2].view(np.int64)

    def sum_part(part: Part) -> int:
        return int(loop()(pairs[part[0] : part[1]]))

    return flat[:8].tobytes() + flat[-1:].tobytes(), for_each_part(sum_part, parts(pairs.size))


@functools.lru_cache(maxsize=None)
def loop() -> Callable[[np.ndarray], int]:
    """The sum of whole numbers, as the engine works it out; it may overflow."""
    return engine.loop(compiled_loop, np.add.reduce)


def compiled_loop() -> Callable[[np.ndarray], int]:
    """Numba's loop: NumPy's own takes three times as long."""
    from caffe_losses.loops import numba_engine

    return numba_engine.loop(sum_of_numbers, "bits", (np.zeros(1, np.int64),))


def sum_of_numbers(numbers: np.ndarray) -> int:
    """Their sum."""
    result = 0
    for i in range(numbers.size):
        result += numbers[i]
    return result
