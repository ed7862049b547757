"""`python3 -m caffe_losses.class_counts` on data layers of real Caffe."""

import os
import pty
import subprocess
import sys

import h5py
import lmdb
import numpy as np
import pytest
from caffe.proto import caffe_pb2
from PIL import Image

from caffe_losses.class_counts import main
from support.processes import ROOT, environment, run

SOFTMAX = """
layer { name: "score" type: "InnerProduct" bottom: "data" top: "score"
  inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


COMMAND = [sys.executable, "-m", "caffe_losses.class_counts"]


@pytest.fixture
def class_counts(tmp_path, monkeypatch, capfd):
    """The command, ended, in the folder of the test; in this process, which has imported Caffe."""
    monkeypatch.chdir(tmp_path)

    def class_counts(*arguments):
        capfd.readouterr()
        try:
            status = main(arguments)
        except SystemExit as wrong_arguments:
            status = wrong_arguments.code
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return class_counts


def write(folder, text):
    (folder / "train.prototxt").write_text(text)


def hdf5_net(folder, label, batch_size):
    """A net of an HDF5Data layer that gives these labels."""
    with h5py.File(str(folder / "data.h5"), "w") as file:
        file["data"] = np.zeros((len(label), 2), np.float32)
        file["label"] = label.astype(np.float32)
    (folder / "list.txt").write_text(str(folder / "data.h5") + "\n")
    write(
        folder,
        'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
        f'hdf5_data_param {{ source: "list.txt" batch_size: {batch_size} }} }}\n' + SOFTMAX,
    )


def counted(done):
    """The table as lists of words, and the param_str."""
    assert done.returncode == 0, done.stderr
    *table, param_str = done.stdout.splitlines()
    return [line.split() for line in table], param_str


def test_channels_of_hdf5_are_counted_with_what_is_ignored(tmp_path, class_counts):
    label = np.array([[1, 0, 0], [0, 0, 0], [1, 255, 0], [0, 1, -1]])
    hdf5_net(tmp_path, label, batch_size=2)
    done = class_counts(
        "train.prototxt", "--blob", "label", "--batches", "2", "--ignore-label", "255"
    )
    table, param_str = counted(done)
    assert table == [
        ["channel", "positives", "negatives", "ignored", "Q/P"],
        ["0", "2", "2", "0", "1"],
        ["1", "1", "2", "1", "2"],
        ["2", "0", "3", "1", "-"],
    ]
    assert param_str == "param_str: \"{'cls_weight': [1, 2, 1]}\""
    assert done.stderr == (
        "class_counts: no positives of channel 2: its weight is 1; count more batches\n"
    )


def test_maps_with_a_channel_axis_are_counted_by_channel_and_others_together(
    tmp_path, class_counts
):
    label = np.zeros((2, 2, 3, 4))
    label[0, 1] = 1
    hdf5_net(tmp_path, label, batch_size=2)
    table, _ = counted(class_counts("train.prototxt", "--blob", "label"))
    assert [row[1:3] for row in table[1:]] == [["0", "2400"], ["1200", "1200"]]
    hdf5_net(tmp_path, label[:, 1], batch_size=2)
    table, _ = counted(class_counts("train.prototxt", "--blob", "label"))
    assert [row[1:3] for row in table[1:]] == [["1200", "1200"]]


def test_class_numbers_of_lmdb_get_a_weight_each(tmp_path, class_counts):
    labels = [0] * 6 + [1] * 3 + [2]
    with lmdb.open(str(tmp_path / "data")) as database, database.begin(write=True) as transaction:
        for i, label in enumerate(labels):
            datum = caffe_pb2.Datum(channels=1, height=1, width=1, data=b"\0", label=label)
            transaction.put(f"{i:03}".encode(), datum.SerializeToString())
    write(
        tmp_path,
        'layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN } '
        'data_param { source: "data" batch_size: 5 backend: LMDB } }\n' + SOFTMAX,
    )
    done = class_counts("train.prototxt", "--blob", "label", "--batches", "2")
    table, param_str = counted(done)
    assert table == [
        ["class", "positives", "negatives", "ignored", "Q/P"],
        ["0", "6", "4", "0", "0.6667"],
        ["1", "3", "7", "0", "2.333"],
        ["2", "1", "9", "0", "9"],
    ]
    # 10 labels, 3 classes: 10 / (3 * 6), 10 / (3 * 3), 10 / (3 * 1)
    assert param_str == "param_str: \"{'class_weight': [0.5556, 1.111, 3.333]}\""
    assert done.stderr == ""


def test_a_label_without_axes_is_a_batch_of_one(tmp_path, class_counts):
    write(
        tmp_path,
        'layer { name: "data" type: "DummyData" top: "label" dummy_data_param { shape {} '
        'data_filler { type: "constant" value: 1 } } }',
    )
    done = class_counts("train.prototxt", "--blob", "label", "--batches", "3")
    assert counted(done)[0][1] == ["0", "3", "0", "0", "0"]


def image_net(folder, labels, top="label"):
    lines = []
    for i, label in enumerate(labels):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(str(folder / f"{i}.png"))
        lines.append(f"{folder}/{i}.png {label}\n")
    (folder / "images.txt").write_text("".join(lines))
    write(
        folder,
        f'layer {{ name: "data" type: "ImageData" top: "data" top: "{top}" '
        f'image_data_param {{ source: "images.txt" batch_size: {len(labels)} }} }}\n',
    )


def test_labels_of_image_data_are_counted_after_the_layers_that_change_them(tmp_path, class_counts):
    image_net(tmp_path, [1, 2, 2, 1], top="from_one")
    with open(str(tmp_path / "train.prototxt"), "a") as file:
        file.write(
            'layer { name: "label" type: "Power" bottom: "from_one" top: "label" '
            "power_param { shift: -1 } }\n" + SOFTMAX
        )
    arguments = ["train.prototxt", "--blob", "label", "--batches", "1"]
    table, param_str = counted(class_counts(*arguments))
    assert table[1:] == [["0", "2", "2", "0", "1"]]
    table, param_str = counted(class_counts(*arguments, "--classes", "3"))
    assert [row[:2] for row in table[1:]] == [["0", "2"], ["1", "2"], ["2", "0"]]
    assert param_str == "param_str: \"{'class_weight': [0.6667, 0.6667, 1]}\""


def test_the_weights_are_taken_by_the_layer(tmp_path, class_counts):
    from caffe_losses import losses, parameters

    hdf5_net(tmp_path, np.array([[1, 0], [0, 0], [0, 1], [0, 0]]), batch_size=4)
    _, param_str = counted(class_counts("train.prototxt", "--blob", "label"))
    text = param_str[len('param_str: "') : -1]
    settings = parameters.parse("SomeLayer", text)
    loss, _ = losses.weighted_cross_entropy(np.zeros((4, 2)), np.eye(4, 2), **settings)
    assert settings == {"cls_weight": [3, 3]} and loss > 0


def test_data_of_the_other_phase_may_be_missing(tmp_path, class_counts):
    hdf5_net(tmp_path, np.array([0, 1]), batch_size=2)
    text = (tmp_path / "train.prototxt").read_text()
    train, *others = text.splitlines()
    train = train.replace("hdf5_data_param", "include { phase: TRAIN } hdf5_data_param")
    test = train.replace("TRAIN", "TEST").replace("list.txt", "missing.txt")
    write(tmp_path, "\n".join([train, test, *others]))
    arguments = ["train.prototxt", "--blob", "label", "--batches", "1"]
    table, _ = counted(class_counts(*arguments))
    assert table[1:] == [["0", "1", "1", "0", "1"]]
    done = class_counts(*arguments, "--phase", "TEST")
    assert done.returncode == 2 and '"missing.txt" of the layer "data"' in done.stderr


def test_a_terminal_shows_the_progress(tmp_path):
    hdf5_net(tmp_path, np.array([0, 1]), batch_size=2)
    terminal, other_end = pty.openpty()
    subprocess.run(
        [*COMMAND, "train.prototxt", "--blob", "label", "--batches", "7"],
        cwd=str(tmp_path),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=other_end,
        check=True,
        timeout=600,
    )
    assert b"label:   0%" in os.read(terminal, 10000)


def test_it_counts_without_tqdm(tmp_path):
    hdf5_net(tmp_path, np.array([0, 1]), batch_size=2)
    (tmp_path / "tqdm.py").write_text("raise ImportError('no tqdm here')")
    command = [*COMMAND, "train.prototxt", "--blob", "label"]
    done = run(command, tmp_path, python_path=[tmp_path, ROOT])
    table, _ = counted(done)
    assert table[1:] == [["0", "100", "100", "0", "1"]]


def break_nothing(folder):
    pass


def break_list(folder):
    (folder / "list.txt").unlink()


def break_syntax(folder):
    write(folder, "layer { name: ")


def make_input(folder):
    write(folder, 'layer { name: "in" type: "Input" top: "label" }')


def make_test_only(folder):
    text = (folder / "train.prototxt").read_text()
    write(folder, text.replace("hdf5_data_param", "include { phase: TEST } hdf5_data_param"))


def make_python(folder):
    write(
        folder,
        'layer { name: "data" type: "Python" top: "label" '
        'python_param { module: "json" layer: "Missing" } }',
    )


def nan_label(folder):
    hdf5_net(folder, np.array([np.nan, 0]), batch_size=2)


def fractions(folder):
    hdf5_net(folder, np.array([0.5, 0]), batch_size=2)


@pytest.mark.parametrize(
    "change, arguments, problem",
    [
        (break_nothing, ["--blob", "lable"], 'no layer has the top "lable"; did you mean "label"?'),
        (break_list, [], 'the source "list.txt" of the layer "data" does not exist'),
        (break_syntax, [], "train.prototxt:1:"),
        (make_input, [], 'the layer "in" is an Input, which has no data'),
        (make_test_only, [], "label"),
        (make_python, [], "Missing"),
        (nan_label, [], "a label is NaN"),
        (fractions, ["--classes", "2"], "labels that are not whole numbers"),
        (break_nothing, ["--classes", "2"], "there is a label of 2, which is no class number"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_counted_is_one_line_and_exit_status_2(
    tmp_path, class_counts, change, arguments, problem
):
    hdf5_net(tmp_path, np.array([0, 1, 2, 2]), batch_size=2)
    change(tmp_path)
    if "--blob" not in arguments:
        arguments = [*arguments, "--blob", "label"]
    done = class_counts("train.prototxt", *arguments)
    assert_is_one_line(done, problem)


def assert_is_one_line(done, problem):
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("class_counts: ") and problem in line


def test_what_caffe_aborts_for_is_one_line(tmp_path):
    """Not in this process: pytest would show where the aborted one was."""
    hdf5_net(tmp_path, np.array([0, 1]), batch_size=2)
    (tmp_path / "list.txt").write_text("nowhere.h5\n")
    done = run([*COMMAND, "train.prototxt", "--blob", "label"], tmp_path)
    assert_is_one_line(done, "nowhere.h5")


def test_a_missing_prototxt_is_one_line(class_counts):
    done = class_counts("nowhere.prototxt", "--blob", "label")
    assert done.returncode == 2
    assert done.stderr == "class_counts: nowhere.prototxt: No such file or directory\n"


@pytest.mark.parametrize("batches", ["0", "-1", "many"])
def test_a_wrong_number_of_batches_is_an_error(class_counts, batches):
    done = class_counts("net", "--blob", "label", f"--batches={batches}")
    assert done.returncode == 2
    assert "--batches" in done.stderr.splitlines()[-1]


def test_voids_of_255_are_asked_about(tmp_path, class_counts):
    hdf5_net(tmp_path, np.array([0, 1, 255]), batch_size=3)
    done = class_counts("train.prototxt", "--blob", "label", "--batches", "1")
    assert "give --ignore-label 255 if they mark voids" in done.stderr
