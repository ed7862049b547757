"""False alarms and misses of the gradient checker over seeded random nets."""

import caffe
import numpy as np
from caffe import layers as L
from caffe import params as P

from caffe_losses.build_net import net_of
from caffe_losses.gradient_check import check_gradients

NETS = 74  # every other one faulty, so that each fault comes once
SAMPLES = 24  # of the elements of a blob, beside all directions

FAULTY_LOSSES = (
    "MissingDivisor DoubledDivisor CountDivisor ValidDivisor IgnoresLossWeight "
    "LossWeightTwice SignFlipped AllZero NeverWritten FirstImageWritten ChannelDoubled "
    "UnmaskedGradient ZeroWhereMasked Transposed Stale Accumulates AccumulatesInside "
    "RandomBackward MaskGetsGradient NotFinite OneElementWrong PublishedWeightedEuclidean "
    "PublishedImages PublishedNoTargetGradient PublishedChannelSum ChangesTopDiff "
    "ForwardChangesBottom BackwardChangesBottom StaleDivisor StaleMask StaleForward "
    "MixedFlags IgnoresFlags WrongConstant"
).split()
FAULTY_HIDDEN_LAYERS = "FaultyTanh ShiftWithoutParameterGradient OverwritesParameterDiff".split()


def python_layer(layer, *bottoms, **fields):
    return L.Python(*bottoms, module="faulty_layers", layer=layer, **fields)


def an_input(shape):
    return L.Input(shape={"dim": [int(size) for size in shape]})


def hidden_layer(random, bottom, is_image):
    filler = {"type": "gaussian", "std": 0.4}
    kinds = {
        "Sigmoid": lambda: L.Sigmoid(bottom),
        "TanH": lambda: L.TanH(bottom, in_place=bool(random.randint(2))),
        "ReLU": lambda: L.ReLU(bottom, in_place=bool(random.randint(2))),
        "Tanh": lambda: python_layer("Tanh", bottom),
        "Shift": lambda: python_layer("Shift", bottom),
        "Maximum": lambda: L.Eltwise(bottom, L.Sigmoid(bottom), operation=P.Eltwise.MAX),
    }
    if is_image:
        kinds["Pooling"] = lambda: L.Pooling(
            bottom, pool=random.randint(2), kernel_size=3, stride=1, pad=1
        )
        kinds["Convolution"] = lambda: L.Convolution(
            bottom, num_output=3, kernel_size=3, pad=1, weight_filler=filler, bias_filler=filler
        )
    else:
        kinds["InnerProduct"] = lambda: L.InnerProduct(
            bottom, num_output=3, weight_filler=filler, bias_filler=filler
        )
    return kinds[sorted(kinds)[random.randint(len(kinds))]]()


def random_loss(random, spec, prediction, shape, fault):
    """Adds a loss and its other bottoms to the spec; returns what those hold."""
    one_channel = (shape[0], 1, *shape[2:])
    kind = "Python" if fault else random.choice(["Python", "Euclidean", "Sigmoid", "Softmax"])
    weight = float(random.choice([0.01, 0.5, 1, 2, 100]))
    if kind == "Softmax":
        spec.t = an_input(one_channel)
        spec.loss = L.SoftmaxWithLoss(prediction, spec.t, loss_weight=weight)
        return {"t": random.randint(shape[1], size=one_channel)}
    spec.t = an_input(shape)
    if kind == "Sigmoid":
        spec.loss = L.SigmoidCrossEntropyLoss(prediction, spec.t, loss_weight=weight)
        return {"t": random.randint(2, size=shape)}
    if kind == "Euclidean":
        spec.loss = L.EuclideanLoss(prediction, spec.t, loss_weight=weight)
        return {"t": random.normal(size=shape)}
    spec.mask = an_input(one_channel)
    name = fault or "MaskedEuclidean"
    spec.loss = python_layer(name, prediction, spec.t, spec.mask, loss_weight=weight)
    mask = random.randint(2, size=one_channel).reshape(shape[0], -1)
    mask[:, -1] = 0
    mask[:, 0] = 1
    return {"t": random.normal(size=shape), "mask": mask.reshape(one_channel)}


def random_net(random, fault):
    """A net of up to three layers and a loss, with its inputs filled; the fault is one of them."""
    # Some faults are none unless every image has positions of both kinds.
    is_image = fault in FAULTY_LOSSES or bool(random.randint(2))
    size = tuple(random.randint(2, 7, size=2)) if is_image else ()
    shape = (random.randint(2, 4), 3, *size)
    spec = caffe.NetSpec()
    top = spec.x = an_input(shape)
    for depth in range(random.randint(3)):
        top = spec[f"hidden{depth}"] = hidden_layer(random, top, is_image)
    if fault in FAULTY_HIDDEN_LAYERS:
        top = spec.hidden_fault = python_layer(fault, top)
    is_faulty_loss = fault in FAULTY_LOSSES
    values = random_loss(random, spec, top, shape, fault if is_faulty_loss else None)
    values["x"] = random.choice([0.3, 1, 3]) * random.normal(size=shape)
    parameter = spec.to_proto()
    parameter.force_backward = True
    net = net_of(parameter, "TRAIN")
    for name, value in values.items():
        net.blobs[name].data[...] = value
    return net


def test_no_false_alarm_and_no_miss_over_random_nets():
    faults = FAULTY_LOSSES + FAULTY_HIDDEN_LAYERS
    false_alarms, misses, untold, misplaced = [], [], [], []
    for seed in range(NETS):
        fault = faults[seed // 2 % len(faults)] if seed % 2 else None
        net = random_net(np.random.RandomState(seed), fault)
        report = check_gradients(net, seed=seed, samples=SAMPLES)
        if fault is None and report.exit_status == 1:
            false_alarms.append((seed, str(report)))
        if fault is not None and report.exit_status != 1:
            misses.append((seed, fault, str(report)))
        if "cannot tell" in {row.verdict for row in report.rows}:
            untold.append((seed, fault, str(report)))
        expected = "hidden_fault" if fault in FAULTY_HIDDEN_LAYERS else "loss"
        if any(row.verdict == "WRONG" and row.layer != expected for row in report.rows):
            misplaced.append((seed, fault, str(report)))
    problems = [*false_alarms, *misses, *untold, *misplaced]
    counts = [len(each) for each in (false_alarms, misses, untold, misplaced)]
    assert counts == [0, 0, 0, 0], "\n".join("\n".join(map(str, each)) for each in problems)
