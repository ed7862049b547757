"""What a layer has been through leaves no trace: errors, interrupts, threads, odd sizes."""

import os
import random
import sys

import numpy as np
import pytest

from caffe_losses.loops import parts
from support.layers import DEFAULTS, LAYER, draw, expected, layer_of, name_of, row_with
from support.nets import fed, loss_and_gradients, loss_net
from support.processes import run

each_row = pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
SHAPES = [(2, 3, 4), (2, 3, 4, 5), (1, 3, 6), (4, 3, 2, 2), (3, 3), (0, 3, 4)]


def assert_answer(row, inputs, found, correct=None):
    """The loss and all gradients are those of the oracle."""
    loss, gradients = correct or expected(row, inputs)
    np.testing.assert_allclose(found[0], loss, rtol=1e-5, atol=1e-6)
    for name, gradient in found[1].items():
        scale = np.abs(gradients[name]).max() if gradients[name].size else 0
        np.testing.assert_allclose(gradient, gradients[name], rtol=1e-4, atol=1e-6 * (1 + scale))


def spoil(inputs, choose):
    """Inputs of which one has another shape or an element that is not finite."""
    name = choose.choice(sorted(inputs))
    array = inputs[name]
    if choose.random() < 0.5 and array.size:
        array = array.copy()
        array.reshape(-1)[choose.randrange(array.size)] = choose.choice([np.nan, np.inf])
    else:
        shape = list(array.shape) + [2]
        array = np.zeros(shape, np.float32)
    return {**inputs, name: array}


@each_row
def test_after_any_sequence_of_good_and_bad_batches_the_next_one_is_right(row):
    choose = random.Random(name_of(row))
    net = loss_net(layer_of(row), draw(row, SHAPES[0]))
    errors = answers = 0
    for step in range(30):
        inputs = draw(row, choose.choice(SHAPES), seed=step)
        if choose.random() < 0.4:
            try:
                loss_and_gradients(fed(net, spoil(inputs, choose)))
            except (ValueError, FloatingPointError):
                errors += 1
            fed(net, inputs)
        answers += 1
        assert_answer(row, inputs, loss_and_gradients(fed(net, inputs)))
    assert errors > 2 and answers == 30


def test_a_batch_of_other_channels_than_class_weights_leaves_the_next_one_right():
    row = row_with(LAYER["SigmoidCrossEntropyWeightLossLayer"])
    row = row._replace(parameters={"cls_weight": [1, 10, 100]})
    inputs = draw(row, (2, 3, 4))
    net = loss_net(layer_of(row), inputs)
    before = loss_and_gradients(net)
    assert_answer(row, inputs, before)
    with pytest.raises(ValueError, match="cls_weight"):
        loss_and_gradients(fed(net, draw(row, (2, 2, 6))))
    np.testing.assert_equal(loss_and_gradients(fed(net, inputs)), before)


@pytest.mark.parametrize("channels", [1, 2, 31, 33, 255, 257, 511, 513, 893, 1025, 2047, 4096])
@pytest.mark.parametrize("optional", [True, False], ids=["mask", "without mask"])
def test_any_number_of_channels(channels, optional):
    row = row_with(LAYER["WeightedEuclideanLossLayer"])
    inputs = draw(row, (1, channels, 32, 32) if channels == 893 else (1, channels, 5, 7))
    if not optional:
        del inputs["mask"]
        row = next(each for each in DEFAULTS if list(each.draws) == list(inputs))
        inputs = draw(row, inputs["prediction"].shape)
    assert_answer(row, inputs, loss_and_gradients(loss_net(layer_of(row), inputs)))


LENGTHS = parts.ROW, parts.STRETCH, parts.BLOCK // 2, parts.PART // 2
EDGES = [length + more for length in LENGTHS for more in (-1, 0, 1)]


def with_lengths():
    """Each layer with all lengths; without its optional bottoms with the even ones."""
    for row in DEFAULTS:
        has_all_bottoms = len(row.draws) == len(row.layer.bottoms)
        for positions in EDGES if has_all_bottoms else EDGES[1::3]:
            yield pytest.param(row, positions, id=f"{name_of(row)}-{positions}")


@pytest.mark.parametrize("row, positions", [*with_lengths()])
def test_lengths_about_those_of_rows_blocks_and_parts(row, positions):
    """Of a channel those of rows and stretches, of both channels those of blocks and parts."""
    inputs = draw(row, (1, 2, positions))
    assert_answer(row, inputs, loss_and_gradients(loss_net(layer_of(row), inputs)))


# Threads, interrupts and the end of the process

SEVERAL_PARTS = """
import atexit, faulthandler, random, signal, sys, threading
import numpy as np
from caffe_losses import losses
from caffe_losses.loops import parts, threads
parts.PART = 4 * parts.ROW
threads.thread_count = lambda: 3
generator = np.random.RandomState(0)
x, t = generator.randn(2, 3, 60, 60), (generator.rand(2, 3, 60, 60) < 0.3)
def loss():
    return losses.balanced_cross_entropy(x, t)[0]
"""
OUTLIVED = """
def train():
    threading.main_thread().join()
    for _ in range(20):
        assert loss() == right
    print("trained")
right = loss()
atexit.register(lambda: print("at exit", loss() == right))
threading.Thread(target=train).start()
"""
INTERRUPTED = """
right, count, wrong, wanted = loss(), 0, 0, int(sys.argv[1])
chance = random.Random(0)
inside = False
def interrupt(*unused):
    global count, inside
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(2e-5, 2e-3))
    if inside:  # so that none comes while the last one is caught
        inside = False
        count += 1
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
interrupt()
while count < wanted:
    if count % 100 == 0:  # a hang ends the process and shows where it was
        faulthandler.dump_traceback_later(600, exit=True)
    try:
        inside = True
        found = loss()
        inside = False
        wrong += found != right
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
print(count, wrong, loss() == right)
"""


def test_training_in_a_thread_goes_on_when_the_main_thread_has_ended():
    done = run([sys.executable, "-c", SEVERAL_PARTS + OUTLIVED])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["trained", "at exit True"]


def test_interrupts_leave_neither_a_hang_nor_a_wrong_number():
    """`make fuzz` sends 50,000."""
    count = os.environ.get("INTERRUPTS", "2000")
    command = [sys.executable, "-c", SEVERAL_PARTS + INTERRUPTED, count]
    done = run(command, timeout=900 + int(count) / 10)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [count, "0", "True"]
