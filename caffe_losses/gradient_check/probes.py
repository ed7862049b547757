"""What a layer does when it is called again, after other bottoms, or asked for less.

Many faults show here without a numeric derivative.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Set

import numpy as np

from caffe_losses.gradient_check.layer_function import Arrays, LayerFunction

# Two gradients of one layer at one point differ by this share of the largest where several threads
# sum in another order; two forwards by a tenth of it.
SAME_GRADIENT, SAME_FORWARD = 1e-4, 1e-5
DRAWS = 10  # of another batch, until the sum of each bottom is another
NEAR = 5e-3  # two factors are the same within this share


class Gradients(NamedTuple):
    """What backward computes for one blob under different circumstances."""

    is_parameter: bool
    marker: float
    previous: np.ndarray  # for other bottoms
    analytic: np.ndarray  # right after these
    again: np.ndarray  # once more, with `marker` in the diff before
    third: np.ndarray  # and once more
    doubled: np.ndarray  # with the diffs of the tops doubled


def other_bottoms(function: LayerFunction) -> Arrays:
    """Another batch of the same kind: images and positions drawn from these with repetition, so
    that counts of labels and sums of masks change, too.

    Where the layer takes no such batch, as it may lack a class, it is these images turned about.
    """
    origin, names = function.origin, {each.name for each in function.bottoms}
    other = {**origin, **{name: np.roll(origin[name], 1) for name in names}}
    for draw in range(DRAWS):
        drawn = dict(other)
        for name in names:
            sizes = {axis: size for axis, size in enumerate(origin[name].shape) if axis != 1}
            if max(sizes.values(), default=1) > 1:
                drawn[name] = origin[name]
            for axis, size in sizes.items():
                # The same for bottoms that belong together.
                random = np.random.RandomState([function.seed, 2, draw, axis])
                drawn[name] = drawn[name].take(random.randint(size, size=size), axis=axis)
        if is_taken(function, drawn):
            other = drawn
            if all(drawn[name].sum() != origin[name].sum() for name in names):
                break
    return other


def is_taken(function: LayerFunction, point: Arrays) -> bool:
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(function.outputs(point)).all())
    except Exception:
        return False


def random_forward(function: LayerFunction, other: Arrays) -> str:
    """That forward depends on chance; that it depends on previous bottoms is a misdeed."""
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
        return f"the forward is not deterministic: three for the same bottoms give {values}"
    if not close(outputs[0], outputs[1], tolerance):
        misdeed = "stale: forward depends on the bottoms and labels that the layer saw before"
        for name in function.misdeeds:
            function.misdeeds[name].add(misdeed)
    return ""


def choose_flags(function: LayerFunction, labels: Set[str]) -> str:
    """Has a Python layer's backward asked for all that Caffe asks for or, if it raises an error,
    for less.

    What training nets ask for is less by the labels, or the first bottom alone; the gradients must
    be the same. Returns the error.
    """
    function.run_backward()
    asked, bottoms = function.asked, function.bottoms
    if not any(asked):
        return ""
    without_labels = [flag and bottom.name not in labels for flag, bottom in zip(asked, bottoms)]
    first_alone = asked[:1] + [False] * len(asked[1:])
    found, errors = [], []
    for function.flags in asked, without_labels, first_alone:
        if any(function.flags):
            try:
                found.append((function.flags, function.gradient(function.origin)))
            except Exception as error:
                errors.append(error)
    if not found:
        raise errors[0]
    function.flags, expected = found[0]
    for flags, gradient in found[1:]:
        for flag, (name, _, _) in zip(flags, bottoms):
            if flag and not is_same(gradient[name], expected[name]):
                function.misdeeds[name].add(
                    f"backward mixes up propagate_down: for {flags} it gives this bottom another "
                    f"gradient than for {function.flags}"
                )
    return f"{type(errors[0]).__name__}: {errors[0]}" if errors else ""


def all_gradients(function: LayerFunction, other: Arrays) -> Dict[str, Gradients]:
    function.gradient(other)
    # A gradient that lags one step behind is that of the other bottoms both times.
    previous, analytic = function.gradient(other), function.gradient(function.origin)
    # As large as the gradient, so that float32 holds the sum of both.
    largest = {name: np.float32(2 * np.abs(each).max()) for name, each in analytic.items()}
    markers = {name: each if 0 < each < np.inf else np.float32(1) for name, each in largest.items()}
    again = function.gradient(function.origin, fill=markers)
    third = function.gradient(function.origin)
    doubled = function.gradient(function.origin, 2 * function.cotangent)
    found = previous, analytic, again, third, doubled
    return {
        name: Gradients(bottom is None, float(markers[name]), *(each[name] for each in found))
        for name, _, bottom in function.variables
    }


def habits(gradients: Gradients) -> List[str]:
    """Faults of backward that show without a numeric derivative."""
    bad = np.argwhere(~np.isfinite(gradients.analytic))
    if bad.size:
        first = ", ".join(map(str, bad[0]))
        value, count = gradients.analytic[tuple(bad[0])], gradients.analytic.size
        return [f"{len(bad)} of {count} elements are not finite, the first ({value}) at ({first})"]
    use_of_diff = adds_to_parameter if gradients.is_parameter else writes_bottom
    finding = use_of_diff(gradients) or repeats(gradients) or follows_top_diff(gradients)
    return [finding] if finding else []


def adds_to_parameter(gradients: Gradients) -> Optional[str]:
    if not gradients.third.any() or not is_same(gradients.again, gradients.third):
        return None
    return (
        "backward overwrites the parameter's diff; Caffe accumulates there, over iter_size and "
        "over layers that share the parameter"
    )


def writes_bottom(gradients: Gradients) -> Optional[str]:
    first, again, marker = gradients.third, gradients.again, gradients.marker
    untouched = (again == marker) & (first == 0)
    if untouched.all():
        return "backward never writes this diff: it holds what it held before"
    if first.any() and is_same(again, first + marker):
        return "accumulates: backward adds to what the diff held before"
    if untouched.any() and is_same(again, np.where(untouched, marker, first)):
        return (
            f"backward leaves {untouched.sum()} of {untouched.size} elements of the diff "
            f"unwritten: they hold what they held before"
        )
    return None


def repeats(gradients: Gradients) -> Optional[str]:
    """Whether the bottoms alone decide about the gradient, not what the layer saw before."""
    first, third = gradients.analytic, gradients.third
    second = gradients.again - (gradients.marker if gradients.is_parameter else 0)
    if is_same(first, third) and is_same(first, second):
        return None
    if not is_same(second, third):
        growth = proportion(second, first)
        if growth is None:
            return "backward gives another gradient each time for the same bottoms"
        return (
            f"accumulates from call to call: the second backward gives {growth:.4g} times the first"
        )
    if is_same(first, gradients.previous):
        return "stale: it is the gradient of the previous bottoms"
    factor = proportion(first, third)
    found = "another gradient" if factor is None else f"a gradient {factor:.4g} times as large"
    return (
        f"stale: right after other bottoms and labels backward gives {found}; a normaliser, mask "
        f"or the like is that of the previous bottoms"
    )


def follows_top_diff(gradients: Gradients) -> Optional[str]:
    """Whether the gradient doubles when the diffs of the tops do."""
    once, doubled = gradients.third, gradients.doubled
    if is_same(doubled, 2 * once):
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


def is_same(left: np.ndarray, right: np.ndarray) -> bool:
    return close(left, right, SAME_GRADIENT * np.abs(right).max())


def is_near(left: float, right: float) -> bool:
    return abs(left - right) <= NEAR * abs(right)


def proportion(
    left: np.ndarray, right: np.ndarray, share: float = SAME_GRADIENT, error: Any = 0.0
) -> Optional[float]:
    """The factor that makes left of right, if there is one; `error` is that of right."""
    if not right.any():
        return None
    factor = float((left * right).sum() / (right**2).sum())
    tolerance = share * np.abs(left).max() + np.abs(factor) * error
    return factor if close(left, factor * right, tolerance) else None
