"""Every loss, with every parameter, in real Caffe: against the formula, and as Caffe drives it."""

import os

import caffe
import numpy as np
import pytest

from caffe_losses import batch_counts
from caffe_losses.loops import engine, parts
from support.draws import Draw
from support.layers import (
    DEFAULTS,
    LAYER,
    LAYERS,
    ROWS,
    Row,
    axis_of,
    draw,
    expected,
    layer_of,
    name_of,
    of_the_formula,
    row_with,
)
from support.nets import fed, input_layer, learned, loss_and_gradients, loss_net, net_from

SHAPE = (2, 3, 4, 5)

every_row = pytest.mark.parametrize("row", ROWS, ids=name_of)
each_row = pytest.mark.parametrize("row", DEFAULTS, ids=name_of)


def for_each(cases):
    """Runs a test over rows with shapes that they take."""
    return pytest.mark.parametrize(
        "row, shape",
        [
            pytest.param(row, shape, id=f"{name_of(row)}-{shape}")
            for row, shape in cases
            if row.layer.takes(shape, row.parameters)
        ],
    )


def assert_matches(row: Row, net: caffe.Net, inputs: dict, loss_weight: float = 1) -> None:
    """The net's loss and gradients are the oracle's, the gradients times loss_weight."""
    loss, gradients = loss_and_gradients(net)
    bottoms, parameters = list(inputs.values()), of_the_formula(row.parameters)
    answer = row.layer.oracle(*bottoms, **parameters)
    np.testing.assert_allclose(loss, answer[0], rtol=2e-6)
    right = dict(zip(row.differentiable, answer[1]))
    errors = dict(zip(row.differentiable, row.layer.tolerance(answer, *bottoms, **parameters)[1]))
    for name, gradient in gradients.items():
        own = loss_weight * right.get(name, np.zeros(gradient.shape))
        error = 1e-6 * np.abs(own).max() + abs(loss_weight) * errors.get(name, 0)
        wrong = ~(np.abs(gradient - own) <= 1e-5 * np.abs(own) + error)
        assert not wrong.any(), (name, wrong.sum(), gradient[wrong][:5], own[wrong][:5])


# Compiled loops take the elements of short channels one by one, and a softmax all short images
# together.
WITHOUT_ROWS, WITH_LONG_ROWS = (2, 3, 3, 4), (2, 3, 8, 9)


@every_row
def test_loss_and_gradients_are_those_of_the_formula(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs)
    assert_matches(row, net, inputs)
    for shape in WITHOUT_ROWS, WITH_LONG_ROWS:
        inputs = draw(row, shape)
        assert_matches(row, fed(net, inputs), inputs)


def test_the_shapes_here_have_channels_with_and_without_rows():
    assert np.prod(WITHOUT_ROWS[2:]) < parts.SHORTEST_ROW <= np.prod(SHAPE[2:])
    assert np.prod(SHAPE[2:]) < parts.LANES <= np.prod(WITH_LONG_ROWS[2:])


AXES = [(1, 1), (7,), (4, 3), (1, 3, 6), (3, 3, 2, 2, 3), (5, 3, 1, 7)]


@for_each(
    (row, shape)
    for i, row in enumerate(ROWS)
    for k, shape in enumerate(AXES)
    if row in DEFAULTS or (i + k) % 3 == 0
)
def test_any_number_of_axes_and_images(row, shape):
    inputs = draw(row, shape)
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


MANY_BLOCKS = [(3, 3, 121, 123), (1, 3, 45000), (45000, 3, 1), (9001, 3, 5), (2, 3, 22003)]


def test_the_shapes_here_have_several_parts_and_blocks():
    for shape in (*MANY_BLOCKS, VERY_MANY_CHANNELS):
        assert np.prod(shape) > max(parts.PART, 4 * parts.BLOCK)
    assert VERY_MANY_CHANNELS[1] > parts.BLOCK


def of_many_blocks():
    """Each layer in all of these shapes; without its optional bottoms in the first one."""
    for row in DEFAULTS:
        has_all_bottoms = len(row.draws) == len(row.layer.bottoms)
        for shape in MANY_BLOCKS if has_all_bottoms else MANY_BLOCKS[:1]:
            yield row, shape


@for_each(of_many_blocks())
def test_blobs_of_many_blocks(row, shape):
    inputs = draw(row, shape)
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


VERY_MANY_CHANNELS = (2, 20011, 4)


@pytest.mark.parametrize("row", [*map(row_with, LAYERS)], ids=name_of)
def test_very_many_channels(row):
    inputs = draw(row, VERY_MANY_CHANNELS)
    assert_matches(row, loss_net(layer_of(row), inputs), inputs)


@each_row
def test_gradient_is_multiplied_by_loss_weight_and_the_loss_is_not(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row, loss_weight=-2.5), inputs)
    assert_matches(row, net, inputs, loss_weight=-2.5)


@each_row
def test_gradients_go_only_where_propagate_down_asks_for_them(row):
    inputs = draw(row, SHAPE)
    for wanted in inputs:
        layers = learned(wanted) + layer_of(row)
        net = loss_net(layers, inputs, force_backward=False)
        _, gradients = loss_and_gradients(net)
        scale = np.abs(expected(row, inputs)[1][wanted]).max()
        np.testing.assert_allclose(
            gradients.pop(wanted), expected(row, inputs)[1][wanted], rtol=1e-5, atol=1e-6 * scale
        )
        assert all(np.isnan(gradient).all() for gradient in gradients.values())


@each_row
def test_test_phase_gives_the_same_loss(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs, caffe.TEST)
    np.testing.assert_allclose(net.forward()["loss"], expected(row, inputs)[0], rtol=2e-6)


@each_row
def test_test_phase_computes_no_gradient(row):
    inputs = draw(row, SHAPE)
    net = loss_net(layer_of(row), inputs, caffe.TEST)
    for name in inputs:
        net.blobs[name].diff[...] = 7
    net.forward()
    for name in inputs:
        assert (net.blobs[name].diff == 7).all()


@each_row
def test_shapes_may_change_between_iterations(row):
    net = loss_net(layer_of(row), draw(row, SHAPE))
    for seed, shape in enumerate(
        [(2, 3, 4, 5), (1, 3, 7, 2), (4, 3, 4, 5), (2, 3, 9), (3, 3, 2, 2)]
    ):
        inputs = draw(row, shape, seed)
        assert_matches(row, fed(net, inputs), inputs)


def with_other_layouts():
    """The defaults; and each layer with bottoms that are laid out as they least often are."""
    yield from DEFAULTS
    for row in map(row_with, LAYERS):
        last = {bottom.name: bottom.layouts.layouts[-1] for bottom in row.layer.bottoms}
        if last != row.layouts:
            yield row._replace(layouts=last)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("row", with_other_layouts(), ids=name_of)
@pytest.mark.parametrize("empty", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 0, 4, 5)])
def test_empty_batch_has_loss_zero(row, empty):
    inputs = draw(row, empty)
    net = loss_net(layer_of(row), inputs)
    assert loss_and_gradients(net)[0] == 0
    inputs = draw(row, SHAPE)
    assert_matches(row, fed(net, inputs), inputs)
    assert loss_and_gradients(fed(net, draw(row, empty)))[0] == 0


@pytest.mark.parametrize(
    "row",
    [
        row._replace(parameters={**row.parameters, **row.layer.mean_over_images})
        for row in DEFAULTS
        if row.layer.mean_over_images is not None
    ],
    ids=name_of,
)
def test_a_step_with_several_images_is_the_mean_of_steps_with_one(row):
    inputs = draw(row, (4, 3, 5, 6))
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    net = loss_net(layer_of(row), {name: array[:1] for name, array in inputs.items()})
    losses = []
    for image in range(4):
        one = {name: array[image : image + 1] for name, array in inputs.items()}
        loss_of_one, gradients_of_one = loss_and_gradients(fed(net, one))
        losses.append(loss_of_one)
        for name in row.differentiable:
            np.testing.assert_allclose(
                gradients[name][image], gradients_of_one[name][0] / 4, rtol=1e-5, atol=1e-9
            )
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-6)


@pytest.fixture
def exchanged(monkeypatch):
    """How many counts each exchange with other ranks has."""
    sizes = []
    monkeypatch.setattr(batch_counts, "_mean", lambda own: sizes.append(own.size) or own)
    return sizes


@each_row
def test_an_empty_batch_exchanges_as_many_counts_with_other_ranks(row, exchanged):
    net = loss_net(layer_of(row), draw(row, SHAPE))
    net.forward()
    fed(net, draw(row, (0, 3, 4, 5))).forward()
    assert len(exchanged) == 2
    assert exchanged[0] == exchanged[1]


@pytest.mark.parametrize("balance", ["batch", "channel"])
@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if "balance" in row.layer.parameters],
    ids=name_of,
)
def test_counts_of_balanced_batches_are_as_many_for_an_empty_one(row, balance, exchanged):
    """With a mask for all channels and with one for each."""
    row = row._replace(parameters={**row.parameters, "balance": balance})
    inputs = draw(row, SHAPE)
    if "weight" in inputs:
        inputs["weight"] = np.abs(inputs["weight"])
    net = loss_net(layer_of(row), inputs)
    net.forward()
    fed(net, draw(row, (0, 3, 4, 5))).forward()
    assert len(exchanged) == 2
    assert exchanged[0] == exchanged[1]


@each_row
def test_the_test_phase_exchanges_nothing_with_other_ranks(row, exchanged):
    """Rank 0 alone tests: the others would wait for ever."""
    net = loss_net(layer_of(row), draw(row, SHAPE), caffe.TEST)
    net.forward()
    fed(net, draw(row, (0, 3, 4, 5))).forward()
    assert exchanged == []


@pytest.mark.parametrize("phase, ranks", [(caffe.TRAIN, 3), (caffe.TEST, 1)])
def test_several_ranks_have_the_batch_in_training_alone(phase, ranks, monkeypatch):
    """Three ranks with the same images: the mean of their gradients is that of all images."""
    monkeypatch.setattr(batch_counts, "_mean", lambda own: own)
    monkeypatch.setattr(batch_counts, "_ranks", 3)
    layer = LAYER["DiceLossLayer"]
    row = row_with(layer)
    inputs = draw(row, SHAPE)
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs, phase))
    whole = {name: np.concatenate([array] * ranks) for name, array in inputs.items()}
    correct, correct_gradients = expected(row, whole)
    np.testing.assert_allclose(loss, correct, rtol=1e-6)
    own = ranks * correct_gradients["prediction"][: SHAPE[0]]
    np.testing.assert_allclose(gradients["prediction"], own, rtol=1e-5, atol=1e-8)


def test_several_losses_in_one_net_do_not_disturb_each_other():
    rows = DEFAULTS
    text, inputs = "force_backward: true\n", {}
    for number, row in enumerate(rows):
        own = {f"{name}{number}": array for name, array in draw(row, SHAPE, number).items()}
        text += "".join(input_layer(name, array.shape) for name, array in own.items())
        layer = layer_of(row).replace('"loss"', f'"loss{number}"')
        for name in row.draws:
            layer = layer.replace(f'"{name}"', f'"{name}{number}"')
        text += layer
        inputs.update(own)
    net = fed(net_from(text), inputs)
    net.forward()
    net.backward()
    for number, row in enumerate(rows):
        own = {name: inputs[f"{name}{number}"] for name in row.draws}
        loss, gradients = expected(row, own)
        np.testing.assert_allclose(net.blobs[f"loss{number}"].data[0], loss, rtol=2e-6)
        for name in row.differentiable:
            diff = net.blobs[f"{name}{number}"].diff
            np.testing.assert_allclose(diff, gradients[name], rtol=1e-5, atol=1e-6)


def balanced_bottoms():
    """The layers that balance, with what balances them: a bottom and a value all over it."""
    for layer in LAYERS:
        for bottom in layer.bottoms if "balance" in layer.parameters else []:
            for value in [*bottom.without_weight, 1] if bottom.without_weight else []:
                row = row_with(layer)
                balanced = {**row.parameters, "balance": "image"}
                yield row._replace(parameters=balanced), bottom.name, value


@pytest.mark.parametrize("row, name, value", balanced_bottoms())
def test_an_image_without_both_classes_gives_zero_and_not_nan(row, name, value):
    inputs = draw(row, SHAPE)
    inputs[name][:] = value
    loss, gradients = loss_and_gradients(loss_net(layer_of(row), inputs))
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_balance_by_channel_is_the_mean_of_the_channels_alone():
    """Each channel of a batch as a batch of its own: P and Q are counted in it alone."""
    layer = LAYER["WeightedSigmoidCrossEntropyLossLayer"]
    inputs = draw(row_with(layer), (20, 3, 5))
    inputs["label"][...] = 0
    inputs["label"][:1, 0] = inputs["label"][:9, 1] = 1  # none in the last channel
    together = loss_and_gradients(loss_net(layer_of(row_with(layer, balance="channel")), inputs))
    row = row_with(layer, balance="batch")
    losses = []
    for channel in range(3):
        alone = {name: array[:, channel : channel + 1] for name, array in inputs.items()}
        loss, gradients = loss_and_gradients(loss_net(layer_of(row), alone))
        losses.append(loss)
        np.testing.assert_allclose(
            together[1]["score"][:, channel], gradients["score"][:, 0] / 3, rtol=1e-5
        )
    assert losses[0] > 0 and losses[1] > 0 and losses[2] == 0
    np.testing.assert_allclose(together[0], np.mean(losses), rtol=1e-6)


def test_a_mask_for_all_channels_counts_the_same_by_channel_and_by_batch():
    layer = LAYER["WeightedEuclideanLossLayer"]
    inputs = draw(row_with(layer), SHAPE)
    by_channel, by_batch = (
        loss_and_gradients(loss_net(layer_of(row_with(layer, balance=balance)), inputs))
        for balance in ("channel", "batch")
    )
    np.testing.assert_allclose(by_channel[0], by_batch[0], rtol=1e-6)
    np.testing.assert_allclose(by_channel[1]["prediction"], by_batch[1]["prediction"], rtol=1e-6)


def rows_that_ignore():
    """The rows with elements to ignore, and the bottom that has them."""
    for row in ROWS:
        for name, one in row.draws.items():
            if one.ignored is not None:
                yield pytest.param(row, name, one, id=name_of(row))


@pytest.mark.parametrize("row, name, one", rows_that_ignore())
def test_what_stands_at_ignored_places_changes_nothing(row, name, one: Draw):
    inputs = draw(row, SHAPE)
    mask = inputs[name]
    if mask.ndim < len(SHAPE):
        mask = np.expand_dims(mask, axis_of(SHAPE, row.parameters))
    ignored = np.broadcast_to(mask == one.ignored, SHAPE)
    assert ignored.any() and not ignored.all()
    net = loss_net(layer_of(row), inputs)
    loss, gradients = loss_and_gradients(net)
    first = next(iter(inputs))
    assert gradients[first][~ignored].any()
    for differentiable in row.differentiable:
        assert not gradients[differentiable][ignored].any()
    net.blobs[first].data[ignored] += 3
    changed_loss, changed = loss_and_gradients(net)
    assert changed_loss == pytest.approx(loss, rel=1e-6)
    for differentiable in row.differentiable:
        np.testing.assert_array_equal(changed[differentiable], gradients[differentiable])


def test_the_engine_of_these_tests_is_the_one_that_was_asked_for():
    """It stands last: a loop that fails to compile leaves all others to NumPy."""
    if not os.environ.get(engine.VARIABLE):
        pytest.importorskip("numba")
    assert engine.name() == engine.wanted()
