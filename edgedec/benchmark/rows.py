"""The rows of a benchmark: as records, as CSV, and the means that may be claimed of them.

Knows nothing about how they were measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from edgedec.benchmark import pairs

SCHEMA = 1
PLAIN = "plain"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One strategy on one workload with one runtime; rates are in tokens per second.

    `speedup` is the median over `pairs` of the ratio to plain decoding within a pair, from
    `speedup_low` to `speedup_high` its 95 % interval, and `ratios` are those of the pairs.
    `acceptance` is accepted over checked draft tokens, None where none was checked; `depths` counts
    by depth the turns in which a draft token could be accepted, and those in which one was.
    `ran` is what drafted: `plain` where nothing that was proposed was worth checking. Times are
    None where a device is simulated; memory is None where it was not measured. `replayed` is the
    shape whose times these are. `draft_share` is the part of an answer's time that drafting took,
    steps that check not counted; `part_parameters` and `part_bytes` are those of the trained parts
    that draft.
    """

    model: str
    runtime: str
    device: str
    strategy: str
    workload: str
    new_tokens: int
    tokens_per_second: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    pairs: int
    tokens_per_pass: float | None
    acceptance: float | None
    time_to_first_token_ms: float | None
    peak_rss_mb: float | None
    distinct4: float | None
    identical: bool
    near_ties: int
    lossy: bool
    simulated: bool
    replayed: str | None
    forced: bool
    ran: str
    ratios: tuple[float, ...]
    depths: tuple[tuple[int, int], ...]
    draft_share: float | None
    part_parameters: int
    part_bytes: int

    @property
    def repeats(self) -> bool:
        """Whether its text repeats itself, so that nothing may be claimed of it."""
        return self.distinct4 is not None and self.distinct4 < pairs.REPEATS


class Mean(msgspec.Struct, frozen=True, kw_only=True):
    """A strategy over all workloads of a runtime: the mean of the medians, with its interval.

    `left_out` are the workloads that repeat themselves. Forced rows are in no mean.
    """

    runtime: str
    strategy: str
    speedup: float
    speedup_low: float
    speedup_high: float
    workloads: tuple[str, ...]
    left_out: tuple[str, ...]


def means(rows: Sequence[Row], seed: int = 0) -> list[Mean]:
    """The mean of each strategy that was measured on more than one workload."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.strategy != PLAIN and row.ratios and not row.forced:
            groups.setdefault((row.runtime, row.strategy), []).append(row)
    found = []
    for (runtime, strategy), group in groups.items():
        fit = [row for row in group if not row.repeats]
        interval = pairs.mean_of_medians([row.ratios for row in fit], seed)
        if len(fit) > 1 and interval is not None:
            found.append(
                Mean(
                    runtime=runtime,
                    strategy=strategy,
                    speedup=round(interval.median, 4),
                    speedup_low=round(interval.low, 4),
                    speedup_high=round(interval.high, 4),
                    workloads=tuple(row.workload for row in fit),
                    left_out=tuple(row.workload for row in group if row.repeats),
                )
            )
    return found


def document(rows: Sequence[Row], about: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The JSON document: what was measured where, the rows, and the means."""
    return {
        "schema": SCHEMA,
        **about,
        "rows": msgspec.to_builtins(rows),
        "means": msgspec.to_builtins(means(rows, seed)),
    }


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV with a header; lists within a cell are parted by blanks."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(Row.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in Row.__struct_fields__])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return " ".join("/".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return value
