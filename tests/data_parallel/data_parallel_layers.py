"""Layers for the nets of test_data_parallel.py, which fail on purpose."""

import ctypes
import glob
import os
import signal
import sys
import time

import caffe
import numpy as np
from mpi4py import MPI


class FailingLayer(caffe.Layer):
    """Passes its bottom on, but fails in some forward.

    param_str: the rank that fails (or "all"), in which forward (from 0), and optionally a file to
    write this rank's process id to.
    """

    def setup(self, bottom, top):
        rank, iteration, *process_id_file = self.param_str.split()
        self.iteration = int(iteration)
        self.fails = rank in ("all", str(caffe.solver_rank()))
        self.forwards = 0
        if self.fails and process_id_file:
            with open(process_id_file[0], "w") as file:
                file.write(str(os.getpid()))

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data
        if self.fails and self.forwards == self.iteration:
            self.fail(top)
        self.forwards += 1

    def fail(self, top):
        raise NotImplementedError

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = top[0].diff


class RaisingLayer(FailingLayer):
    def fail(self, top):
        raise RuntimeError("the disk is gone")


class NanLayer(FailingLayer):
    def fail(self, top):
        top[0].data[0] = np.nan


class KilledLayer(FailingLayer):
    def fail(self, top):
        os.kill(os.getpid(), signal.SIGKILL)


class AbortingLayer(FailingLayer):
    def fail(self, top):
        top[0].reshape(-1)  # a failed check inside Caffe


class ExitingLayer(FailingLayer):
    def fail(self, top):
        sys.exit(0)


class InterruptedLayer(FailingLayer):
    def fail(self, top):
        os.kill(os.getppid(), signal.SIGINT)  # the process that mpirun knows
        time.sleep(600)


class ClosingLayer(FailingLayer):
    def fail(self, top):
        raise GeneratorExit


# Late ranks. A rank that is slow must not be taken for one that hangs, however slow the machine is:
# time passes only while a rank is late on purpose and all others wait for it.

TICK = 0.01  # seconds, for each look at the clock
LONG = 3  # seconds


def touch(path):
    with open(path, "w"):
        pass


class Clock:
    """The clock of a rank, in the place of MPI's."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        if os.path.exists("late"):
            touch(f"waits.{MPI.COMM_WORLD.rank}")
            if len(glob.glob("waits.*")) == MPI.COMM_WORLD.size - 1:
                self.seconds += TICK
        if self.seconds > LONG:
            touch("waited")
        return self.seconds


def keep_time():
    """Gives this rank the clock of the tests."""
    MPI.Wtime = Clock()


class ClockLayer(FailingLayer):
    """Gives its rank the clock of the tests."""

    def setup(self, bottom, top):
        super().setup(bottom, top)
        keep_time()


class HangingLayer(ClockLayer):
    def fail(self, top):
        touch("late")
        ctypes.PyDLL(None).sleep(600)  # as in C++: no Python thread runs meanwhile


class SlowLayer(FailingLayer):
    """Ends when the others have waited for long."""

    def fail(self, top):
        touch("late")
        while not os.path.exists("waited"):
            time.sleep(0.01)
        os.remove("late")
