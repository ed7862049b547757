"""Weights and loss weights at both ends of float32: the right number, or an error beyond them.

What `LossLayer` promises of products: parameters, loss weights and element weights may be any
float32. Where the gradient and the loss are in range, they are right, whatever the products in
between are.
"""

import platform
import random
import sys

import numpy as np
import pytest

from support import tolerance
from support.layers import LAYER, LAYERS, ROWS, draw, expected, layer_of, name_of, row_with
from support.nets import loss_and_gradients, loss_net
from support.parameters import FLOAT32_MAX
from support.processes import run

SHAPE = (2, 3, 4, 5)
DIVIDED_BY_THEIR_WEIGHTS = [
    row_with(layer, normalization="WEIGHT")
    for layer in LAYERS
    if "normalization" in layer.parameters
    and layer.parameters["normalization"].allows("WEIGHT")
    and layer.bottoms[-1].name == "weight"
]
SMALLEST = float(np.finfo(np.float32).tiny)
# Parameters that elements are multiplied with.
FACTORS = ("cls_weight", "class_weight", "alpha", "beta", "delta")
# Beyond these numbers all is computed in float64; up to them what is lost below the smallest
# normal number may be multiplied with them.
ORDINARY = 2.0**40
NOTHING_CANCELS = (
    tolerance.of_answer,
    tolerance.of_huber,
    tolerance.of_smooth_l1,
    tolerance.of_focal,
    tolerance.of_softmax_focal,
    tolerance.of_sums,
    tolerance.of_ohem,
)


def power_of_ten(choose, lowest, highest):
    return float(np.float32(10 ** choose.uniform(lowest, highest)))


def scaled(parameter, value, factor):
    """A parameter's value times a factor; as it is where the parameter may not have that."""
    numbers = np.clip(np.multiply(value, factor), -3e38, 3e38).tolist()
    return numbers if parameter.allows(numbers) else value


def extreme_row(row, choose):
    """A row with parameters at the ends of float32."""
    parameters = dict(row.parameters)
    for key in FACTORS:
        if key in row.layer.parameters and choose.random() < 0.7:
            value = parameters.get(key, row.layer.parameters[key].examples[0])
            if value is not None:
                factor = power_of_ten(choose, -37, 38)
                parameters[key] = scaled(row.layer.parameters[key], value, factor)
    return row._replace(parameters=parameters)


def extreme_inputs(row, choose, seed):
    """Bottoms with element weights at the ends of float32."""
    inputs = draw(row, SHAPE, seed)
    for name in inputs:
        if "weight" in name and inputs[name].min() >= 0 and choose.random() < 0.7:
            inputs[name] *= np.float32(power_of_ten(choose, -37, 38) / 2)
    return inputs


def suitable_loss_weight(choose, gradients):
    """A loss weight for which the largest gradient is at neither end, where there is one."""
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    wanted = power_of_ten(choose, -30, 38.5) / (largest or 1)
    size = min(max(wanted, 1e-38), 3e38)
    return float(np.float32(choose.choice([-1, 1]) * size))


def allowed_error(gradient, row, loss_weight):
    """How far from the formula a gradient may be."""
    values = [np.abs(row.parameters[key]).max() for key in FACTORS if row.parameters.get(key)]
    factors = [max(1, abs(loss_weight)), *(max(1, value) for value in values)]
    lost = SMALLEST * (np.prod(factors) if max(factors) < ORDINARY else 1)
    cancels = row.layer.tolerance not in NOTHING_CANCELS or "label_smoothing" in row.parameters
    return 1e-5 * np.abs(gradient) + 2e-6 * cancels * np.abs(gradient).max() + 30 * lost


def is_in_range(numbers):
    return bool(np.all(np.abs(numbers) <= FLOAT32_MAX))


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_products_in_between_leave_float32_and_the_result_does_not(row):
    choose = random.Random(name_of(row))
    answers = 0
    for seed in range(6):
        extreme = extreme_row(row, choose)
        inputs = extreme_inputs(extreme, choose, seed)
        with np.errstate(all="ignore"):
            loss, gradients = expected(extreme, inputs)
            loss_weight = suitable_loss_weight(choose, gradients)
            correct = {name: loss_weight * gradient for name, gradient in gradients.items()}
        net = loss_net(layer_of(extreme, loss_weight=repr(loss_weight)), inputs)
        if not is_in_range(loss) or not all(map(is_in_range, correct.values())):
            with pytest.raises(FloatingPointError, match=f"{row.layer}: .* overflows float32"):
                loss_and_gradients(net)
            continue
        answers += 1
        found, found_gradients = loss_and_gradients(net)
        assert abs(found - loss) <= 1e-5 * abs(loss) + 100 * SMALLEST, (extreme.parameters, loss)
        for name, gradient in found_gradients.items():
            error = np.abs(gradient - correct[name])
            allowed = allowed_error(correct[name], extreme, loss_weight)
            assert (error <= allowed).all(), (extreme.parameters, loss_weight, name)
    assert answers


OF_SMALL_SIGMOIDS = {
    "cls_weight": {"cls_weight": 1e25},
    "loss_weight": {"loss_weight": 1e25},
    "weight": {"weight": 1e25},
}


@pytest.mark.parametrize("large", OF_SMALL_SIGMOIDS)
def test_a_sigmoid_below_the_smallest_normal_number_times_a_large_weight(large):
    """Right where a parameter or the loss weight is large; lost where the element's weight is."""
    factors = {"cls_weight": 1, "loss_weight": 1, "weight": 1, **OF_SMALL_SIGMOIDS[large]}
    layer = LAYER["SigmoidCrossEntropyWeightLossLayer"]
    row = row_with(layer, cls_weight=factors["cls_weight"])
    inputs = draw(row, SHAPE)
    inputs["score"][...] = np.linspace(87.5, 103, inputs["score"].size).reshape(SHAPE)
    inputs["label"][...] = 1
    inputs["weight"][...] = factors["weight"]
    loss_weight = factors["loss_weight"]
    net = loss_net(layer_of(row, loss_weight=loss_weight), inputs)
    loss, gradients = loss_and_gradients(net)
    correct, correct_gradients = expected(row, inputs)
    correct_gradient = loss_weight * correct_gradients["score"]
    assert np.abs(correct_gradient).max() < 1.01 * SMALLEST * 1e25
    if large == "weight":
        np.testing.assert_allclose(gradients["score"], correct_gradient, atol=SMALLEST * 1e25)
    else:
        np.testing.assert_allclose(gradients["score"], correct_gradient, rtol=1e-5)
    if large == "cls_weight":
        np.testing.assert_allclose(loss, correct, rtol=1e-6)


PRINT_ALL = """
import hashlib
import numpy as np
from support.layers import DEFAULTS, draw, layer_of
from support.nets import loss_and_gradients, loss_net
product = np.random.RandomState(0).randn(300, 300).astype(np.float32)
print(hashlib.sha1(product.dot(product)).hexdigest())
digest = hashlib.sha1()
for row in DEFAULTS:
    inputs = draw(row, (2, 3, 40, 41))
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    digest.update(repr(loss).encode())
    for name in inputs:
        digest.update(gradients[name].tobytes())
print(digest.hexdigest())
"""


def test_losses_are_the_same_to_the_bit_whichever_kernel_the_blas_picks():
    kernels = ["Prescott", "Nehalem"]
    command = [sys.executable, "-c", PRINT_ALL]
    done = [run(command, OPENBLAS_CORETYPE=kernel, GLOG_minloglevel="2") for kernel in kernels]
    assert {each.returncode for each in done} == {0}, done[0].stderr
    of_products, of_losses = zip(*(each.stdout.split() for each in done))
    assert len(set(of_losses)) == 1
    if platform.machine() == "x86_64":
        assert len(set(of_products)) > 1, "no other kernel was picked"


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e38])
@pytest.mark.parametrize("row", DIVIDED_BY_THEIR_WEIGHTS, ids=name_of)
def test_the_size_of_weights_does_not_matter_where_their_sum_divides(row, size):
    inputs = draw(row, SHAPE)
    answers = []
    for each in (1, size):
        inputs["weight"][...] = each
        answers.append(loss_and_gradients(loss_net(layer_of(row), inputs)))
    first = row.layer.bottoms[0].name
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=2e-6)
    np.testing.assert_allclose(answers[0][1][first], answers[1][1][first], rtol=1e-5)


def test_weights_divide_too_where_float32_holds_none_of_their_products_with_alpha():
    """A quarter of the smallest number, of labels that are all 1."""
    row = row_with(LAYER["SigmoidFocalLossLayer"])
    row = row._replace(parameters={"normalization": "WEIGHT"})
    inputs = draw(row, SHAPE)
    inputs["label"][...] = 1
    inputs["weight"][...] = 1e-45
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    correct, correct_gradients = expected(row, inputs)
    np.testing.assert_allclose(loss, correct, rtol=2e-6)
    np.testing.assert_allclose(gradients["score"], correct_gradients["score"], rtol=1e-5)
