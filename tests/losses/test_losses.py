"""Every loss, with every parameter, in real Caffe: against the formula, and as Caffe drives it."""

import caffe
import numpy as np
import pytest

from caffe_losses import batch_counts
from support.layers import LOSSES, Row, draw, expected, layer_of, name_of
from support.nets import fed, input_layer, loss_and_gradients, loss_net, net_from

every_loss = pytest.mark.parametrize("row", LOSSES, ids=name_of)
FIRST_OF_EACH_LAYER = list({row.layer: row for row in reversed(LOSSES)}.values())
each_layer = pytest.mark.parametrize("row", FIRST_OF_EACH_LAYER, ids=lambda row: row.layer)

SHAPE = (2, 3, 4, 5)


def assert_matches(row: Row, net: caffe.Net, inputs: dict, loss_weight: float = 1) -> None:
    """The net's loss and gradients are the oracle's, the gradients times loss_weight."""
    loss, gradients = loss_and_gradients(net)
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=2e-6)
    for name, gradient in gradients.items():
        scale = np.abs(loss_weight * expected_gradients[name]).max()
        np.testing.assert_allclose(
            gradient, loss_weight * expected_gradients[name], rtol=1e-5, atol=1e-6 * scale
        )


@every_loss
def test_loss_and_gradients_are_those_of_the_formula(row):
    inputs = draw(row, SHAPE)
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


@pytest.mark.parametrize("shape", [(1, 3, 6), (3, 3, 2, 2, 3), (5, 3, 1, 7), (1, 3, 40, 50)])
@every_loss
def test_any_number_of_axes_and_images(row, shape):
    inputs = draw(row, shape)
    if row.parameters.get("axis") == 2 and len(shape) < 3:
        pytest.skip("no axis 2")
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


@pytest.mark.parametrize("shape", [(3, 3, 300, 300), (1, 3, 250000), (70000, 3, 1), (2, 3, 30011)])
@each_layer
def test_blobs_of_many_blocks(row, shape):
    inputs = draw(row, shape)
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


@each_layer
def test_very_many_channels(row):
    inputs = draw(row, (2, 100003, 3))
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


@each_layer
def test_gradient_is_multiplied_by_loss_weight_and_the_loss_is_not(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row, loss_weight=-2.5), inputs)
    assert_matches(row, net, inputs, loss_weight=-2.5)


# A learned factor, 1 at the start, makes Caffe ask for the gradient of what comes out of it.
LEARNED = """layer {{ name: "learned" type: "Scale" bottom: "{0}" top: "{0}"
  scale_param {{ axis: 0 num_axes: 0 }} }}
"""


@each_layer
def test_gradients_go_only_where_propagate_down_asks_for_them(row):
    inputs = draw(row, SHAPE)
    for wanted in inputs:
        layers = LEARNED.format(wanted) + layer_of(row)
        net = loss_net(layers, inputs, force_backward=False)
        _, gradients = loss_and_gradients(net)
        scale = np.abs(expected(row, inputs)[1][wanted]).max()
        np.testing.assert_allclose(
            gradients.pop(wanted), expected(row, inputs)[1][wanted], rtol=1e-5, atol=1e-6 * scale
        )
        assert all(np.isnan(gradient).all() for gradient in gradients.values())


@each_layer
def test_masks_and_labels_get_zero_diffs_under_force_backward(row):
    inputs = draw(row, SHAPE)
    _, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    for name in set(inputs) - set(row.differentiable):
        assert not gradients[name].any()


@each_layer
def test_test_phase_gives_the_same_loss(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs, caffe.TEST)
    np.testing.assert_allclose(net.forward()["loss"], expected(row, inputs)[0], rtol=2e-6)


@each_layer
def test_test_phase_computes_no_gradient(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs, caffe.TEST)
    for name in inputs:
        net.blobs[name].diff[...] = 7
    net.forward()
    for name in inputs:
        assert (net.blobs[name].diff == 7).all()


@each_layer
def test_shapes_may_change_between_iterations(row):
    net = loss_net(layer_of(row), draw(row, SHAPE))
    for seed, shape in enumerate(
        [(2, 3, 4, 5), (1, 3, 7, 2), (4, 3, 4, 5), (2, 3, 9), (3, 3, 2, 2)]
    ):
        inputs = draw(row, shape, seed)
        assert_matches(row, fed(net, inputs), inputs)


@each_layer
@pytest.mark.parametrize("empty", [(0, 3, 4, 5), (2, 3, 0, 5)])
def test_empty_batch_has_loss_zero(row, empty):
    inputs = draw(row, empty)
    net = loss_net(layer_of(row), inputs)
    assert loss_and_gradients(net)[0] == 0
    inputs = draw(row, SHAPE)
    assert_matches(row, fed(net, inputs), inputs)
    assert loss_and_gradients(fed(net, draw(row, empty)))[0] == 0


@each_layer
def test_a_step_with_several_images_is_the_mean_of_steps_with_one(row):
    if "cls_weight" in row.parameters:
        pytest.skip("sums by default, as published")
    inputs = draw(row, (4, 3, 5, 6))
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    net = loss_net(layer_of(row), {name: array[:1] for name, array in inputs.items()})
    losses = []
    for image in range(4):
        one = {name: array[image : image + 1] for name, array in inputs.items()}
        loss_of_one, gradients_of_one = loss_and_gradients(fed(net, one))
        losses.append(loss_of_one)
        for name in row.differentiable:
            np.testing.assert_allclose(
                gradients[name][image], gradients_of_one[name][0] / 4, rtol=1e-5, atol=1e-9
            )
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)


@each_layer
def test_an_empty_batch_exchanges_as_many_counts_with_other_ranks(row, monkeypatch):
    exchanged = []
    monkeypatch.setattr(batch_counts, "_reduction", lambda own: exchanged.append(own.size) or own)
    net = loss_net(layer_of(row), draw(row, SHAPE))
    net.forward()
    fed(net, draw(row, (0, 3, 4, 5))).forward()
    assert len(exchanged) == 2
    assert exchanged[0] == exchanged[1]


def test_several_losses_in_one_net_do_not_disturb_each_other():
    rows = FIRST_OF_EACH_LAYER
    text, inputs = "force_backward: true\n", {}
    for number, row in enumerate(rows):
        own = {f"{name}{number}": array for name, array in draw(row, SHAPE, number).items()}
        text += "".join(input_layer(name, array.shape) for name, array in own.items())
        layer = layer_of(row).replace('"loss"', f'"loss{number}"')
        for name in row.draws:
            layer = layer.replace(f'"{name}"', f'"{name}{number}"')
        text += layer
        inputs.update(own)
    net = fed(net_from(text), inputs)
    net.forward()
    net.backward()
    for number, row in enumerate(rows):
        own = {name: inputs[f"{name}{number}"] for name in row.draws}
        loss, gradients = expected(row, own)
        np.testing.assert_allclose(net.blobs[f"loss{number}"].data[0], loss, rtol=2e-6)
        for name in row.differentiable:
            diff = net.blobs[f"{name}{number}"].diff
            np.testing.assert_allclose(diff, gradients[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [-1, 0, 1])
@each_layer
def test_an_image_without_both_classes_gives_zero_and_not_nan(row, value):
    if "Weighted" not in row.layer:
        pytest.skip("not balanced")
    inputs = draw(row, SHAPE)
    inputs[list(inputs)[-1]][:] = value
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("balance", ["image", "batch", "none"])
def test_ignored_pixels_get_no_gradient(balance):
    row = next(r for r in LOSSES if r.parameters.get("balance") == balance and "mask" in r.draws)
    inputs = draw(row, SHAPE)
    _, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    ignored = np.broadcast_to(inputs["mask"] < 0, SHAPE)
    assert ignored.any()
    assert not gradients["prediction"][ignored].any()
    assert gradients["prediction"][~ignored].all()
