"""Where losses that are normalised over the batch get their counts when several ranks share it.

Ranks average their gradients, so a loss S / C with the sum S and the count C of the whole batch is
the mean over ranks of each rank's S divided by the mean of C: losses divide by mean counts. The
exchange takes part on all ranks: every rank must ask equally often and in the same order, in each
forward of the TRAIN phase, also where its own part of the batch is empty.
"""

from typing import Callable, Sequence

import numpy as np

Reduction = Callable[[np.ndarray], np.ndarray]


def of_this_rank(counts: np.ndarray) -> np.ndarray:
    """The counts as they are: the batch is all on this rank."""
    return counts


_reduction: Reduction = of_this_rank


def set_all_reduce(reduction: Reduction) -> None:
    """From now on counts pass through `reduction`, which returns their mean over all ranks."""
    global _reduction
    _reduction = reduction


def mean_over_ranks(counts: Sequence[float]) -> Sequence[float]:
    """The mean over all ranks of the counts of this rank's part of the batch."""
    if _reduction is of_this_rank:
        return counts
    return _reduction(np.array(counts, dtype=np.float64))
