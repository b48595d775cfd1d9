"""The shipped prompts come from the script, and the script from held-out text only."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgedec.benchmark import workloads

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make", ROOT / "bench/make_workloads.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not DATA.is_dir(), reason="the training data is not here")
def test_the_same_data_gives_the_same_files(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = script.TARGET
    monkeypatch.setattr(script, "TARGET", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make", "--data", str(DATA)])
    script.main()
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == sorted(path.name for path in shipped.glob("*.jsonl"))
    for name in made:
        assert (tmp_path / name).read_bytes() == (shipped / name).read_bytes(), name


def test_a_beginning_is_whole_sentences_and_not_too_long(script: ModuleType) -> None:
    sentence = "The old man walked slowly down to the river and looked at the boats there."
    document = (" ".join([sentence] * 5), '"Come here," he said. ' + sentence * 2, sentence)
    (found,) = script.beginnings(document)
    assert found == " ".join([sentence] * 3)
    assert script.SHORTEST <= len(found) <= script.LONGEST
    assert script.first_words(sentence) == " ".join(sentence.split()[: script.OPENING])


def test_every_shipped_line_says_where_it_is_from() -> None:
    books = {"alger", "burnett", "doyle", "nesbit", "twain", "books", "tinystories"}
    folder = Path(workloads.__file__).parent / "texts"
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert json.loads(line)["source"].split("-")[0] in books
    assert sum(path.stat().st_size for path in folder.iterdir()) < 400_000
