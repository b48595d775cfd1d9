"""The curve as text and as a picture."""

from __future__ import annotations

import builtins
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from msgspec.structs import replace

from edgedec.costs import Costs
from edgedec.errors import MissingExtraError, UsageError, WriteError
from edgedec.profiler import curve
from edgedec.profiler.curve import Curve
from edgedec.profiler.store import Profile

ROWS = (1, 2, 4, 8, 16, 32, 64)
LAYERS = tuple(tuple(1e-3 * (2 + n / 5) * (1 + past / 1000) for n in ROWS) for past in (32, 2048))
COSTS = Costs(ROWS, (32, 2048), LAYERS, (0.0,) * 7)


def drawn(**given: Any) -> list[str]:
    return curve.terminal(Curve(COSTS, "a title", 1.1e-3), given.pop("width", 80), **given)


@pytest.mark.parametrize("width", [60, 72, 80, 100])
def test_lines_fit_the_terminal(width: int) -> None:
    lines = drawn(width=width)
    assert max(map(len, lines)) <= width
    assert max(map(len, lines)) > width - 12


def test_what_is_drawn_is_named() -> None:
    lines = drawn()
    text = "\n".join(lines)
    labels = ["past 2048", "past 32", "floor"]
    found = [next(i for i, line in enumerate(lines) if line.endswith(label)) for label in labels]
    assert found == sorted(found), "longer pasts lie above shorter ones, the floor below"
    assert lines[0].strip() == "ms"
    assert lines[-2].split() == [str(rows) for rows in ROWS]
    assert lines[-1].strip() == "tokens checked in one step"
    for tick in ("2", "5", "10", "20"):
        assert f"{tick}│" in text


def test_the_curve_is_where_its_times_are() -> None:
    """A column's highest dot is the time of the longest past there, on the axis of the ticks."""
    costs = Costs((1, 64), (0,), ((1e-3, 64e-3),), (0.0, 0.0))
    lines = curve.terminal(Curve(costs, ""), 80, narrow=True)[1 : 1 + curve.HEIGHT]
    body = [line.partition("|")[2][:60] for line in lines]
    left = [
        next(row for row, line in enumerate(body) if line[col : col + 1] == "*") for col in (0, 30)
    ]
    # 1 ms at the left end, 8 ms in the middle of a straight line from 1 to 64.
    assert left[0] == curve.HEIGHT - 1
    assert abs(left[1] - (curve.HEIGHT - 1) / 2) <= 1
    ticks = {line.partition("|")[0].strip(): row for row, line in enumerate(lines)}
    assert abs(ticks["10"] - left[1]) <= 1


def test_narrow_terminals_get_ascii() -> None:
    assert "".join(drawn(narrow=True)).isascii()
    assert not "".join(drawn()).isascii()


def test_a_floor_that_is_none_is_not_drawn() -> None:
    """Weights that stay in the caches are read faster than memory could give them."""
    assert Curve(COSTS, "", 1.1e-3).floor_ms == pytest.approx(1.1)
    assert Curve(COSTS, "", 2.3e-3).floor_ms is None
    assert Curve(COSTS, "", None).floor_ms is None
    assert "floor" not in "\n".join(curve.terminal(Curve(COSTS, "", 2.3e-3), 80))


@pytest.mark.parametrize("rows", [(1,), (1, 2), (8,), (1, 128)])
def test_any_profile_can_be_drawn(rows: tuple[int, ...], tmp_path: Path) -> None:
    costs = Costs(rows, (0,), ((1e-3,) * len(rows),), (0.0,) * len(rows))
    assert len(curve.terminal(Curve(costs, ""), 80)) == curve.HEIGHT + 4
    curve.picture(Curve(costs, ""), tmp_path / "curve.svg")


def test_ticks_are_round() -> None:
    assert curve.ticks(0.9, 60) == [1, 2, 5, 10, 20, 50]
    assert curve.ticks(0.03, 0.2) == [0.05, 0.1, 0.2]


def test_a_png(tmp_path: Path) -> None:
    path = tmp_path / "curve.PNG"
    curve.picture(Curve(COSTS, "stories on a machine", 1.1e-3), path)
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = np.frombuffer(data[16:24], ">u4").tolist()
    assert width >= 1000
    assert height >= 600
    assert list(tmp_path.iterdir()) == [path]


def test_an_svg(tmp_path: Path, stored: Profile) -> None:
    path = tmp_path / "curve.svg"
    profile = replace(stored, weight_bytes=12_000_000)
    curve.picture(Curve(profile.costs, "stories on a machine", profile.roofline), path)
    assert ElementTree.parse(path).getroot().tag.endswith("svg")
    text = path.read_text()
    for label in ("stories on a machine", "tokens checked in one step", "time of the step, ms",
                  "weights read once (0.4 ms)", "128 tokens of past"):  # fmt: skip
        assert f"<!-- {label} -->" in text


@pytest.mark.parametrize("name", ["curve", "curve.pdf", "curve.png.txt"])
def test_other_endings_are_misuse(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"written as \.png or \.svg"):
        curve.check_target(tmp_path / name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="is no folder"):
        curve.check_target(tmp_path / "none" / "curve.png")


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    path.mkdir()
    with pytest.raises(WriteError, match="cannot be written"):
        curve.picture(Curve(COSTS, ""), path)
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgedec\[plot\]'"):
        curve.check_target(tmp_path / "curve.png")


def test_text_needs_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    before = builtins.__import__

    def refuse(name: str, *args: Any, **given: Any) -> Any:
        assert not name.startswith("matplotlib")
        return before(name, *args, **given)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert drawn()
