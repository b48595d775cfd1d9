"""`edgedec bench`: tables, documents, files, exit codes, and an end that is asked for."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgedec.benchmark import suite
from edgedec.benchmark.rows import Row
from edgedec.cli import main
from edgedec.runtimes import native
from edgedec.runtimes.fake import Fake

QUICK = ("--pairs", "1", "--tokens", "32", "--no-memory")


def run(*args: str | Path) -> Result:
    given = ["bench", *map(str, args)]
    return CliRunner().invoke(main, given, prog_name="edgedec", catch_exceptions=False)


def run_fake(bundle: Path, *args: str | Path) -> Result:
    return run("-m", bundle, "--device", "fake", *QUICK, *args)


def test_the_document_of_a_real_run() -> None:
    result = run("--pairs", "1", "--tokens", "32", "--workload", "edit", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert list(document)[:3] == ["schema", "edgedec", "made"]
    assert document["schema"] == 1
    assert document["means"] == []
    rows = document["rows"]
    runtimes = ["native", "onnx"] if native.built() else ["onnx"]
    expected = [(runtime, how) for runtime in runtimes for how in ("plain", "auto")]
    assert [(row["runtime"], row["strategy"]) for row in rows] == expected
    for row in rows:
        assert set(row) == set(Row.__struct_fields__)
        assert (row["model"], row["device"], row["workload"]) == ("stories", "cpu", "edit")
        assert row["peak_rss_mb"] > 20
        assert row["speedup"] > 0
        assert (row["simulated"], row["forced"], row["replayed"]) == (False, False, None)
    assert rows[0]["runtime"] == "onnx" or rows[1]["identical"]
    assert result.stderr == ""


def test_a_simulated_device_exits_with_3(plain_bundle: Path, fake_device: None) -> None:
    result = run_fake(plain_bundle, "--workload", "story", "--json")
    assert result.exit_code == 3
    assert "simulated" in result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["simulated"] for row in rows] == [True, True]
    assert {row["tokens_per_second"] for row in rows} == {None}
    table = run_fake(plain_bundle, "--workload", "story")
    assert table.exit_code == 3
    assert "bytes · fake on fake, simulated: no speed" in table.stdout


def test_files(plain_bundle: Path, fake_device: None, tmp_path: Path) -> None:
    page, sheet, saved = (tmp_path / name for name in ("a.html", "b.csv", "c.json"))
    files = ("--html", page, "--csv", sheet, "--save", saved)
    result = run_fake(plain_bundle, "--workload", "story", *files)
    assert result.exit_code == 3
    assert page.read_text().startswith("<!doctype html>")
    assert len(list(csv.reader(sheet.read_text().splitlines()))) == 3
    assert len(json.loads(saved.read_text())["rows"]) == 2
    for path in (page, sheet, saved):
        assert f"wrote {path}" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.csv", "c.json"]
    assert run_fake(plain_bundle, "--html", tmp_path / "no" / "a.html").exit_code == 1


def test_prompts_of_ones_own(plain_bundle: Path, fake_device: None, tmp_path: Path) -> None:
    mine, given, asked = (tmp_path / name for name in ("mine.txt", "given.txt", "q.jsonl"))
    mine.write_text("Once upon a time\nThere was a king\n")
    given.write_text("the cat sat on the mat. " * 9)
    question = {"category": "qa", "turns": ["Who was it?", "Why?"]}
    asked.write_text("\n".join([json.dumps(question)] * 3))
    files = ("--prompts", mine, "--forced-text", given, "--spec-bench", asked)
    document = json.loads(run_fake(plain_bundle, *files, "--json").stdout)
    found = [(row["workload"], row["strategy"], row["forced"]) for row in document["rows"]]
    assert found == [
        ("mine", "plain", False),
        ("mine", "auto", False),
        ("spec-bench/qa", "plain", False),
        ("spec-bench/qa", "auto", False),
        ("given", "plain", True),
        ("given", "auto", True),
    ]


def test_forced_workloads_come_on_top(plain_bundle: Path, fake_device: None) -> None:
    args = ("--workload", "story", "--workload", "code", "--forced", "--json")
    document = json.loads(run_fake(plain_bundle, *args).stdout)
    named = [row["workload"] for row in document["rows"]]
    assert named == ["story", "story", "code", "code", "maths", "maths"]


def test_strategies_policies_and_options(plain_bundle: Path, fake_device: None) -> None:
    args = (
        "--workload", "story", "--json", "--strategy", "trigram", "--policy", "best",
        "--policy", "fixed", "--strategy-option", "trigram.nodes=4", "--seed", "3",
    )  # fmt: skip
    document = json.loads(run_fake(plain_bundle, *args).stdout)
    named = [row["strategy"] for row in document["rows"]]
    assert named == ["plain", "trigram", "trigram/fixed"]
    assert document["seed"] == 3


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--device", "npu"], 1, "edgedec[qnn]"),
        (["--device", "npu"], 1, "'onnx'"),
        (["--device", "none"], 1, "no device 'none'"),
        (["--runtime", "magic"], 1, "no 'magic' in runtimes"),
        (["--strategy", "magic"], 1, "no 'magic' in strategies"),
        (["--policy", "magic"], 1, "no policy 'magic'"),
        (["-m", "nowhere"], 1, "no bundle at 'nowhere'"),
        (["--prompts", "nowhere"], 1, "nowhere cannot be read"),
        (["--workload", "poem"], 2, "no workload 'poem'; there is: story"),
        (["--strategy-option", "nodes"], 2, "NAME=VALUE"),
        (["--strategy-option", "magic.nodes=3"], 2, "belongs to no strategy"),
        (["--replay", "huge"], 2, "no shape 'huge'; there is: 135m, 1b"),
        (["--pairs", "0"], 2, "--pairs"),
        (["--threads", "100000"], 2, "threads is 100000"),
    ],
)
def test_what_cannot_work(args: list[str], code: int, message: str) -> None:
    result = run(*args)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_ctrl_c_prints_the_rows_that_are_done(
    plain_bundle: Path, fake_device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = suite._Event._measured, []

    def measured(self: Any, *args: Any) -> Any:
        calls.append(args)
        return before(self, *args)

    plain = Fake.logits

    def interrupted(self: Fake, *args: Any) -> Any:
        if len(calls) == 2:
            calls.append(())
            signal.raise_signal(signal.SIGINT)
        return plain(self, *args)

    monkeypatch.setattr(suite._Event, "_measured", measured)
    monkeypatch.setattr(Fake, "logits", interrupted)
    args = ("--workload", "story", "--workload", "story-0.8", "--json")
    result = run_fake(plain_bundle, *args)
    assert result.exit_code == 130
    rows = json.loads(result.stdout)["rows"]
    assert [row["workload"] for row in rows] == ["story", "story"]


def test_an_error_at_the_end_hides_nothing(
    plain_bundle: Path, fake_device: None, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text("too short")
    result = run_fake(plain_bundle, "--workload", "story", "--forced-text", short)
    assert result.exit_code == 1
    assert result.stdout.count("story") == 1
    assert "edgedec: the text 'short' has 9 tokens" in result.stderr
