"""Images with the skeletons of their silhouettes, as targets for a flux field.

The flux field is that of Y. Wang et al., "DeepFlux for Skeletons in the Wild", CVPR 2019: each
pixel near the skeleton holds the unit vector to the nearest skeleton pixel, all others hold zero.
"""

from typing import Dict, Tuple

import numpy as np
from scipy import ndimage
from skimage.morphology import binary_opening, disk, remove_small_holes, skeletonize
from skimage.transform import resize
from tqdm import tqdm

Blobs = Dict[str, np.ndarray]
SIZE = 64
SMALL_HOLE = 20  # in pixels; larger ones are handles, or the space between legs


def with_targets(images: np.ndarray, context: float, description: str) -> Blobs:
    """The images (N, 28, 28) and their targets, enlarged to SIZE by SIZE pixels."""
    shape = (len(images), SIZE, SIZE)
    blobs = {
        "image": np.empty(shape, np.float32),
        "skeleton": np.empty(shape, bool),
        "flux": np.empty((len(images), 2, SIZE, SIZE), np.float32),
        "dilmask": np.empty(shape, bool),
    }
    for i, image in enumerate(tqdm(images, description)):
        blobs["image"][i] = enlarge(image)
        blobs["skeleton"][i] = skeletonize(silhouette(blobs["image"][i]))
        blobs["flux"][i], blobs["dilmask"][i] = flux_field(blobs["skeleton"][i], context)
    for name in ("image", "dilmask"):
        blobs[name] = blobs[name][:, np.newaxis]
    return blobs


def enlarge(image: np.ndarray) -> np.ndarray:
    """The image with a margin, in [0, 1]; at its own 28x28, one pixel of tolerance is too much."""
    return resize(np.pad(image, 2, mode="constant"), (SIZE, SIZE), order=1)


def silhouette(image: np.ndarray) -> np.ndarray:
    """The largest object in the image, without small holes and thin protrusions."""
    objects = remove_small_holes(image > 0.05, SMALL_HOLE)
    labels, count = ndimage.label(binary_opening(objects, disk(2)))
    sizes = ndimage.sum(labels > 0, labels, range(1, count + 1))
    return labels == 1 + np.argmax(sizes)


def flux_field(skeleton: np.ndarray, context: float) -> Tuple[np.ndarray, np.ndarray]:
    """The flux (2, height, width), rows before columns, and the mask of where it is defined.

    That is up to a distance of `context` pixels from the skeleton. The skeleton itself belongs to
    the mask and has no direction: its flux is zero.
    """
    distance, nearest = ndimage.distance_transform_edt(~skeleton, return_indices=True)
    dilmask = distance <= context
    flux = (nearest - np.indices(skeleton.shape)) / np.maximum(distance, 1)
    return flux * dilmask, dilmask
