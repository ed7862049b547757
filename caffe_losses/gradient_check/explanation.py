"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import Iterator, List, Optional, Tuple

import numpy as np

from caffe_losses.gradient_check.judgement import Judge, Measurement
from caffe_losses.gradient_check.probes import is_near, proportion

SMALL_CONSTANTS = range(2, 11)  # such as the 2 of a square; also one over them
NEARLY_ALL = 0.9  # of the elements of a group are wrong where the group is
MOST_ELEMENTS = 100  # that are measured for an explanation, besides those that were


def explain(judge: Judge, decisive: List[Measurement], loss_weight: Optional[float]) -> str:
    """The first of the usual causes that explains the difference. There is a loss_weight where
    the gradient does not follow top[0].diff."""
    judge.measure_elements(sorted({*judge.sample(MOST_ELEMENTS)} - {*judge.elements}))
    measured = [judge.elements[element] for element in sorted(judge.elements)]
    return next(causes(judge, measured, decisive[0].elements, loss_weight))


def causes(
    judge: Judge, measured: List[Measurement], decisive: np.ndarray, loss_weight: Optional[float]
) -> Iterator[str]:
    if not judge.gradient.any():
        largest = max(abs(each.numeric) for each in measured)
        yield f"all zero, where the numeric gradient goes up to {largest:.4g}"
    ratio = ratio_of(measured, judge.options.threshold)
    if ratio and is_near(ratio, -1):
        yield "sign flipped: every element is -1 times the numeric one"
    if ratio:
        sign = "sign flipped, and " if ratio < 0 else ""
        fitting = factors(judge, abs(ratio), loss_weight)
        yield f"{sign}every element is {ratio:.5g} times the numeric one; {fitting}"
    yield from transpositions(judge, measured)
    wrong = judge.wrong_of(measured)
    what = what_is_wrong(wrong, judge.options.threshold)
    yield from (f"{what} only {name}" for name in wrong_groups(judge, measured))
    if not wrong:
        yield wrong_together(judge, decisive)
    yield f"{len(wrong)} of {len(measured)} elements are {what}, in no pattern known here"


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


def transpositions(judge: Judge, measured: List[Measurement]) -> Iterator[str]:
    gradient, (_, numeric, error) = judge.gradient, columns(measured)
    elements = [int(each.elements[0]) for each in measured]
    tolerance = judge.options.threshold * np.abs(gradient).max() + error.max()
    for axes in list(itertools.permutations(range(gradient.ndim)))[1:]:
        shape = [gradient.shape[axis] for axis in axes]
        supposed = gradient.reshape(shape).transpose(np.argsort(axes)).ravel()
        if (np.abs(supposed[elements] - numeric) <= tolerance).all():
            order = ", ".join(map(str, axes))
            yield f"transposed: it is the numeric gradient with its axes in the order {order}"


def wrong_groups(judge: Judge, measured: List[Measurement]) -> Iterator[str]:
    """Images, channels or mask values of the wrong elements, if all elements there are wrong."""
    elements = np.array([each.elements[0] for each in measured])
    is_wrong = np.array([judge.is_wrong(each) for each in measured])
    analytic, numeric, error = columns(measured)
    matters = np.maximum(np.abs(analytic), np.abs(numeric)) > 2 * error
    for name, groups in judge.groupings.items():
        bad = {
            value: each for value, each in groups.items() if np.isin(elements[is_wrong], each).any()
        }
        is_bad = np.isin(elements, np.concatenate([[], *bad.values()]))
        inside, outside = matters & is_bad, matters & ~is_bad
        if inside.any() and outside.any() and is_wrong[inside].mean() > NEARLY_ALL:
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


def what_is_wrong(wrong: List[Measurement], threshold: float) -> str:
    if not any(each.analytic for each in wrong):
        return "zero"
    if not any(abs(each.numeric) > each.error for each in wrong):
        return "not zero as they should be"
    ratio = ratio_of(wrong, threshold)
    return f"{ratio:.4g} times the numeric one" if ratio else "wrong"


def ratio_of(measured: List[Measurement], threshold: float) -> Optional[float]:
    """The factor, other than 1, that makes the analytic of the numeric elements."""
    analytic, numeric, error = columns(measured)
    if not analytic.any() or (np.abs(numeric) <= error).all():
        return None
    factor = proportion(analytic, numeric, threshold, error)
    return None if factor is None or abs(factor - 1) <= threshold else factor


def columns(measured: List[Measurement]) -> Tuple[np.ndarray, ...]:
    """Analytic and numeric values, and the errors of these."""
    return tuple(np.array([(each.analytic, each.numeric, each.error) for each in measured]).T)
