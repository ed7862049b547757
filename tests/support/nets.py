"""Nets for the tests, made from prototxt text in real Caffe."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import caffe
import numpy as np
from caffe.proto import caffe_pb2


def net_from(text: str, phase: int = caffe.TRAIN) -> caffe.Net:
    """The net of a prototxt text."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", delete=False) as file:
        file.write(text)
    try:
        return caffe.Net(file.name, phase)
    finally:
        os.remove(file.name)


def input_layer(name: str, shape: Sequence[int]) -> str:
    """An Input layer with one top."""
    dimensions = " ".join(f"dim: {n}" for n in shape)
    return (
        f'layer {{ name: "{name}" type: "Input" top: "{name}" '
        f"input_param {{ shape {{ {dimensions} }} }} }}\n"
    )


def python_layer(
    module: str, layer: str, bottoms: Sequence[str], parameters: Any = "", **options: Any
) -> str:
    """A Python loss layer named `loss`; its parameters are a dictionary or the param_str itself."""
    if isinstance(parameters, dict):
        parameters = json.dumps(parameters) if parameters else ""
    escaped = parameters.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = [f'bottom: "{bottom}"' for bottom in bottoms]
    lines += [f"{key}: {value}" for key, value in options.items()]
    return (
        'layer { name: "loss" type: "Python" top: "loss" '
        + " ".join(lines)
        + f' python_param {{ module: "{module}" layer: "{layer}" param_str: "{escaped}" }} }}\n'
    )


def native_layer(kind: str, bottoms: Sequence[str], **options: Any) -> str:
    """A loss layer of Caffe's own, named `loss`."""
    lines = [f'bottom: "{bottom}"' for bottom in bottoms]
    lines += [f"{key}: {value}" for key, value in options.items()]
    return f'layer {{ name: "loss" type: "{kind}" top: "loss" ' + " ".join(lines) + " }\n"


def learned(blob: str) -> str:
    """A factor of a blob, 1 at the start; it makes Caffe ask for the gradient to what comes out."""
    return (
        f'layer {{ name: "learned" type: "Scale" bottom: "{blob}" top: "{blob}" '
        f"scale_param {{ axis: 0 num_axes: 0 }} }}\n"
    )


def fed(net: caffe.Net, inputs: Dict[str, np.ndarray]) -> caffe.Net:
    """The net with these inputs, reshaped to fit."""
    for name, array in inputs.items():
        net.blobs[name].reshape(*array.shape)
    net.reshape()
    for name, array in inputs.items():
        if array.size:
            net.blobs[name].data[...] = array
    return net


def loss_net(
    layer: str, inputs: Dict[str, np.ndarray], phase: int = caffe.TRAIN, force_backward: bool = True
) -> caffe.Net:
    """A net of inputs and one layer; every bottom gets a gradient under force_backward."""
    text = "force_backward: true\n" if force_backward else ""
    text += "".join(input_layer(name, array.shape) for name, array in inputs.items())
    return fed(net_from(text + layer, phase), inputs)


def loss_and_gradients(net: caffe.Net) -> Tuple[float, Dict[str, np.ndarray]]:
    """The loss and the gradients to the input blobs after one forward and backward."""
    loss = float(net.forward()["loss"])
    for name in net.inputs:
        if net.blobs[name].count:
            net.blobs[name].diff[...] = np.nan
    # Not net.backward(): it reads the diff of empty inputs, and Caffe aborts.
    net._backward(len(net.layers) - 1, 0)
    return loss, {n: net.blobs[n].diff.copy() for n in net.inputs if net.blobs[n].count}


def weights_of(caffemodel: Path) -> List[List[float]]:
    """The parameters in a snapshot, blob by blob."""
    net = caffe_pb2.NetParameter()
    net.ParseFromString(caffemodel.read_bytes())
    return [list(blob.data) for layer in net.layer for blob in layer.blobs]
