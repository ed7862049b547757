"""How good predicted edges are, at one half and at the best threshold."""

from typing import Dict, Sequence

import numpy as np
from skimage.morphology import disk, skeletonize

from examples.precision_recall import precision_recall_f

TOLERANCE = disk(2)  # pixels
THRESHOLDS = np.arange(1, 20) / 20


def measure(probabilities: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Dict[str, float]:
    """Compares predictions with the target's edges, over all pixels of all photographs.

    Given for the threshold one half and for the one threshold that gives these photographs the best
    F-measure (the field's "optimal dataset scale").
    """
    scores = {
        threshold: precision_recall_f(
            [lines_of(probability, threshold) for probability in probabilities], targets, TOLERANCE
        )
        for threshold in THRESHOLDS
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


def lines_of(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Where the probability reaches the threshold, thinned: wide lines find edges by chance."""
    return skeletonize(probability >= threshold)
