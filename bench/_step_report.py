"""What `native_step.py` found: tables for people, and whether our numbers were met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _turns import Found, Ratio, ratio

if TYPE_CHECKING:
    from native_step import Cases
    from rich.table import Table

PEER, MACHINE = "llama.cpp", "machine"


@dataclass(frozen=True)
class Measured:
    """All that was found for a shape."""

    shape: str
    cases: Cases
    found: Found
    about: dict[str, dict[str, Any]]
    memory: dict[str, float] | None

    @property
    def ours(self) -> list[str]:
        """The contestants of ours that keep keys and values as the runtime does by default."""
        others = (*self.peers, MACHINE)
        return [name for name in self.about if name not in others and not name.endswith(" int8")]

    @property
    def peers(self) -> list[str]:
        return [name for name in self.about if name.startswith(PEER)]

    def floor_ms(self, rows: int) -> float:
        """The weights read once, every row multiplied with them in 8 bit."""
        cases, found = self.cases, self.found
        dots = found[MACHINE, cases.int8.key].median * rows / 8
        return max(found[MACHINE, cases.read.key].median, dots)


@dataclass(frozen=True)
class Verdict:
    """One number that was promised: at most, or at least, `limit`."""

    who: str
    what: str
    limit: float
    at_most: bool
    measured: Ratio

    @property
    def met(self) -> bool:
        value = self.measured.median
        return value <= self.limit if self.at_most else value >= self.limit


def verdicts(measured: Measured) -> list[Verdict]:
    """Every number of the list that applies to the shape, by contestant."""
    return [verdict for who in measured.ours for verdict in _verdicts(measured, who)]


def _verdicts(measured: Measured, who: str) -> Iterator[Verdict]:
    found, cases = measured.found, measured.cases
    steps = {case.rows: case.key for case in cases.steps}

    def verdict(
        what: str, limit: float, at_most: bool, above: tuple[str, str], below: tuple[str, str]
    ) -> Iterator[Verdict]:
        value = ratio(found, above, below)
        if value is not None:
            yield Verdict(who, what, limit, at_most, value)

    for rows, limit in ((4, 1.25), (8, 1.6), (8, 1.4), (16, 2.9), (16, 2.6)):
        stretch = ", stretch" if (rows, limit) in ((8, 1.4), (16, 2.6)) else ""
        name = f"T({rows}) / T(1){stretch}"
        yield from verdict(name, limit, True, (who, steps[rows]), (who, steps[1]))
    if measured.shape == "1b":
        name = "reading the weights / T(1)"
        yield from verdict(name, 0.85, False, (MACHINE, cases.read.key), (who, steps[1]))
    for peer in measured.peers:
        for rows, limit in ((1, 0.75), (8, 0.25)) if measured.shape == "135m" else ():
            name = f"T({rows}) / that of {peer}"
            yield from verdict(name, limit, True, (who, steps[rows]), (peer, steps[rows]))
        for case in cases.prefills:
            name = f"prefill of {peer} / ours, chunks of {case.chunk}"
            there = peer, cases.peer_prefill.key
            yield from verdict(name, 2.0, False, there, (who, case.key))
    limit = MACHINE, cases.fp32.key
    name = "fp32 peak's time / T(8) added by past"
    yield from verdict(name, 0.6, False, limit, (who, "added"))
    eight = f"{who} int8"
    name = "added by past: 8-bit / fp16"
    yield from verdict(name, 0.5, True, (eight, "added"), (who, "added"))
    # The same, but half of the time that fp16 may take.
    name = "added by past: 8-bit / fp32 peak's time"
    yield from verdict(name, 0.5 / 0.6, True, (eight, "added"), limit)


# --- for people ----------------------------------------------------------------------------------


def show(measured: Measured) -> None:
    from rich.console import Console

    console = Console(width=150)
    console.print(_steps(measured))
    console.print(_rest(measured))
    console.print(_verdict_table(measured))
    if measured.memory:
        console.print(
            "memory: {imported_mb:.0f} MB with the libraries, {loaded_mb:.0f} loaded, "
            "{peak_mb:.0f} at the peak of generating 64 tokens (weights {weights_mb:.0f}, keys and "
            "values {keys_and_values_mb:.1f}, allowed {allowed_mb:.0f})".format(**measured.memory)
        )
    for name, about in measured.about.items():
        console.print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in about.items()), style="dim")


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _steps(measured: Measured) -> Table:
    steps = measured.cases.steps
    title = f"{measured.shape}, step in ms (10-90 %), {steps[0].past} of past"
    table = _table(title, "", *(str(case.rows) for case in steps))
    for name in (*measured.ours, *measured.peers):
        table.add_row(name, *(_time(measured.found, name, case.key) for case in steps))
        shares = (ratio(measured.found, (name, c.key), (name, steps[0].key)) for c in steps)
        table.add_row("  / its T(1)", *map(str, shares))
        for peer in measured.peers if name in measured.ours else ():
            shares = (ratio(measured.found, (name, c.key), (peer, c.key)) for c in steps)
            table.add_row(f"  / {peer}", *map(str, shares))
    table.add_row("floor", *(f"{measured.floor_ms(case.rows):.2f}" for case in steps))
    return table


def _rest(measured: Measured) -> Table:
    cases, found = measured.cases, measured.found
    prefills = {case.key: case for case in (*cases.prefills, cases.peer_prefill)}
    title = f"{measured.shape}, ms (10-90 %)"
    names = [f"prefill {c.rows}, chunks {c.chunk}" for c in prefills.values()]
    short, long = (f"T(8) at {case.past}" for case in (cases.short, cases.long))
    table = _table(title, "", *names, short, long, "added")
    keys = (*prefills, cases.short.key, cases.long.key, "added")
    for name in measured.about:
        if name != MACHINE:
            table.add_row(name, *(_time(found, name, key) for key in keys))
    floor = _time(found, MACHINE, cases.fp32.key)
    empty = [""] * (len(prefills) + 2)
    table.add_row("floor (fp32 multiply-adds)", *empty, floor)
    return table


def _time(found: Found, name: str, key: str) -> str:
    entry = found.get((name, key))
    if entry is None:
        return ""
    low, high = entry.spread()
    digits = 2 if entry.median < 10 else 1 if entry.median < 100 else 0
    return f"{entry.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _verdict_table(measured: Measured) -> Table:
    table = _table(f"{measured.shape}, what was promised", "", "number", "limit", "measured", "met")
    for found in verdicts(measured):
        limit = f"{'at most' if found.at_most else 'at least'} {found.limit:.2f}"
        table.add_row(
            found.who, found.what, limit, str(found.measured), "yes" if found.met else "no"
        )
    cases, machine = measured.cases, measured.found
    reading = machine[MACHINE, cases.read.key]
    fastest = cases.bytes / 1e6 / min(reading.rounds.values())
    middle = cases.bytes / 1e6 / reading.median
    products = cases.attention / 1e6 / machine[MACHINE, cases.fp32.key].median
    table.caption = (
        f"{cases.bytes / 2**20:.0f} MiB of weights read at {middle:.1f} GB/s ({fastest:.1f} at "
        f"best); fp32 peak {products:.0f} GMAC/s"
    )
    return table
