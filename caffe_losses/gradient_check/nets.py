"""Nets to check: from a prototxt, or around one Python layer."""

import os
import tempfile
from typing import Any, Sequence


def load_net(path: str, phase: str = "TRAIN", force_backward: bool = False) -> Any:
    """The net of a prototxt. Caffe aborts the process where the prototxt is wrong."""
    from caffe_losses.import_caffe import caffe

    if not force_backward:
        return caffe.Net(path, getattr(caffe, phase))
    from google.protobuf import text_format

    with open(path) as file:
        try:
            net = text_format.Parse(file.read(), caffe.proto.caffe_pb2.NetParameter())
        except text_format.ParseError as error:
            raise ValueError(f"{path}:{error}") from error
    net.force_backward = True
    return net_of(net, phase)


def python_layer_net(
    module: str,
    layer: str,
    shapes: Sequence[Sequence[int]],
    param_str: str = "",
    loss_weight: float = 1,
    phase: str = "TRAIN",
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
    return net_of(net, phase)


def net_of(parameter: Any, phase: str) -> Any:
    """The net of a NetParameter; Caffe reads it from a file only."""
    from caffe_losses.import_caffe import caffe

    descriptor, path = tempfile.mkstemp(suffix=".prototxt")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(str(parameter))
        return caffe.Net(path, getattr(caffe, phase))
    finally:
        os.remove(path)
