"""`edgedec chat`, through a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.answering import Answering
from edgedec.cli import main

COMMAND = [sys.executable, "-c", "from edgedec.cli import main; main(prog_name='edgedec')"]


@pytest.fixture(autouse=True)
def here(fake_device: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def talk(bundle: Path, *args: str, stdin: bytes) -> Result:
    options = ["chat", "-m", str(bundle), "--device", "fake", *args]
    return CliRunner().invoke(main, options, input=stdin, prog_name="edgedec")


def one_line(result: Result) -> str:
    """The error, which must be one line on stderr and nothing on stdout."""
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_chat_through_a_pipe(chat_bundle: Path) -> None:
    result = talk(chat_bundle, "-n", "4", stdin=b"Hi\n\nAnd then?\n")
    with edgedec.load(chat_bundle, device="fake") as model:
        messages = [{"role": "user", "content": "Hi"}]
        first = model.generate(messages, max_new_tokens=4).text
        messages += [
            {"role": "assistant", "content": first},
            {"role": "user", "content": "And then?"},
        ]
        second = model.generate(messages, max_new_tokens=4).text
    assert result.stdout == f"{first}\n{second}\n"
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_base_model_continues_the_lines_as_one_text(plain_bundle: Path) -> None:
    result = talk(plain_bundle, "-n", "4", stdin=b"Once\nThen\n")
    with edgedec.load(plain_bundle, device="fake") as model:
        first = model.generate("Once", max_new_tokens=4).text
        second = model.generate(f"Once{first} Then", max_new_tokens=4).text
    assert result.stdout == f"{first}\n{second}\n"


def test_a_chat_reads_only_what_is_new(chat_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reused: list[int] = []
    before = Answering._report

    def report(self: Answering, asked: Any, chosen: Any, course: Any, ending: Any) -> Any:
        reused.append(course.tally.reused)
        return before(self, asked, chosen, course, ending)

    monkeypatch.setattr(Answering, "_report", report)
    talk(chat_bundle, "-n", "2", stdin=b"Hi\nHo\n/reset\nHi\n")
    assert reused[0] == 0
    assert reused[1] >= len("user: Hi\nassistant:")
    assert reused[2] == 0


def test_a_conversation_is_saved_and_loaded(chat_bundle: Path, tmp_path: Path) -> None:
    whole = talk(chat_bundle, "-n", "3", stdin=b"Hi\nHo\n").stdout.splitlines()
    talk(chat_bundle, "-n", "3", stdin=b"Hi\n/save talk.json\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.json", "talk.json.state"]
    second = talk(chat_bundle, "-n", "3", stdin=b"/load talk.json\nHo\n")
    assert (second.stdout.splitlines(), second.stderr) == (whole[1:], "")
    Path("talk.json.state").write_bytes(b"broken")
    third = talk(chat_bundle, "-n", "3", stdin=b"/load talk.json\nHo\n")
    assert third.stdout.splitlines() == whole[1:]
    assert "reading the conversation anew" in third.stderr


@pytest.mark.parametrize(
    ("stdin", "code", "message"),
    [
        (b"/what\n", 2, "no command '/what'; there is: /reset"),
        (b"/save\n", 2, "no command '/save'"),
        (b"/load none.json\n", 1, "none.json cannot be read"),
        (b"/save no/such/folder\n", 1, "cannot be written"),
        (b"abc\xff\n", 1, "0xff at offset 3"),
        (b"x" * 500 + b"\n", 1, "the prompt has"),
    ],
)
def test_a_piped_chat_ends_at_the_first_error(
    chat_bundle: Path, tmp_path: Path, stdin: bytes, code: int, message: str
) -> None:
    result = talk(chat_bundle, stdin=stdin + b"Hello\n")
    assert result.exit_code == code
    assert message in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_conversation_is_refused(chat_bundle: Path) -> None:
    Path("talk.json").write_text('{"schema": 1}')
    result = talk(chat_bundle, stdin=b"/load talk.json\n")
    assert "talk.json is not a saved conversation" in one_line(result)
    Path("talk.json").write_text('{"schema": 2, "model": "x", "messages": []}')
    result = talk(chat_bundle, stdin=b"/load talk.json\n")
    assert "newer edgedec" in one_line(result)


def test_ctrl_c_in_a_chat_ends_the_answer_only(endless_bundle: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "chat", "-m", str(endless_bundle), "--device", "fake", "-n", "1000000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "EDGEDEC_FAKE": "1"},
        bufsize=0,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Hello\n")
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.stdin.write(b"/exit\n")
        process.stdin.close()
        process.stdin = None
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, b"")


def test_a_conversation_that_is_full_says_how_to_go_on(plain_bundle: Path) -> None:
    result = talk(plain_bundle, "-n", "4", stdin=b"x" * 97 + b"\n")
    assert result.exit_code == 1
    assert "shorten the prompt, or begin again with /reset" in one_line(result)


def test_a_model_that_reads_does_not_talk(source_bundle: Path) -> None:
    result = talk(source_bundle, stdin=b"Hi\n")
    assert result.exit_code == 1
    assert "reads a text and writes another, it does not talk" in result.stderr
