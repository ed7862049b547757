"""Trains a net of two convolutions to find edges in a photograph, and checks the gradient."""

from pathlib import Path

import caffe
import skimage.data
from caffe import layers as L
from caffe.proto import caffe_pb2
from skimage.feature import canny

from caffe_losses.gradient_check import assert_gradients
from pylayerUtils import WeightedSigmoidCrossEntropyLossLayer

caffe.init_log(2)  # errors only
photograph = skimage.data.camera()[::4, ::4] / 255
edges = canny(photograph, sigma=1.5)  # one pixel in 16

net = caffe.NetSpec()
net.image, net.edges = L.Input(shape=[{"dim": [1, 1, 128, 128]}] * 2, ntop=2)
window = {"kernel_size": 5, "pad": 2, "weight_filler": {"type": "msra"}}
net.hidden = L.ReLU(L.Convolution(net.image, num_output=8, **window))
net.score = L.Convolution(net.hidden, num_output=1, **window)
net.loss = WeightedSigmoidCrossEntropyLossLayer.spec(net.score, net.edges)
folder = Path("build/minimal")
folder.mkdir(parents=True, exist_ok=True)
(folder / "net.prototxt").write_text(str(net.to_proto()))

settings = {"type": "Adam", "base_lr": 0.01, "lr_policy": "fixed", "random_seed": 1}
settings = caffe_pb2.SolverParameter(net=str(folder / "net.prototxt"), **settings)
(folder / "solver.prototxt").write_text(str(settings))
solver = caffe.get_solver(str(folder / "solver.prototxt"))
solver.net.blobs["image"].data[...] = photograph - photograph.mean()
solver.net.blobs["edges"].data[...] = edges
for step in range(1, 21):
    solver.step(1)
    print(f"step {step}: loss {float(solver.net.blobs['loss'].data):.3f}")

assert_gradients(solver.net, only=["loss"])
print("its gradient is right")
