"""Finds edges in photographs with a small net in the style of HED, with and without balance.

Trains the net twice, from the same initial weights on the same crops in the same order: with the
edge pixels (one in twenty) and all others balanced in each image, and with `balance: "none"`. The
target is what a Canny detector finds at full resolution, not what a person has drawn: the nets
learn to imitate it. Compares the predictions on photographs that are held out.

Leaves in the output folder: results.json and edges.png; train.h5; and for each training a folder
with the prototxt of solver and net, and snapshots. Caffe's own command trains as well:

  PYTHONPATH=. tools/with-caffe caffe train -solver build/edges/balanced/solver.prototxt
"""

import sys
from pathlib import Path

import caffe
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.edges.data import held_out, training_blobs
from examples.edges.evaluation import measure
from examples.edges.figure import save_figure
from examples.edges.net import deploy_net, train_net
from examples.training import (
    ADAM,
    argument_parser,
    positive,
    report,
    train,
    write_hdf5,
    write_solver,
)

BALANCE = {"unbalanced": "none", "balanced": "image"}
SOLVER = {**ADAM, "base_lr": 0.003}


def main() -> None:
    parser = argument_parser(__doc__, iterations=1200, out="build/edges")
    parser.add_argument("--crops", type=positive, default=1200, help="to train on (%(default)s)")
    options = parser.parse_args()

    source = write_hdf5(options.out / "train.h5", **training_blobs(options.crops, options.seed))
    photographs, targets = held_out()
    rows, predictions = [], {}
    for name, balance in BALANCE.items():
        net = train_net(source, balance)
        weights = train(write_solver(options.out / name, net, options, **SOLVER), options.resume)
        predictions[name] = [
            predict(options.out / name, weights, photograph) for photograph in photographs
        ]
        rows.append({"loss": name, **measure(predictions[name], targets)})
    report(options.out / "results.json", rows)

    save_figure(options.out / "edges.png", photographs, {"target (Canny)": targets, **predictions})
    print(f"results.json and edges.png are in {options.out}")


def predict(folder: Path, weights: str, photograph: np.ndarray) -> np.ndarray:
    """The fused output of the trained net: the probability of an edge at each pixel."""
    (folder / "deploy.prototxt").write_text(str(deploy_net(*photograph.shape).to_proto()))
    net = caffe.Net(str(folder / "deploy.prototxt"), caffe.TEST, weights=weights)
    return net.forward(image=photograph[np.newaxis, np.newaxis])["fused_probability"][0, 0]


if __name__ == "__main__":
    main()
