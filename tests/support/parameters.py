"""What the parameters of a layer may be: for the rows of the table, and for the fuzz.

`examples` are the values that the rows run over, `allows` tells which values a layer must take.
The default of a parameter is what is left out.
"""

import math
import numbers
from typing import Any

FLOAT32_MAX = 3.4028234663852886e38


def is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class Word:
    """One of a few words, the default first."""

    required = False

    def __init__(self, *words: str) -> None:
        self.words = words
        self.examples = words[1:]

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.words


class Boolean:
    """True or false."""

    required = False

    def __init__(self, default: bool) -> None:
        self.examples = [not default]

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool)


class Number:
    """A finite number, from a minimum to a maximum."""

    required = False

    def __init__(
        self,
        *examples: Any,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        above: float = -math.inf,
        or_none: bool = False,
    ) -> None:
        self.examples = examples
        self.minimum = minimum
        self.maximum = maximum
        self.above = above
        self.or_none = or_none  # None is a value, not the default

    def allows(self, value: Any) -> bool:
        if not is_number(value):
            return value is None and self.or_none
        return value > self.above and max(-FLOAT32_MAX, self.minimum) <= value <= min(
            FLOAT32_MAX, self.maximum
        )


class NumberForEachChannel(Number):
    """A finite number, or a list with one for each channel."""

    def __init__(self, *examples: Any, required: bool = False, **bounds: float) -> None:
        super().__init__(*examples, **bounds)
        self.required = required

    def allows(self, value: Any) -> bool:
        if isinstance(value, list):
            return bool(value) and all(map(super().allows, value))
        return super().allows(value)


class Axis:
    """An axis of a blob; negative ones count from the end."""

    required = False

    def __init__(self, *examples: int) -> None:
        self.examples = examples

    def allows(self, value: Any) -> bool:
        return type(value) is int and -32 <= value <= 31
