"""The losses as plain functions: the arrays that they are given, by place and by name."""

import copy
import pickle

import numpy as np
import pytest

from caffe_losses import losses

random = np.random.RandomState(0)
PREDICTION, TARGET = (3 * random.randn(2, 3, 4).astype(np.float32) for _ in range(2))
WEIGHT = random.rand(2, 3, 4).astype(np.float32)
ONES = np.ones_like(WEIGHT)


def assert_same(ours, theirs):
    assert ours[0] == theirs[0]
    np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("left_out", [{}, {"inside_weight": None}])
def test_an_array_that_has_a_name_is_never_taken_for_the_one_before(left_out):
    outside_alone = losses.smooth_l1(PREDICTION, TARGET, outside_weight=WEIGHT, **left_out)
    assert_same(outside_alone, losses.smooth_l1(PREDICTION, TARGET, ONES, WEIGHT))
    assert outside_alone[0] != losses.smooth_l1(PREDICTION, TARGET, inside_weight=WEIGHT)[0]


def test_all_arrays_may_have_names_in_any_order():
    by_name = losses.huber(weight=WEIGHT, target=TARGET, prediction=PREDICTION)
    assert_same(by_name, losses.huber(PREDICTION, TARGET, WEIGHT))


def test_none_leaves_out_an_optional_array():
    expected = losses.huber(PREDICTION, TARGET)
    assert_same(losses.huber(PREDICTION, TARGET, None), expected)
    assert_same(losses.huber(PREDICTION, TARGET, weight=None), expected)
    label = np.zeros((2, 4))
    without = losses.weighted_softmax(PREDICTION, label)
    assert_same(losses.weighted_softmax(PREDICTION, label, None), without)
    assert_same(
        losses.smooth_l1(PREDICTION, TARGET, None, None, sigma=2),
        losses.smooth_l1(PREDICTION, TARGET, sigma=2),
    )


@pytest.mark.parametrize(
    "arrays, named, missing",
    [
        ([PREDICTION], {"weight": WEIGHT}, "no target"),
        ([], {"target": TARGET, "weight": WEIGHT}, "no prediction"),
        ([PREDICTION, None], {}, "no target"),
        ([], {}, "no prediction and no target"),
    ],
)
def test_a_required_array_that_is_left_out_is_named(arrays, named, missing):
    with pytest.raises(ValueError) as error:
        losses.huber(*arrays, **named)
    message = f"huber: {missing}; expected prediction, target, weight (optional)"
    assert str(error.value) == message


def test_an_array_that_is_given_twice_is_an_error():
    with pytest.raises(TypeError, match="huber: the weight is given twice"):
        losses.huber(PREDICTION, TARGET, WEIGHT, weight=WEIGHT)


def test_too_many_arrays_are_an_error():
    with pytest.raises(ValueError, match="huber: 4 bottoms; expected prediction, target, weight"):
        losses.huber(PREDICTION, TARGET, WEIGHT, WEIGHT)


def test_the_array_that_is_not_finite_is_named_after_one_that_is_left_out():
    with pytest.raises(FloatingPointError, match="smooth_l1: the outside_weight is not finite"):
        losses.smooth_l1(PREDICTION, TARGET, outside_weight=WEIGHT * np.inf)


@pytest.mark.parametrize("name", losses.__all__)
def test_another_process_can_be_given_the_function(name):
    function = getattr(losses, name)
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function
