"""The data, the net and the measures of the example edges."""

import caffe
import numpy as np
import pytest
from scipy import ndimage

import examples.edges.data as edges_data
import examples.edges.evaluation as edges_evaluation
import examples.edges.net as edges_net
from support.nets import net_from


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


def loaded(net):
    return net_from(str(net.to_proto()), caffe.TEST)


def test_every_output_has_the_size_of_the_photograph():
    net = loaded(edges_net.deploy_net(41, 30))
    assert len(net.outputs) == 4
    for output in net.outputs:
        assert net.blobs[output].data.shape == (1, 1, 41, 30)


def test_side_outputs_are_enlarged_in_place():
    net = loaded(edges_net.deploy_net(40, 48))
    for factor, stage in ((2, 2), (4, 3)):
        score = net.blobs[f"score{stage}"]
        score.data[...] = 0
        score.data[0, 0, 5, 6] = 1
        net.forward(start=f"score{stage}_enlarged", end=f"side{stage}")
        centre = ndimage.center_of_mass(net.blobs[f"side{stage}"].data[0, 0])
        np.testing.assert_allclose(centre, [5.5 * factor - 0.5, 6.5 * factor - 0.5], atol=1e-4)


def test_each_output_has_a_loss_and_the_enlarging_is_not_trained():
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
    narrow = ndimage.binary_dilation(target, np.ones((3, 3)))
    assert edges_evaluation.measure([narrow * 0.9], [target])["precision"] == 1
    thin = edges_evaluation.measure([wide * 0.9], [target])["precision"]
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
