"""Trains a net of two convolutions to find the edges in a photograph, and checks its gradients."""

from pathlib import Path

import caffe
import skimage.data
from caffe.proto import caffe_pb2
from skimage.feature import canny

from caffe_losses.gradient_check import assert_gradients
from pylayerUtils import WeightedSigmoidCrossEntropyLossLayer

photograph = skimage.data.camera()[::4, ::4] / 255
edges = canny(photograph, sigma=1.5)  # one pixel in 16

net = caffe.NetSpec()
net.image, net.edges = caffe.layers.Input(shape=[dict(dim=[1, 1, 128, 128])] * 2, ntop=2)
window = dict(kernel_size=5, pad=2, weight_filler=dict(type="msra"))
net.hidden = caffe.layers.ReLU(caffe.layers.Convolution(net.image, num_output=8, **window))
net.score = caffe.layers.Convolution(net.hidden, num_output=1, **window)
net.loss = WeightedSigmoidCrossEntropyLossLayer.spec(net.score, net.edges)
folder = Path("build/minimal")
folder.mkdir(parents=True, exist_ok=True)
(folder / "net.prototxt").write_text(str(net.to_proto()))

settings = dict(type="Adam", base_lr=0.01, lr_policy="fixed", random_seed=1)
settings = caffe_pb2.SolverParameter(net=str(folder / "net.prototxt"), **settings)
(folder / "solver.prototxt").write_text(str(settings))
solver = caffe.get_solver(str(folder / "solver.prototxt"))
solver.net.blobs["image"].data[...] = photograph - photograph.mean()
solver.net.blobs["edges"].data[...] = edges

for step in range(1, 21):
    solver.step(1)
    print(f"step {step}: loss {float(solver.net.blobs['loss'].data):.3f}")

assert_gradients(solver.net)
print("all gradients are right")
