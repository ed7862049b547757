"""The net: image in, flux field of the same size out; and the same with data layer and loss."""

from typing import Any

import caffe
from caffe import layers as L

from pylayerUtils import WeightedEuclideanLossLayer


def train_net(source: str, balance: str) -> Any:
    """The net that is trained; `source` names the HDF5 file, `balance` is the loss's parameter."""
    net = caffe.NetSpec()
    net.image, net.flux, net.dilmask = L.HDF5Data(source=source, batch_size=16, ntop=3)
    net.prediction = flux_of(net)
    net.loss = WeightedEuclideanLossLayer.spec(
        net.prediction, net.flux, net.dilmask, balance=balance
    )
    return net


def deploy_net(batch_size: int) -> Any:
    """The trained net on images of one's own."""
    net = caffe.NetSpec()
    net.image = L.Input(shape={"dim": [batch_size, 1, 64, 64]})
    net.prediction = flux_of(net)
    return net


def flux_of(net: Any) -> Any:
    """Down to an eighth of the size, where a filter sees the whole object, and up again.

    On the way up, the features of the same size from the way down bring back where things are.
    """
    convolution(net, "half", net.image, 16, kernel_size=5, pad=2, stride=2)
    convolution(net, "half_context", net.half, 16)
    convolution(net, "quarter", net.half_context, 32, stride=2)
    convolution(net, "quarter_context", net.quarter, 32)
    convolution(net, "eighth", net.quarter_context, 64, stride=2)
    convolution(net, "eighth_context", net.eighth, 64)
    convolution(net, "eighth_wide_context", net.eighth_context, 64)

    net.quarter_up = upsampled(net.eighth_wide_context, 32)
    net.quarter_sum = L.Eltwise(net.quarter_up, net.quarter_context)
    convolution(net, "quarter_joined", net.quarter_sum, 32)
    net.half_up = upsampled(net.quarter_joined, 16)
    net.half_sum = L.Eltwise(net.half_up, net.half_context)
    convolution(net, "half_joined", net.half_sum, 16)
    return upsampled(net.half_joined, 2)


def convolution(
    net: Any,
    name: str,
    bottom: Any,
    channels: int,
    kernel_size: int = 3,
    pad: int = 1,
    stride: int = 1,
) -> None:
    """Adds a convolution and its ReLU."""
    net[name] = L.Convolution(
        bottom,
        num_output=channels,
        kernel_size=kernel_size,
        pad=pad,
        stride=stride,
        weight_filler={"type": "msra"},
    )
    net[f"{name}_relu"] = L.ReLU(net[name], in_place=True)


def upsampled(bottom: Any, channels: int) -> Any:
    """A learned interpolation to twice the size."""
    return L.Deconvolution(
        bottom,
        convolution_param={
            "num_output": channels,
            "kernel_size": 4,
            "pad": 1,
            "stride": 2,
            "weight_filler": {"type": "xavier"},
        },
    )
