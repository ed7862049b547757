"""The layers against Caffe's own that compute the same, loss and gradient, in one process.

The channel sum has its native equivalents in prototxt/, and examples/test_prototxt.py compares it.
"""

import caffe
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


SCORES = (3, 5, 4, 6)


def draw_classes(axis, ignore_label=None):
    """Scores, and class numbers along an axis; some are ignored."""
    classes = SCORES[axis]
    numbers = [*range(classes), *([] if ignore_label is None else [ignore_label] * classes)]
    shape = SCORES[:axis] + (1,) + SCORES[axis + 1 :]
    score = (4 * random.randn(*SCORES)).astype(np.float32)
    return {"x": score, "t": random.choice(numbers, size=shape).astype(np.float32)}


def native_softmax(kind, inputs, **options):
    """Caffe's own layer: it has no gradient to labels."""
    layer = native_layer(kind, "xt", loss_weight=2, **options)
    layer = layer.replace("type:", "propagate_down: true propagate_down: false type:")
    return loss_and_gradients(loss_net(layer, inputs))


def assert_same_softmax(ours, native):
    """Caffe's own gradient, p - 1, lacks digits where p is near 1."""
    np.testing.assert_allclose(ours[0], native[0], rtol=1e-6)
    scale = np.abs(native[1]["x"]).max()
    np.testing.assert_allclose(ours[1]["x"], native[1]["x"], rtol=1e-5, atol=1e-6 * scale)


def our_softmax(inputs, layer="WeightedSoftmaxWithLossLayer", **parameters):
    text = python_layer("caffe_losses.layers", layer, "xt", parameters, loss_weight=2)
    return loss_and_gradients(loss_net(text, inputs))


@pytest.mark.parametrize("ignore_label", [None, 255, 2])
@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("normalization", ["NONE", "FULL", "VALID", "BATCH_SIZE"])
def test_softmax_without_weights_equals_the_native_layer(normalization, axis, ignore_label):
    inputs = draw_classes(axis % 4, ignore_label)
    parameters = {"normalization": normalization, "axis": axis}
    loss_param = f"normalization: {normalization}"
    if ignore_label is not None:
        parameters["ignore_label"] = ignore_label
        loss_param += f" ignore_label: {ignore_label}"
    native = native_softmax(
        "SoftmaxWithLoss",
        inputs,
        loss_param="{ " + loss_param + " }",
        softmax_param=f"{{ axis: {axis} }}",
    )
    assert_same_softmax(our_softmax(inputs, **parameters), native)
    focal = our_softmax(inputs, "SoftmaxFocalLossLayer", gamma=0, **parameters)
    assert_same_softmax(focal, native)


@pytest.mark.parametrize("ignore_label", [None, 255])
@pytest.mark.parametrize("normalization", ["NONE", "FULL", "VALID", "BATCH_SIZE"])
def test_class_weights_equal_an_infogain_matrix_with_the_weights_on_its_diagonal(
    normalization, ignore_label, tmp_path
):
    inputs = draw_classes(1, ignore_label)
    weights = [0.5, 1, 10, 0, 2]
    blob = caffe.io.array_to_blobproto(np.diag(weights)[np.newaxis, np.newaxis])
    (tmp_path / "H.binaryproto").write_bytes(blob.SerializeToString())
    parameters = {"normalization": normalization, "class_weight": weights}
    loss_param = f"normalization: {normalization}"
    if ignore_label is not None:
        parameters["ignore_label"] = ignore_label
        loss_param += f" ignore_label: {ignore_label}"
    native = native_softmax(
        "InfogainLoss",
        inputs,
        loss_param="{ " + loss_param + " }",
        infogain_loss_param=f'{{ source: "{tmp_path / "H.binaryproto"}" }}',
    )
    assert_same_softmax(our_softmax(inputs, **parameters), native)
