"""The losses against PyTorch's, where it is installed."""

import numpy as np
import pytest

from caffe_losses import losses

torch = pytest.importorskip("torch")

random = np.random.RandomState(0)
WEIGHTS = [0.2, 1, 5, 0.7]
SHAPES = [(6, 4), (3, 4, 50), (2, 4, 5, 7)]


def draw_classes(shape, scale, ignored=()):
    """Scores of four classes, and class numbers."""
    score = (scale * random.randn(*shape)).astype(np.float32)
    numbers = [*range(shape[1]), *ignored]
    return score, random.choice(numbers, size=shape[:1] + shape[2:])


def of_torch(function, score, label, **options):
    """PyTorch's loss and gradient, in float64."""
    x = torch.tensor(score, dtype=torch.float64, requires_grad=True)
    loss = function(x, torch.tensor(label), **options)
    loss.backward()
    return loss.item(), x.grad.numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1, 30])
@pytest.mark.parametrize("label_smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("class_weight", [None, WEIGHTS])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_weighted_softmax_is_cross_entropy(
    shape, scale, label_smoothing, class_weight, ignore_index
):
    score, label = draw_classes(shape, scale, {-100} & {ignore_index})
    expected_loss, expected = of_torch(
        torch.nn.functional.cross_entropy,
        score,
        label,
        weight=None if class_weight is None else torch.tensor(class_weight, dtype=torch.float64),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
    loss, gradient = losses.weighted_softmax(
        score,
        label,
        class_weight=1 if class_weight is None else class_weight,
        ignore_label=ignore_index,
        label_smoothing=label_smoothing,
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)
