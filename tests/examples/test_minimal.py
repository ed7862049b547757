"""The shortest example, which the README shows."""

import re
import sys

from support.processes import ROOT, run


def test_it_learns_and_its_gradients_are_right(tmp_path):
    done = run([sys.executable, str(ROOT / "examples" / "minimal.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]
    assert done.stdout.endswith("its gradient is right\n")
    assert (tmp_path / "build" / "minimal" / "net.prototxt").exists()
