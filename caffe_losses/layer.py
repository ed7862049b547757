"""What all loss layers have in common: how Caffe drives a loss."""

import functools
import inspect
import math
import sys
import traceback
import warnings
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from caffe_losses import batch_counts, parameters
from caffe_losses.checks import require_finite_loss
from caffe_losses.import_caffe import caffe
from caffe_losses.loops.checksum import Checksum, checksums
from caffe_losses.loss import Evaluation, Loss, Weightless, has_extremes
from caffe_losses.net_spec import spec_of

Shape = Tuple[int, ...]

# After so many batches in which nothing weighs anything there is a warning.
FIRST_BATCHES = 10


def reported(method: Callable[..., None]) -> Callable[..., None]:
    """Prints the traceback of an error in a method that Caffe calls, where Python gets no error.

    Under `caffe train` no Python code is there to receive it: Caffe aborts and the message is lost.
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


def data_of(blob: Any) -> np.ndarray:
    """The data of a blob. Caffe aborts when that of an empty one is asked for."""
    return blob.data if blob.count else np.zeros(tuple(blob.shape), np.float32)


def arrays_of(blobs: Any) -> List[np.ndarray]:
    """The data of blobs."""
    return [data_of(blobs[i]) for i in range(len(blobs))]


# The gradients that forward has left in the bottoms' diffs.
LeftGradients = NamedTuple(
    "LeftGradients",
    [("loss_weight", float), ("wanted", List[bool]), ("checksums", List[Checksum])],
)


BoostClass: Any = type(caffe.Layer)


class LayerClass(BoostClass):
    """Limits `dir` and `help` of a layer to what users call: Boost.Python adds pages to them."""

    def __dir__(cls) -> List[str]:
        return ["loss", "spec"]


class LossLayer(caffe.Layer, metaclass=LayerClass):
    """A scalar loss of its bottoms; the base of all layers here.

    A layer names its loss. The gradient is computed in forward, in the same pass as the loss, and
    written to the bottoms' diffs, as Caffe's own HingeLoss does; backward computes it again where
    that is not the gradient that it is asked for.

    Range: where float32 holds the loss and the gradients, they are right for any parameters,
    weights and loss_weight; where it does not, there is a FloatingPointError. What a product of an
    element's own numbers loses below 1.2e-38 may be multiplied with a parameter and a loss_weight
    of up to 2^40 (about 1e12) each: beyond, as below 2^-60, an `Evaluation` computes in float64.
    """

    loss: Loss

    @reported
    def setup(self, bottom: Any, top: Any) -> None:
        self.name = type(self).__name__
        self.loss.require_bottoms(self.name, len(bottom))
        if len(top) != 1:
            raise ValueError(f"{self.name}: {len(top)} tops; expected 1, the loss")
        given = parameters.parse(self.name, self.param_str)
        self.settings = parameters.checked(self.name, given, self.loss.parameters)
        self.check_labels = self.settings.pop("check_labels", "never")
        self.has_extremes = has_extremes(self.settings)
        self.bottoms: List[np.ndarray] = []  # from reshape to forward
        self.shapes: List[Shape] = []  # that have passed the checks
        self.iteration = 0
        self.has_seen_a_batch = False
        self.has_loss = False  # a forward has succeeded since the last change of shapes
        self.exchanged: List[Sequence[float]] = []  # the counts of that forward
        self.ranks = 1  # that took part in it
        # Which gradients the last backward wanted. Before the first one: that to the prediction.
        self.wanted = [i == 0 for i in range(self.loss.differentiable)]
        self.left: Optional[LeftGradients] = None
        self.has_gone_backward = False
        self.weightless: List[Weightless] = []  # the first batches, while nothing weighs anything
        self.has_weights = False  # a batch weighed something

    @reported
    def reshape(self, bottom: Any, top: Any) -> None:
        # Caffe calls this before every forward, which finds the data here: fetching takes long.
        self.bottoms = arrays_of(bottom)
        shapes = [array.shape for array in self.bottoms]
        if shapes != self.shapes:
            self.loss.check_shapes(self.name, self.settings, *shapes)
            self.shapes = shapes
            self.has_loss = False
            top[0].reshape(1)
            if np.may_share_memory(top[0].data, self.bottoms[0]):
                raise ValueError(
                    f"{self.name}: the top has the name of the bottom with the "
                    f"{self.loss.bottoms[0]}, which the loss would overwrite; give the top a name "
                    f"of its own"
                )

    @reported
    def forward(self, bottom: Any, top: Any) -> None:
        # None is kept: Caffe never frees a Python layer, and would not free the blobs either.
        bottoms, self.bottoms = self.bottoms or arrays_of(bottom), []
        self.iteration += 1
        self.has_loss = False
        self.left = None
        self.exchanged = []
        self.ranks = batch_counts.number_of_ranks() if self.phase == caffe.TRAIN else 1
        loss_weight = float(top[0].diff[0])
        self.warn_if_nothing_trains(loss_weight)
        is_wanted = self.phase == caffe.TRAIN and loss_weight != 0 and math.isfinite(loss_weight)
        wanted = [is_wanted and each and 0 not in self.shapes[0] for each in self.wanted]
        evaluation = Evaluation(
            self.name,
            self.diffs(bottom, wanted),
            loss_weight if is_wanted else 0,
            self.check_labels == "always"
            or (self.check_labels == "first" and not self.has_seen_a_batch),
            self.mean_over_ranks,
            self.ranks,
            self.has_extremes,
        )
        loss = self.evaluate(evaluation, bottoms)
        self.warn_if_nothing_weighs(evaluation.weightless, bottoms[0].size)
        if any(wanted) and not evaluation.gradient_overflows:
            self.left = LeftGradients(
                loss_weight, wanted, checksums(evaluation.gradients, evaluation.bits)
            )
        self.has_loss = True
        self.has_seen_a_batch = self.has_seen_a_batch or 0 not in self.shapes[0]
        top[0].data[...] = loss

    @reported
    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        self.has_gone_backward = True
        if not self.has_loss:
            raise self.no_loss()
        loss_weight = float(top[0].diff[0])
        if not math.isfinite(loss_weight):
            raise FloatingPointError(
                f"{self.name}: the diff of the top is {loss_weight:g} (iteration {self.iteration} "
                f"of this layer); expected a finite weight of the loss"
            )
        wanted = [propagate_down[i] and 0 not in shape for i, shape in enumerate(self.shapes)]
        for i in range(self.loss.differentiable, len(bottom)):
            if wanted[i]:
                bottom[i].diff[...] = 0
        self.wanted = wanted[: self.loss.differentiable]
        self.take_back_what_nobody_wants(bottom)
        if any(self.wanted) and not self.is_left(loss_weight, bottom):
            self.write_gradients(loss_weight, bottom)
        self.left = None

    def no_loss(self) -> RuntimeError:
        """What is wrong where backward finds no loss of its bottoms."""
        return RuntimeError(
            f"{self.name}: backward without a loss: no forward of these bottoms has succeeded; run "
            f"a forward first"
        )

    def take_back_what_nobody_wants(self, bottom: Any) -> None:
        """Zeroes what forward has left where `propagate_down: false`: a Split would add it up."""
        left = self.left
        if left is None or left.wanted == self.wanted:
            return
        places = [i for i, has_gradient in enumerate(left.wanted) if has_gradient]
        for i, own in zip(places, left.checksums):
            if not self.wanted[i] and [own] == checksums([bottom[i].diff]):
                bottom[i].diff[...] = 0

    def is_left(self, loss_weight: float, bottom: Any) -> bool:
        """Whether the diffs still hold the gradients that are wanted, as forward has left them."""
        left = self.left
        if left is None or (left.loss_weight, left.wanted) != (loss_weight, self.wanted):
            return False
        return left.checksums == checksums(self.diffs(bottom, self.wanted))

    def write_gradients(self, loss_weight: float, bottom: Any) -> None:
        """Computes the gradients that are wanted, with the counts of all ranks that forward got."""
        bottoms = arrays_of(bottom)
        if [array.shape for array in bottoms] != self.shapes:
            raise self.no_loss()
        counts = iter(self.exchanged)
        evaluation = Evaluation(
            self.name,
            self.diffs(bottom, self.wanted),
            loss_weight,
            check_labels=False,
            mean_over_ranks=lambda *own: next(counts),
            ranks=self.ranks,
            has_extremes=self.has_extremes,
        )
        self.evaluate(evaluation, bottoms)
        if evaluation.gradient_overflows:
            raise FloatingPointError(
                f"{self.name}: the gradient overflows float32, with the loss_weight "
                f"{loss_weight:g} (iteration {self.iteration} of this layer); lower the loss_weight"
            )

    def evaluate(self, evaluation: Evaluation, bottoms: Sequence[np.ndarray]) -> float:
        """The loss of the bottoms; it is finite."""
        loss = self.loss.compute(evaluation, *bottoms, **self.settings)
        when = f" (iteration {self.iteration} of this layer)"
        require_finite_loss(self.name, loss, self.loss.bottoms, bottoms, when)
        return loss

    def mean_over_ranks(self, *counts: float) -> Sequence[float]:
        """Counts of this batch; in data-parallel training their mean over all ranks."""
        # Only training is in step on all ranks.
        means = batch_counts.mean_over_ranks(counts) if self.phase == caffe.TRAIN else counts
        self.exchanged.append(means)
        return means

    def diffs(self, bottom: Any, wanted: List[bool]) -> List[Optional[np.ndarray]]:
        """The diffs of the bottoms that want a gradient."""
        return [bottom[i].diff if each else None for i, each in enumerate(wanted)]

    def warn_if_nothing_trains(self, loss_weight: float) -> None:
        """Warns of a missing loss_weight, when a first iteration has ended without a backward."""
        is_unasked = self.iteration == 2 and not self.has_gone_backward
        if is_unasked and loss_weight == 0 and self.phase == caffe.TRAIN:
            warnings.warn(
                f"{self.name}: the loss has no loss_weight and no other layer sent back a gradient "
                f"to it after the first iteration, so the net does not train on it; write "
                f"`loss_weight: 1` in the layer, or `include {{ phase: TEST }}` if it is there to "
                f"be watched",
                stacklevel=2,
            )

    def warn_if_nothing_weighs(self, weightless: Optional[Weightless], size: int) -> None:
        """Warns when nothing in the first training batches of a balanced loss weighs anything."""
        if self.has_weights or size == 0 or self.phase != caffe.TRAIN:
            return
        self.has_weights = weightless is None
        if weightless is None:
            return
        self.weightless.append(weightless)
        if len(self.weightless) == FIRST_BATCHES:
            self.has_weights = True  # warned once
            positive, negative, ignored = map(sum, zip(*self.weightless))
            warnings.warn(
                f"{self.name}: nothing weighed anything in the first {FIRST_BATCHES} batches, so "
                f"the net has not trained on this loss: P = {positive} positive (> 0), Q = "
                f"{negative} negative (= 0) and {ignored} ignored (< 0) positions. Weights that "
                f"balance two classes are 0 where one is missing: map labels of -1 and +1 to 0 and "
                f'1, look for empty or full masks, or set "balance": "none"',
                stacklevel=2,
            )

    @classmethod
    def spec(cls, *bottoms: Any, loss_weight: Optional[float] = 1, **keywords: Any) -> Any:
        """This layer in a net spec: `net.loss = Layer.spec(net.a, net.b, parameter=value)`.

        Keywords that are parameters of the loss go to its param_str, `net_spec.LAYER_FIELDS`
        (name, include, propagate_down, ...) to the layer. Raises ValueError or TypeError for a
        wrong parameter, an unknown keyword and a wrong number of bottoms.
        """
        cls.loss.require_bottoms(cls.__name__, len(bottoms))
        return spec_of(cls, bottoms, loss_weight, keywords)
