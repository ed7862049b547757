"""A numeric gradient checker for any layer and net in pycaffe.

`python3 -m caffe_losses.gradient_check --help` for the command; `check_gradients` and
`assert_gradients` for Python and pytest. From the bottom up: `layer_function` runs one layer,
`measurement` takes its numeric derivatives, `judgement` decides what these say of a gradient,
`probes` calls the layer in unusual ways, `explanation` names the cause, `report` prints, and
`check` walks through the net.
"""

from caffe_losses.gradient_check.check import assert_gradients, check_gradients
from caffe_losses.gradient_check.nets import python_layer_net
from caffe_losses.gradient_check.report import Report, Row

__all__ = ["Report", "Row", "assert_gradients", "check_gradients", "python_layer_net"]
