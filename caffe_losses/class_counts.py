"""The command `python3 -m caffe_losses.class_counts`: counts labels and prints weights for them."""

import argparse
import difflib
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, List, NamedTuple, Optional, Sequence, TextIO, Union

import numpy as np

from caffe_losses.build_net import net_of, read_net
from caffe_losses.progress import progress_bar

DESCRIPTION = """
Runs the data layers of a net and counts the labels that they give: positives P, negatives Q and
ignored ones of each channel or class. Prints the weights with which they weigh the same, as a
param_str to paste. Labels < 0 are ignored. Exits with 2 where it cannot count.
"""

EPILOG = """
Labels that are all 0 or 1 are counted for each channel, any above 0 as positive. That is axis 1 of
a label with 2, 4 or more axes; one with 1 or 3 axes has one channel. Where labels are whole numbers
and some above 1 they are class numbers.

example:
  python3 -m caffe_losses.class_counts train.prototxt --blob label --ignore-label 255
"""

COULD_NOT_COUNT = 2
MOST_CLASSES = 10**5

Tally = NamedTuple(
    "Tally",
    [
        ("kind", str),  # of the rows: "channel" or "class"
        ("positives", np.ndarray),
        ("negatives", np.ndarray),
        ("ignored", np.ndarray),
    ],
)


class CannotCount(Exception):
    """What is wrong with the net, its data or the labels, in one line."""


# What is counted


class LabelCounts:
    """The labels of several batches, counted for each channel and for each class number."""

    def __init__(self, ignore_label: Optional[float]) -> None:
        self.ignore_label = ignore_label
        self.channels = np.zeros((3, 0), np.int64)  # positives, negatives and ignored
        self.classes = np.zeros(0, np.int64)
        self.are_class_numbers = True  # whole numbers of a reasonable size

    def add(self, label: np.ndarray) -> None:
        """Counts a batch; a label without axes is one of one."""
        label = np.atleast_1d(label)
        if np.isnan(label).any():
            raise CannotCount("a label is NaN")
        channels = label.shape[1] if label.ndim == 2 or label.ndim > 3 else 1
        by_channel = label.reshape(len(label), channels, -1)
        is_ignored = by_channel < 0
        if self.ignore_label is not None:
            is_ignored |= by_channel == np.float32(self.ignore_label)
        kinds = (by_channel > 0) & ~is_ignored, (by_channel == 0) & ~is_ignored, is_ignored
        counts = np.array([kind.sum(axis=(0, 2)) for kind in kinds])
        self.channels = sum_of_lengths(self.channels, counts)
        self.add_classes(by_channel[~is_ignored])

    def add_classes(self, labels: np.ndarray) -> None:
        is_whole = labels.size == 0 or (labels.max() < MOST_CLASSES and not np.any(labels % 1))
        self.are_class_numbers = self.are_class_numbers and bool(is_whole)
        if self.are_class_numbers:
            counts = np.bincount(labels.astype(np.int64))
            self.classes = sum_of_lengths(self.classes, counts)

    def tally(self, classes: Optional[int]) -> Tally:
        """The counts by class number where that is asked for or a label is above 1."""
        has_more = self.are_class_numbers and len(self.classes) > 2
        if classes is None and not has_more:
            return Tally("channel", *self.channels)
        if not self.are_class_numbers:
            raise CannotCount(
                f"there are labels that are not whole numbers, or above {MOST_CLASSES}; expected "
                f"class numbers with --classes"
            )
        found = len(self.classes)
        if classes is not None and found > classes:
            raise CannotCount(
                f"there is a label of {found - 1}, which is no class number below --classes "
                f"{classes}; give --ignore-label {found - 1} if it marks what is to be ignored"
            )
        positives = sum_of_lengths(self.classes, np.zeros(classes or found, np.int64))
        ignored = np.full(len(positives), self.channels[2].sum())
        return Tally("class", positives, positives.sum() - positives, ignored)


def sum_of_lengths(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The sum of two arrays; where the last axis of one ends first, zeros follow."""
    total = np.zeros(first.shape[:-1] + (max(first.shape[-1], second.shape[-1]),), np.int64)
    total[..., : first.shape[-1]] += first
    total[..., : second.shape[-1]] += second
    return total


# What is printed


def weights_of(tally: Tally) -> List[float]:
    """For each channel Q/P; for each class what makes all weigh the same, 1 in the mean.

    1 for what is missing.
    """
    positives = np.maximum(tally.positives, 1)
    if tally.kind == "channel":
        weights = tally.negatives / positives
        is_missing = (tally.positives == 0) | (tally.negatives == 0)
    else:
        weights = tally.positives.sum() / (len(positives) * positives)
        is_missing = tally.positives == 0
    return [float(f"{weight:.4g}") for weight in np.where(is_missing, 1.0, weights)]


def report(tally: Tally) -> str:
    """The table and the param_str."""
    rows = [[tally.kind, "positives", "negatives", "ignored", "Q/P"]]
    for i, (positive, negative, ignored) in enumerate(zip(*tally[1:])):
        quotient = f"{negative / positive:.4g}" if positive else "-"
        rows.append([str(i), str(positive), str(negative), str(ignored), quotient])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]
    key = "cls_weight" if tally.kind == "channel" else "class_weight"
    weights = ", ".join(f"{weight:g}" for weight in weights_of(tally))
    return "\n".join([*lines, f"param_str: \"{{'{key}': [{weights}]}}\""])


def notes(tally: Tally) -> List[str]:
    """What the weights are to be doubted for."""
    found = []
    for name, counts in (("positives", tally.positives), ("negatives", tally.negatives)):
        missing = [str(i) for i, count in enumerate(counts) if count == 0]
        if missing and len(missing) <= 10:
            found.append(
                f"no {name} of {tally.kind} {', '.join(missing)}: its weight is 1; count more "
                f"batches"
            )
        elif missing:
            found.append(f"no {name} of {len(missing)} of {len(counts)}: their weight is 1")
    if tally.kind == "class" and len(tally.positives) == 256 and not tally.positives[254]:
        found.append("there are labels of 255: give --ignore-label 255 if they mark voids")
    return found


# The net


def net_of_label(path: str, blob: str, phase: str) -> Any:
    """The layers of a net that a blob is made by, as a net."""
    try:
        parameter = read_net(path)
    except ValueError as error:
        raise CannotCount(str(error)) from error
    layers = layers_that_make(parameter, blob, path)
    for layer in layers:
        if is_in_phase(layer, phase):
            require_data(layer)
    del parameter.layer[:]
    parameter.layer.extend(layers)
    return net_of(parameter, phase)


def layers_that_make(parameter: Any, blob: str, path: str) -> List[Any]:
    """The layers without which there is no such blob, in their order."""
    needed, layers = {blob}, []
    for layer in reversed(parameter.layer):
        if needed & set(layer.top):
            needed |= set(layer.bottom)
            layers.append(layer)
    if not layers:
        tops = sorted({top for layer in parameter.layer for top in layer.top})
        near = difflib.get_close_matches(blob, tops, n=1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise CannotCount(
            f'{path}: no layer has the top "{blob}"{hint} (tops: {", ".join(tops) or "none"})'
        )
    return layers[::-1]


def is_in_phase(layer: Any, phase: str) -> bool:
    """Whether the rules of a layer that name a phase let it be in this one."""
    from caffe_losses.import_caffe import caffe

    number = getattr(caffe, phase)
    included = [rule.phase for rule in layer.include if rule.HasField("phase")]
    excluded = [rule.phase for rule in layer.exclude if rule.HasField("phase")]
    return number not in excluded and (not included or number in included)


def require_data(layer: Any) -> None:
    """Raises where a layer without bottoms has no data, or not where it says: Caffe would abort."""
    if layer.type == "Input":
        raise CannotCount(
            f'the layer "{layer.name}" is an Input, which has no data; give the prototxt that '
            f"trains"
        )
    for name in ("data_param", "hdf5_data_param", "image_data_param", "window_data_param"):
        if layer.HasField(name):
            source = getattr(layer, name).source
            if not os.path.exists(source):
                raise CannotCount(
                    f'the source "{source}" of the layer "{layer.name}" does not exist in '
                    f"{os.getcwd()}"
                )


# The command


def positive(text: str) -> int:
    """An argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog="python3 -m caffe_losses.class_counts",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("net", metavar="NET.prototxt")
    command.add_argument("--blob", required=True, help="the blob of labels")
    command.add_argument(
        "--batches",
        type=positive,
        default=100,
        metavar="N",
        help="how many to count; data layers begin anew at their end (default: %(default)s)",
    )
    command.add_argument(
        "--ignore-label", type=float, metavar="X", help="the label of what is ignored, beside < 0"
    )
    command.add_argument(
        "--classes",
        type=positive,
        metavar="K",
        help="labels are class numbers from 0 to K - 1 (default: seen from the labels)",
    )
    command.add_argument("--phase", choices=["TRAIN", "TEST"], default="TRAIN")
    return command


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    arguments = parser().parse_args(argv)
    result = tally_or_problem(arguments)
    if isinstance(result, str):
        print(f"class_counts: {result}", file=sys.stderr)
        return COULD_NOT_COUNT
    for note in notes(result):
        print(f"class_counts: {note}", file=sys.stderr)
    print(report(result))
    return 0


def tally_or_problem(arguments: argparse.Namespace) -> Union[Tally, str]:
    """The counts, or one line that says why there are none."""
    # Where Caffe does not like a net it aborts the process: so this is a process of its own.
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        with ProcessPoolExecutor(max_workers=1) as process:
            try:
                return process.submit(run, arguments, log.name).result()
            except BrokenProcessPool:
                return f"Caffe aborted: {reason_in(log.read())}"


def reason_in(log: str) -> str:
    """Caffe's own words in its log, or the last line of a traceback."""
    match = re.search(r"^F\d{4}.*?\] (.*)$", log, re.MULTILINE)
    lines = log.strip().splitlines()
    return match.group(1) if match else lines[-1] if lines else "it left no message"


def run(arguments: argparse.Namespace, log: str) -> Union[Tally, str]:
    """Counts in a process of its own, where Caffe's messages go to a log."""
    with os.fdopen(os.dup(2), "w") as terminal, open(log, "w") as file:
        os.dup2(file.fileno(), 2)
        try:
            return count(arguments, terminal)
        except CannotCount as error:
            return str(error)
        except SystemError:  # Caffe has printed the error of a data layer in Python
            with open(log, errors="replace") as printed:
                return reason_in(printed.read())
        except Exception as error:  # of a data layer in Python
            return f"{type(error).__name__}: {error}"


def count(arguments: argparse.Namespace, terminal: TextIO) -> Tally:
    os.environ.setdefault("GLOG_minloglevel", "2")  # Caffe reads it when it is imported
    net = net_of_label(arguments.net, arguments.blob, arguments.phase)
    if arguments.blob not in net.blobs:
        raise CannotCount(f'there is no blob "{arguments.blob}" in the phase {arguments.phase}')
    counts, batches = LabelCounts(arguments.ignore_label), range(arguments.batches)
    for _ in progress_bar(batches, arguments.blob, unit="batch", file=terminal):
        net.forward()
        counts.add(net.blobs[arguments.blob].data)
    return counts.tally(arguments.classes)


if __name__ == "__main__":
    sys.exit(main())
