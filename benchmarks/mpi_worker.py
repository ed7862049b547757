"""One rank of a measurement; benchmark_mpi.py starts it with mpirun.

mpi_worker.py NET EXCHANGE BATCH STEPS FOLDER
"""

import json
import os
import sys
from typing import Any, List, Tuple

import caffe
import h5py
import numpy as np
from caffe import layers as L

from caffe_losses.data_parallel.gradients import GradientAverage
from caffe_losses.data_parallel.mpi import comm, initialize
from caffe_losses.data_parallel.ranks import MPI, Meeting
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer

BUCKET = 25_000_000 // 4  # elements; PyTorch's DistributedDataParallel takes 25 MB too


def main(net: str, exchange: str, batch: int, steps: int, folder: str) -> None:
    """Takes the steps; rank 0 writes the times of the fastest, which other load disturbed least."""
    initialize()
    if comm.rank == 0:
        write_solver(net, batch, folder)
    comm.Barrier()
    solver = caffe.get_solver(os.path.join(folder, "solver.prototxt"))
    timed = TimedMeeting()
    gradients = EXCHANGES[exchange](solver, timed)
    solver.step(1)  # warms up caches and buffers
    times = []
    for _ in range(steps):
        comm.Barrier()
        gradients.seconds = timed.waiting = timed.transfer = 0
        began = MPI.Wtime()
        solver.step(1)
        times.append([MPI.Wtime() - began, gradients.seconds, timed.waiting, timed.transfer])
    if comm.rank == 0:
        result = dict(zip(["step", "averaging", "waiting", "transfer"], min(times)))
        result["parameters"] = sum(blob.count for _, blob in gradients.parameters)
        with open(os.path.join(folder, "result.json"), "w") as file:
            json.dump(result, file)


class TimedMeeting(Meeting):
    """Tells the time to wait for the other ranks from the time of the all-reduce itself."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = self.transfer = 0.0

    def sum(self, buffer: np.ndarray) -> None:
        began = MPI.Wtime()
        self.wait()
        together = MPI.Wtime()
        self.comm.Allreduce(MPI.IN_PLACE, buffer)
        self.waiting += together - began
        self.transfer += MPI.Wtime() - together


class BucketAverage(GradientAverage):
    """Begins the all-reduce of some layers' gradients while backward goes on with those below."""

    def __init__(self, solver: Any, meeting: Meeting) -> None:
        super().__init__(solver, meeting)
        self.buckets = self.make_buckets()
        self.begun = 0
        self.requests: List[Any] = []
        solver.net.after_backward(self.after_layer)

    def make_buckets(self) -> List[Tuple[int, slice, slice]]:
        """Lowest layer, parameters and part of the buffer of each bucket, the top one first."""
        layers = list(self.solver.net.layer_dict)
        buckets = []
        last, stop = len(self.parameters), len(self.buffer)
        start = stop - len(self.losses)
        for i in reversed(range(len(self.parameters))):
            name, blob = self.parameters[i]
            start -= blob.count
            if stop - start >= BUCKET or i == 0:
                layer = layers.index(name.split("[")[0])
                buckets.append((layer, slice(i, last), slice(start, stop)))
                last, stop = i, start
        return buckets

    def after_layer(self, layer: int) -> None:
        while self.begun < len(self.buckets) and layer <= self.buckets[self.begun][0]:
            _, parameters, part = self.buckets[self.begun]
            for (_, blob), gradient in zip(self.parameters[parameters], self.gradients[parameters]):
                gradient[...] = blob.diff
            self.requests.append(comm.Iallreduce(MPI.IN_PLACE, self.buffer[part]))
            self.begun += 1
        MPI.Request.Testall(self.requests)  # without such calls Open MPI does nothing meanwhile

    def average(self) -> None:
        began = MPI.Wtime()
        MPI.Request.Waitall(self.requests)
        self.requests, self.begun = [], 0
        self.require_finite()
        for (_, blob), gradient in zip(self.parameters, self.gradients):
            np.divide(gradient, comm.size, out=blob.diff)
        self.seconds += MPI.Wtime() - began


EXCHANGES = {"flat": GradientAverage, "buckets": BucketAverage}


# ---- the nets


def write_solver(name: str, batch: int, folder: str) -> None:
    net = {"skeleton": skeleton_net, "vgg16": vgg16_net}[name](batch, folder)
    with open(os.path.join(folder, "net.prototxt"), "w") as file:
        file.write(str(net))
    with open(os.path.join(folder, "solver.prototxt"), "w") as file:
        file.write(
            f'net: "{folder}/net.prototxt" base_lr: 1e-6 lr_policy: "fixed" momentum: 0.9 '
            f"random_seed: 1\n"
        )


def skeleton_net(batch: int, folder: str) -> Any:
    """The net of examples/skeleton_flux on random images."""
    from net import train_net

    random = np.random.RandomState(1)
    images = 2 * batch
    with h5py.File(os.path.join(folder, "data.h5"), "w") as file:
        file["image"] = random.uniform(size=(images, 1, 64, 64)).astype(np.float32)
        file["flux"] = random.normal(size=(images, 2, 64, 64)).astype(np.float32)
        file["dilmask"] = (random.uniform(size=(images, 1, 64, 64)) < 0.1).astype(np.float32)
    source = os.path.join(folder, "data.txt")
    with open(source, "w") as file:
        file.write(os.path.join(folder, "data.h5"))
    net = train_net(source, "image").to_proto()
    net.layer[0].hdf5_data_param.batch_size = batch
    return net


def vgg16_net(batch: int, folder: str) -> Any:
    """VGG-16 for 1000 attributes, on noise."""
    net = caffe.NetSpec()
    shapes = [{"dim": [batch, 3, 224, 224]}, {"dim": [batch, 1000]}]
    fillers = [{"type": "gaussian", "std": 60}, {"type": "constant", "value": 0}]
    net.data, net.label = L.DummyData(shape=shapes, data_filler=fillers, ntop=2)
    top = net.data
    for channels, layers in (64, 2), (128, 2), (256, 3), (512, 3), (512, 3):
        for _ in range(layers):
            top = L.Convolution(
                top, num_output=channels, kernel_size=3, pad=1, weight_filler={"type": "msra"}
            )
            top = L.ReLU(top, in_place=True)
        top = L.Pooling(top, kernel_size=2, stride=2)
    for outputs in 4096, 4096, 1000:
        top = L.InnerProduct(top, num_output=outputs, weight_filler={"type": "xavier"})
        if outputs == 4096:
            top = L.Dropout(L.ReLU(top, in_place=True), in_place=True)
    net.score = top
    net.loss = SigmoidCrossEntropyWeightLossLayer.spec(
        net.score, net.label, cls_weight=10, normalization="BATCH_SIZE"
    )
    return net.to_proto()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:5]), sys.argv[5])
