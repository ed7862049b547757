"""Layers in a net spec."""

import caffe
import numpy as np
import pytest

from pylayerUtils import ChannelSumEuclideanLossLayer, WeightedEuclideanLossLayer
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer
from support.nets import fed, net_from


@pytest.fixture
def net():
    net = caffe.NetSpec()
    net.fcrop, net.flux, net.dilmask = (
        caffe.layers.Input(shape={"dim": [2, channels, 6, 7]}) for channels in (2, 2, 1)
    )
    return net


def test_spec_names_module_layer_parameters_and_loss_weight(net):
    net.loss = WeightedEuclideanLossLayer.spec(net.fcrop, net.flux, net.dilmask, balance="batch")
    layer = net.to_proto().layer[-1]
    assert layer.python_param.module == "pylayerUtils"
    assert layer.python_param.layer == "WeightedEuclideanLossLayer"
    assert layer.python_param.param_str == '{"balance": "batch"}'
    assert list(layer.loss_weight) == [1]
    assert list(layer.bottom) == ["fcrop", "flux", "dilmask"]


def test_a_net_built_with_spec_computes(net):
    net.loss = WeightedEuclideanLossLayer.spec(net.fcrop, net.flux, loss_weight=0.5)
    ones = np.ones((2, 2, 6, 7), dtype=np.float32)
    built = fed(net_from(str(net.to_proto())), {"fcrop": ones * 3, "flux": ones})
    built.blobs["flux"].data[:, :, 0] = 0
    assert built.forward()["loss"] == pytest.approx((0.5 * 4 + 0.5 * 9) / 2 * 2 / 2)


def test_numpy_numbers_and_lists_are_parameters(net):
    weights = [np.float32(2), np.float64(3)]
    net.loss = SigmoidCrossEntropyWeightLossLayer.spec(net.fcrop, net.flux, cls_weight=weights)
    assert net.to_proto().layer[-1].python_param.param_str == '{"cls_weight": [2.0, 3.0]}'


def test_layer_fields_pass_through(net):
    net.loss = ChannelSumEuclideanLossLayer.spec(
        net.fcrop, net.flux, name="sums", include={"phase": caffe.TRAIN}, axis=2
    )
    layer = net.to_proto().layer[-1]
    assert layer.name == "sums"
    assert layer.include[0].phase == caffe.TRAIN


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"balanse": "batch"}, "unknown parameter 'balanse'; did you mean \"balance\""),
        ({"balance": "bach"}, 'did you mean "batch"'),
        ({"balance": 1}, "is not a word"),
    ],
)
def test_wrong_parameters_are_rejected_there_and_then(net, fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WeightedEuclideanLossLayer.spec(net.fcrop, net.flux, **fields)


def test_a_missing_required_parameter_is_rejected_there_and_then(net):
    with pytest.raises(ValueError, match='"cls_weight" is required'):
        SigmoidCrossEntropyWeightLossLayer.spec(net.fcrop, net.flux)


@pytest.mark.parametrize("count", [1, 4])
def test_a_wrong_number_of_bottoms_is_rejected_there_and_then(net, count):
    with pytest.raises(ValueError, match=rf"{count} bottoms; expected prediction, target, mask"):
        WeightedEuclideanLossLayer.spec(*[net.fcrop] * count)
