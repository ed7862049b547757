"""From a flux field back to the skeleton, and how good the skeleton is."""

from typing import Dict, Sequence

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from examples.precision_recall import precision_recall_f


def inward_flux(flux: np.ndarray) -> np.ndarray:
    """How much of the flux (images, 2, height, width) points at each pixel, from -1 to 1.

    The mean, over the eight neighbours of a pixel, of the flux in the direction from the neighbour
    to the pixel. It is high where flux comes in from opposite sides: on the skeleton.
    """
    rows, columns = np.mgrid[-1:2, -1:2]
    length = np.maximum(np.hypot(rows, columns), 1)
    # correlate gives the kernel's element at (row, column) to the neighbour at that offset, and the
    # way from there to the centre is (-row, -column).
    return sum(
        ndimage.correlate(flux[:, axis], -offset[np.newaxis] / length / 8, mode="constant")
        for axis, offset in enumerate((rows, columns))
    )


def recover(flux: np.ndarray, threshold: float) -> np.ndarray:
    """The skeletons (images, height, width): where more than the threshold flows in, thinned."""
    return np.stack([skeletonize(score > threshold) for score in inward_flux(flux)])


def measure(recovered: np.ndarray, true: np.ndarray) -> Dict[str, float]:
    """Precision, recall and F-measure of all pixels of skeletons, one pixel off being right."""
    measures = precision_recall_f(recovered, true, np.ones((3, 3), bool))
    return dict(zip(("precision", "recall", "F-measure"), measures))


def best_threshold(flux: np.ndarray, true: np.ndarray, thresholds: Sequence[float]) -> float:
    """The threshold with the highest F-measure on these images."""
    return max(thresholds, key=lambda t: measure(recover(flux, t), true)["F-measure"])


def flux_error(predicted: np.ndarray, true: np.ndarray, dilmask: np.ndarray) -> Dict[str, float]:
    """The root mean square length of the error, near the skeleton and elsewhere."""
    squared = np.square(predicted - true).sum(axis=1, keepdims=True)
    return {
        "error near": float(np.sqrt(squared[dilmask].mean())),
        "error elsewhere": float(np.sqrt(squared[~dilmask].mean())),
    }
