"""How long a new process takes from the import to its first loss: with NumPy, and with Numba when
its loops are in the cache and when they never were compiled.

    tools/with-caffe python3 benchmarks/start_up.py
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRST_LOSS = """
import numpy
from caffe_losses import losses
losses.balanced_cross_entropy(numpy.zeros((1, 1, 8, 8)), numpy.eye(8).reshape(1, 1, 8, 8))
"""


def seconds(engine: str, cache: str) -> float:
    """The time of a process that computes a loss and ends."""
    variables = {"CAFFE_LOSSES_ENGINE": engine, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": ROOT}
    start = time.perf_counter()
    subprocess.check_call([sys.executable, "-c", FIRST_LOSS], env={**os.environ, **variables})
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = range(parser.parse_args().rounds)
    with tempfile.TemporaryDirectory() as warm:
        seconds("numba", warm)
        rows = {"numpy": [], "numba, cached": [], "numba, never compiled": []}
        for _ in rounds:
            rows["numpy"].append(seconds("numpy", warm))
            rows["numba, cached"].append(seconds("numba", warm))
            with tempfile.TemporaryDirectory() as cold:
                rows["numba, never compiled"].append(seconds("numba", cold))
    numpy = statistics.median(rows["numpy"])
    for name, times in rows.items():
        median = statistics.median(times)
        print(f"{name}: {median:.2f} s, {median - numpy:.2f} s more than with NumPy")


if __name__ == "__main__":
    main()
