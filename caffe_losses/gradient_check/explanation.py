"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import Dict, List, NamedTuple, Optional

import numpy as np

from caffe_losses.gradient_check.judgement import EXCLUDED, KINKS, NOISE, Grouping
from caffe_losses.gradient_check.probes import close, is_near

SMALL_CONSTANTS = range(2, 11)  # such as the 2 of a square; also one over them
NEARLY_ALL = 0.9  # of the elements of a group are wrong where the group is

ADVICE = {
    KINKS: (
        "cannot tell: too many kinks lie within a step; leave out what is near them (--kink 0, if "
        "they are at 0 in this blob), or check the others alone (--only)"
    ),
    NOISE: (
        "cannot tell: float32 rounding hides the gradient; check a smaller blob, or smaller values"
    ),
    EXCLUDED: "cannot tell: every element is within a step of the kink and so left out",
}


class Evidence(NamedTuple):
    """Analytic and numeric gradient, element by element."""

    gradient: np.ndarray  # the analytic one, of the whole blob
    elements: np.ndarray  # flat indices of the elements below
    numeric: np.ndarray
    error: np.ndarray  # bounds on those of numeric
    wrong: np.ndarray  # which of the elements are
    wrong_together: Optional[np.ndarray]  # elements of which only their sum is known to be wrong
    threshold: float
    loss_weight: Optional[float]  # where the gradient does not follow top[0].diff
    groupings: List[Grouping]
    masks: Dict[str, np.ndarray]  # the layer's other bottoms that hold labels or masks

    @property
    def analytic(self) -> np.ndarray:
        return self.gradient.ravel()[self.elements]


def explain(evidence: Evidence) -> str:
    """The first of the usual causes that explains the difference."""
    explanations = (all_zero, constant_ratio, transposed, confined, confined_together)
    found = (explanation(evidence) for explanation in explanations)
    return next((finding for finding in found if finding), no_usual_cause(evidence))


def all_zero(evidence: Evidence) -> Optional[str]:
    if evidence.gradient.any():
        return None
    return f"all zero, where the numeric gradient goes up to {np.abs(evidence.numeric).max():.4g}"


def constant_ratio(evidence: Evidence) -> Optional[str]:
    ratio = ratio_where(evidence, np.ones(evidence.elements.size, dtype=bool))
    if ratio is None:
        return None
    if is_near(ratio, -1):
        return "sign flipped: every element is -1 times the numeric one"
    sign = "sign flipped, and " if ratio < 0 else ""
    return f"{sign}every element is {ratio:.5g} times the numeric one; {factors(evidence, ratio)}"


def factors(evidence: Evidence, ratio: float) -> str:
    """What the ratio, or one over it, may be."""
    fitting, numbers = [], numbers_of(evidence)
    weight = evidence.loss_weight
    if weight is not None and is_near(abs(ratio), 1 / weight):
        fitting.append(f"1 / loss_weight ({1 / weight:g})")
    if weight is not None and is_near(abs(ratio), weight):
        fitting.append(f"loss_weight ({weight:g}), applied twice")
    for number, name in numbers.items():
        if is_near(abs(ratio), number):
            fitting.append(f"a missing division by {name} ({number:g})")
        if is_near(abs(ratio), 1 / number):
            fitting.append(f"a division too many by {name} ({number:g})")
    for constant in SMALL_CONSTANTS:
        if is_near(abs(ratio), constant) or is_near(abs(ratio), 1 / constant):
            fitting.append(f"a constant {abs(ratio):.4g}")
    if not fitting:
        known = ", ".join(f"{name} ({number:g})" for number, name in numbers.items())
        return f"a normaliser is missing or too many, and it is none of {known}"
    if len(fitting) == 1:
        return f"what fits is {fitting[0]}"
    return f"candidates: {'; '.join(fitting)}"


def numbers_of(evidence: Evidence) -> Dict[float, str]:
    """Numbers that losses are divided by, and their names."""
    count, shape = evidence.gradient.size, (*evidence.gradient.shape, 1, 1)
    named = [
        ("N", shape[0]),
        ("C", shape[1]),
        ("the count", count),
        ("count / N", count // shape[0]),
        ("count / C", count // shape[1]),
        ("the number of elements with a gradient", np.count_nonzero(evidence.gradient)),
        *((f"the sum of {name}", float(mask.sum())) for name, mask in evidence.masks.items()),
    ]
    numbers: Dict[float, str] = {}
    for name, number in named:
        if number > 1:
            numbers[number] = f"{numbers[number]} or {name}" if number in numbers else name
    return numbers


def transposed(evidence: Evidence) -> Optional[str]:
    gradient = evidence.gradient
    tolerance = evidence.threshold * np.abs(gradient).max() + evidence.error.max()
    for axes in list(itertools.permutations(range(gradient.ndim)))[1:]:
        shape = [gradient.shape[axis] for axis in axes]
        supposed = gradient.reshape(shape).transpose(np.argsort(axes))
        if close(supposed.ravel()[evidence.elements], evidence.numeric, tolerance):
            order = ", ".join(map(str, axes))
            return f"transposed: it is the numeric gradient with its axes in the order {order}"
    return None


def confined(evidence: Evidence) -> Optional[str]:
    """Whether the wrong elements are those of some images, channels or mask values."""
    matters = np.maximum(np.abs(evidence.analytic), np.abs(evidence.numeric)) > 2 * evidence.error
    for name, values, all_groups in evidence.groupings:
        groups = all_groups[evidence.elements]
        bad = np.unique(groups[evidence.wrong])
        in_bad = np.isin(groups, bad)
        others_are_right = (matters & ~in_bad).any()
        if not bad.size or not others_are_right or not (in_bad & matters).any():
            continue
        if evidence.wrong[in_bad & matters].mean() > NEARLY_ALL:
            bad_values = ", ".join(f"{values[group]:g}" for group in bad)
            return f"{what_is_wrong(evidence)} only {name} {bad_values}"
    return None


def confined_together(evidence: Evidence) -> Optional[str]:
    """The group whose elements are wrong together, too small to be so one by one."""
    together = evidence.wrong_together
    if together is None:
        return None
    what = "wrong" if evidence.gradient.ravel()[together].any() else "zero"
    for name, values, groups in evidence.groupings:
        if np.array_equal(np.flatnonzero(groups == groups[together[0]]), np.sort(together)):
            return (
                f"{what} {name} {values[groups[together[0]]]:g}, by the scale of these elements "
                f"together; the others are larger"
            )
    return f"{what} along a direction of many elements; noise hides which of them are"


def what_is_wrong(evidence: Evidence) -> str:
    if not evidence.analytic[evidence.wrong].any():
        return "zero"
    if not (np.abs(evidence.numeric) > evidence.error)[evidence.wrong].any():
        return "not zero as they should be"
    ratio = ratio_where(evidence, evidence.wrong)
    return "wrong" if ratio is None else f"{ratio:.4g} times the numeric one"


def no_usual_cause(evidence: Evidence) -> str:
    wrong = f"{evidence.wrong.sum()} of {evidence.wrong.size} elements"
    return f"{wrong} are {what_is_wrong(evidence)}, in no pattern known here"


def ratio_where(evidence: Evidence, where: np.ndarray) -> Optional[float]:
    """The factor, other than 1, that makes the analytic of the numeric elements."""
    analytic, numeric = evidence.analytic[where], evidence.numeric[where]
    error = evidence.error[where]
    if not analytic.any() or (np.abs(numeric) <= error).all():
        return None
    factor = float((analytic * numeric).sum() / (numeric**2).sum())
    tolerance = evidence.threshold * np.abs(analytic).max() + np.abs(factor) * error
    fits = bool((np.abs(analytic - factor * numeric) <= tolerance).all())
    return factor if fits and abs(factor - 1) > evidence.threshold else None
