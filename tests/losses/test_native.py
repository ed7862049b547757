"""The layers against Caffe's own that compute the same, loss and gradient, in one process.

The channel sum has its native equivalents in prototxt/, and examples/test_prototxt.py compares it.
"""

import numpy as np
import pytest

from support.nets import loss_and_gradients, loss_net, native_layer, python_layer

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
        parameters,
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


def test_huber_with_a_delta_that_nothing_reaches_is_the_native_euclidean_loss():
    inputs = dict(zip("xt", draw()))
    parameters = {"delta": 1000, "normalization": "BATCH_SIZE"}
    ours = python_layer("caffe_losses.layers", "HuberLossLayer", "xt", parameters, loss_weight=3)
    native = native_layer("EuclideanLoss", "xt", loss_weight=3)
    assert_same(
        loss_and_gradients(loss_net(ours, inputs)),
        loss_and_gradients(loss_net(native, inputs)),
        "xt",
    )


@pytest.mark.parametrize("normalization", ["NONE", "FULL", "VALID", "BATCH_SIZE"])
def test_focal_loss_with_gamma_0_and_no_alpha_is_the_native_cross_entropy(normalization):
    inputs = {"x": draw()[0], "t": random.choice([0, 1, -1], size=SHAPE).astype(np.float32)}
    parameters = {"gamma": 0, "alpha": None, "normalization": normalization}
    ours = python_layer(
        "caffe_losses.layers", "SigmoidFocalLossLayer", "xt", parameters, loss_weight=2
    )
    native = native_layer(
        "SigmoidCrossEntropyLoss",
        "xt",
        loss_weight=2,
        loss_param=f"{{ normalization: {normalization} ignore_label: -1 }}",
    ).replace("type:", "propagate_down: true propagate_down: false type:")
    assert_same(
        loss_and_gradients(loss_net(ours, inputs)),
        loss_and_gradients(loss_net(native, inputs)),
        "x",
    )
