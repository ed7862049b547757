"""Errors of the layers in real Caffe: each says what was found, what was expected and the fix."""

import json

import numpy as np
import pytest

from support import oracle
from support.nets import fed, input_layer, loss_and_gradients, loss_net, net_from, python_layer

MODULES = {
    "EuclideanLossLayer": "pylayerUtils",
    "ChannelSumEuclideanLossLayer": "pylayerUtils",
    "WeightedEuclideanLossLayer": "pylayerUtils",
    "WeightedSigmoidCrossEntropyLossLayer": "pylayerUtils",
    "SigmoidCrossEntropyWeightLossLayer": "sigmoid_ce_weight_layer",
}
BOTTOMS = {
    "EuclideanLossLayer": ("prediction", "target"),
    "ChannelSumEuclideanLossLayer": ("prediction", "target"),
    "WeightedEuclideanLossLayer": ("prediction", "target", "mask"),
    "WeightedSigmoidCrossEntropyLossLayer": ("score", "label"),
    "SigmoidCrossEntropyWeightLossLayer": ("score", "label", "weight"),
}
ALL_BOTTOMS = [(layer, name) for layer, names in BOTTOMS.items() for name in names]
UNDIVIDED = {  # the parameters with which no normalization makes the loss smaller
    layer: {"normalization": "NONE"} if len(names) == 3 or "label" in names else {}
    for layer, names in BOTTOMS.items()
}
CROSS_ENTROPIES = [layer for layer, names in BOTTOMS.items() if "label" in names]


def given(layer, **parameters):
    """A param_str with what the layer requires."""
    if layer == "SigmoidCrossEntropyWeightLossLayer":
        parameters.setdefault("cls_weight", 2)
    return json.dumps(parameters)


def net_of(layer, inputs, param_str=None, **options):
    """A net of inputs and this layer, with loss_weight 1 unless given."""
    text = given(layer) if param_str is None else param_str
    options = {"loss_weight": 1, **options}
    return loss_net(python_layer(MODULES[layer], layer, list(inputs), text, **options), inputs)


def valid_inputs(layer, shape=(2, 3, 4)):
    """Bottoms that every layer accepts, with both classes in each image."""
    random = np.random.RandomState(0)
    inputs = {name: random.randn(*shape).astype(np.float32) for name in BOTTOMS[layer]}
    for name in ("mask", "label", "weight"):
        if name in inputs:
            inputs[name] = np.arange(np.prod(shape)).reshape(shape).astype(np.float32) % 2
    return inputs


def message_of(error, function, *arguments):
    """The message of the error that a call raises."""
    with pytest.raises(error) as raised:
        function(*arguments)
    assert raised.type is error
    return str(raised.value)


def construct(layer, shapes, param_str=None, tops="loss"):
    """Constructs a net in which bottoms of these shapes go into the layer."""
    names = [f"bottom{i}" for i in range(len(shapes))]
    text = given(layer) if param_str is None else param_str
    loss = python_layer(MODULES[layer], layer, names, text, loss_weight=1)
    loss = loss.replace('top: "loss"', " ".join(f'top: "{top}"' for top in tops.split()))
    net_from("".join(map(input_layer, names, shapes)) + loss)


# Bottoms, tops and parameters


@pytest.mark.parametrize(
    "layer, count, expected",
    [
        ("EuclideanLossLayer", 1, "prediction, target"),
        ("EuclideanLossLayer", 3, "prediction, target"),
        ("ChannelSumEuclideanLossLayer", 3, "prediction, target"),
        ("WeightedEuclideanLossLayer", 1, "prediction, target, mask (optional)"),
        ("WeightedEuclideanLossLayer", 4, "prediction, target, mask (optional)"),
        ("WeightedSigmoidCrossEntropyLossLayer", 3, "score, label"),
        ("SigmoidCrossEntropyWeightLossLayer", 0, "score, label, weight (optional)"),
        ("SigmoidCrossEntropyWeightLossLayer", 4, "score, label, weight (optional)"),
    ],
)
def test_a_wrong_number_of_bottoms_is_an_error(layer, count, expected):
    message = message_of(ValueError, construct, layer, [(2, 3)] * count)
    assert message == f"{layer}: {count} bottoms; expected {expected}"


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("tops", ["", "loss other"])
def test_a_wrong_number_of_tops_is_an_error(layer, tops):
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, None, tops)
    assert message == f"{layer}: {len(tops.split())} tops; expected 1, the loss"


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize("param_str", ['{"balanec": "image"}', "{", "__import__('os').abort()"])
def test_a_wrong_param_str_is_an_error_that_names_the_layer(layer, param_str):
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, param_str)
    assert message.startswith(f"{layer}: ")
    assert "balanec" in message or repr(param_str) in message


def test_the_required_cls_weight_is_named():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, "")
    assert message.startswith(f'{layer}: the parameter "cls_weight" is required')


def test_cls_weight_must_fit_the_channels():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, '{"cls_weight": [1, 2]}')
    for part in (layer, '"cls_weight" has 2 numbers', "(2, 3) 3 channels", "one for each channel"):
        assert part in message


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_that_the_prediction_lacks_is_an_error(axis):
    layer = "ChannelSumEuclideanLossLayer"
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, given(layer, axis=axis))
    for part in (layer, f'"axis" is {axis}', "(2, 3)", "expected an axis that it has"):
        assert part in message


# Shapes


@pytest.mark.parametrize(
    "layer", [layer for layer in MODULES if layer != "ChannelSumEuclideanLossLayer"]
)
def test_axes_of_size_one_may_differ(layer):
    construct(layer, [(2, 1, 4, 5), (2, 4, 5)])
    construct(layer, [(2, 3), (2, 3, 1, 1)])


@pytest.mark.parametrize("layer", MODULES)
@pytest.mark.parametrize(
    "first, second",
    [
        ((2, 3), (3, 2)),
        ((2, 3), (6,)),
        ((2, 3, 4), (2, 4, 3)),
        ((2, 3, 4), (2, 12)),
        ((1, 3), (3,)),
        ((2, 3), (1, 2, 3)),
        ((2, 3, 4), (2, 1, 4)),
        ((2, 3), (2, 4)),
        ((), (2,)),
        ((2, 3), (0, 3)),
        ((1, 2, 3, 4, 5), (1, 2, 3, 5, 4)),
    ],
)
def test_shapes_that_differ_are_an_error_even_where_counts_are_equal(layer, first, second):
    message = message_of(ValueError, construct, layer, [first, second])
    reference, name = BOTTOMS[layer][:2]
    assert message.startswith(
        f"{layer}: the {name} has shape {second}, the {reference} {first}; expected the same"
    )


@pytest.mark.parametrize(
    "layer", ["WeightedEuclideanLossLayer", "SigmoidCrossEntropyWeightLossLayer"]
)
@pytest.mark.parametrize(
    "mask",
    [
        (1, 1, 4, 5),  # one image's mask for all
        (4, 5),
        (1,),
        (2,),
        (2, 1, 1, 1),
        (2, 3, 1, 1),  # channels alone
        (2, 3),
        (2, 1, 4, 1),  # rows alone
        (2, 1, 1, 5),
        (2, 4, 5, 1),
        (2, 1, 5, 4),
        (2, 2, 4, 5),
        (2, 20),
        (2, 60),
        (6, 4, 5),
        (1, 2, 1, 4, 5),
    ],
)
def test_a_mask_that_would_broadcast_otherwise_is_an_error(layer, mask):
    prediction = (2, 3, 4, 5)
    message = message_of(ValueError, construct, layer, [prediction, prediction, mask])
    reference, _, name = BOTTOMS[layer]
    assert message == (
        f"{layer}: the {name} has shape {mask}; expected (2, 1, 4, 5) or (2, 4, 5) (one value for "
        f"all channels) or {prediction}, to go with the {reference} of shape {prediction}"
    )


@pytest.mark.parametrize("layer", MODULES)
def test_shapes_that_stop_fitting_later_are_an_error(layer):
    inputs = valid_inputs(layer)
    net = net_of(layer, inputs)
    net.forward()
    net.blobs[BOTTOMS[layer][1]].reshape(2, 4, 3)
    assert "(2, 4, 3)" in message_of(ValueError, net.forward)
    assert np.isfinite(fed(net, inputs).forward()["loss"])


# Labels


@pytest.mark.parametrize("layer", CROSS_ENTROPIES)
def test_masks_of_0_and_255_are_no_labels(layer):
    inputs = valid_inputs(layer)
    inputs["label"] *= 255
    message = message_of(ValueError, net_of(layer, inputs).forward)
    assert (
        f"{layer}: the label is wrong in 12 of 24 elements, the first 255 at (0, 0, 1)" in message
    )
    assert "divide a mask of 0 and 255 by 255" in message
    assert '"ignore_label": 255' in message or "negative label" in message


def test_voids_without_ignore_label_are_no_labels():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    inputs = valid_inputs(layer)
    inputs["label"][1, 2, 1:3] = -1
    message = message_of(ValueError, net_of(layer, inputs).forward)
    assert "wrong in 2 of 24 elements, the first -1 at (1, 2, 1); expected 0 to 1" in message
    assert 'set "ignore_label": -1' in message


def test_a_void_other_than_ignore_label_is_named():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    inputs = valid_inputs(layer)
    inputs["label"][0, 0] = 255
    inputs["label"][1, 1, 3] = 254
    net = net_of(layer, inputs, given(layer, ignore_label=255))
    message = message_of(ValueError, net.forward)
    assert "wrong in 1 of 24 elements, the first 254 at (1, 1, 3)" in message


@pytest.mark.parametrize("layer", CROSS_ENTROPIES)
def test_a_label_that_is_nan_is_an_error(layer):
    inputs = valid_inputs(layer)
    inputs["label"][1, 2, 3] = np.nan
    message = message_of(ValueError, net_of(layer, inputs).forward)
    assert f"{layer}: the label is wrong in 1 of 24 elements, the first nan at (1, 2, 3)" in message


@pytest.mark.parametrize("layer", CROSS_ENTROPIES)
@pytest.mark.parametrize("check_labels, fails", [("always", [1, 2]), ("first", [1]), ("never", [])])
def test_check_labels_chooses_the_batches(layer, check_labels, fails):
    """Wrong labels come in batch 1 of one net and batch 2 of another."""
    right = valid_inputs(layer)
    wrong = {**right, "label": right["label"] * 255}
    for batch in (1, 2):
        net = net_of(layer, right, given(layer, check_labels=check_labels))
        for _ in range(batch - 1):
            net.forward()
        fed(net, wrong)
        if batch in fails:
            message_of(ValueError, net.forward)
        else:
            assert np.isfinite(net.forward()["loss"])


def test_the_first_batch_that_is_not_empty_is_the_first_to_check():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    inputs = valid_inputs(layer)
    empty = {name: array[:0] for name, array in inputs.items()}
    net = net_of(layer, empty, given(layer, check_labels="first"))
    net.forward()
    message_of(ValueError, fed(net, {**inputs, "label": inputs["label"] * 255}).forward)


# Values that are not finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer, name", ALL_BOTTOMS)
def test_a_value_that_is_not_finite_is_named(layer, name, value):
    inputs = valid_inputs(layer)
    param_str = given(layer, check_labels="never") if name == "label" else None
    net = net_of(layer, inputs, param_str)
    for _ in range(3):
        net.forward()
    net.blobs[name].data[1, 1, 2:] = value
    assert message_of(FloatingPointError, net.forward) == (
        f"{layer}: the {name} is not finite in 2 of 24 elements, the first {value:g} at (1, 1, 2) "
        f"(iteration 4 of this layer)"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", ["WeightedEuclideanLossLayer", *CROSS_ENTROPIES])
def test_no_weight_of_zero_hides_a_value_that_is_not_finite(layer, value):
    """Neither an ignored position nor an image without positives nor a zero weight."""
    inputs = valid_inputs(layer)
    chooser = BOTTOMS[layer][-1]
    param_str = given(layer)
    for nothing in [0] if chooser == "weight" else [0, -1]:
        inputs[chooser][1] = nothing
        net = net_of(layer, inputs, param_str)
        assert np.isfinite(net.forward()["loss"])
        net.blobs[BOTTOMS[layer][0]].data[1, 0, 0] = value
        assert "(1, 0, 0) (iteration 2" in message_of(FloatingPointError, net.forward)


@pytest.mark.parametrize("layer, name", ALL_BOTTOMS)
def test_training_goes_on_after_an_error_that_was_caught(layer, name, tmp_path):
    """A training script can catch the error and take a snapshot."""
    inputs = valid_inputs(layer)
    net = net_of(layer, inputs)
    before = loss_and_gradients(net)
    net.blobs[name].data[0, 0, 0] = np.nan
    message_of(ValueError if name == "label" else FloatingPointError, net.forward)
    net.save(str(tmp_path / "snapshot.caffemodel"))
    assert (tmp_path / "snapshot.caffemodel").stat().st_size > 0
    after = loss_and_gradients(fed(net, inputs))
    np.testing.assert_equal(after, before)


@pytest.mark.parametrize("layer", MODULES)
def test_a_loss_that_overflows_is_an_error(layer):
    inputs = valid_inputs(layer)
    inputs[BOTTOMS[layer][0]][...] = 3e38
    net = net_of(layer, inputs, given(layer, **UNDIVIDED[layer]))
    message = message_of(FloatingPointError, net.forward)
    assert message.startswith(f"{layer}: the loss overflows float32, though all bottoms are finite")
    assert "(iteration 1 of this layer)" in message


@pytest.mark.parametrize("layer", MODULES)
def test_a_gradient_that_overflows_is_an_error(layer):
    inputs = valid_inputs(layer)
    inputs[BOTTOMS[layer][0]] *= 1e4
    net = net_of(layer, inputs, loss_weight=3e38)
    net.forward()
    message = message_of(FloatingPointError, net._backward, len(net.layers) - 1, 0)
    for part in (layer, "the loss_weight 3e+38", "overflows float32", "iteration 1 of this layer"):
        assert part in message


def test_a_gradient_overflows_though_the_terms_of_the_loss_cancel():
    layer = "SigmoidCrossEntropyWeightLossLayer"
    inputs = valid_inputs(layer)
    inputs["score"][...] = inputs["label"][...] = 0
    inputs["weight"] = np.where(np.arange(24).reshape(2, 3, 4) % 2, 1e37, -1e37)
    net = net_of(layer, inputs, loss_weight=1000)
    assert net.forward()["loss"] == 0
    message = message_of(FloatingPointError, net._backward, len(net.layers) - 1, 0)
    assert "gradient overflows float32" in message and "the loss_weight 1000" in message


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("layer", CROSS_ENTROPIES)
def test_scores_of_any_size_give_a_finite_loss_and_gradient(layer, size):
    inputs = valid_inputs(layer)
    inputs["score"] = np.sign(inputs["score"]) * np.float32(size)
    loss, gradients = loss_and_gradients(net_of(layer, inputs))
    expected = {
        "WeightedSigmoidCrossEntropyLossLayer": oracle.weighted_sigmoid_cross_entropy,
        "SigmoidCrossEntropyWeightLossLayer": lambda *bottoms: oracle.sigmoid_cross_entropy_weight(
            *bottoms, cls_weight=2
        ),
    }[layer](*inputs.values())
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradients["score"], expected[1][0], rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("size", [1e4, 1e15, 1e30])
@pytest.mark.parametrize("layer", [layer for layer in MODULES if "Euclidean" in layer])
def test_predictions_of_any_size_give_a_finite_gradient_or_an_error(layer, size):
    inputs = valid_inputs(layer)
    inputs["prediction"] = np.sign(inputs["prediction"]) * np.float32(size)
    net = net_of(layer, inputs)
    if size == 1e30:  # its square is more than float32 holds
        assert "overflows" in message_of(FloatingPointError, net.forward)
    else:
        loss, gradients = loss_and_gradients(net)
        assert np.isfinite([loss, *gradients["prediction"].ravel()]).all()
