"""What a layer does when it is called again, after other bottoms, or asked for less.

Many faults show here without a numeric derivative.
"""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import numpy as np

from caffe_losses.gradient_check.layer_function import Arrays, LayerFunction

# Two gradients of one layer at one point differ by this share of the largest where several threads
# sum in another order; two forwards by a tenth of it.
SAME_GRADIENT, SAME_FORWARD = 1e-4, 1e-5
MOST_DRAWS = 10  # of another batch, until the sum of each bottom is another
NEAR = 5e-3  # two factors are the same within this share


class Gradients(NamedTuple):
    """What backward computes for one blob under different circumstances."""

    marker: float
    previous: np.ndarray  # for other bottoms
    analytic: np.ndarray  # right after these
    again: np.ndarray  # once more, with `marker` in the diff before
    third: np.ndarray  # and once more
    doubled: np.ndarray  # with the diffs of the tops doubled

    @property
    def follows_top_diff(self) -> bool:
        return is_same(self.doubled, 2 * self.third)


def other_bottoms(function: LayerFunction) -> Arrays:
    """Another batch of the same kind: images and positions drawn from these with repetition, so
    that counts of labels and sums of masks change, too.

    Where the layer takes no such batch, as it may lack a class, it is these images turned about.
    """
    origin, names = function.origin, {each.name for each in function.bottoms}
    other = {**origin, **{name: np.roll(origin[name], 1) for name in names}}
    for draw in range(MOST_DRAWS):
        seed = [function.seed, 2, draw]
        drawn = {**origin, **{name: redrawn(origin[name], seed) for name in names}}
        changed = [name for name in names if drawn[name].sum() != origin[name].sum()]
        if changed and is_taken(function, drawn):
            other = drawn
            if len(changed) == len(names):
                break
    return other


def redrawn(array: np.ndarray, seed: List[int]) -> np.ndarray:
    """Images and positions of an array."""
    for axis, size in enumerate(array.shape):
        if axis != 1:
            # The same for bottoms that belong together.
            drawn = np.random.RandomState([*seed, axis]).randint(size, size=size)
            array = array.take(drawn, axis=axis)
    return array


def is_taken(function: LayerFunction, point: Arrays) -> bool:
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(function.outputs(point)).all())
    except Exception:
        return False


def random_forward(function: LayerFunction, other: Arrays) -> str:
    """A finding if forward depends on chance; if it depends on previous bottoms, a violation."""
    function.outputs(other)
    outputs = [function.outputs(function.origin) for repetition in range(3)]
    if not np.isfinite(outputs).all():
        raise ValueError(f"layer {function.name}: its top is not finite for these bottoms")
    if not is_same(outputs[1], outputs[2], SAME_FORWARD):
        values = ", ".join(f"{each @ function.cotangent:.8g}" for each in outputs)
        return f"the forward is not deterministic: three for the same bottoms give {values}"
    if not is_same(outputs[0], outputs[1], SAME_FORWARD):
        function.violations.add(
            ("", "stale: forward depends on the bottoms and labels before these")
        )
    return ""


def choose_flags(function: LayerFunction) -> Dict[str, str]:
    """Has a Python layer's backward asked for all that Caffe asks for or, if it raises an error,
    for less.

    What training nets ask for is less by the labels, or the first bottom alone; the gradients must
    be the same. Returns what is said of the bottoms that backward refuses.
    """
    function.run_backward()
    asked, bottoms = function.asked, function.bottoms
    unlabelled = [flag and each.name not in function.labels for flag, each in zip(asked, bottoms)]
    first_alone = asked[:1] + [False] * len(asked[1:])
    found, errors = [], []
    for function.flags in [asked, *filter(any, (unlabelled, first_alone))]:
        try:
            found.append((function.flags, function.gradient(function.origin)))
        except Exception as error:
            errors.append(error)
    if not found:
        raise errors[0]
    function.flags, expected = found[0]
    for flags, gradient in found[1:]:
        for flag, (name, *_) in zip(flags, bottoms):
            if flag and not is_same(gradient[name], expected[name]):
                fault = f"backward mixes up propagate_down: for {flags} it gives this bottom"
                function.violations.add(
                    (name, f"{fault} another gradient than for {function.flags}")
                )
    if not errors:
        return {}
    refusal = (
        f"backward refuses to compute a gradient here: {type(errors[0]).__name__}: {errors[0]}"
    )
    return {bottom.name: refusal for bottom, flag in zip(bottoms, function.flags) if not flag}


def all_gradients(function: LayerFunction, other: Arrays) -> Dict[str, Gradients]:
    function.gradient(other)
    # A gradient that lags one step behind is that of the other bottoms both times.
    previous, analytic = function.gradient(other), function.gradient(function.origin)
    # As large as the gradient, so that float32 holds the sum of both.
    largest = {name: np.abs(each).max() for name, each in analytic.items()}
    markers = {name: float(np.float32(2 * each)) or 1.0 for name, each in largest.items()}
    again = function.gradient(function.origin, fill=markers)
    third = function.gradient(function.origin)
    doubled = function.gradient(function.origin, 2 * function.cotangent)
    calls = previous, analytic, again, third, doubled
    return {name: Gradients(markers[name], *(call[name] for call in calls)) for name in markers}


def faults_of_backward(gradients: Gradients, is_parameter: bool) -> Iterator[str]:
    """Faults of backward that show without a numeric derivative; each may be the reason for those
    after it."""
    marker, _, first, again, third, doubled = gradients
    bad = np.argwhere(~np.isfinite(first))
    if bad.size:
        value, at = first[tuple(bad[0])], ", ".join(map(str, bad[0]))
        yield f"{len(bad)} of {first.size} elements are not finite, the first ({value}) at ({at})"
    untouched = (again == marker) & (third == 0) & (not is_parameter)
    if is_parameter and third.any() and is_same(again, third):
        yield "backward overwrites the parameter's diff; iter_size and shared parameters add to it"
    if untouched.all():
        yield "backward never writes this diff: it holds what it held before"
    if not is_parameter and third.any() and is_same(again, third + marker):
        yield "accumulates: backward adds to what the diff held before"
    if untouched.any() and is_same(again, np.where(untouched, marker, third)):
        yield f"backward leaves {untouched.sum()} of {first.size} elements of the diff unwritten"
    second = again - marker if is_parameter else again
    if not (is_same(first, third) and is_same(first, second)):
        yield memory(gradients, second)
    if not gradients.follows_top_diff:
        factor = proportion(doubled, third) or 0
        if is_near(factor, 1):
            yield "backward ignores top[0].diff: doubling that does not change the gradient"
        if is_near(factor, 4):
            yield "backward multiplies by top[0].diff twice: doubling that gives 4 times as much"
        yield "the gradient is not proportional to top[0].diff"


def memory(gradients: Gradients, second: np.ndarray) -> str:
    """What a gradient depends on that is another at the first, second or third call."""
    first, third = gradients.analytic, gradients.third
    factor, growth = proportion(first, third), proportion(second, first)
    if is_same(second, third) and is_same(first, gradients.previous):
        return "stale: it is the gradient of the previous bottoms"
    if is_same(second, third):
        found = "another gradient" if factor is None else f"a gradient {factor:.4g} times as large"
        cause = "a divisor, mask or the like is that of the previous bottoms"
        return f"stale: right after other bottoms and labels backward gives {found}; {cause}"
    if growth is None:
        return "backward gives another gradient each time for the same bottoms"
    return f"accumulates from call to call: the second gradient is {growth:.4g} times the first"


def is_same(left: np.ndarray, right: np.ndarray, share: float = SAME_GRADIENT) -> bool:
    return bool((np.abs(left - right) <= share * np.abs(right).max()).all())


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
    return factor if (np.abs(left - factor * right) <= tolerance).all() else None
