"""The top of a loss: its shape, and how it goes together with the losses of Caffe's own."""

import re

import numpy as np
import pytest

from support.layers import DEFAULTS, LAYER, draw, expected, layer_of, name_of, row_with
from support.nets import fed, loss_and_gradients, loss_net, native_layer
from support.processes import ROOT

SHAPE = (2, 1, 4, 5)


@pytest.mark.one_engine
@pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
def test_the_top_has_one_axis_of_one_element(row):
    net = loss_net(layer_of(row), draw(row, (2, 3, 4, 5)))
    assert net.forward()["loss"].shape == (1,)
    fed(net, draw(row, (3, 3, 2))).forward()
    assert net.blobs["loss"].data.shape == (1,)


@pytest.mark.one_engine
@pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
def test_a_top_with_the_name_of_a_bottom_is_an_error(row):
    """Caffe lets a layer work in place, and gives it one blob as bottom and top."""
    first = next(iter(row.draws))
    layer = layer_of(row).replace('top: "loss"', f'top: "{first}"')
    message = f"{row.layer.name}: the top has the name of the bottom with the {first}"
    with pytest.raises(ValueError, match=message):
        loss_net(layer, draw(row, (2, 3, 4, 5)))


def test_the_documented_reshape_adds_a_loss_to_one_of_caffes_own():
    document = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"(?s)```prototxt\n(.*?)```", document)
    row = row_with(LAYER["WeightedSigmoidCrossEntropyLossLayer"])
    inputs = draw(row, SHAPE)
    net = loss_net(text, inputs)
    plain = native_layer("SigmoidCrossEntropyLoss", list(inputs), loss_weight=1)
    native_loss, native = loss_and_gradients(loss_net(plain, inputs))
    loss, gradients = expected(row, inputs)
    for _ in range(3):
        total, found = loss_and_gradients(net)
        assert net.blobs["loss"].data.shape == ()
        np.testing.assert_allclose(total, loss + 0.1 * native_loss, rtol=1e-6)
        own = native["score"]
        np.testing.assert_allclose(found["score"], gradients["score"] + 0.1 * own, rtol=1e-5)
