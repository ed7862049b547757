"""The data and the measures of the example skeleton_flux."""

import numpy as np
import pytest

from examples.fashion_mnist import read_fashion_mnist
from examples.skeleton_flux.data import enlarge, flux_field, silhouette, with_targets
from examples.skeleton_flux.recovery import (
    best_threshold,
    flux_error,
    inward_flux,
    measure,
    recover,
)


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
