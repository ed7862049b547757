"""The losses of a softmax where digits are easily lost, and which positions OHEM keeps."""

import warnings

import numpy as np
import pytest

from caffe_losses import losses
from support import oracle
from support.layers import LAYER, draw, expected, layer_of, row_with
from support.nets import loss_and_gradients, loss_net

SMALLEST_NORMAL = np.finfo(np.float32).tiny


def scores(classes, scale, arranged):
    """Scores of many positions whose classes are right, wrong or mixed."""
    random = np.random.RandomState(0)
    positions = 1011 if classes < 100 else 41
    score = scale * random.randn(2, classes, positions)
    label = random.randint(0, classes, size=(2, 1, positions))
    largest = np.abs(score).max(axis=1, keepdims=True)
    at_label = np.arange(classes).reshape(1, -1, 1) == label
    offset = {"mixed": 0, "right": 2 * largest, "wrong": -2 * largest}[arranged]
    return (score + at_label * offset).astype(np.float32), label.astype(np.float32)


ROWS = [
    row_with(LAYER["WeightedSoftmaxWithLossLayer"], optional=False, class_weight=3),
    row_with(LAYER["SoftmaxFocalLossLayer"], optional=False, gamma=0.5),
    row_with(LAYER["SoftmaxFocalLossLayer"], optional=False),
    row_with(LAYER["SoftmaxFocalLossLayer"], optional=False, gamma=5),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.layer.name}-{row.parameters}")
@pytest.mark.parametrize("classes", [2, 21, 1000])
@pytest.mark.parametrize("scale", [0.01, 1, 10, 1e4])
@pytest.mark.parametrize("arranged", ["mixed", "right", "wrong"])
def test_scores_of_any_size(row, classes, scale, arranged):
    score, label = scores(classes, scale, arranged)
    inputs = {"score": score, "label": label}
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6, atol=SMALLEST_NORMAL)
    sharp = expected_gradients["score"]
    # Neither the gradient nor much of the probabilities that it is made of may be denormal.
    entropy = oracle.minus_log_softmax(oracle.positions(score, 1))
    probability = oracle.axis_put_back(np.exp(-entropy), score, 1)
    largest = np.max(probability * (probability < 0.5), axis=1, keepdims=True)
    small = 1e5 * SMALLEST_NORMAL
    normal = (np.abs(sharp) > small) & (probability > small) & (largest > small)
    np.testing.assert_allclose(gradients["score"][normal], sharp[normal], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_focal_loss_at_a_probability_of_exactly_one_and_zero(gamma):
    score = np.float32([[0, -2000, -2000], [-2000, 0, -2000], [0, -2000, -2000]])
    loss, gradient = losses.softmax_focal(score, [0, 0, 2], gamma=gamma, normalization="NONE")
    assert loss == 4000
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [-1, 1, 0], [1, 0, -1]])


@pytest.mark.parametrize("others", [0, -5])
def test_equal_scores_of_any_number_of_other_classes(others):
    """Also those that are left over after whole vectors of LLVM's."""
    for classes in range(2, 400):
        score = np.full((1, classes), others, np.float32)
        score[0, 1] = 1
        loss, _ = losses.weighted_softmax(score, [1])
        np.testing.assert_allclose(loss, np.log1p((classes - 1) * np.exp(others - 1.0)), rtol=1e-6)


def test_a_blob_of_equal_scores_that_are_confidently_right():
    """Every rounding is then the same, and no average takes it out."""
    for difference in (3.3, 20.4, 45.7, 80.1):
        score = np.full((1, 3, 1000), -0.3, np.float32)
        score[:, 1] += np.float32(difference)
        label = np.ones((1, 1000))
        loss, _ = losses.weighted_softmax(score, label)
        right, _ = oracle.weighted_softmax_with_loss(score, label)
        np.testing.assert_allclose(loss, right, rtol=1e-6)


def test_labels_that_are_not_checked_index_nothing():
    """Every one that is no class number takes no part, whatever it is."""
    row = row_with(LAYER["WeightedSoftmaxWithLossLayer"], class_weight=[1, 2, 3])
    row = row._replace(parameters={**row.parameters, "check_labels": "never"})
    inputs = draw(row, (2, 3, 5, 7))
    inputs["label"][0] = np.resize([-1, 3, 0.5, 1e9, -1e30, 255, 2.0001], (1, 5, 7))
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert not gradients["score"][0].any()
    np.testing.assert_allclose(gradients["score"], expected_gradients["score"], rtol=1e-5)


def kept_by(score, label, **parameters):
    """The numbers of the positions that get a gradient."""
    _, gradient = losses.softmax_ohem(np.float32(score), np.float32(label), **parameters)
    return np.flatnonzero(gradient.any(axis=1)).tolist()


# Of class 0 each; the harder the further back.
HARDER = [[3, 0], [2, 0], [1, 0], [0, 0], [-1, 0], [-2, 0], [-3, 0], [-4, 0]]


def test_ohem_keeps_all_positives_and_a_multiple_of_hard_negatives():
    label = [1, 0, 0, 0, 0, 0, 0, 0]
    assert kept_by(HARDER, label) == [0, 5, 6, 7]
    assert kept_by(HARDER, label, neg_pos_ratio=1.5) == [0, 6, 7]
    assert kept_by(HARDER, label, neg_pos_ratio=100) == list(range(8))
    assert kept_by(HARDER, label, neg_pos_ratio=0) == [0]


def test_ohem_without_positives_keeps_nothing():
    assert kept_by(HARDER, [0] * 8) == []


def test_ohem_keeps_a_fraction_whatever_the_classes():
    assert kept_by(HARDER, [0] * 8, keep_ratio=0.25) == [6, 7]
    assert kept_by(HARDER, [1] + [0] * 7, keep_ratio=0.25) == [0, 7]
    assert kept_by(HARDER, [0] * 8, keep_ratio=0) == []


def test_ohem_keeps_what_is_less_probable_than_the_threshold_too():
    assert kept_by(HARDER, [0] * 8, keep_ratio=0.125, thresh=0.2) == [5, 6, 7]
    assert kept_by(HARDER, [0] * 8, keep_ratio=0.5, thresh=0.01) == [4, 5, 6, 7]


def test_ohem_counts_neither_ignored_positions_nor_those_without_weight():
    label, weight = [0, 0, 0, 0, 0, 0, 255, 0], [1, 1, 1, 1, 1, 1, 1, 0]
    parameters = {"keep_ratio": 0.5, "ignore_label": 255}
    loss, gradient = losses.softmax_ohem(
        np.float32(HARDER), np.float32(label), np.float32(weight), **parameters
    )
    assert np.flatnonzero(gradient.any(axis=1)).tolist() == [3, 4, 5]
    np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp([0, 1, 2]))), rtol=1e-6)


def test_ohem_keeps_the_first_of_equally_hard_positions():
    assert kept_by([[0, 1]] * 6, [0] * 6, keep_ratio=0.5) == [0, 1, 2]


def test_infinite_weights_of_a_class_without_weight_are_an_error_without_a_warning_of_numpy():
    label = np.arange(500_000).reshape(2, 500, 500) % 3
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        with pytest.raises(FloatingPointError, match="the weight is not finite"):
            losses.weighted_softmax(
                np.zeros((2, 3, 500, 500)),
                label,
                np.full(label.shape, np.inf),
                class_weight=[0, 1, 1],
            )
