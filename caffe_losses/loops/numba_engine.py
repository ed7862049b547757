"""Numba's side of the loops: the elementary functions of single numbers, and how loops compile."""

import functools
import hashlib
import types
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Tuple

import numba
import numpy as np
from llvmlite import ir
from numba.core.compiler import Compiler
from numba.extending import intrinsic

from caffe_losses import elementary
from caffe_losses.elementary import HALF, ONE, ZERO
from caffe_losses.loops import rows

FLOAT, BITS = ir.FloatType(), ir.IntType(32)
float32, int32, boolean = numba.types.float32, numba.types.int32, numba.types.boolean

# exp(z) = 2^k e^r with k the whole number nearest to z / ln 2; ln 2 in two parts, of which the
# first has few digits, so that k times it is exact. What is below the smallest normal number is 0.
SMALLEST_EXPONENT, LOWEST_K = np.float32(-87.336544), np.float32(-126)
LOG2_OF_E = np.float32(1.44269504)
# Rounds what it is added to: the whole number is then in the last bits of the sum.
SHIFT = np.float32(1.5 * 2**23)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
LN2 = np.float32(np.log(2))
LOG2_OF_ZERO = np.float32(-1e30)
SMALLEST_NORMAL = np.finfo(np.float32).tiny
SMALLEST_TO_SQUARE = np.sqrt(SMALLEST_NORMAL)
THIRTY_TWO, TWO_TO_32 = np.float32(32), np.float32(2.0**32)
# (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, to 1e-8, and ln(1 + e) / e about e = 1/2, to 3e-8: the
# polynomials with the smallest largest error, fitted in float64.
EXP = [np.float32(c) for c in (0.5, 0.16666578, 0.041666854, 0.0083631463, 0.0013901284)]
E0, E1, E2, E3, E4 = EXP
LOG = [0.81093019, -0.28852665, 0.13260908, -0.067711450, 0.036633853, -0.020228246, 0.011586511]
L0, L1, L2, L3, L4, L5, L6, L7, L8 = map(np.float32, [*LOG, -0.0085744625, 0.0052326252])


@intrinsic
def select(typing: Any, condition: Any, first: Any, second: Any) -> Any:
    """One of two numbers without a jump: a jump would keep the loop from being vectorised."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(*arguments)

    return float32(boolean, float32, float32), generate


def llvm_function(name: str) -> Callable:
    """One of LLVM's own functions of a float32."""

    @intrinsic
    def function(typing: Any, z: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.call(builder.module.declare_intrinsic(name, [FLOAT]), arguments)

        return float32(float32), generate

    return function


floor, absolute = llvm_function("llvm.floor"), llvm_function("llvm.fabs")


@intrinsic
def power_of_two(typing: Any, shifted: Any) -> Any:
    """2^k for the whole number k from -126 to 127 whose sum with SHIFT this is."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        exponent = builder.shl(builder.bitcast(arguments[0], BITS), BITS(23))
        return builder.bitcast(builder.add(exponent, BITS(127 << 23)), FLOAT)

    return float32(float32), generate


@intrinsic
def exponent(typing: Any, z: Any) -> Any:
    """k of 2^k (1 + f), 0 <= f < 1, of a normal z, as a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], BITS)
        biased = builder.and_(builder.lshr(bits, BITS(23)), BITS(255))
        return builder.sitofp(builder.sub(biased, BITS(127)), FLOAT)

    return float32(float32), generate


@intrinsic
def mantissa(typing: Any, z: Any) -> Any:
    """1 + f of 2^k (1 + f), 0 <= f < 1, of a normal z."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.and_(builder.bitcast(arguments[0], BITS), BITS(0x7FFFFF))
        return builder.bitcast(builder.or_(bits, BITS(0x3F800000)), FLOAT)

    return float32(float32), generate


@intrinsic
def in_order(typing: Any, z: Any) -> Any:
    """A whole number for each float32, in the same order: LLVM vectorises their maximum."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], BITS)
        mask = builder.lshr(builder.ashr(bits, BITS(31)), BITS(1))
        return builder.xor(bits, mask)

    return int32(float32), generate


@intrinsic
def in_order_reversed(typing: Any, number: Any) -> Any:
    """The float32 of which `in_order` makes this number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        mask = builder.lshr(builder.ashr(arguments[0], BITS(31)), BITS(1))
        return builder.bitcast(builder.xor(arguments[0], mask), FLOAT)

    return float32(int32), generate


@intrinsic
def sum_in_any_order(typing: Any, total: Any, value: Any) -> Any:
    """An addition that LLVM may reorder, as it must to vectorise a sum. No other operation may."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fadd(*arguments, flags=("reassoc", "nsz", "contract"))

    return total(total, value), generate


@intrinsic
def add_in_32_bits(typing: Any, total: Any, number: Any) -> Any:
    """A sum of bits that wraps around: Numba itself would add in 64 bits, half as fast."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.add(arguments[0], builder.bitcast(arguments[1], BITS))

    return int32(int32, float32), generate


OPTIONS = {
    # Only what cannot change a result's digits by more than rounding once instead of twice.
    "fastmath": {"contract", "nsz"},
    "nogil": True,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,
}


class Inliner(Compiler):
    """Numba's compiler for functions that LLVM makes part of their callers, however long.

    Numba can do that itself, with inline="always", but compiles the copies as long as originals.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.state.flags.forceinline = True


# Only Python needs the wrapper that unpacks arguments, and it takes time to compile.
INNER = {**OPTIONS, "no_cpython_wrapper": True}
INLINED = {**INNER, "pipeline_class": Inliner}
inlined = numba.njit(**INLINED)


@inlined
def tally(count: Any, condition: Any) -> Any:
    # Whole numbers would take an instruction more.
    return sum_in_any_order(count, select(condition, ONE, ZERO))


@inlined
def exp(z: Any) -> Any:
    shifted = z * LOG2_OF_E + SHIFT
    k = shifted - SHIFT
    return select(z < SMALLEST_EXPONENT, ZERO, scaled_exp(shifted, z - k * LN2_HIGH - k * LN2_LOW))


@inlined
def exp_of_sum(z: Any, tail: Any) -> Any:
    shifted = (z + tail) * LOG2_OF_E + SHIFT
    k = shifted - SHIFT
    r = z - k * LN2_HIGH - k * LN2_LOW + tail
    return select(z + tail < SMALLEST_EXPONENT, ZERO, scaled_exp(shifted, r))


@inlined
def scaled_exp(shifted: Any, r: Any) -> Any:
    """2^k e^r, for the sum of k and SHIFT."""
    square = r * r
    polynomial = (E0 + E1 * r) + square * ((E2 + E3 * r) + square * E4)
    scale = power_of_two(shifted)
    return scale + scale * (r + square * polynomial)


@inlined
def log1p(e: Any) -> Any:
    u = e - HALF
    square = u * u
    fourth = square * square
    low = L0 + (L1 * u + square * (L2 + L3 * u))
    high = (L4 + L5 * u) + square * (L6 + L7 * u) + fourth * L8
    return e * (low + fourth * high)


@inlined
def parts_of(z: Any) -> Any:
    """k and f with z = 2^k (1 + f) for a positive z, 0 <= f < 1; denormal ones are scaled first."""
    is_small = z < SMALLEST_NORMAL
    normal = select(is_small, z * TWO_TO_32, z)
    return exponent(normal) - select(is_small, THIRTY_TWO, ZERO), mantissa(normal) - ONE


@inlined
def log(z: Any) -> Any:
    k, f = parts_of(z)
    return k * LN2 + log1p(f)


@inlined
def power(base: Any, exponent: Any) -> Any:
    k, f = parts_of(base)
    # 2^(exponent k) 2^(exponent log2(1 + f)): the first of these exponents may be large, and is
    # exact for an exponent of few digits; what it loses would be the first digits of the result.
    first = exponent * select(base == ZERO, LOG2_OF_ZERO, k)
    second = exponent * (log1p(f) * LOG2_OF_E)
    shifted = first + second + SHIFT
    r = (first - (shifted - SHIFT) + second) * LN2
    return select(first + second < LOWEST_K, ZERO, scaled_exp(shifted, r))


@inlined
def square(z: Any) -> Any:
    # A denormal product would take many times as long as another one.
    return select(z < SMALLEST_TO_SQUARE, ZERO, z) * z


@inlined
def maximum(first: Any, second: Any) -> Any:
    return select(first > second, first, second)


@inlined
def minimum(first: Any, second: Any) -> Any:
    return select(first < second, first, second)


# The forms that functions have in compiled code.
COMPILED: Dict[Callable, Any] = {
    elementary.exp: exp,
    elementary.exp_of_sum: exp_of_sum,
    elementary.log1p: log1p,
    elementary.log: log,
    elementary.power: power,
    elementary.square: square,
    elementary.floor: floor,
    elementary.where: select,
    elementary.absolute: absolute,
    elementary.maximum: maximum,
    elementary.minimum: minimum,
    rows.add: sum_in_any_order,
    rows.tally: tally,
    rows.add_bits: add_in_32_bits,
    rows.order: in_order,
    rows.from_order: in_order_reversed,
}


@functools.lru_cache(maxsize=None)
def fingerprint() -> str:
    """A hash of all that a compiled loop is made of.

    Numba's cache looks at the file of a loop and not at those of the formulas in it; with the hash
    in its name a loop is compiled anew when any of them has changed.
    """
    package = Path(elementary.__file__).parent
    modules = ("elementary", "formulas", "weights")
    sources = [*(package / f"{name}.py" for name in modules), *package.glob("loops/*.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:16]


def compiled(function: Callable, owner: str = "", **names: Any) -> Any:
    """A function with all that it calls, and with other values for some of its module's names.

    What uses none of these names is compiled once for all owners. The others have their owner's
    name in their own: Numba tells functions of one name apart by a number that it counts anew in
    each process, so that those of two loops that two processes have cached would else be taken for
    each other.
    """
    if function in COMPILED:
        return COMPILED[function]
    return (
        compiled_for(function, owner, **names) if uses(function, names) else compiled_for(function)
    )


def uses(function: Callable, names: Iterable[str]) -> bool:
    """Whether a function uses one of these names, or one that it calls does."""
    if function in COMPILED:
        return False
    is_direct = any(name in names for name in function.__code__.co_names)
    return is_direct or any(uses(called, names) for called in calls(function).values())


def calls(function: Callable) -> Dict[str, Callable]:
    """The functions that one calls."""
    used = ((name, function.__globals__.get(name)) for name in function.__code__.co_names)
    return {name: value for name, value in used if isinstance(value, types.FunctionType)}


@functools.lru_cache(maxsize=None)
def compiled_for(function: Callable, owner: str = "", **names: Any) -> Any:
    """The same, for those who use the names.

    Functions of loops stay functions, which LLVM vectorises one by one; formulas and the like
    become part of those that call them.
    """
    is_of_loops = function.__module__.startswith("caffe_losses.loops.")
    options = INNER if is_of_loops else INLINED
    name = f"{function.__name__}_of_{owner or fingerprint()}"
    return numba.njit(**options)(linked(function, name, owner, **names))


def linked(function: Callable, name: str, owner: str, **names: Any) -> Callable:
    """A copy of a function, of another name, that calls compiled functions."""
    called = {used: compiled(value, owner, **names) for used, value in calls(function).items()}
    values = {**function.__globals__, **called, **names}
    copy = types.FunctionType(function.__code__, values, function.__name__)
    copy.__qualname__ = name
    copy.__module__ = function.__module__
    return copy


def loop(function: Callable, name: str, example: Tuple[Any, ...], **names: Any) -> Any:
    """A loop compiled for arguments like those of the example, cached on disk where possible."""
    loop_name = f"{function.__name__}_{name}_{fingerprint()}"
    source = linked(function, loop_name, loop_name, **names)
    types_of_arguments = tuple(map(numba.typeof, example))
    try:
        cached = numba.njit(cache=True, **OPTIONS)(source)
        cached.compile(types_of_arguments)
        return cached
    except Exception:  # no folder for a cache, or one that cannot be read or written
        uncached = numba.njit(**OPTIONS)(source)
        uncached.compile(types_of_arguments)
        return uncached
