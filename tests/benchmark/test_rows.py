"""Rows as records, as CSV, as a table and as a page."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from edgedec.benchmark import charts, report, rows, table
from edgedec.benchmark.rows import Row

Make = Callable[..., Row]
COLUMNS = (
    "model runtime device strategy workload new_tokens tokens_per_second speedup speedup_low "
    "speedup_high pairs tokens_per_pass acceptance time_to_first_token_ms peak_rss_mb distinct4 "
    "identical near_ties lossy simulated replayed forced"
)


def baseline(row: Make, **more: Any) -> Row:
    one = {"speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0}
    return row(strategy="plain", ran="plain", ratios=(), acceptance=None, depths=(), **one, **more)


@pytest.fixture
def many(row: Make) -> list[Row]:
    found = []
    for runtime in ("native", "onnx"):
        for workload, ratios, distinct in (
            ("story", (3.0, 3.2, 3.1), 0.55),
            ("edit", (1.9, 2.0, 2.4), 0.95),
            ("list", (1.0, 1.1, 1.5), 0.99),
        ):
            more = {"runtime": runtime, "workload": workload, "distinct4": distinct}
            found += [baseline(row, **more), row(ratios=ratios, **more)]
    forced = {"workload": "code", "forced": True, "peak_rss_mb": None}
    return [*found, row(runtime="native", ratios=(9.0, 9.0, 9.0), **forced)]


def about() -> dict[str, Any]:
    return {
        "edgedec": "0", "made": "2026", "machine": "a <machine>", "pairs": 3, "tokens": 9,
        "seed": 0,
    }  # fmt: skip


def test_a_mean_is_of_medians_without_repetition_and_given_texts(many: list[Row]) -> None:
    native, onnx = rows.means(many)
    assert native.speedup == pytest.approx(statistics.fmean([2.0, 1.1]))
    assert 1.45 <= native.speedup_low <= native.speedup <= native.speedup_high <= 1.95
    assert (native.workloads, native.left_out) == (("edit", "list"), ("story",))
    assert (onnx.runtime, onnx.strategy) == ("onnx", "auto")


def test_no_mean_of_one_workload(row: Make) -> None:
    assert rows.means([row()]) == []
    assert rows.means([row(), row(workload="v", distinct4=0.2)]) == []
    assert rows.means([row(ratios=()), row(workload="v", ratios=())]) == []


def test_the_document_can_be_read_again(many: list[Row]) -> None:
    found = json.loads(json.dumps(rows.document(many, about())))
    assert found["schema"] == 1
    assert len(found["rows"]) == len(many)
    assert " ".join(found["rows"][0]).startswith(COLUMNS)
    assert [mean["runtime"] for mean in found["means"]] == ["native", "onnx"]
    assert report.page(found) == report.page(rows.document(many, about()))


def test_csv_has_a_line_for_each_row(many: list[Row]) -> None:
    header, *lines = csv.reader(io.StringIO(rows.to_csv(many)))
    assert header[:22] == COLUMNS.split()
    assert len(lines) == len(many)
    found = dict(zip(header, lines[1], strict=True))
    assert found["strategy"] == "auto"
    assert (found["identical"], found["lossy"], found["replayed"]) == ("true", "false", "")
    assert (found["ratios"], found["depths"]) == ("3.0 3.2 3.1", "9/6 8/2")
    assert (found["draft_share"], found["part_parameters"], found["part_bytes"]) == (
        "0.25",
        "0",
        "0",
    )


def test_marks_say_what_must_be_known(row: Make) -> None:
    assert table.marks(row()) == []
    assert table.marks(row(distinct4=0.59)) == ["repeats itself"]
    assert table.marks(row(distinct4=0.6)) == []
    assert table.marks(row(distinct4=None)) == []
    assert table.marks(row(identical=False, near_ties=1)) == ["other words", "1 near tie"]
    assert table.marks(row(lossy=True, forced=True)) == ["lossy", "forced"]
    assert table.marks(row(ran="plain", near_ties=2)) == ["2 near ties", "nothing drafted"]


def test_a_table_for_each_runtime(many: list[Row]) -> None:
    native, onnx = table.tables(many)
    assert native.title == "m · native on d"
    assert len(native.lines) == 6 + 1 + 1
    cells = [[cell.strip() for cell in line] for line in native.lines]
    assert cells[0][:5] == ["story", "plain", "10", "1.00", ""]
    assert cells[1][:6] == ["", "auto", "10", "1.50", "1.20-1.80", "2.00"]
    assert cells[-1][:4] == ["all workloads", "auto", "", "1.55"]
    assert cells[-1][-1] == "mean of 2 without story"
    assert {len(line) for line in (*native.lines, *onnx.lines)} == {len(table.HEADER)}


def test_what_drafting_takes_and_adds_is_shown(row: Make) -> None:
    trained = row(draft_share=0.304, part_parameters=1_250_000, part_bytes=1_400_000)
    small = row(part_parameters=2048)
    (found,) = table.tables([baseline(row, draft_share=None), trained, small])
    names = [cell.strip() for cell in found.header]
    columns = [names.index(name) for name in ("drafting", "extra")]
    cells = [[line[i].strip() for i in columns] for line in found.lines]
    assert cells[:3] == [["", ""], ["30%", "1.2M"], ["25%", "2.0k"]]
    document = rows.document([trained], about())
    assert document["rows"][0]["draft_share"] == 0.304
    assert document["rows"][0]["part_bytes"] == 1_400_000
    told = Page(report.page(document)).said
    assert "1.2M" in told
    assert "30%" in told


def test_the_legend_explains_what_there_is(row: Make) -> None:
    (only,) = table.legend([row(draft_share=None)])
    assert "2 pairs" in only
    every = table.legend(
        [row(distinct4=0.1), row(identical=False, pairs=5), row(forced=True), row(replayed="1b"),
         row(part_parameters=1024)]
    )  # fmt: skip
    assert "2-5 pairs" in every[0]
    assert [sentence.partition(":")[0] for sentence in every] == [
        "speed-up",
        "drafting",
        "extra",
        "repeats itself",
        "other words",
        "forced",
        "replay",
    ]


class Page(HTMLParser):
    """Which elements there are, and what they say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_needs_nothing_else(many: list[Row], row: Make) -> None:
    odd = row(workload="<b>mine</b>", strategy="a&b", runtime="onnx")
    text = report.page(rows.document([*many, odd], about()))
    page = Page(text)
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    assert "b" not in page.tags or page.tags.count("b") == 2
    assert "http" not in text
    assert "<b>mine</b>" in page.said
    assert "a&b" in page.said
    assert "a <machine>" in page.said
    # Speed-ups, rates and memory of two runtimes, and the depths of 4 + 4 workloads.
    assert page.tags.count("svg") == 6 + 8


def test_a_page_without_speeds_or_rows(row: Make) -> None:
    unknown = dict.fromkeys(
        ("tokens_per_second", "speedup", "speedup_low", "speedup_high", "peak_rss_mb")
    )
    silent = row(simulated=True, ratios=(), depths=(), **unknown)
    assert "simulated: no speed" in Page(report.page(rows.document([silent], about()))).said
    assert Page(report.page(rows.document([], about()))).open == []


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0, 17983), (0.4, 3.1), (0, 0.003)])
def test_marks_of_a_scale_are_round_and_enclose(low: float, high: float) -> None:
    scale = charts.Scale(low, high, 100, 300)
    assert scale.marks[0] <= low + 1e-9
    assert scale.marks[-1] >= high - 1e-9
    assert 3 <= len(scale.marks) <= 12
    assert scale(scale.marks[0]) == 100
    assert scale(scale.marks[-1]) == 300
    steps = {round(b - a, 9) for a, b in zip(scale.marks, scale.marks[1:], strict=False)}
    assert len(steps) == 1


def test_shares_by_depth_end_where_too_few_turns_reached(row: Make) -> None:
    deep = row(depths=((100, 80), (80, 40), (7, 7), (7, 7)))
    ((name, drawing),) = charts.depths([deep, baseline(row)], {"auto": 1})
    assert name == "w"
    assert drawing.count("<circle") == 2
    assert "depth 2: 50%" in drawing
