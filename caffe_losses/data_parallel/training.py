"""What each rank does under `python3 -m caffe_losses.data_parallel`."""

import hashlib
import os
import tempfile
from collections import deque
from typing import Any, Deque, MutableSequence

from google.protobuf import text_format
from mpi4py import MPI

from caffe_losses.data_parallel.gradients import GradientAverage
from caffe_losses.data_parallel.mpi import abort, attach, comm, initialize, require_same
from caffe_losses.data_parallel.snapshots import (
    final_prefix,
    partial_prefix,
    require_writable,
    write_snapshot,
)
from caffe_losses.import_caffe import caffe

caffe_pb2 = caffe.proto.caffe_pb2


def run_rank(options: Any, progress: MutableSequence[int]) -> None:
    """Trains as one rank of the job. `progress` shows rank and iteration to the parent process."""
    progress[0] = comm.rank
    try:
        train(options, progress)
    except Exception as error:
        abort(error, progress[1])
    MPI.Finalize()  # a process that is forked from another does not do it by itself


def train(options: Any, progress: MutableSequence[int]) -> None:
    """From the solver file to the last snapshot."""
    initialize()
    param = read_prototxt(options.solver, caffe_pb2.SolverParameter())
    require_same("solver", str(param))
    net = read_train_net(param)
    require_same("net", str(net))
    require_sharded_data(net)
    prefix = final_prefix(options.solver, param)
    require_writable(prefix)
    solver = make_solver(param, prefix)
    load_weights(solver, options.snapshot, options.weights)
    gradients = attach(solver, options.sync_counts)

    display = Display(param, gradients)
    while solver.iter < param.max_iter:
        progress[1] = solver.iter
        solver.step(1)
        if comm.rank == 0:
            display.show(solver.iter - 1)
            if is_due(param.snapshot, solver.iter) or (
                solver.iter == param.max_iter and param.snapshot_after_train
            ):
                write_snapshot(solver, prefix)
    if comm.rank == 0 and is_due(param.test_interval, solver.iter):
        solver.solve()  # all iterations are done: this runs the last test


def is_due(interval: int, iteration: int) -> bool:
    """Whether something happens at this iteration that happens every `interval` iterations."""
    return interval > 0 and iteration % interval == 0


def read_prototxt(path: str, message: Any) -> Any:
    """The message with what the text file says."""
    with open(path) as file:
        try:
            return text_format.Merge(file.read(), message)
        except text_format.ParseError as error:
            raise ValueError(f"{path} is not a {type(message).__name__}: {error}") from error


def read_train_net(param: Any) -> Any:
    """The NetParameter of the net that the solver trains."""
    for field in ("train_net_param", "net_param"):
        if param.HasField(field):
            return getattr(param, field)
    path = param.train_net or param.net
    if not path:
        raise ValueError('the solver names no net; write `net: "train.prototxt"`')
    return read_prototxt(path, caffe_pb2.NetParameter())


def require_sharded_data(net: Any) -> None:
    """Raises ValueError for a data layer that would give every rank the same images."""
    for layer in net.layer:
        phases = [rule.phase for rule in layer.include if rule.HasField("phase")]
        unshuffled = layer.type == "ImageData" and not layer.image_data_param.shuffle
        if comm.size > 1 and unshuffled and caffe_pb2.TEST not in phases:
            raise ValueError(
                f"layer {layer.name}: Caffe's ImageData is not sharded, so every rank would read "
                f"the same images; set `shuffle: true` (each rank then draws an order of its own) "
                f"or convert the images to LMDB for a Data layer"
            )


def make_solver(param: Any, prefix: str) -> Any:
    """A solver that leaves display and snapshots to this module, and tests to rank 0."""
    own = caffe_pb2.SolverParameter()
    own.CopyFrom(param)
    own.display = own.snapshot = 0
    own.snapshot_after_train = False
    own.snapshot_prefix = partial_prefix(prefix)
    if comm.rank > 0:
        for field in ("test_iter", "test_interval", "test_net", "test_net_param", "test_state"):
            own.ClearField(field)
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text_format.MessageToString(own))
        file.flush()
        return caffe.get_solver(file.name)


def load_weights(solver: Any, snapshot: str, weights: str) -> None:
    """Restores every rank from the same snapshot, or rank 0 from weights, which it hands on."""
    if snapshot:
        require_same("snapshot", sha256(snapshot))
        solver.restore(snapshot)
    elif weights and comm.rank == 0:
        for path in weights.split(","):
            if not os.path.isfile(path):
                raise FileNotFoundError(f"no weights at {path}")
            solver.net.copy_from(path)


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


class Display:
    """Prints the loss of all ranks, smoothed as Caffe smooths it, and where the time goes."""

    def __init__(self, param: Any, gradients: GradientAverage) -> None:
        self.interval = param.display
        self.gradients = gradients
        self.losses: Deque[float] = deque(maxlen=param.average_loss)
        self.restart()

    def restart(self) -> None:
        self.since = MPI.Wtime()
        self.seconds_before = self.gradients.seconds
        self.iterations = 0

    def show(self, iteration: int) -> None:
        self.losses.append(self.gradients.loss)
        self.iterations += 1
        if is_due(self.interval, iteration):
            seconds = MPI.Wtime() - self.since
            averaging = (self.gradients.seconds - self.seconds_before) / seconds
            loss = sum(self.losses) / len(self.losses)
            print(
                f"Iteration {iteration}, loss = {loss:.6g} ({self.iterations / seconds:.3g} "
                f"iter/s, {averaging:.0%} of the time in averaging gradients)",
                flush=True,
            )
            self.restart()
