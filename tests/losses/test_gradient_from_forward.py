"""Forward leaves the gradient in the diffs; backward is right whatever happens in between."""

import caffe
import numpy as np
import pytest

from caffe_losses.layer import LossLayer
from support.layers import DEFAULTS, LAYER, draw, expected, layer_of, name_of, row_with
from support.nets import fed, input_layer, learned, loss_net, net_from

SHAPE = (2, 3, 4, 5)
LARGER = (3, 5, 29, 13)

each_row = pytest.mark.parametrize("row", DEFAULTS, ids=name_of)


def backward(net):
    net._backward(len(net.layers) - 1, 0)


def assert_gradients(net, row, inputs, loss_weight=1):
    """All gradients are those of the formula, times loss_weight."""
    _, gradients = expected(row, inputs)
    for name, gradient in gradients.items():
        scale = np.abs(loss_weight * gradient).max()
        np.testing.assert_allclose(
            net.blobs[name].diff, loss_weight * gradient, rtol=1e-5, atol=1e-6 * scale
        )


@pytest.fixture
def net_with(request):
    """A function that makes the net of a row, after a first iteration."""

    def make(row, shape=SHAPE):
        inputs = draw(row, shape)
        net = loss_net(layer_of(row), inputs)
        net.forward()
        backward(net)
        return net, inputs

    return make


@pytest.mark.parametrize("shape", (SHAPE, LARGER), ids=str)
@each_row
def test_what_forward_has_left_is_not_computed_again(row, shape, net_with, monkeypatch):
    net, inputs = net_with(row, shape)
    monkeypatch.delattr(LossLayer, "write_gradients")
    net.forward()
    backward(net)
    assert_gradients(net, row, inputs)


@each_row
def test_where_the_first_bottom_alone_is_learned_no_iteration_computes_twice(row, monkeypatch):
    inputs = draw(row, SHAPE)
    first = next(iter(inputs))
    net = loss_net(learned(first) + layer_of(row), inputs, force_backward=False)
    monkeypatch.delattr(LossLayer, "write_gradients")
    for _ in range(2):
        fed(net, inputs).forward()
        backward(net)
        gradient = expected(row, inputs)[1][first]
        scale = np.abs(gradient).max()
        np.testing.assert_allclose(net.blobs[first].diff, gradient, rtol=1e-5, atol=1e-6 * scale)


TAMPERINGS = {
    "zeros": lambda diff: 0 * diff,
    "half": lambda diff: diff / 2,
    "negative": lambda diff: -diff,
    "in another order": lambda diff: np.roll(diff, 1),
    "backwards": lambda diff: diff.ravel()[::-1].reshape(diff.shape),
    "one element": lambda diff: np.where(np.arange(diff.size).reshape(diff.shape) == 37, 1, diff),
    "nan": lambda diff: np.nan * diff,
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
@each_row
def test_a_diff_that_was_overwritten_after_forward_is_made_again(row, tampering, net_with):
    net, inputs = net_with(row)
    net.forward()
    for name in inputs:
        net.blobs[name].diff[...] = TAMPERINGS[tampering](net.blobs[name].diff)
    backward(net)
    assert_gradients(net, row, inputs)


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_a_large_diff_that_was_overwritten_after_forward_is_made_again(tampering):
    """Halving takes the same number from the bits of every element, here 2^20 times."""
    row = row_with(LAYER["EuclideanLossLayer"])
    net = loss_net(layer_of(row), draw(row, (2**10, 1, 2**5, 2**5)))
    net.forward()
    backward(net)
    correct = net.blobs["prediction"].diff.copy()
    net.forward()
    diff = net.blobs["prediction"].diff
    diff[...] = TAMPERINGS[tampering](diff)
    backward(net)
    np.testing.assert_array_equal(net.blobs["prediction"].diff, correct)


@each_row
def test_iterations_that_leave_the_diffs_alone_give_the_gradients_of_the_formula(row):
    net = loss_net(layer_of(row), draw(row, SHAPE))
    for seed in range(4):
        inputs = draw(row, SHAPE, seed)
        fed(net, inputs).forward()
        backward(net)
        assert_gradients(net, row, inputs)


@each_row
def test_a_second_backward_gives_the_same_gradients(row, net_with):
    net, inputs = net_with(row)
    net.forward()
    for _ in range(3):
        for name in inputs:
            net.blobs[name].diff[...] = 7
        backward(net)
        assert_gradients(net, row, inputs)


@pytest.mark.parametrize("loss_weight", [0, -3, 0.5, 1e-30])
@each_row
def test_the_diff_of_the_top_counts_as_it_is_in_backward(row, loss_weight, net_with):
    net, inputs = net_with(row)
    net.forward()
    net.blobs["loss"].diff[...] = loss_weight
    backward(net)
    assert_gradients(net, row, inputs, loss_weight)


@each_row
def test_a_changed_weight_of_the_loss_holds_for_the_next_iterations(row, net_with):
    net, inputs = net_with(row)
    for loss_weight in (2, 2, 0, 0, 5):
        net.blobs["loss"].diff[...] = loss_weight
        net.forward()
        backward(net)
        assert_gradients(net, row, inputs, loss_weight)


@each_row
def test_the_gradient_after_a_forward_that_failed_is_that_of_the_next_one(row, net_with):
    net, inputs = net_with(row)
    first = next(iter(inputs))
    net.blobs[first].data[0, 0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError):
        net.forward()
    inputs = draw(row, SHAPE, seed=1)
    fed(net, inputs).forward()
    backward(net)
    assert_gradients(net, row, inputs)


@each_row
def test_new_data_after_forward_does_not_change_the_gradient_of_that_forward(row, net_with):
    """As where a layer works in place on what the loss has already read."""
    net, inputs = net_with(row)
    net.forward()
    for name in inputs:
        net.blobs[name].data[...] = 0.5
    backward(net)
    assert_gradients(net, row, inputs)


IN_PLACE = 'layer { name: "relu" type: "ReLU" bottom: "score" top: "score" }'


def test_a_layer_that_rewrites_the_diff_in_place_leaves_later_gradients_right():
    """ReLU works on the loss's bottom and, in backward, on its diff."""
    row = next(row for row in DEFAULTS if list(row.draws)[0] == "score")
    inputs = draw(row, SHAPE)
    net = loss_net(IN_PLACE + layer_of(row), inputs)
    rectified = {**inputs, "score": np.maximum(inputs["score"], 0)}
    gradient = (inputs["score"] > 0) * expected(row, rectified)[1]["score"]
    for _ in range(3):
        fed(net, inputs).forward()
        for _ in range(2):
            backward(net)
            np.testing.assert_allclose(net.blobs["score"].diff, gradient, rtol=1e-5, atol=1e-6)


def test_propagate_down_that_changes_is_obeyed():
    """Two losses that share a layer class and alternate between one and both gradients."""
    row = row_with(LAYER["EuclideanLossLayer"])
    inputs = draw(row, SHAPE)
    text = "force_backward: true\n"
    text += "".join(input_layer(name, array.shape) for name, array in inputs.items())
    net = fed(net_from(text + layer_of(row)), inputs)
    layer = net.layers[len(net.layers) - 1]
    bottom = [net.blobs[name] for name in inputs]
    top = [net.blobs["loss"]]
    for flags in ([True, False], [True, True], [False, True], [False, False], [True, False]):
        net.forward()
        for name in inputs:
            net.blobs[name].diff[...] = 7
        layer.backward(top, flags, bottom)
        for name, flag in zip(inputs, flags):
            if flag:
                np.testing.assert_allclose(
                    net.blobs[name].diff, expected(row, inputs)[1][name], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("shape", (SHAPE, LARGER), ids=str)
@each_row
def test_a_loss_that_is_only_watched_adds_nothing_to_the_gradient_of_another(row, shape):
    """With propagate_down false: Caffe's Split adds up the diffs of both losses."""
    inputs = draw(row, shape)
    first = next(iter(inputs))
    watched = layer_of(row).replace("top:", "propagate_down: false " * len(inputs) + "top:")
    trained = (
        f'layer {{ name: "trained" type: "EuclideanLoss" top: "trained" '
        f'bottom: "{first}" bottom: "other" }}'
    )
    inputs["other"] = np.random.RandomState(1).randn(*shape).astype(np.float32)
    net = loss_net(learned(first) + watched + trained, inputs, force_backward=False)
    gradient = (inputs[first] - inputs["other"]) / shape[0]
    for _ in range(3):
        fed(net, inputs).forward()
        backward(net)
        np.testing.assert_allclose(net.blobs[first].diff, gradient, rtol=1e-5, atol=1e-7)


def test_a_diff_that_was_written_after_forward_stays_where_no_gradient_is_wanted():
    row = row_with(LAYER["EuclideanLossLayer"])
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs)
    bottom = [net.blobs[name] for name in inputs]
    net.forward()
    for blob in bottom:
        blob.diff[...] = 7
    net.layers[len(net.layers) - 1].backward([net.blobs["loss"]], [False, False], bottom)
    for blob in bottom:
        np.testing.assert_array_equal(blob.diff, np.full(SHAPE, 7))


@each_row
def test_backward_before_any_forward_says_that_a_forward_must_come_first(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs)
    with pytest.raises(RuntimeError, match=f"{row.layer}: backward without a loss.*forward first"):
        backward(net)


@each_row
def test_backward_after_a_forward_that_failed_says_so(row, net_with):
    net, inputs = net_with(row)
    net.blobs[next(iter(inputs))].data[0, 0, 0, 0] = np.inf
    with pytest.raises(FloatingPointError):
        net.forward()
    with pytest.raises(RuntimeError, match=f"{row.layer}: backward without a loss"):
        backward(net)


@each_row
def test_backward_after_new_shapes_without_a_forward_says_so(row, net_with):
    net, _ = net_with(row)
    fed(net, draw(row, (3, 3, 2, 2)))
    with pytest.raises(RuntimeError, match=f"{row.layer}: backward without a loss"):
        backward(net)


@each_row
def test_backward_after_a_bottom_alone_was_reshaped_says_so(row, net_with):
    net, inputs = net_with(row)
    net.forward()
    net.blobs[next(iter(inputs))].reshape(4, 3, 4, 5)
    with pytest.raises(RuntimeError, match=f"{row.layer}: backward without a loss"):
        backward(net)


@each_row
def test_backward_reads_the_memory_that_a_bottom_has_now(row, net_with):
    """A blob that grows gets new memory, and the old one is another's, or the process's no more."""
    net, inputs = net_with(row, LARGER)
    net.forward()
    inputs = {name: array[::-1].copy() for name, array in inputs.items()}
    for name, array in inputs.items():
        net.blobs[name].reshape(10 * array.size)
        net.blobs[name].data[...] = 0  # allocates
        net.blobs[name].reshape(*array.shape)
        net.blobs[name].data[...] = array
    backward(net)
    assert_gradients(net, row, inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@each_row
def test_a_diff_of_the_top_that_is_not_finite_is_named_by_backward_alone(row, value, net_with):
    """Another layer may have left it there before the forward, whose loss is what it always is."""
    net, _ = net_with(row)
    loss = float(net.forward()["loss"])
    net.blobs["loss"].diff[...] = value
    assert float(net.forward()["loss"]) == loss
    with pytest.raises(FloatingPointError, match=f"{row.layer}: the diff of the top is {value:g}"):
        backward(net)


def test_the_test_phase_can_go_backward_too():
    row = DEFAULTS[0]
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs, caffe.TEST)
    for _ in range(2):
        net.forward()
        backward(net)
        assert_gradients(net, row, inputs)
