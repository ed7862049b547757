"""The command: `mpirun -n RANKS python3 -m caffe_losses.data_parallel --solver FILE`.

Each rank is a process that trains and a parent that watches it: a process that is killed, or
aborted by Caffe, cannot say so itself, and MPI knows nothing of iterations.
"""

import argparse
import multiprocessing
import os
import signal
import sys
import time
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
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=1800,
        metavar="SECONDS",
        help="how long ranks wait for one that hangs before they name it and end the job "
        "(default: 1800; 0: for ever)",
    )
    return parser.parse_args()


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def run_rank(options: argparse.Namespace, progress: MutableSequence[int]) -> None:
    """Trains as one rank of the job. `progress` shows rank and iteration to the parent process."""
    # Imported by the process that trains alone: the import starts MPI.
    from caffe_losses.data_parallel import ranks

    progress[0] = ranks.comm.rank
    meeting = ranks.Meeting(options.timeout)
    try:
        # Imported here, for where it fails every rank has the same to say.
        from caffe_losses.data_parallel import training

        training.train(options, meeting, progress)
    except BaseException as error:
        meeting.fail(error)
    ranks.MPI.Finalize()  # a process that is forked from another does not do it by itself


def pass_signals_on(process: Any) -> None:
    """Makes a signal to this process one to the process that trains."""

    def interrupt(number: int, frame: Any) -> None:
        time.sleep(0.5)  # after Ctrl-C, which reaches both, that one is speaking and ignores this
        os.kill(process.pid, number)

    def terminate(number: int, frame: Any) -> None:
        os.kill(process.pid, signal.SIGKILL)
        sys.exit(128 + number)  # with no message: mpirun does so to all ranks when one has failed

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


def main() -> int:
    options = parse_arguments()
    progress: Any = multiprocessing.Array("q", [0, -1])
    process = multiprocessing.Process(target=run_rank, args=(options, progress))
    process.start()
    pass_signals_on(process)
    process.join()
    status = process.exitcode or 0
    if status < 0:
        rank, iteration = progress
        name = signal.Signals(-status).name
        advice = {
            "SIGKILL": "killed from outside, for instance because memory ran out",
            "SIGABRT": "a check inside Caffe failed, its message is above",
        }.get(name, "it crashed")
        announce(rank, iteration, f"its process died of {name} ({advice})", turn=rank)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
