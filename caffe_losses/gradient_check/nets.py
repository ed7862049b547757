"""The net around one Python layer; of any net, the inputs, the layers' settings and the state."""

import contextlib
import itertools
import re
import tempfile
from typing import Any, Dict, Iterator, Mapping, Sequence, Set, Union

import numpy as np

from caffe_losses.build_net import SEED, net_of
from caffe_losses.gradient_check.layer_function import name_in_prototxt

DRAWS = "normal, uniform, binary, labels:K"

# The bottom that a layer takes for numbers of classes, to index with them what is in memory; and
# the fields of its LayerParameter with the number to ignore and with the axis of the classes.
CLASS_LOSSES = {
    "SoftmaxWithLoss": (1, "loss_param", "softmax_param"),
    "InfogainLoss": (1, "loss_param", "infogain_loss_param"),
    "HingeLoss": (1, "", ""),
    "MultinomialLogisticLoss": (1, "", ""),
    "Accuracy": (1, "accuracy_param", "accuracy_param"),
    "Embed": (0, "", ""),
}


def python_layer_net(
    module: str,
    layer: str,
    shapes: Sequence[Sequence[int]],
    param_str: str = "",
    loss_weight: float = 1,
    phase: str = "TRAIN",
    seed: int = SEED,
) -> Any:
    """A net of one Python layer, whose bottoms are the inputs bottom0, bottom1, ..."""
    from caffe_losses.import_caffe import caffe

    net = caffe.proto.caffe_pb2.NetParameter(force_backward=True)
    bottoms = [f"bottom{index}" for index in range(len(shapes))]
    inputs = net.layer.add(name="inputs", type="Input", top=bottoms)
    for shape in shapes:
        inputs.input_param.shape.add(dim=shape)
    python = {"module": module, "layer": layer, "param_str": param_str}
    fields = {"type": "Python", "loss_weight": [loss_weight], "python_param": python}
    net.layer.add(name=layer, bottom=bottoms, top=["top"], **fields)
    return net_of(net, phase, seed)


def layer_parameters(net: Any) -> Dict[str, Any]:
    """The LayerParameters by name; pycaffe gives them away only with the weights of the net."""
    from caffe_losses.import_caffe import caffe

    with tempfile.NamedTemporaryFile() as file:
        net.save(file.name)
        parameter = caffe.proto.caffe_pb2.NetParameter.FromString(file.read())
    for layer in parameter.layer:
        layer.ClearField("blobs")
    return {layer.name: layer for layer in parameter.layer}


def layers_with_backward(net: Any, layers: Dict[str, Any]) -> Set[str]:
    """Those on which a loss depends: without force_backward, Caffe calls no other backward."""
    found: Set[str] = set()
    needed: Set[str] = set()
    for name, layer in reversed([*layers.items()]):
        if needed & {*layer.top} or any(net.blob_loss_weights[top] for top in layer.top):
            found.add(name)
            asked: Any = itertools.zip_longest(layer.bottom, layer.propagate_down, fillvalue=True)
            needed |= {bottom for bottom, propagate_down in asked if propagate_down}
    return found


def require_classes(net: Any, layer: Any) -> None:
    """Refuses what a layer would take for the number of a class that there is not."""
    if layer.type not in CLASS_LOSSES:
        return
    index, ignoring_field, axis_field = CLASS_LOSSES[layer.type]
    name = name_in_prototxt(net, layer.bottom[index])
    axis = getattr(layer, axis_field).axis if axis_field else 1
    scores = net.blobs[layer.bottom[0]].data.shape
    classes = layer.embed_param.input_dim if layer.type == "Embed" else scores[axis]
    allowed = [*range(classes)]
    if ignoring_field and getattr(layer, ignoring_field).HasField("ignore_label"):
        allowed.append(getattr(layer, ignoring_field).ignore_label)
    others = np.setdiff1d(net.blobs[layer.bottom[index]].data, allowed)
    if others.size:
        raise ValueError(
            f"layer {layer.name}: {name} holds {others[0]:g}, and the classes are 0 to "
            f"{classes - 1}; draw it as labels:{classes}"
        )


def array_of(
    given: Union[str, np.ndarray], shape: Sequence[int], random: np.random.RandomState
) -> np.ndarray:
    """The array of FILE.npy or FILE.npz:KEY, or random numbers of this shape; or what is given."""
    if not isinstance(given, str):
        return np.asarray(given)
    name, _, key = given.partition(":")
    if name.endswith((".npy", ".npz")):
        loaded = np.load(name, allow_pickle=False)
        if not isinstance(loaded, np.ndarray) and key not in loaded:
            keys = ", ".join(loaded.files)
            raise ValueError(f"{name} has no array {key!r}; write {name}:KEY, with one of {keys}")
        return loaded if isinstance(loaded, np.ndarray) else loaded[key]
    if given in ("normal", "uniform"):
        return getattr(random, given)(size=shape)
    labels = re.fullmatch("binary|labels:([1-9][0-9]*)", given)
    if not labels:
        raise ValueError(f"{given!r} is no distribution; expected one of {DRAWS}")
    return random.randint(int(labels.group(1) or 2), size=shape)


def fill_inputs(net: Any, inputs: Mapping[str, Union[str, np.ndarray]], seed: int) -> None:
    """Writes arrays or random numbers to the net's input blobs of these names."""
    random = np.random.RandomState(seed)
    for name, given in inputs.items():
        if name not in net.inputs:
            raise ValueError(f"the net has no input {name}; its inputs are {', '.join(net.inputs)}")
        shape = net.blobs[name].data.shape
        array = array_of(given, shape, random)
        if array.shape != shape:
            raise ValueError(f"input {name} has shape {array.shape}; the net expects {shape}")
        net.blobs[name].data[...] = array
    if net.inputs and not any(net.blobs[name].data.any() for name in net.inputs):
        raise ValueError("the net's inputs are all zero: fill them, or pass inputs")


@contextlib.contextmanager
def unchanged(net: Any) -> Iterator[None]:
    """Restores the data and diffs of all blobs and parameters at its end."""
    blobs = [*net.blobs.values(), *itertools.chain(*net.params.values())]
    before = [(blob, blob.data.copy(), blob.diff.copy()) for blob in blobs]
    try:
        yield
    finally:
        for blob, data, diff in before:
            if tuple(blob.shape) != data.shape:
                blob.reshape(*data.shape)
            blob.data[...] = data
            blob.diff[...] = diff
