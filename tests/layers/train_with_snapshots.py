"""A small training that test_reliability.py kills and resumes.

train_with_snapshots.py FOLDER [SNAPSHOT.solverstate]: nine iterations with a snapshot every third.
Each iteration prints its number and waits for a line of input, or its end; the last one writes the
weights to FOLDER/weights.npy.
"""

import os
import sys

import caffe
import numpy as np

from support.nets import input_layer, python_layer

SHAPE = (1, 1, 370, 371)  # the cross-entropy works in threads
ITERATIONS = 9
NET = (
    input_layer("data", SHAPE)
    + input_layer("label", SHAPE)
    + """
    layer { name: "hidden" type: "Convolution" bottom: "data" top: "hidden"
      convolution_param { num_output: 2 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "relu" type: "ReLU" bottom: "hidden" top: "hidden" }
    layer { name: "score" type: "Convolution" bottom: "hidden" top: "score"
      convolution_param { num_output: 1 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    """
    + python_layer(
        "pylayerUtils", "WeightedSigmoidCrossEntropyLossLayer", ["score", "label"], loss_weight=1
    )
    + python_layer("pylayerUtils", "WeightedEuclideanLossLayer", ["score", "label"], loss_weight=1)
    .replace('name: "loss"', 'name: "distance"')
    .replace('top: "loss"', 'top: "distance"')
)
SOLVER = """
net: "{folder}/net.prototxt" snapshot_prefix: "{folder}/snapshot" snapshot: 3
base_lr: 0.1 momentum: 0.9 lr_policy: "step" stepsize: 5 gamma: 0.5 random_seed: 7
max_iter: 9 solver_mode: CPU
"""


def solver_in(folder):
    """The solver with its net and snapshots in a folder."""
    for name, text in (("net", NET), ("solver", SOLVER.format(folder=folder))):
        with open(os.path.join(folder, name + ".prototxt"), "w") as file:
            file.write(text)
    return caffe.SGDSolver(os.path.join(folder, "solver.prototxt"))


def main(folder, *snapshot):
    solver = solver_in(folder)
    for path in snapshot:
        solver.restore(path)
    while solver.iter < ITERATIONS:
        random = np.random.RandomState(solver.iter)  # the same batch when it is resumed
        data = random.randn(*SHAPE)
        solver.net.blobs["data"].data[...] = data
        solver.net.blobs["label"].data[...] = data > 1
        solver.step(1)
        print(solver.iter, flush=True)
        sys.stdin.readline()
    blobs = [blob.data.ravel() for blobs in solver.net.params.values() for blob in blobs]
    np.save(os.path.join(folder, "weights.npy"), np.concatenate(blobs))


if __name__ == "__main__":
    main(*sys.argv[1:])
