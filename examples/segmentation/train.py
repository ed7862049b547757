"""Segments scenes with two rare kinds of garments, with several losses and with sums of them.

Trains a small net once for each loss of net.py, from the same initial weights on the same scenes in
the same order. Compares the intersection over union of each class on held-out scenes; there the
garments are as rare as in training.

Leaves in the output folder: results.json and segmentation.png; train.h5; and for each training a
folder with the prototxt of solver and net, and snapshots. Caffe's own command trains as well:

  PYTHONPATH=. tools/with-caffe caffe train -solver build/segmentation/dice/solver.prototxt
"""

import sys
from pathlib import Path
from typing import Any, Dict

import caffe
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.segmentation.data import LABELS, RARE, class_weights, scenes
from examples.segmentation.evaluation import (
    confusion,
    intersection_over_union,
    precision,
    recall,
)
from examples.segmentation.figure import save_figure
from examples.segmentation.net import LOSSES, deploy_net, train_net
from examples.training import (
    ADAM,
    argument_parser,
    positive,
    report,
    train,
    write_hdf5,
    write_solver,
)

SOLVER = {**ADAM, "base_lr": 0.005}


def main() -> None:
    parser = argument_parser(__doc__, iterations=800, out="build/segmentation")
    parser.add_argument("--scenes", type=positive, default=3000, help="to train on (%(default)s)")
    parser.add_argument(
        "--held-out", type=positive, default=1000, help="scenes to compare on (%(default)s)"
    )
    options = parser.parse_args()

    training = scenes("train", options.scenes, options.seed)
    source = write_hdf5(options.out / "train.h5", **training)
    weights = class_weights(training["label"])
    held_out = scenes("t10k", options.held_out, seed=0)
    scores = {}
    for loss in LOSSES:
        folder = options.out / loss
        net = train_net(source, loss, weights)
        trained = train(write_solver(folder, net, options, **SOLVER), options.resume)
        scores[loss] = predict(folder, trained, held_out["data"])
    # What class weights do to the scores can be done to those of the plain loss afterwards.
    scores["plain, shifted"] = scores["plain"] + np.log(weights)[:, np.newaxis, np.newaxis]
    predictions = {name: score.argmax(axis=1)[:, np.newaxis] for name, score in scores.items()}
    rows = [measure(name, found, held_out["label"]) for name, found in predictions.items()]
    report(options.out / "results.json", rows)

    save_figure(options.out / "segmentation.png", held_out, predictions, rows)
    print(f"results.json and segmentation.png are in {options.out}")


def predict(folder: Path, trained: str, data: np.ndarray) -> np.ndarray:
    """The trained net's scores (scenes, labels, height, width)."""
    (folder / "deploy.prototxt").write_text(str(deploy_net(batch_size=100).to_proto()))
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST, weights=trained)
    return net.forward_all(data=data)["score"]


def measure(loss: str, predicted: np.ndarray, label: np.ndarray) -> Dict[str, Any]:
    """A row of the table: the IoU of each class, and precision and recall of the rare ones."""
    counts = confusion(predicted, label, len(LABELS))
    by_class = intersection_over_union(counts)
    rare = slice(-len(RARE), None)
    return {
        "loss": loss,
        **dict(zip(LABELS, by_class)),
        "mean IoU": by_class.mean(),
        "precision": precision(counts)[rare].mean(),
        "recall": recall(counts)[rare].mean(),
    }


if __name__ == "__main__":
    main()
