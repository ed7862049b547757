"""What a param_str may be, and what happens to the ones that may not: a clear error, fast.

Caffe is not needed here: parsing is plain Python.
"""

import json
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path
from time import process_time

import pytest

from caffe_losses import parameters
from caffe_losses.parameters import REQUIRED, Axis, Choice, Number, NumberForEachChannel

KNOWN = {
    "cls_weight": NumberForEachChannel(REQUIRED, minimum=0),
    "balance": Choice("image", "batch", default="image"),
    "ignore_label": Number(default=None),
    "axis": Axis(default=1),
}
DEFAULTS = {"balance": "image", "ignore_label": None, "axis": 1}


def settings(text):
    return parameters.check("SomeLayer", parameters.parse("SomeLayer", text), KNOWN)


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
    assert parameters.check("SomeLayer", {}, {"balance": KNOWN["balance"]}) == {"balance": "image"}


def test_a_weight_for_each_of_thousands_of_channels_fits():
    weights = [i / 7 for i in range(3000)]
    assert settings(json.dumps({"cls_weight": weights}))["cls_weight"] == tuple(weights)


@pytest.mark.parametrize(
    "text, error, words",
    [
        ("", ValueError, ['"cls_weight"', "required", "at least 0", "param_str"]),
        ('{"cls_weigth": 3}', ValueError, ["'cls_weigth'", 'did you mean "cls_weight"']),
        ('{"cls_weight": 1, "x": 2}', ValueError, ["'x'", "known parameters: cls_weight, balance"]),
        ('{"cls_weight": -1}', ValueError, ['"cls_weight"', "-1", "too small", "at least 0"]),
        ('{"cls_weight": [1, -2]}', ValueError, ["[1, -2]", "too small", "at least 0"]),
        ('{"cls_weight": []}', ValueError, ["[]", "empty list", "one for each channel"]),
        ('{"cls_weight": "100"}', TypeError, ["'100'", "not a number", "finite number"]),
        ('{"cls_weight": true}', TypeError, ["True", "not a number"]),
        ('{"cls_weight": null}', TypeError, ["None", "not a number"]),
        ('{"cls_weight": {"a": 1}}', TypeError, ['"cls_weight"', "not a number"]),
        ('{"cls_weight": 1e39}', ValueError, ["1e+39", "not finite in float32"]),
        ('{"cls_weight": 1e999}', ValueError, ["inf", "not finite in float32"]),
        ('{"cls_weight": 1, "balance": "imgae"}', ValueError, ["'imgae'", '"image", "batch"']),
        ('{"cls_weight": 1, "balance": 1}', TypeError, ["1 is not a word", '"image", "batch"']),
        ('{"cls_weight": 1, "axis": 1.0}', TypeError, ['"axis"', "1.0", "whole number"]),
        ('{"cls_weight": 1, "axis": true}', TypeError, ['"axis"', "True", "whole number"]),
        ('{"cls_weight": 1, "axis": 99}', ValueError, ['"axis"', "99", "-32 to 31"]),
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


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"cls_weight": 1}' + " " * 65536, "has 65553 characters; at most 65536"),
        ("{'cls_weight': " + "-" * 5000 + "1}", "5017 characters are more than the 4096 allowed"),
        ('{"cls_weight": [' + "[" * 7 + "1" + "]" * 8 + "}", "opens 9 brackets; at most 8"),
    ],
)
def test_text_beyond_what_a_parameter_needs_is_not_parsed(text, reason):
    with pytest.raises(ValueError, match=f"SomeLayer: .*{reason}"):
        settings(text)


@pytest.mark.parametrize("token", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("text", ['{"cls_weight": %s}', '{"cls_weight": [1, %s]}', "%s"])
def test_nan_and_infinity_tokens_are_errors(token, text):
    with pytest.raises(ValueError, match=f"SomeLayer: param_str: {token} is not a number"):
        settings(text % token)


HOSTILE = {
    "deep nesting": '{"cls_weight": ' + "[" * 30000 + "]" * 30000 + "}",
    "nesting that brackets in strings hide": '["]", ' * 9000 + "1" + "]" * 9000,
    "nested literals": "{'cls_weight': " + "(" * 1900 + ")" * 1900 + "}",
    "nested dictionaries": '{"a":' * 9000 + "1" + "}" * 9000,
    "megabytes of text": '{"cls_weight": "' + "x" * 5000000 + '"}',
    "megabytes of blanks": '{"cls_weight": 1' + " " * 5000000 + "x}",
    "a huge integer": '{"cls_weight": ' + "9" * 65000 + "}",
    "a huge integer in a list": '{"cls_weight": [' + "9" * 65000 + "]}",
    "a huge hexadecimal integer": "{'cls_weight': 0x" + "f" * 4000 + "}",
    "a huge hexadecimal integer in a list": "{'cls_weight': [0x" + "f" * 4000 + "]}",
    "a power tower": "{'cls_weight': 9**9**9**9}",
    "a long product": "{'cls_weight': [0]*10**9}",
    "signs": "-" * 4000 + "1",
    "complements": "~" * 4000 + "1",
    "negations": "not " * 1000 + "1",
    "a long sum": "1+" * 2000 + "1",
    "attributes": "a" + ".a" * 2000,
    "lambdas": "lambda:" * 580 + "1",
    "conditions": "1 if 1 else " * 340 + "1",
    "an import": "__import__('pathlib').Path('{file}').touch()",
    "an import as a value": "{'cls_weight': __import__('pathlib').Path('{file}').touch()}",
    "an import as a key": "{__import__('pathlib').Path('{file}').touch(): 1}",
    "an open": "{'cls_weight': open('{file}', 'w')}",
    "an exec": "exec(\"open('{file}', 'w')\")",
    "a comprehension": "{'cls_weight': [open('{file}', 'w') for i in range(10**9)]}",
    "an f-string": "{'cls_weight': f\"{open('{file}', 'w')}\"}",
    "an unpacking": "{**'image', 'cls_weight': 1}",
    "an unpacking of a call": "{**open('{file}', 'w'), 'cls_weight': 1}",
    "a statement": "import os",
    "an unhashable key": "{'cls_weight': {[]: 1}}",
    "a null byte": '{"cls_weight": 1}\0',
    "a lone surrogate": "{'cls_weight': '\ud800'}",
    "an unterminated string": '{"cls_weight": "',
    "unterminated brackets": "{" * 8,
}


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_gets_an_error_and_runs_and_costs_nothing(text, tmp_path):
    file = tmp_path / "made"
    tracemalloc.start()
    began = process_time()
    with pytest.raises((ValueError, TypeError)) as raised:
        settings(text.replace("{file}", str(file)))
    seconds, (_, peak) = process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(raised.value).startswith("SomeLayer: ")
    assert len(str(raised.value)) < 700
    assert not file.exists()
    # Milliseconds and a megabyte or so; the bounds are for a machine that does much else.
    assert seconds < 5
    assert peak < 20e6


def test_hostile_text_leaves_a_process_with_little_memory_and_stack_alive(tmp_path):
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps(list(HOSTILE.values())))
    script = (
        "import json, sys, threading\n"
        "from caffe_losses import parameters\n"
        "def refuse_all():\n"
        "    for text in json.load(open(sys.argv[1])):\n"
        "        try:\n"
        "            parameters.parse('SomeLayer', text)\n"
        "        except (ValueError, TypeError) as error:\n"
        "            assert str(error).startswith('SomeLayer: ')\n"
        "    print('alive')\n"
        "threading.stack_size(2**20)\n"
        "thread = threading.Thread(target=refuse_all)\n"
        "thread.start()\n"
        "thread.join()\n"
    )

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(texts)],
        cwd=str(Path(__file__).parents[2]),
        preexec_fn=limit_memory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, b"alive", b"")
