"""`edgedec fix`: lines stay lines, and the document is generate's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.cli import main


@pytest.fixture(autouse=True)
def here(fake_device: None) -> None:
    """The pretend model may be used."""


def fix(bundle: Path, *args: str, stdin: str = "") -> Result:
    given = ["fix", "-m", str(bundle), "--device", "fake", *args]
    return CliRunner().invoke(main, given, input=stdin, prog_name="edgedec")


def expected(bundle: Path, line: str) -> Any:
    with edgedec.load(bundle, device="fake") as model:
        return model.generate(line, max_new_tokens=model.context)


def test_a_text_is_put_right_on_stdout(source_bundle: Path) -> None:
    done = fix(source_bundle, "teh cat")
    assert done.exit_code == 0
    assert done.stdout == expected(source_bundle, "teh cat").text + "\n"
    assert "fake on fake" in done.stderr


def test_lines_stay_lines(source_bundle: Path) -> None:
    done = fix(source_bundle, stdin="one\n\ntwo\n")
    texts = [expected(source_bundle, line).text for line in ("one", "two")]
    assert done.stdout == f"{texts[0]}\n\n{texts[1]}\n"


def test_the_document_is_that_of_generate(source_bundle: Path) -> None:
    (document,) = [json.loads(fix(source_bundle, "teh cat", "--json").stdout)]
    assert document["text"] == expected(source_bundle, "teh cat").text
    assert document["schema"] == 1
    several = json.loads(fix(source_bundle, "--json", stdin="one\n\ntwo\n").stdout)
    texts = [expected(source_bundle, line).text for line in ("one", "two")]
    assert [line["text"] for line in several["lines"]] == texts
    assert several["text"] == f"{texts[0]}\n\n{texts[1]}"


@pytest.mark.parametrize(
    ("args", "stdin", "message"),
    [
        ([], "", "the text is empty"),
        (["x" * 80], "", "has 80 tokens; the model reads up to 64"),
        (["--strategy", "magic", "a"], "", "no 'magic' in strategies"),
    ],
)
def test_errors_are_one_line(
    source_bundle: Path, args: list[str], stdin: str, message: str
) -> None:
    done = fix(source_bundle, *args, stdin=stdin)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
