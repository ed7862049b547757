"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import Iterator, Optional

import numpy as np

from caffe_losses.gradient_check.judgement import Judge, Measurement
from caffe_losses.gradient_check.probes import is_near, proportion

SMALL_CONSTANTS = range(2, 11)  # such as the 2 of a square; also one over them
NEARLY_ALL = 0.9  # of the elements of a group are wrong where the group is
MOST_ELEMENTS = 100  # that are measured for an explanation, besides those that were


def causes(judge: Judge, decisive: Measurement, loss_weight: Optional[float]) -> Iterator[str]:
    """The causes that explain the difference; the first says most. There is a loss_weight where
    the gradient does not follow top[0].diff."""
    judge.measure_sample(MOST_ELEMENTS)
    elements = np.array(sorted(judge.elements))
    measured = [judge.elements[element] for element in elements]
    values = np.array([(each.analytic, each.numeric, each.error) for each in measured]).T
    is_wrong = np.array([judge.is_wrong(each) for each in measured])
    if not judge.gradient.any():
        yield f"all zero, where the numeric gradient goes up to {np.abs(values[1]).max():.4g}"
    ratio = ratio_of(values, judge.options.threshold)
    if ratio and is_near(ratio, -1):
        yield "sign flipped: every element is -1 times the numeric one"
    if ratio:
        sign = "sign flipped, and " if ratio < 0 else ""
        fitting = factors(judge, abs(ratio), loss_weight)
        yield f"{sign}every element is {ratio:.5g} times the numeric one; {fitting}"
    yield from transpositions(judge, elements, values)
    if is_wrong.any():
        what = what_is_wrong(values[:, is_wrong], judge.options.threshold)
        for group in wrong_groups(judge, elements, values, is_wrong):
            yield f"{what} only {group}"
        yield f"{is_wrong.sum()} of {len(elements)} elements are {what}, in no pattern known here"
    yield wrong_together(judge, decisive.elements)


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
    numbers = {f"{name} ({each:g})": each for name, each in numbers.items() if each > 1}
    candidates = {}
    if loss_weight is not None:
        candidates[f"1 / loss_weight ({1 / loss_weight:g})"] = 1 / loss_weight
        candidates[f"loss_weight ({loss_weight:g}), applied twice"] = loss_weight
    for name, number in numbers.items():
        candidates[f"a missing division by {name}"] = number
        candidates[f"a division too many by {name}"] = 1 / number
    for constant in SMALL_CONSTANTS:
        candidates.update({f"a constant {each:.4g}": each for each in (constant, 1 / constant)})
    fitting = [name for name, number in candidates.items() if is_near(ratio, number)]
    if not fitting:
        return f"a divisor is missing or too many, and it is none of {', '.join(numbers)}"
    return f"{'candidates:' if fitting[1:] else 'what fits is'} {'; '.join(fitting)}"


def transpositions(judge: Judge, elements: np.ndarray, values: np.ndarray) -> Iterator[str]:
    gradient, (_, numeric, error) = judge.gradient, values
    tolerance = judge.options.threshold * np.abs(gradient).max() + error.max()
    for axes in list(itertools.permutations(range(gradient.ndim)))[1:]:
        shape = [gradient.shape[axis] for axis in axes]
        supposed = gradient.reshape(shape).transpose(np.argsort(axes)).ravel()
        if (np.abs(supposed[elements] - numeric) <= tolerance).all():
            order = ", ".join(map(str, axes))
            yield f"transposed: it is the numeric gradient with its axes in the order {order}"


def wrong_groups(
    judge: Judge, elements: np.ndarray, values: np.ndarray, is_wrong: np.ndarray
) -> Iterator[str]:
    """Images, channels or mask values of the wrong elements, if all elements there are wrong."""
    analytic, numeric, error = np.abs(values)
    matters = np.maximum(analytic, numeric) > 2 * error
    for name, groups in judge.groupings.items():
        bad = [each for each in groups if np.isin(elements[is_wrong], groups[each]).any()]
        is_bad = np.isin(elements, np.concatenate([groups[each] for each in bad]))
        inside, outside = matters & is_bad, matters & ~is_bad
        if inside.any() and outside.any() and is_wrong[inside].mean() > NEARLY_ALL:
            yield f"{name} {', '.join(f'{each:g}' for each in bad)}"


def wrong_together(judge: Judge, elements: np.ndarray) -> str:
    """What is said of elements that are too small to be wrong one by one."""
    what = "wrong" if judge.gradient.ravel()[elements].any() else "zero"
    for name, groups in judge.groupings.items():
        for value, group in groups.items():
            if np.array_equal(group, np.sort(elements)):
                why = "by the scale of these elements together; the others are larger"
                return f"{what} {name} {value:g}, {why}"
    return f"{what} along a direction of many elements; noise hides which of them are"


def what_is_wrong(values: np.ndarray, threshold: float) -> str:
    analytic, numeric, error = values
    if not analytic.any():
        return "zero"
    if (np.abs(numeric) <= error).all():
        return "not zero as they should be"
    ratio = ratio_of(values, threshold)
    return f"{ratio:.4g} times the numeric one" if ratio else "wrong"


def ratio_of(values: np.ndarray, threshold: float) -> Optional[float]:
    """The factor, other than 1, that makes the analytic of the numeric values."""
    analytic, numeric, error = values
    if not analytic.any() or (np.abs(numeric) <= error).all():
        return None
    factor = proportion(analytic, numeric, threshold, error)
    return None if factor is None or abs(factor - 1) <= threshold else factor
