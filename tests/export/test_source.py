"""Which sources are understood, and what is said of the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedec.errors import CheckpointError, MissingExtraError
from edgedec.export.source import SourceOptions, open_source, origin_name

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for `snapshot_download`: gives a folder, or raises."""

    def __init__(self, answer: Path | Exception) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def __call__(self, name: str, **options: Any) -> str:
        self.asked = {"name": name, **options}
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def hub(monkeypatch: pytest.MonkeyPatch, answer: Path | Exception) -> Hub:
    package = pytest.importorskip("huggingface_hub")
    stand_in = Hub(answer)
    monkeypatch.setattr(package, "snapshot_download", stand_in)
    return stand_in


def test_a_hub_id_is_fetched_without_anything_that_can_run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = checkpoint.rename(checkpoint.parent / REVISION)
    (snapshot / "README.md").write_text("---\nlicense: other\nlicense_name: 'gemma'\n---\n")
    stand_in = hub(monkeypatch, snapshot)
    origin = open_source("some-org/tiny.llama@v1").origin
    assert (origin.name, origin.revision, origin.licence, origin.model) == (
        "some-org/tiny.llama", REVISION, "gemma", "tiny.llama"
    )  # fmt: skip
    assert (stand_in.asked["name"], stand_in.asked["revision"]) == ("some-org/tiny.llama", "v1")
    patterns = stand_in.asked["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in patterns)


def test_offline_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    hub(monkeypatch, errors.LocalEntryNotFoundError("no\nnetwork"))
    with pytest.raises(CheckpointError, match="hub could not be reached: download the folder"):
        open_source("some-org/tiny")


def test_another_trouble_of_the_hub_keeps_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, RuntimeError("401 gated\nlong explanation"))
    with pytest.raises(CheckpointError, match=r"fetched from the hub: 401 gated$"):
        open_source("some-org/tiny")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgedec\[export\]'"):
        open_source("some-org/tiny")


@pytest.mark.parametrize("source", ["./nowhere", "/no/where", "nowhere", "a/b/c", "../x/y", ""])
def test_what_is_neither_a_path_nor_a_hub_id(source: str) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist: give a folder|cannot be read"):
        open_source(source)


def test_a_folder_s_weights_have_a_size(checkpoint: Path) -> None:
    source = open_source(str(checkpoint))
    assert source.size == (checkpoint / "model.safetensors").stat().st_size
    assert source.origin.name == "tiny-llama"


def test_a_context_limit_and_harmless_fields(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"parrot": 1}))
    options = SourceOptions(context=16, ignore=frozenset({"parrot"}))
    assert open_source(str(checkpoint), options).architecture.limits.context == 16


def test_names_are_known_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    assert origin_name(str(tmp_path / "model.bin")) == "model"
    assert origin_name(str(tmp_path)) == tmp_path.name
    assert origin_name("org/some.model@main") == "some.model"
