"""Which forms an export writes, and what it refuses to write."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edgedec.bundle import open_bundle
from edgedec.errors import UsageError
from edgedec.export.pipeline import ExportOptions, export_model
from edgedec.manifest import Format

from .conftest import write_checkpoint

FILE = "native.safetensors"


def files(checkpoint: Path, target: Path, **options: Any) -> set[str]:
    """The forms and files of a bundle."""
    export_model(str(checkpoint), target, ExportOptions(verify=False, **options))
    manifest = open_bundle(target).manifest
    both = {form for form in ("onnx", "native") if getattr(manifest.forms, form) is not None}
    assert manifest.provenance.options["form"] == ", ".join(sorted(both, reverse=True))
    return both | {name for name in manifest.files if name == FILE}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"onnx", "native", FILE}),
        ({"kind": "int4"}, {"onnx", "native", FILE}),
        ({"kind": "fp16"}, {"onnx"}),
        ({"kind": "int8", "keep": {"down": "fp16"}}, {"onnx"}),
        ({"kind": "int8", "keep": {"v": "int8/32"}}, {"onnx"}),
        ({"forms": ("native",)}, {"native", FILE}),
        ({"forms": ("onnx",)}, {"onnx"}),
        ({"forms": ("native", "onnx", "native")}, {"onnx", "native", FILE}),
    ],
)
def test_which_forms_are_written(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], expected: set[str]
) -> None:
    assert files(checkpoint, tmp_path / "out", **options) == expected


def test_rows_are_filled_up_only_where_the_native_form_is_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    narrow = write_checkpoint(tmp_path / "narrow", {**config, "intermediate_size": 80})
    assert files(narrow, tmp_path / "both") == {"onnx"}
    assert files(narrow, tmp_path / "alone", forms=("native",)) == {"native", FILE}
    formats = open_bundle(tmp_path / "alone").manifest.quantisation
    assert formats["down"] == Format(kind="int8", block=32)
    with pytest.raises(UsageError, match=r"down\.weight is fp16"):
        files(narrow, tmp_path / "forced", forms=("onnx", "native"))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"forms": ("native",), "kind": "fp32"}, "embed.weight is fp32; the native form holds"),
        ({"forms": ("native",), "cuts": (3,)}, "cuts"),
        ({"forms": ("native",), "hidden": (4,)}, "hidden layers"),
        ({"forms": ("gguf",)}, "no form 'gguf'; there are onnx, native"),
        ({"forms": ()}, "no form given"),
    ],
)
def test_forms_that_make_no_sense(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        files(checkpoint, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_native_form_needs_no_onnx(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert files(checkpoint, tmp_path / "out", forms=("native",)) == {"native", FILE}


def test_the_write_progress_of_two_forms_is_one(checkpoint: Path, tmp_path: Path) -> None:
    told: list[float] = []
    export_model(
        str(checkpoint),
        tmp_path / "out",
        ExportOptions(verify=False),
        lambda stage, share: told.append(share),
    )
    assert told == sorted(told) and told[-1] == 1.0
    assert any(0 < share < 0.5 for share in told) and any(0.5 < share < 1 for share in told)


def test_forms_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from edgedec.cli import main

    def run(*arguments: str) -> Any:
        words = ["export", str(checkpoint), "-o", str(tmp_path / "out"), *arguments]
        return CliRunner().invoke(main, words)

    refused = run("--form", "native", "--kind", "fp16", "--no-verify")
    assert refused.exit_code == 2 and "embed.weight is fp16" in refused.stderr
    assert run("--form", "gguf").exit_code == 2
    assert "forms         native\n" in run("--form", "native", "--no-verify").stdout
    both = run("--form", "native", "--form", "onnx", "--no-verify", "--force")
    assert "forms         onnx, native\n" in both.stdout
