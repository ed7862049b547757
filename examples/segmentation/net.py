"""The net, a small encoder with a skip connection; and the same with data layer and losses.

Every loss that is compared is here: LOSSES has for each name the layers that are added up.
"""

from typing import Any, Callable, Sequence

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P

from caffe_losses.layers import (
    DiceLossLayer,
    SoftmaxFocalLossLayer,
    WeightedSoftmaxWithLossLayer,
)
from examples.segmentation.data import LABELS, SCENE_SIZE

AddLoss = Callable[[Any, Any, np.ndarray], Any]


def plain(score: Any, label: Any, weights: np.ndarray) -> Any:
    return L.SoftmaxWithLoss(score, label)


def class_weights(score: Any, label: Any, weights: np.ndarray) -> Any:
    return WeightedSoftmaxWithLossLayer.spec(score, label, class_weight=rounded(weights))


def root_weights(score: Any, label: Any, weights: np.ndarray) -> Any:
    return WeightedSoftmaxWithLossLayer.spec(score, label, class_weight=rounded(np.sqrt(weights)))


def focal(score: Any, label: Any, weights: np.ndarray) -> Any:
    return SoftmaxFocalLossLayer.spec(score, label)


def dice(score: Any, label: Any, weights: np.ndarray) -> Any:
    return DiceLossLayer.spec(score, label, activation="softmax")


LOSSES = {
    "plain": [plain],
    "class_weights": [class_weights],
    "root_weights": [root_weights],
    "focal": [focal],
    "dice": [dice],
    "plain_dice": [plain, dice],
    "sum": [class_weights, focal, dice],
}


def rounded(weights: np.ndarray) -> Sequence[float]:
    """To four digits, to be read in the prototxt."""
    return [float(f"{weight:.4g}") for weight in weights]


def train_net(source: str, loss: str, weights: np.ndarray) -> Any:
    """The net that is trained; `source` names the HDF5 file, `weights` are those of the classes."""
    net = caffe.NetSpec()
    net.data, net.label = L.HDF5Data(source=source, batch_size=10, ntop=2)
    net.score = scores_of(net)
    for add_loss in LOSSES[loss]:
        net[f"{add_loss.__name__}_loss"] = add_loss(net.score, net.label, weights)
    return net


def deploy_net(batch_size: int) -> Any:
    """The trained net on scenes of one's own."""
    net = caffe.NetSpec()
    net.data = L.Input(shape={"dim": [batch_size, 1, SCENE_SIZE, SCENE_SIZE]})
    net.score = scores_of(net)
    return net


def scores_of(net: Any) -> Any:
    """A score for each label at each pixel, from features at full and at quarter size."""
    net.relu1 = convolution(net, "conv1", net.data, num_output=8, kernel_size=3, pad=1)
    net.pool1 = L.Pooling(net.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    net.relu2 = convolution(net, "conv2", net.pool1, num_output=16, kernel_size=3, pad=1)
    net.pool2 = L.Pooling(net.relu2, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    net.relu3 = convolution(net, "conv3", net.pool2, num_output=32, kernel_size=5, pad=2)
    net.relu4 = convolution(net, "conv4", net.relu3, num_output=8, kernel_size=1)
    net.enlarged = enlarged(net.relu4, channels=8, factor=4)
    net.both = L.Concat(net.relu1, net.enlarged)
    net.relu5 = convolution(net, "conv5", net.both, num_output=16, kernel_size=1)
    return L.Convolution(
        net.relu5, num_output=len(LABELS), kernel_size=1, weight_filler={"type": "msra"}
    )


def convolution(net: Any, name: str, bottom: Any, **shape: int) -> Any:
    """A convolution, with a ReLU after it, whose weights let activations keep their scale."""
    net[name] = L.Convolution(bottom, weight_filler={"type": "msra"}, **shape)
    return L.ReLU(net[name], in_place=True)


def enlarged(bottom: Any, channels: int, factor: int) -> Any:
    """Bilinear interpolation, which is not trained."""
    return L.Deconvolution(
        bottom,
        convolution_param={
            "num_output": channels,
            "group": channels,
            "kernel_size": 2 * factor,
            "stride": factor,
            "pad": factor // 2,
            "bias_term": False,
            "weight_filler": {"type": "bilinear"},
        },
        param={"lr_mult": 0, "decay_mult": 0},
    )
