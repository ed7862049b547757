"""Scenes of several garments of Fashion-MNIST, two kinds of which are rare, and their silhouettes.

A scene has three by three places, each of them empty or with a garment at half its size, somewhere
in its place, all over noise. Each of the two rare kinds looks like a common one.
"""

from typing import Dict, List, Tuple

import numpy as np

from examples.fashion_mnist import CLASSES, read_fashion_mnist

Blobs = Dict[str, np.ndarray]
COMMON = ("Dress", "Bag", "Sneaker")
RARE = ("Trouser", "Ankle boot")
LABELS = ("background", *COMMON, *RARE)
RARE_SHARE = 0.03  # of the garments, for each rare kind
FILLED_SHARE = 0.5  # of the places
PLACES, PLACE_SIZE, GARMENT_SIZE = 3, 16, 14
SCENE_SIZE = PLACES * PLACE_SIZE
NOISE = 0.15


def scenes(part: str, count: int, seed: int) -> Blobs:
    """Scenes (count, 1, 48, 48), and the number in LABELS of what each pixel shows.

    The parts of Fashion-MNIST, "train" and "t10k", have no garment in common.
    """
    images, classes = read_fashion_mnist(part)
    garments = [images[classes == CLASSES.index(name)] for name in LABELS[1:]]
    random = np.random.RandomState(seed)
    drawn = [scene(garments, random) for _ in range(count)]
    data, label = (np.stack(arrays)[:, np.newaxis] for arrays in zip(*drawn))
    return {"data": data, "label": label}


def scene(
    garments: List[np.ndarray], random: np.random.RandomState
) -> Tuple[np.ndarray, np.ndarray]:
    """One scene and its labels, each (48, 48)."""
    data = np.zeros((SCENE_SIZE, SCENE_SIZE), np.float32)
    label = np.zeros((SCENE_SIZE, SCENE_SIZE), np.float32)
    common_share = (1 - len(RARE) * RARE_SHARE) / len(COMMON)
    shares = [common_share] * len(COMMON) + [RARE_SHARE] * len(RARE)
    for place in np.ndindex(PLACES, PLACES):
        if random.rand() < FILLED_SHARE:
            kind = random.choice(len(garments), p=shares)
            garment = halved(garments[kind][random.randint(len(garments[kind]))])
            corner = np.array(place) * PLACE_SIZE + random.randint(
                PLACE_SIZE - GARMENT_SIZE + 1, size=2
            )
            window = tuple(slice(start, start + GARMENT_SIZE) for start in corner)
            data[window] = garment
            label[window] = np.where(silhouette(garment), 1 + kind, 0)
    noise = NOISE * random.randn(SCENE_SIZE, SCENE_SIZE)
    return data + noise.astype(np.float32), label


def halved(image: np.ndarray) -> np.ndarray:
    """The means of two by two pixels, from 0 to 1."""
    return image.reshape(GARMENT_SIZE, 2, GARMENT_SIZE, 2).mean(axis=(1, 3)) / np.float32(255)


def silhouette(garment: np.ndarray) -> np.ndarray:
    """Which pixels the garment covers: Fashion-MNIST's background is black."""
    return garment > 0.1


def class_weights(label: np.ndarray) -> np.ndarray:
    """What makes all classes weigh the same, 1 in the mean of the pixels.

    As `python3 -m caffe_losses.class_counts` computes it. A class without a pixel counts as one.
    """
    pixels = np.maximum(np.bincount(label.astype(int).ravel(), minlength=len(LABELS)), 1)
    return label.size / (len(LABELS) * pixels)
