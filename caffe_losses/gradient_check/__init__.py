"""A numeric gradient checker for any layer and net in pycaffe.

`python3 -m caffe_losses.gradient_check --help` for the command; `check_gradients` and
`assert_gradients` for Python and pytest. How it works, from the bottom up: `derivative` takes
numeric derivatives of a noisy function, `layer_function` makes that function of a layer,
`blob_check` compares one gradient, `layer_check` all those of a layer, `diagnosis` says what is
wrong with one, and `check` walks through the net.
"""

from caffe_losses.gradient_check.check import assert_gradients, check_gradients
from caffe_losses.gradient_check.command_line import main
from caffe_losses.gradient_check.nets import python_layer_net
from caffe_losses.gradient_check.report import Report, Row

__all__ = ["Report", "Row", "assert_gradients", "check_gradients", "main", "python_layer_net"]
