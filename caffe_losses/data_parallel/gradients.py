"""Averages gradients and losses over the ranks, between Caffe's backward and its update."""

from collections import OrderedDict
from typing import Any, Dict, List, Tuple

import numpy as np

from caffe_losses import batch_counts
from caffe_losses.data_parallel.ranks import MPI, Meeting


def parameter_blobs(net: Any) -> List[Tuple[str, Any]]:
    """Name and blob of each parameter, once where layers share it (they share its memory)."""
    by_address: Dict[int, Tuple[str, Any]] = OrderedDict()
    for layer, blobs in net.params.items():
        for i in range(len(blobs)):
            by_address.setdefault(blobs[i].diff.ctypes.data, (f"{layer}[{i}]", blobs[i]))
    return list(by_address.values())


def loss_weights(net: Any) -> List[Tuple[str, float]]:
    """Name and loss_weight of each blob that is a loss."""
    return [(name, weight) for name, weight in net.blob_loss_weights.items() if weight]


class GradientAverage:
    """Hooks into a solver's step and replaces every gradient by its mean over all ranks.

    The gradients travel in one flat float32 buffer, with the losses of this step at its end.
    `iter_size` needs no care: Caffe divides by it in the update, which comes later.
    """

    def __init__(self, solver: Any, meeting: Meeting, sync_counts: bool = False) -> None:
        self.solver = solver
        self.meeting = meeting
        self.sync_counts = sync_counts
        self.parameters = parameter_blobs(solver.net)
        self.losses = loss_weights(solver.net)
        self.loss = np.nan  # of the last step, as Caffe displays it; the mean over all ranks
        self.seconds = 0.0  # spent in `average` so far

        count = sum(blob.count for _, blob in self.parameters)
        self.buffer = np.empty(count + len(self.losses), dtype=np.float32)
        self.gradients = []
        start = 0
        for _, blob in self.parameters:
            self.gradients.append(self.buffer[start : start + blob.count].reshape(blob.shape))
            start += blob.count
        self.loss_sums = self.buffer[count:]
        self.passes = 0

        self.last_layer = len(solver.net.layers) - 1
        solver.net.after_forward(self.add_losses)
        solver.add_callback(self.start, self.average)

    def start(self) -> None:
        """Before the first forward of a step, and after the tests, which rank 0 runs alone."""
        self.loss_sums[...] = 0
        self.passes = 0
        if self.sync_counts:
            batch_counts.set_mean_over_ranks(self.mean_over_ranks, self.meeting.comm.size)

    def add_losses(self, layer: int) -> None:
        """After each layer's forward: the losses are there once the last layer is done."""
        if layer == self.last_layer:
            self.loss_sums += [self.solver.net.blobs[name].data.sum() for name, _ in self.losses]
            self.passes += 1

    def average(self) -> None:
        """After the last backward of a step, before the update."""
        began = MPI.Wtime()
        batch_counts.set_mean_over_ranks(None)
        for (_, blob), gradient in zip(self.parameters, self.gradients):
            gradient[...] = blob.diff
        self.require_finite()
        self.meeting.sum(self.buffer)
        for (_, blob), gradient in zip(self.parameters, self.gradients):
            np.divide(gradient, self.meeting.comm.size, out=blob.diff)
        self.loss = self.mean_loss()
        self.seconds += MPI.Wtime() - began

    def mean_loss(self) -> float:
        """From the losses summed over all ranks and passes."""
        weighted = [weight * loss for (_, weight), loss in zip(self.losses, self.loss_sums)]
        return float(sum(weighted) / (self.meeting.comm.size * self.passes))

    def forward(self) -> None:
        """One forward of the net on all ranks, without a step, for its loss."""
        self.start()
        self.solver.net.forward()
        batch_counts.set_mean_over_ranks(None)
        self.meeting.sum(self.loss_sums)
        self.loss = self.mean_loss()

    def require_finite(self) -> None:
        """Raises FloatingPointError that names the losses and gradients that are not finite.

        This comes before the exchange: after it every rank would have the NaN of one.
        """
        # One cheap pass: the dot product is finite unless an element is not or the squares
        # overflow, which the closer look then tells apart.
        if np.isfinite(np.dot(self.buffer, self.buffer)):
            return
        named = [(f"loss {name}", loss) for (name, _), loss in zip(self.losses, self.loss_sums)]
        named += [
            (f"gradient of {name}", gradient)
            for (name, _), gradient in zip(self.parameters, self.gradients)
        ]
        found = [name for name, values in named if not np.isfinite(values).all()]
        if found:
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if found[5:] else "")
            raise FloatingPointError(
                f"NaN or infinity in the {shown}; lower base_lr, set clip_gradients, or look for "
                f"a bad input in this rank's batch"
            )

    def mean_over_ranks(self, counts: np.ndarray) -> np.ndarray:
        """What `batch_counts.set_mean_over_ranks` asks for."""
        mean = counts.copy()
        self.meeting.sum(mean)
        mean /= self.meeting.comm.size
        return mean
