"""Trains a net of two convolutions to find edges in a photograph, and checks the gradient."""

from pathlib import Path

import caffe
from caffe import layers as L
from skimage import data, feature

from caffe_losses.gradient_check import assert_gradients
from pylayerUtils import WeightedSigmoidCrossEntropyLossLayer

caffe.init_log(2)  # errors only
net = caffe.NetSpec()
net.image, net.edges = L.Input(shape=[{"dim": [1, 1, 128, 128]}] * 2, ntop=2)
window = {"kernel_size": 5, "pad": 2, "weight_filler": {"type": "msra"}}
net.hidden = L.ReLU(L.Convolution(net.image, num_output=8, **window))
net.score = L.Convolution(net.hidden, num_output=1, **window)
net.loss = WeightedSigmoidCrossEntropyLossLayer.spec(net.score, net.edges)
settings = "type: 'Adam' base_lr: 0.01 lr_policy: 'fixed' random_seed: 1"
Path("build").mkdir(exist_ok=True)  # Caffe reads a solver from a file
Path("build/minimal.prototxt").write_text(f"{settings} net_param {{ {net.to_proto()} }}")

solver = caffe.get_solver("build/minimal.prototxt")
photograph = data.camera()[::4, ::4] / 255
solver.net.blobs["image"].data[...] = photograph - photograph.mean()
solver.net.blobs["edges"].data[...] = feature.canny(photograph, sigma=1.5)  # one pixel in 16
for step in range(1, 21):
    solver.step(1)
    print(f"step {step}: loss {float(solver.net.blobs['loss'].data):.3f}")
print(assert_gradients(solver.net, only=["loss"]))
