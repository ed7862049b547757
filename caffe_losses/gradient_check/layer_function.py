"""A layer of a net as a function of its bottoms and parameters, and the gradient it computes.

Each layer is checked by itself, as Caffe's GradientChecker does: what is wrong is then known by
the layer, and neither the rounding nor the kinks of the layers above get in the way.
"""

import contextlib
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]

# Random cotangents keep away from 0, where an output would not count.
SMALLEST_COTANGENT, LARGEST_COTANGENT = 0.5, 1.5


class Variable(NamedTuple):
    """A bottom or a parameter of the layer."""

    name: str
    blob: Any
    bottom: Optional[int]  # None for a parameter


class LayerFunction:
    """The tops of one layer as a function; its gradient is that of cotangent times tops.

    The cotangent of a top that is a loss is its loss weight; another top gets random numbers. The
    bottoms must hold the data at which the layer is checked.
    """

    def __init__(self, net: Any, layer: str, seed: int) -> None:
        from caffe_losses.import_caffe import caffe

        self.set_random_seed = caffe.set_random_seed
        self.net, self.name, self.seed = net, layer, seed
        self.layer = net.layer_dict[layer]
        self.index = list(net._layer_names).index(layer)
        self.is_python = self.layer.type == "Python"
        self.bottoms = [
            Variable(name_in_prototxt(net, name), net.blobs[name], index)
            for index, name in enumerate(net.bottom_names[layer])
        ]
        blobs = self.layer.blobs
        self.parameters = [Variable(f"{layer}[{i}]", blobs[i], None) for i in range(len(blobs))]
        self.variables = self.bottoms + self.parameters
        self.origin = {each.name: each.blob.data.copy() for each in self.variables}
        self.all_tops = [net.blobs[name] for name in net.top_names[layer]]
        weights = [net.blob_loss_weights[name] for name in net.top_names[layer]]
        # A top beside a loss does not count.
        counts = [bool(weight) or not any(weights) for weight in weights]
        self.tops = [top for top, count in zip(self.all_tops, counts) if count]
        random = np.random.RandomState([seed, 1])  # not the numbers that the inputs are drawn from
        sizes = [top.count for top in self.tops]
        self.ends = np.cumsum(sizes)[:-1]
        self.cotangent = random.uniform(SMALLEST_COTANGENT, LARGEST_COTANGENT, sum(sizes))
        self.cotangent *= random.choice([-1.0, 1.0], sum(sizes))
        if any(weights):
            self.cotangent = np.repeat([weight for weight in weights if weight], sizes)
        # Caffe's propagate_down, known once it called backward; and what that gets instead.
        self.asked: List[bool] = []
        self.flags: List[bool] = []
        self.misdeeds: Dict[str, Set[str]] = {each.name: set() for each in self.variables}

    @property
    def loss_weight(self) -> Optional[float]:
        """That of a layer with one scalar top; top[0].diff holds it."""
        return float(self.cotangent[0]) if self.cotangent.size == 1 else None

    def outputs(
        self, point: Arrays, change: Optional[Tuple[Variable, np.ndarray, np.ndarray]] = None
    ) -> np.ndarray:
        """The elements of all tops that count; `change` adds to some elements of a variable."""
        # All of the point, each time: an in-place layer has overwritten its bottom, and BatchNorm
        # its parameters. The seed makes Dropout and the like draw the same numbers again.
        for each in self.variables:
            each.blob.data[...] = point[each.name]
        if change:
            variable, elements, amounts = change
            variable.blob.data.reshape(-1)[elements] += amounts
        self.set_random_seed(self.seed)
        self.net._forward(self.index, self.index)
        return np.concatenate([top.data.ravel() for top in self.tops]).astype(np.float64)

    def gradient(
        self, point: Arrays, cotangent: Optional[np.ndarray] = None, fill: Optional[Arrays] = None
    ) -> Arrays:
        """What forward and backward leave in the diffs of the variables.

        Before forward the diffs hold `fill`, or zero. What else the two do goes to `misdeeds`.
        """
        held = dict(fill or {})
        for each in self.variables:  # a blob that is two bottoms of the layer holds its fill once
            each.blob.diff[...] = held.pop(each.name, 0)
        # After fill, as a loss may leave its gradient, or notes, in the bottom's diff in forward.
        self.outputs(point)
        self.note_changed_bottoms("forward", point)
        # After fill, too: the diff of an in-place or reshaped top is that of its bottom.
        for top in self.all_tops:
            top.diff[...] = 0
        parts = self.cotangent if cotangent is None else cotangent
        for top, part in zip(self.tops, np.split(parts, self.ends)):
            top.diff[...] = part.reshape(top.diff.shape)
        given = [top.diff.copy() for top in self.all_tops]
        before = [bottom.blob.diff.copy() for bottom in self.bottoms]
        self.run_backward()
        self.note_changed_bottoms("backward", point)
        self.note_changed_top_diffs(given)
        self.note_unasked_gradients(before)
        gradient: Arrays = {}
        for each in self.variables:  # one blob may be several bottoms
            diff = each.blob.diff.astype(np.float64)
            gradient[each.name] = gradient.get(each.name, 0) + diff
        return gradient

    def note_changed_bottoms(self, when: str, point: Arrays) -> None:
        in_place = {address(top.data) for top in self.all_tops}
        for name, blob, _ in self.bottoms:
            expected = np.asarray(point[name], dtype=blob.data.dtype).tobytes()  # also for NaN
            if address(blob.data) not in in_place and blob.data.tobytes() != expected:
                self.misdeeds[name].add(f"{when} changes the data of this bottom")

    def note_changed_top_diffs(self, given: List[np.ndarray]) -> None:
        shared = {address(bottom.blob.diff) for bottom in self.bottoms}
        for index, (top, diff) in enumerate(zip(self.all_tops, given)):
            if address(top.diff) not in shared and not np.array_equal(top.diff, diff):
                misdeed = f"backward changes top[{index}].diff"
                if self.loss_weight is not None:
                    misdeed += ", where Caffe writes the loss_weight only once: changes add up"
                for name in self.misdeeds:
                    self.misdeeds[name].add(misdeed)

    def note_unasked_gradients(self, before: List[np.ndarray]) -> None:
        """What backward writes to bottoms that it is not asked for; zeros do no harm."""
        flags = self.flags if self.asked else [True] * len(self.bottoms)
        asked = {address(each.blob.diff) for each, flag in zip(self.bottoms, flags) if flag}
        for (name, blob, _), diff in zip(self.bottoms, before):
            if address(blob.diff) not in asked and blob.diff[blob.diff != diff].any():
                self.misdeeds[name].add(
                    f"backward ignores propagate_down: it writes a gradient to this bottom for "
                    f"propagate_down = {flags}"
                )

    def run_backward(self) -> None:
        """Has Caffe run the layer's backward; a Python layer's with `flags`, if there are any."""
        backward: Any = getattr(self.layer, "backward", None)

        def replacement(top: Any, propagate_down: Any, bottom: Any) -> None:
            self.asked = list(propagate_down)
            if any(self.flags):
                backward(top, self.flags, bottom)

        if self.is_python:
            self.layer.backward = replacement
        try:
            self.net._backward(self.index, self.index)
        finally:
            vars(self.layer).pop("backward", None)


def address(array: np.ndarray) -> int:
    """Where the array lies: in-place and reshaping layers share memory between blobs."""
    return int(array.__array_interface__["data"][0])


def name_in_prototxt(net: Any, blob: str) -> str:
    """The blob's name without what Caffe appends where a blob goes to several layers."""
    for layer, tops in net.top_names.items():
        if blob in tops and net.layer_dict[layer].type == "Split":
            return net.bottom_names[layer][0]
    return blob


@contextlib.contextmanager
def kept(net: Any) -> Iterator[None]:
    """Leaves the data and diffs of all blobs and parameters as they were."""
    blobs = list(net.blobs.values())
    blobs += [parameters[i] for parameters in net.params.values() for i in range(len(parameters))]
    before = [(blob, blob.data.copy(), blob.diff.copy()) for blob in blobs]
    try:
        yield
    finally:
        for blob, data, diff in before:
            blob.data[...] = data
            blob.diff[...] = diff
