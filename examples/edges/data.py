"""The photographs that scikit-image ships, with the edges that a Canny detector finds in them."""

from typing import Dict, List, Tuple

import numpy as np
import skimage.data
from skimage.color import rgb2gray
from skimage.feature import canny

TRAINING = ("astronaut", "brick", "coins", "rocket", "motorcycle")
HELD_OUT = ("camera", "chelsea", "coffee")
CROP_SIZE = 96


def read_photograph(name: str) -> np.ndarray:
    """Gray values (height, width) from -0.5 to 0.5."""
    if name == "motorcycle":
        photograph, _, _ = skimage.data.stereo_motorcycle()
    else:
        photograph = getattr(skimage.data, name)()
    gray = rgb2gray(photograph) if photograph.ndim == 3 else photograph / 255
    return gray.astype(np.float32) - 0.5


def edges_of(photograph: np.ndarray) -> np.ndarray:
    """The target: lines one pixel wide, at the photograph's full resolution."""
    return canny(photograph, sigma=3)


def training_blobs(count: int, seed: int) -> Dict[str, np.ndarray]:
    """The blobs of the train net, image and edge: random crops, half of them mirrored."""
    random = np.random.RandomState(seed)
    photographs = [read_photograph(name) for name in TRAINING]
    pairs = [np.stack([photograph, edges_of(photograph)]) for photograph in photographs]
    crops = np.stack([random_crop(pairs[random.randint(len(pairs))], random) for _ in range(count)])
    return {"image": crops[:, :1], "edge": crops[:, 1:]}


def random_crop(pair: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """A square of photograph and edges (2, height, width)."""
    top, left = (random.randint(length - CROP_SIZE + 1) for length in pair.shape[1:])
    crop = pair[:, top : top + CROP_SIZE, left : left + CROP_SIZE]
    return crop[:, :, ::-1] if random.randint(2) else crop


def held_out() -> Tuple[List[np.ndarray], List[np.ndarray]]:
    """Photographs and targets that no net is trained on."""
    photographs = [read_photograph(name) for name in HELD_OUT]
    return photographs, [edges_of(photograph) for photograph in photographs]
