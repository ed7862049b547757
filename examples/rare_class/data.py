"""Fashion-MNIST with one class thinned to one image in a hundred."""

from typing import Dict

import numpy as np

from examples.fashion_mnist import CLASSES, read_fashion_mnist

Blobs = Dict[str, np.ndarray]
RARE = CLASSES.index("Ankle boot")
RARE_SHARE = 0.01


def training_blobs(count: int, seed: int) -> Blobs:
    """The blobs of the train net, data and label, of training images in random order."""
    images, classes = read_fashion_mnist("train")
    order = thinned_order(classes, count, seed)
    return {"data": images[order, np.newaxis] / np.float32(255), "label": one_hot(classes[order])}


def evaluation_blobs() -> Blobs:
    """The same of all test images, with the weight of each in the evaluation.

    The test set has as many images of the rare class as of any other. They are weighted down to the
    share that they have in training, so that the precision is the one to expect in practice and all
    of them still count for the recall.
    """
    images, classes = read_fashion_mnist("t10k")
    rare = np.mean(classes == RARE)
    weight_of_rare = RARE_SHARE / (1 - RARE_SHARE) * (1 - rare) / rare
    return {
        "data": images[:, np.newaxis] / np.float32(255),
        "label": one_hot(classes),
        "weight": np.where(classes == RARE, weight_of_rare, 1),
    }


def thinned_order(classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of `count` images in random order, RARE_SHARE of them of the rare class."""
    random = np.random.RandomState(seed)
    rare_count = round(count * RARE_SHARE)
    rare = random.permutation(np.flatnonzero(classes == RARE))[:rare_count]
    common = random.permutation(np.flatnonzero(classes != RARE))[: count - rare_count]
    return random.permutation(np.concatenate([rare, common]))


def one_hot(classes: np.ndarray) -> np.ndarray:
    """Ten zeros and ones for each class number: the labels of ten sigmoid outputs."""
    return np.eye(len(CLASSES), dtype=np.float32)[classes]
