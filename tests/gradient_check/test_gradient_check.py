"""The gradient checker on right layers, on layers with one fault each, and its command."""

import json
import re
import sys

import caffe
import numpy as np
import pytest
from caffe import layers as L
from caffe import params as P

from caffe_losses.build_net import net_of
from caffe_losses.gradient_check import assert_gradients, check_gradients
from caffe_losses.gradient_check.__main__ import main
from caffe_losses.gradient_check.layer_function import LayerFunction
from caffe_losses.gradient_check.measurement import derivative, noise_level
from caffe_losses.gradient_check.nets import fill_inputs, python_layer_net
from caffe_losses.gradient_check.probes import other_bottoms
from support.processes import ROOT, run

SHAPE = (2, 3, 4, 4)
MASKED = {"bottom0": "normal", "bottom1": "normal", "bottom2": "binary"}
WEIGHTS = {"weight_filler": {"type": "gaussian", "std": 0.5}}


def an_input(*shape):
    return L.Input(shape={"dim": list(shape)})


def net(spec, force_backward=True):
    parameter = spec.to_proto()
    parameter.force_backward = force_backward
    return net_of(parameter, "TRAIN")


def native_net(layer, *shapes, **fields):
    """A net of one native layer, whose bottoms are the inputs a, b, ..."""
    spec = caffe.NetSpec()
    bottoms = []
    for name, shape in zip("ab", shapes):
        spec[name] = an_input(*shape)
        bottoms.append(spec[name])
    spec.top = layer(*bottoms, **fields)
    return net(spec)


def masked_net(layer="MaskedEuclidean", shape=SHAPE, loss_weight=1):
    shapes = [shape, shape, (shape[0], 1, *shape[2:])]
    return python_layer_net("faulty_layers", layer, shapes, loss_weight=loss_weight)


def rows(report):
    return {row.blob: row for row in report.rows}


# Right layers.

NATIVE = [
    (L.EuclideanLoss, [(4, 3), (4, 3)], {}, {"loss_weight": 1}),
    (L.EuclideanLoss, [SHAPE, SHAPE], {}, {"loss_weight": 100}),
    (L.SigmoidCrossEntropyLoss, [SHAPE, SHAPE], {"b": "binary"}, {"loss_weight": 0.5}),
    (L.SigmoidCrossEntropyLoss, [(5, 2), (5, 2)], {"b": "uniform"}, {"loss_weight": 1}),
    (L.SoftmaxWithLoss, [(6, 5), (6,)], {"b": "labels:5"}, {"loss_weight": 1}),
    (L.SoftmaxWithLoss, [SHAPE, (2, 1, 4, 4)], {"b": "labels:3"}, {"loss_weight": 2}),
    (L.HingeLoss, [(6, 5), (6,)], {"b": "labels:5"}, {"loss_weight": 1}),
    (L.InnerProduct, [(3, 4)], {}, {"num_output": 5, **WEIGHTS}),
    (L.Convolution, [SHAPE], {}, {"num_output": 2, "kernel_size": 3, "pad": 1, **WEIGHTS}),
    (L.Sigmoid, [SHAPE], {}, {}),
    (L.TanH, [SHAPE], {}, {}),
    (L.ReLU, [SHAPE], {}, {}),
    (L.Pooling, [SHAPE], {}, {"kernel_size": 2, "stride": 2}),
    (L.Dropout, [SHAPE], {}, {}),
    (L.BatchNorm, [(4, 3, 5, 5)], {}, {}),
]


@pytest.mark.parametrize("layer, shapes, draws, fields", NATIVE)
def test_native_layers_pass(layer, shapes, draws, fields):
    checked = native_net(layer, *shapes, **fields)
    inputs = {**dict.fromkeys(checked.inputs, "normal"), **draws}
    assert_gradients(checked, inputs)


@pytest.mark.parametrize("layer, shapes", [("Tanh", [SHAPE]), ("Shift", [SHAPE])])
def test_python_layers_that_are_no_loss_pass(layer, shapes):
    assert_gradients(python_layer_net("faulty_layers", layer, shapes), {"bottom0": "normal"})


@pytest.mark.parametrize("loss_weight", [1e-3, 1, 1e3])
def test_a_python_loss_passes_for_any_loss_weight(loss_weight):
    assert_gradients(masked_net(loss_weight=loss_weight), MASKED)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3])
def test_scores_of_any_size_pass(scale):
    scores = scale * np.random.RandomState(0).normal(size=(3, 4))
    checked = native_net(L.SigmoidCrossEntropyLoss, (3, 4), (3, 4), loss_weight=1)
    assert_gradients(checked, {"a": scores, "b": "binary"})


def test_a_mean_over_many_pixels_passes_and_its_faults_are_found():
    shape = (1, 2, 40, 40)
    assert_gradients(masked_net(shape=shape), MASKED, samples=20)
    report = check_gradients(masked_net("MissingDivisor", (2, 2, 40, 40)), MASKED, samples=20)
    assert report.exit_status == 1
    # A single wrong element is in a direction, if not in the sample.
    report = check_gradients(masked_net("OneElementWrong", shape), MASKED, samples=20)
    assert rows(report)["bottom0"].verdict == "WRONG"


def test_a_fault_that_noise_hides_in_each_element_is_found_along_directions():
    report = check_gradients(
        masked_net("SlightlyWrongAndNoisy", (1, 2, 50, 50)),
        {"bottom0": "normal", "bottom1": "normal", "bottom2": np.ones((1, 1, 50, 50))},
        only=["bottom0"],
        samples=20,
    )
    assert report.exit_status == 1
    assert re.search("every element is 1.00[45][0-9]* times", str(report))


# Kinks.


def relu_at(values):
    checked = native_net(L.ReLU, (1, len(values)))
    checked.blobs["a"].data[...] = values
    return checked


def test_elements_near_a_kink_are_no_false_alarm():
    assert_gradients(relu_at([0, 1e-6, -1e-6, 1e-4, -1e-4, 3e-3, -3e-3, 1, -1, 2]))


def test_kink_leaves_elements_out():
    report = assert_gradients(relu_at([0, 5e-3, -5e-3, 0.5, -0.5]), kink=0)
    assert rows(report)["a"].checked == 2


def test_kink_leaves_out_no_parameters():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 8)
    spec.ip = L.InnerProduct(spec.x, num_output=8, **WEIGHTS)  # its bias starts at 0
    report = assert_gradients(net(spec), {"x": "normal"}, kink=0)
    assert rows(report)["ip[1]"].checked == 8


def test_an_element_whose_outputs_all_cross_a_kink_is_not_left_out():
    """Else nothing would be compared with nothing."""
    report = check_gradients(relu_at([1e-9, 1e-9, 1e-9]))
    assert report.exit_status == 2
    assert "too many kinks" in str(report)


@pytest.mark.parametrize("layer", ["Tanh", "FaultyTanh"])
def test_with_a_step_that_is_far_too_large_nothing_can_be_told(layer):
    checked = python_layer_net("faulty_layers", layer, [SHAPE])
    assert check_gradients(checked, {"bottom0": "normal"}, step=100).exit_status == 2


def test_what_is_left_out_altogether_cannot_be_told():
    report = check_gradients(relu_at([0.5, 2]), kink=0, step=100)
    assert report.exit_status == 2
    assert "every element is within a step of the kink and so left out" in str(report)


def test_a_wrong_gradient_is_found_among_kinks():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 8)
    spec.ip = L.InnerProduct(spec.x, num_output=8, **WEIGHTS)
    spec.relu = L.ReLU(spec.ip, in_place=True)
    spec.t = an_input(4, 8)
    spec.loss = L.Python(
        spec.relu, spec.t, module="faulty_layers", layer="SignFlipped", loss_weight=1
    )
    report = check_gradients(net(spec), {"x": "normal", "t": "normal"})
    wrong = [(row.layer, row.blob) for row in report.rows if row.verdict == "WRONG"]
    assert wrong == [("loss", "ip"), ("loss", "t")]


def test_a_few_elements_away_from_kinks_do_not_make_the_others_right():
    report = check_gradients(relu_at([1.0] + [1e-9] * 29))
    assert report.exit_status == 2


def test_a_function_without_a_derivative_cannot_be_told():
    step = python_layer_net("faulty_layers", "Step", [(1, 1)])
    step.blobs["bottom0"].data[...] = -1e-8
    report = check_gradients(step)
    assert report.exit_status == 2
    assert json.loads(report.to_json())["rows"][0]["numeric"] is None


# Labels.


def test_a_binary_target_may_have_the_derivative():
    checked = native_net(L.EuclideanLoss, (3, 4), (3, 4), loss_weight=1)
    assert rows(assert_gradients(checked, {"a": "normal", "b": "binary"}))["b"].checked == 12


def test_a_named_label_must_have_a_gradient_of_zero():
    checked = native_net(L.EuclideanLoss, (3, 4), (3, 4), loss_weight=1)
    inputs = {"a": "normal", "b": "binary"}
    report = check_gradients(checked, inputs, labels=["b"])
    assert rows(report)["a"].verdict == "ok"
    assert rows(report)["b"].verdict == "WRONG"


def test_a_label_can_be_checked_alone():
    assert_gradients(masked_net(), MASKED, only=["bottom2"])
    report = check_gradients(masked_net("MaskGetsGradient"), MASKED, only=["bottom2"])
    assert report.exit_status == 1


def test_class_labels_that_are_no_whole_numbers_are_refused():
    checked = native_net(L.SoftmaxWithLoss, (6, 5), (6,), loss_weight=1)
    with pytest.raises(ValueError, match="b holds -.*the classes are 0 to 4; draw it as labels:5"):
        check_gradients(checked, {"a": "normal", "b": "normal"})


@pytest.mark.parametrize(
    "shape, fields, numbers, message",
    [
        ((6, 5), {}, [0, 1, 2, 3, 4, 5], "label holds 5, and the classes are 0 to 4"),
        ((6, 5), {}, [0, 1, 2, 3, 4, -1], "label holds -1"),
        ((2, 3, 5), {"softmax_param": {"axis": 2}}, [[0, 1, 2], [3, 4, 5]], "holds 5"),
        ((6, 5), {"loss_param": {"ignore_label": 255}}, [0, 1, 2, 3, 4, 254], "holds 254"),
    ],
)
def test_classes_that_there_are_not_are_refused(shape, fields, numbers, message):
    spec = caffe.NetSpec()
    spec.x, spec.label = an_input(*shape), an_input(*np.shape(numbers))
    spec.loss = L.SoftmaxWithLoss(spec.x, spec.label, **fields)
    inputs = {"x": "normal", "label": np.array(numbers)}
    with pytest.raises(ValueError, match=message):
        check_gradients(net(spec), inputs)
    inputs["label"][inputs["label"] == 254] = 255
    inputs["label"][(inputs["label"] < 0) | (inputs["label"] == 5)] = 4
    assert_gradients(net(spec), inputs)


def test_indices_beyond_an_embedding_are_refused():
    spec = caffe.NetSpec()
    spec.x = an_input(2, 9)
    spec.embed = L.Embed(spec.x, input_dim=7, num_output=3, loss_weight=1)
    inputs = {"x": np.arange(18).reshape(2, 9) % 8}
    with pytest.raises(ValueError, match="x holds 7, and the classes are 0 to 6"):
        check_gradients(net(spec, force_backward=False), inputs)


# Faults, and what is said of them.

FAULTS = [
    (
        "MissingDivisor",
        "bottom0",
        "every element is 2 times.*candidates: a missing division by N .2.; a constant 2",
    ),
    (
        "DoubledDivisor",
        "bottom0",
        "is 0.5 times .*candidates: a division too many by N .2.; a constant 0.5",
    ),
    (
        "CountDivisor",
        "bottom0",
        "is 0.010417 times .*; what fits is a division too many by the count .96.",
    ),
    (
        "ValidDivisor",
        "bottom0",
        "what fits is a division too many by the number of elements with a gradient",
    ),
    (
        "IgnoresLossWeight",
        "bottom0",
        "ignores top.0..diff.*every element is 2 times.*1 / loss_weight",
    ),
    (
        "LossWeightTwice",
        "bottom0",
        "top.0..diff twice.*is 0.5 times.*loss_weight .0.5., applied twice",
    ),
    ("SignFlipped", "bottom0", "sign flipped: every element is -1 times"),
    ("AllZero", "bottom0", "all zero, where the numeric gradient goes up to"),
    ("NeverWritten", "bottom0", "backward never writes this diff"),
    ("FirstImageWritten", "bottom0", "leaves 48 of 96 elements .* unwritten.*zero only in image 1"),
    ("ChannelDoubled", "bottom0", "2 times the numeric one only in channel 1"),
    ("UnmaskedGradient", "bottom0", "not zero as they should be only where bottom2 is 0"),
    ("ZeroWhereMasked", "bottom0", "zero only where bottom2 is 0"),
    ("Transposed", "bottom0", "transposed: .* axes in the order 0, 1, 3, 2"),
    ("Stale", "bottom0", "stale: it is the gradient of the previous bottoms"),
    ("Accumulates", "bottom0", "accumulates: backward adds to what the diff held"),
    ("AccumulatesInside", "bottom0", "accumulates from call to call.*2 times the first"),
    ("RandomBackward", "bottom0", "backward gives another gradient each time"),
    ("MaskGetsGradient", "bottom2", "a label or mask that gets a gradient: "),
    ("NotFinite", "bottom0", r"16 of 96 elements are not finite, the first .nan. at .1, 0, 0, 0."),
    ("OneElementWrong", "bottom0", "1 of 96 elements"),
    (
        "PublishedWeightedEuclidean",
        "bottom0",
        "is [0-9.]+ times .* a divisor is missing or too many",
    ),
    ("PublishedImages", "bottom0", "zero only in image 1"),
    ("PublishedChannels", "bottom0", "zero only in channel 2"),
    ("PublishedNoTargetGradient", "bottom1", "all zero"),
    ("PublishedChannelSum", "bottom0", "96 of 96 elements are wrong, in no pattern"),
    ("ChangesTopDiff", "bottom0", r"backward changes top\[0\].diff, where .* changes add up"),
    ("ForwardChangesBottom", "bottom0", "forward changes the data of this bottom"),
    ("BackwardChangesBottom", "bottom0", "backward changes the data of this bottom"),
    (
        "StaleDivisor",
        "bottom0",
        "stale: .* a gradient [0-9.]+ times as large; a divisor, mask or the like",
    ),
    ("StaleMask", "bottom0", "stale: .* another gradient; a divisor, mask or the like"),
    ("StaleForward", "bottom0", "stale: forward depends on the bottoms and labels"),
    (
        "MixedFlags",
        "bottom0",
        r"mixes up propagate_down: for \[True, False, False\] .* for \[True, True, True\]",
    ),
    (
        "IgnoresFlags",
        "bottom1",
        r"ignores propagate_down: .* for propagate_down = \[True, False, False\]",
    ),
    ("WrongConstant", "bottom0", "every element is 4 times .*; what fits is a constant 4"),
]


@pytest.mark.parametrize("layer, blob, finding", FAULTS)
def test_a_fault_is_named(layer, blob, finding):
    report = check_gradients(masked_net(layer, loss_weight=0.5), MASKED)
    assert report.exit_status == 1
    row = rows(report)[blob]
    assert row.verdict == "WRONG"
    assert re.search(finding, " ".join(row.findings))
    assert ",," not in str(report)
    assert " 1 times" not in str(report)


def test_backward_is_not_blamed_for_what_forward_changes():
    report = check_gradients(masked_net("ForwardChangesBottom"), MASKED)
    assert "forward changes the data" in str(report)
    assert "backward changes the data" not in str(report)


@pytest.mark.parametrize("layer", ["MissingDivisor", "DoubledDivisor", "SignFlipped"])
def test_the_loss_weight_is_not_blamed_for_a_divisor(layer):
    report = check_gradients(masked_net(layer, loss_weight=0.5), MASKED)
    assert "loss_weight" not in str(report)


def test_ignoring_the_loss_weight_is_found_where_it_is_one():
    report = check_gradients(masked_net("IgnoresLossWeight", loss_weight=1), MASKED)
    assert report.exit_status == 1
    assert "ignores top[0].diff" in str(report)


def test_published_cross_entropy_ignores_loss_weight_and_gives_labels_a_gradient():
    checked = python_layer_net("faulty_layers", "PublishedSigmoidCrossEntropy", [SHAPE] * 2)
    found = rows(check_gradients(checked, {"bottom0": "normal", "bottom1": "binary"}))
    assert "ignores top[0].diff" in found["bottom0"].findings[0]
    assert "ignores propagate_down" in found["bottom1"].findings[0]
    assert "a label or mask that gets a gradient" in found["bottom1"].findings[1]


def test_published_broadcasting_is_found():
    checked = python_layer_net("faulty_layers", "PublishedBroadcast", [(4, 1), (4,)])
    report = check_gradients(checked, {"bottom0": "normal", "bottom1": "normal"}, only=["bottom0"])
    assert report.exit_status == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_cannot_be_checked():
    inputs = {**MASKED, "bottom2": np.ones((2, 1, 4, 4))}
    with pytest.raises(ValueError, match="layer PublishedWeightedEuclidean: .* not finite"):
        check_gradients(masked_net("PublishedWeightedEuclidean"), inputs)
    overflowing = python_layer_net("faulty_layers", "PublishedSigmoidCrossEntropy", [(1, 2)] * 2)
    scores = np.array([[-100.0, 1.0]])
    with pytest.raises(ValueError, match="not finite"):
        check_gradients(overflowing, {"bottom0": scores, "bottom1": "binary"})


def test_a_random_forward_cannot_be_told():
    report = check_gradients(masked_net("RandomForward"), MASKED)
    assert report.exit_status == 2
    assert "not deterministic: three for the same bottoms give" in str(report)


def test_a_missing_parameter_gradient_is_found():
    checked = python_layer_net("faulty_layers", "ShiftWithoutParameterGradient", [SHAPE])
    found = rows(check_gradients(checked, {"bottom0": "normal"}))
    assert found["bottom0"].verdict == "ok"
    assert "all zero" in found["ShiftWithoutParameterGradient[0]"].findings[0]


def test_the_layer_below_a_fault_is_not_blamed():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 3)
    spec.ip = L.InnerProduct(spec.x, num_output=3, **WEIGHTS)
    spec.fault = L.Python(spec.ip, module="faulty_layers", layer="FaultyTanh")
    spec.top = L.Sigmoid(spec.fault)
    report = check_gradients(net(spec), {"x": "normal"})
    assert [row.layer for row in report.rows if row.verdict == "WRONG"] == ["fault"]


def test_a_linear_layer_is_not_called_stale():
    checked = python_layer_net("faulty_layers", "DoubledSum", [(3, 5)])
    report = check_gradients(checked, {"bottom0": "normal"})
    assert "every element is 2 times the numeric one; what fits is a constant 2" in str(report)
    assert "stale" not in str(report)


def test_an_overwritten_parameter_diff_is_found():
    checked = python_layer_net("faulty_layers", "OverwritesParameterDiff", [SHAPE])
    found = rows(check_gradients(checked, {"bottom0": "normal"}))
    assert found["bottom0"].verdict == "ok"
    assert found["OverwritesParameterDiff[0]"].findings == [
        "backward overwrites the parameter's diff; iter_size and shared parameters add to it"
    ]


@pytest.mark.parametrize(
    "layer, finding",
    [
        ("WeakClassMissing", "zero where bottom1 is 1, by the scale of these elements together"),
        ("WeakerClassMissing", "zero where bottom1 is 1"),
        ("WeakChannelMissing", "zero in channel 1"),
    ],
)
def test_a_weak_class_or_channel_without_a_gradient_is_found(layer, finding):
    checked = python_layer_net("faulty_layers", layer, [(3, 5, 7, 11), (3, 1, 7, 11)])
    report = check_gradients(checked, {"bottom0": "normal", "bottom1": "binary"})
    assert re.search(finding, " ".join(rows(report)["bottom0"].findings))


def test_a_factor_below_the_threshold_is_not_found():
    assert_gradients(masked_net("OneThousandthOff"), MASKED)


def test_backward_may_refuse_labels():
    checked = python_layer_net("faulty_layers", "RefusesLabels", [(3, 5)] * 2)
    inputs = {"bottom0": "normal", "bottom1": "binary"}
    found = rows(assert_gradients(checked, inputs))
    assert (found["bottom0"].verdict, found["bottom1"].verdict) == ("ok", "skipped")
    assert found["bottom1"].findings == [
        "backward refuses to compute a gradient here: Exception: Layer cannot backpropagate to "
        "label inputs."
    ]
    # A label of any numbers, if it is named or not the first bottom.
    inputs = {"bottom0": "normal", "bottom1": "normal"}
    assert_gradients(checked, inputs, labels=["bottom1"])
    assert rows(assert_gradients(checked, inputs))["bottom1"].verdict == "skipped"


@pytest.mark.parametrize("layer", ["BalancedClasses", "NeedsAllClasses"])
def test_classes_that_another_batch_lacks_are_no_fault(layer):
    checked = python_layer_net("faulty_layers", layer, [(5, 3), (5, 1)])
    inputs = {"bottom0": "normal", "bottom1": np.arange(5).reshape(5, 1)}
    assert_gradients(checked, inputs)
    fill_inputs(checked, inputs, seed=0)
    other = other_bottoms(LayerFunction(checked, layer, seed=1701))
    classes = set(other["bottom1"].ravel())
    assert (classes == set(range(5))) is (layer == "NeedsAllClasses")


@pytest.mark.parametrize("seed", range(4))
def test_a_stale_divisor_is_found_with_every_seed(seed):
    """Another batch has other sums, however few positions its mask has."""
    report = check_gradients(
        masked_net("StaleDivisor", (2, 1, 3, 3)), MASKED, only=["bottom0"], seed=seed
    )
    assert "stale" in str(report)


def test_a_stale_gradient_of_a_single_row_is_found():
    report = check_gradients(
        python_layer_net("faulty_layers", "Stale", [(1, 5)] * 2),
        {"bottom0": "normal", "bottom1": "normal"},
    )
    assert "stale: it is the gradient of the previous bottoms" in str(report)


def test_a_gradient_that_forward_leaves_in_the_diff_is_no_fault():
    checked = python_layer_net("faulty_layers", "GradientInForward", [(3, 5)] * 2, loss_weight=0.5)
    assert_gradients(checked, {"bottom0": "normal", "bottom1": "normal"})


# Noise.


def test_a_verdict_that_noise_would_decide_is_refused():
    # Next to 1e6 that do not change, float32 does not show how the loss changes.
    checked = native_net(L.EuclideanLoss, (2, 3), (2, 3), loss_weight=1)
    target = np.zeros((2, 3))
    target[0, 0] = 1e6
    report = check_gradients(checked, {"a": "normal", "b": target}, only=["a"])
    assert report.exit_status == 2
    assert "cannot tell: float32 rounding hides the gradient" in str(report)


def scalar(function):
    """The function as a layer with one output."""
    return lambda t: np.array([function(t)], dtype=float)


def derivative_of(function, noise, wanted):
    return derivative(scalar(function), np.ones(1), 1e-2, np.array([noise]), wanted)


@pytest.mark.parametrize("level", [1e-3, 1e-6])
def test_the_noise_level_is_that_of_the_function(level):
    random = np.random.RandomState(0)
    noise = noise_level(scalar(lambda t: np.exp(t) + level * random.normal()), [1])
    assert 0.3 * level < noise[0] < 3 * level


@pytest.mark.parametrize("function, expected", [(np.exp, 1), (np.sin, 1), (lambda t: t**5 + t, 1)])
def test_the_numeric_derivative_is_within_its_error(function, expected):
    found = derivative_of(function, 1e-15, 1e-9)
    assert abs(found.value - expected) <= found.error <= 1e-7


@pytest.mark.parametrize("kink", np.geomspace(1e-6, 0.05, 40))
def test_the_error_covers_a_kink_anywhere(kink):
    found = derivative_of(lambda t: t + 5 * max(0, t - kink), 1e-12, 0)
    assert abs(found.value - 1) <= found.error


def test_noise_raises_the_step_and_a_kink_lowers_it():
    random = np.random.RandomState(0)
    noisy = derivative_of(lambda t: t + 1e-5 * random.normal(), 1e-5, 1e-3)
    assert noisy.error < 1e-3
    kinked = derivative_of(lambda t: t + 5 * max(0, t - 6e-3), 1e-12, 1e-6)
    assert abs(kinked.value - 1) < 1e-6


def test_outputs_that_cross_a_kink_are_left_out():
    outputs = np.arange(200.0)

    def relus(t):
        return np.maximum(0, t + np.where(outputs < 5, 1e-3, 1) * (outputs - 2))

    found = derivative(relus, np.ones(200), 1e-2, np.full(200, 1e-9), 1e-3)
    assert set(found.left_out) == set(range(5))
    assert abs(found.value - 195) < 1e-3


# The net, and what there is to check in it.


def test_the_net_is_left_as_it_was():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 3)
    spec.ip = L.InnerProduct(spec.x, num_output=3, **WEIGHTS)
    spec.norm = L.BatchNorm(spec.ip, in_place=True)
    spec.relu = L.ReLU(spec.norm, in_place=True)
    spec.t = an_input(4, 3)
    spec.loss = L.EuclideanLoss(spec.relu, spec.t, loss_weight=0.5)
    checked = net(spec)
    random = np.random.RandomState(0)
    for name in checked.inputs:
        checked.blobs[name].data[...] = random.normal(size=(4, 3))
    checked.forward()
    checked.backward()

    def state():
        blobs = list(checked.blobs.values())
        blobs += [
            parameters[i] for parameters in checked.params.values() for i in range(len(parameters))
        ]
        return [array.copy() for blob in blobs for array in (blob.data, blob.diff)]

    before = state()
    assert_gradients(checked)
    assert_gradients(checked, {"x": "uniform"})
    for old, new in zip(before, state()):
        np.testing.assert_array_equal(old, new)


def test_a_net_without_force_backward_is_checked_where_it_has_gradients():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 3)
    spec.frozen = L.InnerProduct(spec.x, num_output=3, param=[{"lr_mult": 0}] * 2, **WEIGHTS)
    spec.ip = L.InnerProduct(
        spec.frozen, num_output=3, param=[{"lr_mult": 1}, {"lr_mult": 0}], **WEIGHTS
    )
    spec.t = an_input(4, 3)
    spec.loss = L.Python(
        spec.ip, spec.t, module="faulty_layers", layer="MaskedEuclidean", loss_weight=1
    )
    report = check_gradients(net(spec, force_backward=False), {"x": "normal", "t": "normal"})
    verdicts = {name: row.verdict for name, row in rows(report).items()}
    assert verdicts == {
        "x": "skipped",
        "frozen[0]": "skipped",
        "frozen[1]": "skipped",
        "frozen": "skipped",
        "ip[0]": "ok",
        "ip[1]": "skipped",
        "ip": "ok",
        "t": "skipped",
    }


@pytest.mark.parametrize("layer, verdict", [("Shift", "ok"), ("OverwritesParameterDiff", "WRONG")])
def test_a_python_layer_that_is_asked_for_the_gradient_of_its_parameters_alone(layer, verdict):
    spec = caffe.NetSpec()
    spec.x, spec.t = an_input(*SHAPE), an_input(*SHAPE)
    spec.tanh = L.Python(spec.x, module="faulty_layers", layer="Tanh")
    spec.shift = L.Python(spec.tanh, module="faulty_layers", layer=layer)
    spec.loss = L.EuclideanLoss(spec.shift, spec.t)
    found = rows(check_gradients(net(spec, force_backward=False), {"x": "normal", "t": "normal"}))
    assert found["x"].findings == ["Caffe does not call this layer's backward"]
    assert found["tanh"].findings == ["Caffe asks for no gradient here (propagate_down is false)"]
    assert (found["shift[0]"].verdict, found["shift"].verdict) == (verdict, "ok")


@pytest.mark.parametrize("lr_mult, verdict", [(0, "skipped"), (1, "WRONG")])
def test_a_python_layer_owes_no_gradient_to_a_parameter_that_is_not_trained(lr_mult, verdict):
    spec = caffe.NetSpec()
    spec.x = an_input(*SHAPE)
    spec.shift = L.Python(
        spec.x,
        module="faulty_layers",
        layer="ShiftWithoutParameterGradient",
        param={"lr_mult": lr_mult},
    )
    found = rows(check_gradients(net(spec), {"x": "normal"}))
    assert (found["x"].verdict, found["shift[0]"].verdict) == ("ok", verdict)


def test_a_top_may_have_another_shape_than_when_the_net_was_built():
    spec = caffe.NetSpec()
    spec.x, spec.chosen = an_input(4, 3), an_input(4)
    spec.ip = L.InnerProduct(spec.x, num_output=2, **WEIGHTS)
    spec.some = L.Filter(spec.ip, spec.chosen)
    spec.loss = L.Reduction(spec.some, operation=P.Reduction.SUMSQ, loss_weight=1)
    inputs = {"x": "normal", "chosen": np.array([1, 0, 0, 1])}
    found = rows(check_gradients(net(spec, force_backward=False), inputs))
    assert found["ip"].verdict == found["some"].verdict == "ok"
    assert found["some"].shape == (2, 2)


def test_a_layer_whose_tops_change_their_shape_with_its_data_is_skipped():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 3)
    spec.y = L.Python(spec.x, module="faulty_layers", layer="Positives")
    spec.loss = L.Reduction(spec.y, operation=P.Reduction.SUMSQ, loss_weight=1)
    checked = net(spec)
    data = np.float32([[-3, -2, -1], [1, 2, 3], [4, 5, 6], [-6, -5, -4]])
    checked.blobs["x"].data[...] = data
    checked.forward()
    found = rows(check_gradients(checked))
    assert (found["x"].verdict, found["y"].verdict) == ("skipped", "ok")
    assert "the shape of a top depends on the layer's data" in found["x"].findings[0]
    np.testing.assert_array_equal(checked.blobs["x"].data, data)
    np.testing.assert_array_equal(checked.blobs["y"].data, [1, 2, 3, 4, 5, 6])


def test_a_layer_on_which_no_loss_depends_is_not_accused():
    spec = caffe.NetSpec()
    spec.x, spec.t = an_input(4, 3), an_input(4, 2)
    spec.unused = L.InnerProduct(spec.x, num_output=2, **WEIGHTS)
    spec.hidden = L.InnerProduct(spec.x, num_output=2, **WEIGHTS)
    spec.ip = L.InnerProduct(spec.hidden, num_output=2, propagate_down=False, **WEIGHTS)
    spec.loss = L.EuclideanLoss(spec.ip, spec.t)
    report = assert_gradients(net(spec, force_backward=False), {"x": "normal", "t": "normal"})
    found = rows(report)
    for name in "unused[0]", "unused[1]", "hidden[0]", "hidden[1]":
        assert found[name].findings == ["Caffe does not call this layer's backward"]
    assert found["ip[0]"].verdict == found["ip[1]"].verdict == "ok"


def test_a_layer_in_place_whose_backward_caffe_does_not_call_is_not_accused():
    spec = caffe.NetSpec()
    spec.x, spec.t = an_input(4, 3), an_input(4, 2)
    spec.frozen = L.InnerProduct(spec.x, num_output=5, param=[{"lr_mult": 0}] * 2, **WEIGHTS)
    spec.relu = L.ReLU(spec.frozen, in_place=True)
    spec.ip = L.InnerProduct(spec.relu, num_output=2, **WEIGHTS)
    spec.loss = L.EuclideanLoss(spec.ip, spec.t)
    report = check_gradients(net(spec, force_backward=False), {"x": "normal", "t": "normal"})
    verdicts = {(row.layer, row.blob): row.verdict for row in report.rows}
    assert verdicts["relu", "frozen"] == verdicts["frozen", "frozen[0]"] == "skipped"
    assert verdicts["ip", "ip[0]"] == verdicts["loss", "ip"] == "ok"


def test_a_trained_parameter_whose_gradient_is_zero_is_checked():
    spec = caffe.NetSpec()
    spec.x, spec.t = an_input(4, 3), an_input(4, 2)
    spec.ip = L.InnerProduct(spec.x, num_output=2, **WEIGHTS)
    spec.loss = L.EuclideanLoss(spec.ip, spec.t)
    report = assert_gradients(net(spec), {"x": np.zeros((4, 3)), "t": "normal"})
    assert rows(report)["ip[0]"].verdict == "ok"


def test_python_layers_can_be_checked_alone():
    spec = caffe.NetSpec()
    spec.x = an_input(4, 3)
    spec.ip = L.InnerProduct(spec.x, num_output=3, **WEIGHTS)
    spec.tanh = L.Python(spec.ip, module="faulty_layers", layer="Tanh")
    report = check_gradients(net(spec), {"x": "normal"}, only_python=True)
    assert [row.layer for row in report.rows] == ["tanh"]


def test_a_net_without_gradients_is_refused():
    spec = caffe.NetSpec()
    spec.a = an_input(2, 3)
    spec.b = an_input(2, 3)
    spec.loss = L.EuclideanLoss(spec.a, spec.b)
    with pytest.raises(ValueError, match="force_backward: true"):
        check_gradients(net(spec, force_backward=False), {"a": "normal", "b": "normal"})


def test_inputs_that_were_never_filled_are_refused():
    with pytest.raises(ValueError, match="all zero"):
        check_gradients(masked_net())


def test_only_checks_the_blobs_and_layers_that_are_named():
    assert [row.blob for row in check_gradients(masked_net(), MASKED, only=["bottom1"]).rows] == [
        "bottom1"
    ]
    assert len(check_gradients(masked_net(), MASKED, only=["MaskedEuclidean"]).rows) == 3
    with pytest.raises(ValueError, match="no blob or layer y to check; there are .*bottom0"):
        check_gradients(masked_net(), MASKED, only=["y"])


def test_a_blob_that_several_layers_take_is_checked_in_each():
    spec = caffe.NetSpec()
    spec.x = an_input(2, 3)
    spec.t = an_input(2, 3)
    spec.first = L.EuclideanLoss(spec.x, spec.t, loss_weight=1)
    spec.second = L.SigmoidCrossEntropyLoss(spec.x, spec.t, loss_weight=2)
    report = assert_gradients(net(spec), {"x": "normal", "t": "uniform"})
    assert [(row.layer, row.blob) for row in report.rows] == [
        ("first", "x"),
        ("first", "t"),
        ("second", "x"),
        ("second", "t"),
    ]


def test_a_blob_that_is_two_bottoms_of_a_layer_is_checked_once():
    spec = caffe.NetSpec()
    spec.x = an_input(2, 3)
    spec.square = L.Eltwise(spec.x, spec.x, operation=caffe.params.Eltwise.PROD)
    report = assert_gradients(net(spec), {"x": "normal"})
    assert [(row.layer, row.blob) for row in report.rows] == [("square", "x")]


def test_a_top_beside_the_loss_takes_no_part():
    spec = caffe.NetSpec()
    spec.x = an_input(2, 3)
    spec.t = an_input(2, 3)
    spec.loss, spec.difference = L.Python(
        spec.x,
        spec.t,
        module="faulty_layers",
        layer="LossAndDifference",
        ntop=2,
        loss_weight=[1, 0],
    )
    assert_gradients(net(spec), {"x": "normal", "t": "normal"})


def test_a_layer_on_a_scalar_is_checked():
    spec = caffe.NetSpec()
    spec.x = an_input(2, 3)
    spec.t = an_input(2, 3)
    spec.loss = L.EuclideanLoss(spec.x, spec.t)
    spec.power = L.Power(spec.loss, power=0.5, loss_weight=1)
    report = assert_gradients(net(spec), {"x": "normal", "t": "normal"})
    assert ("power", "loss") in [(row.layer, row.blob) for row in report.rows]


def test_a_data_layer_loads_one_batch_that_stays():
    spec = caffe.NetSpec()
    normal = {"type": "gaussian", "std": 1}
    shapes = [{"dim": [4, 3]}, {"dim": [4, 2]}]
    spec.x, spec.t = L.DummyData(ntop=2, shape=shapes, data_filler=[normal, normal])
    spec.ip = L.InnerProduct(spec.x, num_output=2, **WEIGHTS)
    spec.loss = L.EuclideanLoss(spec.ip, spec.t)
    assert len(assert_gradients(net(spec)).rows) == 5


def test_progress_is_told_of_every_measurement():
    names = []

    def progress(measurements, name):
        names.extend([name] * len(measurements))
        return measurements

    report = check_gradients(masked_net(), MASKED, only=["bottom0"], progress=progress)
    row = report.rows[0]
    assert names == ["bottom0"] * (row.checked + row.directions)


def test_an_empty_bottom_is_refused():
    with pytest.raises(ValueError, match="no elements .* in bottom0, bottom1, bottom2"):
        check_gradients(masked_net(shape=(0, 3, 4, 4)), MASKED)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"y": "normal"}, "no input y; its inputs are bottom0, bottom1, bottom2"),
        ({"bottom0": "gaussian"}, "'gaussian' is no distribution; expected one of normal"),
        ({"bottom0": np.ones((2, 3))}, r"has shape \(2, 3\); the net expects \(2, 3, 4, 4\)"),
    ],
)
def test_wrong_inputs_are_errors(inputs, message):
    with pytest.raises(ValueError, match=message):
        check_gradients(masked_net(), inputs)


def test_assert_gradients_raises_with_the_table():
    with pytest.raises(AssertionError) as raised:
        assert_gradients(masked_net("SignFlipped"), MASKED)
    assert "verdict" in str(raised.value)
    assert "sign flipped" in str(raised.value)


# The command.

LAYER = ["--module", "faulty_layers", "--bottom", "2,3,4,4", "--bottom", "2,3,4,4"]
LAYER += ["--bottom", "2,1,4,4:binary"]

PROTOTXT = """
layer {
  name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 6 dim: 5 } shape { dim: 6 } }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } }
}
layer {
  name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
}
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
}
"""


@pytest.fixture
def prototxt(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(PROTOTXT)
    return str(path)


def test_command_checks_a_python_layer(capfd):
    assert main([*LAYER, "--layer", "MaskedEuclidean", "--loss-weight", "0.5"]) == 0
    printed = capfd.readouterr().out
    assert printed.splitlines()[0].split() == (
        "layer blob shape checked error at analytic numeric noise verdict".split()
    )
    assert main([*LAYER, "--layer", "SignFlipped"]) == 1
    assert main([*LAYER, "--layer", "RandomForward"]) == 2


def test_command_checks_a_net(prototxt, capfd):
    command = [prototxt, "--input", "label=labels:4"]
    assert main(command) == 0
    assert "skipped" in capfd.readouterr().out
    assert main([*command, "--force-backward", "--only", "x"]) == 0
    assert re.search("ip +x .* ok", capfd.readouterr().out)


def test_command_loads_inputs(prototxt, tmp_path, capfd):
    np.save(str(tmp_path / "x.npy"), np.random.RandomState(0).normal(size=(6, 5)))
    np.savez(str(tmp_path / "y.npz"), label=np.arange(6) % 4)
    inputs = ["--input", f"x={tmp_path}/x.npy", "--input", f"label={tmp_path}/y.npz:label"]
    assert main([prototxt, *inputs]) == 0
    bottoms = ["--bottom", f"{tmp_path}/x.npy", "--module", "faulty_layers", "--layer", "Tanh"]
    assert main(bottoms) == 0


def test_command_draws_bottoms_whose_sizes_coincide_with_nothing(capfd):
    layer = ["--module", "faulty_layers", "--layer", "MissingDivisor"]
    assert main(layer) == 1
    printed = capfd.readouterr().out
    assert "bottom1  3x5x7x11" in printed
    assert "candidates: a missing division by N (3); a constant 3" in printed
    bottoms = ["--bottom", "normal", "--bottom", "uniform", "--bottom", "3,1,7,11:binary"]
    assert main([*layer, *bottoms, "--only", "bottom2"]) == 0


def test_command_prints_the_same_for_the_same_seed(prototxt, capfd):
    def printed(*arguments):
        main([prototxt, "--input", "label=labels:4", "--force-backward", *arguments])
        return capfd.readouterr().out

    assert printed("--seed", "3") == printed("--seed", "3") != printed("--seed", "4")


def test_command_checks_trained_weights(prototxt, tmp_path, capfd):
    trained = caffe.Net(prototxt, caffe.TRAIN)
    for i in range(2):
        trained.params["ip"][i].data[...] = 0
    weights = str(tmp_path / "trained.caffemodel")
    trained.save(weights)
    command = [prototxt, "--input", "label=labels:4", "--only", "loss"]
    assert main([*command, "--weights", weights, "--json"]) == 0
    (row, _) = json.loads(capfd.readouterr().out)["rows"]
    # All scores are 0, and all probabilities 1/4.
    assert abs(row["analytic"]) in (pytest.approx(0.25 / 6), pytest.approx(0.75 / 6))


def test_command_takes_labels(capfd):
    layer = ["--module", "faulty_layers", "--layer", "RefusesLabels", "--label", "bottom1"]
    assert main(layer) == 0
    assert re.search("bottom1 .* skipped", capfd.readouterr().out)


def test_command_checks_python_layers_alone(prototxt, capfd):
    assert main([prototxt, "--input", "label=labels:4", "--only-python"]) == 2
    assert "Caffe computes no gradient here to check" in capfd.readouterr().err


def test_command_prints_nothing_else_than_json(tmp_path, monkeypatch, capfd):
    source = "import faulty_layers\nclass Chatty(faulty_layers.Tanh):\n"
    source += "    def forward(self, bottom, top):\n"
    source += "        print('forward')\n        super().forward(bottom, top)\n"
    (tmp_path / "chatty.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--module", "chatty", "--layer", "Chatty", "--bottom", "2,3", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["passed"] is True
    assert "forward" in captured.err


def test_command_passes_its_options_on(capfd):
    layer = [*LAYER, "--layer", "MaskedEuclidean", "--json"]
    options = "--samples 5 --step 0.02 --threshold 0.01 --kink 0 --seed 3 --only bottom0".split()
    assert main([*layer, *options]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["passed"] is True
    (row,) = report["rows"]
    assert row["checked"] == 5
    assert row["shape"] == [2, 3, 4, 4]
    assert main([*layer, "--label", "bottom1"]) == 1
    assert main([*LAYER, "--layer", "OneElementWrong", "--threshold", "0.9"]) == 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give NET.prototxt; or --module and --layer, and a --bottom"),
        (["net.prototxt", "--loss-weight", "2"], "--loss-weight is not for a net"),
        ([*LAYER, "--layer", "L", "--force-backward"], "--force-backward is not for a layer"),
        (["net.prototxt", "--seed", "x"], "--seed: invalid int value: 'x'"),
    ],
)
def test_command_refuses_wrong_arguments(arguments, message, capfd):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert re.search(message, capfd.readouterr().err)


@pytest.fixture
def problem(capfd):
    """What the command says of what it could not check: one line."""

    def problem(*arguments):
        assert main(list(arguments)) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        (line,) = [line for line in captured.err.splitlines() if line.startswith("could not check")]
        assert "Traceback" not in captured.err
        return line

    return problem


def test_command_says_what_is_wrong_with_a_net(tmp_path, prototxt, problem):
    broken = tmp_path / "broken.prototxt"
    broken.write_text(PROTOTXT.replace("InnerProduct", "OuterProduct"))
    assert problem(str(broken)).startswith("could not check: Caffe aborted")
    broken.write_text(PROTOTXT.replace("num_output", "outputs"))
    assert f"{broken}:8:25" in problem(str(broken))
    assert "none.prototxt: No such file or directory" in problem("none.prototxt")
    assert "there is no file none.caffemodel" in problem(prototxt, "--weights", "none.caffemodel")
    assert "the classes are 0 to 3; draw it as labels:4" in problem(prototxt)
    assert "label holds 5, and the classes are 0 to 3; draw it as labels:4" in problem(
        prototxt, "--input", "label=labels:7"
    )


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--step", "0", "step must be positive; it is 0.0"),
        ("--samples", "0", "samples must be positive; it is 0"),
        ("--threshold", "inf", "threshold must be positive; it is inf"),
        ("--seed", "-1", "seed must be from 0 to 4294967295; it is -1"),
    ],
)
def test_command_says_what_is_wrong_with_an_option(option, value, message, prototxt, problem):
    assert message in problem(prototxt, option, value)


def test_command_says_what_is_wrong_with_inputs_and_bottoms(prototxt, problem):
    layer = ["--module", "faulty_layers", "--layer", "Tanh", "--bottom"]
    assert "'2,x' is no distribution; expected one of normal" in problem(*layer, "2,x")
    assert "'poisson' is no distribution" in problem(*layer, "2:poisson")
    assert re.search("No such file.*none.npy", problem(*layer, "none.npy"))
    assert "'' is no distribution" in problem(prototxt, "--input", "x")
    assert "'poisson' is no distribution" in problem(prototxt, "--input", "x=poisson")


def test_command_says_what_is_wrong_with_a_layer(tmp_path, monkeypatch, problem):
    (tmp_path / "exiting_module.py").write_text("import sys\nsys.exit('no licence')\n")
    (tmp_path / "broken_module.py").write_text("import caffe\n1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    def problem_of(module, layer, *arguments):
        return problem("--module", module, *LAYER[2:], "--layer", layer, *arguments)

    assert "No module named 'no_such_module'" in problem_of("no_such_module", "L")
    assert "(SystemExit: no licence)" in problem_of("exiting_module", "L")
    assert "(ZeroDivisionError: division by zero)" in problem_of("broken_module", "L")
    assert "has no caffe.Layer Missing; it has MaskedEuclidean, " in problem_of(
        "faulty_layers", "Missing"
    )
    rejected = problem_of("faulty_layers", "ChecksParameters", "--param-str", "margin: 2")
    assert "param_str must give the margin: margin: 2 (in setup, faulty_layers.py:" in rejected
    assert "NotImplementedError: no backward yet (in backward, faulty_layers.py:" in problem_of(
        "faulty_layers", "FailingBackward"
    )
    assert "SystemExit: loss is NaN (in forward, faulty_layers.py:" in problem_of(
        "faulty_layers", "ExitingForward"
    )
    mismatched = ["--layer", "MaskedEuclidean", "--bottom", "2,3", "--bottom", "4,5"]
    assert "could not be broadcast together" in problem("--module", "faulty_layers", *mismatched)


def test_command_runs_as_a_module():
    command = [sys.executable, "-m", "caffe_losses.gradient_check", *LAYER, "--layer", "AllZero"]
    finished = run(command, python_path=[ROOT, ROOT / "tests" / "gradient_check"])
    assert finished.returncode == 1
    assert "all zero" in finished.stdout
