"""`edgedec profile` on the shipped model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgedec import drafting
from edgedec.bundle import cache_folder
from edgedec.cli import main
from edgedec.profiler import measure
from edgedec.runtimes import native

KEYS = (
    "schema model device runtime version threads kv_type fingerprint t_ms spread_ms curves "
    "bandwidth_gb_s weight_mb roofline_ms host_ms draft_ms plan effort rounds rejected seconds "
    "made stored"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*args: str | Path) -> Result:
    words = ["profile", *(str(arg) for arg in args)]
    return CliRunner().invoke(main, words, prog_name="edgedec")


def document(*args: str | Path) -> Any:
    result = run("--json", *args)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def one_line(result: Result) -> str:
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    found = document()
    assert " ".join(found) == KEYS
    assert (found["schema"], found["model"], found["device"]) == (1, "stories", "cpu")
    assert (found["effort"], found["stored"]) == ("full", False)
    free = {"phrase_pool", "prompt_lookup", "token_recycling", "trigram"}
    assert free <= set(found["draft_ms"]) <= set(drafting.automatic()) - {"aggressive"}
    assert all(0 < ms < 1000 for ms in [found["host_ms"], *found["draft_ms"].values()])
    assert [*found["t_ms"]] == [str(rows) for rows in range(1, 65)]
    times = [*found["t_ms"].values()]
    assert times == sorted(times)
    assert times[0] > 0
    assert [curve["past"] for curve in found["curves"]] == [32, 128]
    for curve in found["curves"]:
        assert curve["source"] == 0
        assert set(curve["t_ms"]) == {str(rows) for rows in measure.FULL.rows}
    usual = found["curves"][1]["t_ms"]
    assert usual == {rows: found["t_ms"][rows] for rows in usual}
    floor = found["weight_mb"] / found["bandwidth_gb_s"]
    assert found["roofline_ms"] == pytest.approx(floor, rel=1e-2)
    plan = found["plan"]
    # Numbers are rounded, and the quotient is of what was not.
    host = found["host_ms"]
    ratio = (times[plan["checks"] - 1] + host) / (times[0] + host)
    assert plan["costs"] == pytest.approx(ratio, rel=1e-2)
    assert "On this machine checking" in plan["words"]
    assert set(found["fingerprint"]) == {
        "processor", "isa", "cores", "processors", "memory_gib", "system",
    }  # fmt: skip

    def refuse(*args: object, **given: object) -> None:
        raise AssertionError("measured although it was stored")

    monkeypatch.setattr(measure, "measure", refuse)
    again = document()
    assert again == found | {"stored": True}
    assert document("--quick") == again


def test_what_people_see() -> None:
    result = run("--quick", "--threads", "1")
    assert (result.exit_code, result.stderr) == (0, "")
    text = result.stdout
    for part in ("device ", "model    stories, ", "1 thread,", "profile  measured now: quick",
                 "GB/s: reading the weights", "tokens  ", "times  pays from", "past 128",
                 "tokens checked in one step", "On this machine checking"):  # fmt: skip
        assert part in text
    assert "profile  stored: quick" in run("--quick", "--threads", "1").stdout
    assert "profile  measured now: quick" in run("--quick", "--fresh", "--threads", "1").stdout


@pytest.mark.parametrize("runtime", ["native", "onnx"])
def test_every_runtime_can_be_measured(runtime: str) -> None:
    if runtime == "native" and not native.built():
        pytest.skip("the C engine was not built")
    found = document("--quick", "--runtime", runtime)
    assert found["runtime"] == runtime
    assert found["t_ms"]["1"] > 0


@pytest.mark.parametrize(("name", "begin"), [("curve.png", b"\x89PNG"), ("curve.svg", b"<?xml")])
def test_a_plot(name: str, begin: bytes, tmp_path: Path) -> None:
    result = run("--quick", "--json", "--plot", name)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["schema"] == 1
    assert result.stderr == f"wrote {name}\n"
    assert (tmp_path / name).read_bytes().startswith(begin)


@pytest.mark.parametrize(
    "args",
    [
        ["--plot", "curve.pdf"],
        ["--plot", "curve"],
        ["--plot", "."],
        ["--threads", "0"],
        ["--threads", "100000"],
        ["--runtime", "onnx", "--kv-type", "int8"],
        ["--kv-type", "int3"],
        ["--nonsense"],
        ["stories"],
    ],
)
def test_misuse_exits_with_2(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-m", "nowhere"], "no bundle at 'nowhere'"),
        (["--device", "none"], "no device 'none'"),
        (["--runtime", "magic"], "there is: fake, native, onnx"),
        (["--plot", "none/curve.png"], "is no folder"),
    ],
)
def test_errors_are_one_line(args: list[str], message: str) -> None:
    result = run(*args)
    assert result.exit_code == 1
    assert message in one_line(result)


@pytest.mark.usefixtures("fake_device")
@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_simulated_device_exits_with_3(plain_bundle: Path, args: list[str]) -> None:
    result = run("-m", plain_bundle, "--device", "fake", *args)
    assert result.exit_code == 3
    assert "fake is simulated only" in one_line(result)


def test_a_damaged_profile_is_told_in_one_line() -> None:
    run("--quick")
    (path,) = (cache_folder() / "profiles").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    result = run("--quick", "--json")
    assert json.loads(result.stdout)["stored"] is False
    assert result.stderr.startswith("edgedec: the stored profile was made anew: ")
    assert result.stderr.count("\n") == 1


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    # What a shell starts in the background ignores interrupts, and so would this test's child.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from edgedec.cli import main; main(prog_name='edgedec')"
    )
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", code, "profile", "--plot", "curve.svg"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"edgedec.profiler.measure" in line:
                break
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, b"")
    assert list(tmp_path.iterdir()) == []
    assert not (cache_folder() / "profiles").exists()
