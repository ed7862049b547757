"""The check of one layer: its bottoms and its parameters."""

from typing import Any, List, Optional, Sequence

import numpy as np

from caffe_losses.gradient_check.blob_check import BlobCheck, Options
from caffe_losses.gradient_check.diagnosis import Evidence, Gradients, causes, habits
from caffe_losses.gradient_check.layer_function import LayerFunction, Variable
from caffe_losses.gradient_check.report import CANNOT_TELL, OK, SKIPPED, WRONG, Row


class LayerCheck:
    """What all gradients of a layer have in common, and a row for each."""

    def __init__(self, function: LayerFunction, labels: Sequence[str], options: Options) -> None:
        self.function = function
        self.labels = labels
        self.options = options
        self.values = [function.value(function.origin) for repetition in range(3)]
        if not np.isfinite(self.values).all():
            raise ValueError(
                f"layer {function.layer}: its top is not finite for these bottoms, so there is no "
                f"gradient to check"
            )
        self.gradients = all_gradients(function)
        self.propagate_down = function.propagate_down() if function.is_python else []

    def row(self, variable: Variable) -> Row:
        gradients = self.gradients[variable.name]
        row = Row(self.function.layer, variable.name, gradients.analytic.shape, OK)
        if self.is_label(variable):
            return self.label_row(row, variable)
        skipped = self.reason_to_skip(variable)
        if skipped:
            return row._replace(verdict=SKIPPED, findings=[skipped])
        # Less than this can be the order in which several threads sum.
        if np.ptp(self.values) > 1e-5 * np.abs(self.values).max():
            return row._replace(verdict=CANNOT_TELL, findings=[self.not_deterministic()])
        findings = habits(gradients)
        if not np.isfinite(gradients.analytic).all():
            return row._replace(verdict=WRONG, findings=findings)
        row = self.measured(row, variable)
        if row.verdict == WRONG and not gradients.analytic.any() and not self.function.is_python:
            frozen = "Caffe computes no gradient here (lr_mult: 0)"
            return row._replace(verdict=SKIPPED, findings=[frozen])
        if findings:
            findings += [finding for finding in row.findings if finding not in findings]
            row = row._replace(verdict=WRONG, findings=findings)
        return row

    def is_label(self, variable: Variable) -> bool:
        data = self.function.origin[variable.name]
        return variable.name in self.labels or (bool(variable.bottom) and is_whole(data))

    def label_row(self, row: Row, variable: Variable) -> Row:
        """The row of a bottom whose gradient should be zero, or unwritten."""
        row = row._replace(is_label=True)
        gradient = self.gradients[variable.name].analytic
        if not gradient.any():
            return row
        if variable.name not in self.labels and np.isfinite(gradient).all():
            checked = self.measured(row, variable)
            if checked.verdict == OK:
                return checked
        finding = (
            f"a label or mask that gets a gradient: {np.count_nonzero(gradient)} of "
            f"{gradient.size} elements are not zero, the largest {np.abs(gradient).max():.4g}"
        )
        return row._replace(verdict=WRONG, findings=[finding])

    def reason_to_skip(self, variable: Variable) -> Optional[str]:
        if self.function.is_python and not self.propagate_down:
            return "Caffe does not call this layer's backward"
        if variable.bottom is None:
            return None
        gradients = self.gradients[variable.name]
        if self.function.is_python:
            is_asked = self.propagate_down[variable.bottom]
        else:
            is_asked = gradients.analytic.any() or not (gradients.again == gradients.marker).all()
        return None if is_asked else "Caffe asks for no gradient here (propagate_down is false)"

    def not_deterministic(self) -> str:
        values = ", ".join(f"{value:.8g}" for value in self.values)
        return f"the forward is not deterministic: three for the same bottoms give {values}"

    def measured(self, row: Row, variable: Variable) -> Row:
        """The row with numbers, and why they differ where they do."""
        gradients = self.gradients[variable.name]
        check = BlobCheck(self.function, variable, gradients.analytic, self.options)
        verdict = check.verdict()
        findings: List[str] = []
        if verdict == WRONG:
            findings = causes(self.evidence(check, gradients))
        elif verdict == CANNOT_TELL:
            findings = ["cannot tell: raise the step or shrink the net"]
        row = row._replace(
            verdict=verdict,
            findings=findings,
            checked=len(check.elements),
            directions=sum(map(len, check.directions)),
        )
        return row._replace(**check.worst())

    def evidence(self, check: BlobCheck, gradients: Gradients) -> Evidence:
        measurements = check.evidence()
        masks = {
            bottom.name: self.function.origin[bottom.name]
            for bottom in self.function.bottoms
            if self.is_label(bottom)
        }
        return Evidence(
            gradients=gradients,
            elements=np.array([each.elements[0] for each in measurements]),
            numeric=np.array([each.numeric for each in measurements]),
            error=np.array([each.error for each in measurements]),
            wrong=np.array([check.is_wrong(each) for each in measurements]),
            threshold=self.options.threshold,
            loss_weight=self.function.loss_weight,
            masks=masks,
        )


def all_gradients(function: LayerFunction) -> Any:
    """What backward computes for each variable, here, elsewhere, again and doubled."""
    origin = function.origin
    elsewhere = dict(origin)
    for bottom in function.bottoms:
        if not is_whole(origin[bottom.name]):
            shape = origin[bottom.name].shape
            elsewhere[bottom.name] = np.roll(origin[bottom.name].ravel(), 1).reshape(shape)
    # Twice: a gradient that lags one step behind is then that of these bottoms.
    function.gradient(elsewhere)
    previous = function.gradient(elsewhere)
    analytic = function.gradient(origin)
    largest = max(np.abs(gradient).max() for gradient in analytic.values())
    # As large as the gradient, so that float32 holds the sum of both.
    marker = float(np.float32(2 * largest)) if 0 < largest < np.inf else 1.0
    again = function.gradient(origin, fill=marker)
    doubled = function.gradient(origin, scale=2)
    return {
        name: Gradients(analytic[name], previous[name], again[name], doubled[name], marker)
        for name in origin
    }


def is_whole(array: np.ndarray) -> bool:
    """Whether the values could be those of a label or mask."""
    return bool((array == np.rint(array)).all())
