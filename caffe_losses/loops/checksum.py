"""What shows that somebody has written to an array: some of its bytes, and the sum of its bits."""

import functools
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np

from caffe_losses.loops import engine
from caffe_losses.loops.parts import parts
from caffe_losses.loops.rows import sum_of_bits
from caffe_losses.loops.threads import for_each_part

Checksum = Tuple[bytes, int]
# An array of so many elements is copied quicker than summed.
COPIED = 4096
SAMPLED = 64  # elements of a larger one that are copied


def checksums(
    arrays: Sequence[Optional[np.ndarray]], bits: Sequence[Optional[int]] = ()
) -> List[Checksum]:
    """Those of all arrays that are there; `bits` are the sums of their bits, where known."""
    known = bits or [None] * len(arrays)
    return [checksum(array, own) for array, own in zip(arrays, known) if array is not None]


def checksum(array: np.ndarray, bits: Optional[int] = None) -> Checksum:
    """It is another one, but for the rarest of chances, once any element has changed."""
    if array.size <= COPIED:
        return array.tobytes(), 0
    flat = array.reshape(-1)
    if bits is None:
        bits = sum(for_each_part(lambda part: loop()(flat[slice(*part)]), parts(flat.size)))
    # The sum is the same for these elements in another order, and for their negatives where as many
    # are positive as negative: hence the samples.
    return flat[:: flat.size // SAMPLED].tobytes(), bits % 2**32


@functools.lru_cache(maxsize=None)
def loop() -> Callable[[np.ndarray], int]:
    """The sum of bits, as the engine works it out."""
    plain: Callable[[np.ndarray], int] = sum_of_bits_at_once
    return engine.loop(compiled_loop, plain)


def sum_of_bits_at_once(array: np.ndarray) -> int:
    """NumPy's loop."""
    return int(array.view(np.int32).sum(dtype=np.int64))


def compiled_loop() -> Callable[[np.ndarray], int]:
    """Numba's loop: NumPy's own takes several times as long."""
    from caffe_losses.loops import numba_engine

    return numba_engine.loop(sum_of_bits, "gradient", (np.zeros(1, np.float32),))
