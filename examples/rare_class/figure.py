"""The picture of the rare class's precision-recall curves and of all classes' average precision."""

from pathlib import Path
from typing import Any, Dict, List

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from examples.fashion_mnist import CLASSES  # noqa: E402
from examples.rare_class.data import RARE, RARE_SHARE, Blobs  # noqa: E402
from examples.rare_class.evaluation import (  # noqa: E402
    average_precision,
    precision_recall_curve,
)

COLORS = ("#0072B2", "#009E73", "#D55E00")


def save_figure(
    path: Path, probabilities: Dict[int, np.ndarray], test: Blobs, rows: List[Dict[str, Any]]
) -> None:
    """`probabilities` has (images, classes) for each cls_weight, `rows` the operating points."""
    colors = dict(zip(probabilities, COLORS))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 4.2))
    for cls_weight, probability in probabilities.items():
        draw_curve(left, probability[:, RARE], test, colors[cls_weight], f"cls_weight {cls_weight}")
    for row in rows:
        draw_operating_point(left, row, colors[row["cls_weight"]])
    left.plot([], [], "o", color="0.3", label="threshold 1/2")
    left.plot([], [], "s", color="0.3", markerfacecolor="white", label="lower threshold")
    left.legend(loc="lower left", frameon=False, fontsize=9)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.set_title(f"{CLASSES[RARE]}, {RARE_SHARE:.0%} of the training images", fontsize=11)

    draw_average_precisions(
        right,
        [average_precision(probability, test) for probability in probabilities.values()],
    )
    for axis in (left, right):
        axis.spines["top"].set_visible(False)
        axis.spines["right"].set_visible(False)
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    figure.tight_layout(w_pad=2.5)
    figure.savefig(str(path), dpi=110)
    pyplot.close(figure)


def draw_curve(axis: Any, probability: np.ndarray, test: Blobs, color: str, label: str) -> None:
    """The precision-recall curve of the rare class."""
    precision, recall = precision_recall_curve(probability, test["label"][:, RARE], test["weight"])
    axis.plot(recall, precision, color=color, linewidth=1.6, label=label)


def draw_operating_point(axis: Any, row: Dict[str, Any], color: str) -> None:
    """Where a row of the table lies on its curve."""
    usual = row["threshold"] == 0.5
    axis.plot(
        row["recall"],
        row["precision"],
        marker="o" if usual else "s",
        markersize=8,
        color=color,
        markerfacecolor=color if usual else "white",
        clip_on=False,
        zorder=3,
    )
    if not usual:
        axis.annotate(
            f"1/{round(1 / row['threshold'])}",
            (row["recall"], row["precision"]),
            textcoords="offset points",
            xytext=(-9, -12),
            ha="right",
            color=color,
        )


def draw_average_precisions(axis: Any, averages: List[List[float]]) -> None:
    """A line for each class with a dot for each cls_weight, the class that is found best on top."""
    order = np.argsort(np.mean(averages, axis=0))
    names = [CLASSES[index] + (" (rare)" if index == RARE else "") for index in order]
    lines = np.arange(len(order))
    for values, color in zip(averages, COLORS):
        axis.plot(np.array(values)[order], lines, "o", color=color)
    axis.set_yticks(lines)
    axis.set_yticklabels(names)
    axis.set(xlabel="average precision")
    axis.set_title("All classes", fontsize=11)
