"""The message of a rank that fails, printed once before all ranks end."""

import sys
import time


def announce(rank: int, iteration: int, cause: str, turn: int) -> None:
    """Prints why the job ends.

    Where several ranks have the same to say, the one whose turn is 0 speaks at once and its end
    takes down the others before their turn comes.
    """
    time.sleep(min(2 * turn, 10))
    when = f"at iteration {iteration}" if iteration >= 0 else "before the first iteration"
    sys.stderr.write(f"data_parallel: rank {rank} failed {when}: {cause}\n")
    sys.stderr.flush()
