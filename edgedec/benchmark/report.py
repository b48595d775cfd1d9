"""The rows as one page that needs nothing else: no network, no script, light and dark.

The page is `report.html`, its drawings come from `charts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgedec.benchmark import charts, table
from edgedec.benchmark.rows import PLAIN, Mean, Row

if TYPE_CHECKING:
    from markupsafe import Markup

_COLOURS = 8


@dataclass(frozen=True, slots=True)
class Part:
    """What was measured with one runtime, drawn."""

    title: str
    means: Sequence[Mean]
    lines: tuple[tuple[str, ...], ...]
    speedups: Markup | None
    rates: Markup | None
    memory: Markup | None
    depths: list[tuple[str, Markup]]


def page(document: dict[str, Any]) -> str:
    """The page of a document, as `rows.document` makes it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    rows = msgspec.convert(document["rows"], tuple[Row, ...])
    means = msgspec.convert(document["means"], tuple[Mean, ...])
    drafted = dict.fromkeys(row.strategy for row in rows if row.strategy != PLAIN or row.ratios)
    colours = {name: index % _COLOURS + 1 for index, name in enumerate(drafted)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        about=document,
        colours=colours,
        header=table.HEADER,
        legend=table.legend(rows) if rows else [],
        parts=[
            _part([row for row in rows if row.runtime == runtime], means, colours)
            for runtime in dict.fromkeys(row.runtime for row in rows)
        ],
    )


def _part(rows: list[Row], means: Sequence[Mean], colours: dict[str, int]) -> Part:
    found = next(table.tables(rows))
    timed = any(row.tokens_per_second is not None for row in rows)
    weighed = any(row.peak_rss_mb is not None for row in rows)
    return Part(
        title=found.title,
        means=[mean for mean in means if mean.runtime == rows[0].runtime],
        lines=tuple(tuple(cell.strip() for cell in line) for line in found.lines),
        speedups=charts.speedups(rows, colours) if any(row.ratios for row in rows) else None,
        rates=charts.rates(rows, colours) if timed else None,
        memory=charts.memory(rows, colours) if weighed else None,
        depths=charts.depths(rows, colours),
    )
