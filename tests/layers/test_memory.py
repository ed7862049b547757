"""What a forward and a backward take beside the blobs, and what a layer keeps."""

import gc
import tracemalloc

import caffe
import numpy as np
import pytest

from caffe_losses.layer import LossLayer
from caffe_losses.loops import engine
from support.layers import DEFAULTS, draw, layer_of, name_of
from support.nets import loss_net

LARGE_IMAGES, MANY_VECTORS = (2, 4, 512, 512), (400000, 4)
MEGABYTE = 10**6
# Losses that choose or sort take some bytes for each position, as their docstrings say.
BYTES_OF_POSITION = {"numba": 16, "numpy": 160}
CHOOSING = ("SoftmaxWithLossOHEMLayer", "LovaszHingeLossLayer", "LovaszSoftmaxLossLayer")
# Those that count, sum or sort image by image take some for each image.
BYTES_OF_IMAGE = 130
BY_IMAGE = (
    "WeightedEuclideanLossLayer",
    "WeightedSigmoidCrossEntropyLossLayer",
    "HuberLossLayer",
    "LovaszHingeLossLayer",
)


@pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
@pytest.mark.parametrize("shape", [LARGE_IMAGES, MANY_VECTORS], ids=str)
def test_a_large_blob_takes_less_than_4_megabytes_beside_it(row, shape):
    net = loss_net(layer_of(row), draw(row, shape))
    net.forward()
    net.backward()
    tracemalloc.start()
    try:
        net.forward()
        net.backward()
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = 4 * MEGABYTE
    if row.layer.name in CHOOSING:
        allowed += BYTES_OF_POSITION[engine.name()] * np.prod(shape) / shape[1]
    if row.layer.name in BY_IMAGE:
        allowed += BYTES_OF_IMAGE * shape[0]
    assert taken < allowed


def blobs_alive():
    gc.collect()
    return sum(type(thing) is caffe._caffe.Blob for thing in gc.get_objects())


@pytest.mark.one_engine
def test_a_net_that_is_dropped_frees_its_blobs():
    """Though Caffe never frees the Python layers in it."""
    row = DEFAULTS[0]
    before = blobs_alive()
    net = loss_net(layer_of(row), draw(row, (2, 3, 4)))
    for _ in range(2):
        net.forward()
        net.backward()
    assert blobs_alive() > before
    del net
    assert blobs_alive() == before


@pytest.mark.one_engine
@pytest.mark.parametrize("row", DEFAULTS, ids=name_of)
def test_a_layer_keeps_what_the_setup_of_all_losses_declares_and_nothing_else(row):
    net = loss_net(layer_of(row), draw(row, (2, 3, 4)))
    layer = net.layers[len(net.layers) - 1]
    declared = set(vars(layer))
    for _ in range(2):
        net.forward()
        net.backward()
    assert set(vars(layer)) == declared
    assert type(layer).__mro__[1] is LossLayer
    assert {name for name in vars(type(layer)) if not name.startswith("__")} == {"loss"}
