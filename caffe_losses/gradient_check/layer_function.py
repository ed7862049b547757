"""A layer of a net as a function: the sum of cotangent times top, and its gradient.

Each layer is checked by itself, as Caffe's GradientChecker does: what is wrong is then known by
the layer, and neither the rounding nor the kinks of the layers above get in the way.
"""

import contextlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

Arrays = Dict[str, np.ndarray]


class Variable(NamedTuple):
    """A bottom or a parameter of the layer."""

    name: str
    blob: Any
    bottom: Optional[int]  # None for a parameter


class LayerFunction:
    """The weighted loss of one layer, as a function of its bottoms and parameters.

    The cotangent of a top that is a loss is its loss weight; another top gets random numbers.
    The bottoms must hold the data at which the layer is checked.
    """

    def __init__(self, net: Any, layer: str, seed: int) -> None:
        from caffe_losses.import_caffe import caffe

        self.set_random_seed = caffe.set_random_seed
        self.net = net
        self.layer = layer
        self.seed = seed
        self.is_python = net.layer_dict[layer].type == "Python"
        self.bottoms = [
            Variable(name_in_prototxt(net, name), net.blobs[name], index)
            for index, name in enumerate(net.bottom_names[layer])
        ]
        blobs = net.layer_dict[layer].blobs
        self.variables = self.bottoms + [
            Variable(f"{layer}[{index}]", blobs[index], None) for index in range(len(blobs))
        ]
        self.origin = {each.name: each.blob.data.copy() for each in self.variables}
        self.forward(self.origin)
        self.tops = [net.blobs[name] for name in net.top_names[layer]]
        # Not the numbers that the inputs are drawn from.
        random = np.random.RandomState([seed, 1])
        weights = [net.blob_loss_weights[name] for name in net.top_names[layer]]
        self.cotangents = [
            np.full(tuple(top.shape), weight, np.float64)
            if any(weights)
            else random.normal(size=tuple(top.shape))
            for top, weight in zip(self.tops, weights)
        ]

    @property
    def loss_weight(self) -> Optional[float]:
        """That of a layer with one scalar top; top[0].diff holds it."""
        return float(self.cotangents[0]) if self.cotangents[0].size == 1 else None

    def forward(self, point: Arrays) -> None:
        # All of the point, each time: an in-place layer has overwritten its bottom, and BatchNorm
        # its parameters. The seed makes Dropout and the like draw the same numbers again.
        for variable in self.variables:
            variable.blob.data[...] = point[variable.name]
        self.set_random_seed(self.seed)
        self.net.forward(start=self.layer, end=self.layer)

    def value(self, point: Arrays) -> float:
        self.forward(point)
        return float(sum((c * top.data).sum() for c, top in zip(self.cotangents, self.tops)))

    def rounding(self) -> float:
        """The distance between neighbouring values that float32 tops leave to the function."""
        ulps = [c * np.spacing(np.abs(top.data)) for c, top in zip(self.cotangents, self.tops)]
        return float(np.sqrt(sum((ulp**2).sum() for ulp in ulps)))

    def along(self, variable: Variable, direction: np.ndarray) -> Callable[[float], float]:
        """The function of t when t times the direction is added to the variable."""
        origin = self.origin[variable.name]
        return lambda t: self.value({**self.origin, variable.name: origin + t * direction})

    def gradient(self, point: Arrays, scale: float = 1, fill: float = 0) -> Arrays:
        """What forward and backward leave in the diffs of the variables.

        The tops' diffs are scale times the cotangents. The bottoms' diffs hold `fill` before
        backward, which should make no difference.
        """
        self.net.clear_param_diffs()
        for bottom in self.bottoms:
            bottom.blob.diff[...] = fill
        # After fill, as Caffe's HingeLoss leaves notes for its backward in the bottom's diff.
        self.forward(point)
        # After fill, too: the diff of an in-place or reshaped top is that of its bottom.
        for top, cotangent in zip(self.tops, self.cotangents):
            top.diff[...] = scale * cotangent
        self.net.backward(start=self.layer, end=self.layer)
        gradient: Arrays = {}
        for variable in self.variables:  # one blob may be several bottoms
            diff = variable.blob.diff.astype(np.float64)
            gradient[variable.name] = gradient.get(variable.name, 0) + diff
        return gradient

    def propagate_down(self) -> List[bool]:
        """What Caffe passes to the backward of this Python layer; nothing if it is not called."""
        passed: List[bool] = []
        layer = self.net.layer_dict[self.layer]
        layer.backward = lambda top, propagate_down, bottom: passed.extend(propagate_down)
        try:
            self.net.backward(start=self.layer, end=self.layer)
        finally:
            del layer.backward
        return passed


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
