"""Random parameters, shapes and values through every layer, in real Caffe.

Each case ends in the float64 oracle's answer or in an error that the case deserves; never in a
crash, a hang or a warning. `make fuzz` runs FUZZ_CASES new cases over all layers; without that
variable a smaller set runs, the same every time.
"""

import functools
import json
import math
import os
import warnings
from collections import Counter
from typing import Any, Dict, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.draws import Interval
from support.layers import (
    LAYERS,
    Layer,
    axis_of,
    channels_of,
    channels_shared,
    of_the_formula,
)
from support.nets import fed, loss_and_gradients, loss_net, python_layer
from support.parameters import FLOAT32_MAX, Axis, Boolean, Number, NumberForEachChannel, Word
from support.tolerance import SMALLEST

Case = NamedTuple(
    "Case",
    [
        ("layer", Layer),
        ("inputs", Dict[str, np.ndarray]),
        ("parameters", Dict[str, Any]),
        ("text", str),  # of the param_str
        ("loss_weight", float),
        ("follows_an_error", bool),  # the net has seen a batch that is not finite
    ],
)

# Parameters


@functools.singledispatch
def values_of(parameter):
    """A strategy of values of a parameter, most of them allowed."""
    raise NotImplementedError(f"no strategy for {type(parameter).__name__}")


@values_of.register(Word)
def _(parameter):
    return st.sampled_from(parameter.words)


@values_of.register(Boolean)
def _(parameter):
    return st.booleans()


@values_of.register(Number)
def _(parameter):
    smallest = max(parameter.minimum, parameter.above, -100)
    largest = min(parameter.maximum, smallest + 100)
    ordinary = st.floats(smallest, largest).map(lambda x: float(np.float32(x)))
    numbers = [x for x in parameter.examples if not isinstance(x, list)]
    return st.sampled_from(numbers) | ordinary | st.floats(width=32)


@values_of.register(NumberForEachChannel)
def _(parameter):
    number = values_of.dispatch(Number)(parameter)
    return number | st.lists(number, min_size=1, max_size=7)


@values_of.register(Axis)
def _(parameter):
    return st.sampled_from([1, 1, -1, -1, 0, 2, -2, 3, -4, 5])


JUNK = st.sampled_from([True, "", "image ", [], {}, [[1]], "NaN", -1e39, 10**400])


@st.composite
def draw_parameters(draw, layer, channels):
    """Parameters and their param_str."""
    parameters = {}
    for key, parameter in layer.parameters.items():
        if parameter.required or draw(st.booleans()):
            value = draw(values_of(parameter))
            if not parameter.allows(value) and draw(st.booleans()):
                value = draw(st.sampled_from(parameter.examples))
            if isinstance(value, list) and draw(st.integers(0, 4)):
                value = (value * 7)[:channels]
            parameters[key] = value
    if draw(st.integers(0, 9)) == 9:
        parameters[draw(st.sampled_from([*layer.parameters, "balanec"]))] = draw(JUNK)
    text = draw(st.sampled_from([json.dumps, repr]))(parameters)
    return parameters, text if parameters or draw(st.booleans()) else ""


# Shapes


@st.composite
def draw_first_shape(draw):
    """The shape of the first bottom."""
    axes = draw(st.sampled_from([4, 2, 3, 1, 5, 0]))
    smallest = draw(st.sampled_from([1, 1, 1, 0]))
    return tuple(draw(st.lists(st.integers(smallest, 7), min_size=axes, max_size=axes)))


@st.composite
def draw_shape(draw, bottom, first, axis):
    """A shape for a bottom; most go with the first shape."""
    kind = draw(st.sampled_from(["layout"] * 9 + ["one more", "one more", "swapped", "any"]))
    shape = draw(st.sampled_from(list(bottom.layouts.layouts)))(first, axis)
    if kind == "one more":
        return shape[:1] + (1,) + shape[1:]
    if kind == "swapped":
        return shape[:-2] + shape[-2:][::-1]
    return draw(draw_first_shape()) if kind == "any" else shape


# Elements

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, 1.1754942e-38, 1e-20, 255.0, 1e4, -1e4, 1e19, -1e30]
SPECIAL += [20.0, 87.4, -87.4, 88.8, -88.8, 104.0, -104.0, 3.4028235e38, -3.4028235e38]
NOT_FINITE = [math.nan, math.inf, -math.inf]
any_finite = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from(SPECIAL)
# Both ends of float32, whatever the sign.
ANY_SIZE = st.builds(
    lambda sign, exponent: float(np.float32(sign * 10.0**exponent)),
    st.sampled_from([1, -1]),
    st.floats(-37.5, 38.5),
)
STRANGE = st.sampled_from([-0.0, 1e-45, -1e-45, 1e-30, -1e-30, 0.5, -1.0, 255.0])


@st.composite
def draw_elements(draw, bottom, channels):
    """A strategy of elements: those of one of the bottom's draws, strange ones, or any."""
    elements = draw(st.sampled_from(list(bottom.draws))).elements_for(channels)
    if isinstance(elements, Interval):
        tame = st.floats(elements.low, elements.high, width=32)
    else:
        tame = st.sampled_from(sorted(set(map(float, elements))))
    return draw(
        st.sampled_from(
            [tame] * 8
            + [tame | STRANGE] * 2
            + [any_finite]
            + [any_finite | st.sampled_from(NOT_FINITE)] * 2
        )
    )


@st.composite
def draw_values(draw, bottom, shape, channels):
    """A blob made of a few values, each drawn alone so that a failure shrinks to plain ones."""
    elements = draw(draw_elements(bottom, channels))
    values = draw(st.lists(elements, min_size=1, max_size=8))
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    return random.choice(np.array(values, dtype=np.float32), size=shape)


@st.composite
def draw_case(draw, layer):
    first = draw(draw_first_shape())
    parameters, text = draw(draw_parameters(layer, channels_of(first, {})))
    axis, shared = 1, {}
    if allowed(layer, parameters):
        axis, shared = axis_of(first, parameters), parameters
    required = [bottom for bottom in layer.bottoms if not bottom.optional]
    bottoms = layer.bottoms[: draw(st.integers(len(required), len(layer.bottoms)))]
    inputs = {}
    for bottom in bottoms:
        shape = draw(draw_shape(bottom, first, axis)) if inputs else first
        channels = channels_shared(shape, first, shared)
        inputs[bottom.name] = draw(draw_values(bottom, shape, channels))
    if draw(st.integers(0, 3)) == 3:
        for name in inputs:
            if "weight" in name:
                inputs[name] = scaled(inputs[name], draw(ANY_SIZE))
    loss_weight = draw(st.sampled_from([1, 1, 0.01, 3, 1000, -2]) | ANY_SIZE)
    return Case(layer, inputs, parameters, text, loss_weight, draw(st.booleans()))


def scaled(array, factor):
    """The array with numbers as large as the factor, as far as float32 holds them."""
    with np.errstate(all="ignore"):
        return np.clip(array * np.float64(factor), -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)


# What each case must end in


def allowed(layer, parameters):
    """Whether each parameter is known and has a value that it may have."""
    return all(
        key in layer.parameters and layer.parameters[key].allows(value)
        for key, value in parameters.items()
    )


def shapes_fit(case):
    shapes = [array.shape for array in case.inputs.values()]
    axis = axis_of(shapes[0], case.parameters)
    return case.layer.takes(shapes[0], case.parameters) and all(
        bottom.layouts.fit(shape, shapes[0], axis)
        for bottom, shape in zip(case.layer.bottoms[1:], shapes[1:])
    )


def errors_due(case):
    """The exceptions of which one must be raised; none where there must be an answer."""
    if not allowed(case.layer, case.parameters):
        return (ValueError, TypeError)
    if not shapes_fit(case):
        return (ValueError,)
    if next(iter(case.inputs.values())).size == 0:
        return ()
    is_wrong = case.layer.wrong_elements(case.inputs, case.parameters)
    not_finite = not all(np.isfinite(array).all() for array in case.inputs.values())
    return (ValueError,) * is_wrong + (FloatingPointError,) * not_finite


def answer_of(case):
    """The oracle's answer."""
    with np.errstate(all="ignore"):
        return case.layer.oracle(*case.inputs.values(), **of_the_formula(case.parameters))


def may_overflow(case):
    """Whether the loss or a gradient comes near the end of float32, or the oracle has none."""
    loss, gradients = answer_of(case)
    sizes = [abs(loss), *(np.abs(case.loss_weight * g).max() for g in gradients if g.size)]
    return not all(size < 0.999 * FLOAT32_MAX for size in sizes)


def require_answer(case, loss, found):
    """Fails unless loss and gradients are finite and those of the oracle."""
    bottoms, parameters = list(case.inputs.values()), of_the_formula(case.parameters)
    answer = answer_of(case)
    loss_error, errors = case.layer.tolerance(answer, *bottoms, **parameters)
    assert math.isfinite(loss)
    assert abs(loss - answer[0]) <= loss_error, (loss, answer[0])
    differentiable = [bottom.name for bottom in case.layer.bottoms if bottom.differentiable]
    for name, gradient, error in zip(differentiable, answer[1], errors):
        if gradient.size:
            correct = case.loss_weight * gradient
            allowed = abs(case.loss_weight) * error + SMALLEST
            wrong = ~(np.abs(found[name] - correct) <= allowed)
            assert not wrong.any(), (name, found[name][wrong][0], correct[wrong][0])
    for name in set(case.inputs) - set(differentiable):
        assert not np.any(found.get(name, 0)), "masks and labels have a zero gradient"


def fail_once(net):
    """A forward of bottoms that are not finite."""
    for name in net.inputs:
        if net.blobs[name].count:
            net.blobs[name].data[...] = np.nan
    try:
        net.forward()
    except (ValueError, FloatingPointError):
        pass


def end_of(case):
    """What the case ends in: "answer" or the name of an error; fails where it should not."""
    due = errors_due(case)
    layer = python_layer(
        case.layer.module,
        case.layer.name,
        list(case.inputs),
        case.text,
        loss_weight=repr(case.loss_weight),
    )
    try:
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            net = loss_net(layer, case.inputs)
            if case.follows_an_error:
                fail_once(net)
            loss, gradients = loss_and_gradients(fed(net, case.inputs))
    except (ValueError, TypeError, FloatingPointError) as error:
        assert str(error).startswith(f"{case.layer.name}: "), "an error of NumPy's"
        overflows = (FloatingPointError,) * (not due and may_overflow(case))
        assert isinstance(error, due + overflows), error
        return type(error).__name__
    assert not due, "an error was due"
    require_answer(case, loss, gradients)
    return "answer"


CASES = int(os.environ.get("FUZZ_CASES", 40 * len(LAYERS)))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_every_case_ends_in_the_right_answer_or_a_documented_error(layer):
    ends = Counter()

    @settings(
        max_examples=-(-CASES // len(LAYERS)),
        derandomize="FUZZ_CASES" not in os.environ,
        database=None,
        deadline=None,
        suppress_health_check=HealthCheck.all(),
    )
    @given(draw_case(layer))
    def check(case):
        ends[end_of(case)] += 1

    check()
    print(f"{layer.name}: {sum(ends.values())} cases, {dict(ends)}")
    assert ends["answer"] > CASES / len(LAYERS) / 5
    assert ends["ValueError"]
