"""Precision and recall of edges, an edge pixel that is a little off being right."""

from typing import Dict, Sequence, Tuple

import numpy as np
from scipy import ndimage
from skimage.morphology import disk, skeletonize

TOLERANCE = 2  # pixels
THRESHOLDS = np.arange(1, 20) / 20


def measure(probabilities: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Dict[str, float]:
    """Compares predictions with the target's edges, over all pixels of all photographs.

    Given for the threshold one half and for the one threshold that gives these photographs the best
    F-measure (the field's "optimal dataset scale").
    """
    scores = {
        threshold: precision_recall_f(probabilities, targets, threshold) for threshold in THRESHOLDS
    }
    precision, recall, f_measure = scores[0.5]
    best_threshold = max(THRESHOLDS, key=lambda threshold: scores[threshold][-1])
    return {
        "precision": precision,
        "recall": recall,
        "F": f_measure,
        "best threshold": float(best_threshold),
        "best F": scores[best_threshold][-1],
    }


def precision_recall_f(
    probabilities: Sequence[np.ndarray], targets: Sequence[np.ndarray], threshold: float
) -> Tuple[float, float, float]:
    """Precision: predicted pixels near an edge; recall: edge pixels near a predicted one.

    Predicted lines are thinned first, as wide lines would find edges by chance.
    """
    lines = [skeletonize(probability >= threshold) for probability in probabilities]
    precision = share_near(lines, targets)
    recall = share_near(targets, lines)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)


def share_near(pixels: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The share of the pixels that have one of the others within the tolerance."""
    near = sum(
        np.count_nonzero(these & ndimage.binary_dilation(those, disk(TOLERANCE)))
        for these, those in zip(pixels, others)
    )
    return near / max(sum(map(np.count_nonzero, pixels)), 1)
