"""`edgedec train`: a part lands in its place, the words stay the same, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")
pytestmark = pytest.mark.full

import edgedec  # noqa: E402 - after the check for torch
from edgedec import costs  # noqa: E402
from edgedec.bundle import open_bundle  # noqa: E402
from edgedec.cli import main  # noqa: E402
from edgedec.generation import Cancel  # noqa: E402

from ..training.conftest import PROMPTS  # noqa: E402, TID252
from ..training.conftest import tiny_folder as tiny_folder  # noqa: E402, PLC0414, TID252

QUICK = ("--tokens", "200", "--threads", "1")
SHORT = [f"prompt_decoding.{each}" for each in ("steps=4", "every=2", "batch=2", "points=4")]
OPTIONS = [part for each in SHORT for part in ("--option", each)]


@pytest.fixture
def bundle(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("edgedec.profiler.costs_for", lambda *_: costs.flat())
    return Path(shutil.copytree(tiny_folder, tmp_path / "mine"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def train(*args: str | Path) -> Result:
    given = [str(arg) for arg in ("train", *args, *QUICK)]
    return CliRunner().invoke(main, given, prog_name="edgedec")


def test_a_part_lands_in_the_bundle_and_changes_no_word(bundle: Path, data: Path) -> None:
    with edgedec.load(bundle, strategy="plain", threads=1) as model:
        before = [model.generate(prompt, max_new_tokens=30).tokens for prompt in PROMPTS[:3]]
    result = train("prompt_decoding", "-m", bundle, "--data", data, *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["schema"], document["model"], document["place"]) == (1, "tiny", "mine")
    assert 200 <= document["tokens"] < 200 + 256
    (row,) = document["strategies"]
    assert (row["strategy"], row["steps"], row["end"]) == ("prompt_decoding", 4, "all steps")
    assert row["parameters"] == 3 * 64
    assert [step for step, _ in row["history"]] == [0, 2, 4]
    assert "prompt_decoding: step 2 of 4" in result.stderr
    assert open_bundle(bundle).strategy_file("prompt_decoding") is not None
    with edgedec.load(bundle, strategy="prompt_decoding", threads=1) as model:
        after = [model.generate(prompt, max_new_tokens=30).tokens for prompt in PROMPTS[:3]]
    assert after == before


def test_into_a_folder_and_again(bundle: Path, data: Path, tmp_path: Path) -> None:
    given = ("prompt_decoding", "-m", bundle, "--data", data, *OPTIONS, "-o", tmp_path / "parts")
    first = train(*given)
    assert first.exit_code == 0, first.output
    assert "prompt_decoding" in first.stdout
    path = tmp_path / "parts" / "prompt_decoding.safetensors"
    written = path.read_bytes()
    assert open_bundle(bundle).strategy_file("prompt_decoding") is None
    # It was finished: nothing is done again. Anew, it is the same.
    again = train(*given)
    assert "step" not in again.stderr
    assert path.read_bytes() == written
    assert "step 4 of 4" in train(*given, "--fresh").stderr
    assert path.read_bytes() == written
    other = train(*given, "--option", "prompt_decoding.rate=0.5")
    assert "prompt_decoding: it was trained with other options: begins anew\n" in other.stderr
    assert "step 4 of 4" in other.stderr


def test_an_interrupted_training_goes_on(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("prompt_decoding", "-m", bundle, "--data", data, *OPTIONS)
    assert train(*given, "-o", tmp_path / "whole").exit_code == 0
    asked: list[int] = []

    def is_set(_: Cancel) -> bool:
        asked.append(0)
        return len(asked) > 4

    with monkeypatch.context() as patched:
        patched.setattr(Cancel, "is_set", property(is_set))
        result = train(*given, "-o", tmp_path / "parts", "--fresh")
    assert result.exit_code == 130
    assert result.stderr.endswith("stopped; all is kept: the same command goes on from here\n")
    assert not (tmp_path / "parts").exists()
    other = train(*given, "-o", tmp_path / "parts", "--seed", "1")
    assert other.exit_code == 1
    assert "begin anew with --fresh" in other.stderr
    result = train(*given, "-o", tmp_path / "parts")
    assert result.exit_code == 0, result.output
    name = "prompt_decoding.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--option", "prompt_decoding.width=3"), 2, "has no option 'width'"),
        (("--option", "prompts=3"), 2, "STRATEGY.FIELD=VALUE"),
        (("--option", "prompt_decoding.prompts"), 2, "NAME=VALUE"),
        (("fit",), 1, "'fit' is no strategy that can be trained; there is: "),
        (("--minutes", "0"), 2, "'--minutes'"),
    ],
)
def test_what_makes_no_sense(
    bundle: Path, data: Path, args: tuple[str, ...], code: int, message: str
) -> None:
    result = train("prompt_decoding", "-m", bundle, "--data", data, *args)
    assert result.exit_code == code
    assert message in result.stderr


def test_data_are_needed_and_must_be_prompts(bundle: Path, tmp_path: Path) -> None:
    result = train("prompt_decoding", "-m", bundle)
    assert result.exit_code == 2
    assert "'--data'" in result.stderr
    for content, message in ((b"", "holds no prompt"), (b"\xff\xfe\x00", "not UTF-8")):
        (tmp_path / "bad").write_bytes(content)
        result = train("prompt_decoding", "-m", bundle, "--data", tmp_path / "bad")
        assert result.exit_code == 1
        assert message in result.stderr


def test_what_ships_is_not_written_to(data: Path) -> None:
    result = train("prompt_decoding", "--data", data)
    assert result.exit_code == 2
    assert result.stderr == (
        "edgedec: stories ships with edgedec, its bundle stays as it is: give -o FOLDER\n"
    )


def test_without_torch_it_says_what_to_install(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    for name in [n for n in sys.modules if n == "torch" or n.startswith("edgedec.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    result = train("prompt_decoding", "-m", bundle, "--data", data)
    assert result.exit_code == 1
    assert result.stderr == (
        "edgedec: training needs the package torch: pip install 'edgedec[train]'\n"
    )
