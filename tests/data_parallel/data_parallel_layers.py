"""Layers for the nets of test_data_parallel.py, which fail on purpose."""

import ctypes
import os
import signal
import sys
import time

import caffe
import numpy as np


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
        time.sleep(30)


class ClosingLayer(FailingLayer):
    def fail(self, top):
        raise GeneratorExit


class HangingLayer(FailingLayer):
    def fail(self, top):
        ctypes.PyDLL(None).sleep(60)  # as in C++: no Python thread runs meanwhile


class SlowLayer(FailingLayer):
    def fail(self, top):
        time.sleep(1.5)
