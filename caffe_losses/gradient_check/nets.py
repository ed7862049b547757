"""Nets to check, from a prototxt or around one Python layer, and what their inputs hold."""

import functools
import importlib
import os
import re
import tempfile
from typing import Any, Mapping, Optional, Sequence, Union

import numpy as np

from caffe_losses.gradient_check.layer_function import name_in_prototxt

DRAWS = "normal, uniform, binary, labels:K"
SEED = 1701  # as in Caffe's GradientChecker

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


def load_net(
    path: str,
    phase: str = "TRAIN",
    seed: int = SEED,
    force_backward: bool = False,
    weights: Optional[str] = None,
) -> Any:
    """The net of a prototxt, with trained weights or those that its fillers draw.

    Caffe aborts the process where the prototxt is wrong in more than its syntax.
    """
    from google.protobuf import text_format

    from caffe_losses.import_caffe import caffe

    for file_name in [path, weights] if weights else [path]:
        if not os.path.isfile(file_name):
            raise ValueError(f"there is no file {file_name}")
    parameter = caffe.proto.caffe_pb2.NetParameter()
    with open(path) as file:
        try:
            text_format.Parse(file.read(), parameter)
        except text_format.ParseError as error:
            raise ValueError(f"{path}:{error}") from error
    if force_backward:
        parameter.force_backward = True
    net = net_of(parameter, phase, seed)
    if weights:
        net.copy_from(weights)
    return net


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
    inputs = net.layer.add(name="inputs", type="Input")
    checked = net.layer.add(name=layer, type="Python", top=["top"], loss_weight=[loss_weight])
    for index, shape in enumerate(shapes):
        inputs.top.append(f"bottom{index}")
        inputs.input_param.shape.add(dim=shape)
        checked.bottom.append(f"bottom{index}")
    checked.python_param.module = module
    checked.python_param.layer = layer
    checked.python_param.param_str = param_str
    return net_of(net, phase, seed)


def net_of(parameter: Any, phase: str = "TRAIN", seed: int = SEED) -> Any:
    """The net of a NetParameter, with the weights that Caffe's fillers draw from this seed."""
    from caffe_losses.import_caffe import caffe

    for layer in parameter.layer:
        if layer.type == "Python":
            require_layer(layer.python_param.module, layer.python_param.layer)
    caffe.set_random_seed(seed)
    with tempfile.TemporaryDirectory() as folder:  # Caffe reads a net from a file only
        path = os.path.join(folder, "net.prototxt")
        with open(path, "w") as file:
            file.write(str(parameter))
        return caffe.Net(path, getattr(caffe, phase))


def require_layer(module: str, name: str) -> None:
    """Imports a Python layer; Caffe's own errors here are hard to read, or end the process."""
    from caffe_losses.import_caffe import caffe

    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"module {module} cannot be imported ({reason}); is its folder on PYTHONPATH?"
        ) from error
    layers = [
        each
        for each, value in vars(imported).items()
        if isinstance(value, type) and issubclass(value, caffe.Layer) and value is not caffe.Layer
    ]
    if name not in layers:
        raise ValueError(
            f"module {module} has no caffe.Layer {name}; it has {', '.join(layers) or 'none'}"
        )


def layer_parameter(net: Any, name: str) -> Any:
    """The LayerParameter of a layer; pycaffe gives it away only with the weights of the net."""
    from caffe_losses.import_caffe import caffe

    parameter = caffe.proto.caffe_pb2.NetParameter()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "net.caffemodel")
        net.save(path)
        with open(path, "rb") as file:
            parameter.ParseFromString(file.read())
    return next(layer for layer in parameter.layer if layer.name == name)


def is_frozen(net: Any, layer: str, index: int) -> bool:
    """Whether Caffe trains a net without this parameter of a layer."""
    specs = layer_parameter(net, layer).param
    return index < len(specs) and not specs[index].lr_mult


def require_classes(net: Any, layer: str) -> None:
    """Refuses what a layer would take for the number of a class that there is not."""
    kind, bottoms = net.layer_dict[layer].type, net.bottom_names[layer]
    if kind not in CLASS_LOSSES:
        return
    index, ignoring_field, axis_field = CLASS_LOSSES[kind]
    numbers, name = np.unique(net.blobs[bottoms[index]].data), name_in_prototxt(net, bottoms[index])
    if not is_whole(numbers):
        raise ValueError(
            f"layer {layer}: {name} must hold the numbers of classes; draw it as labels:K, with K "
            f"the number of classes"
        )
    scores = list(net.blobs[bottoms[0]].shape)
    if index == 1 and numbers[0] >= 0 and numbers[-1] < min(scores[1:], default=0):
        return  # whatever the axis is
    parameter = layer_parameter(net, layer)
    axis = getattr(parameter, axis_field).axis if axis_field else 1
    classes = parameter.embed_param.input_dim if kind == "Embed" else scores[axis]
    ignoring = getattr(parameter, ignoring_field) if ignoring_field else None
    if ignoring is not None and ignoring.HasField("ignore_label"):
        numbers = numbers[numbers != ignoring.ignore_label]
    outside = numbers[(numbers < 0) | (numbers >= classes)]
    if outside.size:
        raise ValueError(
            f"layer {layer}: {name} holds {outside[0]:g}, and the classes are 0 to "
            f"{classes - 1}; draw it as labels:{classes}"
        )


def is_whole(array: np.ndarray) -> bool:
    """Whether the values could be those of a label or mask."""
    return bool((array == np.rint(array)).all())


def draw_or_array(text: str) -> Union[str, np.ndarray]:
    """A distribution by its name, or the array of FILE.npy or FILE.npz:KEY."""
    path, _, key = text.partition(":")
    if not path.endswith((".npy", ".npz")):
        if not re.fullmatch("normal|uniform|binary|labels:[1-9][0-9]*", text):
            raise ValueError(f"{text!r} is no distribution; expected one of {DRAWS}")
        return text
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    if key not in loaded:
        keys = ", ".join(loaded.files)
        raise ValueError(f"{path} has no array {key!r}; write {path}:KEY, with one of {keys}")
    return loaded[key]


def fill_inputs(net: Any, inputs: Mapping[str, Union[str, np.ndarray]], seed: int) -> None:
    """Writes arrays or random numbers to the net's input blobs of these names."""
    random = np.random.RandomState(seed)
    for name, given in inputs.items():
        if name not in net.inputs:
            raise ValueError(f"the net has no input {name}; its inputs are {', '.join(net.inputs)}")
        shape = tuple(net.blobs[name].shape)
        array = draw_or_array(given) if isinstance(given, str) else np.asarray(given)
        if isinstance(array, str):
            draws = {"normal": random.normal, "uniform": random.uniform}
            classes = int(array.partition(":")[2] or 2)
            draw = draws.get(array, functools.partial(random.randint, classes))
            array = draw(size=shape)
        if array.shape != shape:
            raise ValueError(f"input {name} has shape {array.shape}; the net expects {shape}")
        net.blobs[name].data[...] = array
    if net.inputs and not any(net.blobs[name].data.any() for name in net.inputs):
        raise ValueError("the net's inputs are all zero: fill them, or pass inputs")
