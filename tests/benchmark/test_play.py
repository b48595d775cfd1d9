"""Rounds: who answers what, when, and knowing what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgedec import drafting
from edgedec.benchmark.play import Contestant, Course, Stopped, Task, answers
from edgedec.benchmark.prompts import Prompt
from edgedec.benchmark.stand import Stand
from edgedec.benchmark.workloads import Workload
from edgedec.errors import InputError
from edgedec.generation import Cancel, Generation
from edgedec.model import Model

Log = list[tuple[str, str]]


@dataclass
class Stub:
    """A model that writes down what it is asked; each answer is as long as the prompt says."""

    name: str
    make: Callable[..., Generation]
    log: Log
    is_chat: bool = True
    given: list[dict[str, Any]] = field(default_factory=list)

    def forget(self) -> None:
        self.log.append((self.name, "forget"))

    def generate(self, prompt: Any, **given: Any) -> Generation:
        said = prompt if isinstance(prompt, str) else "|".join(m["content"] for m in prompt)
        if "too long" in said:
            raise InputError("too long")
        self.log.append((self.name, said))
        self.given.append(given)
        size = int(said.split("|")[-1].split()[0])
        stopped = given["cancel"] is not None and given["cancel"].is_set
        return self.make(
            min(size, given["max_new_tokens"]),
            text=f"({size})",
            finish_reason="cancelled" if stopped else "stop",
        )


class Field:
    """A baseline and some others, with one log."""

    def __init__(self, make: Callable[..., Generation], names: str) -> None:
        self.log: Log = []
        self.models = [Stub(name, make, self.log) for name in ["plain", *names]]
        way = drafting.choose("plain")
        self.all = [Contestant(each.name, each, way, {}) for each in self.models]  # type: ignore[arg-type]

    def round(self, course: Course, number: int) -> Any:
        self.log.clear()
        return course.round(self.all[0], self.all[1:], number)


@pytest.fixture
def make(answer: Callable[..., Generation]) -> Callable[..., Generation]:
    return answer


def course(sizes: list[int], tokens: int = 100, **more: Any) -> Course:
    prompts = tuple(Prompt((f"{size} words, number {i}",)) for i, size in enumerate(sizes))
    return Course(Workload("w", "", prompts, longest=60, **more), tokens)


def test_both_answer_the_same_prompts_and_begin_knowing_nothing(make: Any) -> None:
    players = Field(make, "a")
    found = players.round(course([50, 50, 50]), 0)
    asked = ["50 words, number 0", "50 words, number 1"]
    assert players.log == [
        ("plain", "forget"), *(("plain", each) for each in asked),
        ("a", "forget"), *(("a", each) for each in asked),
    ]  # fmt: skip
    assert found["a"].plain.new_tokens == found["a"].drafted.new_tokens == 100


def test_who_begins_changes_and_so_does_the_order(make: Any) -> None:
    players = Field(make, "ab")
    orders: list[list[str]] = []
    begins: dict[str, list[bool]] = {"a": [], "b": []}
    run = course([60] * 20, tokens=60)
    for number in range(4):
        assert set(players.round(run, number)) == {"a", "b"}
        runs = [name for name, said in players.log if said == "forget"]
        for pair in (runs[:2], runs[2:]):
            (other,) = set(pair) - {"plain"}
            begins[other].append(pair[0] == "plain")
        orders.append([name for name in runs if name != "plain"])
    assert orders == [["a", "b"], ["b", "a"]] * 2
    assert begins == {"a": [True, False] * 2, "b": [False, True] * 2}


def test_no_prompt_is_answered_in_two_rounds(make: Any) -> None:
    players, run = Field(make, "a"), course([40] * 7)
    seen: list[set[str]] = []
    for number in range(3):
        if players.round(run, number) is None:
            break
        seen.append({said for _, said in players.log if said != "forget"})
    assert len(seen) == 2
    assert seen[0].isdisjoint(seen[1])
    assert [len(each) for each in seen] == [3, 3]


def test_the_last_answer_fills_up_what_is_left(make: Any) -> None:
    players = Field(make, "a")
    players.round(course([60, 60, 60]), 0)
    assert [given["max_new_tokens"] for given in players.models[1].given] == [60, 40]
    assert [given["seed"] for given in players.models[1].given] == [0, 1]


def test_few_prompts_make_one_short_pair(make: Any) -> None:
    players, run = Field(make, "a"), course([30])
    assert players.round(run, 0)["a"].drafted.new_tokens == 30
    assert players.round(run, 1) is None


def test_warming_up_takes_the_last_prompt(make: Any) -> None:
    players = Field(make, "a")
    course([50, 51, 52]).warm_up(players.all)
    assert [said for _, said in players.log] == ["forget", "52 words, number 2"] * 2


def test_a_cancelled_answer_ends_the_round(make: Any) -> None:
    players, run = Field(make, "a"), course([50, 50])
    run.cancel = Cancel()
    run.cancel.set()
    with pytest.raises(Stopped):
        players.round(run, 0)


def test_turns_follow_one_another(make: Any) -> None:
    log: Log = []
    model: Any = Stub("m", make, log)
    turns = ("5 first", "7 second", "3 too long", "9 never")
    found = answers(model, Task(Prompt(turns, chat=True), 4, 60), 0.5)
    assert [each.new_tokens for each in found] == [5, 7]
    assert [said for _, said in log] == ["5 first", "5 first|(5)|7 second"]
    assert {given["temperature"] for given in model.given} == {0.5}
    with pytest.raises(InputError):
        answers(model, Task(Prompt(("1 too long",)), 0, 9))


def test_a_model_without_chat_gets_one_text(stand: Stand) -> None:
    found = answers(Model(stand.setup), Task(Prompt(("ab", "cd"), chat=True), 0, 8))
    again = answers(Model(stand.setup), Task(Prompt((f"ab{found[0].text}\ncd",)), 0, 8))
    assert len(found) == 2
    assert found[1].tokens == again[0].tokens
