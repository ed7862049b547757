"""Checks the gradients of a net or of one Python layer against numeric derivatives, layer by layer.

Exits with 0 when all are right, 1 when one is wrong, 2 when one could not be checked.

examples:
  python3 -m caffe_losses.gradient_check train.prototxt --input label=labels:10
  python3 -m caffe_losses.gradient_check --module pylayerUtils --layer WeightedEuclideanLossLayer \\
      --bottom normal --bottom normal --bottom 3,1,7,11:binary --loss-weight 0.5
"""

import argparse
import os
import re
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np

from caffe_losses.build_net import net_of, read_net
from caffe_losses.gradient_check import nets
from caffe_losses.gradient_check.check import check_gradients
from caffe_losses.gradient_check.judgement import Options
from caffe_losses.gradient_check.report import Report
from caffe_losses.progress import progress_bar

COULD_NOT_CHECK = 2
PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")

# Primes, so that what a gradient is wrong by tells which number of the layer that is.
DEFAULT_SHAPE = "3,5,7,11"

NET_OPTIONS = "input", "force_backward", "weights"
LAYER_OPTIONS = "module", "layer", "bottom", "param_str", "loss_weight"


def bottom(text: str, random: np.random.RandomState) -> np.ndarray:
    """What [SHAPE:]DRAW, SHAPE or FILE stands for."""
    has_shape = re.match("[0-9]+(,[0-9]+)*(:|$)", text)
    shape, _, given = text.partition(":") if has_shape else (DEFAULT_SHAPE, "", text)
    sizes = [int(size) for size in shape.split(",")]
    return nets.array_of(given or "normal", sizes, random)


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    command = argparse.ArgumentParser(
        prog="python3 -m caffe_losses.gradient_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    many: Dict[str, Any] = {"action": "append", "default": []}
    draws = f"{nets.DRAWS}, FILE.npy or FILE.npz:KEY (default: normal)"
    default = Options()

    add = command.add_argument_group("a net").add_argument
    add("net", nargs="?", metavar="NET.prototxt")
    add("--input", metavar="NAME=DRAW", help=f"what an input holds: {draws}", **many)
    add("--weights", metavar="FILE.caffemodel", help="of a trained net")
    add("--force-backward", action="store_true", help="check the gradients of the inputs, too")

    add = command.add_argument_group("or one Python layer").add_argument
    add("--module", help="its Python module")
    add("--layer", help="its class")
    text = f"shape (default: {DEFAULT_SHAPE}) and what it holds: {draws}; named bottom0, bottom1"
    add("--bottom", metavar="[SHAPE:]DRAW", help=text, **many)
    add("--param-str", default="", help="its param_str")
    add("--loss-weight", type=float, default=1, help="its loss_weight (default: 1)")

    add = command.add_argument_group("the check").add_argument
    add("--phase", choices=["TRAIN", "TEST"], default="TRAIN", help="default: TRAIN")
    add("--only", metavar="NAME", help="this blob or layer only", **many)
    add("--only-python", action="store_true", help="the Python layers only")
    add("--label", metavar="BLOB", help="a blob whose gradient must be zero, if any", **many)
    add("--samples", type=int, metavar="N", help="elements to check one by one (by their number)")
    text = "to start from; noise raises it, curvature and kinks lower it (default: %(default)s)"
    add("--step", type=float, default=default.step, help=text)
    text = "the relative error that is allowed (default: %(default)s)"
    add("--threshold", type=float, default=default.threshold, help=text)
    add("--kink", type=float, metavar="X", help="leave out elements of bottoms a step from X or -X")
    add("--seed", type=int, default=default.seed, help="of all draws (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of the table")

    arguments = command.parse_args(argv)
    if not arguments.net and not (arguments.module and arguments.layer):
        command.error("give NET.prototxt; or --module and --layer, and a --bottom for each bottom")
    for name in LAYER_OPTIONS if arguments.net else NET_OPTIONS:
        if getattr(arguments, name) != command.get_default(name):
            owner = "net" if arguments.net else "layer"
            command.error(f"--{name.replace('_', '-')} is not for a {owner}")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = parse(argv)
    # Where Caffe does not like a net it aborts the process: so this is a process of its own.
    with ProcessPoolExecutor(max_workers=1) as process:
        try:
            report = process.submit(report_or_problem, arguments).result()
        except BrokenProcessPool:
            report = "Caffe aborted; its own message above says why"
    if isinstance(report, str):
        print(f"could not check: {report}", file=sys.stderr)
        return COULD_NOT_CHECK
    print(report.to_json() if arguments.json else report)
    return report.exit_status


def report_or_problem(arguments: argparse.Namespace) -> Union[Report, str]:
    """The report, or one line that says why there is none."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it when it is imported
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what layers print is not the report
    try:
        return check(arguments)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if isinstance(error, ValueError) and frame.filename.startswith(PACKAGE):
            return text
        where = f"{frame.name}, {os.path.basename(frame.filename)}:{frame.lineno}"
        return f"{type(error).__name__}: {text} (in {where})"


def check(arguments: argparse.Namespace) -> Report:
    given = {name: getattr(arguments, name) for name in Options._fields if name != "progress"}
    Options(**given).require_sensible()
    np.random.seed(arguments.seed)  # for layers that draw parameters in setup
    phase, seed = arguments.phase, arguments.seed
    if arguments.net:
        parameter = read_net(arguments.net)
        parameter.force_backward |= arguments.force_backward
        net = net_of(parameter, phase, seed)
        if arguments.weights:
            if not os.path.isfile(arguments.weights):
                raise ValueError(f"there is no file {arguments.weights}")
            net.copy_from(arguments.weights)
        inputs = dict.fromkeys(net.inputs, "normal")
        inputs.update(text.partition("=")[::2] for text in arguments.input)
    else:
        random = np.random.RandomState(seed)
        bottoms = [bottom(text, random) for text in arguments.bottom or ["normal"] * 2]
        shapes = [each.shape for each in bottoms]
        layer = arguments.module, arguments.layer, shapes, arguments.param_str
        net = nets.python_layer_net(*layer, arguments.loss_weight, phase, seed)
        inputs = dict(zip(net.inputs, bottoms))
    chosen = arguments.label, arguments.only, arguments.only_python
    return check_gradients(net, inputs, *chosen, progress=progress_bar, **given)


if __name__ == "__main__":
    sys.exit(main())
