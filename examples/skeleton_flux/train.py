"""Finds the skeletons of objects with a small net that predicts the flux towards them.

Trains the net twice, from the same initial weights on the same images in the same order: with the
positive pixels (near a skeleton, one in fourteen) and the negative ones balanced in each image, and
with `balance: "none"`. Compares the skeletons that are then recovered in held-out images.

Leaves in the output folder: results.json and skeleton_flux.png; train.h5; and for each training a
folder with the prototxt of solver and net, and snapshots. Caffe's own command trains as well:

  PYTHONPATH=. tools/with-caffe caffe train -solver build/skeleton_flux/balanced/solver.prototxt
"""

import sys
from pathlib import Path
from typing import Any, Tuple

import caffe
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.fashion_mnist import CLASSES, read_fashion_mnist
from examples.skeleton_flux.data import Blobs, with_targets
from examples.skeleton_flux.figure import save_figure
from examples.skeleton_flux.net import deploy_net, train_net
from examples.skeleton_flux.recovery import best_threshold, flux_error, measure, recover
from examples.training import (
    ADAM,
    argument_parser,
    positive,
    report,
    train,
    write_hdf5,
    write_solver,
)

BALANCE = {"balanced": "image", "unbalanced": "none"}
SOLVER = {**ADAM, "base_lr": 0.002}
THRESHOLDS = np.geomspace(0.005, 0.5, 17)
SHOWN = ("T-shirt", "Trouser", "Ankle boot")


def main() -> None:
    parser = argument_parser(__doc__, iterations=500, out="build/skeleton_flux")
    parser.add_argument("--images", type=positive, default=4000, help="to train on (%(default)s)")
    parser.add_argument(
        "--context", type=positive, default=2, help="reach of the flux, in pixels (%(default)s)"
    )
    options = parser.parse_args()

    images, _ = read_fashion_mnist("train")
    chosen = np.random.RandomState(options.seed).permutation(len(images))[: options.images]
    training = with_targets(images[chosen], options.context, "training images")
    images, classes = (array[:500] for array in read_fashion_mnist("t10k"))
    held_out = with_targets(images, options.context, "held-out images")

    source = write_hdf5(
        options.out / "train.h5", **{name: training[name] for name in ("image", "flux", "dilmask")}
    )
    rows, predictions = [], {}
    for name, balance in BALANCE.items():
        net = train_net(source, balance)
        weights = train(write_solver(options.out / name, net, options, **SOLVER), options.resume)
        measured, flux, skeletons = evaluate(options.out / name, weights, training, held_out)
        predictions[name] = flux, skeletons
        rows.append({"loss": name, "iterations": options.iterations, **measured})
    report(options.out / "results.json", rows)

    first_of_class = [list(classes).index(CLASSES.index(name)) for name in SHOWN]
    save_figure(options.out / "skeleton_flux.png", first_of_class, held_out, predictions)
    print(f"results.json and skeleton_flux.png are in {options.out}")


def evaluate(folder: Path, weights: str, training: Blobs, held_out: Blobs) -> Tuple[Any, ...]:
    """Measurements, flux and skeletons of the held-out images."""
    (folder / "deploy.prototxt").write_text(str(deploy_net(batch_size=100).to_proto()))
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST, weights=weights)

    flux = net.forward_all(image=training["image"][:300])["prediction"]
    threshold = best_threshold(flux, training["skeleton"][:300], THRESHOLDS)
    flux = net.forward_all(image=held_out["image"])["prediction"]
    skeletons = recover(flux, threshold)
    measured = {
        "threshold": float(threshold),
        **measure(skeletons, held_out["skeleton"]),
        **flux_error(flux, held_out["flux"], held_out["dilmask"]),
    }
    return measured, flux, skeletons


if __name__ == "__main__":
    main()
