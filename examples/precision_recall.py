"""Precision, recall and F-measure of thin lines, a pixel that is a little off being right."""

from typing import Sequence, Tuple

import numpy as np
from scipy import ndimage


def precision_recall_f(
    found: Sequence[np.ndarray], true: Sequence[np.ndarray], tolerance: np.ndarray
) -> Tuple[float, float, float]:
    """Compares masks (height, width) of lines that were found and true ones, over all images.

    Precision is the share of found pixels that are near a true one, recall the share of true pixels
    that are near a found one. `tolerance` is a mask: what is near a pixel at its centre.
    """
    precision, recall = share_near(found, true, tolerance), share_near(true, found, tolerance)
    return precision, recall, f_measure(precision, recall)


def share_near(
    pixels: Sequence[np.ndarray], others: Sequence[np.ndarray], tolerance: np.ndarray
) -> float:
    """The share of the pixels that have one of the others within the tolerance."""
    near = sum(
        np.count_nonzero(these & ndimage.binary_dilation(those, tolerance))
        for these, those in zip(pixels, others)
    )
    return near / max(sum(map(np.count_nonzero, pixels)), 1)


def f_measure(precision: float, recall: float) -> float:
    """The harmonic mean of precision and recall; 0 where both are 0."""
    return 2 * precision * recall / max(precision + recall, 1e-12)
