"""What check_labels costs: forward with "always" against "never", in turns, medians.

Labels are soft ones: those of 0 and 1 are recognised in any case, and need no other check.
CPU time of all threads, so that what else the machine does counts for little.

tools/with-caffe python3 benchmarks/label_check.py
"""

import json
import os
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tests")]

from support.nets import loss_net, python_layer  # noqa: E402

SHAPE = (10, 1, 512, 512)
ROUNDS = 101
LAYERS = [
    ("pylayerUtils", "WeightedSigmoidCrossEntropyLossLayer", {}),
    ("sigmoid_ce_weight_layer", "SigmoidCrossEntropyWeightLossLayer", {"cls_weight": 10}),
]


def main():
    random = np.random.RandomState(0)
    score = random.randn(*SHAPE).astype(np.float32)
    inputs = {"score": score, "label": random.rand(*SHAPE).astype(np.float32)}
    print(f"forward of {SHAPE}, medians of {ROUNDS} turns")
    for module, layer, parameters in LAYERS:
        nets = {}
        for checks in ("always", "never"):
            text = json.dumps({**parameters, "check_labels": checks})
            nets[checks] = loss_net(
                python_layer(module, layer, list(inputs), text, loss_weight=1), inputs
            )
        times = {checks: [] for checks in nets}
        for _ in range(ROUNDS):
            for checks, net in nets.items():
                start = time.process_time()
                net.forward()
                times[checks].append(time.process_time() - start)
        always, never = (np.array(times[checks]) for checks in ("always", "never"))
        print(
            f"{layer}: always {np.median(always) * 1e3:.1f} ms, never {np.median(never) * 1e3:.1f} "
            f"ms, the check {100 * np.median(always / never - 1):.0f} %"
        )


if __name__ == "__main__":
    main()
