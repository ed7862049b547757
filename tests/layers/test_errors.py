"""Errors of the layers in real Caffe: each says what was found, what was expected and the fix."""

import contextlib
import json
import warnings

import numpy as np
import pytest

from caffe_losses.loops import parts
from support.layers import (
    DEFAULTS,
    LAYER,
    LAYERS,
    axis_of,
    draw,
    expected,
    layer_of,
    name_of,
    row_with,
)
from support.nets import fed, loss_and_gradients, loss_net, python_layer
from support.parameters import Axis, Number, NumberForEachChannel

SHAPE = (2, 3, 4)

each_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
each_row = pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
CROSS_ENTROPIES = ["WeightedSigmoidCrossEntropyLossLayer", "SigmoidCrossEntropyWeightLossLayer"]


def for_each(cases, names, name_of_case):
    """Runs a test over cases, each named."""
    cases = [pytest.param(*case, id=name_of_case(*case)) for case in cases]
    return pytest.mark.parametrize(names, cases)


each_bottom = for_each(
    [(layer, bottom) for layer in LAYERS for bottom in layer.bottoms],
    "layer, bottom",
    lambda layer, bottom: f"{layer.name}-{bottom.name}",
)


def message_of(error, function, *arguments):
    """The message of the error that a call raises."""
    with pytest.raises(error) as raised:
        function(*arguments)
    assert raised.type is error
    return str(raised.value)


def construct(layer, shapes, parameters=None, tops="loss"):
    """Constructs a net in which bottoms of these shapes go into the layer."""
    inputs = {f"bottom{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    parameters = layer.required if parameters is None else parameters
    text = python_layer(layer.module, layer.name, list(inputs), parameters, loss_weight=1)
    text = text.replace('top: "loss"', " ".join(f'top: "{top}"' for top in tops.split()))
    return loss_net(text, inputs)


def net_of(row, inputs, **options):
    return loss_net(layer_of(row, **options), inputs)


# Bottoms, tops and parameters


def wrong_counts():
    for layer in LAYERS:
        required = sum(not bottom.optional for bottom in layer.bottoms)
        for count in (0, required - 1, len(layer.bottoms) + 1):
            yield layer, count


@pytest.mark.one_engine
@for_each(wrong_counts(), "layer, count", lambda layer, count: f"{layer.name}-{count}")
def test_a_wrong_number_of_bottoms_is_an_error(layer, count):
    message = message_of(ValueError, construct, layer, [(2, 3)] * count)
    names = ", ".join(b.name + " (optional)" * b.optional for b in layer.bottoms)
    assert message == f"{layer.name}: {count} bottoms; expected {names}"


@pytest.mark.one_engine
@each_layer
@pytest.mark.parametrize("tops", ["", "loss other"])
def test_a_wrong_number_of_tops_is_an_error(layer, tops):
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, None, tops)
    assert message == f"{layer.name}: {len(tops.split())} tops; expected 1, the loss"


@pytest.mark.one_engine
@each_layer
@pytest.mark.parametrize("param_str", ['{"balanec": "image"}', "{", "__import__('os').abort()"])
def test_a_wrong_param_str_is_an_error_that_names_the_layer(layer, param_str):
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, param_str)
    assert message.startswith(f"{layer.name}: ")
    assert "balanec" in message or repr(param_str) in message


@pytest.mark.one_engine
@for_each(
    [(layer, key) for layer in LAYERS for key in layer.parameters],
    "layer, key",
    lambda layer, key: f"{layer.name}-{key}",
)
def test_a_value_that_a_parameter_may_not_have_is_an_error_that_names_both(layer, key):
    allows = layer.parameters[key].allows
    junk = [value for value in ("imgae", True, -1e39, -0.5, []) if not allows(value)]
    assert junk
    for value in junk:
        with pytest.raises((ValueError, TypeError)) as raised:
            construct(layer, [(2, 3)] * 2, {**layer.required, key: value})
        assert str(raised.value).startswith(f'{layer.name}: parameter "{key}": {value!r} ')
        assert "expected" in str(raised.value)


def with_limits():
    """The parameters with a limit: the last number that they may be, and the next one."""
    for layer in LAYERS:
        for key, parameter in layer.parameters.items():
            if isinstance(parameter, Number):
                lowest, above, highest = parameter.minimum, parameter.above, parameter.maximum
                for last, beyond in [
                    (lowest, np.nextafter(lowest, -np.inf)),
                    (np.nextafter(above, np.inf), above),
                    (highest, np.nextafter(highest, np.inf)),
                ]:
                    if np.isfinite([last, beyond]).all():
                        yield layer, key, float(last), float(beyond)


@pytest.mark.one_engine
@for_each(
    with_limits(),
    "layer, key, last, beyond",
    lambda layer, key, last, beyond: f"{layer.name}-{key}-{last:g}",
)
def test_a_parameter_may_be_at_its_limit_and_no_further(layer, key, last, beyond):
    inputs = draw(row_with(layer), SHAPE)
    net_of(row_with(layer, **{key: last}), inputs)
    message = message_of(ValueError, net_of, row_with(layer, **{key: beyond}), inputs)
    assert message.startswith(f'{layer.name}: parameter "{key}": {beyond!r} is too ')


@pytest.mark.one_engine
@for_each(
    [(layer, key) for layer in LAYERS for key in layer.required],
    "layer, key",
    lambda layer, key: f"{layer.name}-{key}",
)
def test_a_required_parameter_is_named(layer, key):
    message = message_of(ValueError, construct, layer, [(2, 3)] * 2, "")
    assert message.startswith(f'{layer.name}: the parameter "{key}" is required')


def with_parameter(kind):
    """The layers with parameters of a kind, and their names."""
    return for_each(
        [
            (layer, key)
            for layer in LAYERS
            for key, parameter in layer.parameters.items()
            if isinstance(parameter, kind)
        ],
        "layer, key",
        lambda layer, key: f"{layer.name}-{key}",
    )


@pytest.mark.one_engine
@with_parameter(NumberForEachChannel)
@pytest.mark.parametrize("count", [2, 4])
def test_a_list_of_numbers_must_fit_the_channels(layer, key, count):
    row = row_with(layer, **{key: [1] * count})
    message = message_of(ValueError, net_of, row, draw(row, SHAPE))
    assert message == (
        f'{layer.name}: parameter "{key}" has {count} numbers, the {layer.bottoms[0].name} of '
        f"shape {SHAPE} 3 channels along axis 1; expected one number, or one for each channel"
    )


@pytest.mark.one_engine
def test_a_list_of_numbers_must_fit_the_channels_of_another_axis():
    row = row_with(LAYER["SoftmaxFocalLossLayer"], axis=-1, alpha=[1, 1, 1])
    message = message_of(ValueError, net_of, row, draw(row, SHAPE))
    assert '"alpha" has 3 numbers' in message and "4 channels along axis 2" in message


@pytest.mark.one_engine
@with_parameter(Axis)
@pytest.mark.parametrize("axis", [3, -4])
def test_an_axis_that_the_first_bottom_lacks_is_an_error(layer, key, axis):
    inputs = draw(row_with(layer), SHAPE)
    message = message_of(ValueError, net_of, row_with(layer, **{key: axis}), inputs)
    assert message == (
        f'{layer.name}: parameter "axis" is {axis}, but the {layer.bottoms[0].name} has shape '
        f"{SHAPE}; expected an axis that it has"
    )


# Shapes

PAIRS_OF_SHAPES = [  # of the first bottom and another
    ((2, 1, 4, 5), (2, 4, 5)),
    ((2, 3), (2, 3, 1, 1)),
    ((2, 3), (3, 2)),
    ((2, 3), (6,)),
    ((2, 3, 4), (2, 4, 3)),
    ((2, 3, 4), (2, 12)),
    ((1, 3), (3,)),
    ((2, 3), (1, 2, 3)),
    ((2, 3, 4), (2, 1, 4)),
    ((2, 3, 4), (2, 4)),
    ((2, 3), (2, 4)),
    ((), (2,)),
    ((2, 3), (0, 3)),
    ((1, 2, 3, 4, 5), (1, 2, 3, 5, 4)),
]
PAIRS_OF_SHAPES += [
    ((2, 3, 4, 5), shape)
    for shape in [
        (2, 3, 4, 5),
        (2, 1, 4, 5),
        (2, 4, 5),
        (1, 1, 4, 5),  # one image's mask for all
        (4, 5),
        (1,),
        (2,),
        (2, 1, 1, 1),
        (2, 3, 1, 1),  # channels alone
        (2, 3),
        (2, 1, 4, 1),  # rows alone
        (2, 1, 1, 5),
        (2, 4, 5, 1),
        (2, 1, 5, 4),
        (2, 2, 4, 5),
        (2, 20),
        (2, 60),
        (6, 4, 5),
        (1, 2, 1, 4, 5),
    ]
]


@pytest.mark.one_engine
@for_each(
    [(layer, i) for layer in LAYERS for i in range(1, len(layer.bottoms))],
    "layer, i",
    lambda layer, i: f"{layer.name}-{layer.bottoms[i].name}",
)
def test_a_bottom_has_a_shape_that_goes_with_the_first_one_or_is_an_error(layer, i):
    """Shapes of equal counts included, and those that NumPy would broadcast."""
    row = row_with(layer)
    bottom, reference = layer.bottoms[i], layer.bottoms[0].name
    refused = 0
    for first, shape in PAIRS_OF_SHAPES:
        axis = axis_of(first, row.parameters)
        if not layer.takes(first, row.parameters):
            continue
        shapes = [first] + [row.layouts[other.name](first, axis) for other in layer.bottoms[1:i]]
        if bottom.layouts.fit(shape, first, axis):
            construct(layer, [*shapes, shape], row.parameters)
        else:
            refused += 1
            message = message_of(ValueError, construct, layer, [*shapes, shape], row.parameters)
            assert message.startswith(f"{layer.name}: the {bottom.name} has shape {shape}")
            for part in (reference, str(first), "expected"):
                assert part in message
    assert refused > 15


@pytest.mark.one_engine
def test_a_shape_that_differs_and_a_mask_that_does_not_fit_are_explained():
    layer = LAYER["WeightedEuclideanLossLayer"]
    assert message_of(ValueError, construct, layer, [(2, 3, 4), (2, 4, 3)]) == (
        "WeightedEuclideanLossLayer: the target has shape (2, 4, 3), the prediction (2, 3, 4); "
        "expected the same shape (axes of size 1 after the batch axis may differ)"
    )
    assert message_of(ValueError, construct, layer, [(2, 3, 4, 5)] * 2 + [(2, 20)]) == (
        "WeightedEuclideanLossLayer: the mask has shape (2, 20); expected (2, 1, 4, 5) or "
        "(2, 4, 5) (one value for all channels) or (2, 3, 4, 5), to go with the prediction of "
        "shape (2, 3, 4, 5)"
    )


@pytest.mark.one_engine
@each_row
def test_shapes_that_stop_fitting_later_are_an_error(row):
    inputs = draw(row, SHAPE)
    net = net_of(row, inputs)
    net.forward()
    net.blobs[list(inputs)[1]].reshape(2, 4, 3)
    assert "(2, 4, 3)" in message_of(ValueError, net.forward)
    assert np.isfinite(fed(net, inputs).forward()["loss"])


# Elements that must not be


def mistakes():
    for layer in LAYERS:
        for bottom in layer.bottoms:
            for mistake in bottom.mistakes:
                yield layer, bottom, mistake


def checked_by_choice():
    """For each layer with check_labels, its first mistake."""
    firsts = {layer.name: (layer, b, m) for layer, b, m in reversed(list(mistakes()))}
    return [case for case in firsts.values() if "check_labels" in case[0].parameters]


def name_of_mistake(layer, bottom, mistake):
    return f"{layer.name}-{bottom.name}-{mistake.element:g}-{json.dumps(mistake.parameters)}"


each_mistake = for_each(mistakes(), "layer, bottom, mistake", name_of_mistake)
each_checked = for_each(checked_by_choice(), "layer, bottom, mistake", name_of_mistake)


@each_mistake
def test_an_element_that_must_not_be_is_named_with_its_place_and_the_fix(layer, bottom, mistake):
    row = row_with(layer, **mistake.parameters)
    inputs = draw(row, SHAPE)
    array = inputs[bottom.name]
    place = tuple(map(int, np.unravel_index(array.size - 2, array.shape)))
    array[place] = mistake.element
    message = message_of(ValueError, net_of(row, inputs).forward)
    assert message.startswith(
        f"{layer.name}: the {bottom.name} is wrong in 1 of {array.size} elements, the first "
        f"{mistake.element:g} at {place}; expected "
    )
    assert mistake.fix in message


OF_FRACTIONS = [*CROSS_ENTROPIES, "DiceLossLayer", "TverskyLossLayer"]


@pytest.mark.parametrize("name", OF_FRACTIONS)
def test_a_label_that_rounds_to_1_is_taken_and_others_are_shown_with_their_digits(name):
    """255 times 0.0039215695, which is 1/255 written with eight digits, is 1.0000002."""
    row = row_with(LAYER[name])
    inputs = draw(row, SHAPE)
    inputs["label"] = inputs["label"] * np.float32(1.0000002)
    assert inputs["label"].max() > 1
    correct, _ = expected(row, inputs)
    np.testing.assert_allclose(loss_and_gradients(net_of(row, inputs))[0], correct, rtol=1e-5)
    inputs["label"][0, 0, 0], inputs["label"][1, 2, 3] = 1.0001, 1.0002
    assert "the first 1.0002 at (1, 2, 3" in message_of(ValueError, net_of(row, inputs).forward)


def test_the_element_that_is_ignored_is_no_mistake_and_all_mistakes_are_counted():
    row = row_with(LAYER["SigmoidCrossEntropyWeightLossLayer"], ignore_label=255)
    inputs = draw(row, SHAPE)
    inputs["label"][0, 0] = 255
    inputs["label"][1, 1:, 3] = 254
    message = message_of(ValueError, net_of(row, inputs).forward)
    assert "wrong in 2 of 24 elements, the first 254 at (1, 1, 3)" in message


@pytest.mark.parametrize("first, fix", [(0.5, "soft label"), (1.5, '"ignore_label": 1.5')])
def test_the_fix_goes_with_the_first_label_that_is_wrong(first, fix):
    row = row_with(LAYER["SigmoidFocalLossLayer"])
    inputs = draw(row, SHAPE)
    inputs["label"][0, 1, 2] = first
    inputs["label"][1, 2] = 255, 0.5, 255, 0.5
    message = message_of(ValueError, net_of(row, inputs).forward)
    assert f"wrong in 5 of 24 elements, the first {first} at (0, 1, 2)" in message
    assert fix in message


@each_checked
@pytest.mark.parametrize("check_labels, fails", [("always", [1, 2]), ("first", [1]), ("never", [])])
def test_check_labels_chooses_the_batches(layer, bottom, mistake, check_labels, fails):
    """Wrong labels come in batch 1 of one net and batch 2 of another."""
    row = row_with(layer, check_labels=check_labels)
    right = draw(row, SHAPE)
    wrong = {**right, bottom.name: np.full_like(right[bottom.name], mistake.element)}
    for batch in (1, 2):
        net = net_of(row, right)
        for _ in range(batch - 1):
            net.forward()
        fed(net, wrong)
        if batch in fails:
            message_of(ValueError, net.forward)
        else:
            assert np.isfinite(net.forward()["loss"])


@each_checked
def test_labels_that_forward_does_not_check_are_no_error_of_backward_either(layer, bottom, mistake):
    """Where it computes the gradient again, as the diff of the top has changed."""
    row = row_with(layer, check_labels="never")
    inputs = draw(row, SHAPE)
    inputs[bottom.name][...] = mistake.element
    net = net_of(row, inputs)
    net.forward()
    net.blobs["loss"].diff[...] = 2
    net._backward(len(net.layers) - 1, 0)
    assert np.isfinite(net.blobs[layer.bottoms[0].name].diff).all()


@each_checked
@pytest.mark.parametrize("empty", [(0, 3, 4), (2, 0, 4)])
def test_the_first_batch_that_is_not_empty_is_the_first_to_check(layer, bottom, mistake, empty):
    row = row_with(layer, check_labels="first")
    inputs = draw(row, SHAPE)
    net = net_of(row, draw(row, empty))
    net.forward()
    inputs[bottom.name][...] = mistake.element
    message_of(ValueError, fed(net, inputs).forward)


# Values that are not finite


def error_of_nan(bottom, parameters):
    """What a NaN in the bottom raises: where elements are checked it may be a wrong one."""
    is_checked = bottom.wrong is not None and parameters.get("check_labels") != "never"
    is_wrong = is_checked and bottom.wrong(np.array([np.nan]), parameters, 1).any()
    return ValueError if is_wrong else FloatingPointError


def unchecked(layer):
    """The parameters with which no label is checked."""
    return {"check_labels": "never"} if "check_labels" in layer.parameters else {}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@for_each(
    [
        (layer, bottom)
        for layer in LAYERS
        for bottom in layer.bottoms
        if error_of_nan(bottom, unchecked(layer)) is FloatingPointError
    ],
    "layer, bottom",
    lambda layer, bottom: f"{layer.name}-{bottom.name}",
)
def test_a_value_that_is_not_finite_is_named(layer, bottom, value):
    row = row_with(layer, **unchecked(layer))
    inputs = draw(row, SHAPE)
    net = net_of(row, inputs)
    for _ in range(3):
        net.forward()
    array = net.blobs[bottom.name].data
    array[1, -1, 2:] = value
    assert message_of(FloatingPointError, net.forward) == (
        f"{layer.name}: the {bottom.name} is not finite in 2 of {array.size} elements, the first "
        f"{value:g} at (1, {array.shape[1] - 1}, 2) (iteration 4 of this layer)"
    )


def bottoms_with_their_draws():
    """Each bottom with each of its draws; where labels can go unchecked, checked and unchecked."""
    for layer in LAYERS:
        for bottom in layer.bottoms:
            for one in bottom.draws:
                for parameters in [{}, unchecked(layer)] if unchecked(layer) else [{}]:
                    yield layer, bottom, one, parameters


@for_each(
    bottoms_with_their_draws(),
    "layer, bottom, one, parameters",
    lambda layer, bottom, one, parameters: (
        f"{layer.name}-{bottom.name}-{one.name}-{json.dumps(parameters)}"
    ),
)
def test_a_nan_is_found_wherever_it_stands_in_a_large_blob(layer, bottom, one, parameters):
    """In the first, a middle and the last of many blocks, whatever else the bottom holds."""
    parameters = {**one.needs, **parameters}
    row = row_with(layer, {bottom.name: one}, **parameters)
    inputs = draw(row, (3, 3, 121, 123))
    assert inputs[layer.bottoms[0].name].size > parts.PART
    net = net_of(row, inputs)
    flat = net.blobs[bottom.name].data.reshape(-1)
    for place in (0, flat.size // 2, flat.size - 1):
        before, flat[place] = flat[place], np.nan
        message = message_of(error_of_nan(bottom, parameters), net.forward)
        index = tuple(map(int, np.unravel_index(place, net.blobs[bottom.name].data.shape)))
        assert f"in 1 of {flat.size} elements, the first nan at {index}" in message
        flat[place] = before


def weightless():
    for layer in LAYERS:
        for bottom in layer.bottoms:
            for element in bottom.without_weight:
                yield layer, bottom, element


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@for_each(
    weightless(),
    "layer, bottom, element",
    lambda layer, bottom, element: f"{layer.name}-{bottom.name}-{element}",
)
def test_no_weight_of_zero_hides_a_value_that_is_not_finite(layer, bottom, element, value):
    """Neither an ignored position nor an image without positives nor a zero weight."""
    row = row_with(layer)
    inputs = draw(row, SHAPE)
    inputs[bottom.name][1] = element
    net = net_of(row, inputs)
    assert np.isfinite(net.forward()["loss"])
    net.blobs[layer.bottoms[0].name].data[1, 0, 0] = value
    assert "(1, 0, 0) (iteration 2" in message_of(FloatingPointError, net.forward)


@each_bottom
def test_training_goes_on_after_an_error_that_was_caught(layer, bottom, tmp_path):
    """A training script can catch the error and take a snapshot."""
    row = row_with(layer)
    inputs = draw(row, SHAPE)
    net = net_of(row, inputs)
    before = loss_and_gradients(net)
    net.blobs[bottom.name].data[0, 0, 0] = np.nan
    message_of(error_of_nan(bottom, {}), net.forward)
    net.save(str(tmp_path / "snapshot.caffemodel"))
    assert (tmp_path / "snapshot.caffemodel").stat().st_size > 0
    after = loss_and_gradients(fed(net, inputs))
    np.testing.assert_equal(after, before)


# What overflows

UNBOUNDED = [layer for layer in LAYERS if layer.overflows is not None]
each_unbounded = pytest.mark.parametrize("layer", UNBOUNDED, ids=lambda layer: layer.name)


@each_unbounded
def test_a_loss_that_overflows_is_an_error(layer):
    row = row_with(layer, **layer.overflows)
    inputs = draw(row, SHAPE)
    first = inputs[layer.bottoms[0].name]
    first[...] = np.where(first < 0, -3e38, 3e38)
    message = message_of(FloatingPointError, net_of(row, inputs).forward)
    assert message.startswith(
        f"{layer.name}: the loss overflows float32, though all bottoms are finite"
    )
    assert "(iteration 1 of this layer)" in message


@each_unbounded
def test_a_gradient_that_overflows_is_an_error_and_a_large_one_is_none(layer):
    row = row_with(layer, **layer.overflows)
    inputs = draw(row, SHAPE)
    name = layer.bottoms[0].name
    inputs[name] *= 1e4
    net = net_of(row, inputs, loss_weight=3e38)
    net.forward()
    gradient = 3e38 * expected(row, inputs)[1][name]
    if np.abs(gradient).max() <= np.finfo(np.float32).max:
        net._backward(len(net.layers) - 1, 0)
        np.testing.assert_allclose(net.blobs[name].diff, gradient, rtol=1e-5, atol=1e30)
        return
    message = message_of(FloatingPointError, net._backward, len(net.layers) - 1, 0)
    for part in (layer.name, "the loss_weight 3e+38", "overflows float32", "iteration 1 of this"):
        assert part in message


@pytest.mark.parametrize("other", [0, 1e37])
def test_a_gradient_overflows_though_the_loss_is_negative_or_its_terms_cancel(other):
    row = row_with(LAYER["SigmoidCrossEntropyWeightLossLayer"])
    inputs = draw(row, SHAPE)
    inputs["score"][...] = inputs["label"][...] = 0
    inputs["weight"][:, :, ::2] = -1e37
    inputs["weight"][:, :, 1::2] = other
    net = net_of(row, inputs, loss_weight=1000)
    assert net.forward()["loss"] <= 0
    message = message_of(FloatingPointError, net._backward, len(net.layers) - 1, 0)
    assert "gradient overflows float32" in message and "the loss_weight 1000" in message


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_scores_of_any_size_give_a_finite_loss_and_gradient(name, size):
    row = row_with(LAYER[name])
    inputs = draw(row, SHAPE)
    inputs["score"] = np.sign(inputs["score"]) * np.float32(size)
    loss, gradients = loss_and_gradients(net_of(row, inputs))
    correct, correct_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, correct, rtol=1e-6)
    np.testing.assert_allclose(
        gradients["score"], correct_gradients["score"], rtol=1e-5, atol=1e-38
    )


@pytest.mark.parametrize("size", [1e4, 1e15, 1e30])
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if "Euclidean" in layer.name])
def test_predictions_of_any_size_give_the_right_gradient_or_an_error(layer, size):
    row = row_with(layer)
    inputs = draw(row, SHAPE)
    inputs["prediction"] = np.sign(inputs["prediction"]) * np.float32(size)
    net = net_of(row, inputs)
    if size == 1e30:  # its square is more than float32 holds
        assert "overflows" in message_of(FloatingPointError, net.forward)
        return
    loss, gradients = loss_and_gradients(net)
    correct, correct_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, correct, rtol=1e-6)
    for name, gradient in correct_gradients.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-5, atol=1e-6 * size)


LARGE = (3, 3, 121, 123)  # of several parts, which several threads work on


@contextlib.contextmanager
def numpy_may_not_complain():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("size", [1e-30, 1, 200])
@each_row
def test_no_warning_of_numpy_comes_from_a_large_blob(row, size):
    """Nor a FloatingPointError of NumPy's where a script asks for them; threads included."""
    inputs = draw(row, LARGE)
    assert inputs[row.layer.bottoms[0].name].size > parts.PART
    inputs[row.layer.bottoms[0].name] *= np.float32(size)
    with numpy_may_not_complain():
        loss, _ = loss_and_gradients(net_of(row, inputs))
    assert np.isfinite(loss)


@each_row
def test_infinite_numbers_are_an_error_without_a_warning_of_numpy(row):
    """Whichever thread comes upon them: each has some."""
    inputs = draw(row, LARGE)
    inputs[row.layer.bottoms[0].name][...] = np.inf
    net = net_of(row, inputs)
    with numpy_may_not_complain():
        assert "is not finite in" in message_of(FloatingPointError, net.forward)
