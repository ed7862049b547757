"""Every example runs, resumes, and gives the same numbers again, as `caffe train` does."""

import json
import sys
from pathlib import Path
from typing import NamedTuple, Sequence

import caffe
import matplotlib.image
import pytest
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from support.nets import weights_of
from support.processes import ROOT, caffe_train, run


class Example(NamedTuple):
    """A short run of an example."""

    name: str
    options: Sequence[str]
    trainings: Sequence[str]

    def command(self, out):
        script = ROOT / "examples" / self.name / "train.py"
        options = ["--iterations", str(ITERATIONS), *self.options, "--out", str(out)]
        return [sys.executable, str(script), *options]


ITERATIONS = 5
LAST_SNAPSHOT = f"snapshot_iter_{ITERATIONS}.caffemodel"
PRESS_CTRL_C = Path(__file__).with_name("press_ctrl_c.py")
EXAMPLES = [
    Example("skeleton_flux", ["--images", "24"], ["balanced", "unbalanced"]),
    Example(
        "rare_class",
        ["--images", "500"],
        ["cls_weight_1", "cls_weight_10", "cls_weight_100"],
    ),
    Example(
        "segmentation",
        ["--scenes", "60", "--held-out", "60"],
        ["plain", "class_weights", "root_weights", "focal", "dice", "plain_dice", "sum"],
    ),
    Example("edges", ["--crops", "20"], ["unbalanced", "balanced"]),
]


@pytest.fixture(scope="module", params=EXAMPLES, ids=lambda example: example.name)
def interrupted(request, tmp_path_factory):
    """An example, the output folder of a run that Ctrl-C has ended, and that process."""
    out = tmp_path_factory.mktemp(request.param.name)
    python, *script = request.param.command(out)
    return request.param, out, run([python, str(PRESS_CTRL_C), *script])


@pytest.fixture(scope="module")
def finished(interrupted):
    """The example, the folder after the run was resumed, and what that printed."""
    example, out, _ = interrupted
    done = run([*example.command(out), "--resume"])
    assert done.returncode == 0, done.stderr
    return example, out, done.stdout


def test_ctrl_c_leaves_a_snapshot(interrupted):
    example, out, ended = interrupted
    assert ended.returncode == 130, ended.stderr
    assert "stopped at iteration 3; go on with --resume" in ended.stderr
    assert (out / example.trainings[0] / "snapshot_iter_3.solverstate").exists()


def test_it_prints_and_writes_a_table(finished):
    example, out, printed = finished
    rows = json.loads((out / "results.json").read_text())
    assert len(rows) >= len(example.trainings)
    assert "| " + " | ".join(rows[0]) + " |" in printed
    for row in rows:
        values = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        assert "| " + " | ".join(values) + " |" in printed
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1


def test_it_draws_a_small_picture(finished):
    example, out, _ = finished
    path = out / f"{example.name}.png"
    assert path.stat().st_size < 300_000
    assert matplotlib.image.imread(str(path)).std() > 0.1


def test_all_trainings_start_with_the_same_weights_and_data(finished):
    example, out, _ = finished
    nets = [caffe.get_solver(str(out / name / "solver.prototxt")).net for name in example.trainings]
    for net in nets:
        net.forward()
    for net in nets[1:]:
        for name, blobs in nets[0].params.items():
            assert (net.params[name][0].data == blobs[0].data).all()
        data = next(iter(net.blobs))
        assert (net.blobs[data].data == nets[0].blobs[data].data).all()


def test_the_losses_lead_to_different_weights(finished):
    example, out, _ = finished
    first, second = (weights_of(out / name / LAST_SNAPSHOT) for name in example.trainings[:2])
    assert first != second


def test_the_resumed_training_has_the_weights_that_caffe_train_gives_at_once(finished, tmp_path):
    example, out, _ = finished
    name = example.trainings[0]
    text = (out / name / "solver.prototxt").read_text()
    solver = text_format.Parse(text, caffe_pb2.SolverParameter())
    solver.snapshot_prefix = str(tmp_path / "snapshot")
    (tmp_path / "solver.prototxt").write_text(str(solver))
    done = caffe_train(tmp_path / "solver.prototxt")
    assert done.returncode == 0, done.stderr
    assert weights_of(tmp_path / LAST_SNAPSHOT) == weights_of(out / name / LAST_SNAPSHOT)
