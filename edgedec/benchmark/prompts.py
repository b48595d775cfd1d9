"""Prompts for measurements: a user's own (`edgedec.prompts`), and Spec-Bench's questions."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgedec.errors import InputError
from edgedec.prompts import Prompt, Turns, lines, read_prompts, read_text

TASKS = {
    "translation": "translation",
    "summarization": "summarization",
    "qa": "qa",
    "math_reasoning": "maths",
    "rag": "retrieval",
}
"""Spec-Bench's categories, as its tables name them; all others are from MT-bench."""


class _Question(msgspec.Struct):
    """A line of Spec-Bench's question file."""

    category: str
    turns: Turns


def read_spec_bench(path: Path) -> dict[str, tuple[Prompt, ...]]:
    """The questions of Spec-Bench by task (MT-bench, translation, ...), in the order of the file.

    Raises:
        InputError: it cannot be read, or is no such file; the message has the line.
    """
    found: dict[str, list[Prompt]] = {}
    for number, text in lines(path):
        try:
            question = msgspec.json.decode(text, type=_Question)
        except msgspec.DecodeError as error:
            raise InputError(
                f"{path}, line {number}: not a question of Spec-Bench ({error}); its file is "
                "question.jsonl, with category and turns in each line"
            ) from None
        task = TASKS.get(question.category, "mt-bench")
        found.setdefault(task, []).append(Prompt(question.turns, chat=True))
    return {task: tuple(prompts) for task, prompts in found.items()}


__all__ = ["Prompt", "read_prompts", "read_spec_bench", "read_text"]
