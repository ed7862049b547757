"""Loads the prototxt of a document as a net, and runs it forward and backward.

    python3 run_prototxt.py FILE

Bottoms that no layer makes become inputs. A loss must be positive and reach its first bottom.
"""

import re
import sys
from typing import List

import numpy as np
from caffe.proto import caffe_pb2
from google.protobuf import text_format

from support.nets import loss_net

CHANNELS = 3
MASKS = re.compile("mask|weight|label")


def missing_bottoms(net: caffe_pb2.NetParameter) -> List[str]:
    """The bottoms that no layer of the net makes, in order."""
    made = {top for layer in net.layer for top in layer.top}
    bottoms = [bottom for layer in net.layer for bottom in layer.bottom if bottom not in made]
    return list(dict.fromkeys(bottoms))


def run(text: str) -> None:
    net = text_format.Parse(text, caffe_pb2.NetParameter())
    random = np.random.RandomState(0)
    inputs = {}
    for name in missing_bottoms(net):
        channels = 1 if "mask" in name else CHANNELS
        values = random.randn(2, channels, 6, 8).astype(np.float32)
        inputs[name] = (values > 0).astype(np.float32) if MASKS.search(name) else values
    built = loss_net(text, inputs)
    for name in set(built.inputs) - set(inputs):
        values = random.randn(*built.blobs[name].data.shape)
        built.blobs[name].data[...] = values > 0 if MASKS.search(name) else values
    built.forward()
    built.backward()
    for layer in net.layer:
        if layer.type == "Python" and layer.loss_weight:
            assert built.blobs[layer.top[0]].data > 0, f"{layer.name}: the loss is not positive"
            assert built.blobs[layer.bottom[0]].diff.any(), f"{layer.name}: there is no gradient"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        run(file.read())
