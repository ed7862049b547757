"""The examples rare_class and edges run, resume and give the same numbers; what they measure."""

import json
import sys
from pathlib import Path

import caffe
import matplotlib.image
import numpy as np
import pytest
from scipy import ndimage
from test_examples import ROOT, caffe_train, interrupt, run, weights_of

import examples.edges.data as edges_data
import examples.edges.evaluation as edges_evaluation
import examples.edges.net as edges_net
from examples.fashion_mnist import read_fashion_mnist
from examples.rare_class.data import RARE, evaluation_blobs, one_hot, thinned_order
from examples.rare_class.evaluation import (
    average_precision,
    precision_recall_curve,
    precision_recall_f1,
)

ITERATIONS = {"rare_class": 40, "edges": 12}  # a while: Ctrl-C must come before the last
SHORT = {"rare_class": ["--images", "500"], "edges": ["--crops", "20"]}
TRAININGS = {
    "rare_class": ["cls_weight_1", "cls_weight_10", "cls_weight_100"],
    "edges": ["unbalanced", "balanced"],
}


def command_of(example, out):
    script = ROOT / "examples" / example / "train.py"
    options = ["--iterations", str(ITERATIONS[example]), *SHORT[example], "--out", str(out)]
    return [sys.executable, str(script), *options]


def last_snapshot(example):
    return f"snapshot_iter_{ITERATIONS[example]}.caffemodel"


@pytest.fixture(scope="module", params=["rare_class", "edges"])
def finished(request, tmp_path_factory):
    """The name of an example, the output folder of a short run, and what it printed."""
    out = tmp_path_factory.mktemp(request.param)
    done = run(command_of(request.param, out))
    assert done.returncode == 0, done.stderr
    return request.param, out, done.stdout


def test_it_prints_and_writes_a_table(finished):
    _, out, printed = finished
    rows = json.loads((out / "results.json").read_text())
    assert "| " + " | ".join(rows[0]) + " |" in printed
    for row in rows:
        values = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        assert "| " + " | ".join(values) + " |" in printed
        assert 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1


def test_it_draws_a_small_picture(finished):
    example, out, _ = finished
    path = out / f"{example}.png"
    assert path.stat().st_size < 300_000
    assert matplotlib.image.imread(str(path)).std() > 0.1


def test_all_trainings_start_with_the_same_weights_and_data(finished):
    example, out, _ = finished
    nets = [
        caffe.get_solver(str(out / name / "solver.prototxt")).net for name in TRAININGS[example]
    ]
    for net in nets:
        net.forward()
    for net in nets[1:]:
        for name, blobs in nets[0].params.items():
            assert (net.params[name][0].data == blobs[0].data).all()
        data = next(iter(net.blobs))
        assert (net.blobs[data].data == nets[0].blobs[data].data).all()


def test_the_losses_lead_to_different_weights(finished):
    example, out, _ = finished
    first, second = (
        weights_of(out / name / last_snapshot(example)) for name in TRAININGS[example][:2]
    )
    assert first != second


def test_caffe_train_gives_the_same_weights(finished, tmp_path):
    example, out, _ = finished
    name = TRAININGS[example][-1]
    caffe_train(out / name / "solver.prototxt", tmp_path)
    last = last_snapshot(example)
    assert weights_of(tmp_path / last) == weights_of(out / name / last)


def test_ctrl_c_leaves_a_snapshot_and_resuming_ends_with_the_same_numbers(finished, tmp_path):
    example, out, _ = finished
    command = command_of(example, tmp_path)
    interrupt(command, tmp_path, TRAININGS[example][0], ITERATIONS[example])

    done = run([*command, "--resume"])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results.json").read_text() == (out / "results.json").read_text()
    for name in TRAININGS[example]:
        last = Path(name) / last_snapshot(example)
        assert weights_of(tmp_path / last) == weights_of(out / last)


# The data and the measures of rare_class


def test_one_training_image_in_a_hundred_is_of_the_rare_class():
    _, classes = read_fashion_mnist("train")
    order = thinned_order(classes, 54000, seed=1)
    counts = np.bincount(classes[order])
    assert len(set(order)) == counts.sum() == 54000
    assert counts[RARE] == 540
    assert np.delete(counts, RARE).min() > 5900


def test_the_seed_decides_the_order():
    _, classes = read_fashion_mnist("train")
    first, again, other = (thinned_order(classes, 300, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_the_rare_class_weighs_as_much_in_the_evaluation_as_in_training():
    blobs = evaluation_blobs()
    rare = blobs["label"][:, RARE] == 1
    assert blobs["weight"][rare].sum() / blobs["weight"].sum() == pytest.approx(0.01)
    assert (blobs["weight"][~rare] == 1).all()


def weighted_images(positive, weight):
    return {"label": one_hot(np.where(positive, RARE, 0)), "weight": np.array(weight)}


def test_precision_recall_and_f1_count_weights():
    test = weighted_images([True, True, False, False], [0.5, 0.25, 2.0, 1.0])
    measured = precision_recall_f1(np.array([True, False, True, False]), test)
    assert measured["precision"] == 0.5 / 2.5
    assert measured["recall"] == 0.5 / 0.75
    assert measured["F1"] == pytest.approx(2 / (2.5 / 0.5 + 0.75 / 0.5))


def test_finding_nothing_has_no_precision():
    test = weighted_images([True, False], [1.0, 1.0])
    measured = precision_recall_f1(np.zeros(2, bool), test)
    assert measured == {"precision": 0, "recall": 0, "F1": 0}


def test_the_curve_has_a_point_for_each_threshold():
    probability = np.array([0.9, 0.5, 0.5, 0.1])
    precision, recall = precision_recall_curve(
        probability, np.array([1, 0, 1, 1]), np.array([1.0, 2.0, 1.0, 2.0])
    )
    np.testing.assert_allclose(precision, [1, 2 / 4, 4 / 6])
    np.testing.assert_allclose(recall, [1 / 4, 2 / 4, 1])


def test_average_precision_is_the_mean_precision_over_recall():
    classes = np.arange(20) % 10
    label = one_hot(classes)
    test = {"label": label, "weight": np.ones(20)}
    probabilities = label.copy()
    probabilities[:, 3] = np.where(np.arange(20) == 3, 0.9, 0.5)  # one found at once, one with all
    averages = average_precision(probabilities, test)
    assert np.delete(averages, 3).tolist() == [1] * 9
    assert averages[3] == pytest.approx((1 + 2 / 20) / 2)


# The data, the net and the measures of edges


def test_no_photograph_is_both_trained_on_and_held_out():
    assert not set(edges_data.TRAINING) & set(edges_data.HELD_OUT)


def test_photographs_are_gray_and_few_of_their_pixels_are_edges():
    for name in (*edges_data.TRAINING, *edges_data.HELD_OUT):
        photograph = edges_data.read_photograph(name)
        assert photograph.ndim == 2 and -0.5 <= photograph.min() < photograph.max() <= 0.5
        assert 0.005 < edges_data.edges_of(photograph).mean() < 0.08


def test_photograph_and_edges_are_cropped_and_mirrored_together():
    photograph = np.random.RandomState(0).rand(100, 120)
    pair = np.stack([photograph, photograph > 0.9])
    crops = [edges_data.random_crop(pair, np.random.RandomState(seed)) for seed in range(8)]
    for image, edge in crops:
        assert image.shape == (96, 96)
        assert ((image > 0.9) == edge).all()
    assert len({image.tobytes() for image, _ in crops}) == len(crops)


def loaded(net, tmp_path, phase=caffe.TEST):
    path = tmp_path / "net.prototxt"
    path.write_text(str(net.to_proto()))
    return caffe.Net(str(path), phase)


def test_every_output_has_the_size_of_the_photograph(tmp_path):
    net = loaded(edges_net.deploy_net(41, 30), tmp_path)
    assert len(net.outputs) == 4
    for output in net.outputs:
        assert net.blobs[output].data.shape == (1, 1, 41, 30)


def test_side_outputs_are_enlarged_in_place(tmp_path):
    net = loaded(edges_net.deploy_net(40, 48), tmp_path)
    for factor, stage in ((2, 2), (4, 3)):
        score = net.blobs[f"score{stage}"]
        score.data[...] = 0
        score.data[0, 0, 5, 6] = 1
        net.forward(start=f"score{stage}_enlarged", end=f"side{stage}")
        centre = ndimage.center_of_mass(net.blobs[f"side{stage}"].data[0, 0])
        np.testing.assert_allclose(centre, [5.5 * factor - 0.5, 6.5 * factor - 0.5], atol=1e-4)


def test_each_output_has_a_loss_and_the_enlarging_is_not_trained(tmp_path):
    net = edges_net.train_net("unused.txt", "image").to_proto()
    losses = [layer for layer in net.layer if layer.type == "Python"]
    assert [loss.bottom[0] for loss in losses] == ["side1", "side2", "side3", "fused"]
    enlarging = [layer for layer in net.layer if layer.type == "Deconvolution"]
    assert len(enlarging) == 2
    assert all(layer.param[0].lr_mult == 0 for layer in enlarging)


@pytest.mark.parametrize("shift, expected", [(0, 1), (2, 1), (3, 0)])
def test_an_edge_two_pixels_off_is_right(shift, expected):
    target = np.zeros((20, 30), bool)
    target[8, 3:27] = True
    measured = edges_evaluation.measure([0.9 * np.roll(target, shift, axis=0)], [target])
    assert measured["F"] == measured["best F"] == pytest.approx(expected)


def test_wide_lines_are_thinned_before_they_count():
    target = np.zeros((40, 40), bool)
    target[5:35:10, 2:38] = True
    wide = ndimage.binary_dilation(target, np.ones((9, 9)))
    (thin,) = edges_evaluation.precision_recall_f([wide * 0.9], [target], 0.5)[:1]
    narrow = ndimage.binary_dilation(target, np.ones((3, 3)))
    assert edges_evaluation.precision_recall_f([narrow * 0.9], [target], 0.5)[0] == 1
    assert thin > np.mean(ndimage.binary_dilation(target, np.ones((5, 5)))[wide])


def test_the_best_threshold_is_one_for_all_photographs():
    target = np.zeros((20, 30), bool)
    target[8, 3:27] = True
    wrong = np.roll(target, 8, axis=0)
    measured = edges_evaluation.measure(
        [0.9 * target + 0.4 * wrong, 0.7 * target + 0.6 * wrong], [target, target]
    )
    assert 0.6 < measured["best threshold"] <= 0.7
    assert measured["best F"] == 1
    assert measured["recall"] == 1 and measured["precision"] == pytest.approx(2 / 3)
