"""Intersection over union, precision and recall of each class, over all pixels of all scenes."""

import numpy as np


def confusion(predicted: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of each class (rows) were taken for each class (columns)."""
    pairs = classes * label.astype(int).ravel() + predicted.astype(int).ravel()
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """For each class, from the confusion; 0 for a class that neither is there nor was found."""
    right = counts.diagonal()
    return right / np.maximum(counts.sum(axis=0) + counts.sum(axis=1) - right, 1)


def precision(counts: np.ndarray) -> np.ndarray:
    """For each class, which share of the pixels that were taken for it are of it; 0 of none."""
    return counts.diagonal() / np.maximum(counts.sum(axis=0), 1)


def recall(counts: np.ndarray) -> np.ndarray:
    """For each class, which share of its pixels were found; 0 of none."""
    return counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
