"""The shortest example; what it prints is compared with the README by tests/documents."""

from support.processes import ROOT


def test_the_readme_shows_it_and_it_has_thirty_lines():
    code = (ROOT / "examples" / "minimal.py").read_text(encoding="utf-8")
    assert f"```python\n{code}```\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 30
