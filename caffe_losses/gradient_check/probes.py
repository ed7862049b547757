"""What a layer does when it is called again, after other bottoms, or asked for less.

Many faults show here without a numeric derivative.
"""

from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from caffe_losses.gradient_check.layer_function import Arrays, LayerFunction

# Two gradients of one layer at one point differ by this share of the largest where several threads
# sum in another order; two forwards by a tenth of it.
SAME_GRADIENT, SAME_FORWARD = 1e-4, 1e-5
NEAR = 5e-3  # two factors are the same within this share

ANOTHER_EACH_TIME = "backward gives another gradient each time for the same bottoms"


class Gradients(NamedTuple):
    """What backward computes for one blob under different circumstances."""

    marker: float
    is_parameter: bool
    analytic: np.ndarray  # right after other bottoms
    previous: np.ndarray  # for those other bottoms
    again: np.ndarray  # once more, with `marker` in the diff before
    third: np.ndarray  # and once more
    doubled: np.ndarray  # with the diffs of the tops doubled


class Probes(NamedTuple):
    """What the layer did, for each variable by its name."""

    gradients: Dict[str, Gradients]
    faults: Dict[str, List[str]]
    asked: List[bool]  # Caffe's propagate_down for a Python layer
    refusal: str  # what backward says when it is asked for all of that, if it does not do it
    stale_forward: str  # that forward depends on the previous bottoms
    random_forward: str  # that its values are another each time


def probe(function: LayerFunction, labels: Set[str]) -> Probes:
    """Calls the layer in all these ways; `labels` are bottoms for which training does not ask."""
    other = other_bottoms(function)
    stale_forward, random_forward = look_at_forward(function, other)
    asked: List[bool] = []
    if function.is_python:
        function.run_backward(passed=asked)
    refusal = choose_flags(function, asked, labels) if any(asked) else ""
    gradients = all_gradients(function, other)
    faults = {name: habits(each) for name, each in gradients.items()}
    if function.flags is not None:
        look_at_flags(function, function.flags, labels, gradients, faults)
    for name, misdeeds in function.misdeeds.items():
        faults[name] += sorted(misdeeds)
    return Probes(gradients, faults, asked, refusal, stale_forward, random_forward)


def other_bottoms(function: LayerFunction) -> Arrays:
    """Another batch of the same kind: images and positions drawn from these with repetition, so
    that counts of labels and sums of masks change, too."""
    other = dict(function.origin)
    for bottom in function.bottoms:
        array = function.origin[bottom.name]
        axes = [axis for axis in range(array.ndim) if axis != 1 and array.shape[axis] > 1]
        for axis in axes:
            size = array.shape[axis]
            # The same for bottoms that belong together.
            drawn = np.random.RandomState([function.seed, 2, axis]).randint(size, size=size)
            drawn[0] = size - 1  # never the batch itself
            array = array.take(drawn, axis=axis)
        other[bottom.name] = array if axes else np.roll(array, 1)
    return other


def look_at_forward(function: LayerFunction, other: Arrays) -> Tuple[str, str]:
    """Why forward is no function of its bottoms: because of the previous ones, or of chance."""
    function.outputs(other)
    outputs = [function.outputs(function.origin) for repetition in range(3)]
    if not np.isfinite(outputs).all():
        raise ValueError(
            f"layer {function.name}: its top is not finite for these bottoms, so there is no "
            f"gradient to check"
        )
    tolerance = SAME_FORWARD * np.abs(outputs).max()
    if not close(outputs[1], outputs[2], tolerance):
        values = ", ".join(f"{each @ function.cotangent:.8g}" for each in outputs)
        return "", f"the forward is not deterministic: three for the same bottoms give {values}"
    if not close(outputs[0], outputs[1], tolerance):
        return "stale: forward depends on the bottoms and labels that the layer saw before", ""
    return "", ""


def choose_flags(function: LayerFunction, asked: List[bool], labels: Set[str]) -> str:
    """Sets the flags that backward takes: all that Caffe asks for, or those of a training net.

    Returns what backward says to the former, if it raises.
    """
    errors: List[Exception] = []
    for flags in [asked, *training_flags(function, asked, labels)]:
        function.flags = flags
        try:
            function.gradient(function.origin)
        except Exception as error:
            errors.append(error)
        else:
            return f"{type(errors[0]).__name__}: {errors[0]}" if errors else ""
    raise errors[0]


def training_flags(
    function: LayerFunction, asked: Sequence[bool], labels: Set[str]
) -> List[List[bool]]:
    """Without the labels, and for the first bottom alone, where that is less than is asked for."""
    names = [bottom.name for bottom in function.bottoms]
    without_labels = [flag and name not in labels for flag, name in zip(asked, names)]
    first_alone = [flag and index == 0 for index, flag in enumerate(asked)]
    flags = [without_labels] + [first_alone] * (first_alone != without_labels)
    return [each for each in flags if any(each) and each != list(asked)]


def look_at_flags(
    function: LayerFunction,
    asked: Sequence[bool],
    labels: Set[str],
    gradients: Dict[str, Gradients],
    faults: Dict[str, List[str]],
) -> None:
    """Compares the gradients with those for the propagate_down of training nets."""
    for flags in training_flags(function, asked, labels):
        function.flags = flags
        found = function.gradient(function.origin)
        for bottom, flag in zip(function.bottoms, flags):
            expected = gradients[bottom.name].third
            tolerance = SAME_GRADIENT * np.abs(expected).max()
            if flag and not close(found[bottom.name], expected, tolerance):
                faults[bottom.name].append(
                    f"backward mixes up propagate_down: for {flags} it gives this bottom another "
                    f"gradient than for {list(asked)}"
                )
    function.flags = asked


def all_gradients(function: LayerFunction, other: Arrays) -> Dict[str, Gradients]:
    # Twice: a gradient that lags one step behind is then that of these bottoms.
    function.gradient(other)
    previous = function.gradient(other)
    analytic = function.gradient(function.origin)
    markers = {name: marker_for(gradient) for name, gradient in analytic.items()}
    again = function.gradient(function.origin, fill=markers)
    third = function.gradient(function.origin)
    doubled = function.gradient(function.origin, 2 * function.cotangent)
    found = analytic, previous, again, third, doubled
    return {
        each.name: Gradients(
            markers[each.name], each.bottom is None, *(gradient[each.name] for gradient in found)
        )
        for each in function.variables
    }


def marker_for(gradient: np.ndarray) -> float:
    """As large as the gradient, so that float32 holds the sum of both."""
    largest = np.abs(gradient).max()
    return float(np.float32(2 * largest)) if 0 < largest < np.inf else 1.0


def habits(gradients: Gradients) -> List[str]:
    """Faults of backward that show without a numeric derivative."""
    if not np.isfinite(gradients.analytic).all():
        return [not_finite(gradients.analytic)]
    finding = leaves_in_diff(gradients) or repeats(gradients) or follows_top_diff(gradients)
    return [finding] if finding else []


def not_finite(gradient: np.ndarray) -> str:
    bad = ~np.isfinite(gradient)
    first = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
    value = gradient[tuple(np.argwhere(bad)[0])]
    return f"{bad.sum()} of {bad.size} elements are not finite, the first ({value}) at ({first})"


def leaves_in_diff(gradients: Gradients) -> Optional[str]:
    """Whether backward writes a bottom's diff, and adds to a parameter's."""
    first, again, marker = gradients.third, gradients.again, gradients.marker
    tolerance = SAME_GRADIENT * max(np.abs(first).max(), marker)
    if gradients.is_parameter:
        if not first.any() or close(again, first + marker, tolerance):
            return None
        if close(again, first, tolerance):
            return (
                "backward overwrites the parameter's diff; Caffe accumulates there, over iter_size "
                "and over layers that share the parameter"
            )
        return None
    untouched = (again == marker) & (first == 0)
    if untouched.all():
        return "backward never writes this diff: it holds what it held before"
    if first.any() and close(again, first + marker, tolerance / 10):
        return "accumulates: backward adds to what the diff held before"
    if untouched.any() and close(again, np.where(untouched, marker, first), tolerance):
        return (
            f"backward leaves {untouched.sum()} of {untouched.size} elements of the diff "
            f"unwritten: they hold what they held before"
        )
    return None


def repeats(gradients: Gradients) -> Optional[str]:
    """Whether the bottoms alone decide about the gradient, not what the layer saw before."""
    first, third = gradients.analytic, gradients.third
    second = gradients.again - (gradients.marker if gradients.is_parameter else 0)
    tolerance = SAME_GRADIENT * np.abs([first, second, third]).max()
    if close(first, third, tolerance):
        return None if close(first, second, tolerance) else ANOTHER_EACH_TIME
    if close(second, third, tolerance):
        if close(first, gradients.previous, tolerance):
            return "stale: it is the gradient of the previous bottoms"
        factor = proportion(first, third)
        found = "another gradient" if factor is None else f"a gradient {factor:.4g} times as large"
        return (
            f"stale: right after other bottoms and labels backward gives {found}; a normaliser, "
            f"mask or the like is that of the previous bottoms"
        )
    growth = proportion(second, first)
    if growth is None:
        return ANOTHER_EACH_TIME
    return (
        f"accumulates from call to call: the second backward for the same bottoms gives "
        f"{growth:.4g} times the first"
    )


def follows_top_diff(gradients: Gradients) -> Optional[str]:
    """Whether the gradient doubles when the diffs of the tops do."""
    once, doubled = gradients.third, gradients.doubled
    if close(doubled, 2 * once, SAME_GRADIENT * np.abs(once).max()):
        return None
    factor = proportion(doubled, once)
    if factor is not None and is_near(factor, 1):
        return (
            "backward ignores top[0].diff: the gradient stays the same when that is doubled, so it "
            "is right for one loss_weight only"
        )
    if factor is not None and is_near(factor, 4):
        return "backward multiplies by top[0].diff twice: doubling that makes the gradient 4 times"
    return "the gradient is not proportional to top[0].diff"


def close(left: np.ndarray, right: np.ndarray, tolerance: float) -> bool:
    return bool((np.abs(left - right) <= tolerance).all())


def is_near(left: float, right: float) -> bool:
    return abs(left - right) <= NEAR * abs(right)


def proportion(left: np.ndarray, right: np.ndarray) -> Optional[float]:
    """The factor that makes left of right, if there is one."""
    if not right.any():
        return None
    factor = float((left * right).sum() / (right**2).sum())
    return factor if close(left, factor * right, SAME_GRADIENT * np.abs(left).max()) else None
