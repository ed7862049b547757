"""The ranks of a job: a barrier with a timeout, and an end of one rank that ends all.

Importing this module starts MPI.
"""

import atexit
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, Callable, Iterator, List, Tuple, Union

import numpy as np

from caffe_losses.data_parallel.failures import announce

try:
    from mpi4py import MPI
except ImportError as error:
    raise ImportError(
        f"data-parallel training needs mpi4py and an MPI: {error}. Debian and Ubuntu have them as "
        f"the packages python3-mpi4py and openmpi-bin"
    ) from error

# Debian's Open MPI loads a transport that puts a handler of its own in the place of Python's, which
# crashes on Ctrl-C: this puts Python's back.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))

comm = MPI.COMM_WORLD

TIMEOUT = 1800.0  # seconds
QUESTION, ANSWER = 1, 2  # tags: "have you come?" and "yes"
PATIENCE = 5.0  # seconds for an answer, or the timeout, if that is shorter


class Meeting:
    """A barrier before each exchange, which ends the job where a rank does not come to it.

    MPI by itself waits for ever for a rank that has ended or that hangs. The ranks that wait here
    end the job with a message that names that rank.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.comm = comm.Dup()  # what scripts exchange themselves does not get mixed up with it
        self.timeout = timeout
        self.iteration: Callable[[], int] = lambda: -1  # of this rank's solver, for messages
        # Rank 0 comes late where it tests, and cannot tell so meanwhile.
        self.rank_0_tests: Callable[[int], bool] = lambda iteration: False
        self.count = 0
        self.sent: List[Any] = []

    def sum(self, buffer: np.ndarray) -> None:
        """Replaces the buffer by the sum over all ranks."""
        self.wait()
        self.comm.Allreduce(MPI.IN_PLACE, buffer)

    def wait(self, leaving: bool = False) -> None:
        """Returns when all ranks are here; ends the job where some are leaving and others not."""
        self.count += 1
        own, all_ranks = np.array([leaving]), np.empty(self.comm.size, dtype=bool)
        together = self.comm.Iallgather(own, all_ranks)
        began = MPI.Wtime()
        while not together.Test():
            self.answer()
            waited = MPI.Wtime() - began
            if self.timeout and not leaving and waited > self.timeout:
                self.end_job_if_a_rank_is_missing(together)
                began = MPI.Wtime()
            time.sleep(min(waited / 100, 0.001))
        if all_ranks.any() and not all_ranks.all():
            self.end_job(
                "its script ended, as by sys.exit or with fewer steps, while other ranks go on",
                rank=int(np.argmax(all_ranks)),
            )

    def send(self, count: int, rank: int, tag: int) -> None:
        """Sends without waiting; what is sent is kept until it has been received."""
        self.sent = [request for request in self.sent if not request.Test()]
        self.sent.append(self.comm.isend(count, rank, tag=tag))

    def received(self, tag: int) -> Iterator[Tuple[int, int]]:
        """Sender and count of the messages that have come."""
        while self.comm.Iprobe(tag=tag):
            status = MPI.Status()
            count = self.comm.recv(tag=tag, status=status)
            yield status.source, count

    def answer(self) -> None:
        """Tells those who ask that this rank is here."""
        for rank, _ in self.received(QUESTION):
            self.send(self.count, rank, ANSWER)

    def end_job_if_a_rank_is_missing(self, together: Any) -> None:
        """Asks all ranks whether they are here, and ends the job where one does not answer."""
        missing = {rank for rank in range(self.comm.size) if rank != self.comm.rank}
        for rank in missing:
            self.send(self.count, rank, QUESTION)
        deadline = MPI.Wtime() + min(PATIENCE, self.timeout)
        while missing and MPI.Wtime() < deadline:
            if together.Test():
                return
            self.answer()
            missing -= {rank for rank, count in self.received(ANSWER) if count == self.count}
            time.sleep(0.01)
        if missing and not (missing == {0} and self.rank_0_tests(self.iteration())):
            self.end_job(
                f"the other ranks have waited {self.timeout:g} seconds (the timeout) for it; it "
                f"hangs, for instance in its data layer, or is that slow",
                rank=min(missing),
                turn=len(set(range(self.comm.rank)) - missing),
            )

    def fail(self, error: BaseException) -> None:
        """Ends the job for an error of this rank."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.end_job(f"{type(error).__name__}: {error}\n\n{trace}")

    def end_job(self, cause: str, rank: int = comm.rank, turn: int = comm.rank) -> None:
        """Says on which rank and why the job ends, and ends all ranks."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing cuts the message short
        announce(rank, self.iteration(), cause, turn)
        comm.Abort(1)


class ScriptEnd:
    """Ends all ranks where this rank's script ends early: they would wait for it for ever.

    An error that nobody catches comes to sys.excepthook, but not SystemExit. So a script that ends
    with a status other than 0 ends the job; from any other end it waits for the other ranks, which
    end the job if they go on with steps.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.meeting = meeting
        self.status: Union[str, int, None] = None
        self.process_id = os.getpid()
        self.plain_exit, self.plain_hook = sys.exit, sys.excepthook
        setattr(sys, "exit", self.note_status)  # noqa: B010 (mypy knows sys.exit by its type)
        sys.excepthook = self.end_with_error
        atexit.register(self.end)

    def goes_on(self) -> None:
        """After a SystemExit that was caught."""
        self.status = None

    def note_status(self, status: Union[str, int, None] = None) -> None:
        """In the place of sys.exit."""
        if threading.current_thread() is threading.main_thread():
            self.status = status
        self.plain_exit(status)

    def end_with_error(self, kind: Any, error: BaseException, trace: Any) -> None:
        if os.getpid() == self.process_id:  # not in a child that was forked
            self.meeting.fail(error)
        self.plain_hook(kind, error, trace)

    def end(self) -> None:
        if os.getpid() != self.process_id:
            return
        if self.status not in (None, 0):
            self.meeting.end_job(f"SystemExit: its script ended with status {self.status!r}")
        self.meeting.wait(leaving=True)
