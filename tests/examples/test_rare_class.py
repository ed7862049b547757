"""The data and the measures of the example rare_class."""

import numpy as np
import pytest

from examples.fashion_mnist import read_fashion_mnist
from examples.rare_class.data import RARE, evaluation_blobs, one_hot, thinned_order
from examples.rare_class.evaluation import (
    average_precision,
    precision_recall_curve,
    precision_recall_f1,
)


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
