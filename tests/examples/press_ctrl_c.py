"""Runs a script in which Ctrl-C is pressed after the third step of a progress bar.

press_ctrl_c.py SCRIPT [ARGUMENT...]
"""

import os
import runpy
import signal
import sys

import tqdm


class Bar(tqdm.tqdm):
    """tqdm's progress bar."""

    def update(self, n: float = 1) -> None:
        super().update(n)
        if self.n == 3:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    # As where the tests run in the background, in which a shell lets its commands ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tqdm.tqdm = Bar
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
