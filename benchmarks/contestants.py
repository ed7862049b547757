"""What is measured against what: ways to compute the same or the nearest loss.

A contestant is a pair of functions, forward and backward, over inputs that are all the same.
"""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import caffe
import numpy as np

from caffe_losses.blocks import thread_count

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(ROOT, "tests"))

from support.layers import LAYERS  # noqa: E402
from support.nets import loss_net, native_layer, python_layer  # noqa: E402

caffe.init_log(2)  # errors only

Array = np.ndarray
Contestant = NamedTuple("Contestant", [("forward", Callable), ("backward", Callable)])


# A learned factor of 1: Caffe then asks for the gradient of the first input, and of no other.
LEARNED = """layer { name: "learned" type: "Scale" bottom: "x" top: "x"
  scale_param { axis: 0 num_axes: 0 } }
"""


def net_of(layers: str, inputs: Dict[str, Array]) -> caffe.Net:
    """A net of inputs and layers, filled."""
    return loss_net(LEARNED + layers, inputs, force_backward=False)


def caffe_layers(net: caffe.Net) -> Contestant:
    """What comes after the inputs and the learned factor, run by Caffe."""
    first, last = len(net.inputs) + 1, len(net.layers) - 1
    return Contestant(lambda: net._forward(first, last), lambda: net._backward(last, first))


def layer_named(name: str, bottoms: Sequence[str], **parameters: Any) -> str:
    """A layer of the tests' table."""
    (module,) = {layer.module for layer in LAYERS if layer.name == name}
    return python_layer(module, name, bottoms, parameters, loss_weight=1)


def floor(net: caffe.Net) -> Contestant:
    """Streams what forward must read and what backward must read and write; computes nothing."""
    prediction, target, *others = (net.blobs[name].data.reshape(-1) for name in net.inputs)
    out = net.blobs["x"].diff.reshape(-1)

    def forward(start: float, end: float) -> None:
        np.dot(cut(prediction, start, end), cut(target, start, end))
        for other in others:
            np.maximum.reduce(cut(other, start, end))

    def backward(start: float, end: float) -> None:
        np.add(cut(prediction, start, end), cut(target, start, end), out=cut(out, start, end))
        for other in others:
            np.maximum.reduce(cut(other, start, end))

    return Contestant(on_all_threads(forward), on_all_threads(backward))


def cut(array: Array, start: float, end: float) -> Array:
    """The part of an array between two fractions of its length."""
    return array[int(start * array.size) : int(end * array.size)]


POOL = ThreadPoolExecutor(64)


def on_all_threads(work: Callable[[float, float], None]) -> Callable[[], None]:
    """Runs the work on equal parts, one for each thread."""

    def run() -> None:
        threads = thread_count()
        others = [POOL.submit(work, i / threads, (i + 1) / threads) for i in range(1, threads)]
        work(0, 1 / threads)
        for other in others:
            other.result()

    return run


def textbook_cross_entropy(inputs: Dict[str, Array]) -> Contestant:
    """Weighted sigmoid cross-entropy as one writes it down; it overflows for large scores."""
    score, label = inputs.values()
    weight = np.float32(10)

    def forward() -> None:
        probability = 1 / (1 + np.exp(-score))
        np.sum(-weight * label * np.log(probability) - (1 - label) * np.log(1 - probability))

    def backward() -> Array:
        probability = 1 / (1 + np.exp(-score))
        return (1 - label) * probability - weight * label * (1 - probability)

    return Contestant(forward, backward)


def balanced_weights(mask: Array) -> Array:
    """Q/(P+Q) where positive and P/(P+Q) where negative, for each image."""
    positive, negative = mask > 0, mask == 0
    axes = tuple(range(1, mask.ndim))
    positives = positive.sum(axis=axes, keepdims=True, dtype=np.float32)
    negatives = negative.sum(axis=axes, keepdims=True, dtype=np.float32)
    total = positives + negatives
    return negatives / total * positive + positives / total * negative


def textbook_balanced_cross_entropy(inputs: Dict[str, Array]) -> Contestant:
    """Balanced cross-entropy as one writes it down."""
    score, label = inputs.values()

    def forward() -> None:
        weight = balanced_weights(label)
        probability = 1 / (1 + np.exp(-score))
        entropy = -label * np.log(probability) - (1 - label) * np.log(1 - probability)
        np.sum(weight * entropy) / weight.sum()

    def backward() -> Array:
        weight = balanced_weights(label)
        return weight * (1 / (1 + np.exp(-score)) - label) / weight.sum()

    return Contestant(forward, backward)


def textbook_weighted_euclidean(inputs: Dict[str, Array]) -> Contestant:
    """Weighted Euclidean loss as one writes it down."""
    prediction, target, mask = inputs.values()

    def forward() -> None:
        weight = np.repeat(balanced_weights(mask), prediction.shape[1], axis=1)
        np.sum(weight * (prediction - target) ** 2) / 2 / weight.sum()

    def backward() -> Array:
        weight = np.repeat(balanced_weights(mask), prediction.shape[1], axis=1)
        return weight * (prediction - target) / weight.sum()

    return Contestant(forward, backward)


def textbook_euclidean(inputs: Dict[str, Array]) -> Contestant:
    """Euclidean loss as one writes it down."""
    prediction, target = inputs.values()
    batch = len(prediction)
    return Contestant(
        lambda: np.sum((prediction - target) ** 2) / 2 / batch,
        lambda: (prediction - target) / batch,
    )


def textbook_channel_sum(inputs: Dict[str, Array]) -> Contestant:
    """Euclidean loss of channel sums as one writes it down."""
    prediction, target = inputs.values()
    batch = len(prediction)

    def difference() -> Array:
        return prediction.sum(axis=1, keepdims=True) - target.sum(axis=1, keepdims=True)

    return Contestant(
        lambda: np.sum(difference() ** 2) / 2 / batch,
        lambda: np.repeat(difference(), prediction.shape[1], axis=1) / batch,
    )


def textbook_dice(inputs: Dict[str, Array]) -> Contestant:
    """Dice loss of a sigmoid as one writes it down."""
    score, label = inputs.values()

    def forward() -> None:
        probability = 1 / (1 + np.exp(-score))
        1 - (2 * np.sum(probability * label) + 1) / (np.sum(probability) + np.sum(label) + 1)

    def backward() -> Array:
        probability = 1 / (1 + np.exp(-score))
        denominator = np.sum(probability) + np.sum(label) + 1
        dice = (2 * np.sum(probability * label) + 1) / denominator
        return (dice - 2 * label) / denominator * probability * (1 - probability)

    return Contestant(forward, backward)


def textbook_tversky(inputs: Dict[str, Array]) -> Contestant:
    """Tversky loss of a sigmoid as one writes it down."""
    score, label = inputs.values()

    def sums() -> Tuple[Array, Array, Array]:
        probability = 1 / (1 + np.exp(-score))
        overlap = np.sum(probability * label) + 1
        misses = 0.3 * np.sum(probability * (1 - label)) + 0.7 * np.sum((1 - probability) * label)
        return probability, overlap, overlap + misses

    def forward() -> None:
        _, overlap, denominator = sums()
        1 - overlap / denominator

    def backward() -> Array:
        probability, overlap, denominator = sums()
        share = overlap / denominator * 0.3  # alpha and 1 - beta are both 0.3
        return (share - label) / denominator * probability * (1 - probability)

    return Contestant(forward, backward)


def textbook_lovasz_hinge(inputs: Dict[str, Array]) -> Contestant:
    """Lovász hinge of each image as one writes it down; backward uses what forward has sorted."""
    score, label = inputs.values()
    sign = 2 * label - 1
    state: Dict[int, Any] = {}

    def forward() -> None:
        for image in range(len(score)):
            errors = (1 - sign[image] * score[image]).ravel()
            order = np.argsort(-errors)
            positive = label[image].ravel()[order]
            total = positive.sum()
            jaccard = 1 - (total - positive.cumsum()) / (total + (1 - positive).cumsum())
            jaccard[1:] -= jaccard[:-1].copy()
            state[image] = order, jaccard
            np.dot(np.maximum(errors[order], 0), jaccard)

    def backward() -> Array:
        gradient = np.empty_like(score)
        for image, (order, steps) in state.items():
            gradient[image].reshape(-1)[order] = steps
        return -gradient * sign / len(score)

    return Contestant(forward, backward)


def sort_alone(net: caffe.Net) -> Contestant:
    """The sort of an image's errors as 64-bit numbers, which is part of a Lovász loss."""
    images = net.blobs["x"].data
    keys = images.reshape(len(images), -1).astype(np.float64)

    def forward() -> None:
        for image in keys:
            np.sort(image)

    return Contestant(forward, lambda: None)


def torch_cross_entropy(net: caffe.Net) -> Optional[Contestant]:
    """PyTorch's BCEWithLogitsLoss with pos_weight, summed, on as many threads."""
    try:
        import torch
    except ImportError:
        return None
    score, label = (torch.from_numpy(net.blobs[name].data.copy()) for name in "xt")
    score.requires_grad_()
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum", pos_weight=torch.tensor(10.0))
    state: Dict[str, Any] = {}

    def forward() -> None:
        torch.set_num_threads(thread_count())
        state["loss"] = loss_of(score, label)

    def backward() -> None:
        score.grad = None
        state["loss"].backward(retain_graph=True)

    return Contestant(forward, backward)


@functools.lru_cache()
def compiled(name: str) -> Optional[ctypes.CDLL]:
    """The library made of a C file beside this one; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".c")
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, name + ".so")
        # Vector forms of expf and logf come with -ffast-math; it must not reorder 1 + e - 1.
        flags = "-O3 -march=native -fopenmp -ffast-math -fno-associative-math -shared -fPIC".split()
        subprocess.check_call([compiler, *flags, source, "-o", library, "-lm"])
        return ctypes.CDLL(library)


def fused(net: caffe.Net, loss: str, *numbers: float) -> Optional[Contestant]:
    """The two functions of fused.c that compute a loss of the net's inputs and its gradient."""
    library = compiled("fused")
    if library is None:
        return None
    arrays = [net.blobs[name].data for name in net.inputs]
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    kinds = {float: ctypes.c_float, int: ctypes.c_long}
    value, gradient = library[loss], library[loss + "_gradient"]
    value.restype = ctypes.c_double
    value.argtypes = [pointer] * len(arrays) + [kinds[type(number)] for number in numbers]
    gradient.argtypes = [*value.argtypes, pointer]

    def forward() -> float:
        library.omp_set_num_threads(thread_count())
        return value(*arrays, *numbers)

    def backward() -> None:
        library.omp_set_num_threads(thread_count())
        gradient(*arrays, *numbers, net.blobs["x"].diff)

    layer = caffe_layers(net)
    layer.forward()
    np.testing.assert_allclose(forward(), float(net.blobs["loss"].data), rtol=1e-5)
    layer.backward()
    expected = net.blobs["x"].diff.copy()
    backward()
    np.testing.assert_allclose(net.blobs["x"].diff, expected, rtol=1e-4, atol=1e-30)
    return Contestant(forward, backward)


def fused_cross_entropy(net: caffe.Net) -> Optional[Contestant]:
    """Weighted sigmoid cross-entropy, compiled."""
    return fused(net, "cross_entropy", 10.0, net.blobs["x"].count)


def fused_euclidean(net: caffe.Net) -> Optional[Contestant]:
    """Euclidean loss, compiled."""
    return fused(net, "squared_error", 1 / len(net.blobs["x"].data), net.blobs["x"].count)


def fused_weighted_euclidean(net: caffe.Net) -> Optional[Contestant]:
    """Weighted Euclidean loss of a mask of 0 and 1, compiled."""
    images, channels, *positions = net.blobs["x"].data.shape
    return fused(net, "weighted_squared_error", images, channels, int(np.prod(positions)))


FIXED_SUM = """layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}"
  param {{ lr_mult: 0 }} convolution_param {{ num_output: 1 kernel_size: 1 bias_term: false
    weight_filler {{ type: "constant" value: 1 }} }} }}
"""
SUMS_AND_EUCLIDEAN = (
    FIXED_SUM.format("sx", "x")
    + FIXED_SUM.format("st", "t")
    + native_layer("EuclideanLoss", ["sx", "st"], loss_weight=1)
)

Loss = NamedTuple(
    "Loss",
    [
        ("layer", str),
        ("native", str),
        ("textbook", Callable),
        ("draw", Callable),
        ("others", Dict[str, Callable]),
    ],
)


def draw_labels(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """Scores, and labels of which a tenth are positive."""
    score = 3 * random.randn(*shape).astype(np.float32)
    return {"x": score, "t": (random.rand(*shape) < 0.1).astype(np.float32)}


def draw_pair(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """A prediction and a target."""
    return {name: random.randn(*shape).astype(np.float32) for name in "xt"}


def draw_masked(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """A prediction and a target with a mask of which a tenth is positive."""
    mask = random.rand(shape[0], 1, *shape[2:]) < 0.1
    return {**draw_pair(random, shape), "m": mask.astype(np.float32)}


NATIVE_CROSS_ENTROPY = native_layer("SigmoidCrossEntropyLoss", "xt", loss_weight=1)
NATIVE_EUCLIDEAN = native_layer("EuclideanLoss", "xt", loss_weight=1)
LOSSES = {
    "weighted sigmoid cross-entropy": Loss(
        layer_named("SigmoidCrossEntropyWeightLossLayer", "xt", cls_weight=10),
        NATIVE_CROSS_ENTROPY,
        textbook_cross_entropy,
        draw_labels,
        {"PyTorch": torch_cross_entropy, "fused C": fused_cross_entropy},
    ),
    "balanced cross-entropy": Loss(
        layer_named("WeightedSigmoidCrossEntropyLossLayer", "xt"),
        NATIVE_CROSS_ENTROPY,
        textbook_balanced_cross_entropy,
        draw_labels,
        {},
    ),
    "weighted Euclidean": Loss(
        layer_named("WeightedEuclideanLossLayer", "xtm"),
        NATIVE_EUCLIDEAN,
        textbook_weighted_euclidean,
        draw_masked,
        {"fused C": fused_weighted_euclidean},
    ),
    "Euclidean": Loss(
        layer_named("EuclideanLossLayer", "xt"),
        NATIVE_EUCLIDEAN,
        textbook_euclidean,
        draw_pair,
        {"fused C": fused_euclidean},
    ),
    "Dice": Loss(
        layer_named("DiceLossLayer", "xt", activation="sigmoid"),
        NATIVE_CROSS_ENTROPY,
        textbook_dice,
        draw_labels,
        {},
    ),
    "Tversky": Loss(
        layer_named("TverskyLossLayer", "xt", activation="sigmoid", alpha=0.3, beta=0.7),
        NATIVE_CROSS_ENTROPY,
        textbook_tversky,
        draw_labels,
        {},
    ),
    "Lovász hinge": Loss(
        layer_named("LovaszHingeLossLayer", "xt"),
        NATIVE_CROSS_ENTROPY,
        textbook_lovasz_hinge,
        draw_labels,
        {"sort alone": sort_alone},
    ),
    "channel sum": Loss(
        layer_named("ChannelSumEuclideanLossLayer", "xt"),
        SUMS_AND_EUCLIDEAN,
        textbook_channel_sum,
        draw_pair,
        {},
    ),
}  # type: Dict[str, Loss]


def contestants(loss: Loss, inputs: Dict[str, Array]) -> Dict[str, Contestant]:
    """All ways to compute a loss of these inputs, this project's first and the floor last."""
    pair = {name: inputs[name] for name in "xt"}
    net = net_of(loss.layer, inputs)
    entries = {
        "layer": caffe_layers(net),
        "native": caffe_layers(net_of(loss.native, pair)),
        "textbook": loss.textbook(inputs),
    }
    for name, other in loss.others.items():
        contestant = other(net)
        if contestant is not None:
            entries[name] = contestant
    entries["floor"] = floor(net)
    return entries
