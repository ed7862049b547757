"""The picture of photographs, targets and predictions."""

from pathlib import Path
from typing import Dict, List

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from PIL import Image  # noqa: E402


def save_figure(
    path: Path, photographs: List[np.ndarray], edges: Dict[str, List[np.ndarray]]
) -> None:
    """A row for each photograph, and a column for each kind of `edges`, or their probabilities."""
    width, columns = 2.75, 1 + len(edges)
    heights = [photograph.shape[0] / photograph.shape[1] for photograph in photographs]
    figure, axes = pyplot.subplots(
        len(photographs),
        columns,
        figsize=(width * columns, width * sum(heights) + 0.4),
        gridspec_kw={"height_ratios": heights},
    )
    for axis, photograph in zip(axes[:, 0], photographs):
        axis.imshow(photograph, cmap="gray", vmin=-0.5, vmax=0.5)
    for column, pictures in zip(axes.T[1:], edges.values()):
        for axis, picture in zip(column, pictures):
            axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    for axis, title in zip(axes[0], ["photograph", *edges]):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_color("lightgray")
    figure.tight_layout(pad=0.4)
    figure.savefig(str(path), dpi=90)
    pyplot.close(figure)
    Image.open(str(path)).convert("L").save(str(path))  # gray as it is, a third of the size
