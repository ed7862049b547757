"""The top of a loss: its shape, and how it goes together with the losses of Caffe's own."""

import re
import sys

import numpy as np
import pytest

from support.layers import DEFAULTS, LAYER, draw, expected, layer_of, name_of, row_with
from support.nets import fed, loss_and_gradients, loss_net, native_layer
from support.processes import ROOT, run

SHAPE = (2, 1, 4, 5)


def documented_net():
    """The prototxt of docs/reliability.md that adds a loss to one of Caffe's own."""
    (text,) = re.findall(r"(?s)```prototxt\n(.*?)```", (ROOT / "docs/reliability.md").read_text())
    return text


def inputs_of_documented_net():
    random = np.random.RandomState(0)
    return {
        "score": random.randn(*SHAPE).astype(np.float32),
        "label": (random.rand(*SHAPE) < 0.3).astype(np.float32),
    }


@pytest.mark.one_engine
@pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
def test_the_top_has_one_axis_of_one_element(row):
    net = loss_net(layer_of(row), draw(row, (2, 3, 4, 5)))
    assert net.forward()["loss"].shape == (1,)
    fed(net, draw(row, (3, 3, 2))).forward()
    assert net.blobs["loss"].data.shape == (1,)


def test_the_documented_reshape_adds_a_loss_to_one_of_caffes_own():
    inputs = inputs_of_documented_net()
    net = loss_net(documented_net(), inputs)
    plain = native_layer("SigmoidCrossEntropyLoss", list(inputs), loss_weight=1)
    native_loss, native = loss_and_gradients(loss_net(plain, inputs))
    loss, gradients = expected(row_with(LAYER["WeightedSigmoidCrossEntropyLossLayer"]), inputs)
    for _ in range(3):
        total, found = loss_and_gradients(net)
        assert net.blobs["loss"].data.shape == ()
        np.testing.assert_allclose(total, loss + 0.1 * native_loss, rtol=1e-6)
        own = native["score"]
        np.testing.assert_allclose(found["score"], gradients["score"] + 0.1 * own, rtol=1e-5)


WITHOUT_RESHAPE = """
import re
from layers.test_top import documented_net, inputs_of_documented_net
from support.nets import loss_net
text, count = re.subn(r'(?s)layer \\{\\s*name: "scalar".*?\\n\\}\\n', "", documented_net())
assert count == 1
text = text.replace('bottom: "scalar"', 'bottom: "balanced"')
loss_net(text, inputs_of_documented_net())
"""


@pytest.mark.one_engine
def test_without_the_reshape_caffe_ends_the_process():
    done = run([sys.executable, "-c", WITHOUT_RESHAPE])
    assert done.returncode < 0
    assert "eltwise_layer.cpp" in done.stderr and "shape()" in done.stderr
