"""Files of prompts: one prompt a line, plain text to continue, or JSON.

A line of JSON has `prompt` (a text to continue) or `turns` (what a user says, one turn after the
other). Other fields are let be. Knows nothing about what is done with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from edgedec.errors import InputError

MAX_FILE = 64 << 20
MAX_LINE = 1 << 20
"""Bytes: a longer prompt fits into no model of ours."""

Turns = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: one text to continue, or (`chat`) the turns of a user."""

    turns: tuple[str, ...]
    chat: bool = False


class _Line(msgspec.Struct):
    """A line of a file of prompts."""

    prompt: str | None = None
    turns: Turns | None = None


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a file: of JSON lines if its first line begins with a brace.

    Raises:
        InputError: it cannot be read, is no UTF-8, holds no prompt, or has a line that is none.
    """
    found = list(lines(path))
    if not found[0][1].startswith("{"):
        return tuple(Prompt((text,)) for _, text in found)
    return tuple(_prompt(path, number, text) for number, text in found)


def _prompt(path: Path, number: int, text: str) -> Prompt:
    try:
        line = msgspec.json.decode(text, type=_Line)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}, line {number}: {error}") from None
    if (line.prompt is None) == (line.turns is None):
        raise InputError(f"{path}, line {number}: give either prompt (a text) or turns (texts)")
    turns = line.turns if line.turns is not None else (line.prompt or "",)
    if not all(turn.strip() for turn in turns):
        raise InputError(f"{path}, line {number}: the prompt is empty")
    return Prompt(turns, chat=line.turns is not None)


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, with their numbers; at least one."""
    empty = True
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        # One character is at least one byte.
        if len(line) > MAX_LINE:
            raise InputError(f"{path}, line {number}: longer than {MAX_LINE >> 20} MiB: no prompt")
        if line.strip():
            empty = False
            yield number, line.strip("\r")
    if empty:
        raise InputError(f"{path} holds no prompt: write one a line")


def read_text(path: Path) -> str:
    """A whole file.

    Raises:
        InputError: it cannot be read, is far too large, or is no UTF-8.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputError(f"{path} is larger than {MAX_FILE >> 20} MiB: no file of prompts")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "convert it first, for example with iconv"
        ) from None
