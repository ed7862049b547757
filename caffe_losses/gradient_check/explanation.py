"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import Iterator, List, NamedTuple, Optional

import numpy as np

from caffe_losses.gradient_check.judgement import Judge, Measurement
from caffe_losses.gradient_check.probes import is_near, proportion

SMALL_CONSTANTS = range(2, 11)  # such as the 2 of a square; also one over them
NEARLY_ALL = 0.9  # of the elements of a group are wrong where the group is
MOST_ELEMENTS = 100  # that are measured for an explanation, besides those that were


class Evidence(NamedTuple):
    """Analytic and numeric gradient, element by element."""

    elements: np.ndarray  # flat indices
    analytic: np.ndarray
    numeric: np.ndarray
    error: np.ndarray
    wrong: np.ndarray

    def where(self, chosen: np.ndarray) -> "Evidence":
        return Evidence(*(each[chosen] for each in self))


def explain(judge: Judge, decisive: List[Measurement], loss_weight: Optional[float]) -> str:
    """The first of the usual causes that explains the difference. There is a loss_weight where
    the gradient does not follow top[0].diff."""
    judge.measure_elements(sorted({*judge.sample(MOST_ELEMENTS)} - {*judge.elements}))
    measured = [judge.elements[element] for element in sorted(judge.elements)]
    evidence = Evidence(
        elements=np.array(sorted(judge.elements)),
        analytic=np.array([each.analytic for each in measured]),
        numeric=np.array([each.numeric for each in measured]),
        error=np.array([each.error for each in measured]),
        wrong=np.array([judge.is_wrong(each) for each in measured]),
    )
    return next(causes(judge, evidence, decisive[0].elements, loss_weight))


def causes(
    judge: Judge, evidence: Evidence, decisive: np.ndarray, loss_weight: Optional[float]
) -> Iterator[str]:
    if not judge.gradient.any():
        yield f"all zero, where the numeric gradient goes up to {abs(evidence.numeric).max():.4g}"
    ratio = ratio_of(evidence, judge.options.threshold)
    if ratio and is_near(ratio, -1):
        yield "sign flipped: every element is -1 times the numeric one"
    if ratio:
        sign = "sign flipped, and " if ratio < 0 else ""
        fitting = factors(judge, abs(ratio), loss_weight)
        yield f"{sign}every element is {ratio:.5g} times the numeric one; {fitting}"
    yield from transpositions(judge, evidence)
    wrong = evidence.where(evidence.wrong)
    what = what_is_wrong(wrong, judge.options.threshold)
    yield from (f"{what} only {name}" for name in wrong_groups(judge, evidence))
    if not wrong.elements.size:
        yield wrong_together(judge, decisive)
    count = f"{len(wrong.elements)} of {len(evidence.elements)} elements"
    yield f"{count} are {what}, in no pattern known here"


def factors(judge: Judge, ratio: float, loss_weight: Optional[float]) -> str:
    """What the ratio, or one over it, may be."""
    count, (images, channels) = judge.gradient.size, [*judge.gradient.shape, 1, 1][:2]
    numbers = {
        "N": images,
        "C": channels,
        "the count": count,
        "count / N": count // images,
        "count / C": count // channels,
        "the number of elements with a gradient": np.count_nonzero(judge.gradient),
        **{f"the sum of {name}": mask.sum() for name, mask in judge.masks.items()},
    }
    named = [(f"{name} ({number:g})", number) for name, number in numbers.items() if number > 1]
    candidates = []
    if loss_weight is not None:
        candidates.append((f"1 / loss_weight ({1 / loss_weight:g})", 1 / loss_weight))
        candidates.append((f"loss_weight ({loss_weight:g}), applied twice", loss_weight))
    for name, number in named:
        candidates.append((f"a missing division by {name}", number))
        candidates.append((f"a division too many by {name}", 1 / number))
    for constant in SMALL_CONSTANTS:
        candidates += [(f"a constant {each:.4g}", each) for each in (constant, 1 / constant)]
    fitting = [text for text, number in candidates if is_near(ratio, number)]
    if not fitting:
        known = ", ".join(name for name, _ in named)
        return f"a normaliser is missing or too many, and it is none of {known}"
    return f"{'candidates:' if fitting[1:] else 'what fits is'} {'; '.join(fitting)}"


def transpositions(judge: Judge, evidence: Evidence) -> Iterator[str]:
    gradient = judge.gradient
    tolerance = judge.options.threshold * np.abs(gradient).max() + evidence.error.max()
    for axes in list(itertools.permutations(range(gradient.ndim)))[1:]:
        shape = [gradient.shape[axis] for axis in axes]
        supposed = gradient.reshape(shape).transpose(np.argsort(axes)).ravel()
        if (np.abs(supposed[evidence.elements] - evidence.numeric) <= tolerance).all():
            order = ", ".join(map(str, axes))
            yield f"transposed: it is the numeric gradient with its axes in the order {order}"


def wrong_groups(judge: Judge, evidence: Evidence) -> Iterator[str]:
    """Images, channels or mask values of the wrong elements, if all elements there are wrong."""
    matters = np.maximum(np.abs(evidence.analytic), np.abs(evidence.numeric)) > 2 * evidence.error
    wrong = evidence.elements[evidence.wrong]
    for name, groups in judge.groupings.items():
        bad = {value: group for value, group in groups.items() if np.isin(wrong, group).any()}
        is_bad = np.isin(evidence.elements, np.concatenate([[], *bad.values()]))
        inside, outside = matters & is_bad, matters & ~is_bad
        if inside.any() and outside.any() and evidence.wrong[inside].mean() > NEARLY_ALL:
            yield f"{name} {', '.join(f'{value:g}' for value in bad)}"


def wrong_together(judge: Judge, elements: np.ndarray) -> str:
    """What is said of elements that are too small to be wrong one by one."""
    what = "wrong" if judge.gradient.ravel()[elements].any() else "zero"
    for name, groups in judge.groupings.items():
        for value, group in groups.items():
            if np.array_equal(group, np.sort(elements)):
                why = "by the scale of these elements together; the others are larger"
                return f"{what} {name} {value:g}, {why}"
    return f"{what} along a direction of many elements; noise hides which of them are"


def what_is_wrong(wrong: Evidence, threshold: float) -> str:
    if not wrong.analytic.any():
        return "zero"
    if not (np.abs(wrong.numeric) > wrong.error).any():
        return "not zero as they should be"
    ratio = ratio_of(wrong, threshold)
    return f"{ratio:.4g} times the numeric one" if ratio else "wrong"


def ratio_of(evidence: Evidence, threshold: float) -> Optional[float]:
    """The factor, other than 1, that makes the analytic of the numeric elements."""
    _, analytic, numeric, error, _ = evidence
    if not analytic.any() or (np.abs(numeric) <= error).all():
        return None
    factor = proportion(analytic, numeric, threshold, error)
    return None if factor is None or abs(factor - 1) <= threshold else factor
