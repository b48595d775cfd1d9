"""The README of the command line shows each command's help, and it is what `--help` prints.

`python tests/cli/test_help.py` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from edgedec import cli, rooms

README = Path(cli.__file__).with_name("README.md")
MARK = "<!-- What follows is written by `python tests/cli/test_help.py`. -->\n"


def help_of(name: str) -> str:
    command = rooms.load("edgedec.cli", name).command
    context = click.Context(command, info_name=f"edgedec {name}", terminal_width=96)
    return str(command.get_help(context))


def expected() -> str:
    start = README.read_text().partition(MARK)[0]
    helps = (f"\n## {name}\n\n```\n{help_of(name)}\n```\n" for name in rooms.names("edgedec.cli"))
    return start + MARK + "".join(helps)


def test_the_readme_shows_the_help() -> None:
    assert README.read_text() == expected(), "run `python tests/cli/test_help.py`"


@pytest.mark.parametrize("name", rooms.names("edgedec.cli"))
def test_every_command_has_examples(name: str) -> None:
    text = help_of(name)
    assert "Examples:" in text
    assert f"edgedec {name}" in text.partition("Examples:")[2]
    assert "--device" in text


if __name__ == "__main__":
    README.write_text(expected())
