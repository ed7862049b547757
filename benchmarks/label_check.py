"""What check_labels costs: forward with "always" against "never", in turns, medians.

Labels are soft ones: those of 0 and 1 are recognised in any case, and need no other check.
CPU time of all threads, so that what else the machine does counts for little.

tools/with-caffe python3 benchmarks/label_check.py
"""

import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

from support.draws import soft  # noqa: E402
from support.layers import LAYERS, draw, layer_of, row_with  # noqa: E402
from support.nets import loss_net  # noqa: E402

SHAPE = (10, 1, 512, 512)
ROUNDS = 101
LABELLED = [layer for layer in LAYERS if "check_labels" in layer.parameters]


def main():
    print(f"forward of {SHAPE}, medians of {ROUNDS} turns")
    for layer in LABELLED:
        nets = {}
        for checks in ("always", "never"):
            row = row_with(layer, {"label": soft}, optional=False, check_labels=checks)
            nets[checks] = loss_net(layer_of(row), draw(row, SHAPE))
        times = {checks: [] for checks in nets}
        for _ in range(ROUNDS):
            for checks, net in nets.items():
                start = time.process_time()
                net.forward()
                times[checks].append(time.process_time() - start)
        always, never = (np.array(times[checks]) for checks in ("always", "never"))
        with_check, without = np.median(always) * 1e3, np.median(never) * 1e3
        print(
            f"{layer.name}: always {with_check:.1f} ms, never {without:.1f} ms, "
            f"the check {100 * np.median(always / never - 1):.0f} %"
        )


if __name__ == "__main__":
    main()
