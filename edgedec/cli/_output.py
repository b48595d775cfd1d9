"""How commands print: one JSON document, aligned columns, sizes a person can read.

Knows nothing about what is printed.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from edgedec.errors import WriteError
from edgedec.replacing import replacing


def print_json(document: dict[str, Any]) -> None:
    """The one document on stdout, a line for each of its keys."""
    lines = (f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in document.items())
    click.echo("{\n " + ",\n ".join(lines) + "\n}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def check_target(path: Path) -> None:
    """Whether a file could be written there, before time is spent on what goes into it.

    Raises:
        WriteError: its folder is not there.
    """
    if not path.absolute().parent.is_dir():
        raise WriteError(f"{path.parent} is no folder: make it first, or choose another place")


def write_text(path: Path, text: str) -> None:
    """Write a whole file; whatever goes wrong, a file that was there stays as it was.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from None


def drop_stdout() -> None:
    """Send what standard output still holds nowhere, so that the exit does not fail on it again."""
    with suppress(io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def megabytes(size: float) -> str:
    """Bytes as MB (10^6)."""
    return f"{size / 1e6:.1f} MB"


def count(number: int) -> str:
    """A large number in thousands, millions or billions."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return str(number)


def can_show(text: str) -> bool:
    """Whether standard output has these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
