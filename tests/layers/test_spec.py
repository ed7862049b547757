"""Layers in a net spec."""

import inspect
import pydoc

import caffe
import numpy as np
import pytest

import pylayerUtils
import sigmoid_ce_weight_layer
from caffe_losses.net_spec import spec_of
from caffe_losses.parameters import Number, OrNone
from pylayerUtils import ChannelSumEuclideanLossLayer, WeightedEuclideanLossLayer
from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer
from support.nets import fed, net_from

pytestmark = pytest.mark.one_engine


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


@pytest.mark.parametrize(
    "cls_weight, written",
    [
        ([np.float32(2), np.float64(3)], "[2.0, 3.0]"),
        (np.array([2, 3]), "[2, 3]"),
        (np.int64(2), "2"),
    ],
)
def test_numpy_numbers_and_arrays_are_parameters(net, cls_weight, written):
    net.loss = SigmoidCrossEntropyWeightLossLayer.spec(net.fcrop, net.flux, cls_weight=cls_weight)
    layer = net.to_proto().layer[-1]
    assert layer.python_param.param_str == '{"cls_weight": ' + written + "}"


def test_none_leaves_a_parameter_to_its_default(net):
    net.loss = SigmoidCrossEntropyWeightLossLayer.spec(
        net.fcrop, net.flux, cls_weight=2, ignore_label=None, normalization=None, loss_weight=None
    )
    layer = net.to_proto().layer[-1]
    assert layer.python_param.param_str == '{"cls_weight": 2}'
    assert list(layer.loss_weight) == [1]


def test_a_none_that_is_a_value_is_written():
    class SomeLayer:
        class loss:
            parameters = {"alpha": OrNone(Number(default=0.25))}

    top = spec_of(SomeLayer, [], 1, {"alpha": None})
    assert top.fn.params["param_str"] == '{"alpha": null}'


def test_layer_fields_pass_through(net):
    net.loss = ChannelSumEuclideanLossLayer.spec(
        net.fcrop,
        net.flux,
        name="sums",
        include={"phase": caffe.TRAIN},
        propagate_down=np.array([True, False]),
        exclude=None,
        axis=2,
        loss_weight=np.float32(0.5),
    )
    layer = net.to_proto().layer[-1]
    assert layer.name == "sums"
    assert list(layer.propagate_down) == [True, False]
    assert list(layer.loss_weight) == [0.5]
    assert layer.include[0].phase == caffe.TRAIN


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"balanse": "batch"}, "unknown parameter 'balanse'; did you mean \"balance\""),
        ({"balance": "bach"}, 'did you mean "batch"'),
        ({"balance": "IMAGE"}, 'did you mean "image"'),
        ({"balance": 1}, "is not a word"),
        ({"loss_wieght": 2}, "unknown parameter 'loss_wieght'; did you mean \"loss_weight\""),
        ({"loss_weight": "2"}, "\"loss_weight\": '2' is not a number"),
        ({"ntop": 2}, "unknown parameter 'ntop' .*layer fields: loss_weight, name, phase"),
    ],
)
def test_wrong_parameters_are_rejected_there_and_then(net, fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        WeightedEuclideanLossLayer.spec(net.fcrop, net.flux, **fields)


@pytest.mark.parametrize(
    "field, advice",
    [
        ("loss_param", "give normalization and ignore_label as keywords"),
        ("transform_param", "it belongs to the data layer"),
        ("python_param", "give the parameters as keywords"),
        ("convolution_param", "leave it out"),
        ("param", "leave it out"),
        ("bottom", "positional arguments"),
        ("top", "net.loss ="),
        ("type", "leave it out"),
    ],
)
def test_fields_that_a_python_loss_never_sees_are_refused(net, field, advice):
    with pytest.raises(ValueError, match=f"{field} has no effect on a Python loss: .*{advice}"):
        WeightedEuclideanLossLayer.spec(net.fcrop, net.flux, balance="batch", **{field: {}})


def test_a_missing_required_parameter_is_rejected_there_and_then(net):
    with pytest.raises(ValueError, match='"cls_weight" is required'):
        SigmoidCrossEntropyWeightLossLayer.spec(net.fcrop, net.flux)


@pytest.mark.parametrize("count", [1, 4])
def test_a_wrong_number_of_bottoms_is_rejected_there_and_then(net, count):
    with pytest.raises(ValueError, match=rf"{count} bottoms; expected prediction, target, mask"):
        WeightedEuclideanLossLayer.spec(*[net.fcrop] * count)


@pytest.mark.parametrize("module", [pylayerUtils, sigmoid_ce_weight_layer])
def test_help_is_short(module):
    layers = [getattr(module, name) for name in module.__all__]
    documented = sum(len(inspect.getdoc(layer).splitlines()) for layer in layers)
    help_text = pydoc.plain(pydoc.render_doc(module))
    assert "balance" in help_text or "cls_weight" in help_text
    assert len(help_text.splitlines()) < documented + 30 * len(layers) + 60
