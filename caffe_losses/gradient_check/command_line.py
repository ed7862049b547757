"""The command `python3 -m caffe_losses.gradient_check`."""

import argparse
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from caffe_losses.gradient_check import inputs, nets
from caffe_losses.gradient_check.blob_check import Options
from caffe_losses.gradient_check.check import check_gradients
from caffe_losses.gradient_check.report import Report

DESCRIPTION = """
Checks the gradients of a net or of one Python layer against numeric derivatives, layer by layer.
Exits with 0 when all are right, 1 when one is wrong, 2 when one could not be checked.
"""

EPILOG = """
examples:
  python3 -m caffe_losses.gradient_check train.prototxt --input label=labels:10
  python3 -m caffe_losses.gradient_check --module pylayerUtils --layer WeightedEuclideanLossLayer \\
      --bottom 2,2,8,8 --bottom 2,2,8,8 --bottom 2,1,8,8:binary --loss-weight 0.5
"""

COULD_NOT_CHECK = 2

Given = Union[str, np.ndarray]


def bottom(text: str) -> Tuple[Sequence[int], Given]:
    """The shape and draw or array of SHAPE, SHAPE:DRAW or FILE."""
    if inputs.is_file(text):
        array = inputs.load(text)
        return array.shape, array
    shape, _, distribution = text.partition(":")
    distribution = distribution or "normal"
    inputs.require_distribution(distribution)
    return [int(size) for size in shape.split(",")], distribution


def named_input(text: str) -> Tuple[str, Given]:
    """The name and draw or array of NAME=DRAW or NAME=FILE."""
    name, _, given = text.partition("=")
    if inputs.is_file(given):
        return name, inputs.load(given)
    inputs.require_distribution(given)
    return name, given


def readable(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose errors say what is wrong, not only that something is."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from error

    return converted


NET_OPTIONS = "input", "force_backward"
LAYER_OPTIONS = "module", "layer", "bottom", "param_str", "loss_weight"


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python3 -m caffe_losses.gradient_check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()

    net = command.add_argument_group("a net").add_argument
    net("net", nargs="?", metavar="NET.prototxt")
    net(
        "--input",
        action="append",
        default=[],
        type=readable(named_input),
        metavar="NAME=DRAW",
        help=f"what an input holds: {inputs.DRAWS}, FILE.npy or FILE.npz:KEY (default: normal)",
    )
    net("--force-backward", action="store_true", help="check the gradients of the inputs, too")

    layer = command.add_argument_group("or one Python layer").add_argument
    layer("--module", help="its Python module")
    layer("--layer", help="its class")
    layer(
        "--bottom",
        action="append",
        default=[],
        type=readable(bottom),
        metavar="SHAPE[:DRAW]",
        help="as 2,3,8,8 or 2,1,8,8:binary or FILE.npy; one --bottom for each bottom; they are "
        "called bottom0, bottom1, ...",
    )
    layer("--param-str", help="its param_str")
    layer("--loss-weight", type=float, help="its loss_weight (default: 1)")

    add = command.add_argument_group("the check").add_argument
    add("--phase", choices=["TRAIN", "TEST"], default="TRAIN", help="default: %(default)s")
    add("--only", action="append", default=[], metavar="NAME", help="this blob or layer only")
    add(
        "--label",
        action="append",
        default=[],
        metavar="BLOB",
        help="a blob that takes no gradient, whatever it holds: it must be zero",
    )
    add(
        "--samples",
        type=int,
        default=default.samples,
        metavar="N",
        help="elements to check one by one in a blob that has more (default: %(default)s)",
    )
    add(
        "--step",
        type=float,
        default=default.step,
        help="to start from; noise raises it and curvature lowers it (default: %(default)s)",
    )
    add(
        "--threshold",
        type=float,
        default=default.threshold,
        help="the relative error that is allowed (default: %(default)s)",
    )
    add(
        "--kink",
        type=float,
        metavar="X",
        help="leave out elements whose absolute value is within one step of X",
    )
    add("--seed", type=int, default=default.seed, help="of all draws (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of the table")
    return command


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    command = parser()
    arguments = command.parse_args(argv)
    if not arguments.net and not (arguments.module and arguments.layer and arguments.bottom):
        command.error("give NET.prototxt; or --module, --layer and a --bottom for each bottom")
    for name in LAYER_OPTIONS if arguments.net else NET_OPTIONS:
        if getattr(arguments, name):
            owner = "net" if arguments.net else "layer"
            command.error(f"--{name.replace('_', '-')} is not for a {owner}")
    for name in "samples", "step", "threshold":
        if not getattr(arguments, name) > 0:
            command.error(f"--{name} must be positive; it is {getattr(arguments, name)}")
    return arguments


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = parse(argv)
    # Where Caffe does not like a net it aborts the process: let it be one that can be spared.
    with ProcessPoolExecutor(max_workers=1) as process:
        try:
            report, problem = process.submit(run, arguments).result()
        except BrokenProcessPool:
            report, problem = None, "Caffe aborted; its own message above says why"
    if report is None:
        print(f"could not check: {problem}", file=sys.stderr)
        return COULD_NOT_CHECK
    print(report.to_json() if arguments.json else report)
    return report.exit_status


def run(arguments: argparse.Namespace) -> Tuple[Optional[Report], str]:
    """The report; or None, and what went wrong."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it when it is imported
    try:
        return check(arguments), ""
    except Exception as error:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        is_own = os.path.dirname(innermost) == os.path.dirname(os.path.abspath(__file__))
        return None, str(error) if is_own else traceback.format_exc()


def check(arguments: argparse.Namespace) -> Report:
    if arguments.net:
        net = nets.load_net(arguments.net, arguments.phase, arguments.force_backward)
        given: Dict[str, Given] = dict.fromkeys(net.inputs, "normal")
        given.update(arguments.input)
    else:
        net = nets.python_layer_net(
            arguments.module,
            arguments.layer,
            [shape for shape, _ in arguments.bottom],
            arguments.param_str or "",
            1 if arguments.loss_weight is None else arguments.loss_weight,
            arguments.phase,
        )
        given = {name: given for name, (_, given) in zip(net.inputs, arguments.bottom)}
    return check_gradients(
        net,
        given,
        arguments.label,
        arguments.only,
        samples=arguments.samples,
        step=arguments.step,
        threshold=arguments.threshold,
        kink=arguments.kink,
        seed=arguments.seed,
        progress=progress_bar,
    )


def progress_bar(measurements: Iterable[Any], name: str) -> Iterable[Any]:
    """tqdm's, on a terminal that has it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return measurements
    return tqdm(measurements, desc=name, leave=False, disable=None)
