"""The two engines: which one runs, what compiled code is cached, and that both are as exact."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_losses import elementary, formulas
from caffe_losses.loops import pointwise
from support.processes import ROOT, environment

numba = pytest.importorskip("numba", reason="without Numba there is one engine")
pytestmark = pytest.mark.one_engine

LOSSES = """
import numpy as np
from caffe_losses import losses
random = np.random.RandomState(0)
x, t = random.randn(2, 3, 40, 50), (random.rand(2, 3, 40, 50) < 0.3)
for loss in ({}):
    print(repr(loss(x, t)[0]))
"""
ONE_LOSS = LOSSES.format("losses.euclidean,")
SEVERAL_LOSSES = LOSSES.format(
    "losses.balanced_cross_entropy, losses.euclidean, losses.channel_sum_euclidean"
)
ENGINE = "from caffe_losses.loops import engine; print(engine.name())"


def python(code, *arguments, cwd="/", check=True, **variables):
    """Runs Python with the checkout, or another copy of the package, on the path."""
    path = variables.pop("path", ROOT)
    variables = {"CAFFE_LOSSES_ENGINE": "", **variables}
    return subprocess.run(
        [sys.executable, "-B", "-c", code, *arguments],
        env=environment([path], **variables),
        cwd=str(cwd),
        check=check,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=600,
    )


# Which engine runs


@pytest.mark.parametrize("value, name", [("", "numba"), ("numba", "numba"), ("numpy", "numpy")])
def test_the_environment_chooses_the_engine(value, name):
    done = python(ENGINE, CAFFE_LOSSES_ENGINE=value)
    assert (done.stdout, done.stderr) == (name + "\n", "")


def test_an_unknown_engine_is_an_error():
    done = python(ENGINE, check=False, CAFFE_LOSSES_ENGINE="cuda")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith('ValueError: CAFFE_LOSSES_ENGINE is "cuda"; expected "numba" or "numpy"')


MISSING = """
import sys
class NoNumba:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            raise {}
sys.meta_path.insert(0, NoNumba())
"""
NOT_INSTALLED = "ModuleNotFoundError(\"No module named 'numba'\", name='numba')"
BROKEN = "ImportError('libLLVM.so: cannot open shared object file')"


def test_numpy_runs_silently_where_numba_is_not_installed():
    done = python(MISSING.format(NOT_INSTALLED) + ENGINE + "\n" + ONE_LOSS)
    assert done.stderr == ""
    assert done.stdout.startswith("numpy\n")


@pytest.mark.parametrize(
    "code, variables, reason",
    [
        (MISSING.format(BROKEN), {}, "import (ImportError: libLLVM.so: cannot open"),
        (MISSING.format(NOT_INSTALLED), {"CAFFE_LOSSES_ENGINE": "numba"}, "import (ModuleNotFound"),
        ("import numba; numba.njit = lambda **options: 1 / 0", {}, "compile (ZeroDivisionError"),
    ],
    ids=["broken", "asked for and missing", "does not compile"],
)
def test_a_numba_that_fails_is_replaced_by_numpy_with_one_warning(code, variables, reason):
    done = python(code + ONE_LOSS + ENGINE, **variables)
    assert done.stderr.count("Warning") == 1
    assert f"RuntimeWarning: caffe_losses: Numba fails to {reason}" in done.stderr
    assert "CAFFE_LOSSES_ENGINE=numpy" in done.stderr
    assert done.stdout.endswith("numpy\n")


def test_both_engines_give_the_same_losses():
    compiled, plain = (
        np.array(python(SEVERAL_LOSSES, CAFFE_LOSSES_ENGINE=engine).stdout.split(), float)
        for engine in ("numba", "numpy")
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-6)


@pytest.mark.parametrize(
    "name, shown", [("numba", f"Numba {numba.__version__}"), ("numpy", "NumP")]
)
def test_the_version_says_which_engine_runs(name, shown):
    code = "import runpy, sys; sys.argv = ['', '--version']; runpy.run_module('caffe_losses')"
    code = code.replace("'caffe_losses'", "'caffe_losses', run_name='__main__'")
    assert f", {shown}" in python(code, CAFFE_LOSSES_ENGINE=name).stdout


def test_numba_is_imported_with_the_first_loss_and_not_before():
    code = "import sys, caffe_losses.losses; print('numba' in sys.modules)"
    assert python(code).stdout == "False\n"


# The cache of compiled loops

COUNT_COMPILATIONS = """
import numba.core.dispatcher as dispatcher
compile_core = dispatcher._FunctionCompiler._compile_core
compiled = []
def count(self, *arguments):
    compiled.append(self.py_func.__name__)
    return compile_core(self, *arguments)
dispatcher._FunctionCompiler._compile_core = count
"""
PRINT_COMPILATIONS = "\nprint('compiled', len(compiled))"


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A copy of the package after a first process, and what that has printed and compiled."""
    folder = tmp_path_factory.mktemp("first")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(str(ROOT / "caffe_losses"), str(folder / "caffe_losses"), ignore=ignored)
    return folder, run_losses(folder)


@pytest.fixture
def package(first_run, tmp_path):
    """A copy of the package that a test may write to, with the cache of a first process."""
    shutil.copytree(str(first_run[0] / "caffe_losses"), str(tmp_path / "caffe_losses"))
    return tmp_path


@pytest.fixture
def right(first_run):
    """The losses that the first process has printed."""
    return first_run[1][0]


def run_losses(package, **variables):
    """The losses that a new process prints, and how many functions it compiled."""
    done = python(COUNT_COMPILATIONS + ONE_LOSS + PRINT_COMPILATIONS, path=package, **variables)
    assert done.stderr == ""
    *printed, last = done.stdout.splitlines()
    return printed, int(last.split()[1])


def cached_files(folder):
    return sorted(str(path) for path in folder.rglob("*.nb[ci]"))


def test_a_second_process_compiles_nothing_and_the_cache_does_not_grow(first_run, package, right):
    _, (_, compiled) = first_run
    files = cached_files(package)
    assert compiled > 0 and files
    assert run_losses(package) == (right, 0)
    assert cached_files(package) == files


def test_an_edited_formula_never_runs_from_the_cache(package, right):
    formulas = package / "caffe_losses" / "formulas.py"
    stamp = formulas.stat()
    text = formulas.read_text()
    assert text.count("return HALF * d * d, d") == 1
    formulas.write_text(text.replace("return HALF * d * d, d", "return d * HALF * d + HALF, d"))
    os.utime(str(formulas), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after, compiled = run_losses(package)
    assert compiled > 0
    assert float(after[0]) - float(right[0]) == pytest.approx(3 * 40 * 50 / 2, rel=1e-5)


def test_a_read_only_installation_of_a_user_without_a_home_runs_all_the_same(package, right):
    shutil.rmtree(str(package / "caffe_losses" / "loops" / "__pycache__"))
    no_folder = package / "caffe_losses" / "loops" / "__pycache__"
    no_folder.write_text("root may write anywhere, but for what is no folder")
    again, compiled = run_losses(package, HOME=str(no_folder), XDG_CACHE_HOME=str(no_folder))
    assert again == right and compiled > 0


def test_a_cache_that_cannot_be_read_is_passed_over(package, right):
    for path in cached_files(package):
        Path(path).write_bytes(b"not a compiled loop")
    assert run_losses(package)[0] == right


def test_processes_that_start_at_once_on_an_empty_cache_are_all_right(package, right):
    for path in cached_files(package):
        Path(path).unlink()
    running = [
        subprocess.Popen(
            [sys.executable, "-B", "-c", ONE_LOSS],
            env=environment([package], CAFFE_LOSSES_ENGINE=""),
            cwd=str(package.parent),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=600) for process in running]
    assert ended == [("\n".join([*right, ""]), "")] * 2
    assert run_losses(package)[1] == 0


# The elementary functions


def compiled(function):
    """The compiled form of an elementary function, for an array and other arguments, in float32."""
    from caffe_losses.loops import numba_engine

    form = numba_engine.compiled(function)

    def apply(out, numbers, *others):
        for i in range(numbers.size):
            out[i] = form(numbers[i], *others)

    loop = numba.njit(**numba_engine.OPTIONS)(apply)

    def of_array(numbers, *others):
        out = np.empty_like(numbers)
        loop(out, numbers, *map(np.float32, others))
        return out

    return of_array


def as_it_is(function):
    """The form that NumPy runs."""
    return function


def bits(number):
    return int(np.float32(number).view(np.int32))


EVERY = int(os.environ.get("EVERY_FLOAT", 1000))  # `make fuzz` tries all
SMALLEST_NORMAL = np.finfo(np.float32).tiny
EXACT = [  # function, in float64, domain, sign of it, largest error in units in the last place
    pytest.param(compiled, elementary.exp, np.exp, (0, 87.3365), -1, 1.1, id="numba-exp"),
    pytest.param(compiled, elementary.log1p, np.log1p, (0, 1), 1, 3, id="numba-log1p"),
    pytest.param(compiled, elementary.square, np.square, (2**-63, 1), 1, 0.51, id="numba-square"),
    # NumPy's own differ between versions and processors.
    pytest.param(as_it_is, elementary.exp, np.exp, (0, 87.3365), -1, 3, id="numpy-exp"),
    pytest.param(as_it_is, elementary.log1p, np.log1p, (0, 1), 1, 5, id="numpy-log1p"),
]


@pytest.mark.parametrize("form, function, exact, domain, sign, most", EXACT)
def test_elementary_functions_are_right_to_their_last_digits(
    form, function, exact, domain, sign, most
):
    """Every float32 of the domain, or a regular part of them."""
    of_array = form(function)
    first, last = map(bits, domain)
    largest = 0
    for start in range(first, last + 1, 10**6 * EVERY):
        stop = min(start + 10**6 * EVERY, last + 1)
        numbers = sign * np.arange(start, stop, EVERY, dtype=np.int32).view(np.float32)
        right = exact(numbers.astype(np.float64))
        unit = np.spacing(np.maximum(right, SMALLEST_NORMAL).astype(np.float32))
        largest = max(largest, np.abs((of_array(numbers) - right) / unit).max())
    print(f"{function.__name__}: {largest:.2f} units in the last place")
    assert largest <= most


@pytest.mark.parametrize("form", [compiled, as_it_is])
def test_exp_ends_in_zero_and_passes_nan_on(form):
    numbers = np.array([-88, -104, -1e4, -3e38, -np.inf, np.nan, 0], np.float32)
    with np.errstate(under="ignore"):
        found = form(elementary.exp)(numbers)
    assert (found[:5] < SMALLEST_NORMAL).all() and (found[1:5] == 0).all()
    assert np.isnan(found[5]) and found[6] == 1


def test_a_compiled_square_is_never_denormal():
    found = compiled(elementary.square)(
        np.array([2e-38, 1e-19, 1e-30, 1.1e-19, np.nan], np.float32)
    )
    assert (found[:3] == 0).all() and found[3] > SMALLEST_NORMAL and np.isnan(found[4])


def floats(low, high):
    """A regular part of the float32 from the one to the other."""
    return np.arange(bits(low), bits(high), EVERY, dtype=np.int32).view(np.float32)


@pytest.mark.parametrize("low, high", [(1, 8), (1000, 1024), (2.0**126, 2.0**127)])
def test_the_compiled_logarithm_is_right_to_its_last_digits(low, high):
    z = floats(low, high)
    right = np.log(z.astype(np.float64))
    assert (np.abs(compiled(elementary.log)(z) - right) <= 2.0**-22 * np.maximum(right, 0.5)).all()


@pytest.mark.parametrize("exponent", [0, 0.5, 0.75, 2, 5, 33.3])
def test_the_compiled_power_loses_digits_only_to_its_exponent(exponent):
    power = compiled(elementary.power)
    for low, high in [(0.5, 1), (2.0**-7, 2.0**-6), (2.0**-126, 2.0**-125)]:
        z = floats(low, high)
        right = z.astype(np.float64) ** float(np.float32(exponent))
        normal = right > SMALLEST_NORMAL
        error = np.abs(power(z, exponent)[normal] / right[normal] - 1)
        assert error.max(initial=0) < 2.5e-7 * max(1, exponent)
    ends = power(np.float32([1, 0]), exponent)
    np.testing.assert_array_equal(ends, [1, exponent == 0])


def test_each_function_of_a_cached_loop_has_the_name_of_that_loop_or_of_the_sources():
    """Numba numbers functions anew in each process, and mixes up two of one name and number."""
    from caffe_losses.loops import numba_engine

    names = {"formula": pointwise.compiled_formula(formulas.huber)}
    source = numba_engine.linked(pointwise.run_rows, "its_name", "its_name", **names)
    compiled = numba.njit(**numba_engine.OPTIONS)(source)
    compiled.compile(tuple(map(numba.typeof, (*pointwise.EXAMPLE, 0, 1))))
    (code,) = compiled.inspect_llvm().values()
    shared = re.findall(r"define linkonce_odr [^@]*@\"?(\w+)", code)
    own = [symbol for symbol in shared if not symbol.startswith("NRT_")]
    owners = ("_of_its_name", f"_of_{numba_engine.fingerprint()}")
    assert own and all(any(owner in symbol for owner in owners) for symbol in own), own
    for function in (pointwise.run_row, pointwise.run_stretch):  # they call the formula
        name = numba_engine.compiled(function, "its_name", **names).py_func.__qualname__
        assert name == f"{function.__name__}_of_its_name"
