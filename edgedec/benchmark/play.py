"""Contestants answering prompts: which ones a pair is made of, and what came out.

It knows models and prompts; what the answers say of speed stands in `pairs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgedec.benchmark.pairs import Pair, Work
from edgedec.errors import InputError

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.benchmark.prompts import Prompt
    from edgedec.benchmark.workloads import Workload
    from edgedec.drafting import Drafting
    from edgedec.generation import Cancel, Generation
    from edgedec.model import Messages, Model
    from edgedec.text import Text

LEAST = 16
"""Room for fewer tokens than this is not worth a prompt."""


class Stopped(Exception):
    """Someone asked for the end."""


class UsedUp(Exception):
    """There is no prompt left that was not answered before."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way of drafting, by the name that its rows bear, and a model that drafts so."""

    label: str
    model: Model
    way: Drafting
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt with the seed and the most new tokens of each of its answers."""

    prompt: Prompt
    seed: int
    longest: int


def fitting(workload: Workload, text: Text, model: Architecture) -> tuple[Prompt, ...]:
    """The prompts whose first turn the model can read, with room for an answer."""
    if model.encoder is not None:
        most = model.limits.source
        return tuple(
            prompt
            for prompt in workload.prompts
            if most is None or len(text.encode_source(prompt.turns[0])) <= most
        )
    room = model.limits.context - min(workload.longest, LEAST)
    return tuple(prompt for prompt in workload.prompts if _length(prompt, text) <= room)


def _length(prompt: Prompt, text: Text) -> int:
    if prompt.chat and text.is_chat:
        return len(text.encode(text.chat(_said((), prompt.turns[0])), special=False))
    return len(text.encode(prompt.turns[0]))


def _said(before: Messages, turn: str) -> Messages:
    return [*before, {"role": "user", "content": turn}]


@dataclass(slots=True)
class Course:
    """The rounds of one workload: in each, all contestants answer the same prompts, which are new
    each time and give about `tokens` new tokens."""

    workload: Workload
    tokens: int
    seed: int = 0
    cancel: Cancel | None = None
    _next: int = field(default=0, init=False)
    _tasks: tuple[Task, ...] = field(default=(), init=False)

    def round(
        self, plain: Contestant, others: Sequence[Contestant], number: int
    ) -> dict[str, Pair] | None:
        """A pair for each of the others; None if there are not enough prompts left.

        Who begins changes from round to round, and so does the order of the others.
        """
        self._tasks, turn = (), number % len(others)
        found: dict[str, Pair] = {}
        try:
            placed = list(enumerate(others))
            for place, each in placed[turn:] + placed[:turn]:
                if (number + place) % 2:
                    drafted = self._work(each.model)
                    found[each.label] = Pair(self._work(plain.model), drafted)
                else:
                    first = self._work(plain.model)
                    found[each.label] = Pair(first, self._work(each.model))
        except UsedUp:
            return None
        return found

    def warm_up(self, contestants: Sequence[Contestant]) -> None:
        """Let all of them answer the last prompt, which is the last to be measured."""
        task = self._task(len(self.workload.prompts) - 1, self.tokens)
        for each in contestants:
            each.model.forget()
            self._answers(each.model, task)

    def _work(self, model: Model) -> Work:
        """Answers by a model that knows nothing yet: one user, one sitting.

        The first one of a round finds out how many prompts give so many tokens.
        """
        model.forget()
        if self._tasks:
            return Work(tuple(a for task in self._tasks for a in self._answers(model, task)))
        tasks: list[Task] = []
        found: list[Generation] = []
        left, at = self.tokens, self._next
        while left >= min(LEAST, self.tokens):
            if at == len(self.workload.prompts):
                # A last pair may be short, but not so short that it says nothing.
                if not tasks or (self._next and left > self.tokens / 2):
                    raise UsedUp
                break
            tasks.append(self._task(at, left))
            fresh = self._answers(model, tasks[-1])
            left -= sum(answer.new_tokens for answer in fresh)
            found += fresh
            at += 1
        self._next, self._tasks = at, tuple(tasks)
        return Work(tuple(found))

    def _task(self, index: int, left: int) -> Task:
        workload = self.workload
        return Task(workload.prompts[index], self.seed + index, min(workload.longest, left))

    def _answers(self, model: Model, task: Task) -> list[Generation]:
        return answers(model, task, self.workload.temperature, self.cancel)


def answers(
    model: Model, task: Task, temperature: float = 0.0, cancel: Cancel | None = None
) -> list[Generation]:
    """The answer to each turn of a prompt, as far as the context holds them; at least one.

    Raises:
        Stopped: it was cancelled.
    """
    found: list[Generation] = []
    messages: Messages = []
    text = ""
    for turn in task.prompt.turns:
        messages = _said(messages, turn)
        text += turn
        try:
            answer = model.generate(
                messages if task.prompt.chat and model.is_chat else text,
                max_new_tokens=task.longest,
                temperature=temperature,
                seed=task.seed,
                cancel=cancel,
            )
        except InputError:
            if not found:
                raise
            break
        if answer.finish_reason == "cancelled":
            raise Stopped
        found.append(answer)
        messages = [*messages, {"role": "assistant", "content": answer.text}]
        text += answer.text + "\n"
    return found
