"""What a benchmark finds: tables of figures, and claims that the figures keep or break."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Figures that belong together.

    Args:
        title: What was measured.
        note: How, in a sentence or two.
        rows: One mapping a row, column name to text, number, or None where nothing was measured. All rows have the
            first row's columns; the first column names the row.
    """

    title: str
    note: str
    rows: Sequence[Row]

    def cells(self) -> list[list[str]]:
        """Return head and rows as text, numbers with three significant digits."""
        head = list(self.rows[0])
        return [head, *([_text(row[column]) for column in head] for row in self.rows)]


@dataclass(frozen=True)
class Claim:
    """A figure that was promised, and the one that was measured.

    Args:
        text: What is claimed, the limit apart.
        measured: The figure; nan, which keeps no promise, where it could not be measured.
        limit: What was promised.
        at_most: Whether the limit is the greatest figure that keeps the promise, or the least.
        unit: Of both figures.
    """

    text: str
    measured: float
    limit: float
    at_most: bool = True
    unit: str = "×"

    @property
    def holds(self) -> bool:
        """Whether the promise is kept."""
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        verdict = "holds" if self.holds else "does not hold"
        found, limit = (f"{_text(figure)} {self.unit}" for figure in (self.measured, float(self.limit)))
        return f"{verdict}: {self.text}: {found}, claimed {side} {limit}"


@dataclass(frozen=True)
class Result:
    """One benchmark's tables and claims."""

    name: str
    tables: Sequence[Table]
    claims: Sequence[Claim]

    def text(self) -> str:
        """Lay the result out for a terminal."""
        parts = [f"{table.title}\n{table.note}\n{_columns(table.cells())}" for table in self.tables]
        return "\n\n".join([*parts, "\n".join(map(str, self.claims))]).strip()

    def markdown(self) -> str:
        """Lay the result out as a section of a page."""
        parts = []
        for table in self.tables:
            head, *rows = (f"| {' | '.join(cells)} |" for cells in table.cells())
            rule = f"| :-- |{' --: |' * (len(table.rows[0]) - 1)}"
            parts.append("\n".join([f"## {table.title}", "", table.note, "", head, rule, *rows]))
        if self.claims:
            parts.append("\n".join(f"- {claim}" for claim in self.claims))
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-safe values, the verdicts included; what is not finite becomes null."""
        claims = [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in self.claims]
        content = {"name": self.name, "tables": [dataclasses.asdict(table) for table in self.tables], "claims": claims}
        return _finite(content)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    made = [
        "  ".join([f"{line[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([made[0], "─" * len(made[0]), *made[1:]])


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
