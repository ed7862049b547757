"""Where losses that are normalised over the batch get their counts when several ranks share it.

Ranks average their gradients, so a loss S / C with the sum S and the count C of the whole batch is
the mean over ranks of each rank's S divided by the mean of C: losses divide by mean counts. The
exchange takes part on all ranks: every rank must ask equally often and in the same order, in each
forward of the TRAIN phase, also where its own part of the batch is empty.
"""

from typing import Callable, Optional, Sequence

import numpy as np

Mean = Callable[[np.ndarray], np.ndarray]

_mean: Optional[Mean] = None
_ranks = 1


def set_mean_over_ranks(mean: Optional[Mean], ranks: int = 1) -> None:
    """From now on counts pass through `mean`, which returns their mean over so many ranks."""
    global _mean, _ranks
    _mean, _ranks = mean, ranks


def number_of_ranks() -> int:
    """How many ranks the means are taken over."""
    return _ranks


def mean_over_ranks(counts: Sequence[float]) -> Sequence[float]:
    """The mean over all ranks of the counts of this rank's part of the batch."""
    return counts if _mean is None else _mean(np.array(counts, dtype=np.float64))
