"""The images that several examples share."""

import numpy as np
import pytest

from examples.fashion_mnist import CLASSES, read_fashion_mnist


def test_fashion_mnist_is_read_whole():
    images, classes = read_fashion_mnist("t10k")
    assert images.shape == (10000, 28, 28)
    assert (np.bincount(classes) == 1000).all() and len(CLASSES) == 10


def test_missing_images_are_an_error_that_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr("examples.fashion_mnist.FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match="install Debian's package dataset-fashion-mnist"):
        read_fashion_mnist("train")
