"""What is wrong with a gradient: the usual causes, each with the evidence for it."""

import itertools
from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np

STALE = "stale: it is the gradient of the previous bottoms"


class Gradients(NamedTuple):
    """What backward computes for one blob under different circumstances."""

    analytic: np.ndarray
    previous: np.ndarray  # for other bottoms, which the layer saw before
    again: np.ndarray  # for the same bottoms, with `marker` in the diff before backward
    doubled: np.ndarray  # for the same bottoms, with the diffs of the tops doubled
    marker: float


class Evidence(NamedTuple):
    """Analytic and numeric gradient, element by element."""

    gradients: Gradients
    elements: np.ndarray  # flat indices of the elements below
    numeric: np.ndarray
    error: np.ndarray  # bounds on those of numeric
    wrong: np.ndarray  # which of the elements are
    threshold: float
    loss_weight: Optional[float]  # None where the layer is no loss
    masks: Dict[str, np.ndarray]  # the layer's other bottoms that hold labels or masks

    @property
    def shape(self) -> Tuple[int, ...]:
        return self.gradients.analytic.shape

    @property
    def analytic(self) -> np.ndarray:
        return self.gradients.analytic.ravel()[self.elements]

    @property
    def is_whole_blob(self) -> bool:
        return self.elements.size == self.gradients.analytic.size


def habits(gradients: Gradients) -> List[str]:
    """Faults of backward that show without a numeric derivative."""
    if not np.isfinite(gradients.analytic).all():
        return [not_finite(gradients.analytic)]
    finding = repeats(gradients) or follows_top_diff(gradients)
    return [finding] if finding else []


def causes(evidence: Evidence) -> List[str]:
    """The first of the usual causes that explains the difference."""
    explanations = (all_zero, constant_ratio, transposed, stale, confined)
    found = (explain(evidence) for explain in explanations)
    return [next((finding for finding in found if finding), no_usual_cause(evidence))]


def not_finite(gradient: np.ndarray) -> str:
    bad = ~np.isfinite(gradient)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    count = f"{bad.sum()} of {bad.size} elements"
    return f"{count} are not finite, the first ({gradient[first]}) at {first}"


def repeats(gradients: Gradients) -> Optional[str]:
    """Whether a second backward gives the gradient of the first, whatever the diff held."""
    first, second, marker = gradients.analytic, gradients.again, gradients.marker
    tolerance = 1e-4 * np.abs(first).max()
    if close(second, first, tolerance):
        return None
    untouched = (second == marker) & (first == 0)
    if untouched.all():
        return "backward never writes this diff: it holds what it held before"
    if close(second, first + marker, 1e-5 * marker):
        return "accumulates: backward adds to what the diff held before"
    if close(second, np.where(untouched, marker, first), tolerance):
        return (
            f"backward leaves {untouched.sum()} of {untouched.size} elements of the diff "
            f"unwritten: they hold what they held before"
        )
    growth = proportion(second, first)
    if growth is not None:
        return (
            f"accumulates from call to call: the second backward for the same bottoms gives "
            f"{growth:.4g} times the first"
        )
    if close(first, gradients.previous, tolerance):
        return STALE
    return "backward gives another gradient each time for the same bottoms"


def follows_top_diff(gradients: Gradients) -> Optional[str]:
    """Whether the gradient doubles when the diffs of the tops do."""
    if close(gradients.doubled, 2 * gradients.analytic, 1e-4 * np.abs(gradients.analytic).max()):
        return None
    factor = proportion(gradients.doubled, gradients.analytic)
    if factor is not None and is_near(factor, 1):
        return (
            "backward ignores top[0].diff: the gradient stays the same when that is doubled, so it "
            "is right for one loss_weight only"
        )
    if factor is not None and is_near(factor, 4):
        return "backward multiplies by top[0].diff twice: doubling that makes the gradient 4 times"
    return "the gradient is not proportional to top[0].diff"


def all_zero(evidence: Evidence) -> Optional[str]:
    if evidence.gradients.analytic.any():
        return None
    return f"all zero, where the numeric gradient goes up to {np.abs(evidence.numeric).max():.4g}"


def stale(evidence: Evidence) -> Optional[str]:
    analytic, previous = evidence.gradients.analytic, evidence.gradients.previous
    if not close(analytic, previous, evidence.threshold * np.abs(analytic).max()):
        return None
    return STALE


def transposed(evidence: Evidence) -> Optional[str]:
    if not evidence.is_whole_blob:
        return None
    numeric = evidence.numeric.reshape(evidence.shape)
    for axes in list(itertools.permutations(range(numeric.ndim)))[1:]:
        tolerance = evidence.threshold * np.abs(numeric).max() + evidence.error.max()
        if close(evidence.analytic, numeric.transpose(axes).ravel(), tolerance):
            order = ", ".join(map(str, axes))
            return f"transposed: it is the numeric gradient with its axes in the order {order}"
    return None


def constant_ratio(evidence: Evidence) -> Optional[str]:
    ratio = proportion_within_error(evidence, np.ones(evidence.elements.size, dtype=bool))
    if ratio is None:
        return None
    if is_near(ratio, -1):
        return "sign flipped: every element is -1 times the numeric one"
    sign = "sign flipped, and " if ratio < 0 else ""
    return (
        f"{sign}every element is {ratio:.5g} times the numeric one: {name_factor(evidence, ratio)}"
    )


def name_factor(evidence: Evidence, ratio: float) -> str:
    """Which number of the layer the ratio, or one over it, is."""
    factors = []
    weight = evidence.loss_weight
    if weight is not None and follows_top_diff(evidence.gradients):
        factors += [(1 / weight, "1 / loss_weight"), (weight, "loss_weight, applied twice")]
    count, shape = evidence.gradients.analytic.size, (*evidence.shape, 1, 1)
    valid = (evidence.analytic != 0).mean() * count
    divisors = {
        "N": shape[0],
        "the count": count,
        "count / N": count // shape[0],
        "count / C": count // shape[1],
        "the number of valid elements": round(valid),
    }
    for name, number in divisors.items():
        if number > 1:
            factors.append((number, f"a division by {name} ({number}) is missing"))
            factors.append((1 / number, f"a division by {name} ({number}) too many"))
    known = ", ".join(f"{name} ({number})" for name, number in divisors.items())
    unknown = f"a normaliser is missing or too many, and it is none of {known}"
    return next((name for factor, name in factors if is_near(abs(ratio), factor)), unknown)


def confined(evidence: Evidence) -> Optional[str]:
    """Whether the wrong elements are those of some images, channels or mask values."""
    matters = np.maximum(np.abs(evidence.analytic), np.abs(evidence.numeric)) > 2 * evidence.error
    for name, groups in groupings(evidence).items():
        bad = np.unique(groups[evidence.wrong])
        in_bad = np.isin(groups, bad)
        others_are_right = (matters & ~in_bad).any()
        if bad.size and others_are_right and evidence.wrong[in_bad & matters].mean() > 0.9:
            values = ", ".join(f"{value:g}" for value in bad)
            return f"{what_is_wrong(evidence)} only {name} {values}"
    return None


def what_is_wrong(evidence: Evidence) -> str:
    if not evidence.analytic[evidence.wrong].any():
        return "zero"
    if not (np.abs(evidence.numeric) > evidence.error)[evidence.wrong].any():
        return "not zero, as it should be,"
    ratio = proportion_within_error(evidence, evidence.wrong)
    return "wrong" if ratio is None else f"{ratio:.4g} times the numeric one"


def groupings(evidence: Evidence) -> Dict[str, np.ndarray]:
    """For each way to group the elements, the group of each."""
    positions = np.unravel_index(evidence.elements, evidence.shape)
    groups = {}
    for name, mask in evidence.masks.items():
        values = broadcast(mask, evidence.shape)
        if values is not None and np.unique(values).size <= 20:
            groups[f"where {name} is"] = values.ravel()[evidence.elements]
    groups.update(zip(["in image", "in channel"], positions))
    return groups


def broadcast(mask: np.ndarray, shape: Tuple[int, ...]) -> Optional[np.ndarray]:
    """The mask at each element: it has the shape, or one value for each image or position."""
    if mask.shape == shape:
        return mask
    for axes in range(1, len(shape) + 1):
        for dims in (shape[:axes], shape[:1] + (1,) + shape[2:axes]):
            if mask.size == np.prod(dims):
                return np.broadcast_to(mask.reshape(dims + (1,) * (len(shape) - len(dims))), shape)
    return None


def no_usual_cause(evidence: Evidence) -> str:
    if not evidence.wrong.any():
        return "wrong along a direction of many elements; noise hides which of them are"
    wrong = f"{evidence.wrong.sum()} of {evidence.wrong.size} elements"
    return f"{wrong} are {what_is_wrong(evidence)}, in no pattern known here"


def close(left: np.ndarray, right: np.ndarray, tolerance: Union[float, np.ndarray]) -> bool:
    return bool((np.abs(left - right) <= tolerance).all())


def is_near(left: float, right: float) -> bool:
    return abs(left - right) <= 5e-3 * abs(right)


def proportion(left: np.ndarray, right: np.ndarray) -> Optional[float]:
    """The factor that makes left of right, if there is one."""
    if not right.any():
        return None
    factor = float((left * right).sum() / (right**2).sum())
    return factor if close(left, factor * right, 1e-4 * np.abs(left).max()) else None


def proportion_within_error(evidence: Evidence, where: np.ndarray) -> Optional[float]:
    """The factor that makes the analytic of the numeric elements, if there is one."""
    analytic, numeric = evidence.analytic[where], evidence.numeric[where]
    error = evidence.error[where]
    if not analytic.any() or (np.abs(numeric) <= error).all():
        return None
    factor = float((analytic * numeric).sum() / (numeric**2).sum())
    tolerance = evidence.threshold * np.abs(analytic).max() + np.abs(factor) * error
    return factor if close(analytic, factor * numeric, tolerance) else None
