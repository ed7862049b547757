"""The net, a small LeNet with ten sigmoid outputs; and the same with data layer and loss."""

from typing import Any

import caffe
from caffe import layers as L
from caffe import params as P

from sigmoid_ce_weight_layer import SigmoidCrossEntropyWeightLossLayer


def train_net(source: str, cls_weight: float) -> Any:
    """The net that is trained; `source` names the HDF5 file, `cls_weight` is the loss's parameter.

    The published layer sums the loss over the batch (normalization "NONE"), which ties the learning
    rate to the batch size; "BATCH_SIZE" gives the mean of the images.
    """
    net = caffe.NetSpec()
    net.data, net.label = L.HDF5Data(source=source, batch_size=100, ntop=2)
    net.score = scores_of(net)
    net.loss = SigmoidCrossEntropyWeightLossLayer.spec(
        net.score, net.label, cls_weight=cls_weight, normalization="BATCH_SIZE"
    )
    return net


def deploy_net(batch_size: int) -> Any:
    """The trained net on images of one's own."""
    net = caffe.NetSpec()
    net.data = L.Input(shape={"dim": [batch_size, 1, 28, 28]})
    net.score = scores_of(net)
    net.probability = L.Sigmoid(net.score)
    return net


def scores_of(net: Any) -> Any:
    """One score for each class."""
    net.conv1 = weighted(L.Convolution, net.data, num_output=8, kernel_size=5)
    net.pool1 = L.Pooling(net.conv1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    net.relu1 = L.ReLU(net.pool1, in_place=True)
    net.conv2 = weighted(L.Convolution, net.relu1, num_output=16, kernel_size=5)
    net.pool2 = L.Pooling(net.conv2, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    net.relu2 = L.ReLU(net.pool2, in_place=True)
    net.hidden = weighted(L.InnerProduct, net.relu2, num_output=64)
    net.relu3 = L.ReLU(net.hidden, in_place=True)
    return weighted(L.InnerProduct, net.relu3, num_output=10)


def weighted(layer: Any, bottom: Any, **shape: int) -> Any:
    """A layer with weights, which start out so that activations keep their scale."""
    return layer(bottom, weight_filler={"type": "msra"}, **shape)
