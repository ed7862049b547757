"""A net from a prototxt, with errors to read where Caffe would end the process."""

import importlib
import os
import tempfile
from typing import Any

SEED = 1701  # as in Caffe's GradientChecker


def read_net(path: str) -> Any:
    """The NetParameter in a prototxt."""
    from caffe_losses.import_caffe import caffe

    return read_prototxt(path, caffe.proto.caffe_pb2.NetParameter())


def read_prototxt(path: str, message: Any) -> Any:
    """The message with what the prototxt says."""
    from google.protobuf import text_format

    try:
        with open(path) as file:
            return text_format.Merge(file.read(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    except text_format.ParseError as error:
        raise ValueError(f"{path}:{error}") from error


def net_of(parameter: Any, phase: str = "TRAIN", seed: int = SEED) -> Any:
    """The net of a NetParameter, with the weights that Caffe's fillers draw from this seed.

    Caffe aborts the process where it does not like the net.
    """
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
