"""What is measured against what: ways to compute the same or the nearest loss.

A contestant is a function that does one forward and one backward, over the same inputs as others.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import caffe
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests"), os.path.join(ROOT, "benchmarks")]

from caffe_losses.loops.parts import parts  # noqa: E402
from caffe_losses.loops.threads import thread_count  # noqa: E402
from support.layers import LAYER  # noqa: E402
from support.nets import learned, loss_net, native_layer, python_layer  # noqa: E402

caffe.init_log(2)  # errors only

Array = np.ndarray
Contestant = Callable[[], None]
Shape = Tuple[int, ...]

SHAPES: Sequence[Shape] = (
    (1, 1, 8, 8),
    (1, 2, 400, 400),
    (10, 1, 512, 512),
    (10, 2, 512, 512),
    (32, 21, 128, 128),
)

ATTRIBUTES = 40
CLASS_SHAPES: Sequence[Shape] = ((4, 21, 256, 256), (256, 1000))


def net_of(layers: str, inputs: Dict[str, Array]) -> caffe.Net:
    """A net of inputs and layers, filled; Caffe asks for the gradient of the first input alone."""
    return loss_net(learned("x") + layers, inputs, force_backward=False)


def caffe_layers(net: caffe.Net) -> Contestant:
    """What comes after the inputs and the learned factor, run by Caffe."""
    first, last = len(net.inputs) + 1, len(net.layers) - 1

    def step() -> None:
        net._forward(first, last)
        net._backward(last, first)

    return step


def layer_named(name: str, bottoms: Sequence[str], **parameters: Any) -> str:
    """A layer of the tests' table."""
    return python_layer(LAYER[name].module, name, bottoms, parameters, loss_weight=1)


def floor(net: caffe.Net) -> Contestant:
    """One pass that reads all inputs and writes the gradient to the first; computes nothing."""
    prediction, target, *others = (net.blobs[name].data.reshape(-1) for name in net.inputs)
    out = net.blobs["x"].diff.reshape(-1)

    def work(start: float, end: float) -> None:
        if target.size == out.size:
            np.add(cut(prediction, start, end), cut(target, start, end), out=cut(out, start, end))
        else:
            np.negative(cut(prediction, start, end), out=cut(out, start, end))
            np.maximum.reduce(cut(target, start, end))
        for other in others:
            np.maximum.reduce(cut(other, start, end))

    return on_threads(work, out.size)


def cut(array: Array, start: float, end: float) -> Array:
    """The part of an array between two fractions of its length."""
    return array[int(start * array.size) : int(end * array.size)]


POOL = ThreadPoolExecutor(64)


def on_threads(work: Callable[[float, float], None], count: int) -> Contestant:
    """Runs the work on equal parts, one for each thread; on one where the layers take one as well.

    To wake another takes longer than to read a small blob.
    """

    def run() -> None:
        threads = min(thread_count(), len(parts(count)))
        others = [POOL.submit(work, i / threads, (i + 1) / threads) for i in range(1, threads)]
        work(0, 1 / threads)
        for other in others:
            other.result()

    return run


def in_turn(*steps: Callable[[], Any]) -> Contestant:
    """The steps of a contestant, one after the other."""

    def run() -> None:
        for step in steps:
            step()

    return run


def textbook_cross_entropy(inputs: Dict[str, Array]) -> Contestant:
    """Weighted sigmoid cross-entropy as one writes it down; it overflows for large scores."""
    score, label = inputs.values()
    weight = np.float32(10)

    def step() -> None:
        probability = 1 / (1 + np.exp(-score))
        np.sum(-weight * label * np.log(probability) - (1 - label) * np.log(1 - probability))
        (1 - label) * probability - weight * label * (1 - probability)

    return step


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

    def step() -> None:
        weight = balanced_weights(label)
        probability = 1 / (1 + np.exp(-score))
        entropy = -label * np.log(probability) - (1 - label) * np.log(1 - probability)
        np.sum(weight * entropy) / weight.sum()
        weight * (probability - label) / weight.sum()

    return step


def textbook_weighted_euclidean(inputs: Dict[str, Array]) -> Contestant:
    """Weighted Euclidean loss as one writes it down."""
    prediction, target, mask = inputs.values()

    def step() -> None:
        weight = np.repeat(balanced_weights(mask), prediction.shape[1], axis=1)
        np.sum(weight * (prediction - target) ** 2) / 2 / weight.sum()
        weight * (prediction - target) / weight.sum()

    return step


def textbook_euclidean(inputs: Dict[str, Array]) -> Contestant:
    """Euclidean loss as one writes it down."""
    prediction, target = inputs.values()
    batch = len(prediction)

    def step() -> None:
        np.sum((prediction - target) ** 2) / 2 / batch
        (prediction - target) / batch

    return step


def textbook_channel_sum(inputs: Dict[str, Array]) -> Contestant:
    """Euclidean loss of channel sums as one writes it down."""
    prediction, target = inputs.values()
    batch = len(prediction)

    def step() -> None:
        difference = prediction.sum(axis=1, keepdims=True) - target.sum(axis=1, keepdims=True)
        np.sum(difference**2) / 2 / batch
        np.repeat(difference, prediction.shape[1], axis=1) / batch

    return step


def textbook_huber(inputs: Dict[str, Array]) -> Contestant:
    """Huber loss with delta 1, the same as smooth L1 with sigma 1, as one writes it down."""
    prediction, target = inputs.values()
    batch = len(prediction)

    def step() -> None:
        d = prediction - target
        np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5).sum() / batch
        np.clip(d, -1, 1) / batch

    return step


def textbook_focal(inputs: Dict[str, Array]) -> Contestant:
    """Sigmoid focal loss as one writes it down; it is NaN for large scores."""
    score, label = inputs.values()

    def step() -> None:
        sign = 2 * label - 1
        p = 1 / (1 + np.exp(-sign * score))
        alpha = 0.75 - label / 2
        np.mean(-alpha * (1 - p) ** 2 * np.log(p))
        alpha * sign * (1 - p) ** 2 * (2 * p * np.log(p) - (1 - p)) / label.size

    return step


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

    return in_turn(forward, backward)


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

    return in_turn(forward, backward)


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

    return in_turn(forward, backward)


def sort_alone(net: caffe.Net) -> Contestant:
    """The sort of an image's errors as 64-bit numbers, which is part of a Lovász loss."""
    images = net.blobs["x"].data
    keys = images.reshape(len(images), -1).astype(np.float64)

    def forward() -> None:
        for image in keys:
            np.sort(image)

    return in_turn(forward, lambda: None)


def beside(layer: str) -> Callable[[caffe.Net], Contestant]:
    """Another layer of this project's over the same inputs, to compare with in turns."""
    return lambda net: caffe_layers(net_of(layer, {name: net.blobs[name].data for name in "xt"}))


def torch_cross_entropy(net: caffe.Net) -> Optional[Contestant]:
    """PyTorch's BCEWithLogitsLoss with pos_weight, summed, on as many threads."""
    try:
        import torch
    except ImportError:
        return None
    score, label = (torch.from_numpy(net.blobs[name].data.copy()) for name in "xt")
    score.requires_grad_()
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum", pos_weight=torch.tensor(10.0))

    def step() -> None:
        torch.set_num_threads(thread_count())
        score.grad = None
        loss_of(score, label).backward()

    return step


FIXED_SUM = """layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}"
  param {{ lr_mult: 0 }} convolution_param {{ num_output: 1 kernel_size: 1 bias_term: false
    weight_filler {{ type: "constant" value: 1 }} }} }}
"""
SUMS_AND_EUCLIDEAN = (
    FIXED_SUM.format("sx", "x")
    + FIXED_SUM.format("st", "t")
    + native_layer("EuclideanLoss", ["sx", "st"], loss_weight=1)
)


def textbook_softmax(inputs: Dict[str, Array]) -> Contestant:
    """Weighted softmax cross-entropy as one writes it down; it overflows for large scores."""
    score, label = inputs.values()
    number = label.astype(np.intp).reshape(len(score), 1, -1)
    one_hot = np.arange(score.shape[1]).reshape(1, -1, 1) == number
    one_hot = one_hot.reshape(score.shape)

    def step() -> None:
        exponentials = np.exp(score)
        probability = exponentials / exponentials.sum(axis=1, keepdims=True)
        -np.log(probability[one_hot]).mean()
        (probability - one_hot) / label.size

    return step


def torch_softmax(net: caffe.Net) -> Optional[Contestant]:
    """PyTorch's cross_entropy with class weights, on as many threads."""
    try:
        import torch
    except ImportError:
        return None
    score = torch.from_numpy(net.blobs["x"].data.copy())
    label = torch.from_numpy(net.blobs["t"].data.astype(np.int64))[:, 0]
    weight = torch.ones(score.shape[1])
    score.requires_grad_()

    def step() -> None:
        torch.set_num_threads(thread_count())
        score.grad = None
        torch.nn.functional.cross_entropy(score, label, weight).backward()

    return step


Loss = NamedTuple(
    "Loss",
    [
        ("layer", str),
        ("native", Optional[str]),  # Caffe's layer for the same or the nearest
        ("textbook", Optional[Callable]),
        ("draw", Callable),
        ("others", Dict[str, Callable]),
        ("shapes", Sequence[Shape]),
    ],
)


def draw_labels(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """Scores, and labels of which a tenth are positive."""
    score = 3 * random.randn(*shape).astype(np.float32)
    return {"x": score, "t": (random.rand(*shape) < 0.1).astype(np.float32)}


def draw_classes(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """Scores, and class numbers of which most are 0, the background."""
    label = random.randint(0, shape[1], size=shape[:1] + (1,) + shape[2:])
    label[random.rand(*label.shape) < 0.7] = 0
    return {"x": 3 * random.randn(*shape).astype(np.float32), "t": label.astype(np.float32)}


def draw_pair(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """A prediction and a target."""
    return {name: random.randn(*shape).astype(np.float32) for name in "xt"}


def draw_masked(random: np.random.RandomState, shape: Tuple[int, ...]) -> Dict[str, Array]:
    """A prediction and a target with a mask of which a tenth is positive."""
    mask = random.rand(shape[0], 1, *shape[2:]) < 0.1
    return {**draw_pair(random, shape), "m": mask.astype(np.float32)}


def draw_soft_labels(random: np.random.RandomState, shape: Shape) -> Dict[str, Array]:
    """Scores, and labels anywhere from 0 to 1."""
    score = 3 * random.randn(*shape).astype(np.float32)
    return {"x": score, "t": random.rand(*shape).astype(np.float32)}


NATIVE_CROSS_ENTROPY = native_layer("SigmoidCrossEntropyLoss", "xt", loss_weight=1)
NATIVE_SOFTMAX = native_layer("SoftmaxWithLoss", "xt", loss_weight=1)
NATIVE_EUCLIDEAN = native_layer("EuclideanLoss", "xt", loss_weight=1)
WEIGHTED = layer_named("SigmoidCrossEntropyWeightLossLayer", "xt", cls_weight=10)
EUCLIDEAN = layer_named("EuclideanLossLayer", "xt")
LOSSES: Dict[str, Loss] = {
    "weighted sigmoid cross-entropy": Loss(
        WEIGHTED,
        NATIVE_CROSS_ENTROPY,
        textbook_cross_entropy,
        draw_labels,
        {"PyTorch": torch_cross_entropy},
        SHAPES,
    ),
    "the same of soft labels": Loss(
        WEIGHTED,
        NATIVE_CROSS_ENTROPY,
        textbook_cross_entropy,
        draw_soft_labels,
        {"PyTorch": torch_cross_entropy},
        SHAPES[2:3],
    ),
    "the same with a weight for each attribute": Loss(
        layer_named("SigmoidCrossEntropyWeightLossLayer", "xt", cls_weight=[10] * ATTRIBUTES),
        NATIVE_CROSS_ENTROPY,
        textbook_cross_entropy,
        draw_labels,
        {},
        [(1024, ATTRIBUTES)],
    ),
    "balanced cross-entropy": Loss(
        layer_named("WeightedSigmoidCrossEntropyLossLayer", "xt"),
        NATIVE_CROSS_ENTROPY,
        textbook_balanced_cross_entropy,
        draw_labels,
        {},
        SHAPES,
    ),
    "weighted Euclidean": Loss(
        layer_named("WeightedEuclideanLossLayer", "xtm"),
        NATIVE_EUCLIDEAN,
        textbook_weighted_euclidean,
        draw_masked,
        {},
        SHAPES,
    ),
    "Euclidean": Loss(
        EUCLIDEAN,
        NATIVE_EUCLIDEAN,
        textbook_euclidean,
        draw_pair,
        {},
        SHAPES,
    ),
    "Huber": Loss(
        layer_named("HuberLossLayer", "xt"),
        NATIVE_EUCLIDEAN,
        textbook_huber,
        draw_pair,
        {"Euclidean": beside(EUCLIDEAN)},
        SHAPES[3:4],
    ),
    "smooth L1": Loss(
        layer_named("SmoothL1LossLayer", "xt"),
        NATIVE_EUCLIDEAN,
        textbook_huber,
        draw_pair,
        {"Euclidean": beside(EUCLIDEAN)},
        SHAPES[3:4],
    ),
    "sigmoid focal": Loss(
        layer_named("SigmoidFocalLossLayer", "xt"),
        NATIVE_CROSS_ENTROPY,
        textbook_focal,
        draw_labels,
        {"cross-entropy": beside(WEIGHTED)},
        SHAPES[2:3],
    ),
    "Dice": Loss(
        layer_named("DiceLossLayer", "xt", activation="sigmoid"),
        NATIVE_CROSS_ENTROPY,
        textbook_dice,
        draw_labels,
        {"cross-entropy": beside(WEIGHTED)},
        SHAPES[2:3],
    ),
    "Tversky": Loss(
        layer_named("TverskyLossLayer", "xt", activation="sigmoid", alpha=0.3, beta=0.7),
        NATIVE_CROSS_ENTROPY,
        textbook_tversky,
        draw_labels,
        {"cross-entropy": beside(WEIGHTED)},
        SHAPES[2:3],
    ),
    "Lovász hinge": Loss(
        layer_named("LovaszHingeLossLayer", "xt"),
        NATIVE_CROSS_ENTROPY,
        textbook_lovasz_hinge,
        draw_labels,
        {"sort alone": sort_alone},
        SHAPES[2:3],
    ),
    "channel sum": Loss(
        layer_named("ChannelSumEuclideanLossLayer", "xt"),
        SUMS_AND_EUCLIDEAN,
        textbook_channel_sum,
        draw_pair,
        {},
        SHAPES,
    ),
    "weighted softmax": Loss(
        layer_named("WeightedSoftmaxWithLossLayer", "xt", class_weight=2),
        NATIVE_SOFTMAX,
        textbook_softmax,
        draw_classes,
        {"PyTorch": torch_softmax},
        CLASS_SHAPES,
    ),
    "softmax focal": Loss(
        layer_named("SoftmaxFocalLossLayer", "xt"),
        NATIVE_SOFTMAX,
        textbook_softmax,
        draw_classes,
        {},
        CLASS_SHAPES,
    ),
    "softmax OHEM": Loss(
        layer_named("SoftmaxWithLossOHEMLayer", "xt"),
        NATIVE_SOFTMAX,
        textbook_softmax,
        draw_classes,
        {},
        CLASS_SHAPES,
    ),
}


def contestants(loss: Loss, inputs: Dict[str, Array]) -> Dict[str, Contestant]:
    """All ways to compute a loss of these inputs, this project's first and the floor last."""
    pair = {name: inputs[name] for name in "xt"}
    net = net_of(loss.layer, inputs)
    entries = {"layer": caffe_layers(net)}
    if loss.native is not None:
        entries["Caffe"] = caffe_layers(net_of(loss.native, pair))
    if loss.textbook is not None:
        entries["textbook"] = loss.textbook(inputs)
    for name, other in loss.others.items():
        contestant = other(net)
        if contestant is not None:
            entries[name] = contestant
    fetching = python_layer("fetching_layer", "FetchingLayer", "xt", loss_weight=1)
    entries["fetching"] = caffe_layers(net_of(fetching, pair))
    entries["floor"] = floor(net)
    return entries
