"""`edgedec export`: a checkpoint becomes a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import _options, _output, _progress

if TYPE_CHECKING:
    from edgedec.export.pipeline import ExportOptions, Report

FILE = click.Path(path_type=Path)
STAGES = {"write": "writing weights", "verify": "comparing with the checkpoint"}


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=FILE, help="The bundle's folder. Default: NAME-edgedec, here.")
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=click.Choice(["onnx", "native"]),
    help="What to write; repeatable. Default: onnx, and native where all weights are int4 or int8.",
)
@click.option(
    "--kind",
    type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    help="How weights are stored. Default: int8 below 50 M parameters, else int4.",
)
@click.option(
    "--block",
    type=click.Choice(["32", "64", "128"]),
    default="64",
    show_default=True,
    help="Weights that share a scale.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="ROLE=KIND",
    help="Another kind for q, k, v, o, gate, up, down, embed or head; repeatable. "
    "int4 models keep embed, head and v in int8.",
)
@click.option("--cut", multiple=True, type=int, metavar="LAYER", help="Where a step may stop.")
@click.option("--hidden", multiple=True, type=int, metavar="LAYER", help="Layer inputs to show.")
@click.option("--context", type=click.IntRange(1), help="The longest text. Default: the model's.")
@click.option("--name", help="The model's name. Default: that of the source.")
@click.option("--ignore", multiple=True, metavar="FIELD", help="A config field that is harmless.")
@click.option("--tokenizer", type=FILE, help="The tokenizer.bin of a llama2.c file.")
@click.option("--text", type=FILE, help="A text to compare on. Default: a held-out story.")
@click.option("--verify/--no-verify", default=True, help="Compare with the checkpoint at the end.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@_options.DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON document.")
def command(source: str, output: Path | None, as_json: bool, **given: Any) -> None:
    """Turn SOURCE into a bundle: a Hugging Face folder or hub id, or a llama2.c .bin file.

    \b
    Examples:
      edgedec export ./SmolLM2-135M
      edgedec export HuggingFaceTB/SmolLM2-135M -o smollm2 --kind int4
      edgedec export stories260K.bin --kind fp32
      edgedec export ./model --keep down=int8 --cut 8 --hidden 8
      edgedec export ./model --form native
    """
    from edgedec.export.pipeline import export_model
    from edgedec.export.source import origin_name

    target = output or Path(f"{origin_name(source)}-edgedec")
    with _progress.bars(STAGES) as progress:
        report = export_model(source, target, _parsed(given), progress)
    if as_json:
        _output.print_json(_document(report))
        return
    for name, value in _lines(report):
        click.echo(f"{name:<14}{value}")


def _parsed(given: dict[str, Any]) -> ExportOptions:
    from edgedec.export.pipeline import ExportOptions
    from edgedec.export.source import SourceOptions

    return ExportOptions(
        forms=given["forms"] or None,
        kind=given["kind"],
        block=int(given["block"]),
        keep=dict(_pair(text) for text in given["keep"]),
        cuts=tuple(sorted(given["cut"])),
        hidden=tuple(sorted(given["hidden"])),
        name=given["name"],
        source=SourceOptions(given["tokenizer"], given["context"], frozenset(given["ignore"])),
        verify=given["verify"],
        text=given["text"],
        device=given["device"] or "cpu",
        force=given["force"],
    )


def _pair(text: str) -> tuple[str, str]:
    role, equals, kind = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not ROLE=KIND, such as down=int8", param_hint="keep")
    return role, kind


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    manifest = report.manifest
    yield "bundle", str(report.target)
    yield "model", f"{manifest.name}, {_output.count(report.parameters)} parameters"
    yield "forms", manifest.provenance.options["form"]
    yield "weights", ", ".join(f"{k} {v}" for k, v in manifest.quantisation.items())
    yield (
        "size",
        f"{_output.megabytes(report.bundle_size)} from {_output.megabytes(report.source_size)}",
    )
    quality = report.quality
    if quality is None:
        yield "quality", "not measured"
    else:
        yield (
            "quality",
            f"KL {quality.kl:.4g} nats, top-1 {quality.top1:.1%}, largest error "
            f"{quality.max_error:.3g} against fp32 over {quality.tokens} tokens of {quality.text}",
        )
    yield "time", f"{report.seconds:.1f} s"
    if report.manifest.architecture.frontend is not None:
        yield "try", f"edgedec transcribe -m {report.target} speech.wav"
    else:
        yield "try", f'edgedec generate -m {report.target} "Once upon a time"'


def _document(report: Report) -> dict[str, Any]:
    import msgspec

    manifest, quality = report.manifest, report.quality
    return {
        "schema": 1,
        "path": str(report.target),
        "name": manifest.name,
        "family": manifest.architecture.family,
        "parameters": report.parameters,
        "source": manifest.provenance.source,
        "source_bytes": report.source_size,
        "bundle_bytes": report.bundle_size,
        "quantisation": {what: str(form) for what, form in manifest.quantisation.items()},
        "cuts": list(manifest.cuts),
        "quality": None if quality is None else msgspec.to_builtins(quality),
        "seconds": round(report.seconds, 3),
        "files": {name: file.size for name, file in manifest.files.items()},
    }
