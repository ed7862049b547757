"""The gradient of every loss, with every parameter, is the derivative of the loss it prints."""

import json

import pytest

from caffe_losses.gradient_check import assert_gradients
from support.draws import sparse
from support.layers import ROWS, draw, layer_of, name_of
from support.nets import loss_net

SHAPE = (2, 3, 3, 4)


def rows_with_each_choice():
    """So many rows that each draw and each value of a parameter is in one of them.

    In all rows the gradient is compared with the formula's, by test_losses.py.
    """
    seen = set()
    for row in ROWS:
        choices = {(key, draw.name) for key, draw in row.draws.items()}
        choices |= {(key, json.dumps(value)) for key, value in row.parameters.items()}
        choices = {(row.layer.name, *choice) for choice in choices}
        if not choices <= seen:
            seen |= choices
            yield row


@pytest.mark.parametrize("row", rows_with_each_choice(), ids=name_of)
def test_gradient_is_the_derivative_of_the_loss(row):
    inputs = draw(row, SHAPE)
    labels = [name for name in inputs if name not in row.differentiable]
    net = loss_net(layer_of(row, loss_weight=0.5), inputs)
    # A target that is its own mask has no derivative where it is zero.
    only = ["prediction"] if row.draws.get("target") is sparse else []
    assert_gradients(net, labels=labels, only=only, samples=10)
