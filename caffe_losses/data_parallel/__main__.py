"""The command: `mpirun -n RANKS python3 -m caffe_losses.data_parallel --solver FILE`.

Each rank is a process that trains and a parent that watches it: a process that is killed, or
aborted by Caffe, cannot say so itself, and MPI knows nothing of iterations.
"""

import argparse
import multiprocessing
import signal
import sys
from typing import Any, MutableSequence

from caffe_losses.data_parallel.failures import announce


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python3 -m caffe_losses.data_parallel",
        description="Trains a Caffe solver on all ranks that mpirun starts. R ranks with batch b "
        "train as one with batch R * b.",
    )
    parser.add_argument("--solver", required=True, metavar="FILE", help="solver prototxt")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--snapshot", metavar="FILE", help="solver state to go on from")
    start.add_argument(
        "--weights", metavar="FILE[,FILE...]", help="caffemodels to start from, read by rank 0"
    )
    parser.add_argument(
        "--sync-counts",
        action="store_true",
        help="losses normalised over the batch count over all ranks",
    )
    return parser.parse_args()


def run_rank(options: argparse.Namespace, progress: MutableSequence[int]) -> None:
    # Imported by the process that trains alone: the import starts MPI.
    from caffe_losses.data_parallel import training

    training.run_rank(options, progress)


def main() -> int:
    options = parse_arguments()
    progress: Any = multiprocessing.Array("q", [0, -1])
    process = multiprocessing.Process(target=run_rank, args=(options, progress))
    process.start()
    process.join()
    status = process.exitcode or 0
    if status < 0:
        rank, iteration = progress
        name = signal.Signals(-status).name
        advice = {
            "SIGKILL": "killed from outside, for instance because memory ran out",
            "SIGABRT": "a check inside Caffe failed, its message is above",
        }.get(name, "it crashed")
        announce(rank, iteration, f"its process died of {name} ({advice})")
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
