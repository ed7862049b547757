"""A net with side outputs, after S. Xie and Z. Tu, "Holistically-Nested Edge Detection", ICCV 2015.

Three stages of convolutions see the photograph at full, half and quarter size. A side output of
each says where it sees edges, at full size; the fused output weighs the three. Every output has a
loss of its own ("deep supervision").
"""

from typing import Any, List

import caffe
from caffe import layers as L
from caffe import params as P

from pylayerUtils import WeightedSigmoidCrossEntropyLossLayer

STAGES = (8, 16, 32)  # channels


def train_net(source: str, balance: str) -> Any:
    """The net that is trained; `source` names the HDF5 file, `balance` is the losses' parameter."""
    net = caffe.NetSpec()
    net.image, net.edge = L.HDF5Data(source=source, batch_size=4, ntop=2)
    for name in add_outputs(net):
        net[f"{name}_loss"] = WeightedSigmoidCrossEntropyLossLayer.spec(
            net[name], net.edge, balance=balance
        )
    return net


def deploy_net(height: int, width: int) -> Any:
    """The trained net on a photograph of one's own."""
    net = caffe.NetSpec()
    net.image = L.Input(shape={"dim": [1, 1, height, width]})
    for name in add_outputs(net):
        net[f"{name}_probability"] = L.Sigmoid(net[name])
    return net


def add_outputs(net: Any) -> List[str]:
    """Adds all layers from net.image to the side outputs and the fused one; returns their names."""
    top = net.image
    outputs = []
    for stage, channels in enumerate(STAGES, start=1):
        if stage > 1:
            net[f"pool{stage}"] = top = L.Pooling(top, pool=P.Pooling.MAX, kernel_size=2, stride=2)
        for part in "ab":
            net[f"conv{stage}{part}"] = L.Convolution(
                top, num_output=channels, kernel_size=3, pad=1, weight_filler={"type": "msra"}
            )
            net[f"relu{stage}{part}"] = top = L.ReLU(net[f"conv{stage}{part}"], in_place=True)
        net[f"score{stage}"] = L.Convolution(
            top, num_output=1, kernel_size=1, weight_filler={"type": "msra"}
        )
        net[f"side{stage}"] = at_full_size(net, f"score{stage}", 2 ** (stage - 1))
        outputs.append(f"side{stage}")
    net.sides = L.Concat(*(net[name] for name in outputs))
    net.fused = L.Convolution(
        net.sides,
        num_output=1,
        kernel_size=1,
        weight_filler={"type": "constant", "value": 1 / len(STAGES)},
    )
    return [*outputs, "fused"]


def at_full_size(net: Any, name: str, factor: int) -> Any:
    """The score enlarged by bilinear interpolation, which is not trained, to the image's size."""
    if factor == 1:
        return net[name]
    net[f"{name}_enlarged"] = L.Deconvolution(
        net[name],
        convolution_param={
            "num_output": 1,
            "kernel_size": 2 * factor,
            "stride": factor,
            "pad": factor // 2,
            "bias_term": False,
            "weight_filler": {"type": "bilinear"},
        },
        param={"lr_mult": 0, "decay_mult": 0},
    )
    # Pooling rounds sizes up: without the crop the net would take sizes divisible by 4 alone.
    return L.Crop(net[f"{name}_enlarged"], net.image, offset=0)
