"""Finds a class that is one in a hundred training images, with cls_weight 1, 10 and 100.

Trains a small net with ten sigmoid outputs three times, from the same initial weights on the same
images in the same order; the loss's cls_weight alone differs. Compares on the test images how well
the rare class is found, and all classes.

Leaves in the output folder: results.json and rare_class.png; train.h5; and for each training a
folder with the prototxt of solver and net, and snapshots. Caffe's own command trains as well:

  PYTHONPATH=. tools/with-caffe caffe train -solver build/rare_class/cls_weight_10/solver.prototxt
"""

import sys
from pathlib import Path
from typing import Any, Dict, List

import caffe
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.rare_class.data import RARE, Blobs, evaluation_blobs, training_blobs
from examples.rare_class.evaluation import average_precision, precision_recall_f1
from examples.rare_class.figure import save_figure
from examples.rare_class.net import deploy_net, train_net
from examples.training import (
    ADAM,
    argument_parser,
    positive,
    report,
    train,
    write_hdf5,
    write_solver,
)

CLS_WEIGHTS = (1, 10, 100)
# A larger cls_weight makes larger gradients, but not larger steps of Adam, so that one learning
# rate is right for all three. With SGD, base_lr would have to fall as cls_weight grows.
SOLVER = {**ADAM, "base_lr": 0.002}


def main() -> None:
    parser = argument_parser(__doc__, iterations=1500, out="build/rare_class")
    parser.add_argument("--images", type=positive, default=54000, help="to train on (%(default)s)")
    options = parser.parse_args()

    source = write_hdf5(options.out / "train.h5", **training_blobs(options.images, options.seed))
    test = evaluation_blobs()
    probabilities = {}
    for cls_weight in CLS_WEIGHTS:
        folder = options.out / f"cls_weight_{cls_weight}"
        net = train_net(source, cls_weight)
        weights = train(write_solver(folder, net, options, **SOLVER), options.resume)
        probabilities[cls_weight] = predict(folder, weights, test["data"])
    rows = evaluate(probabilities, test)
    report(options.out / "results.json", rows)

    save_figure(options.out / "rare_class.png", probabilities, test, rows)
    print(f"results.json and rare_class.png are in {options.out}")


def predict(folder: Path, weights: str, images: np.ndarray) -> np.ndarray:
    """The trained net's probabilities (images, classes)."""
    (folder / "deploy.prototxt").write_text(str(deploy_net(batch_size=1000).to_proto()))
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST, weights=weights)
    return net.forward_all(data=images)["probability"]


def evaluate(probabilities: Dict[int, np.ndarray], test: Blobs) -> List[Dict[str, Any]]:
    """A row for each cls_weight, and for what the plain loss reaches with lower thresholds.

    A weight of w makes ln(w p / (1 - p)) the best score where the class has probability p. So the
    threshold 1/2 stands for p = 1/(1 + w), which the plain loss can be asked for directly.
    """
    operating_points = [(cls_weight, 1 / 2) for cls_weight in CLS_WEIGHTS]
    operating_points += [(1, 1 / (1 + cls_weight)) for cls_weight in CLS_WEIGHTS[1:]]
    rows = []
    for cls_weight, threshold in operating_points:
        found = probabilities[cls_weight][:, RARE] >= threshold
        average_precisions = average_precision(probabilities[cls_weight], test)
        rows.append(
            {
                "cls_weight": cls_weight,
                "threshold": threshold,
                **precision_recall_f1(found, test),
                "AP, rare class": average_precisions[RARE],
                "AP, mean of all": np.mean(average_precisions),
            }
        )
    return rows


if __name__ == "__main__":
    main()
