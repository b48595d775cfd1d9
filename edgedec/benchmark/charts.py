"""Drawings of rows as SVG that stands in a page: colours come from the page's style sheet.

Each drawing is as wide as the page lets it be; lengths are in units of its view box.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from edgedec.benchmark.rows import PLAIN, Row

WIDTH = 960
TIMES = "\u00d7"
_LEFT, _RIGHT, _TOP, _LINE = 240, 96, 34, 24
_GAP = 12
_DEEPEST = 16
_FEWEST = 8
"""Turns below which a share says nothing."""


class Scale:
    """From numbers to places on a line, with round marks."""

    def __init__(self, low: float, high: float, start: float, end: float, marks: int = 8) -> None:
        step = _round_step((high - low) / marks)
        self._low, self._high = math.floor(low / step) * step, math.ceil(high / step) * step
        self._start, self._end = start, end
        count = round((self._high - self._low) / step)
        self.marks = [self._low + step * i for i in range(count + 1)]

    def __call__(self, value: float) -> float:
        """The place of a number."""
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)


def tag(name: str, *inside: Markup | str, **attributes: object) -> Markup:
    """An element; underscores in names of attributes stand for hyphens."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(
        name, Markup(told), Markup("").join(escape(part) for part in inside)
    )


def svg(height: float, about: str, parts: Iterable[Markup], width: float = WIDTH) -> Markup:
    """A drawing with a text for those who cannot see it."""
    return tag(
        "svg", *parts, viewBox=f"0 0 {width} {round(height, 1)}", role="img", aria_label=about
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Markup:
    """Words, whose base line begins, ends or has its middle there."""
    return tag("text", words, x=x, y=y, class_=kind, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


# --- speed-ups -----------------------------------------------------------------------------------


def speedups(rows: Sequence[Row], colours: dict[str, int]) -> Markup:
    """The pairs, the interval and the median of each row; 1 is as fast as plain decoding."""
    shown = [row for row in rows if row.ratios]
    values = [ratio for row in shown for ratio in row.ratios]
    # A few wild pairs on a busy machine must not squeeze all others together.
    ends = sorted(values)
    cut = len(ends) // 50
    low, high = min(ends[cut], 0.9), max(ends[-1 - cut], 1.1)
    scale = Scale(low, high, _LEFT, WIDTH - _RIGHT)
    places, bottom = _places(shown)
    parts = [*_axis(scale, bottom, TIMES), line(scale(1), _TOP - 8, scale(1), bottom, "one")]
    before = None
    for row, y in zip(shown, places, strict=True):
        if row.workload != before:
            parts.append(text(0, y + 4, row.workload, "name"))
            before = row.workload
        parts.append(_speedup(row, y, scale, colours[row.strategy]))
    return svg(bottom + 8, "Speed-ups by workload and strategy", parts)


def _speedup(row: Row, y: float, scale: Scale, colour: int) -> Markup:
    low, middle, high = row.speedup_low or 0, row.speedup or 0, row.speedup_high or 0
    left, right = _LEFT - 8, WIDTH - _RIGHT + 8
    dots = [
        tag("circle", cx=scale(r), cy=y, r=2.6, class_="pair")
        for r in row.ratios
        if left <= scale(r) <= right
    ]
    told = f"{row.workload}, {row.strategy}: {middle:.2f} ({low:.2f} to {high:.2f})"
    kind = f"c{colour}" + (" faint" if row.repeats else "")
    ends = (max(left, scale(low)), min(right, scale(high)))
    return tag(
        "g",
        tag("title", told + (", repeats itself" if row.repeats else "")),
        text(_LEFT - 12, y + 4, row.strategy, "small", "end"),
        *dots,
        line(ends[0], y, ends[1], y, "interval"),
        tag("circle", cx=scale(middle), cy=y, r=5.5, class_="median"),
        text(WIDTH, y + 4, f"{middle:.2f} {TIMES}", "value", "end"),
        class_=kind,
    )


def _places(rows: Sequence[Row]) -> tuple[list[float], float]:
    """The height of each row, with a gap between workloads, and where they end."""
    places: list[float] = []
    y, before = float(_TOP), None
    for row in rows:
        y += _GAP if before not in (None, row.workload) else 0
        places.append(y + _LINE / 2)
        y, before = y + _LINE, row.workload
    return places, y + 4


def _axis(scale: Scale, bottom: float, unit: str) -> list[Markup]:
    parts = []
    digits = 0 if all(float(mark).is_integer() for mark in scale.marks) else 1
    if any(round(mark, 1) != round(mark, 3) for mark in scale.marks):
        digits = 2
    for mark in scale.marks:
        parts.append(line(scale(mark), _TOP - 8, scale(mark), bottom, "grid"))
        label = f"{mark:.{digits}f} {unit}" if unit == TIMES else f"{mark:,.{digits}f}"
        parts.append(text(scale(mark), _TOP - 16, label, "mark", "middle"))
    return parts


# --- bars ----------------------------------------------------------------------------------------


def rates(rows: Sequence[Row], colours: dict[str, int]) -> Markup:
    """Tokens per second of each row, the baseline's in grey."""
    shown = [row for row in rows if row.tokens_per_second is not None]
    places, bottom = _places(shown)
    bars, before = [], None
    for row, y in zip(shown, places, strict=True):
        name = "" if row.workload == before else row.workload
        before = row.workload
        bars.append((y, name, row.strategy, row.tokens_per_second or 0))
    return _bars(bars, bottom, "tokens a second", colours)


def memory(rows: Sequence[Row], colours: dict[str, int]) -> Markup:
    """The most that each strategy took on any workload."""
    peaks: dict[str, float] = {}
    for row in rows:
        if row.peak_rss_mb is not None:
            peaks[row.strategy] = max(row.peak_rss_mb, peaks.get(row.strategy, 0))
    bars = [
        (_TOP + _LINE * (place + 0.5), "", strategy, peak)
        for place, (strategy, peak) in enumerate(peaks.items())
    ]
    return _bars(bars, _TOP + _LINE * len(bars) + 4, "MB", colours)


def _bars(
    bars: Sequence[tuple[float, str, str, float]], bottom: float, unit: str, colours: dict[str, int]
) -> Markup:
    """Bars by their height on the page, a name to their left, the strategy and the value."""
    scale = Scale(0, max(value for *_, value in bars), _LEFT, WIDTH - _RIGHT, marks=6)
    parts = _axis(scale, bottom, unit)
    for y, name, strategy, value in bars:
        width = max(scale(value) - _LEFT, 1)
        parts.append(
            tag(
                "g",
                tag("title", f"{name} {strategy}: {value:,.1f} {unit}".strip()),
                text(0, y + 4, name, "name"),
                text(_LEFT - 12, y + 4, strategy, "small", "end"),
                tag("rect", x=_LEFT, y=y - 7, width=width, height=14, rx=3, class_="bar"),
                text(WIDTH, y + 4, f"{value:,.0f}", "value", "end"),
                class_="plain" if strategy == PLAIN else f"c{colours[strategy]}",
            )
        )
    return svg(bottom + 8, f"{unit} by workload and strategy", parts)


# --- how far drafts are right --------------------------------------------------------------------


def depths(rows: Sequence[Row], colours: dict[str, int]) -> list[tuple[str, Markup]]:
    """For each workload, how often a draft token is right that stands so deep below right ones."""
    found = []
    for workload in dict.fromkeys(row.workload for row in rows):
        group = [row for row in rows if row.workload == workload and _shares(row)]
        if group:
            found.append((workload, _depths(group, colours)))
    return found


def _shares(row: Row) -> list[float]:
    """By depth, as far as enough turns reached."""
    shares: list[float] = []
    for tried, right in row.depths[:_DEEPEST]:
        if tried < _FEWEST:
            break
        shares.append(right / tried)
    return shares


def _depths(rows: Sequence[Row], colours: dict[str, int]) -> Markup:
    width, left, right, top, bottom = 300, 34, 292, 10, 128
    deepest = max(len(_shares(row)) for row in rows)
    across = max(deepest - 1, 1)
    parts = []
    for percent in (0, 50, 100):
        y = bottom - (bottom - top) * percent / 100
        parts.append(line(left, y, right, y, "grid"))
        parts.append(text(left - 6, y + 4, f"{percent} %", "mark", "end"))
    for depth in range(0, deepest, max(1, math.ceil(deepest / 8))):
        x = left + (right - left) * depth / across
        parts.append(text(round(x, 1), bottom + 16, str(depth + 1), "mark", "middle"))
    for row in rows:
        points = [
            (left + (right - left) * depth / across, bottom - (bottom - top) * share)
            for depth, share in enumerate(_shares(row))
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = [
            tag("circle", tag("title", f"{row.strategy}, depth {depth + 1}: {share:.0%}"),
                cx=round(x, 1), cy=round(y, 1), r=2.8, class_="dot")
            for depth, ((x, y), share) in enumerate(zip(points, _shares(row), strict=True))
        ]  # fmt: skip
        curve = tag("polyline", points=path, class_="curve")
        parts.append(tag("g", curve, *dots, class_=f"c{colours[row.strategy]}"))
    about = f"Share of right draft tokens by depth, {rows[0].workload}"
    return svg(bottom + 24, about, parts, width)
