"""A layer of a net as a function of its bottoms and parameters, and the gradient it computes.

Each layer is checked by itself, as Caffe's GradientChecker does: what is wrong is then known by
the layer, and neither the rounding nor the kinks of the layers above get in the way.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

Arrays = Dict[str, np.ndarray]

# Random cotangents keep away from 0, where an output would not count.
SMALLEST_COTANGENT, LARGEST_COTANGENT = 0.5, 1.5


class Variable(NamedTuple):
    """A bottom or a parameter of the layer."""

    name: str
    blob: Any
    is_parameter: bool


Change = Tuple[Variable, np.ndarray, np.ndarray]  # amounts that are added to elements of it


class ShapeDependsOnData(Exception):
    """A forward of other data has given a top of the layer another shape."""


class LayerFunction:
    """The tops of one layer as a function; its gradient is that of cotangent times tops.

    The cotangent of a top that is a loss is its loss weight; another top gets random numbers. The
    bottoms must hold the data at which the layer is checked.
    """

    def __init__(self, net: Any, layer: str, seed: int, labels: Sequence[str] = ()) -> None:
        from caffe_losses.import_caffe import caffe

        self.set_random_seed = caffe.set_random_seed
        self.net, self.name, self.seed = net, layer, seed
        self.layer = net.layer_dict[layer]
        self.index = list(net._layer_names).index(layer)
        self.is_python = self.layer.type == "Python"
        blobs = net.bottom_names[layer]
        names = [name_in_prototxt(net, blob) for blob in blobs]
        self.bottoms = [Variable(name, net.blobs[blob], False) for name, blob in zip(names, blobs)]
        parameters = enumerate(self.layer.blobs)
        self.parameters = [Variable(f"{layer}[{i}]", blob, True) for i, blob in parameters]
        self.variables = self.bottoms + self.parameters
        self.origin = {each.name: each.blob.data.copy() for each in self.variables}
        # Whole numbers beside a prediction are taken for a label or mask.
        origin = self.origin
        whole = [name for name in names[1:] if (origin[name] == np.rint(origin[name])).all()]
        self.named_labels, self.labels = {*labels}, {*names} & {*labels, *whole}
        self.forward()  # a top may have another shape than before
        tops = [(net.blobs[name], net.blob_loss_weights[name]) for name in net.top_names[layer]]
        losses = [(top, loss_weight) for top, loss_weight in tops if loss_weight]
        self.all_tops = [top for top, _ in tops]
        self.shapes = [tuple(top.shape) for top in self.all_tops]
        self.tops = [top for top, _ in losses or tops]  # a top beside a loss does not count
        sizes = [top.count for top in self.tops]
        self.ends = np.cumsum(sizes)[:-1]
        if losses:
            self.cotangent = np.repeat([loss_weight for _, loss_weight in losses], sizes)
        else:
            random = np.random.RandomState([seed, 1])  # not the numbers that the inputs are of
            self.cotangent = random.uniform(SMALLEST_COTANGENT, LARGEST_COTANGENT, sum(sizes))
            self.cotangent *= random.choice([-1.0, 1.0], sum(sizes))
        # Caffe's propagate_down, known of a Python layer once Caffe called its backward; and what
        # that gets instead.
        self.asked = self.flags = [] if self.is_python else [True] * len(self.bottoms)
        self.written: Set[str] = set()  # variables whose gradient is in their diff
        self.violations: Set[Tuple[str, str]] = set()  # of a variable, or of all: ""

    @property
    def loss_weight(self) -> Optional[float]:
        """That of a layer with one scalar top; top[0].diff holds it."""
        return float(self.cotangent[0]) if self.cotangent.size == 1 else None

    @property
    def work(self) -> float:
        """About how many values a forward goes through; a product is worth a tenth of one."""
        values = sum(each.blob.count for each in self.variables) + self.cotangent.size
        weights = [np.atleast_1d(each.blob.data)[0].size for each in self.parameters[:1]]
        return values + self.cotangent.size * sum(weights) / 10

    def forward(self) -> None:
        self.set_random_seed(self.seed)
        self.net._forward(self.index, self.index)

    def outputs(self, point: Arrays, change: Optional[Change] = None) -> np.ndarray:
        """The elements of all tops that count."""
        # All of the point, each time: an in-place layer has overwritten its bottom, and BatchNorm
        # its parameters. The seed makes Dropout and the like draw the same numbers again.
        for each in self.variables:
            each.blob.data[...] = point[each.name]
        if change:
            variable, elements, amounts = change
            variable.blob.data.reshape(-1)[elements] += amounts
        self.forward()
        if [tuple(top.shape) for top in self.all_tops] != self.shapes:
            raise ShapeDependsOnData
        return np.concatenate([top.data.ravel() for top in self.tops]).astype(np.float64)

    def gradient(
        self, point: Arrays, cotangent: Optional[np.ndarray] = None, fill: Optional[Arrays] = None
    ) -> Arrays:
        """What forward and backward leave in the diffs of the variables.

        Before forward the diffs hold `fill`, or zero. What the two change that they must not is
        noted in `violations`.
        """
        held = dict(fill or {})
        for each in self.variables:  # a blob that is two bottoms of the layer holds its fill once
            each.blob.diff[...] = held.pop(each.name, 0)
        # After fill, as a loss may leave its gradient, or notes, in the bottom's diff in forward.
        self.outputs(point)
        # After fill, too: the diff of an in-place or reshaped top is that of its bottom.
        for top in self.all_tops:
            top.diff[...] = 0
        parts = self.cotangent if cotangent is None else cotangent
        for top, part in zip(self.tops, np.split(parts, self.ends)):
            top.diff[...] = part.reshape(top.diff.shape)
        data = [bottom.blob.data.copy() for bottom in self.bottoms]
        diffs = [each.blob.diff.copy() for each in self.variables]
        top_diffs = [top.diff.copy() for top in self.all_tops]
        self.note_changed_data("forward", [point[bottom.name] for bottom in self.bottoms])
        self.run_backward()
        self.note_changed_data("backward", data)
        self.note_changed_diffs(diffs, top_diffs)
        gradient: Arrays = {}
        for each in self.variables:  # one blob may be several bottoms
            gradient[each.name] = gradient.get(each.name, 0) + each.blob.diff.astype(np.float64)
        return gradient

    def note_changed_data(self, call: str, before: List[np.ndarray]) -> None:
        tops = [top.data for top in self.all_tops]
        for (name, blob, _), data in zip(self.bottoms, before):
            if is_changed(blob.data, data) and not is_among(tops, blob.data):
                self.violations.add((name, f"{call} changes the data of this bottom"))

    def note_changed_diffs(self, before: List[np.ndarray], of_tops: List[np.ndarray]) -> None:
        tops = [top.diff for top in self.all_tops]
        for (name, blob, _), diff in zip(self.variables, before):
            # In place, the gradient of what forward leaves as it is stays as it is.
            is_right = is_among(tops, blob.diff) and not is_changed(blob.data, self.origin[name])
            if is_right or is_changed(blob.diff, diff):
                self.written.add(name)
        for (name, blob, _), flag, diff in zip(self.bottoms, self.flags, before):
            if not flag and blob.diff[blob.diff != diff].any():  # zeros do no harm
                found = "backward ignores propagate_down: it writes a gradient to this bottom for"
                self.violations.add((name, f"{found} propagate_down = {self.flags}"))
        bottoms = [bottom.blob.diff for bottom in self.bottoms]
        for index, (top, diff) in enumerate(zip(self.all_tops, of_tops)):
            if is_changed(top.diff, diff) and not is_among(bottoms, top.diff):
                found = f"backward changes top[{index}].diff"
                if self.loss_weight is not None:
                    found += ", where Caffe writes the loss_weight only once: changes add up"
                self.violations.add(("", found))

    def run_backward(self) -> None:
        """Has Caffe run the layer's backward; a Python layer's with `flags`, once there are any."""
        backward: Any = getattr(self.layer, "backward", None)

        def replacement(top: Any, propagate_down: Any, bottom: Any) -> None:
            self.asked = list(propagate_down)
            if self.flags:
                backward(top, self.flags, bottom)

        if self.is_python:
            self.layer.backward = replacement
        try:
            self.net._backward(self.index, self.index)
        finally:
            vars(self.layer).pop("backward", None)


def is_among(arrays: List[np.ndarray], array: np.ndarray) -> bool:
    """Whether it is the memory of one: in-place and reshaping layers share it between blobs."""
    return any(np.may_share_memory(array, each) for each in arrays)


def is_changed(array: np.ndarray, before: np.ndarray) -> bool:
    return bool(array.tobytes() != before.tobytes())  # in bytes, NaN is NaN


def name_in_prototxt(net: Any, blob: str) -> str:
    """The blob's name without what Caffe appends where a blob goes to several layers."""
    for layer, tops in net.top_names.items():
        if blob in tops and net.layer_dict[layer].type == "Split":
            return net.bottom_names[layer][0]
    return blob
