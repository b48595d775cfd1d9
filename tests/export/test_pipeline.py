"""Whole exports of a tiny checkpoint, opened again as users open them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedec.bundle import open_bundle
from edgedec.errors import UsageError, WriteError
from edgedec.export.pipeline import ExportOptions, Kind, export_model, parameters
from edgedec.export.source import SourceOptions
from edgedec.manifest import Format

QUICK = ExportOptions(verify=False)


def test_an_fp32_bundle_computes_what_the_checkpoint_computes(
    checkpoint: Path, tmp_path: Path
) -> None:
    report = export_model(str(checkpoint), tmp_path / "out", ExportOptions(kind="fp32"))
    quality = open_bundle(tmp_path / "out").manifest.quality
    assert quality is not None and quality == report.quality
    assert quality.max_error < 1e-4
    assert quality.kl < 1e-8
    assert quality.top1 == 1.0
    assert quality.tokens == 96  # all that the context holds


@pytest.mark.parametrize(("kind", "worst"), [("fp16", 1e-4), ("int8", 0.01), ("int4", 1.0)])
def test_quantised_bundles_are_near(
    checkpoint: Path, tmp_path: Path, kind: Kind, worst: float
) -> None:
    report = export_model(
        str(checkpoint), tmp_path / "out", ExportOptions(forms=("onnx",), kind=kind)
    )
    assert report.quality is not None and 0 < report.quality.kl < worst
    assert report.manifest.format_of("decoder.layers.0.mlp.up.weight").kind == kind
    assert report.bundle_size < report.source_size + 100_000


def test_more_bits_do_less_damage(checkpoint: Path, tmp_path: Path) -> None:
    def damage(name: str, **options: object) -> float:
        given = ExportOptions(**options)  # type: ignore[arg-type]
        report = export_model(str(checkpoint), tmp_path / name, given)
        assert report.quality is not None
        return report.quality.kl

    int4 = damage("a", kind="int4")
    assert damage("b", kind="int8") < int4 < damage("c", kind="int4", keep={"embed": "int4"})


def test_small_models_are_stored_in_8_bit_by_default(checkpoint: Path, tmp_path: Path) -> None:
    manifest = export_model(str(checkpoint), tmp_path / "out", QUICK).manifest
    assert set(manifest.quantisation.values()) == {Format(kind="int8", block=64)}
    assert manifest.provenance.options["kind"] == "int8"


def test_int4_keeps_the_table_of_a_tied_head_in_8_bit(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(kind="int4", block=64, keep={"down": "fp16"}, verify=False)
    formats = export_model(str(checkpoint), tmp_path / "out", options).manifest.quantisation
    assert formats["embed"] == Format(kind="int8", block=64)
    assert formats["down"] == Format(kind="fp16")
    assert formats["up"] == Format(kind="int4", block=64)
    assert "head" not in formats


def test_cuts_and_hidden_layers_are_written_down(checkpoint: Path, tmp_path: Path) -> None:
    options = ExportOptions(kind="fp32", cuts=(1, 2), hidden=(1,))
    manifest = export_model(str(checkpoint), tmp_path / "out", options).manifest
    assert manifest.cuts == (1, 2)
    assert manifest.forms.onnx is not None and manifest.forms.onnx.hidden == (1,)
    assert [s.last for s in manifest.forms.onnx.segments] == [1, 2, 3, 3]
    assert manifest.quality is not None and manifest.quality.max_error < 1e-4


def test_the_manifest_says_where_it_comes_from(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    (checkpoint / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n")
    options = ExportOptions(verify=False, source=SourceOptions(context=32))
    report = export_model(str(checkpoint), tmp_path / "out", options)
    made = report.manifest.provenance
    assert (made.source, made.licence, made.revision) == ("tiny-llama", "apache-2.0", None)
    assert made.created == "1970-01-01T00:00:00Z"
    assert made.options["context"] == "32"
    assert report.manifest.architecture.limits.context == 32
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_the_same_export_gives_the_same_bytes(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name in ("a", "b"):
        export_model(str(checkpoint), tmp_path / name, QUICK)
    assert open_bundle(tmp_path / "a").hash == open_bundle(tmp_path / "b").hash


def test_the_template_and_all_ends_of_text_come_along(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"chat_template": "{{ bos_token }}", "eos_token": {"content": "<unk>"}}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    manifest = export_model(str(checkpoint), tmp_path / "out", QUICK).manifest
    assert manifest.architecture.tokens.eos == (2, 0)
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ bos_token }}"
    assert set(manifest.files) == {
        "chat_template.jinja", "decoder.onnx", "decoder.onnx.data", "native.safetensors",
        "tokenizer.json",
    }  # fmt: skip


def test_progress_runs_from_nothing_to_all(checkpoint: Path, tmp_path: Path) -> None:
    told: dict[str, list[float]] = {}
    export_model(
        str(checkpoint),
        tmp_path / "out",
        progress=lambda stage, share: told.setdefault(stage, []).append(share),
    )
    assert list(told) == ["write", "verify"]
    for shares in told.values():
        assert shares == sorted(shares) and shares[-1] == 1.0


def test_an_existing_folder_is_replaced_only_by_force(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    first = export_model(str(checkpoint), target, QUICK).manifest
    with pytest.raises(WriteError, match="exists already"):
        export_model(str(checkpoint), target, QUICK)
    forced = ExportOptions(kind="int4", verify=False, force=True)
    assert export_model(str(checkpoint), target, forced).manifest != first
    assert open_bundle(target).manifest.provenance.options["kind"] == "int4"


def test_a_failed_export_by_force_leaves_the_old_bundle(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    export_model(str(checkpoint), target, QUICK)
    before = open_bundle(target).hash
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(Exception, match="safetensors"):
        export_model(str(checkpoint), target, ExportOptions(force=True))
    assert open_bundle(target).hash == before


@pytest.mark.parametrize(
    "keep", [{"nose": "int8"}, {"up": "int3"}, {"up": "int8/7"}, {"up": "fp16/32"}, {"up": ""}]
)
def test_a_format_that_does_not_exist_is_a_usage_error(
    checkpoint: Path, tmp_path: Path, keep: dict[str, str]
) -> None:
    with pytest.raises(UsageError):
        export_model(str(checkpoint), tmp_path / "out", ExportOptions(keep=keep))
    assert not (tmp_path / "out").exists()


def test_a_tied_table_counts_once(checkpoint: Path, tmp_path: Path) -> None:
    report = export_model(str(checkpoint), tmp_path / "out", QUICK)
    per_layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128 + 2 * 64
    assert report.parameters == parameters(report.manifest.architecture)
    assert report.parameters == 300 * 64 + 3 * per_layer + 64
