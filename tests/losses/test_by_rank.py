"""The Lovász losses against Berman's definition on sets, and where errors are equal or few."""

import itertools

import numpy as np
import pytest

from caffe_losses import losses
from support import oracle
from support.layers import LAYER, layer_of, row_with
from support.nets import loss_and_gradients, loss_net

NAMES = ["LovaszHingeLossLayer", "LovaszSoftmaxLossLayer"]
BOTH = pytest.mark.parametrize("name", NAMES)


def computed(name, score, label, **parameters):
    """Loss and gradient to the score."""
    row = row_with(LAYER[name], **parameters)
    inputs = {"score": np.float32(score), "label": np.float32(label)}
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    return loss, gradients["score"]


def jaccard_loss(wrong, positive):
    """1 - intersection / union of a mask and one that is wrong in a set of elements."""
    predicted = positive ^ wrong
    union = np.sum(predicted | positive)
    return 1 - np.sum(predicted & positive) / union if union else 0.0


def lovasz_extension_of_sets(errors, positive):
    """The integral over thresholds of the Jaccard loss of the errors above it.

    It is the definition of the Lovász extension, without an order of the elements.
    """
    thresholds = np.unique(np.append(errors[errors > 0], 0.0))
    return sum(
        (high - low) * jaccard_loss(errors > low, positive)
        for low, high in zip(thresholds[:-1], thresholds[1:])
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_hinge_is_the_lovasz_extension_of_the_jaccard_loss(seed):
    random = np.random.RandomState(seed)
    score, label = random.randn(1, 1, 4, 5), random.rand(1, 1, 4, 5) < 0.4
    loss, _ = computed("LovaszHingeLossLayer", score, label)
    errors = 1 - np.where(label, 1, -1) * np.float32(score)
    right = lovasz_extension_of_sets(errors.ravel(), label.ravel())
    np.testing.assert_allclose(loss, right, rtol=2e-6)


@pytest.mark.parametrize("classes", ["present", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_the_softmax_loss_is_the_mean_of_the_extensions_of_the_classes(seed, classes):
    random = np.random.RandomState(seed)
    score, label = random.randn(2, 4, 5), random.choice([0, 2, 3], (2, 5))
    loss, _ = computed("LovaszSoftmaxLossLayer", score, label, classes=classes)
    p = oracle.softmax(np.float32(score).astype(np.float64))
    each = [
        lovasz_extension_of_sets(np.abs((label == c) - p[:, c]).ravel(), (label == c).ravel())
        for c in (range(4) if classes == "all" else np.unique(label))
    ]
    np.testing.assert_allclose(loss, np.mean(each), rtol=2e-6)


def in_one_group(score, label):
    """The hinge loss of one image and channel."""
    one = (1, 1, len(score))
    return computed("LovaszHingeLossLayer", np.reshape(score, one), np.reshape(label, one))


def test_equal_errors_give_one_loss_in_whatever_order_they_stand():
    """And the sum of the gradient over equal errors is the step that the loss makes over them."""
    label = np.array([1, 1, 0, 0, 0])
    found = []
    for order in itertools.permutations(range(5)):
        loss, gradient = in_one_group(np.zeros(5), label[list(order)])
        found.append((loss, np.abs(gradient).sum()))
    np.testing.assert_allclose(found, [found[0]] * len(found), rtol=1e-6)


def test_of_equal_errors_the_earlier_comes_first():
    # All errors are 1. Of two positives and two negatives: 1/2, 1/2, then nothing is missed.
    _, gradient = in_one_group([0, 0, 0, 0], [1, 1, 0, 0])
    np.testing.assert_allclose(gradient.ravel(), [-1 / 2, -1 / 2, 0, 0], rtol=1e-6)
    # The negatives first: 2/(2*3), 2/(3*4), then 1/4 each.
    _, gradient = in_one_group([0, 0, 0, 0], [0, 0, 1, 1])
    np.testing.assert_allclose(gradient.ravel(), [1 / 3, 1 / 6, -1 / 4, -1 / 4], rtol=1e-6)


def test_a_score_of_minus_0_equals_one_of_0():
    plain = in_one_group([0.0, 0.0, 0.0], [0, 1, 0])
    of_both = in_one_group([-0.0, 0.0, -0.0], [0, 1, 0])
    np.testing.assert_array_equal(plain[1], of_both[1])


@pytest.mark.parametrize("score, label, loss", [(0.25, 1, 0.75), (0.25, 0, 1.25), (2, 1, 0)])
def test_of_one_element_the_hinge_is_its_error(score, label, loss):
    found, gradient = in_one_group([score], [label])
    assert found == loss
    assert gradient.ravel() == (0 if loss == 0 else 1 - 2 * label)


def test_a_mask_without_positives_costs_its_largest_error():
    loss, gradient = in_one_group([0.5, 3, -0.5, -2], [0, 0, 0, 0])
    assert loss == 4
    np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])


def test_errors_that_are_none_neither_count_nor_get_a_gradient():
    loss, gradient = in_one_group([5, 1, -1, -7], [1, 1, 0, 0])
    assert loss == 0
    assert not gradient.any()


@BOTH
def test_one_class_only(name):
    """All positions are of class 0, of one that is predicted with 1/2."""
    score = np.zeros((2, 2, 3)) if name == "LovaszSoftmaxLossLayer" else np.zeros((2, 1, 3))
    loss, gradient = computed(name, score, np.zeros((2, 1, 3)))
    assert loss == pytest.approx(0.5 if name == "LovaszSoftmaxLossLayer" else 1)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("per_image", [True, False])
@BOTH
def test_where_all_is_ignored_the_loss_is_0(name, per_image):
    score = np.random.RandomState(0).randn(2, 3, 4, 5)
    label = np.full((2, 1, 4, 5) if name == "LovaszSoftmaxLossLayer" else (2, 3, 4, 5), 255)
    loss, gradient = computed(name, score, label, ignore_label=255, per_image=per_image)
    assert loss == 0
    assert not gradient.any()


@BOTH
def test_an_image_that_is_all_ignored_counts_in_the_mean_over_images(name):
    random = np.random.RandomState(0)
    score = random.randn(2, 3, 4, 5)
    label = random.randint(0, 2, (2, 1, 4, 5) if name == "LovaszSoftmaxLossLayer" else (2, 3, 4, 5))
    of_one, _ = computed(name, score[:1], label[:1], per_image=True)
    label[1] = 255
    loss, gradient = computed(name, score, label, ignore_label=255, per_image=True)
    np.testing.assert_allclose(loss, of_one / 2, rtol=1e-6)
    assert not gradient[1].any()


@pytest.mark.parametrize("scale", [1, 30, 1e4])
@BOTH
def test_scores_of_any_size_that_are_almost_all_right(name, scale):
    random = np.random.RandomState(0)
    label = random.randint(0, 3, (1, 1, 30, 31))
    masks = label == np.arange(3).reshape(1, 3, 1, 1)
    score = np.float32(np.abs(random.randn(1, 3, 30, 31)) * np.where(masks, scale, -scale))
    labels = np.float32(label if name == "LovaszSoftmaxLossLayer" else masks)
    loss, gradient = computed(name, score, labels)
    right, (right_gradient,) = LAYER[name].oracle(score, labels)
    np.testing.assert_allclose(loss, right, rtol=2e-6, atol=1e-37)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(
        np.abs(gradient).sum(), np.abs(right_gradient).sum(), rtol=1e-3, atol=1e-30
    )


def test_a_large_image():
    random = np.random.RandomState(0)
    score, label = random.randn(1, 1, 1000, 1001), random.rand(1, 1, 1000, 1001) < 0.01
    loss, gradient = computed("LovaszHingeLossLayer", score, label)
    right, (right_gradient,) = oracle.lovasz_hinge(np.float32(score), np.float32(label))
    np.testing.assert_allclose(loss, right, rtol=1e-6)
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-5, atol=1e-12)


def test_the_functions_give_loss_and_gradient_of_arrays():
    random = np.random.RandomState(0)
    score, label = np.float32(random.randn(2, 3, 4)), np.float32(random.randint(0, 3, (2, 4)))
    loss, gradient = losses.lovasz_softmax(score, label, per_image=True)
    right, (right_gradient,) = oracle.lovasz_softmax(score, label, per_image=True)
    np.testing.assert_allclose(loss, right, rtol=1e-6)
    np.testing.assert_allclose(gradient, right_gradient, rtol=1e-5, atol=1e-8)
    binary = np.float32(score > 0.3)
    loss, _ = losses.lovasz_hinge(score, binary)
    np.testing.assert_allclose(loss, oracle.lovasz_hinge(score, binary)[0], rtol=1e-6)
