"""What docs/data-parallel.md takes for granted: a solver in the current directory, and batches."""

import numpy as np

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "target" type: "Input" top: "target" input_param { shape { dim: 4 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Python" bottom: "fc" bottom: "target" top: "loss" loss_weight: 1
  python_param { module: "pylayerUtils" layer: "EuclideanLossLayer" } }
"""
SOLVER = 'net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 snapshot_prefix: "run"'

with open("train.prototxt", "w") as file:
    file.write(NET)
with open("solver.prototxt", "w") as file:
    file.write(SOLVER)

batches = np.random.RandomState(0).randn(3, 4, 3)
