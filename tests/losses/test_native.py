"""The layers against Caffe's own that compute the same, loss and gradient, in one process."""

import json

import numpy as np
import pytest

from support.nets import (
    input_layer,
    loss_and_gradients,
    loss_net,
    native_layer,
    net_from,
    python_layer,
)

SHAPE = (3, 2, 4, 5)
random = np.random.RandomState(0)


def draw():
    return random.randn(*SHAPE).astype(np.float32), random.randn(*SHAPE).astype(np.float32)


def assert_same(ours, native, names):
    np.testing.assert_allclose(ours[0], native[0], rtol=1e-6)
    for name in names:
        np.testing.assert_allclose(ours[1][name], native[1][name], rtol=1e-5, atol=1e-7)


def test_euclidean_equals_the_native_layer():
    inputs = dict(zip("xt", draw()))
    ours = python_layer("pylayerUtils", "EuclideanLossLayer", "xt", loss_weight=3)
    native = native_layer("EuclideanLoss", "xt", loss_weight=3)
    assert_same(
        loss_and_gradients(loss_net(ours, inputs)),
        loss_and_gradients(loss_net(native, inputs)),
        "xt",
    )


@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("normalization", ["NONE", "FULL", "VALID", "BATCH_SIZE"])
def test_cross_entropy_with_weight_1_equals_the_native_layer(normalization, ignore_label):
    label = random.choice([0, 1, 255 if ignore_label else 1], size=SHAPE).astype(np.float32)
    inputs = {"x": draw()[0], "t": label}
    parameters = {"cls_weight": 1, "normalization": normalization}
    loss_param = f"normalization: {normalization}"
    if ignore_label:
        parameters["ignore_label"] = ignore_label
        loss_param += f" ignore_label: {ignore_label}"
    ours = python_layer(
        "sigmoid_ce_weight_layer",
        "SigmoidCrossEntropyWeightLossLayer",
        "xt",
        json.dumps(parameters),
        loss_weight=2,
    )
    native = native_layer(
        "SigmoidCrossEntropyLoss", "xt", loss_weight=2, loss_param="{ " + loss_param + " }"
    ).replace("type:", "propagate_down: true propagate_down: false type:")
    assert_same(
        loss_and_gradients(loss_net(ours, inputs)),
        loss_and_gradients(loss_net(native, inputs)),
        "x",
    )


REDUCTION = """layer {{ name: "s{0}" type: "Reduction" bottom: "{0}" top: "s{0}"
  reduction_param {{ axis: {1} operation: SUM }} }}
"""
CONVOLUTION = """layer {{ name: "s{0}" type: "Convolution" bottom: "{0}" top: "s{0}"
  param {{ lr_mult: 0 decay_mult: 0 }}
  convolution_param {{ num_output: 1 kernel_size: 1 bias_term: false
    weight_filler {{ type: "constant" value: 1 }} }} }}
"""


@pytest.mark.parametrize(
    "native, parameters",
    [
        (REDUCTION, {"axis": 1, "reduce": "tail"}),
        (REDUCTION, {"axis": 2, "reduce": "tail"}),
        (CONVOLUTION, {"reduce": "axis"}),
    ],
)
def test_channel_sum_equals_its_native_equivalents(native, parameters):
    inputs = dict(zip("xt", draw()))
    ours = python_layer(
        "pylayerUtils", "ChannelSumEuclideanLossLayer", "xt", json.dumps(parameters), loss_weight=1
    )
    text = "force_backward: true\n" + "".join(input_layer(name, SHAPE) for name in "xt")
    text += "".join(native.format(name, parameters.get("axis")) for name in "xt")
    net = net_from(text + native_layer("EuclideanLoss", ["sx", "st"]))
    for name, array in inputs.items():
        net.blobs[name].data[...] = array
    # The native loss divides by the batch size of the sums; a Reduction keeps that axis.
    assert_same(loss_and_gradients(loss_net(ours, inputs)), loss_and_gradients(net), "xt")
