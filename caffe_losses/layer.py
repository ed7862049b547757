"""What every loss layer owes Caffe, written once."""

import functools
import inspect
import sys
import traceback
import warnings
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from caffe_losses import batch_counts, parameters
from caffe_losses.import_caffe import caffe
from caffe_losses.net_spec import spec_of
from caffe_losses.parameters import Parameter
from caffe_losses.values import fits_float32, require_finite

Shape = Tuple[int, ...]


def reported(method: Callable[..., None]) -> Callable[..., None]:
    """Lets the error of a method that Caffe calls be seen.

    Its traceback is printed where no Python code is there to receive it: under `caffe train` Caffe
    itself calls the method; it then aborts and the message is lost.
    """

    @functools.wraps(method)
    def call(*arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception:
            frame = inspect.currentframe()
            if frame is not None and frame.f_back is None:
                traceback.print_exc()
                sys.stderr.flush()  # an abort does not
            raise

    return call


def shape_of(blob: Any) -> Shape:
    """The shape of a blob; from its data where it has any, which is several times faster."""
    return tuple(blob.shape) if blob.count == 0 else blob.data.shape


def opposite(diffs: List[Optional[np.ndarray]], scale: float) -> Iterator[Tuple[np.ndarray, float]]:
    """The wanted diffs of prediction and target, whose gradients differ in sign, with the scale."""
    for diff, signed in zip(diffs, (scale, -scale)):
        if diff is not None:
            yield diff, signed


class LossLayer(caffe.Layer):
    """A scalar loss of its bottoms; the base of all layers here.

    A loss names its bottoms and parameters and says how to compute the loss and the gradient of
    arrays. Counting and checking of bottoms, parameters, loss_weight, propagate_down, empty
    batches and values that are not finite are dealt with here.
    """

    bottom_names: Tuple[str, ...] = ()
    optional_bottoms = 0
    differentiable_bottoms = 1
    exchanged_counts = 1  # how many compute_loss passes to mean_over_ranks
    parameters: Dict[str, Parameter] = {}

    def check_shapes(self, *shapes: Shape) -> None:
        """Raises ValueError where the shapes of the bottoms do not fit together."""
        raise NotImplementedError

    def compute_loss(self, *bottoms: np.ndarray) -> float:
        """The loss of the bottoms' data, none of which is empty."""
        raise NotImplementedError

    def compute_gradient(
        self, loss_weight: float, diffs: List[Optional[np.ndarray]], *bottoms: np.ndarray
    ) -> None:
        """Writes loss_weight times the gradient to those differentiable bottoms that want it."""
        raise NotImplementedError

    def views(self, *bottoms: np.ndarray) -> List[np.ndarray]:
        """The bottoms as (N, C, S), in the `layouts` that check_shapes has set."""
        return [bottom.reshape(layout) for bottom, layout in zip(bottoms, self.layouts)]

    @reported
    def setup(self, bottom: Any, top: Any) -> None:
        self.name = type(self).__name__
        self.require_bottoms(len(bottom))
        if len(top) != 1:
            raise ValueError(f"{self.name}: {len(top)} tops; expected 1, the loss")
        given = parameters.parse(self.name, self.param_str)
        self.settings = parameters.check(self.name, given, self.parameters)
        self.iteration = 0
        self.has_seen_a_batch = False
        self.loss = 0.0
        self.largest_weight = 1.0
        self.shapes: List[Shape] = []
        self.layouts: List[Shape] = []

    @reported
    def reshape(self, bottom: Any, top: Any) -> None:
        shapes = [shape_of(bottom[i]) for i in range(len(bottom))]
        # Caffe calls this before every forward.
        if shapes != self.shapes:
            self.check_shapes(*shapes)
            self.shapes = shapes
            top[0].reshape(1)

    @reported
    def forward(self, bottom: Any, top: Any) -> None:
        self.iteration += 1
        if self.iteration == 1 and self.phase == caffe.TRAIN and top[0].diff[0] == 0:
            warnings.warn(
                f"{self.name}: the loss has no loss_weight, so the net does not train on it; "
                f"write `loss_weight: 1` in the layer, or `include {{ phase: TEST }}` if it is "
                f"there to be watched",
                stacklevel=2,
            )
        # An empty blob may have no memory at all: Caffe aborts when its data is asked for.
        if bottom[0].count == 0:
            self.loss = 0.0
            # Ranks whose part of the batch is not empty wait for these.
            self.mean_over_ranks(*[0] * self.exchanged_counts)
        else:
            data = [bottom[i].data for i in range(len(bottom))]
            with np.errstate(all="ignore"):  # what is not finite is found in the loss
                self.loss = self.compute_loss(*data)
            self.require_finite_loss(data)
            self.has_seen_a_batch = True
        top[0].data[...] = self.loss

    @reported
    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        loss_weight = float(top[0].diff[0])
        # No element of any gradient here is larger than loss_weight * (loss + 1).
        largest = max(self.loss + 1, self.largest_weight)
        if not fits_float32(loss_weight * largest):
            raise FloatingPointError(
                f"{self.name}: the gradient overflows float32: the loss is {self.loss:g}, the "
                f"largest weight {self.largest_weight:g}, the loss_weight {loss_weight:g} "
                f"(iteration {self.iteration} of this layer); lower the loss_weight"
            )
        wanted = [propagate_down[i] and bottom[i].count > 0 for i in range(len(bottom))]
        diffs = [bottom[i].diff if wanted[i] else None for i in range(len(bottom))]
        for diff in diffs[self.differentiable_bottoms :]:
            if diff is not None:
                diff[...] = 0
        if any(wanted[: self.differentiable_bottoms]):
            diffs = diffs[: self.differentiable_bottoms]
            data = (bottom[i].data for i in range(len(bottom)))
            with np.errstate(all="ignore"):
                self.compute_gradient(loss_weight, diffs, *data)

    @classmethod
    def require_bottoms(cls, count: int) -> None:
        """Raises unless a layer of this class takes that many bottoms."""
        most = len(cls.bottom_names)
        if not most - cls.optional_bottoms <= count <= most:
            required = most - cls.optional_bottoms
            names = list(cls.bottom_names[:required])
            names += [f"{name} (optional)" for name in cls.bottom_names[required:]]
            raise ValueError(f"{cls.__name__}: {count} bottoms; expected " + ", ".join(names))

    def mean_over_ranks(self, *counts: float) -> np.ndarray:
        """Counts of this batch; in data-parallel training their mean over all ranks."""
        own = np.array(counts, dtype=np.float64)
        # Only training is in step on all ranks.
        return batch_counts.all_reduce(own) if self.phase == caffe.TRAIN else own

    def check_is_due(self) -> bool:
        """Whether the parameter check_labels asks for a check of this batch."""
        checks = self.settings["check_labels"]
        return checks == "always" or (checks == "first" and not self.has_seen_a_batch)

    def require_finite_loss(self, data: List[np.ndarray]) -> None:
        """Raises FloatingPointError that tells what made the loss NaN or infinite."""
        if not fits_float32(self.loss):
            for name, array in zip(self.bottom_names, data):
                require_finite(self.name, name, array, self.iteration)
            raise FloatingPointError(
                f"{self.name}: the loss overflows float32, though all bottoms are finite "
                f"(iteration {self.iteration} of this layer); scale the bottoms down"
            )

    @classmethod
    def spec(cls, *bottoms: Any, loss_weight: Optional[float] = 1, **keywords: Any) -> Any:
        """This layer in a net spec: `net.loss = Layer.spec(net.a, net.b, parameter=value)`.

        Keywords that are parameters of the loss go to its param_str, `net_spec.LAYER_FIELDS`
        (name, include, propagate_down, ...) to the layer. Raises ValueError or TypeError for a
        wrong parameter, an unknown keyword and a wrong number of bottoms.
        """
        cls.require_bottoms(len(bottoms))
        return spec_of(cls, bottoms, loss_weight, keywords)
