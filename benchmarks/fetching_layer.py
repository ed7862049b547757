"""A Python layer that computes nothing: it fetches what any loss must fetch."""

from typing import Any

import caffe


class FetchingLayer(caffe.Layer):
    """Two bottoms; fetches their data and the first one's diff."""

    def setup(self, bottom: Any, top: Any) -> None:
        pass

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(1)

    def forward(self, bottom: Any, top: Any) -> None:
        bottom[0].data, bottom[1].data, top[0].diff  # noqa: B018
        top[0].data[...] = 0

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        top[0].diff, bottom[0].diff  # noqa: B018
