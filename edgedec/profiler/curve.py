"""T by rows as a drawing: lines of text for a terminal, or a PNG or SVG with matplotlib.

Rows are on a logarithmic axis, since what matters happens among the first few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedec.costs import Costs
from edgedec.errors import MissingExtraError, UsageError, WriteError
from edgedec.replacing import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Times = NDArray[np.float64]

ENDINGS = (".png", ".svg")
HEIGHT = 12
"""Lines of a terminal's drawing."""
GREY, ACCENT = "#8a8a8a", "#c2571a"
BLUES = ("#9ecae1", "#4f9bcb", "#2171b5", "#08306b")
DOTS = np.array([[1, 8], [2, 16], [4, 32], [64, 128]], np.uint8)
"""The bit of each of the 4 by 2 dots of a character, from U+2800 on."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What is drawn: costs, a title, and the floor in seconds (None: not known)."""

    costs: Costs
    title: str
    floor: float | None = None

    @property
    def floor_ms(self) -> float | None:
        """The floor in ms; None as well where caches hold the weights, so that it is none."""
        if self.floor is None or self.floor >= self.costs.step(0, 1)[1]:
            return None
        return self.floor * 1e3

    @property
    def most(self) -> int:
        """The largest number of rows that was measured (2 at least)."""
        return max(self.costs.rows[-1], 2)

    def milliseconds(self, past: int) -> Times:
        """T in ms [most + 1] of 0, 1, ... rows after so much past."""
        return self.costs.step(past, self.most) * 1e3


def terminal(curve: Curve, width: int, *, narrow: bool = False) -> list[str]:
    """Lines of at most `width` columns (60 at least); `narrow` uses plain ASCII."""
    lines = {f"past {past}": curve.milliseconds(past)[1:] for past in curve.costs.pasts}
    floor = curve.floor_ms
    if floor is not None:
        lines["floor"] = np.full(curve.most, floor)
    scale = _Scale(min(times[0] for times in lines.values()), max(map(np.max, lines.values())))
    left = max(len(text) for text in scale.ticks.values()) + 1
    columns = max(width, 60) - left - 12
    canvas = np.zeros((HEIGHT * 4, columns * 2), np.bool_)
    at = np.linspace(0, math.log2(curve.most), columns * 2)
    ends = []
    for label, times in reversed(lines.items()):  # the longest past first, should two end alike
        logs = np.interp(at, np.log2(np.arange(1, curve.most + 1)), np.log(times))
        heights = scale.dots(np.exp(logs))
        ends.append((int(heights[-1]), label))
        if label == "floor":
            canvas[heights[0], ::4] = True
        else:
            _trace(canvas, heights)
    beside, cells = _beside(ends), _characters(canvas, narrow)
    wall, corner, rule = "|+-" if narrow else "│└─"
    marks = [f"{scale.ticks.get(row, ''):>{left - 1}}{wall}" for row in range(HEIGHT)]
    return [
        f"{'ms':>{left - 1}}",
        *(f"{marks[row]}{cells[row]} {beside.get(row, '')}".rstrip() for row in range(HEIGHT)),
        " " * (left - 1) + corner + rule * columns,
        *_axis(curve.most, left, columns),
    ]


class _Scale:
    """Milliseconds as rows of dots from the top, logarithmic; `ticks` are texts by row of text."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = math.log(low * 0.85), math.log(high * 1.02)
        self.ticks = {int(self.dots(np.array([value]))[0]) // 4: f"{value:g}"
                      for value in ticks(low * 0.85, high * 1.02)}  # fmt: skip

    def dots(self, values: Times) -> NDArray[np.int64]:
        """The rows of dots on which values lie."""
        most = HEIGHT * 4 - 1
        share = (self._high - np.log(values)) / (self._high - self._low)
        return np.clip(np.round(share * most), 0, most).astype(np.int64)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 and 5 in each power of ten) from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = (float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5))
    return [value for value in found if low <= value <= high]


def _axis(most: int, left: int, columns: int) -> list[str]:
    """The numbers below the drawing, and what they count."""
    line = [" "] * (left + columns)
    for power in range(int(math.log2(most)) + 1):
        text = str(2**power)
        place = left + min(round(power / math.log2(most) * columns), columns - len(text))
        line[place : place + len(text)] = text
    return ["".join(line).rstrip(), " " * left + "tokens checked in one step"]


def _trace(canvas: NDArray[np.bool_], heights: NDArray[np.int64]) -> None:
    """A line through a height per column of dots, without gaps where it is steep."""
    before = int(heights[0])
    for column, height in enumerate(heights.tolist()):
        canvas[min(before, height) : max(before, height) + 1, column] = True
        before = height


def _characters(canvas: NDArray[np.bool_], narrow: bool) -> list[str]:
    rows, columns = canvas.shape
    blocks = canvas.reshape(rows // 4, 4, columns // 2, 2)
    codes = (blocks * DOTS[None, :, None, :]).sum(axis=(1, 3)).tolist()
    return [
        "".join(" " if not code else "*" if narrow else chr(0x2800 + code) for code in line)
        for line in codes
    ]


def _beside(ends: Sequence[tuple[int, str]]) -> dict[int, str]:
    """A row of its own for each label, in the order of the curves' ends, near them."""
    found: dict[int, str] = {}
    row = -1
    for index, (dot, label) in enumerate(sorted(ends, key=lambda end: end[0])):
        last = HEIGHT - len(ends) + index
        row = min(max(dot // 4, row + 1), last)
        found[row] = label
    return found


# --- a picture -----------------------------------------------------------------------------------


def check_target(path: Path) -> None:
    """Whether a picture could be written there, before time is spent on measuring.

    Raises:
        UsageError: it ends in neither .png nor .svg.
        WriteError: its folder is not there.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path.name}: a plot is written as {' or '.join(ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise WriteError(f"{path.parent} is no folder: make it first, or choose another place")
    if util.find_spec("matplotlib") is None:
        raise MissingExtraError("--plot", "matplotlib", "plot")


def picture(curve: Curve, path: Path) -> None:
    """Write the drawing as PNG or SVG, by the path's ending.

    Raises:
        UsageError, WriteError, MissingExtraError: see `check_target`; or the disk is full.
    """
    check_target(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    _draw(figure.subplots(), curve)
    try:
        with replacing(path) as partial:
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=160)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from None


def _draw(axes: Axes, curve: Curve) -> None:
    """A line per length of past, the floor below them, and what single steps would take."""
    pasts, rows = curve.costs.pasts, np.arange(1, curve.most + 1)
    usual = min(pasts, key=lambda past: abs(past - 128))
    for past, colour in reversed([*zip(pasts, _colours(len(pasts)), strict=True)]):
        times = curve.milliseconds(past)
        axes.plot(rows, times[1:], color=colour, linewidth=2, label=f"{past} tokens of past")
        measured = list(curve.costs.rows)
        axes.plot(measured, times[measured], "o", color=colour, markersize=4)
    single = curve.milliseconds(usual)[1] * rows
    axes.plot(rows, single, color=GREY, linewidth=1.4, linestyle=":",
              label=f"one by one ({usual} tokens of past)")  # fmt: skip
    lowest, highest = curve.milliseconds(pasts[0])[1], curve.milliseconds(pasts[-1])[-1]
    floor = curve.floor_ms
    if floor is not None:
        lowest = min(lowest, floor)
        axes.axhline(floor, color=ACCENT, linewidth=1.4, linestyle="--",
                     label=f"weights read once ({floor:.3g} ms)")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    powers = [2**power for power in range(int(math.log2(curve.most)) + 1)]
    axes.set_xticks(powers, [str(power) for power in powers])
    marks = ticks(lowest * 0.7, highest * 1.4)
    axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set(xlim=(0.93, curve.most * 1.07), ylim=(lowest * 0.7, highest * 1.4))
    axes.set_xlabel("tokens checked in one step")
    axes.set_ylabel("time of the step, ms")
    axes.set_title(curve.title, loc="left", fontsize=11)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")


def _colours(count: int) -> list[str]:
    """From light to dark, the longest past darkest."""
    return [BLUES[round(i * (len(BLUES) - 1) / max(count - 1, 1))] for i in range(count)]
