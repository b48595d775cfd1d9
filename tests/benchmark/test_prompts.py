"""Files of prompts: what is read, what is refused and how; and what ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgedec import prompts as read
from edgedec.architecture import Limits
from edgedec.benchmark import workloads
from edgedec.benchmark.prompts import Prompt, read_prompts, read_spec_bench
from edgedec.errors import InputError, UsageError
from edgedec.text import Text

QUESTION = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}


def written(tmp_path: Path, data: str | bytes) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_prompt_a_line(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffOnce upon a time\r\n\n  \nGrüße {an} alle\n")
    assert read_prompts(path) == (Prompt(("Once upon a time",)), Prompt(("Grüße {an} alle",)))


def test_json_lines(tmp_path: Path) -> None:
    lines = '{"prompt": "Once", "source": "me"}\n\n{"turns": ["Hello", "And?"], "id": 3}\n'
    assert read_prompts(written(tmp_path, lines)) == (
        Prompt(("Once",)),
        Prompt(("Hello", "And?"), chat=True),
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "holds no prompt"),
        ("\n \n", "holds no prompt"),
        (b"Once\xff\xfe", "byte 0xff at offset 4"),
        ('{"prompt": "Once"}\n{"prompt": ', "line 2"),
        ('{"prompt": "Once"}\nOnce', "line 2"),
        ('{"prompt": 3}', "line 1"),
        ('{"turns": []}', "line 1"),
        ('{"turns": ["Hello", 3]}', "line 1"),
        ('{"text": "Once"}', "either prompt"),
        ('{"prompt": "Once", "turns": ["Hello"]}', "either prompt"),
        ('{"turns": ["Hello", " "]}', "the prompt is empty"),
        ("Once\n" + "x" * (read.MAX_LINE + 1), "line 2: longer than 1 MiB"),
    ],
)
def test_what_is_no_file_of_prompts(tmp_path: Path, data: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(written(tmp_path, data))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_prompts(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_prompts(tmp_path)
    monkeypatch.setattr(read, "MAX_FILE", 3)
    with pytest.raises(InputError, match="no file of prompts"):
        read_prompts(written(tmp_path, "Once"))


def test_spec_bench_by_task(tmp_path: Path) -> None:
    categories = ("writing", "translation", "rag", "math_reasoning", "stem")
    lines = "\n".join(json.dumps({**QUESTION, "category": each}) for each in categories)
    found = read_spec_bench(written(tmp_path, lines))
    assert {task: len(each) for task, each in found.items()} == {
        "mt-bench": 2,
        "translation": 1,
        "retrieval": 1,
        "maths": 1,
    }
    assert found["mt-bench"][0] == Prompt(("Write.", "Again."), chat=True)
    named = workloads.spec_bench(written(tmp_path, lines))
    assert [each.name for each in named][:2] == ["spec-bench/mt-bench", "spec-bench/translation"]


@pytest.mark.parametrize("line", ["Once", "{}", '{"category": "qa"}', '{"turns": ["a"]}', "[]"])
def test_what_is_not_spec_bench(tmp_path: Path, line: str) -> None:
    path = written(tmp_path, json.dumps(QUESTION) + "\n" + line)
    with pytest.raises(InputError, match="line 2: not a question of Spec-Bench"):
        read_spec_bench(path)


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    assert workloads.forced_text(written(tmp_path, "a b c")).text == "a b c"
    with pytest.raises(InputError, match="is empty"):
        workloads.forced_text(written(tmp_path, " \n"))
    assert workloads.own_prompts(written(tmp_path, "Once")).name == "prompts"


def test_no_workload_of_that_name() -> None:
    with pytest.raises(UsageError, match=r"no workload 'poem'; there is: story, .*, maths"):
        workloads.shipped("poem")


def test_every_workload_ships_enough() -> None:
    for name in workloads.DEFAULT:
        found = workloads.shipped(name)
        assert len(found.prompts) >= 200
        assert len(set(found.prompts)) == len(found.prompts)
        assert not found.forced
    for name in workloads.FORCED:
        assert workloads.shipped(name).forced


def test_prompts_leave_room_in_the_context_of_stories() -> None:
    from edgedec.benchmark.play import fitting
    from edgedec.bundle import open_bundle

    bundle = open_bundle("stories")
    model = bundle.manifest.architecture
    text = Text.open(bundle.path, model)
    for name in workloads.DEFAULT:
        found = workloads.shipped(name)
        # With room for an answer of full length, not only for the shortest that counts.
        room = replace(model, limits=Limits(context=model.limits.context - found.longest + 16))
        assert fitting(found, text, room) == found.prompts
