"""Checks the layers of a net one by one: a row of the report for each bottom and parameter."""

import itertools
from typing import Any, List, Mapping, Optional, Sequence, Set, Union

import numpy as np

from caffe_losses.gradient_check import nets, probes
from caffe_losses.gradient_check.explanation import causes
from caffe_losses.gradient_check.judgement import Judge, Options
from caffe_losses.gradient_check.layer_function import LayerFunction, ShapeDependsOnData, Variable
from caffe_losses.gradient_check.report import CANNOT_TELL, OK, SKIPPED, WRONG, Report, Row

# A Split is Caffe's own and in no prototxt; the backward of the others aborts the process, or they
# have no top to have a gradient.
UNCHECKED_LAYERS = "Split", "Accuracy", "ArgMax", "Threshold", "Silence", "HDF5Output"


def check_gradients(
    net: Any,
    inputs: Optional[Mapping[str, Union[str, np.ndarray]]] = None,
    labels: Sequence[str] = (),
    only: Sequence[str] = (),
    only_python: bool = False,
    **options: Any,
) -> Report:
    """Compares what backward computes with numeric derivatives, for every layer of a caffe.Net.

    inputs: arrays or draws ("normal", "uniform", "binary", "labels:K") for input blobs by name;
        the others are checked as they are found.
    labels: names of blobs that take no gradient: theirs must be zero. A bottom that holds whole
        numbers only and is not a layer's first is taken for a label or mask as well: its gradient
        must be zero or the derivative.
    only: names of the blobs or layers to check; all by default.
    only_python: whether to check the Python layers alone.
    options: the fields of `Options`: samples, step, threshold, kink, seed, progress.

    Blobs and parameters are left as they were found; data layers have moved on by one batch, and
    Caffe's random generator is seeded. Raises ValueError where there is nothing to check.
    """
    settings = Options(**options)
    settings.require_sensible()
    empty = [name for name, blob in net.blobs.items() if not blob.count]
    if empty:
        raise ValueError(f"no elements and so no gradient in {', '.join(empty)}")
    rows: List[Row] = []
    known: Set[str] = set()
    with nets.unchanged(net):
        nets.fill_inputs(net, inputs or {}, settings.seed)
        layers = nets.layer_parameters(net)
        with_backward = nets.layers_with_backward(net, layers)
        for name, parameter in layers.items():
            nets.require_classes(net, parameter)
            is_left_out = only_python and parameter.type != "Python"
            if not parameter.bottom or parameter.type in UNCHECKED_LAYERS or is_left_out:
                net.forward(start=name, end=name)
                continue
            function = LayerFunction(net, name, settings.seed, labels)
            variables = {variable.name: variable for variable in function.variables}
            chosen = [blob for blob in variables if not only or {blob, name} & {*only}]
            if chosen:
                asked = [variables[blob] for blob in chosen]
                rows += rows_of(function, parameter, name in with_backward, settings, asked)
            known |= {name, *variables}
            # The layers above see this layer's tops as they were.
            function.outputs(function.origin)
    unknown = {*only, *labels} - known
    if unknown:
        raise ValueError(
            f"no blob or layer {', '.join(sorted(unknown))} to check; there are "
            f"{', '.join(sorted(known)) or 'none'}"
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


def rows_of(
    function: LayerFunction,
    parameter: Any,
    has_backward: bool,
    options: Options,
    variables: Sequence[Variable],
) -> List[Row]:
    """A row for each of these variables of a layer."""
    try:
        check = LayerCheck(function, parameter, has_backward, options)
        return [check.row(variable) for variable in variables]
    except ShapeDependsOnData:
        reason = "the shape of a top depends on the layer's data, so that there is no derivative"
        return [
            Row(function.name, name, function.origin[name].shape, SKIPPED, findings=[reason])
            for name, *_ in variables
        ]


class LayerCheck:
    """What all gradients of a layer have in common, and a row for each."""

    def __init__(
        self, function: LayerFunction, parameter: Any, has_backward: bool, options: Options
    ) -> None:
        self.function, self.options = function, options
        other = probes.other_bottoms(function)
        self.random_forward = probes.random_forward(function, other)
        self.refusals = probes.choose_flags(function) if function.is_python else {}
        self.gradients = probes.all_gradients(function, other)
        # What Caffe asks for; a Python layer may write what it does not.
        if function.is_python:
            is_called = bool(function.asked)
            asked = {each.name for each, flag in zip(function.bottoms, function.asked) if flag}
        else:
            is_called, asked = has_backward or bool(function.written), function.written
        frozen = {
            f"{function.name}[{i}]" for i, each in enumerate(parameter.param) if not each.lr_mult
        }
        trained = {each.name for each in function.parameters} - frozen
        self.asked = asked | trained if is_called else asked

    def row(self, variable: Variable) -> Row:
        name, function = variable.name, self.function
        shape = function.origin[name].shape
        row = Row(function.name, name, shape, OK, is_label=name in function.labels)
        reason = self.reason_to_skip(variable)
        if reason:
            return row._replace(verdict=SKIPPED, findings=[reason])
        row = self.label_row(row, variable) if row.is_label else self.judged_row(row, variable)
        shown = probes.faults_of_backward(self.gradients[name], variable.is_parameter)
        faults = [] if row.is_label else [*itertools.islice(shown, 1)]
        faults += sorted(found for blob, found in function.violations if blob in (name, ""))
        if faults:
            # What a gradient that is another each time is by chance explains nothing.
            explained = any(each.startswith("stale") for each in faults)
            faults += [] if explained else row.findings
            row = row._replace(verdict=WRONG, findings=faults)
        return row

    def reason_to_skip(self, variable: Variable) -> str:
        if variable.name not in self.asked:
            if not self.asked:
                return "Caffe does not call this layer's backward"
            if variable.is_parameter:
                return "Caffe computes no gradient here (lr_mult: 0)"
            return "Caffe asks for no gradient here (propagate_down is false)"
        return self.refusals.get(variable.name, "")

    def label_row(self, row: Row, variable: Variable) -> Row:
        """The row of a bottom whose gradient should be zero, or that of a target."""
        gradient = self.gradients[variable.name].analytic
        if not gradient.any():
            return row
        is_target = variable.name not in self.function.named_labels
        checked = self.judged_row(row, variable) if is_target else row._replace(verdict=WRONG)
        if checked.verdict == OK:
            return checked
        finding = (
            f"a label or mask that gets a gradient: {np.count_nonzero(gradient)} of "
            f"{gradient.size} elements are not zero, the largest {np.abs(gradient).max():.4g}"
        )
        return row._replace(verdict=WRONG, findings=[finding])

    def judged_row(self, row: Row, variable: Variable) -> Row:
        """The row with numbers, and why they differ where they do."""
        gradients, function = self.gradients[variable.name], self.function
        if self.random_forward:
            return row._replace(verdict=CANNOT_TELL, findings=[self.random_forward])
        if not np.isfinite(gradients.analytic).all():
            return row._replace(verdict=WRONG)
        judge = Judge(function, variable, gradients.analytic, self.options)
        verdict, decisive, findings = judge.verdict()
        row = row._replace(checked=len(judge.elements), directions=len(judge.directions))
        if verdict == WRONG:
            loss_weight = None if gradients.follows_top_diff else function.loss_weight
            findings = [next(causes(judge, decisive[0], loss_weight))]
        row = row._replace(verdict=verdict, findings=findings)
        worst = judge.worst(decisive)
        if worst is None:
            return row
        where = np.unravel_index(worst.elements[0], row.shape) if worst.elements.size == 1 else ()
        return row._replace(
            error=judge.relative_error(worst),
            where=tuple(map(int, where)),
            analytic=worst.analytic,
            numeric=worst.numeric,
            noise=worst.error,
        )
