"""What the training scripts of all examples share."""

import json
from pathlib import Path

import caffe
import numpy as np
import pytest

from examples import training
from pylayerUtils import EuclideanLossLayer
from support.nets import weights_of


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
