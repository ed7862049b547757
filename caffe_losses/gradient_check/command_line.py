"""The command `python3 -m caffe_losses.gradient_check`."""

import argparse
import os
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable, Dict, Iterable, Optional, Sequence, Tuple, Union

import numpy as np

from caffe_losses.gradient_check import nets
from caffe_losses.gradient_check.check import check_gradients
from caffe_losses.gradient_check.judgement import Options
from caffe_losses.gradient_check.report import Report

DESCRIPTION = """
Checks the gradients of a net or of one Python layer against numeric derivatives, layer by layer.
Exits with 0 when all are right, 1 when one is wrong, 2 when one could not be checked.
"""

EPILOG = """
examples:
  python3 -m caffe_losses.gradient_check train.prototxt --input label=labels:10
  python3 -m caffe_losses.gradient_check --module pylayerUtils --layer WeightedEuclideanLossLayer \\
      --bottom normal --bottom normal --bottom 3,1,7,11:binary --loss-weight 0.5
"""

COULD_NOT_CHECK = 2

# Primes, so that what a gradient is wrong by tells which number of the layer that is.
DEFAULT_SHAPE = 3, 5, 7, 11

NET_OPTIONS = "input", "force_backward", "weights"
LAYER_OPTIONS = "module", "layer", "bottom", "param_str", "loss_weight"

Given = Union[str, np.ndarray]


def bottom(text: str) -> Tuple[Sequence[int], Given]:
    """The shape and draw or array of [SHAPE:]DRAW, SHAPE or FILE."""
    if is_file(text):
        array = nets.load(text)
        return array.shape, array
    shape, _, distribution = text.partition(":")
    if not text[:1].isdigit():
        shape, distribution = "", text
    nets.require_distribution(distribution or "normal")
    sizes = [int(size) for size in shape.split(",")] if shape else DEFAULT_SHAPE
    return sizes, distribution or "normal"


def named_input(text: str) -> Tuple[str, Given]:
    """The name and draw or array of NAME=DRAW or NAME=FILE."""
    name, _, given = text.partition("=")
    if is_file(given):
        return name, nets.load(given)
    nets.require_distribution(given)
    return name, given


def is_file(text: str) -> bool:
    return text.partition(":")[0].endswith((".npy", ".npz"))


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < np.inf:
        raise ValueError("it must be positive")
    return number


def whole_positive(text: str) -> int:
    return int(positive(str(int(text))))


def seed(text: str) -> int:
    number = int(text)
    if not 0 <= number <= nets.LARGEST_SEED:
        raise ValueError(f"it must be from 0 to {nets.LARGEST_SEED}")
    return number


def readable(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose errors say what is wrong, not only that something is."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except (OSError, ValueError) as error:
            raise argparse.ArgumentTypeError(f"{text}: {error}") from error

    return converted


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python3 -m caffe_losses.gradient_check",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def adder(title: str) -> Callable[..., None]:
        group = command.add_argument_group(title)

        def add(name: str, text: str, convert: Any = None, **settings: Any) -> None:
            if convert:
                settings["type"] = readable(convert)
            group.add_argument(name, help=text, **settings)

        return add

    many: Dict[str, Any] = {"action": "append", "default": []}
    draws = f"{nets.DRAWS}, FILE.npy or FILE.npz:KEY"

    add = adder("a net")
    add("net", "its file", nargs="?", metavar="NET.prototxt")
    add("--input", f"what it holds: {draws} (normal)", named_input, metavar="NAME=DRAW", **many)
    add("--weights", "trained ones, instead of new ones", metavar="FILE.caffemodel")
    add("--force-backward", "check the gradients of the inputs, too", action="store_true")

    add = adder("or one Python layer")
    add("--module", "its Python module")
    add("--layer", "its class")
    size = ",".join(map(str, DEFAULT_SHAPE))
    add(
        "--bottom",
        f"a bottom, such as 2,1,8,8:binary: its shape ({size}) and what it holds: {draws} (normal);"
        f" they are called bottom0, bottom1, ... (without any: two)",
        bottom,
        metavar="[SHAPE:]DRAW",
        **many,
    )
    add("--param-str", "its param_str")
    add("--loss-weight", "its loss_weight (1)", float)

    default = Options()
    add = adder("the check")
    add("--phase", "default: TRAIN", choices=["TRAIN", "TEST"], default="TRAIN")
    add("--only", "this blob or layer only", metavar="NAME", **many)
    add("--only-python", "the Python layers only", action="store_true")
    add("--label", "a blob that takes no gradient: it must be zero", metavar="BLOB", **many)
    add("--samples", "elements to check one by one (by size)", whole_positive, metavar="N")
    add("--step", f"to start from ({default.step})", positive, default=default.step)
    threshold = default.threshold
    add("--threshold", f"relative error allowed ({threshold})", positive, default=threshold)
    add("--kink", "leave out elements of bottoms within a step of X or -X", float, metavar="X")
    add("--seed", f"of all draws ({default.seed})", seed, default=default.seed)
    add("--json", "print JSON instead of the table", action="store_true")
    return command


def parse(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    command = parser()
    arguments = command.parse_args(argv)
    if not arguments.net and not (arguments.module and arguments.layer):
        command.error("give NET.prototxt; or --module and --layer, and a --bottom for each bottom")
    for name in LAYER_OPTIONS if arguments.net else NET_OPTIONS:
        if getattr(arguments, name):
            owner = "net" if arguments.net else "layer"
            command.error(f"--{name.replace('_', '-')} is not for a {owner}")
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
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what layers print is not the report
    np.random.seed(arguments.seed)  # for layers that draw parameters in setup
    try:
        return check(arguments), ""
    except (Exception, SystemExit) as error:
        return None, in_one_line(error)


def in_one_line(error: BaseException) -> str:
    """The checker's own errors say it all; of others, also where they come from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own_folder = os.path.dirname(os.path.abspath(__file__))
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and os.path.dirname(frame.filename) == own_folder:
        return text
    kind = type(error).__name__
    return f"{kind}: {text} (in {frame.name}, {os.path.basename(frame.filename)}:{frame.lineno})"


def check(arguments: argparse.Namespace) -> Report:
    inputs: Dict[str, Given]
    if arguments.net:
        net = nets.load_net(
            arguments.net,
            arguments.phase,
            arguments.force_backward,
            arguments.weights,
            arguments.seed,
        )
        inputs = {**dict.fromkeys(net.inputs, "normal"), **dict(arguments.input)}
    else:
        bottoms = arguments.bottom or [bottom("normal")] * 2
        net = nets.python_layer_net(
            arguments.module,
            arguments.layer,
            [shape for shape, _ in bottoms],
            arguments.param_str or "",
            1 if arguments.loss_weight is None else arguments.loss_weight,
            arguments.phase,
            arguments.seed,
        )
        inputs = {name: given for name, (_, given) in zip(net.inputs, bottoms)}
    options = {name: getattr(arguments, name) for name in Options._fields if name != "progress"}
    return check_gradients(
        net,
        inputs,
        labels=arguments.label,
        only=arguments.only,
        only_python=arguments.only_python,
        progress=progress_bar,
        **options,
    )


def progress_bar(measurements: Iterable[Any], name: str) -> Iterable[Any]:
    """tqdm's, on a terminal that has it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return measurements
    return tqdm(measurements, desc=name, leave=False, disable=None)
