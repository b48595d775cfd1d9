"""The drafter that CONTRIBUTING shows: complete, short, lossless, and of some use."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import edgedec
from edgedec import rooms

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def test_the_example_drafts_and_changes_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "edgedec.strategies"
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code.count("\n") <= 40
    module = ModuleType(f"{here}.echo")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "echo.py", "exec"), module.__dict__)
    names = rooms.names
    added = {here: ["echo"]}
    monkeypatch.setattr(rooms, "names", lambda room: sorted(names(room) + added.get(room, [])))
    prompt = "One day, Lily and Ben went to the"
    with edgedec.load("stories", strategy="plain") as model:
        plain = model.generate(prompt, max_new_tokens=100)
    with edgedec.load("stories", strategy="echo+trigram", policy="fixed") as model:
        done = model.generate(prompt, max_new_tokens=100)
    assert (done.text, done.strategy) == (plain.text, "echo+trigram")
    options = {"length": 6}
    with edgedec.load(
        "stories", strategy="echo", strategy_options=options, policy="fixed"
    ) as model:
        done = model.generate(prompt, max_new_tokens=100)
    assert done.text == plain.text
    assert done.accepted > 5
