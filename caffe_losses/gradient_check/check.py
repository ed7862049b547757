"""Checks the layers of a net one by one."""

from typing import Any, List, Mapping, Optional, Sequence, Set, Union

import numpy as np

from caffe_losses.gradient_check.blob_check import Options
from caffe_losses.gradient_check.inputs import fill_inputs
from caffe_losses.gradient_check.layer_check import LayerCheck, is_whole
from caffe_losses.gradient_check.layer_function import LayerFunction, kept
from caffe_losses.gradient_check.report import SKIPPED, WRONG, Report, Row

# A Split is Caffe's own and in no prototxt; the backward of the others aborts the process.
UNCHECKED_LAYERS = "Split", "Accuracy", "ArgMax", "Threshold"

# These take their second bottom for numbers of classes, and index with it what is in memory.
CLASS_LOSSES = "SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss", "InfogainLoss"


def check_gradients(
    net: Any,
    inputs: Optional[Mapping[str, Union[str, np.ndarray]]] = None,
    labels: Sequence[str] = (),
    only: Sequence[str] = (),
    **options: Any,
) -> Report:
    """Compares what backward computes with numeric derivatives, for every layer of a caffe.Net.

    inputs: arrays or draws ("normal", "uniform", "binary", "labels:K") for input blobs by name;
        the others are checked as they are found.
    labels: names of blobs that take no gradient: theirs must be zero. A bottom that holds whole
        numbers only and is not a layer's first is taken for a label or mask as well: its gradient
        must be zero or the derivative.
    only: names of the blobs or layers to check; all by default.
    options: the fields of `Options`: samples, step, threshold, kink, seed, progress.

    Blobs and parameters are left as they were found; data layers have moved on by one batch, and
    Caffe's random generator is seeded. Raises ValueError where there is nothing to check.
    """
    settings = Options(**options)
    empty = [name for name, blob in net.blobs.items() if not blob.count]
    if empty:
        raise ValueError(f"no elements and so no gradient in {', '.join(empty)}")
    rows: List[Row] = []
    known: Set[str] = set()
    with kept(net):
        fill_inputs(net, inputs or {}, settings.seed)
        for layer, bottoms in net.bottom_names.items():
            if not bottoms or net.layer_dict[layer].type in UNCHECKED_LAYERS:
                net.forward(start=layer, end=layer)
                continue
            if net.layer_dict[layer].type in CLASS_LOSSES:
                require_whole(net, bottoms[1])
            function = LayerFunction(net, layer, settings.seed)
            variables = {variable.name: variable for variable in function.variables}
            chosen = [name for name in variables if not only or {name, layer} & set(only)]
            if chosen:
                check = LayerCheck(function, labels, settings)
                rows += [check.row(variables[name]) for name in chosen]
            known |= {layer, *variables}
            # The layers above see this layer's tops as they were.
            function.forward(function.origin)
    unknown = {*only, *labels} - known
    if unknown:
        raise ValueError(
            f"no blob or layer {', '.join(sorted(unknown))} to check; there are "
            f"{', '.join(sorted(known))}"
        )
    # That a label's gradient is zero says nothing, unless that was the question.
    told = [row for row in rows if only or row.verdict == WRONG or not row.is_label]
    if all(row.verdict == SKIPPED for row in told):
        raise ValueError(
            "Caffe computes no gradient here to check; `force_backward: true` in the net (on the "
            "command line: --force-backward) makes it compute those of the inputs"
        )
    return Report(rows)


def assert_gradients(net: Any, *arguments: Any, **options: Any) -> Report:
    """check_gradients, with an AssertionError that shows the table unless all are right."""
    report = check_gradients(net, *arguments, **options)
    if not report.passed:
        raise AssertionError(f"not all gradients are right\n{report}")
    return report


def require_whole(net: Any, blob: str) -> None:
    if not is_whole(net.blobs[blob].data):
        raise ValueError(
            f"{blob} must hold the numbers of classes; draw it as labels:K, with K the number of "
            f"classes"
        )
