"""The samples in prototxt/ load as they are, compute what their comments say, and train."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from examples.fashion_mnist import read_fashion_mnist
from examples.skeleton_flux.data import with_targets
from examples.training import write_hdf5
from support import oracle
from support.nets import fed, loss_and_gradients, net_from

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "prototxt"
TRAINING = {"train.prototxt", "solver.prototxt"}
LOSSES = sorted(path.name for path in SAMPLES.iterdir() if path.name not in TRAINING)


def shapes_of(name):
    """The shape of each input of a sample."""
    net = net_from((SAMPLES / name).read_text())
    return {blob: tuple(net.blobs[blob].shape) for blob in net.inputs}


def drawn(name):
    """Inputs of a sample: zeros and ones for masks and labels."""
    random = np.random.RandomState(1)
    arrays = {blob: random.randn(*shape) for blob, shape in shapes_of(name).items()}
    for blob in set(arrays) & {"mask", "label"}:
        arrays[blob] = (arrays[blob] > 0.8).astype(float)
    return {blob: array.astype(np.float32) for blob, array in arrays.items()}


def computed(name, inputs, edit=lambda text: text):
    """Loss and gradients of a sample."""
    text = edit((SAMPLES / name).read_text())
    return loss_and_gradients(fed(net_from("force_backward: true\n" + text), inputs))


@pytest.mark.parametrize("name", LOSSES)
def test_each_sample_loads_as_it_is_and_computes_a_loss_and_gradients(name):
    loss, gradients = computed(name, drawn(name))
    assert 0 < loss < np.inf
    first_bottom = gradients["score" if "score" in gradients else "prediction"]
    assert np.isfinite(first_bottom).all() and first_bottom.any()


@pytest.mark.parametrize("name", LOSSES)
def test_each_sample_says_what_it_shows(name):
    assert (SAMPLES / name).read_text().startswith("# Shows ")


def test_there_is_a_sample_for_every_layer():
    layers = set()
    for name in LOSSES:
        net = text_format.Parse((SAMPLES / name).read_text(), caffe_pb2.NetParameter())
        layers |= {layer.python_param.layer for layer in net.layer if layer.type == "Python"}
    assert layers == {
        "EuclideanLossLayer",
        "WeightedEuclideanLossLayer",
        "WeightedSigmoidCrossEntropyLossLayer",
        "SigmoidCrossEntropyWeightLossLayer",
        "ChannelSumEuclideanLossLayer",
    }


@pytest.mark.parametrize(
    "name, oracle_of, parameters",
    [
        ("euclidean_loss", oracle.euclidean, {}),
        ("weighted_euclidean_loss", oracle.weighted_euclidean, {}),
        ("channel_sum_euclidean_loss", oracle.channel_sum_euclidean, {}),
        (
            "weighted_sigmoid_cross_entropy_loss",
            oracle.weighted_sigmoid_cross_entropy,
            {"normalization": "BATCH_SIZE"},
        ),
        (
            "sigmoid_cross_entropy_weight_loss",
            oracle.sigmoid_cross_entropy_weight,
            {"cls_weight": [10, 30, 100], "ignore_label": 255},
        ),
    ],
)
def test_the_samples_compute_what_their_parameters_say(name, oracle_of, parameters):
    inputs = drawn(name + ".prototxt")
    loss, gradients = computed(name + ".prototxt", inputs)
    expected_loss, expected_gradients = oracle_of(*inputs.values(), **parameters)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    first = next(iter(inputs))
    np.testing.assert_allclose(gradients[first], expected_gradients[0], rtol=1e-5, atol=1e-7)


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
    done = subprocess.run(
        ["caffe", "train", "-solver", "solver.prototxt"],
        cwd=str(tmp_path),
        env={**os.environ, "PYTHONPATH": str(ROOT), "GLOG_minloglevel": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    first, *_, last = [
        float(line.rsplit("loss = ", 1)[1])
        for line in done.stdout.splitlines()
        if ", loss = " in line
    ]
    assert 0 < last < first
    assert (tmp_path / "build" / "skeleton_context_iter_20.caffemodel").exists()
