"""The data, the net and the measures of the example segmentation."""

import caffe
import numpy as np
import pytest

import examples.segmentation.data as segmentation_data
import examples.segmentation.evaluation as segmentation_evaluation
import examples.segmentation.net as segmentation_net
from support.nets import net_from

LABELS = segmentation_data.LABELS


@pytest.fixture(scope="module")
def scenes():
    return segmentation_data.scenes("train", 500, seed=1)


def test_every_scene_has_a_label_for_each_pixel(scenes):
    assert scenes["data"].shape == scenes["label"].shape == (500, 1, 48, 48)
    assert set(np.unique(scenes["label"])) == set(range(len(LABELS)))


def test_most_pixels_are_background_and_few_of_a_rare_kind(scenes):
    shares = np.bincount(scenes["label"].astype(int).ravel()) / scenes["label"].size
    assert shares[0] > 0.7
    assert (0.01 < shares[1:-2]).all()
    assert (shares[-2:] < 0.01).all()


def test_silhouettes_stand_out_from_the_background(scenes):
    covered = scenes["label"] > 0
    assert scenes["data"][covered].mean() > 0.3
    assert abs(scenes["data"][~covered].mean()) < 0.02


def test_the_seed_decides_the_scenes():
    first, again, other = (segmentation_data.scenes("train", 3, seed) for seed in (1, 1, 2))
    for name in first:
        assert (first[name] == again[name]).all() and (first[name] != other[name]).any()


def test_class_weights_make_all_classes_weigh_the_same(scenes):
    weights = segmentation_data.class_weights(scenes["label"])
    pixels = np.bincount(scenes["label"].astype(int).ravel())
    np.testing.assert_allclose(weights * pixels, scenes["label"].size / len(LABELS))


def test_a_class_without_a_pixel_has_a_finite_weight():
    assert np.isfinite(segmentation_data.class_weights(np.zeros((1, 1, 4, 4)))).all()


def test_scores_have_the_size_of_the_scene():
    net = net_from(str(segmentation_net.deploy_net(batch_size=2).to_proto()), caffe.TEST)
    assert net.blobs["score"].data.shape == (2, len(LABELS), 48, 48)


def test_features_are_enlarged_in_place():
    net = net_from(str(segmentation_net.deploy_net(batch_size=1).to_proto()), caffe.TEST)
    features = net.blobs["conv4"].data
    features[...] = 0
    features[0, 3, 5, 6] = 1
    net.forward(start="enlarged", end="enlarged")
    enlarged = net.blobs["enlarged"].data[0]
    assert not np.delete(enlarged, 3, axis=0).any()
    rows, columns = np.nonzero(enlarged[3])
    assert (rows.mean(), columns.mean()) == (5 * 4 + 1.5, 6 * 4 + 1.5)


@pytest.mark.parametrize("loss", segmentation_net.LOSSES)
def test_a_sum_adds_its_losses_up(loss):
    weights = np.arange(1, 1 + len(LABELS))
    net = segmentation_net.train_net("unused.txt", loss, weights).to_proto()
    added = [layer for layer in net.layer if list(layer.bottom) == ["score", "label"]]
    assert len(added) == len(segmentation_net.LOSSES[loss])
    for layer in added:
        assert layer.type == "SoftmaxWithLoss" or list(layer.loss_weight) == [1]


def test_iou_precision_and_recall_count_pixels():
    label = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 2, 2])
    counts = segmentation_evaluation.confusion(predicted, label, classes=4)
    measured = [
        segmentation_evaluation.intersection_over_union(counts),
        segmentation_evaluation.precision(counts),
        segmentation_evaluation.recall(counts),
    ]
    expected = [[2 / 3, 1 / 3, 1 / 2, 0], [1, 1 / 2, 1 / 2, 0], [2 / 3, 1 / 2, 1, 0]]
    np.testing.assert_allclose(measured, expected)
