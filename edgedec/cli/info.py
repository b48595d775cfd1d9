"""`edgedec info`: what a bundle is, in readable form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edgedec.cli import _output

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.bundle import Bundle


@click.command()
@click.argument("model", default="stories")
@click.option("--verify", is_flag=True, help="Hash every file and compare with the manifest.")
@click.option("--device", metavar="NAME", help="Fail if it cannot run there.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as one JSON document.")
def command(model: str, verify: bool, device: str | None, as_json: bool) -> None:
    """Describe MODEL, a shipped model or a bundle's folder.

    \b
    Examples:
      edgedec info
      edgedec info ./smollm2 --verify
      edgedec info stories --json
    """
    from edgedec import bundle, devices

    opened = bundle.open_bundle(model)
    if verify:
        opened.verify()
    if device is not None:
        devices.choose(opened.manifest.forms, device, None)
    if as_json:
        _output.print_json(_document(opened, verify))
        return
    for name, value in _lines(opened, device):
        click.echo(f"{name:<14}{value}")
    if verify:
        click.echo(f"{'verified':<14}{len(opened.manifest.files)} files match their hashes")


def _document(bundle: Bundle, verified: bool) -> dict[str, object]:
    import json

    from edgedec import manifest
    from edgedec.cli import models

    return {
        "schema": 1,
        "path": str(bundle.path),
        "hash": bundle.hash,
        "parameters": models.parameters(bundle),
        "verified": verified,
        "manifest": json.loads(manifest.encode(bundle.manifest)),
    }


def _lines(bundle: Bundle, device: str | None) -> Iterator[tuple[str, str]]:
    from edgedec.cli import models

    manifest = bundle.manifest
    yield "name", manifest.name
    yield "folder", str(bundle.path)
    yield from _shape(manifest.architecture)
    yield "parameters", _output.count(models.parameters(bundle))
    yield "weights", ", ".join(f"{k} {v}" for k, v in manifest.quantisation.items()) or "fp32"
    yield "cuts", ", ".join(map(str, manifest.cuts)) or "none"
    yield "strategies", ", ".join(manifest.strategies) or "none trained"
    yield "runs with", models.runtime(bundle, device) or "nothing installed here"
    if manifest.quality is not None:
        quality = manifest.quality
        yield (
            "quality",
            f"KL {quality.kl:.4g} nats, top-1 {quality.top1:.1%}, largest error "
            f"{quality.max_error:.3g} against fp32 over {quality.tokens} tokens of {quality.text}",
        )
    made = manifest.provenance
    yield "source", made.source if made.revision is None else f"{made.source} at {made.revision}"
    yield "licence", made.licence or "not stated"
    yield "made", f"{made.created} by {made.exporter}"
    for name, file in manifest.files.items():
        yield "file", f"{name}  {_output.megabytes(file.size)}  sha256 {file.sha256[:12]}"


def _shape(architecture: Architecture) -> Iterator[tuple[str, str]]:
    attention = architecture.decoder.layers[0].self_attention
    yield "family", architecture.family
    yield (
        "shape",
        f"{architecture.layers} layers, width {architecture.embed.dim}, "
        f"{attention.heads} heads over {attention.kv_heads}, vocabulary {architecture.vocab}",
    )
    yield "context", f"{architecture.limits.context} tokens"
