"""Which engine runs the loops: Numba where it is installed, NumPy elsewhere."""

import os
import warnings
from typing import Callable, Optional, TypeVar

import numpy as np

VARIABLE = "CAFFE_LOSSES_ENGINE"
Loop = TypeVar("Loop")

_name: Optional[str] = None


def name() -> str:
    """ "numba" or "numpy": what the environment says, or Numba where it can be imported."""
    global _name
    if _name is None:
        _name = wanted()
        if _name == "numba":
            import_numba()
        else:
            keep_freed_memory()
    return _name


def wanted() -> str:
    """What the environment says, Numba where it says nothing."""
    value = os.environ.get(VARIABLE) or "numba"
    if value not in ("numba", "numpy"):
        raise ValueError(
            f'{VARIABLE} is "{value}"; expected "numba" or "numpy"; unset it to use Numba where it '
            f"is installed"
        )
    return value


def import_numba() -> None:
    try:
        import numba  # noqa: F401
    except Exception as error:  # whatever a broken installation raises
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == "numba"
        fall_back("import", error, silently=is_missing and not os.environ.get(VARIABLE))


def keep_freed_memory() -> None:
    """Makes the C library keep the memory of NumPy's temporaries for the next ones.

    glibc would give it back after each block, and fresh pages take longer than what is computed in
    them. It keeps as much as the largest array was that it has seen freed.
    """
    np.empty(4 * 2**20, np.uint8)  # freed at once


def fall_back(step: str, error: Exception, silently: bool = False) -> None:
    """Lets NumPy run all loops from now on."""
    global _name
    _name = "numpy"
    keep_freed_memory()
    if not silently:
        reason = (str(error).strip() or "no message").splitlines()[0]
        warnings.warn(
            f"caffe_losses: Numba fails to {step} ({type(error).__name__}: {reason}), so "
            f"the losses run on NumPy, several times as slow; {VARIABLE}=numpy chooses that "
            f"without a warning",
            RuntimeWarning,
            stacklevel=2,
        )


def loop(compiled: Callable[[], Loop], plain: Loop) -> Loop:
    """The loop that the engine runs: what `compiled` makes with Numba, or the plain one."""
    if name() == "numba":
        try:
            return compiled()
        except Exception as error:  # of the many kinds that Numba and LLVM raise
            fall_back("compile", error)
    return plain
