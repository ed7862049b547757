"""The samples in prototxt/ load as they are, compute what their comments say, and train."""

import json

import caffe
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from examples.fashion_mnist import read_fashion_mnist
from examples.skeleton_flux.data import with_targets
from examples.training import write_hdf5
from support.layers import LAYER, channels_shared, expected, row_with
from support.nets import fed, loss_and_gradients, net_from
from support.processes import ROOT, caffe_train

SAMPLES = ROOT / "prototxt"
TRAINING = {"train.prototxt", "solver.prototxt"}
NAMES = sorted(path.name for path in SAMPLES.iterdir() if path.name not in TRAINING)
ONE_IMAGE = np.zeros((1, 1, 64, 64), np.float32)


def text_of(name):
    return (SAMPLES / name).read_text()


def losses_in(name):
    """The loss layers of this project in a sample, each with the row that it is."""
    net = text_format.Parse(text_of(name), caffe_pb2.NetParameter())
    for layer in net.layer:
        if layer.type == "Python":
            described = LAYER[layer.python_param.layer]
            assert layer.python_param.module == described.module
            parameters = json.loads(layer.python_param.param_str or "{}")
            all_bottoms = len(layer.bottom) == len(described.bottoms)
            yield layer, row_with(described, optional=all_bottoms, **parameters)


def draw_of(bottom, row):
    """The draw with elements that are ignored, where the parameters name them."""
    for one in bottom.draws:
        if one.needs and one.needs.items() <= row.parameters.items():
            return one
    return bottom.draws[0]


def drawn(name):
    """Inputs of a sample: for its losses from the table, for all else normal."""
    random = np.random.RandomState(1)
    net = net_from(text_of(name))
    shapes = {blob: tuple(net.blobs[blob].shape) for blob in net.inputs}
    inputs = {blob: random.randn(*shape).astype(np.float32) for blob, shape in shapes.items()}
    for layer, row in losses_in(name):
        first = tuple(net.blobs[layer.bottom[0]].shape)
        for blob, bottom in zip(layer.bottom, row.layer.bottoms):
            if blob in inputs:
                channels = channels_shared(shapes[blob], first, row.parameters)
                inputs[blob] = draw_of(bottom, row)(random, shapes[blob], channels)
    return inputs


def computed(name, inputs, edit=lambda text: text):
    """Loss and gradients of a sample."""
    net = net_from("force_backward: true\n" + edit(text_of(name)))
    return loss_and_gradients(fed(net, inputs))


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_says_what_it_shows(name):
    assert text_of(name).startswith("# Shows ")


@pytest.mark.parametrize("name", NAMES)
def test_each_sample_loads_as_it_is_and_computes_what_its_parameters_say(name):
    net = fed(net_from("force_backward: true\n" + text_of(name)), drawn(name))
    net.forward()
    net.backward()
    assert net.outputs
    for output in net.outputs:
        assert 0 < net.blobs[output].data < np.inf
    assert net.blobs[net.inputs[0]].diff.any()
    for layer, row in losses_in(name):
        bottoms = {b.name: net.blobs[n].data for b, n in zip(row.layer.bottoms, layer.bottom)}
        loss, gradients = expected(row, bottoms)
        np.testing.assert_allclose(net.blobs[layer.top[0]].data, loss, rtol=1e-6)
        first = gradients[row.layer.bottoms[0].name] * layer.loss_weight[0]
        own = net.bottom_names[layer.name][0]  # a Split's top where others use the blob too
        np.testing.assert_allclose(net.blobs[own].diff, first, rtol=1e-5, atol=1e-7)


def test_there_is_a_sample_for_every_layer():
    assert {row.layer.name for name in NAMES for _, row in losses_in(name)} == set(LAYER)


@pytest.mark.parametrize("reduce, native", [("tail", "reduction"), ("axis", "convolution")])
def test_the_channel_sum_equals_its_native_equivalent(reduce, native):
    sample = "channel_sum_euclidean_loss.prototxt"
    inputs = drawn(sample)

    def edit(text):
        assert '\\"axis\\"}' in text
        return text.replace('\\"axis\\"}', f'\\"{reduce}\\"}}')

    loss, gradients = computed(sample, inputs, edit)
    native_loss, native_gradients = computed(f"channel_sum_by_{native}.prototxt", inputs)
    np.testing.assert_allclose(loss, native_loss, rtol=1e-6)
    for name in ("prediction", "target"):
        np.testing.assert_allclose(gradients[name], native_gradients[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("phase", [caffe.TRAIN, caffe.TEST])
def test_the_train_net_has_its_loss_for_output_and_nothing_else(phase, tmp_path):
    source = write_hdf5(tmp_path / "train.h5", image=ONE_IMAGE, dilmask=ONE_IMAGE)
    text = text_of("train.prototxt").replace("build/skeleton_flux/train.txt", source)
    assert net_from(text, phase).outputs == ["loss"]


def test_the_train_net_trains_under_the_caffe_command(tmp_path):
    images, _ = read_fashion_mnist("train")
    blobs = with_targets(images[:32], 2, "images")
    write_hdf5(
        tmp_path / "build" / "skeleton_flux" / "train.h5",
        **{name: blobs[name] for name in ("image", "flux", "dilmask")},
    )
    solver = text_format.Parse(
        (SAMPLES / "solver.prototxt").read_text(), caffe_pb2.SolverParameter()
    )
    solver.net = str(ROOT / solver.net)
    solver.max_iter = solver.snapshot = 20
    solver.display = 10
    (tmp_path / "solver.prototxt").write_text(str(solver))
    done = caffe_train(tmp_path / "solver.prototxt")
    assert done.returncode == 0, done.stderr
    first, *_, last = [
        float(line.rsplit("loss = ", 1)[1])
        for line in done.stderr.splitlines()
        if ", loss = " in line
    ]
    assert 0 < last < first
    assert (tmp_path / "build" / "skeleton_context_iter_20.caffemodel").exists()
