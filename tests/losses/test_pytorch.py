"""The losses as plain functions against those of PyTorch, where it is installed; without Caffe."""

import numpy as np
import pytest

from caffe_losses import losses

torch = pytest.importorskip("torch")
functional = torch.nn.functional

SHAPE = (4, 3, 50, 61)
CLASSES = 4
CLASS_WEIGHT = [0.2, 1, 5, 0.7]


def draw():
    """A prediction or score, a target, labels, and weights of elements."""
    random = np.random.RandomState(0)
    score, target = (4 * random.randn(*SHAPE).astype(np.float32) for _ in range(2))
    label = (random.rand(*SHAPE) < 0.2).astype(np.float32)
    return score, target, label, random.rand(*SHAPE).astype(np.float32)


def loss_and_gradient(function, score):
    """The loss of a function of a tensor, and its gradient, in float64."""
    x = torch.tensor(score, dtype=torch.float64, requires_grad=True)
    loss = function(x)
    loss.backward()
    return loss.item(), x.grad.numpy()


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-7 * np.abs(theirs[1]).max())


def tensor(array):
    return torch.tensor(array, dtype=torch.float64)


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("normalization, reduction", [("NONE", "sum"), ("FULL", "mean")])
def test_weighted_cross_entropy_is_binary_cross_entropy_with_logits(
    labels, normalization, reduction
):
    score, _, label, weight = draw()
    if labels == "soft":
        label = weight[::-1].copy()
    cls_weight = [2, 0.5, 10]
    ours = losses.weighted_cross_entropy(
        score, label, weight, cls_weight=cls_weight, normalization=normalization
    )
    theirs = loss_and_gradient(
        lambda x: functional.binary_cross_entropy_with_logits(
            x,
            tensor(label),
            tensor(weight),
            reduction=reduction,
            pos_weight=tensor(cls_weight).reshape(3, 1, 1),
        ),
        score,
    )
    assert_same(ours, theirs)


@pytest.mark.parametrize("sigma", [0.5, 1, 3])
@pytest.mark.parametrize("normalization, reduction", [("NONE", "sum"), ("FULL", "mean")])
def test_smooth_l1_has_a_beta_of_one_by_sigma_squared(sigma, normalization, reduction):
    prediction, target, _, _ = draw()
    ours = losses.smooth_l1(prediction, target, sigma=sigma, normalization=normalization)
    theirs = loss_and_gradient(
        lambda x: functional.smooth_l1_loss(
            x, tensor(target), reduction=reduction, beta=1 / sigma**2
        ),
        prediction,
    )
    assert_same(ours, theirs)


def test_smooth_l1_with_weights_is_that_of_what_they_multiply():
    prediction, target, label, weight = draw()
    inside = 2 * weight[::-1].copy()
    ours = losses.smooth_l1(prediction, target, inside, weight, sigma=3)

    def weighted(x):
        d = tensor(inside) * (x - tensor(target))
        each = functional.smooth_l1_loss(d, torch.zeros_like(d), reduction="none", beta=1 / 9)
        return (tensor(weight) * each).sum() / len(prediction)

    assert_same(ours, loss_and_gradient(weighted, prediction))


@pytest.mark.parametrize("delta", [0.3, 1, 5])
@pytest.mark.parametrize("normalization, reduction", [("NONE", "sum"), ("WEIGHT", "mean")])
def test_huber_is_huber_loss(delta, normalization, reduction):
    prediction, target, _, _ = draw()
    ours = losses.huber(prediction, target, delta=delta, normalization=normalization)
    theirs = loss_and_gradient(
        lambda x: functional.huber_loss(x, tensor(target), reduction=reduction, delta=delta),
        prediction,
    )
    assert_same(ours, theirs)


def focal_of_torchvision(x, label, alpha, gamma):
    """The formula of torchvision.ops.sigmoid_focal_loss, one element at a time."""
    p = torch.sigmoid(x)
    of_label = p * label + (1 - p) * (1 - label)
    entropy = functional.binary_cross_entropy_with_logits(x, label, reduction="none")
    weight = 1 if alpha is None else alpha * label + (1 - alpha) * (1 - label)
    return weight * entropy * (1 - of_label) ** gamma


@pytest.mark.parametrize("alpha", [0.25, 0.9, None])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
def test_sigmoid_focal_is_that_of_torchvision(alpha, gamma):
    score, _, label, _ = draw()
    ours = losses.sigmoid_focal(score, label, alpha=alpha, gamma=gamma)
    theirs = loss_and_gradient(
        lambda x: focal_of_torchvision(x, tensor(label), alpha, gamma).mean(), score
    )
    assert_same(ours, theirs)


def test_sigmoid_focal_is_finite_where_torchvisions_is_nan():
    """A gamma below 1 and a probability of 1 exactly."""
    score = np.array([[100, -100, 2e4, -1e4]], np.float32)
    label = np.array([[1, 0, 0, 1]], np.float32)
    _, theirs = loss_and_gradient(
        lambda x: focal_of_torchvision(x.float(), tensor(label).float(), 0.25, 0.5).mean(), score
    )
    loss, gradient = losses.sigmoid_focal(score, label, gamma=0.5)
    assert np.isnan(theirs[0, 0])
    # The two wrong ones are straight lines, of alpha_t / 4 as slope.
    np.testing.assert_allclose(gradient, [[0, 0, 0.75 / 4, -0.25 / 4]], atol=1e-20)
    np.testing.assert_allclose(loss, (0.75 * 2e4 + 0.25 * 1e4) / 4, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, CLASSES), (3, CLASSES, 50), (2, CLASSES, 5, 7)])
@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("label_smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_weighted_softmax_is_cross_entropy(
    shape, scale, label_smoothing, class_weight, ignore_index
):
    random = np.random.RandomState(0)
    score = (scale * random.randn(*shape)).astype(np.float32)
    label = random.choice([*range(CLASSES), ignore_index], size=shape[:1] + shape[2:])
    options = {"label_smoothing": label_smoothing}
    theirs = loss_and_gradient(
        lambda x: functional.cross_entropy(
            x,
            torch.tensor(label),
            weight=None if class_weight is None else tensor(class_weight),
            ignore_index=ignore_index,
            **options,
        ),
        score,
    )
    ours = losses.weighted_softmax(
        score, label, class_weight=class_weight, ignore_label=ignore_index, **options
    )
    assert_same(ours, theirs)
