"""Precision and recall, each test image counting with its weight."""

from typing import Dict, List, Tuple

import numpy as np

from examples.precision_recall import f_measure
from examples.rare_class.data import RARE, Blobs


def precision_recall_f1(found: np.ndarray, test: Blobs) -> Dict[str, float]:
    """How good it is to take the images that are found for the rare class."""
    weight, positive = test["weight"], test["label"][:, RARE] == 1
    right = weight[found & positive].sum()
    precision = right / weight[found].sum() if found.any() else 0.0
    recall = right / weight[positive].sum()
    return {"precision": precision, "recall": recall, "F1": f_measure(precision, recall)}


def precision_recall_curve(
    probability: np.ndarray, positive: np.ndarray, weight: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Precision and recall for each threshold from the highest probability down."""
    order = np.argsort(-probability, kind="mergesort")
    right = np.cumsum((weight * positive)[order])
    found = np.cumsum(weight[order])
    # Images of the same probability are found together.
    thresholds = np.append(np.diff(probability[order]) != 0, True)
    return (right / found)[thresholds], (right / right[-1])[thresholds]


def average_precision(probabilities: np.ndarray, test: Blobs) -> List[float]:
    """For each class the mean precision over recall: the area below the steps of the curve."""
    averages = []
    for probability, positive in zip(probabilities.T, test["label"].T):
        precision, recall = precision_recall_curve(probability, positive, test["weight"])
        averages.append(float(np.sum(precision * np.diff(np.append(0, recall)))))
    return averages
