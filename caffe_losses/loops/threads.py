"""Work on all processors: parts of a blob, taken by whichever thread is free.

A blob is cut into parts by its shape alone, so that results do not depend on the number of
threads.
"""

import os
import threading
from typing import Callable, Dict, Iterator, List, Optional, Sequence, TypeVar

try:
    from queue import SimpleQueue  # written in C: an interrupt cannot leave it locked
except ImportError:  # Python 3.6
    from queue import Queue as SimpleQueue  # type: ignore[assignment]

AnyPart = TypeVar("AnyPart")  # of a blob: elements, images or an index
Output = TypeVar("Output")


def thread_count() -> int:
    """As many threads as the affinity mask allows, and no more than OMP_NUM_THREADS."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    try:
        wanted = int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0][:9])
    except ValueError:
        return available
    return min(available, wanted) if wanted > 0 else available


class Help:
    """A request that another thread join in some work; it is begun by one thread or by none.

    An interrupt may come between any two steps of the thread that asks, and make it ask again: each
    step has the same effect when it is done twice.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self.work = work
        self.error: Optional[BaseException] = None
        self.owner: Dict[str, str] = {}  # its setdefault lets one thread be first
        self.has_ended = False
        self.end = threading.Lock()
        self.end.acquire()

    def give(self) -> None:
        """Joins in the work, unless the request was withdrawn."""
        if self.owner.setdefault("owner", "helper") == "helper":
            try:
                self.work()
            except BaseException as error:  # raised again in the thread that asked for help
                self.error = error
            finally:
                self.has_ended = True
                self.end.release()

    def withdraw(self) -> None:
        """Returns when no thread works on the request, and none will."""
        if self.owner.setdefault("owner", "asker") == "helper":
            while not self.has_ended:
                self.end.acquire(True, 1)


class Helpers:
    """Threads that wait for requests as long as the process lives.

    They are daemons: training may go on in another thread when the main thread has ended, where
    the pools of Python's library refuse to work.
    """

    def __init__(self) -> None:
        self.requests: "SimpleQueue[Help]" = SimpleQueue()
        self.count = 0

    def ask(self, request: Help) -> None:
        self.requests.put(request)

    def grow(self, count: int) -> None:
        """Starts threads until there are that many, or as many as the process may have."""
        while self.count < count:
            self.count += 1
            try:
                threading.Thread(target=self.serve, daemon=True).start()
            except RuntimeError:  # a limit of the system: those that there are do all the work
                pass

    def serve(self) -> None:
        while True:
            self.requests.get().give()


_helpers_of_process: Dict[int, Helpers] = {}


def helpers() -> Helpers:
    """The helpers of this process; a forked child inherits none of its parent's threads."""
    process = os.getpid()
    found = _helpers_of_process.get(process)
    if found is None:
        _helpers_of_process.clear()
        found = _helpers_of_process[process] = Helpers()  # another thread may clear it at once
    return found


def withdraw_all(requests: Sequence[Help]) -> None:
    """Waits for those who help, however often an interrupt comes in between.

    The caller may free the memory that they work on.
    """
    try:
        for request in requests:
            request.withdraw()
    except BaseException:
        withdraw_all(requests)
        raise


def for_each_part(function: Callable[[AnyPart], Output], parts: Sequence[AnyPart]) -> List[Output]:
    """`function(part)` of all parts, in their order, worked out by as many threads as there are."""
    if len(parts) == 1:
        return [function(parts[0])]
    results: Dict[int, Output] = {}
    numbers: Iterator[int] = iter(range(len(parts)))  # advancing it is atomic

    def work() -> None:
        for number in numbers:
            results[number] = function(parts[number])

    requests = [Help(work) for _ in range(min(thread_count(), len(parts)) - 1)]
    helpers().grow(len(requests))
    try:
        for request in requests:
            helpers().ask(request)
        work()
    finally:
        withdraw_all(requests)
    for request in requests:
        if request.error is not None:
            raise request.error
    return [results[number] for number in range(len(parts))]
