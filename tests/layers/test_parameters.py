"""What a param_str may be, and the errors of the ones that may not.

Caffe is not needed here: parsing is plain Python.
"""

import json

import numpy as np
import pytest

from caffe_losses import parameters
from caffe_losses.parameters import (
    REQUIRED,
    Axis,
    Boolean,
    Choice,
    Number,
    NumberForEachChannel,
    OrNone,
    WholeNumber,
)

pytestmark = pytest.mark.one_engine
KNOWN = {
    "cls_weight": NumberForEachChannel(REQUIRED, minimum=0),
    "balance": Choice("image", "batch", default="image"),
    "ignore_label": Number(default=None),
    "axis": Axis(default=1),
}
DEFAULTS = {"balance": "image", "ignore_label": None, "axis": 1}


def settings(text):
    return parameters.checked("SomeLayer", parameters.parse("SomeLayer", text), KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        '{"cls_weight": 100, "balance": "batch"}',
        "{'cls_weight': 100, 'balance': 'batch'}",
        "{'cls_weight': 100, 'balance': 'batch',}",
        "{'cls_weight': (100,), u'balance': 'batch'}",
        " \n {\n'cls_weight': 1e2,  # positive pixels are rare\n'balance': 'batch'}\n",
    ],
)
def test_json_and_python_literals_mean_the_same(text):
    assert settings(text) == {**DEFAULTS, "cls_weight": (100.0,), "balance": "batch"}


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_text_without_parameters_means_the_defaults(text):
    assert parameters.parse("SomeLayer", text) == {}
    assert parameters.checked("SomeLayer", {}, {"balance": KNOWN["balance"]}) == {
        "balance": "image"
    }


def test_a_weight_for_each_of_thousands_of_channels_fits():
    weights = [i / 7 for i in range(3000)]
    assert settings(json.dumps({"cls_weight": weights}))["cls_weight"] == tuple(weights)


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("", ValueError, ['"cls_weight"', "required", "at least 0", "param_str"]),
        ('{"cls_weight": null}', ValueError, ['"cls_weight"', "required", "at least 0"]),
        ('{"cls_weigth": 3}', ValueError, ["'cls_weigth'", 'did you mean "cls_weight"']),
        ('{"cls_weight": 1, "x": 2}', ValueError, ["'x'", "known parameters: cls_weight, balance"]),
        ('{"cls_weight": -1}', ValueError, ['"cls_weight"', "-1", "too small", "at least 0"]),
        ('{"cls_weight": [1, -2]}', ValueError, ["[1, -2]", "too small", "at least 0"]),
        ('{"cls_weight": []}', ValueError, ["[]", "empty list", "one for each channel"]),
        ('{"cls_weight": "100"}', TypeError, ["'100'", "not a number", "finite number"]),
        ('{"cls_weight": true}', TypeError, ["True", "not a number"]),
        ('{"cls_weight": [1, null]}', TypeError, ["None", "not a number"]),
        ('{"cls_weight": {"a": 1}}', TypeError, ['"cls_weight"', "not a number"]),
        ('{"cls_weight": 1e39}', ValueError, ["1e+39", "not finite in float32"]),
        ('{"cls_weight": 3.4028236e38}', ValueError, ["3.4028236e+38", "not finite in float32"]),
        ('{"cls_weight": 1e999}', ValueError, ["inf", "not finite in float32"]),
        ('{"cls_weight": 1, "balance": "imgae"}', ValueError, ["'imgae'", '"image", "batch"']),
        ('{"cls_weight": 1, "balance": 1}', TypeError, ["1 is not a word", '"image", "batch"']),
        ('{"cls_weight": 1, "axis": 1.0}', TypeError, ['"axis"', "1.0", "whole number"]),
        ('{"cls_weight": 1, "axis": true}', TypeError, ['"axis"', "True", "whole number"]),
        ('{"cls_weight": 1, "axis": 99}', ValueError, ['"axis"', "99", "too large", "at most 31"]),
        ('{"cls_weight": 1, "ignore_label": "255"}', TypeError, ['"ignore_label"', "'255'"]),
        ("cls_weight: 3", ValueError, ["'cls_weight: 3'", "neither JSON", '{"key": value}']),
        ("[1, 2]", TypeError, ["'[1, 2]'", "dictionary"]),
        ("'text'", TypeError, ["'text'", "dictionary"]),
        ("3", TypeError, ["'3'", "dictionary"]),
        ("{1: 2}", TypeError, ["key 1", "keys are strings"]),
        ("{b'cls_weight': 2}", TypeError, ["key b'cls_weight'", "keys are strings"]),
    ],
)
def test_an_error_says_what_was_found_and_what_is_expected(text, error, words):
    with pytest.raises(error) as raised:
        settings(text)
    message = str(raised.value)
    assert message.startswith("SomeLayer: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    "text",
    [
        '{"cls_weight": 1, "cls_weight": 2}',
        "{'cls_weight': 1, 'cls_weight': 2}",
        '{"cls_weight": 1, "cls_\\u0077eight": 2}',
    ],
)
def test_a_key_that_comes_twice_is_an_error(text):
    with pytest.raises(ValueError, match="SomeLayer: .*'cls_weight' twice"):
        settings(text)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("text", ['{"cls_weight": %s}', '{"cls_weight": [1, %s]}', "%s"])
def test_nan_and_infinity_tokens_are_errors(token, text):
    with pytest.raises(ValueError, match=f"SomeLayer: param_str: {token} is not a number"):
        settings(text % token)


@pytest.mark.parametrize(
    "key, hint",
    [
        ("loss_weight", "loss_weight is a field of the layer: write it beside python_param"),
        ("loss_wieght", "loss_weight is a field of the layer: write it beside python_param"),
        ("Propagate_Down", "propagate_down is a field of the layer: write it beside python_param"),
        ("IGNORE_LABEL", 'did you mean "ignore_label"?'),
        ("weight", 'did you mean "cls_weight"?'),
        ("colour", "unknown parameter 'colour' (known parameters: cls_weight, balance"),
    ],
)
def test_an_unknown_key_is_an_error_that_says_where_it_belongs(key, hint):
    with pytest.raises(ValueError) as raised:
        settings(json.dumps({"cls_weight": 1, key: 1}))
    assert hint in str(raised.value)


@pytest.mark.parametrize("word", ["Image", "IMAGE", "imgae", "IMGAE"])
def test_a_word_that_is_nearly_right_gets_a_hint(word):
    with pytest.raises(ValueError, match='did you mean "image"'):
        settings(json.dumps({"cls_weight": 1, "balance": word}))


NOT_DATA = {
    "an import": "__import__('pathlib').Path('{file}').touch()",
    "an import as a value": "{'cls_weight': __import__('pathlib').Path('{file}').touch()}",
    "an import as a key": "{__import__('pathlib').Path('{file}').touch(): 1}",
    "an exec": "exec(\"open('{file}', 'w')\")",
    "a comprehension": "{'cls_weight': [open('{file}', 'w') for i in range(10**9)]}",
    "an f-string": "{'cls_weight': f\"{open('{file}', 'w')}\"}",
    "an unpacking": "{**open('{file}', 'w'), 'cls_weight': 1}",
    "an unpacking of a word": "{**'image', 'cls_weight': 1}",
    "a power": "{'cls_weight': 9**9**9**9}",
    "a product": "{'cls_weight': [0]*10**9}",
    "a statement": "import os",
    "an unhashable key": "{'cls_weight': {[]: 1}}",
    "a huge integer": '{"cls_weight": ' + "9" * 65000 + "}",
    "a huge hexadecimal integer": "{'cls_weight': 0x" + "f" * 4000 + "}",
    "deep nesting": '{"cls_weight": ' + "[" * 30000 + "]" * 30000 + "}",
    "megabytes of text": '{"cls_weight": "' + "x" * 5000000 + '"}',
    "a null byte": '{"cls_weight": 1}\0',
    "a lone surrogate": "{'cls_weight': '\ud800'}",
    "an unterminated string": '{"cls_weight": "',
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("text", NOT_DATA.values(), ids=NOT_DATA.keys())
def test_text_that_is_not_data_gets_a_short_error_and_runs_nothing(text, tmp_path):
    file = tmp_path / "made"
    with pytest.raises((ValueError, TypeError)) as raised:
        settings(text.replace("{file}", str(file)))
    assert str(raised.value).startswith("SomeLayer: ")
    assert len(str(raised.value)) < 700
    assert not file.exists()


# ---- kinds of parameters


def checked(parameter, value):
    return parameters.checked("SomeLayer", {"key": value}, {"key": parameter})["key"]


EACH = NumberForEachChannel(default=1, minimum=0)
SMOOTHING = Number(default=0, minimum=0, below=1)
RATIO = Number(default=1, above=0, maximum=1)
SIGMA = Number(default=1, above=0)
COUNT = WholeNumber(default=3, minimum=1)
ALPHA = OrNone(Number(default=0.25, minimum=0, maximum=1))


@pytest.mark.parametrize(
    "parameter, value, expected",
    [
        (SMOOTHING, 0, 0.0),
        (SMOOTHING, 0.999, 0.999),
        (RATIO, 1, 1.0),
        (RATIO, 1e-30, 1e-30),
        (COUNT, 1, 1),
        (COUNT, 10**6, 10**6),
        (Boolean(default=True), False, False),
        (ALPHA, 0.5, 0.5),
        (Number(default=1), 3.4028235e38, 3.4028235e38),
        (Number(default=1), -float(str(np.finfo(np.float32).max)), -3.4028235e38),
    ],
)
def test_a_value_within_the_bounds_is_taken(parameter, value, expected):
    result = checked(parameter, value)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    "parameter, value, message",
    [
        (SMOOTHING, -0.1, "is too small; expected a finite number, at least 0 and below 1"),
        (SMOOTHING, 1, "is too large; expected a finite number, at least 0 and below 1"),
        (RATIO, 0, "is too small; expected a finite number, above 0 and at most 1"),
        (RATIO, 1.5, "is too large; expected a finite number, above 0 and at most 1"),
        (SIGMA, 0.0, "is too small; expected a finite number, above 0"),
        (COUNT, 0, "is too small; expected a whole number, at least 1"),
        (COUNT, 2.0, "2.0 is not a whole number; expected a whole number, at least 1"),
        (Boolean(default=True), 1, "1 is not true or false; expected true or false"),
        (Boolean(default=True), "true", "'true' is not true or false"),
        (ALPHA, 2, "is too large; expected a finite number, at least 0 and at most 1, or null"),
        (SIGMA, np.float64("nan"), "nan is not finite in float32"),
        (EACH, np.zeros(0), "[] is an empty list"),
        (EACH, np.ones((2, 2)), "is not a number"),
        (EACH, np.array([1.0, -2.0]), "[1.0, -2.0] is too small"),
        (SIGMA, np.array([True]), "is not a number"),
        (SIGMA, np.bool_(True), "True is not a number"),
        (COUNT, np.float32(2), "2.0 is not a whole number"),
    ],
)
def test_a_value_beyond_the_bounds_or_of_another_kind_is_an_error(parameter, value, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        checked(parameter, value)
    assert 'SomeLayer: parameter "key": ' in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "parameter, value, expected",
    [
        (SIGMA, np.float32(0.5), 0.5),
        (SIGMA, np.int64(2), 2.0),
        (SIGMA, np.array(2), 2.0),
        (COUNT, np.uint8(7), 7),
        (Axis(default=1), np.int32(-1), -1),
        (Boolean(default=False), np.bool_(True), True),
        (Choice("a", "b", default="a"), np.str_("b"), "b"),
        (EACH, np.array([1, 2.5], dtype=np.float32), (1.0, 2.5)),
        (EACH, [np.int8(1), 2], (1.0, 2.0)),
        (EACH, np.float64(3), (3.0,)),
    ],
)
def test_numpy_numbers_and_arrays_are_as_good_as_pythons(parameter, value, expected):
    result = checked(parameter, value)
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize(
    "parameter, expected",
    [
        (Choice("a", "b", default="b"), "b"),
        (EACH, (1.0,)),
        (Number(default=None), None),
        (NumberForEachChannel(default=None), None),
        (Boolean(default=True), True),
    ],
)
def test_none_is_the_default(parameter, expected):
    assert checked(parameter, None) == expected
    assert parameters.checked("SomeLayer", {}, {"key": parameter}) == {"key": expected}


def test_none_can_be_a_value_beside_another_default():
    assert checked(ALPHA, None) is None
    assert parameters.checked("SomeLayer", {}, {"key": ALPHA}) == {"key": 0.25}
