"""The skeleton example runs, resumes and gives the same numbers; what the examples share."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import caffe
import matplotlib.image
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from examples import training
from examples.fashion_mnist import CLASSES, read_fashion_mnist
from examples.skeleton_flux.data import enlarge, flux_field, silhouette, with_targets
from examples.skeleton_flux.recovery import (
    best_threshold,
    flux_error,
    inward_flux,
    measure,
    recover,
)
from pylayerUtils import EuclideanLossLayer

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "examples" / "skeleton_flux" / "train.py")]
ITERATIONS = 60  # long enough for Ctrl-C to come in time
SHORT = ["--iterations", str(ITERATIONS), "--images", "24"]


def run(command, **environment):
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=300,
    )


def weights_of(path):
    net = caffe_pb2.NetParameter()
    net.ParseFromString(path.read_bytes())
    return [blob.data for layer in net.layer for blob in layer.blobs]


def caffe_train(solver_path, folder):
    """Runs `caffe train` on a solver, with its snapshots in that folder."""
    solver = text_format.Parse(solver_path.read_text(), caffe_pb2.SolverParameter())
    solver.snapshot_prefix = str(folder / "snapshot")
    (folder / "solver.prototxt").write_text(str(solver))
    command = ["caffe", "train", "-solver", str(folder / "solver.prototxt")]
    done = run(command, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr


def interrupt(command, out, name, iterations):
    """Presses Ctrl-C during the training of that name; it must leave one snapshot on the way."""
    training = subprocess.Popen(command, stderr=subprocess.PIPE, universal_newlines=True)
    shown = ""
    while not re.search(rf"{name}: .* [1-9]\d*/{iterations} ", shown):
        character = training.stderr.read(1)
        assert character, shown
        shown += character
    training.send_signal(signal.SIGINT)
    shown += training.communicate(timeout=60)[1]
    assert training.returncode == 130, shown
    assert "go on with --resume" in shown
    (snapshot,) = (out / name).glob("*.solverstate")
    assert 1 <= int(snapshot.stem.split("_")[-1]) < iterations


# The skeleton example


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The output folder of a short run, and what it printed."""
    out = tmp_path_factory.mktemp("skeleton_flux")
    done = run([*COMMAND, *SHORT, "--out", str(out)])
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_it_prints_and_writes_a_table_of_both_losses(finished):
    out, printed = finished
    rows = json.loads((out / "results.json").read_text())
    assert [row["loss"] for row in rows] == ["balanced", "unbalanced"]
    for row in rows:
        assert row["iterations"] == ITERATIONS
        for measured in ("precision", "recall", "F-measure"):
            assert 0 <= row[measured] <= 1
            assert f"{row[measured]:.3f}" in printed


def test_it_draws_a_small_picture(finished):
    path = finished[0] / "skeleton_flux.png"
    assert path.stat().st_size < 300_000
    assert matplotlib.image.imread(str(path))[..., :3].std() > 0.1


def test_both_losses_train_from_the_same_weights_on_the_same_images(finished):
    nets = [
        caffe.get_solver(str(finished[0] / name / "solver.prototxt")).net
        for name in ("balanced", "unbalanced")
    ]
    for balanced, unbalanced in zip(*(net.params.values() for net in nets)):
        assert (balanced[0].data == unbalanced[0].data).all()
    for net in nets:
        net.forward()
    assert (nets[0].blobs["image"].data == nets[1].blobs["image"].data).all()


def test_caffe_train_gives_the_same_weights(finished, tmp_path):
    out, _ = finished
    caffe_train(out / "unbalanced" / "solver.prototxt", tmp_path)
    snapshot = f"snapshot_iter_{ITERATIONS}.caffemodel"
    assert weights_of(tmp_path / snapshot) == weights_of(out / "unbalanced" / snapshot)


def test_ctrl_c_leaves_a_snapshot_and_resuming_ends_with_the_same_numbers(finished, tmp_path):
    command = [*COMMAND, *SHORT, "--out", str(tmp_path)]
    interrupt(command, tmp_path, "balanced", ITERATIONS)

    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").read_text() == (finished[0] / "results.json").read_text()
    for name in ("balanced", "unbalanced"):
        last = Path(name) / f"snapshot_iter_{ITERATIONS}.caffemodel"
        assert weights_of(tmp_path / last) == weights_of(finished[0] / last)


# Its data and its measures


@pytest.fixture(scope="module")
def blobs():
    return with_targets(read_fashion_mnist("t10k")[0][:20], 2, "images")


def test_flux_points_to_the_nearest_skeleton_pixel_and_is_zero_elsewhere():
    skeleton = np.zeros((9, 9), bool)
    skeleton[4, 2:7] = True
    flux, dilmask = flux_field(skeleton, context=2)
    np.testing.assert_allclose(flux[:, 3, 4], [1, 0])
    np.testing.assert_allclose(flux[:, 6, 4], [-1, 0])
    np.testing.assert_allclose(flux[:, 4, 0], [0, 1])
    np.testing.assert_allclose(flux[:, 2, 5], [1, 0])
    np.testing.assert_allclose(flux[:, 3, 7], [0.5**0.5, -(0.5**0.5)])
    assert not flux[:, skeleton].any() and dilmask[skeleton].all()
    assert not flux[:, ~dilmask].any()
    assert dilmask[4 - 2, 4] and not dilmask[4 - 3, 4]


def test_every_image_has_a_skeleton_inside_its_silhouette(blobs):
    for image, skeleton in zip(blobs["image"][:, 0], blobs["skeleton"]):
        assert skeleton.any() and silhouette(image)[skeleton].all()
    assert 0 <= blobs["image"].min() < blobs["image"].max() <= 1


def test_the_space_between_legs_is_kept_and_small_holes_are_not():
    image = np.zeros((64, 64), np.float32)
    image[10:50, 10:50] = 1
    image[20:23, 20:23] = 0
    image[30:45, 28:33] = 0
    found = silhouette(image)
    assert found[21, 21] and not found[38, 30]


def test_images_are_enlarged_to_the_range_from_0_to_1():
    enlarged = enlarge(np.full((28, 28), 255, np.uint8))
    assert enlarged.shape == (64, 64) and enlarged.max() == 1 and enlarged[0, 0] == 0


def test_the_skeleton_is_recovered_from_the_true_flux(blobs):
    true = blobs["skeleton"]
    threshold = best_threshold(blobs["flux"], true, [0.2, 0.95])
    assert threshold == 0.2
    assert measure(recover(blobs["flux"], threshold), true)["F-measure"] > 0.999


def test_flux_flows_in_where_it_comes_from_all_sides():
    flux = np.zeros((1, 2, 5, 5))
    flux[0], _ = flux_field(np.arange(25).reshape(5, 5) == 12, context=2)
    assert inward_flux(flux)[0, 2, 2] == pytest.approx(1)
    assert inward_flux(-flux)[0, 2, 2] == pytest.approx(-1)


@pytest.mark.parametrize("shift, expected", [(0, 1), (1, 1), (2, 0)])
def test_a_skeleton_one_pixel_off_is_right(shift, expected):
    true = np.zeros((2, 12, 12), bool)
    true[:, 5, 3:9] = True
    assert measure(np.roll(true, shift, axis=1), true)["F-measure"] == pytest.approx(expected)


def test_precision_and_recall_count_pixels():
    true, recovered = np.zeros((2, 1, 12, 12), bool)
    true[0, 5, :10] = True
    recovered[0, 5, :3] = True
    recovered[0, 11, 11] = True
    measured = measure(recovered, true)
    assert measured["precision"] == 3 / 4  # all but the pixel far away
    assert measured["recall"] == 4 / 10  # three pixels and their neighbour
    assert measure(np.zeros_like(true), true)["F-measure"] == 0


def test_the_error_of_the_flux_is_the_length_of_the_difference():
    true, mask = np.zeros((1, 2, 4, 4)), np.zeros((1, 1, 4, 4), bool)
    mask[0, 0, 1, 1:3] = True
    predicted = true.copy()
    predicted[0, :, 1, 1] = 3, 4
    assert flux_error(predicted, true, mask) == {
        "error near": pytest.approx((25 / 2) ** 0.5),
        "error elsewhere": 0,
    }


def test_fashion_mnist_is_read_whole():
    images, classes = read_fashion_mnist("t10k")
    assert images.shape == (10000, 28, 28)
    assert (np.bincount(classes) == 1000).all() and len(CLASSES) == 10


def test_missing_images_are_an_error_that_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr("examples.fashion_mnist.FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="install Debian's package dataset-fashion-mnist"):
        read_fashion_mnist("train")


# What the examples share


def train_line(out, *arguments):
    """Trains a net that fits a line, with the options that every example has."""
    parser = training.argument_parser("Fits a line.", iterations=10, out=str(out))
    options = parser.parse_args(arguments)
    x = np.random.RandomState(0).rand(7, 1)
    source = training.write_hdf5(options.out / "train.h5", x=x, y=2 * x)
    net = caffe.NetSpec()
    net.x, net.y = caffe.layers.HDF5Data(source=source, batch_size=3, ntop=2)
    net.line = caffe.layers.InnerProduct(net.x, num_output=1, weight_filler={"type": "xavier"})
    net.loss = EuclideanLossLayer.spec(net.line, net.y)
    solver = training.write_solver(
        options.out / "line", net, options, base_lr=0.1, lr_policy="fixed", momentum=0.9
    )
    return Path(training.train(solver, options.resume))


def test_training_further_is_the_same_as_training_at_once(tmp_path):
    at_once = train_line(tmp_path / "at_once")
    train_line(tmp_path, "--iterations", "4")
    assert weights_of(train_line(tmp_path, "--resume")) == weights_of(at_once)


def test_the_seed_makes_the_difference(tmp_path):
    first, again, other = (weights_of(train_line(tmp_path, "--seed", s)) for s in "112")
    assert first == again != other


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    before = weights_of(train_line(tmp_path))
    assert weights_of(train_line(tmp_path, "--resume")) == before


def test_resuming_with_other_options_is_an_error(tmp_path):
    train_line(tmp_path, "--seed", "3")
    with pytest.raises(SystemExit, match=r"cannot resume.*'seed': 4.*trained with {'seed': 3}"):
        train_line(tmp_path, "--resume", "--seed", "4")


def test_resuming_beyond_the_iterations_is_an_error(tmp_path):
    train_line(tmp_path)
    with pytest.raises(SystemExit, match="snapshot_iter_10.solverstate is beyond --iterations 5"):
        train_line(tmp_path, "--resume", "--iterations", "5")


def test_starting_anew_forgets_the_snapshots_of_another_run(tmp_path):
    train_line(tmp_path)
    assert train_line(tmp_path, "--iterations", "5").name == "snapshot_iter_5.caffemodel"
    assert len(training.snapshots_in(tmp_path / "line")) == 1


def test_a_folder_that_caffe_cannot_read_is_an_error(tmp_path):
    with pytest.raises(SystemExit, match="no path with spaces: .*; choose another --out"):
        train_line(tmp_path / "my results")


def test_a_count_must_be_positive(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_line(tmp_path, "--iterations", "0")
    assert "0 is not positive" in capsys.readouterr().err


def test_the_report_is_a_table_and_json(tmp_path, capsys):
    rows = [{"loss": "one", "F": 0.5}, {"loss": "two", "F": 0.25}]
    training.report(tmp_path / "results.json", rows)
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    assert capsys.readouterr().out == (
        "| loss | F |\n| --- | --- |\n| one | 0.500 |\n| two | 0.250 |\n"
    )
