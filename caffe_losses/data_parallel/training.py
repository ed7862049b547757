"""What each rank does under `python3 -m caffe_losses.data_parallel`."""

import hashlib
import os
import tempfile
from collections import deque
from typing import Any, Deque, List, MutableSequence

import numpy as np

from caffe_losses.build_net import read_net, read_prototxt
from caffe_losses.data_parallel.gradients import GradientAverage
from caffe_losses.data_parallel.mpi import attach_to, require_same, tell_caffe
from caffe_losses.data_parallel.ranks import MPI, Meeting, comm
from caffe_losses.data_parallel.snapshots import (
    final_prefix,
    partial_prefix,
    require_writable,
    write_snapshot,
)
from caffe_losses.import_caffe import caffe

caffe_pb2 = caffe.proto.caffe_pb2


def train(options: Any, meeting: Meeting, progress: MutableSequence[int]) -> None:
    """From the solver file to the last snapshot, as one rank of the job."""
    tell_caffe()
    param = read_prototxt(options.solver, caffe_pb2.SolverParameter())
    require_same("solver", str(param))
    require_cpu(param)
    net = read_train_net(param)
    require_same("net", str(net))
    require_images_and_labels_together(net)
    require_sharded_data(net)
    prefix = final_prefix(options.solver, param)
    require_writable(prefix)
    solver = make_solver(param, prefix)
    load_weights(solver, options.snapshot, options.weights)
    gradients = attach_to(meeting, solver, options.sync_counts)
    meeting.rank_0_tests = lambda iteration: is_due(param.test_interval, iteration)

    display = Display(param, solver, gradients)
    while solver.iter < param.max_iter:
        progress[1] = solver.iter
        learning_rate = solver.lr  # of this iteration; after it, of the next one
        solver.step(1)
        display.show_step(solver.iter - 1, learning_rate)
        if comm.rank == 0 and snapshot_is_due(param, solver.iter):
            write_snapshot(solver, param, prefix)
    display.show_end(solver.iter)
    if comm.rank == 0 and is_due(param.test_interval, solver.iter):
        solver.solve()  # all iterations are done: this runs the last test


def snapshot_is_due(param: Any, iteration: int) -> bool:
    """Whether Caffe takes a snapshot after so many iterations."""
    last = iteration == param.max_iter and param.snapshot_after_train
    return last or is_due(param.snapshot, iteration)


def is_due(interval: int, iteration: int) -> bool:
    """Whether something happens at this iteration that happens every `interval` iterations."""
    return interval > 0 and iteration % interval == 0


def read_train_net(param: Any) -> Any:
    """The NetParameter of the net that the solver trains."""
    for field in ("train_net_param", "net_param"):
        if param.HasField(field):
            return getattr(param, field)
    path = param.train_net or param.net
    if not path:
        raise ValueError('the solver names no net; write `net: "train.prototxt"`')
    return read_net(path)


def require_cpu(param: Any) -> None:
    """Raises ValueError for a solver that asks for a GPU; one that says nothing gets the CPU."""
    if param.HasField("solver_mode") and param.solver_mode == param.GPU:
        raise ValueError(
            "the solver says `solver_mode: GPU`, but ranks train on CPUs: write `solver_mode: CPU` "
            "(for the GPUs of one machine Caffe has its own train.py, for Python layers too)"
        )


def data_layers(net: Any) -> List[Any]:
    """The layers of the train net that read data: those without a bottom, but for constants."""

    def phases(rules: Any) -> List[int]:
        return [rule.phase for rule in rules if rule.HasField("phase")]

    return [
        layer
        for layer in net.layer
        if not layer.bottom
        and layer.type not in ("DummyData", "Input", "Parameter")
        and caffe_pb2.TEST not in phases(layer.include)
        and caffe_pb2.TRAIN not in phases(layer.exclude)
    ]


INSTEAD = (
    "convert images and labels to LMDB for Data layers or to one HDF5Data layer, which are shared "
    "out among the ranks, or read both in one Python layer"
)


def require_images_and_labels_together(net: Any) -> None:
    """Raises ValueError for a layer that shuffles its images apart from another layer's labels."""
    layers = data_layers(net)
    for layer in layers:
        others = [other.name for other in layers if other is not layer]
        if layer.type == "ImageData" and layer.image_data_param.shuffle and others:
            raise ValueError(
                f"layer {layer.name}: Caffe's ImageData with `shuffle: true` draws an order of its "
                f"own, so its images do not belong to what {', '.join(others)} read; {INSTEAD}"
            )


def require_sharded_data(net: Any) -> None:
    """Raises ValueError for a data layer that would give every rank the same images."""
    layers = data_layers(net)
    for layer in layers:
        if layer.type == "ImageData" and not layer.image_data_param.shuffle and comm.size > 1:
            shuffle = (
                "set `shuffle: true` (each rank then draws an order of its own), or "
                if len(layers) == 1
                else ""
            )
            raise ValueError(
                f"layer {layer.name}: Caffe's ImageData is not shared out, so every rank would "
                f"read the same images; {shuffle}{INSTEAD}"
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
        file.write(str(own))
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
    """Logs what Caffe logs of training, with means over all ranks, and the time of averaging."""

    def __init__(self, param: Any, solver: Any, gradients: GradientAverage) -> None:
        self.interval = param.display
        self.solver = solver
        self.gradients = gradients
        self.losses: Deque[float] = deque(maxlen=param.average_loss)
        self.log("Solving")
        self.log(f"Learning Rate Policy: {param.lr_policy}")
        self.restart()

    def log(self, line: str) -> None:
        if comm.rank == 0:
            caffe.log(line)

    def restart(self) -> None:
        self.since = MPI.Wtime()
        self.seconds_before = self.gradients.seconds
        self.iterations = 0

    def smoothed(self) -> float:
        """The loss as Caffe smooths it, with the last one."""
        self.losses.append(self.gradients.loss)
        return sum(self.losses) / len(self.losses)

    def show_step(self, iteration: int, learning_rate: float) -> None:
        """After the step of this iteration, on every rank."""
        loss = self.smoothed()
        self.iterations += 1
        if not is_due(self.interval, iteration):
            return
        seconds = MPI.Wtime() - self.since
        averaging = (self.gradients.seconds - self.seconds_before) / seconds
        self.log(
            f"Iteration {iteration} ({self.iterations / seconds:.6g} iter/s, "
            f"{seconds:.6g}s/{self.iterations} iters), loss = {loss:.6g}"
        )
        for line in output_lines(self.solver.net, self.gradients.meeting):
            self.log(line)
        self.log(f"Iteration {iteration}, lr = {learning_rate:.6g}")
        self.log(f"Iteration {iteration}, {averaging:.0%} of the time in averaging gradients")
        self.restart()

    def show_end(self, iteration: int) -> None:
        """After the last step, on every rank: Caffe ends with the loss of one more batch."""
        if is_due(self.interval, iteration):
            self.gradients.forward()
            self.log(f"Iteration {iteration}, loss = {self.smoothed():.6g}")


def output_lines(net: Any, meeting: Meeting) -> List[str]:
    """The outputs of the last forward as Caffe shows them; each is the mean over all ranks."""
    values = np.concatenate([[], *(net.blobs[name].data.ravel() for name in net.outputs)])
    meeting.sum(values)
    means = iter(values / comm.size)
    weights = net.blob_loss_weights
    lines: List[str] = []
    for name in net.outputs:
        for _, value in zip(range(net.blobs[name].count), means):
            weighted = weights[name] * value
            loss = f" (* {weights[name]:.6g} = {weighted:.6g} loss)" if weights[name] else ""
            lines.append(f"    Train net output #{len(lines)}: {name} = {value:.6g}{loss}")
    return lines
