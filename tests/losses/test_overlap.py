"""Dice and Tversky where their masks are special."""

import numpy as np
import pytest

from caffe_losses import losses
from support import oracle
from support.layers import LAYER, layer_of, row_with
from support.nets import loss_and_gradients, loss_net

SHAPE = (2, 3, 5, 7)
BOTH = pytest.mark.parametrize("name", ["DiceLossLayer", "TverskyLossLayer"])
ACTIVATIONS = pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])


def random_labels(seed=0):
    return (np.random.RandomState(seed).rand(*SHAPE) < 0.3).astype(np.float32)


def probabilities(seed=0):
    return np.random.RandomState(seed).uniform(0.1, 0.9, SHAPE).astype(np.float32)


def computed(name, inputs, **parameters):
    """Loss and gradient to the prediction."""
    row = row_with(LAYER[name], optional=len(inputs) == 3, **parameters)
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    return loss, gradients["prediction"]


# Empty masks


@pytest.mark.parametrize("reduce", ["batch", "image"])
@pytest.mark.parametrize("smooth", [0, 1])
@BOTH
def test_where_nothing_is_and_nothing_is_predicted_the_loss_is_0(name, smooth, reduce):
    inputs = {"prediction": np.zeros(SHAPE), "label": np.zeros(SHAPE)}
    loss, gradient = computed(name, inputs, smooth=smooth, reduce=reduce)
    assert loss == 0
    assert np.isfinite(gradient).all()


@BOTH
def test_false_positives_cost_where_the_mask_is_empty(name):
    inputs = {"prediction": np.full(SHAPE, 0.25), "label": np.zeros(SHAPE)}
    loss, gradient = computed(name, inputs)
    false_positives = 0.25 * 2 * 5 * 7 * (0.5 if name == "TverskyLossLayer" else 1)
    np.testing.assert_allclose(loss, false_positives / (false_positives + 1), rtol=1e-6)
    assert (gradient > 0).all()


@BOTH
def test_without_smooth_false_positives_cost_1_where_the_mask_is_empty(name):
    inputs = {"prediction": np.full(SHAPE, 0.25), "label": np.zeros(SHAPE)}
    loss, gradient = computed(name, inputs, smooth=0)
    assert loss == pytest.approx(1)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("reduce", ["batch", "image"])
def test_dice_of_empty_full_and_mixed_masks_is_that_of_the_plain_formula(squared, reduce):
    p, g = probabilities(), random_labels()
    g[0, 0], g[1, 0], g[:, 1] = 0, 1, 0
    loss, _ = computed(
        "DiceLossLayer", {"prediction": p, "label": g}, squared=squared, reduce=reduce
    )
    p, g, k = p.astype(np.float64), g.astype(np.float64), 1 + squared
    axes = (0, 2, 3) if reduce == "batch" else (2, 3)
    similarity = (2 * (p * g).sum(axes) + 1) / ((p**k).sum(axes) + (g**k).sum(axes) + 1)
    np.testing.assert_allclose(loss, np.mean(1 - similarity), rtol=1e-6)


# Ignored


@pytest.mark.parametrize("layout", ["masks", "classes"])
@ACTIVATIONS
@BOTH
def test_ignored_pixels_leave_numerator_and_denominator(name, activation, layout):
    """The loss is that of a blob without them."""
    label, prediction = random_labels(), probabilities()
    if layout == "classes":
        label = np.random.RandomState(1).randint(0, 3, (2, 1, 5, 7)).astype(np.float32)
    label[:, :, 3:] = 255
    parameters = {"activation": activation, "ignore_label": 255}
    loss, gradient = computed(name, {"prediction": prediction, "label": label}, **parameters)
    kept = {"prediction": prediction[:, :, :3], "label": label[:, :, :3]}
    loss_of_kept, gradient_of_kept = computed(name, kept, activation=activation)
    np.testing.assert_allclose(loss, loss_of_kept, rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :, :3], gradient_of_kept, rtol=1e-5, atol=1e-9)
    assert not gradient[:, :, 3:].any()


@pytest.mark.parametrize("smooth", [0, 1])
@ACTIVATIONS
@BOTH
def test_an_image_that_is_all_ignored_adds_nothing(name, activation, smooth):
    label = random_labels()
    label[1] = 255
    inputs = {"prediction": probabilities(), "label": label}
    parameters = {"activation": activation, "smooth": smooth, "ignore_label": 255}
    loss, gradient = computed(name, inputs, reduce="image", **parameters)
    one = {key: array[:1] for key, array in inputs.items()}
    loss_of_one, _ = computed(name, one, reduce="image", **parameters)
    np.testing.assert_allclose(loss, loss_of_one / 2, rtol=1e-6)
    assert not gradient[1].any()


# Classes


@ACTIVATIONS
@BOTH
def test_class_numbers_are_the_masks_that_they_stand_for(name, activation):
    classes = np.random.RandomState(1).randint(0, 3, (2, 5, 7))
    prediction = probabilities()
    masks = (classes[:, np.newaxis] == np.arange(3)[:, np.newaxis, np.newaxis]).astype(np.float32)
    of_masks = computed(name, {"prediction": prediction, "label": masks}, activation=activation)
    of_classes = computed(name, {"prediction": prediction, "label": classes}, activation=activation)
    np.testing.assert_array_equal(of_masks[0], of_classes[0])
    np.testing.assert_array_equal(of_masks[1], of_classes[1])


@pytest.mark.parametrize("wrong", [3, -1, 0.5, 255, np.nan, 1e30])
@BOTH
def test_a_class_number_that_no_class_has_is_named_with_its_place(name, wrong):
    inputs = {"prediction": probabilities(), "label": np.zeros((2, 1, 5, 7))}
    inputs["label"][1, 0, 2, 3] = wrong
    with pytest.raises(ValueError) as raised:
        computed(name, inputs)
    found = f"{np.float32(wrong):.8g}"
    assert str(raised.value) == (
        f"{name}: the label is wrong in 1 of 70 elements, the first {found} at (1, 0, 2, 3); "
        f'expected whole numbers from 0 to 2; set "ignore_label": {found} if it marks what to '
        f"ignore, or give the net as many channels as there are classes"
    )


def test_channels_are_averaged_with_their_class_weight():
    inputs = {"prediction": probabilities(), "label": random_labels()}
    each = []
    for channel in range(3):
        one = {key: array[:, channel : channel + 1] for key, array in inputs.items()}
        each.append(computed("DiceLossLayer", one)[0])
    loss, gradient = computed("DiceLossLayer", inputs, class_weight=[1, 0, 3])
    np.testing.assert_allclose(loss, (each[0] + 3 * each[2]) / 4, rtol=1e-6)
    assert not gradient[:, 1].any()
    loss, gradient = computed("DiceLossLayer", inputs, background=False)
    np.testing.assert_allclose(loss, (each[1] + each[2]) / 2, rtol=1e-6)
    assert not gradient[:, 0].any()


@BOTH
def test_one_channel_alone_cannot_be_the_background(name):
    inputs = {"prediction": probabilities()[:, :1], "label": random_labels()[:, :1]}
    with pytest.raises(ValueError) as raised:
        computed(name, inputs, background=False)
    assert f'{name}: parameter "background" is false' in str(raised.value)
    assert "(2, 1, 5, 7) has one channel" in str(raised.value)


@BOTH
def test_a_label_of_another_shape_is_explained(name):
    inputs = {"prediction": probabilities(), "label": np.zeros((2, 2, 5, 7))}
    with pytest.raises(ValueError, match=r"\(2, 1, 5, 7\) or \(2, 5, 7\) \(class numbers\)"):
        computed(name, inputs)


# Tversky


def test_with_halves_and_the_smooth_halved_tversky_is_dice():
    inputs = {"prediction": probabilities(), "label": random_labels()}
    loss, gradient = computed("TverskyLossLayer", inputs, smooth=0.5)
    dice, dice_gradient = computed("DiceLossLayer", inputs, smooth=1)
    np.testing.assert_allclose(loss, dice, rtol=1e-6)
    np.testing.assert_allclose(gradient, dice_gradient, rtol=1e-5)


def test_alpha_weighs_false_positives_and_beta_false_negatives():
    label = np.zeros(SHAPE)
    label[..., :3] = 1
    for alpha, beta, in_question in ((0.5, 0, label == 0), (0, 0.5, label == 1)):
        inputs = {"prediction": np.where(in_question, 0.5, label), "label": label}
        weighs, _ = computed("TverskyLossLayer", inputs, alpha=alpha, beta=beta)
        weighs_nothing, _ = computed("TverskyLossLayer", inputs, alpha=beta, beta=alpha)
        assert weighs > 0.01
        assert weighs_nothing == 0


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("distance", [0, 1e-9, 1e-5, 9.9e-5, 1.01e-4, 1e-2])
def test_the_slope_of_a_power_is_bounded_where_the_overlap_is_perfect(gamma, distance):
    """1 - T is about the distance; loss and gradient go on without a step at 1e-4."""
    label = random_labels()
    prediction = label * (1 - np.float32(2 * distance))
    inputs = {"prediction": prediction, "label": label}
    parameters = {"gamma": gamma, "smooth": 0}
    loss, gradient = computed("TverskyLossLayer", inputs, **parameters)
    right, (right_gradient,) = oracle.tversky(prediction, label, **parameters)
    np.testing.assert_allclose(loss, right, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-4, atol=1e-9)
    steepest = (2 - gamma) * 1e-4 ** (gamma - 1)
    assert np.abs(gradient).sum() <= 3 * steepest


# Confident scores


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
@pytest.mark.parametrize("arranged", ["mixed", "right", "wrong"])
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("squared", [False, True])
def test_dice_of_scores_of_any_size(activation, squared, arranged, scale):
    """The loss is right to its own size, also where almost all probabilities are 0 or 1."""
    random = np.random.RandomState(0)
    shape = (2, 4, 40, 41)
    classes = random.randint(0, 4, (2, 1, 40, 41))
    masks = classes == np.arange(4).reshape(1, 4, 1, 1)
    score = random.randn(*shape) * scale
    if arranged != "mixed":
        score = np.abs(score) * np.where(masks == (arranged == "right"), 1, -1)
    inputs = {"prediction": score.astype(np.float32), "label": classes.astype(np.float32)}
    parameters = {"activation": activation, "squared": squared}
    loss, gradient = computed("DiceLossLayer", inputs, **parameters)
    right, (right_gradient,) = oracle.dice(*inputs.values(), **parameters)
    np.testing.assert_allclose(loss, right, rtol=2e-6, atol=1e-37)
    # What a score does to several classes may cancel in the softmax; not where all are right.
    cancels = activation == "softmax" and arranged != "right"
    error = 1e-6 * np.abs(right_gradient).max() if cancels else 1e-36
    np.testing.assert_allclose(gradient, right_gradient, rtol=2e-5, atol=error)


@pytest.mark.parametrize("size", [1, 2, 15, 17, 40, 513])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@ACTIVATIONS
@BOTH
def test_a_score_that_is_not_finite_is_found_in_rows_of_any_length(name, activation, value, size):
    """Also where a sigmoid of it is 0 or 1."""
    inputs = {"prediction": np.full((1, 2, size), 0.5), "label": np.ones((1, 2, size))}
    inputs["prediction"][0, 1, -1] = value
    with pytest.raises(FloatingPointError, match="the prediction is not finite in 1 of"):
        computed(name, inputs, activation=activation)


@pytest.mark.parametrize("size", [1, 15, 40])
@BOTH
def test_a_gradient_that_overflows_is_an_error(name, size):
    inputs = {"prediction": np.full((1, 2, size), 1e-3), "label": np.zeros((1, 2, size))}
    row = row_with(LAYER[name], optional=False, smooth=0.01)
    net = loss_net(layer_of(row, loss_weight=3e38), inputs)
    net.forward()
    with pytest.raises(FloatingPointError, match="gradient overflows float32"):
        net._backward(len(net.layers) - 1, 0)


# As a function


def test_the_functions_give_loss_and_gradient_of_arrays():
    prediction, label = probabilities(), random_labels()
    loss, gradient = losses.dice(prediction, label, smooth=2)
    right, (right_gradient,) = oracle.dice(prediction, label, smooth=2)
    np.testing.assert_allclose(loss, right, rtol=1e-6)
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-5)
    loss, _ = losses.tversky(prediction, label, alpha=0.3, beta=0.7)
    np.testing.assert_allclose(
        loss, oracle.tversky(prediction, label, alpha=0.3, beta=0.7)[0], rtol=1e-6
    )
    with pytest.raises(ValueError, match="dice: the label has shape"):
        losses.dice(prediction, label[:1])
