"""The warning where nothing in the first batches of a balanced loss weighs anything."""

import warnings

import caffe
import pytest

from support.layers import LAYER, LAYERS, draw, layer_of, row_with
from support.nets import fed, loss_net

SHAPE = (2, 3, 4, 5)
FIRST_BATCHES = 10
BALANCED = [layer for layer in LAYERS if "balance" in layer.parameters]
each_balanced = pytest.mark.parametrize("layer", BALANCED, ids=lambda layer: layer.name)


def net_of(layer, value, phase=caffe.TRAIN, balance="image"):
    """A net whose masks hold one value, and the name of their bottom."""
    row = row_with(layer, balance=balance)
    inputs = draw(row, SHAPE)
    mask = list(inputs)[-1]
    inputs[mask][...] = value
    return loss_net(layer_of(row), inputs, phase), mask


def messages_of(net, batches):
    """The warnings of so many batches."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(batches):
            net.forward()
            net.backward()
    return [str(warning.message) for warning in caught]


@each_balanced
@pytest.mark.parametrize("value", [0, 1, -1])
def test_batches_without_weight_are_warned_of_once_with_their_counts(layer, value):
    net, mask = net_of(layer, value)
    assert messages_of(net, FIRST_BATCHES - 1) == []
    (message,) = messages_of(net, 20)
    positions = FIRST_BATCHES * net.blobs[mask].count
    positive, negative, ignored = (positions * (value == v) for v in (1, 0, -1))
    assert message.startswith(f"{layer.name}: nothing weighed anything in the first 10 batches")
    assert f"P = {positive} positive (> 0), Q = {negative} negative (= 0)" in message
    assert f"{ignored} ignored (< 0)" in message


@each_balanced
def test_labels_of_minus_1_and_1_are_warned_of(layer):
    net, mask = net_of(layer, 1)
    net.blobs[mask].data[0] = -1
    (message,) = messages_of(net, FIRST_BATCHES)
    half = FIRST_BATCHES * net.blobs[mask].count // 2
    assert f"P = {half} positive (> 0), Q = 0 negative (= 0) and {half} ignored" in message
    assert "map labels of -1 and +1 to 0 and 1" in message


def test_a_target_that_is_its_own_mask_is_counted_by_positions():
    row = row_with(LAYER["WeightedEuclideanLossLayer"], optional=False)
    inputs = draw(row, SHAPE)
    inputs["target"][...] = 0
    (message,) = messages_of(loss_net(layer_of(row), inputs), FIRST_BATCHES)
    assert "P = 0 positive (> 0), Q = 400 negative (= 0) and 0 ignored" in message


@each_balanced
def test_one_batch_that_weighs_something_is_enough(layer):
    net, mask = net_of(layer, 0)
    data = net.blobs[mask].data
    data[0, 0, 0, 0] = 1
    net.forward()
    data[...] = 0
    assert messages_of(net, 20) == []


@each_balanced
def test_neither_the_test_phase_nor_empty_batches_are_warned_of(layer):
    net, _ = net_of(layer, 0, caffe.TEST)
    assert messages_of(net, 20) == []
    row = row_with(layer, balance="image")
    net = loss_net(layer_of(row), draw(row, SHAPE))
    for empty in ((0, 3, 4, 5), (2, 0, 4, 5)):
        fed(net, draw(row, empty))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(20):
                net.forward()


def test_without_balance_only_what_is_ignored_weighs_nothing():
    layer = LAYER["WeightedSigmoidCrossEntropyLossLayer"]
    assert messages_of(net_of(layer, 0, balance="none")[0], 20) == []
    assert len(messages_of(net_of(layer, -1, balance="none")[0], 20)) == 1
