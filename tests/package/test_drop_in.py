"""The published prototxt layers and net-spec calls work as they are, wherever people run them."""

import re
import shutil
import subprocess
import sys

import caffe
import numpy as np
import pytest

from support.nets import fed, loss_and_gradients, loss_net, net_from, python_layer
from support.processes import ROOT, caffe_train, run, write_solver

WEIGHTED_EUCLIDEAN = """
layer {
  name: "loss"
  type: "Python"
  bottom: "fcrop"
  bottom: "flux"
  bottom: "dilmask"
  top: "loss"
  loss_weight: 1.0
  python_param {
    module: "pylayerUtils"
    layer: "WeightedEuclideanLossLayer"
  }
}
"""
CROSS_ENTROPY = """
layer{
    name: "loss"
    type: "Python"
    bottom: "conv5"
    bottom: "label"
    top: "loss"
    python_param{
        module: "SigmoidCrossEntropyWeightLossLayer"
        layer: "SigmoidCrossEntropyWeightLossLayer"
        param_str: "{\\"cls_weight\\":100}"
    }
    include {
        phase: TRAIN
    }
    loss_weight: 1
}
"""
# What stands before the published layers: data that trains, without a file.
FLUX_NET = """
layer { name: "data" type: "DummyData" top: "data" top: "flux" top: "noise"
  dummy_data_param {
    shape { dim: 1 dim: 3 dim: 12 dim: 14 } shape { dim: 1 dim: 2 dim: 12 dim: 14 }
    shape { dim: 1 dim: 1 dim: 12 dim: 14 }
    data_filler { type: "gaussian" } data_filler { type: "gaussian" }
    data_filler { type: "gaussian" }
  } }
layer { name: "dilmask" type: "ReLU" bottom: "noise" top: "dilmask" }
layer { name: "fcrop" type: "Convolution" bottom: "data" top: "fcrop"
  convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
"""
LABEL_NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {
    shape { dim: 2 dim: 3 dim: 12 dim: 14 } shape { dim: 2 dim: 1 dim: 12 dim: 14 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 }
  } }
layer { name: "conv5" type: "Convolution" bottom: "data" top: "conv5"
  convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: "xavier" } } }
"""
SETTINGS = """
base_lr: 0.01 lr_policy: "fixed" max_iter: 3 display: 1 solver_mode: CPU random_seed: 1
"""
NETS = {
    "weighted Euclidean": FLUX_NET + WEIGHTED_EUCLIDEAN,
    "cross-entropy": LABEL_NET + CROSS_ENTROPY,
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))


def published_update(prediction, target, mask):
    """What the published layer puts into the prediction's diff, in float64."""
    positive, negative = mask > 0, mask == 0
    total = positive.sum() + negative.sum()
    weight = negative.sum() / total * positive + positive.sum() / total * negative
    return weight * (prediction.astype(np.float64) - target) / len(prediction)


def trained_losses(net, folder, checkout, **variables):
    """The losses that `caffe train` displays: one for each iteration and one after the last."""
    solver = write_solver(folder, net, SETTINGS)
    done = caffe_train(solver, python_path=[checkout], **variables)
    assert done.returncode == 0, done.stderr
    assert (folder / "snapshot_iter_3.caffemodel").exists()
    losses = [float(loss) for loss in re.findall(r"Iteration \d+.*, loss = (\S+)", done.stderr)]
    assert all(0 < loss < np.inf for loss in losses)
    return losses


@every_net
def test_published_prototxt_trains_under_pycaffe(net, tmp_path):
    solver = caffe.SGDSolver(str(write_solver(tmp_path, net, SETTINGS)))
    before = [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]
    solver.step(3)
    after = [blob.data for blobs in solver.net.params.values() for blob in blobs]
    assert all(np.any(a != b) for a, b in zip(after, before))


@every_net
def test_published_prototxt_trains_under_caffe_train_from_a_checkout(net, tmp_path):
    assert len(trained_losses(net, tmp_path, ROOT)) == 4


def flux_inputs():
    random = np.random.RandomState(0)
    return {
        "fcrop": random.randn(1, 2, 12, 14).astype(np.float32),
        "flux": random.randn(1, 2, 12, 14).astype(np.float32),
        "dilmask": random.choice([-1, 0, 0, 1], size=(1, 1, 12, 14)).astype(np.float32),
    }


def test_batch_size_normalization_gives_the_published_update():
    inputs = flux_inputs()
    layer = WEIGHTED_EUCLIDEAN.replace(
        '"WeightedEuclideanLossLayer"',
        "\"WeightedEuclideanLossLayer\" param_str: \"{'normalization': 'BATCH_SIZE'}\"",
    )
    _, gradients = loss_and_gradients(loss_net(layer, inputs))
    np.testing.assert_allclose(
        gradients["fcrop"], published_update(*inputs.values()), rtol=1e-5, atol=1e-9
    )


def test_default_loss_is_the_published_loss_for_one_image():
    inputs = flux_inputs()
    prediction, target, mask = inputs.values()
    net = loss_net(WEIGHTED_EUCLIDEAN, inputs)
    update = published_update(prediction, target, mask)
    weight = np.broadcast_to(published_update(np.ones(mask.shape), 0, mask), prediction.shape)
    published = (update * (prediction - target)).sum() / 2 / weight.sum()
    np.testing.assert_allclose(net.forward()["loss"], published, rtol=1e-6)


def published_balanced_cross_entropy(score, label):
    """What the published balanced cross-entropy prints and hands back, in float64.

    Its logarithm has base 2 in one of two terms; P and Q are those of the batch; it divides the
    gradient by N alone.
    """
    x, t = score.astype(np.float64), label.astype(np.float64)
    P, Q = np.sum(t > 0), np.sum(t == 0)
    weight = Q / (P + Q) * (t > 0) + P / (P + Q) * (t == 0)
    loss = np.maximum(x, 0) - x * t + np.log2(1 + np.exp(-np.abs(x)))
    printed = np.sum(weight * loss) / len(x) / np.sum(weight)
    return printed, weight * (1 / (1 + np.exp(-x)) - t) / len(x)


def test_balance_over_the_batch_gives_the_update_of_the_published_balanced_cross_entropy():
    random = np.random.RandomState(0)
    inputs = {
        "score": 3 * random.randn(3, 1, 12, 14).astype(np.float32),
        "label": random.choice([-1, 0, 0, 0, 1], size=(3, 1, 12, 14)).astype(np.float32),
    }
    layer = python_layer(
        "pylayerUtils",
        "WeightedSigmoidCrossEntropyLossLayer",
        list(inputs),
        {"balance": "batch", "normalization": "BATCH_SIZE"},
        loss_weight=1,
    )
    loss, gradients = loss_and_gradients(loss_net(layer, inputs))
    printed, update = published_balanced_cross_entropy(*inputs.values())
    np.testing.assert_allclose(gradients["score"], update, rtol=1e-5, atol=1e-9)
    # The printed number is that of no gradient: neither base nor divisor fit.
    assert abs(printed - loss) > 0.1 * loss


def spec_inputs(net):
    net.fcrop, net.flux, net.dilmask = (
        caffe.layers.Input(shape={"dim": [1, channels, 12, 14]}) for channels in (2, 2, 1)
    )


def test_published_net_spec_call_works():
    net = caffe.NetSpec()
    spec_inputs(net)
    net.loss = caffe.layers.Python(
        net.fcrop,
        net.flux,
        net.dilmask,
        module="pylayerUtils",
        layer="WeightedEuclideanLossLayer",
        loss_weight=1,
    )
    built = fed(net_from(str(net.to_proto())), flux_inputs())
    assert built.forward()["loss"] > 0


def test_two_bottoms_take_the_mask_from_the_target():
    inputs = flux_inputs()
    inputs["flux"] *= inputs["dilmask"] > 0
    inputs["dilmask"] = (inputs["dilmask"] > 0).astype(np.float32)
    with_mask = loss_net(WEIGHTED_EUCLIDEAN, inputs).forward()["loss"]
    del inputs["dilmask"]
    layer = WEIGHTED_EUCLIDEAN.replace('bottom: "dilmask"', "")
    assert loss_net(layer, inputs).forward()["loss"] == with_mask


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of a fresh `pip install .` of this checkout."""
    target = tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source") / "caffe-losses"
    # pip builds in the source folder: a copy keeps the checkout clean.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(ROOT / "caffe_losses"), str(source / "caffe_losses"), ignore=ignored)
    for pattern in ("*.py", "*.toml", "*.md", "LICENSE"):
        for path in ROOT.glob(pattern):
            shutil.copy(str(path), str(source))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), "."], cwd=str(source), check=True)
    return target


@every_net
def test_published_prototxt_trains_after_pip_install(net, tmp_path, installed):
    """On NumPy: nothing there is compiled yet."""
    losses = trained_losses(net, tmp_path, installed, CAFFE_LOSSES_ENGINE="numpy")
    assert len(losses) == 4


def test_an_installed_copy_is_imported_from_another_directory(tmp_path, installed):
    code = "import pylayerUtils, SigmoidCrossEntropyWeightLossLayer as m; print(m.__file__)"
    done = run([sys.executable, "-c", code], tmp_path, [installed])
    assert done.stdout.startswith(str(installed))
