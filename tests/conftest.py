"""Lets plain `pytest-3` find the checkout, from any folder; tests/ it puts on the path itself."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
