"""The command line: arguments in; text, documents, errors and exit codes out."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec import rooms
from edgedec.cli import main
from edgedec.runtimes.fake import Fake

COMMAND = [sys.executable, "-c", "from edgedec.cli import main; main(prog_name='edgedec')"]
FAKE = {**os.environ, "EDGEDEC_FAKE": "1"}
DOCUMENT = (
    "schema text tokens prompt_tokens new_tokens finish_reason seed model runtime device "
    "strategy strategy_requested lossy seconds load_seconds tokens_per_second "
    "time_to_first_token_ms passes tokens_per_pass evaluated accepted near_ties depths peak_rss_mb "
    "draft_seconds"
)


@pytest.fixture(autouse=True)
def here(fake_device: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*args: str | Path, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin, prog_name="edgedec")


def run_fake(command: str, bundle: Path, *args: str, stdin: bytes = b"") -> Result:
    return run(command, "-m", bundle, "--device", "fake", *args, stdin=stdin)


def one_line(result: Result) -> str:
    """The error, which must be one line on stderr and nothing on stdout."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("edgedec: ")
    return result.stderr


# --- generate --------------------------------------------------------------------------------


def test_text_goes_to_stdout_and_numbers_to_stderr(plain_bundle: Path) -> None:
    result = run_fake("generate", plain_bundle, "Hello", "-n", "12")
    with edgedec.load(plain_bundle, device="fake") as model:
        assert result.stdout == model.generate("Hello", max_new_tokens=12).text + "\n"
    assert result.exit_code == 0
    for part in ("12 tokens", "tok/s", "first token", "MB", "plain", "fake on fake", "length"):
        assert part in result.stderr


def test_a_drawn_seed_is_told(plain_bundle: Path) -> None:
    drawn = run_fake("generate", plain_bundle, "Hello", "-n", "9", "-t", "2")
    seed = re.search(r"seed (\d+)", drawn.stderr)
    assert seed is not None
    again = run_fake("generate", plain_bundle, "Hello", "-n", "9", "-t", "2", "--seed", seed[1])
    assert again.stdout == drawn.stdout


def test_json_is_the_only_thing_on_stdout(plain_bundle: Path) -> None:
    result = run_fake("generate", plain_bundle, "Hello", "--json", "-n", "5")
    document = json.loads(result.stdout)
    assert " ".join(document) == DOCUMENT
    assert document["schema"] == 1
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["-t", "0.9", "--seed", "3"], {"temperature": 0.9, "seed": 3}),
        (["-t", "1", "--top-k", "2", "--seed", "1"], {"temperature": 1, "top_k": 2, "seed": 1}),
        (["-t", "1", "--top-p", ".4", "--seed", "1"], {"temperature": 1, "top_p": 0.4, "seed": 1}),
        (["-t", "1", "--min-p", ".3", "--seed", "1"], {"temperature": 1, "min_p": 0.3, "seed": 1}),
        (["--repetition-penalty", "1.5"], {"repetition_penalty": 1.5}),
        (["--frequency-penalty", "2"], {"frequency_penalty": 2}),
        (["--presence-penalty", "2"], {"presence_penalty": 2}),
        (
            ["-t", "1", "--mirostat-tau", "2", "--seed", "1"],
            {"temperature": 1, "mirostat_tau": 2, "seed": 1},
        ),
        (["--stop", "e", "--stop", "a"], {"stop": ["e", "a"]}),
        (["--strategy", "plain"], {}),
        (["--threads", "1", "--runtime", "fake"], {}),
        (["--logprobs", "2"], {"logprobs": 2}),
    ],
)
def test_options_reach_the_model(
    plain_bundle: Path, args: list[str], options: dict[str, Any]
) -> None:
    result = run_fake("generate", plain_bundle, "Hello", "--json", "-n", "40", *args)
    found = json.loads(result.stdout)
    with edgedec.load(plain_bundle, device="fake") as model:
        expected = model.generate("Hello", max_new_tokens=40, **options).to_json()
        plain = model.generate("Hello", max_new_tokens=40).to_json()
    assert found["tokens"] == list(expected["tokens"])
    if not {"--strategy", "--runtime", "--logprobs"} & {*args}:
        assert found["tokens"] != list(plain["tokens"]), "the option makes no difference"
    assert ("logprobs" in found) == ("logprobs" in options)


@pytest.mark.parametrize("args", [[], ["-"]])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_the_prompt_may_come_from_stdin(plain_bundle: Path, args: list[str], end: bytes) -> None:
    given = run_fake("generate", plain_bundle, "Grüße")
    piped = run_fake("generate", plain_bundle, *args, stdin="Grüße".encode() + end)
    assert piped.stdout == given.stdout


def test_the_first_text_comes_before_the_last(endless_bundle: Path) -> None:
    with start("generate", endless_bundle, "-n", "1000000", "Hello") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        assert process.poll() is None
        process.kill()


# --- Ctrl-C ----------------------------------------------------------------------------------


def start(command: str, bundle: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, command, "-m", str(bundle), "--device", "fake", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=FAKE,
        bufsize=0,
    )


def test_ctrl_c_stops_with_what_there_is(endless_bundle: Path) -> None:
    with start("generate", endless_bundle, "-n", "1000000", "Hello") as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text.endswith(b"\n")
    assert b"cancelled" in errors
    assert b"Traceback" not in errors


def test_ctrl_c_still_gives_the_document(
    endless_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = Fake.logits, []

    def interrupted(self: Fake, *args: Any) -> Any:
        calls.append(args)
        if len(calls) == 50:
            signal.raise_signal(signal.SIGINT)
        return before(self, *args)

    monkeypatch.setattr(Fake, "logits", interrupted)
    options = ("-n", "1000000", "--strategy", "plain", "--json")
    result = run_fake("generate", endless_bundle, "Hello", *options)
    document = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (130, "")
    assert document["finish_reason"] == "cancelled"
    assert document["new_tokens"] == 50


def test_ctrl_c_elsewhere_leaves_quietly(
    plain_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edgedec, "load", interrupted, raising=False)
    result = run_fake("generate", plain_bundle, "Hello")
    assert (result.exit_code, result.output) == (130, "")


# --- score, models, devices, info ------------------------------------------------------------


def test_a_score_as_a_table_and_as_a_document(plain_bundle: Path) -> None:
    with edgedec.load(plain_bundle, device="fake") as model:
        expected = model.score("Hello")
    table = run_fake("score", plain_bundle, "Hello")
    assert [line.split()[2] for line in table.stdout.splitlines()[1:6]] == [
        f"{letter!r}" for letter in "Hello"
    ]
    assert f"{expected.bits_per_byte:.4f} bits per byte" in table.stdout
    document = json.loads(run_fake("score", plain_bundle, "--json", stdin=b"Hello\n").stdout)
    assert document == json.loads(json.dumps(expected.to_json()))
    assert list(document) == [
        "schema",
        "tokens",
        "logprobs",
        "total",
        "bits_per_byte",
        "perplexity",
    ]


def test_models_lists_what_is_in_a_folder(plain_bundle: Path) -> None:
    found = json.loads(run("models", plain_bundle.parent, "--json").stdout)["models"]
    (row,) = [row for row in found if row.get("name") == "bytes"]
    assert row["context"] == 96
    assert row["weights"] == "int4/32"
    assert row["parameters"] == 257 * 8 + 4 * (4 * 8 * 8 + 3 * 8 * 16 + 2 * 8)
    table = run("models", plain_bundle.parent)
    assert str(plain_bundle) in table.stdout
    assert run("models", "nowhere").exit_code == 1


def test_models_shows_a_broken_bundle_as_broken(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/manifest.json").write_text("{")
    result = run("models")
    assert result.exit_code == 0
    assert "manifest.json cannot be read" in result.stdout


def test_devices_lists_every_runtimes_devices() -> None:
    found = json.loads(run("devices", "--json").stdout)["devices"]
    assert {"name", "runtime", "description", "problem"} == set(found[0])
    assert {row["runtime"] for row in found} >= {"fake", "onnx"}
    table = run("devices").stdout
    for row in found:
        assert row["name"] in table
        assert row["problem"] is None or row["problem"] in table
    assert json.loads(run("devices", "--device", "fake", "--json").stdout)["devices"] == [
        row for row in found if row["name"] == "fake"
    ]
    assert "no device 'none'" in one_line(run("devices", "--device", "none"))


def test_info_describes_a_bundle(plain_bundle: Path) -> None:
    text = run("info", plain_bundle, "--verify", "--device", "fake").stdout
    for part in ("bytes", "llama", "96 tokens", "int4/32", "a test", "files match"):
        assert part in text
    document = json.loads(run("info", plain_bundle, "--json").stdout)
    assert document["schema"] == 1
    assert document["manifest"]["name"] == "bytes"
    assert document["manifest"]["schema"] == 1
    assert document["verified"] is False


# --- what cannot work ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        ([""], b"", "the prompt is empty"),
        ([], b"\n", "the prompt is empty"),
        (["x" * 97], b"", "97 tokens"),
        ([], b"abc\xff\xfe", "byte 0xff at offset 3"),
        (["Hi", "--strategy", "magic"], b"", "there is: aggressive, attention_head"),
        (["Hi", "--runtime", "magic"], b"", "there is: fake, native, onnx"),
    ],
)
def test_errors_are_one_line(
    plain_bundle: Path, args: list[str], stdin: bytes, message: str
) -> None:
    result = run_fake("generate", plain_bundle, *args, stdin=stdin)
    assert result.exit_code == 1
    assert message in one_line(result)


@pytest.mark.parametrize("command", ["generate", "score"])
@pytest.mark.parametrize(
    ("bundle", "message"), [("nowhere", "no bundle at 'nowhere'"), ("bad", "cannot be read")]
)
def test_bundles_that_are_missing_or_broken(command: str, bundle: str, message: str) -> None:
    Path("bad").mkdir()
    Path("bad/manifest.json").write_text('{"schema": 1, "name"')
    result = run(command, "-m", bundle, "Hi")
    assert result.exit_code == 1
    assert message in one_line(result)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [["Hi"], ["Hi", "--json"]])
def test_output_to_a_full_disk(plain_bundle: Path, args: list[str]) -> None:
    command = [*COMMAND, "generate", "-m", str(plain_bundle), "--device", "fake", *args]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, env=FAKE)
    assert done.returncode == 1
    assert done.stderr == b"edgedec: the disk is full: make room or write elsewhere\n"


@pytest.mark.parametrize("command", ["generate", "chat", "score"])
def test_a_device_that_is_not_there(command: str, plain_bundle: Path) -> None:
    result = run(command, "-m", plain_bundle, "--device", "none", stdin=b"Hi\n")
    assert result.exit_code == 1
    assert "no device 'none'" in one_line(result)


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["generate", "Hi", "--nonsense"],
        ["generate", "Hi", "-n", "0"],
        ["generate", "Hi", "-n", "many"],
        ["generate", "Hi", "-t", "-1"],
        ["generate", "Hi", "there"],
        ["generate", "Hi", "--logprobs", "2"],
        ["chat", "Hi"],
        ["score", "Hi", "-n", "3"],
        ["info", "a", "b"],
    ],
)
def test_misuse_exits_with_2(args: list[str]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_misuse_found_by_the_model_exits_with_2(plain_bundle: Path) -> None:
    result = run_fake("generate", plain_bundle, "Hi", "--mirostat-tau", "3")
    assert result.exit_code == 2
    assert "temperature" in one_line(result)


# --- the door --------------------------------------------------------------------------------


def test_the_version() -> None:
    assert edgedec.__version__ in run("--version").stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from edgedec.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'numpy', 'onnxruntime', 'onnx', 'tokenizers', 'jinja2', 'rich'}\n"
        "print('HEAVY', *{m.split('.')[0] for m in sys.modules} & heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"
    assert all(name in done.stdout for name in rooms.names("edgedec.cli"))
