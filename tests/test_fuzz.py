"""Random parameters, shapes and values through every layer, in real Caffe.

Each case ends in the float64 oracle's answer or in an error that the case deserves; never in a
crash, a hang or a warning. `make fuzz` runs FUZZ_CASES new cases over all layers; without that
variable a smaller set runs, the same every time.
"""

import json
import math
import os
import signal
import warnings
from collections import Counter
from typing import Any, Callable, Dict, NamedTuple, Sequence

import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import loss_and_gradients, loss_net, python_layer

Layer = NamedTuple(
    "Layer",
    [
        ("module", str),
        ("bottoms", Sequence[str]),
        ("parameters", Dict[str, Any]),  # for each a strategy of (value, whether it is allowed)
        ("oracle", Callable[..., oracle.Answer]),
    ],
)
Case = NamedTuple(
    "Case",
    [
        ("name", str),
        ("inputs", Dict[str, np.ndarray]),
        ("parameters", Dict[str, Any]),
        ("allowed", bool),  # whether the parameters are
        ("text", str),  # of the param_str
        ("loss_weight", float),
    ],
)

COEFFICIENTS = {
    "WeightedSigmoidCrossEntropyLossLayer": oracle.balanced_coefficients,
    "SigmoidCrossEntropyWeightLossLayer": oracle.weighted_coefficients,
}

# Parameters: each a strategy of (value, whether it is allowed)


def choice(*words):
    return st.sampled_from(words).map(lambda word: (word, True))


def weight_is_allowed(value):
    return math.isfinite(value) and value >= 0


def class_weights(numbers):
    """One number, or lists of about the number of channels."""
    lists = st.lists(numbers, min_size=1, max_size=7)
    return numbers.map(lambda value: (value, weight_is_allowed(value))) | lists.map(
        lambda values: (values, all(map(weight_is_allowed, values)))
    )


JUNK = st.sampled_from([True, "", "image ", [], {}, [[1]], "NaN", -1e39, 10**400])
BALANCE = choice("image", "batch", "none")
NORMALIZATION = choice("WEIGHT", "BATCH_SIZE", "NONE", "FULL", "VALID")
CHECK_LABELS = choice("always", "first", "never")
SOME_WEIGHTS = st.floats(0, 100, width=32)
CLS_WEIGHT = class_weights(SOME_WEIGHTS) | class_weights(SOME_WEIGHTS | st.floats(width=32))
IGNORE_LABEL = st.sampled_from([255, -1, 0, 0.5]) | st.floats(width=32)
IGNORE_LABEL = IGNORE_LABEL.map(lambda value: (value, math.isfinite(value)))
AXIS = st.sampled_from([1, 1, -1, -1, 0, 2, -2, 3, -4, 5]).map(lambda axis: (axis, True))

LAYERS = {
    "EuclideanLossLayer": Layer("pylayerUtils", ["prediction", "target"], {}, oracle.euclidean),
    "ChannelSumEuclideanLossLayer": Layer(
        "pylayerUtils",
        ["prediction", "target"],
        {"axis": AXIS, "reduce": choice("axis", "tail")},
        oracle.channel_sum_euclidean,
    ),
    "WeightedEuclideanLossLayer": Layer(
        "pylayerUtils",
        ["prediction", "target", "mask"],
        {"balance": BALANCE, "normalization": NORMALIZATION},
        oracle.weighted_euclidean,
    ),
    "WeightedSigmoidCrossEntropyLossLayer": Layer(
        "pylayerUtils",
        ["score", "label"],
        {"balance": BALANCE, "normalization": NORMALIZATION, "check_labels": CHECK_LABELS},
        oracle.weighted_sigmoid_cross_entropy,
    ),
    "SigmoidCrossEntropyWeightLossLayer": Layer(
        "sigmoid_ce_weight_layer",
        ["score", "label", "weight"],
        {
            "cls_weight": CLS_WEIGHT,
            "normalization": choice("NONE", "FULL", "VALID", "BATCH_SIZE"),
            "ignore_label": IGNORE_LABEL,
            "check_labels": CHECK_LABELS,
        },
        oracle.sigmoid_cross_entropy_weight,
    ),
}


@st.composite
def draw_parameters(draw, layer, channels):
    """Parameters, whether they are allowed, and their param_str."""
    parameters, allowed = {}, True
    for key, values in layer.parameters.items():
        if key == "cls_weight" or draw(st.booleans()):
            parameters[key], fits = draw(values)
            if isinstance(parameters[key], list) and draw(st.integers(0, 4)):
                parameters[key] = (parameters[key] * 7)[:channels]
                fits = channels > 0 and all(map(weight_is_allowed, parameters[key]))
            allowed = allowed and fits
    if draw(st.integers(0, 9)) == 9:
        parameters[draw(st.sampled_from([*layer.parameters, "balanec"]))] = draw(JUNK)
        allowed = False
    text = draw(st.sampled_from([json.dumps, repr]))(parameters)
    return parameters, allowed, text if parameters or draw(st.booleans()) else ""


# Shapes


@st.composite
def draw_reference(draw):
    """The shape of the first bottom."""
    axes = draw(st.sampled_from([4, 2, 3, 1, 5, 0]))
    smallest = draw(st.sampled_from([1, 1, 1, 0]))
    return draw(st.lists(st.integers(smallest, 7), min_size=axes, max_size=axes))


@st.composite
def draw_shape(draw, name, reference):
    """A shape for a bottom; most go with the reference shape."""
    shape, kinds = list(reference), ["same"] * 9 + ["one more", "one more", "swapped", "any"]
    if name in ("mask", "weight"):
        kinds += ["one channel", "no channel"] * 4
    kind = draw(st.sampled_from(kinds))
    if kind == "one more":
        return [*shape[:1], 1, *shape[1:]]
    if kind == "swapped":
        return shape[:-2] + shape[-2:][::-1]
    if kind == "any":
        return draw(draw_reference())
    if kind == "one channel":
        return [*shape[:1], 1, *shape[2:]]
    if kind == "no channel":
        return shape[:1] + shape[2:]
    return shape


def without_ones(shape):
    return [length for length in shape if length != 1]


def same_layout(shape, reference):
    return shape[:1] == reference[:1] and without_ones(shape[1:]) == without_ones(reference[1:])


def shapes_fit(case):
    """Whether the design allows the shapes, said another way than the code says it."""
    first, second, *rest = (list(array.shape) for array in case.inputs.values())
    if "axis" in LAYERS[case.name].parameters:
        axis = case.parameters.get("axis", 1)
        return first == second and -len(first) <= axis < len(first)
    numbers = case.parameters.get("cls_weight", 1)
    if isinstance(numbers, list) and len(numbers) not in (1, (first + [1, 1])[1]):
        return False
    one_for_all_channels = ([*first[:1], 1, *first[2:]], first[:1] + first[2:])
    return same_layout(second, first) and all(
        same_layout(mask, first) or mask in one_for_all_channels for mask in rest
    )


# Values

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1e-20, 255.0, 1e4, -1e4, 1e19, -1e30]
SPECIAL += [20.0, 87.4, -87.4, 88.8, -88.8, 104.0, -104.0, 3.4028235e38, -3.4028235e38]
SMALLEST = 1.1754944e-38  # smaller numbers are denormal in float32
NOT_FINITE = [math.nan, math.inf, -math.inf]
ordinary = st.floats(-30, 30, width=32)
any_finite = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from(SPECIAL)
LABELS = {
    "hard": st.sampled_from([0.0, 1.0]),
    "soft": st.floats(0, 1, width=32),
    "void": st.sampled_from([0.0, 1.0, -1.0]),
    "tiny": st.sampled_from([0.0, -0.0, 1.0, 1e-45, 1e-30, -1e-45]),
    "others": st.sampled_from([0.0, 1.0, 255.0, 0.5, -1.0]),
}
WEIGHTS = {"positive": st.floats(0, 10, width=32)}
VALUES = {"ordinary": ordinary, "small": st.floats(-(2.0**-100), 2.0**-100, width=32)}
WILD = {"finite": any_finite, "any": any_finite | st.sampled_from(NOT_FINITE)}


@st.composite
def draw_values(draw, name, shape):
    """A blob made of a few values, each drawn alone so that a failure shrinks to plain ones."""
    tame = {"label": LABELS, "mask": LABELS, "weight": WEIGHTS}.get(name, VALUES)
    wild = draw(st.integers(0, 5)) == 5
    kinds = WILD if wild else tame
    values = draw(st.lists(kinds[draw(st.sampled_from(sorted(kinds)))], min_size=1, max_size=8))
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    return random.choice(np.array(values, dtype=np.float32), size=tuple(shape))


@st.composite
def draw_case(draw, name):
    layer = LAYERS[name]
    bottoms = layer.bottoms[: draw(st.integers(2, len(layer.bottoms)))]
    reference = draw(draw_reference())
    channels = reference[1] if len(reference) > 1 else 1
    parameters, allowed, text = draw(draw_parameters(layer, channels))
    inputs = {}
    for bottom in bottoms:
        shape = draw(draw_shape(bottom, reference)) if inputs else reference
        inputs[bottom] = draw(draw_values(bottom, shape))
    loss_weight = draw(st.sampled_from([1, 1, 0.01, 3, 1000, -2]))
    return Case(name, inputs, parameters, allowed, text, loss_weight)


# What each case must end in


def is_wrong_label(case):
    """Whether there is a label that check_labels must find."""
    if "label" not in case.inputs or case.parameters.get("check_labels", "always") == "never":
        return False
    label = case.inputs["label"]
    if "balance" in LAYERS[case.name].parameters:
        return not np.all(label <= 1)
    valid = (label >= 0) & (label <= 1)
    if "ignore_label" in case.parameters:
        valid |= label == np.float32(case.parameters["ignore_label"])
    return not np.all(valid)


def errors_due(case):
    """The exceptions of which one must be raised; none where there must be an answer."""
    if not case.allowed:
        return (ValueError, TypeError)
    if not shapes_fit(case):
        return (ValueError,)
    if next(iter(case.inputs.values())).size == 0:
        return ()
    not_finite = not all(np.isfinite(array).all() for array in case.inputs.values())
    return (ValueError,) * is_wrong_label(case) + (FloatingPointError,) * not_finite


def may_overflow(case):
    """Whether products of the values can come near the end of float32."""
    factors = [max(1, float(np.max(np.abs(array)))) for array in case.inputs.values()]
    factors += [max(1, abs(weight)) for weight in np.ravel(case.parameters.get("cls_weight", 1))]
    size = next(iter(case.inputs.values())).size
    return 2 * sum(map(math.log10, factors)) + math.log10(1000 * size**2) > 37


def expected(case):
    """The oracle's loss and gradients, and how far from them a layer may be."""
    parameters = {k: v for k, v in case.parameters.items() if k != "check_labels"}
    bottoms = list(case.inputs.values())
    loss, gradients = LAYERS[case.name].oracle(*bottoms, **parameters)
    loss_error = 1e-6 * abs(loss) + SMALLEST * bottoms[0].size
    errors = [1e-5 * np.abs(gradient) + SMALLEST for gradient in gradients]
    if bottoms[0].size and case.name in COEFFICIENTS:
        # With soft labels or negative weights two terms can cancel: each is right to its own size.
        a, b = map(np.abs, COEFFICIENTS[case.name](*bottoms, **parameters))
        # A weight or a sigmoid may be denormal, whatever it is multiplied with.
        x = oracle.batch_channel_position(bottoms[0])
        denormal = SMALLEST * (1 + a + b) * (1 + np.abs(x))
        loss_error = 1e-6 * oracle.cross_entropy(bottoms[0], a, b)[0] + denormal.sum()
        (of_terms,) = oracle.cross_entropy(bottoms[0], a, -b)[1]
        errors = [1e-5 * of_terms + denormal.reshape(of_terms.shape)]
    if case.name == "ChannelSumEuclideanLossLayer":
        # Sums cancel too; they are made in float64.
        total = sum(float(np.sum(np.abs(array), dtype=np.float64)) for array in bottoms)
        loss_error += 1e-12 * total**2
        errors = [error + 1e-13 * total for error in errors]
    return (loss, gradients), (loss_error, errors)


def require_answer(case, loss, found):
    """Fails unless loss and gradients are finite and those of the oracle."""
    (correct, gradients), (loss_error, errors) = expected(case)
    assert math.isfinite(loss)
    assert abs(loss - correct) <= loss_error, (loss, correct)
    names = list(case.inputs)
    for name in names[: len(gradients)]:
        gradient, error = gradients[names.index(name)], errors[names.index(name)]
        if gradient.size:
            wrong = ~(np.abs(found[name] / case.loss_weight - gradient) <= error)
            assert not wrong.any(), (
                name,
                found[name][wrong][0] / case.loss_weight,
                gradient[wrong][0],
            )
    for name in names[len(gradients) :]:
        assert not np.any(found.get(name, 0)), "masks and labels have a zero gradient"


def end_of(case):
    """What the case ends in: "answer" or the name of an error; fails where it should not."""
    due = errors_due(case)
    layer = python_layer(
        LAYERS[case.name].module,
        case.name,
        list(case.inputs),
        case.text,
        loss_weight=case.loss_weight,
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            loss, gradients = loss_and_gradients(loss_net(layer, case.inputs))
    except (ValueError, TypeError, FloatingPointError) as error:
        assert str(error).startswith(f"{case.name}: "), "an error of NumPy's"
        overflows = (FloatingPointError,) * (not due and may_overflow(case))
        assert isinstance(error, due + overflows), error
        return type(error).__name__
    assert not due, "an error was due"
    require_answer(case, loss, gradients)
    return "answer"


CASES = int(os.environ.get("FUZZ_CASES", 1500))


@pytest.mark.parametrize("name", LAYERS)
def test_every_case_ends_in_the_right_answer_or_a_documented_error(name):
    ends = Counter()

    @settings(
        max_examples=-(-CASES // len(LAYERS)),
        derandomize="FUZZ_CASES" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=HealthCheck.all(),
    )
    @given(draw_case(name))
    def check(case):
        signal.alarm(60)  # a hang ends the process
        ends[end_of(case)] += 1
        signal.alarm(0)

    check()
    print(f"{name}: {sum(ends.values())} cases, {dict(ends)}")
    assert ends["answer"] > CASES / len(LAYERS) / 5
    assert ends["ValueError"] and ends["FloatingPointError"]
