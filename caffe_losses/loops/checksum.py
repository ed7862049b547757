"""What shows that somebody has written to an array: some of its bytes, and the sum of its bits."""

import functools
from typing import Callable, Optional, Tuple

import numpy as np

from caffe_losses.loops import engine
from caffe_losses.loops.parts import parts
from caffe_losses.loops.rows import sum_of_bits
from caffe_losses.loops.threads import for_each_part

Checksum = Tuple[bytes, int]
# An array of so many elements is copied quicker than summed.
COPIED = 4096


def checksum(array: np.ndarray, bits: Optional[int] = None) -> Checksum:
    """It is another one, but for the rarest of chances, once any element has changed.

    `bits` is the sum of bits, where it is known.
    """
    if array.size <= COPIED:
        return array.tobytes(), 0
    flat = array.reshape(-1)
    if bits is None:
        bits = sum(for_each_part(lambda part: loop()(flat[slice(*part)]), parts(flat.size)))
    # Negation leaves the sum as it is where as many elements are positive as negative: hence the
    # first bytes.
    return flat[:2].tobytes(), bits


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
