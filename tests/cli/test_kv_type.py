"""--kv-type reaches `edgedec.load`, and what cannot be is misuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import edgedec
from edgedec.cli import main
from edgedec.errors import InputError


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], input=b"Hi\n", prog_name="edgedec")


@pytest.mark.parametrize("command", ["generate", "chat", "score"])
@pytest.mark.parametrize("args", [[], ["--kv-type", "int8"], ["--kv-type", "fp16"]])
def test_it_reaches_load(command: str, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def load(model: str, **options: Any) -> None:
        seen.append(options)
        raise InputError("far enough")

    monkeypatch.setattr(edgedec, "load", load, raising=False)
    result = run(command, *args)
    assert (result.exit_code, result.stderr) == (1, "edgedec: far enough\n")
    assert [options.get("kv_type") for options in seen] == [args[1] if args else None]


def test_a_type_that_the_runtime_does_not_have_is_misuse() -> None:
    result = run("generate", "--runtime", "onnx", "--kv-type", "int8", "Hi")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and "as fp32, not as 'int8'" in result.stderr


def test_a_type_that_no_runtime_has_is_misuse() -> None:
    result = run("generate", "--kv-type", "int4", "Hi")
    assert result.exit_code == 2
    assert "fp16" in result.stderr and "int8" in result.stderr
