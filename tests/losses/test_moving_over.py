"""What docs/choosing.md says to write instead of published layers does what they did.

Each published layer stands here as what it prints and what it hands back, in float64. InfogainLoss
is in test_native.py, the layers of DeepFlux are in package/test_drop_in.py.
"""

import numpy as np
import pytest

from support.nets import loss_and_gradients, loss_net, python_layer

N = 4
SHAPE = (N, 3, 5, 7)
random = np.random.RandomState(0)
SCORE = 3 * random.randn(*SHAPE).astype(np.float32)
CLASSES = random.choice([0, 1, 2, 255], size=(N, 1, 5, 7)).astype(np.float32)
BINARY = random.choice([0, 0, 0, 1], size=SHAPE).astype(np.float32)
IGNORED = {"ignore_label": 255}


def ours(layer, *bottoms, loss_weight=1, module="caffe_losses.layers", **parameters):
    """The loss of a layer and its gradient to the first bottom."""
    inputs = dict(zip("abcd", bottoms))
    text = python_layer(module, layer, list(inputs), parameters, loss_weight=loss_weight)
    loss, gradients = loss_and_gradients(loss_net(text, inputs))
    return loss, gradients["a"]


def assert_same(own, published):
    np.testing.assert_allclose(own[0], published[0], rtol=1e-6)
    np.testing.assert_allclose(own[1], published[1], rtol=1e-5, atol=1e-8)


# Softmax


def softmax_parts():
    """The softmax, one-hot labels, and the probability of the label, of positions that count."""
    e = np.exp(SCORE.astype(np.float64))
    p = e / e.sum(axis=1, keepdims=True)
    of_label = 1.0 * (CLASSES == np.arange(3).reshape(1, 3, 1, 1))
    return p, of_label, np.sum(p * of_label, axis=1, keepdims=True) + (CLASSES == 255)


def published_weighted_softmax(weight, divisor):
    p, of_label, p_y = softmax_parts()
    weight = weight * (CLASSES != 255)
    return np.sum(-weight * np.log(p_y)) / divisor, weight * (p - of_label) / divisor


def test_a_weight_for_each_pixel():
    weight = random.uniform(0.5, 3, size=CLASSES.shape).astype(np.float32)
    bottoms = SCORE, CLASSES, weight
    of_weights = published_weighted_softmax(weight, np.sum(weight[CLASSES != 255]))
    assert_same(ours("WeightedSoftmaxWithLossLayer", *bottoms, **IGNORED), of_weights)
    for normalization, divisor in ("VALID", np.sum(CLASSES != 255)), ("BATCH_SIZE", N):
        own = ours("WeightedSoftmaxWithLossLayer", *bottoms, normalization=normalization, **IGNORED)
        assert_same(own, published_weighted_softmax(weight, divisor))


@pytest.mark.parametrize("normalization", ["VALID", "BATCH_SIZE"])
def test_one_class_and_its_factor(normalization):
    """pos_cid 1 and pos_mult 10, with and without normalize."""
    divisor = {"VALID": np.sum(CLASSES != 255), "BATCH_SIZE": N}[normalization]
    own = ours(
        "WeightedSoftmaxWithLossLayer",
        SCORE,
        CLASSES,
        class_weight=[1, 10, 1],
        normalization=normalization,
        **IGNORED,
    )
    assert_same(own, published_weighted_softmax(np.where(CLASSES == 1, 10, 1), divisor))


@pytest.mark.parametrize("alpha", [0.25, [0.25, 0.75, 1]])
def test_the_focal_loss_of_a_softmax(alpha):
    gamma = 2
    p, of_label, p_y = softmax_parts()
    weight = np.broadcast_to(alpha, 3)[np.where(CLASSES == 255, 0, CLASSES).astype(int)]
    weight = weight * (CLASSES != 255) / np.sum(CLASSES != 255)
    slope = (1 - p_y) ** gamma - gamma * p_y * (1 - p_y) ** (gamma - 1) * np.log(p_y)
    published = np.sum(-weight * (1 - p_y) ** gamma * np.log(p_y)), weight * slope * (p - of_label)
    assert_same(ours("SoftmaxFocalLossLayer", SCORE, CLASSES, alpha=alpha, **IGNORED), published)


def test_the_focal_loss_of_a_sigmoid_with_an_alpha_for_both_classes():
    alpha, gamma = 0.25, 2
    sign = 2 * BINARY.astype(np.float64) - 1
    p = 1 / (1 + np.exp(-sign * SCORE))
    loss = np.sum(-alpha * (1 - p) ** gamma * np.log(p)) / N
    slope = alpha * sign * ((1 - p) ** gamma * (p - 1 + gamma * p * np.log(p))) / N
    parameters = {"alpha": None, "normalization": "BATCH_SIZE"}
    own = ours("SigmoidFocalLossLayer", SCORE, BINARY, loss_weight=alpha, **parameters)
    assert_same(own, (loss / alpha, slope))


# Smooth L1

TARGET = random.randn(*SHAPE).astype(np.float32)
INSIDE, OUTSIDE = random.uniform(0.5, 2, size=(2, *SHAPE)).astype(np.float32)


def published_smooth_l1(inside=1.0, outside=1.0, sigma=1.0):
    """The loss, and the gradient without the factor of the inside weight."""
    d = inside * (SCORE.astype(np.float64) - TARGET)
    is_small = np.abs(d) < 1 / sigma**2
    value = np.where(is_small, (sigma * d) ** 2 / 2, np.abs(d) - 0.5 / sigma**2)
    return np.sum(outside * value) / N, outside * np.where(is_small, sigma**2 * d, np.sign(d)) / N


def test_smooth_l1_of_two_bottoms():
    assert_same(ours("SmoothL1LossLayer", SCORE, TARGET), published_smooth_l1())


def test_smooth_l1_of_faster_rcnn():
    loss, gradient = published_smooth_l1(INSIDE, OUTSIDE, sigma=3)
    own = ours("SmoothL1LossLayer", SCORE, TARGET, INSIDE, OUTSIDE, sigma=3)
    assert_same(own, (loss, INSIDE * gradient))


def test_smooth_l1_of_fast_rcnn_and_ssd_forgets_the_weight_in_its_gradient():
    loss, gradient = published_smooth_l1(INSIDE)
    own = ours("SmoothL1LossLayer", SCORE, TARGET, INSIDE)
    assert_same(own, (loss, INSIDE * gradient))
    # For weights of 0 and 1 it does not matter.
    assert_same(ours("SmoothL1LossLayer", SCORE, TARGET, BINARY), published_smooth_l1(BINARY))


# Dice

PROBABILITY = random.uniform(size=SHAPE).astype(np.float32)


def all_channels_together(array):
    return array.reshape(len(array), 1, -1)


def published_dice(power, axes):
    """The loss, S and its denominator D; all channels are one."""
    p, g = PROBABILITY.astype(np.float64), BINARY.astype(np.float64)
    D = np.sum(p**power + g**power, axis=axes, keepdims=True) + 1
    S = (2 * np.sum(p * g, axis=axes, keepdims=True) + 1) / D
    return 1 - S.mean(), S, D


def our_dice(layer="DiceLossLayer", **parameters):
    bottoms = all_channels_together(PROBABILITY), all_channels_together(BINARY)
    loss, gradient = ours(layer, *bottoms, **parameters)
    return loss, gradient.reshape(SHAPE)


def test_dice_over_the_batch():
    loss, S, D = published_dice(1, axes=(0, 1, 2, 3))
    assert_same(our_dice(), (loss, (S - 2 * BINARY) / D))


def test_dice_with_squares_in_each_image_divides_its_gradient_by_n():
    """The published layer does not: its gradient is N times that of what it prints."""
    loss, S, D = published_dice(2, axes=(1, 2, 3))
    own = our_dice(squared=True, reduce="image", loss_weight=N)
    assert_same(own, (loss, 2 * (S * PROBABILITY - BINARY) / D))


def test_dice_of_east_prints_the_same_and_hands_back_another_gradient():
    loss, S, D = published_dice(1, axes=(0, 1, 2, 3))
    own = our_dice("DiceCoefLossLayer", module="pylayerUtils")
    assert_same(own, (loss, (S - 2 * BINARY) / D))
    handed_back = 2 * (S * PROBABILITY - BINARY) / D
    assert np.abs(handed_back - own[1]).max() > 0.1 * np.abs(own[1]).max()


def test_the_dice_of_advanced_east_is_a_balanced_cross_entropy():
    p, positive_share = 1 / (1 + np.exp(-SCORE.astype(np.float64))), np.mean(BINARY)
    beta = np.where(BINARY == 1, 1 - positive_share, positive_share)
    loss = np.mean(-beta * np.log(np.where(BINARY == 1, p, 1 - p)))  # without its epsilon
    own = ours(
        "WeightedSigmoidCrossEntropyLossLayer",
        SCORE,
        BINARY,
        module="pylayerUtils",
        balance="batch",
        normalization="FULL",
    )
    assert_same(own, (loss, beta * (p - BINARY) / BINARY.size))
