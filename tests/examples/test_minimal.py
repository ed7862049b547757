"""The shortest example, which the README shows."""

import re
import sys

from support.processes import ROOT, run

MINIMAL = ROOT / "examples" / "minimal.py"


def test_it_learns_and_its_gradients_are_right(tmp_path):
    done = run([sys.executable, str(MINIMAL)], tmp_path)
    assert done.returncode == 0, done.stderr
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", done.stdout)]
    assert len(losses) == 20
    assert losses[-1] < 0.7 * losses[0]
    assert re.search(r"(?m)^loss +score .* ok$", done.stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_the_readme_shows_it_and_it_is_short():
    code = MINIMAL.read_text(encoding="utf-8")
    assert f"```python\n{code}```\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 30
