"""What a check found, as a table, as JSON and as an exit status."""

import collections
import json
from typing import Dict, List, NamedTuple, Optional, Tuple

OK, WRONG, CANNOT_TELL, SKIPPED = "ok", "WRONG", "cannot tell", "skipped"


class Row(NamedTuple):
    """One bottom or parameter blob of one layer."""

    layer: str
    blob: str
    shape: Tuple[int, ...]
    verdict: str
    findings: List[str] = []  # what is wrong, or why there is no check
    is_label: bool = False  # whose gradient must be zero
    checked: int = 0  # elements, one by one
    directions: int = 0  # random ones, through all elements
    # Where analytic and numeric differ most for their size:
    error: Optional[float] = None
    where: Optional[Tuple[int, ...]] = None
    analytic: Optional[float] = None
    numeric: Optional[float] = None
    noise: Optional[float] = None  # the bound on the error of the numeric value


class Report:
    """The rows of a check. `str(report)` is the table with the findings below it."""

    def __init__(self, rows: List[Row]) -> None:
        self.rows = rows

    @property
    def passed(self) -> bool:
        return self.exit_status == 0

    @property
    def exit_status(self) -> int:
        verdicts = [row.verdict for row in self.rows]
        return 1 if WRONG in verdicts else 2 if CANNOT_TELL in verdicts else 0

    def to_json(self) -> str:
        rows = [dict(row._asdict()) for row in self.rows]
        return json.dumps({"passed": self.passed, "rows": rows}, indent=2, allow_nan=False)

    def __str__(self) -> str:
        table = [row_cells(row) for row in self.rows]
        cells = [[*table[0]], *([*row.values()] for row in table)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        for row in self.rows:
            lines += [f"{row.layer}, {row.blob}: {finding}" for finding in row.findings]
        counts = collections.Counter(row.verdict for row in self.rows)
        lines.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
        return "\n".join(lines)


def row_cells(row: Row) -> Dict[str, str]:
    count = str(row.checked) if row.checked else "label" if row.is_label else "-"
    return {
        "layer": row.layer,
        "blob": row.blob,
        "shape": "x".join(map(str, row.shape)) or "-",
        "checked": f"{count} + {row.directions} dir" if row.directions else count,
        "error": number(row.error, ".1e"),
        "at": ",".join(map(str, row.where or ())) or "-",
        "analytic": number(row.analytic, ".6g"),
        "numeric": number(row.numeric, ".6g"),
        "noise": number(row.noise, ".1e"),
        "verdict": row.verdict,
    }


def number(value: Optional[float], form: str) -> str:
    return "-" if value is None else format(value, form)
