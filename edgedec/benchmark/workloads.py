"""What a model is measured on: the workloads that ship, and those made of a user's files."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgedec.benchmark.prompts import Prompt, read_prompts, read_spec_bench, read_text
from edgedec.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgedec.architecture import Architecture

LONGEST = 96
"""New tokens of one answer at most. Greedy text of so small a model as `stories` goes round in
circles soon after, and circles are easy to guess."""
SENTENCES = 256
"""The same of what is made of a source: all of it, and nothing goes round in circles."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and how they are answered: with a temperature, up to `longest` new tokens each.

    A `shipped` one is for models with an encoder, which read its prompts, or (no `source`) without.
    A `forced` one has no prompts but a `text` that stands for what a model would have written.
    """

    name: str
    about: str
    prompts: tuple[Prompt, ...] = ()
    temperature: float = 0.0
    longest: int = LONGEST
    text: str = ""
    source: bool = False
    shipped: bool = False

    @property
    def forced(self) -> bool:
        """Whether drafts are checked against a given text instead of a model's own choice."""
        return bool(self.text)


class _Shipped(NamedTuple):
    file: str
    about: str
    temperature: float = 0.0
    longest: int = LONGEST


_SHIPPED = {
    "story": _Shipped("story.jsonl", "free stories, greedy"),
    "story-0.8": _Shipped("story.jsonl", "free stories, temperature 0.8", 0.8),
    "continue": _Shipped("continue.jsonl", "go on with a story, from its beginning"),
    "edit": _Shipped("edit.jsonl", "rename someone in a text"),
    "quote": _Shipped("quote.jsonl", "quote from a text"),
    "list": _Shipped("list.jsonl", "turn a text into a list"),
}
_SOURCES = {
    "fix": _Shipped("fix.jsonl", "put damaged prose right", longest=SENTENCES),
    "fix-0.8": _Shipped("fix.jsonl", "the same, temperature 0.8", 0.8, SENTENCES),
}
_FORCED = {
    "code": _Shipped("code.txt", "a given page of Python"),
    "maths": _Shipped("maths.txt", "given solutions of word problems"),
}
DEFAULT, SOURCES, FORCED = tuple(_SHIPPED), tuple(_SOURCES), tuple(_FORCED)


def default(model: Architecture) -> tuple[str, ...]:
    """The workloads of a model where none are named; none for one that hears."""
    if model.frontend is not None:
        return ()
    return DEFAULT if model.encoder is None else SOURCES


def shipped(name: str) -> Workload:
    """A workload by its name, one of `DEFAULT`, `SOURCES` or `FORCED`.

    Raises:
        UsageError: there is none of that name.
    """
    folder = Path(str(resources.files("edgedec.benchmark"))) / "texts"
    if name in _FORCED:
        forced = _FORCED[name]
        return Workload(name, forced.about, text=read_text(folder / forced.file), shipped=True)
    about = (_SHIPPED | _SOURCES).get(name)
    if about is not None:
        prompts = read_prompts(folder / about.file)
        how = about.temperature, about.longest
        return Workload(name, about.about, prompts, *how, source=name in _SOURCES, shipped=True)
    raise UsageError(f"no workload {name!r}; there is: {', '.join((*DEFAULT, *SOURCES, *FORCED))}")


def own_prompts(path: Path) -> Workload:
    """A user's prompts, greedy.

    Raises:
        InputError: the file cannot be used.
    """
    return Workload(path.stem, f"the prompts of {path.name}", read_prompts(path))


def spec_bench(path: Path) -> list[Workload]:
    """Spec-Bench's questions, a workload for each of its tasks.

    Raises:
        InputError: the file cannot be used.
    """
    return [
        Workload(f"spec-bench/{task}", f"Spec-Bench, {task}", prompts)
        for task, prompts in read_spec_bench(path).items()
    ]


def forced_text(path: Path) -> Workload:
    """A user's text to check drafts against.

    Raises:
        InputError: the file cannot be used, or is empty.
    """
    if not read_text(path).strip():
        raise InputError(f"{path} is empty: give a text to check drafts against")
    return Workload(path.stem, f"the text of {path.name}", text=read_text(path))
