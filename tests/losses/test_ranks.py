"""Ranks that exchange their counts, here threads without MPI: together they are the whole batch."""

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from caffe_losses import parameters
from caffe_losses.loss import Evaluation
from support.layers import LAYERS, ROWS, axis_of, draw, expected, name_of, row_with

RANKS = 4
SHAPE = (RANKS, 3, 4, 5)


def on_ranks(row, inputs):
    """Loss and gradient to the first bottom of ranks that have an image each."""
    layer = getattr(importlib.import_module(row.layer.module), row.layer.name)
    settings = parameters.checked(layer.__name__, dict(row.parameters), layer.loss.parameters)
    settings.pop("check_labels", None)
    meeting, own = threading.Barrier(RANKS), [()] * RANKS
    gradient = np.empty(SHAPE, np.float32)

    def loss_on(rank):
        def mean_over_ranks(*counts):
            own[rank] = counts
            meeting.wait(timeout=600)
            means = np.mean(own, axis=0)
            meeting.wait(timeout=600)
            return means

        here = slice(rank, rank + 1)
        evaluation = Evaluation(
            layer.__name__, [gradient[here]], mean_over_ranks=mean_over_ranks, ranks=RANKS
        )
        try:
            bottoms = [array[here] for array in inputs.values()]
            return layer.loss.compute(evaluation, *bottoms, **settings)
        except Exception:
            meeting.abort()
            raise

    with ThreadPoolExecutor(RANKS) as pool:
        total = sum(pool.map(loss_on, range(RANKS)))
    # What is divided by nothing is the sum over ranks; all else the mean.
    divisor = 1 if settings.get("normalization") == "NONE" else RANKS
    return total / divisor, gradient / divisor


def assert_is_whole_batch(row, inputs):
    correct, gradients = expected(row, inputs)
    loss, gradient = on_ranks(row, inputs)
    np.testing.assert_allclose(loss, correct, rtol=2e-6)
    right = gradients[next(iter(inputs))]
    np.testing.assert_allclose(gradient, right, rtol=1e-5, atol=2e-6 * np.abs(right).max())


def rows_that_can_be_shared():
    """Not those that choose or order positions of the whole batch, nor those of its axis."""
    for row in ROWS:
        is_ordered = "Lovasz" in row.layer.name
        of_images = row._replace(parameters={**row.parameters, "per_image": True})
        if row.layer.name != "SoftmaxWithLossOHEMLayer" and axis_of(SHAPE, row.parameters):
            yield of_images if is_ordered else row


@pytest.mark.parametrize("row", rows_that_can_be_shared(), ids=name_of)
def test_ranks_with_an_image_each_are_the_whole_batch(row):
    assert_is_whole_batch(row, draw(row, SHAPE))


BALANCED = [layer for layer in LAYERS if "balance" in layer.parameters]
NORMALIZATIONS = BALANCED[0].parameters["normalization"].words


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("balance", ["batch", "channel"])
@pytest.mark.parametrize("layer", BALANCED, ids=lambda layer: layer.name)
def test_ranks_that_have_less_than_a_position_each_are_the_whole_batch(
    layer, balance, normalization
):
    """One is positive and one negative, all others are ignored."""
    row = row_with(layer, balance=balance, normalization=normalization)
    inputs = draw(row, SHAPE)
    mask = list(inputs.values())[-1]
    mask[...] = -1
    mask[0, 0, 0, 0], mask[3, 0, 0, 0] = 1, 0
    assert_is_whole_batch(row, inputs)
