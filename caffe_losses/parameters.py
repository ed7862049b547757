"""What a layer takes in its `param_str`: parsed without evaluating, and checked."""

import ast
import difflib
import json
import math
import numbers
from typing import Any, Dict, List, Mapping, Tuple, cast

# A list with a weight for each of several thousand channels fits; what is longer or deeper is no
# parameter of a loss, and parsing it could take memory and time without bound.
LONGEST_TEXT = 65536
MOST_BRACKETS = 8
# Python's own parser recurses for every sign and operator, JSON's does not.
LONGEST_LITERAL = 4096
REQUIRED = object()


class Parameter:
    """One key of a `param_str`: its default, what it may be, and how a value of it is checked."""

    def __init__(self, default: Any, allowed: str) -> None:
        self.default = default
        self.allowed = allowed

    def check(self, value: Any) -> Any:
        """The value in the form that the layer uses; ValueError or TypeError where it has none."""
        raise NotImplementedError


class Choice(Parameter):
    """One of a few words."""

    def __init__(self, *choices: str, default: str) -> None:
        super().__init__(default, "one of " + ", ".join(f'"{choice}"' for choice in choices))
        self.choices = choices

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError("is not a word")
        if value not in self.choices:
            raise ValueError("is not allowed" + nearest(value, self.choices))
        return value


class Number(Parameter):
    """A finite number, with an optional lower bound."""

    def __init__(self, default: Any, minimum: float = -math.inf) -> None:
        bound = "" if minimum == -math.inf else f" of at least {minimum:g}"
        super().__init__(default, f"a finite number{bound}")
        self.minimum = minimum

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError("is not a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        # The layers work in float32.
        if not abs(number) <= 3.4028234663852886e38:
            raise ValueError("is not finite in float32")
        if number < self.minimum:
            raise ValueError("is too small")
        return number


class NumberForEachChannel(Parameter):
    """A finite number, or a list with one for each channel; it is a tuple once checked."""

    def __init__(self, default: Any, minimum: float = -math.inf) -> None:
        self.number = Number(default, minimum)
        super().__init__(default, self.number.allowed + ", or a list with one for each channel")

    def check(self, value: Any) -> Tuple[float, ...]:
        if isinstance(value, (list, tuple)):
            if not value:
                raise ValueError("is an empty list")
            return tuple(map(self.number.check, value))
        return (self.number.check(value),)


class Axis(Parameter):
    """An axis of a blob; negative ones count from the end."""

    def __init__(self, default: int) -> None:
        super().__init__(default, "a whole number from -32 to 31")

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("is not a whole number")
        if not -32 <= value <= 31:
            raise ValueError("is out of range")
        return value


CHECK_LABELS = Choice("always", "first", "never", default="always")


def nearest(word: str, known: Any) -> str:
    """A hint that names the nearest known word, where one is near."""
    matches = difflib.get_close_matches(word[:100], list(known), n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""


def shown(value: Any) -> str:
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
    if len(text) > LONGEST_TEXT:
        raise ValueError(
            f"{layer}: param_str has {len(text)} characters; at most {LONGEST_TEXT} are allowed"
        )
    require_shallow(layer, text)
    try:
        values = json.loads(text, object_pairs_hook=Pairs, parse_constant=reject_constant)
    except json.JSONDecodeError as json_error:
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


def require_shallow(layer: str, text: str) -> None:
    """Refuses text that could nest deep: no parameter needs more than two brackets."""
    opened = sum(map(text.count, "[{("))
    if opened > MOST_BRACKETS:
        raise ValueError(
            f"{layer}: param_str opens {opened} brackets; at most {MOST_BRACKETS} are allowed"
        )


def parse_literal(layer: str, text: str, json_error: Exception) -> Any:
    """The pairs in a Python dictionary of literals."""
    if len(text) > LONGEST_LITERAL:
        raise ValueError(
            f"{layer}: param_str is not JSON ({json_error}), and as a Python literal its "
            f"{len(text)} characters are more than the {LONGEST_LITERAL} allowed; write it as JSON"
        )
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


def check(
    layer: str, values: Mapping[str, Any], parameters: Mapping[str, Parameter]
) -> Dict[str, Any]:
    """A value for every parameter of the layer: the given one, checked, or the default."""
    for key in values:
        if key not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(
                f"{layer}: unknown parameter {shown(key)}{nearest(key, parameters)} "
                f"(known parameters: {known})"
            )
    checked = {}
    for key, parameter in parameters.items():
        if key in values:
            checked[key] = check_one(layer, key, values[key], parameter)
        elif parameter.default is REQUIRED:
            raise ValueError(
                f'{layer}: the parameter "{key}" is required ({parameter.allowed}); '
                f"add it to the param_str, like '{{\"{key}\": ...}}'"
            )
        else:
            checked[key] = parameter.default
    return checked


def check_one(layer: str, key: str, value: Any, parameter: Parameter) -> Any:
    """The checked value, or an error that names layer, key, value and what is allowed."""
    try:
        return parameter.check(value)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f'{layer}: parameter "{key}": {shown(value)} {error}; expected {parameter.allowed}'
        ) from None
