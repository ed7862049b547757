"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import List, Optional, Tuple

import numpy as np

from caffe_losses.gradient_check.judgement import Judge, Measurement
from caffe_losses.gradient_check.probes import close, is_near, proportion

SMALL_CONSTANTS = range(2, 11)  # such as the 2 of a square; also one over them
NEARLY_ALL = 0.9  # of the elements of a group are wrong where the group is
MOST_ELEMENTS = 100  # that are measured for an explanation, besides those that were


class Evidence:
    """Analytic and numeric gradient, element by element."""

    def __init__(
        self, judge: Judge, decisive: List[Measurement], loss_weight: Optional[float]
    ) -> None:
        judge.measure_elements(sorted({*judge.sample(MOST_ELEMENTS)} - {*judge.elements}))
        measured = [judge.elements[element] for element in sorted(judge.elements)]
        self.gradient, self.masks, self.groupings = judge.gradient, judge.masks, judge.groupings
        self.threshold = judge.options.threshold
        self.loss_weight = loss_weight  # where the gradient does not follow top[0].diff
        self.elements = np.array(sorted(judge.elements))  # flat indices, of those below
        self.analytic = self.gradient.ravel()[self.elements]
        self.numeric = np.array([each.numeric for each in measured])
        self.error = np.array([each.error for each in measured])
        self.wrong = np.array([judge.is_wrong(each) for each in measured])
        # Elements of which only the sum is known to be wrong.
        self.wrong_together = None if self.wrong.any() else decisive[0].elements


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
    numbers, candidates = numbers_of(evidence), []
    if evidence.loss_weight is not None:
        weight = evidence.loss_weight
        candidates.append((1 / weight, f"1 / loss_weight ({1 / weight:g})"))
        candidates.append((weight, f"loss_weight ({weight:g}), applied twice"))
    for name, number in numbers:
        candidates.append((number, f"a missing division by {name} ({number:g})"))
        candidates.append((1 / number, f"a division too many by {name} ({number:g})"))
    for constant in SMALL_CONSTANTS:
        candidates += [(each, f"a constant {each:.4g}") for each in (constant, 1 / constant)]
    fitting = [text for number, text in candidates if is_near(abs(ratio), number)]
    if not fitting:
        known = ", ".join(f"{name} ({number:g})" for name, number in numbers)
        return f"a normaliser is missing or too many, and it is none of {known}"
    return f"{'candidates:' if fitting[1:] else 'what fits is'} {'; '.join(fitting)}"


def numbers_of(evidence: Evidence) -> List[Tuple[str, float]]:
    """Names and values of numbers that losses are divided by."""
    count, shape = evidence.gradient.size, (*evidence.gradient.shape, 1, 1)
    numbers = [
        ("N", shape[0]),
        ("C", shape[1]),
        ("the count", count),
        ("count / N", count // shape[0]),
        ("count / C", count // shape[1]),
        ("the number of elements with a gradient", np.count_nonzero(evidence.gradient)),
        *((f"the sum of {name}", float(mask.sum())) for name, mask in evidence.masks.items()),
    ]
    return [(name, number) for name, number in numbers if number > 1]


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
    for name, values, all_groups, _ in evidence.groupings:
        groups = all_groups[evidence.elements]
        bad = np.unique(groups[evidence.wrong])
        is_bad = np.isin(groups, bad)
        inside, outside = matters & is_bad, matters & ~is_bad
        if inside.any() and outside.any() and evidence.wrong[inside].mean() > NEARLY_ALL:
            bad_values = ", ".join(f"{values[group]:g}" for group in bad)
            return f"{what_is_wrong(evidence)} only {name} {bad_values}"
    return None


def confined_together(evidence: Evidence) -> Optional[str]:
    """The group whose elements are wrong together, too small to be so one by one."""
    together = evidence.wrong_together
    if together is None:
        return None
    what = "wrong" if evidence.gradient.ravel()[together].any() else "zero"
    for name, values, groups, _ in evidence.groupings:
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
    factor = proportion(analytic, numeric, evidence.threshold, error)
    return None if factor is None or abs(factor - 1) <= evidence.threshold else factor
