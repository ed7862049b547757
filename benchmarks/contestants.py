"""What is measured against what: ways to compute the same or the nearest loss.

A contestant is a pair of functions, forward and backward, over inputs that are all the same.
"""

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple

import caffe
import numpy as np

from caffe_losses.blocks import thread_count

Array = np.ndarray
Contestant = NamedTuple("Contestant", [("forward", Callable), ("backward", Callable)])


def net_of(layers: str, inputs: Dict[str, Array]) -> caffe.Net:
    """A net of inputs and layers, filled; only the first input gets a gradient."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write("force_backward: true\n")
        for name, array in inputs.items():
            shape = " ".join(f"dim: {n}" for n in array.shape)
            file.write(f'layer {{ name: "{name}" type: "Input" top: "{name}" ')
            file.write(f"input_param {{ shape {{ {shape} }} }} }}\n")
        file.write(layers)
        file.flush()
        net = caffe.Net(file.name, caffe.TRAIN)
    for name, array in inputs.items():
        net.blobs[name].data[...] = array
    return net


def caffe_layers(layers: str, inputs: Dict[str, Array]) -> Contestant:
    """The layers after the inputs, run by Caffe."""
    net = net_of(layers, inputs)
    first, last = len(inputs), len(net.layers) - 1
    return Contestant(lambda: net._forward(first, last), lambda: net._backward(last, first))


def loss_layer(kind: str, bottoms: Sequence[str], propagate_down: Sequence[bool]) -> str:
    """A loss layer; a type, or module.class of a Python layer with its param_str after a space."""
    fields = "".join(f'bottom: "{bottom}" ' for bottom in bottoms)
    if "." in kind:
        name, _, parameters = kind.partition(" ")
        module, layer = name.split(".")
        kind = "Python"
        fields += (
            f'python_param {{ module: "{module}" layer: "{layer}" '
            f"param_str: {json.dumps(parameters)} }} "
        )
    fields += "".join(f"propagate_down: {str(down).lower()} " for down in propagate_down)
    return f'layer {{ name: "loss" type: "{kind}" top: "loss" loss_weight: 1 {fields} }}\n'


def floor(inputs: Dict[str, Array]) -> Contestant:
    """Streams what forward must read and what backward must read and write; computes nothing."""
    prediction, target, *others = (array.reshape(-1) for array in inputs.values())
    out = np.empty_like(prediction)

    def forward(part: float, end: float) -> None:
        np.dot(cut(prediction, part, end), cut(target, part, end))
        for other in others:
            np.maximum.reduce(cut(other, part, end))

    def backward(part: float, end: float) -> None:
        np.add(cut(prediction, part, end), cut(target, part, end), out=cut(out, part, end))
        for other in others:
            np.maximum.reduce(cut(other, part, end))

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


def torch_cross_entropy(inputs: Dict[str, Array]) -> Contestant:
    """PyTorch's BCEWithLogitsLoss with pos_weight, summed, on as many threads."""
    import torch

    score, label = (torch.from_numpy(array.copy()) for array in inputs.values())
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


FIXED_SUM = """layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}"
  convolution_param {{ num_output: 1 kernel_size: 1 bias_term: false
    weight_filler {{ type: "constant" value: 1 }} }} }}
"""
SUMS_AND_EUCLIDEAN = (
    FIXED_SUM.format("sx", "x")
    + FIXED_SUM.format("st", "t")
    + loss_layer("EuclideanLoss", ["sx", "st"], [True, False])
)

Loss = NamedTuple(
    "Loss",
    [("layer", str), ("native", str), ("textbook", Callable), ("draw", Callable), ("torch", bool)],
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


def ours(layer: str, bottoms: Sequence[str] = "xt") -> str:
    """One of this project's layers, with a gradient to its first bottom."""
    return loss_layer(layer, bottoms, [name == "x" for name in bottoms])


NATIVE_CROSS_ENTROPY = ours("SigmoidCrossEntropyLoss")
NATIVE_EUCLIDEAN = ours("EuclideanLoss")
LOSSES = {
    "weighted sigmoid cross-entropy": Loss(
        ours('sigmoid_ce_weight_layer.SigmoidCrossEntropyWeightLossLayer {"cls_weight": 10}'),
        NATIVE_CROSS_ENTROPY,
        textbook_cross_entropy,
        draw_labels,
        True,
    ),
    "balanced cross-entropy": Loss(
        ours("pylayerUtils.WeightedSigmoidCrossEntropyLossLayer"),
        NATIVE_CROSS_ENTROPY,
        textbook_balanced_cross_entropy,
        draw_labels,
        False,
    ),
    "weighted Euclidean": Loss(
        ours("pylayerUtils.WeightedEuclideanLossLayer", "xtm"),
        NATIVE_EUCLIDEAN,
        textbook_weighted_euclidean,
        draw_masked,
        False,
    ),
    "Euclidean": Loss(
        ours("pylayerUtils.EuclideanLossLayer"),
        NATIVE_EUCLIDEAN,
        textbook_euclidean,
        draw_pair,
        False,
    ),
    "channel sum": Loss(
        ours("pylayerUtils.ChannelSumEuclideanLossLayer"),
        SUMS_AND_EUCLIDEAN,
        textbook_channel_sum,
        draw_pair,
        False,
    ),
}  # type: Dict[str, Loss]


def contestants(loss: Loss, inputs: Dict[str, Array]) -> Dict[str, Contestant]:
    """All ways to compute a loss of these inputs, this project's first and the floor last."""
    pair = {name: inputs[name] for name in "xt"}
    entries = {
        "layer": caffe_layers(loss.layer, inputs),
        "native": caffe_layers(loss.native, pair),
        "textbook": loss.textbook(inputs),
    }
    if loss.torch and has_torch():
        entries["PyTorch"] = torch_cross_entropy(inputs)
    entries["floor"] = floor(inputs)
    return entries


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True
