"""The gradient of every loss, with every parameter, is the derivative of the loss it prints."""

import pytest

from caffe_losses.gradient_check import assert_gradients
from support.draws import sparse
from support.layers import ROWS, draw, layer_of, name_of
from support.nets import loss_net

SHAPE = (2, 3, 3, 4)


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_gradient_is_the_derivative_of_the_loss(row):
    inputs = draw(row, SHAPE)
    labels = [name for name in inputs if name not in row.differentiable]
    net = loss_net(layer_of(row, loss_weight=0.5), inputs)
    # A target that is its own mask has no derivative where it is zero.
    only = ["prediction"] if row.draws.get("target") is sparse else []
    assert_gradients(net, labels=labels, only=only, samples=20)
