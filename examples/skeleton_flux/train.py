"""Finds the skeletons of objects with a small net that predicts the flux towards them.

Trains the net twice, from the same initial weights on the same images in the same order: with the
positive pixels (near a skeleton, one in eleven) and the negative ones balanced in each image, and
with `balance: "none"`. Compares the skeletons that it then recovers in held-out images.

Leaves in the output folder: results.json and skeleton_flux.png; train.h5; and for each training a
folder with the prototxt of solver and net, and snapshots. `PYTHONPATH=. caffe train -solver
build/skeleton_flux/balanced/solver.prototxt` trains as well.
"""

import sys
from pathlib import Path

import caffe
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.fashion_mnist import CLASSES, read_fashion_mnist
from examples.skeleton_flux.data import with_targets
from examples.skeleton_flux.figure import save_figure
from examples.skeleton_flux.net import deploy_net, train_net
from examples.skeleton_flux.recovery import best_threshold, measure, recover
from examples.training import argument_parser, positive, report, train, write_hdf5, write_solver

BALANCE = {"balanced": "image", "unbalanced": "none"}
THRESHOLDS = np.linspace(0.02, 0.5, 17)
SHOWN = ("T-shirt", "Trouser", "Dress", "Sandal", "Bag", "Ankle boot")


def main() -> None:
    parser = argument_parser(__doc__, iterations=500, out="build/skeleton_flux")
    parser.add_argument("--images", type=positive, default=4000, help="to train on (%(default)s)")
    options = parser.parse_args()

    images, _ = read_fashion_mnist("train")
    order = np.random.RandomState(options.seed).permutation(len(images))
    training = with_targets(images[order[: options.images]], "training images")
    images, classes = read_fashion_mnist("t10k")
    held_out = with_targets(images[:500], "held-out images")
    shown = [list(classes[:500]).index(CLASSES.index(name)) for name in SHOWN]

    source = write_hdf5(
        options.out / "train.h5", **{name: training[name] for name in ("image", "flux", "dilmask")}
    )
    rows, predictions = [], {}
    for name, balance in BALANCE.items():
        solver = write_solver(
            options.out / name,
            train_net(source, balance),
            options,
            # Adam's steps do not depend on the scale of the loss: neither loss is at an advantage.
            type="Adam",
            base_lr=0.002,
            momentum=0.9,
            momentum2=0.999,
            lr_policy="poly",
            power=1,
        )
        predict = Predictor(options.out / "deploy.prototxt", train(solver, options.resume))
        threshold = best_threshold(
            predict(training["image"][:300]), training["skeleton"][:300], THRESHOLDS
        )
        flux = predict(held_out["image"])
        recovered = recover(flux, threshold)
        predictions[name] = flux[shown], recovered[shown]
        row = {"loss": name, "iterations": options.iterations, "threshold": float(threshold)}
        row.update(measure(recovered, held_out["skeleton"]))
        rows.append(row)

    report(options.out / "results.json", rows)
    chosen = {name: blob[shown] for name, blob in held_out.items()}
    save_figure(options.out / "skeleton_flux.png", chosen, predictions)
    print(f"results.json and skeleton_flux.png are in {options.out}")


class Predictor:
    """The trained net as a function of images (N, 1, height, width)."""

    def __init__(self, prototxt: Path, weights: str) -> None:
        prototxt.write_text(str(deploy_net(batch_size=100).to_proto()))
        self.net = caffe.Net(str(prototxt), caffe.TEST, weights=weights)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.net.forward_all(image=images)["prediction"]


if __name__ == "__main__":
    main()
