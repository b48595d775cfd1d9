"""The rows as a table of texts, for a terminal. It prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgedec.benchmark.rows import PLAIN, Mean, Row, means

HEADER = ("workload", "strategy", "tok/s", "speed-up", "95 %", "per pass", "right", "drafting",
          "extra", "first ms", "peak MB", "distinct-4", "")  # fmt: skip
_RIGHT = range(2, 12)
"""Columns of numbers, which end at the same place."""


@dataclass(frozen=True, slots=True)
class Table:
    """What was measured with one runtime."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def tables(rows: Sequence[Row], seed: int = 0) -> Iterator[Table]:
    """A table for each runtime, in the order of the rows."""
    averages = means(rows, seed)
    for runtime in dict.fromkeys(row.runtime for row in rows):
        group = [row for row in rows if row.runtime == runtime]
        lines = list(_lines(group))
        lines += [_mean(mean) for mean in averages if mean.runtime == runtime]
        widths = [max(len(line[i]) for line in (HEADER, *lines)) for i in range(len(HEADER))]
        header, *found = (_aligned(line, widths) for line in (HEADER, *lines))
        yield Table(title(group[0]), header, tuple(found))


def title(row: Row) -> str:
    """What ran where."""
    times = f", times of the shape {row.replayed}" if row.replayed else ""
    pretends = ", simulated: no speed" if row.simulated else ""
    return f"{row.model} · {row.runtime} on {row.device}{times}{pretends}"


def marks(row: Row) -> list[str]:
    """What must be known of a row besides its numbers."""
    found = []
    if row.repeats:
        found.append("repeats itself")
    if row.lossy:
        found.append("lossy")
    if not row.identical:
        found.append("other words")
    if row.near_ties:
        found.append(f"{row.near_ties} near tie{'' if row.near_ties == 1 else 's'}")
    if row.forced:
        found.append("forced")
    if row.strategy != PLAIN and row.ran == PLAIN:
        found.append("nothing drafted")
    return found


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    before = None
    for row in rows:
        yield (
            "" if row.workload == before else row.workload,
            row.strategy,
            number(row.tokens_per_second, 0),
            number(row.speedup, 2),
            spread(row),
            number(row.tokens_per_pass, 2),
            share(row.acceptance),
            share(row.draft_share),
            size(row.part_parameters),
            number(row.time_to_first_token_ms, 1),
            number(row.peak_rss_mb, 0),
            number(row.distinct4, 2),
            ", ".join(marks(row)),
        )
        before = row.workload


def spread(row: Row | Mean) -> str:
    """The interval of a speed-up that was measured; empty for the baseline's."""
    low, high = row.speedup_low, row.speedup_high
    return "" if low is None or high is None or low == high else f"{low:.2f}-{high:.2f}"


def number(value: float | None, digits: int) -> str:
    """A number, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """A share as percent, or nothing."""
    return "" if value is None else f"{value:.0%}"


def size(count: int) -> str:
    """A number of parameters, in thousands or millions; nothing for none."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f}{name}"
    return f"{count or ''}"


def _mean(mean: Mean) -> tuple[str, ...]:
    without = f" without {', '.join(mean.left_out)}" if mean.left_out else ""
    note = f"mean of {len(mean.workloads)}{without}"
    cells = ["all workloads", mean.strategy, "", f"{mean.speedup:.2f}", spread(mean)]
    return (*cells, *[""] * (len(HEADER) - len(cells) - 1), note)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> tuple[str, ...]:
    return tuple(
        cell.rjust(width) if column in _RIGHT else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    )


def legend(rows: Sequence[Row]) -> list[str]:
    """What the columns mean, and what the marks do."""
    pairs = [row.pairs for row in rows if row.strategy != PLAIN]
    count = (
        f"{min(pairs)}-{max(pairs)}"
        if pairs and min(pairs) < max(pairs)
        else f"{max(pairs, default=0)}"
    )
    found = [
        f"speed-up: the median over {count} pairs of runs, plain and drafted in turn, and its 95 % "
        "interval. Every pair has prompts of its own, and begins with drafters that remember no "
        "text but the bundle's hot start, if it has one."
    ]
    if any(row.draft_share is not None for row in rows):
        found.append(
            "drafting: the share of the time that guesses took to make, before the model checks "
            "them."
        )
    if any(row.part_parameters for row in rows):
        found.append("extra: parameters that were trained for the strategy.")
    if any(row.repeats for row in rows):
        found.append(
            "repeats itself: of the runs of 4 tokens in a text less than 60 % are different; such "
            "rows are in no mean."
        )
    if any(not row.identical for row in rows):
        found.append(
            "other words: some token is not plain decoding's. That is a lossy strategy, or a "
            "runtime whose rounding depends on the number of rows: all but native."
        )
    if any(row.forced for row in rows):
        found.append("forced: drafts were checked against a given text, in no mean.")
    if any(row.replayed for row in rows):
        found.append("replay: the words are the model's, the times those of random weights.")
    return found
