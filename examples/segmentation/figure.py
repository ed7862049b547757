"""The picture of every class's IoU for each loss, and of what the nets see in held-out scenes."""

from pathlib import Path
from typing import Any, Dict, List

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402

from examples.segmentation.data import LABELS, RARE, Blobs  # noqa: E402

COLORS = ("#F2F2F2", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00")  # of LABELS
SHOWN = 3  # scenes


def save_figure(
    path: Path, held_out: Blobs, predictions: Dict[str, np.ndarray], rows: List[Dict[str, Any]]
) -> None:
    """`predictions` are numbers of LABELS, like held_out["label"]; `rows` are the table's."""
    figure = pyplot.figure(figsize=(12, 6.5))
    draw_iou(figure.add_axes([0.05, 0.66, 0.94, 0.28]), rows)
    draw_scenes(figure, held_out, {"label": held_out["label"], **predictions})
    figure.savefig(str(path), dpi=90)
    pyplot.close(figure)


def draw_iou(axis: Any, rows: List[Dict[str, Any]]) -> None:
    """A group of bars for each loss, one for each class."""
    width = 0.8 / len(LABELS)
    for number, (name, color) in enumerate(zip(LABELS, COLORS)):
        axis.bar(
            np.arange(len(rows)) + width * (number - (len(LABELS) - 1) / 2),
            [row[name] for row in rows],
            width,
            color=color,
            edgecolor="0.6" if number == 0 else color,
            label=f"{name} (rare)" if name in RARE else name,
        )
    axis.set_xticks(np.arange(len(rows)))
    axis.set_xticklabels([row["loss"] for row in rows], fontsize=9)
    axis.set(ylabel="IoU", ylim=(0, 1), xlim=(-0.6, len(rows) - 0.4))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=len(LABELS), frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw_scenes(figure: Any, held_out: Blobs, pictures: Dict[str, np.ndarray]) -> None:
    """A line for each scene: the scene itself, and each of the pictures of labels."""
    columns = 1 + len(pictures)
    grid = figure.add_gridspec(
        SHOWN, columns, left=0.01, right=0.99, bottom=0.01, top=0.57, wspace=0.05, hspace=0.05
    )
    axes = grid.subplots()
    for line, scene in zip(axes, with_rare_kinds(held_out["label"])[:SHOWN]):
        line[0].imshow(held_out["data"][scene, 0], cmap="gray", vmin=0, vmax=1)
        for axis, labels in zip(line[1:], pictures.values()):
            axis.imshow(
                labels[scene, 0],
                cmap=ListedColormap(COLORS),
                vmin=0,
                vmax=len(COLORS) - 1,
                interpolation="nearest",  # no colors of other labels between two pixels
            )
    for axis, title in zip(axes[0], ["scene", *pictures]):
        axis.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])


def with_rare_kinds(label: np.ndarray) -> np.ndarray:
    """The indices of the scenes, those with most rare kinds first."""
    kinds = sum((label == LABELS.index(name)).any(axis=(1, 2, 3)).astype(int) for name in RARE)
    return np.argsort(-kinds, kind="mergesort")
