"""What a layer takes in its `param_str`: parsed, never evaluated, and checked."""

import ast
import difflib
import json
import math
import numbers
from typing import Any, Dict, Iterable, List, Mapping, Tuple, cast

REQUIRED = object()

# Fields of Caffe's LayerParameter that people write into a param_str by mistake.
MISPLACED_FIELDS = ("loss_weight", "propagate_down", "include", "exclude", "phase")

# From here on a number rounds to infinity in float32: half a unit in the last place beyond the
# largest finite one, which NumPy prints as 3.4028235e+38.
OVERFLOWS_FLOAT32 = (2 - 2.0**-24) * 2.0**127


class Parameter:
    """One key of a `param_str`: its default, what it may be, and how a value of it is checked."""

    none_means_default = True

    def __init__(self, default: object, allowed: str) -> None:
        self.default = default
        self.allowed = allowed

    def checked(self, value: object) -> object:
        """The value in the form that the layer uses; ValueError or TypeError where it has none."""
        raise NotImplementedError


class OrNone(Parameter):
    """What another parameter may be, or None (null), which is a value and not the default."""

    none_means_default = False

    def __init__(self, parameter: Parameter) -> None:
        super().__init__(parameter.default, parameter.allowed + ", or null")
        self.parameter = parameter

    def checked(self, value: object) -> object:
        return self.parameter.checked(value)


class Choice(Parameter):
    """One of a few words."""

    def __init__(self, *choices: str, default: str) -> None:
        super().__init__(default, "one of " + ", ".join(f'"{choice}"' for choice in choices))
        self.choices = choices

    def checked(self, value: object) -> str:
        if not isinstance(value, str):
            raise TypeError("is not a word")
        if value not in self.choices:
            raise ValueError("is not allowed" + did_you_mean(value, self.choices))
        return value


class Boolean(Parameter):
    """True or false."""

    def __init__(self, default: bool) -> None:
        super().__init__(default, "true or false")

    def checked(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise TypeError("is not true or false")
        return value


class Bounds:
    """The range of a number: minimum and maximum belong to it, above and below do not."""

    def __init__(
        self,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        above: float = -math.inf,
        below: float = math.inf,
    ) -> None:
        self.minimum, self.maximum, self.above, self.below = minimum, maximum, above, below
        limits = {"at least": minimum, "above": above, "at most": maximum, "below": below}
        words = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        self.text = (", " if words else "") + " and ".join(words)

    def require(self, number: float) -> None:
        if number < self.minimum or number <= self.above:
            raise ValueError("is too small")
        if number > self.maximum or number >= self.below:
            raise ValueError("is too large")


class Number(Parameter):
    """A finite number, within bounds where some are given."""

    def __init__(self, default: object, **bounds: float) -> None:
        self.bounds = Bounds(**bounds)
        super().__init__(default, "a finite number" + self.bounds.text)

    def checked(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError("is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not abs(number) < OVERFLOWS_FLOAT32:
            raise ValueError("is not finite in float32")
        self.bounds.require(number)
        return number


class NumberForEachChannel(Parameter):
    """A finite number, or a list with one for each channel; it is a tuple once checked."""

    def __init__(self, default: object, **bounds: float) -> None:
        self.number = Number(default, **bounds)
        super().__init__(default, self.number.allowed + ", or a list with one for each channel")

    def checked(self, value: object) -> Tuple[float, ...]:
        if isinstance(value, (list, tuple)):
            if not value:
                raise ValueError("is an empty list")
            return tuple(map(self.number.checked, value))
        return (self.number.checked(value),)


class WholeNumber(Parameter):
    """A whole number, within bounds where some are given."""

    def __init__(self, default: object, **bounds: float) -> None:
        self.bounds = Bounds(**bounds)
        super().__init__(default, "a whole number" + self.bounds.text)

    def checked(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("is not a whole number")
        self.bounds.require(value)
        return value


class Axis(WholeNumber):
    """An axis of a blob, which has at most 32; negative ones count from the end."""

    def __init__(self, default: int) -> None:
        super().__init__(default, minimum=-32, maximum=31)


CHECK_LABELS = Choice("always", "first", "never", default="always")


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays as Python's own; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one, in upper or lower case, or an empty one."""
    by_lower_case = {other.lower(): other for other in known}
    matches = difflib.get_close_matches(word[:100].lower(), list(by_lower_case), n=1)
    return by_lower_case[matches[0]] if matches else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known word, where one is near."""
    match = nearest(word, known)
    return f'; did you mean "{match}"?' if match else ""


def shown(value: object) -> str:
    """A value as an error shows it: as text, shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        text = "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."


def parse(layer: str, text: str) -> Dict[str, Any]:
    """The dictionary in a `param_str`, JSON or a Python literal; empty text is an empty one."""
    if not text.strip():
        return {}
    try:
        values = json.loads(text, object_pairs_hook=Pairs, parse_constant=reject_constant)
    except (json.JSONDecodeError, RecursionError) as json_error:
        values = parse_literal(layer, text, json_error)
    except ValueError as error:
        raise ValueError(f"{layer}: param_str: {error}") from None
    if not isinstance(values, Pairs):
        raise TypeError(
            f"{layer}: param_str is {shown(text.strip())}; expected a dictionary like "
            f'{{"key": value}}'
        )
    return unique(layer, values)


class Pairs(list):
    """The (key, value) pairs of a dictionary as they were written, repeated keys included."""


def reject_constant(token: str) -> None:
    """Refuses the NaN and Infinity tokens that Python's json reads beyond the standard."""
    raise ValueError(f"{token} is not a number that a parameter can have")


def parse_literal(layer: str, text: str, json_error: Exception) -> Any:
    """The value of a Python literal; of a dictionary its pairs."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Dict):
            return ast.literal_eval(node)
        # A key is None in {**other}, which literal_eval refuses.
        keys = [ast.literal_eval(key) for key in cast(List[ast.expr], node.keys)]
        return Pairs(zip(keys, map(ast.literal_eval, node.values)))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(
            f"{layer}: param_str is neither JSON ({json_error}) nor a Python literal: "
            f"{shown(text)}; write it like '{{\"key\": value}}'"
        ) from None


def unique(layer: str, pairs: List[Tuple[Any, Any]]) -> Dict[str, Any]:
    """The dictionary of these pairs; a key that is no string or comes twice is an error."""
    values: Dict[str, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str):
            raise TypeError(f"{layer}: param_str has the key {shown(key)}; keys are strings")
        if key in values:
            raise ValueError(f"{layer}: param_str has the key {shown(key)} twice")
        values[key] = value
    return values


def checked(
    layer: str, values: Mapping[str, object], parameters: Mapping[str, Parameter]
) -> Dict[str, Any]:
    """A value for every parameter of the layer: the given one, checked, or the default.

    None is the default too, and NumPy's numbers and arrays are as good as Python's.
    """
    for key in values:
        if key not in parameters:
            raise unknown(layer, key, parameters)
    return {
        key: checked_value(layer, key, plain(values.get(key, parameter.default)), parameter)
        for key, parameter in parameters.items()
    }


def unknown(layer: str, key: str, parameters: Mapping[str, Parameter]) -> ValueError:
    """The error for a key that is no parameter of this layer."""
    near = nearest(key, [*parameters, *MISPLACED_FIELDS])
    if near in MISPLACED_FIELDS:
        hint = f"; {near} is a field of the layer: write it beside python_param, not in param_str"
    else:
        hint = did_you_mean(key, parameters)
    known = ", ".join(parameters) or "none"
    return ValueError(f"{layer}: unknown parameter {shown(key)}{hint} (known parameters: {known})")


def checked_value(layer: str, key: str, value: object, parameter: Parameter) -> Any:
    """The checked value, or an error that names layer, key, value and what is allowed."""
    if value is None and parameter.none_means_default:
        value = parameter.default
    if value is REQUIRED:
        raise ValueError(
            f'{layer}: the parameter "{key}" is required ({parameter.allowed}); '
            f"add it to the param_str, like '{{\"{key}\": ...}}'"
        )
    if value is None:
        return None
    try:
        return parameter.checked(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f'{layer}: parameter "{key}": {shown(value)} {error}; expected {parameter.allowed}'
        ) from None
