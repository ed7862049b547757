"""Fashion-MNIST (Xiao et al., 2017) as Debian's package dataset-fashion-mnist installs it."""

import gzip
from pathlib import Path
from typing import Tuple

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_fashion_mnist(part: str) -> Tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and class numbers (N,) of the part "train" or "t10k" (the test set)."""
    images = read_idx(FOLDER / f"{part}-images-idx3-ubyte.gz")
    classes = read_idx(FOLDER / f"{part}-labels-idx1-ubyte.gz")
    return images, classes


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in a gzipped IDX file: its axes' lengths come before its values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no {path}; install Debian's package dataset-fashion-mnist, or run this through "
            f"tools/with-caffe, which has it"
        ) from error
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
