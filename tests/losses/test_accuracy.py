"""Losses right to a relative 1e-6 and gradients of hard labels to 1e-5, for scores of any size."""

import numpy as np
import pytest

from support.layers import LAYER, draw, expected, layer_of, name_of, row_with
from support.nets import fed, loss_and_gradients, loss_net

SHAPE = (2, 1, 150, 151)  # several blocks, and a row that is not full
SMALLEST_NORMAL = np.finfo(np.float32).tiny


def labels(random):
    return (random.rand(*SHAPE) < 0.1).astype(np.float32)


def mixed(score, label):
    return score


def confidently_right(score, label):
    return np.abs(score) * (2 * label - 1)


def confidently_wrong(score, label):
    return np.abs(score) * (1 - 2 * label)


def with_each_normalization(layer, **parameters):
    return [
        row_with(layer, optional=False, normalization=normalization, **parameters)
        for normalization in layer.parameters["normalization"].words
    ]


WEIGHTED = with_each_normalization(LAYER["SigmoidCrossEntropyWeightLossLayer"], cls_weight=100)
BALANCED = with_each_normalization(LAYER["WeightedSigmoidCrossEntropyLossLayer"])
CROSS_ENTROPIES = WEIGHTED + BALANCED


@pytest.mark.parametrize("row", [WEIGHTED[0], BALANCED[0]], ids=name_of)
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
@pytest.mark.parametrize("arranged", [mixed, confidently_right, confidently_wrong])
def test_cross_entropy_of_scores_of_any_size(row, scale, arranged):
    random = np.random.RandomState(0)
    label = labels(random)
    score = arranged((random.randn(*SHAPE) * scale).astype(np.float32), label)
    inputs = {"score": score.astype(np.float32), "label": label}
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    sharp = expected_gradients["score"]
    # The gradient is a sigmoid times a weight: neither may be denormal.
    sigmoid = np.exp(-np.logaddexp(0, score.astype(np.float64) * (2 * label - 1)))
    normal = (np.abs(sharp) >= SMALLEST_NORMAL) & (sigmoid >= SMALLEST_NORMAL)
    np.testing.assert_allclose(gradients["score"][normal], sharp[normal], rtol=1e-5)
    assert (np.abs(gradients["score"][~normal]) < 200 * SMALLEST_NORMAL).all()


@pytest.mark.parametrize("score", [-87, -17, -16.6, -8.3, -5, -1, 0, 1e-3, 5, 17, 60, 88, 89])
def test_a_blob_of_equal_scores(score):
    """Every addition of the sum then rounds the same way, which no average takes out."""
    row = WEIGHTED[0]
    inputs = {"score": np.full(SHAPE, score, np.float32), "label": np.zeros(SHAPE, np.float32)}
    loss, _ = loss_and_gradients(loss_net(layer_of(row), inputs))
    np.testing.assert_allclose(loss, expected(row, inputs)[0], rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        "EuclideanLossLayer",
        "ChannelSumEuclideanLossLayer",
        "SigmoidCrossEntropyWeightLossLayer",
        "WeightedSoftmaxWithLossLayer",
        "DiceLossLayer",
    ],
)
def test_equal_positions_of_any_number(layer):
    """Also those that are left over after whole vectors of LLVM's."""
    row = row_with(LAYER[layer], optional=False)
    one = draw(row, (1, 2, 1))
    net = loss_net(layer_of(row), one)
    for positions in range(1, 300):
        inputs = {name: array.repeat(positions, axis=-1) for name, array in one.items()}
        loss, _ = loss_and_gradients(fed(net, inputs))
        np.testing.assert_allclose(loss, expected(row, inputs)[0], rtol=1e-6)
    assert loss


@pytest.mark.parametrize("scale", [1e-12, 0.01, 1, 30, 1e4])
@pytest.mark.parametrize(
    "layer",
    ["EuclideanLossLayer", "WeightedEuclideanLossLayer", "HuberLossLayer", "SmoothL1LossLayer"],
)
def test_losses_of_differences_of_values_of_any_size(layer, scale):
    row = row_with(LAYER[layer])
    inputs = draw(row, (2, 2, 100, 331))
    for name in ("prediction", "target"):
        inputs[name] *= np.float32(scale)
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(
        gradients["prediction"], expected_gradients["prediction"], rtol=1e-5, atol=1e-7 * scale
    )


FOCAL = [
    row_with(LAYER["SigmoidFocalLossLayer"], optional=False, normalization=normalization, **more)
    for normalization, more in [
        ("VALID", {}),
        ("POSITIVE", {"alpha": None, "gamma": 0}),
        ("NONE", {"gamma": 0.5}),
        ("FULL", {"gamma": 1}),
        ("BATCH_SIZE", {"alpha": 0.75, "gamma": 5}),
    ]
]


@pytest.mark.parametrize("row", FOCAL, ids=name_of)
@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
@pytest.mark.parametrize("arranged", [mixed, confidently_right, confidently_wrong])
def test_focal_loss_of_scores_of_any_size(row, scale, arranged):
    """Right also where p is 0 or 1 exactly, for every gamma."""
    random = np.random.RandomState(0)
    label = labels(random)
    score = arranged((random.randn(*SHAPE) * scale).astype(np.float32), label)
    score.reshape(-1)[:4] = [120, -120, 1e30, -1e30]
    inputs = {"score": score.astype(np.float32), "label": label}
    if scale == 1e4:
        inputs["score"].reshape(-1)[2:4] = 0  # what is ten times 1e29 hides nothing else
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    sharp = expected_gradients["score"]
    normal = np.abs(sharp) >= 1e-34  # no factor of it is denormal
    np.testing.assert_allclose(gradients["score"][normal], sharp[normal], rtol=1e-5)
    assert (np.abs(gradients["score"][~normal]) < 1e-33).all()


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3, 5])
@pytest.mark.parametrize("score", [-17, -5, -1, 0, 1e-3, 2.3, 5.1, 9.7, 14.3])
def test_focal_loss_of_equal_scores_has_no_rounded_exponent(score, gamma):
    """It would be the same error in every element."""
    row = row_with(LAYER["SigmoidFocalLossLayer"], optional=False, gamma=gamma)
    inputs = {"score": np.full((1, 16), score, np.float32), "label": np.ones((1, 16), np.float32)}
    loss, _ = loss_and_gradients(loss_net(layer_of(row), inputs))
    np.testing.assert_allclose(loss, expected(row, inputs)[0], rtol=1e-6)


def test_a_sum_over_thirty_million_elements():
    random = np.random.RandomState(0)
    score = (random.randn(10**5) * 3).astype(np.float32)
    label = (random.rand(10**5) < 0.1).astype(np.float32)
    wide = score.astype(np.float64)
    right = 300 * np.sum(100 * label * np.logaddexp(0, -wide) + (1 - label) * np.logaddexp(0, wide))
    inputs = {name: np.tile(a, (300, 1)) for name, a in (("score", score), ("label", label))}
    net = loss_net(layer_of(WEIGHTED[0]), inputs, force_backward=False)
    np.testing.assert_allclose(net.forward()["loss"], right, rtol=1e-6)


@pytest.mark.parametrize("row", CROSS_ENTROPIES, ids=name_of)
def test_what_a_soft_label_near_one_lacks_of_one_counts_in_full(row):
    """All scores are confidently right, so that 1 - t is all the loss there is."""
    label = np.where(labels(np.random.RandomState(0)), 1 - 1e-4, 0).astype(np.float32)
    inputs = {"score": np.where(label, 20, -20).astype(np.float32), "label": label}
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    expected_loss, expected_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(gradients["score"], expected_gradients["score"], rtol=1e-5)
