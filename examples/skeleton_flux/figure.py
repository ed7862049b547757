"""The picture of what the nets predict."""

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import matplotlib
import numpy as np
from scipy import ndimage

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.colors import hsv_to_rgb, to_rgb  # noqa: E402

from examples.skeleton_flux.data import Blobs  # noqa: E402

TRUE, RIGHT, WRONG = "black", "#0072B2", "#D55E00"


def save_figure(path: Path, shown: Sequence[int], blobs: Blobs, predictions: Dict) -> None:
    """A row for each image shown; `predictions` has (flux, skeletons) for each name of a loss."""
    columns = 3 + 2 * len(predictions)
    figure, axes = pyplot.subplots(
        len(shown), columns, figsize=(1.25 * columns, 1.25 * len(shown) + 0.7)
    )
    for axes_of_row, index in zip(axes, shown):
        for axis, (title, picture) in zip(axes_of_row, panels(index, blobs, predictions)):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_color("lightgray")
            if axis in axes[0]:
                axis.set_title(title, fontsize=8)
    height = figure.get_figheight()
    figure.subplots_adjust(0.01, 0.55 / height, 0.99, 1 - 0.4 / height, 0.05, 0.05)
    add_legend(figure)
    figure.savefig(str(path), dpi=140)
    pyplot.close(figure)


def panels(index: int, blobs: Blobs, predictions: Dict) -> List[Tuple[str, np.ndarray]]:
    """Title and picture of each column for one image."""
    image = np.repeat(1 - blobs["image"][index, 0, :, :, np.newaxis], 3, axis=2)
    true = blobs["skeleton"][index]
    pictures = [
        ("image", image),
        ("true skeleton", drawn(image, {TRUE: true})),
        ("true flux", flux_colors(blobs["flux"][index])),
    ]
    near = ndimage.binary_dilation(true, np.ones((3, 3), bool))
    for name, (flux, skeletons) in predictions.items():
        recovered = {RIGHT: skeletons[index] & near, WRONG: skeletons[index] & ~near}
        pictures += [
            (f"{name}:\npredicted flux", flux_colors(flux[index])),
            (f"{name}:\nrecovered skeleton", drawn(image, recovered)),
        ]
    return pictures


def drawn(image: np.ndarray, skeletons: Dict[str, np.ndarray]) -> np.ndarray:
    """Skeletons over the faded image, each in its color."""
    picture = 0.75 + 0.25 * image
    for color, skeleton in skeletons.items():
        picture[skeleton] = to_rgb(color)
    return picture


def flux_colors(flux: np.ndarray) -> np.ndarray:
    """Direction as hue and magnitude as saturation: no flux is white."""
    rows, columns = flux
    hue = np.arctan2(rows, columns) / (2 * np.pi) % 1
    saturation = np.hypot(rows, columns).clip(0, 1)
    return hsv_to_rgb(np.stack([hue, saturation, np.ones_like(hue)], axis=-1))


def add_legend(figure: Any) -> None:
    """What the colors mean, below the pictures."""
    height = 0.4 / figure.get_figheight()
    wheel = figure.add_axes([0.01, 0.1 * height, 0.4 / figure.get_figwidth(), height])
    wheel.imshow(flux_colors(np.mgrid[-1:1:80j, -1:1:80j]), interpolation="bilinear")
    wheel.axis("off")
    wheel.images[0].set_clip_path(pyplot.Circle((39.5, 39.5), 39.5, transform=wheel.transData))
    texts = [
        (0.065, "black", "flux: hue is its direction, saturation its magnitude"),
        (0.5, RIGHT, "within one pixel of the true skeleton"),
        (0.78, WRONG, "not near the true skeleton"),
    ]
    for left, color, text in texts:
        figure.text(left, 0.6 * height, text, color=color, fontsize=8, va="center")
